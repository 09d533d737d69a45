//! The pipeline: which stages run, in which order, and which are fresh. The only code that knows two stages.
//!
//! A stage is fresh if its record's key equals the key of now and every output stands as recorded. It builds in a folder
//! beside its target and takes the target's place as a whole, record included, so a kill at any moment leaves the last
//! good state. A stage that runs again and gives the same content leaves everything below it fresh.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::augment::preview;
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files::{self, Build, FolderLock};
use crate::progress::Progress;
use crate::raw::{self, Glyphs};
use crate::runs::card;
use crate::shards::foreign;
use crate::{evaluate, train};

pub mod key;
pub mod lock;
pub mod record;
pub mod stage;
mod verify;
mod work;

use key::Key;
use lock::Lock;
pub use record::Record;
pub use stage::Stage;
pub use verify::Verdict;
use work::Done;

/// A configured pipeline over two folders.
pub struct Pipeline {
    config: Config,
    /// The overrides among what made the configuration, for the record of a run.
    overrides: Vec<String>,
    raw: PathBuf,
    artifacts: PathBuf,
    lock_file: PathBuf,
    /// The glyphs, between the stage that verified them and the one that renders them.
    glyphs: RefCell<Option<Glyphs>>,
}

/// Which stages to bring up to date, and how.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// The named stages; none: all.
    pub stages: Vec<Stage>,
    /// Run even what is fresh.
    pub force: bool,
    /// Only the named stages; their inputs must be fresh.
    pub single: bool,
    /// Also everything below the named stages.
    pub downstream: bool,
    /// Say what would run, and run nothing.
    pub dry_run: bool,
}

/// Whether a stage's output stands as it should.
#[derive(Debug, Clone, PartialEq)]
pub enum Freshness {
    /// It does; here is its record.
    Fresh(Box<Record>),
    /// It does not, and why.
    Stale(Vec<String>),
}

