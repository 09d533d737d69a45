//! The stage `evaluate`: a trained network's predictions on splits it did not learn from, and what they come to.
//!
//! The network is rebuilt from its file of weights alone. Every number that is shown later comes from [`Metrics`].

mod predictions;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::nn::Model;
use crate::nn::cpu::memory;
use crate::nn::weights;
use crate::progress::Progress;
use crate::shards::Split;
use crate::train::batch::{Normalise, Scores, score};

/// Evaluating a trained network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Images per forward pass; has no influence on the results beyond rounding.
    pub batch_size: usize,
    /// Which weights of the run: `best` (lowest validation loss) or `last`.
    pub weights: Weights,
    /// Evaluate on the first so many images of each split only; null: on all.
    pub samples: Option<usize>,
}

/// Which weights of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// Those of the epoch with the lowest validation loss.
    Best,
    /// Those of the last epoch.
    Last,
}

impl Weights {
    /// The file's name in a run's folder `weights`.
    pub fn file(self) -> &'static str {
        match self {
            Weights::Best => "best.safetensors",
            Weights::Last => "last.safetensors",
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config { batch_size: 500, weights: Weights::Best, samples: None }
    }
}

impl Config {
    /// Refuses values that cannot work, before any work.
    pub fn validate(&self) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::value("evaluate.batch_size", 0, "at least 1"));
        }
        if self.samples == Some(0) {
            return Err(Error::value("evaluate.samples", 0, "at least 1, or null for all"));
        }
        Ok(())
    }
}

/// What stands in `metrics.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The architecture.
    pub model: Model,
    /// The number of parameters.
    pub parameters: usize,
    /// The epoch, counted from 1, that the weights are of.
    pub epoch: usize,
    /// The results, a split each.
    pub splits: Vec<SplitMetrics>,
}

/// The file of [`Metrics`].
pub const FILE: &str = "metrics.json";

impl Metrics {
    /// Reads the numbers of an evaluated run.
    pub fn read(path: &Path) -> Result<Metrics> {
        let refuse = |e: serde_json::Error| {
            Error::format(path, format!("not metrics ({e})"), "what `evaluate` writes; evaluate the run again")
        };
        serde_json::from_str(&files::read_text(path)?).map_err(refuse)
    }
}

/// The results on one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitMetrics {
    /// The split's name.
    pub split: String,
    /// Images that were looked at.
    pub samples: usize,
    /// Share of images with all digits right.
    pub accuracy: f64,
    /// Sum over the heads of the mean cross entropy.
    pub loss: f64,
    /// Share of images with the right digit, per position from the left.
    pub digit_accuracy: Vec<f64>,
}

impl SplitMetrics {
    fn new(split: &str, scores: &Scores) -> SplitMetrics {
        let share = |count: &usize| *count as f64 / scores.images as f64;
        SplitMetrics {
            split: split.to_owned(),
            samples: scores.images,
            accuracy: scores.accuracy(),
            loss: scores.mean_loss(),
            digit_accuracy: scores.correct_digits.iter().map(share).collect(),
        }
    }
}

/// Evaluates the network in the file `weights` on `splits`, named; writes `metrics.json` and `predictions.parquet` into
/// the folder `out`.
///
/// # Errors
/// [`Error::Format`] for weights that are damaged, or of a network for other images than the splits hold.
pub fn run(
    config: &Config,
    weights: &Path,
    splits: &[(&str, &Split)],
    out: &Path,
    progress: &Progress,
) -> Result<Vec<SplitMetrics>> {
    config.validate()?;
    let (network, description) = weights::load(weights)?;
    let shape = network.shape();
    for (name, split) in splits {
        if split.is_empty() {
            return Err(Error::EmptySplit { split: (*name).to_owned() });
        }
        let (ours, theirs) = ((shape.digits, shape.height, shape.width), (split.digits, split.height, split.width));
        if ours != theirs {
            let text = |(digits, height, width)| format!("{digits} digits on {height}x{width} pixels");
            let expected = format!("{}, as the {name} split has; train on this data set first", text(theirs));
            return Err(Error::format(weights, format!("a network for {}", text(ours)), expected));
        }
    }
    memory::keep_freed();
    let normalise = Normalise::new(description.mean, description.std);
    let (mut metrics, mut table) = (Vec::new(), Vec::new());
    for (name, split) in splits {
        let images = config.samples.unwrap_or(split.len()).min(split.len());
        progress.begin(&format!("evaluate {name}"), images as u64, "images")?;
        let advance = |images| progress.advance(images as u64);
        let scores = score(&network, &normalise, split, images, config.batch_size, advance)?;
        progress.end();
        let row = SplitMetrics::new(name, &scores);
        progress.note(&format!(
            "{name}: accuracy {:.2}%, loss {:.4}, on {images} images",
            100.0 * row.accuracy,
            row.loss
        ));
        metrics.push(row);
        table.push((*name, *split, scores.predicted));
    }
    predictions::write(&out.join("predictions.parquet"), &table)?;
    let all =
        Metrics { model: shape.model, parameters: network.store().count(), epoch: description.epoch, splits: metrics };
    let text = serde_json::to_string_pretty(&all).expect("numbers and names are JSON");
    files::write(&out.join(FILE), format!("{text}\n").as_bytes())?;
    Ok(all.splits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_work_are_refused_with_their_key() {
        let refusal = |config: Config| config.validate().unwrap_err().to_string();
        Config::default().validate().unwrap();
        assert_eq!(
            refusal(Config { batch_size: 0, ..Config::default() }),
            "`evaluate.batch_size`: found 0; expected at least 1"
        );
        assert_eq!(
            refusal(Config { samples: Some(0), ..Config::default() }),
            "`evaluate.samples`: found 0; expected at least 1, or null for all"
        );
    }
}
