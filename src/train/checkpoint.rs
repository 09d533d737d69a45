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
use multidigit_nn::schedule::{Schedule, State};

/// The file in a run's folder.
pub const FILE: &str = "checkpoint.safetensors";

/// The checkpoint before the last one, which stands in for it should that be damaged, until the run is finished.
pub const PREVIOUS: &str = "checkpoint.previous.safetensors";

/// Where a run stands; its tensors are beside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Digest of the configuration and the data that the run depends on.
    pub identity: Digest,
    /// Epochs that are done.
    pub epoch: usize,
    /// Batches of the next epoch that are done.
    pub batch: usize,
    /// Steps of the optimiser that are done.
    pub step: u64,
    /// How long the epoch under way took so far, in seconds.
    #[serde(with = "exact")]
    pub seconds: f64,
    /// Images of the epoch under way so far.
    pub images: usize,
    /// Their loss, summed.
    #[serde(with = "exact")]
    pub loss: f64,
    /// How many of them had all digits right.
    pub correct: usize,
    /// How many of them had the right digit, per position.
    pub correct_digits: Vec<usize>,
    /// The epoch with the lowest validation loss, counted from 1; 0 before the first.
    pub best_epoch: usize,
    /// That loss.
    #[serde(with = "exact")]
    pub best_loss: f64,
    /// The learning rate of the plateau.
    #[serde(with = "exact")]
    pub rate: f64,
    /// The lowest loss that the plateau has met.
    #[serde(with = "exact")]
    pub plateau_best: f64,
    /// Epochs since it fell.
    pub plateau_bad_epochs: usize,
    /// Epochs of the plateau's cooldown that are left.
    pub plateau_cooldown: usize,
    /// Steps of Adam.
    pub adam_steps: i32,
    /// Digest of the table of the epochs that are done.
    pub metrics: Digest,
    /// Digest of the file of the environment.
    pub environment: Digest,
}

impl Position {
    /// The beginning of a run whose file of the environment has this digest.
    pub fn start(identity: Digest, schedule: &Schedule, environment: Digest) -> Position {
        let State { rate, best, bad_epochs, cooldown } = *schedule.state();
        Position {
            identity,
            epoch: 0,
            batch: 0,
            step: 0,
            seconds: 0.0,
            images: 0,
            loss: 0.0,
            correct: 0,
            correct_digits: Vec::new(),
            best_epoch: 0,
            best_loss: f64::INFINITY,
            rate,
            plateau_best: best,
            plateau_bad_epochs: bad_epochs,
            plateau_cooldown: cooldown,
            adam_steps: 0,
            metrics: Digest::of(b""),
            environment,
        }
    }

    /// Whether weights after this epoch are those of this very position, and are written again where the run goes on.
    pub fn rewrites(&self, epoch: usize) -> bool {
        self.batch == 0 && self.epoch > 0 && epoch == self.epoch
    }

    /// The scores of the epoch under way.
    pub fn scores(&self) -> Scores {
        let (images, loss, correct) = (self.images, self.loss, self.correct);
        Scores { images, loss, correct, correct_digits: self.correct_digits.clone() }
    }
}

/// The checkpoint from which an interrupted run goes on.
#[derive(Debug, PartialEq)]
pub struct Found {
    /// Where the run stands by it.
    pub position: Position,
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
    let last = match position(&path) {
        Ok(Some(position)) => return Ok(Some(Found { position, instead: None })),
        Err(error) if error.is_of_system() => return Err(error),
        last => last.map(|_| None),
    };
    let position = match position(&folder.join(PREVIOUS)) {
        Ok(Some(position)) => position,
        Err(error) if error.is_of_system() => return Err(error),
        _ => return last,
    };
    let wrong = match last {
        Err(Error::Format { found, .. }) => found,
        Err(other) => other.to_string(),
        Ok(_) => "missing".to_owned(),
    };
    Ok(Some(Found { position, instead: Some(format!("`{}`: {wrong}", path.display())) }))
}

/// Makes the checkpoint before the last one the last one of the run in `folder`.
pub fn fall_back(folder: &Path) -> Result<()> {
    files::rename(&folder.join(PREVIOUS), &folder.join(FILE))
}

/// The position in the checkpoint at a path; none where there is no such file.
fn position(path: &Path) -> Result<Option<Position>> {
    if !path.try_exists().map_err(Error::io(path, "look for it"))? {
        return Ok(None);
    }
    let bytes = files::read(path)?;
    parse(path, &bytes).map(|(_, position)| Some(position))
}

/// The tensors and the position in the bytes of a checkpoint, which must have a digest of its own.
fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<(SafeTensors<'a>, Position)> {
    let Parsed { tensors, description, is_checked } = weights::parse(path, bytes).map_err(of_checkpoint)?;
    if !is_checked {
        return Err(Error::format(path, "no digest of its content", EXPECTED));
    }
    let position = serde_json::from_str(&description)
        .map_err(|e| Error::format(path, format!("not a checkpoint ({e})"), EXPECTED))?;
    Ok((tensors, position))
}

