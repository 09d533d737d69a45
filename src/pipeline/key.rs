//! Keys: what a stage's output depends on, and in which words two keys differ.
//!
//! A key holds the settings that matter, the stage's version, and the content digests of its inputs. Source text is never
//! part of it, nor is anything that cannot change the output (mirrors, say).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::stage::Stage;
use crate::config::Config;
use crate::digest::Digest;

/// What an output depends on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// The stage's version.
    pub version: u32,
    /// The settings that matter, by section.
    pub settings: Value,
    /// Content digests of the inputs, by name.
    pub inputs: BTreeMap<String, Digest>,
}

/// Settings of `train` that change no weight.
const UNKEYED: [&str; 2] = ["run", "checkpoint_every_steps"];

/// The settings on which a stage's output depends, by section.
pub fn settings(stage: Stage, config: &Config) -> Value {
    let all = serde_json::json!(config);
    let section = |name: &str, without: &[&str]| {
        let mut section = all.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        without.iter().for_each(|key| {
            section.shift_remove(*key);
        });
        (name.to_owned(), Value::Object(section))
    };
    let sections = match stage {
        Stage::Raw => vec![section("raw", &["mirrors"])],
        // The name of the glyphs travels with the plan: the same content from elsewhere is named anew.
        Stage::Plan => vec![section("plan", &[]), ("glyphs".to_owned(), config.raw.source.name().into())],
        // Epochs beyond those that stand as shards are augmented in flight, by the settings of `augment`.
        Stage::Train if config.train.augment => vec![section("augment", &["epochs"]), section("train", &UNKEYED)],
        Stage::Train => vec![section("train", &UNKEYED)],
        // The page shows what the settings of `augment` do to a few images.
        Stage::Report => vec![section("augment", &["epochs"]), section("report", &[])],
        other => vec![section(other.name(), &[])],
    };
    Value::Object(Map::from_iter(sections))
}

/// The digest of all settings and versions that a stage's output depends on, its own and upstream.
pub fn settings_digest(stage: Stage, config: &Config) -> Digest {
    let all = stage.with_upstream(config).into_iter().map(|stage| {
        (stage.name().to_owned(), serde_json::json!({"version": stage.version(), "settings": settings(stage, config)}))
    });
    Digest::of_json(&Value::Object(all.collect()))
}

impl Key {
    /// Why an output with the key `old` does not do for this one: which parameter (old -> new), which input.
    pub fn reasons_against(&self, old: &Key) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.version != old.version {
            reasons.push(format!("the stage's version: {} -> {}", old.version, self.version));
        }
        differences(&old.settings, &self.settings, "", &mut reasons);
        for (name, digest) in &self.inputs {
            match old.inputs.get(name) {
                Some(before) if before == digest => {}
                Some(before) => reasons.push(format!("input {name}: {} -> {}", before.short(), digest.short())),
                None => reasons.push(format!("input {name} is new")),
            }
        }
        for name in old.inputs.keys().filter(|name| !self.inputs.contains_key(*name)) {
            reasons.push(format!("input {name} is gone"));
        }
        reasons
    }
}

/// Lists the leaves in which two trees differ.
fn differences(old: &Value, new: &Value, path: &str, out: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let added = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(added) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let at = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                differences(&at(a), &at(b), &path, out);
            }
        }
        _ if old != new => out.push(format!("{path}: {old} -> {new}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(config: &Config) -> Key {
        Key { version: 1, settings: settings(Stage::Plan, config), inputs: BTreeMap::new() }
    }

    #[test]
    fn a_changed_parameter_is_named_with_both_values() {
        let (old, mut new) = (Config::default(), Config::default());
        new.plan.seed = 7;
        new.plan.split.ratio = [1, 1, 1];
        let reasons = key(&new).reasons_against(&key(&old));
        assert_eq!(reasons, ["plan.seed: 123 -> 7", "plan.split.ratio: [64,16,20] -> [1,1,1]"]);
        assert!(key(&old).reasons_against(&key(&old)).is_empty());
    }

    #[test]
    fn a_changed_input_is_named_with_both_digests() {
        let mut old = key(&Config::default());
        let mut new = old.clone();
        old.inputs.insert("raw".into(), Digest::of(b"a"));
        new.inputs.insert("raw".into(), Digest::of(b"b"));
        assert_eq!(new.reasons_against(&old), ["input raw: 17762fddd969 -> 10e5cf3d3c8a"]);
    }

    #[test]
    fn settings_that_change_no_output_are_in_no_key() {
        let (old, mut new) = (Config::default(), Config::default());
        new.raw.mirrors.clear();
        new.train.run = Some("other".into());
        new.train.checkpoint_every_steps = None;
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
