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
    #[error("`{}`: cannot {action}: {source}{}", path.display(), way_out(source))]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    /// A file of ours, or one in our format, is not what it should be.
    #[error("`{}`: {found}; expected {expected}", path.display())]
    Format { path: PathBuf, found: String, expected: String },
    /// The Parquet or Arrow library refused a file.
    #[error("`{}`: not readable as Parquet: {message}", path.display())]
    Parquet { path: PathBuf, message: String },
    /// A library panicked on a file.
    #[error("`{}`: a reader of this format broke on it ({message}); expected a sound file", path.display())]
    Broke { path: PathBuf, message: String },
    /// Another process writes a folder, or reads one that is to be written.
    #[error(
        "`{}`: another run of this program is writing or reading this folder; wait until it ends, or give this one \
         another --artifacts (a training: another `train.run`)",
        path.display()
    )]
    Busy { path: PathBuf },
    /// Files of the user's stand where this program would put its own.
    #[error(
        "`{}`: holds {}, which no record of this program names; move {} away, or work in another folder with --artifacts",
        folder.display(), some(found), if found.len() == 1 { "it" } else { "them" }
    )]
    Foreign { folder: PathBuf, found: Vec<String> },
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

    // ---- pipeline
    /// A stage was asked for alone, or content was to be pinned, and what it reads is not fresh.
    #[error("{stage}: its input {input} is stale ({why}); run `multidigit run {input}` first")]
    InputStale { stage: &'static str, input: &'static str, why: String },
    /// A finished run would be trained over.
    #[error(
        "`{}`: a finished run stands here, and this one differs ({differences}); give this one another name \
         (`train.run`), use that one as it stands (--run {run}), or train over it (--force)",
        path.display()
    )]
    RunStands { path: PathBuf, run: String, differences: String },
    /// An unfinished run would be started over.
    #[error(
        "`{}`: an unfinished run stands here, and this one differs ({differences}); {way}, give this one another name \
         (`train.run`), or start over (--force)",
        path.display()
    )]
    UnfinishedStands { path: PathBuf, differences: String, way: String },
    /// A run that is to be evaluated, or asked, and is not finished.
    #[error(
        "`{}`: run {run} is not finished; `multidigit run train --run {run}` goes on with it",
        path.display()
    )]
    RunUnfinished { path: PathBuf, run: String },
    /// A run that was named and is not there.
    #[error("`{}`: no run {run} stands here; {}", folder.display(), known_runs(runs))]
    NoSuchRun { folder: PathBuf, run: String, runs: Vec<String> },
    /// The data set that stands is not the one that a run was trained on.
    #[error(
        "`{}`: {found}; run {run} was trained on another data set ({expected}); make that data set again with \
         `multidigit run dataset --run {run}`, which replaces this one, or name other data in `evaluate.data`",
        folder.display()
    )]
    OtherDataset { folder: PathBuf, run: String, found: String, expected: String },
    /// Verification found differences; they were listed.
    #[error("differences found: {differences}; what stands is not what its records and pipeline.lock say")]
    Differences { differences: usize },

    // ---- plan
    /// The pool of glyphs cannot serve every class.
    #[error("{pool} holds no digit {digit}; every digit from 0 to 9 is needed")]
    GlyphsMissing { digit: u8, pool: String },

    // ---- raw: what an IDX file can be instead
    /// The first two bytes are not zero.
    #[error("`{}`: found {found}; expected an IDX file, which begins with two zero bytes", path.display())]
    IdxMagic { path: PathBuf, found: String },
    /// The elements are no unsigned bytes.
    #[error("`{}`: elements of type 0x{code:02x} ({name}); expected 0x08 (unsigned byte)", path.display())]
    IdxType { path: PathBuf, code: u8, name: &'static str },
    /// Labels where images are expected, or the reverse.
    #[error("`{}`: magic {found}, expected {expected} (is this {}?)", path.display(), kind_of_magic(*found))]
    IdxKind { path: PathBuf, found: u32, expected: u32 },
    /// A number of dimensions that neither images nor labels have.
    #[error("`{}`: {found} dimensions; expected {rank}, as {kind} have", path.display())]
    IdxRank { path: PathBuf, found: usize, kind: &'static str, rank: usize },
    /// Images of another size.
    #[error("`{}`: images of {height}x{width} pixels; expected 28x28", path.display())]
    IdxImageSize { path: PathBuf, height: u64, width: u64 },
    /// No images, or no labels.
    #[error("`{}`: holds no {kind}; expected at least one", path.display())]
    IdxEmpty { path: PathBuf, kind: &'static str },
    /// More than any such file holds.
    #[error("`{}`: promises {count} {kind}; expected at most {limit}", path.display())]
    IdxTooMany { path: PathBuf, count: u64, kind: &'static str, limit: u64 },
    /// Dimensions whose product no machine can count.
    #[error("`{}`: dimensions {dimensions:?}; expected less than 2^64 bytes in all", path.display())]
    IdxOverflow { path: PathBuf, dimensions: Vec<u64> },
    /// A packed file that is too small for what its header promises.
    #[error(
        "`{}`: promises {promised} bytes, but {stored} bytes of gzip unpack to at most {possible}; expected a whole \
         file",
        path.display()
    )]
    IdxPromise { path: PathBuf, promised: u64, stored: u64, possible: u64 },
    /// The content ends before the header's promise is kept.
    #[error("`{}`: ends after {found} bytes; expected {expected}, as its header says", path.display())]
    IdxShort { path: PathBuf, found: u64, expected: u64 },
    /// Bytes after the last element.
    #[error("`{}`: goes on after {expected} bytes; expected it to end there, as its header says", path.display())]
    IdxTrailing { path: PathBuf, expected: u64 },
    /// A label that is no digit.
    #[error("`{}`: label {label} at position {index}; expected 0 to 9", path.display())]
    IdxLabel { path: PathBuf, index: usize, label: u8 },
    /// Images and labels that do not belong together.
    #[error(
        "`{}`: {images} images, but `{}` has {labels} labels; expected as many",
        path.display(), labels_path.display()
    )]
    IdxCounts { path: PathBuf, images: usize, labels_path: PathBuf, labels: usize },
    /// A name in `.gz` over something else.
    #[error("`{}`: found {found}; expected gzip data, as the name ends in .gz", path.display())]
    NotGzip { path: PathBuf, found: String },
    /// Gzip data under a plain name.
    #[error("`{}`: found gzip data; expected plain IDX data, as the name does not end in .gz (add it)", path.display())]
    HiddenGzip { path: PathBuf },
    /// A packed file that ends too early.
    #[error("`{}`: the gzip data is cut off; expected a whole file (copy or download it again)", path.display())]
    GzipCut { path: PathBuf },
    /// A packed file that does not unpack, or not to what it was made of.
    #[error("`{}`: damaged gzip data ({message}); expected a sound file (copy or download it again)", path.display())]
    GzipDamaged { path: PathBuf, message: String },

    // ---- raw: where files come from
    /// Files that are needed and not there.
    #[error(
        "`{}`: missing {}, under either naming, with or without .gz; {advice}",
        folder.display(), missing.join(", ")
    )]
    RawMissing { folder: PathBuf, missing: Vec<&'static str>, advice: &'static str },
    /// Files that are not there and that no mirror gave.
    #[error(
        "`{}`: missing {}, and no mirror gave them:{}\neither put the four files in `{}` (with or without .gz), or let \
         the program draw digits: --set raw.source=synthetic",
        folder.display(), missing.join(", "), listed(attempts), folder.display()
    )]
    RawFetch { folder: PathBuf, missing: Vec<&'static str>, attempts: Vec<Error> },
    /// A folder, say, under the name of a file that is to be put there.
    #[error("`{}`: found something that is no file; expected a file, or nothing: move it away", path.display())]
    RawInTheWay { path: PathBuf },
    /// A set under the names of the synthetic one that is another.
    #[error(
        "`{}`: other files stand there under the synthetic set's names ({found}); either move them away, or, if they \
         are meant, set raw.source to this folder",
        folder.display()
    )]
    SyntheticOther { folder: PathBuf, found: String },
    /// A sound file under MNIST's name with other content.
    #[error(
        "`{}`: SHA-256 {found} (unpacked); expected MNIST's {expected}: either remove the file, or, if another set is \
         meant, put it in a folder of its own and set raw.source to that folder",
        path.display()
    )]
    MnistDigest { path: PathBuf, found: String, expected: String },
    /// A sound file from a mirror with other content.
    #[error("`{}`: SHA-256 {found} (unpacked); expected MNIST's {expected}", origin.display())]
    MirrorDigest { origin: PathBuf, found: String, expected: String },
    /// A mirror's folder without the file.
    #[error("`{}`: holds no {name}, under either naming, with or without .gz", folder.display())]
    MirrorFolder { folder: PathBuf, name: &'static str },
    /// A mirror's answer is no file.
    #[error("`{url}`: found HTTP status {status}; expected 200")]
    MirrorStatus { url: String, status: u16 },
    /// A mirror's answer is too large to be one of the files.
    #[error("`{url}`: more than {limit} bytes; expected a file of at most that size")]
    MirrorTooLarge { url: String, limit: u64 },
    /// A mirror's answer ends before it is complete.
    #[error("`{url}`: the connection ended after {bytes} bytes, before the file did")]
    MirrorCut { url: String, bytes: u64 },
    /// A mirror that says nothing any more.
    #[error("`{url}`: timed out (no byte for {seconds} s)")]
    MirrorStalled { url: String, seconds: f32 },
    /// A mirror that speaks, but has not given the file in the time that all attempts at it have together.
    #[error("`{url}`: timed out (not done in {seconds} s, all attempts together)")]
    MirrorSlow { url: String, seconds: f32 },
    /// A mirror that cannot be spoken with.
    #[error("`{url}`: not reached: {message}")]
    MirrorUnreached { url: String, message: String },

    // ---- augment
    /// The file system has no room for the epochs that are to be stored.
    #[error(
        "`{}`: {what} need about {}, but {} are free; free some space{way}, or work in another folder with --artifacts",
        path.display(), amount(*need), amount(*free)
    )]
    DiskSpace { path: PathBuf, what: String, need: u64, free: u64, way: &'static str },
    /// A picture that would be too large.
    #[error("a picture of {width}x{height} pixels; expected at most {limit} pixels: take fewer --rows or --epochs")]
    PictureSize { width: u64, height: u64, limit: u64 },

    // ---- train and evaluate
    /// A loss that is NaN or infinite.
    #[error(
        "training stopped at step {step}: the loss is {loss} at learning rate {rate}; weights saved before stay; try a smaller `train.learning_rate`, or another `train.seed`"
    )]
    NotFinite { step: u64, loss: f64, rate: f64 },
    /// A network whose values overflow.
    #[error("the network answers with numbers that are not finite; its weights, or their mean and std, are of no use")]
    NoAnswer,
    /// A split that has to hold images holds none.
    #[error("the {split} split holds no images; give it a share in `plan.split.ratio`")]
    EmptySplit { split: String },
    /// The GPU's memory is too small.
    #[error("the GPU's memory does not hold {what}; try {advice}")]
    DeviceMemory { what: String, advice: &'static str },
    /// A network could not be computed. A refused tensor operation is a defect of this program.
    #[error("{source}{}", if matches!(source, multidigit_nn::Error::Tensor { .. }) { "; please report this" } else { "" })]
    Nn {
        #[from]
        source: multidigit_nn::Error,
    },
}

