//! Sweeps: trainings of all combinations of some settings, and tables of their results.
//!
//! A sweep is a file of settings. Its runs are ordinary runs, so an interrupted sweep goes on where it stopped: finished
//! runs are fresh. The tables are gathered from the files that the runs left.
//!
//! Runs on the same data may be trained at the same time, by several processes. A folder of artifacts holds one data set at a
//! time, so runs on other data wait until these runs are done and the data are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::config::{self, Config};
use crate::digest::Digest;
use crate::documents;
use crate::error::{Error, Result, shown};
use crate::evaluate::SplitMetrics;
use crate::guard::guarded;
use crate::pipeline::{self, Pipeline, PipelineError, Request, Stage};
use crate::progress::Progress;
use crate::recipe::{self, Recipe};
use crate::runs::groups::Spread;
use crate::runs::{Run, RunState, Runs};
use crate::{plan, train};

mod tables;

use tables::Tables;
pub use tables::{RUNS, SUMMARY};

/// The stages that a sweep brings up to date for each run.
const STAGES: [Stage; 2] = [Stage::Train, Stage::Evaluate];

/// The folder of the tables of all sweeps, in the folder of artifacts.
pub const FOLDER: &str = "sweep";
/// The maximum number of runs of a sweep.
const MOST_RUNS: usize = 10_000;

/// The key of a grid that names recipes.
const RECIPE: &str = "recipe";
/// The setting over which results are averaged.
const SEED: &str = "train.seed";

/// The titles of the columns with the name of a run, and with the number of seeds.
const RUN: &str = "run";
const SEEDS: &str = "seeds";

/// A result of a run: the title of its column, and its value.
type Measure = (&'static str, fn(&Run) -> Option<f64>);

/// The results of a run, by the titles of their columns: the time of its epochs with their validation, the last epoch in
/// training, and the evaluated weights on val and test.
const RESULTS: [Measure; 7] = [
    ("seconds", Run::seconds),
    ("train_accuracy", |run| run.epochs.last().map(|epoch| epoch.train_accuracy)),
    ("train_loss", |run| run.epochs.last().map(|epoch| epoch.train_loss)),
    ("val_accuracy", |run| evaluated(run, "val").map(|split| split.accuracy.value)),
    ("val_loss", |run| evaluated(run, "val").map(|split| split.loss)),
    ("test_accuracy", |run| evaluated(run, "test").map(|split| split.accuracy.value)),
    ("test_loss", |run| evaluated(run, "test").map(|split| split.loss)),
];

/// The results of the evaluated weights on a split.
fn evaluated<'a>(run: &'a Run, split: &str) -> Option<&'a SplitMetrics> {
    run.metrics.as_ref()?.split(split)
}

/// A sweep.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// The name, which is that of the file.
    pub name: String,
    /// What the sweep is for.
    pub description: String,
    /// The keys of the grid, in order.
    keys: Vec<String>,
    /// The runs, in the order in which they are trained.
    pub runs: Vec<Planned>,
}

/// A run of a sweep.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The configuration.
    pub config: Config,
    /// The flags that make the configuration of the base.
    pub changes: Vec<String>,
    /// The value of each key of the grid, as it stands in the tables.
    values: Vec<String>,
}

/// A value of a grid.
#[derive(Debug, Clone)]
struct Choice {
    /// The value as it stands in the tables.
    name: String,
    /// Whether the name is that of a recipe.
    is_recipe: bool,
    /// The settings that the value stands for.
    settings: Value,
}

