//! The section `train` of the configuration: its settings, their defaults and their limits.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::networks::{Model, Shape, Trunk};
use multidigit_nn::Precision;
use multidigit_nn::schedule::{Kind, Plateau};

/// Training a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The network. alexnet, resnet, fcn: those of the paper, with one head per digit; fcn takes images of 60 to 67
    /// pixels in height and width, alexnet of 44 or more. towers: one small network that reads a window around the place
    /// of each digit; it reads pairs of digits that training never showed. attention: the same on the whole image, with
    /// learned attention instead of windows.
    pub model: Model,
    /// The convolutions of towers and attention; no other network uses these settings.
    pub trunk: Trunk,
    /// Passes over the training images.
    pub epochs: usize,
    /// Images per step of the optimiser.
    pub batch_size: usize,
    /// Adam's learning rate: the initial one for plateau, constant and cosine, the largest one for one_cycle.
    pub learning_rate: f64,
    /// How the learning rate changes, with PyTorch's formulas. plateau: it is reduced after epochs in which the
    /// validation loss did not fall; constant: it does not change; cosine: it falls to 0 along half a cosine over all
    /// steps; one_cycle: it rises from a 25th over the first 30% of the steps, then falls to nearly 0.
    pub schedule: Kind,
    /// The parameters of the schedule plateau, with the names of PyTorch's ReduceLROnPlateau.
    pub plateau: Plateau,
    /// Weight decay, decoupled from the gradients (AdamW); 0: plain Adam.
    pub weight_decay: f64,
    /// Label smoothing: the share of the target distribution that is spread evenly over all ten digits; 0: none. The
    /// losses in the metrics are without it.
    pub label_smoothing: f64,
    /// Decay of an exponential moving average of the weights, as PyTorch's AveragedModel computes it in every step; it is
    /// stored as weights/ema.safetensors and evaluated by `evaluate.weights: ema`. null: no average.
    pub ema: Option<f64>,
    /// Epochs in a row without a lower validation loss after which the training ends; null: it runs to the last epoch.
    pub stop_after: Option<usize>,
    /// Weights to start from instead of random ones: the name of a finished run, whose best weights are taken, or the path
    /// of a weights file, which ends in .safetensors. The network must be of the same model; parameters that there are for
    /// each digit are random if the number of digits differs. null: random weights.
    pub init: Option<String>,
    /// Seed of the initial weights, of the order of the images and of dropout.
    pub seed: u64,
    /// The device: `cpu`, or `cuda` for the first NVIDIA GPU, in a program that was built for it.
    pub device: Device,
    /// The precision of products. f32: float32; tf32: on a GPU, factors are rounded to 10 bits, in linear layers and, as in
    /// PyTorch, in convolutions, and on the CPU, as f32; bf16: factors, activations and their gradients are bfloat16, which
    /// a CPU computes if it has AMX or AVX512-BF16. Sums within a product, weights and the optimiser are float32.
    pub precision: Precision,
    /// Whether a GPU uses only algorithms that give the same weights for the same seed every time, to the last bit. The
    /// CPU always does.
    pub deterministic: bool,
    /// Number of training images to use, from the first on; null: all. The rows of a split are shuffled by `plan.seed`,
    /// unless `plan.order` is class.
    pub samples: Option<usize>,
    /// Number of validation images to use after each epoch, from the first on, as with `samples`; null: all. The epoch with
    /// the best weights, the schedule plateau and `stop_after` go by these images alone.
    pub val_samples: Option<usize>,
    /// Whether training images are augmented, with new parameters in each epoch.
    pub augment: bool,
    /// Mean of the pixels (0 to 1), which is subtracted from every pixel.
    pub mean: f64,
    /// Standard deviation of the pixels (0 to 1), by which every pixel is then divided.
    pub std: f64,
    /// Number of steps between two checkpoints, in addition to those at the end of each epoch and on Ctrl-C; null: no
    /// additional ones.
    pub checkpoint_every_steps: Option<u64>,
    /// Name of the run's folder; null: model, learning rate, seed, and every other setting that differs from the
    /// defaults except the number of epochs, such as alexnet-lr0.0005-seed0-samples640.
    pub run: Option<String>,
}

/// The maximum length of a run's name in bytes. File names have at most 255 bytes, and the names of an evaluation and
/// of temporary files beside a run are longer than the run's.
const MAX_NAME: usize = 150;

/// The device that computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The processor, on as many threads as `--threads` says.
    Cpu,
    /// The first NVIDIA GPU.
    Cuda,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            model: Model::AlexNet,
            trunk: Trunk::default(),
            epochs: 30,
            batch_size: 64,
            learning_rate: 5e-4,
            schedule: Kind::Plateau,
            plateau: Plateau::default(),
            weight_decay: 0.0,
            label_smoothing: 0.0,
            ema: None,
            stop_after: None,
            init: None,
            seed: 0,
            device: Device::Cpu,
            precision: Precision::Tf32,
            deterministic: false,
            samples: None,
            val_samples: None,
            augment: true,
            mean: 0.1307,
            std: 0.3081,
            checkpoint_every_steps: Some(1000),
            run: None,
        }
    }
}

impl Config {
    /// The shape of the network for images of this many digits and of the size `[height, width]`.
    pub fn shape(&self, digits: usize, size: [usize; 2]) -> Shape {
        let shape = Shape::new(self.model, digits, size);
        Shape { trunk: shape.trunk.map(|_| self.trunk), ..shape }
    }

