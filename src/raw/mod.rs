//! The stage `raw`: brings the four files of a set of 28x28 glyphs into place and verifies them.
//!
//! The stage fetches or draws the files that are missing and checks the files that exist. It never removes or
//! overwrites a file that the user put into the folder: a wrong file is an error whose message says what to do.

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

/// The environment variable that lists mirrors to try before the configured ones.
pub const MIRRORS_VARIABLE: &str = "MULTIDIGIT_MIRRORS";
/// The time between two attempts to take the lock of a folder that another run holds.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// Where the glyphs come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which glyphs to use: `mnist`, `synthetic`, or the path of a folder.
    /// `mnist`: the four official files, taken from the raw folder or else fetched from the mirrors, and verified.
    /// `synthetic`: 70,000 digits that the program draws itself, without a network; not handwriting, and not MNIST.
    /// A folder: any four IDX files of 28x28 images and labels 0 to 9 under MNIST's names (such as KMNIST or
    /// Fashion-MNIST), read in place; write `./mnist` for a folder called mnist. Glyphs that are known are named by
    /// their content, wherever they stand.
    #[schemars(with = "String")]
    pub source: Source,
    /// Where to look for MNIST files that are not in the raw folder, in order: folders, or https addresses, to which
    /// the name of a file is appended. The environment variable MULTIDIGIT_MIRRORS, a comma-separated list of the same,
    /// is tried first.
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
    /// Checks the settings before any work is done.
    ///
    /// # Errors
    /// [`Error::ConfigValue`] if the source is an empty text, or if a mirror is neither a folder nor
    /// an accepted address.
    pub fn validate(&self) -> Result<()> {
        if self.source == Source::Folder(PathBuf::new()) {
            return Err(Error::value("raw.source", "an empty text", "mnist, synthetic or a folder"));
        }
        self.mirrors.iter().try_for_each(|mirror| Mirror::parse(mirror, "raw.mirrors").map(drop))
    }
}

/// The source of a set of glyphs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Source {
    /// The official MNIST files.
    Mnist,
    /// Digits drawn by this program.
    Synthetic,
    /// A folder of the user.
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
    /// The folder that holds the files, where `raw` is the raw folder.
    fn folder(&self, raw: &Path) -> PathBuf {
        match self {
            Source::Mnist => raw.to_owned(),
            Source::Synthetic => raw.join("synthetic"), // a folder of its own, so that the set is never taken for MNIST
            Source::Folder(path) => path.clone(),
        }
    }
}

/// The result of the stage.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// The paths of the files.
    pub files: Files,
    /// The digest of the glyphs, as computed by [`Glyphs::digest`].
    pub digest: Digest,
    /// The glyphs, training images first, then test images. They are returned so that the next stage need not
    /// read the files again.
    pub glyphs: Glyphs,
}

/// The folder in which torchvision keeps the files, within the folder that it is given.
const TORCHVISION: &str = "MNIST/raw";

/// Finds the four files of a source, where `raw` is the raw folder: in its folder, or where torchvision would have put
/// them in it. Only names are looked at; no file is opened.
///
/// # Errors
/// [`RawError::RawMissing`] if any of the files is missing.
pub fn locate(config: &Config, raw: &Path) -> Result<Files> {
    let folder = config.source.folder(raw);
    let advice = match config.source {
        Source::Mnist => "run the stage `raw`, which fetches them",
        Source::Synthetic => "run the stage `raw`, which draws them",
        Source::Folder(_) => "set raw.source to mnist, synthetic, or a folder that holds all four",
    };
    let found = Files::find(&folder).or_else(|missing| Files::find(&folder.join(TORCHVISION)).map_err(|_| missing));
    found.map_err(|missing| Error::from(RawError::RawMissing { folder, missing, advice }))
}

/// Brings the four files into place, where `raw` is the raw folder, verifies them and reads the glyphs.
pub fn run(config: &Config, raw: &Path, progress: &Progress) -> Result<Output> {
    let preferred = std::env::var_os(MIRRORS_VARIABLE).unwrap_or_default();
    run_with(config, raw, &preferred.to_string_lossy(), &Limits::DEFAULT, progress)
}

/// Like [`run`], with the content of the environment variable in `preferred`.
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
                    synthetic::complete(&folder, progress)?; // another run may have drawn the set while this one waited
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

/// Removes the build folder left by a run that was killed after it had put the last file in place. The build folder is
/// left alone while another run holds the lock of `folder`.
fn clear(build: &Path, folder: &Path) {
    if files::is_build_left(build)
        && let Ok(_lock) = FolderLock::take(folder)
    {
        // all files are in place, so a folder left beside them is no reason to fail
        let _ = files::clear_build(build);
    }
}

/// The name of the build for downloads. The build's folder, `.fetch.new`, is hidden among the files of the raw folder.
const FETCH: &str = "fetch";

/// Tries the mirrors in order, and fetches from each all files that are still missing.
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
                    break; // do not ask a mirror that failed once for further files
                }
            }
        }
    }
    match Files::find(raw) {
        Ok(_) => Ok(()),
        Err(missing) => Err(Error::from(RawError::RawFetch { folder: raw.to_owned(), missing, attempts })),
    }
}

/// Takes the lock of a folder that is to be filled. Waits while another run holds it.
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
