//! Calling the stages: what each one is given, and what is kept of its answer.

use std::cell::RefCell;
use std::path::Path;

use serde_json::{Value, json};

use super::key::Key;
use super::{Pipeline, Stage, is_shard_of, record, training};
use crate::augment::Augmenter;
use crate::augment::apply::Scratch;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::evaluate::Metrics;
use crate::files;
use crate::progress::Progress;
use crate::runs::{self, Run, card};
use crate::shards::{DATA, Shards, Split, read_split};
use crate::train::{Drawn, Draws, Pixels};
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
    pub(super) fn work(&self, stage: Stage, key: &Key, out: &Path, progress: &Progress) -> Result<Done> {
        match stage {
            Stage::Raw => self.raw_work(progress),
            Stage::Plan => self.plan_work(out, progress),
            Stage::Dataset => self.dataset_work(out, progress),
            Stage::Augment => self.augment_work(out, progress),
            Stage::Train => self.train_work(key, out, progress),
            Stage::Evaluate => self.evaluate_work(out, progress),
            Stage::Report => self.report_work(out, progress),
        }
    }

    /// Reads what a stage left, the files that `wanted` picks, and compares it with its record before another stage computes
    /// with it.
    ///
    /// # Errors
    /// [`Error::Format`]
    pub(super) fn check_input(&self, input: Stage, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let Some(record) = self.record(input)? else { return Ok(()) };
        let base = self.base(input, &self.folder(input), &self.config.raw)?;
        if input == Stage::Raw {
            // of several files of one name, packed and plain, another may be read than the recorded one
            for path in raw::locate(&self.config.raw, &self.raw)?.paths {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if record.digest_of(&name).is_none() {
                    let expected =
                        "the file that was recorded; run `multidigit run raw --force`, or move this file away";
                    return Err(Error::format(&path, "a file that is not recorded", expected));
                }
            }
        }
        record.check(&base, &make_again(input), wanted)
    }

    fn raw_work(&self, progress: &Progress) -> Result<Done> {
        let output = raw::run(&self.config.raw, &self.raw, progress)?;
        let facts = json!({"glyphs": self.config.raw.source.name()});
        let rows = output.glyphs.len() as u64;
        self.glyphs.replace(Some(output.glyphs));
        Ok(Done { content: Some(output.digest), rows, facts })
    }

    fn plan_work(&self, out: &Path, progress: &Progress) -> Result<Done> {
        self.check_input(Stage::Raw, |path| path.contains("labels"))?;
        let labels = raw::Glyphs::read_labels(&raw::locate(&self.config.raw, &self.raw)?)?;
        let digest = self.content(Stage::Raw)?;
        let glyphs = plan::GlyphSet { name: self.config.raw.source.name(), digest, count: labels.len() };
        let (facts, content) = plan::run(&self.config.plan, glyphs, &labels, out, progress)?;
        let rows = facts.counts.as_array().into_iter().sum();
        Ok(Done { content: Some(content), rows, facts: json!(facts) })
    }

    fn dataset_work(&self, out: &Path, progress: &Progress) -> Result<Done> {
        self.check_input(Stage::Plan, |_| true)?;
        let plan = self.folder(Stage::Plan).join(plan::FILE);
        // In hand if `raw` ran in this process; nobody needs them after this stage.
        let glyphs = match self.glyphs.take() {
            Some(glyphs) => glyphs,
            None => {
                self.check_input(Stage::Raw, |_| true)?;
                raw::Glyphs::read(&raw::locate(&self.config.raw, &self.raw)?)?
            }
        };
        let content = dataset::run(&self.config.dataset, &plan, &glyphs, out, progress)?;
        Ok(Done { content: Some(content), rows: self.config.plan.counts().iter().sum(), facts: Value::Null })
    }

    fn augment_work(&self, out: &Path, progress: &Progress) -> Result<Done> {
        self.check_input(Stage::Dataset, |path| is_shard_of(path, "train"))?;
        let dataset = self.folder(Stage::Dataset);
        let content = augment::run(&self.config.augment, &dataset, out, progress)?;
        let rows = self.config.plan.counts()[0] * self.config.augment.epochs as u64;
        Ok(Done { content: Some(content), rows, facts: Value::Null })
    }

    fn train_work(&self, key: &Key, out: &Path, progress: &Progress) -> Result<Done> {
        let config = &self.config.train;
        self.check_input(Stage::Dataset, |path| is_shard_of(path, "train") || is_shard_of(path, "val"))?;
        let data = self.folder(Stage::Dataset).join(DATA);
        let train = read_split(&data, "train", config.samples)?;
        let val = read_split(&data, "val", None)?;
        let (train, augment, stored) = (&train, &self.config.augment, self.folder(Stage::Augment));
        let epochs = self.record(Stage::Augment)?;
        let pixels = |epoch: usize| -> Result<Pixels<'_>> {
            if !config.augment {
                return Ok(Box::new(|row, out| out.copy_from_slice(train.image(row))));
            }
            if epoch < augment.epochs {
                let name = augment::epoch_folder(epoch);
                if let Some(epochs) = &epochs {
                    epochs.check(&stored, &make_again(Stage::Augment), |path| path.starts_with(&format!("{name}/")))?;
                }
                let folder = stored.join(name).join(DATA);
                let epoch = read_split(&folder, "train", config.samples)?;
                return Ok(Box::new(move |row, out| out.copy_from_slice(epoch.image(row))));
            }
            let augmenter = Augmenter::new(augment, epoch);
            let scratch = RefCell::new(Scratch::default());
            Ok(Box::new(move |row, out| {
                let size = (train.height, train.width);
                augmenter.apply(train.sample(row), train.image(row), size, out, &mut scratch.borrow_mut());
            }))
        };
        let draws = |epoch: usize| -> Draws<'_> {
            let augmenter = Augmenter::new(augment, epoch);
            Box::new(move |row| {
                let size = (train.height, train.width);
                let params = augmenter.params(train.sample(row), size);
                Drawn { steps: augmenter.steps(&params, size), erase: params.erase }
            })
        };
        let digest = self.content(Stage::Dataset)?;
        let data = train::Data { digest, train, val: &val, pixels: &pixels, draws: &draws };
        let summary = train::run(config, &data, training::identity(key), out, progress)?;
        // equal weights are equal runs, however long they took
        let weights = [evaluate::Weights::Best, evaluate::Weights::Last]
            .map(|weights| Digest::of_file(&out.join(train::WEIGHTS).join(weights.file())));
        let content = Digest::of_json(&json!(weights.into_iter().collect::<Result<Vec<_>>>()?));
        Ok(Done { content: Some(content), rows: summary.epochs.len() as u64, facts: json!(summary) })
    }

    fn evaluate_work(&self, out: &Path, progress: &Progress) -> Result<Done> {
        let config = &self.config.evaluate;
        let data = self.folder(Stage::Dataset).join(DATA);
        let file = Path::new(train::WEIGHTS).join(config.weights.file());
        let weights = self.folder(Stage::Train).join(&file);
        let recorded = self.record(Stage::Train)?.and_then(|record| record.digest_of(&record::name(&file)));
        if config.data.is_none() {
            self.check_input(Stage::Dataset, |path| path.starts_with(DATA))?;
        }
        let splits = evaluate::read(config, &weights, recorded, &data)?;
        // an hour of training may lie between the first look at other data and their use
        self.check_foreign()?;
        let named: Vec<(&str, &Split)> = splits.iter().map(|(name, split)| (name.as_str(), split)).collect();
        let metrics = evaluate::run(config, &weights, recorded, &named, out, progress)?;
        let rows = metrics.splits.iter().map(|split| split.samples as u64).sum();
        if config.data.is_none() {
            self.card(&metrics, out)?;
        }
        // what was measured, and not the card, which says how long training took
        let content = [evaluate::FILE, evaluate::PREDICTIONS].map(|name| Digest::of_file(&out.join(name)));
        let content = Digest::of_json(&json!(content.into_iter().collect::<Result<Vec<_>>>()?));
        Ok(Done { content: Some(content), rows, facts: Value::Null })
    }

    /// The model card of the run that was just evaluated on the data set.
    fn card(&self, metrics: &Metrics, out: &Path) -> Result<()> {
        let train = self.folder(Stage::Train);
        let shards = Shards::open(&self.folder(Stage::Dataset).join(DATA), "train")?;
        let facts = plan::table::facts(shards.first())?;
        let mut run = Run::read(&self.place(&train)?.0)?;
        run.metrics = Some(metrics.clone());
        files::write(&out.join(card::FILE), card::card(&run, metrics, &facts).as_bytes())
    }

    fn report_work(&self, out: &Path, progress: &Progress) -> Result<Done> {
        self.check_input(Stage::Dataset, |_| true)?;
        let dataset = self.content(Stage::Dataset)?;
        let (mut runs, mut others) = (Vec::new(), Vec::new());
        for (place, data) in self.places()? {
            let run = Run::read(&place)?;
            run.problems.iter().for_each(|problem| progress.warn(&format!("run {}: {problem}", run.name)));
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
}

/// What to do about a file of a stage that is not as it was recorded.
fn make_again(stage: Stage) -> String {
    format!("restore the file from a copy, or make it again with `multidigit run {stage} --force`")
}
