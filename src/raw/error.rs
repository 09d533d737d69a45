//! Ways in which glyph files can fail: what an IDX file can hold instead, and where files come from.

use std::path::PathBuf;

use crate::error::Error;

/// A glyph file, or its origin, is not what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant names its fields")]
pub enum RawError {
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
}

impl From<RawError> for Error {
    fn from(error: RawError) -> Error {
        Error::of_area(error)
    }
}

fn kind_of_magic(magic: u32) -> &'static str {
    match magic {
        2049 => "a label file",
        _ => "an image file",
    }
}

fn listed(errors: &[Error]) -> String {
    match errors {
        [] => " none is set".to_owned(),
        _ => errors.iter().map(|error| format!("\n  {error}")).collect(),
    }
}
