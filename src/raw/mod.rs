//! Stage `raw`: the four files of a set of 28x28 glyphs, in place and verified.
//!
//! It fetches or draws what is missing and checks what is there. It never removes or overwrites a file that the user put
//! there: a wrong one is an error that says what to do.

mod error;
mod fetch;
pub mod glyphs;
pub mod idx;
mod layout;
mod origin;
mod place;
mod size;
mod skeletons;
#[allow(clippy::indexing_slicing, reason = "draws the digits of its own tables")]
mod strokes;
mod synthetic;

pub use self::error::RawError;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files::{self, Build, FolderLock};
use crate::progress::Progress;
use fetch::{Limits, Mirror};
use glyphs::read_pool;
pub use glyphs::{Files, Glyphs};
use layout::PARTS;
pub use origin::{Licence, Origin};
pub use size::SIDE;

/// Names mirrors that are tried before those of the configuration.
pub const MIRRORS_VARIABLE: &str = "MULTIDIGIT_MIRRORS";
/// How often to look whether another run is done with the folder.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// Where the glyphs come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which glyphs to use: `mnist`, `synthetic`, or the path of a folder.
    /// `mnist`: the four official files, looked for in the raw folder, else fetched from the mirrors, and verified.
    /// `synthetic`: 70,000 digits that the program draws itself, with no network; not handwriting, and not MNIST.
    /// A folder: any four IDX files of 28x28 images and labels 0 to 9 under MNIST's names (KMNIST or Fashion-MNIST,
    /// say), read in place; write `./mnist` for a folder called mnist.
    #[schemars(with = "String")]
    pub source: Source,
    /// Where to look for MNIST files that are not in the raw folder, in order: https addresses, to which a file's name
    /// is added, or folders. The environment variable MULTIDIGIT_MIRRORS (a comma-separated list of the same) is tried
    /// first.
    pub mirrors: Vec<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            source: Source::Mnist,
            mirrors: [
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ]
            .map(str::to_owned)
            .into(),
        }
    }
}

impl Config {
    /// Finds what cannot work before anything is done.
    pub fn validate(&self) -> Result<()> {
        if self.source == Source::Folder(PathBuf::new()) {
            return Err(Error::value("raw.source", "an empty text", "mnist, synthetic or a folder"));
        }
        self.mirrors.iter().try_for_each(|mirror| Mirror::parse(mirror, "raw.mirrors").map(drop))
    }
}

/// A set of glyphs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Source {
    /// The official MNIST files.
    Mnist,
    /// Digits drawn by this program.
    Synthetic,
    /// A folder of the user's.
    Folder(PathBuf),
}

