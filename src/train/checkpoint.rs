//! Checkpoints: the complete state of a run, from which it can be resumed as if it had never been interrupted.
//!
//! One safetensors file holds the parameters, the buffers and the optimiser's moments; the rest is a line of JSON in
//! its metadata. Random numbers need no state, since they depend on the seed and the step alone. Numbers that the run
//! continues with are stored as text that preserves every bit.

use std::path::Path;

use candle_core::Var;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::batch::Scores;
use super::learner::Learner;
use super::metrics::{self, Epoch};
use super::{WEIGHTS, environment};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::networks::weights::{self, Entry, Parsed};
use multidigit_nn::optim::Moments;
use multidigit_nn::schedule::{Schedule, ScheduleState};

/// The name of the checkpoint in the folder of a run.
pub const FILE: &str = "checkpoint.safetensors";

/// The previous checkpoint, which is kept until the run is finished in case the last one is damaged.
pub const PREVIOUS: &str = "checkpoint.previous.safetensors";

/// The state of a training, without its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Text", into = "Text")]
pub struct TrainingState {
    /// The digest of the configuration and the data that the run depends on.
    pub identity: Digest,
    /// The number of finished epochs.
    pub epoch: usize,
    /// The number of finished batches of the next epoch.
    pub batch: usize,
    /// The number of finished steps of the optimiser.
    pub step: u64,
    /// The time that the current epoch has taken so far, in seconds.
    pub seconds: f64,
    /// The scores of the current epoch so far.
    pub scores: Scores,
    /// The best epoch so far.
    pub best: Best,
    /// The state of the schedule.
    pub schedule: ScheduleState,
    /// The number of steps of Adam.
    pub adam_steps: i32,
    /// The digest of the table of finished epochs.
    pub metrics: Digest,
    /// The digest of the environment file.
    pub environment: Digest,
    /// The points of TensorBoard's curves within the epochs. They are nowhere else, and the curves are written again when
    /// the run is resumed.
    pub points: Vec<Point>,
}

/// The epoch with the lowest validation loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// The number of the epoch, counted from 1; 0 before the first epoch.
    pub epoch: usize,
    /// The validation loss of the epoch.
    pub loss: f64,
}

/// A point of the curves within the epochs, as TensorBoard shows them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// The number of finished steps.
    pub step: u64,
    /// The mean loss over the images of the last step or, on a GPU, of the last steps that it ran without the host.
    #[serde(with = "exact")]
    pub loss: f64,
    /// The learning rate of the last step.
    #[serde(with = "exact")]
    pub rate: f64,
    /// The time since the begin of the epoch, in seconds.
    #[serde(with = "exact")]
    pub seconds: f64,
}

impl TrainingState {
    /// The state before the first step of a run. `environment` is the digest of its environment file.
    pub fn start(identity: Digest, schedule: &Schedule, environment: Digest) -> TrainingState {
        TrainingState {
            identity,
            epoch: 0,
            batch: 0,
            step: 0,
            seconds: 0.0,
            scores: Scores::default(),
            best: Best { epoch: 0, loss: f64::INFINITY },
            schedule: schedule.state().clone(),
            adam_steps: 0,
            metrics: Digest::of(b""),
            environment,
            points: Vec::new(),
        }
    }

    /// Whether the weights after this epoch are those of this state, and are therefore written again
    /// when the run is resumed.
    pub fn rewrites(&self, epoch: usize) -> bool {
        self.batch == 0 && self.epoch > 0 && epoch == self.epoch
    }
}

/// A [`TrainingState`] as stored in a checkpoint: one object, in which only the points have fields of their own.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    identity: Digest,
    epoch: usize,
    batch: usize,
    step: u64,
    #[serde(with = "exact")]
    seconds: f64,
    images: usize,
    #[serde(with = "exact")]
    loss: f64,
    correct: usize,
    correct_digits: Vec<usize>,
    best_epoch: usize,
    #[serde(with = "exact")]
    best_loss: f64,
    #[serde(with = "exact")]
    rate: f64,
    #[serde(with = "exact")]
    plateau_best: f64,
    plateau_bad_epochs: usize,
    plateau_cooldown: usize,
    adam_steps: i32,
    metrics: Digest,
    environment: Digest,
    /// Checkpoints from before have none.
    #[serde(default)]
    points: Vec<Point>,
}

impl From<Text> for TrainingState {
    fn from(text: Text) -> TrainingState {
        let Text { identity, epoch, batch, step, seconds, adam_steps, metrics, environment, .. } = text;
        let Text { images, loss, correct, correct_digits, points, .. } = text;
        TrainingState {
            identity,
            epoch,
            batch,
            step,
            seconds,
            scores: Scores { images, loss, correct, correct_digits },
            best: Best { epoch: text.best_epoch, loss: text.best_loss },
            schedule: ScheduleState {
                rate: text.rate,
                best: text.plateau_best,
                bad_epochs: text.plateau_bad_epochs,
                cooldown: text.plateau_cooldown,
            },
            adam_steps,
            metrics,
            environment,
            points,
        }
    }
}

