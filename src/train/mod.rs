//! The stage `train`: fits a network to the training split and scores it on the validation split after every epoch.
//!
//! The weights depend on the configuration, its seed and the data alone, not on the number of threads. This module does
//! not read shards: it is given the images of each epoch (`epochs.rs`).

#[forbid(unsafe_code)]
#[allow(clippy::indexing_slicing, reason = "arithmetic on images in memory, cut by their sizes")]
pub mod batch;
#[forbid(unsafe_code)]
pub mod bench;
#[forbid(unsafe_code)]
pub mod checkpoint;
#[forbid(unsafe_code)]
mod config;
#[forbid(unsafe_code)]
pub mod environment;
#[forbid(unsafe_code)]
pub mod epochs;
#[forbid(unsafe_code)]
mod error;
#[forbid(unsafe_code)]
pub mod estimate;
#[forbid(unsafe_code)]
mod events;
#[cfg_attr(not(feature = "cuda"), path = "no_gpu.rs")]
#[allow(unsafe_code, reason = "promises the kernels that rows and addresses are those of one data set")]
pub mod gpu;
#[forbid(unsafe_code)]
pub mod learner;
#[forbid(unsafe_code)]
pub mod loader;
#[forbid(unsafe_code)]
pub mod metrics;
#[forbid(unsafe_code)]
mod training;

pub use self::config::{Config, Device, check_precision, no_cuda};
pub use self::error::{TrainError, or_device_memory};
use std::path::Path;

use image::RgbImage;
use serde::Serialize;
use serde_json::json;

use self::batch::{Normalise, Scores, batch_count};
use self::checkpoint::TrainingState;
use self::environment::Environment;
use self::epochs::Epochs;
use self::events::{Events, Start};
use self::gpu::{Gpu, Opened};
use self::learner::Learner;
use self::loader::Loader;
use self::metrics::Epoch;
use self::training::{Engine, Training};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::networks::{DROPOUT, Network, weights};
use crate::progress::Progress;
use crate::shards::Split;
use multidigit_nn::cpu::memory;
use multidigit_nn::schedule::Schedule;

/// Returns an error if the file system of a run's folder has no room for the files of a training of `values` values:
/// two checkpoints with values and moments, two weights files, and the temporary file while one of them is replaced. A
/// training that `averages` has the average in each checkpoint and in a third weights file.
fn require_space(values: usize, averages: bool, out: &Path) -> Result<()> {
    let average = u64::from(averages);
    let (checkpoint, files) = (3 + average, 2 + average);
    let need = 4 * values as u64 * (2 * checkpoint + files + checkpoint);
    let stands: u64 = files::walk_all(out)?.iter().filter_map(|path| Some(out.join(path).metadata().ok()?.len())).sum();
    match files::free_bytes(out) {
        Some(free) if free + stands < need => {
            let what = "weights and checkpoints".to_owned();
            Err(Error::DiskSpace { path: out.to_owned(), what, need: need - stands, free, way: "" })
        }
        _ => Ok(()),
    }
}

/// The results of several steps on a GPU.
pub struct Stretch {
    /// The scores of the images of these steps.
    pub scores: Scores,
    /// The first step, counted from 0 in the epoch, whose loss was not finite, and that loss.
    pub bad: Option<(usize, f64)>,
}

/// The data for training.
pub struct Data<'a> {
    /// The content digest of the data set.
    pub digest: Digest,
    /// The training split, as it is shown in each epoch.
    pub epochs: Epochs<'a>,
    /// The validation split.
    pub val: &'a Split,
    /// A picture of the augmentation, for TensorBoard.
    pub picture: Option<RgbImage>,
}

/// The folder of the weights, within the folder of a run.
pub const WEIGHTS: &str = "weights";

/// The file of the resolved configuration, in the folder of a run.
pub const CONFIG: &str = "config.yaml";

/// The file that reports that the loss of a run was not finite.
pub const STOPPED: &str = "stopped.json";

