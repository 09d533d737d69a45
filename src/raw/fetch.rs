//! Fetches one of MNIST's files from a mirror: by https, or from a folder.
//!
//! A file is written into a folder that belongs to the program, and is checked there as strictly as any other
//! file, including its pinned SHA-256. Plain http is refused, except from this machine itself. A request may
//! block for as long as its time-outs allow. It therefore runs on a thread of its own, so that the waiting thread
//! can be interrupted.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::glyphs::{Sha, sha_of};
use super::idx::Idx;
use super::layout::Part;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::raw::RawError;

/// A source of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mirror {
    /// An address to which the name of a file is appended.
    Url(String),
    /// A folder on this machine.
    Folder(PathBuf),
}

/// The limits of a download.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// The time until a connection is established.
    pub connect: Duration,
    /// The time without any byte.
    pub idle: Duration,
    /// The time for one file from one mirror, all attempts together.
    pub total: Duration,
    /// The pause before the second attempt. The pause before the third is twice as long.
    pub pause: Duration,
    /// The size of a file as sent, in bytes.
    pub bytes: u64,
}

impl Limits {
    /// The default limits. MNIST's largest file has 9.9 MB, so a connection of 100 kbit/s is fast enough.
    pub const DEFAULT: Limits = Limits {
        connect: Duration::from_secs(10),
        idle: Duration::from_secs(30),
        total: Duration::from_secs(900),
        pause: Duration::from_millis(500),
        bytes: 64 << 20,
    };
}

/// The number of attempts at fetching one file from one mirror.
const ATTEMPTS: u32 = 3;
/// The number of bytes read from a connection at a time.
const BLOCK: usize = 1 << 16;
/// The maximum number of blocks that have been received but not written.
const BLOCKS: usize = 4;
/// The time between two checks whether the user wants to stop, while no data arrives.
const POLL: Duration = Duration::from_millis(100);

impl Mirror {
    /// Parses one entry of a list of mirrors. `key` is the name of the list in error messages.
    pub fn parse(text: &str, key: &str) -> Result<Mirror> {
        let expected = "an https:// address or a folder (http:// only for 127.0.0.1 and localhost)";
        let refuse = || Error::value(key, format!("`{text}`"), expected);
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.is_empty() { Err(refuse()) } else { Ok(Mirror::Folder(PathBuf::from(text))) };
        };
        // the parsed host decides, not the text: `http://localhost:80@elsewhere/` leads elsewhere
        let uri: ureq::http::Uri = text.parse().map_err(|_| refuse())?;
        let scheme = scheme.to_ascii_lowercase();
        match (scheme.as_str(), uri.host()) {
            ("https", Some(_)) | ("http", Some("127.0.0.1" | "localhost")) => {
                Ok(Mirror::Url(format!("{scheme}://{rest}")))
            }
            _ => Err(refuse()),
        }
    }

    /// Fetches one file into a folder that belongs to the program, and returns its path there. A file left by an
    /// earlier attempt is overwritten.
    pub fn fetch(&self, part: &Part, folder: &Path, limits: &Limits, progress: &Progress) -> Result<PathBuf> {
        match self {
            Mirror::Url(base) => {
                let path = folder.join(part.packed_name());
                let url = format!("{}/{}", base.trim_end_matches('/'), part.packed_name());
                let deadline = Instant::now() + limits.total;
                let mut pause = limits.pause;
                for _ in 1..ATTEMPTS {
                    match download(&url, part, &path, deadline, limits, progress) {
                        Err(error) if is_transient(&error) => wait(pause, progress)?,
                        result => return result.map(|()| path),
                    }
                    pause *= 2;
                }
                download(&url, part, &path, deadline, limits, progress).map(|()| path)
            }
            Mirror::Folder(mirror) => {
                let missing = || Error::from(RawError::MirrorFolder { folder: mirror.clone(), name: part.name });
                let source = part.find(mirror).ok_or_else(missing)?;
                let packed = source.extension().is_some_and(|extension| extension == "gz");
                let path = folder.join(if packed { part.packed_name() } else { part.name.to_owned() });
                // not fs::copy, which would copy a read-only permission as well
                let mut original = File::open(&source).map_err(Error::io(&source, "open it"))?;
                let mut copy = File::create(&path).map_err(Error::io(&path, "create it"))?;
                std::io::copy(&mut original, &mut copy).map_err(Error::io(&source, "copy it"))?;
                verify(&path, part, &source)?;
                Ok(path)
            }
        }
    }
}

