//! A benchmark of training on this machine: steps on a batch in memory, steps with the data loader, evaluation, and the
//! time of each operator.

use std::time::{Duration, Instant};

use candle_core::Tensor;
use rand::Rng;

use super::batch::batch_count;
use super::epochs::Epochs;
use super::learner::{Learner, StepResult};
use super::loader::{Batch, Loader};
use super::{Config, Data, Device};
use crate::augment;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::networks::Shape;
use crate::progress::Progress;
use crate::rng;
use crate::shards::Split;
use multidigit_nn::Mode;
use multidigit_nn::cpu::memory;
use multidigit_nn::tape::Time;

/// The minimum number of images in memory.
const IMAGES: usize = 2048;
/// The number of images in a forward pass of evaluation.
pub const EVALUATION_BATCH: usize = 500;
/// The number of blocks of steps of each kind. The kinds alternate, so that other load on the machine affects both.
const ROUNDS: u64 = 4;

/// The results of the benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchReport {
    /// The network that was measured.
    pub shape: Shape,
    /// The number of images per step.
    pub batch: usize,
    /// The number of threads.
    pub threads: usize,
    /// The number of steps of each kind.
    pub steps: u64,
    /// The images per second in steps on one batch in memory.
    pub alone: f64,
    /// The images per second in steps with the data loader.
    pub loaded: f64,
    /// The share of the time of the steps with the data loader that was spent waiting for batches.
    pub waited: f64,
    /// The images per second in forward passes of evaluation.
    pub evaluation: f64,
    /// The time of each operator per step, in the order of the forward pass.
    pub operators: Vec<Time>,
    /// The time of the optimiser per step.
    pub optimiser: Duration,
}

/// Measures at least `steps` steps of each kind, on noise of the size of the data set's images: the times do not depend
/// on the content of the images.
///
/// # Errors
/// A configuration error if the network cannot take images of this size; [`crate::error::Error::Interrupted`].
pub fn run(
    config: &Config,
    augment: &augment::Config,
    digits: usize,
    [height, width]: [usize; 2],
    steps: u64,
    progress: &Progress,
) -> Result<BenchReport> {
    config.validate()?;
    if config.device == Device::Cuda {
        let expected = "cpu, which is what this measures; `make bench-peers DEVICE=cuda` measures a GPU";
        return Err(Error::value("train.device", "cuda", expected));
    }
    super::check_precision("train.precision", config.device, config.precision)?;
    memory::keep_freed();
    let shape = config.shape(digits, [height, width]);
    shape.model.check_image_size(height, width)?;
    let split = noise(digits, height, width, IMAGES.max(2 * config.batch_size));
    let epochs = match config.augment {
        true => Epochs::augmented(&split, augment, |_| Ok(None)),
        false => Epochs::plain(&split),
    };
    let data = Data { digest: Digest::of(b"noise"), epochs, val: &split, picture: None };
    let per_round = steps.div_ceil(ROUNDS);
    let batches = batch_count(split.len(), config.batch_size);
    // one more batch than is measured, because the first one is made before the measurement
    let epochs = (per_round * ROUNDS + 1).div_ceil(batches as u64) as usize;
    let endless = Config { epochs, samples: None, ..config.clone() };
    let passes = per_round.div_ceil(2);
    progress.begin(&format!("bench {}", config.model), ROUNDS * (2 * per_round + passes), "steps")?;

    std::thread::scope(|scope| {
        let mut loader = Loader::start(scope, &endless, &data, split.len(), [0, 0]);
        let fixed = loader.take()?;
        let evaluated = fixed.input.repeat((EVALUATION_BATCH.div_ceil(config.batch_size), 1, 1, 1))?;
        let evaluated = evaluated.narrow(0, 0, EVALUATION_BATCH)?.contiguous()?;
        // a pass that is not measured, as with the first step: it allocates memory and warms up the processor
        let mut steps = Steps::start(Learner::new(config, shape)?, &fixed, config.learning_rate, progress)?;
        steps.learner.network.forward(&evaluated, Mode::Eval)?;

        let waited_before = loader.waited();
        let [mut alone, mut loaded, mut evaluation] = [Measurement::default(); 3];
        for _ in 0..ROUNDS {
            alone.add(|| (0..per_round).map(|_| steps.step(&fixed)).sum())?;
            loaded.add(|| (0..per_round).map(|_| steps.step(&loader.take()?)).sum())?;
            evaluation.add(|| (0..passes).map(|_| steps.evaluate(&evaluated)).sum())?;
        }
        progress.end();
        let taken = ROUNDS * per_round;
        let (operators, optimiser) = steps.per_step(2 * taken);
        Ok(BenchReport {
            shape,
            batch: config.batch_size,
            threads: rayon::current_num_threads(),
            steps: taken,
            alone: alone.rate(),
            loaded: loaded.rate(),
            waited: (loader.waited() - waited_before).as_secs_f64() / loaded.time.as_secs_f64(),
            evaluation: evaluation.rate(),
            operators,
            optimiser,
        })
    })
}

