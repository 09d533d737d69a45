//! The model card: `README.md` beside the metrics of an evaluated network, with the YAML header that Hugging Face
//! reads. Its text is the template `card.md`.
//!
//! The header's `library_name` is that of this project, whose Python package loads the weights. No library that Hugging Face
//! knows does: with `candle` or `pytorch`, its page would offer code that knows no such network.

use serde::Serialize;
use serde_json::Value;

use super::Run;
use super::format::{percent, span};
use super::paper::differences;
use crate::documents;
use crate::evaluate::metrics::PositionMetrics;
use crate::evaluate::{Metrics, SplitMetrics};
use crate::plan::facts::GlyphSet;
use crate::plan::{self, Facts};
use crate::raw::{Licence, Origin};

/// The file name of the card.
pub const FILE: &str = "README.md";

/// The values of the template. Numbers with decimals are texts, as the card shows them.
#[derive(Serialize)]
struct Card<'a> {
    name: &'a str,
    quoted_name: String,
    /// The name of the data set.
    title: String,
    origin: Origin,
    licence: Licence,
    model: String,
    parameters: usize,
    digits: usize,
    height: usize,
    width: usize,
    epoch: usize,
    weights_file: &'static str,
    splits: Vec<SplitRow>,
    /// The settings of the training: key and value.
    settings: Vec<(String, String)>,
    epochs_done: usize,
    /// The time of the epochs with their validation.
    time: Option<String>,
    plan: &'a plan::Config,
    glyphs: &'a GlyphSet,
    glyphs_digest: String,
    leakage_sentence: String,
    /// The differences from the paper's recipe.
    differences: Vec<String>,
}

/// The results on one split.
#[derive(Serialize)]
struct SplitRow {
    name: String,
    quoted_name: String,
    images: usize,
    accuracy: String,
    interval: String,
    loss: String,
    /// The results at each position, from the left.
    positions: Vec<Option<PositionCells>>,
    /// The entries of the header's `model-index`.
    metrics: Vec<Metric>,
}

/// The results at one position.
#[derive(Serialize)]
struct PositionCells {
    accuracy: String,
    macro_f1: String,
}

/// A metric as Hugging Face lists it.
#[derive(Serialize)]
struct Metric {
    kind: &'static str,
    name: String,
    value: String,
}

/// The card of a run that was trained on a data set with these facts.
pub fn card(run: &Run, metrics: &Metrics, facts: &Facts) -> String {
    let [height, width] = metrics.image_size;
    let origin = facts.glyphs.origin();
    let card = Card {
        name: &run.name,
        quoted_name: quoted(&run.name),
        title: origin.title(facts.plan.digits),
        origin,
        licence: origin.licence(),
        model: metrics.model.to_string(),
        parameters: metrics.parameters,
        digits: metrics.digits,
        height,
        width,
        epoch: metrics.epoch,
        weights_file: metrics.weights.file(),
        splits: metrics.splits.iter().map(|split| split_row(split, metrics.digits)).collect(),
        settings: settings(run),
        epochs_done: run.epochs.len(),
        time: run.seconds().map(span),
        plan: &facts.plan,
        glyphs: &facts.glyphs,
        glyphs_digest: facts.glyphs.digest.short(),
        leakage_sentence: facts.leakage_sentence(),
        differences: differences(run, facts),
    };
    documents::markdown(include_str!("card.md"), &card)
}

fn split_row(split: &SplitMetrics, digits: usize) -> SplitRow {
    let cells = |position: &PositionMetrics| PositionCells {
        accuracy: percent(position.accuracy.value),
        macro_f1: format!("{:.4}", position.macro_f1),
    };
    SplitRow {
        name: split.split.clone(),
        quoted_name: quoted(&split.split),
        images: split.samples,
        accuracy: percent(split.accuracy.value),
        interval: format!("{} to {}", percent(split.accuracy.low), percent(split.accuracy.high)),
        loss: format!("{:.4}", split.loss),
        positions: (0..digits).map(|position| split.positions.get(position).map(cells)).collect(),
        metrics: model_index(split),
    }
}

/// The metrics of a split that the header lists.
fn model_index(split: &SplitMetrics) -> Vec<Metric> {
    let metric = |kind: &'static str, name: String, value: f64| Metric { kind, name, value: value.to_string() };
    let mut all = vec![
        metric("accuracy", "joint-digit accuracy".to_owned(), split.accuracy.value),
        metric("loss", "loss".to_owned(), split.loss),
    ];
    for at in &split.positions {
        all.push(metric("accuracy", format!("accuracy of digit {}", at.position), at.accuracy.value));
        all.push(metric("f1", format!("macro F1 of digit {}", at.position), at.macro_f1));
    }
    all.push(metric("ece", "expected calibration error".to_owned(), split.calibration.expected_error));
    all
}

/// The settings of the training as cells of a Markdown table.
fn settings(run: &Run) -> Vec<(String, String)> {
    let cell = |value: &Value| value.to_string().replace('"', "").replace('|', "\\|");
    let section = run.settings.get("train").and_then(Value::as_object).into_iter().flatten();
    section.map(|(key, value)| (key.clone(), cell(value))).collect()
}

/// A text quoted for YAML.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
