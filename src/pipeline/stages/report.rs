//! The stage `report`: the page about the data set and about every existing run, whichever run is configured.

use std::path::Path;

use serde_json::{Value, json};

use crate::augment;
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::pipeline::definition::{Definition, Done, Input};
use crate::pipeline::{Outcome, Pipeline, Request, Stage, key};
use crate::progress::Progress;
use crate::record::{Key, Record};
use crate::report;
use crate::runs::patterns::fits;
use crate::runs::{self, Run, Runs};

/// The definition of the stage.
pub struct Report;

impl Definition for Report {
    fn stage(&self) -> Stage {
        Stage::Report
    }

    fn name(&self) -> &'static str {
        "report"
    }

    fn version(&self) -> u32 {
        7
    }

    fn inputs(&self, _: &Config) -> &'static [Input] {
        &[Input::Keyed(Stage::Dataset), Input::Shown(Stage::Train), Input::Shown(Stage::Evaluate)]
    }

    /// The content of every existing run, whether trained, evaluated or unfinished.
    fn other_inputs(&self, pipeline: &Pipeline) -> Result<Vec<(String, Digest)>> {
        let mut contents = Vec::new();
        for (place, _) in Runs::new(&pipeline.artifacts).places()? {
            if place.settings.is_none() {
                contents.push((Stage::Train.label(&place.folder), content_of_unfinished(&place.folder)?));
            }
        }
        for stage in [Stage::Train, Stage::Evaluate] {
            for folder in runs::recorded(&pipeline.home(stage))? {
                match Record::read(&folder) {
                    Ok(Some(record)) => contents.push((stage.label(&folder), record.content)),
                    Err(error) if error.is_of_system() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(contents)
    }

    fn settings(&self, config: &Config) -> Vec<(String, Value)> {
        // the page shows the effect of the settings of `augment` on a few images
        let augment = augment::pixel_settings(&config.augment);
        vec![("augment".to_owned(), Value::Object(augment)), key::section(config, "report", &[])]
    }

    fn is_characteristic(&self, path: &str) -> bool {
        path == report::FILE
    }

    fn run(&self, pipeline: &Pipeline, _: &Key, out: &Path, progress: &Progress) -> Result<Done> {
        pipeline.check_outputs(Stage::Dataset, |_| true)?;
        let dataset = pipeline.content(Stage::Dataset)?;
        let (mut runs, mut others) = (Vec::new(), Vec::new());
        for (place, data) in Runs::new(&pipeline.artifacts).places()? {
            let run = Run::read(&place)?;
            run.problems.iter().for_each(|problem| progress.warn(&format!("run {}: {problem}", run.name)));
            match data.is_none_or(|data| data == dataset) {
                true => runs.push(run),
                false => others.push(run.name),
            }
        }
        let chosen = &pipeline.config.report.runs;
        if let Some(unknown) = chosen.iter().find(|pattern| !runs.iter().any(|run| fits(pattern, &run.name))) {
            return Err(no_such_run(unknown, &runs, &others));
        }
        let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|pattern| fits(pattern, name));
        runs.retain(|run| is_chosen(&run.name));
        others.retain(|name| is_chosen(name));
        runs::sort(&mut runs);
        let digest = |stage: Stage| Some((stage.name(), pipeline.record(stage).ok()??.content));
        let content = report::Content {
            dataset: pipeline.folder(Stage::Dataset),
            augment: pipeline.config.augment.clone(),
            digests: Stage::pinned().filter_map(digest).collect(),
            runs,
            others,
        };
        report::run(&content, out)?;
        Ok(Done { content: None, rows: content.runs.len() as u64, facts: Value::Null })
    }

    fn amount(&self, record: &Record) -> String {
        format!("{} run{}", record.rows, if record.rows == 1 { "" } else { "s" })
    }
}

/// The error for a pattern that fits no run on the data set. `others` are the names of the runs on other data.
fn no_such_run(pattern: &str, runs: &[Run], others: &[String]) -> Error {
    let on_other_data = match others.iter().any(|name| fits(pattern, name)) {
        true => ", which fits only runs on another data set",
        false => "",
    };
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let expected = match names[..] {
        [] => "none, as there are no runs on this data set".to_owned(),
        _ => format!("the name of a run, or a pattern such as 'fcn*' that fits one of {}", names.join(", ")),
    };
    Error::value("report.runs", format!("{pattern:?}{on_other_data}"), expected)
}

/// The content of a run without a record: the digests of the files that the report reads. The weights, which change in
/// training, are not among them.
fn content_of_unfinished(folder: &Path) -> Result<Digest> {
    let mut files = files::entries(folder)?;
    files.retain(|file| file.extension().is_some_and(|e| e == "csv" || e == "json" || e == "yaml"));
    let digests = files.iter().map(|file| Digest::of_file(file)).collect::<Result<Vec<Digest>>>()?;
    Ok(Digest::of_json(&json!(digests)))
}

impl Pipeline {
    /// Brings the report up to date with the existing data set and runs. The data set is made if it does not exist, but
    /// no run is trained or evaluated.
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
}
