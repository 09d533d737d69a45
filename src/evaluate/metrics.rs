//! `metrics.json`: the metrics of a network's predictions. Every number about an evaluated network in the report, in a
//! model card and in `multidigit runs` is read from these structures.
//!
//! The structures are plain data, computed from [`Predictions`] alone. docs/metrics.md describes each value, and
//! docs/metrics.schema.json is the JSON Schema of the file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Weights;
use super::forward::Predictions;
use super::statistics::{Accuracy, Calibration, Confusion, confusion, macro_f1};
use crate::documents;
use crate::error::{Error, Result};
use crate::files;
use crate::labels::class_name_of;
use crate::networks::{CLASSES, Model};
use multidigit_nn::Precision;

/// The name of the file that holds [`Metrics`].
pub const FILE: &str = "metrics.json";

/// The version of the file's format. It is raised when a value changes its name or meaning.
pub const VERSION: u32 = 2;

/// The maximum number of classes whose accuracies are listed. With more, the list would be larger than the predictions.
const MOST_CLASSES: usize = 1000;

/// The maximum numbers of wrong pairs and of worst mistakes that are kept for a split.
const MOST_CONFUSIONS: usize = 50;
const MOST_MISTAKES: usize = 24;

/// The content of `metrics.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// The version of this file's format: 2.
    pub version: u32,
    /// The architecture.
    pub model: Model,
    /// The number of parameters.
    pub parameters: usize,
    /// The weights of the run that were evaluated.
    pub weights: Weights,
    /// The precision of products; float32 if it is missing.
    #[serde(default = "float32", skip_serializing_if = "is_float32")]
    pub precision: Precision,
    /// The epoch that the weights are from, counted from 1.
    pub epoch: usize,
    /// The number of digits per image: the network's heads.
    pub digits: usize,
    /// The height and width of the images in pixels.
    pub image_size: [usize; 2],
    /// The files or folders that were evaluated instead of the data set; empty for the data set's val and test.
    pub data: Vec<String>,
    /// The results of each split.
    pub splits: Vec<SplitMetrics>,
}

fn float32() -> Precision {
    Precision::F32
}

fn is_float32(precision: &Precision) -> bool {
    *precision == Precision::F32
}

/// The results on one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitMetrics {
    /// The name of the split.
    pub split: String,
    /// The number of images that were evaluated.
    pub samples: usize,
    /// The loss: the sum over the positions of the mean cross entropy.
    pub loss: f64,
    /// Joint-digit accuracy: the share of images with all digits right.
    pub accuracy: Accuracy,
    /// Calibration of the joint probability: the product over the positions of the largest probability.
    pub calibration: Calibration,
    /// The results at each position, from the left.
    pub positions: Vec<PositionMetrics>,
    /// The results for each class that occurs, in order; empty if more than 1000 classes occur.
    pub classes: Vec<ClassMetrics>,
    /// The most frequent wrong answers, at most 50, the most frequent first.
    pub confusions: Vec<ClassConfusion>,
    /// The worst mistakes: the wrong answers of the highest probability, at most 24, the worst first.
    pub mistakes: Vec<Mistake>,
}

/// The results at one position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PositionMetrics {
    /// The position, counted from 1 on the left.
    pub position: usize,
    /// The share of images with the right digit at this position.
    pub accuracy: Accuracy,
    /// The mean of the F1 scores of the digits that occur or were predicted at this position.
    pub macro_f1: f64,
    /// Calibration of the largest probability at this position.
    pub calibration: Calibration,
    /// How often each digit (row) was taken for each digit (column).
    pub confusion: Confusion,
}

/// The results for one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassMetrics {
    /// The digits of the class.
    pub class: String,
    /// The share of the class's images with all digits right.
    pub accuracy: Accuracy,
}

/// A class that was taken for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassConfusion {
    /// The right class.
    pub class: String,
    /// The class found.
    pub predicted: String,
    /// The number of images.
    pub count: u64,
}

/// An image with a wrong answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mistake {
    /// The image's row in its split, counted from 0.
    pub row: usize,
    /// The image's index in its class.
    pub index: i64,
    /// The right class.
    pub class: String,
    /// The class found.
    pub predicted: String,
    /// The joint probability of the class found.
    pub probability: f64,
    /// The joint probability of the right class.
    pub class_probability: f64,
}

impl Metrics {
    /// Reads the metrics of an evaluated run.
    ///
    /// # Errors
    /// [`Error::Format`] if the file does not hold metrics of this version.
    pub fn read(path: &Path) -> Result<Metrics> {
        let refuse = |found: String| {
            Error::format(path, found, format!("what `evaluate` writes, version {VERSION}; evaluate the run again"))
        };
        let metrics: Metrics =
            serde_json::from_str(&files::read_text(path)?).map_err(|e| refuse(format!("not metrics ({e})")))?;
        match metrics.version {
            VERSION => Ok(metrics),
            other => Err(refuse(format!("metrics of version {other}"))),
        }
    }

