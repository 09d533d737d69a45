//! The pipeline: which stages run, in which order, and which stages are fresh.
//!
//! A stage is fresh if the key in its record equals its current key and every output is as recorded. A stage builds its
//! output in a folder beside its target. The finished folder, with the record in it, then replaces the target in one
//! step, so a kill at any moment leaves the last good state. If a stage runs again and gives the same content, the
//! stages below it stay fresh.
//!
//! Before any stage runs, the pipeline checks that no file of the user is in the way. While a command runs, it holds a
//! read lock on every folder that it has read or made, and a write lock on the folder that it is making. Other commands
//! can therefore read the same folders.
//!
//! This module names no stage. The properties in which stages differ are in their `Definition`s,
//! one file each in `stages/`.

pub use self::error::PipelineError;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::{self, Build, FolderLock, Hold};
use crate::progress::Progress;
use crate::record::{self, Key, Output, Record};

mod clean;
mod definition;
mod error;
mod freshness;
mod key;
pub mod lock;
mod ownership;
mod parts;
#[cfg(feature = "cloud")]
mod remote;
mod request;
pub mod stage;
mod stages;
mod verify;

pub use clean::Cleaned;
use definition::{Beginning, Done};
pub use freshness::{Freshness, Status};
use lock::Lock;
pub use parts::{PartWritten, Share};
#[cfg(feature = "cloud")]
pub use remote::Remote;
pub use request::Request;
pub use stage::Stage;
pub use stages::{config_of, run_name, run_name_of_recipe, training_data, training_time};
pub use verify::Verdict;

/// A configured pipeline over a folder of glyph files and a folder of artifacts.
pub struct Pipeline {
    config: Config,
    /// The flags of the command line that changed the configuration, which are noted in the configuration file of a run.
    changes: Vec<String>,
    raw: PathBuf,
    artifacts: PathBuf,
    lock_file: PathBuf,
    memory: stages::Memory,
    /// Whether the outputs go to an object store, so that the folder of artifacts is a scratch folder.
    in_store: bool,
}

/// The outcome of a stage.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The stage was fresh, with this record.
    Fresh(Box<Record>),
    /// The stage ran.
    Ran {
        /// The reasons for running.
        reasons: Vec<String>,
        /// The record that the stage wrote.
        record: Box<Record>,
        /// Whether the content is the one that `pipeline.lock` pins; `None` if it pins none for the stage.
        pinned: Option<bool>,
    },
    /// The stage would run, for these reasons.
    WouldRun(Vec<String>),
}

/// The expected outcome of a stage.
struct Planned {
    stage: Stage,
    outcome: Outcome,
    /// How the work would begin; `None` if the stage is fresh.
    beginning: Option<Beginning>,
}

impl Pipeline {
    /// Creates a pipeline over a folder of glyph files and a folder of artifacts. `lock_file` is the path of its
    /// `pipeline.lock`, and `changes` are the flags of the command line that changed the configuration.
    pub fn new(config: Config, changes: Vec<String>, raw: PathBuf, artifacts: PathBuf, lock_file: PathBuf) -> Pipeline {
        Pipeline { config, changes, raw, artifacts, lock_file, memory: stages::Memory::default(), in_store: false }
    }

    /// The settings of all stages.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The folder that holds the output of every stage.
    pub fn artifacts(&self) -> &Path {
        &self.artifacts
    }

    /// The folder on whose file system the outputs are written; `None` if they go to an object store.
    fn disk(&self) -> Option<&Path> {
        (!self.in_store).then_some(&self.artifacts)
    }

    /// The folder named after a stage. It holds the stage's output, or a folder for each run.
    pub fn home(&self, stage: Stage) -> PathBuf {
        self.artifacts.join(stage.name())
    }

    /// The folder of a stage's configured output.
    pub fn folder(&self, stage: Stage) -> PathBuf {
        stage.definition().folder(self)
    }

    /// Returns an error if a path that the user named lies in the folder of a stage.
    pub fn require_apart(&self, path: &Path) -> Result<()> {
        let place = files::absolute(path);
        let is_within = |stage: &Stage| place.starts_with(files::absolute(&self.home(*stage)));
        match Stage::ALL.into_iter().find(is_within) {
            None => Ok(()),
            Some(stage) => {
                let found = format!("a place in the folder of the stage {stage}");
                Err(Error::format(path, found, "one apart from what the stages made"))
            }
        }
    }

