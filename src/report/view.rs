//! A run as the page shows it: its curves, its results and its mistakes. All numbers are read from a [`Run`]; this
//! module only formats them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::data::{SplitShards, class_map};
use super::figures::{Figure, Figures};
use super::plots;
use super::tables::{Cell, Table, count, loss, number, share, words};
use crate::error::Result;
use crate::evaluate::metrics::{ClassConfusion, ClassMetrics, PositionMetrics};
use crate::evaluate::statistics::Accuracy;
use crate::evaluate::{Metrics, PREDICTIONS, SplitMetrics};
use crate::labels;
use crate::runs::format::{grouped, percent, span, utc};
use crate::runs::{Run, RunState};
use multidigit_nn::Precision;

/// The maximum numbers of wrong answers in a table and of worst mistakes in a picture.
const CONFUSIONS: usize = 10;
pub const MISTAKES: usize = 12;

/// The images of mistakes as PNG, by split and row.
pub type MistakeImages = BTreeMap<(String, usize), Vec<u8>>;

/// A run on the page.
#[derive(Debug, Serialize)]
pub struct RunView {
    pub name: String,
    /// The fragment of a link to the run.
    pub id: String,
    /// The state of the run: finished, unfinished or stopped.
    pub state: &'static str,
    /// A sentence that summarises the run.
    pub line: String,
    /// Warnings, a sentence each.
    pub warnings: Vec<String>,
    pub curves: Vec<Figure>,
    pub results: Option<Table>,
    pub splits: Vec<SplitView>,
    pub elsewhere: Option<Table>,
    pub settings: Option<Table>,
    pub environment: Option<Table>,
}

/// The evaluation on a split.
#[derive(Debug, Serialize)]
pub struct SplitView {
    pub name: String,
    /// Whether the split is shown without a click, as `test` is.
    pub open: bool,
    pub map: Option<Table>,
    pub confusion: Vec<Table>,
    pub confusions: Option<Table>,
    pub reliability: Figure,
    pub mistakes: Vec<MistakeView>,
    pub note: String,
}

/// A mistake with its image.
#[derive(Debug, Serialize)]
pub struct MistakeView {
    pub figure: Figure,
    pub class: String,
    pub predicted: String,
    pub probability: String,
    pub class_probability: String,
}

/// The number of samples of each class in a split.
type Classes = BTreeMap<i64, u64>;

/// Makes the view of a run and writes its figures. `images` holds the images of its mistakes.
pub fn view(run: &Run, images: &MistakeImages, shards: &[SplitShards; 3], figures: &Figures) -> Result<RunView> {
    let id = format!("run-{}", slug(&run.folder));
    Ok(RunView {
        id,
        name: run.name.clone(),
        state: run.state.name(),
        line: sentence(run),
        warnings: warnings(run),
        curves: curves(run, figures)?,
        results: run.metrics.as_ref().map(|metrics| results(run, metrics)),
        splits: match &run.metrics {
            Some(metrics) => {
                let order = metrics.splits.iter().rev(); // test first
                order
                    .map(|split| split_view(run, split, metrics.digits, images, shards, figures))
                    .collect::<Result<_>>()?
            }
            None => Vec::new(),
        },
        elsewhere: (!run.elsewhere.is_empty()).then(|| elsewhere(run)),
        settings: settings(run),
        environment: environment(run),
    })
}

/// A name as part of an address in the page, or of a file name. Different names give different results.
fn slug(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let part = |c: char| if plain(c) { c.to_string() } else { format!("~{:x}~", u32::from(c)) };
    name.chars().map(part).collect()
}

fn sentence(run: &Run) -> String {
    let summary = run.summary();
    let mut parts = Vec::new();
    parts.extend(run.model.clone());
    if let Some(rate) = run.learning_rate {
        parts.push(format!("learning rate {rate}"));
    }
    if let Some(size) = summary.batch_size {
        parts.push(format!("batches of {size}"));
    }
    let epochs = match summary.epochs_planned {
        Some(planned) if planned != summary.epochs as u64 => format!("{} of {planned} epochs", summary.epochs),
        _ => format!("{} epoch{}", summary.epochs, if summary.epochs == 1 { "" } else { "s" }),
    };
    parts.push(epochs);
    if let Some(last) = run.epochs.last() {
        parts.push(format!("{:.0} images/s in the last", last.images_per_second));
    }
    if let Some(metrics) = &run.metrics {
        let precision =
            if metrics.precision == Precision::F32 { String::new() } else { format!(", in {}", metrics.precision) };
        parts.push(format!(
            "evaluated with the {} weights, of epoch {}{precision}",
            metrics.weights.name(),
            metrics.epoch
        ));
    }
    format!("{}.", parts.join(", "))
}

