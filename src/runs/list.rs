//! The list of the runs in a folder of artifacts, finished or not, with what the records say about each.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Place, Run, sort};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::files;
use crate::record::{self, Record};
use crate::runs::RunsError;
use crate::train::metrics;

/// All runs in a folder of artifacts.
#[derive(Debug, Clone)]
pub struct Runs {
    /// The folder that holds a folder for each run.
    train: PathBuf,
    /// The folder that holds a folder for each evaluation.
    evaluate: PathBuf,
}

impl Runs {
    /// The runs in a folder of artifacts. The folders of the stages `train` and `evaluate` have the stages'
    /// names. Nothing is read yet.
    pub fn new(artifacts: &Path) -> Runs {
        Runs { train: artifacts.join("train"), evaluate: artifacts.join("evaluate") }
    }

    /// All runs, the best first. If `name` is given, only the runs with this name, finished and unfinished.
    ///
    /// # Errors
    /// [`RunsError::NoSuchRun`] if no run has the name.
    pub fn list(&self, name: Option<&str>) -> Result<Vec<Run>> {
        let mut runs = self.places()?.iter().map(|(place, _)| Run::read(place)).collect::<Result<Vec<Run>>>()?;
        if let Some(name) = name {
            runs.retain(|run| run.name == name);
            if runs.is_empty() {
                return Err(self.missing(name)?);
            }
        }
        sort(&mut runs);
        Ok(runs)
    }

    /// The error for a run that does not exist, with the names of the existing runs, or for a run that is unfinished.
    pub fn missing(&self, run: &str) -> Result<Error> {
        let folder = self.train.join(run);
        let unfinished = files::unfinished(&files::resolve(&folder).unwrap_or(folder));
        if is_run(&unfinished) {
            return Ok(Error::from(RunsError::RunUnfinished { path: unfinished, run: run.to_owned() }));
        }
        let mut runs = Vec::new();
        for folder in files::entries(&self.train)?.into_iter().filter(|folder| is_run(folder)) {
            let name = name_of(&folder);
            runs.push(name.strip_suffix(files::UNFINISHED).unwrap_or(&name).to_owned());
        }
        runs.dedup();
        Ok(Error::from(RunsError::NoSuchRun { folder: self.train.clone(), run: run.to_owned(), runs }))
    }

    /// The folder of the finished run with this name; if there is none, the folder of an unfinished run with this name.
    ///
    /// # Errors
    /// [`RunsError::NoSuchRun`] or [`RunsError::RunUnfinished`] if the text is not the name of a folder.
    pub fn folder(&self, run: &str) -> Result<PathBuf> {
        if Path::new(run).components().count() != 1 || Path::new(run).file_name().is_none() {
            return Err(self.missing(run)?);
        }
        let finished = files::resolve(&self.train.join(run))?;
        match finished.join(record::FILE).is_file() {
            true => Ok(finished),
            false => Ok(files::unfinished(&finished)),
        }
    }

    /// The places of all runs, finished or not, each with the content digest of the data set that it was
    /// trained on, if that is known.
    pub fn places(&self) -> Result<Vec<(Place, Option<Digest>)>> {
        let mut folders = files::entries(&self.train)?;
        // if the folder of a run is a link, the unfinished run is beside the target of the link
        let linked = folders.iter().filter(|folder| folder.is_symlink()).filter_map(|link| files::resolve(link).ok());
        folders.extend(linked.map(|folder| files::unfinished(&folder)).collect::<Vec<_>>());
        folders.retain(|folder| is_run(folder));
        folders.iter().map(|folder| self.place(folder)).collect()
    }

    /// What the records say about the run in a folder of `train`, with the content digest of its data set. Only
    /// evaluations of the current weights count.
    pub fn place(&self, folder: &Path) -> Result<(Place, Option<Digest>)> {
        let mut place = Place { folder: folder.to_owned(), ..Place::default() };
        let record = match Record::read(folder) {
            Ok(Some(record)) => record,
            Ok(None) => {
                let environment = Run::read(&place)?.environment;
                return Ok((place, environment.dataset.and_then(|digest| digest.parse().ok())));
            }
            // the record may be readable a moment later, so this says nothing about the run
            Err(error) if error.is_of_system() => return Err(error),
            Err(error) => {
                place.problems.push(error.to_string());
                return Ok((place, None));
            }
        };
        // the weights are large, and nothing in them is shown
        let check = |wanted: &dyn Fn(&str) -> bool| record.check(folder, "restore the file from a copy", wanted).err();
        let table = check(&|path| path == metrics::FILE);
        let others = check(&|path| path != metrics::FILE && !path.ends_with(".safetensors"));
        place.has_damaged_metrics = table.is_some();
        for error in [table, others].into_iter().flatten() {
            if error.is_of_system() {
                return Err(error);
            }
            place.problems.push(error.to_string());
        }
        self.add_evaluations(&mut place, &record)?;
        let dataset = record.key.inputs.get("dataset").copied();
        place.init = record.key.inputs.get("init").copied();
        place.settings = Some(record.key.settings);
        place.finished = Some(record.finished);
        Ok((place, dataset))
    }

    /// Adds the evaluations of the weights that a run's record names, and the problems of these evaluations.
    fn add_evaluations(&self, place: &mut Place, run: &Record) -> Result<()> {
        let name = name_of(&place.folder);
        let dataset = run.key.inputs.get("dataset");
        for folder in recorded(&self.evaluate)? {
            let evaluation = match Record::read(&folder) {
                Ok(Some(evaluation)) => evaluation,
                Ok(None) => continue,
                Err(error) if error.is_of_system() => return Err(error),
                Err(error) => {
                    // without a record, only the folder's name tells which run was evaluated
                    let folder = name_of(&folder);
                    let is_of_run = folder.strip_prefix(&name).is_some_and(|at| at.is_empty() || at.starts_with('@'));
                    place.problems.extend(is_of_run.then(|| error.to_string()));
                    continue;
                }
            };
            let inputs = &evaluation.key.inputs;
            if inputs.get(&format!("train/{name}")) != Some(&run.content) {
                continue;
            }
            let advice = format!("evaluate it again with `multidigit run evaluate --run {name} --force`");
            match evaluation.check(&folder, &advice, |path| path == evaluate::FILE) {
                Err(error) if error.is_of_system() => return Err(error),
                Err(error) => {
                    place.problems.push(error.to_string());
                    continue;
                }
                Ok(()) => {}
            }
            if evaluation.key.settings.pointer("/evaluate/data").is_none_or(Value::is_null) {
                if inputs.get("dataset") == dataset {
                    place.evaluate = Some(folder);
                }
            } else {
                place.elsewhere.push(folder);
            }
        }
        Ok(())
    }
}

/// The folders in `home` that hold a record and are not hidden: finished runs, or their evaluations.
pub fn recorded(home: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = files::entries(home)?;
    folders.retain(|folder| !is_hidden(folder) && folder.join(record::FILE).exists());
    Ok(folders)
}

/// Whether a folder in `train` holds a run. A user may keep other folders there.
fn is_run(folder: &Path) -> bool {
    !is_hidden(folder) && (folder.join(record::FILE).is_file() || files::is_marked(folder))
}

fn is_hidden(folder: &Path) -> bool {
    name_of(folder).starts_with('.')
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