    /// Whether training gives bitwise the same weights every time.
    pub fn repeats(&self) -> bool {
        self.device == Device::Cpu || self.deterministic
    }

    /// Checks that the values are valid, before any work is done.
    pub fn validate(&self) -> Result<()> {
        self.trunk
            .check()
            .map_err(|(name, found, expected)| Error::value(&format!("train.trunk.{name}"), found, expected))?;
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
        if self.val_samples == Some(0) {
            return Err(Error::value("train.val_samples", 0, "at least 1, or null for all"));
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(Error::value("train.learning_rate", self.learning_rate, "a finite number above 0"));
        }
        if self.device == Device::Cuda && !cfg!(feature = "cuda") {
            return Err(no_cuda("train.device"));
        }
        self.plateau.validate().map_err(|error| match error {
            multidigit_nn::Error::Setting { name, found, expected } => {
                Error::value(&format!("train.plateau.{name}"), found, expected)
            }
            other => other.into(),
        })?;
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return Err(Error::value("train.weight_decay", self.weight_decay, "a finite number, at least 0"));
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return Err(Error::value("train.label_smoothing", self.label_smoothing, "0 or more, and below 1"));
        }
        if let Some(decay) = self.ema.filter(|decay| !(0.0..1.0).contains(decay)) {
            return Err(Error::value("train.ema", decay, "0 or more, and below 1, or null for no average"));
        }
        if self.stop_after == Some(0) {
            return Err(Error::value("train.stop_after", 0, "at least 1, or null for all epochs"));
        }
        if self.checkpoint_every_steps == Some(0) {
            return Err(Error::value("train.checkpoint_every_steps", 0, "at least 1, or null for none within epochs"));
        }
        if !self.mean.is_finite() {
            return Err(Error::value("train.mean", self.mean, "a finite number"));
        }
        if !(self.std > 0.0 && self.std.is_finite()) {
            return Err(Error::value("train.std", self.std, "a finite number above 0"));
        }
        if let Some(run) = &self.run {
            // `@` separates a run from the data in the name of an evaluation
            let plain = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | ':' | '@');
            let taken = run.starts_with('.') || run.ends_with(files::UNFINISHED);
            if !(1..=MAX_NAME).contains(&run.len()) || taken || !run.chars().all(plain) {
                let expected = format!(
                    "a folder's name: 1 to {MAX_NAME} bytes, no leading dot, no ending .unfinished, none of / \\ : @"
                );
                return Err(Error::value("train.run", format!("{run:?}"), expected));
            }
        }
        Ok(())
    }
}

/// Returns an error if this processor, as the `device`, cannot compute at the precision that the setting `key` asks for.
pub fn check_precision(key: &str, device: Device, precision: Precision) -> Result<()> {
    if device == Device::Cuda || precision.on_cpu().is_some() {
        return Ok(());
    }
    Err(Error::value(key, precision, "f32, as this processor has no instructions for bfloat16 (AMX or AVX512-BF16)"))
}

/// The error of a program built without CUDA for the setting `key`.
pub fn no_cuda(key: &str) -> Error {
    Error::value(key, "cuda", "cpu, as this program was built without CUDA; `make build-cuda` builds one with it")
}

#[cfg(test)]
mod tests {
    use super::*;

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
                Config { val_samples: Some(0), ..base() },
                "`train.val_samples`: found 0; expected at least 1, or null for all",
            ),
            (
                Config { learning_rate: 0.0, ..base() },
                "`train.learning_rate`: found 0; expected a finite number above 0",
            ),
            (
                Config { learning_rate: f64::NAN, ..base() },
                "`train.learning_rate`: found NaN; expected a finite number above 0",
            ),
            (Config { mean: f64::INFINITY, ..base() }, "`train.mean`: found inf; expected a finite number"),
            (
                Config { label_smoothing: 1.0, ..base() },
                "`train.label_smoothing`: found 1; expected 0 or more, and below 1",
            ),
            (
                Config { ema: Some(-0.1), ..base() },
                "`train.ema`: found -0.1; expected 0 or more, and below 1, or null for no average",
            ),
            (
                Config { stop_after: Some(0), ..base() },
                "`train.stop_after`: found 0; expected at least 1, or null for all epochs",
            ),
            (
                Config { trunk: Trunk { channels: 0, ..Trunk::default() }, ..base() },
                "`train.trunk.channels`: found 0; expected 1 to 512",
            ),
            (
                Config { trunk: Trunk { margin: 2000, ..Trunk::default() }, ..base() },
                "`train.trunk.margin`: found 2000; expected at most 1024",
            ),
            (Config { std: -1.0, ..base() }, "`train.std`: found -1; expected a finite number above 0"),
            (
                Config { run: Some("../x".to_owned()), ..base() },
                "`train.run`: found \"../x\"; expected a folder's name: 1 to 150 bytes, no leading dot, no ending \
                 .unfinished, none of / \\ : @",
            ),
            (
                Config { run: Some("a@b".to_owned()), ..base() },
                "`train.run`: found \"a@b\"; expected a folder's name: 1 to 150 bytes, no leading dot, no ending \
                 .unfinished, none of / \\ : @",
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