fn warnings(run: &Run) -> Vec<String> {
    let mut all = Vec::new();
    match (&run.stop, run.state) {
        (Some(stop), _) => all.push(match stop.message.as_str() {
            "" => "Stopped: its loss became NaN or infinite.".to_owned(),
            message => format!("Stopped: {message}."),
        }),
        (None, RunState::Unfinished) => all.push("Unfinished: interrupted, or still under way.".to_owned()),
        _ => {}
    }
    if run.state == RunState::Finished && run.metrics.is_none() {
        all.push("Not evaluated yet, or not with the weights that stand.".to_owned());
    }
    if run.epochs.is_empty() {
        all.push("No epoch is done, so there are no curves.".to_owned());
    }
    all.extend(run.problems.iter().map(|problem| format!("Not readable: {problem}.")));
    all
}

fn curves(run: &Run, figures: &Figures) -> Result<Vec<Figure>> {
    let (Some(first), Some(last), Some(best)) = (run.epochs.first(), run.epochs.last(), run.best()) else {
        return Ok(Vec::new());
    };
    let steps = match plots::steps(&run.epochs).len() {
        0 if first.lr != last.lr => format!("the learning rate moves from {} to {}", first.lr, last.lr),
        0 => "the learning rate never changes".to_owned(),
        n => format!("dashed: {n} change{} of the learning rate", if n == 1 { "" } else { "s" }),
    };
    let name = &run.name;
    let alt = |what: &str, show: fn(f64) -> String, train: (f64, f64), val: (f64, f64), best_val: f64| {
        let ([train, train_end], [val, val_end]) = ([train.0, train.1].map(show), [val.0, val.1].map(show));
        format!(
            "{what} per epoch of {name}: train from {train} to {train_end}, val from {val} to {val_end}, {} in the best \
             epoch, {}; {steps}.",
            show(best_val),
            best.epoch
        )
    };
    let accuracy =
        plots::curves("joint accuracy", Some(1.0), &run.epochs, |epoch| (epoch.train_accuracy, epoch.val_accuracy));
    let losses = plots::curves("loss", None, &run.epochs, |epoch| (epoch.train_loss, epoch.val_loss));
    let (train, val) = ((first.train_accuracy, last.train_accuracy), (first.val_accuracy, last.val_accuracy));
    let of_accuracy = alt("Joint accuracy", percent, train, val, best.val_accuracy);
    let of_loss =
        alt("Loss", loss, (first.train_loss, last.train_loss), (first.val_loss, last.val_loss), best.val_loss);
    let file = |kind: &str| format!("{}/{kind}.svg", slug(&run.folder));
    Ok(vec![
        figures.embed(&file("accuracy"), accuracy.as_bytes(), of_accuracy, format!("Joint accuracy; {steps}"))?,
        figures.embed(&file("loss"), losses.as_bytes(), of_loss, format!("Loss; {steps}"))?,
    ])
}

/// The results on every split.
fn results(run: &Run, metrics: &Metrics) -> Table {
    let mut titles: Vec<String> =
        ["<split", "images", "accuracy", "95% interval", "loss", "calibration error"].map(str::to_owned).to_vec();
    for position in 1..=metrics.digits {
        titles.extend([format!("digit {position}"), format!("macro F1 {position}")]);
    }
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let caption = format!("Results of {}. Accuracy: every digit of the image right", run.name);
    let mut table = Table::new(format!("{}/results", slug(&run.folder)), caption, &titles);
    for split in &metrics.splits {
        let error = number(Some(split.calibration.expected_error), |error| format!("{error:.4}"));
        let mut row = vec![words(&split.split), count(split.samples as u64), share(Some(split.accuracy.value))];
        row.extend([interval(&split.accuracy), number(Some(split.loss), loss), error]);
        for at in &split.positions {
            row.extend([share(Some(at.accuracy.value)), number(Some(at.macro_f1), |f1| format!("{f1:.4}"))]);
        }
        table.rows.push(row);
    }
    table
}

/// The 95% interval of an accuracy.
pub fn interval(accuracy: &Accuracy) -> Cell {
    let text = format!("{}–{}", percent(accuracy.low), percent(accuracy.high));
    Cell { text, raw: format!("{} {}", accuracy.low, accuracy.high), ..Cell::default() }
}

