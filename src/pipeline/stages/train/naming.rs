//! The names of runs that the user does not name. A name holds the settings in which a run differs from others.

use serde_json::{Map, Value, json};

use super::effective;
use crate::config::Config;
use crate::digest::Digest;
use crate::pipeline::{Stage, key};

/// The settings of `train` that are not appended to a name. Three are at its front, and a run that gets
/// more epochs keeps its name.
const FRONT: [&str; 4] = ["model", "learning_rate", "seed", "epochs"];
/// The maximum length of the part of a name for the settings that differ from the defaults. A longer part
/// is replaced by a digest.
const MOST: usize = 48;

/// The name of the configured run's folder: `train.run` if it is set. Otherwise the model, the learning rate, the seed
/// and all other settings that differ from the defaults, such as `alexnet-lr0.0005-seed0-samples640`.
pub fn run_name(config: &Config) -> String {
    if let Some(run) = &config.train.run {
        return run.clone();
    }
    let train = &config.train;
    let front = format!("{}-lr{}-seed{}", train.model, number(train.learning_rate), train.seed);
    appended(front, differing(&Config::default(), config, &FRONT))
}

/// The name of a run of the recipe `recipe`: `train.run` if it is set. Otherwise the recipe, the seed and all other
/// settings that differ from those of the recipe alone, which is `base`, such as `fast-seed0-samples640`.
pub fn run_name_of_recipe(recipe: &str, base: &Config, config: &Config) -> String {
    if let Some(run) = &config.train.run {
        return run.clone();
    }
    appended(format!("{recipe}-seed{}", config.train.seed), differing(base, config, &["seed", "epochs"]))
}

/// A name whose end holds the differing settings, or, if they are long, their digest.
fn appended(front: String, differing: Vec<(String, Value)>) -> String {
    let parts: Option<String> = differing.iter().map(|(key, value)| Some(format!("-{}", part(key, value)?))).collect();
    let rest = parts.filter(|parts| parts.len() <= MOST).unwrap_or_else(|| {
        let all: Map<String, Value> = differing.into_iter().collect();
        format!("-{:.8}", Digest::of_json(&Value::Object(all)).short())
    });
    front + &rest
}

/// The settings that a run depends on and that differ from those of `default`, by dotted key, except those of `train` in
/// `without`. Keys of `train` have no prefix.
fn differing(default: &Config, config: &Config, without: &[&str]) -> Vec<(String, Value)> {
    let before = json!(default);
    let keyed = |stage, section: &str| key::settings(stage, config).get(section).cloned().unwrap_or_default();
    // a setting that is back at its default differs from the recipe's, so the name holds it, although the key does not
    let augment = if config.train.augment { key::section(config, "augment", &["epochs"]).1 } else { Value::Null };
    let sections = [
        ("raw", keyed(Stage::Raw, "raw")),
        ("plan", keyed(Stage::Plan, "plan")),
        ("train", Value::Object(effective(config))),
        ("augment", augment),
    ];
    let mut all = Vec::new();
    for (section, settings) in sections {
        let prefix = if section == "train" { "" } else { section };
        leaves(before.get(section).unwrap_or(&Value::Null), &settings, prefix, &mut all);
    }
    all.retain(|(key, _)| !without.contains(&key.as_str()));
    all
}

fn leaves(default: &Value, value: &Value, path: &str, out: &mut Vec<(String, Value)>) {
    match (default, value) {
        (_, Value::Null) if path == "augment" => {} // a run without augmentation does not depend on it
        (Value::Object(default), Value::Object(map)) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(default.get(key).unwrap_or(&Value::Null), value, &path, out);
            }
        }
        _ if default != value => out.push((path.to_owned(), value.clone())),
        _ => {}
    }
}

/// A setting as a part of a name; `None` if its value does not fit in a name.
fn part(key: &str, value: &Value) -> Option<String> {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    match value {
        Value::Bool(true) => Some(key.to_owned()),
        Value::Bool(false) | Value::Null => Some(format!("no-{key}")),
        Value::Number(value) => Some(format!("{key}{}", value.as_f64().map_or_else(|| value.to_string(), number))),
        Value::String(text) if plain(text) => Some(format!("{key}-{text}")),
        Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(|item| item.as_f64().map(number)).collect();
            Some(format!("{key}{}", items?.join("x")))
        }
        _ => None,
    }
}

