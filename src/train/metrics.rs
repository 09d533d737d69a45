//! What a run says of each epoch, and the table that it is kept in.

use std::fmt::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
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

/// The table's file in a run's folder.
pub const FILE: &str = "metrics.csv";

const HEADER: &str = "epoch,lr,train_loss,train_accuracy,val_loss,val_accuracy,images_per_second,seconds";

/// Reads the table of a run.
pub fn read(path: &Path) -> Result<Vec<Epoch>> {
    let text = files::read_text(path)?;
    let refuse = |line: &str| Error::format(path, format!("line {line:?}"), format!("lines of {HEADER}"));
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    if header != HEADER {
        return Err(refuse(header));
    }
    let parse = |line: &str| -> Option<Epoch> {
        let (epoch, numbers) = line.split_once(',')?;
        let numbers: Vec<f64> = numbers.split(',').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let [lr, train_loss, train_accuracy, val_loss, val_accuracy, images_per_second, seconds] = numbers[..] else {
            return None;
        };
        let epoch = epoch.parse().ok()?;
        Some(Epoch { epoch, lr, train_loss, train_accuracy, val_loss, val_accuracy, images_per_second, seconds })
    };
    lines.map(|line| parse(line).ok_or_else(|| refuse(line))).collect()
}

/// Writes the table of all epochs so far.
pub fn write(path: &Path, epochs: &[Epoch]) -> Result<()> {
    let mut text = format!("{HEADER}\n");
    for e in epochs {
        let losses = format!("{},{},{},{}", e.train_loss, e.train_accuracy, e.val_loss, e.val_accuracy);
        let speed = format!("{:.1},{:.3}", e.images_per_second, e.seconds);
        writeln!(text, "{},{},{losses},{speed}", e.epoch, e.lr).expect("a string takes any text");
    }
    files::write(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_back_and_a_broken_line_is_shown() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        let epoch = Epoch {
            epoch: 1,
            lr: 5e-4,
            train_loss: 1.25,
            train_accuracy: 0.5,
            val_loss: 2.5,
            val_accuracy: 0.25,
            images_per_second: 100.0,
            seconds: 3.5,
        };
        write(&path, std::slice::from_ref(&epoch)).unwrap();
        assert_eq!(read(&path).unwrap(), [epoch]);
        std::fs::write(&path, format!("{HEADER}\n1,2\n")).unwrap();
        let expected = format!("`{}`: line \"1,2\"; expected lines of {HEADER}", path.display());
        assert_eq!(read(&path).unwrap_err().to_string(), expected);
    }
}
