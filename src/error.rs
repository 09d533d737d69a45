//! The errors that can occur in every part of the program: files, formats, settings. The errors of an area (raw, plan,
//! train, pipeline and so on) are an enum in its own `error.rs`, and are converted to [`Error`] by `From`.
//!
//! A message is in lower case. It begins with the path (or the configuration key), followed by what was found, what was
//! expected, and what to do if that is known. Nothing here formats for a terminal: `main` prints the message once.

use std::path::{Path, PathBuf};

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error, with the facts that its message needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant names its fields")]
pub enum Error {
    // ---- files, in any stage
    /// The operating system returned an error for a file operation.
    #[error("`{}`: cannot {action}: {}{}", path.display(), reason(source), way_out(source))]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    /// A file of this program, or one in its format, has unexpected content.
    #[error("`{}`: {found}; expected {expected}", path.display())]
    Format { path: PathBuf, found: String, expected: String },
    /// The Parquet or Arrow library cannot read a file.
    #[error("`{}`: not readable as Parquet: {message}", path.display())]
    Parquet { path: PathBuf, message: String },
    /// A library panicked on a file.
    #[error("`{}`: a reader of this format broke on it ({message}); expected a sound file", path.display())]
    Broke { path: PathBuf, message: String },
    /// Another process is writing this folder, or is reading it while it should be written.
    #[error(
        "`{}`: another run of this program is writing or reading this folder; wait until it ends, or give this one \
         another --artifacts (a training: another `train.run`)",
        path.display()
    )]
    Busy { path: PathBuf },
    /// The user's own files are in the place where this program would write.
    #[error(
        "`{}`: holds {}, which no record of this program names; move {} away, or work in another folder with --artifacts",
        folder.display(), some(found), if found.len() == 1 { "it" } else { "them" }
    )]
    Foreign { folder: PathBuf, found: Vec<String> },
    /// The user pressed Ctrl-C (or sent SIGTERM).
    #[error("interrupted; what was finished before stays")]
    Interrupted,

    // ---- configuration
    /// A configuration file or an override is not valid syntax.
    #[error("{origin}: {message}")]
    ConfigSyntax { origin: String, message: String },
    /// A configuration key does not exist.
    #[error("{origin}: unknown key `{key}`{}", meant_hint(meant, valid))]
    ConfigKey { origin: String, key: String, meant: Vec<String>, valid: Vec<String> },
    /// A configuration value is invalid.
    #[error("`{key}`: found {found}; expected {expected}")]
    ConfigValue { key: String, found: String, expected: String },
    /// The file system has no room for the files to be stored.
    #[error(
        "`{}`: {what} need about {}, but {} are free; free some space{way}, or work in another folder with --artifacts",
        path.display(), amount(*need), amount(*free)
    )]
    DiskSpace { path: PathBuf, what: String, need: u64, free: u64, way: &'static str },

    // ---- areas
    /// An error of an area: an enum in the area's own `error.rs`, available through [`Error::area`].
    #[error(transparent)]
    Area(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Returns a function for `map_err` that makes an [`Error::Io`].
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |source| Error::Io { path, action, source }
    }

    /// Returns a function for `map_err` that makes an [`Error::Parquet`].
    pub fn parquet<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> Error + use<E> {
        let path = path.to_owned();
        move |e| Error::Parquet { path: path.clone(), message: shown(&e.to_string()) }
    }

    /// Returns a function for `map_err`, for errors of a library that writes a file. Most often the disk is full.
    pub fn write<E: std::error::Error + 'static>(path: &Path) -> impl Fn(E) -> Error + use<E> {
        let path = path.to_owned();
        move |e| Error::Io { path: path.clone(), action: "write it", source: system_error(&e) }
    }

    /// Makes an [`Error::Format`].
    pub fn format(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> Error {
        Error::Format { path: path.to_owned(), found: shown(&found.into()), expected: expected.into() }
    }

    /// Makes an [`Error::ConfigValue`].
    pub fn value(key: &str, found: impl std::fmt::Display, expected: impl Into<String>) -> Error {
        Error::ConfigValue { key: key.to_owned(), found: found.to_string(), expected: expected.into() }
    }

    /// Makes an [`Error::Area`].
    pub fn of_area(error: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Area(Box::new(error))
    }

    /// The error of an area, if it is of type `E`.
    pub fn area<E: std::error::Error + 'static>(&self) -> Option<&E> {
        match self {
            Error::Area(error) => error.downcast_ref(),
            _ => None,
        }
    }

    /// Whether the system failed, so that the error says nothing about the content of a file.
    pub fn is_of_system(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() != std::io::ErrorKind::NotFound)
    }

    /// Whether the user's configuration or flags are at fault, rather than a stage.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Error::ConfigSyntax { .. } | Error::ConfigKey { .. } | Error::ConfigValue { .. })
    }
}

