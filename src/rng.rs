//! Seeded random streams, shuffles that use them, and a check of the system's random numbers.
//!
//! There is no global generator. The streams are those of `multidigit_nn`, which networks use too. They are identified
//! by (seed, purpose, epoch, index), so that the number of threads, the order of use and the size of shards do not
//! change their content.

#[cfg(any(target_os = "linux", target_os = "android"))]
use std::path::Path;

pub use multidigit_nn::rng::{Streams, stream};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::error::Error;
use crate::error::Result;

/// A Fisher-Yates shuffle. An index is 64 random bits times the number of choices, over 2^64, so that the bias of a
/// choice is less than the number of choices over 2^64. The shuffle is implemented here because a library may change
/// its order in a new version.
pub fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        let j = (u128::from(rng.next_u64()) * (i as u128 + 1)) >> 64; // from 0 to i, inclusive
        items.swap(i, j as usize);
    }
}

/// Checks that the system provides random numbers. This crate uses none, but libraries do for their hash tables, and
/// panic if the system refuses them. A kernel that lacks or forbids the call does not count as a refusal, because
/// libraries then read a device.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn check_system() -> Result<()> {
    use rustix::io::Errno;
    use rustix::rand::{GetRandomFlags, getrandom};
    match getrandom(&mut [0; 8], GetRandomFlags::empty()) {
        Ok(_) | Err(Errno::NOSYS | Errno::PERM | Errno::INTR) => Ok(()),
        Err(error) => Err(Error::io(Path::new("the system's random numbers"), "read them")(error.into())),
    }
}

/// Checks that the system provides random numbers. No refusal is known on this system.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn check_system() -> Result<()> {
    Ok(())
}