    /// Brings stages up to date, and passes the outcome of each stage to `tell` as soon as it is done.
    ///
    /// # Errors
    /// Fails before any work if files of the user, or another run, are in the way of a stage.
    pub fn run(
        &self,
        request: &Request,
        progress: &Progress,
        tell: &mut dyn FnMut(Stage, &Outcome) -> Result<()>,
    ) -> Result<()> {
        let selected = request.selection(&self.config);
        check(&self.config, &selected)?;
        self.check_folders()?;
        let pinned = Lock::read(&self.lock_file)?;
        if request.as_they_stand {
            self.require_standing(&selected)?;
        } else if request.single {
            self.require_fresh_inputs(&selected)?;
        }
        let planned = self.plan(&selected, request)?;
        if request.dry_run {
            return planned.iter().try_for_each(|planned| tell(planned.stage, &planned.outcome));
        }
        for stage in Stage::ALL {
            let planned = planned.iter().find(|planned| planned.stage == stage);
            let beginning = planned.and_then(|planned| planned.beginning.as_ref());
            stage.definition().announce(self, request, beginning, progress);
        }
        let mut held = Vec::new();
        for &stage in &selected {
            let (outcome, lock) = self.bring(stage, request, pinned.as_ref(), progress)?;
            held.push(lock);
            tell(stage, &outcome)?;
        }
        Ok(())
    }

    /// Returns an error if the raw folder is the folder of a stage or lies in one, since the folder of a
    /// stage is replaced as a whole.
    fn check_folders(&self) -> Result<()> {
        let raw = files::absolute(&self.raw);
        let is_taken = |stage: &Stage| {
            let folder = files::absolute(&self.home(*stage));
            raw.starts_with(&folder) || files::former(&folder).iter().any(|place| raw.starts_with(place))
        };
        match Stage::ALL.into_iter().find(is_taken) {
            None => Ok(()),
            Some(stage) => {
                let artifacts = self.artifacts.display();
                let found = format!("`{}`, where --artifacts `{artifacts}` has the stage {stage}", self.raw.display());
                Err(Error::value("--raw", found, "a folder apart from the stages' folders; give another --artifacts"))
            }
        }
    }

    /// The expected outcomes of the stages, in their order.
    ///
    /// # Errors
    /// Fails if something is in the way of a stage that would run.
    fn plan(&self, selected: &[Stage], request: &Request) -> Result<Vec<Planned>> {
        let mut pending = BTreeSet::new();
        let mut all = Vec::new();
        for &stage in selected {
            // for a stage with a folder for each run, the folder around them is needed too
            files::resolve(&self.home(stage))?;
            let force = request.forces(stage);
            let planned = match self.freshness(stage, &pending)? {
                Freshness::Fresh(record) if !force => {
                    Planned { stage, outcome: Outcome::Fresh(record), beginning: None }
                }
                freshness => {
                    let beginning = stage.definition().beginning(self, force, &pending)?;
                    let mut reasons = reasons(freshness, force);
                    reasons.extend(beginning.goes_on_from().map(str::to_owned));
                    pending.insert(stage);
                    Planned { stage, outcome: Outcome::WouldRun(reasons), beginning: Some(beginning) }
                }
            };
            all.push(planned);
        }
        Ok(all)
    }

