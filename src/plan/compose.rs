//! Draws the composition: the glyphs of each image and their offsets, in the order of the reference generator.
//!
//! The reference generator is a sequential program over one MT19937 stream, so this module is sequential, too. A split by class
//! and a split by sample give the same images. A split by source draws only from each split's own glyphs.

use std::path::Path;

use rand_mt::Mt;

use super::ordered::{self, Ordered, Row};
use super::split::{self, By};
use super::{Config, numpy};
use crate::error::{Error, Result};
use crate::labels;
use crate::plan::PlanError;
use crate::progress::Progress;
use crate::raw::SIDE;

/// A plan that is drawn: the rows of train, val and test, and what is known of them.
pub struct Plan {
    /// The rows of each split.
    pub splits: [Ordered; 3],
    /// The classes of each split.
    pub classes: [Vec<u32>; 3],
    /// Whether each glyph of the pool occurs in each split.
    pub used: [Vec<bool>; 3],
}

/// Composes all samples. `labels` are the labels of the glyph pool, in its order. `config` must be valid. A plan of many rows
/// needs a temporary file, which lies in `folder`.
///
/// # Errors
/// [`PlanError::GlyphsMissing`] if the pool, or the part of it that belongs to a split, lacks a digit.
/// [`Error::ConfigValue`] if there are more rows than the memory holds places for.
pub fn compose(config: &Config, labels: &[u8], folder: &Path, progress: &Progress) -> Result<Plan> {
    let (pool, classes) = (by_digit(labels)?, shuffled_classes(config));
    let composition = Composition { config, pool, classes, folder, progress };
    match config.split.by {
        By::Class => composition.by_class(),
        By::Sample => composition.by_sample(),
        By::Source => composition.by_source(),
    }
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

/// The draws of the reference generator: one stream, in which an image takes the words after those of the image before it.
struct Draws<'a> {
    mt: Mt,
    config: &'a Config,
    row: Row,
}

impl<'a> Draws<'a> {
    fn new(config: &'a Config) -> Draws<'a> {
        Draws { mt: Mt::new(config.seed), config, row: Row::default() }
    }

    /// Draws one image: the glyph of each digit, then all vertical offsets, then all horizontal offsets.
    fn next(&mut self, pool: &[Vec<u32>; 10], label: u32, index: u32) -> &Row {
        let Draws { mt, config, row } = self;
        let ([height, width], digits) = (config.image_size, config.digits);
        (row.label, row.index) = (label, index);
        row.sources.clear();
        for digit in labels::digits(label.into(), digits) {
            let glyphs = &pool[usize::from(digit)];
            row.sources.push(glyphs[numpy::bounded(|| mt.next_u32(), glyphs.len() as u32 - 1) as usize]);
        }
        for (room, offsets) in [(height - SIDE, &mut row.y), (width / digits - SIDE, &mut row.x)] {
            offsets.clear();
            // the upper end is excluded; if there is no room, nothing is drawn
            offsets.extend((0..digits).map(|_| numpy::bounded(|| mt.next_u32(), room.saturating_sub(1) as u32) as u16));
        }
        row
    }
}

impl Plan {
    fn push(&mut self, split: usize, row: &Row) -> Result<()> {
        row.sources.iter().for_each(|&glyph| self.used[split][glyph as usize] = true);
        self.splits[split].push(row)
    }
}

/// A composition under way.
struct Composition<'a> {
    config: &'a Config,
    /// The numbers of the glyphs of each digit.
    pool: [Vec<u32>; 10],
    /// All classes, in the order of the draws.
    classes: Vec<u32>,
    folder: &'a Path,
    progress: &'a Progress<'a>,
}

