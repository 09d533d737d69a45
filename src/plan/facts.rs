//! The facts of a plan: the pool of its glyphs, its settings, the number of samples per split, and how many glyphs of
//! val and test also occur in train. They are stored as JSON in the metadata of plan.parquet and of every shard.

use serde::{Deserialize, Serialize};

use super::Config;
use super::compose::Plan;
use crate::digest::{Digest, Parts};
use crate::raw::Origin;

/// The metadata key of the facts in Parquet files.
pub const KEY: &str = crate::parquet_file::FACTS;

/// A description of the pool of glyphs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GlyphSet {
    /// The published name of the pool: [`Origin::name`].
    pub name: String,
    /// The digest of the pool's pixels and labels.
    pub digest: Digest,
    /// The number of glyphs.
    pub count: usize,
}

impl GlyphSet {
    /// Describes `count` glyphs with a digest.
    pub fn new(digest: Digest, count: usize) -> GlyphSet {
        GlyphSet { name: Origin::of_content(digest).name().to_owned(), digest, count }
    }

    /// The origin of the glyphs, which follows from their name.
    pub fn origin(&self) -> Origin {
        Origin::named(&self.name)
    }
}

/// One value for each split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PerSplit<T> {
    /// The value for train.
    pub train: T,
    /// The value for val.
    pub val: T,
    /// The value for test.
    pub test: T,
}

impl<T> PerSplit<T> {
    /// Takes values in the order train, val, test.
    pub fn new([train, val, test]: [T; 3]) -> PerSplit<T> {
        PerSplit { train, val, test }
    }

    /// The values in the order train, val, test.
    pub fn as_array(&self) -> [&T; 3] {
        [&self.train, &self.val, &self.test]
    }
}

/// How many glyphs of a split also occur in train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leakage {
    /// The number of distinct glyphs in the split.
    pub glyphs: u64,
    /// The number of these glyphs that also occur in train.
    pub also_in_train: u64,
}

impl Leakage {
    /// The share of the split's glyphs that also occur in train, from 0 to 1.
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
    /// The number of samples of each split.
    pub counts: PerSplit<u64>,
    /// The glyphs of val that also occur in train.
    pub val_leakage: Leakage,
    /// The glyphs of test that also occur in train.
    pub test_leakage: Leakage,
}

impl Facts {
    /// Collects the facts of a plan that was drawn from the pool `glyphs`.
    pub fn new(config: &Config, glyphs: GlyphSet, plan: &Plan) -> Facts {
        let [train, val, test] = &plan.used;
        let leakage = |split: &[bool]| Leakage {
            glyphs: split.iter().filter(|&&used| used).count() as u64,
            also_in_train: split.iter().zip(train).filter(|&(&here, &train)| here && train).count() as u64,
        };
        Facts {
            val_leakage: leakage(val),
            test_leakage: leakage(test),
            counts: PerSplit::new(plan.splits.each_ref().map(|split| split.rows() as u64)),
            plan: config.clone(),
            glyphs,
        }
    }

    /// The facts as JSON, as stored in the metadata of files.
    pub fn text(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// Starts the content digest of a file that carries these facts. Files whose facts differ have different digests,
    /// even if their rows are the same.
    pub fn digest(&self) -> Parts {
        let mut content = Parts::default();
        content.bytes(self.text().as_bytes());
        content
    }

    /// A sentence about the shares of glyphs in val and test that also occur in train.
    pub fn leakage_sentence(&self) -> String {
        let percent = |leakage: &Leakage| 100.0 * leakage.share();
        let (val, test) = (percent(&self.val_leakage), percent(&self.test_leakage));
        format!("{val:.1}% of the glyphs in val and {test:.1}% of those in test also occur in train")
    }
}

#[cfg(test)]
mod tests {
    use super::super::ordered::Ordered;
    use super::*;

    #[test]
    fn leakage_counts_distinct_glyphs_that_train_has_too() {
        let used = |glyphs: &[usize]| (0..8).map(|glyph| glyphs.contains(&glyph)).collect();
        let none = || Ordered::new(2, Vec::new(), &std::env::temp_dir()).unwrap();
        let plan = Plan {
            splits: [none(), none(), none()],
            classes: Default::default(),
            used: [used(&[0, 1, 2]), used(&[2, 3]), used(&[4, 5])],
        };
        let glyphs = GlyphSet { name: "toy".into(), digest: Digest::of(b""), count: 8 };
        let facts = Facts::new(&Config::default(), glyphs, &plan);
        assert_eq!((facts.val_leakage.glyphs, facts.val_leakage.also_in_train), (2, 1));
        assert_eq!((facts.test_leakage.glyphs, facts.test_leakage.share()), (2, 0.0));
        let sentence = "50.0% of the glyphs in val and 0.0% of those in test also occur in train";
        assert_eq!(facts.leakage_sentence(), sentence);
    }
}
