//! Brings one of MNIST's files from a mirror: over https, or from a folder.
//!
//! A download goes to a hidden file beside its target, is checked as strictly as any file, down to its pinned SHA-256,
//! and only then gets its name. Plain http is refused, except from this machine itself. A file that already stands is
//! never touched: whoever calls asks only for files that are missing.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::glyphs::{Sha, sha_of};
use super::idx::Idx;
use super::layout::Part;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// A place that may have the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mirror {
    /// An address to which a file's name is added.
    Url(String),
    /// A folder of this machine.
    Folder(PathBuf),
}

/// How long to wait, and for how much.
pub(super) struct Limits {
    /// Until a connection stands.
    pub connect: Duration,
    /// Without a byte.
    pub idle: Duration,
    /// For one file in all.
    pub total: Duration,
    /// Before the second attempt; twice as long before the third.
    pub pause: Duration,
    /// Bytes of a file as it is sent.
    pub bytes: u64,
}

impl Limits {
    /// MNIST's largest file has 9.9 MB: these limits let a line of 100 kbit/s pass.
    pub const DEFAULT: Limits = Limits {
        connect: Duration::from_secs(10),
        idle: Duration::from_secs(30),
        total: Duration::from_secs(900),
        pause: Duration::from_millis(500),
        bytes: 64 << 20,
    };
}

/// Attempts at one file of one mirror.
const ATTEMPTS: u32 = 3;
/// Bytes from a connection at a time.
const BLOCK: usize = 1 << 16;

impl Mirror {
    /// Understands one entry of the list that the user knows as `key`.
    pub fn parse(text: &str, key: &str) -> Result<Mirror> {
        let expected = "an https:// address or a folder (http:// only for 127.0.0.1 and localhost)";
        let refuse = || Error::value(key, format!("`{text}`"), expected);
        let Some((scheme, _)) = text.split_once("://") else {
            return if text.is_empty() { Err(refuse()) } else { Ok(Mirror::Folder(PathBuf::from(text))) };
        };
        // The parsed host counts, not the text: `http://localhost:80@elsewhere/` leads elsewhere.
        let uri: ureq::http::Uri = text.parse().map_err(|_| refuse())?;
        match (scheme.to_ascii_lowercase().as_str(), uri.host()) {
            ("https", Some(_)) | ("http", Some("127.0.0.1" | "localhost")) => Ok(Mirror::Url(text.to_owned())),
            _ => Err(refuse()),
        }
    }

    /// Fetches one file into the folder `raw`, which exists.
    pub fn fetch(&self, part: &Part, raw: &Path, limits: &Limits, progress: &Progress) -> Result<()> {
        match self {
            Mirror::Url(base) => {
                let url = format!("{}/{}", base.trim_end_matches('/'), part.packed_name());
                let mut pause = limits.pause;
                for _ in 1..ATTEMPTS {
                    match download(&url, part, raw, limits, progress) {
                        Err(error) if is_transient(&error) => std::thread::sleep(pause),
                        result => return result,
                    }
                    progress.advance(0)?; // to hear of an interruption
                    pause *= 2;
                }
                download(&url, part, raw, limits, progress)
            }
            Mirror::Folder(folder) => {
                let missing = || Error::MirrorFolder { folder: folder.clone(), name: part.name };
                let source = part.find(folder).ok_or_else(missing)?;
                let packed = source.extension().is_some_and(|extension| extension == "gz");
                let target = raw.join(if packed { part.packed_name() } else { part.name.to_owned() });
                let partial = Partial::beside(&target)?;
                fs::copy(&source, &partial.path).map_err(Error::io(&source, "copy it"))?;
                partial.verify(part, &source)?;
                partial.commit(&target)
            }
        }
    }
}

/// Whether the same request may well succeed a moment later.
fn is_transient(error: &Error) -> bool {
    match error {
        Error::MirrorStatus { status, .. } => matches!(status, 408 | 429 | 500..=599),
        Error::MirrorCut { .. } | Error::MirrorStalled { .. } => true,
        _ => false,
    }
}