/// Sleeps. Fails if the user wants to stop.
fn wait(length: Duration, progress: &Progress) -> Result<()> {
    let end = Instant::now() + length;
    loop {
        progress.advance(0)?;
        match end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return Ok(()),
            left => thread::sleep(left.min(POLL)),
        }
    }
}

/// Whether the same request may succeed when repeated.
fn is_transient(error: &Error) -> bool {
    match error.area() {
        Some(RawError::MirrorStatus { status, .. }) => matches!(status, 408 | 429 | 500..=599),
        Some(RawError::MirrorCut { .. } | RawError::MirrorStalled { .. }) => true,
        _ => false,
    }
}

/// The messages of a request, in this order.
enum Piece {
    /// The response has begun. Holds its length in bytes, if declared.
    Begin(Option<u64>),
    /// The next bytes of the response.
    Bytes(Vec<u8>),
    /// The response is complete.
    End,
}

fn download(
    url: &str,
    part: &Part,
    path: &Path,
    deadline: Instant,
    limits: &Limits,
    progress: &Progress,
) -> Result<()> {
    let too_large = || Error::from(RawError::MirrorTooLarge { url: url.to_owned(), limit: limits.bytes });
    let pieces = request(url, deadline, limits)?;
    let mut file = File::create(path).map_err(Error::io(path, "create it"))?;
    let mut received = 0;
    loop {
        match next(&pieces, url, deadline, limits, progress)? {
            Piece::Begin(announced) => {
                let announced = announced.unwrap_or(0);
                if announced > limits.bytes {
                    return Err(too_large());
                }
                progress.begin(&format!("fetching {}", part.packed_name()), announced, "bytes")?;
            }
            Piece::Bytes(block) => {
                received += block.len() as u64;
                if received > limits.bytes {
                    return Err(too_large());
                }
                file.write_all(&block).map_err(Error::io(path, "write it"))?;
                progress.advance(block.len() as u64)?;
            }
            Piece::End => break,
        }
    }
    progress.end();
    verify(path, part, Path::new(url))
}

/// Returns the next piece of a request. Fails if the user wants to stop or if the deadline passes.
fn next(
    pieces: &Receiver<Result<Piece>>,
    url: &str,
    deadline: Instant,
    limits: &Limits,
    progress: &Progress,
) -> Result<Piece> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(slow(url, limits));
        }
        match pieces.recv_timeout(left.min(POLL)) {
            Ok(piece) => return piece,
            Err(RecvTimeoutError::Timeout) => progress.advance(0)?,
            Err(RecvTimeoutError::Disconnected) => {
                let message = "the request ended without an answer".to_owned();
                return Err(Error::from(RawError::MirrorUnreached { url: url.to_owned(), message }));
            }
        }
    }
}

/// Sends a request on a thread of its own. If the receiver is dropped, the thread ends when it sends its next piece, or
/// by the time-outs of the connection. It touches no file.
fn request(url: &str, deadline: Instant, limits: &Limits) -> Result<Receiver<Result<Piece>>> {
    let (sender, pieces) = sync_channel(BLOCKS);
    let (address, limits) = (url.to_owned(), *limits);
    let thread = thread::Builder::new().name("request".to_owned()).spawn(move || {
        // sending fails only if the receiver has been dropped, and then the error is not needed either
        if let Err(error) = converse(&address, deadline, &limits, &sender) {
            let _ = sender.send(Err(error));
        }
    });
    thread.map_err(Error::io(Path::new(url), "start a thread for it"))?;
    Ok(pieces)
}

