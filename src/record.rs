//! Records: the file `record.json`, in which a stage stores its key, its outputs and their digests.
//!
//! The record is the last file that is written into the folder under construction, and takes its place together with
//! the outputs. A record therefore never describes other outputs than those beside it.

use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files::{self, Stamp};

mod key;
pub mod seal;

pub use key::{Change, Key};

/// The name of the record's file in a stage's folder.
pub const FILE: &str = "record.json";

/// The outputs of a stage, and everything that they depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Everything that the output depends on.
    pub key: Key,
    /// The digest of the logical content (pixels, labels, columns).
    pub content: Digest,
    /// The files that were written.
    pub outputs: Vec<Output>,
    /// The number of samples, glyphs, epochs or runs in the outputs, depending on the stage.
    pub rows: u64,
    /// Further facts about the output, in a form that depends on the stage.
    pub facts: Value,
    /// The duration of the stage's work in seconds.
    pub seconds: f64,
    /// When the work ended, in seconds since 1970.
    pub finished: u64,
}

/// A file that a stage wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// The path below the stage's base folder, with forward slashes.
    pub path: String,
    /// The size, time and inode of the file when it was last compared.
    pub stamp: Stamp,
    /// The digest of the file's bytes.
    pub digest: Digest,
}

impl Record {
    /// Reads the record in a stage's folder. Returns `None` if the folder has no record.
    ///
    /// # Errors
    /// [`Error::Format`] if the record is damaged, or names a file outside its folder.
    pub fn read(folder: &Path) -> Result<Option<Record>> {
        let path = folder.join(FILE);
        // an error of the system does not prove that no record exists
        if !path.try_exists().map_err(Error::io(&path, "look for it"))? {
            return Ok(None);
        }
        Record::parse(&path, &files::read_text(&path)?).map(Some)
    }

    /// Parses the text of a record. Errors name `path`.
    ///
    /// # Errors
    /// [`Error::Format`] if the record is damaged, or names a file outside its folder.
    pub fn parse(path: &Path, text: &str) -> Result<Record> {
        let refuse = |e: serde_json::Error| {
            Error::format(
                path,
                format!("not a record ({e})"),
                "a record of this version; move the folder away, and run the stage again",
            )
        };
        let record: Record = serde_json::from_str(text).map_err(refuse)?;
        let advice =
            "the record as it was written; restore it from a copy, or move the folder away and run the stage again";
        seal::check(path, text, advice)?;
        // the files that a record names will be removed, so none of them may lie outside the folder
        let is_within =
            |output: &&Output| Path::new(&output.path).components().all(|c| matches!(c, Component::Normal(_)));
        match record.outputs.iter().find(|output| !is_within(output)) {
            None => Ok(record),
            Some(Output { path: outside, .. }) => {
                let found = format!("names the file {outside:?}, which is not in its folder");
                Err(Error::format(path, found, "a record that this program wrote; move the folder away"))
            }
        }
    }

