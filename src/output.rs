//! Formats the results of commands as text for stdout: one line per stage, followed by details.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use multidigit::pipeline::{Cleaned, Freshness, Outcome, PartWritten, Share, Stage, Status, Verdict};
use multidigit::predict::ImagePrediction;
use multidigit::runs::format::{percent, utc};
use multidigit::runs::{Run, Summary};
use multidigit::sweep::Expectation;
use multidigit::train::bench;
use multidigit::train::estimate::words;
use multidigit_nn::tape::Time;

/// The outcome of a stage in a run.
pub fn outcome(stage: Stage, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Fresh(record) => format!("{stage:9} fresh      {}\n", stage.amount(record)),
        Outcome::WouldRun(reasons) => format!("{stage:9} would run  {}\n", reasons.join("; ")),
        Outcome::Ran { record, pinned, .. } => {
            let pinned = match pinned {
                None => "",
                Some(true) => ", as pipeline.lock pins it",
                Some(false) => ", NOT the content that pipeline.lock pins",
            };
            let (amount, content) = (stage.amount(record), record.content.short());
            format!("{stage:9} done       {amount} in {:.2} s, content {content}{pinned}\n", record.seconds)
        }
    }
}

/// The result of a part of a stage.
pub fn part(stage: Stage, share: Share, PartWritten { written, found, of }: &PartWritten) -> String {
    format!("{stage:9} part {share}  {written} of {of} shards written, {found} were there\n")
}

/// The status of every stage.
pub fn status(all: &[Status]) -> String {
    let mut out = String::new();
    for Status { stage, freshness, remarks, .. } in all {
        match freshness {
            Freshness::Stale(reasons) => out.push_str(&format!("{stage:9} stale  {}\n", reasons.join("; "))),
            Freshness::Fresh(record) => {
                let (amount, age) = (stage.amount(record), age(record.finished));
                let content = record.content.short();
                out.push_str(&format!("{stage:9} fresh  {amount}, content {content}, made {age} ago\n"));
            }
        }
        for remark in remarks {
            out.push_str(&format!("{:9}        {remark}\n", ""));
        }
    }
    let mut flags: Vec<String> = Vec::new();
    for text in all.iter().flat_map(|status| &status.made_with) {
        let flag = format!("--set {}", word(text));
        if !flags.contains(&flag) {
            flags.push(flag);
        }
    }
    if !flags.is_empty() {
        out.push_str(&format!(
            "\nOutputs were made with other settings than the present ones. To use those settings, add to this and every other \
             command:\n{}\nWithout that, `multidigit run` makes them anew.\n",
            flags.join(" ")
        ));
    }
    out
}

/// A text as one word of a shell.
fn word(text: &str) -> String {
    match text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,".contains(c)) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// The verdicts of a verification.
pub fn verdicts(verdicts: &[Verdict]) -> String {
    let mut out = String::new();
    for verdict in verdicts {
        let (name, content) = (&verdict.name, verdict.content.short());
        if verdict.differences.is_empty() {
            let pinned = if verdict.pinned == Some(true) { ", as pipeline.lock pins it" } else { "" };
            out.push_str(&format!("{name:9} ok         {} files, content {content}{pinned}\n", verdict.files));
        } else {
            out.push_str(&format!("{name:9} DIFFERENT  {}\n", verdict.differences.join("; ")));
        }
    }
    out
}

/// The files that were removed, and those that were left.
pub fn cleaned(cleaned: &[Cleaned]) -> String {
    let mut out = String::new();
    for Cleaned { folder, files, stands } in cleaned {
        let left = if *stands { "; what no record names was left there" } else { "" };
        let s = if *files == 1 { "" } else { "s" };
        out.push_str(&format!("removed {files} file{s} of {}{left}\n", folder.display()));
    }
    if out.is_empty() { "nothing to remove\n".to_owned() } else { out }
}

/// A result as JSON, for other programs.
pub fn json<T: Serialize>(result: &T) -> String {
    format!("{:#}\n", serde_json::json!(result))
}

/// The answers of a network for images, one line each.
pub fn predictions(predictions: &[ImagePrediction]) -> String {
    let positions = |prediction: &ImagePrediction| -> String {
        let position = prediction
            .positions
            .iter()
            .filter_map(|at| Some((at.digit, *at.probabilities.get(usize::from(at.digit))?)));
        position.map(|(digit, probability)| format!("  {digit} {:>7}", percent(probability))).collect()
    };
    let row = |prediction: &ImagePrediction| {
        let digits = [prediction.digits.clone(), percent(prediction.probability), positions(prediction)];
        [vec![prediction.image.display().to_string()], digits.to_vec()].concat()
    };
    table(&["image", "digits", "probability", "  each digit"], predictions.iter().map(row).collect())
}

/// All runs, one line each.
pub fn runs(runs: &[Summary]) -> String {
    if runs.is_empty() {
        return "no runs yet; `multidigit run train` makes one\n".to_owned();
    }
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let row = |run: &Summary| {
        let epochs = match run.epochs_planned {
            Some(planned) if planned != run.epochs as u64 => format!("{}/{planned}", run.epochs),
            _ => run.epochs.to_string(),
        };
        vec![
            run.run.clone(),
            text(run.model.clone()),
            text(run.learning_rate.map(|rate| rate.to_string())),
            text(run.seed.map(|seed| seed.to_string())),
            epochs,
            text(run.best_val_accuracy.map(percent)),
            text(run.test_accuracy.map(|test| percent(test.value))),
            text(run.when.map(utc)),
            run.state.name().to_owned(),
        ]
    };
    let headings = ["run", "model", "lr", "seed", "epochs", "best val", "test", "when (UTC)", "state"];
    table(&headings, runs.iter().map(row).collect())
}

/// The runs of a sweep, and the time that those take which are not done.
pub fn expectations(runs: &[Expectation]) -> String {
    let time = |run: &Expectation| match (run.is_done, run.time) {
        (true, _) => "done".to_owned(),
        (false, Some(time)) => words(time),
        (false, None) => "-".to_owned(),
    };
    let table = table(&["run", "time"], runs.iter().map(|run| vec![run.run.clone(), time(run)]).collect());
    let (all, done) = (runs.len(), runs.iter().filter(|run| run.is_done).count());
    let known: Duration = runs.iter().filter_map(|run| run.time).sum();
    let total = match known {
        Duration::ZERO => String::new(),
        time => format!("; {} for the others on this machine, by steps just measured", words(time)),
    };
    format!("{table}\n{all} runs, {done} done{total}\n")
}

/// A run of a sweep in one line.
pub fn result(run: &Run) -> String {
    let share = |split| {
        let metrics = run.metrics.as_ref().and_then(|metrics| metrics.split(split));
        metrics.map_or_else(|| "-".to_owned(), |split| percent(split.accuracy.value))
    };
    format!("{}  val {}  test {}\n", run.name, share("val"), share("test"))
}

/// The tables that a sweep wrote.
pub fn tables(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("wrote {}\n", path.display())).collect()
}

