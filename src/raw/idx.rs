//! IDX, the format of the MNIST files. A file is plain, or compressed with gzip if its name ends in `.gz`.
//!
//! No field of a file is trusted. The fields of the header are compared with fixed limits and with the size of the file
//! before anything is allocated, and decompression stops one byte after the length that the header declares. A file
//! that is not exactly as expected is refused, never repaired.
//!
//! The format, as described by Y. LeCun: two zero bytes, a byte for the element type, a byte for the number of
//! dimensions, each dimension as a big-endian 32-bit integer, then the elements in row-major order. The first four
//! bytes, read as one big-endian integer, are the magic number: 2051 for images of bytes, 2049 for labels of bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use byteorder::{BigEndian, ByteOrder};
use flate2::bufread::MultiGzDecoder;

use super::size::{PIXELS, SIDE};
use crate::error::{Error, Result};
use crate::guard::guarded;
use crate::raw::RawError;

/// The maximum number of glyphs in one file. The largest published set of this kind has 8.1 million.
pub const MAX_GLYPHS: u64 = 10_000_000;
/// The maximum number of bytes that one byte of deflate data can unpack to. According to zlib's technical notes, two
/// bits can encode 258 bytes.
const MAX_DEFLATE_RATIO: u64 = 1032;
/// The size in bytes of the read buffer.
const BUFFER: usize = 1 << 16;

/// The content of an IDX file, which follows from its number of dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Three dimensions: count, height, width.
    Images,
    /// One dimension: count.
    Labels,
}

impl Kind {
    /// The plural noun for messages: `images` or `labels`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Images => "images",
            Kind::Labels => "labels",
        }
    }

    /// The magic number of a file of this kind with elements of one byte.
    fn magic(self) -> u32 {
        match self {
            Kind::Images => 2051,
            Kind::Labels => 2049,
        }
    }

    /// The number of dimensions.
    fn rank(self) -> usize {
        match self {
            Kind::Images => 3,
            Kind::Labels => 1,
        }
    }

    /// The number of bytes of one image or one label.
    fn item(self) -> u64 {
        match self {
            Kind::Images => PIXELS as u64,
            Kind::Labels => 1,
        }
    }
}

/// The header of an IDX file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The dimensions, outermost first.
    pub dimensions: Vec<u64>,
    /// The name of the element type, such as `unsigned byte`.
    pub element: &'static str,
    /// The size of all elements together, in bytes.
    pub bytes: u64,
    /// The kind of the file, if this crate reads files of that kind.
    pub kind: Option<Kind>,
}

/// Reads the header of an IDX file of any element type and any number of dimensions. The elements are not checked.
///
/// # Errors
/// [`RawError`] if the file is not IDX data, ends within the header, has an unknown element type, or declares
/// 2^64 bytes or more.
pub fn header(path: &Path) -> Result<Header> {
    let (mut input, _) = open_file(path, path)?;
    let (magic, dimensions) = input.header()?;
    let (element, size) = element(path, magic.to_be_bytes()[2])?;
    let bytes = dimensions.iter().try_fold(size, |product, &dimension| product.checked_mul(dimension));
    let bytes = bytes
        .ok_or_else(|| Error::from(RawError::IdxOverflow { path: path.to_owned(), dimensions: dimensions.clone() }))?;
    let kind = [Kind::Images, Kind::Labels].into_iter().find(|kind| kind.magic() == magic);
    Ok(Header { dimensions, element, bytes, kind })
}

/// The name and the size in bytes of an element type.
fn element(path: &Path, code: u8) -> Result<(&'static str, u64)> {
    match code {
        0x08 => Ok(("unsigned byte", 1)),
        0x09 => Ok(("signed byte", 1)),
        0x0b => Ok(("16-bit integer", 2)),
        0x0c => Ok(("32-bit integer", 4)),
        0x0d => Ok(("32-bit float", 4)),
        0x0e => Ok(("64-bit float", 8)),
        _ => Err(Error::from(RawError::IdxType { path: path.to_owned(), code, name: "unknown" })),
    }
}

/// A file of images or labels whose header has been read and checked. The body has not been read yet.
pub struct Idx {
    input: Input,
    kind: Kind,
    /// The bytes of the header, which are part of the content's digest.
    head: Vec<u8>,
    /// The number of images or labels that the header declares.
    pub count: usize,
}