    /// Writes the record into a stage's folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write(&folder.join(FILE), self.text().as_bytes())
    }

    /// Writes a record with renewed stamps in place of the former one. Does nothing if the record cannot be written, or
    /// if another process is writing it.
    pub fn renew(&self, folder: &Path) {
        files::replace_unless_taken(&folder.join(FILE), self.text().as_bytes());
    }

    /// The text of the record's file.
    pub fn text(&self) -> String {
        seal::seal(&format!("{:#}", serde_json::json!(self)))
    }

    /// Compares every output below `base` with this record, and returns the differences in words. A file of the
    /// recorded size is read only if its time or inode changed. If its bytes are the same nevertheless, its stamp
    /// in this record is renewed.
    pub fn look(&mut self, base: &Path) -> Vec<String> {
        let mut differences = Vec::new();
        if self.outputs.is_empty() {
            differences.push("its record lists no output".to_owned());
        }
        for output in &mut self.outputs {
            let path = base.join(&output.path);
            if !path.is_file() {
                differences.push(format!("output {} is missing", output.path));
                continue;
            }
            let compare = |stamp: Stamp| -> Result<(Stamp, bool)> {
                let same = stamp == output.stamp
                    || stamp.bytes == output.stamp.bytes && Digest::of_file(&path)? == output.digest;
                Ok((stamp, same))
            };
            match Stamp::of(&path).and_then(compare) {
                Ok((stamp, true)) => output.stamp = stamp,
                Ok((_, false)) => differences.push(format!("output {} was changed", output.path)),
                Err(error) => differences.push(error.to_string()),
            }
        }
        differences
    }

    /// Reads the outputs below `base` whose paths `wanted` selects, and compares their digests. Stages call it before
    /// they compute with the outputs, because a file that decays on the disk keeps its size, time and inode. `advice`
    /// says what to do about a file that is not as recorded.
    ///
    /// # Errors
    /// [`Error::Format`] if the bytes of a file differ from the recorded ones.
    pub fn check(&self, base: &Path, advice: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        use rayon::prelude::*;
        let wanted: Vec<&Output> = self.outputs.iter().filter(|output| wanted(&output.path)).collect();
        wanted.into_par_iter().try_for_each(|output| {
            let path = base.join(&output.path);
            let (found, recorded) = (Digest::of_file(&path)?, output.digest);
            match found == recorded {
                true => Ok(()),
                false => {
                    let found = format!("its bytes are not those that were recorded (digest {})", found.short());
                    Err(Error::format(&path, found, format!("{}; {advice}", recorded.short())))
                }
            }
        })
    }

    /// The settings of a section, if the key holds them and they can be read as this type.
    pub fn settings_of<T: DeserializeOwned>(&self, section: &str) -> Option<T> {
        serde_json::from_value(self.key.settings.get(section)?.clone()).ok()
    }

    /// The digest of the output with this path, if the record names it.
    pub fn digest_of(&self, path: &str) -> Option<Digest> {
        self.outputs.iter().find(|output| output.path == path).map(|output| output.digest)
    }

    /// The digest of several outputs, in this order; `None` if the record does not name all of them.
    pub fn digest_of_all(&self, paths: &[&str]) -> Option<Digest> {
        let digests = paths.iter().map(|path| self.digest_of(path)).collect::<Option<Vec<Digest>>>()?;
        Some(Digest::of_json(&serde_json::json!(digests)))
    }

    /// The files below a stage's folder that the record does not name.
    pub fn strays(&self, folder: &Path) -> Result<impl Iterator<Item = String>> {
        let names = files::walk(folder)?.into_iter().map(|path| name(&path));
        Ok(names.filter(|name| name != FILE && self.outputs.iter().all(|output| output.path != *name)))
    }
}

/// Describes files below `base` for a record.
pub fn outputs(base: &Path, paths: &[PathBuf]) -> Result<Vec<Output>> {
    use rayon::prelude::*;
    let describe = |path: &PathBuf| {
        let full = base.join(path);
        Ok(Output { path: name(path), stamp: Stamp::of(&full)?, digest: Digest::of_file(&full)? })
    };
    paths.par_iter().map(describe).collect()
}

/// The content digest of a stage that has no logical content: it covers the paths and the digests of the outputs.
pub fn content_of(outputs: &[Output]) -> Digest {
    let files: Vec<_> = outputs.iter().map(|output| (&output.path, output.digest)).collect();
    Digest::of_json(&serde_json::json!(files))
}

