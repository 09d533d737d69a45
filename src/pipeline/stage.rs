//! The stages, their order, and what each one reads: the graph of the pipeline.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// A stage of the pipeline, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Raw,
    Plan,
    Dataset,
    Augment,
    Train,
    Evaluate,
    Report,
}

use Stage::{Augment, Dataset, Evaluate, Plan, Raw, Report, Train};

impl Stage {
    /// All stages, in an order in which each finds its inputs done.
    pub const ALL: [Stage; 7] = [Raw, Plan, Dataset, Augment, Train, Evaluate, Report];

    /// The stages whose content `pipeline.lock` pins.
    pub const PINNED: [Stage; 4] = [Raw, Plan, Dataset, Augment];

    /// The stage's one name: section, folder, command and make target.
    pub fn name(self) -> &'static str {
        match self {
            Raw => "raw",
            Plan => "plan",
            Dataset => "dataset",
            Augment => "augment",
            Train => "train",
            Evaluate => "evaluate",
            Report => "report",
        }
    }

    /// The stages whose output this one reads under a configuration.
    pub fn inputs(self, config: &Config) -> &'static [Stage] {
        match self {
            Raw => &[],
            Plan => &[Raw],
            Dataset => &[Raw, Plan],
            Augment => &[Dataset],
            Train if !config.train.augment => &[Dataset],
            Train => &[Dataset, Augment],
            Evaluate if config.evaluate.data.is_some() => &[Train],
            Evaluate => &[Dataset, Train],
            Report => &[Dataset, Train, Evaluate],
        }
    }

    /// The stage's version: raised when the same inputs and settings give another output.
    pub fn version(self) -> u32 {
        match self {
            Augment | Train | Evaluate => 2,
            Report => 3,
            _ => 1,
        }
    }

    /// Whether this stage shows what stands of another, without needing any of it: the report does, of runs.
    pub fn shows(self, input: Stage) -> bool {
        self == Report && matches!(input, Train | Evaluate)
    }

    /// The stage and everything that it needs, in order.
    pub fn with_upstream(self, config: &Config) -> Vec<Stage> {
        let needed = self.inputs(config).iter().filter(|&&input| !self.shows(input));
        let mut all: Vec<Stage> = needed.flat_map(|input| input.with_upstream(config)).chain([self]).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Whether this stage reads another's output, directly or not.
    pub fn is_below(self, other: Stage, config: &Config) -> bool {
        self.inputs(config).iter().any(|&input| input == other || input.is_below(other, config))
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
        let names = Stage::ALL.map(Stage::name).join(", ");
        Stage::ALL.into_iter().find(|stage| stage.name() == name).ok_or_else(|| format!("expected one of {names}"))
    }
}

/// The graph as Mermaid, for Markdown.
pub fn mermaid(config: &Config) -> String {
    let edges = Stage::ALL
        .into_iter()
        .flat_map(|stage| stage.inputs(config).iter().map(move |input| format!("    {input} --> {stage}\n")));
    format!("graph LR\n{}", edges.collect::<String>())
}

/// The graph as text: every stage with its inputs.
pub fn text(config: &Config) -> String {
    Stage::ALL
        .into_iter()
        .map(|stage| match stage.inputs(config) {
            [] => format!("{stage}\n"),
            inputs => {
                format!("{stage:9} <- {}\n", inputs.iter().map(|input| input.name()).collect::<Vec<_>>().join(", "))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_comes_after_its_inputs() {
        for stage in Stage::ALL {
            assert!(stage.inputs(&Config::default()).iter().all(|&input| input < stage));
            assert_eq!(stage.name().parse(), Ok(stage));
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
}
