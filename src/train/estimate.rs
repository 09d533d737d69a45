//! Estimates the time of a training on this machine's CPU from a few steps on noise.

use std::time::{Duration, Instant};

use super::Config;
use super::batch::{Normalise, batch_count};
use super::bench::{EVALUATION_BATCH, noise};
use super::learner::Learner;
use super::loader::Batch;
use crate::error::Result;
use crate::networks::Shape;
use crate::shards::Split;
use multidigit_nn::Mode;
use multidigit_nn::cpu::memory;

/// The number of images in the first steps, whose time determines the size of the last ones.
const FEW: usize = 8;
/// The maximum number of images in the last steps.
const STEP: usize = 64;
/// The time limits in seconds for the last steps and for the forward pass. At full size, the last steps of the ResNet
/// would take 10 s.
const BUDGET: [f64; 2] = [3.0, 0.5];

/// The number of steps of a training that takes about as long as an estimate.
const SHORT: usize = 16;

/// Whether a training on `images` images takes longer than an estimate of its time.
pub fn is_worthwhile(config: &Config, images: usize) -> bool {
    config.epochs.saturating_mul(batch_count(images, config.batch_size)) > SHORT
}

/// Estimates the time of a whole training on the CPU by `config` (the device that it names is ignored) on `images`
/// training images, validated on `val` images after each epoch. The estimate takes a second for AlexNet and a few for
/// the ResNet. It needs no data set and writes no files.
///
/// # Errors
/// A configuration error if the network cannot take images of this shape.
pub fn estimate(config: &Config, shape: Shape, images: usize, val: usize) -> Result<Duration> {
    let speed = Speed::measure(config, shape, val)?;
    Ok(speed.training(config, images, val))
}

/// The times of the parts of a training, in seconds.
#[derive(Debug, Clone, Copy)]
struct Speed {
    /// The part of a step that does not depend on the number of images: the optimiser, and sums and layouts of weights.
    step: f64,
    /// The additional time of a step per image.
    image: f64,
    /// The time of the validation per image.
    validation: f64,
}

impl Speed {
    fn measure(config: &Config, shape: Shape, val: usize) -> Result<Speed> {
        // learning rate and normalisation do not change the time, unless they lead to a loss that is not finite
        let usual = Config::default();
        let config = Config { mean: usual.mean, std: usual.std, ..config.clone() };
        memory::keep_freed();
        let mut learner = Learner::new(&config, shape)?;
        let split = noise(shape.digits, shape.height, shape.width, EVALUATION_BATCH);
        let normalise = Normalise::new(config.mean, config.std);
        let batch = |images| batch(&normalise, &split, images);
        // the second of two steps is measured, since the first also allocates memory from the system
        let mut step = |images: usize| -> Result<f64> {
            let batch = batch(images)?;
            learner.step(&batch, 0, usual.learning_rate)?;
            let begun = Instant::now();
            learner.step(&batch, 1, usual.learning_rate)?;
            Ok(begun.elapsed().as_secs_f64())
        };
        let most = config.batch_size.clamp(1, STEP);
        let few = FEW.min(most);
        let short = (few, step(few)?);
        let fitting = (BUDGET[0] / 2.0 / (short.1 / few as f64)) as usize;
        let many = (fitting / FEW * FEW).clamp(few, most);
        let (step, image) = line(short, (many, if many > few { step(many)? } else { short.1 }));

        // a forward pass takes about a third of a step
        let fitting = (BUDGET[1] / (short.1 / few as f64 / 3.0)) as usize;
        let images = val.min(EVALUATION_BATCH).min(fitting.max(FEW));
        let validation = match images {
            0 => 0.0,
            images => {
                let batch = batch(images)?;
                let begun = Instant::now();
                learner.network.forward(&batch.input, Mode::Eval)?;
                begun.elapsed().as_secs_f64() / images as f64
            }
        };
        Ok(Speed { step, image, validation })
    }

    fn training(self, config: &Config, images: usize, val: usize) -> Duration {
        let steps = batch_count(images, config.batch_size);
        let epoch = steps as f64 * self.step + images as f64 * self.image + val as f64 * self.validation;
        Duration::try_from_secs_f64(config.epochs as f64 * epoch).unwrap_or(Duration::MAX)
    }
}

