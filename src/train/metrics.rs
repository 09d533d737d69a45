//! The metrics of an epoch, and the table in which a run stores them.

use std::path::Path;

use csv::StringRecord;
use serde::{Deserialize, Serialize};

use crate::documents;
use crate::error::{Error, Result};
use crate::files;

/// The metrics of one epoch: a row of `metrics.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// The number of the epoch, counted from 1.
    pub epoch: usize,
    /// The learning rate of the last step.
    pub lr: f64,
    /// The mean loss over the training images, each measured in its own step: with dropout, and with
    /// the weights of that step.
    pub train_loss: f64,
    /// The share of training images with all digits right, measured in the same way.
    pub train_accuracy: f64,
    /// The share of training images with the right digit, for each position from the left, measured in the same way.
    pub train_digits: Vec<f64>,
    /// The mean loss over the validation images after the epoch.
    pub val_loss: f64,
    /// The share of validation images with all digits right after the epoch.
    pub val_accuracy: f64,
    /// The share of validation images with the right digit after the epoch, for each position from the left.
    pub val_digits: Vec<f64>,
    /// The training images per second, without validation.
    pub images_per_second: f64,
    /// The time of the epoch in seconds, with validation.
    pub seconds: f64,
}

/// The name of the table in the folder of a run.
pub const FILE: &str = "metrics.csv";

/// The columns of every table. They are followed by one column for each digit, `train_accuracy_1` to `val_accuracy_N`.
const COLUMNS: [&str; 8] =
    ["epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "images_per_second", "seconds"];

/// The maximum number of digits per image. A table with more is rejected.
const MAX_DIGITS: usize = 64;

/// The maximum number of bytes in a line. A header for 64 digits has 3 kB. The CSV reader needs many times the memory of a
/// line, so a longer one is rejected before.
const MAX_LINE: usize = 64 << 10;

/// The decimals of the images per second and of the seconds in the table.
const RATE_DECIMALS: usize = 1;
const SECONDS_DECIMALS: usize = 3;

impl Epoch {
    /// The epoch with its speed and its time as the table holds them. An interrupted run, which reads them from there, then goes
    /// on with the numbers of one that was never interrupted.
    pub fn rounded(self) -> Epoch {
        let rounded = |value: f64, decimals: usize| {
            let scale = 10f64.powi(decimals as i32);
            (value * scale).round() / scale
        };
        let images_per_second = rounded(self.images_per_second, RATE_DECIMALS);
        Epoch { images_per_second, seconds: rounded(self.seconds, SECONDS_DECIMALS), ..self }
    }
}

fn header(digits: usize) -> Vec<String> {
    let each = |split: &'static str| (1..=digits).map(move |digit| format!("{split}_accuracy_{digit}"));
    COLUMNS.into_iter().map(str::to_owned).chain(each("train")).chain(each("val")).collect()
}

/// Reads the table of a run.
pub fn read(path: &Path) -> Result<Vec<Epoch>> {
    let text = files::read_text(path)?;
    let columns = text.lines().next().unwrap_or_default().split(',').count();
    let digits = (columns.saturating_sub(COLUMNS.len()) / 2).min(MAX_DIGITS);
    let header = header(digits);
    let wrong = |line: &str| Error::format(path, format!("line {line:?}"), format!("lines of {}", header.join(",")));
    // the CSV reader skips empty lines
    if let Some(line) = text.lines().find(|line| line.is_empty() || line.len() > MAX_LINE) {
        return Err(wrong(line));
    }
    let refuse = |record: &StringRecord| wrong(&record.iter().collect::<Vec<_>>().join(","));
    let mut reader = csv::ReaderBuilder::new();
    let mut reader = reader.has_headers(false).flexible(true).quoting(false).from_reader(text.as_bytes());
    let mut records = reader.records();
    let mut next = || records.next().transpose().map_err(|e| Error::format(path, format!("not CSV ({e})"), "a table"));
    let first = next()?.unwrap_or_default();
    if first != header {
        return Err(refuse(&first));
    }
    let mut epochs = Vec::new();
    while let Some(record) = next()? {
        epochs.push(parse(&record, digits).ok_or_else(|| refuse(&record))?);
    }
    Ok(epochs)
}

/// The epoch in a row of a table for `digits` digits; `None` if the row has another form.
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

/// The text of the table of all epochs so far, for a network with `digits` digits.
pub fn text(digits: usize, epochs: &[Epoch]) -> String {
    let row = |e: &Epoch| {
        let mut row = vec![e.epoch.to_string()];
        row.extend([e.lr, e.train_loss, e.train_accuracy, e.val_loss, e.val_accuracy].map(|value| value.to_string()));
        row.extend([format!("{:.RATE_DECIMALS$}", e.images_per_second), format!("{:.SECONDS_DECIMALS$}", e.seconds)]);
        row.extend(e.train_digits.iter().chain(&e.val_digits).map(f64::to_string));
        row
    };
    documents::csv(std::iter::once(header(digits)).chain(epochs.iter().map(row)))
}

/// Writes the table of all epochs so far, for a network with `digits` digits.
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
        let measured = Epoch { images_per_second: 312.345_678, seconds: 2.0 / 3.0, ..epoch.clone() }.rounded();
        for epoch in [epoch, measured] {
            write(&path, 2, std::slice::from_ref(&epoch)).unwrap();
            assert_eq!(read(&path).unwrap(), [epoch]);
        }
        let header = "epoch,lr,train_loss,train_accuracy,val_loss,val_accuracy,images_per_second,seconds,\
                      train_accuracy_1,train_accuracy_2,val_accuracy_1,val_accuracy_2";
        for line in
            ["", "1,2", "1,2,3,4,5,6,7,8,9,10,11", "1,2,3,4,5,6,7,8,9,10,11,12,13", "x,2,3,4,5,6,7,8,9,10,11,12"]
        {
            std::fs::write(&path, format!("{header}\n{line}\n")).unwrap();
            let expected = format!("`{}`: line {line:?}; expected lines of {header}", path.display());
            assert_eq!(read(&path).unwrap_err().to_string(), expected);
        }
        std::fs::write(&path, format!("{header}\n{}\n", "7".repeat(MAX_LINE + 1))).unwrap();
        let error = read(&path).unwrap_err().to_string();
        let expected = format!("... ({} bytes); expected lines of {header}", MAX_LINE + 1 + "line \"\"".len());
        assert!(error.ends_with(&expected), "{error}");
    }
}