/// Whether a path within the folder of a run is a file that training writes, or a temporary file left by a killed
/// training. All other files in the folder belong to the user.
pub fn is_output(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let names: &[&str] = match folder {
        "" => &[CONFIG, environment::FILE, metrics::FILE, STOPPED, checkpoint::FILE, checkpoint::PREVIOUS],
        WEIGHTS => &["best.safetensors", "last.safetensors", "ema.safetensors"],
        _ => &[],
    };
    let is_events = folder.is_empty() && events::is_file(name);
    is_events || names.iter().any(|known| *known == name || files::is_half_of(name, known))
}

/// The results of a training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainingSummary {
    /// The number of trainable values.
    pub parameters: usize,
    /// The number of images per epoch.
    pub images: usize,
    /// The number of steps of the optimiser.
    pub steps: u64,
    /// All epochs, in order.
    pub epochs: Vec<Epoch>,
    /// The epoch with the lowest validation loss, counted from 1, whose weights are in `weights/best.safetensors`.
    pub best_epoch: usize,
}

/// Trains a network, and writes `env.json`, `metrics.csv`, TensorBoard's events, `weights/best.safetensors`,
/// `weights/last.safetensors`, `checkpoint.safetensors` and, if an average is wanted, `weights/ema.safetensors` to the
/// folder `out`. `identity` is the digest of everything
/// that the result depends on. If `out` holds a checkpoint with the same identity, the run is resumed from it and gives
/// the same weights (bitwise on the CPU; on a GPU only if it is `deterministic`). `config.init`, if it is given, is the
/// path of a weights file.
///
/// # Errors
/// A configuration error if the network cannot take the data set's images; [`TrainError::NotFinite`], where the weights
/// of the last complete epoch remain; [`Error::Interrupted`], after a checkpoint has been written.
pub fn run(config: &Config, data: &Data, identity: Digest, out: &Path, progress: &Progress) -> Result<TrainingSummary> {
    config.validate()?;
    check_precision("train.precision", config.device, config.precision)?;
    for (name, split) in [("train", data.epochs.train()), ("val", data.val)] {
        if split.is_empty() {
            return Err(Error::from(TrainError::EmptySplit { split: name.to_owned() }));
        }
    }
    memory::keep_freed();
    let images = config.samples.unwrap_or(data.epochs.train().len()).min(data.epochs.train().len());
    let opened = match config.device {
        Device::Cpu => None,
        Device::Cuda => Some(gpu::open("train.device", config.precision, config.deterministic)?),
    };
    let too_much = |error: Error| {
        let Split { height, width, .. } = *data.epochs.train();
        let what = || format!("the network and {} images of {height}x{width} pixels", images + data.val.len());
        or_device_memory(error, what, "a smaller `train.samples`, or `train.device` cpu")
    };
    let mut learner = learner(config, data, opened.as_ref()).map_err(too_much)?;
    require_space(learner.network.store().count(), config.ema.is_some(), out)?;
    let batches = batch_count(images, config.batch_size);
    let steps = config.epochs as u64 * batches as u64;
    let mut schedule = Schedule::new(config.schedule, config.learning_rate, steps, config.plateau.clone());
    let begun = checkpoint_of(identity, out, progress)?;
    let (state, epochs) = match begun {
        true => resume(config, data, &mut learner, &mut schedule, out, progress)?,
        false => {
            if let Some(path) = &config.init {
                start_from(Path::new(path), &learner.network, progress)?;
            }
            (start(config, data, identity, &schedule, out)?, Vec::new())
        }
    };
    files::remove(&out.join(STOPPED))?;
    metrics::write(&out.join(metrics::FILE), data.epochs.train().digits, &epochs)?;
    let settings = json!({"train": config, "augment": data.epochs.settings()});
    let time = Environment::read(out)?.started;
    let start = Start { time, steps: batches as u64, settings: &settings, picture: data.picture.as_ref() };
    let events = Events::create(out, &start, &state.points, &epochs)?;
    let gpu = opened.map(|opened| Gpu::new(opened, config, data, images, &learner, begun));
    let gpu = gpu.transpose().map_err(too_much)?;
    std::thread::scope(|scope| {
        let engine = match gpu {
            Some(gpu) => Engine::Gpu(Box::new(gpu)),
            None => Engine::Cpu(Loader::start(scope, config, data, images, [state.epoch, state.batch])),
        };
        let normalise = Normalise::new(config.mean, config.std);
        let training = Training {
            config,
            data,
            images,
            batches,
            learner,
            normalise,
            schedule,
            engine,
            state,
            epochs,
            events,
            out,
            progress,
        };
        training.finish()
    })
}

