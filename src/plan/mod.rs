//! The stage `plan`: makes all random choices of the composition and the split, and writes them to one small table
//! that can be queried.
//!
//! Input: the labels of the glyph pool. Output: `plan.parquet`, with one row per sample. The expensive work of the
//! later stages is a pure function of these rows, and gives the same bytes on any number of threads and in any order.

pub use self::error::PlanError;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::labels;
use crate::progress::Progress;
use crate::raw::SIDE;
use crate::shards::MAX_PIXELS;

#[allow(clippy::indexing_slicing, reason = "draws in memory; the columns of rows are equally long")]
pub mod compose;
mod error;
pub mod facts;
pub mod numpy;
#[allow(
    clippy::indexing_slicing,
    reason = "rows and their places in memory, and records of one size that this module writes"
)]
pub mod ordered;
#[allow(clippy::indexing_slicing, reason = "draws in memory; the columns of rows are equally long")]
pub mod rows;
pub mod split;
pub mod table;

pub use facts::{Facts, GlyphSet};

/// The name of the file that the stage writes.
pub const FILE: &str = "plan.parquet";

/// The maximum number of samples of a plan. Rows are numbered with 32 bits.
pub const MAX_SAMPLES: u64 = u32::MAX as u64;

/// The maximum height and width of an image in pixels. Offsets are stored with 16 bits.
pub const MAX_SIDE: usize = 65_535;

/// A sentence about digits that val or test show in a place where train never shows them. `None` if there are none.
fn unseen_digits(plan: &compose::Plan, digits: usize) -> Option<String> {
    let [train, val, test] = plan.classes.each_ref().map(|classes| {
        let shown = classes.iter().flat_map(|&label| labels::digits(label.into(), digits).enumerate());
        shown.collect::<BTreeSet<(usize, u8)>>()
    });
    let mut unseen = Vec::new();
    for (split, shown) in [("val", val), ("test", test)] {
        let mut places: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (place, digit) in shown.difference(&train) {
            places.entry(*place).or_default().push(digit.to_string());
        }
        for (place, digits) in places {
            unseen.push(format!("{split} shows {} in place {}", digits.join(", "), place + 1));
        }
    }
    let advice = "train never does, so a network cannot learn to read them there; with `--set plan.split.by=sample`, train \
                  shows all classes";
    (!unseen.is_empty()).then(|| format!("{}; {advice}", unseen.join("; ")))
}

/// The columns of the slot of a digit, whose place is counted from 0, in an image of `width` pixels with `digits` digits. A
/// slot has the full height of the image. The glyph of the digit lies within it.
pub fn slot(place: usize, digits: usize, width: usize) -> Range<usize> {
    let left = place * width / digits;
    left..left + width / digits
}

/// The section `plan`: what is composed, and how it is split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Digits per image. Every number of that many digits is a class.
    pub digits: usize,
    /// Height and width of an image in pixels: height at least 28, width at least 28 per digit.
    pub image_size: [usize; 2],
    /// Images per class.
    pub samples_per_class: u64,
    /// Seed of the composition and the split; 123 is the reference generator's default.
    pub seed: u32,
    /// How the samples are divided between train, val and test.
    pub split: SplitConfig,
    /// Order of the rows inside a split. shuffled: seeded, so that the first rows already show all classes; class:
    /// ascending by class and index.
    pub order: Order,
}

/// The division between train, val and test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Split")] // the name in the printed schema
pub struct SplitConfig {
    /// What is divided. class: whole classes, as in the reference generator and the paper, so that val and test show
    /// digit pairs that train never shows; sample: the samples of each class (the same images); source: as sample, but
    /// the glyphs are divided first, so that no glyph serves two splits.
    pub by: split::By,
    /// Shares of train, val and test, as whole numbers.
    pub ratio: [u32; 3],
}

/// The order of rows inside a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Shuffled with a seed.
    Shuffled,
    /// Ascending by class and index.
    Class,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            digits: 2,
            image_size: [64, 64],
            samples_per_class: 1000,
            seed: 123,
            split: SplitConfig::default(),
            order: Order::Shuffled,
        }
    }
}

impl Default for SplitConfig {
    fn default() -> SplitConfig {
        SplitConfig { by: split::By::Class, ratio: [64, 16, 20] }
    }
}

impl Config {
    /// The number of classes: 10 to the number of digits. The configuration must be valid.
    pub fn classes(&self) -> u64 {
        labels::classes(self.digits).unwrap_or(u64::MAX)
    }

    /// The numbers of rows of train, val and test. The configuration must be valid.
    pub fn counts(&self) -> [u64; 3] {
        match self.split.by {
            split::By::Class => {
                split::reference_counts(self.split.ratio, self.classes()).map(|n| n * self.samples_per_class)
            }
            _ => split::exact_counts(self.split.ratio, self.samples_per_class).map(|n| n * self.classes()),
        }
    }

