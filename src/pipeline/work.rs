//! Calling the stages: what each one is given, and what is kept of its answer.

use std::cell::RefCell;
use std::path::Path;

use serde_json::{Value, json};

use super::{Pipeline, Record, Stage};
use crate::augment::Augmenter;
use crate::augment::apply::Scratch;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::evaluate::Metrics;
use crate::files::{self, Build};
use crate::progress::Progress;
use crate::runs::{self, CONFIG, Place, Run, card};
use crate::shards::{DATA, Shards, Split, read_split};
use crate::train::{Drawn, Draws, Pixels, checkpoint};
use crate::{augment, dataset, evaluate, plan, raw, report, train};

/// What a stage's record keeps of its answer.
pub(super) struct Done {
    /// Digest of the logical content; `None` if the files speak for themselves.
    pub content: Option<Digest>,
    /// Samples, glyphs or epochs.
    pub rows: u64,
    /// What is worth knowing.
    pub facts: Value,
}

impl Pipeline {
    /// Runs a stage into an empty folder; `train` also into one in which a run was interrupted.
    pub(super) fn work(&self, stage: Stage, out: &Path, progress: &Progress) -> Result<Done> {
        match stage {
            Stage::Raw => self.raw_work(progress),
            Stage::Plan => self.plan_work(out, progress),
            Stage::Dataset => self.dataset_work(out, progress),
            Stage::Augment => self.augment_work(out, progress),
            Stage::Train => self.train_work(out, progress),
            Stage::Evaluate => self.evaluate_work(out, progress),
            Stage::Report => self.report_work(out),
        }
    }

    fn raw_work(&self, progress: &Progress) -> Result<Done> {
        let output = raw::run(&self.config.raw, &self.raw, progress)?;
        let facts = json!({"glyphs": self.config.raw.source.name()});
        let rows = output.glyphs.len() as u64;
        self.glyphs.replace(Some(output.glyphs));
        Ok(Done { content: Some(output.digest), rows, facts })
    }

    fn plan_work(&self, out: &Path, progress: &Progress) -> Result<Done> {
        let labels = raw::Glyphs::read_labels(&raw::locate(&self.config.raw, &self.raw)?)?;
        let digest = self.content(Stage::Raw)?;
        let glyphs = plan::Glyphs { name: self.config.raw.source.name(), digest, count: labels.len() };
        let (facts, content) = plan::run(&self.config.plan, glyphs, &labels, out, progress)?;
        let rows = facts.counts.as_array().into_iter().sum();
        Ok(Done { content: Some(content), rows, facts: json!(facts) })
    }

    fn dataset_work(&self, out: &Path, progress: &Progress) -> Result<Done> {
        let plan = self.folder(Stage::Plan).join(plan::FILE);
        // In hand if `raw` ran in this process; nobody needs them after this stage.
        let glyphs = match self.glyphs.take() {
            Some(glyphs) => glyphs,
            None => raw::Glyphs::read(&raw::locate(&self.config.raw, &self.raw)?)?,
        };
        let content = dataset::run(&self.config.dataset, &plan, &glyphs, out, progress)?;
        Ok(Done { content: Some(content), rows: self.config.plan.counts().iter().sum(), facts: Value::Null })
    }

    fn augment_work(&self, out: &Path, progress: &Progress) -> Result<Done> {
        let dataset = self.folder(Stage::Dataset);
        let content = augment::run(&self.config.augment, &dataset, out, progress)?;
        let rows = self.config.plan.counts()[0] * self.config.augment.epochs as u64;
        Ok(Done { content: Some(content), rows, facts: Value::Null })
    }

