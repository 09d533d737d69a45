//! `pipeline.yaml` as one typed value: a section for each stage, overrides from the command line, and validation.
//!
//! The defaults and their documentation are with the stages. This module turns a file and `--set` into a [`Config`],
//! and writes a [`Config`] with its documentation.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use textwrap::{WordSeparator, WordSplitter};

use crate::error::{Error, Result, reason, shown};
use crate::files;
use crate::guard::guarded;
use crate::{augment, dataset, evaluate, plan, raw, report, train};

pub mod hints;

/// The configuration file that is used if it exists and no other file is named.
pub const FILE: &str = "pipeline.yaml";

/// The settings of all stages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the glyphs come from.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "raw::Config")]
    pub raw: raw::Config,
    /// What is composed, and how it is split: all randomness of the data set.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "plan::Config")]
    pub plan: plan::Config,
    /// How the shards are stored; none of it changes a pixel.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "dataset::Config")]
    pub dataset: dataset::Config,
    /// Augmentation of the training split: the paper's recipe. An operator that is null is off.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "augment::Config")]
    pub augment: augment::Config,
    /// Training of one network.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "train::Config")]
    pub train: train::Config,
    /// Evaluation of a trained network.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "evaluate::Config")]
    pub evaluate: evaluate::Config,
    /// The report: one page about the data set and the runs.
    #[serde(deserialize_with = "or_default")]
    #[schemars(with = "report::Config")]
    pub report: report::Config,
}

/// Deserializes a section. An empty section has the default values.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Config {
    /// Reads a configuration file; without a path, the defaults. The values are not validated, since a file may hold
    /// values that do not work here, such as a device that this program was not built for.
    pub fn read(path: Option<&Path>) -> Result<Config> {
        match path {
            Some(path) => Config::parse(&text_of(path)?, &path.display().to_string()),
            None => Ok(Config::default()),
        }
    }

    /// Reads YAML text. `origin` is its name in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Config> {
        let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if text.lines().all(is_blank) {
            return Ok(Config::default());
        }
        let read: Result<Option<Config>, _> = guarded(Path::new(origin), || serde_saphyr::from_str(text))?;
        read.map(Option::unwrap_or_default).map_err(|error| {
            let error = error.without_snippet();
            let origin = match error.location() {
                Some(place) => format!("{origin}:{}", place.line()),
                None => origin.to_owned(),
            };
            match error {
                serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
                    unknown(origin, field, expected.iter().map(|&key| key.to_owned()))
                }
                serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
                    let message = format!("key `{}` stands there twice", key.as_deref().unwrap_or("?"));
                    Error::ConfigSyntax { origin, message }
                }
                serde_saphyr::Error::MultipleDocuments { .. } => {
                    Error::ConfigSyntax { origin, message: "more than one YAML document; expected one".into() }
                }
                other => Error::ConfigSyntax { origin, message: shown(&hints::plain(&other.to_string())) },
            }
        })
    }

    /// The configuration with overrides, in order: see [`Config::with`].
    pub fn with_all(self, overrides: &[String]) -> Result<Config> {
        overrides.iter().try_fold(self, |config, text| config.with(text))
    }

    /// The configuration with one override of the form `key.path=value`, whose value is YAML.
    pub fn with(&self, text: &str) -> Result<Config> {
        let origin = format!("--set {text}");
        let syntax = |message: String| Error::ConfigSyntax { origin: origin.clone(), message };
        let (path, value) = text.split_once('=').ok_or_else(|| syntax("expected key.path=value".into()))?;
        let value: Value = match value.trim() {
            "" => Value::Null,
            value => guarded(Path::new(&origin), || serde_saphyr::from_str(value))?
                .map_err(|error| syntax(format!("not a YAML value: {}", error.without_snippet())))?,
        };
        self.set(path.trim(), value, &origin)
    }

    /// The configuration with another value at a dotted path. `origin` says in errors where the value is from.
    ///
    /// # Errors
    /// A configuration error if the path does not exist, or the value has the wrong type.
    pub fn set(&self, path: &str, value: Value, origin: &str) -> Result<Config> {
        let (mut tree, default) = (json!(self), json!(Config::default()));
        *place(&mut tree, &default, path, origin)? = value;
        serde_json::from_value(tree).map_err(|error| {
            let usual = path.split('.').try_fold(&default, |value, key| value.get(key));
            let usual = usual
                .filter(|value| !value.is_object())
                .map_or_else(String::new, |value| format!("; the default is {}", scalar(value)));
            let message = format!("{}{usual}", hints::plain(&error.to_string()));
            Error::ConfigSyntax { origin: origin.to_owned(), message }
        })
    }

    /// Returns an error for values that cannot work, as far as that is known before any work.
    pub fn validate(&self) -> Result<()> {
        self.raw.validate()?;
        self.plan.validate()?;
        self.dataset.validate(&self.plan, self.augment.list_bytes(self.plan.digits))?;
        self.augment.validate()?;
        self.train.validate()?;
        if self.evaluate.weights == evaluate::Weights::Ema && self.train.ema.is_none() {
            let expected = "best or last, as the run has no average; `train.ema` makes one in training";
            return Err(Error::value("evaluate.weights", "ema", expected));
        }
        self.evaluate.validate()
    }

    /// The configuration as YAML, with the documentation of each key above it.
    pub fn document(&self) -> String {
        self.document_under(if *self == Config::default() { DEFAULTS } else { RESOLVED })
    }

    /// Like [`Config::document`], under the given header of comment lines.
    pub fn document_under(&self, header: &str) -> String {
        let schema = schemars::schema_for!(Config).to_value();
        let value = json!(self);
        let mut out = String::from(header);
        if let Value::Object(sections) = &value {
            for (name, section) in sections {
                out.push('\n');
                entry(&mut out, name, section, &schema, &schema, 0);
            }
        }
        out
    }

    /// The JSON Schema of a configuration file.
    pub fn schema() -> Value {
        schemars::schema_for!(Config).to_value()
    }
}

