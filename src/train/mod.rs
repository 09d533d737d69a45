//! The stage `train`: a network, fitted to the training split, scored on the validation split after every epoch.
//!
//! Weights depend on the configuration, its seed and the data alone, whatever the number of threads. This module reads
//! no shards and draws no augmentation: it is handed a split in memory and a function that gives an epoch's pixels.

pub mod batch;
pub mod metrics;

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use self::batch::{Normalise, Scores, batches, order, score};
use self::metrics::Epoch;
use crate::error::{Error, Result};
use crate::files;
use crate::nn::cpu::memory;
use crate::nn::loss::loss;
use crate::nn::optim::{Adam, Plateau};
use crate::nn::tape::Tape;
use crate::nn::weights::{self, Description};
use crate::nn::{DROPOUT, Mode, Model, Network, Shape};
use crate::progress::Progress;
use crate::shards::Split;

/// Images in a forward pass on the validation split: enough to keep the threads busy, few enough to stay in 200 MB.
const VALIDATION_BATCH: usize = 500;

/// Training a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The network: `alexnet`, `resnet` or `fcn`. Its number of heads and its image size follow the data set; fcn takes
    /// images of 60 to 67 pixels in height and width, alexnet of 44 or more.
    pub model: Model,
    /// Passes over the training images.
    pub epochs: usize,
    /// Images per step of the optimiser.
    pub batch_size: usize,
    /// The learning rate that Adam begins with; it falls to a tenth when the validation loss has not fallen for two
    /// epochs.
    pub learning_rate: f64,
    /// Seed of the initial weights, of the order of the images and of dropout.
    pub seed: u64,
    /// What computes: `cpu`.
    pub device: Device,
    /// Train on the first so many images of the training split only; null: on all.
    pub samples: Option<usize>,
    /// Whether training images are augmented: rotated, moved, scaled, sheared, partly erased, anew in each epoch.
    pub augment: bool,
    /// Mean of the pixels (0 to 1), which is taken from each before training and evaluation.
    pub mean: f64,
    /// Standard deviation of the pixels (0 to 1), which each is divided by.
    pub std: f64,
    /// Name of the run's folder; null: made of model, learning rate and seed, such as alexnet-lr0.0005-seed0.
    pub run: Option<String>,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The processor, on as many threads as `--threads` says.
    Cpu,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            model: Model::AlexNet,
            epochs: 30,
            batch_size: 64,
            learning_rate: 5e-4,
            seed: 0,
            device: Device::Cpu,
            samples: None,
            augment: true,
            mean: 0.1307,
            std: 0.3081,
            run: None,
        }
    }
}

impl Config {
    /// The name of the run's folder.
    pub fn run_name(&self) -> String {
        self.run.clone().unwrap_or_else(|| format!("{}-lr{}-seed{}", self.model, self.learning_rate, self.seed))
    }

    /// Refuses values that cannot work, before any work.
    pub fn validate(&self) -> Result<()> {
        if self.epochs == 0 {
            return Err(Error::value("train.epochs", 0, "at least 1"));
        }
        let least = if self.model.has_batch_norm() { 2 } else { 1 };
        let why =
            if least == 2 { format!(" for {}, whose batch norm compares images", self.model) } else { String::new() };
        if self.batch_size < least {
            return Err(Error::value("train.batch_size", self.batch_size, format!("at least {least}{why}")));
        }
        if let Some(samples) = self.samples.filter(|samples| *samples < least) {
            return Err(Error::value("train.samples", samples, format!("at least {least}{why}, or null for all")));
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(Error::value("train.learning_rate", self.learning_rate, "a finite number above 0"));
        }
        if !self.mean.is_finite() {
            return Err(Error::value("train.mean", self.mean, "a finite number"));
        }
        if !(self.std > 0.0 && self.std.is_finite()) {
            return Err(Error::value("train.std", self.std, "a finite number above 0"));
        }
        if let Some(run) = &self.run {
            let plain = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | ':');
            if run.is_empty() || run.starts_with('.') || !run.chars().all(plain) {
                let expected = "a folder's name: not empty, no leading dot, none of / \\ :";
                return Err(Error::value("train.run", format!("{run:?}"), expected));
            }
        }
        Ok(())
    }
}

