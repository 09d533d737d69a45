//! The stages, one file each: version, inputs, settings in the key, outputs and work.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use crate::digest::Digest;
use crate::raw::Glyphs;

pub mod augment;
pub mod dataset;
pub mod evaluate;
pub mod plan;
pub mod raw;
pub mod report;
pub mod train;

pub use train::{config_of, run_name, run_name_of_recipe, training_data, training_time};

/// What stages keep in memory while a command runs, so that it is not read twice.
#[derive(Default)]
pub struct Memory {
    /// The glyphs, kept from the stage that verifies them to the stage that renders them.
    glyphs: RefCell<Option<Arc<Glyphs>>>,
    /// The names and digests of the files that are evaluated instead of the data set, once they have been read.
    other_data: OnceCell<Vec<(String, Digest)>>,
}