/// Images, and the time that their steps or passes took.
#[derive(Clone, Copy, Default)]
struct Measurement {
    images: usize,
    time: Duration,
}

impl Measurement {
    /// Adds work that returns the number of its images.
    fn add(&mut self, work: impl FnOnce() -> Result<usize>) -> Result<()> {
        let begun = Instant::now();
        self.images += work()?;
        self.time += begun.elapsed();
        Ok(())
    }

    /// The images per second.
    fn rate(self) -> f64 {
        self.images as f64 / self.time.as_secs_f64()
    }
}

/// The steps of a learner, with the sums of the times of their operators.
struct Steps<'a> {
    learner: Learner,
    rate: f64,
    number: u64,
    sums: StepResult,
    progress: &'a Progress<'a>,
}

impl<'a> Steps<'a> {
    /// Takes a first step, which is not measured.
    fn start(mut learner: Learner, batch: &Batch, rate: f64, progress: &'a Progress<'a>) -> Result<Steps<'a>> {
        let mut sums = learner.step(batch, 0, rate)?;
        sums.times.iter_mut().for_each(|time| (time.forward, time.backward) = Default::default());
        sums.optimiser = Duration::ZERO;
        Ok(Steps { learner, rate, number: 1, sums, progress })
    }

    /// Takes a step and returns the number of its images.
    fn step(&mut self, batch: &Batch) -> Result<usize> {
        let step = self.learner.step(batch, self.number, self.rate)?;
        for (sum, time) in self.sums.times.iter_mut().zip(step.times) {
            sum.forward += time.forward;
            sum.backward += time.backward;
        }
        self.sums.optimiser += step.optimiser;
        self.number += 1;
        self.progress.advance(1)?;
        Ok(batch.targets.len() / self.learner.network.shape().digits)
    }

    /// Runs a forward pass of evaluation and returns the number of its images.
    fn evaluate(&self, images: &Tensor) -> Result<usize> {
        self.learner.network.forward(images, Mode::Eval)?;
        self.progress.advance(1)?;
        Ok(EVALUATION_BATCH)
    }

    /// The times of each operator and of the optimiser, divided by a number of steps.
    fn per_step(self, steps: u64) -> (Vec<Time>, Duration) {
        let share = |time: Duration| time.div_f64(steps as f64);
        let times = self.sums.times.into_iter();
        let times = times.map(|time| Time { forward: share(time.forward), backward: share(time.backward), ..time });
        (times.collect(), share(self.sums.optimiser))
    }
}

/// Images of noise, labelled with consecutive digits.
pub fn noise(digits: usize, height: usize, width: usize, count: usize) -> Split {
    let mut rng = rng::stream(0, "bench/noise", 0, 0);
    let mut images = vec![0; count * height * width];
    rng.fill_bytes(&mut images);
    Split {
        height,
        width,
        digits,
        images,
        targets: (0..count * digits).map(|i| (i % 10) as u8).collect(),
        labels: vec![0; count],
        index: (0..count as i64).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::Model;

    #[test]
    fn a_small_bench_tells_of_every_operator() {
        let config = Config { model: Model::ResNet, batch_size: 4, ..Config::default() };
        let report = run(&config, &augment::Config::default(), 3, [8, 9], 5, &Progress::silent()).unwrap();
        assert_eq!((report.steps, report.batch, report.shape.digits), (8, 4, 3));
        assert!(report.alone > 0.0 && report.loaded > 0.0 && report.evaluation > 0.0);
        assert!((0.0..1.0).contains(&report.waited));
        let names: Vec<&str> = report.operators.iter().map(|time| time.name.as_str()).collect();
        assert_eq!(names[..3], ["conv1", "bn1", "layer1.0.conv1"]);
        assert!(names.ends_with(&["mean", "heads.0", "heads.1", "heads.2"]));
        assert!(report.operators.iter().all(|time| time.forward > Duration::ZERO && time.backward > Duration::ZERO));
    }

    #[test]
    fn a_size_that_the_network_cannot_take_is_refused() {
        let error =
            run(&Config::default(), &augment::Config::default(), 2, [8, 8], 1, &Progress::silent()).unwrap_err();
        assert!(error.is_configuration());
    }
}
