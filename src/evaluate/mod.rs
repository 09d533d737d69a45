//! The stage `evaluate`: runs a trained network on splits that it was not trained on, and computes
//! metrics of its predictions.
//!
//! The network is rebuilt from its file of weights alone. Every number that is shown later comes from [`Metrics`].

mod error;
#[allow(clippy::indexing_slicing, reason = "arithmetic on answers in memory, ten probabilities each")]
pub mod forward;
pub mod metrics;
mod predictions;
#[allow(clippy::indexing_slicing, reason = "arithmetic on answers in memory, ten probabilities each")]
pub mod statistics;

pub use self::error::EvaluateError;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::forward::predict;
pub use self::metrics::{FILE, Metrics, SplitMetrics};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::networks::weights;
use crate::progress::Progress;
use crate::shards::{Split, foreign, read_split};
use crate::train::TrainError;
use crate::train::batch::Normalise;
use crate::train::or_device_memory;
use crate::train::{self, Device, gpu};
use multidigit_nn::Precision;
use multidigit_nn::cpu::memory;

/// The name of the file of predictions.
pub const PREDICTIONS: &str = "predictions.parquet";

/// The splits of a data set that are evaluated.
const SPLITS: [&str; 2] = ["val", "test"];

/// The configuration of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Images per forward pass; has no influence on the results beyond rounding.
    pub batch_size: usize,
    /// The device: `cpu`, or `cuda` for the first NVIDIA GPU, in a program that was built for it.
    pub device: Device,
    /// The precision of products, as for `train.precision`.
    pub precision: Precision,
    /// Which weights of the run: `best` (lowest validation loss), `last`, or `ema` (the average that `train.ema` makes).
    pub weights: Weights,
    /// Number of images of each split to use, from the first on; null: all.
    pub samples: Option<usize>,
    /// Other images to evaluate on: a Parquet file, a folder of Parquet files, or a list of both; null: the data set's
    /// val and test. Files have the schema of this program's shards, of which the columns `image` and `label` are
    /// enough if a label spells the digits, as in MNIST on Hugging Face. From a folder, every split except train is
    /// taken. The results have their own folder, RUN@NAME-DIGEST, whose digest is that of the files.
    pub data: Option<Paths>,
}

/// A path, or a list of paths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "expected a path, a list of paths, or null")]
pub enum Paths {
    /// A single path.
    One(PathBuf),
    /// A list of paths.
    Many(Vec<PathBuf>),
}

impl Paths {
    /// The paths.
    pub fn as_slice(&self) -> &[PathBuf] {
        match self {
            Paths::One(path) => std::slice::from_ref(path),
            Paths::Many(paths) => paths,
        }
    }
}

/// The weights of a run that are evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// The weights of the epoch with the lowest validation loss.
    Best,
    /// The weights of the last epoch.
    Last,
    /// The moving average of the weights after the last epoch.
    Ema,
}

impl Weights {
    /// The name of the file in a run's folder `weights`.
    pub fn file(self) -> &'static str {
        match self {
            Weights::Best => "best.safetensors",
            Weights::Last => "last.safetensors",
            Weights::Ema => "ema.safetensors",
        }
    }

    /// The name of the weights, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Weights::Best => "best",
            Weights::Last => "last",
            Weights::Ema => "ema",
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            batch_size: 500,
            device: Device::Cpu,
            precision: Precision::F32,
            weights: Weights::Best,
            samples: None,
            data: None,
        }
    }
}

impl Config {
    /// Returns an error for values that cannot work, before any work.
    pub fn validate(&self) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::value("evaluate.batch_size", 0, "at least 1"));
        }
        if self.device == Device::Cuda && !cfg!(feature = "cuda") {
            return Err(train::no_cuda("evaluate.device"));
        }
        if self.samples == Some(0) {
            return Err(Error::value("evaluate.samples", 0, "at least 1, or null for all"));
        }
        if self.others().is_some_and(<[PathBuf]>::is_empty) {
            return Err(Error::value("evaluate.data", "[]", "at least one path, or null for the data set"));
        }
        Ok(())
    }

    /// The paths of the images to evaluate on instead of the data set; `None` for the data set.
    pub fn others(&self) -> Option<&[PathBuf]> {
        self.data.as_ref().map(Paths::as_slice)
    }

    /// The name of the other images, made from the name of their file or folder; `None` for the data set.
    pub fn data_name(&self) -> Option<String> {
        let paths = self.others()?;
        // the name `data` says less than the name of the folder around it
        let named = paths.iter().flat_map(|path| path.iter().rev()).find(|part| *part != "data");
        let named = named.map(Path::new).and_then(Path::file_stem).unwrap_or_default().to_string_lossy();
        let more = if paths.len() > 1 { format!("-and-{}-more", paths.len() - 1) } else { String::new() };
        Some(format!("{named}{more}"))
    }
}

/// Reads the splits, with their names, to evaluate the network in the file `weights` on. They are the other images, if
/// the configuration names any, and otherwise val and test in `data`, the folder of the data set's shards. `recorded`
/// is the digest of the weights in the record of their run, if the run has one.
pub fn read(config: &Config, weights: &Path, recorded: Option<Digest>, data: &Path) -> Result<Vec<(String, Split)>> {
    match config.others() {
        None => SPLITS.map(|name| Ok((name.to_owned(), read_split(data, name, config.samples)?))).into_iter().collect(),
        Some(paths) => {
            let digits = weights::load(weights, recorded, &candle_core::Device::Cpu, Precision::F32)?.0.shape().digits;
            let splits = foreign::splits(paths)?;
            splits.into_iter().map(|(name, files)| Ok((name, foreign::read(&files, digits, config.samples)?))).collect()
        }
    }
}