    /// Writes the metrics. Numbers are rounded to 15 significant digits, which every JSON reader preserves.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut tree = serde_json::json!(self);
        shorten(&mut tree);
        files::write(path, format!("{tree:#}\n").as_bytes())
    }

    /// The results on a split, if it was evaluated.
    pub fn split(&self, name: &str) -> Option<&SplitMetrics> {
        self.splits.iter().find(|split| split.split == name)
    }

    /// The JSON Schema of the file.
    pub fn schema() -> Value {
        schemars::schema_for!(Metrics).to_value()
    }
}

/// Rounds every floating-point number in a tree to 15 significant digits.
fn shorten(tree: &mut Value) {
    match tree {
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(map) => map.values_mut().for_each(shorten),
        Value::Number(number) if number.is_f64() => {
            let short = number.as_f64().and_then(|value| format!("{value:.14e}").parse().ok());
            if let Some(short) = short.and_then(serde_json::Number::from_f64) {
                *number = short;
            }
        }
        _ => {}
    }
}

impl SplitMetrics {
    /// Computes the metrics of the predictions for a split. `index` holds the index of each image in its class.
    pub fn new(split: &str, index: &[i64], predictions: &Predictions) -> SplitMetrics {
        let images = || 0..predictions.len();
        let largest = |image: usize| predictions.joint(image, predictions.predicted(image));
        SplitMetrics {
            split: split.to_owned(),
            samples: predictions.len(),
            loss: predictions.loss / predictions.len() as f64,
            accuracy: Accuracy::of(images().map(|image| predictions.is_correct(image))),
            calibration: Calibration::of(images().map(|image| (largest(image), predictions.is_correct(image)))),
            positions: (0..predictions.digits).map(|position| PositionMetrics::new(position, predictions)).collect(),
            classes: classes(predictions),
            confusions: confusions(predictions),
            mistakes: mistakes(index, predictions),
        }
    }
}

impl PositionMetrics {
    fn new(position: usize, predictions: &Predictions) -> PositionMetrics {
        let pair = |image: usize| predictions.at(image, position);
        let pairs = || (0..predictions.len()).map(pair);
        let counts = confusion(pairs());
        let confidence = |image: usize| {
            let (target, predicted) = pair(image);
            (predictions.probability(image, position, predicted), target == predicted)
        };
        PositionMetrics {
            position: position + 1,
            accuracy: Accuracy::of(pairs().map(|(target, predicted)| target == predicted)),
            macro_f1: macro_f1(&counts),
            calibration: Calibration::of((0..predictions.len()).map(confidence)),
            confusion: counts,
        }
    }
}

fn classes(predictions: &Predictions) -> Vec<ClassMetrics> {
    let mut counts: BTreeMap<&[u8], (u64, u64)> = BTreeMap::new();
    for image in 0..predictions.len() {
        let count = counts.entry(predictions.truth(image)).or_default();
        count.0 += u64::from(predictions.is_correct(image));
        count.1 += 1;
    }
    let class = |(digits, (correct, samples))| ClassMetrics {
        class: class_name_of(digits),
        accuracy: Accuracy::new(correct, samples),
    };
    match counts.len() <= MOST_CLASSES {
        true => counts.into_iter().map(class).collect(),
        false => Vec::new(),
    }
}

fn confusions(predictions: &Predictions) -> Vec<ClassConfusion> {
    let mut counts: BTreeMap<(&[u8], &[u8]), u64> = BTreeMap::new();
    for image in (0..predictions.len()).filter(|&image| !predictions.is_correct(image)) {
        *counts.entry((predictions.truth(image), predictions.predicted(image))).or_default() += 1;
    }
    let mut all: Vec<_> = counts.into_iter().collect();
    all.sort_by_key(|&(_, count)| std::cmp::Reverse(count)); // stable: among equal counts, the lower class comes first
    all.truncate(MOST_CONFUSIONS);
    let named = |((class, predicted), count)| ClassConfusion {
        class: class_name_of(class),
        predicted: class_name_of(predicted),
        count,
    };
    all.into_iter().map(named).collect()
}

fn mistakes(index: &[i64], predictions: &Predictions) -> Vec<Mistake> {
    let wrong = (0..predictions.len()).filter(|&image| !predictions.is_correct(image));
    let mut wrong: Vec<(f64, usize)> =
        wrong.map(|image| (predictions.joint(image, predictions.predicted(image)), image)).collect();
    wrong.sort_by(|a, b| b.0.total_cmp(&a.0)); // stable: among equal probabilities, the earlier row comes first
    wrong.truncate(MOST_MISTAKES);
    let mistake = |(probability, row): (f64, usize)| Mistake {
        row,
        index: index.get(row).copied().unwrap_or_default(),
        class: class_name_of(predictions.truth(row)),
        predicted: class_name_of(predictions.predicted(row)),
        probability,
        class_probability: predictions.joint(row, predictions.truth(row)),
    };
    wrong.into_iter().map(mistake).collect()
}

