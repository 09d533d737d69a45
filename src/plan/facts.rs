//! What is worth knowing of a plan: where its glyphs come from, its settings, its counts, and how many glyphs of val and
//! test also occur in train. It travels as JSON in the metadata of plan.parquet and of every shard.

use serde::{Deserialize, Serialize};

use super::Config;
use super::compose::Plan;
use crate::digest::{Digest, Parts};
use crate::raw::Origin;

/// The metadata key under which Parquet files hold these facts.
pub const KEY: &str = crate::tables::FACTS;

/// The pool of glyphs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GlyphSet {
    /// What the pool is called: `MNIST`, `synthetic glyphs`, or a folder's name.
    pub name: String,
    /// Digest of its pixels and labels.
    pub digest: Digest,
    /// How many glyphs it has.
    pub count: usize,
}

impl GlyphSet {
    /// Where the glyphs come from, as their name tells.
    pub fn origin(&self) -> Origin {
        Origin::of(&self.name)
    }
}

/// One value for each split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PerSplit<T> {
    pub train: T,
    pub val: T,
    pub test: T,
}

impl<T> PerSplit<T> {
    /// From values in the order train, val, test.
    pub fn new([train, val, test]: [T; 3]) -> PerSplit<T> {
        PerSplit { train, val, test }
    }

    /// The values in the order train, val, test.
    pub fn as_array(&self) -> [&T; 3] {
        [&self.train, &self.val, &self.test]
    }
}

/// How far the glyphs of a split were already seen in train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leakage {
    /// Distinct glyphs in the split.
    pub glyphs: u64,
    /// Those of them that also occur in train.
    pub also_in_train: u64,
}

impl Leakage {
    /// The share of the split's glyphs that also occur in train, 0 to 1.
    pub fn share(&self) -> f64 {
        self.also_in_train as f64 / self.glyphs.max(1) as f64
    }
}

/// The facts of one plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The pool of glyphs.
    pub glyphs: GlyphSet,
    /// The settings of the plan.
    pub plan: Config,
    /// Samples per split.
    pub counts: PerSplit<u64>,
    /// GlyphSet of val that were seen in train.
    pub val_leakage: Leakage,
    /// GlyphSet of test that were seen in train.
    pub test_leakage: Leakage,
}

impl Facts {
    /// Counts a plan over a pool of so many glyphs.
    #[expect(clippy::indexing_slicing, reason = "the plan was drawn from this pool")]
    pub fn new(config: &Config, glyphs: GlyphSet, plan: &Plan) -> Facts {
        let used = plan.each_ref().map(|rows| {
            let mut used = vec![false; glyphs.count];
            rows.sources.iter().for_each(|&glyph| used[glyph as usize] = true);
            used
        });
        let leakage = |split: &[bool]| Leakage {
            glyphs: split.iter().filter(|&&used| used).count() as u64,
            also_in_train: split.iter().zip(&used[0]).filter(|&(&here, &train)| here && train).count() as u64,
        };
        Facts {
            val_leakage: leakage(&used[1]),
            test_leakage: leakage(&used[2]),
            counts: PerSplit::new(plan.each_ref().map(|rows| rows.len() as u64)),
            plan: config.clone(),
            glyphs,
        }
    }

    /// The facts as they stand in the metadata of files.
    pub fn text(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// The beginning of the content digest of a file that carries these facts: two files that differ in them are not the
    /// same, even where their rows are.
    pub fn digest(&self) -> Parts {
        let mut content = Parts::default();
        content.bytes(self.text().as_bytes());
        content
    }

    /// One sentence on what train has seen of the others.
    pub fn leakage_sentence(&self) -> String {
        let percent = |leakage: &Leakage| 100.0 * leakage.share();
        let (val, test) = (percent(&self.val_leakage), percent(&self.test_leakage));
        format!("{val:.1}% of the glyphs in val and {test:.1}% of those in test also occur in train")
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::Rows;
    use super::*;

    #[test]
    fn leakage_counts_distinct_glyphs_that_train_has_too() {
        let rows = |sources: &[u32]| Rows { digits: 2, sources: sources.to_vec(), ..Rows::default() };
        let plan = [rows(&[0, 1, 2, 2]), rows(&[2, 3, 3, 2]), rows(&[4, 5])];
        let glyphs = GlyphSet { name: "toy".into(), digest: Digest::of(b""), count: 8 };
        let facts = Facts::new(&Config::default(), glyphs, &plan);
        assert_eq!((facts.val_leakage.glyphs, facts.val_leakage.also_in_train), (2, 1));
        assert_eq!((facts.test_leakage.glyphs, facts.test_leakage.share()), (2, 0.0));
        let sentence = "50.0% of the glyphs in val and 0.0% of those in test also occur in train";
        assert_eq!(facts.leakage_sentence(), sentence);
    }
}
