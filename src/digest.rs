//! BLAKE3 digests of files, keys and logical content, and SHA-256 where other programs ask for it.
//!
//! Content digests cover the meaning of a file (pixels, labels, columns), not its encoding, so that another compressor
//! or shard size does not change them. The digest of shards covers the digests of their rows in order, so that rows can
//! be hashed on any thread.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::files;

/// A 256-bit BLAKE3 digest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The number of its bytes.
    pub const BYTES: usize = 32;

    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of a value's compact JSON text.
    pub fn of_json(value: &serde_json::Value) -> Digest {
        Digest::of(value.to_string().as_bytes())
    }

    /// The digest of a file's bytes, read in blocks.
    pub fn of_file(path: &Path) -> Result<Digest> {
        let file = files::open(path)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(Error::io(path, "read it"))?;
        Ok(Digest(*hasher.finalize().as_bytes()))
    }

    /// The digest with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The bytes of the digest.
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The first twelve hexadecimal digits, for display.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Digest, String> {
        blake3::Hash::from_hex(text).map(|hash| Digest(*hash.as_bytes())).map_err(|e| e.to_string())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The SHA-256 of a file's bytes in hexadecimal digits, and the number of bytes.
pub fn sha256_of_file(path: &Path) -> Result<(String, u64)> {
    struct Hasher(Sha256);

    impl io::Write for Hasher {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let (mut file, mut hasher) = (files::open(path)?, Hasher(Sha256::new()));
    // a copy goes on after a read that a signal interrupts
    let bytes = io::copy(&mut file, &mut hasher).map_err(Error::io(path, "read it"))?;
    Ok((hexadecimal(&hasher.0.finalize()), bytes))
}

/// The SHA-256 of some bytes in hexadecimal digits.
#[cfg(feature = "cloud")]
pub fn sha256_of(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computes one digest of several parts. Each byte string is preceded by its length, so that no two sequences of
/// byte strings collide.
#[derive(Default, Clone)]
pub struct Parts(blake3::Hasher);

impl Parts {
    /// Adds a byte string.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Parts {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Starts a byte string of `length` bytes, which is added in pieces by [`Parts::piece`].
    pub fn begin(&mut self, length: u64) -> &mut Parts {
        self.0.update(&length.to_le_bytes());
        self
    }

    /// Adds a piece of the byte string started by [`Parts::begin`].
    pub fn piece(&mut self, bytes: &[u8]) -> &mut Parts {
        self.0.update(bytes);
        self
    }

    /// Adds another digest.
    pub fn digest(&mut self, digest: &Digest) -> &mut Parts {
        self.0.update(&digest.0);
        self
    }

    /// The digest of all parts so far.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_its_text_form() {
        let digest = Digest::of(b"abc");
        // the published BLAKE3 digest of "abc"
        assert_eq!(digest.to_string(), "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("6437".parse::<Digest>().is_err());
    }

    #[test]
    fn parts_are_framed() {
        let joined = |parts: &[&[u8]]| {
            let mut all = Parts::default();
            parts.iter().for_each(|part| {
                all.bytes(part);
            });
            all.finish()
        };
        assert_ne!(joined(&[b"ab", b"c"]), joined(&[b"a", b"bc"]));
        assert_ne!(joined(&[b"ab"]), joined(&[b"ab", b""]));
        assert_eq!(Parts::default().begin(3).piece(b"a").piece(b"bc").finish(), joined(&[b"abc"]));
    }
}
