//! The weights of runs as files, for the commands that use a trained network.

use std::path::{Path, PathBuf};

use super::Runs;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::evaluate::Weights;
use crate::files;
use crate::record::{self, Record};
use crate::train::WEIGHTS;

/// A file of weights.
#[derive(Debug, Clone)]
pub struct WeightsFile {
    path: PathBuf,
    folder: Option<PathBuf>,
    name: String,
    recorded: Option<Digest>,
}

impl WeightsFile {
    /// The weights of a run in the folder `run` of `train`.
    ///
    /// # Errors
    /// [`RunsError::NoSuchRun`](super::RunsError::NoSuchRun) and
    /// [`RunsError::RunUnfinished`](super::RunsError::RunUnfinished)
    pub fn of_run(runs: &Runs, folder: &Path, which: Weights) -> Result<WeightsFile> {
        let path = folder.join(WEIGHTS).join(which.file());
        match path.is_file() {
            true => WeightsFile::recorded_in(folder, path),
            false => Err(runs.missing(&folder.file_name().unwrap_or_default().to_string_lossy())?),
        }
    }

    /// The weights at a path: a file of weights, or the best weights in the folder of a run.
    ///
    /// # Errors
    /// [`Error::Format`] if there are none.
    pub fn at(path: &Path) -> Result<WeightsFile> {
        if path.is_file() {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(WeightsFile { path: path.to_owned(), folder: None, name, recorded: None });
        }
        let best = path.join(WEIGHTS).join(Weights::Best.file());
        if best.is_file() {
            return WeightsFile::recorded_in(path, best);
        }
        let found = if path.is_dir() { "a folder without weights" } else { "no such file or folder" };
        Err(Error::format(path, found, "a .safetensors file of weights, or the folder of a run"))
    }

    fn recorded_in(folder: &Path, path: PathBuf) -> Result<WeightsFile> {
        let name = record::name(path.strip_prefix(folder).unwrap_or(&path));
        let recorded = Record::read(folder)?.and_then(|record| record.digest_of(&name));
        let name = files::absolute(folder).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(WeightsFile { path, folder: Some(folder.to_owned()), name, recorded })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the run, if the file was found in one.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The name of the run, or of the file if it is not in the folder of a run.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The digest of the file in the record of the run, if there is one.
    pub fn recorded(&self) -> Option<Digest> {
        self.recorded
    }
}
