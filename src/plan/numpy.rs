//! The draws of NumPy's legacy generator (`numpy.random.RandomState`) that the reference generator uses.
//!
//! `rand_mt` implements MT19937 itself; its `Mt::new` seeds by one 32-bit integer, as NumPy does. This module
//! implements what NumPy builds on the 32-bit outputs: masked rejection and the direction of the shuffle. The functions
//! take any source of 32-bit words, so that they shuffle with the seeded streams of this crate, too.

/// Draws a uniform integer from `0..=max` by NumPy's masked rejection: a word is masked with the smallest
/// `2^k - 1 >= max`, and drawn again while the result exceeds `max`. Takes no word if `max` is 0.
pub fn bounded(mut next: impl FnMut() -> u32, max: u32) -> u32 {
    if max == 0 {
        return 0;
    }
    let mask = u32::MAX >> max.leading_zeros();
    loop {
        let value = next() & mask;
        if value <= max {
            return value;
        }
    }
}

/// Shuffles as `RandomState.shuffle` shuffles a list: from the last item to the second, each is swapped with a random
/// item at its position or before it.
pub fn shuffle<T>(mut next: impl FnMut() -> u32, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        items.swap(i, bounded(&mut next, i as u32) as usize);
    }
}

#[cfg(test)]
mod tests {
    use rand_mt::Mt;

    use super::*;

    #[test]
    fn bounded_draws_equal_numpys() {
        // np.random.RandomState(123).randint(0, 37, 12), followed by .choice(6000, 6) on the same generator
        let mut mt = Mt::new(123);
        let small: Vec<u32> = (0..12).map(|_| bounded(|| mt.next_u32(), 36)).collect();
        assert_eq!(small, NUMPY_SMALL);
        let large: Vec<u32> = (0..6).map(|_| bounded(|| mt.next_u32(), 5999)).collect();
        assert_eq!(large, NUMPY_LARGE);
    }

    #[test]
    fn a_shuffle_equals_numpys() {
        // x = list(range(12)); np.random.RandomState(123).shuffle(x)
        let mut mt = Mt::new(123);
        let mut items: Vec<u32> = (0..12).collect();
        shuffle(|| mt.next_u32(), &mut items);
        assert_eq!(items, NUMPY_SHUFFLED);
    }

    #[test]
    fn a_range_of_one_draws_nothing() {
        assert_eq!(bounded(|| panic!("no draw is due"), 0), 0);
    }

    #[test]
    fn the_widest_range_takes_every_word() {
        assert_eq!(bounded(|| u32::MAX, u32::MAX), u32::MAX);
    }

    const NUMPY_SMALL: [u32; 12] = [2, 28, 34, 17, 19, 22, 33, 32, 9, 32, 32, 25];
    const NUMPY_LARGE: [u32; 6] = [1363, 2894, 3325, 1092, 1847, 4547];
    const NUMPY_SHUFFLED: [u32; 12] = [5, 0, 4, 9, 8, 7, 10, 3, 1, 6, 11, 2];
}