fn split_view(
    run: &Run,
    split: &SplitMetrics,
    digits: usize,
    images: &MistakeImages,
    shards: &[SplitShards; 3],
    figures: &Figures,
) -> Result<SplitView> {
    let (name, folder) = (&split.split, slug(&run.folder));
    let [SplitShards { classes: trained, .. }, ..] = shards;
    let evaluated = shards.iter().find(|shards| shards.name == name).map(|shards| &shards.classes);
    let map = (digits <= 2).then(|| accuracy_map(&run.folder, split, digits));
    let confusion: Vec<Table> = split.positions.iter().map(|at| confusion(&run.folder, split, at)).collect();
    for table in map.iter().chain(&confusion) {
        figures.save(&format!("{}.svg", table.file), table.svg().as_bytes())?;
    }
    let error = split.calibration.expected_error;
    let alt = format!(
        "Share of right answers against confidence on {name}, in 15 bins, beside the diagonal; expected calibration error \
         {error:.4}"
    );
    let caption = format!(
        "Reliability on {name}: larger dots hold more images; dashed: perfect calibration. Expected calibration error \
         {error:.4}"
    );
    let plot = plots::reliability(&split.calibration);
    let mut mistakes = Vec::new();
    for (number, mistake) in split.mistakes.iter().take(MISTAKES).enumerate() {
        let Some(png) = images.get(&(name.clone(), mistake.row)) else { continue };
        let (class, predicted) = (&mistake.class, &mistake.predicted);
        let file = format!("{folder}/mistake-{}-{:02}.png", slug(name), number + 1);
        let alt = format!("Image of {class}, index {}, read as {predicted}", mistake.index);
        mistakes.push(MistakeView {
            figure: figures.embed(&file, png, alt, "")?,
            class: class.clone(),
            predicted: predicted.clone(),
            probability: percent(mistake.probability),
            class_probability: percent(mistake.class_probability),
        });
    }
    let wrong = split.accuracy.samples - split.accuracy.correct;
    Ok(SplitView {
        open: name == "test",
        reliability: figures.embed(
            &format!("{folder}/reliability-{}.svg", slug(name)),
            plot.as_bytes(),
            alt,
            caption,
        )?,
        confusions: (!split.confusions.is_empty()).then(|| confusions(&run.folder, split, trained)),
        note: format!(
            "{} of {} images are read wrongly.{} All answers stand in {PREDICTIONS} of the run's evaluation.",
            grouped(wrong),
            grouped(split.accuracy.samples),
            match exchanges_freely(run) {
                true =>
                    " The free exchange of digits also showed classes in training that the training split lacks.".into(),
                false => {
                    let text = match &split.classes[..] {
                        [] => evaluated.map(|classes| how_many_seen(classes, trained)).unwrap_or_default(),
                        classes => accuracy_by_seen(classes, trained),
                    };
                    text + &most_frequent_unseen(&split.confusions, trained)
                }
            }
        ),
        name: name.clone(),
        map,
        confusion,
        mistakes,
    })
}

/// The accuracy of each class. The colour is the share of wrong answers, relative to the class with the largest share.
fn accuracy_map(run: &str, split: &SplitMetrics, digits: usize) -> Table {
    let by_class: BTreeMap<i64, &Accuracy> =
        split.classes.iter().filter_map(|class| Some((class.class.parse().ok()?, &class.accuracy))).collect();
    let worst = by_class.values().map(|accuracy| 1.0 - accuracy.value).fold(0.0, f64::max);
    let what = if digits == 1 { "digit" } else { "pair: left digit by row, right digit by column" };
    let scale = if worst > 0.0 { format!("; the strongest colour is {} wrong", percent(worst)) } else { String::new() };
    let caption = format!("Accuracy on {} in percent, per {what}{scale}", split.split);
    let file = format!("{}/classes-{}", slug(run), slug(&split.split));
    class_map(&file, &caption, digits, |pair| match by_class.get(&labels::label(pair).unwrap_or_default()) {
        Some(accuracy) => {
            let heat = if worst > 0.0 { (1.0 - accuracy.value) / worst } else { 0.0 };
            let text = format!("{:.0}", 100.0 * accuracy.value);
            Cell { text, raw: accuracy.value.to_string(), kind: "wrong", heat: 0.05 + 0.85 * heat }
        }
        None => Cell { text: "·".to_owned(), kind: "none", ..Cell::default() },
    })
}