/// The part of a text quoted from a file that is shown: its beginning, if it is long.
pub fn shown(text: &str) -> String {
    const CHARACTERS: usize = 2000;
    match text.char_indices().nth(CHARACTERS).and_then(|(end, _)| text.get(..end)) {
        None => text.to_owned(),
        Some(beginning) => format!("{beginning}... ({} bytes)", text.len()),
    }
}

fn meant_hint(meant: &[String], valid: &[String]) -> String {
    match meant {
        [] if valid.is_empty() => "; there are no keys here".to_owned(),
        [] => format!("; valid keys are {}", valid.join(", ")),
        [key] => format!("; did you mean `{key}`?"),
        [keys @ .., last] => format!("; did you mean `{}` or `{last}`?", keys.join("`, `")),
    }
}

/// The first few of many names.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names.split_at_checked(SHOWN) {
        Some((first, more)) if !more.is_empty() => format!("{} and {} more", first.join(", "), more.len()),
        _ => names.join(", "),
    }
}

/// The system error that caused an error of a library, or else one with the same message.
fn system_error(error: &(dyn std::error::Error + 'static)) -> std::io::Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(code) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            return std::io::Error::from_raw_os_error(code);
        }
        cause = error.source();
    }
    std::io::Error::other(error.to_string())
}

/// A system error in words.
pub fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or folder".to_owned(),
        _ => error.to_string(),
    }
}

/// Advice about a system error, if there is any.
fn way_out(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    // POSIX error numbers for which std has no names
    const TOO_MANY_IN_PROCESS: i32 = 24;
    const TOO_MANY_IN_SYSTEM: i32 = 23;
    match (error.kind(), error.raw_os_error()) {
        (StorageFull | QuotaExceeded, _) => "; free some space, or work on another disk",
        (_, Some(TOO_MANY_IN_PROCESS | TOO_MANY_IN_SYSTEM)) if cfg!(unix) => {
            "; raise the limit of open files (ulimit -n)"
        }
        _ => "",
    }
}

/// A number of bytes in the largest unit of which there is at least 1, to one decimal.
fn amount(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"];
    let unit = (bytes.max(1).ilog10() / 3) as usize;
    match UNITS.get(unit) {
        Some(name) if unit > 0 => format!("{:.1} {name}", bytes as f64 / 1000f64.powi(unit as i32)),
        _ => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_in_their_own_unit() {
        let words = [0, 999, 1000, 31_831_345, u64::MAX].map(amount);
        assert_eq!(words, ["0 bytes", "999 bytes", "1.0 kB", "31.8 MB", "18.4 EB"]);
    }

    #[test]
    fn a_file_that_is_quoted_at_length_is_cut() {
        let error = Error::format(Path::new("a"), "ä".repeat(3000), "less");
        assert_eq!(error.to_string(), format!("`a`: {}... (6000 bytes); expected less", "ä".repeat(2000)));
        assert_eq!(Error::format(Path::new("a"), "b", "c").to_string(), "`a`: b; expected c");
    }

    #[test]
    fn errors_of_the_ground_read_as_documented() {
        let path = Path::new("a/b");
        let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let cases = [
            (Error::io(path, "read it")(refused), "`a/b`: cannot read it: permission denied"),
            (Error::format(path, "3 rows", "4 rows"), "`a/b`: 3 rows; expected 4 rows"),
            (Error::parquet(path)("no footer"), "`a/b`: not readable as Parquet: no footer"),
            (
                Error::Busy { path: path.into() },
                "`a/b`: another run of this program is writing or reading this folder; wait until it ends, or give this \
                 one another --artifacts (a training: another `train.run`)",
            ),
            (
                Error::Foreign { folder: path.into(), found: ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec() },
                "`a/b`: holds a, b, c and 2 more, which no record of this program names; move them away, or work in \
                 another folder with --artifacts",
            ),
            (Error::Interrupted, "interrupted; what was finished before stays"),
            (
                Error::DiskSpace {
                    path: path.into(),
                    what: "30 epochs".into(),
                    need: 1_234_567_890,
                    free: 999,
                    way: ", take fewer",
                },
                "`a/b`: 30 epochs need about 1.2 GB, but 999 bytes are free; free some space, take fewer, or work in \
                 another folder with --artifacts",
            ),
        ];
        for (error, message) in cases {
            assert_eq!(error.to_string(), message);
            assert!(!error.is_configuration());
        }
    }
}