/// A confusion matrix as CSV, with one row for each right digit.
pub fn confusion_csv(counts: &Confusion) -> String {
    let row = |head: String, cells: Vec<String>| std::iter::once(head).chain(cells);
    let heading = row("digit".to_owned(), (0..CLASSES).map(|digit| format!("found_{digit}")).collect());
    let rows = counts.iter().enumerate();
    let rows = rows.map(|(digit, counts)| row(digit.to_string(), counts.iter().map(u64::to_string).collect()));
    documents::csv(std::iter::once(heading).chain(rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::digits;

    /// Predictions for images of one digit, from tuples of the right digit, the digit found, the probability of the
    /// digit found, and the probability of the right digit.
    fn answers(images: &[(u8, u8, f64, f64)]) -> Predictions {
        let mut all = Predictions { digits: 1, loss: images.len() as f64, ..Predictions::default() };
        for &(right, found, most, of_right) in images {
            all.targets.push(right);
            all.predicted.push(found);
            let mut row = [0.0; CLASSES];
            row[usize::from(right)] = of_right;
            row[usize::from(found)] = most;
            all.probabilities.extend(row);
        }
        all
    }

    #[test]
    fn the_numbers_of_a_split_are_those_counted_by_hand() {
        let images = [(1, 1, 0.9, 0.9), (1, 7, 0.6, 0.3), (1, 7, 0.8, 0.1), (4, 9, 0.7, 0.2), (4, 4, 1.0, 1.0)];
        let found = SplitMetrics::new("val", &[10, 11, 12, 13, 14], &answers(&images));
        assert_eq!((found.samples, found.loss, found.accuracy), (5, 1.0, Accuracy::new(2, 5)));
        let classes: Vec<_> =
            found.classes.iter().map(|class| (class.class.as_str(), class.accuracy.correct)).collect();
        assert_eq!(classes, [("1", 1), ("4", 1)]);
        let pairs: Vec<_> =
            found.confusions.iter().map(|c| (c.class.as_str(), c.predicted.as_str(), c.count)).collect();
        assert_eq!(pairs, [("1", "7", 2), ("4", "9", 1)]);
        let rows: Vec<_> =
            found.mistakes.iter().map(|m| (m.row, m.index, m.probability, m.class_probability)).collect();
        assert_eq!(rows, [(2, 12, 0.8, 0.1), (3, 13, 0.7, 0.2), (1, 11, 0.6, 0.3)]);
        let position = &found.positions[0];
        assert_eq!((position.position, position.confusion[1][7], position.accuracy.correct), (1, 2, 2));
        // F1 of 1: 2/4, of 4: 2/3, of 7 and 9: 0
        assert!((position.macro_f1 - (0.5 + 2.0 / 3.0) / 4.0).abs() < 1e-15);
        assert!(confusion_csv(&position.confusion).contains("\n4,0,0,0,0,1,0,0,0,0,1\n"));
    }

    #[test]
    fn the_classes_are_listed_unless_there_are_more_than_a_thousand() {
        for classes in [1000, 1001] {
            let targets: Vec<u8> = (0..classes).flat_map(|label| digits(label, 4)).collect();
            let probabilities = vec![0.1; targets.len() * CLASSES];
            let all = Predictions { digits: 4, loss: 0.0, predicted: targets.clone(), targets, probabilities };
            let found = SplitMetrics::new("val", &vec![0; classes as usize], &all);
            assert_eq!((found.samples, found.accuracy.value), (classes as usize, 1.0));
            assert_eq!(found.classes.len(), if classes == 1000 { 1000 } else { 0 });
        }
    }

    #[test]
    fn the_committed_schema_is_that_of_the_structures() {
        let committed = include_str!("../../docs/metrics.schema.json");
        let here = format!("{:#}\n", Metrics::schema());
        assert_eq!(committed, here, "write it anew: multidigit schema metrics > docs/metrics.schema.json");
    }

    #[test]
    fn metrics_of_another_version_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        let metrics = Metrics {
            precision: Precision::F32,
            version: VERSION,
            model: Model::Fcn,
            parameters: 1,
            weights: Weights::Last,
            epoch: 3,
            digits: 1,
            image_size: [60, 60],
            data: Vec::new(),
            splits: vec![SplitMetrics::new("val", &[0], &answers(&[(1, 1, 0.9, 0.9)]))],
        };
        metrics.write(&path).unwrap();
        let read = Metrics::read(&path).unwrap();
        assert_eq!(format!("{:.12?}", read), format!("{:.12?}", metrics));
        read.write(&path).unwrap();
        assert_eq!(Metrics::read(&path).unwrap(), read, "what was read is written and read as it is");
        Metrics { version: 1, ..metrics }.write(&path).unwrap();
        let expected = "expected what `evaluate` writes, version 2; evaluate the run again";
        let refusal = |path: &Path| Metrics::read(path).unwrap_err().to_string();
        assert_eq!(refusal(&path), format!("`{}`: metrics of version 1; {expected}", path.display()));
        std::fs::write(&path, "{}").unwrap();
        let found = refusal(&path);
        assert!(found.contains("not metrics (missing field `version`") && found.ends_with(expected), "{found}");
    }
}
