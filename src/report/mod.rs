//! The stage `report`: one page for people, made from the numbers that the other stages left.
//!
//! The input is the data set's facts, a few of its images, the settings of the augmentation, and the runs as
//! [`crate::runs`] reads them. The output is `index.html`, which needs no network and no script, with every figure as a
//! file in `figures/` and every table as CSV in `tables/`. The report computes no number that another stage states.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{State, Value, context};
use serde::{Deserialize, Serialize};

use self::figures::{Figure, Figures};
use self::tables::{Cell, STRONG, Table, count, loss, number, share, words};
use self::view::{MISTAKES, MistakeImages, RunView};
use crate::augment::{self, preview};
use crate::dataset::card;
use crate::digest::Digest;
use crate::documents;
use crate::error::{Error, Result};
use crate::files;
use crate::plan::Facts;
use crate::plan::table;
use crate::raw::Origin;
use crate::runs::format::{grouped, percent, span, utc};
use crate::runs::groups::{Group, Spread};
use crate::runs::paper::{self, differences};
use crate::runs::{self, Run, Summary};

mod data;
mod figures;
mod overlay;
mod plots;
mod tables;
mod view;

/// The file name of the page.
pub const FILE: &str = "index.html";

/// The numbers of images and of epochs in the picture of the augmentation.
const PREVIEW_ROWS: usize = 4;
const PREVIEW_EPOCHS: usize = 6;

/// The maximum number of runs that are shown individually: with the figures of more runs, the page would exceed 5 MB.
/// Further runs are in the tables only.
const MOST_RUNS: usize = 24;

/// The settings of the report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The runs to compare, by name or by pattern: `*` stands for any characters, `?` for any one; empty: all runs that
    /// were trained on the data set.
    pub runs: Vec<String>,
}

/// The content to report on.
#[derive(Debug, Clone)]
pub struct Content {
    /// The data set: a folder of the stage `dataset`.
    pub dataset: PathBuf,
    /// The settings of its augmentation.
    pub augment: augment::Config,
    /// The content digests of the data set and of the stages that it is made from, by stage.
    pub digests: Vec<(&'static str, Digest)>,
    /// The runs on this data set, best first.
    pub runs: Vec<Run>,
    /// The names of the runs that are left out, because they were trained on other data.
    pub others: Vec<String>,
}

/// The values of the page's template.
#[derive(Serialize)]
struct Page {
    title: String,
    style: &'static str,
    /// A few numbers at the top of the page, each with its description.
    highlights: Vec<(String, String)>,
    synthetic: bool,
    leakage_sentence: String,
    description: String,
    /// The curves of all runs in one chart.
    overlay: Option<Figure>,
    runs: Option<Table>,
    /// The runs that differ in their seed alone.
    seeds: Option<(Table, Option<Figure>)>,
    paper: Option<Table>,
    /// The names of the runs whose recipe is not the paper's, each with the differences.
    differences: Vec<(String, String)>,
    views: Vec<RunView>,
    /// The names of the runs that are in the tables only.
    beyond: Vec<String>,
    /// The names of the runs on other data, and the number of all runs.
    others: Vec<String>,
    all: usize,
    balance: Table,
    digits: Table,
    map: Option<Table>,
    leakage: Table,
    montages: Vec<Figure>,
    augmentation: Figure,
    settings: Table,
    digests: Table,
}

/// Writes the page, its figures and its tables into the folder `out`.
pub fn run(content: &Content, out: &Path) -> Result<()> {
    let figures = Figures::new(&out.join("figures"))?;
    let splits = data::splits(&content.dataset)?;
    let facts = table::facts(splits[0].shards.first())?;
    let page = page(content, &facts, &splits, &figures)?;
    let html = render(&page).map_err(|error| Error::Io {
        path: out.join(FILE),
        action: "render it",
        source: std::io::Error::other(error),
    })?;
    for table in page.tables() {
        table.save(&out.join("tables"))?;
    }
    files::write(&out.join(FILE), html.as_bytes())
}

fn render(page: &Page) -> std::result::Result<String, minijinja::Error> {
    let mut templates = documents::html()?;
    templates.add_template("table.html", include_str!("table.html"))?;
    templates.add_template("figure.html", include_str!("figure.html"))?;
    templates.add_template("run.html", include_str!("run.html"))?;
    templates.add_template(FILE, include_str!("page.html"))?;
    // parts that occur many times on the page, each a template of one value
    let part = |name: &'static str| {
        move |state: &State, it: Value, class: Option<String>| -> std::result::Result<Value, minijinja::Error> {
            let values = context! { it, class, strong => STRONG };
            Ok(Value::from_safe_string(state.env().get_template(name)?.render(values)?))
        }
    };
    templates.add_function("table", part("table.html"));
    templates.add_function("figure", part("figure.html"));
    templates.add_function("section", part("run.html"));
    templates.get_template(FILE)?.render(Serde(page))
}