impl From<candle_core::Error> for Error {
    fn from(source: candle_core::Error) -> Error {
        Error::Nn { source: source.into() }
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
        move |e| Error::Parquet { path: path.clone(), message: shown(&e.to_string()) }
    }

    /// A maker for `map_err` where a library that writes files for us fails; most often the disk is full.
    pub fn write<E: std::error::Error + 'static>(path: &Path) -> impl Fn(E) -> Error + use<E> {
        let path = path.to_owned();
        move |e| Error::Io { path: path.clone(), action: "write it", source: system_error(&e) }
    }

    /// An [`Error::Format`].
    pub fn format(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> Error {
        Error::Format { path: path.to_owned(), found: shown(&found.into()), expected: expected.into() }
    }

    /// An [`Error::ConfigValue`].
    pub fn value(key: &str, found: impl std::fmt::Display, expected: impl Into<String>) -> Error {
        Error::ConfigValue { key: key.to_owned(), found: found.to_string(), expected: expected.into() }
    }

    /// Where this is a GPU's refusal of memory, the error that says so: `what` was too much, and `advice` may help.
    pub fn or_device_memory(self, what: impl FnOnce() -> String, advice: &'static str) -> Error {
        match &self {
            Error::Nn { source } if source.is_out_of_memory() => Error::DeviceMemory { what: what(), advice },
            _ => self,
        }
    }

    /// Whether the system failed, so that nothing is said of what a file holds.
    pub fn is_of_system(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() != std::io::ErrorKind::NotFound)
    }

    /// Whether the user's configuration or flags are at fault, rather than a stage.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Error::ConfigSyntax { .. } | Error::ConfigKey { .. } | Error::ConfigValue { .. })
    }
}

