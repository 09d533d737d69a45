//! The stages and their order: the graph of the pipeline.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::definition::{Definition, Input};
use super::stages;
use crate::config::{Config, hints};
use crate::record::Record;

/// A stage of the pipeline, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The glyph files, fetched or drawn, and verified.
    Raw,
    /// The table of all images: their glyphs, and the places of these.
    Plan,
    /// The images, as shards.
    Dataset,
    /// Augmented epochs of the training images, as shards.
    Augment,
    /// A trained network.
    Train,
    /// The predictions of a trained network, and its metrics.
    Evaluate,
    /// The page about the data set and the runs.
    Report,
}

use Stage::{Augment, Dataset, Evaluate, Plan, Raw, Report, Train};

impl Stage {
    /// All stages, ordered so that each stage comes after its inputs.
    pub const ALL: [Stage; 7] = [Raw, Plan, Dataset, Augment, Train, Evaluate, Report];

    /// The definition of the stage.
    pub(super) fn definition(self) -> &'static dyn Definition {
        match self {
            Raw => &stages::raw::Raw,
            Plan => &stages::plan::Plan,
            Dataset => &stages::dataset::Dataset,
            Augment => &stages::augment::Augment,
            Train => &stages::train::Train,
            Evaluate => &stages::evaluate::Evaluate,
            Report => &stages::report::Report,
        }
    }

    /// The name of the stage: its section of the configuration, its folder, its word on the command
    /// line and its make target.
    pub fn name(self) -> &'static str {
        self.definition().name()
    }

    /// The stage that wrote a record. The key of a record holds the section of the stage itself and may hold sections
    /// of earlier stages, so the last stage with a section counts.
    pub fn of(record: &Record) -> Option<Stage> {
        Stage::ALL.into_iter().rev().find(|stage| record.key.settings.get(stage.name()).is_some())
    }

    /// The stages whose content `pipeline.lock` pins.
    pub fn pinned() -> impl Iterator<Item = Stage> {
        Stage::ALL.into_iter().filter(|stage| stage.definition().is_pinned())
    }

    /// The amount of a recorded output, in words, such as `60000 images`.
    pub fn amount(self, record: &Record) -> String {
        self.definition().amount(record)
    }

    /// The name of a folder of the stage in keys and in messages: the stage's name, followed by the run's name if the
    /// stage has a folder for each run.
    pub(super) fn label(self, folder: &Path) -> String {
        match self.definition().is_per_run() {
            true => format!("{self}/{}", folder.file_name().unwrap_or_default().to_string_lossy()),
            false => self.name().to_owned(),
        }
    }

    /// The stages whose output this stage reads under a configuration.
    pub fn inputs(self, config: &Config) -> impl Iterator<Item = Stage> + use<> {
        self.definition().inputs(config).iter().map(|input| input.stage())
    }

    /// The inputs that must be fresh before this stage runs.
    pub(super) fn needed(self, config: &Config) -> impl Iterator<Item = Stage> + use<> {
        let needed = self.definition().inputs(config).iter().filter(|input| !matches!(input, Input::Shown(_)));
        needed.map(|input| input.stage())
    }

    /// The inputs whose content is in this stage's key.
    pub(super) fn keyed(self, config: &Config) -> impl Iterator<Item = Stage> + use<> {
        let keyed = self.definition().inputs(config).iter().filter(|input| matches!(input, Input::Keyed(_)));
        keyed.map(|input| input.stage())
    }

    /// Whether this stage shows the existing outputs of another stage without needing any.
    pub(super) fn shows(self, other: Stage, config: &Config) -> bool {
        self.definition().inputs(config).contains(&Input::Shown(other))
    }

    /// Whether this stage reads runs. Such a stage can be asked to work on an existing run.
    pub(super) fn reads_runs(self, config: &Config) -> bool {
        self.inputs(config).any(|input| input.definition().is_per_run())
    }

    /// This stage and every stage that it needs, in order.
    pub fn with_upstream(self, config: &Config) -> Vec<Stage> {
        let needed = self.needed(config).flat_map(|input| input.with_upstream(config));
        let mut all: Vec<Stage> = needed.chain([self]).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Whether this stage reads the output of another one, directly or indirectly.
    pub fn is_below(self, other: Stage, config: &Config) -> bool {
        self.inputs(config).any(|input| input == other || input.is_below(other, config))
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(name: &str) -> Result<Stage, String> {
        let names = Stage::ALL.map(Stage::name);
        Stage::ALL.into_iter().find(|stage| stage.name() == name).ok_or_else(|| {
            let meant = hints::nearest(name, names.into_iter()).map(|name| format!("; did you mean {name}?"));
            format!("expected one of {}{}", names.join(", "), meant.unwrap_or_default())
        })
    }
}

/// The graph as a Mermaid diagram, for Markdown.
pub fn mermaid(config: &Config) -> String {
    let edges = Stage::ALL
        .into_iter()
        .flat_map(|stage| stage.inputs(config).map(move |input| format!("    {input} --> {stage}\n")));
    format!("graph LR\n{}", edges.collect::<String>())
}

/// The graph as text: one line for each stage, with its inputs.
pub fn text(config: &Config) -> String {
    let line = |stage: Stage| {
        let inputs: Vec<&str> = stage.inputs(config).map(Stage::name).collect();
        if inputs.is_empty() { format!("{stage}\n") } else { format!("{stage:9} <- {}\n", inputs.join(", ")) }
    };
    Stage::ALL.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_comes_after_its_inputs() {
        for stage in Stage::ALL {
            assert!(stage.inputs(&Config::default()).all(|input| input < stage));
            assert_eq!(stage.definition().stage(), stage);
            assert_eq!(stage.name().parse(), Ok(stage));
            assert_eq!(serde_json::json!(stage), stage.name(), "`pipeline.lock` has the same names");
        }
    }

    #[test]
    fn upstream_is_everything_that_is_needed() {
        assert_eq!(Augment.with_upstream(&Config::default()), [Raw, Plan, Dataset, Augment]);
        let mut config = Config::default();
        assert_eq!(Evaluate.with_upstream(&config), [Raw, Plan, Dataset, Augment, Train, Evaluate]);
        assert_eq!(Report.with_upstream(&config), [Raw, Plan, Dataset, Report], "runs are shown as they stand");
        assert!(
            Report.is_below(Train, &config) && !Dataset.is_below(Train, &config) && Train.is_below(Augment, &config)
        );
        config.train.augment = false;
        assert!(!Train.is_below(Augment, &config));
    }

    #[test]
    fn a_record_tells_which_stage_left_it() {
        let mut key = crate::record::Key::default();
        for stage in Stage::ALL {
            key.settings = super::super::key::settings(stage, &Config::default());
            let content = crate::digest::Digest::of(b"");
            let (outputs, facts) = (Vec::new(), serde_json::Value::Null);
            let mut record = Record { key: key.clone(), content, outputs, rows: 0, facts, seconds: 0.0, finished: 0 };
            assert_eq!(Stage::of(&record), Some(stage));
            record.key.settings = serde_json::Value::Null;
            assert_eq!(Stage::of(&record), None);
        }
    }
}
