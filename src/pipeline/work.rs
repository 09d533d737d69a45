//! Calling the stages: what each one is given, and what is kept of its answer.

use std::cell::RefCell;
use std::path::Path;

use serde_json::{Value, json};

use super::{Pipeline, Record, Stage};
use crate::augment::Augmenter;
use crate::augment::apply::Scratch;
use crate::digest::Digest;
use crate::error::Result;
use crate::files::{self, Build};
use crate::progress::Progress;
use crate::shards::{DATA, Split, read_split};
use crate::train::{Drawn, Draws, Pixels, checkpoint};
use crate::{augment, dataset, evaluate, plan, raw, report, train};

/// The resolved configuration in a run's folder.
const CONFIG: &str = "config.yaml";

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
        Ok(Done { content: None, rows, facts: Value::Null })
    }

    fn report_work(&self, out: &Path) -> Result<Done> {
        let (runs, others) = self.runs()?;
        report::run(&self.folder(Stage::Dataset), &self.config.augment, &runs, &others, out)?;
        Ok(Done { content: None, rows: runs.len() as u64, facts: Value::Null })
    }

    /// The runs that were trained on the data set that stands, and the names of those that were trained on another. An
    /// evaluation counts if it is of the weights that stand.
    fn runs(&self) -> Result<(Vec<report::Run>, Vec<String>)> {
        let dataset = self.content(Stage::Dataset)?;
        let (mut runs, mut others) = (Vec::new(), Vec::new());
        for folder in self.run_folders(Stage::Train)? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(record) = Record::read(&folder)? else { continue };
            if record.key.inputs.get(Stage::Dataset.name()) != Some(&dataset) {
                others.push(name);
                continue;
            }
            let evaluate = self.artifacts.join(Stage::Evaluate.name()).join(&name);
            let inputs = Record::read(&evaluate)?.map(|record| record.key.inputs).unwrap_or_default();
            let is_of_these = inputs.get(Stage::Dataset.name()) == Some(&dataset)
                && inputs.get(&format!("{}/{name}", Stage::Train)) == Some(&record.content);
            runs.push(report::Run { name, train: folder, evaluate: is_of_these.then_some(evaluate) });
        }
        Ok((runs, others))
    }
}