/// `pixels(position, out)` fills `out` with the pixels that the sample at `position` of the training split has in one
/// epoch, augmented or plain. It is called from several threads.
pub type Pixels<'a> = Box<dyn Fn(usize, &mut [u8]) + Sync + 'a>;

/// The folder of a run's weights, below the run's folder.
pub const WEIGHTS: &str = "weights";

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Values that training moved.
    pub parameters: usize,
    /// Images per epoch.
    pub images: usize,
    /// Steps of the optimiser.
    pub steps: u64,
    /// All epochs in their order.
    pub epochs: Vec<Epoch>,
    /// The epoch with the lowest validation loss, counted from 1: that of `weights/best.safetensors`.
    pub best_epoch: usize,
}

/// Trains, and writes `metrics.csv`, `weights/best.safetensors` and `weights/last.safetensors` into the empty folder
/// `out`. `epoch_pixels(epoch)` gives the pixels of an epoch, counted from 0; it is called once as the epoch begins.
///
/// # Errors
/// A configuration error where the network cannot take the data set's images; [`Error::NotFinite`];
/// [`Error::Interrupted`].
pub fn run<'a>(
    config: &Config,
    train: &Split,
    val: &Split,
    epoch_pixels: &dyn Fn(usize) -> Result<Pixels<'a>>,
    out: &Path,
    progress: &Progress,
) -> Result<Summary> {
    config.validate()?;
    for (name, split) in [("train", train), ("val", val)] {
        if split.is_empty() {
            return Err(Error::EmptySplit { split: name.to_owned() });
        }
    }
    memory::keep_freed();
    let (digits, size) = (train.digits, [train.height, train.width]);
    let shape = Shape { model: config.model, digits, height: train.height, width: train.width };
    let network = Network::new(shape, config.seed, DROPOUT)?;
    let normalise = Normalise::new(config.mean, config.std);
    let images = config.samples.unwrap_or(train.len()).min(train.len());
    let (mut adam, mut schedule) = (Adam::new(network.store()), Plateau::new(config.learning_rate));
    let (mut step, mut epochs, mut best_epoch, mut best_loss) = (0, Vec::new(), 0, f64::INFINITY);
    let folder = out.join(WEIGHTS);
    files::create_dir(&folder)?;
    let save = |name, epoch| {
        let description = Description { shape, mean: config.mean, std: config.std, epoch };
        weights::save(&folder.join(name), &network, &description)
    };

    for epoch in 0..config.epochs {
        let (begun, rate) = (Instant::now(), schedule.rate());
        progress.begin(&format!("epoch {}/{}", epoch + 1, config.epochs), images as u64, "images")?;
        let pixels = epoch_pixels(epoch)?;
        let mut scores = Scores::default();
        let order = order(config.seed, epoch, images);
        for batch in batches(&order, config.batch_size) {
            let input = normalise.batch(batch.len(), size, |i, into| pixels(batch[i], into))?;
            let targets: Vec<u8> =
                batch.iter().flat_map(|i| &train.targets[i * digits..(i + 1) * digits]).copied().collect();
            let tape = Tape::new(network.store().parameters().len());
            let logits = network.forward(&input, Mode::Train { seed: config.seed, step, tape: &tape })?;
            let loss = loss(&logits, &targets)?;
            step += 1;
            if !loss.value.is_finite() {
                return Err(Error::NotFinite { step, loss: loss.value, rate });
            }
            adam.step(network.store(), &tape.backward(&logits, loss.gradients)?.parameters, rate)?;
            scores.add(&logits, &targets)?;
            progress.advance(batch.len() as u64)?;
            progress.detail(&format!("loss {:.4}, accuracy {:.2}%", scores.mean_loss(), 100.0 * scores.accuracy()))?;
        }
        let images_per_second = images as f64 / begun.elapsed().as_secs_f64();
        progress.end();

        progress.begin("validation", val.len() as u64, "images")?;
        let advance = |images| progress.advance(images as u64);
        let validation = score(&network, &normalise, val, val.len(), VALIDATION_BATCH, advance)?;
        progress.end();
        let row = Epoch {
            epoch: epoch + 1,
            lr: rate,
            train_loss: scores.mean_loss(),
            train_accuracy: scores.accuracy(),
            val_loss: validation.mean_loss(),
            val_accuracy: validation.accuracy(),
            images_per_second,
            seconds: begun.elapsed().as_secs_f64(),
        };
        if !row.val_loss.is_finite() {
            return Err(Error::NotFinite { step, loss: row.val_loss, rate });
        }
        progress.note(&sentence(&row, config.epochs));
        schedule.epoch(row.val_loss);
        if row.val_loss < best_loss {
            (best_loss, best_epoch) = (row.val_loss, epoch + 1);
            save("best.safetensors", best_epoch)?;
        }
        epochs.push(row);
        metrics::write(&out.join(metrics::FILE), &epochs)?;
    }
    save("last.safetensors", config.epochs)?;
    Ok(Summary { parameters: network.store().count(), images, steps: step, epochs, best_epoch })
}

