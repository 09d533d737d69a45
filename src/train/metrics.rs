//! What a run says of each epoch, and the table that it is kept in.

use std::path::Path;

use csv::StringRecord;
use serde::{Deserialize, Serialize};

use crate::documents;
use crate::error::{Error, Result};
use crate::files;

/// One epoch: a row of `metrics.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    /// The learning rate of its last step.
    pub lr: f64,
    /// Mean loss over its training images, each as it was met: with dropout, weights still moving.
    pub train_loss: f64,
    /// Share of its training images with all digits right, measured likewise.
    pub train_accuracy: f64,
    /// Share of its training images with the right digit, per position from the left.
    pub train_digits: Vec<f64>,
    /// Mean loss over the validation images after it.
    pub val_loss: f64,
    /// Share of the validation images with all digits right after it.
    pub val_accuracy: f64,
    /// Share of the validation images with the right digit after it, per position from the left.
    pub val_digits: Vec<f64>,
    /// Training images per second, validation left out.
    pub images_per_second: f64,
    /// Time of the epoch in seconds, with validation.
    pub seconds: f64,
}

/// The table's file in a run's folder.
pub const FILE: &str = "metrics.csv";

/// The columns that every table has; after them one for each digit, `train_accuracy_1` to `val_accuracy_N`.
const COLUMNS: [&str; 8] =
    ["epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "images_per_second", "seconds"];

/// More digits per image than this has no run, whatever its table says.
const MAX_DIGITS: usize = 64;

fn header(digits: usize) -> Vec<String> {
    let each = |split: &'static str| (1..=digits).map(move |digit| format!("{split}_accuracy_{digit}"));
    COLUMNS.into_iter().map(str::to_owned).chain(each("train")).chain(each("val")).collect()
}

/// Reads the table of a run.
pub fn read(path: &Path) -> Result<Vec<Epoch>> {
    let text = files::read_text(path)?;
    let mut reader = csv::ReaderBuilder::new();
    let mut reader = reader.has_headers(false).flexible(true).quoting(false).from_reader(text.as_bytes());
    let mut records = reader.records();
    let mut next = || records.next().transpose().map_err(|e| Error::format(path, format!("not CSV ({e})"), "a table"));
    let first = next()?.unwrap_or_default();
    let digits = (first.len().saturating_sub(COLUMNS.len()) / 2).min(MAX_DIGITS);
    let header = header(digits);
    let refuse = |record: &StringRecord| {
        let line = record.iter().collect::<Vec<_>>().join(",");
        Error::format(path, format!("line {line:?}"), format!("lines of {}", header.join(",")))
    };
    // the reader passes over empty lines
    if text.lines().any(str::is_empty) {
        return Err(refuse(&StringRecord::new()));
    }
    if first != header {
        return Err(refuse(&first));
    }
    let mut epochs = Vec::new();
    while let Some(record) = next()? {
        epochs.push(parse(&record, digits).ok_or_else(|| refuse(&record))?);
    }
    Ok(epochs)
}

/// The epoch in a row of a table for so many digits; none where the row is of another form.
fn parse(record: &StringRecord, digits: usize) -> Option<Epoch> {
    let mut fields = record.iter();
    let epoch = fields.next()?.parse().ok()?;
    let numbers: Vec<f64> = fields.map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let (numbers, shares) = numbers.split_at_checked(COLUMNS.len() - 1)?;
    let [lr, train_loss, train_accuracy, val_loss, val_accuracy, images_per_second, seconds] = *numbers else {
        return None;
    };
    let (train, val) = shares.split_at_checked(digits)?;
    Some(Epoch {
        epoch,
        lr,
        train_loss,
        train_accuracy,
        train_digits: train.to_vec(),
        val_loss,
        val_accuracy,
        val_digits: (val.len() == digits).then(|| val.to_vec())?,
        images_per_second,
        seconds,
    })
}

/// The table of all epochs so far of a network for so many digits.
pub fn text(digits: usize, epochs: &[Epoch]) -> String {
    let row = |e: &Epoch| {
        let mut row = vec![e.epoch.to_string()];
        row.extend([e.lr, e.train_loss, e.train_accuracy, e.val_loss, e.val_accuracy].map(|value| value.to_string()));
        row.extend([format!("{:.1}", e.images_per_second), format!("{:.3}", e.seconds)]);
        row.extend(e.train_digits.iter().chain(&e.val_digits).map(f64::to_string));
        row
    };
    documents::csv(std::iter::once(header(digits)).chain(epochs.iter().map(row)))
}

/// Writes the table of all epochs so far of a network for so many digits.
pub fn write(path: &Path, digits: usize, epochs: &[Epoch]) -> Result<()> {
    files::replace(path, text(digits, epochs).as_bytes())
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
            train_digits: vec![0.75, 0.625],
            val_loss: 2.5,
            val_accuracy: 0.25,
            val_digits: vec![0.5, 0.375],
            images_per_second: 100.0,
            seconds: 3.5,
        };
        write(&path, 2, &[]).unwrap();
        assert_eq!(read(&path).unwrap(), []);
        write(&path, 2, std::slice::from_ref(&epoch)).unwrap();
        assert_eq!(read(&path).unwrap(), [epoch]);
        let header = "epoch,lr,train_loss,train_accuracy,val_loss,val_accuracy,images_per_second,seconds,\
                      train_accuracy_1,train_accuracy_2,val_accuracy_1,val_accuracy_2";
        for line in ["1,2", "1,2,3,4,5,6,7,8,9,10,11", "1,2,3,4,5,6,7,8,9,10,11,12,13", "x,2,3,4,5,6,7,8,9,10,11,12"] {
            std::fs::write(&path, format!("{header}\n{line}\n")).unwrap();
            let expected = format!("`{}`: line {line:?}; expected lines of {header}", path.display());
            assert_eq!(read(&path).unwrap_err().to_string(), expected);
        }
    }
}
