//! The keys of stages: their settings, their versions and the content of their inputs.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Pipeline, Stage};
use crate::config::Config;
use crate::digest::Digest;
use crate::error::Result;
use crate::record::{Key, Record};

/// A section of a configuration: its name, and its settings except those in `without`.
pub fn section(config: &Config, name: &str, without: &[&str]) -> (String, Value) {
    let mut section = json!(config).get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    section.retain(|setting, _| !without.contains(&setting.as_str()));
    (name.to_owned(), Value::Object(section))
}

/// The settings on which a stage's output depends, by section.
pub fn settings(stage: Stage, config: &Config) -> Value {
    Value::Object(Map::from_iter(stage.definition().settings(config)))
}

/// The digest of the settings and versions that a stage's output depends on: those of the stage
/// and of all stages upstream.
pub fn settings_digest(stage: Stage, config: &Config) -> Digest {
    let all = stage.with_upstream(config).into_iter().map(|stage| {
        let version = stage.definition().version();
        (stage.name().to_owned(), json!({"version": version, "settings": settings(stage, config)}))
    });
    Digest::of_json(&Value::Object(all.collect()))
}

impl Pipeline {
    /// The key of a stage, computed from the existing records, and the inputs that have no record.
    pub(super) fn key(&self, stage: Stage) -> Result<(Key, Vec<Stage>)> {
        let mut inputs = BTreeMap::new();
        let mut missing = Vec::new();
        for input in stage.keyed(&self.config) {
            let folder = self.folder(input);
            match Record::read(&folder) {
                Ok(Some(record)) => drop(inputs.insert(input.label(&folder), record.content)),
                _ => missing.push(input),
            }
        }
        let definition = stage.definition();
        inputs.extend(definition.other_inputs(self)?);
        let settings = settings(stage, &self.config);
        Ok((Key { version: definition.version(), settings, inputs }, missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_change_no_output_are_in_no_key() {
        let (old, mut new) = (Config::default(), Config::default());
        new.raw.mirrors.clear();
        new.train.run = Some("other".into());
        new.train.checkpoint_every_steps = None;
        new.train.init = Some("the content is an input".into());
        for stage in Stage::ALL {
            assert_eq!(settings(stage, &old), settings(stage, &new));
        }
    }

    #[test]
    fn a_digest_of_settings_covers_everything_upstream() {
        let (old, mut new) = (Config::default(), Config::default());
        new.plan.seed = 7;
        let differs = |stage| settings_digest(stage, &old) != settings_digest(stage, &new);
        assert!(!differs(Stage::Raw) && differs(Stage::Plan) && differs(Stage::Dataset) && differs(Stage::Augment));
    }
}
