//! The stages, each in one file: its version, its inputs, its settings in the key, its outputs, its work.

use std::cell::{OnceCell, RefCell};

use crate::digest::Digest;
use crate::raw::Glyphs;

pub mod augment;
mod compare;
pub mod dataset;
pub mod evaluate;
pub mod plan;
pub mod raw;
pub mod report;
pub mod train;

/// What stages keep in memory while a command runs, so that it need not be read twice.
#[derive(Default)]
pub struct Memory {
    /// The glyphs, between the stage that verified them and the one that renders them.
    glyphs: RefCell<Option<Glyphs>>,
    /// Names and digests of the files that are evaluated instead of the data set, once they were read.
    other_data: OnceCell<Vec<(String, Digest)>>,
}
