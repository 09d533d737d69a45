//! The pipeline: which stages run, in which order, and which are fresh.
//!
//! A stage is fresh if the key in its record equals its current key and every output stands as recorded. A stage builds in
//! a folder beside its target; the finished folder, record included, takes the target's place as a whole, so a kill at any
//! moment leaves the last good state. A stage that runs again and gives the same content leaves everything below it fresh.
//!
//! Before any stage runs, the pipeline checks that no file of the user's is in the way. While a command runs, it holds a
//! read lock on every folder that it has read or made, and a write lock on the folder that it is making, so that other
//! commands can read the same folders.
//!
//! Nothing here names a single stage. What makes a stage different from the others is in its `Definition`, in a file of
//! its own in `stages/`.

pub use self::error::PipelineError;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::{self, FolderLock, Hold};
use crate::progress::Progress;
use crate::record::{self, Record};

mod clean;
mod definition;
mod error;
mod freshness;
mod key;
pub mod lock;
mod ownership;
mod request;
pub mod stage;
mod stages;
mod verify;

pub use clean::Cleaned;
use definition::{Beginning, Done};
pub use freshness::{Freshness, Status};
use lock::Lock;
pub use request::Request;
pub use stage::Stage;
pub use stages::train::config_of;
pub use verify::Verdict;

/// A configured pipeline over two folders.
pub struct Pipeline {
    config: Config,
    /// The overrides of the command line, which are noted in the configuration file of a run.
    overrides: Vec<String>,
    raw: PathBuf,
    artifacts: PathBuf,
    lock_file: PathBuf,
    memory: stages::Memory,
}

/// What became of a stage in a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was fresh, with this record.
    Fresh(Box<Record>),
    /// It ran.
    Ran {
        /// Why it ran.
        reasons: Vec<String>,
        /// The record that it wrote.
        record: Box<Record>,
        /// Whether its content is the one that `pipeline.lock` pins; `None` where nothing is pinned.
        pinned: Option<bool>,
    },
    /// It would run, for these reasons.
    WouldRun(Vec<String>),
}

/// What would become of a stage.
struct Planned {
    stage: Stage,
    outcome: Outcome,
    /// How its work would begin, if it would run.
    beginning: Option<Beginning>,
}

impl Pipeline {
    /// A pipeline over a folder of glyph files and one of artifacts; `lock_file` is its `pipeline.lock`, `overrides` what
    /// the command line changed of the configuration.
    pub fn new(
        config: Config,
        overrides: Vec<String>,
        raw: PathBuf,
        artifacts: PathBuf,
        lock_file: PathBuf,
    ) -> Pipeline {
        Pipeline { config, overrides, raw, artifacts, lock_file, memory: stages::Memory::default() }
    }

    /// The settings of all stages.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The folder that holds the output of every stage.
    pub fn artifacts(&self) -> &Path {
        &self.artifacts
    }

    /// The folder that has a stage's name. It holds the stage's output, or a folder for each run.
    pub fn home(&self, stage: Stage) -> PathBuf {
        self.artifacts.join(stage.name())
    }

    /// The folder in which a stage's output stands.
    pub fn folder(&self, stage: Stage) -> PathBuf {
        stage.definition().folder(self)
    }

    /// Brings stages up to date and tells of each as soon as it is done.
    ///
    /// # Errors
    /// Before any work, if files of the user's or a run are in the way of a stage.
    pub fn run(
        &self,
        request: &Request,
        progress: &Progress,
        tell: &mut dyn FnMut(Stage, &Outcome) -> Result<()>,
    ) -> Result<()> {
        let selected = request.selection(&self.config);
        selected.iter().try_for_each(|stage| stage.definition().check_config(&self.config))?;
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

    /// Refuses a raw folder that is, or lies in, the folder of a stage: what stands there is replaced.
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

    /// What would become of the stages, in their order, as things stand.
    ///
    /// # Errors
    /// If something is in the way of a stage that would run.
    fn plan(&self, selected: &[Stage], request: &Request) -> Result<Vec<Planned>> {
        let mut pending = BTreeSet::new();
        let mut all = Vec::new();
        for &stage in selected {
            // a stage with a folder for each run needs the folder around them, too
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

    /// Brings one stage, whose inputs are fresh, up to date. The lock that is returned keeps other commands from replacing
    /// the output while later stages read it.
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
        // another process may have made it meanwhile
        let reasons = match self.freshness(stage, &BTreeSet::new())? {
            Freshness::Fresh(record) if !force => {
                return Ok((Outcome::Fresh(record), writing.downgraded()));
            }
            freshness => reasons(freshness, force),
        };
        let inputs = stage.needed(&self.config);
        let inputs = inputs.map(|input| FolderLock::reading(&files::resolve(&self.folder(input))?));
        let _inputs = inputs.collect::<Result<Vec<_>>>()?;
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

    /// Runs one stage, whose inputs are fresh, and puts its output and record in place.
    fn perform(&self, stage: Stage, target: &Path, force: bool, progress: &Progress) -> Result<Record> {
        let started = Instant::now();
        let definition = stage.definition();
        // the locks on the inputs keep their content, and the key with it, until the end
        let (key, _) = self.key(stage)?;
        let build = definition.build(self, target, &key, force, progress)?;
        let Done { content, rows, facts } = definition.run(self, &key, build.path(), progress)?;
        let outputs = definition.outputs(self, build.path())?;
        let content = content.unwrap_or_else(|| record::content_of(&outputs));
        let finished = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let seconds = started.elapsed().as_secs_f64();
        let record = Record { key, content, outputs, rows, facts, seconds, finished };
        record.write(build.path())?;
        let mut written = vec![PathBuf::from(record::FILE)];
        if !definition.has_outputs_elsewhere() {
            written.splice(0..0, record.outputs.iter().map(|output| PathBuf::from(&output.path)));
        }
        if let Some(former) = build.commit(&written)? {
            ownership::remove_recorded(stage, &former)?;
            if former.exists() {
                let former = former.display();
                progress.warn(&format!("`{former}`: holds what no record of this program names; it was left there"));
            }
        }
        Ok(record)
    }

    /// Writes `pipeline.lock` from what stands; the pinned stages must be fresh. Returns its path.
    pub fn lock(&self) -> Result<&Path> {
        // an error for a file that is not a lock file, which would be the user's
        Lock::read(&self.lock_file)?;
        let held = Stage::pinned().map(|stage| FolderLock::reading(&files::resolve(&self.folder(stage))?));
        let _held = held.collect::<Result<Vec<_>>>()?;
        self.require_fresh(&Stage::pinned().collect::<Vec<_>>(), "lock")?;
        let content = Stage::pinned().filter_map(|stage| Some((stage, self.record(stage).ok()??.content)));
        Lock::new(&self.config, content).write(&self.lock_file)?;
        Ok(&self.lock_file)
    }
}

/// Why a stage runs that is stale or forced.
fn reasons(freshness: Freshness, force: bool) -> Vec<String> {
    match freshness {
        Freshness::Stale(reasons) if !force => reasons,
        _ => vec!["--force".to_owned()],
    }
}