/// The choices under a key of a grid: the values of a setting, the names of recipes, or named groups of settings. An error
/// says what is wrong.
fn choices(key: &str, values: &Value) -> Result<Vec<Choice>, String> {
    if [RUN, SEEDS].contains(&key) || RESULTS.iter().any(|(title, _)| key.starts_with(title)) {
        return Err("is the title of another column of the tables; expected another name".to_owned());
    }
    let choices: Vec<Choice> = match values {
        Value::Array(recipes) if key == RECIPE => {
            let recipe = |value: &Value| match value {
                Value::String(name) => Ok(Choice { name: name.clone(), is_recipe: true, settings: Value::Null }),
                other => Err(format!("holds {other}; expected names of recipes")),
            };
            recipes.iter().map(recipe).collect::<Result<_, _>>()?
        }
        Value::Array(values) => {
            let of = |value: &Value| Choice { name: text(value), is_recipe: false, settings: json!({key: value}) };
            values.iter().map(of).collect()
        }
        Value::Object(groups) if groups.values().all(|settings| settings.is_object() || settings.is_null()) => {
            let of = |(name, settings): (&String, &Value)| Choice {
                name: name.clone(),
                is_recipe: false,
                settings: settings.clone(),
            };
            groups.iter().map(of).collect()
        }
        _ => return Err("is no list of values; expected one, or a mapping from names to settings".to_owned()),
    };
    if choices.is_empty() { Err("is empty; expected values to combine".to_owned()) } else { Ok(choices) }
}

/// A sweep as its file holds it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    description: String,
    #[serde(default)]
    settings: Value,
    grid: Map<String, Value>,
}

