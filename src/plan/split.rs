//! The division of samples between train, val and test: counts and assignments, which are pure functions
//! of ratio and seed.

use serde::{Deserialize, Serialize};

use super::numpy;
use crate::rng;
use rand::Rng;

/// The names of the splits. The position of a name is the number of its split everywhere.
pub const NAMES: [&str; 3] = ["train", "val", "test"];

/// What is divided between train, val and test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Whole classes, as in the reference generator and the paper: val and test show digit pairs that
    /// train never shows.
    Class,
    /// The samples of each class: the same images as `class`, but every class occurs in every split.
    Sample,
    /// As `sample`, but the glyphs are divided first, so that no glyph serves two splits.
    Source,
}

/// The numbers of classes per split as the reference generator computes them: `int(a / (a + b + c) * n)` in
/// floating-point arithmetic, and the rest for test. Rounding errors are included: 100 classes at ratio `[29, 1, 70]`
/// give 28 for train.
pub fn reference_counts(ratio: [u32; 3], n: u64) -> [u64; 3] {
    let total: f64 = ratio.iter().map(|&part| f64::from(part)).sum();
    let share = |part: u32| (f64::from(part) / total * n as f64) as u64;
    let (train, val) = (share(ratio[0]), share(ratio[1]));
    [train, val, n.saturating_sub(train + val)]
}

/// The exact numbers of samples or glyphs per split: `floor(part * n / total)` in integers, and the rest for test.
pub fn exact_counts(ratio: [u32; 3], n: u64) -> [u64; 3] {
    let total: u128 = ratio.iter().map(|&part| u128::from(part)).sum();
    let share = |part: u32| (u128::from(part) * u128::from(n) / total) as u64;
    let (train, val) = (share(ratio[0]), share(ratio[1]));
    [train, val, n.saturating_sub(train + val)]
}

/// Divides `items` after a seeded shuffle: the first `counts[0]` items go to train, the next `counts[1]` to val, and
/// the rest to test. The items of a split are sorted in ascending order.
pub fn divide<T: Copy + Ord>(items: &[T], counts: [u64; 3], seed: u32, purpose: &str, index: u64) -> [Vec<T>; 3] {
    let mut rng = rng::stream(u64::from(seed), purpose, 0, index);
    let mut shuffled = items.to_vec();
    numpy::shuffle(|| rng.next_u32(), &mut shuffled);
    let (train, rest) = shuffled.split_at(counts[0] as usize);
    let (val, test) = rest.split_at(counts[1] as usize);
    [train, val, test].map(|part| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_papers_ratio_gives_64_16_20_classes() {
        assert_eq!(reference_counts([64, 16, 20], 100), [64, 16, 20]);
        assert_eq!(reference_counts([64, 16, 20], 10), [6, 1, 3]);
    }

    #[test]
    fn class_counts_round_as_python_does() {
        // Python: int(29 / (29 + 1 + 70) * 100) == 28, because 29 / 100 * 100 is 28.999999999999996
        assert_eq!(reference_counts([29, 1, 70], 100), [28, 1, 71]);
        assert_eq!(exact_counts([29, 1, 70], 100), [29, 1, 70]);
    }

    #[test]
    fn a_division_loses_and_repeats_nothing() {
        let items: Vec<u32> = (0..50).collect();
        let parts = divide(&items, [30, 8, 12], 1, "test", 0);
        assert_eq!(parts.each_ref().map(Vec::len), [30, 8, 12]);
        let mut all = parts.concat();
        all.sort_unstable();
        assert_eq!(all, items);
        assert_eq!(parts, divide(&items, [30, 8, 12], 1, "test", 0));
        assert_ne!(parts, divide(&items, [30, 8, 12], 2, "test", 0));
        assert_ne!(parts, divide(&items, [30, 8, 12], 1, "test", 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn counts_are_the_shares_rounded_down_and_the_rest(ratio in prop::array::uniform3(0..1000_u32), n: u32) {
            let total: u64 = ratio.iter().map(|&part| u64::from(part)).sum();
            prop_assume!(total > 0);
            let (exact, reference) = (exact_counts(ratio, n.into()), reference_counts(ratio, n.into()));
            for ((part, exact), reference) in ratio.into_iter().zip(exact).zip(reference).take(2) {
                prop_assert_eq!(exact, u64::from(part) * u64::from(n) / total);
                prop_assert!(exact.abs_diff(reference) <= 1);
            }
            for counts in [exact, reference] {
                prop_assert_eq!(counts.iter().sum::<u64>(), u64::from(n));
            }
        }

        #[test]
        fn every_item_is_in_one_part(items in prop::collection::btree_set(0..1000_u32, 0..200), seed: u32, index: u64) {
            let items: Vec<u32> = items.into_iter().collect();
            let counts = exact_counts([3, 1, 2], items.len() as u64);
            let parts = divide(&items, counts, seed, "test", index);
            prop_assert_eq!(parts.each_ref().map(|part| part.len() as u64), counts);
            prop_assert!(parts.iter().all(|part| part.is_sorted()));
            let mut all = parts.concat();
            all.sort_unstable();
            prop_assert_eq!(all, items);
        }
    }
}
