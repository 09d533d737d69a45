//! Verification: reads every output again, computes the digests of its bytes and of its content again, and compares
//! both with the records and with `pipeline.lock`.

use std::path::Path;

use super::lock::Lock;
use super::{Pipeline, Stage};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use crate::record::{self, Record};

/// The result of verifying one stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The name of the stage, with the name of the run if the stage has a folder for each run.
    pub name: String,
    /// The number of files that were read.
    pub files: usize,
    /// The content digest: the recomputed one, or the recorded one if it could not be recomputed.
    pub content: Digest,
    /// Whether the content is the one that `pipeline.lock` pins; `None` if it pins none under these settings.
    pub pinned: Option<bool>,
    /// The differences that were found, in words.
    pub differences: Vec<String>,
}

impl Pipeline {
    /// Verifies the outputs of all stages and of all runs. Verification writes nothing, so it works in folders in
    /// which the user may not write.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no output at all.
    pub fn verify(&self, progress: &Progress) -> Result<Vec<Verdict>> {
        let pinned = Lock::read(&self.lock_file)?;
        let mut verdicts = Vec::new();
        for stage in Stage::ALL {
            let home = self.home(stage);
            let folders = if stage.definition().is_per_run() { files::entries(&home)? } else { vec![home] };
            for folder in folders.into_iter().filter(|folder| folder.is_dir() && !is_in_transit(folder)) {
                if is_foreign(stage, &folder)? {
                    continue;
                }
                let mut verdict = self.verify_one(stage, &folder, pinned.as_ref(), progress)?;
                let mut record = Record::read(&folder).ok();
                // another command may replace the folder while it is read: repeat until its record stays the same
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
        let definition = stage.definition();
        let name = stage.label(folder);
        let mut verdict = Verdict { name, files: 0, content: Digest::of(b""), pinned: None, differences: Vec::new() };
        let record = match Record::read(folder) {
            Ok(Some(record)) => record,
            Ok(None) => {
                verdict.differences.push(format!("stands without its {}", record::FILE));
                return Ok(verdict);
            }
            Err(error) => {
                verdict.differences.push(error.to_string());
                return Ok(verdict);
            }
        };
        let base = match definition.base(self, folder, Some(&record)) {
            Ok(base) => base,
            Err(error) => {
                verdict.differences.push(error.to_string());
                return Ok(verdict);
            }
        };
        verdict.files = record.outputs.len();
        verdict.content = record.content;
        verdict.differences = damages(&record, &base);
        let is_whole = verdict.differences.is_empty();
        if !definition.may_hold_strays() {
            let strays = record.strays(folder)?;
            verdict.differences.extend(strays.map(|stray| format!("{stray} is not in the record")));
        }
        if is_whole {
            self.verify_content(stage, &record, &mut verdict, progress)?;
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

    /// Computes the content of a stage again, from outputs whose bytes are as recorded. If it differs from the recorded
    /// content and the inputs are the recorded ones, the first row that differs is named.
    fn verify_content(&self, stage: Stage, record: &Record, verdict: &mut Verdict, progress: &Progress) -> Result<()> {
        match stage.definition().recompute(self, record, progress) {
            Ok(Some(content)) if content != record.content => {
                let (found, expected) = (content.short(), record.content.short());
                verdict.differences.push(format!("content {found}; its record says {expected}"));
                verdict.content = content;
                if self.has_recorded_inputs(stage, record) {
                    let difference = stage.definition().first_difference(self, record);
                    verdict.differences.extend(difference.ok().flatten());
                }
            }
            Ok(_) => {}
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => verdict.differences.push(error.to_string()),
        }
        Ok(())
    }

    /// Whether the existing inputs have the content that a stage's record names.
    fn has_recorded_inputs(&self, stage: Stage, record: &Record) -> bool {
        stage.keyed(&self.config).all(|input| {
            let content = self.content(input).ok();
            content.is_some() && content.as_ref() == record.key.inputs.get(&input.label(&self.folder(input)))
        })
    }
}

/// The differences between the outputs below `base` and the recorded ones, in words. Reads every byte.
fn damages(record: &Record, base: &Path) -> Vec<String> {
    let mut damages = Vec::new();
    for output in &record.outputs {
        let path = base.join(&output.path);
        match Digest::of_file(&path) {
            Ok(digest) if digest == output.digest => {}
            Ok(_) => damages.push(format!("{} was changed", output.path)),
            Err(_) if !path.exists() => damages.push(format!("{} is missing", output.path)),
            Err(error) => damages.push(error.to_string()),
        }
    }
    if record.outputs.is_empty() {
        damages.push("its record lists no output".to_owned());
    }
    damages
}

/// Whether a folder is under construction, or holds an unfinished run.
fn is_in_transit(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') || name.ends_with(files::UNFINISHED)
}

/// Whether a folder holds nothing that its stage writes. Such a folder belongs to the user, whatever its name is.
fn is_foreign(stage: Stage, folder: &Path) -> Result<bool> {
    let is_ours = |path: &str| path == record::FILE || stage.definition().is_characteristic(path);
    Ok(!files::walk(folder)?.iter().any(|path| is_ours(&record::name(path))))
}
