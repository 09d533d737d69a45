//! What a run says of each epoch, and the table that it is kept in.

use std::fmt::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::files;

/// One epoch: a row of `metrics.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    /// The learning rate of its steps.
    pub lr: f64,
    /// Mean loss over its training images, each as it was met: with dropout, weights still moving.
    pub train_loss: f64,
    /// Share of its training images with all digits right, measured likewise.
    pub train_accuracy: f64,
    /// Mean loss over the validation images after it.
    pub val_loss: f64,
    /// Share of the validation images with all digits right after it.
    pub val_accuracy: f64,
    /// Training images per second, validation left out.
    pub images_per_second: f64,
    /// Time of the epoch in seconds, with validation.
    pub seconds: f64,
}

/// Writes the table of all epochs so far.
pub fn write(path: &Path, epochs: &[Epoch]) -> Result<()> {
    let mut text = "epoch,lr,train_loss,train_accuracy,val_loss,val_accuracy,images_per_second,seconds\n".to_owned();
    for e in epochs {
        let losses = format!("{},{},{},{}", e.train_loss, e.train_accuracy, e.val_loss, e.val_accuracy);
        let speed = format!("{:.1},{:.3}", e.images_per_second, e.seconds);
        writeln!(text, "{},{},{losses},{speed}", e.epoch, e.lr).expect("a string takes any text");
    }
    files::write(path, text.as_bytes())
}
