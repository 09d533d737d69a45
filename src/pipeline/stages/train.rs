//! The stage `train`: trains one network on the data set. The result is a run, in a folder of its own.
//!
//! An interrupted run is kept and can be continued; [`beginning`] decides how a training begins.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::augment::{self, preview};
use crate::config::Config;
use crate::dataset::is_shard_of;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::evaluate::Weights;
use crate::files::{self, Build};
use crate::networks::weights::start_from;
use crate::networks::{DROPOUT, Network};
use crate::pipeline::definition::{Beginning, Definition, Done, Input};
use crate::pipeline::freshness::make_again;
use crate::pipeline::{Pipeline, Request, Stage, key};
use crate::progress::Progress;
use crate::record::{self, Key, Record};
use crate::runs::Runs;
use crate::shards::{DATA, read_split};
use crate::train::epochs::Epochs;
use crate::train::{self, CONFIG, Device, WEIGHTS, estimate};

mod beginning;
mod naming;

pub use naming::{run_name, run_name_of_recipe};

/// The definition of the stage.
pub struct Train;

/// The settings of `train` that do not change the weights.
const UNKEYED: [&str; 2] = ["run", "checkpoint_every_steps"];

/// The setting that names the weights to start from, and the input that is their content.
const INIT: &str = "init";

/// The numbers of images and of epochs in the picture of the augmentation for TensorBoard.
const PICTURE_ROWS: usize = 4;
const PICTURE_EPOCHS: usize = 6;

/// The settings of `train` that did not exist when the stage got its version. At its default, such a setting is not in
/// the key, so that the runs from before stay fresh.
const ADDED: [&str; 4] = ["label_smoothing", "ema", "stop_after", "val_samples"];

impl Definition for Train {
    fn stage(&self) -> Stage {
        Stage::Train
    }

