//! Verification: everything that stands is read again and its digests are computed anew, from the bytes of the files and
//! from what they mean, and compared with the records and with `pipeline.lock`.

use std::path::Path;

use serde_json::json;

use super::lock::Lock;
use super::{Pipeline, Record, Stage, content_of, record};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::evaluate::Weights;
use crate::files;
use crate::progress::Progress;
use crate::{augment, dataset, evaluate, plan, raw, report, train};

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
    /// Verifies everything that stands. An error if nothing does. It writes nothing, so a folder that only others can write
    /// will do.
    pub fn verify(&self, progress: &Progress) -> Result<Vec<Verdict>> {
        let pinned = Lock::read(&self.lock_file)?;
        let mut verdicts = Vec::new();
        for stage in Stage::ALL {
            let home = self.artifacts.join(stage.name());
            let folders = match stage {
                Stage::Train | Stage::Evaluate => files::entries(&home)?,
                _ => vec![home],
            };
            for folder in folders.into_iter().filter(|folder| folder.is_dir() && !is_in_transit(folder)) {
                if is_foreign(stage, &folder)? {
                    continue;
                }
                let mut verdict = self.verify_one(stage, &folder, pinned.as_ref(), progress)?;
                let mut record = Record::read(&folder).ok();
                // another run may have replaced the folder under our eyes; what stands now is what counts
                while !verdict.differences.is_empty() {
                    verdict = self.verify_one(stage, &folder, pinned.as_ref(), progress)?;
                    let before = std::mem::replace(&mut record, Record::read(&folder).ok());
                    if before == record {
                        break;
                    }
                }
                verdicts.push(verdict);
            }
        }
        if verdicts.is_empty() {
            let expected = "the output of at least one stage; `multidigit run` makes it";
            return Err(Error::format(&self.artifacts, "nothing to verify", expected));
        }
        Ok(verdicts)
    }

    fn verify_one(&self, stage: Stage, folder: &Path, lock: Option<&Lock>, progress: &Progress) -> Result<Verdict> {
        let run = folder.file_name().unwrap_or_default().to_string_lossy();
        let name = match stage {
            Stage::Train | Stage::Evaluate => format!("{stage}/{run}"),
            _ => stage.to_string(),
        };
        let mut verdict = Verdict { name, files: 0, content: Digest::of(b""), pinned: None, differences: Vec::new() };
        let mut differ = |difference: String| verdict.differences.push(difference);
        let record = match Record::read(folder) {
            Ok(Some(record)) => record,
            Ok(None) => {
                differ(format!("stands without its {}", record::FILE));
                return Ok(verdict);
            }
            Err(error) => {
                differ(error.to_string());
                return Ok(verdict);
            }
        };
        let source = self.source_of(&record);
        let base = match self.base(stage, folder, &source) {
            Ok(base) => base,
            Err(error) => {
                differ(error.to_string());
                return Ok(verdict);
            }
        };
        let mut whole = !record.outputs.is_empty();
        for output in &record.outputs {
            let path = base.join(&output.path);
            match Digest::of_file(&path) {
                Ok(digest) if digest == output.digest => continue,
                Ok(_) => differ(format!("{} was changed", output.path)),
                Err(_) if !path.exists() => differ(format!("{} is missing", output.path)),
                Err(error) => differ(error.to_string()),
            }
            whole = false;
        }
        if record.outputs.is_empty() {
            differ("its record lists no output".to_owned());
        }
        // a run's folder may hold what its user put there; the others are read by whoever takes all files in them
        if !matches!(stage, Stage::Raw | Stage::Train) {
            record.strays(folder)?.for_each(|stray| differ(format!("{stray} is not in the record")));
        }
        verdict.files = record.outputs.len();
        verdict.content = record.content;
        if whole {
            match self.recompute(stage, &record, &source, progress) {
                Ok(Some(content)) if content != record.content => {
                    let (found, expected) = (content.short(), record.content.short());
                    differ(format!("content {found}; its record says {expected}"));
                    self.first_difference(stage, &record).ok().flatten().into_iter().for_each(&mut differ);
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

    /// The source of glyphs that a record of `raw` speaks of, which need not be the one that is configured now.
    fn source_of(&self, record: &Record) -> raw::Config {
        let recorded = serde_json::from_value(record.key.settings.get("raw").cloned().unwrap_or_default());
        recorded.unwrap_or_else(|_| self.config.raw.clone())
    }

    /// The digest of a stage's content, from its files; `None` where it cannot be known.
    fn recompute(
        &self,
        stage: Stage,
        record: &Record,
        source: &raw::Config,
        progress: &Progress,
    ) -> Result<Option<Digest>> {
        let folder = self.folder(stage);
        let begin = || progress.begin(&format!("verify {stage}"), record.rows, "rows");
        let content = match stage {
            Stage::Raw => raw::Glyphs::read(&raw::locate(source, &self.raw)?)?.digest(),
            Stage::Plan => plan::table::digest_of(&folder.join(plan::FILE))?,
            Stage::Dataset => {
                begin()?;
                dataset::digest_of(&folder, progress)?
            }
            Stage::Augment => {
                begin()?;
                let settings = record.settings_of(stage).filter(|_| record.key.version == stage.version());
                augment::digest_of(&folder, settings.as_ref(), progress)?
            }
            Stage::Train => {
                let file = |weights: Weights| format!("{}/{}", train::WEIGHTS, weights.file());
                return Ok(of_files(record, &[Weights::Best, Weights::Last].map(file)));
            }
            // before evaluations could be repeated, their content was that of all their files
            Stage::Evaluate if of_all(record) != record.content => {
                return Ok(of_files(record, &[evaluate::FILE, evaluate::PREDICTIONS].map(str::to_owned)));
            }
            Stage::Evaluate | Stage::Report => return Ok(Some(of_all(record))),
        };
        progress.end();
        Ok(Some(content))
    }
}

/// The content of a stage that is the digest of all its files.
fn of_all(record: &Record) -> Digest {
    Digest::of_json(&json!(content_of(&record.outputs)))
}

/// The content of a stage that is the digest of some of its files; none where its record does not name them.
fn of_files(record: &Record, names: &[String]) -> Option<Digest> {
    let digests = names.iter().map(|name| record.digest_of(name)).collect::<Option<Vec<Digest>>>()?;
    Some(Digest::of_json(&json!(digests)))
}

/// Whether a folder is under construction, or of a run that can go on.
fn is_in_transit(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') || name.ends_with(files::UNFINISHED)
}

/// Whether a folder holds nothing that its stage writes, but has its name, or that of a run, all the same.
fn is_foreign(stage: Stage, folder: &Path) -> Result<bool> {
    let is_ours = |name: &str| match stage {
        _ if name == record::FILE => true,
        Stage::Raw => false,
        Stage::Plan => name == plan::FILE,
        Stage::Dataset | Stage::Augment => name.ends_with(".parquet"),
        Stage::Train => name.ends_with(".safetensors") && train::is_output(name),
        Stage::Evaluate => name == evaluate::FILE,
        Stage::Report => name == report::FILE,
    };
    Ok(!files::walk(folder)?.iter().any(|path| is_ours(&record::name(path))))
}
