//! The paper's Table 1, and the differences between a run's recipe and the paper's.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Run, RunState};
use crate::plan::{self, Facts};
use crate::raw::Origin;
use crate::{augment, train};

/// A row of the paper's Table 1. Accuracies are shares, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// The model, as `train.model` names it.
    pub model: &'static str,
    /// The learning rate.
    pub learning_rate: f64,
    /// The final training accuracy and loss.
    pub train: (f64, f64),
    /// The best validation accuracy and loss.
    pub val: (f64, f64),
    /// The test accuracy and loss.
    pub test: (f64, f64),
}

/// The number of epochs in the paper.
pub const EPOCHS: usize = 30;

const fn row(model: &'static str, learning_rate: f64, numbers: [(f64, f64); 3]) -> Row {
    let [train, val, test] = numbers;
    Row { model, learning_rate, train, val, test }
}

/// The paper's Table 1: 30 epochs on 64 of 100 classes, measured on the other classes.
pub const TABLE_1: [Row; 6] = [
    row("alexnet", 1e-3, [(0.9092, 0.307), (0.5291, 1.793), (0.5145, 1.999)]),
    row("alexnet", 5e-4, [(0.9481, 0.173), (0.7307, 0.923), (0.6696, 1.341)]),
    row("resnet", 5e-4, [(0.9854, 0.0442), (0.9466, 0.195), (0.9364, 0.239)]),
    row("resnet", 2.5e-4, [(0.9847, 0.0443), (0.9662, 0.139), (0.9620, 0.163)]),
    row("fcn", 1e-3, [(0.9620, 0.117), (0.8913, 0.373), (0.8313, 0.584)]),
    row("fcn", 5e-4, [(0.9625, 0.115), (0.8846, 0.397), (0.8510, 0.507)]),
];

/// The row of the paper for a run: the row with its model and learning rate.
pub fn row_of(run: &Run) -> Option<&'static Row> {
    let rate = run.learning_rate?;
    TABLE_1.iter().find(|row| Some(row.model) == run.model.as_deref() && row.learning_rate == rate)
}

/// The differences between the recipe of a run, on a data set with these facts, and the paper's recipe, in words. The
/// paper fixes neither batch size nor seed, so they never count as differences.
pub fn differences(run: &Run, facts: &Facts) -> Vec<String> {
    let mut all = Vec::new();
    if row_of(run).is_none() {
        let model = run.model.as_deref().unwrap_or("unknown");
        let rates: Vec<String> =
            TABLE_1.iter().filter(|row| row.model == model).map(|row| row.learning_rate.to_string()).collect();
        let rate = run.learning_rate.map_or("unknown".to_owned(), |rate| rate.to_string());
        all.push(match rates[..] {
            [] => format!("model {model}, which the paper has not"),
            _ => format!("learning rate {rate}; the paper's: {}", rates.join(", ")),
        });
    }
    if run.epochs.len() != EPOCHS || run.state != RunState::Finished {
        let ended = if run.state == RunState::Finished { "" } else { ", not finished" };
        all.push(format!("{} of {EPOCHS} epochs{ended}", run.epochs.len()));
    }
    if facts.glyphs.origin() != Origin::Mnist {
        all.push(format!("{}, not MNIST", facts.glyphs.name));
    }
    let paper = plan::Config::default();
    let plan = &facts.plan;
    if plan.split != paper.split {
        let ratio = |split: &plan::SplitConfig| split.ratio.map(|part| part.to_string()).join("/");
        all.push(format!("split {} by {}; the paper's: 64/16/20 by class", ratio(&plan.split), word(&plan.split.by)));
    }
    if (plan.digits, plan.image_size, plan.samples_per_class)
        != (paper.digits, paper.image_size, paper.samples_per_class)
    {
        let [height, width] = plan.image_size;
        let per_class = plan.samples_per_class;
        all.push(format!("{} digits in {height}x{width} pixels, {per_class} samples per class", plan.digits));
    }
    // the settings that the paper leaves open, or that do not affect the result
    let free =
        ["model", "trunk", "learning_rate", "epochs", "batch_size", "seed", "device", "run", "checkpoint_every_steps"];
    let settings = |section: &str| run.settings.get(section).unwrap_or(&Value::Null);
    leaves("train", &json!(train::Config::default()), settings("train"), &free, &mut all);
    leaves("augment", &json!(augment::Config::default()), settings("augment"), &["epochs", "seed"], &mut all);
    if let Some(test) = run.metrics.as_ref().and_then(|metrics| metrics.split("test"))
        && test.samples as u64 != facts.counts.test
    {
        all.push(format!("measured on {} of {} test images", test.samples, facts.counts.test));
    }
    all
}