impl Idx {
    /// Opens a file, and reads and checks its header. Error messages name the file as `shown`, which is the address for
    /// a downloaded file.
    pub fn open(path: &Path, shown: &Path, kind: Kind) -> Result<Idx> {
        let (input, stored) = open_file(path, shown)?;
        Idx::new(input, stored, kind)
    }

    /// Reads and checks the header of `input`, which is read from a file of `stored` bytes.
    fn new(mut input: Input, stored: u64, kind: Kind) -> Result<Idx> {
        let path = input.shown.clone();
        let (magic, dimensions) = input.header()?;
        let code = magic.to_be_bytes()[2];
        if code != 0x08 {
            let (name, _) = element(&path, code)?;
            return Err(Error::from(RawError::IdxType { path, code, name }));
        }
        let count = match (kind, dimensions.as_slice()) {
            (Kind::Labels, &[count]) => count,
            (Kind::Images, &[count, height, width]) => {
                if [height, width] != [SIDE as u64; 2] {
                    return Err(Error::from(RawError::IdxImageSize { path, height, width }));
                }
                count
            }
            (_, [_] | [_, _, _]) => {
                return Err(Error::from(RawError::IdxKind { path, found: magic, expected: kind.magic() }));
            }
            (_, other) => {
                return Err(Error::from(RawError::IdxRank {
                    path,
                    found: other.len(),
                    kind: kind.name(),
                    rank: kind.rank(),
                }));
            }
        };
        if count == 0 {
            return Err(Error::from(RawError::IdxEmpty { path, kind: kind.name() }));
        }
        if count > MAX_GLYPHS {
            return Err(Error::from(RawError::IdxTooMany { path, count, kind: kind.name(), limit: MAX_GLYPHS }));
        }
        let words: Vec<u32> = std::iter::once(magic).chain(dimensions.iter().map(|&size| size as u32)).collect();
        let mut head = vec![0; 4 * words.len()];
        BigEndian::write_u32_into(&words, &mut head);
        let promised = count.checked_mul(kind.item()).and_then(|body| body.checked_add(head.len() as u64));
        let promised = promised.ok_or_else(|| Error::from(RawError::IdxOverflow { path: path.clone(), dimensions }))?;
        // The check below makes it safe to allocate memory for `count` items: a small file cannot
        // declare a large count.
        let possible = if input.gzip { stored.saturating_mul(MAX_DEFLATE_RATIO) } else { stored };
        match (input.gzip, promised) {
            (false, _) if stored < promised => {
                Err(Error::from(RawError::IdxShort { path, found: stored, expected: promised }))
            }
            (false, _) if stored > promised => Err(Error::from(RawError::IdxTrailing { path, expected: promised })),
            (true, _) if possible < promised => {
                Err(Error::from(RawError::IdxPromise { path, promised, stored, possible }))
            }
            _ => match usize::try_from(promised) {
                Ok(_) => Ok(Idx { input, kind, head, count: count as usize }),
                Err(_) => Err(Error::from(RawError::IdxTooMany {
                    path,
                    count,
                    kind: kind.name(),
                    limit: usize::MAX as u64 / kind.item(),
                })),
            },
        }
    }

    /// The bytes of the header, as in the file.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The size of the body in bytes.
    pub fn body_len(&self) -> usize {
        self.count * self.kind.item() as usize
    }

    /// Fills `out` with the next bytes of the body, of which `before` bytes have already been read.
    pub fn read(&mut self, out: &mut [u8], before: usize) -> Result<()> {
        let read = self.input.fill(out)?;
        if read < out.len() {
            let found = (self.head.len() + before + read) as u64;
            let expected = (self.head.len() + self.body_len()) as u64;
            return Err(Error::from(RawError::IdxShort { path: self.input.shown.clone(), found, expected }));
        }
        Ok(())
    }

    /// Checks that nothing follows the body, and that the checksum of gzip data is right.
    pub fn check_end(mut self) -> Result<()> {
        match self.input.fill(&mut [0])? {
            0 => Ok(()),
            _ => {
                let expected = (self.head.len() + self.body_len()) as u64;
                Err(Error::from(RawError::IdxTrailing { path: self.input.shown, expected }))
            }
        }
    }