/// A new network and its optimiser, on the CPU or on the GPU that was opened.
fn learner(config: &Config, data: &Data, opened: Option<&Opened>) -> Result<Learner> {
    let Split { digits, height, width, .. } = *data.epochs.train();
    let shape = config.shape(digits, [height, width]);
    match opened {
        None => Learner::new(config, shape),
        Some(opened) => {
            let network = Network::on(&opened.device(), config.precision.dtype(), shape, config.seed, DROPOUT)?;
            Ok(Learner::of(config, network))
        }
    }
}

/// Whether `out` holds a checkpoint of this identity. If the last one is damaged, it is replaced by the previous one.
fn checkpoint_of(identity: Digest, out: &Path, progress: &Progress) -> Result<bool> {
    let found = checkpoint::find(out)?.filter(|found| found.state.identity == identity);
    if let Some(wrong) = found.as_ref().and_then(|found| found.instead.as_ref()) {
        progress.warn(&format!("{wrong}; the run goes on from the checkpoint before it"));
        checkpoint::fall_back(out)?;
    }
    Ok(found.is_some())
}

/// Resumes from the checkpoint in `out`. Returns the state and the finished epochs.
fn resume(
    config: &Config,
    data: &Data,
    learner: &mut Learner,
    schedule: &mut Schedule,
    out: &Path,
    progress: &Progress,
) -> Result<(TrainingState, Vec<Epoch>)> {
    let state = checkpoint::resume(out, learner, schedule)?;
    let digits = data.epochs.train().digits;
    let epochs = checkpoint::epochs(out, &state, digits, config.repeats(), config.ema.is_some())?;
    if state.rewrites(state.epoch) {
        training::save_weights(config, learner, &state, out)?;
    }
    progress.note(&format!("going on with epoch {} at step {}", state.epoch + 1, state.step));
    Ok((state, epochs))
}

/// Sets a network to the values in a weights file, and says which of its parameters stay random.
fn start_from(path: &Path, network: &Network, progress: &Progress) -> Result<()> {
    let random = weights::start_from(path, network)?;
    let except =
        if random.is_empty() { String::new() } else { format!(", except {}, which are random", random.join(", ")) };
    progress.note(&format!("starting from the weights in {}{except}", path.display()));
    Ok(())
}

/// Starts a run in `out`.
fn start(config: &Config, data: &Data, identity: Digest, schedule: &Schedule, out: &Path) -> Result<TrainingState> {
    files::create_dir(&out.join(WEIGHTS))?;
    Environment::here(config.device, config.precision, data.digest).write(out)?;
    Ok(TrainingState::start(identity, schedule, Digest::of_file(&out.join(environment::FILE))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_training_are_told_from_the_users() {
        let ours =
            ["config.yaml", "weights/best.safetensors", "weights/.last.safetensors.new", ".checkpoint.safetensors.new"];
        for path in [&ours[..], &["events.out.tfevents.1700000000.multidigit", "metrics.csv"]].concat() {
            assert!(is_output(path), "{path}");
        }
        for path in ["notes.txt", "weights/mine.safetensors", "best.safetensors", "weights/deep/best.safetensors"] {
            assert!(!is_output(path), "{path}");
        }
        for path in ["events.out.tfevents.1700000000.laptop", "events.out.tfevents.x.multidigit", "README.md"] {
            assert!(!is_output(path), "{path}");
        }
    }
}
