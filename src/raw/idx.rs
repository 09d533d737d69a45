//! IDX, the format of the MNIST files: a header, then bytes; plain, or in gzip where the name ends in `.gz`.
//!
//! Nothing in a file is believed: its words are compared with named limits and with the size of the file before
//! anything is allocated, and unpacking stops one byte after the length that the header promises. A file that is not
//! exactly what it should be is refused, never repaired.
//!
//! Layout, by Y. LeCun's description: two zero bytes, a type byte, the number of dimensions, each dimension as a
//! big-endian 32-bit integer, then the elements in row-major order. Type, count and both zeros together read as one
//! number, the magic: 2051 for images of bytes, 2049 for labels of bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use byteorder::{BigEndian, ByteOrder};
use flate2::bufread::MultiGzDecoder;

use super::size::{PIXELS, SIDE};
use crate::error::{Error, Result};
use crate::guard::guarded;
use crate::raw::RawError;

/// Most glyphs in one file; the largest published set of this kind has 8.1 million.
pub const MAX_GLYPHS: u64 = 10_000_000;
/// Bytes that one byte of deflate data can unpack to at most (zlib's technical notes: 258 bytes from 2 bits).
const MAX_DEFLATE_RATIO: u64 = 1032;
/// Bytes in the buffer before the unpacker.
const BUFFER: usize = 1 << 16;

/// What a file holds, by the number of its dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Three dimensions: count, height, width.
    Images,
    /// One dimension: count.
    Labels,
}

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Images => "images",
            Kind::Labels => "labels",
        }
    }

    /// The first four bytes of such a file of bytes, as a number.
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

    /// Bytes of one glyph or label.
    fn item(self) -> u64 {
        match self {
            Kind::Images => PIXELS as u64,
            Kind::Labels => 1,
        }
    }
}

/// What the header of an IDX file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The dimensions, outermost first.
    pub dimensions: Vec<u64>,
    /// The name of the element type, such as `unsigned byte`.
    pub element: &'static str,
    /// Bytes of all elements together.
    pub bytes: u64,
    /// What the file holds, if it is of a kind that this crate reads.
    pub kind: Option<Kind>,
}

/// Reads the header of any IDX file, of any type and number of dimensions; looks at nothing after it.
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

/// A file of images or labels whose header is read and found good; its body comes next.
pub struct Idx {
    input: Input,
    kind: Kind,
    /// The header's bytes, which count towards the digest of the content.
    head: Vec<u8>,
    /// The number of images or labels that the header promises.
    pub count: usize,
}

impl Idx {
    /// Opens a file and reads its header; messages speak of it as `shown` (a download is checked under its address).
    pub fn open(path: &Path, shown: &Path, kind: Kind) -> Result<Idx> {
        let (input, stored) = open_file(path, shown)?;
        Idx::new(input, stored, kind)
    }

    /// Reads the header from `input`, which comes out of a file of `stored` bytes.
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
        // What follows makes whoever allocates `count` items safe: no small file can promise much.
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

    /// The header as it stands in the file.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Bytes of the body.
    pub fn body_len(&self) -> usize {
        self.count * self.kind.item() as usize
    }

    /// Fills `out` with the body's next bytes, `before` bytes of it being read already.
    pub fn read(&mut self, out: &mut [u8], before: usize) -> Result<()> {
        let read = self.input.fill(out)?;
        if read < out.len() {
            let found = (self.head.len() + before + read) as u64;
            let expected = (self.head.len() + self.body_len()) as u64;
            return Err(Error::from(RawError::IdxShort { path: self.input.shown.clone(), found, expected }));
        }
        Ok(())
    }

    /// Makes sure that nothing follows the body, and that the gzip check sum is right.
    pub fn check_end(mut self) -> Result<()> {
        match self.input.fill(&mut [0])? {
            0 => Ok(()),
            _ => {
                let expected = (self.head.len() + self.body_len()) as u64;
                Err(Error::from(RawError::IdxTrailing { path: self.input.shown, expected }))
            }
        }
    }

    /// The path that messages name.
    pub fn shown(&self) -> &Path {
        &self.input.shown
    }
}

/// The unpacked bytes of a file.
struct Input {
    bytes: Box<dyn Read + Send>,
    gzip: bool,
    shown: PathBuf,
    /// The first stored bytes, for words about a file that is something else.
    start: Vec<u8>,
}

fn open_file(path: &Path, shown: &Path) -> Result<(Input, u64)> {
    let file = File::open(path).map_err(Error::io(shown, "open it"))?;
    let stored = file.metadata().map_err(Error::io(shown, "look at it"))?.len();
    Ok((Input::new(file, shown)?, stored))
}

impl Input {
    /// Unpacks `file` if its name says so, and refuses it if its first bytes say otherwise.
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

    /// Reads until `out` is full or the data ends; returns how much there was.
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

    /// Reads the magic, of which only the two zeros are checked, and the dimensions that it announces.
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

/// Words for the first bytes of a file that is not what its name says.
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