impl From<TrainingState> for Text {
    fn from(state: TrainingState) -> Text {
        let TrainingState { identity, epoch, batch, step, seconds, adam_steps, metrics, environment, points, .. } =
            state;
        let Scores { images, loss, correct, correct_digits } = state.scores;
        let ScheduleState { rate, best, bad_epochs, cooldown } = state.schedule;
        Text {
            identity,
            epoch,
            batch,
            step,
            seconds,
            images,
            loss,
            correct,
            correct_digits,
            best_epoch: state.best.epoch,
            best_loss: state.best.loss,
            rate,
            plateau_best: best,
            plateau_bad_epochs: bad_epochs,
            plateau_cooldown: cooldown,
            adam_steps,
            metrics,
            environment,
            points,
        }
    }
}

/// The checkpoint from which an interrupted run is resumed.
#[derive(Debug, PartialEq)]
pub struct Found {
    /// The state in the checkpoint.
    pub state: TrainingState,
    /// If this is the previous checkpoint, the reason why the last one cannot be used.
    pub instead: Option<String>,
}

/// The checkpoint of an interrupted run in `folder`, if there is one: the last one, or the previous one if the last is
/// damaged or missing.
///
/// # Errors
/// [`Error::Format`] if the last checkpoint is damaged and there is no valid previous one; [`Error::Io`] if the system
/// fails to read one, which does not mean that it is damaged.
pub fn find(folder: &Path) -> Result<Option<Found>> {
    let path = folder.join(FILE);
    let last = match read_state(&path) {
        Ok(Some(state)) => return Ok(Some(Found { state, instead: None })),
        Err(error) if error.is_of_system() => return Err(error),
        last => last.map(|_| None),
    };
    let state = match read_state(&folder.join(PREVIOUS)) {
        Ok(Some(state)) => state,
        Err(error) if error.is_of_system() => return Err(error),
        _ => return last,
    };
    let wrong = match last {
        Err(Error::Format { found, .. }) => found,
        Err(other) => other.to_string(),
        Ok(_) => "missing".to_owned(),
    };
    Ok(Some(Found { state, instead: Some(format!("`{}`: {wrong}", path.display())) }))
}

/// Replaces the last checkpoint of the run in `folder` by the previous one.
pub fn fall_back(folder: &Path) -> Result<()> {
    files::rename(&folder.join(PREVIOUS), &folder.join(FILE))
}

/// The state in the checkpoint at a path; `None` if there is no such file.
fn read_state(path: &Path) -> Result<Option<TrainingState>> {
    if !path.try_exists().map_err(Error::io(path, "look for it"))? {
        return Ok(None);
    }
    let bytes = files::read(path)?;
    parse(path, &bytes).map(|(_, state)| Some(state))
}

/// The tensors and the state in the bytes of a checkpoint, which must have a digest.
fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<(SafeTensors<'a>, TrainingState)> {
    let Parsed { tensors, description, is_checked } = weights::parse(path, bytes).map_err(of_checkpoint)?;
    if !is_checked {
        return Err(Error::format(path, "no digest of its content", EXPECTED));
    }
    let state = serde_json::from_str(&description)
        .map_err(|e| Error::format(path, format!("not a checkpoint ({e})"), EXPECTED))?;
    Ok((tensors, state))
}

const EXPECTED: &str = "a checkpoint of this version; start the run over with --force";

/// Adds advice for checkpoints to an error about a weights file.
fn of_checkpoint(error: Error) -> Error {
    match error {
        Error::Format { path, found, .. } => Error::Format { path, found, expected: EXPECTED.to_owned() },
        other => other,
    }
}

/// Writes the state of a training. The former checkpoint is kept as [`PREVIOUS`].
pub fn save(folder: &Path, state: &TrainingState, learner: &Learner) -> Result<()> {
    let (network, moments) = (&learner.network, learner.adam.moments());
    let mut tensors = Vec::new();
    for (name, var) in multidigit_nn::weights::all(network.store()) {
        tensors.push((format!("value.{name}"), Entry::of(var)?));
    }
    for ((name, _), moments) in network.store().parameters().iter().zip(&moments) {
        tensors.push((format!("first.{name}"), Entry::vector(&moments.first)));
        tensors.push((format!("second.{name}"), Entry::vector(&moments.second)));
    }
    if let Some(average) = &learner.average {
        for ((name, var), values) in multidigit_nn::weights::all(network.store()).zip(average.values()) {
            tensors.push((format!("average.{name}"), Entry::new(var.dims(), values)));
        }
    }
    weights::write(&folder.join(FILE), Some(&folder.join(PREVIOUS)), tensors, &serde_json::json!(state))
}

