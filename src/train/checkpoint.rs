//! Checkpoints: all that a run has come to, so that it can go on as if it had never been interrupted.
//!
//! One safetensors file holds parameters, buffers and the optimiser's moments; everything else, a line of JSON in its
//! metadata. Random numbers need no state: they follow from the seed and the step. Numbers that the run goes on with
//! are kept as text, which gives back every bit.

use std::path::Path;

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

/// The file in a run's folder.
pub const FILE: &str = "checkpoint.safetensors";

/// The checkpoint before the last one, which stands in for it should that be damaged, until the run is finished.
pub const PREVIOUS: &str = "checkpoint.previous.safetensors";

/// The state of a training, but for its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Text", into = "Text")]
pub struct TrainingState {
    /// Digest of the configuration and the data that the run depends on.
    pub identity: Digest,
    /// Epochs that are done.
    pub epoch: usize,
    /// Batches of the next epoch that are done.
    pub batch: usize,
    /// Steps of the optimiser that are done.
    pub step: u64,
    /// The time that the epoch under way took so far, in seconds.
    pub seconds: f64,
    /// The scores of the epoch under way.
    pub scores: Scores,
    /// The best epoch so far.
    pub best: Best,
    /// The state of the schedule.
    pub schedule: ScheduleState,
    /// Steps of Adam.
    pub adam_steps: i32,
    /// Digest of the table of the epochs that are done.
    pub metrics: Digest,
    /// Digest of the file of the environment.
    pub environment: Digest,
}

/// The epoch with the lowest validation loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// Its number, counted from 1; 0 before the first epoch.
    pub epoch: usize,
    /// Its validation loss.
    pub loss: f64,
}

impl TrainingState {
    /// The state before the first step of a run whose file of the environment has this digest.
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
        }
    }

    /// Whether the weights after this epoch are those of this very state, and are written again where the run goes on.
    pub fn rewrites(&self, epoch: usize) -> bool {
        self.batch == 0 && self.epoch > 0 && epoch == self.epoch
    }
}

/// A [`TrainingState`] as it stands in a checkpoint: one object without nesting.
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
}

impl From<Text> for TrainingState {
    fn from(text: Text) -> TrainingState {
        let Text { identity, epoch, batch, step, seconds, adam_steps, metrics, environment, .. } = text;
        let Text { images, loss, correct, correct_digits, .. } = text;
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
        }
    }
}

impl From<TrainingState> for Text {
    fn from(state: TrainingState) -> Text {
        let TrainingState { identity, epoch, batch, step, seconds, adam_steps, metrics, environment, .. } = state;
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
        }
    }
}

/// The checkpoint from which an interrupted run goes on.
#[derive(Debug, PartialEq)]
pub struct Found {
    /// The state that it holds.
    pub state: TrainingState,
    /// What is wrong with the last checkpoint, in words, if this is the one before it.
    pub instead: Option<String>,
}

/// The checkpoint of an interrupted run in `folder`, if it has one: the last one, or the one before it where the last is
/// damaged or missing.
///
/// # Errors
/// [`Error::Format`] where the last one is damaged, and there is no sound one before it; [`Error::Io`] where the system
/// fails to read one, which is no damage.
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

/// Makes the checkpoint before the last one the last one of the run in `folder`.
pub fn fall_back(folder: &Path) -> Result<()> {
    files::rename(&folder.join(PREVIOUS), &folder.join(FILE))
}

/// The state in the checkpoint at a path; none where there is no such file.
fn read_state(path: &Path) -> Result<Option<TrainingState>> {
    if !path.try_exists().map_err(Error::io(path, "look for it"))? {
        return Ok(None);
    }
    let bytes = files::read(path)?;
    parse(path, &bytes).map(|(_, state)| Some(state))
}

/// The tensors and the state in the bytes of a checkpoint, which must have a digest of its own.
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

/// An error in reading a file of weights, with advice for a checkpoint.
fn of_checkpoint(error: Error) -> Error {
    match error {
        Error::Format { path, found, .. } => Error::Format { path, found, expected: EXPECTED.to_owned() },
        other => other,
    }
}

/// Writes the state of a training. The checkpoint that stood there before is kept as [`PREVIOUS`].
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
    weights::write(&folder.join(FILE), Some(&folder.join(PREVIOUS)), tensors, &serde_json::json!(state))
}

/// Brings a learner and its schedule to the state of the run in `folder`.
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
    schedule.resume(state.schedule.clone());
    Ok(state)
}

/// Makes the checkpoint in `folder` that of another run, which goes on from it: its identity becomes `to`.
///
/// # Errors
/// [`Error::Format`] where it is not that of the run `from`.
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

/// The epochs that are done of the run in a folder, once all is checked that the run goes on with and that will be part
/// of it when it is finished: its metrics, its environment, and its weights. Weights that are written after the
/// checkpoint, at the end of an epoch, are written again by [`super::run`] if a kill came between. So are weights of an
/// epoch yet to come, where the run goes on from the checkpoint before the last one, if `repeats` says that the run comes to
/// the same ones again.
pub fn epochs(folder: &Path, state: &TrainingState, digits: usize, repeats: bool) -> Result<Vec<Epoch>> {
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
    for (name, epoch) in [("best", state.best.epoch), ("last", state.epoch)] {
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
        let is_made_again = found > state.epoch && (repeats || name == "last");
        if found != epoch && !is_made_again {
            let expected = format!("those of epoch {epoch}; {ADVICE}");
            return Err(Error::format(&path, format!("weights of epoch {found}"), expected));
        }
    }
    Ok(epochs)
}

/// A number as the shortest text that reads back to its every bit; infinities too, which JSON has not.
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