/// How often each digit was taken for each digit. The colour of a mistake is its count, relative to
/// the most frequent mistake.
fn confusion(run: &str, split: &SplitMetrics, at: &PositionMetrics) -> Table {
    let file = format!("{}/confusion-{}-{}", slug(run), slug(&split.split), at.position);
    let caption = format!(
        "Digit {} on {}: right digit by row, found by column; the strongest colour is the most frequent mistake",
        at.position, split.split
    );
    let rows = at.confusion.iter().enumerate();
    let wrong = rows.flat_map(|(digit, row)| row.iter().enumerate().filter(move |(other, _)| *other != digit));
    let most = wrong.map(|(_, n)| *n).max();
    class_map(&file, &caption, 2, |[digit, predicted]| {
        let row = at.confusion.get(usize::from(digit));
        let n = row.and_then(|row| row.get(usize::from(predicted))).copied().unwrap_or_default();
        let (kind, heat) = match (digit == predicted, n) {
            (_, 0) => ("none", 0.0),
            (true, _) => ("right", 0.25),
            (false, _) => ("wrong", 0.06 + 0.84 * n as f64 / most.unwrap_or_default().max(1) as f64),
        };
        Cell { kind, heat, ..count(n) }
    })
}

/// Whether training showed the class that a text spells.
fn is_trained(class: &str, trained: &Classes) -> bool {
    class.parse().is_ok_and(|class| trained.contains_key(&class))
}

/// Whether the exchange of digits showed classes in training that the training split lacks.
fn exchanges_freely(run: &Run) -> bool {
    let is = |setting: &str, value: Value| run.settings.pointer(setting) == Some(&value);
    is("/train/augment", true.into()) && is("/augment/exchange", "free".into())
}

/// A sentence about the accuracy on the classes that training showed and on those that it never showed.
fn accuracy_by_seen(classes: &[ClassMetrics], trained: &Classes) -> String {
    let (seen, unseen): (Vec<_>, Vec<_>) = classes.iter().partition(|class| is_trained(&class.class, trained));
    let accuracy = |classes: &[&ClassMetrics]| {
        let sum = |of: fn(&Accuracy) -> u64| classes.iter().map(|class| of(&class.accuracy)).sum::<u64>();
        percent(sum(|accuracy| accuracy.correct) as f64 / sum(|accuracy| accuracy.samples) as f64)
    };
    match (seen.len(), unseen.len()) {
        (_, 0) => " Training showed all of these classes.".to_owned(),
        (0, 1) => " Training never showed this class.".to_owned(),
        (0, n) => format!(" Training never showed any of these {n} classes."),
        _ => format!(
            " Accuracy on classes that training showed: {}; on classes that it never showed: {}.",
            accuracy(&seen),
            accuracy(&unseen)
        ),
    }
}

/// A sentence about how many classes of a split training showed. It stands for the accuracies if there are too many classes for
/// those to be listed.
fn how_many_seen(classes: &Classes, trained: &Classes) -> String {
    let (seen, all) = (classes.keys().filter(|class| trained.contains_key(class)).count(), classes.len());
    let shown = if seen == 0 { "none".to_owned() } else { grouped(seen as u64) };
    format!(" Training showed {shown} of the split's {} classes.", grouped(all as u64))
}

/// A sentence about the most frequent wrong answer to a class that training never showed: whether it names a class that training
/// showed, as a network answers that has learned pairs. Empty if there is no such answer.
fn most_frequent_unseen(confusions: &[ClassConfusion], trained: &Classes) -> String {
    let unseen = confusions.iter().find(|confusion| !is_trained(&confusion.class, trained));
    let Some(ClassConfusion { class, predicted, count }) = unseen else { return String::new() };
    let which = if is_trained(predicted, trained) { "which training showed" } else { "which it never showed either" };
    let times = if *count == 1 { "once".to_owned() } else { format!("{} times", grouped(*count)) };
    format!(
        " The most frequent wrong answer to a class that it never showed is {predicted}, {which}, for {class}: {times}."
    )
}

fn confusions(run: &str, split: &SplitMetrics, trained: &Classes) -> Table {
    let file = format!("{}/confusions-{}", slug(run), slug(&split.split));
    let caption = format!("Most frequent wrong answers on {}", split.split);
    let mut table = Table::new(file, caption, &["<truth", "<read as", "images", "<read class in train"]);
    for confusion in split.confusions.iter().take(CONFUSIONS) {
        let ClassConfusion { class, predicted, count: images } = confusion;
        let is_trained = if is_trained(predicted, trained) { "yes" } else { "no" };
        table.rows.push(vec![words(class), words(predicted), count(*images), words(is_trained)]);
    }
    table
}

fn elsewhere(run: &Run) -> Table {
    let titles = ["<data", "<split", "images", "accuracy", "95% interval", "loss"];
    let mut table = Table::new(format!("{}/elsewhere", slug(&run.folder)), "On other data", &titles);
    for (_, metrics) in &run.elsewhere {
        for split in &metrics.splits {
            let row = [words(metrics.data.join(", ")), words(&split.split), count(split.samples as u64)];
            let numbers =
                [share(Some(split.accuracy.value)), interval(&split.accuracy), number(Some(split.loss), loss)];
            table.rows.push(row.into_iter().chain(numbers).collect());
        }
    }
    table
}

