//! Decides how a training begins, or why it is refused, from the finished and unfinished runs that have its name.
//!
//! Without `--force`, no training overwrites a finished run, and none starts an unfinished run with other settings
//! over. A finished run that is to have more epochs is continued from its checkpoint, if the schedule allows that.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::run_name;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::{self, Build};
use crate::pipeline::PipelineError;
use crate::pipeline::definition::Beginning;
use crate::pipeline::{Pipeline, Stage, key, ownership};
use crate::progress::Progress;
use crate::record::{self, Key, Record};
use crate::train::{self, CONFIG, checkpoint};
use multidigit_nn::schedule::Kind;

/// How a training begins.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainingStart {
    /// From nothing.
    Start,
    /// From nothing, since the existing unfinished run has no checkpoint yet.
    Anew,
    /// From the checkpoint of an unfinished run with the same settings and data. `epoch` is counted from 1.
    GoOn { epoch: usize, step: u64 },
    /// From the checkpoint of this finished run, which has fewer epochs.
    Extend(Box<Record>),
    /// Not at all, if the data set that is yet to be made is the one that the finished run was trained on.
    Unchanged,
}

impl From<TrainingStart> for Beginning {
    fn from(training: TrainingStart) -> Beginning {
        let (from, done) = match training {
            TrainingStart::Start => return Beginning::Start,
            TrainingStart::Unchanged => return Beginning::Unchanged,
            TrainingStart::Anew => ("an unfinished run stands, without a checkpoint to go on from".to_owned(), 0),
            TrainingStart::GoOn { epoch, step } => {
                (format!("would go on from epoch {epoch}, step {step}"), epoch as u64 - 1)
            }
            TrainingStart::Extend(record) => {
                let done = record.rows;
                (format!("would go on from the finished run, after its epoch {done}"), done)
            }
        };
        Beginning::GoOn { from, done }
    }
}

/// The advice for a damaged file of a finished run.
const RESTORE: &str = "restore the file from a copy, or train the run again with --force";

/// The content of the mark in the folder of an unfinished run.
#[derive(Serialize, Deserialize)]
struct Mark {
    about: String,
    /// Everything that the run depends on.
    key: Key,
    /// Whether the run was begun with `--force`. If so, the same command with `--force` continues it.
    #[serde(default)]
    forced: bool,
}

impl Mark {
    fn text(key: &Key, forced: bool) -> String {
        let about = "an unfinished run of `multidigit`, which the same command goes on with".to_owned();
        format!("{:#}", json!(Mark { about, key: key.clone(), forced }))
    }

    fn read(folder: &Path) -> Result<Mark> {
        let path = folder.join(files::MARK);
        let refuse = |e: serde_json::Error| {
            let expected = "the mark of an unfinished run; move the folder away";
            Error::format(&path, format!("not readable ({e})"), expected)
        };
        serde_json::from_str(&files::read_text(&path)?).map_err(refuse)
    }
}