    /// Checks the settings before any work is done.
    ///
    /// # Errors
    /// [`Error::ConfigValue`] if a number is 0, if the samples or the image are too many or too large, if an image is
    /// too small for its digits, or if a split would be empty.
    pub fn validate(&self) -> Result<()> {
        let [height, width] = self.image_size;
        let digits = self.digits;
        let samples = labels::classes(digits).and_then(|classes| classes.checked_mul(self.samples_per_class));
        if digits == 0 {
            return Err(Error::value("plan.digits", digits, "at least 1"));
        }
        if self.samples_per_class == 0 {
            return Err(Error::value("plan.samples_per_class", 0, "at least 1"));
        }
        if samples.is_none_or(|samples| samples > MAX_SAMPLES) {
            let found = format!("{} samples for each number of {digits} digits", self.samples_per_class);
            return Err(Error::value("plan.samples_per_class", found, format!("at most {MAX_SAMPLES} samples in all")));
        }
        if !(SIDE..=MAX_SIDE).contains(&height) {
            return Err(Error::value("plan.image_size", format!("height {height}"), format!("{SIDE} to {MAX_SIDE}")));
        }
        if width / digits < SIDE || width > MAX_SIDE {
            let (found, least) = (format!("width {width} for {digits} digits"), SIDE * digits);
            return Err(Error::value("plan.image_size", found, format!("{least} to {MAX_SIDE}")));
        }
        if (height * width) as u64 > MAX_PIXELS {
            let found = format!("{height}x{width} pixels");
            return Err(Error::value("plan.image_size", found, format!("at most {MAX_PIXELS} pixels in all")));
        }
        let ratio = self.split.ratio;
        if ratio.iter().all(|&part| part == 0) {
            return Err(Error::value("plan.split.ratio", format!("{ratio:?}"), "shares that do not sum to 0"));
        }
        match split::NAMES.iter().zip(self.counts()).find(|(_, count)| *count == 0) {
            Some((empty, _)) => {
                let found = format!("{ratio:?}, which leaves `{empty}` empty");
                Err(Error::value("plan.split.ratio", found, "at least one class (or sample) for each split"))
            }
            None => Ok(()),
        }
    }
}

/// Composes the plan and writes it to [`FILE`] in the folder `out`. `glyphs` describes the pool of glyphs, and `labels`
/// are their labels, in order. Returns the facts, which the file contains too, and the digest of facts and rows.
pub fn run(
    config: &Config,
    glyphs: GlyphSet,
    labels: &[u8],
    out: &Path,
    progress: &Progress,
) -> Result<(Facts, Digest)> {
    let samples = config.counts().iter().sum();
    progress.begin("plan", samples, "samples")?;
    let plan = compose::compose(config, labels, out, progress)?;
    let facts = Facts::new(config, glyphs, &plan);
    if let Some(sentence) = unseen_digits(&plan, config.digits) {
        progress.warn(&sentence);
    }
    let digest = table::write(&out.join(FILE), &facts, plan.splits)?;
    progress.end();
    Ok((facts, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_the_papers_and_valid() {
        let config = Config::default();
        config.validate().unwrap();
        assert_eq!(config.counts(), [64_000, 16_000, 20_000]);
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        type Case = (fn(&mut Config), &'static str);
        let cases: [Case; 10] = [
            (|c| c.digits = 0, "`plan.digits`: found 0; expected at least 1"),
            (|c| c.samples_per_class = 0, "`plan.samples_per_class`: found 0; expected at least 1"),
            (
                |c| c.samples_per_class = u64::MAX,
                "`plan.samples_per_class`: found 18446744073709551615 samples for each number of 2 digits; \
                 expected at most 4294967295 samples in all",
            ),
            (
                |c| c.digits = 19,
                "`plan.samples_per_class`: found 1000 samples for each number of 19 digits; \
                 expected at most 4294967295 samples in all",
            ),
            (|c| c.image_size = [27, 64], "`plan.image_size`: found height 27; expected 28 to 65535"),
            (|c| c.image_size = [64, 55], "`plan.image_size`: found width 55 for 2 digits; expected 56 to 65535"),
            (
                |c| c.image_size = [64, 70_000],
                "`plan.image_size`: found width 70000 for 2 digits; expected 56 to 65535",
            ),
            (
                |c| c.image_size = [20_000, 20_000],
                "`plan.image_size`: found 20000x20000 pixels; expected at most 67108864 pixels in all",
            ),
            (
                |c| c.split.ratio = [0, 0, 0],
                "`plan.split.ratio`: found [0, 0, 0]; expected shares that do not sum to 0",
            ),
            (
                |c| c.split.ratio = [4, 0, 1],
                "`plan.split.ratio`: found [4, 0, 1], which leaves `val` empty; \
                 expected at least one class (or sample) for each split",
            ),
        ];
        for (change, message) in cases {
            assert_eq!(refusal(change), message);
        }
    }
}
