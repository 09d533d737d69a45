//! The pipeline: which stages run, in which order, and which are fresh. The only code that knows two stages.
//!
//! A stage is fresh if its record's key equals the key of now and every output stands as recorded. It builds in a folder
//! beside its target and takes the target's place as a whole, record included, so a kill at any moment leaves the last
//! good state. A stage that runs again and gives the same content leaves everything below it fresh.
//!
//! Before any work it is settled that nothing of the user's is in the way. While a command runs, it holds the folders
//! that it has read or made for reading, and the one that it makes for writing; other commands may read what it reads.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::augment::preview;
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::files::{self, Build, FolderLock, Hold};
use crate::nn::Shape;
use crate::progress::Progress;
use crate::raw::{self, Glyphs};
use crate::shards::{DATA, foreign};
use crate::train::{self, Device, estimate};

mod clean;
pub mod key;
mod locate;
pub mod lock;
mod naming;
mod ownership;
pub mod record;
mod runs;
mod seal;
pub mod stage;
mod training;
mod verify;
mod work;

pub use clean::Cleaned;
use key::Key;
use lock::Lock;
pub use record::Record;
pub use runs::config_of;
pub use stage::Stage;
use training::Beginning;
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
    /// The name of the configured run.
    run: String,
    /// The glyphs, between the stage that verified them and the one that renders them.
    glyphs: RefCell<Option<Glyphs>>,
    /// Digests of the files that are evaluated instead of the data set, once they were read.
    foreign: OnceCell<Vec<(String, Digest)>>,
}

/// Which stages to bring up to date, and how.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// The named stages; none: the data set, and the report about what stands. No network is trained unasked.
    pub stages: Vec<Stage>,
    /// Run the named stages even if they are fresh.
    pub force: bool,
    /// Only the named stages; their inputs must be fresh.
    pub single: bool,
    /// Also everything below the named stages.
    pub downstream: bool,
    /// Say what would run, and run nothing.
    pub dry_run: bool,
    /// Evaluate and report on the run and the data set that stand, whatever the configuration says of how they are made.
    pub as_they_stand: bool,
}

impl Request {
    /// The stages that are asked for.
    fn named(&self) -> &[Stage] {
        if self.stages.is_empty() { &UNNAMED } else { &self.stages }
    }