const EXPECTED: &str = "a checkpoint of this version; start the run over with --force";

/// An error in reading a file of weights, with advice for a checkpoint.
fn of_checkpoint(error: Error) -> Error {
    match error {
        Error::Format { path, found, .. } => Error::Format { path, found, expected: EXPECTED.to_owned() },
        other => other,
    }
}

/// Writes where a run stands. The checkpoint that stood there before is kept as [`PREVIOUS`].
pub fn save(folder: &Path, position: &Position, learner: &Learner) -> Result<()> {
    let (network, moments) = (&learner.network, learner.adam.moments());
    let mut tensors = Vec::new();
    for (name, var) in multidigit_nn::weights::all(network.store()) {
        tensors.push((format!("value.{name}"), Entry::of(var)?));
    }
    for ((name, _), moments) in network.store().parameters().iter().zip(&moments) {
        tensors.push((format!("first.{name}"), Entry::vector(&moments.first)));
        tensors.push((format!("second.{name}"), Entry::vector(&moments.second)));
    }
    weights::write(&folder.join(FILE), Some(&folder.join(PREVIOUS)), tensors, &serde_json::json!(position))
}

/// Brings a learner and its schedule to where the run in `folder` stands.
pub fn resume(folder: &Path, learner: &mut Learner, schedule: &mut Schedule) -> Result<Position> {
    let path = folder.join(FILE);
    let bytes = files::read(&path)?;
    let (tensors, position) = parse(&path, &bytes)?;
    weights::restore(&path, &tensors, "value.", &learner.network).map_err(of_checkpoint)?;
    let mut moments = Vec::new();
    for (name, var) in learner.network.store().parameters() {
        let read = |kind: &str| weights::floats(&path, &tensors, &format!("{kind}.{name}"), &[var.elem_count()]);
        let moment = |kind| read(kind).map_err(of_checkpoint);
        moments.push(Moments { first: moment("first")?, second: moment("second")? });
    }
    learner.adam.resume(position.adam_steps, moments);
    schedule.resume(State {
        rate: position.rate,
        best: position.plateau_best,
        bad_epochs: position.plateau_bad_epochs,
        cooldown: position.plateau_cooldown,
    });
    Ok(position)
}

/// Makes the checkpoint in `folder` that of another run, which goes on from it: its identity becomes `to`.
///
/// # Errors
/// [`Error::Format`] where it is not that of the run `from`.
pub fn adopt(folder: &Path, from: Digest, to: Digest) -> Result<()> {
    let path = folder.join(FILE);
    let bytes = files::read(&path)?;
    let (tensors, position) = parse(&path, &bytes)?;
    if position.identity != from {
        let found = format!("a checkpoint of another run ({})", position.identity.short());
        return Err(Error::format(&path, found, format!("that of {}", from.short())));
    }
    let entries = tensors.names().into_iter().map(|name| Ok((name.to_owned(), weights::entry(&path, &tensors, name)?)));
    let entries = entries.collect::<Result<Vec<_>>>()?;
    weights::write(&path, None, entries, &serde_json::json!(Position { identity: to, ..position }))
}

/// The epochs that are done of the run in a folder, once all is checked that the run goes on with and that will be part
/// of it when it is finished: its metrics, its environment, and its weights. Weights that are written after the
/// checkpoint, at the end of an epoch, are written again by [`super::run`] if a kill came between. So are weights of an
/// epoch yet to come, where the run goes on from the checkpoint before the last one, if `repeats` says that the run comes to
/// the same ones again.
pub fn epochs(folder: &Path, position: &Position, digits: usize, repeats: bool) -> Result<Vec<Epoch>> {
    const ADVICE: &str = "restore it from a copy, or start the run over with --force";
    let changed = |name: &str| {
        let path = folder.join(name);
        Error::format(&path, "not what the run wrote", format!("the file that its checkpoint speaks of; {ADVICE}"))
    };
    let unreadable = |name: &str, error: Error| if error.is_of_system() { error } else { changed(name) };
    let mut epochs = metrics::read(&folder.join(metrics::FILE)).map_err(|error| unreadable(metrics::FILE, error))?;
    epochs.truncate(position.epoch);
    if Digest::of(metrics::text(digits, &epochs).as_bytes()) != position.metrics {
        return Err(changed(metrics::FILE));
    }
    let environment = Digest::of_file(&folder.join(environment::FILE));
    if environment.map_err(|error| unreadable(environment::FILE, error))? != position.environment {
        return Err(changed(environment::FILE));
    }
    for (name, epoch) in [("best", position.best_epoch), ("last", position.epoch)] {
        if position.epoch == 0 || position.rewrites(epoch) {
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
        let is_made_again = found > position.epoch && (repeats || name == "last");
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