/// What became of a stage in a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Nothing was to be done.
    Fresh(Box<Record>),
    /// It ran, for these reasons; `pinned` tells whether its content is that of `pipeline.lock`, where that pins it.
    Ran { reasons: Vec<String>, record: Box<Record>, pinned: Option<bool> },
    /// It would run, for these reasons.
    WouldRun(Vec<String>),
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
        Pipeline { config, overrides, raw, artifacts, lock_file, glyphs: RefCell::new(None) }
    }

    /// The folder in which a stage's output stands.
    pub fn folder(&self, stage: Stage) -> PathBuf {
        let folder = self.artifacts.join(stage.name());
        match stage {
            Stage::Train => folder.join(self.config.train.run_name()),
            Stage::Evaluate => folder.join(self.config.evaluate.folder_name(&self.config.train.run_name())),
            _ => folder,
        }
    }

    /// Brings stages up to date and tells of each as soon as it is done.
    pub fn run(
        &self,
        request: &Request,
        progress: &Progress,
        tell: &mut dyn FnMut(Stage, &Outcome) -> Result<()>,
    ) -> Result<()> {
        let selected = selection(request, &self.config);
        if selected.contains(&Stage::Train) {
            let [height, width] = self.config.plan.image_size;
            self.config.train.model.check_image_size(height, width)?;
        }
        let _lock = match request.dry_run {
            true => None,
            false => Some(self.lock_folders()?),
        };
        let pinned = Lock::read(&self.lock_file)?;
        let mut pending = BTreeSet::new();
        if request.single {
            self.require_fresh_inputs(&selected)?;
        }
        for stage in selected {
            let outcome = match self.freshness(stage, &pending)? {
                Freshness::Fresh(record) if !request.force => {
                    if !request.dry_run {
                        self.keep_stamps(stage, &record);
                    }
                    Outcome::Fresh(record)
                }
                freshness => {
                    let reasons = match freshness {
                        Freshness::Stale(reasons) if !request.force => reasons,
                        _ => vec!["--force".to_owned()],
                    };
                    if request.dry_run {
                        pending.insert(stage);
                        Outcome::WouldRun(reasons)
                    } else {
                        progress.note(&format!("{stage}: {}", reasons.join("; ")));
                        let record = self.perform(stage, request.force, progress)?;
                        let expected = pinned.as_ref().and_then(|lock| lock.expected(stage, &self.config));
                        let pinned = expected.map(|content| content == record.content);
                        if pinned == Some(false) {
                            progress.warn(&format!("{stage}: the content is not what pipeline.lock pins"));
                        }
                        Outcome::Ran { reasons, record: Box::new(record), pinned }
                    }
                }
            };
            tell(stage, &outcome)?;
        }
        Ok(())
    }

    /// The freshness of every stage, in order, as it stands.
    pub fn status(&self) -> Result<Vec<(Stage, Freshness)>> {
        let mut stale = BTreeSet::new();
        let mut all = Vec::new();
        for stage in Stage::ALL {
            let freshness = self.freshness(stage, &stale)?;
            if matches!(freshness, Freshness::Stale(_)) {
                stale.insert(stage);
            }
            all.push((stage, freshness));
        }
        Ok(all)
    }

    /// Writes `pipeline.lock` from what stands; the pinned stages must be fresh. Returns its path.
    pub fn lock(&self) -> Result<&Path> {
        let _lock = self.lock_folders()?;
        self.require_fresh(&Stage::PINNED, "lock")?;
        let content = Stage::PINNED.into_iter().filter_map(|stage| Some((stage, self.record(stage).ok()??.content)));
        Lock::new(&self.config, content).write(&self.lock_file)?;
        Ok(&self.lock_file)
    }

    /// Draws a picture of the augmentation of `rows` training samples in the epochs below `epochs`; the data set must be
    /// fresh. It is written to `out`, else beside the stages' folders. Returns its path.
    pub fn preview_augment(&self, rows: usize, epochs: usize, out: Option<PathBuf>) -> Result<PathBuf> {
        self.require_fresh(&[Stage::Dataset], "preview")?;
        let picture = preview::draw(&self.config.augment, &self.folder(Stage::Dataset), rows, epochs)?;
        let out = out.unwrap_or_else(|| self.artifacts.join(preview::FILE));
        files::write(&out, &preview::png(&picture))?;
        Ok(out)
    }

    /// Asks a trained network about PNG files: the run of that name, or the one of the configuration.
    pub fn predict(&self, run: Option<&str>, images: &[PathBuf]) -> Result<Vec<evaluate::images::Answer>> {
        let runs = self.artifacts.join(Stage::Train.name());
        let name = run.map_or_else(|| self.config.train.run_name(), str::to_owned);
        let file = Path::new(train::WEIGHTS).join(self.config.evaluate.weights.file());
        let weights = runs.join(&name).join(&file);
        if !weights.is_file() {
            let mut there = files::entries(&runs)?;
            there.retain(|folder| folder.join(&file).is_file());
            let names: Vec<_> = there.iter().filter_map(|folder| folder.file_name()?.to_str()).collect();
            let expected = match names[..] {
                [] => "a trained run; `multidigit run train` makes one".to_owned(),
                _ => format!("--run with one of {}", names.join(", ")),
            };
            return Err(Error::format(&weights, format!("no such weights of run {name}"), expected));
        }
        evaluate::images::ask(&weights, images)
    }

    /// Brings the report up to date with what stands, and nothing else but the data set: no run is trained or evaluated.
    pub fn report(
        &self,
        force: bool,
        progress: &Progress,
        tell: &mut dyn FnMut(Stage, &Outcome) -> Result<()>,
    ) -> Result<()> {
        self.run(&Request { stages: vec![Stage::Dataset], ..Request::default() }, progress, &mut |_, _| Ok(()))?;
        let alone = Request { stages: vec![Stage::Report], single: true, force, ..Request::default() };
        self.run(&alone, progress, tell)
    }

    /// Takes the artifacts folder for this process, and clears what killed runs left there.
    fn lock_folders(&self) -> Result<FolderLock> {
        let lock = FolderLock::take(&self.artifacts)?;
        for folder in [self.artifacts.clone(), self.artifacts.join("train"), self.artifacts.join("evaluate")] {
            files::sweep(&folder)?;
        }
        Ok(lock)
    }

    fn require_fresh_inputs(&self, stages: &[Stage]) -> Result<()> {
        for &stage in stages {
            // the report shows what stands of the runs, if anything
            let inputs = stage.inputs(&self.config).iter().copied();
            let inputs = inputs.filter(|input| !stages.contains(input) && !shown(stage, *input));
            let inputs: Vec<Stage> = inputs.collect();
            self.require_fresh(&inputs, stage.name())?;
        }
        Ok(())
    }

    fn require_fresh(&self, inputs: &[Stage], wanted_by: &'static str) -> Result<()> {
        for (input, freshness) in self.status()? {
            if let Freshness::Stale(reasons) = freshness
                && inputs.contains(&input)
            {
                return Err(Error::InputStale { stage: wanted_by, input: input.name(), why: reasons.join("; ") });
            }
        }
        Ok(())
    }

    /// The stage's record; one that is not readable is as good as none.
    fn record(&self, stage: Stage) -> Result<Option<Record>> {
        Record::read(&self.folder(stage))
    }

    /// The folder below which the outputs of a stage are named, whose own folder is `folder`. Of `raw` it is the one in
    /// which the glyph files of `source` stand.
    fn base(&self, stage: Stage, folder: &Path, source: &raw::Config) -> Result<PathBuf> {
        match stage {
            Stage::Raw => {
                let files = raw::locate(source, &self.raw)?;
                Ok(files.paths[0].parent().unwrap_or(Path::new(".")).to_owned())
            }
            _ => Ok(folder.to_owned()),
        }
    }

    /// The stages whose content is in a stage's key. The augmented pixels that training sees are a function of the data
    /// set and of the settings of `augment`, both in its key, however many epochs stand as shards. The report shows all runs,
    /// whichever the configuration names.
    fn keyed_inputs(&self, stage: Stage) -> impl Iterator<Item = Stage> + use<> {
        let inputs = stage.inputs(&self.config).iter().copied();
        inputs.filter(move |&input| (stage, input) != (Stage::Train, Stage::Augment) && !shown(stage, input))
    }

    /// The key of a stage under the records that stand; the inputs that have none.
    fn key(&self, stage: Stage) -> Result<(Key, Vec<Stage>)> {
        let mut inputs = BTreeMap::new();
        let mut missing = Vec::new();
        for input in self.keyed_inputs(stage) {
            match Record::read(&self.folder(input)) {
                Ok(Some(record)) => {
                    let name = match input {
                        Stage::Train | Stage::Evaluate => format!("{input}/{}", self.config.train.run_name()),
                        _ => input.name().to_owned(),
                    };
                    inputs.insert(name, record.content);
                }
                _ => missing.push(input),
            }
        }
        match stage {
            Stage::Report => inputs.extend(self.run_contents()?),
            Stage::Evaluate => inputs.extend(self.foreign_contents()?),
            _ => {}
        }
        let settings = key::settings(stage, &self.config);
        Ok((Key { version: stage.version(), settings, inputs }, missing))
    }

    /// Digests of the files that are evaluated instead of the data set.
    fn foreign_contents(&self) -> Result<Vec<(String, Digest)>> {
        let splits = foreign::splits(self.config.evaluate.others().unwrap_or_default())?;
        let files = splits.into_iter().flat_map(|(_, files)| files);
        files.map(|path| Ok((format!("data/{}", path.display()), Digest::of_file(&path)?))).collect()
    }

    /// Content of every run that stands, trained, evaluated or unfinished: the report shows them all.
    fn run_contents(&self) -> Result<Vec<(String, Digest)>> {
        let mut runs = Vec::new();
        for (place, _) in self.places()?.into_iter().filter(|(place, _)| place.settings.is_none()) {
            let run = place.folder.file_name().unwrap_or_default().to_string_lossy();
            let mut files = files::entries(&place.folder)?;
            // what the report reads of it, not its growing weights
            files.retain(|file| file.extension().is_some_and(|e| e == "csv" || e == "json" || e == "yaml"));
            let digests = files.iter().map(|file| Digest::of_file(file)).collect::<Result<Vec<Digest>>>()?;
            runs.push((format!("{}/{run}", Stage::Train), Digest::of_json(&serde_json::json!(digests))));
        }
        for stage in [Stage::Train, Stage::Evaluate] {
            for folder in self.run_folders(stage)? {
                if let Ok(Some(record)) = Record::read(&folder) {
                    let run = folder.file_name().unwrap_or_default().to_string_lossy();
                    runs.push((format!("{stage}/{run}"), record.content));
                }
            }
        }
        Ok(runs)
    }

    /// The folders of all runs of a stage (train or evaluate) that have a record.
    fn run_folders(&self, stage: Stage) -> Result<Vec<PathBuf>> {
        let mut folders = files::entries(&self.artifacts.join(stage.name()))?;
        folders.retain(|folder| folder.join(record::FILE).exists());
        Ok(folders)
    }

    /// The content of a stage that has run.
    fn content(&self, stage: Stage) -> Result<Digest> {
        match self.record(stage)? {
            Some(record) => Ok(record.content),
            None => Err(Error::format(&self.folder(stage), "no record", "the output of a run")),
        }
    }

    /// Whether a stage is fresh, if the stages in `pending` are not.
    fn freshness(&self, stage: Stage, pending: &BTreeSet<Stage>) -> Result<Freshness> {
        let mut record = match self.record(stage) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(Freshness::Stale(vec!["has not run yet".to_owned()])),
            Err(error) => return Ok(Freshness::Stale(vec![error.to_string()])),
        };
        let (key, missing) = match self.key(stage) {
            Ok(key) => key,
            Err(error) => return Ok(Freshness::Stale(vec![error.to_string()])),
        };
        let mut reasons = key.reasons_against(&record.key);
        for input in self.keyed_inputs(stage) {
            if missing.contains(&input) {
                reasons.retain(|reason| !reason.starts_with(&format!("input {input}")));
                reasons.push(format!("input {input} is not there"));
            } else if pending.contains(&input) {
                reasons.push(format!("input {input} is stale"));
            }
        }
        let inputs = stage.inputs(&self.config).iter();
        let stale = inputs.filter(|&&input| shown(stage, input) && pending.contains(&input));
        reasons.extend(stale.map(|input| format!("input {input} is stale")));
        if reasons.is_empty() {
            let folder = self.folder(stage);
            match self.base(stage, &folder, &self.config.raw) {
                Ok(base) => {
                    reasons.extend(record.look(&base));
                    if stage != Stage::Raw {
                        reasons.extend(record.strays(&folder)?.filter(|stray| stray.ends_with(".parquet")).map(
                            // readers take every shard of a folder, also one that nobody recorded
                            |stray| format!("{stray} is not in the record"),
                        ));
                    }
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        match reasons.is_empty() {
            true => Ok(Freshness::Fresh(Box::new(record))),
            false => Ok(Freshness::Stale(reasons)),
        }
    }

    /// Writes the record of a fresh stage again if a look at its outputs renewed their stamps: it spares the next look the
    /// reading. Only with the folder's lock in hand, or it could meet the record of a run under way; and a folder that
    /// cannot be written is no reason to fail.
    fn keep_stamps(&self, stage: Stage, record: &Record) {
        if !matches!(self.record(stage), Ok(Some(stored)) if stored == *record) {
            let _ = record.write(&self.folder(stage));
        }
    }

    /// Runs one stage, whose inputs are fresh, and puts its output and record in place.
    fn perform(&self, stage: Stage, force: bool, progress: &Progress) -> Result<Record> {
        let started = Instant::now();
        let target = self.folder(stage);
        files::create_dir(target.parent().unwrap_or(&self.artifacts))?;
        let build = match stage {
            Stage::Train => Build::resumable(&target)?,
            _ => Build::beside(&target)?,
        };
        if stage == Stage::Train {
            self.begin_training(&build, force, progress)?;
        }
        let Done { content, rows, facts } = self.work(stage, build.path(), progress)?;
        let (key, _) = self.key(stage)?;
        let outputs = match stage {
            Stage::Raw => {
                let base = self.base(stage, &target, &self.config.raw)?;
                let files = raw::locate(&self.config.raw, &self.raw)?;
                let names = files.paths.iter().filter_map(|path| path.file_name().map(PathBuf::from));
                record::outputs(&base, &names.collect::<Vec<_>>())?
            }
            _ => record::outputs(build.path(), &files::walk(build.path())?)?,
        };
        let finished = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let content = content.unwrap_or_else(|| Digest::of_json(&serde_json::json!(content_of(&outputs))));
        let seconds = started.elapsed().as_secs_f64();
        let record = Record { key, content, outputs, rows, facts, seconds, finished };
        record.write(build.path())?;
        build.commit()?;
        let card = target.join(card::FILE);
        if stage == Stage::Evaluate && card.exists() {
            // for whoever publishes the folder with the weights; the record of `train` does not speak of it
            let beside = self.folder(Stage::Train).join(card::FILE);
            if let Err(error) = files::read(&card).and_then(|text| files::write(&beside, &text)) {
                progress.warn(&error.to_string());
            }
        }
        Ok(record)
    }
}

/// Whether a stage shows what stands of another, without needing any of it.
fn shown(stage: Stage, input: Stage) -> bool {
    stage == Stage::Report && matches!(input, Stage::Train | Stage::Evaluate)
}

/// The content of a stage that has no logical one: its files.
fn content_of(outputs: &[record::Output]) -> Vec<(&str, Digest)> {
    outputs.iter().map(|output| (output.path.as_str(), output.digest)).collect()
}

/// The stages of a request, in order.
fn selection(request: &Request, config: &Config) -> Vec<Stage> {
    let named = |stage: &Stage| request.stages.is_empty() || request.stages.contains(stage);
    let mut selected: BTreeSet<Stage> = Stage::ALL.into_iter().filter(named).collect();
    if request.downstream {
        let below = Stage::ALL.into_iter().filter(|stage| selected.iter().any(|&named| stage.needs(named, config)));
        selected.extend(below.collect::<Vec<_>>());
    }
    if !request.single {
        selected = selected.into_iter().flat_map(|stage| stage.with_upstream(config)).collect();
    }
    selected.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use Stage::*;

    use super::*;

    fn selected(stages: &[Stage], change: fn(&mut Request)) -> Vec<Stage> {
        let mut request = Request { stages: stages.to_vec(), ..Request::default() };
        change(&mut request);
        selection(&request, &Config::default())
    }

    #[test]
    fn a_stage_brings_what_it_needs_and_no_more() {
        assert_eq!(selected(&[Dataset], |_| ()), [Raw, Plan, Dataset]);
        assert_eq!(selected(&[], |_| ()), Stage::ALL);
    }

    #[test]
    fn single_is_the_stage_alone_and_downstream_all_below() {
        assert_eq!(selected(&[Dataset], |r| r.single = true), [Dataset]);
        assert_eq!(selected(&[Evaluate], |r| r.downstream = true), Stage::ALL.to_vec());
        let both = |request: &mut Request| (request.single, request.downstream) = (true, true);
        assert_eq!(selected(&[Train], both), [Train, Evaluate, Report]);
    }
}