impl From<String> for Source {
    fn from(text: String) -> Source {
        match text.as_str() {
            "mnist" => Source::Mnist,
            "synthetic" => Source::Synthetic,
            _ => Source::Folder(PathBuf::from(text)),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> String {
        match source {
            Source::Mnist => "mnist".to_owned(),
            Source::Synthetic => "synthetic".to_owned(),
            Source::Folder(path) => path.to_string_lossy().into_owned(),
        }
    }
}

impl Source {
    /// The name to publish: of a folder only its own name, as its path is nobody's business, and marked as one, so that a
    /// folder called MNIST is not taken for the verified files.
    pub fn name(&self) -> String {
        match self {
            Source::Mnist => origin::MNIST.to_owned(),
            Source::Synthetic => origin::SYNTHETIC.to_owned(),
            Source::Folder(path) => match path.file_name() {
                Some(name) => format!("folder {}", name.to_string_lossy()),
                None => "a local folder".to_owned(),
            },
        }
    }

    /// The folder in which the files stand, if `raw` is the raw folder.
    fn folder(&self, raw: &Path) -> PathBuf {
        match self {
            Source::Mnist => raw.to_owned(),
            Source::Synthetic => raw.join("synthetic"), // apart, so that it is never taken for MNIST
            Source::Folder(path) => path.clone(),
        }
    }
}

/// What the stage leaves.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// Where the files stand.
    pub files: Files,
    /// The digest of their content, as [`Glyphs::digest`] has it.
    pub digest: Digest,
    /// The glyphs, training and test images together: whoever needs them next need not read them again.
    pub glyphs: Glyphs,
}

/// Finds the four files of a source, where `raw` is the raw folder. It looks at names only.
pub fn locate(config: &Config, raw: &Path) -> Result<Files> {
    let folder = config.source.folder(raw);
    let advice = match config.source {
        Source::Mnist => "run the stage `raw`, which fetches them",
        Source::Synthetic => "run the stage `raw`, which draws them",
        Source::Folder(_) => "set raw.source to mnist, synthetic, or a folder that holds all four",
    };
    Files::find(&folder).map_err(|missing| Error::from(RawError::RawMissing { folder, missing, advice }))
}

/// Brings the files into place, where `raw` is the raw folder, and verifies them.
pub fn run(config: &Config, raw: &Path, progress: &Progress) -> Result<Output> {
    let preferred = std::env::var_os(MIRRORS_VARIABLE).unwrap_or_default();
    run_with(config, raw, &preferred.to_string_lossy(), &Limits::DEFAULT, progress)
}

/// [`run`] with the content of the environment variable.
fn run_with(config: &Config, raw: &Path, preferred: &str, limits: &Limits, progress: &Progress) -> Result<Output> {
    config.validate()?;
    match config.source {
        Source::Mnist => {
            if locate(config, raw).is_err() {
                fetch_missing(config, raw, preferred, limits, progress)?;
            }
            clear(&raw.join(FETCH), raw);
            let files = locate(config, raw)?;
            let (glyphs, found) = read_pool(&files, true)?;
            for ((path, part), found) in files.paths.iter().zip(PARTS).zip(found) {
                let (found, expected) = (fetch::hex(&found), part.mnist_sha256.to_owned());
                if found != expected {
                    return Err(Error::from(RawError::MnistDigest { path: path.clone(), found, expected }));
                }
            }
            Ok(Output { digest: glyphs.digest(), glyphs, files })
        }
        Source::Synthetic => {
            let folder = config.source.folder(raw);
            if locate(config, raw).is_err() {
                let _lock = lock(&folder, progress)?;
                if locate(config, raw).is_err() {
                    synthetic::complete(&folder, progress)?; // unless the run that had the lock before did
                }
            }
            clear(&folder.join(synthetic::BUILD), &folder);
            let files = locate(config, raw)?;
            let other = |found| Error::from(RawError::SyntheticOther { folder, found });
            let glyphs = match Glyphs::read(&files) {
                Err(error @ Error::Io { .. }) => return Err(error),
                Err(error) => return Err(other(error.to_string())),
                Ok(glyphs) => glyphs,
            };
            let digest = glyphs.digest();
            if digest.to_string() != synthetic::DIGEST {
                return Err(other(format!("content {}; expected {:.12}", digest.short(), synthetic::DIGEST)));
            }
            Ok(Output { digest, glyphs, files })
        }
        Source::Folder(_) => {
            let files = locate(config, raw)?;
            let glyphs = Glyphs::read(&files)?;
            Ok(Output { digest: glyphs.digest(), glyphs, files })
        }
    }
}

/// Removes the folder in which a run worked that was killed after the last file had its name, where nobody is at work.
fn clear(build: &Path, folder: &Path) {
    if files::is_build_left(build)
        && let Ok(_lock) = FolderLock::take(folder)
    {
        // the files stand, so that a folder beside them is no reason to fail
        let _ = files::clear_build(build);
    }
}

/// Where files are fetched to, beside the raw folder's own; hidden while a run is at work there.
const FETCH: &str = "fetch";

/// Tries the mirrors in order, each for all that is still missing.
fn fetch_missing(config: &Config, raw: &Path, preferred: &str, limits: &Limits, progress: &Progress) -> Result<()> {
    let mut mirrors = Vec::new();
    for text in preferred.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        mirrors.push(Mirror::parse(text, MIRRORS_VARIABLE)?);
    }
    for text in &config.mirrors {
        mirrors.push(Mirror::parse(text, "raw.mirrors")?);
    }
    let _lock = lock(raw, progress)?;
    let build = Build::beside(&raw.join(FETCH))?;
    let mut attempts = Vec::new();
    for mirror in &mirrors {
        for part in PARTS.iter().filter(|part| part.find(raw).is_none()) {
            match mirror.fetch(part, build.path(), limits, progress) {
                Ok(file) => place::put(&file, raw)?,
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    attempts.push(error);
                    break; // a mirror that lacks one file is not asked for the rest
                }
            }
        }
    }
    match Files::find(raw) {
        Ok(_) => Ok(()),
        Err(missing) => Err(Error::from(RawError::RawFetch { folder: raw.to_owned(), missing, attempts })),
    }
}

/// Takes the lock of a folder that is to be filled, waiting for another run that fills it.
fn lock(folder: &Path, progress: &Progress) -> Result<FolderLock> {
    loop {
        match FolderLock::take(folder) {
            Err(Error::Busy { .. }) => {
                progress.advance(0)?;
                std::thread::sleep(LOCK_POLL);
            }
            taken => return taken,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
