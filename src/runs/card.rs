//! The model card: `README.md` beside an evaluated network, with the YAML header that Hugging Face reads.

use serde_json::Value;

use super::Run;
use super::format::{percent, span};
use super::paper::differences;
use crate::dataset::card;
use crate::evaluate::statistics::Accuracy;
use crate::evaluate::{Metrics, SplitMetrics};
use crate::plan::Facts;
use crate::raw::{Licence, Origin};

/// The card's file.
pub const FILE: &str = "README.md";

/// The card of a run that was trained on a data set with these facts.
pub fn card(run: &Run, metrics: &Metrics, facts: &Facts) -> String {
    let title = card::title(facts.plan.digits);
    let Licence { id: licence, sentence: licence_sentence } = facts.glyphs.origin().licence();
    let (name, model) = (&run.name, metrics.model);
    let mut text = format!("---\nlicense: {licence}\npipeline_tag: image-classification\n");
    text.push_str("tags:\n- mnist\n- multi-label\n- safetensors\n");
    text.push_str(&format!("- {model}\n"));
    if facts.glyphs.origin() == Origin::Mnist {
        text.push_str("datasets:\n- ylecun/mnist\n");
    }
    text.push_str("metrics:\n- accuracy\n- f1\n");
    text.push_str(&format!("model-index:\n- name: {}\n  results:\n", quoted(name)));
    metrics.splits.iter().for_each(|split| text.push_str(&results(split, &title)));
    let [height, width] = metrics.image_size;
    let (digits, parameters, epoch) = (metrics.digits, metrics.parameters, metrics.epoch);
    let s = if digits == 1 { "" } else { "s" };
    let weights = metrics.weights;
    text.push_str(&format!("---\n\n# {name}\n\n"));
    text.push_str(&format!(
        "A network that reads the {digits} digit{s} in grey images of {height}x{width} pixels: {model}, {parameters} \
         parameters, one head per digit. Trained by `multidigit` on {title}; the weights are those after epoch {epoch}.\n\n"
    ));
    if facts.glyphs.origin() == Origin::Synthetic {
        text.push_str(
            "**Trained on synthetic glyphs** that the program drew. Its numbers say nothing about MNIST.\n\n",
        );
    }
    text.push_str("## Results\n\n| split | images | accuracy | 95% interval | loss |");
    let positions = |text: &mut String, entry: &dyn Fn(usize) -> String| {
        (0..digits).for_each(|position| text.push_str(&entry(position)));
        text.push('\n');
    };
    positions(&mut text, &|position| format!(" digit {0} | macro F1 {0} |", position + 1));
    text.push_str("|---|---|---|---|---|");
    positions(&mut text, &|_| "---|---|".to_owned());
    for split in &metrics.splits {
        let Accuracy { value, low, high, .. } = split.accuracy;
        let (name, samples, loss) = (&split.split, split.samples, split.loss);
        let interval = format!("{} to {}", percent(low), percent(high));
        text.push_str(&format!("| {name} | {samples} | {} | {interval} | {loss:.4} |", percent(value)));
        positions(&mut text, &|position| match split.positions.get(position) {
            Some(at) => format!(" {} | {:.4} |", percent(at.accuracy.value), at.macro_f1),
            None => " | |".to_owned(),
        });
    }
    text.push_str(
        "\nAccuracy: every digit of the image right. Loss: cross entropy, summed over the digits. Intervals: Wilson's \
         score, for the number of images alone.\n\n## Training\n\n| setting | value |\n|---|---|\n",
    );
    for (key, value) in run.settings.get("train").and_then(Value::as_object).into_iter().flatten() {
        text.push_str(&format!("| `train.{key}` | {} |\n", value.to_string().replace('"', "").replace('|', "\\|")));
    }
    text.push_str(&format!("| epochs done | {} |\n", run.epochs.len()));
    if let Some(seconds) = run.seconds {
        text.push_str(&format!("| time | {} |\n", span(seconds)));
    }
    let split_by = facts.plan.split.ratio.map(|part| part.to_string()).join("/");
    text.push_str(&format!(
        "\nData: {title}, {} images per class, split {split_by}, seed {}, glyphs: {} (content `{}`). {}.\n\n",
        facts.plan.samples_per_class,
        facts.plan.seed,
        facts.glyphs.name,
        facts.glyphs.digest.short(),
        facts.leakage_sentence(),
    ));
    match &differences(run, facts)[..] {
        [] => text.push_str("The recipe is the paper's.\n\n"),
        all => text.push_str(&format!("The recipe is not the paper's: {}.\n\n", all.join("; "))),
    }
    text.push_str(&format!(
        "## Use\n\nAsk it about a PNG file in 8-bit grey of {height}x{width} pixels, light digits on black:\n\n\
         ```sh\nmultidigit predict image.png --run {name}\n```\n\n\
         Or load `weights/{}`: parameter names and shapes are PyTorch's. Pixels from 0 to 1 are normalised by the mean and \
         standard deviation in the file's metadata.\n\n## Licence\n\n{licence_sentence}\n",
        weights.file(),
    ));
    text
}

/// One split as entries of the header's `model-index`.
fn results(split: &SplitMetrics, title: &str) -> String {
    let name = quoted(&split.split);
    let mut text = format!(
        "  - task:\n      type: image-classification\n      name: Multi-digit recognition\n    dataset:\n      name: {title}\n\
         \x20     type: {}\n      split: {name}\n    metrics:\n",
        title.to_lowercase().replace(' ', "-")
    );
    let mut metric = |kind: &str, name: &str, value: f64| {
        text.push_str(&format!("    - type: {kind}\n      name: {name}\n      value: {value}\n"));
    };
    metric("accuracy", "joint-digit accuracy", split.accuracy.value);
    metric("loss", "loss", split.loss);
    for at in &split.positions {
        metric("accuracy", &format!("accuracy of digit {}", at.position), at.accuracy.value);
        metric("f1", &format!("macro F1 of digit {}", at.position), at.macro_f1);
    }
    metric("ece", "expected calibration error", split.calibration.expected_error);
    text
}

/// A text as YAML takes it, whatever is in it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