fn page(content: &Content, facts: &Facts, splits: &[data::SplitShards; 3], figures: &Figures) -> Result<Page> {
    let runs = &content.runs;
    let (shown, beyond) = runs.split_at(runs.len().min(MOST_RUNS));
    let images = images(shown, splits)?;
    let views = shown.iter().map(|run| view::view(run, &images, splits, figures)).collect::<Result<Vec<RunView>>>()?;
    let montage = files::read(&content.dataset.join(card::MONTAGE))?;
    let mut montages = vec![figures.embed(
        card::MONTAGE,
        &montage,
        "One sample for each of up to 100 classes, framed by split",
        "One sample per class. Frame: grey train, blue val, orange test. Thin lines: the digits' boxes",
    )?];
    for split in splits {
        montages.push(data::montage(split, figures)?);
    }
    let layout = splits[0].shards.layout();
    let map = data::map(splits, layout);
    if let Some(map) = &map {
        figures.save(&format!("{}.svg", map.file), map.svg().as_bytes())?;
    }
    let augmentation = preview::png(&preview::draw(&content.augment, &content.dataset, PREVIEW_ROWS, PREVIEW_EPOCHS)?);
    let summaries: Vec<Summary> = runs.iter().map(Run::summary).collect();
    let groups = Group::all(runs);
    let differing = runs.iter().map(|run| (run.name.clone(), differences(run, facts)));
    Ok(Page {
        title: facts.glyphs.origin().title(facts.plan.digits),
        style: include_str!("style.css"),
        highlights: highlights(facts, &summaries),
        synthetic: facts.glyphs.origin() == Origin::Synthetic,
        leakage_sentence: facts.leakage_sentence(),
        description: description(facts),
        overlay: overlay::chart(runs, &groups, figures)?,
        runs: (!runs.is_empty()).then(|| run_table(&summaries)),
        seeds: seeds(&groups, figures)?,
        paper: (!runs.is_empty()).then(|| paper_table(runs, &summaries, facts)),
        differences: differing.filter(|(_, all)| !all.is_empty()).map(|(name, all)| (name, all.join("; "))).collect(),
        views,
        beyond: beyond.iter().map(|run| run.name.clone()).collect(),
        others: content.others.clone(),
        all: runs.len() + content.others.len(),
        balance: data::balance(splits),
        digits: data::digits(splits, layout.digits),
        map,
        leakage: data::leakage(facts),
        montages,
        augmentation: figures.embed(
            preview::FILE,
            &augmentation,
            "Four training images and what becomes of each in six epochs, with the drawn parameters",
            "Training images (first column) and what becomes of them in epochs 0 to 5 under the current settings. Under \
             each: what was drawn",
        )?,
        settings: plan_table(facts),
        digests: digest_table(content),
    })
}

impl Page {
    /// All tables on the page.
    fn tables(&self) -> impl Iterator<Item = &Table> {
        let fixed = [&self.balance, &self.digits, &self.leakage, &self.settings, &self.digests];
        let seeds = self.seeds.as_ref().map(|(table, _)| table);
        let own = fixed
            .into_iter()
            .chain([self.runs.as_ref(), seeds, self.paper.as_ref(), self.map.as_ref()].into_iter().flatten());
        own.chain(self.views.iter().flat_map(|run| {
            let splits =
                run.splits.iter().flat_map(|split| split.map.iter().chain(&split.confusion).chain(&split.confusions));
            [&run.results, &run.elsewhere, &run.settings, &run.environment].into_iter().flatten().chain(splits)
        }))
    }
}