/// The values of a tree of settings, by dotted path.
pub fn leaves(settings: &Value) -> Vec<(String, Value)> {
    fn gather(value: &Value, path: &str, out: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    gather(value, &path, out);
                }
            }
            Value::Null if path.is_empty() => {} // no settings
            value => out.push((path.to_owned(), value.clone())),
        }
    }
    let mut all = Vec::new();
    gather(settings, "", &mut all);
    all
}

/// The text of a configuration file.
///
/// # Errors
/// A configuration error if it cannot be read, or is too long.
pub fn text_of(path: &Path) -> Result<String> {
    files::read_text(path).map_err(|error| Error::ConfigSyntax {
        message: match error {
            Error::Io { source, .. } => format!("cannot read it: {}", reason(&source)),
            Error::Format { found, expected, .. } => format!("{found}; expected {expected}"),
            other => other.to_string(),
        },
        origin: path.display().to_string(),
    })
}

/// The header of a configuration whose values differ from the defaults.
const RESOLVED: &str =
    "# The pipeline as it is configured, a section for each stage: defaults, file, recipe and overrides.\n";

/// The header of the default configuration, the file that users start from.
const DEFAULTS: &str = "# The pipeline, a section for each stage. Every value here is the default: a file needs only what differs.\n\
    # `multidigit show-config` prints this with overrides applied, `multidigit schema` prints its JSON Schema.\n";

/// The width of a documentation line in columns.
const DOCUMENT_WIDTH: usize = 110;

