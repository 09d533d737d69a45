//! Verification: everything that stands is read again and its digests are computed anew, from the bytes of the files and
//! from what they mean, and compared with the records and with `pipeline.lock`.

use std::path::PathBuf;

use super::lock::Lock;
use super::{Pipeline, Stage, record};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::{augment, dataset, files, plan, raw};

/// What verification found of one stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The stage, with the run where there are several.
    pub name: String,
    /// Files that were read.
    pub files: usize,
    /// The content digest, recomputed for stages that have a logical content.
    pub content: Digest,
    /// Whether `pipeline.lock` pins this content and it agrees; `None` where it says nothing.
    pub pinned: Option<bool>,
    /// Differences, in words; none is good.
    pub differences: Vec<String>,
}

impl Pipeline {
    /// Verifies every stage that has a record. An error if there is none.
    pub fn verify(&self, progress: &Progress) -> Result<Vec<Verdict>> {
        let _lock = self.lock_folders()?;
        let pinned = Lock::read(&self.lock_file)?;
        let mut verdicts = Vec::new();
        for stage in Stage::ALL {
            let folders = match stage {
                Stage::Train | Stage::Evaluate => self.run_folders(stage)?,
                _ if self.folder(stage).join(record::FILE).exists() => vec![self.folder(stage)],
                _ => Vec::new(),
            };
            for folder in folders {
                verdicts.push(self.verify_one(stage, folder, pinned.as_ref(), progress)?);
            }
        }
        if verdicts.is_empty() {
            let expected = "the output of at least one stage; `multidigit run` makes it";
            return Err(Error::format(&self.artifacts, "nothing to verify", expected));
        }
        Ok(verdicts)
    }

    fn verify_one(&self, stage: Stage, folder: PathBuf, lock: Option<&Lock>, progress: &Progress) -> Result<Verdict> {
        let run = folder.file_name().unwrap_or_default().to_string_lossy();
        let name = match stage {
            Stage::Train | Stage::Evaluate => format!("{stage}/{run}"),
            _ => stage.to_string(),
        };
        let mut verdict = Verdict { name, files: 0, content: Digest::of(b""), pinned: None, differences: Vec::new() };
        let mut differ = |difference: String| verdict.differences.push(difference);
        let record = match record::Record::read(&folder) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(verdict),
            Err(error) => {
                differ(error.to_string());
                return Ok(verdict);
            }
        };
        let base = match stage {
            Stage::Raw => self.base(stage),
            _ => Ok(folder.clone()),
        };
        let base = match base {
            Ok(base) => base,
            Err(error) => {
                differ(error.to_string());
                return Ok(verdict);
            }
        };
        let mut whole = true;
        for output in &record.outputs {
            let path = base.join(&output.path);
            match path.is_file() {
                false => differ(format!("{} is missing", output.path)),
                true if Digest::of_file(&path)? != output.digest => differ(format!("{} was changed", output.path)),
                true => continue,
            }
            whole = false;
        }
        if stage != Stage::Raw {
            for path in files::walk(&folder)? {
                let name = path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
                if name != record::FILE && record.outputs.iter().all(|output| output.path != name) {
                    differ(format!("{name} is not in the record"));
                }
            }
        }
        verdict.files = record.outputs.len();
        verdict.content = record.content;
        if whole {
            match self.recompute(stage, &record, progress) {
                Ok(Some(content)) if content != record.content => {
                    let (found, expected) = (content.short(), record.content.short());
                    differ(format!("content {found}; its record says {expected}"));
                    verdict.content = content;
                }
                Ok(_) => {}
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => differ(error.to_string()),
            }
        }
        if let Some(expected) = lock.and_then(|lock| lock.expected(stage, &self.config)) {
            verdict.pinned = Some(verdict.content == expected);
            if verdict.content != expected {
                let (found, expected) = (verdict.content.short(), expected.short());
                verdict.differences.push(format!("content {found}; pipeline.lock pins {expected}"));
            }
        }
        Ok(verdict)
    }

    /// The digest of a stage's logical content, from its files; `None` for stages without one.
    fn recompute(&self, stage: Stage, record: &record::Record, progress: &Progress) -> Result<Option<Digest>> {
        let folder = self.folder(stage);
        let begin = || progress.begin(&format!("verify {stage}"), record.rows, "rows");
        let content = match stage {
            Stage::Raw => raw::Glyphs::read(&raw::locate(&self.config.raw, &self.raw)?)?.digest(),
            Stage::Plan => plan::table::digest_of(&folder.join(plan::FILE))?,
            Stage::Dataset => {
                begin()?;
                dataset::digest_of(&folder, progress)?
            }
            Stage::Augment => {
                begin()?;
                augment::digest_of(&folder, progress)?
            }
            Stage::Train | Stage::Evaluate | Stage::Report => return Ok(None),
        };
        progress.end();
        Ok(Some(content))
    }
}