/// A number in few characters, such as 0.0005 or 1e300.
fn number(value: f64) -> String {
    let plain = value.to_string();
    if plain.len() <= 10 { plain } else { format!("{value:e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(settings: &[&str]) -> String {
        let change = |config: Config, setting: &&str| config.with(setting).unwrap();
        run_name(&settings.iter().fold(Config::default(), change))
    }

    #[test]
    fn a_run_is_named_after_what_tells_it_from_others() {
        assert_eq!(name(&[]), "alexnet-lr0.0005-seed0");
        assert_eq!(name(&["train.model=fcn", "train.learning_rate=1e300", "train.seed=3"]), "fcn-lr1e300-seed3");
        assert_eq!(name(&["train.samples=640"]), "alexnet-lr0.0005-seed0-samples640");
        assert_eq!(
            name(&["train.samples=640", "train.val_samples=500"]),
            "alexnet-lr0.0005-seed0-samples640-val_samples500"
        );
        assert_eq!(
            name(&["train.augment=false", "train.schedule=cosine"]),
            "alexnet-lr0.0005-seed0-schedule-cosine-no-augment"
        );
        assert_eq!(
            name(&["plan.image_size=[84, 84]", "plan.digits=3"]),
            "alexnet-lr0.0005-seed0-plan.digits3-plan.image_size84x84"
        );
        assert_eq!(name(&["augment.erasing=null"]), "alexnet-lr0.0005-seed0-no-augment.erasing");
        assert_eq!(name(&["train.plateau.factor=0.5"]), "alexnet-lr0.0005-seed0-plateau.factor0.5");
        assert_eq!(name(&["train.trunk.channels=8"]), "alexnet-lr0.0005-seed0", "an AlexNet has no trunk");
        let towers = name(&["train.model=towers", "train.trunk.channels=8", "train.label_smoothing=0.1"]);
        assert_eq!(towers, "towers-lr0.0005-seed0-trunk.channels8-label_smoothing0.1");
    }

    #[test]
    fn what_changes_no_weight_and_more_epochs_keep_the_name() {
        let same = ["train.epochs=40", "train.checkpoint_every_steps=5", "augment.epochs=3", "dataset.pixels=true"];
        assert_eq!(name(&same), "alexnet-lr0.0005-seed0");
        assert_eq!(name(&["train.run=mine", "train.samples=9"]), "mine");
        let off = ["train.augment=false", "augment.seed=4"];
        assert_eq!(name(&off), "alexnet-lr0.0005-seed0-no-augment");
    }

    #[test]
    fn a_run_of_a_recipe_is_named_after_what_tells_it_from_the_recipe() {
        let recipe = Config::default().with("train.model=fcn").unwrap().with("train.samples=9").unwrap();
        let name = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
            run_name_of_recipe("small", &recipe, &recipe.clone().with_all(&settings).unwrap())
        };
        assert_eq!(name(&[]), "small-seed0");
        assert_eq!(name(&["train.seed=2", "train.epochs=3"]), "small-seed2");
        assert_eq!(name(&["train.samples=null", "train.learning_rate=0.1"]), "small-seed0-learning_rate0.1-no-samples");
        assert_eq!(name(&["plan.split.by=source"]), "small-seed0-plan.split.by-source");
        let smooth = recipe.with("train.label_smoothing=0.1").unwrap();
        let plain = smooth.with("train.label_smoothing=0").unwrap();
        assert_eq!(run_name_of_recipe("smooth", &smooth, &plain), "smooth-seed0-label_smoothing0");
        let by_slot = recipe.with("augment.by=slot").unwrap();
        let whole = by_slot.with("augment.by=image").unwrap();
        assert_eq!(run_name_of_recipe("slots", &by_slot, &whole), "slots-seed0-augment.by-image");
        assert_eq!(name(&["train.run=mine"]), "mine");
    }

    #[test]
    fn what_reads_badly_becomes_a_digest_that_tells_it_from_others() {
        let many = ["raw.source=synthetic", "plan.samples_per_class=20", "train.batch_size=8", "train.samples=64"];
        let (first, second) = (name(&many), name(&[&many[..], &["train.weight_decay=0.1"]].concat()));
        let path = name(&["raw.source=/a b/c"]);
        for name in [&first, &second, &path] {
            let digest = name.strip_prefix("alexnet-lr0.0005-seed0-").unwrap();
            assert!(digest.len() == 8 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
        }
        assert!(first != second && first != path);
    }
}