    /// The path that error messages name.
    pub fn shown(&self) -> &Path {
        &self.input.shown
    }
}

/// The decompressed bytes of a file.
struct Input {
    bytes: Box<dyn Read + Send>,
    gzip: bool,
    shown: PathBuf,
    /// The first bytes as stored, which describe the file in an error message if it is not IDX. Empty for gzip data.
    start: Vec<u8>,
}

fn open_file(path: &Path, shown: &Path) -> Result<(Input, u64)> {
    let file = File::open(path).map_err(Error::io(shown, "open it"))?;
    let stored = file.metadata().map_err(Error::io(shown, "look at it"))?.len();
    Ok((Input::new(file, shown)?, stored))
}

impl Input {
    /// Reads `file`, and decompresses it if the name ends in `.gz`. Fails if the first bytes contradict the name.
    fn new(file: impl Read + Send + 'static, shown: &Path) -> Result<Input> {
        let mut file = BufReader::with_capacity(BUFFER, file);
        let start = file.fill_buf().map_err(Error::io(shown, "read it"))?;
        let start: Vec<u8> = start.iter().take(512).copied().collect();
        let gzip = shown.extension().is_some_and(|extension| extension == "gz");
        match (gzip, start.starts_with(&[0x1f, 0x8b])) {
            (true, false) => Err(Error::from(RawError::NotGzip { path: shown.to_owned(), found: describe(&start) })),
            (false, true) => Err(Error::from(RawError::HiddenGzip { path: shown.to_owned() })),
            (true, true) => {
                let bytes = Box::new(MultiGzDecoder::new(file));
                Ok(Input { bytes, gzip, shown: shown.to_owned(), start: Vec::new() })
            }
            (false, false) => Ok(Input { bytes: Box::new(file), gzip, shown: shown.to_owned(), start }),
        }
    }

    /// Reads until `out` is full or the data ends. Returns the number of bytes read.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match guarded(&self.shown, || self.bytes.read(rest))? {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if !self.gzip => return Err(Error::io(&self.shown, "read it")(e)),
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                    return Err(Error::from(RawError::GzipCut { path: self.shown.clone() }));
                }
                Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
                    return Err(Error::from(RawError::GzipDamaged {
                        path: self.shown.clone(),
                        message: e.to_string(),
                    }));
                }
                Err(e) => return Err(Error::io(&self.shown, "read it")(e)),
            }
        }
        Ok(filled)
    }

    /// Reads the magic number, of which only the two zero bytes are checked, and as many dimensions as it declares.
    fn header(&mut self) -> Result<(u32, Vec<u64>)> {
        let mut magic = [0; 4];
        let read = self.fill(&mut magic)?;
        if !magic.starts_with(&[0, 0]) || read == 0 {
            let start = if self.gzip { magic.get(..read).unwrap_or_default() } else { self.start.as_slice() };
            return Err(Error::from(RawError::IdxMagic { path: self.shown.clone(), found: describe(start) }));
        }
        let mut words = vec![0; 4 * usize::from(magic[3])];
        let got = if read == 4 { self.fill(&mut words)? } else { 0 };
        if got < words.len() || read < 4 {
            let (found, expected) = ((read + got) as u64, (4 + words.len()) as u64);
            return Err(Error::from(RawError::IdxShort { path: self.shown.clone(), found, expected }));
        }
        Ok((BigEndian::read_u32(&magic), words.chunks_exact(4).map(|word| BigEndian::read_u32(word).into()).collect()))
    }
}

/// Describes the first bytes of a file that is not in the expected format.
fn describe(start: &[u8]) -> String {
    let text = String::from_utf8_lossy(start).trim_start_matches('\u{feff}').trim_start().to_lowercase();
    match start {
        [] => "an empty file".to_owned(),
        _ if text.starts_with("<!doctype html") || text.starts_with("<html") => "an HTML page".to_owned(),
        _ if text.starts_with("<?xml") => "an XML document".to_owned(),
        [0, 0, 0x08, 1 | 3, ..] => "plain IDX data (was `.gz` added by renaming?)".to_owned(),
        [b'P', b'K', 3, 4, ..] => "a zip archive".to_owned(),
        _ => {
            let first: Vec<String> = start.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            format!("data that begins with the bytes {}", first.join(" "))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
