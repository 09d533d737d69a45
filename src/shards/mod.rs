//! Shards: the Parquet files that the pipeline publishes and trains on. They have one schema, one writer and one
//! reader. The stages dataset and augment write shards; augment, train, evaluate and report read them. Files written by
//! other programs are read by [`foreign`].

use crate::error::{Error, Result};
use crate::tables::Table;

pub mod foreign;
pub mod parameters;
pub mod reader;
pub mod schema;
pub mod writer;

pub use parameters::Parameters;
pub use reader::{Shards, read_split};
pub use schema::Layout;
pub use writer::{Cut, Samples, Written, write_split};

/// The maximum number of pixels of an image. An image whose header declares more is refused.
pub const MAX_PIXELS: u64 = 1 << 26;

/// The name of the folder of the shards in a stage's folder.
pub const DATA: &str = "data";

/// The name of shard `number` of `of` shards, in the scheme of Hugging Face.
pub fn file_name(split: &str, number: usize, of: usize) -> String {
    format!("{split}-{number:05}-of-{of:05}.parquet")
}

/// Fails if files of one set differ in the metadata that `origin` returns.
fn require_one_set<'a, T: PartialEq>(tables: &'a [Table], origin: impl Fn(&'a Table) -> T) -> Result<()> {
    let Some((first, others)) = tables.split_first() else { return Ok(()) };
    match others.iter().find(|table| origin(table) != origin(first)) {
        None => Ok(()),
        Some(other) => {
            let first = first.path().file_name().unwrap_or_default().to_string_lossy();
            let found = format!("metadata other than those of {first}, which is of another set");
            Err(Error::format(other.path(), found, "shards of one set; make them again"))
        }
    }
}

/// The samples of a split in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// Image height in pixels.
    pub height: usize,
    /// Image width in pixels.
    pub width: usize,
    /// Digits per image, which is the number of heads of a network.
    pub digits: usize,
    /// Grey pixels, row-major: `height * width` per sample.
    pub images: Vec<u8>,
    /// The digit at each position, left to right: `digits` per sample.
    pub targets: Vec<u8>,
    /// The class of each sample.
    pub labels: Vec<i64>,
    /// The index of each sample in its class.
    pub index: Vec<i64>,
}

impl Split {
    /// The number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether the split has no samples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Keeps the first `n` samples, or all if there are fewer.
    pub fn truncate(&mut self, n: usize) {
        self.images.truncate(n * self.height * self.width);
        self.targets.truncate(n * self.digits);
        self.labels.truncate(n);
        self.index.truncate(n);
    }
}

/// Access to single samples, which panics like a slice if there is no sample `i`.
#[expect(clippy::indexing_slicing, reason = "numbers of samples come from the length, not from a file")]
impl Split {
    /// The pixels of sample `i`, row-major.
    pub fn image(&self, i: usize) -> &[u8] {
        let area = self.height * self.width;
        &self.images[i * area..(i + 1) * area]
    }

    /// The digits of sample `i`, left to right.
    pub fn target(&self, i: usize) -> &[u8] {
        &self.targets[i * self.digits..(i + 1) * self.digits]
    }

    /// The class of sample `i`, and its index in the class.
    pub fn sample(&self, i: usize) -> (i64, i64) {
        (self.labels[i], self.index[i])
    }
}
