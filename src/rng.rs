//! Seeded random streams, shuffles out of them, and a look at the system's own random numbers.
//!
//! There is no global generator. The streams are those of `multidigit_nn`, from which networks draw, too: named by (seed,
//! purpose, epoch, index), so that neither threads nor order nor the size of shards can change a byte of any of them.

#[cfg(any(target_os = "linux", target_os = "android"))]
use std::path::Path;

pub use multidigit_nn::rng::{Streams, stream};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::error::Error;
use crate::error::Result;

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
