//! Cleaning: the files that records name go, and nothing else. Runs and their evaluations stay unless that is forced.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Pipeline, Record, Stage, ownership, record};
use crate::error::Result;
use crate::files::{self, FolderLock, Hold};
use crate::train;

/// A folder of a stage whose files were removed.
#[derive(Debug, Clone, PartialEq)]
pub struct Cleaned {
    /// The folder.
    pub folder: PathBuf,
    /// How many files of it were removed.
    pub files: usize,
    /// Whether it still stands, as it holds what no record names.
    pub stands: bool,
}

impl Pipeline {
    /// Removes what the stages made, with `runs` also the runs and their evaluations. Files that no record names stay.
    ///
    /// # Errors
    /// [`crate::error::Error::Busy`] where another process is at work, before anything is removed;
    /// [`crate::error::Error::Format`] for a record that cannot be read.
    pub fn clean(&self, runs: bool) -> Result<Vec<Cleaned>> {
        let mut targets = BTreeSet::new();
        for stage in Stage::ALL {
            let home = self.artifacts.join(stage.name());
            match stage {
                Stage::Train | Stage::Evaluate if !runs => {}
                Stage::Train | Stage::Evaluate => {
                    let folders = files::entries(&home)?.into_iter().filter(|path| path.is_dir());
                    targets.extend(folders.map(|folder| (stage, target_of(&folder))));
                }
                _ => drop(targets.insert((stage, home))),
            }
        }
        let mut held = Vec::new();
        for (stage, folder) in targets {
            let target = files::resolve(&folder)?;
            let places = [&[target.clone()][..], &files::former(&target)].concat();
            let is_ours = |place: &&PathBuf| {
                files::is_marked(place)
                    || files::is_rest(place)
                    || Record::read(place).is_ok_and(|r| r.is_some_and(|r| r.stage() == Some(stage)))
            };
            if places.iter().any(|place| is_ours(&place)) {
                held.push((stage, FolderLock::beside(&target, Hold::Write)?, target, folder.is_symlink()));
            }
        }
        let mut cleaned = Vec::new();
        for (stage, _lock, target, is_linked) in &held {
            ownership::mend(*stage, target)?;
            for folder in [target.clone(), files::unfinished(target)] {
                if files::is_rest(&folder) {
                    // of a removal that a kill met
                    files::remove_empty(&folder)?;
                    continue;
                }
                let record = Record::read(&folder)?.is_some_and(|record| record.stage() == Some(*stage));
                if files::is_marked(&folder) || folder == *target && record {
                    cleaned.push(clean_one(*stage, &folder)?);
                }
            }
            if *is_linked {
                // so that the link still leads somewhere
                files::create_dir(target)?;
            }
        }
        Ok(cleaned)
    }
}

/// The folder that a folder among the runs belongs to: the one under construction, or unfinished, is another's.
fn target_of(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let hidden = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new").or(name.strip_suffix(".old")));
    folder.with_file_name(hidden.or(name.strip_suffix(files::UNFINISHED)).unwrap_or(&name))
}

fn clean_one(stage: Stage, folder: &Path) -> Result<Cleaned> {
    let before = files::walk_all(folder)?;
    if files::is_marked(folder) && stage == Stage::Train {
        for path in before.iter().filter(|path| train::is_output(&record::name(path))) {
            files::remove(&folder.join(path))?;
        }
    }
    ownership::remove_recorded(stage, folder)?;
    let left = if folder.exists() { files::walk_all(folder)?.len() } else { 0 };
    Ok(Cleaned { folder: folder.to_owned(), files: before.len() - left, stands: left > 0 })
}