fn download(url: &str, part: &Part, raw: &Path, limits: &Limits, progress: &Progress) -> Result<()> {
    let target = raw.join(part.packed_name());
    let mut partial = Partial::beside(&target)?;
    let mut config = ureq::Agent::config_builder()
        .timeout_resolve(Some(limits.connect))
        .timeout_connect(Some(limits.connect))
        .timeout_per_read(Some(limits.idle))
        .timeout_per_write(Some(limits.idle))
        .timeout_global(Some(limits.total))
        .http_status_as_error(false)
        .user_agent(concat!("multidigit/", env!("CARGO_PKG_VERSION")));
    if url.starts_with("http:") {
        config = config.proxy(None).max_redirects(0); // this machine itself, and nothing beyond
    } else {
        config = config.https_only(true); // redirects included
    }
    let failed = |error: ureq::Error, bytes: u64| explain(url, error, bytes, limits);
    let response = ureq::Agent::new_with_config(config.build()).get(url).call().map_err(|e| failed(e, 0))?;
    if response.status() != 200 {
        return Err(Error::MirrorStatus { url: url.to_owned(), status: response.status().as_u16() });
    }
    let too_large = || Error::MirrorTooLarge { url: url.to_owned(), limit: limits.bytes };
    let announced = response.body().content_length();
    if announced.is_some_and(|bytes| bytes > limits.bytes) {
        return Err(too_large());
    }
    progress.begin(&format!("fetching {}", part.packed_name()), announced.unwrap_or(0), "bytes")?;
    let mut body = response.into_body().into_reader();
    let mut block = vec![0; BLOCK];
    let mut received = 0;
    loop {
        let read = match body.read(&mut block) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(failed(ureq::Error::from(e), received)),
        };
        received += read as u64;
        if received > limits.bytes {
            return Err(too_large());
        }
        partial.file.write_all(&block[..read]).map_err(Error::io(&partial.path, "write it"))?;
        progress.advance(read as u64)?;
    }
    progress.end();
    partial.verify(part, Path::new(url))?;
    partial.commit(&target)
}

/// Our error for one of the HTTP library's, `bytes` into the body.
fn explain(url: &str, error: ureq::Error, bytes: u64, limits: &Limits) -> Error {
    let url = url.to_owned();
    let seconds = |limit: Duration| format!("{} s", limit.as_secs_f32());
    match error {
        ureq::Error::Timeout(ureq::Timeout::PerRead | ureq::Timeout::PerWrite) => {
            Error::MirrorStalled { url, waiting: format!("no byte for {}", seconds(limits.idle)) }
        }
        ureq::Error::Timeout(ureq::Timeout::Global) => {
            Error::MirrorStalled { url, waiting: format!("not done in {}", seconds(limits.total)) }
        }
        // A host that does not answer at all will not do so a second later: the next mirror is the better hope.
        ureq::Error::Timeout(_) => {
            Error::MirrorUnreached { url, message: format!("no connection in {}", seconds(limits.connect)) }
        }
        ureq::Error::Io(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
            Error::MirrorCut { url, bytes }
        }
        ureq::Error::Io(e) => Error::MirrorUnreached { url, message: e.to_string() },
        other => Error::MirrorUnreached { url, message: other.to_string() },
    }
}

/// A file on its way, under a hidden name beside its target; gone unless it is committed.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    fn beside(target: &Path) -> Result<Partial> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.new"));
        let file = File::create(&path).map_err(Error::io(&path, "create it"))?;
        Ok(Partial { path, file })
    }

    /// Checks the file as one of the set, and its content against the pinned digest; messages name its origin.
    fn verify(&self, part: &Part, origin: &Path) -> Result<()> {
        let found = hex(&sha_of(Idx::open(&self.path, origin, part.kind)?)?);
        if found != part.mnist_sha256 {
            let expected = part.mnist_sha256.to_owned();
            return Err(Error::MirrorDigest { origin: origin.to_owned(), found, expected });
        }
        Ok(())
    }

    fn commit(self, target: &Path) -> Result<()> {
        fs::rename(&self.path, target).map_err(Error::io(target, "put it in place"))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a commit there is nothing under this name; after a failure that failure matters more.
        let _ = fs::remove_file(&self.path);
    }
}

/// A digest in hexadecimal digits.
pub(super) fn hex(sha: &Sha) -> String {
    sha.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