fn sentence(row: &Epoch, epochs: usize) -> String {
    format!(
        "epoch {}/{epochs}: train loss {:.4}, accuracy {:.2}%; val loss {:.4}, accuracy {:.2}%; learning rate {}; \
         {:.0} images/s, {:.1} s",
        row.epoch,
        row.train_loss,
        100.0 * row.train_accuracy,
        row.val_loss,
        100.0 * row.val_accuracy,
        row.lr,
        row.images_per_second,
        row.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_after_what_tells_it_from_others() {
        assert_eq!(Config::default().run_name(), "alexnet-lr0.0005-seed0");
        let named = Config { run: Some("mine".to_owned()), ..Config::default() };
        assert_eq!(named.run_name(), "mine");
    }

    #[test]
    fn values_that_cannot_work_are_refused_with_their_key() {
        let refusal = |config: Config| config.validate().unwrap_err().to_string();
        let base = Config::default;
        base().validate().unwrap();
        let cases = [
            (Config { epochs: 0, ..base() }, "`train.epochs`: found 0; expected at least 1"),
            (Config { batch_size: 0, ..base() }, "`train.batch_size`: found 0; expected at least 1"),
            (
                Config { batch_size: 1, model: Model::Fcn, ..base() },
                "`train.batch_size`: found 1; expected at least 2 for fcn, whose batch norm compares images",
            ),
            (Config { samples: Some(0), ..base() }, "`train.samples`: found 0; expected at least 1, or null for all"),
            (
                Config { learning_rate: 0.0, ..base() },
                "`train.learning_rate`: found 0; expected a finite number above 0",
            ),
            (
                Config { learning_rate: f64::NAN, ..base() },
                "`train.learning_rate`: found NaN; expected a finite number above 0",
            ),
            (Config { mean: f64::INFINITY, ..base() }, "`train.mean`: found inf; expected a finite number"),
            (Config { std: -1.0, ..base() }, "`train.std`: found -1; expected a finite number above 0"),
            (
                Config { run: Some("../x".to_owned()), ..base() },
                "`train.run`: found \"../x\"; expected a folder's name: not empty, no leading dot, none of / \\ :",
            ),
        ];
        for (config, expected) in cases {
            assert_eq!(refusal(config), expected);
        }
    }

    #[test]
    fn the_configuration_survives_its_text_form_and_refuses_unknown_keys() {
        let config = Config { model: Model::ResNet, samples: Some(5), ..Config::default() };
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains(r#""model":"resnet""#) && text.contains(r#""device":"cpu""#));
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        assert!(serde_json::from_str::<Config>(r#"{"epoch": 3}"#).is_err());
    }
}