/// A relative path in the form that records use, with forward slashes.
pub fn name(path: &Path) -> String {
    path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(base: &Path) -> Record {
        let key = Key { version: 1, settings: Value::Null, inputs: Default::default() };
        let outputs = outputs(base, &files::walk(base).unwrap()).unwrap();
        let content = Digest::of(b"");
        Record { key, content, outputs, rows: 0, facts: Value::Null, seconds: 0.0, finished: 0 }
    }

    #[test]
    fn a_record_survives_its_file() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(home.path()).unwrap(), None);
        let record = record(home.path());
        record.write(home.path()).unwrap();
        assert_eq!(Record::read(home.path()).unwrap(), Some(record));
    }

    #[test]
    fn a_record_that_was_changed_is_an_error_and_one_of_an_earlier_version_is_read() {
        let home = tempfile::tempdir().unwrap();
        let record = record(home.path());
        record.write(home.path()).unwrap();
        let path = home.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"finished\": 0", "\"finished\": 8")).unwrap();
        let error = Record::read(home.path()).unwrap_err().to_string();
        let words = "its content is not what its own digest says; expected the record as it was written; restore it from a \
                     copy, or move the folder away and run the stage again";
        assert_eq!(error, format!("`{}`: {words}", path.display()));
        std::fs::write(&path, serde_json::to_string_pretty(&record).unwrap()).unwrap();
        assert_eq!(Record::read(home.path()).unwrap(), Some(record));
    }

    #[test]
    fn a_number_of_many_digits_reads_back_to_its_every_bit() {
        let home = tempfile::tempdir().unwrap();
        let numbers = [12.634147133340063, 9.453527260570597, 1.9738608946394813, 19.171461235851922, 0.1 + 0.2];
        let record = Record { facts: serde_json::json!(numbers), seconds: numbers[0], ..record(home.path()) };
        record.write(home.path()).unwrap();
        assert_eq!(Record::read(home.path()).unwrap(), Some(record), "else a stage of such a setting is never fresh");
    }

    #[test]
    fn a_record_that_is_no_record_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(FILE), "{").unwrap();
        let error = Record::read(home.path()).unwrap_err().to_string();
        assert!(error.contains("not a record"), "{error}");
    }

    #[test]
    fn a_record_that_names_a_file_elsewhere_is_refused() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("a"), "").unwrap();
        let mut record = record(home.path());
        for outside in ["../thesis.tex", "/etc/passwd", "data/../../a"] {
            record.outputs[0].path = outside.to_owned();
            record.write(home.path()).unwrap();
            let error = Record::read(home.path()).unwrap_err().to_string();
            let words =
                format!("record.json`: names the file {outside:?}, which is not in its folder; expected a record");
            assert!(error.contains(&words), "{error}");
        }
    }

    #[test]
    fn a_file_that_rots_with_its_stamp_kept_is_found_by_whoever_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        std::fs::write(&path, "sound").unwrap();
        let mut record = record(home.path());
        record.check(home.path(), "make it again", |_| true).unwrap();
        std::fs::write(&path, "souND").unwrap();
        record.outputs[0].stamp = Stamp::of(&path).unwrap();
        assert!(record.look(home.path()).is_empty(), "its stamp says nothing");
        let error = record.check(home.path(), "make it again", |_| true).unwrap_err().to_string();
        let [found, recorded] = [b"souND", b"sound"].map(|bytes| Digest::of(bytes).short());
        let expected = format!("not those that were recorded (digest {found}); expected {recorded}; make it again");
        assert_eq!(error, format!("`{}`: its bytes are {expected}", path.display()));
        record.check(home.path(), "make it again", |name| name != "a").unwrap();
    }

    #[test]
    fn a_touched_file_is_read_again_and_a_changed_one_is_named() {
        let home = tempfile::tempdir().unwrap();
        let (a, b) = (home.path().join("a"), home.path().join("b"));
        std::fs::write(&a, "same").unwrap();
        std::fs::write(&b, "before").unwrap();
        let mut record = record(home.path());
        assert!(record.look(home.path()).is_empty());
        std::fs::remove_file(&a).unwrap();
        std::fs::write(&a, "same").unwrap(); // another inode or time
        record.outputs[0].stamp.modified_ns = 0;
        assert!(record.look(home.path()).is_empty());
        assert_eq!(record.outputs[0].stamp, Stamp::of(&a).unwrap(), "the stamp is renewed");
        std::fs::write(&b, "After!").unwrap();
        record.outputs[1].stamp.modified_ns = 0;
        std::fs::remove_file(&a).unwrap();
        let differences = record.look(home.path());
        assert_eq!(differences, ["output a is missing", "output b was changed"]);
    }
}