impl Sweep {
    /// Reads the file of a sweep. Every combination of the grid is a configuration: `base`, changed by the recipe, then by
    /// the settings of the file, those of the grid, and `overrides`. A setting of the grid may not be changed afterwards,
    /// because the tables would then show another value than the run had.
    ///
    /// # Errors
    /// A configuration error if the file is not a sweep, or if a combination is not a valid configuration.
    pub fn read(path: &Path, base: &Config, overrides: &[String]) -> Result<Sweep> {
        let origin = path.display().to_string();
        let text = config::text_of(path)?;
        let read: Result<File, _> = guarded(path, || serde_saphyr::from_str(&text))?;
        let syntax = |message: String| Error::ConfigSyntax { origin: origin.clone(), message };
        let File { description, settings, grid } =
            read.map_err(|error| syntax(shown(&error.without_snippet().to_string())))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            return Err(syntax("a name with a leading dot; expected one that can be the name of a folder".into()));
        }
        if !matches!(settings, Value::Null | Value::Object(_)) {
            return Err(syntax("`settings` is no mapping; expected settings by section, as in pipeline.yaml".into()));
        }
        let mut combinations: Vec<Vec<Choice>> = vec![Vec::new()];
        for (key, values) in &grid {
            let choices = choices(key, values).map_err(|message| syntax(format!("`grid.{key}` {message}")))?;
            let runs = combinations.len().saturating_mul(choices.len());
            if runs > MOST_RUNS {
                return Err(syntax(format!("the grid has {runs} combinations or more; expected at most {MOST_RUNS}")));
            }
            let with = |former: Vec<Choice>| {
                choices.iter().map(move |choice| [&former[..], std::slice::from_ref(choice)].concat())
            };
            combinations = combinations.into_iter().flat_map(with).collect();
        }
        let planned = |choices: Vec<Choice>| -> Result<Planned> {
            let change = |config: Config| -> Result<Config> {
                let mut config = recipe::apply(&settings, config, &origin)?;
                for choice in &choices {
                    config = recipe::apply(&choice.settings, config, &origin)?;
                }
                let config = config.with_all(overrides)?;
                for (key, Choice { name, settings, .. }) in grid.keys().zip(&choices) {
                    if recipe::apply(settings, config.clone(), &origin)? != config {
                        let message = format!("`grid.{key}`: {name} is changed by another key of the grid or by --set");
                        return Err(syntax(format!("{message}; expected one place for each setting")));
                    }
                }
                if let Some(run) = &config.train.run {
                    return Err(Error::value("train.run", run, "null, since every run of a sweep has its own name"));
                }
                if config.evaluate.data.is_some() {
                    let expected = "null, since the tables of a sweep hold results on the data set";
                    return Err(Error::value("evaluate.data", "other images", expected));
                }
                Ok(config)
            };
            let config = match choices.iter().find(|choice| choice.is_recipe) {
                Some(recipe) => Recipe::find("grid.recipe", &recipe.name)?.configure(base, change)?,
                None => {
                    let config = change(base.clone())?;
                    let run = Some(pipeline::run_name(&config));
                    Config { train: train::Config { run, ..config.train }, ..config }
                }
            };
            config.validate().and_then(|()| pipeline::check(&config, &STAGES)).map_err(|error| match error {
                Error::ConfigValue { .. } => {
                    syntax(format!("the run {}: {error}", config.train.run.as_deref().unwrap_or_default()))
                }
                other => other,
            })?;
            let recipe =
                choices.iter().filter(|choice| choice.is_recipe).map(|choice| format!("--recipe {}", choice.name));
            let all = [&settings].into_iter().chain(choices.iter().map(|choice| &choice.settings));
            let sets = all.flat_map(config::leaves).map(|(key, value)| format!("--set {key}={value}"));
            let changes = recipe.chain(sets).chain(overrides.iter().map(|text| format!("--set {text}"))).collect();
            Ok(Planned { config, changes, values: choices.into_iter().map(|choice| choice.name).collect() })
        };
        let runs = combinations.into_iter().map(planned).collect::<Result<Vec<_>>>()?;
        let mut names = BTreeSet::new();
        if let Some(twice) = runs.iter().map(Planned::name).find(|name| !names.insert(name.to_owned())) {
            let why = "a name holds neither `train.epochs` nor settings of `evaluate`";
            return Err(syntax(format!("two combinations are the run {twice}; expected a run for each, and {why}")));
        }
        let keys = grid.keys().cloned().collect();
        Ok(Sweep { name, description: description.trim().to_owned(), keys, runs })
    }

    /// The expectation of every run, with the runs in a folder of artifacts. `pipeline` makes the pipeline of a run.
    pub fn expect(&self, artifacts: &Path, pipeline: impl Fn(&Planned) -> Pipeline) -> Result<Vec<Expectation>> {
        let done = self.done(artifacts, &pipeline)?;
        let done: BTreeSet<String> = done.into_iter().map(|(planned, _)| planned.name().to_owned()).collect();
        let mut times: Vec<(train::Config, plan::Config, Option<Duration>)> = Vec::new();
        let mut data_sets: Vec<Vec<(Stage, Digest)>> = Vec::new();
        let expectation = |planned: &Planned| {
            let (config, run) = (&planned.config, planned.name().to_owned());
            let trained_on = pipeline::training_data(config);
            let data = data_sets.iter().position(|other| *other == trained_on).unwrap_or_else(|| {
                data_sets.push(trained_on);
                data_sets.len() - 1
            });
            if done.contains(&run) {
                return Expectation { run, data, is_done: true, time: None };
            }
            // neither name, seed nor rate changes the time
            let train = train::Config { run: None, seed: 0, learning_rate: 1.0, ..config.train.clone() };
            let known = times.iter().find(|(other, plan, _)| (other, plan) == (&train, &config.plan));
            let time = match known {
                Some((.., time)) => *time,
                None => {
                    let time = pipeline::training_time(config, 0);
                    times.push((train, config.plan.clone(), time));
                    time
                }
            };
            Expectation { run, data, is_done: false, time }
        };
        Ok(self.runs.iter().map(expectation).collect())
    }

    /// The runs in a folder of artifacts that are trained and evaluated by the settings of this sweep.
    fn done(&self, artifacts: &Path, pipeline: impl Fn(&Planned) -> Pipeline) -> Result<Vec<(&Planned, Run)>> {
        let runs = Runs::new(artifacts).list(None)?.into_iter().filter(|run| run.state == RunState::Finished);
        let mut runs: BTreeMap<String, Run> = runs.map(|run| (run.name.clone(), run)).collect();
        let mut done = Vec::new();
        for planned in &self.runs {
            if let Some(run) = runs.remove(planned.name())
                && run.metrics.is_some()
                && pipeline(planned).is_evaluated()?
            {
                done.push((planned, run));
            }
        }
        Ok(done)
    }

    /// The run with this name, which a flag of the command line names.
    ///
    /// # Errors
    /// A configuration error if the sweep has no such run.
    pub fn named(&self, flag: &str, name: &str) -> Result<&Planned> {
        let run = self.runs.iter().find(|run| run.name() == name);
        run.ok_or_else(|| Error::value(flag, name, "the name of a run of the sweep, which --dry-run lists"))
    }

    /// Trains and evaluates every run that is not fresh, one after another, and writes the tables of all runs that are done
    /// after each.
    /// `pipeline` makes the pipeline of a run; `tell` is called with each run. A run that fails is passed over, with a
    /// warning, and is not in the tables.
    ///
    /// # Errors
    /// The error of the first run that failed. [`Error::Format`] if another file stands in the place of a table.
    pub fn run(
        &self,
        artifacts: &Path,
        pipeline: impl Fn(&Planned) -> Pipeline,
        progress: &Progress,
        tell: &mut dyn FnMut(&Run) -> Result<()>,
    ) -> Result<()> {
        let tables = Tables::open(&artifacts.join(FOLDER).join(&self.name))?;
        let request = Request { stages: STAGES.to_vec(), ..Request::default() };
        let mut failed: Vec<(&str, Error)> = Vec::new();
        for (number, planned) in self.runs.iter().enumerate() {
            let run = planned.name();
            progress.note(&format!("run {} of {}: {run}", number + 1, self.runs.len()));
            match pipeline(planned).run(&request, progress, &mut |_, _| Ok(())) {
                Ok(()) => {}
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    progress.warn(&format!("{run}: {error}"));
                    failed.push((run, error));
                    continue;
                }
            }
            let mut done = self.done(artifacts, &pipeline)?;
            done.retain(|(planned, _)| failed.iter().all(|(run, _)| *run != planned.name()));
            done.iter().filter(|(_, found)| found.name == run).try_for_each(|(_, found)| tell(found))?;
            tables.write([self.run_table(&done), self.summary_table(&done)])?;
        }
        if !failed.is_empty() {
            progress.warn(&format!("{} of {} runs failed; the first one:", failed.len(), self.runs.len()));
        }
        failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Writes the tables of the runs that are done, and warns of the others.
    ///
    /// # Errors
    /// [`Error::Format`] if another file stands in the place of a table.
    pub fn commit(&self, artifacts: &Path, pipeline: impl Fn(&Planned) -> Pipeline, progress: &Progress) -> Result<()> {
        let tables = Tables::open(&artifacts.join(FOLDER).join(&self.name))?;
        let done = self.done(artifacts, pipeline)?;
        for run in self.runs.iter().map(Planned::name).filter(|run| done.iter().all(|(_, found)| found.name != *run)) {
            progress.warn(&format!("{run}: not done, and not in the tables"));
        }
        tables.write([self.run_table(&done), self.summary_table(&done)])
    }

    /// The paths of the tables in a folder of artifacts: of the runs, and of their summary.
    pub fn tables(&self, artifacts: &Path) -> [PathBuf; 2] {
        [RUNS, SUMMARY].map(|file| artifacts.join(FOLDER).join(&self.name).join(file))
    }

    /// The table with a row for each run.
    fn run_table(&self, done: &[(&Planned, Run)]) -> String {
        let keys = self.keys.iter().cloned();
        let heading = [RUN.to_owned()].into_iter().chain(keys).chain(RESULTS.map(|(title, _)| title.to_owned()));
        let row = |(planned, run): &(&Planned, Run)| {
            let results = RESULTS.map(|(_, of)| number(of(run)));
            let values = planned.values.iter().cloned();
            [planned.name().to_owned()].into_iter().chain(values).chain(results).collect::<Vec<_>>()
        };
        documents::csv([heading.collect()].into_iter().chain(done.iter().map(row)))
    }

    /// The table with a row for each combination of settings other than the seed: the number of its seeds, and mean and
    /// standard deviation of each result over them.
    fn summary_table(&self, done: &[(&Planned, Run)]) -> String {
        let without_seed = |planned: &Planned| -> Vec<String> {
            let pairs = self.keys.iter().zip(&planned.values).filter(|(key, _)| *key != SEED);
            pairs.map(|(_, value)| value.clone()).collect()
        };
        let mut groups: Vec<(Vec<String>, Vec<&Run>)> = Vec::new();
        for (planned, run) in done {
            let key = without_seed(planned);
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, group)) => group.push(run),
                None => groups.push((key, vec![run])),
            }
        }
        let keys = self.keys.iter().filter(|key| *key != SEED).cloned();
        let titles = RESULTS.iter().flat_map(|(title, _)| [format!("{title}_mean"), format!("{title}_sd")]);
        let heading = keys.chain([SEEDS.to_owned()]).chain(titles).collect::<Vec<_>>();
        let row = |(key, group): (Vec<String>, Vec<&Run>)| {
            let results = RESULTS.iter().flat_map(|(_, of)| {
                let spread = Spread::of(&group.iter().filter_map(|run| of(run)).collect::<Vec<_>>());
                [number(spread.map(|spread| spread.mean)), number(spread.and_then(|spread| spread.deviation))]
            });
            key.into_iter().chain([group.len().to_string()]).chain(results).collect::<Vec<_>>()
        };
        documents::csv([heading].into_iter().chain(groups.into_iter().map(row)))
    }
}

