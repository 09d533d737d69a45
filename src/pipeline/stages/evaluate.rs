//! The stage `evaluate`: the predictions of a trained network on the val and test splits of the
//! data set, or on other data.
//!
//! Each run has one folder, and one more for each evaluation on other data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::train::{require_same_settings, run_name};
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::evaluate::{self, Metrics};
use crate::files;
use crate::pipeline::PipelineError;
use crate::pipeline::definition::{Definition, Done, Input};
use crate::pipeline::{Pipeline, Stage, key};
use crate::plan;
use crate::progress::Progress;
use crate::record::{self, Key, Record};
use crate::runs::{Run, Runs, card};
use crate::shards::{DATA, Shards, Split, foreign};
use crate::train::{self, WEIGHTS};
use multidigit_nn::Precision;

/// The definition of the stage.
pub struct Evaluate;

/// The maximum number of characters that the name of other data contributes to the name of an evaluation.
const MOST_OF_DATA: usize = 60;

/// The files whose digests are the content. The model card is not among them, since it says how long training took.
const MEASURED: [&str; 2] = [evaluate::FILE, evaluate::PREDICTIONS];

impl Definition for Evaluate {
    fn stage(&self) -> Stage {
        Stage::Evaluate
    }

    fn name(&self) -> &'static str {
        "evaluate"
    }

    fn version(&self) -> u32 {
        2
    }

    fn settings(&self, config: &Config) -> Vec<(String, Value)> {
        // the precision did not exist when the stage got its version
        let without: &[&str] = if config.evaluate.precision == Precision::F32 { &["precision"] } else { &[] };
        vec![key::section(config, self.name(), without)]
    }

    fn check_config(&self, config: &Config) -> Result<()> {
        let evaluate = &config.evaluate;
        train::check_precision("evaluate.precision", evaluate.device, evaluate.precision)
    }

    fn inputs(&self, config: &Config) -> &'static [Input] {
        match config.evaluate.data {
            None => &[Input::Keyed(Stage::Dataset), Input::Keyed(Stage::Train)],
            Some(_) => &[Input::Keyed(Stage::Train)],
        }
    }

    fn other_inputs(&self, pipeline: &Pipeline) -> Result<Vec<(String, Digest)>> {
        other_data(pipeline).cloned()
    }

    fn is_per_run(&self) -> bool {
        true
    }

    fn folder(&self, pipeline: &Pipeline) -> PathBuf {
        let run = run_name(&pipeline.config);
        let name = match pipeline.config.evaluate.data_name() {
            None => run,
            Some(data) => {
                // if the data cannot be read, the evaluation fails later and says why
                let digests = |files: &Vec<(String, Digest)>| files.iter().map(|file| file.1).collect::<Vec<_>>();
                let content = other_data(pipeline).ok().map(|files| Digest::of_json(&json!(digests(files))));
                name_on_other_data(&run, &data, content)
            }
        };
        pipeline.home(Stage::Evaluate).join(name)
    }

    fn is_characteristic(&self, path: &str) -> bool {
        path == evaluate::FILE
    }

    fn check_standing(&self, pipeline: &Pipeline, standing: &BTreeMap<Stage, Option<Record>>) -> Result<()> {
        let Some(run) = standing.get(&Stage::Train) else { return Ok(()) };
        let name = run_name(&pipeline.config);
        let Some(run) = run else { return Err(Runs::new(&pipeline.artifacts).missing(&name)?) };
        require_same_settings(pipeline, run)?;
        let trained_on = run.key.inputs.get(Stage::Dataset.name());
        if let (None, Some(dataset)) = (&pipeline.config.evaluate.data, standing.get(&Stage::Dataset)) {
            let found = dataset.as_ref().map(|record| record.content);
            if found.as_ref() != trained_on {
                return Err(Error::from(PipelineError::OtherDataset {
                    folder: pipeline.folder(Stage::Dataset),
                    run: name,
                    found: found.map_or("no data set".to_owned(), |digest| format!("content {}", digest.short())),
                    expected: trained_on.map_or("none".to_owned(), Digest::short),
                }));
            }
        }
        Ok(())
    }

    fn run(&self, pipeline: &Pipeline, _: &Key, out: &Path, progress: &Progress) -> Result<Done> {
        let config = &pipeline.config.evaluate;
        let data = pipeline.folder(Stage::Dataset).join(DATA);
        let file = Path::new(WEIGHTS).join(config.weights.file());
        let weights = pipeline.folder(Stage::Train).join(&file);
        let recorded = pipeline.record(Stage::Train)?.and_then(|record| record.digest_of(&record::name(&file)));
        if config.data.is_none() {
            pipeline.check_outputs(Stage::Dataset, |path| path.starts_with(DATA))?;
        }
        let splits = evaluate::read(config, &weights, recorded, &data)?;
        // an hour of training may pass between the first reading of other data and their use
        check_other_data(pipeline)?;
        let named: Vec<(&str, &Split)> = splits.iter().map(|(name, split)| (name.as_str(), split)).collect();
        let metrics = evaluate::run(config, &weights, recorded, &named, out, progress)?;
        let rows = metrics.splits.iter().map(|split| split.samples as u64).sum();
        if config.data.is_none() {
            write_card(pipeline, &metrics, out)?;
        }
        let content = MEASURED.map(|name| Digest::of_file(&out.join(name)));
        let content = Digest::of_json(&json!(content.into_iter().collect::<Result<Vec<_>>>()?));
        Ok(Done { content: Some(content), rows, facts: Value::Null })
    }

    fn amount(&self, record: &Record) -> String {
        format!("{} predictions", record.rows)
    }

    fn recompute(&self, _: &Pipeline, record: &Record, _: &Progress) -> Result<Option<Digest>> {
        // the content of evaluations by older versions is the digest of all their files
        let all = record::content_of(&record.outputs);
        Ok(if all == record.content { Some(all) } else { record.digest_of_all(&MEASURED) })
    }
}