/// Fits a line to two measured steps (images, seconds): returns the time of a step without images, and the
/// additional time per image. However noisy the measurements, neither number is negative, and the line passes
/// through the longer step.
fn line((few, short): (usize, f64), (many, long): (usize, f64)) -> (f64, f64) {
    let slope = if many > few { (long - short) / (many - few) as f64 } else { long / many as f64 };
    let fixed = (long - many as f64 * slope).clamp(0.0, short.min(long));
    (fixed, (long - fixed) / many as f64)
}

fn batch(normalise: &Normalise, split: &Split, images: usize) -> Result<Batch> {
    let fill = |i: usize, pixels: &mut [u8]| pixels.copy_from_slice(split.image(i));
    let input = normalise.batch(images, [split.height, split.width], fill)?;
    Ok(Batch { input, targets: split.targets.iter().take(images * split.digits).copied().collect() })
}

/// An estimated time in words, with the precision of an estimate.
pub fn words(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let units = |unit: f64| (seconds / unit).round() as u64;
    let (minutes, fives, hours) = (units(60.0), units(300.0), units(3_600.0));
    match units(1.0).max(1) {
        seconds @ ..60 => format!("about {seconds} s"),
        _ if minutes < 60 => format!("about {minutes} min"),
        _ if fives < 120 && fives % 12 != 0 => format!("about {} h {} min", fives / 12, fives % 12 * 5),
        _ if hours < 48 => format!("about {hours} h"),
        _ => format!("about {} days", units(86_400.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::Model;
    use crate::train::Device;

    #[test]
    fn a_time_is_told_in_the_unit_that_fits_it() {
        let words = |seconds| words(Duration::from_secs_f64(seconds));
        let cases = [
            (0.0, "about 1 s"),
            (0.7, "about 1 s"),
            (40.4, "about 40 s"),
            (59.4, "about 59 s"),
            (59.6, "about 1 min"),
            (720.0, "about 12 min"),
            (3_569.0, "about 59 min"),
            (3_580.0, "about 1 h"),
            (4_500.0, "about 1 h 15 min"),
            (7_100.0, "about 2 h"),
            (17_900.0, "about 5 h"),
            (50_000.0, "about 14 h"),
            (170_900.0, "about 47 h"),
            (171_100.0, "about 2 days"),
            (3e6, "about 35 days"),
        ];
        for (seconds, told) in cases {
            assert_eq!(words(seconds), told, "{seconds}");
        }
    }

    #[test]
    fn a_training_takes_its_images_steps_and_validation_times_its_epochs() {
        let speed = Speed { step: 2.0, image: 0.5, validation: 0.25 };
        let config = |epochs| Config { epochs, batch_size: 4, ..Config::default() };
        // 10 images in 3 steps, and 8 images for validation
        assert_eq!(speed.training(&config(1), 10, 8), Duration::from_secs(5 + 6 + 2));
        assert_eq!(speed.training(&config(3), 10, 8), Duration::from_secs(3 * 13));
        assert_eq!(speed.training(&config(1), 20, 8), Duration::from_secs(10 + 10 + 2));
        assert_eq!(speed.training(&config(usize::MAX), usize::MAX, 0), Duration::MAX);
    }

    #[test]
    fn a_step_of_any_size_follows_from_two_measured_ones() {
        assert_eq!(line((8, 3.0), (24, 7.0)), (1.0, 0.25));
        assert_eq!(line((4, 2.0), (4, 2.0)), (0.0, 0.5), "one size tells nothing of what is fixed");
        assert_eq!(line((8, 1.0), (24, 6.0)), (0.0, 0.25), "more than in proportion");
        assert_eq!(line((8, 9.0), (24, 6.0)), (6.0, 0.0), "the longer step was the faster one");
    }

    #[test]
    fn an_estimate_is_of_the_configured_network_whatever_its_rate_and_device() {
        let shape = Shape::new(Model::ResNet, 2, [8, 8]);
        let config = Config { model: Model::ResNet, batch_size: 4, ..Config::default() };
        let odd = Config { learning_rate: 1e30, std: 1e-30, device: Device::Cuda, ..config.clone() };
        for config in [config, odd] {
            let speed = Speed::measure(&config, shape, 6).unwrap();
            assert!(speed.step + speed.image > 0.0 && speed.validation > 0.0, "{speed:?}");
            assert!(estimate(&config, shape, 100, 0).unwrap() > Duration::ZERO);
        }
        let small = Shape { model: Model::AlexNet, ..shape };
        assert!(estimate(&Config::default(), small, 100, 10).unwrap_err().is_configuration());
    }
}