    fn name(&self) -> &'static str {
        "train"
    }

    fn version(&self) -> u32 {
        2
    }

    /// The shards of `augment` are not in the key: the augmented pixels follow from the data set and the settings of
    /// `augment`, which both are, however many epochs are stored as shards.
    fn inputs(&self, config: &Config) -> &'static [Input] {
        match config.train.augment {
            true => &[Input::Keyed(Stage::Dataset), Input::OrderOnly(Stage::Augment)],
            false => &[Input::Keyed(Stage::Dataset)],
        }
    }

    /// The weights that the run starts from.
    fn other_inputs(&self, pipeline: &Pipeline) -> Result<Vec<(String, Digest)>> {
        let init = init(pipeline)?.map(|path| Ok((INIT.to_owned(), Digest::of_file(&path)?)));
        init.into_iter().collect()
    }

    fn settings(&self, config: &Config) -> Vec<(String, Value)> {
        let (mut settings, defaults) = (effective(config), json!(train::Config::default()));
        settings.shift_remove(INIT); // its content is an input
        settings.retain(|name, value| !ADDED.contains(&name.as_str()) || defaults.get(name) != Some(value));
        let train = ("train".to_owned(), Value::Object(settings));
        match config.train.augment {
            // epochs that are not stored as shards are augmented in flight
            true => vec![("augment".to_owned(), Value::Object(augment::pixel_settings(&config.augment))), train],
            false => vec![train],
        }
    }

    fn is_per_run(&self) -> bool {
        true
    }

    fn folder(&self, pipeline: &Pipeline) -> PathBuf {
        pipeline.home(Stage::Train).join(run_name(&pipeline.config))
    }

    fn is_output(&self, path: &str) -> bool {
        train::is_output(path)
    }

    /// Users may keep their own files in the folder of a run.
    fn may_hold_strays(&self) -> bool {
        true
    }

    fn is_characteristic(&self, path: &str) -> bool {
        path.ends_with(".safetensors") && train::is_output(path)
    }

    fn check_config(&self, config: &Config) -> Result<()> {
        if let (Some(samples), Some(_), true) = (config.train.samples, config.augment.exchange, config.train.augment) {
            let expected =
                "null, as `augment.exchange` takes digits from all training images; or switch the exchange off";
            return Err(Error::value("train.samples", samples, expected));
        }
        let train = &config.train;
        train::check_precision("train.precision", train.device, train.precision)?;
        let [height, width] = config.plan.image_size;
        config.train.model.check_image_size(height, width)
    }

    fn is_resumable(&self) -> bool {
        true
    }

    fn beginning(&self, pipeline: &Pipeline, force: bool, pending: &BTreeSet<Stage>) -> Result<Beginning> {
        let found = beginning::find(pipeline, force, pending)?;
        if let (Some(path), true) = (init(pipeline)?, found != beginning::TrainingStart::Unchanged) {
            // tried before there is a folder for the run, which would stand in the way of the next attempt
            let Config { train, plan, .. } = &pipeline.config;
            let network = Network::new(train.shape(plan.digits, plan.image_size), train.seed, DROPOUT)?;
            start_from(&path, &network)?;
        }
        Ok(Beginning::from(found))
    }

    /// Tells the user how long the training takes, or, if no stage was named and no run exists, how to train one.
    fn announce(&self, pipeline: &Pipeline, request: &Request, beginning: Option<&Beginning>, progress: &Progress) {
        let done = match beginning {
            None if request.stages.is_empty() && !self.folder(pipeline).exists() => 0,
            None | Some(Beginning::Unchanged) => return,
            Some(Beginning::Start) => 0,
            Some(Beginning::GoOn { done, .. }) => *done as usize,
        };
        let what = expectation(&pipeline.config, done);
        match beginning {
            Some(_) => progress.note(&format!("train: {what}; after Ctrl-C the same command goes on")),
            None => progress.note(&format!(
                "run: the data set and the report; no network is trained unless a stage is named, as in `multidigit run \
                 train evaluate report` ({what})"
            )),
        }
    }

    fn build(&self, pipeline: &Pipeline, target: &Path, key: &Key, force: bool, progress: &Progress) -> Result<Build> {
        beginning::build(pipeline, target, key, force, progress)
    }

    fn run(&self, pipeline: &Pipeline, key: &Key, out: &Path, progress: &Progress) -> Result<Done> {
        let (config, augment) = (&pipeline.config.train, &pipeline.config.augment);
        pipeline.check_outputs(Stage::Dataset, |path| is_shard_of(path, "train") || is_shard_of(path, "val"))?;
        let data = pipeline.folder(Stage::Dataset).join(DATA);
        // Drawn before the splits are read, as it may read all images itself. There is none of images that are too large for
        // a picture; any other error is met again below.
        let draw = || preview::draw(augment, &pipeline.folder(Stage::Dataset), PICTURE_ROWS, PICTURE_EPOCHS).ok();
        let picture = config.augment.then(draw).flatten();
        let train = read_split(&data, "train", config.samples)?;
        let val = read_split(&data, "val", config.val_samples)?;
        let (folder, record) = (pipeline.folder(Stage::Augment), pipeline.record(Stage::Augment)?);
        let stored = |epoch: usize| {
            if epoch >= augment.epochs {
                return Ok(None);
            }
            let name = augment::epoch_folder(epoch);
            if let Some(record) = &record {
                record.check(&folder, &make_again(Stage::Augment), |path| path.starts_with(&format!("{name}/")))?;
            }
            read_split(&folder.join(name).join(DATA), "train", config.samples).map(Some)
        };
        let epochs = match config.augment {
            true => Epochs::augmented(&train, augment, stored),
            false => Epochs::plain(&train),
        };
        let data = train::Data { digest: pipeline.content(Stage::Dataset)?, epochs, val: &val, picture };
        let init = init(pipeline)?;
        if let Some(path) = &init
            && Some(&Digest::of_file(path)?) != key.inputs.get(INIT)
        {
            let expected = "the file as it was when the command began; run the command again";
            return Err(Error::format(path, "a file that changed meanwhile", expected));
        }
        let config = &train::Config { init: init.map(|path| path.display().to_string()), ..config.clone() };
        let summary = train::run(config, &data, key.digest(), out, progress)?;
        // runs with equal weights have equal content, however long their training took
        let weights = weights(config.ema.is_some()).into_iter().map(|path| Digest::of_file(&out.join(path)));
        let content = Digest::of_json(&json!(weights.collect::<Result<Vec<_>>>()?));
        Ok(Done { content: Some(content), rows: summary.epochs.len() as u64, facts: json!(summary) })
    }

    fn amount(&self, record: &Record) -> String {
        format!("{} epoch{}", record.rows, if record.rows == 1 { "" } else { "s" })
    }

    fn remarks(&self, pipeline: &Pipeline, _: &Record) -> Vec<String> {
        let Ok(target) = files::resolve(&self.folder(pipeline)) else { return Vec::new() };
        let unfinished = files::unfinished(&target);
        match files::is_marked(&unfinished) {
            true => vec![format!("an unfinished run stands beside it: {}", unfinished.display())],
            false => Vec::new(),
        }
    }

    fn recompute(&self, _: &Pipeline, record: &Record, _: &Progress) -> Result<Option<Digest>> {
        let averages = record.digest_of(&weights_file(Weights::Ema)).is_some();
        let files = weights(averages);
        Ok(record.digest_of_all(&files.iter().map(String::as_str).collect::<Vec<_>>()))
    }
}

/// The file of the weights that the configured run starts from, if it does not start from random ones.
fn init(pipeline: &Pipeline) -> Result<Option<PathBuf>> {
    let Some(init) = &pipeline.config.train.init else { return Ok(None) };
    if init.ends_with(".safetensors") {
        return Ok(Some(PathBuf::from(init)));
    }
    let runs = Runs::new(&pipeline.artifacts);
    let folder = runs.folder(init)?;
    match folder.join(record::FILE).is_file() {
        true => Ok(Some(folder.join(weights_file(Weights::Best)))),
        false => Err(runs.missing(init)?),
    }
}

