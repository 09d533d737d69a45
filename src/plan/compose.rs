//! Draws the composition: the glyphs of each image and their offsets, in the order of the reference generator.
//!
//! The reference generator is a sequential program over one MT19937 stream, so this module is sequential, too; it takes
//! milliseconds. A split by class and a split by sample give the same images. A split by source draws only from each
//! split's own glyphs.

use rand::Rng;
use rand_mt::Mt;

use super::rows::Rows;
use super::split::{self, By};
use super::{Config, numpy};
use crate::error::{Error, Result};
use crate::labels;
use crate::plan::PlanError;
use crate::progress::Progress;
use crate::raw::SIDE;
use crate::rng;

/// The rows of train, val and test.
pub type Plan = [Rows; 3];

/// Composes all samples. `labels` are the labels of the glyph pool, in its order. `config` must be valid.
///
/// # Errors
/// [`PlanError::GlyphsMissing`] if the pool, or the part of it that belongs to a split, lacks a digit.
pub fn compose(config: &Config, labels: &[u8], progress: &Progress) -> Result<Plan> {
    let pool = by_digit(labels)?;
    let classes = shuffled_classes(config);
    let mut plan = match config.split.by {
        By::Class => by_class(config, &pool, &classes, progress)?,
        By::Sample => by_sample(config, by_class(config, &pool, &classes, progress)?)?,
        By::Source => by_source(config, &pool, &classes, progress)?,
    };
    for (number, rows) in plan.iter_mut().enumerate() {
        *rows = match config.order {
            super::Order::Class => sorted(rows),
            super::Order::Shuffled => shuffled(rows, config.seed, number as u64),
        };
    }
    Ok(plan)
}

/// The numbers of the glyphs of each digit, ascending.
fn by_digit(labels: &[u8]) -> Result<[Vec<u32>; 10]> {
    let mut pool: [Vec<u32>; 10] = Default::default();
    for (number, &label) in labels.iter().enumerate() {
        pool[usize::from(label)].push(number as u32);
    }
    match pool.iter().position(Vec::is_empty) {
        Some(digit) => Err(Error::from(PlanError::GlyphsMissing { digit: digit as u8, pool: "the glyph pool".into() })),
        None => Ok(pool),
    }
}

/// All classes, shuffled by a generator of their own, as in the reference generator.
fn shuffled_classes(config: &Config) -> Vec<u32> {
    let mut classes: Vec<u32> = (0..config.classes() as u32).collect();
    let mut mt = Mt::new(config.seed);
    numpy::shuffle(|| mt.next_u32(), &mut classes);
    classes
}

/// Draws one image: the glyph of each digit, then all vertical offsets, then all horizontal offsets.
fn draw(mt: &mut Mt, config: &Config, pool: &[Vec<u32>; 10], label: u32, index: u32, rows: &mut Rows) {
    let [height, width] = config.image_size;
    let digits = config.digits;
    rows.labels.push(label);
    rows.index.push(index);
    for digit in labels::digits(label.into(), digits) {
        let glyphs = &pool[usize::from(digit)];
        rows.sources.push(glyphs[numpy::bounded(|| mt.next_u32(), glyphs.len() as u32 - 1) as usize]);
    }
    for (room, offsets) in [(height - SIDE, &mut rows.y), (width / digits - SIDE, &mut rows.x)] {
        // the upper end is excluded; if there is no room, nothing is drawn
        offsets.extend((0..digits).map(|_| numpy::bounded(|| mt.next_u32(), room.saturating_sub(1) as u32) as u16));
    }
}

fn by_class(config: &Config, pool: &[Vec<u32>; 10], classes: &[u32], progress: &Progress) -> Result<Plan> {
    let counts = split::reference_counts(config.split.ratio, classes.len() as u64);
    let mut mt = Mt::new(config.seed);
    let mut plan = reserve(config, counts.map(|classes| classes * config.samples_per_class))?;
    let mut rest = classes;
    for (rows, count) in plan.iter_mut().zip(counts) {
        let (own, others) = rest.split_at(count as usize);
        rest = others;
        for &label in own {
            for index in 0..config.samples_per_class as u32 {
                draw(&mut mt, config, pool, label, index, rows);
            }
            progress.advance(config.samples_per_class)?;
        }
    }
    Ok(plan)
}

