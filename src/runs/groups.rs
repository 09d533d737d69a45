//! Groups of runs that differ in their seed alone, and the spread of their results.

use serde_json::Value;

use super::{Run, RunState};

/// Runs that differ in their seed alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Group<'a> {
    /// The name that the runs have in common.
    pub name: String,
    /// The runs, by seed.
    pub runs: Vec<&'a Run>,
}

/// Mean, standard deviation and range of some numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of a sample: the root of the sum of squares over the count less one. `None` for one number.
    pub deviation: Option<f64>,
    /// The lowest number.
    pub low: f64,
    /// The highest number.
    pub high: f64,
}

impl Spread {
    /// The spread of numbers; `None` if there are none.
    pub fn of(numbers: &[f64]) -> Option<Spread> {
        let count = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / count;
        let squares = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>();
        (!numbers.is_empty()).then(|| Spread {
            mean,
            deviation: (numbers.len() > 1).then(|| (squares / (count - 1.0)).sqrt()),
            low: numbers.iter().copied().fold(f64::INFINITY, f64::min),
            high: numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

impl<'a> Group<'a> {
    /// The groups of two or more finished runs, in the order of their first runs. All runs must be of one data set. Of several
    /// runs with the same seed, the first one counts.
    pub fn all(runs: &'a [Run]) -> Vec<Group<'a>> {
        let mut groups: Vec<(Value, Group)> = Vec::new();
        for run in runs.iter().filter(|run| run.state == RunState::Finished && !run.epochs.is_empty()) {
            let key = without_seed(run);
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, group)) if group.runs.iter().any(|other| seed(other) == seed(run)) => {}
                Some((_, group)) => group.runs.push(run),
                None => groups.push((key, Group { name: String::new(), runs: vec![run] })),
            }
        }
        groups.retain(|(_, group)| group.runs.len() > 1);
        let mut groups: Vec<Group> = groups.into_iter().map(|(_, group)| group).collect();
        groups.iter_mut().for_each(|group| group.runs.sort_by_key(|run| seed(run)));
        let names: Vec<Option<String>> = groups.iter().map(|group| common_name(&group.runs)).collect();
        for (group, name) in groups.iter_mut().zip(&names) {
            let is_theirs_alone = names.iter().filter(|other| *other == name).count() == 1;
            let first = group.runs.first().map_or_else(String::new, |run| format!("{} and others", run.name));
            group.name = name.clone().filter(|_| is_theirs_alone).unwrap_or(first);
        }
        groups
    }

    /// The spread of a result over the runs that have it.
    pub fn spread(&self, of: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        Spread::of(&self.runs.iter().filter_map(|run| of(run)).collect::<Vec<_>>())
    }
}

/// The seed of a run.
fn seed(run: &Run) -> Option<u64> {
    run.settings.get("train")?.get("seed")?.as_u64()
}

/// What a run's results depend on except the seed: the settings, the weights that it started from, and those that were
/// evaluated.
fn without_seed(run: &Run) -> Value {
    let mut settings = run.settings.clone();
    if let Some(train) = settings.get_mut("train").and_then(Value::as_object_mut) {
        train.shift_remove("seed");
    }
    serde_json::json!([settings, run.init, run.metrics.as_ref().map(|metrics| (metrics.weights, metrics.precision))])
}

/// The name that runs have in common without their seeds; `None` if they are named otherwise.
fn common_name(runs: &[&Run]) -> Option<String> {
    let mut names = runs.iter().map(|run| {
        let (before, after) = run.name.split_once(&format!("-seed{}", seed(run)?))?;
        // not the first digits of a longer number
        (!after.starts_with(|c: char| c.is_ascii_digit())).then(|| format!("{before}{after}"))
    });
    let first = names.next()??;
    names.all(|name| name.as_ref() == Some(&first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::super::{RecordedEnvironment, Run};
    use super::*;
    use crate::train::metrics::Epoch;

    #[test]
    fn a_spread_is_that_worked_by_hand() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0]), Some(Spread { mean: 3.0, deviation: None, low: 3.0, high: 3.0 }));
        // the deviations -2, -1, 3 have squares that sum up to 14
        let spread = Spread { mean: 3.0, deviation: Some(7_f64.sqrt()), low: 1.0, high: 6.0 };
        assert_eq!(Spread::of(&[1.0, 2.0, 6.0]), Some(spread));
    }

    fn run(name: &str, seed: u64, rate: f64, state: RunState) -> Run {
        let zero = Epoch {
            epoch: 1,
            lr: rate,
            train_loss: 0.0,
            train_accuracy: seed as f64,
            train_digits: vec![],
            val_loss: 0.0,
            val_accuracy: 0.0,
            val_digits: vec![],
            images_per_second: 1.0,
            seconds: 1.0,
        };
        Run {
            name: name.to_owned(),
            folder: name.to_owned(),
            state,
            settings: serde_json::json!({"train": {"learning_rate": rate, "seed": seed}, "augment": {"seed": 0}}),
            init: None,
            model: None,
            learning_rate: Some(rate),
            epochs: vec![zero],
            metrics: None,
            elsewhere: Vec::new(),
            environment: RecordedEnvironment::default(),
            stop: None,
            problems: Vec::new(),
            when: None,
        }
    }

    #[test]
    fn runs_that_differ_in_their_seed_alone_are_a_group() {
        let finished = RunState::Finished;
        let runs = [
            run("fcn-lr0.1-seed2", 2, 0.1, finished),
            run("mine", 0, 0.5, finished),
            run("fcn-lr0.1-seed0", 0, 0.1, finished),
            run("fcn-lr0.1-seed1", 1, 0.1, RunState::Unfinished),
            run("alone-seed0", 0, 0.7, finished),
            run("another", 1, 0.5, finished),
            run("exp-seed10", 1, 0.6, finished),
            run("exp-seed20", 2, 0.6, finished),
            Run { init: Some(crate::digest::Digest::of(b"weights")), ..run("tuned-seed7", 7, 0.8, finished) },
            run("again-seed0", 0, 0.1, finished),
            run("q-seed0", 0, 0.8, finished),
            run("q-seed1", 1, 0.8, finished),
            run("q-seed3", 3, 0.9, finished),
            run("q-seed4", 4, 0.9, finished),
        ];
        let groups = Group::all(&runs);
        let names: Vec<_> = groups.iter().map(|group| (group.name.as_str(), group.runs.len())).collect();
        let expected =
            ["fcn-lr0.1", "mine and others", "exp-seed10 and others", "q-seed0 and others", "q-seed3 and others"];
        assert_eq!(names, expected.map(|name| (name, 2)));
        assert_eq!(groups[0].runs.iter().map(|run| seed(run)).collect::<Vec<_>>(), [Some(0), Some(2)]);
        let spread = groups[0].spread(|run| Some(run.epochs[0].train_accuracy)).unwrap();
        assert_eq!((spread.mean, spread.deviation), (1.0, Some(2_f64.sqrt())));
        assert_eq!(groups[0].spread(|_| None), None);
    }
}
