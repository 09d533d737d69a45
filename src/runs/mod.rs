//! What is known of a run, gathered from the files that it left: the one place that the report, the model cards and
//! `multidigit runs` take a run's numbers from.
//!
//! Numbers are read here (`metrics.csv` of `train`, `metrics.json` of `evaluate`) and selected, never computed. A run
//! that has not ended, or whose files are damaged, is a run all the same, and says what it is.

pub mod card;
mod error;
pub mod format;
mod list;
pub mod paper;

pub use self::error::RunsError;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::evaluate::statistics::Accuracy;
use crate::evaluate::{self, Metrics};
use crate::files;
use crate::guard::guarded;
use crate::train::metrics::{self, Epoch};
use crate::train::{self, environment};
pub use list::{Runs, recorded};

/// Where a run stands, and what its records say of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Place {
    /// The folder that `train` left.
    pub folder: PathBuf,
    /// The folder that `evaluate` left of these weights on the data set, where it did.
    pub evaluate: Option<PathBuf>,
    /// Those that it left of these weights on other data.
    pub elsewhere: Vec<PathBuf>,
    /// The settings in the record of `train`, by section; none without a record.
    pub settings: Option<Value>,
    /// When training ended, in seconds since 1970.
    pub finished: Option<u64>,
    /// How long it took, in seconds.
    pub seconds: Option<f64>,
    /// What is wrong with the record, and with what it records, in words.
    pub problems: Vec<String>,
    /// Whether the table of the epochs is not the one that was recorded.
    pub is_rotten: bool,
}

/// Whether a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// All epochs are done.
    Finished,
    /// It was interrupted, or is under way.
    Unfinished,
    /// Its loss became NaN or infinite.
    Stopped,
}

impl RunState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Finished => "finished",
            RunState::Unfinished => "unfinished",
            RunState::Stopped => "stopped",
        }
    }
}

/// What computed a run. Older runs do not say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordedEnvironment {
    /// The program's version.
    pub version: Option<String>,
    /// The commit that it was built from.
    pub commit: Option<String>,
    /// The processor.
    pub cpu: Option<String>,
    /// Its cores.
    pub cores: Option<u64>,
    /// Threads that computed.
    pub threads: Option<u64>,
    /// What computed.
    pub device: Option<String>,
    /// Content digest of the data set.
    pub dataset: Option<String>,
    /// When training began, in seconds since 1970.
    pub started: Option<u64>,
}

/// What `train` says of a loss that is no number.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stop {
    /// The step of the optimiser.
    pub step: Option<u64>,
    /// The epoch, counted from 1.
    pub epoch: Option<u64>,
    /// The sentence that the user read.
    pub message: String,
}

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its name.
    pub name: String,
    /// The name of its folder, which no other run has: of one that has not ended its ending says so.
    pub folder: String,
    /// Whether it has ended.
    pub state: RunState,
    /// The settings, by section; null where nothing tells.
    pub settings: Value,
    /// The network.
    pub model: Option<String>,
    /// The learning rate that it began with.
    pub learning_rate: Option<f64>,
    /// Epochs that are done.
    pub epochs: Vec<Epoch>,
    /// The evaluation of its weights on the data set.
    pub metrics: Option<Metrics>,
    /// Evaluations of its weights on other data, by the names of their folders.
    pub elsewhere: Vec<(String, Metrics)>,
    /// What computed it.
    pub environment: RecordedEnvironment,
    /// Why it stopped, where its loss became no number.
    pub stop: Option<Stop>,
    /// What could not be read, in words.
    pub problems: Vec<String>,
    /// When it ended; of one that has not, when it began. In seconds since 1970.
    pub when: Option<u64>,
    /// How long it took, in seconds.
    pub seconds: Option<f64>,
}

/// A run in one line: what `multidigit runs` prints, and every table of runs shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Its name.
    pub run: String,
    /// Whether it has ended.
    pub state: RunState,
    /// The network.
    pub model: Option<String>,
    /// The learning rate that it began with.
    pub learning_rate: Option<f64>,
    /// Images per step.
    pub batch_size: Option<u64>,
    /// The seed.
    pub seed: Option<u64>,
    /// Epochs that are done.
    pub epochs: usize,
    /// Epochs that were asked for.
    pub epochs_planned: Option<u64>,
    /// Training accuracy in the last epoch.
    pub train_accuracy: Option<f64>,
    /// Training loss in the last epoch.
    pub train_loss: Option<f64>,
    /// The epoch with the lowest validation loss, whose weights are the best.
    pub best_epoch: Option<usize>,
    /// Validation accuracy after that epoch.
    pub best_val_accuracy: Option<f64>,
    /// Validation loss after that epoch.
    pub best_val_loss: Option<f64>,
    /// Joint-digit accuracy on test, with its interval.
    pub test_accuracy: Option<Accuracy>,
    /// Loss on test.
    pub test_loss: Option<f64>,
    /// When it ended, else when it began, in seconds since 1970.
    pub when: Option<u64>,
    /// How long it took, in seconds.
    pub seconds: Option<f64>,
    /// What could not be read of it, in words.
    pub problems: Vec<String>,
}

impl Run {
    /// Reads what stands of a run. What is damaged is said in [`Run::problems`].
    ///
    /// # Errors
    /// [`Error::Io`] where the system fails: the same run may be whole a moment later.
    pub fn read(place: &Place) -> Result<Run> {
        let folder = &place.folder;
        let mut problems = place.problems.clone();
        let file_name = folder.file_name().unwrap_or_default().to_string_lossy();
        let settings = match &place.settings {
            Some(settings) => settings.clone(),
            None => read_if_there(&folder.join(train::CONFIG), yaml, &mut problems)?.unwrap_or_default(),
        };
        // numbers that are not those that were recorded are none
        let epochs = match place.is_rotten {
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
            epochs,
            metrics,
            elsewhere,
            when: place.finished.or(environment.started),
            seconds: place.seconds,
            environment,
            stop,
            problems,
        })
    }

    /// The epoch with the lowest validation loss, the first of equals.
    pub fn best(&self) -> Option<&Epoch> {
        self.epochs.iter().reduce(|best, epoch| if epoch.val_loss < best.val_loss { epoch } else { best })
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
            seconds: self.seconds,
            problems: self.problems.clone(),
        }
    }
}

/// Sorts runs: the best validation accuracy first, those without one last, by name among equals.
pub fn sort(runs: &mut [Run]) {
    let rank = |run: &Run| run.best().map_or(-1.0, |best| best.val_accuracy);
    runs.sort_by(|a, b| rank(b).total_cmp(&rank(a)).then_with(|| a.name.cmp(&b.name)));
}

/// What a file holds, where it stands; what is wrong with it goes to `problems`.
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