/// Adds the settings below `section` that differ from the defaults. A key that the run does not have counts as equal.
fn leaves(section: &str, default: &Value, value: &Value, free: &[&str], out: &mut Vec<String>) {
    let (Some(default), Some(value)) = (default.as_object(), value.as_object()) else { return };
    for (key, expected) in default.iter().filter(|(key, _)| !free.contains(&key.as_str())) {
        let found = value.get(key).unwrap_or(expected);
        if !equal(found, expected) {
            out.push(format!("{section}.{key} {}; the paper's: {}", word(found), word(expected)));
        }
    }
}

/// Whether two settings are equal as values: YAML writes 15 where JSON has 15.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

fn word(value: &impl Serialize) -> String {
    json!(value).to_string().replace('"', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::plan::facts::{GlyphSet, Leakage, PerSplit};
    use crate::runs::Place;
    use crate::train::metrics::{self, Epoch};

    fn facts() -> Facts {
        let plan = plan::Config::default();
        let leakage = Leakage { glyphs: 1, also_in_train: 0 };
        let glyphs = GlyphSet { name: Origin::Mnist.name().to_owned(), digest: Digest::of(b""), count: 70_000 };
        let counts = PerSplit::new(plan.counts());
        Facts { glyphs, plan, counts, val_leakage: leakage, test_leakage: leakage }
    }

    /// A finished run with default settings except those in `change`, and with `epochs` epochs.
    fn run(change: impl Fn(&mut train::Config), epochs: usize) -> Run {
        let home = tempfile::tempdir().unwrap();
        let epoch = |epoch: usize| Epoch {
            epoch,
            lr: 5e-4,
            train_loss: 1.0,
            train_accuracy: 0.5,
            train_digits: vec![0.5; 2],
            val_loss: 1.0,
            val_accuracy: 0.5,
            val_digits: vec![0.5; 2],
            images_per_second: 1.0,
            seconds: 1.0,
        };
        let epochs: Vec<Epoch> = (1..=epochs).map(epoch).collect();
        metrics::write(&home.path().join(metrics::FILE), 2, &epochs).unwrap();
        let mut train = train::Config { batch_size: 128, seed: 9, ..train::Config::default() };
        change(&mut train);
        let settings = json!({"train": train, "augment": augment::Config { seed: 4, ..augment::Config::default() }});
        Run::read(&Place { folder: home.path().to_owned(), settings: Some(settings), ..Place::default() }).unwrap()
    }

    #[test]
    fn the_papers_recipe_differs_in_nothing() {
        let run = run(|_| (), EPOCHS);
        assert_eq!(differences(&run, &facts()), [""; 0]);
        assert_eq!(row_of(&run).unwrap().test, (0.6696, 1.341));
    }

    #[test]
    fn whatever_the_paper_fixes_is_named_where_it_differs() {
        let named = |change: fn(&mut train::Config)| differences(&run(change, EPOCHS), &facts());
        assert_eq!(named(|c| c.learning_rate = 0.25), ["learning rate 0.25; the paper's: 0.001, 0.0005"]);
        assert_eq!(named(|c| c.samples = Some(640)), ["train.samples 640; the paper's: null"]);
        assert_eq!(named(|c| c.augment = false), ["train.augment false; the paper's: true"]);
        assert_eq!(differences(&run(|_| (), 3), &facts()), ["3 of 30 epochs"]);
        let mut other = facts();
        other.plan.split.by = plan::split::By::Source;
        other.glyphs.name = "unknown glyphs".to_owned();
        let found = differences(&run(|_| (), EPOCHS), &other);
        assert_eq!(found, ["unknown glyphs, not MNIST", "split 64/16/20 by source; the paper's: 64/16/20 by class"]);
    }
}
