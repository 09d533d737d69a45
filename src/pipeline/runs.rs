//! The runs that stand: their list, what the report depends on of them, and a run that is named as the one to work on.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::key::{self, Key};
use super::{Pipeline, Record, Stage, record};
use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::files;
use crate::runs::{self, Place, Run};
use crate::train::{self, Device, metrics};

/// The configuration of a run that stands in a folder of artifacts, as its own file has it, under overrides. In a program
/// without CUDA its device is the CPU.
///
/// # Errors
/// [`Error::NoSuchRun`]; [`Error::Format`] where the file is not the one that was recorded.
pub fn config_of(artifacts: &Path, run: &str, overrides: &[String]) -> Result<Config> {
    let home = artifacts.join(Stage::Train.name());
    let is_name = Path::new(run).components().count() == 1 && Path::new(run).file_name().is_some();
    let finished = if is_name { files::resolve(&home.join(run))? } else { home.clone() };
    let folder = match finished.join(record::FILE).is_file() {
        true => finished,
        false => files::unfinished(&finished),
    };
    let file = folder.join(train::CONFIG);
    if !is_name || !file.is_file() {
        return Err(no_such_run(&home, run)?);
    }
    if let Some(record) = Record::read(&folder)? {
        let advice = "restore the file from a copy; what it says of the run cannot be trusted";
        record.check(&folder, advice, |path| path == train::CONFIG)?;
    }
    let mut config = Config::read(Some(&file), &[])?;
    if !cfg!(feature = "cuda") {
        // the run is evaluated by this program all the same, and not trained, since its record names another device
        config.train.device = Device::Cpu;
        config.evaluate.device = Device::Cpu;
    }
    for text in overrides {
        config = config.with(text)?;
    }
    config.train.run = Some(run.to_owned());
    config.validate()?;
    Ok(config)
}

/// The error for a run that is not there, with those that are.
fn no_such_run(home: &Path, run: &str) -> Result<Error> {
    let folder = home.join(run);
    let unfinished = files::unfinished(&files::resolve(&folder).unwrap_or(folder));
    if is_run(&unfinished) {
        return Ok(Error::RunUnfinished { path: unfinished, run: run.to_owned() });
    }
    let mut runs = Vec::new();
    for folder in files::entries(home)?.into_iter().filter(|folder| is_run(folder)) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        runs.push(name.strip_suffix(files::UNFINISHED).unwrap_or(&name).to_owned());
    }
    runs.dedup();
    Ok(Error::NoSuchRun { folder: home.to_owned(), run: run.to_owned(), runs })
}

/// Whether a folder among the runs is one: others may keep theirs there.
fn is_run(folder: &Path) -> bool {
    let hidden = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    !hidden && (folder.join(record::FILE).is_file() || files::is_marked(folder))
}

impl Pipeline {
    /// The error for a configured run that is not there.
    pub(super) fn no_such_run(&self) -> Result<Error> {
        no_such_run(&self.artifacts.join(Stage::Train.name()), &self.run)
    }

    /// Checks that what the stages to run read stands, where it is taken as it stands: a run with its weights, and the data
    /// set that it was trained on.
    pub(super) fn require_standing(&self, stages: &[Stage]) -> Result<()> {
        let needed = |input: Stage, by: Stage| stages.contains(&by) && !stages.contains(&input);
        let evaluated = self.config.evaluate.data.is_none() && needed(Stage::Dataset, Stage::Evaluate);
        let dataset = match evaluated || needed(Stage::Dataset, Stage::Report) {
            true => self.require_whole(Stage::Dataset)?,
            false => None,
        };
        if needed(Stage::Train, Stage::Evaluate) {
            let Some(run) = self.require_whole(Stage::Train)? else { return Err(self.no_such_run()?) };
            let ours = Key { settings: key::settings(Stage::Train, &self.config), ..run.key.clone() };
            let mut differences = ours.reasons_against(&run.key);
            // a program without CUDA reads the device of a run as the CPU
            differences.retain(|difference| cfg!(feature = "cuda") || !difference.starts_with("train.device: "));
            if !differences.is_empty() {
                return Err(self.stands(&self.folder(Stage::Train), differences, None));
            }
            let trained_on = run.key.inputs.get(Stage::Dataset.name());
            let found = dataset.as_ref().map(|record| record.content);
            if evaluated && found.as_ref() != trained_on {
                let short = |digest: Option<&Digest>| digest.map_or("none".to_owned(), |d| d.short());
                return Err(Error::OtherDataset {
                    folder: self.folder(Stage::Dataset),
                    run: self.run.clone(),
                    found: found.map_or("no data set".to_owned(), |digest| format!("content {}", digest.short())),
                    expected: short(trained_on),
                });
            }
        }
        Ok(())
    }

    /// The record of a stage whose outputs all stand as it says; none where there is no record.
    fn require_whole(&self, stage: Stage) -> Result<Option<Record>> {
        let folder = self.folder(stage);
        let Some(mut record) = Record::read(&folder)? else { return Ok(None) };
        match record.look(&folder)[..] {
            [] => Ok(Some(record)),
            [ref first, ..] => {
                let again = match stage {
                    Stage::Train => String::new(),
                    _ => format!(", or make them again with `multidigit run {stage}`"),
                };
                let expected = format!("the files as they were recorded; restore them from a copy{again}");
                Err(Error::format(&folder, first.clone(), expected))
            }
        }
    }