impl Planned {
    /// The name of the run.
    pub fn name(&self) -> &str {
        self.config.train.run.as_deref().unwrap_or_default()
    }

    /// The request that brings the data up to date that the run is trained on.
    pub fn data(&self) -> Request {
        let stages = pipeline::training_data(&self.config).into_iter().map(|(stage, _)| stage).collect();
        Request { stages, ..Request::default() }
    }

    /// Trains and evaluates the run by its pipeline, and returns it. Its data must be fresh, so that several processes can
    /// train runs on the same data.
    ///
    /// # Errors
    /// [`PipelineError::DataStale`] if the data are not fresh.
    pub fn train(&self, pipeline: &Pipeline, progress: &Progress) -> Result<Run> {
        let request = Request { stages: STAGES.to_vec(), single: true, ..Request::default() };
        pipeline.run(&request, progress, &mut |_, _| Ok(())).map_err(|error| match error.area() {
            Some(PipelineError::InputStale { input, why, .. }) => {
                Error::from(PipelineError::DataStale { run: self.name().to_owned(), input, why: why.clone() })
            }
            _ => error,
        })?;
        let (place, _) = Runs::new(pipeline.artifacts()).place(&pipeline.folder(Stage::Train))?;
        Run::read(&place)
    }
}

/// What is expected of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expectation {
    /// The name of the run.
    pub run: String,
    /// The number of the data that the run is trained on, counted from 0 in the order of the runs.
    pub data: usize,
    /// Whether it is trained and evaluated.
    pub is_done: bool,
    /// The time of a whole training on this machine; `None` if the run is done, or if the time is not known beforehand.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub time: Option<Duration>,
}

fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

/// A value of a grid in a table.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A result in a table.
fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, overrides: &[&str]) -> Result<Sweep> {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("mine.yaml");
        std::fs::write(&file, text).unwrap();
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        Sweep::read(&file, &Config::default(), &overrides)
    }

    fn names(sweep: &Sweep) -> Vec<&str> {
        sweep.runs.iter().map(Planned::name).collect()
    }

    #[test]
    fn a_grid_gives_every_combination_and_its_last_key_changes_first() {
        let text = "description: all\nsettings: {train: {model: fcn}}\n\
                    grid: {plan.split.by: [class, source], train.seed: [0, 1, 2]}";
        let sweep = read(text, &["train.epochs=2"]).unwrap();
        assert_eq!((sweep.name.as_str(), sweep.description.as_str()), ("mine", "all"));
        let found = names(&sweep);
        assert_eq!(found[..3], ["fcn-lr0.0005-seed0", "fcn-lr0.0005-seed1", "fcn-lr0.0005-seed2"]);
        assert_eq!(found[3], "fcn-lr0.0005-seed0-plan.split.by-source");
        assert!(sweep.runs.iter().all(|run| run.config.train.epochs == 2));
    }

    #[test]
    fn runs_of_recipes_are_those_of_the_recipes_with_the_same_names() {
        let sweep =
            read("description: all\ngrid: {recipe: [paper-fcn-1e-3, fast], train.seed: [0, 4]}", &["train.samples=64"]);
        let sweep = sweep.unwrap();
        let expected = [
            "paper-fcn-1e-3-seed0-samples64",
            "paper-fcn-1e-3-seed4-samples64",
            "fast-seed0-samples64",
            "fast-seed4-samples64",
        ];
        assert_eq!(names(&sweep), expected);
        let alone = Recipe::find("--recipe", "fast").unwrap();
        let change = |config: Config| config.with("train.samples=64")?.with("train.seed=4");
        assert_eq!(sweep.runs[3].config, alone.configure(&Config::default(), change).unwrap());
    }

    #[test]
    fn the_time_of_a_run_depends_on_the_size_of_its_data() {
        let text = "description: a\ngrid: {plan.samples_per_class: [10, 1000], train.seed: [0, 1]}";
        let small = ["train.model=towers", "train.trunk.channels=8", "train.epochs=1", "train.batch_size=16"];
        let home = tempfile::tempdir().unwrap();
        let [raw, artifacts, lock] = ["raw", "artifacts", "pipeline.lock"].map(|name| home.path().join(name));
        let pipeline = |planned: &Planned| {
            Pipeline::new(planned.config.clone(), Vec::new(), raw.clone(), artifacts.clone(), lock.clone())
        };
        let expected = read(text, &small).unwrap().expect(&artifacts, pipeline).unwrap();
        let times: Vec<Duration> = expected.iter().map(|run| run.time.unwrap()).collect();
        assert!(times[0] == times[1] && times[2] == times[3], "measured once for all seeds: {times:?}");
        assert!(times[2] > times[0], "{times:?}");
    }

    #[test]
    fn a_mapping_in_the_grid_names_groups_of_settings() {
        let text = "description: all\ngrid:\n  recipe: [fast]\n  change:\n    none: {}\n    mean, smooth: {train.trunk.pool: \
                    mean, train: {label_smoothing: 0.1}}\n";
        let sweep = read(text, &[]).unwrap();
        assert_eq!(sweep.runs[1].values, ["fast", "mean, smooth"]);
        let (train, alone) = (&sweep.runs[1].config.train, &sweep.runs[0].config.train);
        assert_eq!((train.trunk.pool, train.label_smoothing), (crate::networks::Pool::Mean, 0.1));
        assert_eq!((alone.trunk.pool, alone.run.as_deref()), (crate::networks::Pool::Max, Some("fast-seed0")));
    }

    #[test]
    fn the_sweeps_of_the_folder_are_valid() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/sweeps"));
        let read = |name: &str| Sweep::read(&folder.join(name), &Config::default(), &[]).unwrap();
        assert_eq!(read("table1.yaml").runs.len(), 18);
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        assert!(files.map(|name| read(&name)).all(|sweep| !sweep.description.is_empty() && !sweep.runs.is_empty()));
    }

    #[test]
    fn a_file_that_is_no_sweep_is_refused_in_words() {
        let refused = |text: &str| {
            let message = read(text, &[]).unwrap_err().to_string();
            message.rsplit_once("mine.yaml").map_or(message.clone(), |(_, rest)| rest.to_owned())
        };
        assert_eq!(refused("grid: {}"), ": missing field `description` at line 1, column 1");
        assert_eq!(
            refused("description: a\ngrid: {train.seed: 3}"),
            ": `grid.train.seed` is no list of values; expected one, or a mapping from names to settings"
        );
        assert_eq!(
            refused("description: a\ngrid: {train.seed: []}"),
            ": `grid.train.seed` is empty; expected values to combine"
        );
        assert_eq!(
            refused("description: a\nsettings: 3\ngrid: {train.seed: [1]}"),
            ": `settings` is no mapping; expected settings by section, as in pipeline.yaml"
        );
        assert_eq!(
            refused("description: a\ngrid: {recipe: [7]}"),
            ": `grid.recipe` holds 7; expected names of recipes"
        );
        assert_eq!(
            refused("description: a\ngrid: {evaluate.batch_size: [1, 2]}"),
            ": two combinations are the run alexnet-lr0.0005-seed0; expected a run for each, and a name holds neither \
             `train.epochs` nor settings of `evaluate`"
        );
        assert_eq!(
            refused("description: a\ngrid: {train.run: [mine]}"),
            "`train.run`: found mine; expected null, since every run of a sweep has its own name"
        );
        assert!(refused("description: a\ngrid: {train.sed: [1]}").contains("sed"));
        assert_eq!(
            refused("description: a\ngrid: {train.epochs: [0]}"),
            ": the run alexnet-lr0.0005-seed0: `train.epochs`: found 0; expected at least 1"
        );
        assert_eq!(
            refused("description: a\ngrid: {recipe: [nosuch]}"),
            format!(
                "`grid.recipe`: found nosuch; expected {}, or the path of a .yaml file",
                Recipe::names().collect::<Vec<_>>().join(", ")
            )
        );
        assert_eq!(
            refused("description: a\ngrid: {train.seed: [0], more: {five: {train.seed: 5}}}"),
            ": `grid.train.seed`: 0 is changed by another key of the grid or by --set; expected one place for each setting"
        );
        assert_eq!(
            refused("description: a\ngrid: {seconds: {one: {}}}"),
            ": `grid.seconds` is the title of another column of the tables; expected another name"
        );
        assert_eq!(
            refused("description: a\ngrid: {evaluate.data: [mine.parquet]}"),
            "`evaluate.data`: found other images; expected null, since the tables of a sweep hold results on the data set"
        );
        assert_eq!(
            refused("description: a\ngrid: {train.seed: [one]}"),
            ": `train.seed`: invalid type: string \"one\", expected a whole number; the default is 0"
        );
        let many = (0..101).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        assert_eq!(
            refused(&format!("description: a\ngrid: {{train.seed: [{many}], plan.seed: [{many}]}}")),
            ": the grid has 10201 combinations or more; expected at most 10000"
        );
    }

    const EPOCH: crate::train::metrics::Epoch = crate::train::metrics::Epoch {
        epoch: 1,
        lr: 0.0,
        train_loss: 2.0,
        train_accuracy: 0.25,
        train_digits: Vec::new(),
        val_loss: 1.5,
        val_accuracy: 0.5,
        val_digits: Vec::new(),
        images_per_second: 1.0,
        seconds: 1.0,
    };

    /// The mean and the deviation of 0.5 and 0.7 are 0.6 and the root of 0.02.
    #[test]
    fn tables_have_a_row_for_each_run_and_one_for_each_group_of_seeds() {
        let sweep = read("description: a\ngrid: {train.model: [fcn, resnet], train.seed: [0, 1]}", &[]).unwrap();
        let run = |seconds: f64| {
            let run = Run::read(&crate::runs::Place::default()).unwrap();
            let epoch = |seconds: f64| crate::train::metrics::Epoch { seconds, ..EPOCH };
            Run { epochs: vec![epoch(seconds / 2.0), epoch(seconds / 2.0)], ..run }
        };
        let done: Vec<(&Planned, Run)> = sweep.runs.iter().zip([0.5, 0.7, 0.25].map(run)).collect();
        let titles = "seconds,train_accuracy,train_loss,val_accuracy,val_loss,test_accuracy,test_loss";
        assert_eq!(
            sweep.run_table(&done),
            format!(
                "run,train.model,train.seed,{titles}\nfcn-lr0.0005-seed0,fcn,0,0.5,0.25,2,,,,\n\
                 fcn-lr0.0005-seed1,fcn,1,0.7,0.25,2,,,,\nresnet-lr0.0005-seed0,resnet,0,0.25,0.25,2,,,,\n"
            )
        );
        let table = sweep.summary_table(&done);
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(rows[0][..5], ["train.model", "seeds", "seconds_mean", "seconds_sd", "train_accuracy_mean"]);
        assert_eq!((rows[1][0], rows[1][1], rows[2][0], rows[2][1]), ("fcn", "2", "resnet", "1"));
        let [mean, deviation] = [2, 3].map(|column| rows[1][column].parse::<f64>().unwrap());
        assert!((mean - 0.6).abs() < 1e-12 && (deviation - 0.02_f64.sqrt()).abs() < 1e-12);
        assert_eq!((rows[2][2], rows[2][3]), ("0.25", ""));
    }
}