/// Distributes existing images anew: the samples of each class are divided by the ratio.
fn by_sample(config: &Config, images: Plan) -> Result<Plan> {
    let counts = split::exact_counts(config.split.ratio, config.samples_per_class);
    let mut plan = reserve(config, counts.map(|samples| samples * config.classes()))?;
    let indexes: Vec<u32> = (0..config.samples_per_class as u32).collect();
    for rows in &images {
        for first in (0..rows.len()).step_by(indexes.len()) {
            let label = u64::from(rows.labels[first]);
            let parts = split::divide(&indexes, counts, config.seed, "plan/split/samples", label);
            for (part, out) in parts.iter().zip(plan.iter_mut()) {
                part.iter().for_each(|&index| out.push_from(rows, first + index as usize));
            }
        }
    }
    Ok(plan)
}

/// Divides the glyphs of each digit by the ratio, then composes each split's share of every class from the glyphs of
/// the split. The indices of a class run through the splits: train has the first, test the last.
fn by_source(config: &Config, pool: &[Vec<u32>; 10], classes: &[u32], progress: &Progress) -> Result<Plan> {
    let mut pools: [[Vec<u32>; 10]; 3] = Default::default();
    for (digit, glyphs) in pool.iter().enumerate() {
        let counts = split::exact_counts(config.split.ratio, glyphs.len() as u64);
        let parts = split::divide(glyphs, counts, config.seed, "plan/split/glyphs", digit as u64);
        for ((part, pool), name) in parts.into_iter().zip(&mut pools).zip(split::NAMES) {
            if part.is_empty() {
                let pool = format!("the glyph pool of split `{name}`");
                return Err(Error::from(PlanError::GlyphsMissing { digit: digit as u8, pool }));
            }
            pool[digit] = part;
        }
    }
    let counts = split::exact_counts(config.split.ratio, config.samples_per_class);
    let mut plan = reserve(config, counts.map(|samples| samples * config.classes()))?;
    let mut mt = Mt::new(config.seed);
    let mut first = 0;
    for ((rows, pool), count) in plan.iter_mut().zip(&pools).zip(counts) {
        for &label in classes {
            for index in first..first + count {
                draw(&mut mt, config, pool, label, index as u32, rows);
            }
            progress.advance(count)?;
        }
        first += count;
    }
    Ok(plan)
}

/// Returns empty splits with memory reserved for their rows. Fails if there is not enough memory.
fn reserve(config: &Config, counts: [u64; 3]) -> Result<Plan> {
    let digits = config.digits;
    let mut plan = [(); 3].map(|()| Rows::new(digits));
    for (rows, count) in plan.iter_mut().zip(counts) {
        let (rows_needed, cells) = (count as usize, count as usize * digits);
        [(&mut rows.labels, rows_needed), (&mut rows.index, rows_needed), (&mut rows.sources, cells)]
            .into_iter()
            .try_for_each(|(column, n)| column.try_reserve_exact(n))
            .and_then(|()| rows.y.try_reserve_exact(cells))
            .and_then(|()| rows.x.try_reserve_exact(cells))
            .map_err(|_| {
                let found = format!("{} samples of {digits} digits", config.classes() * config.samples_per_class);
                Error::value("plan.samples_per_class", found, "a plan that fits into memory; ask for fewer")
            })?;
    }
    Ok(plan)
}

fn reordered(rows: &Rows, order: &[u32]) -> Rows {
    let mut out = Rows::new(rows.digits);
    order.iter().for_each(|&row| out.push_from(rows, row as usize));
    out
}

