//! Every way this crate can fail, and the words for it.
//!
//! One enum, so that whoever wants to know what the program can say reads one file. A message is lowercase and puts the
//! path (or the configuration key) first, then what was found, what was expected, and what to do where that is known.
//! Nothing here formats for a terminal: `main` prints the message once.

use std::path::{Path, PathBuf};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the facts that the message needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- files, any stage
    /// The operating system refused a file operation.
    #[error("`{}`: cannot {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    /// A file of ours, or one in our format, is not what it should be.
    #[error("`{}`: {found}; expected {expected}", path.display())]
    Format { path: PathBuf, found: String, expected: String },
    /// The Parquet or Arrow library refused a file.
    #[error("`{}`: not readable as Parquet: {message}", path.display())]
    Parquet { path: PathBuf, message: String },
    /// Another process holds the artifacts folder.
    #[error("`{}`: another run is at work in this folder; wait until it ends, or give this one another --artifacts", path.display())]
    Busy { path: PathBuf },
    /// The user pressed Ctrl-C (or sent SIGTERM).
    #[error("interrupted; what was finished before stays")]
    Interrupted,

    // ---- configuration
    /// A configuration file or override that cannot be read as configuration.
    #[error("{origin}: {message}")]
    ConfigSyntax { origin: String, message: String },
    /// A key that does not exist.
    #[error("{origin}: unknown key `{key}`{}", nearest_hint(nearest.as_deref(), valid))]
    ConfigKey { origin: String, key: String, nearest: Option<String>, valid: Vec<String> },
    /// A value that cannot work.
    #[error("`{key}`: found {found}; expected {expected}")]
    ConfigValue { key: String, found: String, expected: String },

    // ---- train and evaluate
    /// A loss that is NaN or infinite.
    #[error(
        "training stopped at step {step}: the loss is {loss} at learning rate {rate}; weights saved before stay; try a smaller `train.learning_rate`, or another `train.seed`"
    )]
    NotFinite { step: u64, loss: f64, rate: f64 },
    /// A split that has to hold images holds none.
    #[error("the {split} split holds no images; give it a share in `plan.split.ratio`")]
    EmptySplit { split: String },
    /// The tensor library refused an operation, which is a defect of this program.
    #[error("a tensor operation failed: {message}; please report this")]
    Tensor { message: String },
}

impl From<candle_core::Error> for Error {
    fn from(source: candle_core::Error) -> Error {
        Error::Tensor { message: source.to_string() }
    }
}

impl Error {
    /// An [`Error::Io`] maker for `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |source| Error::Io { path, action, source }
    }

    /// An [`Error::Parquet`] maker for `map_err`.
    pub fn parquet<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> Error + use<E> {
        let path = path.to_owned();
        move |e| Error::Parquet { path: path.clone(), message: e.to_string() }
    }

    /// An [`Error::Format`].
    pub fn format(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> Error {
        Error::Format { path: path.to_owned(), found: found.into(), expected: expected.into() }
    }

    /// An [`Error::ConfigValue`].
    pub fn value(key: &str, found: impl std::fmt::Display, expected: impl Into<String>) -> Error {
        Error::ConfigValue { key: key.to_owned(), found: found.to_string(), expected: expected.into() }
    }

    /// Whether the user's configuration or flags are at fault, rather than a stage.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Error::ConfigSyntax { .. } | Error::ConfigKey { .. } | Error::ConfigValue { .. })
    }
}

fn nearest_hint(nearest: Option<&str>, valid: &[String]) -> String {
    match nearest {
        Some(key) => format!("; did you mean `{key}`?"),
        None => format!("; valid keys are {}", valid.join(", ")),
    }
}