    /// Whether a stage is to run even if it is fresh. What it needs is not: a training takes an hour, and is named where it
    /// is meant.
    fn forces(&self, stage: Stage) -> bool {
        self.force && self.named().contains(&stage)
    }
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
        let run = naming::run_name(&config);
        let (glyphs, foreign) = (RefCell::new(None), OnceCell::new());
        Pipeline { config, overrides, raw, artifacts, lock_file, run, glyphs, foreign }
    }

    /// The folder in which a stage's output stands.
    pub fn folder(&self, stage: Stage) -> PathBuf {
        let folder = self.artifacts.join(stage.name());
        match stage {
            Stage::Train => folder.join(&self.run),
            Stage::Evaluate => match self.config.evaluate.data_name() {
                None => folder.join(&self.run),
                Some(data) => {
                    // data that cannot be read have no content, and an evaluation on them fails with the reason
                    let content = self.foreign_contents().ok();
                    let digests = |files: &Vec<(String, Digest)>| files.iter().map(|file| file.1).collect::<Vec<_>>();
                    let content = content.map(|files| Digest::of_json(&serde_json::json!(digests(files))));
                    folder.join(naming::evaluation_name(&self.run, &data, content))
                }
            },
            _ => folder,
        }
    }

    /// Brings stages up to date and tells of each as soon as it is done.
    ///
    /// # Errors
    /// Before any work, where files of the user's or a run are in the way of a stage.
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
        self.check_folders()?;
        let pinned = Lock::read(&self.lock_file)?;
        if request.as_they_stand {
            self.require_standing(&selected)?;
        } else if request.single {
            self.require_fresh_inputs(&selected)?;
        }
        let (planned, training) = self.planned(&selected, request)?;
        if request.dry_run {
            return planned.iter().try_for_each(|(stage, outcome)| tell(*stage, outcome));
        }
        self.announce_training(request, training, progress);
        let mut held = Vec::new();
        for &stage in &selected {
            let (outcome, lock) = self.bring(stage, request, pinned.as_ref(), progress)?;
            held.push(lock);
            tell(stage, &outcome)?;
        }
        Ok(())
    }

    /// What would become of the stages, in their order, as things stand; and how a training would begin.
    ///
    /// # Errors
    /// Where something is in the way of a stage that would run.
    fn planned(&self, selected: &[Stage], request: &Request) -> Result<Planned> {
        let mut pending = BTreeSet::new();
        let (mut planned, mut training) = (Vec::new(), None);
        for &stage in selected {
            // the folder of all runs too, which may be a file of the user's
            files::resolve(&self.artifacts.join(stage.name()))?;
            let outcome = match self.freshness(stage, &pending)? {
                Freshness::Fresh(record) if !request.forces(stage) => Outcome::Fresh(record),
                freshness => {
                    let mut reasons = reasons(freshness, request.forces(stage));
                    if stage == Stage::Train {
                        let beginning = self.beginning(request.forces(stage), pending.contains(&Stage::Dataset))?;
                        reasons.extend(beginning.going_on());
                        training = Some(beginning);
                    } else {
                        ownership::check_around(stage, &self.folder(stage))?;
                    }
                    pending.insert(stage);
                    Outcome::WouldRun(reasons)
                }
            };
            planned.push((stage, outcome));
        }
        Ok((planned, training))
    }

    /// Brings one stage, whose inputs are fresh, up to date. The lock that is handed back keeps what the stage left from
    /// being replaced while others read it.
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
        // asked again, as another process may have made it meanwhile
        let reasons = match self.freshness(stage, &BTreeSet::new())? {
            Freshness::Fresh(record) if !force => {
                return Ok((Outcome::Fresh(record), writing.downgraded()));
            }
            freshness => reasons(freshness, force),
        };
        let inputs = stage.inputs(&self.config).iter().filter(|&&input| !stage.shows(input));
        let inputs = inputs.map(|&input| FolderLock::reading(&files::resolve(&self.folder(input))?));
        let _inputs = inputs.collect::<Result<Vec<_>>>()?;
        if request.as_they_stand {
            // asked again, now that nobody can replace them
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

    /// Says how long a training takes, before it begins or where none was asked for.
    fn announce_training(&self, request: &Request, training: Option<Beginning>, progress: &Progress) {
        let done = match &training {
            None if request.stages.is_empty() && !self.folder(Stage::Train).exists() => 0,
            None | Some(Beginning::Unchanged) => return,
            Some(beginning) => beginning.epochs_done(),
        };
        let train = &train::Config { epochs: self.config.train.epochs - done, ..self.config.train.clone() };
        let [images, val, _] = self.config.plan.counts().map(|count| count as usize);
        let images = train.samples.unwrap_or(images).min(images);
        let [height, width] = self.config.plan.image_size;
        let shape = Shape { model: train.model, digits: self.config.plan.digits, height, width };
        let time = match train.device {
            Device::Cpu if !estimate::is_worthwhile(train, images) => None,
            Device::Cpu => estimate::estimate(train, shape, images, val).ok().map(estimate::words),
            Device::Cuda => None, // its speed is known when it trains
        };
        let time = time.map_or_else(String::new, |time| format!(", {time} on this machine by steps just measured"));
        let epochs = if train.epochs == 1 { "1 epoch".to_owned() } else { format!("{} epochs", train.epochs) };
        let what = format!("{}, {epochs} of {images} images{time}", train.model);
        match training.is_some() {
            true => progress.note(&format!("train: {what}; after Ctrl-C the same command goes on")),
            false => progress.note(&format!(
                "run: the data set and the report; no network is trained unless a stage is named, as in `multidigit run \
                 train evaluate report` ({what})"
            )),
        }
    }

    /// The freshness of every stage, in order, as it stands.
    pub fn status(&self) -> Result<Vec<(Stage, Freshness)>> {
        let mut stale = BTreeSet::new();
        let mut all = Vec::new();
        for stage in Stage::ALL {
            // what is shown as it stands need not be fresh
            let stale_inputs = stale.iter().copied().filter(|&input| !stage.shows(input)).collect();
            let mut freshness = self.freshness(stage, &stale_inputs)?;
            if let Freshness::Stale(reasons) = &mut freshness {
                if stage == Stage::Train {
                    match self.beginning(false, stale.contains(&Stage::Dataset)) {
                        Ok(beginning) => reasons.extend(beginning.going_on()),
                        Err(error) => reasons.push(format!("would be refused: {error}")),
                    }
                }
                stale.insert(stage);
            }
            all.push((stage, freshness));
        }
        Ok(all)
    }

    /// The unfinished run that stands beside the finished one of the configured name, if both do.
    pub fn unfinished_beside(&self) -> Option<PathBuf> {
        let target = files::resolve(&self.folder(Stage::Train)).ok()?;
        let unfinished = files::unfinished(&target);
        (target.join(record::FILE).is_file() && files::is_marked(&unfinished)).then_some(unfinished)
    }

    /// Writes `pipeline.lock` from what stands; the pinned stages must be fresh. Returns its path.
    pub fn lock(&self) -> Result<&Path> {
        // what is no lock file is not ours to replace
        Lock::read(&self.lock_file)?;
        let held = Stage::PINNED.map(|stage| FolderLock::reading(&files::resolve(&self.folder(stage))?));
        let _held = held.into_iter().collect::<Result<Vec<_>>>()?;
        self.require_fresh(&Stage::PINNED, "lock")?;
        let content = Stage::PINNED.into_iter().filter_map(|stage| Some((stage, self.record(stage).ok()??.content)));
        Lock::new(&self.config, content).write(&self.lock_file)?;
        Ok(&self.lock_file)
    }

    /// Draws a picture of the augmentation of `rows` training samples in the epochs below `epochs`; the data set must be
    /// fresh. It is written to `out`, else beside the stages' folders. Returns its path.
    pub fn preview_augment(&self, rows: usize, epochs: usize, out: Option<PathBuf>) -> Result<PathBuf> {
        self.require_fresh(&[Stage::Dataset], "preview")?;
        self.check_input(Stage::Dataset, |path| is_shard_of(path, "train"))?;
        let picture = preview::draw(&self.config.augment, &self.folder(Stage::Dataset), rows, epochs)?;
        let out = match out {
            Some(out) => {
                let place = files::absolute(&out);
                let is_within = |stage: &Stage| place.starts_with(files::absolute(&self.artifacts.join(stage.name())));
                if let Some(stage) = Stage::ALL.into_iter().find(is_within) {
                    let found = format!("a place in the folder of the stage {stage}");
                    return Err(Error::format(&out, found, "one apart from what the stages made"));
                }
                out
            }
            None => {
                let out = self.artifacts.join(preview::FILE);
                if out.is_file() && !preview::is_ours(&files::read(&out)?) {
                    let expected = "an earlier preview, or nothing, under this name; name another file with --out";
                    return Err(Error::format(&out, "a file that this program did not draw", expected));
                }
                out
            }
        };
        files::write_among_users(&out, &preview::png(&picture))?;
        Ok(out)
    }

    /// Asks the network of the configured run about PNG files.
    pub fn predict(&self, images: &[PathBuf]) -> Result<Vec<evaluate::images::ImagePrediction>> {
        let folder = self.folder(Stage::Train);
        let file = Path::new(train::WEIGHTS).join(self.config.evaluate.weights.file());
        let weights = folder.join(&file);
        if !weights.is_file() {
            return Err(self.no_such_run()?);
        }
        let recorded = Record::read(&folder)?.and_then(|record| record.digest_of(&record::name(&file)));
        evaluate::images::predict_files(&weights, recorded, images)
    }

    /// Brings the report up to date with what stands, and nothing else but a data set that is not there: no run is trained
    /// or evaluated.
    pub fn report(
        &self,
        force: bool,
        progress: &Progress,
        tell: &mut dyn FnMut(Stage, &Outcome) -> Result<()>,
    ) -> Result<()> {
        if self.record(Stage::Dataset)?.is_none() {
            self.run(&Request { stages: vec![Stage::Dataset], ..Request::default() }, progress, &mut |_, _| Ok(()))?;
        }
        let stages = vec![Stage::Report];
        self.run(&Request { stages, as_they_stand: true, force, ..Request::default() }, progress, tell)
    }

    /// Refuses a raw folder that is, or lies in, the folder of a stage: what stands there is replaced.
    fn check_folders(&self) -> Result<()> {
        let raw = files::absolute(&self.raw);
        let is_taken = |stage: &Stage| {
            let folder = files::absolute(&self.artifacts.join(stage.name()));
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

    fn require_fresh_inputs(&self, stages: &[Stage]) -> Result<()> {
        for &stage in stages {
            let inputs = stage.inputs(&self.config).iter().copied();
            let inputs = inputs.filter(|input| !stages.contains(input) && !stage.shows(*input));
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

    /// The stage's record, if it has one.
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
        inputs.filter(move |&input| (stage, input) != (Stage::Train, Stage::Augment) && !stage.shows(input))
    }

    /// The key of a stage under the records that stand; the inputs that have none.
    fn key(&self, stage: Stage) -> Result<(Key, Vec<Stage>)> {
        let mut inputs = BTreeMap::new();
        let mut missing = Vec::new();
        for input in self.keyed_inputs(stage) {
            match Record::read(&self.folder(input)) {
                Ok(Some(record)) => {
                    let name = match input {
                        Stage::Train | Stage::Evaluate => format!("{input}/{}", self.run),
                        _ => input.name().to_owned(),
                    };
                    inputs.insert(name, record.content);
                }
                _ => missing.push(input),
            }
        }
        match stage {
            Stage::Report => inputs.extend(self.run_contents()?),
            Stage::Evaluate => inputs.extend(self.foreign_contents()?.iter().cloned()),
            _ => {}
        }
        let settings = key::settings(stage, &self.config);
        Ok((Key { version: stage.version(), settings, inputs }, missing))
    }

    /// Digests of the files that are evaluated instead of the data set, in their order, by a name for each.
    fn foreign_contents(&self) -> Result<&Vec<(String, Digest)>> {
        if let Some(contents) = self.foreign.get() {
            return Ok(contents);
        }
        let splits = foreign::splits(self.config.evaluate.others().unwrap_or_default())?;
        let files = splits.into_iter().flat_map(|(_, files)| files);
        let named = files.map(|path| Ok((format!("data/{}", path.display()), Digest::of_file(&path)?)));
        let contents = named.collect::<Result<Vec<_>>>()?;
        Ok(self.foreign.get_or_init(|| contents))
    }

    /// Refuses files to evaluate on that changed since they were digested.
    fn check_foreign(&self) -> Result<()> {
        for (name, digest) in self.foreign.get().into_iter().flatten() {
            let path = Path::new(name.strip_prefix("data/").unwrap_or(name));
            if Digest::of_file(path)? != *digest {
                let expected = "the file as it was when the command began; run the command again";
                return Err(Error::format(path, "a file that changed meanwhile", expected));
            }
        }
        Ok(())
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
        let stale = inputs.filter(|&&input| stage.shows(input) && pending.contains(&input));
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
    /// reading. Only with the folder's lock in hand, or it could meet the record of a run under way.
    fn keep_stamps(&self, stage: Stage, record: &Record) {
        if !matches!(self.record(stage), Ok(Some(stored)) if stored == *record) {
            record.renew(&self.folder(stage));
        }
    }

    /// Runs one stage, whose inputs are fresh, and puts its output and record in place.
    fn perform(&self, stage: Stage, target: &Path, force: bool, progress: &Progress) -> Result<Record> {
        let started = Instant::now();
        // of the inputs as they are read: the locks on them keep them so
        let (key, _) = self.key(stage)?;
        let build = match stage {
            Stage::Train => self.begin_training(target, &key, force, progress)?,
            _ => {
                ownership::check(stage, target)?;
                Build::beside(target)?
            }
        };
        let Done { content, rows, facts } = self.work(stage, &key, build.path(), progress)?;
        let outputs = match stage {
            Stage::Raw => {
                let base = self.base(stage, target, &self.config.raw)?;
                let files = raw::locate(&self.config.raw, &self.raw)?;
                let names = files.paths.iter().filter_map(|path| path.file_name().map(PathBuf::from));
                record::outputs(&base, &names.collect::<Vec<_>>())?
            }
            Stage::Train => {
                // a run's folder is there for all to see, and may hold what others put there
                let mut files = files::walk(build.path())?;
                files.retain(|path| train::is_output(&record::name(path)));
                record::outputs(build.path(), &files)?
            }
            _ => record::outputs(build.path(), &files::walk(build.path())?)?,
        };
        let finished = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let content = content.unwrap_or_else(|| Digest::of_json(&serde_json::json!(content_of(&outputs))));
        let seconds = started.elapsed().as_secs_f64();
        let record = Record { key, content, outputs, rows, facts, seconds, finished };
        record.write(build.path())?;
        let written = match stage {
            Stage::Raw => Vec::new(), // its files stand elsewhere
            _ => record.outputs.iter().map(|output| PathBuf::from(&output.path)).collect(),
        };
        if let Some(former) = build.commit(&[written, vec![PathBuf::from(record::FILE)]].concat())? {
            ownership::remove_recorded(stage, &former)?;
            if former.exists() {
                let former = former.display();
                progress.warn(&format!("`{former}`: holds what no record of this program names; it was left there"));
            }
        }
        Ok(record)
    }
}

/// What would become of each stage, and how a training would begin, if there would be one.
type Planned = (Vec<(Stage, Outcome)>, Option<Beginning>);

/// Why a stage runs that is not fresh, or is forced to.
fn reasons(freshness: Freshness, force: bool) -> Vec<String> {
    match freshness {
        Freshness::Stale(reasons) if !force => reasons,
        _ => vec!["--force".to_owned()],
    }
}

/// Whether a path in the folder of the stage `dataset` is a shard of a split.
fn is_shard_of(path: &str, split: &str) -> bool {
    let name = path.strip_prefix(DATA).and_then(|name| name.strip_prefix('/'));
    name.and_then(|name| name.strip_prefix(split)).is_some_and(|rest| rest.starts_with('-'))
}

/// The content of a stage that has no logical one: its files.
fn content_of(outputs: &[record::Output]) -> Vec<(&str, Digest)> {
    outputs.iter().map(|output| (output.path.as_str(), output.digest)).collect()
}

/// What is brought up to date where no stage is named: all that takes seconds.
const UNNAMED: [Stage; 5] = [Stage::Raw, Stage::Plan, Stage::Dataset, Stage::Augment, Stage::Report];

/// The stages of a request, in order.
fn selection(request: &Request, config: &Config) -> Vec<Stage> {
    let named = request.named();
    let mut selected: BTreeSet<Stage> = named.iter().copied().collect();
    if request.downstream {
        let below = Stage::ALL.into_iter().filter(|stage| named.iter().any(|&named| stage.is_below(named, config)));
        selected.extend(below);
    }
    if !request.single {
        let alone = |stage| request.as_they_stand && matches!(stage, Stage::Evaluate | Stage::Report);
        let with_upstream = |stage: Stage| if alone(stage) { vec![stage] } else { stage.with_upstream(config) };
        selected = selected.into_iter().flat_map(with_upstream).collect();
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
        assert_eq!(selected(&[Report], |_| ()), [Raw, Plan, Dataset, Report]);
    }

    #[test]
    fn no_network_is_trained_unasked() {
        assert_eq!(selected(&[], |_| ()), [Raw, Plan, Dataset, Augment, Report]);
        let request = |stages: &[Stage]| Request { stages: stages.to_vec(), force: true, ..Request::default() };
        assert!(request(&[Train]).forces(Train) && request(&[]).forces(Plan));
        assert!(!request(&[Evaluate]).forces(Train) && !request(&[]).forces(Train));
    }

    #[test]
    fn single_is_the_stage_alone_and_downstream_all_below() {
        assert_eq!(selected(&[Dataset], |r| r.single = true), [Dataset]);
        assert_eq!(selected(&[Evaluate], |r| r.downstream = true), Stage::ALL.to_vec());
        let both = |request: &mut Request| (request.single, request.downstream) = (true, true);
        assert_eq!(selected(&[Train], both), [Train, Evaluate, Report]);
    }

    #[test]
    fn a_run_that_is_named_is_evaluated_as_it_stands() {
        assert_eq!(selected(&[Evaluate, Report], |r| r.as_they_stand = true), [Evaluate, Report]);
        assert_eq!(selected(&[Dataset], |r| r.as_they_stand = true), [Raw, Plan, Dataset]);
    }
}
