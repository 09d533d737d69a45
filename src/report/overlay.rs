//! The chart at the top of the page, which lays the validation curves of the runs over each other.

use super::figures::{Figure, Figures};
use super::plots::{self, COLOURS, Line};
use crate::error::Result;
use crate::runs::format::percent;
use crate::runs::groups::{Group, Spread};
use crate::runs::{Run, RunState};

/// The accuracy above which the chart shows the error on a logarithmic axis: on an axis of accuracies, the curves of good
/// runs would lie on each other.
const GOOD: f64 = 0.9;

/// Runs that share a colour and an entry in the legend: those of a group, or one alone.
struct Entry<'a> {
    name: String,
    runs: Vec<&'a Run>,
}

/// The chart of runs, which are sorted, the best first. `groups` are those of them that differ in their seed alone. As many
/// entries are shown as there are colours. `None` if there is nothing to compare: fewer than two runs with an epoch, or none
/// with two epochs.
pub fn chart(runs: &[Run], groups: &[Group], figures: &Figures) -> Result<Option<Figure>> {
    let has_curves = runs.iter().filter(|run| !run.epochs.is_empty()).count() > 1;
    if !has_curves || runs.iter().all(|run| run.epochs.len() < 2) {
        return Ok(None);
    }
    let all = entries(runs, groups);
    let (shown, beyond) = all.split_at(all.len().min(COLOURS.len()));
    let accuracies =
        || shown.iter().flat_map(|entry| &entry.runs).flat_map(|run| &run.epochs).map(|epoch| epoch.val_accuracy);
    let is_error = accuracies().any(|accuracy| accuracy > GOOD) && accuracies().any(|accuracy| accuracy < 1.0);
    let value = |accuracy: f64| 100.0 * if is_error { 1.0 - accuracy } else { accuracy };
    let curve = |run: &&Run| run.epochs.iter().map(|epoch| value(epoch.val_accuracy)).collect();
    let lines: Vec<Line> = shown
        .iter()
        .map(|Entry { name, runs }| Line { name: name.clone(), curves: runs.iter().map(curve).collect() })
        .collect();
    let (plot, what, share) = match is_error {
        true => (plots::errors("error on val, %", &lines), "Error on val", "the share of images with a wrong digit"),
        false => (plots::accuracies("accuracy on val, %", &lines), "Accuracy on val", "every digit of the image right"),
    };
    let scale = match (is_error, accuracies().any(|accuracy| accuracy == 1.0)) {
        (false, _) => "",
        (true, false) => ", on a logarithmic axis",
        (true, true) => ", on a logarithmic axis whose lower end stands for no error",
    };
    let cut = match beyond.len() {
        0 => String::new(),
        _ => format!(" Shown are the first {} of {} in the order of the table.", shown.len(), all.len()),
    };
    let seeds = match shown.iter().any(|entry| entry.runs.len() > 1) {
        true => " Runs that differ in their seed alone share a colour.",
        false => "",
    };
    let told = shown.iter().map(sentence).collect::<Vec<_>>().join("; ");
    let alt = format!("{what} after each epoch. Accuracy in the epoch with the lowest val loss: {told}.");
    let caption = format!("{what} after each epoch: {share}{scale}.{seeds}{cut}");
    figures.embed("runs.svg", plot.as_bytes(), alt, caption).map(Some)
}

/// The entries of the legend, in the order of their best runs.
fn entries<'a>(runs: &'a [Run], groups: &[Group<'a>]) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry> = Vec::new();
    for run in runs.iter().filter(|run| !run.epochs.is_empty()) {
        if entries.iter().any(|entry| entry.runs.contains(&run)) {
            continue;
        }
        entries.push(match groups.iter().find(|group| group.runs.contains(&run)) {
            Some(group) => {
                Entry { name: format!("{}, {} seeds", group.name, group.runs.len()), runs: group.runs.clone() }
            }
            None if run.state == RunState::Finished => Entry { name: run.name.clone(), runs: vec![run] },
            None => Entry { name: format!("{}, {}", run.name, run.state.name()), runs: vec![run] },
        });
    }
    entries
}