    /// Brings one stage up to date. Its inputs are up to date, or are taken as they are. The returned lock keeps other
    /// commands from replacing the output while later stages read it.
    fn bring(
        &self,
        stage: Stage,
        request: &Request,
        pinned: Option<&Lock>,
        progress: &Progress,
    ) -> Result<(Outcome, Option<FolderLock>)> {
        let force = request.forces(stage);
        let target = files::resolve(&self.folder(stage))?;
        ownership::mend_if_left(stage, &target);
        let reading = FolderLock::reading(&target)?;
        if !force && let Freshness::Fresh(record) = self.freshness(stage, &BTreeSet::new())? {
            self.keep_stamps(stage, &record);
            return Ok((Outcome::Fresh(record), reading));
        }
        drop(reading);
        let writing = FolderLock::beside(&target, Hold::Write)?;
        ownership::mend(stage, &target)?;
        // another process may have made the output meanwhile
        let reasons = match self.freshness(stage, &BTreeSet::new())? {
            Freshness::Fresh(record) if !force => {
                return Ok((Outcome::Fresh(record), writing.downgraded()));
            }
            freshness => reasons(freshness, force),
        };
        let _inputs = self.lock_inputs(stage)?;
        if request.as_they_stand {
            // from here on, the locks keep the inputs as they are
            self.require_standing(&[stage])?;
        }
        progress.note(&format!("{stage}: {}", reasons.join("; ")));
        let record = self.perform(stage, &target, force, progress)?;
        let expected = pinned.and_then(|lock| lock.expected(stage, &self.config));
        let pinned = expected.map(|content| content == record.content);
        if pinned == Some(false) {
            progress.warn(&format!("{stage}: the content is not what pipeline.lock pins"));
        }
        Ok((Outcome::Ran { reasons, record: Box::new(record), pinned }, writing.downgraded()))
    }

    /// Locks the inputs of a stage for reading.
    fn lock_inputs(&self, stage: Stage) -> Result<Vec<Option<FolderLock>>> {
        stage.needed(&self.config).map(|input| FolderLock::reading(&files::resolve(&self.folder(input))?)).collect()
    }

    /// Runs one stage and puts its output and its record in place.
    fn perform(&self, stage: Stage, target: &Path, force: bool, progress: &Progress) -> Result<Record> {
        let started = Instant::now();
        let definition = stage.definition();
        // until the end, the locks on the inputs keep their content, and so the key
        let (key, _) = self.key(stage)?;
        let build = definition.build(self, target, &key, force, progress)?;
        let done = definition.run(self, &key, build.path(), progress)?;
        let outputs = definition.outputs(self, build.path())?;
        let record = record_of(key, done, outputs, started);
        record.write(build.path())?;
        put_in_place(stage, build, &record, progress)?;
        Ok(record)
    }

    /// Writes `pipeline.lock` from the records of the pinned stages, which must be fresh. Returns the path of the file.
    pub fn lock(&self) -> Result<&Path> {
        // fails if the file is not a lock file: it would be the user's
        Lock::read(&self.lock_file)?;
        let held = Stage::pinned().map(|stage| FolderLock::reading(&files::resolve(&self.folder(stage))?));
        let _held = held.collect::<Result<Vec<_>>>()?;
        self.require_fresh(&Stage::pinned().collect::<Vec<_>>(), "lock")?;
        let content = Stage::pinned().filter_map(|stage| Some((stage, self.record(stage).ok()??.content)));
        Lock::new(&self.config, content).write(&self.lock_file)?;
        Ok(&self.lock_file)
    }
}

/// The record of work that began at `started` and ends now.
fn record_of(key: Key, Done { content, rows, facts }: Done, outputs: Vec<Output>, started: Instant) -> Record {
    let content = content.unwrap_or_else(|| record::content_of(&outputs));
    let finished = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    Record { key, content, outputs, rows, facts, seconds: started.elapsed().as_secs_f64(), finished }
}

/// Puts a finished build in place, whose record is in it, and removes what it replaces.
fn put_in_place(stage: Stage, build: Build, record: &Record, progress: &Progress) -> Result<()> {
    let mut written = vec![PathBuf::from(record::FILE)];
    if !stage.definition().has_outputs_elsewhere() {
        written.splice(0..0, record.outputs.iter().map(|output| PathBuf::from(&output.path)));
    }
    if let Some(former) = build.commit(&written)? {
        ownership::remove_recorded(stage, &former)?;
        if former.exists() {
            let former = former.display();
            progress.warn(&format!("`{former}`: holds what no record of this program names; it was left there"));
        }
    }
    Ok(())
}

/// Checks what only some stages ask of a configuration that is valid otherwise.
pub fn check(config: &Config, stages: &[Stage]) -> Result<()> {
    stages.iter().try_for_each(|stage| stage.definition().check_config(config))
}

/// The reasons for which a stale or forced stage runs.
fn reasons(freshness: Freshness, force: bool) -> Vec<String> {
    match freshness {
        Freshness::Stale(reasons) if !force => reasons,
        _ => vec!["--force".to_owned()],
    }
}
