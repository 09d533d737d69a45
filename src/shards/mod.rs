//! Shards: the Parquet files that the pipeline publishes and trains on. One schema, one writer, one reader; the stages
//! dataset and augment write them, augment, train, evaluate and report read them. What others wrote is read by [`foreign`].

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

/// The most pixels that an image may have: a header that promises more is not believed.
pub const MAX_PIXELS: u64 = 1 << 26;

/// The folder of the shards below a stage's folder.
pub const DATA: &str = "data";

/// The name of one shard out of `of`, as Hugging Face names them.
pub fn file_name(split: &str, number: usize, of: usize) -> String {
    format!("{split}-{number:05}-of-{of:05}.parquet")
}

/// Refuses files of one set that differ in what their metadata say of their origin.
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

/// A split in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// Image height in pixels.
    pub height: usize,
    /// Image width in pixels.
    pub width: usize,
    /// Digits per image: the heads of a network.
    pub digits: usize,
    /// Grey pixels, row-major: `height * width` per sample.
    pub images: Vec<u8>,
    /// Digit at each position, left to right: `digits` per sample.
    pub targets: Vec<u8>,
    /// Class of each sample.
    pub labels: Vec<i64>,
    /// Index of each sample in its class.
    pub index: Vec<i64>,
}

impl Split {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Leaves the first `n` samples, or all where there are fewer.
    pub fn truncate(&mut self, n: usize) {
        self.images.truncate(n * self.height * self.width);
        self.targets.truncate(n * self.digits);
        self.labels.truncate(n);
        self.index.truncate(n);
    }
}

/// One sample. As in a slice, there must be one of this number.
#[expect(clippy::indexing_slicing, reason = "numbers of samples come from the length, not from a file")]
impl Split {
    /// Its pixels.
    pub fn image(&self, i: usize) -> &[u8] {
        let area = self.height * self.width;
        &self.images[i * area..(i + 1) * area]
    }

    /// Its digits, left to right.
    pub fn target(&self, i: usize) -> &[u8] {
        &self.targets[i * self.digits..(i + 1) * self.digits]
    }

    /// Its class, and its index in the class.
    pub fn sample(&self, i: usize) -> (i64, i64) {
        (self.labels[i], self.index[i])
    }
}