    fn train_work(&self, out: &Path, progress: &Progress) -> Result<Done> {
        let config = &self.config.train;
        let data = self.folder(Stage::Dataset).join(DATA);
        let train = read_split(&data, "train", config.samples)?;
        let val = read_split(&data, "val", None)?;
        let (train, augment, stored) = (&train, &self.config.augment, self.folder(Stage::Augment));
        let pixels = |epoch: usize| -> Result<Pixels<'_>> {
            if !config.augment {
                return Ok(Box::new(|row, out| out.copy_from_slice(train.image(row))));
            }
            if epoch < augment.epochs {
                let folder = stored.join(augment::epoch_folder(epoch)).join(DATA);
                let epoch = read_split(&folder, "train", config.samples)?;
                return Ok(Box::new(move |row, out| out.copy_from_slice(epoch.image(row))));
            }
            let augmenter = Augmenter::new(augment, epoch);
            let scratch = RefCell::new(Scratch::default());
            Ok(Box::new(move |row, out| {
                let (sample, size) = ((train.labels[row], train.index[row]), (train.height, train.width));
                augmenter.apply(sample, train.image(row), size, out, &mut scratch.borrow_mut());
            }))
        };
        let draws = |epoch: usize| -> Draws<'_> {
            let augmenter = Augmenter::new(augment, epoch);
            Box::new(move |row| {
                let size = (train.height, train.width);
                let params = augmenter.params((train.labels[row], train.index[row]), size);
                Drawn { steps: augmenter.steps(&params, size), erase: params.erase }
            })
        };
        let digest = self.content(Stage::Dataset)?;
        let data = train::Data { digest, train, val: &val, pixels: &pixels, draws: &draws };
        let summary = train::run(config, &data, self.identity()?, out, progress)?;
        // equal weights are equal runs, however long they took
        let weights = [evaluate::Weights::Best, evaluate::Weights::Last]
            .map(|weights| Digest::of_file(&out.join(train::WEIGHTS).join(weights.file())));
        let content = Digest::of_json(&json!(weights.into_iter().collect::<Result<Vec<_>>>()?));
        Ok(Done { content: Some(content), rows: summary.epochs.len() as u64, facts: json!(summary) })
    }

    /// Digest of everything that the stage `train` depends on.
    fn identity(&self) -> Result<Digest> {
        let (key, _) = self.key(Stage::Train)?;
        Ok(Digest::of_json(&json!(key)))
    }

    /// Readies the folder of a run that has not ended: what stands in it is kept if it is of this very run, and has a
    /// checkpoint to go on from, and replaced else.
    pub(super) fn begin_training(&self, build: &Build, force: bool, progress: &Progress) -> Result<()> {
        if !force && let Some(position) = checkpoint::find(build.path())? {
            if position.identity == self.identity()? {
                return Ok(());
            }
            progress.note("train: the unfinished run that stands is of other settings or other data; starting over");
        }
        build.clear()?;
        let mut header = String::from("# The configuration of this run: defaults, file and overrides.\n");
        self.overrides.iter().for_each(|text| header.push_str(&format!("# --set {}\n", text.replace('\n', " "))));
        files::write(&build.path().join(CONFIG), self.config.document_under(&header).as_bytes())
    }

    fn evaluate_work(&self, out: &Path, progress: &Progress) -> Result<Done> {
        let config = &self.config.evaluate;
        let data = self.folder(Stage::Dataset).join(DATA);
        let weights = self.folder(Stage::Train).join(train::WEIGHTS).join(config.weights.file());
        let splits = evaluate::read(config, &weights, &data)?;
        let named: Vec<(&str, &Split)> = splits.iter().map(|(name, split)| (name.as_str(), split)).collect();
        let metrics = evaluate::run(config, &weights, &named, out, progress)?;
        let rows = metrics.splits.iter().map(|split| split.samples as u64).sum();
        if config.data.is_none() {
            self.card(&metrics, out)?;
        }
        Ok(Done { content: None, rows, facts: Value::Null })
    }

    /// The model card of the run that was just evaluated on the data set.
    fn card(&self, metrics: &Metrics, out: &Path) -> Result<()> {
        let train = self.folder(Stage::Train);
        let shards = Shards::open(&self.folder(Stage::Dataset).join(DATA), "train")?;
        let facts = plan::table::facts(shards.first())?;
        let mut run = Run::read(&self.place(&train)?.0);
        run.metrics = Some(metrics.clone());
        files::write(&out.join(card::FILE), card::card(&run, metrics, &facts).as_bytes())
    }

    fn report_work(&self, out: &Path) -> Result<Done> {
        let dataset = self.content(Stage::Dataset)?;
        let (mut runs, mut others) = (Vec::new(), Vec::new());
        for (place, data) in self.places()? {
            let run = Run::read(&place);
            match data.is_none_or(|data| data == dataset) {
                true => runs.push(run),
                false => others.push(run.name),
            }
        }
        let chosen = &self.config.report.runs;
        if let Some(unknown) = chosen.iter().find(|name| runs.iter().all(|run| run.name != **name)) {
            let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
            let expected = match names[..] {
                [] => "none, as there are no runs on this data set".to_owned(),
                _ => format!("names among {}", names.join(", ")),
            };
            return Err(Error::value("report.runs", format!("{unknown:?}"), expected));
        }
        runs.retain(|run| chosen.is_empty() || chosen.contains(&run.name));
        runs::sort(&mut runs);
        let digest = |stage: Stage| Some((stage.name(), self.record(stage).ok()??.content));
        let digests = Stage::PINNED.into_iter().filter_map(digest).collect();
        let content = report::Content {
            dataset: self.folder(Stage::Dataset),
            augment: self.config.augment.clone(),
            digests,
            runs,
            others,
        };
        report::run(&content, out)?;
        Ok(Done { content: None, rows: content.runs.len() as u64, facts: Value::Null })
    }

    /// Every run that stands, the best first.
    pub fn runs(&self) -> Result<Vec<Run>> {
        let mut runs: Vec<Run> = self.places()?.iter().map(|(place, _)| Run::read(place)).collect();
        runs::sort(&mut runs);
        Ok(runs)
    }

    /// Where all runs stand, finished or not, with the content of the data set that each was trained on, as far as that is
    /// known.
    pub(super) fn places(&self) -> Result<Vec<(Place, Option<Digest>)>> {
        let hidden = |folder: &Path| folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let mut folders = files::entries(&self.artifacts.join(Stage::Train.name()))?;
        folders.retain(|folder| folder.is_dir() && !hidden(folder));
        folders.iter().map(|folder| self.place(folder)).collect()
    }

    /// What the records say of the run in a folder of `train`. An evaluation counts if it is of the weights that stand.
    fn place(&self, folder: &Path) -> Result<(Place, Option<Digest>)> {
        let mut place = Place { folder: folder.to_owned(), ..Place::default() };
        let record = match Record::read(folder) {
            Ok(Some(record)) => record,
            Ok(None) => {
                let environment = Run::read(&place).environment;
                return Ok((place, environment.dataset.and_then(|digest| digest.parse().ok())));
            }
            Err(error) => {
                place.problem = Some(error.to_string());
                return Ok((place, None));
            }
        };
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let dataset = record.key.inputs.get(Stage::Dataset.name()).copied();
        for evaluated in self.run_folders(Stage::Evaluate)? {
            let Ok(Some(evaluation)) = Record::read(&evaluated) else { continue };
            let inputs = &evaluation.key.inputs;
            if inputs.get(&format!("{}/{name}", Stage::Train)) != Some(&record.content) {
                continue;
            }
            if evaluation.key.settings["evaluate"]["data"].is_null() {
                if inputs.get(Stage::Dataset.name()).copied() == dataset {
                    place.evaluate = Some(evaluated);
                }
            } else {
                place.elsewhere.push(evaluated);
            }
        }
        place.settings = Some(record.key.settings);
        (place.finished, place.seconds) = (Some(record.finished), Some(record.seconds));
        Ok((place, dataset))
    }
}