/// The accuracy of an entry in words: that of its run, or the lowest and the highest one of several.
fn sentence(Entry { name, runs }: &Entry) -> String {
    let best: Vec<f64> = runs.iter().filter_map(|run| Some(run.best()?.val_accuracy)).collect();
    match Spread::of(&best) {
        Some(Spread { low, high, deviation: Some(_), .. }) => format!("{name}, {} to {}", percent(low), percent(high)),
        Some(Spread { mean, .. }) => format!("{name}, {}", percent(mean)),
        None => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::Place;
    use crate::train::metrics::Epoch;

    fn run(name: &str, accuracies: &[f64]) -> Run {
        let epoch = |(epoch, accuracy): (usize, &f64)| Epoch {
            epoch,
            lr: 0.1,
            train_loss: 1.0,
            train_accuracy: 0.0,
            train_digits: Vec::new(),
            val_loss: 1.0 - accuracy,
            val_accuracy: *accuracy,
            val_digits: Vec::new(),
            images_per_second: 1.0,
            seconds: 1.0,
        };
        let epochs = (1..).zip(accuracies).map(epoch).collect();
        let (name, folder) = (name.to_owned(), name.to_owned());
        Run { name, folder, state: RunState::Finished, epochs, ..Run::read(&Place::default()).unwrap() }
    }

    fn drawn(runs: &[Run], groups: &[Group]) -> Option<Figure> {
        let home = tempfile::tempdir().unwrap();
        chart(runs, groups, &Figures::new(home.path()).unwrap()).unwrap()
    }

    #[test]
    fn there_is_a_chart_where_there_are_runs_to_compare() {
        let runs = [run("a", &[0.1, 0.25]), run("b", &[0.2]), run("c", &[])];
        for (count, is_drawn) in [(0, false), (1, false), (2, true), (3, true)] {
            assert_eq!(drawn(&runs[..count], &[]).is_some(), is_drawn, "{count}");
        }
        assert_eq!(drawn(&runs[1..], &[]), None);
        assert_eq!(drawn(&[run("a", &[0.1]), run("b", &[0.2])], &[]), None);
        let Figure { alt, caption, .. } = drawn(&runs, &[]).unwrap();
        assert_eq!(
            alt,
            "Accuracy on val after each epoch. Accuracy in the epoch with the lowest val loss: a, 25.00%; b, 20.00%."
        );
        assert_eq!(caption, "Accuracy on val after each epoch: every digit of the image right.");
    }

    #[test]
    fn good_runs_are_compared_by_their_errors_and_seeds_share_an_entry() {
        let cut = Run { state: RunState::Unfinished, ..run("cut", &[0.5, 1.0]) };
        let runs = [cut, run("a-seed0", &[0.5, 0.9375]), run("b", &[0.5, 0.75]), run("a-seed1", &[0.5, 0.625])];
        let group = Group { name: "a".to_owned(), runs: vec![&runs[1], &runs[3]] };
        let Figure { alt, caption, .. } = drawn(&runs, &[group]).unwrap();
        let told = "cut, unfinished, 100.00%; a, 2 seeds, 62.50% to 93.75%; b, 75.00%.";
        assert_eq!(
            alt,
            format!("Error on val after each epoch. Accuracy in the epoch with the lowest val loss: {told}")
        );
        let expected = "Error on val after each epoch: the share of images with a wrong digit, on a logarithmic axis whose \
                        lower end stands for no error. Runs that differ in their seed alone share a colour.";
        assert_eq!(caption, expected);
    }

    #[test]
    fn there_are_no_more_lines_than_colours() {
        let runs: Vec<Run> = (0..10).map(|number| run(&number.to_string(), &[0.1, 0.2])).collect();
        let Figure { alt, caption, .. } = drawn(&runs, &[]).unwrap();
        assert!(
            alt.contains("; 7, 20.00%.")
                && caption.ends_with(" Shown are the first 8 of 10 in the order of the table.")
        );
    }
}
