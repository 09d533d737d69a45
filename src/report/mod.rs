//! The stage `report`: one page for people, out of the numbers that the other stages left.
//!
//! In: the data set's facts and picture, a few of its images and the settings of their augmentation, each run's
//! `metrics.csv` and `metrics.json`. Out: `index.html`, which needs no network and no script, and every figure as a file in
//! `figures/`. The report computes nothing that another stage states.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::{Deserialize, Serialize};

use crate::augment::{self, preview};
use crate::dataset::card;
use crate::error::{Error, Result};
use crate::evaluate::{self, Metrics};
use crate::files;
use crate::plan::Facts;
use crate::plan::split::NAMES;
use crate::plan::table;
use crate::raw::Source;
use crate::shards::{DATA, Shards};
use crate::train::metrics::{self, Epoch};

mod plots;

/// The page's file.
pub const FILE: &str = "index.html";

/// Images and epochs in the picture of the augmentation.
const PREVIEW_ROWS: usize = 4;
const PREVIEW_EPOCHS: usize = 6;

/// The section `report`: nothing can be set yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

/// A run to report on.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The run's name.
    pub name: String,
    /// The folder that `train` left.
    pub train: PathBuf,
    /// The folder that `evaluate` left, where it did.
    pub evaluate: Option<PathBuf>,
}

/// What the page says.
#[derive(Serialize)]
struct Page {
    title: String,
    facts: Facts,
    /// Name and samples of each split.
    splits: Vec<(&'static str, u64)>,
    synthetic: bool,
    glyph_digest: String,
    leakage: String,
    /// The picture of the data set: PNG in base64.
    montage: String,
    /// The picture of the augmentation: PNG in base64.
    augmentation: String,
    runs: Vec<RunView>,
    /// Names of runs on other data.
    others: String,
}

/// What the page says of a run.
#[derive(Serialize)]
struct RunView {
    name: String,
    /// What was evaluated, in words; empty if nothing was.
    evaluated: String,
    epochs: usize,
    last: Epoch,
    splits: Vec<evaluate::SplitMetrics>,
    /// Curves: SVG in base64. As pictures, since inlined SVGs would share their ids.
    accuracy_plot: String,
    loss_plot: String,
}

/// Writes the page about a data set (a folder of the stage dataset), its augmentation and the runs trained on it into `out`;
/// `others` are the names of runs trained on other data, of which it says just that.
pub fn run(dataset: &Path, augment: &augment::Config, runs: &[Run], others: &[String], out: &Path) -> Result<()> {
    let figures = out.join("figures");
    files::create_dir(&figures)?;
    let shards = Shards::open(&dataset.join(DATA), NAMES[0])?;
    let facts = table::facts(shards.first())?;
    let montage = files::read(&dataset.join(card::MONTAGE))?;
    files::write(&figures.join(card::MONTAGE), &montage)?;
    let augmentation = preview::png(&preview::draw(augment, dataset, PREVIEW_ROWS, PREVIEW_EPOCHS)?);
    files::write(&figures.join(preview::FILE), &augmentation)?;
    let runs = runs.iter().map(|run| view(run, &figures)).collect::<Result<Vec<RunView>>>()?;
    let page = Page {
        title: card::title(facts.plan.digits),
        splits: NAMES.into_iter().zip(facts.counts.as_array().map(|&count| count)).collect(),
        synthetic: facts.glyphs.name == Source::Synthetic.name(),
        glyph_digest: facts.glyphs.digest.short(),
        leakage: facts.leakage_sentence(),
        montage: BASE64_STANDARD.encode(&montage),
        augmentation: BASE64_STANDARD.encode(&augmentation),
        runs,
        others: others.join(", "),
        facts,
    };
    let mut templates = Environment::new();
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    let html = templates
        .add_template(FILE, include_str!("page.html"))
        .and_then(|()| templates.get_template(FILE)?.render(Serde(page)))
        .map_err(|error| Error::Io {
            path: out.join(FILE),
            action: "render it",
            source: std::io::Error::other(error),
        })?;
    files::write(&out.join(FILE), html.as_bytes())
}

fn view(run: &Run, figures: &Path) -> Result<RunView> {
    let table = run.train.join(metrics::FILE);
    let epochs = metrics::read(&table)?;
    let Some(last) = epochs.last().cloned() else {
        return Err(Error::format(&table, "no epochs", "at least one; train the run again"));
    };
    let evaluated = run.evaluate.as_deref().map(|folder| Metrics::read(&folder.join(evaluate::FILE))).transpose()?;
    let accuracy_plot =
        plots::curves("joint accuracy", Some(1.0), &epochs, |epoch| (epoch.train_accuracy, epoch.val_accuracy));
    let loss_plot = plots::curves("loss", None, &epochs, |epoch| (epoch.train_loss, epoch.val_loss));
    for (kind, plot) in [("accuracy", &accuracy_plot), ("loss", &loss_plot)] {
        files::write(&figures.join(format!("{}-{kind}.svg", run.name)), plot.as_bytes())?;
    }
    Ok(RunView {
        name: run.name.clone(),
        evaluated: evaluated.as_ref().map(evaluated_on).unwrap_or_default(),
        epochs: epochs.len(),
        splits: evaluated.map(|metrics| metrics.splits).unwrap_or_default(),
        last,
        accuracy_plot: BASE64_STANDARD.encode(accuracy_plot),
        loss_plot: BASE64_STANDARD.encode(loss_plot),
    })
}

/// How many images of each split were looked at, with which weights.
fn evaluated_on(metrics: &Metrics) -> String {
    let splits: Vec<String> = metrics.splits.iter().map(|s| format!("{} {} images", s.samples, s.split)).collect();
    format!("{}, with the weights of epoch {}", splits.join(" and "), metrics.epoch)
}