/// Restores a learner and its schedule to the state of the run in `folder`.
pub fn resume(folder: &Path, learner: &mut Learner, schedule: &mut Schedule) -> Result<TrainingState> {
    let path = folder.join(FILE);
    let bytes = files::read(&path)?;
    let (tensors, state) = parse(&path, &bytes)?;
    weights::restore(&path, &tensors, "value.", &learner.network).map_err(of_checkpoint)?;
    let mut moments = Vec::new();
    for (name, var) in learner.network.store().parameters() {
        let read = |kind: &str| weights::floats(&path, &tensors, &format!("{kind}.{name}"), &[var.elem_count()]);
        let moment = |kind| read(kind).map_err(of_checkpoint);
        moments.push(Moments { first: moment("first")?, second: moment("second")? });
    }
    learner.adam.resume(state.adam_steps, moments);
    if let Some(average) = learner.average.as_mut().filter(|_| state.step > 0) {
        let read = |(name, var): &(String, Var)| {
            weights::floats(&path, &tensors, &format!("average.{name}"), var.dims()).map_err(of_checkpoint)
        };
        average.resume(multidigit_nn::weights::all(learner.network.store()).map(read).collect::<Result<_>>()?);
    }
    schedule.resume(state.schedule.clone());
    Ok(state)
}

/// Changes the identity of the checkpoint in `folder` to `to`, for another run that continues from it.
///
/// # Errors
/// [`Error::Format`] if the checkpoint does not belong to the run `from`.
pub fn adopt(folder: &Path, from: Digest, to: Digest) -> Result<()> {
    let path = folder.join(FILE);
    let bytes = files::read(&path)?;
    let (tensors, state) = parse(&path, &bytes)?;
    if state.identity != from {
        let found = format!("a checkpoint of another run ({})", state.identity.short());
        return Err(Error::format(&path, found, format!("that of {}", from.short())));
    }
    let entries = tensors.names().into_iter().map(|name| Ok((name.to_owned(), weights::entry(&path, &tensors, name)?)));
    let entries = entries.collect::<Result<Vec<_>>>()?;
    weights::write(&path, None, entries, &serde_json::json!(TrainingState { identity: to, ..state }))
}

/// Checks the files of the run in `folder` that the run continues with and that remain when it is finished: its
/// metrics, its environment and its weights, with their average if the run `averages` them. Returns the finished epochs. Weights written after the checkpoint at the
/// end of an epoch may be missing, since [`super::run`] writes them again after a kill. If the run is resumed from the
/// previous checkpoint, weights of a later epoch are accepted too, provided that `repeats` says that the run computes
/// the same ones again.
pub fn epochs(
    folder: &Path,
    state: &TrainingState,
    digits: usize,
    repeats: bool,
    averages: bool,
) -> Result<Vec<Epoch>> {
    const ADVICE: &str = "restore it from a copy, or start the run over with --force";
    let changed = |name: &str| {
        let path = folder.join(name);
        Error::format(&path, "not what the run wrote", format!("the file that its checkpoint speaks of; {ADVICE}"))
    };
    let unreadable = |name: &str, error: Error| if error.is_of_system() { error } else { changed(name) };
    let mut epochs = metrics::read(&folder.join(metrics::FILE)).map_err(|error| unreadable(metrics::FILE, error))?;
    epochs.truncate(state.epoch);
    if Digest::of(metrics::text(digits, &epochs).as_bytes()) != state.metrics {
        return Err(changed(metrics::FILE));
    }
    let environment = Digest::of_file(&folder.join(environment::FILE));
    if environment.map_err(|error| unreadable(environment::FILE, error))? != state.environment {
        return Err(changed(environment::FILE));
    }
    let average = averages.then_some(("ema", state.epoch));
    for (name, epoch) in [("best", state.best.epoch), ("last", state.epoch)].into_iter().chain(average) {
        if state.epoch == 0 || state.rewrites(epoch) {
            continue;
        }
        let file = format!("{WEIGHTS}/{name}.safetensors");
        let path = folder.join(&file);
        let bytes = files::read(&path).map_err(|error| unreadable(&file, error))?;
        let parsed = weights::parse(&path, &bytes)?;
        if !parsed.is_checked {
            return Err(changed(&file));
        }
        let found = weights::describe(&path, &parsed.description)?.epoch;
        let is_made_again = found > state.epoch && (repeats || name != "best");
        if found != epoch && !is_made_again {
            let expected = format!("those of epoch {epoch}; {ADVICE}");
            return Err(Error::format(&path, format!("weights of epoch {found}"), expected));
        }
    }
    Ok(epochs)
}

/// A number as the shortest text that preserves every bit, including the infinities, which JSON does not have.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_string())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| de::Error::custom(format!("{text:?} is no number")))
    }
}