/// Finds the value at a dotted path. If a value on the way is null, it is replaced by the object of the default.
fn place<'a>(tree: &'a mut Value, default: &Value, path: &str, origin: &str) -> Result<&'a mut Value> {
    let mut here = tree;
    let mut default = default.clone();
    let keys: Vec<&str> = path.split('.').collect();
    for (depth, key) in keys.iter().enumerate() {
        default = default.get(key).cloned().unwrap_or(Value::Null);
        let before = keys.get(..depth).unwrap_or_default().join(".");
        let Value::Object(map) = here else {
            let message = format!("`{before}` is a value and has no key `{key}`");
            return Err(Error::ConfigSyntax { origin: origin.to_owned(), message });
        };
        let prefix = if before.is_empty() { String::new() } else { format!("{before}.") };
        if !map.contains_key(*key) {
            let valid: Vec<String> = map.keys().map(|valid| format!("{prefix}{valid}")).collect();
            return Err(unknown(origin.to_owned(), &format!("{prefix}{key}"), valid.into_iter()));
        }
        here = &mut map[*key];
        if here.is_null() && depth + 1 < keys.len() {
            *here = default.clone();
        }
    }
    Ok(here)
}

/// The error for a key that does not exist, with the valid keys that it may mean: a similar one beside it, or one of the
/// same name in another section.
fn unknown(origin: String, key: &str, valid: impl Iterator<Item = String>) -> Error {
    let valid: Vec<String> = valid.collect();
    let name = hints::last(key);
    let similar = hints::nearest(name, valid.iter().map(|path| hints::last(path)));
    let meant = match valid.iter().find(|path| similar == Some(hints::last(path))) {
        Some(path) => vec![path.clone()],
        None => hints::settings_named(name),
    };
    Error::ConfigKey { origin, key: key.to_owned(), meant, valid }
}

/// Writes a key with its documentation above it, and the keys below it.
fn entry(out: &mut String, name: &str, value: &Value, parent: &Value, root: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let schema = parent.get("properties").and_then(|all| all.get(name)).unwrap_or(&Value::Null);
    let description = schema["description"].as_str().unwrap_or_default();
    out.push_str(&comment(description, &indent));
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push_str(&format!("{indent}{name}:\n"));
            let own = resolve(schema, root);
            map.iter().for_each(|(key, value)| entry(out, key, value, own, root, depth + 1));
        }
        value => out.push_str(&format!("{indent}{name}: {}\n", scalar(value))),
    }
}

/// A description as comment lines, broken at spaces.
pub fn comment(description: &str, indent: &str) -> String {
    let prefix = format!("{indent}# ");
    let options = textwrap::Options::new(DOCUMENT_WIDTH)
        .initial_indent(&prefix)
        .subsequent_indent(&prefix)
        .break_words(false)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation);
    let words: Vec<&str> = description.split_whitespace().collect();
    if words.is_empty() { String::new() } else { format!("{}\n", textwrap::fill(&words.join(" "), options)) }
}

/// The schema that a schema refers to, directly or in a list of options.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return root.pointer(reference.trim_start_matches('#')).unwrap_or(schema);
    }
    for list in ["anyOf", "allOf", "oneOf"] {
        if let Some(option) = schema[list].as_array().and_then(|all| all.iter().find(|s| s["$ref"].is_string())) {
            return resolve(option, root);
        }
    }
    schema
}

/// A value on one line of YAML: as JSON, except that words that need no quotes have none.
pub fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(scalar).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => Value::Object(Map::clone(map)).to_string(),
        other => other.to_string(),
    }
}