impl Composition<'_> {
    /// An empty plan, with `counts` rows of each class in each split.
    fn plan(&self, classes: [&[u32]; 3], counts: [u64; 3]) -> Result<Plan> {
        let Config { order, seed, digits, .. } = *self.config;
        let split = |number: usize| {
            let places = ordered::places(order, classes[number], counts[number] as usize, seed, number as u64)?;
            Ordered::new(digits, places, self.folder)
        };
        let glyphs = self.pool.iter().map(Vec::len).sum();
        Ok(Plan {
            splits: [split(0)?, split(1)?, split(2)?],
            classes: classes.map(<[u32]>::to_vec),
            used: [(); 3].map(|()| vec![false; glyphs]),
        })
    }

    fn by_class(&self) -> Result<Plan> {
        let Composition { config, pool, classes, progress, .. } = self;
        let counts = split::reference_counts(config.split.ratio, classes.len() as u64);
        let [train, val, _] = counts.map(|count| count as usize);
        let (own, rest) = classes.split_at(train);
        let own = [own, &rest[..val], &rest[val..]];
        let mut plan = self.plan(own, [config.samples_per_class; 3])?;
        let mut draws = Draws::new(config);
        for (split, classes) in own.into_iter().enumerate() {
            for &label in classes {
                for index in 0..config.samples_per_class as u32 {
                    plan.push(split, draws.next(pool, label, index))?;
                }
                progress.advance(config.samples_per_class)?;
            }
        }
        Ok(plan)
    }

    /// Draws the images of a split by class, and divides the samples of each class by the ratio.
    fn by_sample(&self) -> Result<Plan> {
        let Composition { config, pool, classes, progress, .. } = self;
        let counts = split::exact_counts(config.split.ratio, config.samples_per_class);
        let mut plan = self.plan([classes; 3], counts)?;
        let mut draws = Draws::new(config);
        let indexes: Vec<u32> = (0..config.samples_per_class as u32).collect();
        let mut splits = vec![0; indexes.len()];
        for &label in classes {
            let parts = split::divide(&indexes, counts, config.seed, "plan/split/samples", label.into());
            for (split, part) in parts.iter().enumerate() {
                part.iter().for_each(|&index| splits[index as usize] = split);
            }
            for (&index, &split) in indexes.iter().zip(&splits) {
                plan.push(split, draws.next(pool, label, index))?;
            }
            progress.advance(config.samples_per_class)?;
        }
        Ok(plan)
    }

    /// Divides the glyphs of each digit by the ratio, then composes each split's share of every class from the glyphs of
    /// the split. The indices of a class run through the splits: train has the first, test the last.
    fn by_source(&self) -> Result<Plan> {
        let Composition { config, pool, classes, progress, .. } = self;
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
        let mut plan = self.plan([classes; 3], counts)?;
        let (mut draws, mut first) = (Draws::new(config), 0);
        for (split, (pool, count)) in pools.iter().zip(counts).enumerate() {
            for &label in classes {
                for index in first..first + count {
                    plan.push(split, draws.next(pool, label, index as u32))?;
                }
                progress.advance(count)?;
            }
            first += count;
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::super::rows::Rows;
    use super::super::{Order, SplitConfig};
    use super::*;

    fn pool() -> Vec<u8> {
        (0..700).map(|i| (i * 7 % 10) as u8).collect()
    }

    /// The rows of each split.
    fn composed(config: &Config, labels: &[u8]) -> Result<[Rows; 3]> {
        let plan = compose(config, labels, &std::env::temp_dir(), &Progress::silent())?;
        let whole = |split: Ordered| {
            let mut all = Rows::new(config.digits);
            for piece in split.pieces() {
                all.append(piece?);
            }
            Ok::<_, Error>(all)
        };
        let [train, val, test] = plan.splits.map(whole);
        Ok([train?, val?, test?])
    }

    fn config(by: By, samples_per_class: u64) -> Config {
        Config { samples_per_class, split: SplitConfig { by, ..SplitConfig::default() }, ..Config::default() }
    }

    /// The label, index, sources, y and x of a row.
    type Image = (u32, u32, Vec<u32>, Vec<u16>, Vec<u16>);

    fn images(plan: &[Rows; 3]) -> BTreeSet<Image> {
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
        let folder = std::env::temp_dir();
        let stopped = compose(&config(By::Class, 3), &pool(), &folder, &Progress::new(&|_| false));
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