/// The images of the mistakes that are shown for some runs.
fn images(runs: &[Run], splits: &[data::SplitShards]) -> Result<MistakeImages> {
    let mut wanted: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for split in runs.iter().filter_map(|run| run.metrics.as_ref()).flat_map(|metrics| &metrics.splits) {
        let rows = split.mistakes.iter().take(MISTAKES).map(|mistake| mistake.row);
        wanted.entry(&split.split).or_default().extend(rows);
    }
    let mut all = MistakeImages::new();
    for split in splits {
        if let Some(rows) = wanted.get(split.name) {
            let read = data::images(&split.shards, rows)?;
            all.extend(read.into_iter().map(|(row, png)| ((split.name.to_owned(), row), png)));
        }
    }
    Ok(all)
}

fn highlights(facts: &Facts, runs: &[Summary]) -> Vec<(String, String)> {
    let images: u64 = facts.counts.as_array().into_iter().sum();
    let mut all = vec![
        (grouped(images), "images".to_owned()),
        (grouped(facts.plan.classes()), "classes".to_owned()),
        (runs.len().to_string(), if runs.len() == 1 { "run".to_owned() } else { "runs".to_owned() }),
    ];
    let tested = runs.iter().filter_map(|run| run.test_accuracy);
    if let Some(best) = tested.max_by(|a, b| a.value.total_cmp(&b.value)) {
        all.push((percent(best.value), "best accuracy on test".to_owned()));
    }
    all
}

fn description(facts: &Facts) -> String {
    let plan = &facts.plan;
    let [height, width] = plan.image_size;
    format!(
        "{} digit{} in {height}×{width} grey pixels, {} sample{} per class, composed of {} ({} glyphs)",
        plan.digits,
        if plan.digits == 1 { "" } else { "s" },
        grouped(plan.samples_per_class),
        if plan.samples_per_class == 1 { "" } else { "s" },
        facts.glyphs.name,
        grouped(facts.glyphs.count as u64),
    )
}

/// The table of all runs, one row each.
fn run_table(runs: &[Summary]) -> Table {
    let titles = [
        "<run",
        "<state",
        "<model",
        "learning rate",
        "seed",
        "epochs",
        "train accuracy",
        "train loss",
        "val accuracy",
        "val loss",
        "test accuracy",
        "95% interval",
        "test loss",
        "time",
        "<when (UTC)",
    ];
    let caption =
        "Runs, best first. Train: last epoch. Val: epoch with the lowest val loss. Accuracy: every digit right";
    let mut table = Table::new("runs", caption, &titles);
    for run in runs {
        let text = |value: Option<String>| words(value.unwrap_or_else(|| "–".to_owned()));
        let kind = match run.state {
            runs::RunState::Finished => "",
            runs::RunState::Unfinished => "unfinished",
            runs::RunState::Stopped => "stopped",
        };
        let epochs = match run.epochs_planned {
            Some(planned) if planned != run.epochs as u64 => format!("{} of {planned}", run.epochs),
            _ => run.epochs.to_string(),
        };
        table.rows.push(vec![
            words(&run.run),
            Cell { kind, ..words(run.state.name()) },
            text(run.model.clone()),
            number(run.learning_rate, |rate| rate.to_string()),
            text(run.seed.map(|seed| seed.to_string())),
            Cell { raw: run.epochs.to_string(), ..words(epochs) },
            share(run.train_accuracy),
            number(run.train_loss, loss),
            share(run.best_val_accuracy),
            number(run.best_val_loss, loss),
            share(run.test_accuracy.map(|test| test.value)),
            run.test_accuracy.map_or_else(|| number(None, loss), |test| view::interval(&test)),
            number(run.test_loss, loss),
            number(run.seconds, span),
            Cell { kind: "when", ..text(run.when.map(utc)) },
        ]);
    }
    table
}