/// What is shown of words that a file can be quoted in: their beginning, where there are many.
pub fn shown(text: &str) -> String {
    const CHARACTERS: usize = 2000;
    match text.char_indices().nth(CHARACTERS).and_then(|(end, _)| text.get(..end)) {
        None => text.to_owned(),
        Some(beginning) => format!("{beginning}... ({} bytes)", text.len()),
    }
}

fn nearest_hint(nearest: Option<&str>, valid: &[String]) -> String {
    match nearest {
        Some(key) => format!("; did you mean `{key}`?"),
        None if valid.is_empty() => "; there are no keys here".to_owned(),
        None => format!("; valid keys are {}", valid.join(", ")),
    }
}

fn kind_of_magic(magic: u32) -> &'static str {
    match magic {
        2049 => "a label file",
        _ => "an image file",
    }
}

fn known_runs(runs: &[String]) -> String {
    match runs {
        [] => "expected a trained run, and there is none; `multidigit run train` makes one".to_owned(),
        _ => format!("expected one of {}", runs.join(", ")),
    }
}

/// Names, the first few of many.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names.split_at_checked(SHOWN) {
        Some((first, more)) if !more.is_empty() => format!("{} and {} more", first.join(", "), more.len()),
        _ => names.join(", "),
    }
}

/// The system's error that an error of a library is about, if it is about one; else one that says the same.
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