/// How the training of the configured run would begin. If the data set is `pending`, its content is not known yet, and
/// only settings are compared.
///
/// # Errors
/// [`PipelineError::RunStands`] and [`PipelineError::UnfinishedStands`], unless `force`; [`Error::Foreign`];
/// [`Error::Format`] for a damaged run or a damaged checkpoint.
pub fn find(pipeline: &Pipeline, force: bool, pending: &BTreeSet<Stage>) -> Result<TrainingStart> {
    let target = files::resolve(&pipeline.folder(Stage::Train))?;
    let (key, _) = pipeline.key(Stage::Train)?;
    let pending = pending.contains(&Stage::Dataset);
    let finished = Record::read(&target)?;
    let is_finished = finished.is_some();
    let beginning = match finished {
        Some(record) if !force => beside_finished(pipeline, &target, record, &key, pending)?,
        _ => {
            ownership::check(Stage::Train, &target)?;
            TrainingStart::Start
        }
    };
    if beginning == TrainingStart::Unchanged {
        return Ok(beginning);
    }
    let folder = files::unfinished(&target);
    if !files::is_marked(&folder) {
        return match ownership::is_replaced(Stage::Train, &folder) {
            true => Ok(beginning),
            false => files::require_free(&folder).map(|()| beginning),
        };
    }
    refuse_links(&folder)?;
    if force {
        // a training that was begun with `--force` and interrupted is continued, unless its files are damaged
        let mark = unless_damaged(Mark::read(&folder))?.filter(|mark| mark.forced && mark.key == key);
        let going_on = match mark {
            Some(mark) => unless_damaged(going_on(pipeline, &folder, &mark.key))?.flatten(),
            None => None,
        };
        return Ok(going_on.unwrap_or(TrainingStart::Start));
    }
    let mark = Mark::read(&folder)?;
    let differences = differences(pipeline, &folder, &mark.key, &key, pending);
    if !differences.is_empty() {
        let way = match is_finished {
            true => "remove that folder".to_owned(),
            false => format!("go on with that one (`multidigit run train --run {}`)", run_name(&pipeline.config)),
        };
        return Err(Error::from(PipelineError::UnfinishedStands {
            path: folder,
            differences: differences.join("; "),
            way,
        }));
    }
    match (going_on(pipeline, &folder, &mark.key), beginning) {
        (Err(error), _) if error.is_of_system() => Err(error),
        // the copying of the finished run may have been interrupted; it is copied again
        (Err(_) | Ok(None), TrainingStart::Extend(record)) => Ok(TrainingStart::Extend(record)),
        (Ok(None), _) => Ok(TrainingStart::Anew),
        (going_on, beginning) => Ok(going_on?.unwrap_or(beginning)),
    }
}

/// How a training begins if a finished run has its name but is not fresh.
fn beside_finished(
    pipeline: &Pipeline,
    target: &Path,
    record: Record,
    key: &Key,
    pending: bool,
) -> Result<TrainingStart> {
    let differences = differences(pipeline, target, &record.key, key, pending);
    if is_extended(&record.key, key) && differences.len() == 1 {
        return match pipeline.config.train.schedule {
            Kind::Plateau | Kind::Constant => {
                ownership::check(Stage::Train, target)?;
                record.check(target, RESTORE, |_| true)?;
                Ok(TrainingStart::Extend(Box::new(record)))
            }
            kind => Err(stands(pipeline, target, differences, Some(kind))),
        };
    }
    if !differences.is_empty() {
        return Err(stands(pipeline, target, differences, None));
    }
    if pending {
        return Ok(TrainingStart::Unchanged);
    }
    let found = format!("a finished run that is damaged ({})", record.clone().look(target).join("; "));
    Err(Error::format(target, found, format!("the files as they were recorded; {RESTORE}")))
}

/// Returns an error if links are among the files that a training writes in an unfinished run, since the training would
/// write to the targets of the links.
fn refuse_links(folder: &Path) -> Result<()> {
    let is_linked = |path: &&PathBuf| {
        let name = record::name(path);
        folder.join(path).is_symlink() && (name == train::WEIGHTS || train::is_output(&name))
    };
    let found: Vec<String> = files::walk_all(folder)?.iter().filter(is_linked).map(|path| record::name(path)).collect();
    match found.is_empty() {
        true => Ok(()),
        false => Err(Error::Foreign { folder: folder.to_owned(), found }),
    }
}

/// How the run with this key in a folder is continued; `None` if it has no checkpoint.
fn going_on(pipeline: &Pipeline, folder: &Path, key: &Key) -> Result<Option<TrainingStart>> {
    let found = checkpoint::find(folder)?.map(|found| found.state);
    let Some(state) = found.filter(|state| state.identity == key.digest()) else {
        return Ok(None);
    };
    let config = &pipeline.config;
    let train = &config.train;
    checkpoint::epochs(folder, &state, config.plan.digits, train.repeats(), train.ema.is_some())?;
    Ok(Some(TrainingStart::GoOn { epoch: state.epoch + 1, step: state.step }))
}

/// The error for a finished run that differs from the configured one. `schedule` is given if the schedule is the reason
/// why the run cannot be continued.
pub fn stands(pipeline: &Pipeline, target: &Path, differences: Vec<String>, schedule: Option<Kind>) -> Error {
    let why = schedule.map(|kind| {
        let kind = json!(kind);
        let kind = kind.as_str().unwrap_or_default();
        format!("; the schedule {kind} is laid out over all epochs, so that it cannot go on with more of them")
    });
    Error::from(PipelineError::RunStands {
        path: target.to_owned(),
        run: run_name(&pipeline.config),
        differences: differences.join("; ") + &why.unwrap_or_default(),
    })
}