/// The table of runs that differ in their seed alone, and the picture of their accuracy on test. `None` if there are none.
fn seeds(groups: &[Group], figures: &Figures) -> Result<Option<(Table, Option<Figure>)>> {
    if groups.is_empty() {
        return Ok(None);
    }
    let titles = [
        "<runs",
        "seeds",
        "train accuracy",
        "train sd",
        "val accuracy",
        "val sd",
        "test accuracy",
        "test sd",
        "lowest test",
        "highest test",
        "time",
    ];
    let caption = "Runs that differ in their seed alone: mean and standard deviation (sd) over the seeds. Val, test: evaluated weights";
    let mut table = Table::new("seeds", caption, &titles);
    let mut tested = Vec::new();
    for group in groups {
        let evaluated = |name: &str| group.spread(|run| Some(run.metrics.as_ref()?.split(name)?.accuracy.value));
        let (val, test) = (evaluated("val"), evaluated("test"));
        tested.extend(test.map(|test| (group.name.clone(), test)));
        let mut row = vec![words(&group.name), count(group.runs.len() as u64)];
        let train = group.spread(|run| run.epochs.last().map(|epoch| epoch.train_accuracy));
        for spread in [train, val, test] {
            row.push(share(spread.map(|spread| spread.mean)));
            row.push(number(spread.and_then(|spread| spread.deviation), |sd| format!("{:.2}", 100.0 * sd)));
        }
        row.extend([share(test.map(|test| test.low)), share(test.map(|test| test.high))]);
        row.push(number(group.spread(Run::seconds).map(|time| time.mean), span));
        table.rows.push(row);
    }
    if tested.is_empty() {
        return Ok(Some((table, None)));
    }
    let range = |(name, test): &(String, Spread)| {
        format!("{name}: mean {}, from {} to {}", percent(test.mean), percent(test.low), percent(test.high))
    };
    let alt = format!("Accuracy on test over seeds. {}.", tested.iter().map(range).collect::<Vec<_>>().join("; "));
    let caption = "Accuracy on test: the mean over the seeds, and a line from the lowest to the highest seed";
    let picture = figures.embed("seeds.svg", plots::ranges(&tested).as_bytes(), alt, caption)?;
    Ok(Some((table, Some(picture))))
}

/// The table of all runs, each above the paper's row for its model and learning rate.
fn paper_table(runs: &[Run], summaries: &[Summary], facts: &Facts) -> Table {
    let titles =
        ["<run", "<recipe", "train accuracy", "train loss", "val accuracy", "val loss", "test accuracy", "test loss"];
    let mut table = Table::new("paper", "Runs beside the paper's Table 1 (30 epochs, split by class)", &titles);
    for (run, summary) in runs.iter().zip(summaries) {
        let recipe = match differences(run, facts).is_empty() {
            true => Cell { kind: "same", ..words("the paper's") },
            false => Cell { kind: "differs", ..words("differs, see below") },
        };
        let test = summary.test_accuracy.map(|test| test.value);
        table.rows.push(vec![
            words(&run.name),
            recipe,
            share(summary.train_accuracy),
            number(summary.train_loss, loss),
            share(summary.best_val_accuracy),
            number(summary.best_val_loss, loss),
            share(test),
            number(summary.test_loss, loss),
        ]);
        if let Some(row) = paper::row_of(run) {
            let name = format!("paper: {}, {}", row.model, row.learning_rate);
            let mut cells = vec![Cell { kind: "paper", ..words(name) }, words("")];
            for (accuracy, lost) in [row.train, row.val, row.test] {
                cells.extend([share(Some(accuracy)), number(Some(lost), |lost| lost.to_string())]);
            }
            table.rows.push(cells);
        }
    }
    table
}

fn plan_table(facts: &Facts) -> Table {
    let mut table = Table::new("plan", "Settings of the data set", &["<setting", "<value"]);
    let plan = &facts.plan;
    let ratio = plan.split.ratio.map(|part| part.to_string()).join("/");
    let by = serde_json::json!(plan.split.by).as_str().unwrap_or_default().to_owned();
    let rows = [
        ("glyphs", facts.glyphs.name.clone()),
        ("digits", plan.digits.to_string()),
        ("image size (height × width)", format!("{} × {}", plan.image_size[0], plan.image_size[1])),
        ("samples per class", plan.samples_per_class.to_string()),
        ("seed", plan.seed.to_string()),
        ("split", format!("{ratio} by {by}")),
    ];
    table.rows.extend(rows.map(|(setting, value)| vec![words(setting), words(value)]));
    table
}

fn digest_table(content: &Content) -> Table {
    let mut table = Table::new("digests", "Content digests (BLAKE3)", &["<stage", "<digest"]);
    let row =
        |(stage, digest): &(&str, Digest)| vec![words(*stage), Cell { kind: "code", ..words(digest.to_string()) }];
    table.rows.extend(content.digests.iter().map(row));
    table
}
