//! Seeded random streams: no global generator, none shared between items.
//!
//! A stream is named by (seed, purpose, epoch, index). ChaCha is counter-based, so the streams of a million samples cost
//! nothing until they are read, and neither thread count nor order nor shard size can change a byte of any of them.

#[cfg(any(target_os = "linux", target_os = "android"))]
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::error::Error;
use crate::error::Result;

/// The streams of one (seed, purpose, epoch), one per index.
#[derive(Clone)]
pub struct Streams {
    root: ChaCha8Rng,
}

impl Streams {
    /// The family of streams for a purpose, such as `"augment/rotate"`.
    pub fn new(seed: u64, purpose: &str, epoch: u64) -> Streams {
        let mut hasher = blake3::Hasher::new_derive_key("multidigit random stream v1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&epoch.to_le_bytes());
        hasher.update(purpose.as_bytes());
        Streams { root: ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()) }
    }

    /// The key that all streams of the family share, for those who compute them elsewhere.
    pub fn key(&self) -> [u8; 32] {
        self.root.get_seed()
    }

    /// The stream of one item.
    pub fn at(&self, index: u64) -> ChaCha8Rng {
        let mut rng = self.root.clone();
        rng.set_stream(index);
        rng
    }
}

/// The single stream of (seed, purpose, epoch, index).
pub fn stream(seed: u64, purpose: &str, epoch: u64, index: u64) -> ChaCha8Rng {
    Streams::new(seed, purpose, epoch).at(index)
}

/// A Fisher-Yates shuffle. An index is 64 random bits times the number of choices, over 2^64: a choice is biased by less than
/// that number over 2^64. It is written out here, since a library's may give another order in its next version.
pub fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        let j = (u128::from(rng.next_u64()) * (i as u128 + 1)) >> 64; // 0..=i
        items.swap(i, j as usize);
    }
}

/// Whether the system gives random numbers. Nothing here takes any, but libraries do, for their hash tables, and panic
/// where the system refuses them. That a kernel lacks the call, or forbids it, is no refusal: they then read a device.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn check_system() -> Result<()> {
    use rustix::io::Errno;
    use rustix::rand::{GetRandomFlags, getrandom};
    match getrandom(&mut [0; 8], GetRandomFlags::empty()) {
        Ok(_) | Err(Errno::NOSYS | Errno::PERM | Errno::INTR) => Ok(()),
        Err(error) => Err(Error::io(Path::new("the system's random numbers"), "read them")(error.into())),
    }
}

/// Whether the system gives random numbers: nothing is known to refuse them here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn check_system() -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn every_part_of_a_name_changes_the_stream() {
        let first = |seed, purpose, epoch, index| stream(seed, purpose, epoch, index).next_u64();
        let base = first(1, "a", 2, 3);
        assert_eq!(base, first(1, "a", 2, 3));
        for other in [first(2, "a", 2, 3), first(1, "b", 2, 3), first(1, "a", 3, 3), first(1, "a", 2, 4)] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn streams_do_not_depend_on_the_order_of_their_use() {
        let family = Streams::new(7, "x", 0);
        let late: Vec<u64> = [5, 1].map(|i| family.at(i).next_u64()).into();
        assert_eq!(late, [stream(7, "x", 0, 5).next_u64(), stream(7, "x", 0, 1).next_u64()]);
    }
}