/// The names and digests of the files that are evaluated instead of the data set, in order.
fn other_data(pipeline: &Pipeline) -> Result<&Vec<(String, Digest)>> {
    if let Some(contents) = pipeline.memory.other_data.get() {
        return Ok(contents);
    }
    let splits = foreign::splits(pipeline.config.evaluate.others().unwrap_or_default())?;
    let files = splits.into_iter().flat_map(|(_, files)| files);
    let named = files.map(|path| Ok((format!("data/{}", path.display()), Digest::of_file(&path)?)));
    let contents = named.collect::<Result<Vec<_>>>()?;
    Ok(pipeline.memory.other_data.get_or_init(|| contents))
}

/// Returns an error if a file to evaluate on has changed since its digest was computed.
fn check_other_data(pipeline: &Pipeline) -> Result<()> {
    for (name, digest) in pipeline.memory.other_data.get().into_iter().flatten() {
        let path = Path::new(name.strip_prefix("data/").unwrap_or(name));
        if Digest::of_file(path)? != *digest {
            let expected = "the file as it was when the command began; run the command again";
            return Err(Error::format(path, "a file that changed meanwhile", expected));
        }
    }
    Ok(())
}

/// The name of an evaluation of a run on other data: the names of the run and of the data, and a
/// digest of the data's content.
fn name_on_other_data(run: &str, data: &str, content: Option<Digest>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let data: String = data.chars().map(plain).take(MOST_OF_DATA).collect();
    let content = content.map(|digest| format!("-{:.8}", digest.short())).unwrap_or_default();
    format!("{run}@{data}{content}")
}

/// Writes the model card of a run after its evaluation on the data set.
fn write_card(pipeline: &Pipeline, metrics: &Metrics, out: &Path) -> Result<()> {
    let shards = Shards::open(&pipeline.folder(Stage::Dataset).join(DATA), "train")?;
    let facts = plan::table::facts(shards.first())?;
    let (place, _) = Runs::new(&pipeline.artifacts).place(&pipeline.folder(Stage::Train))?;
    let mut run = Run::read(&place)?;
    run.metrics = Some(metrics.clone());
    files::write(&out.join(card::FILE), card::card(&run, metrics, &facts).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evaluation_on_other_data_is_named_after_what_they_are() {
        let digest = Digest::of(b"abc");
        assert_eq!(name_on_other_data("run", "b c?", Some(digest)), "run@b_c_-6437b3ac");
        assert_eq!(name_on_other_data("run", "test", None), "run@test");
        assert_eq!(name_on_other_data("run", &"x".repeat(300), None).len(), 4 + MOST_OF_DATA);
    }
}
