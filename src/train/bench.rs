//! A benchmark of training on this machine: steps on a batch in memory, steps with the data loader, evaluation, and the
//! time of each operator.

use std::time::{Duration, Instant};

use rand::Rng;

use super::batch::batch_count;
use super::epochs::Epochs;
use super::learner::Learner;
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
pub struct Report {
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
) -> Result<Report> {
    config.validate()?;
    if config.device == Device::Cuda {
        let expected = "cpu, which is what this measures; `make bench-peers DEVICE=cuda` measures a GPU";
        return Err(Error::value("train.device", "cuda", expected));
    }
    memory::keep_freed();
    let shape = Shape { model: config.model, digits, height, width };
    let mut learner = Learner::new(config, shape)?;
    let split = noise(digits, height, width, IMAGES.max(2 * config.batch_size));
    let epochs = match config.augment {
        true => Epochs::augmented(&split, augment, |_| Ok(None)),
        false => Epochs::plain(&split),
    };
    let data = Data { digest: Digest::of(b"noise"), epochs, val: &split };
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
        // a first step and pass that are not measured: they allocate memory and warm up the processor
        let mut sums = learner.step(&fixed, 0, config.learning_rate)?;
        learner.network.forward(&evaluated, Mode::Eval)?;
        sums.times.iter_mut().for_each(|time| (time.forward, time.backward) = Default::default());
        sums.optimiser = Duration::ZERO;

        let (mut number, waited_before) = (1, loader.waited());
        let (mut alone, mut loaded, mut evaluation) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let (mut images_alone, mut images_loaded) = (0, 0);
        for _ in 0..ROUNDS {
            let mut step = |batch: &Batch| {
                let step = learner.step(batch, number, config.learning_rate)?;
                for (sum, time) in sums.times.iter_mut().zip(step.times) {
                    sum.forward += time.forward;
                    sum.backward += time.backward;
                }
                sums.optimiser += step.optimiser;
                number += 1;
                progress.advance(1)?;
                Ok::<_, crate::error::Error>(batch.targets.len() / digits)
            };
            let begun = Instant::now();
            for _ in 0..per_round {
                images_alone += step(&fixed)?;
            }
            alone += begun.elapsed();
            let begun = Instant::now();
            for _ in 0..per_round {
                images_loaded += step(&loader.take()?)?;
            }
            loaded += begun.elapsed();
            let begun = Instant::now();
            for _ in 0..passes {
                learner.network.forward(&evaluated, Mode::Eval)?;
                progress.advance(1)?;
            }
            evaluation += begun.elapsed();
        }
        progress.end();
        let taken = ROUNDS * per_round;
        let per_step = |time: Duration| time.div_f64(2.0 * taken as f64);
        let operators = sums.times.into_iter().map(|time| Time {
            forward: per_step(time.forward),
            backward: per_step(time.backward),
            ..time
        });
        Ok(Report {
            shape,
            batch: config.batch_size,
            threads: rayon::current_num_threads(),
            steps: taken,
            alone: images_alone as f64 / alone.as_secs_f64(),
            loaded: images_loaded as f64 / loaded.as_secs_f64(),
            waited: (loader.waited() - waited_before).as_secs_f64() / loaded.as_secs_f64(),
            evaluation: (ROUNDS * passes) as f64 * EVALUATION_BATCH as f64 / evaluation.as_secs_f64(),
            operators: operators.collect(),
            optimiser: per_step(sums.optimiser),
        })
    })
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
