//! Errors of glyph files: invalid IDX content, and failures of their sources.

use std::path::PathBuf;

use crate::error::Error;

/// A glyph file or its source is invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant names its fields")]
pub enum RawError {
    /// The first two bytes are not zero.
    #[error("`{}`: found {found}; expected an IDX file, which begins with two zero bytes", path.display())]
    IdxMagic { path: PathBuf, found: String },
    /// The elements are not unsigned bytes.
    #[error("`{}`: elements of type 0x{code:02x} ({name}); expected 0x08 (unsigned byte)", path.display())]
    IdxType { path: PathBuf, code: u8, name: &'static str },
    /// The file holds labels where images are expected, or the reverse.
    #[error("`{}`: magic {found}, expected {expected} (is this {}?)", path.display(), kind_of_magic(*found))]
    IdxKind { path: PathBuf, found: u32, expected: u32 },
    /// The number of dimensions is not that of images or labels.
    #[error("`{}`: {found} dimensions; expected {rank}, as {kind} have", path.display())]
    IdxRank { path: PathBuf, found: usize, kind: &'static str, rank: usize },
    /// The images have another size.
    #[error("`{}`: images of {height}x{width} pixels; expected 28x28", path.display())]
    IdxImageSize { path: PathBuf, height: u64, width: u64 },
    /// The file holds no images or no labels.
    #[error("`{}`: holds no {kind}; expected at least one", path.display())]
    IdxEmpty { path: PathBuf, kind: &'static str },
    /// The file declares more elements than any such file holds.
    #[error("`{}`: promises {count} {kind}; expected at most {limit}", path.display())]
    IdxTooMany { path: PathBuf, count: u64, kind: &'static str, limit: u64 },
    /// The product of the dimensions overflows.
    #[error("`{}`: dimensions {dimensions:?}; expected less than 2^64 bytes in all", path.display())]
    IdxOverflow { path: PathBuf, dimensions: Vec<u64> },
    /// A compressed file is too small for the content that its header declares.
    #[error(
        "`{}`: promises {promised} bytes, but {stored} bytes of gzip unpack to at most {possible}; expected a whole \
         file",
        path.display()
    )]
    IdxPromise { path: PathBuf, promised: u64, stored: u64, possible: u64 },
    /// The content ends before the declared size.
    #[error("`{}`: ends after {found} bytes; expected {expected}, as its header says", path.display())]
    IdxShort { path: PathBuf, found: u64, expected: u64 },
    /// The file has bytes after the last element.
    #[error("`{}`: goes on after {expected} bytes; expected it to end there, as its header says", path.display())]
    IdxTrailing { path: PathBuf, expected: u64 },
    /// A label is not a digit.
    #[error("`{}`: label {label} at position {index}; expected 0 to 9", path.display())]
    IdxLabel { path: PathBuf, index: usize, label: u8 },
    /// The numbers of images and labels differ.
    #[error(
        "`{}`: {images} images, but `{}` has {labels} labels; expected as many",
        path.display(), labels_path.display()
    )]
    IdxCounts { path: PathBuf, images: usize, labels_path: PathBuf, labels: usize },
    /// A file whose name ends in `.gz` is not gzip data.
    #[error("`{}`: found {found}; expected gzip data, as the name ends in .gz", path.display())]
    NotGzip { path: PathBuf, found: String },
    /// A file whose name does not end in `.gz` is gzip data.
    #[error("`{}`: found gzip data; expected plain IDX data, as the name does not end in .gz (add it)", path.display())]
    HiddenGzip { path: PathBuf },
    /// A compressed file ends too early.
    #[error("`{}`: the gzip data is cut off; expected a whole file (copy or download it again)", path.display())]
    GzipCut { path: PathBuf },
    /// A compressed file cannot be decompressed, or its checksum does not match.
    #[error("`{}`: damaged gzip data ({message}); expected a sound file (copy or download it again)", path.display())]
    GzipDamaged { path: PathBuf, message: String },
    /// Required files are missing.
    #[error(
        "`{}`: missing {}, under either naming, with or without .gz; {advice}",
        folder.display(), missing.join(", ")
    )]
    RawMissing { folder: PathBuf, missing: Vec<&'static str>, advice: &'static str },
    /// Files are missing, and no mirror provided them.
    #[error(
        "`{}`: missing {}, and no mirror gave them:{}\neither put the four files in `{}` (with or without .gz), or let \
         the program draw digits: --set raw.source=synthetic",
        folder.display(), missing.join(", "), listed(attempts), folder.display()
    )]
    RawFetch { folder: PathBuf, missing: Vec<&'static str>, attempts: Vec<Error> },
    /// Something that is not a file, such as a folder, has the name of a file that should be written.
    #[error("`{}`: found something that is no file; expected a file, or nothing: move it away", path.display())]
    RawInTheWay { path: PathBuf },
    /// A set other than the synthetic one has the file names of the synthetic set.
    #[error(
        "`{}`: other files stand there under the synthetic set's names ({found}); either move them away, or, if they \
         are meant, set raw.source to this folder",
        folder.display()
    )]
    SyntheticOther { folder: PathBuf, found: String },
    /// A valid file has the name of an MNIST file but other content.
    #[error(
        "`{}`: SHA-256 {found} (unpacked); expected MNIST's {expected}: either remove the file, or, if another set is \
         meant, put it in a folder of its own and set raw.source to that folder",
        path.display()
    )]
    MnistDigest { path: PathBuf, found: String, expected: String },
    /// A valid file from a mirror has other content.
    #[error("`{}`: SHA-256 {found} (unpacked); expected MNIST's {expected}", origin.display())]
    MirrorDigest { origin: PathBuf, found: String, expected: String },
    /// The folder of a mirror lacks the file.
    #[error("`{}`: holds no {name}, under either naming, with or without .gz", folder.display())]
    MirrorFolder { folder: PathBuf, name: &'static str },
    /// The HTTP response of a mirror is not a file.
    #[error("`{url}`: found HTTP status {status}; expected 200")]
    MirrorStatus { url: String, status: u16 },
    /// The response of a mirror is too large to be one of the files.
    #[error("`{url}`: more than {limit} bytes; expected a file of at most that size")]
    MirrorTooLarge { url: String, limit: u64 },
    /// The response of a mirror ends before it is complete.
    #[error("`{url}`: the connection ended after {bytes} bytes, before the file did")]
    MirrorCut { url: String, bytes: u64 },
    /// A mirror stopped sending.
    #[error("`{url}`: timed out (no byte for {seconds} s)")]
    MirrorStalled { url: String, seconds: f32 },
    /// A mirror responds, but did not provide the file within the time limit for all attempts together.
    #[error("`{url}`: timed out (not done in {seconds} s, all attempts together)")]
    MirrorSlow { url: String, seconds: f32 },
    /// A mirror cannot be reached.
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
