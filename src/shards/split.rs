//! A split in memory, as training and evaluation use it.

use std::path::Path;

use rayon::prelude::*;

use super::reader::Shards;
use super::writer::Samples;
use crate::error::Result;
use crate::parquet_file::make_room;

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

/// Reads a split, or its first `limit` rows, into memory. Images are decoded on all threads.
pub fn read_split(folder: &Path, split: &str, limit: Option<usize>) -> Result<Split> {
    let shards = Shards::open(folder, split)?;
    let layout = shards.layout();
    let limit = limit.unwrap_or(usize::MAX);
    let mut wanted = Vec::new();
    let mut rows = 0;
    for (position, n) in shards.positions().zip(shards.groups().concat()) {
        if rows >= limit {
            break;
        }
        wanted.push(position);
        rows = rows.saturating_add(n);
    }
    let rows = rows.min(limit);
    let area = layout.height * layout.width;
    let mut out = Split { height: layout.height, width: layout.width, digits: layout.digits, ..Split::default() };
    make_room(shards.first().path(), &mut out.images, rows, area)?;
    let parts = wanted.into_par_iter().map(|position| shards.read(position)).collect::<Result<Vec<Samples>>>()?;
    for mut part in parts {
        let n = part.labels.len().min(rows - out.labels.len());
        out.targets.extend(part.digits.iter().take(n * layout.digits).map(|&digit| digit as u8));
        out.labels.extend(part.labels.iter().take(n));
        out.index.extend(part.index.iter().take(n));
        part.images.truncate(n * area);
        out.images.append(&mut part.images);
    }
    Ok(out)
}
