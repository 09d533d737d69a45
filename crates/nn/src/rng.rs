//! Seeded random streams, one for each item that needs random numbers. There is no global generator.
//!
//! A stream is identified by (seed, purpose, epoch, index). ChaCha is counter-based: a stream costs nothing until it is
//! read, and its content does not depend on threads or on the order of use.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The streams of one (seed, purpose, epoch), one for each index.
#[derive(Clone)]
pub struct Streams {
    root: ChaCha8Rng,
}

impl Streams {
    /// The streams for a purpose, such as `"augment/rotate"`.
    pub fn new(seed: u64, purpose: &str, epoch: u64) -> Streams {
        let mut hasher = blake3::Hasher::new_derive_key("multidigit random stream v1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&epoch.to_le_bytes());
        hasher.update(purpose.as_bytes());
        Streams { root: ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()) }
    }

    /// The ChaCha key that the streams share, for a device that generates them itself.
    pub fn key(&self) -> [u8; 32] {
        self.root.get_seed()
    }

    /// The stream of item `index`.
    pub fn at(&self, index: u64) -> ChaCha8Rng {
        let mut rng = self.root.clone();
        rng.set_stream(index);
        rng
    }
}

/// The stream of (seed, purpose, epoch, index).
pub fn stream(seed: u64, purpose: &str, epoch: u64, index: u64) -> ChaCha8Rng {
    Streams::new(seed, purpose, epoch).at(index)
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::Rng;

    use super::*;

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
