//! Whether a run may be trained, and how the training begins: what stands under its name decides.
//!
//! A finished run is never trained over without `--force`, an unfinished one of other settings is never started over
//! without it, and more epochs of a finished run go on from its checkpoint where the schedule allows that.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::key::{self, Key};
use super::{Pipeline, Record, Stage, ownership, record};
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files::{self, Build};
use crate::progress::Progress;
use crate::train::{self, CONFIG, checkpoint};
use multidigit_nn::schedule::Kind;

/// How a training begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Beginning {
    /// From nothing.
    Start,
    /// From nothing, as the unfinished run that stands has no checkpoint yet.
    Anew,
    /// From the checkpoint of an unfinished run of the same settings and data: its epoch, counted from 1, and step.
    GoOn { epoch: usize, step: u64 },
    /// From the checkpoint of this finished run of fewer epochs.
    Extend(Box<Record>),
    /// Not at all, if the data set that is yet to be made is the one that the finished run was trained on.
    Unchanged,
}

impl Beginning {
    /// From where the training goes on, in words; none: it does not.
    pub fn going_on(&self) -> Option<String> {
        match self {
            Beginning::Start | Beginning::Unchanged => None,
            Beginning::Anew => Some("an unfinished run stands, without a checkpoint to go on from".to_owned()),
            Beginning::GoOn { epoch, step } => Some(format!("would go on from epoch {epoch}, step {step}")),
            Beginning::Extend(record) => {
                Some(format!("would go on from the finished run, after its epoch {}", record.rows))
            }
        }
    }

    /// Epochs that need not be trained any more.
    pub fn epochs_done(&self) -> usize {
        match self {
            Beginning::Start | Beginning::Anew | Beginning::Unchanged => 0,
            Beginning::GoOn { epoch, .. } => epoch - 1,
            Beginning::Extend(record) => record.rows as usize,
        }
    }
}

/// What to do about a damaged file of a finished run.
const RESTORE: &str = "restore the file from a copy, or train the run again with --force";

/// What the mark of an unfinished run says.
#[derive(Serialize, Deserialize)]
struct Mark {
    about: String,
    /// What the run depends on.
    key: Key,
    /// Whether it was begun with `--force`, so that the same command, with it, goes on.
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

/// Digest of everything that a run depends on.
pub(super) fn identity(key: &Key) -> Digest {
    Digest::of_json(&json!(key))
}

impl Pipeline {
    /// How the training of the configured run would begin. `pending` tells that the data set is yet to be made, so that
    /// nobody knows its content: settings alone are compared then.
    ///
    /// # Errors
    /// [`Error::RunStands`] and [`Error::UnfinishedStands`], unless `force`; [`Error::Foreign`]; [`Error::Format`] for a
    /// damaged run, or a damaged checkpoint.
    pub(super) fn beginning(&self, force: bool, pending: bool) -> Result<Beginning> {
        let target = files::resolve(&self.folder(Stage::Train))?;
        let (key, _) = self.key(Stage::Train)?;
        let finished = Record::read(&target)?;
        let is_finished = finished.is_some();
        let mut beginning = Beginning::Start;
        if force || !is_finished {
            ownership::check(Stage::Train, &target)?;
        } else if let Some(record) = finished {
            let differences = self.differences(&target, &record.key, &key, pending);
            if is_extended(&record.key, &key) && differences.len() == 1 {
                beginning = match self.config.train.schedule {
                    Kind::Plateau | Kind::Constant => {
                        ownership::check(Stage::Train, &target)?;
                        record.check(&target, RESTORE, |_| true)?;
                        Beginning::Extend(Box::new(record))
                    }
                    kind => return Err(self.stands(&target, differences, Some(kind))),
                };
            } else if !differences.is_empty() {
                return Err(self.stands(&target, differences, None));
            } else if pending {
                return Ok(Beginning::Unchanged);
            } else {
                let found = format!("a finished run that is damaged ({})", record.clone().look(&target).join("; "));
                return Err(Error::format(&target, found, format!("the files as they were recorded; {RESTORE}")));
            }
        }
        let folder = files::unfinished(&target);
        if !files::is_marked(&folder) {
            return match ownership::is_replaced(Stage::Train, &folder) {
                true => Ok(beginning),
                false => files::require_free(&folder).map(|()| beginning),
            };
        }
        // a file behind a link would be written where it leads
        let is_linked = |path: &&PathBuf| {
            let name = record::name(path);
            folder.join(path).is_symlink() && (name == train::WEIGHTS || train::is_output(&name))
        };
        let linked: Vec<String> = files::walk_all(&folder)?.iter().filter(is_linked).map(|p| record::name(p)).collect();
        if !linked.is_empty() {
            return Err(Error::Foreign { folder, found: linked });
        }
        if force {
            // what was begun with it may have been interrupted, and goes on if nothing of it is damaged
            let mark = unless_damaged(Mark::read(&folder))?.filter(|mark| mark.forced && mark.key == key);
            let going_on = match mark {
                Some(mark) => unless_damaged(self.going_on(&folder, &mark.key))?.flatten(),
                None => None,
            };
            return Ok(going_on.unwrap_or(Beginning::Start));
        }
        let mark = Mark::read(&folder)?;
        let differences = self.differences(&folder, &mark.key, &key, pending);
        if !differences.is_empty() {
            let differences = differences.join("; ");
            let way = match is_finished {
                true => "remove that folder".to_owned(),
                false => format!("go on with that one (`multidigit run train --run {}`)", self.run),
            };
            return Err(Error::UnfinishedStands { path: folder, differences, way });
        }
        match (self.going_on(&folder, &mark.key), beginning) {
            (Err(error), _) if error.is_of_system() => Err(error),
            // the copy of a finished run may have been interrupted; that run still stands
            (Err(_) | Ok(None), Beginning::Extend(record)) => Ok(Beginning::Extend(record)),
            (Ok(None), _) => Ok(Beginning::Anew),
            (going_on, beginning) => Ok(going_on?.unwrap_or(beginning)),
        }
    }

