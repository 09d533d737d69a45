//! Shards: the Parquet files that the pipeline publishes and trains on. They have one schema, one writer and one
//! reader. The stages dataset and augment write shards; augment, train, evaluate and report read them. Files written by
//! other programs are read by [`foreign`].

use crate::error::{Error, Result};
use crate::parquet_file::ParquetFile;

mod compare;
pub mod foreign;
mod ink;
pub mod parameters;
pub mod pngs;
pub mod reader;
pub mod schema;
pub mod set;
mod split;
pub mod writer;

pub use compare::compare;
pub use ink::ink_box;
pub use parameters::Parameters;
pub use reader::Shards;
pub use schema::Layout;
pub use set::{ShardFile, ShardPlan, ShardSet, Sink, Written};
pub use split::{Split, read_split};
#[cfg(test)]
pub use writer::write_split;
pub use writer::{Cut, Donors, Samples, ShardWriter};

/// The maximum number of pixels of an image. An image whose header declares more is refused.
pub const MAX_PIXELS: u64 = 1 << 26;

/// The name of the folder of the shards in a stage's folder.
pub const DATA: &str = "data";

/// The name of shard `number` of `of` shards, in the scheme of Hugging Face.
pub fn file_name(split: &str, number: usize, of: usize) -> String {
    format!("{split}-{number:05}-of-{of:05}.parquet")
}

/// Fails if files of one set differ in the metadata that `origin` returns.
fn require_one_set<'a, T: PartialEq>(files: &'a [ParquetFile], origin: impl Fn(&'a ParquetFile) -> T) -> Result<()> {
    let Some((first, others)) = files.split_first() else { return Ok(()) };
    match others.iter().find(|file| origin(file) != origin(first)) {
        None => Ok(()),
        Some(other) => {
            let first = first.path().file_name().unwrap_or_default().to_string_lossy();
            let found = format!("metadata other than those of {first}, which is of another set");
            Err(Error::format(other.path(), found, "shards of one set; make them again"))
        }
    }
}