/// Evaluates the network in the file `weights` on named `splits`. Writes `metrics.json`, `predictions.parquet` and, for
/// each split and position, a `confusion_SPLIT_POSITION.csv` into the folder `out`.
///
/// # Errors
/// [`Error::Format`] if the weights are damaged, or if their network takes other images than the splits hold;
/// [`TrainError::EmptySplit`]; [`TrainError::DeviceMemory`].
pub fn run(
    config: &Config,
    weights: &Path,
    recorded: Option<Digest>,
    splits: &[(&str, &Split)],
    out: &Path,
    progress: &Progress,
) -> Result<Metrics> {
    config.validate()?;
    train::check_precision("evaluate.precision", config.device, config.precision)?;
    let device = match config.device {
        Device::Cpu => candle_core::Device::Cpu,
        Device::Cuda => gpu::open("evaluate.device", config.precision, true)?.device(),
    };
    let advice = "a smaller `evaluate.batch_size`, or `evaluate.device` cpu";
    let (network, description) = weights::load(weights, recorded, &device, config.precision)
        .map_err(|error| or_device_memory(error, || "the network".to_owned(), advice))?;
    let shape = network.shape();
    for (name, split) in splits {
        if split.is_empty() {
            return Err(Error::from(TrainError::EmptySplit { split: (*name).to_owned() }));
        }
        let (ours, theirs) = ((shape.digits, shape.height, shape.width), (split.digits, split.height, split.width));
        if ours != theirs {
            let text = |(digits, height, width)| {
                format!("{digits} digit{} on {height}x{width} pixels", if digits == 1 { "" } else { "s" })
            };
            let expected = format!("{}, as the {name} split has; train on this data set first", text(theirs));
            return Err(Error::format(weights, format!("a network for {}", text(ours)), expected));
        }
    }
    memory::keep_freed();
    let normalise = Normalise::new(description.mean, description.std);
    let (mut measured, mut predicted) = (Vec::new(), Vec::new());
    for (name, split) in splits {
        let images = config.samples.unwrap_or(split.len()).min(split.len());
        progress.begin(&format!("evaluate {name}"), images as u64, "images")?;
        let advance = |images| progress.advance(images as u64);
        let predictions =
            predict(&network, &normalise, split, images, config.batch_size, advance).map_err(|error| {
                or_device_memory(error, || format!("a forward pass of {} images", config.batch_size), advice)
            })?;
        progress.end();
        let metrics = SplitMetrics::new(name, &split.index, &predictions);
        progress.note(&format!(
            "{name}: accuracy {:.2}%, loss {:.4}, on {images} images",
            100.0 * metrics.accuracy.value,
            metrics.loss
        ));
        for position in &metrics.positions {
            let file = out.join(format!("confusion_{name}_{}.csv", position.position));
            files::write(&file, metrics::confusion_csv(&position.confusion).as_bytes())?;
        }
        measured.push(metrics);
        predicted.push((*name, *split, predictions));
    }
    predictions::write(&out.join(PREDICTIONS), &predicted)?;
    let metrics = Metrics {
        version: metrics::VERSION,
        model: shape.model,
        parameters: network.store().count(),
        weights: config.weights,
        precision: config.precision,
        epoch: description.epoch,
        digits: shape.digits,
        image_size: [shape.height, shape.width],
        data: config.others().unwrap_or_default().iter().map(|path| path.display().to_string()).collect(),
        splits: measured,
    };
    metrics.write(&out.join(FILE))?;
    Metrics::read(&out.join(FILE)) // every number is one that the file gives back
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
        assert_eq!(
            refusal(Config { data: Some(Paths::Many(Vec::new())), ..Config::default() }),
            "`evaluate.data`: found []; expected at least one path, or null for the data set"
        );
    }

    #[test]
    fn other_data_are_named_after_their_file_or_folder() {
        let named = |paths: &[&str]| {
            let paths = paths.iter().map(PathBuf::from).collect();
            Config { data: Some(Paths::Many(paths)), ..Config::default() }.data_name().unwrap()
        };
        assert_eq!(Config::default().data_name(), None);
        assert_eq!(named(&["/x/mnist/test-00000-of-00001.parquet"]), "test-00000-of-00001");
        assert_eq!(named(&["other/dataset/data/", "b c.parquet"]), "dataset-and-1-more");
    }

    #[test]
    fn data_is_a_path_or_a_list_of_paths() {
        let read = |text: &str| serde_json::from_str::<Config>(text).map(|config| config.others().map(<[_]>::to_vec));
        assert_eq!(read(r#"{"data": null}"#).unwrap(), None);
        assert_eq!(read(r#"{"data": "a"}"#).unwrap().unwrap(), [PathBuf::from("a")]);
        assert_eq!(read(r#"{"data": ["a", "b"]}"#).unwrap().unwrap(), ["a", "b"].map(PathBuf::from));
        let refused = read(r#"{"data": 3}"#).unwrap_err().to_string();
        assert!(refused.starts_with("expected a path, a list of paths, or null"), "{refused}");
    }
}