/// The settings of training and augmentation, one row each.
fn settings(run: &Run) -> Option<Table> {
    let mut table = Table::new(format!("{}/settings", slug(&run.folder)), "Settings", &["<setting", "<value"]);
    for section in ["train", "augment"] {
        if let Some(settings) = run.settings.get(section).filter(|settings| !settings.is_null()) {
            leaves(section, settings, &mut table);
        }
    }
    (!table.rows.is_empty()).then_some(table)
}

fn leaves(path: &str, value: &Value, table: &mut Table) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| leaves(&format!("{path}.{key}"), value, table)),
        Value::String(text) => table.rows.push(vec![words(path), words(text)]),
        other => table.rows.push(vec![words(path), words(other.to_string().replace(',', ", "))]),
    }
}

fn environment(run: &Run) -> Option<Table> {
    let mut table = Table::new(format!("{}/environment", slug(&run.folder)), "Environment", &["<what", "<value"]);
    let environment = &run.environment;
    let mut add = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            // a digest is one long word
            let kind = if ["commit", "data set"].contains(&what) { "code" } else { "" };
            table.rows.push(vec![words(what), Cell { kind, ..words(value) }]);
        }
    };
    add("program", environment.version.as_ref().map(|version| format!("multidigit {version}")));
    add("commit", environment.commit.clone());
    add("processor", environment.cpu.clone());
    add("cores", environment.cores.map(|n| n.to_string()));
    add("threads", environment.threads.map(|n| n.to_string()));
    add("device", environment.device.clone());
    add("products", environment.products.clone());
    add("data set", environment.dataset.clone());
    add("began (UTC)", environment.started.map(utc));
    if run.state == RunState::Finished {
        add("ended (UTC)", run.when.map(utc));
    }
    add("time", run.seconds().map(span));
    (!table.rows.is_empty()).then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_training_that_augments_exchanges_freely() {
        let cases = [(true, "free", true), (false, "free", false), (true, "strict", false)];
        for (augment, exchange, expected) in cases {
            let settings = serde_json::json!({"train": {"augment": augment}, "augment": {"exchange": exchange}});
            let run = Run { settings, ..Run::read(&crate::runs::Place::default()).unwrap() };
            assert_eq!(exchanges_freely(&run), expected, "{augment} {exchange}");
        }
    }

    #[test]
    fn a_split_tells_of_classes_that_training_showed_and_never_showed() {
        let class = |class: &str, right: usize| ClassMetrics {
            class: class.to_owned(),
            accuracy: Accuracy::of((0..4).map(|n| n < right)),
        };
        let confusion = |class: &str, predicted: &str, count| ClassConfusion {
            class: class.to_owned(),
            predicted: predicted.to_owned(),
            count,
        };
        let trained = Classes::from([(33, 7), (12, 7)]);
        let confusions = [confusion("12", "13", 9), confusion("32", "33", 3), confusion("32", "31", 1)];
        let tell = |classes: &[ClassMetrics], confusions: &[ClassConfusion]| {
            accuracy_by_seen(classes, &trained) + &most_frequent_unseen(confusions, &trained)
        };
        assert_eq!(tell(&[class("12", 3), class("33", 4)], &confusions[..1]), " Training showed all of these classes.");
        assert_eq!(
            tell(&[class("32", 0), class("05", 1)], &confusions[1..]),
            " Training never showed any of these 2 classes. The most frequent wrong answer to a class that it never showed \
             is 33, which training showed, for 32: 3 times."
        );
        assert_eq!(
            tell(
                &[class("12", 3), class("32", 1), class("33", 4)],
                &[confusion("12", "13", 9), confusion("32", "31", 1)]
            ),
            " Accuracy on classes that training showed: 87.50%; on classes that it never showed: 25.00%. The most frequent \
             wrong answer to a class that it never showed is 31, which it never showed either, for 32: once."
        );
        assert_eq!(tell(&[class("05", 4)], &[]), " Training never showed this class.");
        let many = |from: i64| (from..from + 2000).map(|class| (class, 1)).collect::<Classes>();
        assert_eq!(how_many_seen(&many(0), &trained), " Training showed 2 of the split's 2,000 classes.");
        assert_eq!(how_many_seen(&many(50), &trained), " Training showed none of the split's 2,000 classes.");
    }
}
