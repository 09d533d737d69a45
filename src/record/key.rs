//! Keys: everything that a stage's output depends on, and a description of the differences between two keys.
//!
//! A key never contains source text, nor anything that cannot change the output, such as mirrors.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;

/// Everything that an output depends on. A stage is fresh only while its key equals the key in its record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// The version of the stage.
    pub version: u32,
    /// The settings that can change the output, by section.
    pub settings: Value,
    /// The content digests of the inputs, by name.
    pub inputs: BTreeMap<String, Digest>,
}

impl Key {
    /// The digest of the whole key.
    pub fn digest(&self) -> Digest {
        Digest::of_json(&serde_json::json!(self))
    }

    /// The settings in which this key differs from the key `old`.
    pub fn changes_since(&self, old: &Key) -> Vec<Change> {
        let mut changes = Vec::new();
        differences(Some(&old.settings), Some(&self.settings), "", &mut changes);
        changes
    }

    /// The reasons why an output with the key `old` does not fit this key: each setting that differs (old
    /// -> new), and each input.
    pub fn reasons_against(&self, old: &Key) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.version != old.version {
            reasons.push(format!("the stage's version: {} -> {}", old.version, self.version));
        }
        reasons.extend(self.changes_since(old).iter().map(Change::to_string));
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

/// A setting that differs between two keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The dotted path of the setting.
    pub path: String,
    /// The value in the old key; `None` if it is the default, which a key need not have.
    pub old: Option<Value>,
    /// The value in the new key; `None` likewise.
    pub new: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| value.as_ref().map_or_else(|| "the default".to_owned(), Value::to_string);
        write!(f, "{}: {} -> {}", self.path, text(&self.old), text(&self.new))
    }
}

/// Adds the leaves in which two trees differ to `out`. A setting that a key does not have is at its default.
fn differences(old: Option<&Value>, new: Option<&Value>, path: &str, out: &mut Vec<Change>) {
    match (old, new) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let added = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(added) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differences(a.get(key), b.get(key), &path, out);
            }
        }
        _ if old != new => out.push(Change { path: path.to_owned(), old: old.cloned(), new: new.cloned() }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(seed: u64, ratio: [u8; 3]) -> Key {
        let settings = json!({"plan": {"seed": seed, "split": {"ratio": ratio}}});
        Key { version: 1, settings, inputs: BTreeMap::new() }
    }

    #[test]
    fn a_changed_parameter_is_named_with_both_values() {
        let (old, new) = (key(123, [64, 16, 20]), key(7, [1, 1, 1]));
        let reasons = new.reasons_against(&old);
        assert_eq!(reasons, ["plan.seed: 123 -> 7", "plan.split.ratio: [64,16,20] -> [1,1,1]"]);
        assert!(old.reasons_against(&old).is_empty());
    }

    #[test]
    fn a_setting_that_a_key_does_not_have_is_at_its_default() {
        let [old, new] = [json!({"augment": {"seed": 0}}), json!({"augment": {"seed": 0, "by": "slot"}})];
        let [old, new] = [old, new].map(|settings| Key { settings, ..key(0, [0; 3]) });
        assert_eq!(new.reasons_against(&old), [r#"augment.by: the default -> "slot""#]);
    }

    #[test]
    fn a_changed_input_is_named_with_both_digests() {
        let mut old = key(123, [64, 16, 20]);
        let mut new = old.clone();
        old.inputs.insert("raw".into(), Digest::of(b"a"));
        new.inputs.insert("raw".into(), Digest::of(b"b"));
        assert_eq!(new.reasons_against(&old), ["input raw: 17762fddd969 -> 10e5cf3d3c8a"]);
    }
}