/// The settings of `train` that the weights depend on.
fn effective(config: &Config) -> Map<String, Value> {
    let (_, section) = key::section(config, "train", &UNKEYED);
    let mut settings = section.as_object().cloned().unwrap_or_default();
    if !config.train.model.has_trunk() {
        settings.shift_remove("trunk");
    }
    settings
}

/// The files of the weights, as paths in a run's folder, with that of their average if the run has one.
fn weights(averages: bool) -> Vec<String> {
    let average = averages.then_some(Weights::Ema);
    [Weights::Best, Weights::Last].into_iter().chain(average).map(weights_file).collect()
}

fn weights_file(weights: Weights) -> String {
    format!("{WEIGHTS}/{}", weights.file())
}

/// A description of the training that remains after `done` epochs: the network, the epochs, the images
/// and, on the CPU, the time.
fn expectation(config: &Config, done: usize) -> String {
    let time = training_time(config, done).map(estimate::words);
    let time = time.map_or_else(String::new, |time| format!(", {time} on this machine by steps just measured"));
    let epochs = config.train.epochs - done;
    let epochs = if epochs == 1 { "1 epoch".to_owned() } else { format!("{epochs} epochs") };
    format!("{}, {epochs} of {} images{time}", config.train.model, images(config))
}

/// The number of images that a training uses.
fn images(config: &Config) -> usize {
    let [images, ..] = config.plan.counts().map(|count| count as usize);
    config.train.samples.unwrap_or(images).min(images)
}

/// The stages whose output a training reads, with the digests of the settings that their outputs depend on.
pub fn training_data(config: &Config) -> Vec<(Stage, Digest)> {
    Stage::Train.needed(config).map(|stage| (stage, key::settings_digest(stage, config))).collect()
}

/// The time on this machine of the training that remains after `done` epochs, by steps that are measured now. `None` for a
/// training of seconds, and on a GPU, whose speed is known only once it trains.
pub fn training_time(config: &Config, done: usize) -> Option<Duration> {
    let train = &train::Config { epochs: config.train.epochs - done, ..config.train.clone() };
    let ([_, val, _], images) = (config.plan.counts(), images(config));
    let val = train.val_samples.unwrap_or(usize::MAX).min(val as usize);
    let shape = train.shape(config.plan.digits, config.plan.image_size);
    let is_measured = train.device == Device::Cpu && estimate::is_worthwhile(train, images);
    is_measured.then(|| estimate::estimate(train, shape, images, val).ok()).flatten()
}

impl Pipeline {
    /// Whether the configured run is trained and evaluated, both by the configured settings.
    pub fn is_evaluated(&self) -> Result<bool> {
        for stage in [Stage::Train, Stage::Evaluate] {
            let settings = key::settings(stage, &self.config);
            if self.record(stage)?.is_none_or(|record| record.key.settings != settings) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Returns an error if a finished run has other settings than the configured ones.
///
/// # Errors
/// [`PipelineError::RunStands`](crate::pipeline::PipelineError::RunStands)
pub fn require_same_settings(pipeline: &Pipeline, run: &Record) -> Result<()> {
    let ours = Key { settings: key::settings(Stage::Train, &pipeline.config), ..run.key.clone() };
    let mut differences = ours.reasons_against(&run.key);
    // a program without CUDA replaces the device of a run by the CPU
    differences.retain(|difference| cfg!(feature = "cuda") || !difference.starts_with("train.device: "));
    match differences.is_empty() {
        true => Ok(()),
        false => Err(beginning::stands(pipeline, &pipeline.folder(Stage::Train), differences, None)),
    }
}

/// The configuration of an existing run: the one in its own file, with overrides. In a program without
/// CUDA, the device is the CPU.
///
/// # Errors
/// [`RunsError::NoSuchRun`](crate::runs::RunsError::NoSuchRun) if the run does not exist;
/// [`Error::Format`](crate::error::Error::Format) if the file differs from the recorded one.
pub fn config_of(artifacts: &Path, run: &str, overrides: &[String]) -> Result<Config> {
    let runs = Runs::new(artifacts);
    let folder = runs.folder(run)?;
    let file = folder.join(CONFIG);
    if !file.is_file() {
        return Err(runs.missing(run)?);
    }
    if let Some(record) = Record::read(&folder)? {
        let advice = "restore the file from a copy; what it says of the run cannot be trusted";
        record.check(&folder, advice, |path| path == CONFIG)?;
    }
    let mut config = Config::read(Some(&file))?;
    if !cfg!(feature = "cuda") {
        // this program can evaluate the run nevertheless; it does not train it, since its record names another device
        config.train.device = Device::Cpu;
        config.evaluate.device = Device::Cpu;
    }
    config = config.with_all(overrides)?;
    config.train.run = Some(run.to_owned());
    config.validate()?;
    Ok(config)
}