/// Sends a request, and passes on the response until it ends or the receiver is dropped.
fn converse(url: &str, deadline: Instant, limits: &Limits, pieces: &SyncSender<Result<Piece>>) -> Result<()> {
    let mut config = ureq::Agent::config_builder()
        .timeout_resolve(Some(limits.connect))
        .timeout_connect(Some(limits.connect))
        .timeout_per_read(Some(limits.idle))
        .timeout_per_write(Some(limits.idle))
        .timeout_global(Some(deadline.saturating_duration_since(Instant::now())))
        .http_status_as_error(false)
        .user_agent(concat!("multidigit/", env!("CARGO_PKG_VERSION")));
    if url.starts_with("http:") {
        config = config.proxy(None).max_redirects(0); // only this machine itself
    } else {
        config = config.https_only(true); // also after redirects
    }
    let failed = |error: ureq::Error, bytes: u64| explain(url, error, bytes, limits);
    let response = ureq::Agent::new_with_config(config.build()).get(url).call().map_err(|e| failed(e, 0))?;
    if response.status() != 200 {
        return Err(Error::from(RawError::MirrorStatus { url: url.to_owned(), status: response.status().as_u16() }));
    }
    let mut piece = Piece::Begin(response.body().content_length());
    let mut body = response.into_body().into_reader();
    let mut received = 0;
    while pieces.send(Ok(piece)).is_ok() {
        let mut block = vec![0; BLOCK];
        let read = loop {
            match body.read(&mut block) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                read => break read.map_err(|e| failed(ureq::Error::from(e), received))?,
            }
        };
        if read == 0 {
            let _ = pieces.send(Ok(Piece::End));
            break;
        }
        received += read as u64;
        block.truncate(read);
        piece = Piece::Bytes(block);
    }
    Ok(())
}

/// The error of a mirror that exceeded the total time.
fn slow(url: &str, limits: &Limits) -> Error {
    Error::from(RawError::MirrorSlow { url: url.to_owned(), seconds: limits.total.as_secs_f32() })
}

/// Converts an error of the HTTP library that occurred after `bytes` bytes of the body.
fn explain(url: &str, error: ureq::Error, bytes: u64, limits: &Limits) -> Error {
    let url = url.to_owned();
    match error {
        ureq::Error::Timeout(ureq::Timeout::PerRead | ureq::Timeout::PerWrite) => {
            Error::from(RawError::MirrorStalled { url, seconds: limits.idle.as_secs_f32() })
        }
        ureq::Error::Timeout(ureq::Timeout::Global) => slow(&url, limits),
        // a host that does not answer at all will hardly answer a second later: the next mirror is more promising
        ureq::Error::Timeout(_) => {
            let message = format!("no connection in {} s", limits.connect.as_secs_f32());
            Error::from(RawError::MirrorUnreached { url, message })
        }
        ureq::Error::Io(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
            Error::from(RawError::MirrorCut { url, bytes })
        }
        ureq::Error::Io(e) => Error::from(RawError::MirrorUnreached { url, message: e.to_string() }),
        other => Error::from(RawError::MirrorUnreached { url, message: other.to_string() }),
    }
}

/// Checks the format of a file, and its content against the pinned digest. Error messages name the file as `origin`.
fn verify(path: &Path, part: &Part, origin: &Path) -> Result<()> {
    let found = hex(&sha_of(Idx::open(path, origin, part.kind)?)?);
    if found != part.mnist_sha256 {
        return Err(Error::from(RawError::MirrorDigest {
            origin: origin.to_owned(),
            found,
            expected: part.mnist_sha256.to_owned(),
        }));
    }
    Ok(())
}

/// The hexadecimal digits of a digest.
pub(super) fn hex(sha: &Sha) -> String {
    sha.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