fn sorted(rows: &Rows) -> Rows {
    let mut order: Vec<u32> = (0..rows.len() as u32).collect();
    order.sort_by_key(|&row| (rows.labels[row as usize], rows.index[row as usize]));
    reordered(rows, &order)
}

fn shuffled(rows: &Rows, seed: u32, split: u64) -> Rows {
    let mut order: Vec<u32> = (0..rows.len() as u32).collect();
    let mut rng = rng::stream(u64::from(seed), "plan/order", 0, split);
    numpy::shuffle(|| rng.next_u32(), &mut order);
    reordered(rows, &order)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::super::{Order, SplitConfig};
    use super::*;

    fn pool() -> Vec<u8> {
        (0..700).map(|i| (i * 7 % 10) as u8).collect()
    }

    fn composed(config: &Config, labels: &[u8]) -> Result<Plan> {
        compose(config, labels, &Progress::silent())
    }

    fn config(by: By, samples_per_class: u64) -> Config {
        Config { samples_per_class, split: SplitConfig { by, ..SplitConfig::default() }, ..Config::default() }
    }

    /// The label, index, sources, y and x of a row.
    type Image = (u32, u32, Vec<u32>, Vec<u16>, Vec<u16>);

    fn images(plan: &Plan) -> BTreeSet<Image> {
        let row = |rows: &Rows, i: usize| {
            let cells = i * rows.digits..(i + 1) * rows.digits;
            let (sources, y, x) = (&rows.sources[cells.clone()], &rows.y[cells.clone()], &rows.x[cells]);
            (rows.labels[i], rows.index[i], sources.to_vec(), y.to_vec(), x.to_vec())
        };
        plan.iter().flat_map(|rows| (0..rows.len()).map(move |i| row(rows, i))).collect()
    }

    #[test]
    fn a_split_by_class_shares_no_class() {
        let plan = composed(&config(By::Class, 3), &pool()).unwrap();
        assert_eq!(plan.each_ref().map(Rows::len), [192, 48, 60]);
        let classes = plan.each_ref().map(|rows| rows.labels.iter().copied().collect::<HashSet<_>>());
        assert_eq!(classes.each_ref().map(HashSet::len), [64, 16, 20]);
        assert_eq!(classes.iter().flatten().collect::<HashSet<_>>().len(), 100);
    }

    #[test]
    fn a_split_by_sample_deals_out_the_very_same_images() {
        let [by_class, by_sample] = [By::Class, By::Sample].map(|by| composed(&config(by, 25), &pool()).unwrap());
        assert_eq!(images(&by_class), images(&by_sample));
        assert_eq!(by_sample.each_ref().map(Rows::len), [1600, 400, 500]);
        for (rows, per_class) in by_sample.iter().zip([16, 4, 5]) {
            assert!((0..100).all(|class| rows.labels.iter().filter(|&&label| label == class).count() == per_class));
        }
    }

    #[test]
    fn a_split_by_source_shares_no_glyph() {
        let plan = composed(&config(By::Source, 25), &pool()).unwrap();
        assert_eq!(plan.each_ref().map(Rows::len), [1600, 400, 500]);
        let glyphs = plan.each_ref().map(|rows| rows.sources.iter().copied().collect::<HashSet<_>>());
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            assert!(glyphs[a].is_disjoint(&glyphs[b]));
        }
        assert_eq!(images(&plan).len(), 2500);
        assert_eq!(images(&plan).iter().map(|row| (row.0, row.1)).collect::<HashSet<_>>().len(), 2500);
    }

    #[test]
    fn a_glyph_shows_the_digit_of_its_place() {
        let labels = pool();
        for by in [By::Class, By::Sample, By::Source] {
            for (label, _, sources, y, x) in images(&composed(&config(by, 25), &labels).unwrap()) {
                let digits: Vec<u8> = sources.iter().map(|&glyph| labels[glyph as usize]).collect();
                assert_eq!(digits, labels::digits(label.into(), 2).collect::<Vec<_>>());
                assert!(y.iter().all(|&y| y < 36) && x.iter().all(|&x| x < 4));
            }
        }
    }

    #[test]
    fn class_order_is_ascending_and_shuffled_order_holds_the_same_rows() {
        let mut config = config(By::Class, 3);
        let shuffled = composed(&config, &pool()).unwrap();
        config.order = Order::Class;
        let sorted = composed(&config, &pool()).unwrap();
        assert_eq!(images(&shuffled), images(&sorted));
        assert!(sorted[0].labels.is_sorted() && !shuffled[0].labels.is_sorted());
        assert_eq!(sorted[0].index[..6], [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn composition_stops_when_asked() {
        let stopped = compose(&config(By::Class, 3), &pool(), &Progress::new(&|_| false));
        assert!(matches!(stopped, Err(Error::Interrupted)));
    }

    #[test]
    fn a_pool_without_a_digit_is_an_error() {
        let labels: Vec<u8> = pool().into_iter().filter(|&label| label != 7).collect();
        let error = composed(&config(By::Class, 1), &labels).unwrap_err();
        assert_eq!(error.to_string(), "the glyph pool holds no digit 7; every digit from 0 to 9 is needed");
        let one_seven: Vec<u8> = labels.iter().copied().chain([7]).collect();
        let error = composed(&config(By::Source, 10), &one_seven).unwrap_err();
        let message = "the glyph pool of split `train` holds no digit 7; every digit from 0 to 9 is needed";
        assert_eq!(error.to_string(), message);
    }

    fn any_plan() -> impl Strategy<Value = Config> {
        let by = prop_oneof![Just(By::Class), Just(By::Sample), Just(By::Source)];
        let order = prop_oneof![Just(Order::Class), Just(Order::Shuffled)];
        let ratio = prop::array::uniform3(1..4_u32);
        let size = (1..3_usize, 28..70_usize, 0..60_usize);
        (by, order, ratio, size, 10..25_u64, any::<u32>()).prop_map(
            |(by, order, ratio, size, samples_per_class, seed)| {
                let (digits, height, room) = size;
                let image_size = [height, SIDE * digits + room];
                Config { digits, image_size, samples_per_class, seed, split: SplitConfig { by, ratio }, order }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_plan_is_whole_spells_its_labels_and_stays_inside_its_images(config in any_plan()) {
            config.validate().unwrap();
            let (pool, digits) = (pool(), config.digits);
            let plan = composed(&config, &pool).unwrap();
            prop_assert_eq!(plan.each_ref().map(|rows| rows.len() as u64), config.counts());
            let mut samples: Vec<(u32, u32)> = Vec::new();
            let [height, width] = config.image_size;
            for rows in &plan {
                samples.extend(rows.labels.iter().copied().zip(rows.index.iter().copied()));
                let shown = rows.sources.iter().map(|&glyph| pool[glyph as usize]);
                prop_assert!(shown.eq(rows.labels.iter().flat_map(|&label| labels::digits(label.into(), digits))));
                prop_assert!(rows.y.iter().all(|&y| usize::from(y) + SIDE <= height));
                prop_assert!(rows.x.iter().all(|&x| usize::from(x) + SIDE <= width / digits));
                prop_assert_eq!((rows.y.len(), rows.x.len()), (rows.sources.len(), rows.sources.len()));
            }
            samples.sort_unstable();
            let classes = 0..config.classes() as u32;
            let all = classes.flat_map(|class| (0..config.samples_per_class as u32).map(move |index| (class, index)));
            prop_assert!(samples.into_iter().eq(all));
        }

        #[test]
        fn a_plan_follows_from_its_settings_and_its_seed_alone(config in any_plan()) {
            let pool = pool();
            let plan = composed(&config, &pool).unwrap();
            prop_assert!(plan == composed(&config, &pool).unwrap());
            let other = Config { seed: !config.seed, ..config };
            prop_assert!(plan != composed(&other, &pool).unwrap());
        }
    }
}