    /// From where the run with this key in a folder goes on, if it has a checkpoint.
    fn going_on(&self, folder: &Path, key: &Key) -> Result<Option<Beginning>> {
        let found = checkpoint::find(folder)?.map(|found| found.state);
        let Some(state) = found.filter(|state| state.identity == identity(key)) else {
            return Ok(None);
        };
        checkpoint::epochs(folder, &state, self.config.plan.digits, self.config.train.repeats())?;
        Ok(Some(Beginning::GoOn { epoch: state.epoch + 1, step: state.step }))
    }

    pub(super) fn stands(&self, target: &Path, differences: Vec<String>, schedule: Option<Kind>) -> Error {
        let why = schedule.map(|kind| {
            let kind = json!(kind);
            let kind = kind.as_str().unwrap_or_default();
            format!("; the schedule {kind} is laid out over all epochs, so that it cannot go on with more of them")
        });
        Error::RunStands {
            path: target.to_owned(),
            run: self.run.clone(),
            differences: differences.join("; ") + &why.unwrap_or_default(),
        }
    }

    /// In what a run that stands in a folder differs from the configured one, in words. The settings of its data set are
    /// compared as its own configuration has them, since they say more than a digest.
    fn differences(&self, folder: &Path, theirs: &Key, ours: &Key, pending: bool) -> Vec<String> {
        if theirs == ours {
            // whatever the file of its configuration holds, which is written again
            return Vec::new();
        }
        let mut differences = Vec::new();
        if let Ok(config) = Config::read(Some(&folder.join(CONFIG)), &[]) {
            for stage in [Stage::Raw, Stage::Plan] {
                let settings = |config| Key { settings: key::settings(stage, config), ..Key::default() };
                differences.extend(settings(&self.config).reasons_against(&settings(&config)));
            }
            // the name of the glyphs is that of their source, which is named already
            differences.retain(|difference| !difference.starts_with("glyphs: "));
        }
        let of_settings = |key: &Key| Key { inputs: Default::default(), ..key.clone() };
        match pending || !differences.is_empty() {
            true => differences.extend(of_settings(ours).reasons_against(&of_settings(theirs))),
            false => differences.extend(ours.reasons_against(theirs)),
        }
        differences
    }

    /// Readies the folder in which a run is trained.
    pub(super) fn begin_training(&self, target: &Path, key: &Key, force: bool, progress: &Progress) -> Result<Build> {
        let beginning = self.beginning(force, false)?;
        let build = Build::resumable(target, &Mark::text(key, force))?;
        let folder = build.path();
        let goes_on = matches!(beginning, Beginning::GoOn { .. });
        for path in files::walk_all(folder)? {
            // of a run that goes on only the halves of files that a kill left
            let is_half = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if train::is_output(&record::name(&path)) && (is_half || !goes_on) {
                files::remove(&folder.join(path))?;
            }
        }
        if !goes_on {
            build.mark(&Mark::text(key, force))?;
        }
        // of a run that was killed as it took its place
        files::remove(&folder.join(record::FILE))?;
        if let Beginning::Extend(record) = &beginning {
            // the checkpoint last: a copy without it begins again
            let (last, first): (Vec<_>, Vec<_>) = record.outputs.iter().partition(|o| o.path == checkpoint::FILE);
            for output in first.into_iter().chain(last) {
                let to = folder.join(&output.path);
                files::create_dir(to.parent().unwrap_or(folder))?;
                fs::copy(target.join(&output.path), &to).map_err(Error::io(&to, "copy it from the finished run"))?;
            }
            checkpoint::adopt(folder, identity(&record.key), identity(key))?;
            let (done, epochs) = (record.rows, self.config.train.epochs);
            progress.note(&format!("train: goes on after epoch {done} of the finished run, to epoch {epochs}"));
        }
        let mut header = String::from("# The configuration of this run: defaults, file and overrides.\n");
        self.overrides.iter().for_each(|text| header.push_str(&format!("# --set {}\n", text.replace('\n', " "))));
        files::replace(&folder.join(CONFIG), self.config.document_under(&header).as_bytes())?;
        Ok(build)
    }
}

/// What was read; none where it is damaged.
fn unless_damaged<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(error) if !error.is_of_system() => Ok(None),
        read => read.map(Some),
    }
}

/// Whether a run's key is that of another one with more epochs.
fn is_extended(before: &Key, after: &Key) -> bool {
    let epochs = |key: &Key| key.settings.pointer("/train/epochs").and_then(Value::as_u64);
    matches!((epochs(before), epochs(after)), (Some(before), Some(after)) if before < after)
}
