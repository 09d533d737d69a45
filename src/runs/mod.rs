//! Runs: the information about each run, gathered from the files that it left. The report, the model cards and
//! `multidigit runs` take the numbers of a run from here alone.
//!
//! Numbers are read (from `metrics.csv` of `train` and `metrics.json` of `evaluate`) and selected, never computed. A
//! run that has not ended, or whose files are damaged, is also listed, with its state and its problems.

pub mod card;
mod error;
pub mod format;
pub mod groups;
mod list;
pub mod paper;
pub mod patterns;
mod weights;

pub use self::error::RunsError;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::evaluate::statistics::Accuracy;
use crate::evaluate::{self, Metrics};
use crate::files;
use crate::guard::guarded;
use crate::train::metrics::{self, Epoch};
use crate::train::{self, environment};
pub use list::{Runs, recorded};
pub use weights::WeightsFile;

/// The folders of a run, and what its records say about it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Place {
    /// The folder that `train` wrote.
    pub folder: PathBuf,
    /// The folder of the evaluation of these weights on the data set, if there is one.
    pub evaluate: Option<PathBuf>,
    /// The folders of the evaluations of these weights on other data.
    pub elsewhere: Vec<PathBuf>,
    /// The settings in the record of `train`, by section; `None` if there is no record.
    pub settings: Option<Value>,
    /// The content of the weights that the training started from, if it did not start from random ones.
    pub init: Option<Digest>,
    /// When training ended, in seconds since 1970.
    pub finished: Option<u64>,
    /// Problems of the record and of the files that it names, in words.
    pub problems: Vec<String>,
    /// Whether the table of the epochs differs from the recorded one.
    pub has_damaged_metrics: bool,
}

/// Whether a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// All epochs are done.
    Finished,
    /// The training was interrupted, or is under way.
    Unfinished,
    /// The loss became NaN or infinite.
    Stopped,
}

impl RunState {
    /// The name of the state, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Finished => "finished",
            RunState::Unfinished => "unfinished",
            RunState::Stopped => "stopped",
        }
    }
}

/// The environment that a run was trained in. Older runs do not record it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordedEnvironment {
    /// The version of the program.
    pub version: Option<String>,
    /// The commit that the program was built from.
    pub commit: Option<String>,
    /// The name of the processor.
    pub cpu: Option<String>,
    /// The number of its cores.
    pub cores: Option<u64>,
    /// The number of threads that computed.
    pub threads: Option<u64>,
    /// The device that computed.
    pub device: Option<String>,
    /// What computed the products.
    pub products: Option<String>,
    /// The content digest of the data set.
    pub dataset: Option<String>,
    /// When training began, in seconds since 1970.
    pub started: Option<u64>,
}

/// What `train` writes when the loss becomes NaN or infinite.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stop {
    /// The step of the optimiser.
    pub step: Option<u64>,
    /// The epoch, counted from 1.
    pub epoch: Option<u64>,
    /// The message that the user saw.
    pub message: String,
}

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The name of the run.
    pub name: String,
    /// The name of the run's folder, which no other run has. If the run has not ended, the name has the
    /// suffix of an unfinished run.
    pub folder: String,
    /// Whether the run has ended.
    pub state: RunState,
    /// The settings, by section; null if no file holds them.
    pub settings: Value,
    /// The content of the weights that the training started from, if it did not start from random ones.
    pub init: Option<Digest>,
    /// The network.
    pub model: Option<String>,
    /// The initial learning rate.
    pub learning_rate: Option<f64>,
    /// The epochs that are done.
    pub epochs: Vec<Epoch>,
    /// The evaluation of the run's weights on the data set.
    pub metrics: Option<Metrics>,
    /// Evaluations of the run's weights on other data, by the names of their folders.
    pub elsewhere: Vec<(String, Metrics)>,
    /// The environment that the run was trained in.
    pub environment: RecordedEnvironment,
    /// Why the run stopped, if its loss became NaN or infinite.
    pub stop: Option<Stop>,
    /// Problems with reading the files of the run, in words.
    pub problems: Vec<String>,
    /// When the run ended, or when it began if it has not ended, in seconds since 1970.
    pub when: Option<u64>,
}

/// A run in one line, as `multidigit runs` prints it and tables of runs show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The name of the run.
    pub run: String,
    /// Whether the run has ended.
    pub state: RunState,
    /// The network.
    pub model: Option<String>,
    /// The initial learning rate.
    pub learning_rate: Option<f64>,
    /// The number of images per step.
    pub batch_size: Option<u64>,
    /// The seed.
    pub seed: Option<u64>,
    /// The number of epochs that are done.
    pub epochs: usize,
    /// The number of epochs in the configuration.
    pub epochs_planned: Option<u64>,
    /// The training accuracy in the last epoch.
    pub train_accuracy: Option<f64>,
    /// The training loss in the last epoch.
    pub train_loss: Option<f64>,
    /// The epoch with the lowest validation loss, whose weights are the best weights.
    pub best_epoch: Option<usize>,
    /// The validation accuracy after that epoch.
    pub best_val_accuracy: Option<f64>,
    /// The validation loss after that epoch.
    pub best_val_loss: Option<f64>,
    /// The joint-digit accuracy on the test split, with its interval.
    pub test_accuracy: Option<Accuracy>,
    /// The loss on the test split.
    pub test_loss: Option<f64>,
    /// When the run ended, or when it began if it has not ended, in seconds since 1970.
    pub when: Option<u64>,
    /// The time of the epochs with their validation, in seconds.
    pub seconds: Option<f64>,
    /// Problems with reading the files of the run, in words.
    pub problems: Vec<String>,
}