    /// Content of every run that stands, trained, evaluated or unfinished: the report shows them all.
    pub(super) fn run_contents(&self) -> Result<Vec<(String, Digest)>> {
        let mut runs = Vec::new();
        for (place, _) in self.places()?.into_iter().filter(|(place, _)| place.settings.is_none()) {
            let run = place.folder.file_name().unwrap_or_default().to_string_lossy();
            let mut files = files::entries(&place.folder)?;
            // what the report reads of it, not its growing weights
            files.retain(|file| file.extension().is_some_and(|e| e == "csv" || e == "json" || e == "yaml"));
            let digests = files.iter().map(|file| Digest::of_file(file)).collect::<Result<Vec<Digest>>>()?;
            runs.push((format!("{}/{run}", Stage::Train), Digest::of_json(&serde_json::json!(digests))));
        }
        for stage in [Stage::Train, Stage::Evaluate] {
            for folder in self.run_folders(stage)? {
                match Record::read(&folder) {
                    Ok(Some(record)) => {
                        let run = folder.file_name().unwrap_or_default().to_string_lossy();
                        runs.push((format!("{stage}/{run}"), record.content));
                    }
                    Err(error) if error.is_of_system() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(runs)
    }

    /// The folders of all runs of a stage (train or evaluate) that have a record.
    fn run_folders(&self, stage: Stage) -> Result<Vec<PathBuf>> {
        let mut folders = files::entries(&self.artifacts.join(stage.name()))?;
        let hidden = |folder: &PathBuf| folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        folders.retain(|folder| !hidden(folder) && folder.join(record::FILE).exists());
        Ok(folders)
    }

    /// Every run that stands, the best first; or those of one name, finished and unfinished.
    pub fn runs(&self, name: Option<&str>) -> Result<Vec<Run>> {
        let mut runs = self.places()?.iter().map(|(place, _)| Run::read(place)).collect::<Result<Vec<Run>>>()?;
        if let Some(name) = name {
            runs.retain(|run| run.name == name);
            if runs.is_empty() {
                return Err(no_such_run(&self.artifacts.join(Stage::Train.name()), name)?);
            }
        }
        runs::sort(&mut runs);
        Ok(runs)
    }

    /// Where all runs stand, finished or not, with the content of the data set that each was trained on, as far as that is
    /// known.
    pub(super) fn places(&self) -> Result<Vec<(Place, Option<Digest>)>> {
        let mut folders = files::entries(&self.artifacts.join(Stage::Train.name()))?;
        // an unfinished run stands beside the folder that a link leads to
        let linked = folders.iter().filter(|folder| folder.is_symlink()).filter_map(|link| files::resolve(link).ok());
        folders.extend(linked.map(|folder| files::unfinished(&folder)).collect::<Vec<_>>());
        folders.retain(|folder| is_run(folder));
        folders.iter().map(|folder| self.place(folder)).collect()
    }

    /// What the records say of the run in a folder of `train`. An evaluation counts if it is of the weights that stand.
    pub(super) fn place(&self, folder: &Path) -> Result<(Place, Option<Digest>)> {
        let mut place = Place { folder: folder.to_owned(), ..Place::default() };
        let record = match Record::read(folder) {
            Ok(Some(record)) => record,
            Ok(None) => {
                let environment = Run::read(&place)?.environment;
                return Ok((place, environment.dataset.and_then(|digest| digest.parse().ok())));
            }
            // what the system fails to read now is no damage to tell of for good
            Err(error) if error.is_of_system() => return Err(error),
            Err(error) => {
                place.problems.push(error.to_string());
                return Ok((place, None));
            }
        };
        // the weights are not read for what is told of a run
        let check = |wanted: &dyn Fn(&str) -> bool| record.check(folder, "restore the file from a copy", wanted).err();
        let table = check(&|path| path == metrics::FILE);
        let others = check(&|path| path != metrics::FILE && !path.ends_with(".safetensors"));
        place.is_rotten = table.is_some();
        for error in [table, others].into_iter().flatten() {
            if error.is_of_system() {
                return Err(error);
            }
            place.problems.push(error.to_string());
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let dataset = record.key.inputs.get(Stage::Dataset.name()).copied();
        for evaluated in self.run_folders(Stage::Evaluate)? {
            let evaluation = match Record::read(&evaluated) {
                Ok(Some(evaluation)) => evaluation,
                Ok(None) => continue,
                Err(error) if error.is_of_system() => return Err(error),
                Err(error) => {
                    // only its name tells whose it is
                    let folder = evaluated.file_name().unwrap_or_default().to_string_lossy();
                    let is_of_run = folder.strip_prefix(&*name).is_some_and(|at| at.is_empty() || at.starts_with('@'));
                    place.problems.extend(is_of_run.then(|| error.to_string()));
                    continue;
                }
            };
            let inputs = &evaluation.key.inputs;
            if inputs.get(&format!("{}/{name}", Stage::Train)) != Some(&record.content) {
                continue;
            }
            let advice = format!("evaluate it again with `multidigit run evaluate --run {name} --force`");
            match evaluation.check(&evaluated, &advice, |path| path == evaluate::FILE) {
                Err(error) if error.is_of_system() => return Err(error),
                Err(error) => {
                    place.problems.push(error.to_string());
                    continue;
                }
                Ok(()) => {}
            }
            if evaluation.key.settings.pointer("/evaluate/data").is_none_or(Value::is_null) {
                if inputs.get(Stage::Dataset.name()).copied() == dataset {
                    place.evaluate = Some(evaluated);
                }
            } else {
                place.elsewhere.push(evaluated);
            }
        }
        place.settings = Some(record.key.settings);
        (place.finished, place.seconds) = (Some(record.finished), Some(record.seconds));
        Ok((place, dataset))
    }
}