/// The differences between the run in a folder and the configured one, in words. The settings of the run's data set are
/// read from its own configuration file, since they say more than the digest in the key.
fn differences(pipeline: &Pipeline, folder: &Path, theirs: &Key, ours: &Key, pending: bool) -> Vec<String> {
    if theirs == ours {
        // the run's configuration file may have been changed, but it is written again
        return Vec::new();
    }
    let mut differences = Vec::new();
    if let Ok(config) = Config::read(Some(&folder.join(CONFIG))) {
        for stage in [Stage::Raw, Stage::Plan] {
            let settings = |config| Key { settings: key::settings(stage, config), ..Key::default() };
            differences.extend(settings(&pipeline.config).reasons_against(&settings(&config)));
        }
        // the name of the glyphs follows from their source, which is among the settings of `raw`
        differences.retain(|difference| !difference.starts_with("glyphs: "));
    }
    let of_settings = |key: &Key| Key { inputs: Default::default(), ..key.clone() };
    match pending || !differences.is_empty() {
        true => differences.extend(of_settings(ours).reasons_against(&of_settings(theirs))),
        false => differences.extend(ours.reasons_against(theirs)),
    }
    differences
}

/// Prepares the folder in which a run is trained.
pub fn build(pipeline: &Pipeline, target: &Path, key: &Key, force: bool, progress: &Progress) -> Result<Build> {
    let training = find(pipeline, force, &BTreeSet::new())?;
    let build = Build::resumable(target, &Mark::text(key, force))?;
    let folder = build.path();
    let goes_on = matches!(training, TrainingStart::GoOn { .. });
    for path in files::walk_all(folder)? {
        // a run that is continued keeps all files except those that a kill left half written
        let is_half = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if train::is_output(&record::name(&path)) && (is_half || !goes_on) {
            files::remove(&folder.join(path))?;
        }
    }
    if !goes_on {
        build.mark(&Mark::text(key, force))?;
    }
    // a kill just after a training ended may have left a record
    files::remove(&folder.join(record::FILE))?;
    if let TrainingStart::Extend(record) = &training {
        extend(target, folder, record, key)?;
        let (done, epochs) = (record.rows, pipeline.config.train.epochs);
        progress.note(&format!("train: goes on after epoch {done} of the finished run, to epoch {epochs}"));
    }
    let mut header = String::from("# The configuration of this run: defaults, file, recipe and overrides.\n");
    pipeline.changes.iter().for_each(|text| header.push_str(&format!("# {}\n", text.replace('\n', " "))));
    files::replace(&folder.join(CONFIG), pipeline.config.document_under(&header).as_bytes())?;
    Ok(build)
}

/// Copies a finished run into the folder of an unfinished run with another key, which continues from the checkpoint.
fn extend(target: &Path, folder: &Path, finished: &Record, key: &Key) -> Result<()> {
    // the checkpoint last: without it, a training starts over
    let (last, first): (Vec<_>, Vec<_>) = finished.outputs.iter().partition(|o| o.path == checkpoint::FILE);
    for output in first.into_iter().chain(last) {
        let to = folder.join(&output.path);
        files::create_dir(to.parent().unwrap_or(folder))?;
        fs::copy(target.join(&output.path), &to).map_err(Error::io(&to, "copy it from the finished run"))?;
    }
    checkpoint::adopt(folder, finished.key.digest(), key.digest())
}

/// The result of reading a file; `None` if the file is damaged.
fn unless_damaged<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(error) if !error.is_of_system() => Ok(None),
        read => read.map(Some),
    }
}

/// Whether a key has more epochs than another one.
fn is_extended(before: &Key, after: &Key) -> bool {
    let epochs = |key: &Key| key.settings.pointer("/train/epochs").and_then(Value::as_u64);
    matches!((epochs(before), epochs(after)), (Some(before), Some(after)) if before < after)
}