/// What to do about an error of the system, where that is known.
fn way_out(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    // of POSIX, which std has no words for
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

/// Bytes in the unit that people read: at least 1 of it, to one decimal.
fn amount(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"];
    let unit = (bytes.max(1).ilog10() / 3) as usize;
    match UNITS.get(unit) {
        Some(name) if unit > 0 => format!("{:.1} {name}", bytes as f64 / 1000f64.powi(unit as i32)),
        _ => format!("{bytes} bytes"),
    }
}

fn listed(errors: &[Error]) -> String {
    match errors {
        [] => " none is set".to_owned(),
        _ => errors.iter().map(|error| format!("\n  {error}")).collect(),
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
    fn a_gpus_refusal_of_memory_names_what_was_too_much_and_what_to_try() {
        let convert = |error: Error| {
            let advice = "a smaller `train.batch_size`, or `train.precision` bf16";
            error.or_device_memory(|| "a step of 1024 images".to_owned(), advice).to_string()
        };
        let full = "the GPU's memory does not hold a step of 1024 images; try a smaller `train.batch_size`, or \
                    `train.precision` bf16";
        let cuda = |message: &str| Error::from(multidigit_nn::Error::Cuda { message: message.to_owned() });
        assert_eq!(convert(cuda("CUBLAS_STATUS_ALLOC_FAILED")), full);
        let other = cuda("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)");
        assert_eq!(convert(other), "the GPU could not be used: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)");
        assert_eq!(convert(Error::Interrupted), "interrupted; what was finished before stays");
    }

    #[test]
    fn a_refused_tensor_operation_asks_for_a_report() {
        let error = Error::from(candle_core::Error::Msg("no such shape".to_owned()));
        assert_eq!(error.to_string(), "a tensor operation failed: no such shape; please report this");
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
                Error::NoAnswer,
                "the network answers with numbers that are not finite; its weights, or their mean and std, are of no use",
            ),
            (
                Error::RunUnfinished { path: path.into(), run: "r".to_owned() },
                "`a/b`: run r is not finished; `multidigit run train --run r` goes on with it",
            ),
            (
                Error::Differences { differences: 2 },
                "differences found: 2; what stands is not what its records and pipeline.lock say",
            ),
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
            (
                Error::PictureSize { width: 40_000, height: 20_000, limit: 1000 },
                "a picture of 40000x20000 pixels; expected at most 1000 pixels: take fewer --rows or --epochs",
            ),
        ];
        for (error, message) in cases {
            assert_eq!(error.to_string(), message);
            assert!(!error.is_configuration());
        }
    }
}