impl Run {
    /// Reads the files of a run. Damaged files are reported in [`Run::problems`].
    ///
    /// # Errors
    /// [`Error::Io`] if the system fails, since the same file may be readable a moment later.
    pub fn read(place: &Place) -> Result<Run> {
        let folder = &place.folder;
        let mut problems = place.problems.clone();
        let file_name = folder.file_name().unwrap_or_default().to_string_lossy();
        let settings = match &place.settings {
            Some(settings) => settings.clone(),
            None => read_if_there(&folder.join(train::CONFIG), yaml, &mut problems)?.unwrap_or_default(),
        };
        // a table that differs from the recorded one is not shown
        let epochs = match place.has_damaged_metrics {
            true => Vec::new(),
            false => read_if_there(&folder.join(metrics::FILE), metrics::read, &mut problems)?.unwrap_or_default(),
        };
        let environment: RecordedEnvironment =
            read_if_there(&folder.join(environment::FILE), json, &mut problems)?.unwrap_or_default();
        let stop: Option<Stop> = read_if_there(&folder.join(train::STOPPED), json, &mut problems)?;
        let mut evaluated =
            |folder: &PathBuf| read_if_there(&folder.join(evaluate::FILE), Metrics::read, &mut problems);
        let metrics = place.evaluate.as_ref().map(&mut evaluated).transpose()?.flatten();
        let named = |folder: &PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut elsewhere = Vec::new();
        for folder in &place.elsewhere {
            elsewhere.extend(evaluated(folder)?.map(|metrics| (named(folder), metrics)));
        }
        let state = match (&stop, &place.settings) {
            (Some(_), _) => RunState::Stopped,
            (None, Some(_)) => RunState::Finished,
            (None, None) => RunState::Unfinished,
        };
        let section = settings.get("train").unwrap_or(&Value::Null);
        Ok(Run {
            folder: file_name.clone().into_owned(),
            name: file_name.strip_suffix(files::UNFINISHED).unwrap_or(&file_name).to_owned(),
            state,
            model: section["model"].as_str().map(str::to_owned),
            learning_rate: section["learning_rate"].as_f64(),
            settings,
            init: place.init,
            epochs,
            metrics,
            elsewhere,
            when: place.finished.or(environment.started),
            environment,
            stop,
            problems,
        })
    }

    /// The epoch with the lowest validation loss; the first of several with the same loss.
    pub fn best(&self) -> Option<&Epoch> {
        self.epochs.iter().reduce(|best, epoch| if epoch.val_loss < best.val_loss { epoch } else { best })
    }

    /// The time of the epochs with their validation, in seconds, over all sessions of the training. `None` if no epoch is
    /// done.
    pub fn seconds(&self) -> Option<f64> {
        (!self.epochs.is_empty()).then(|| self.epochs.iter().map(|epoch| epoch.seconds).sum())
    }

    /// The run in one line.
    pub fn summary(&self) -> Summary {
        let (last, best) = (self.epochs.last(), self.best());
        let test = self.metrics.as_ref().and_then(|metrics| metrics.split("test"));
        let number = |key: &str| self.settings.get("train")?.get(key)?.as_u64();
        Summary {
            run: self.name.clone(),
            state: self.state,
            model: self.model.clone(),
            learning_rate: self.learning_rate,
            batch_size: number("batch_size"),
            seed: number("seed"),
            epochs: self.epochs.len(),
            epochs_planned: number("epochs"),
            train_accuracy: last.map(|epoch| epoch.train_accuracy),
            train_loss: last.map(|epoch| epoch.train_loss),
            best_epoch: best.map(|epoch| epoch.epoch),
            best_val_accuracy: best.map(|epoch| epoch.val_accuracy),
            best_val_loss: best.map(|epoch| epoch.val_loss),
            test_accuracy: test.map(|test| test.accuracy),
            test_loss: test.map(|test| test.loss),
            when: self.when,
            seconds: self.seconds(),
            problems: self.problems.clone(),
        }
    }
}

/// Sorts runs by validation accuracy, the best first and runs without one last. Runs with equal
/// accuracy are sorted by name.
pub fn sort(runs: &mut [Run]) {
    let rank = |run: &Run| run.best().map_or(-1.0, |best| best.val_accuracy);
    runs.sort_by(|a, b| rank(b).total_cmp(&rank(a)).then_with(|| a.name.cmp(&b.name)));
}

/// Reads a file, if it exists. Its problems are added to `problems`.
fn read_if_there<T>(path: &Path, read: impl Fn(&Path) -> Result<T>, problems: &mut Vec<String>) -> Result<Option<T>> {
    if !path.try_exists().map_err(Error::io(path, "look for it"))? {
        return Ok(None);
    }
    match read(path) {
        Err(error) if error.is_of_system() => Err(error),
        Err(error) => {
            problems.push(error.to_string());
            Ok(None)
        }
        found => found.map(Some),
    }
}

fn json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let refuse = |e: serde_json::Error| Error::format(path, format!("not readable ({e})"), "what `train` writes");
    serde_json::from_str(&files::read_text(path)?).map_err(refuse)
}

fn yaml(path: &Path) -> Result<Value> {
    let text = files::read_text(path)?;
    guarded(path, || serde_saphyr::from_str(&text))?.map_err(|e: serde_saphyr::Error| {
        let found = format!("not readable as YAML ({})", e.without_snippet());
        Error::format(path, found, "a resolved configuration, as `train` writes")
    })
}