/// Rows under headings, in columns as wide as their widest entry. The first and the last column are left-aligned, the
/// others right-aligned.
fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let heading: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    let all: Vec<Vec<String>> = [vec![heading], rows].concat();
    let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max();
    let widths: Vec<usize> = (0..headings.len()).map(|column| width(column).unwrap_or_default()).collect();
    let last = headings.len() - 1;
    let line = |row: &Vec<String>| -> String {
        let cell = |(column, (text, &width)): (usize, (&String, &usize))| match column {
            _ if column == 0 || column == last => format!("{text:<width$}"),
            _ => format!("{text:>width$}"),
        };
        let line: Vec<String> = row.iter().zip(&widths).enumerate().map(cell).collect();
        format!("{}\n", line.join("  ").trim_end())
    };
    all.iter().map(line).collect()
}

fn age(finished: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    match now.saturating_sub(finished) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// The results of a training benchmark. With `profile`, they include the time of each layer.
pub fn bench(report: &bench::BenchReport, profile: bool) -> String {
    let bench::BenchReport { shape, batch, threads, steps, alone, loaded, waited, evaluation, .. } = report;
    let (height, width) = (shape.height, shape.width);
    let mut out = format!(
        "{}, {} digits on {height}x{width} pixels, {threads} threads, {steps} steps of {batch} images each\n\
         step on a batch in memory      {alone:>9.1} images/s\n\
         step behind the data path      {loaded:>9.1} images/s, {:.2}% of the time waiting for batches\n\
         evaluation, {} at a time      {evaluation:>9.1} images/s\n",
        shape.model,
        shape.digits,
        100.0 * waited,
        bench::EVALUATION_BATCH
    );
    if !profile {
        return out;
    }
    out.push_str(&format!("\n{:24}  {:>10}  {:>11}  {:>5}\n", "layer", "forward ms", "backward ms", "%"));
    let sum = |of: fn(&Time) -> Duration| report.operators.iter().map(of).sum::<Duration>();
    let (forward, backward) = (sum(|time| time.forward), sum(|time| time.backward));
    let total = (forward + backward + report.optimiser).as_secs_f64();
    let mut line = |name: &str, forward: Duration, backward: Duration| {
        let (forward, backward) = (forward.as_secs_f64(), backward.as_secs_f64());
        let share = 100.0 * (forward + backward) / total;
        out.push_str(&format!("{name:24}  {:>10.2}  {:>11.2}  {share:>5.1}\n", 1e3 * forward, 1e3 * backward));
    };
    report.operators.iter().for_each(|time| line(&time.name, time.forward, time.backward));
    line("optimiser", report.optimiser, Duration::ZERO);
    line("all", forward + report.optimiser, backward);
    out
}