/// Whether YAML reads a text without quotes as the same text.
fn is_plain(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let url = text.starts_with("https://") && text.chars().all(|c| word(c) || c == ':');
    let reads_back = serde_saphyr::from_str::<Value>(text).is_ok_and(|value| value == *text);
    (url || text.chars().all(word)) && text.starts_with(|c: char| c.is_ascii_alphabetic()) && reads_back
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_file_is_the_documented_default() {
        let committed = include_str!("../pipeline.yaml");
        assert_eq!(Config::parse(committed, FILE).unwrap(), Config::default());
        assert_eq!(committed, Config::default().document(), "write it anew: multidigit show-config > pipeline.yaml");
    }

    #[test]
    fn every_key_is_documented() {
        let document = Config::default().document();
        let lines: Vec<&str> = document.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if !line.trim().is_empty() && !line.trim_start().starts_with('#') {
                assert!(lines[number - 1].trim_start().starts_with("# "), "no documentation above {line:?}");
            }
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_line_and_nearest_key() {
        let refusal = |text| Config::parse(text, "p.yaml").unwrap_err().to_string();
        assert_eq!(refusal("plan:\n  digits: 2\n  sead: 7\n"), "p.yaml:3: unknown key `sead`; did you mean `seed`?");
        assert_eq!(
            refusal("zzzzzzzzzz: 1\n"),
            "p.yaml:1: unknown key `zzzzzzzzzz`; valid keys are raw, plan, dataset, augment, train, evaluate, report"
        );
    }

    #[test]
    fn an_override_takes_yaml_and_refuses_by_name() {
        let set = |text| Config::default().with(text);
        assert_eq!(set("plan.seed=7").unwrap().plan.seed, 7);
        assert_eq!(set("plan.image_size=[64, 100]").unwrap().plan.image_size, [64, 100]);
        assert_eq!(set("augment.affine=").unwrap().augment.affine, None);
        let off = set("augment.affine=null").unwrap();
        assert_eq!(off.with("augment.affine.shear=5").unwrap().augment.affine.unwrap().shear, 5.0);
        let refusal = |text| set(text).unwrap_err().to_string();
        assert_eq!(refusal("plan.sead=7"), "--set plan.sead=7: unknown key `plan.sead`; did you mean `plan.seed`?");
        assert_eq!(refusal("plan.seed"), "--set plan.seed: expected key.path=value");
        assert_eq!(refusal("plan.seed.x=1"), "--set plan.seed.x=1: `plan.seed` is a value and has no key `x`");
        assert_eq!(
            refusal("plan.seed=many"),
            "--set plan.seed=many: invalid type: string \"many\", expected a whole number; the default is 123"
        );
        assert_eq!(
            refusal("plan.split.ratio=[0.8, 0.1, 0.1]"),
            "--set plan.split.ratio=[0.8, 0.1, 0.1]: invalid type: floating point `0.8`, expected a whole number; the \
             default is [64, 16, 20]"
        );
        assert_eq!(
            refusal("train.lr=1"),
            "--set train.lr=1: unknown key `train.lr`; did you mean `train.learning_rate`?"
        );
        assert_eq!(refusal("digits=3"), "--set digits=3: unknown key `digits`; did you mean `plan.digits`?");
        assert_eq!(
            refusal("seed=3"),
            "--set seed=3: unknown key `seed`; did you mean `plan.seed`, `augment.seed` or `train.seed`?"
        );
    }

    #[test]
    fn what_is_left_empty_is_the_default() {
        for text in ["", "# nothing", "---", "null", "plan:", "plan:\n  # digits: 3\nreport: ~", "raw: {}"] {
            assert_eq!(Config::parse(text, "p").unwrap(), Config::default(), "{text:?}");
        }
    }

    #[test]
    fn mistakes_of_yaml_are_told_in_our_words() {
        let refusal = |text| Config::parse(text, "p").unwrap_err().to_string();
        assert_eq!(refusal("plan:\n  seed: 1\n  seed: 2\n"), "p:3: key `seed` stands there twice");
        assert_eq!(refusal("plan:\n  seed: 1\n---\nplan:\n"), "p:4: more than one YAML document; expected one");
    }

    #[test]
    fn a_document_reads_back_as_the_same_configuration() {
        let config = Config::default().with("raw.source='a: b'").unwrap().with("augment.erasing=null").unwrap();
        assert_eq!(Config::parse(&config.document(), "document").unwrap(), config);
        assert!(!config.document().contains("Every value here is the default"));
    }
}
