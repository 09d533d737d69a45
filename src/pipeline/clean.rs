//! Cleaning: removes the files that records name, and no others. Runs and their evaluations are
//! removed only if that is forced.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Pipeline, Stage, ownership, parts};
use crate::error::Result;
use crate::files::{self, FolderLock, Hold};
use crate::record::{self, Record};

/// A folder of a stage whose files were removed.
#[derive(Debug, Clone, PartialEq)]
pub struct Cleaned {
    /// The folder.
    pub folder: PathBuf,
    /// The number of files that were removed from it.
    pub files: usize,
    /// Whether the folder still exists, because it holds files that no record names.
    pub stands: bool,
}

impl Pipeline {
    /// Removes the outputs of the stages, and with `runs` also the runs and their evaluations. Files
    /// that no record names stay.
    ///
    /// # Errors
    /// [`crate::error::Error::Busy`] if another process is at work in one of the folders; nothing is
    /// removed then. [`crate::error::Error::Format`] if a record cannot be read in a folder that carries a
    /// mark, or beside such a folder.
    pub fn clean(&self, runs: bool) -> Result<Vec<Cleaned>> {
        let mut targets = BTreeSet::new();
        for stage in Stage::ALL {
            let home = self.home(stage);
            if !stage.definition().is_per_run() {
                targets.insert((stage, home));
            } else if runs {
                let folders = files::entries(&home)?.into_iter().filter(|path| path.is_dir());
                targets.extend(folders.map(|folder| (stage, target_of(&folder))));
            }
        }
        let mut held = Vec::new();
        for (stage, folder) in targets {
            let target = files::resolve(&folder)?;
            let places = [&[target.clone()][..], &files::former(&target)].concat();
            let is_ours = |place: &&PathBuf| {
                files::is_marked(place)
                    || files::is_rest(place)
                    || Record::read(place).is_ok_and(|r| r.is_some_and(|r| Stage::of(&r) == Some(stage)))
            };
            let has_parts = stage.definition().has_parts() && parts::folder(&target).exists();
            if has_parts || places.iter().any(|place| is_ours(&place)) {
                held.push((stage, FolderLock::beside(&target, Hold::Write)?, target, folder.is_symlink()));
            }
        }
        let mut cleaned = Vec::new();
        for (stage, _lock, target, is_linked) in &held {
            ownership::mend(*stage, target)?;
            for folder in [target.clone(), files::unfinished(target)] {
                if files::is_rest(&folder) {
                    // the remains of a removal that was killed
                    files::remove_empty(&folder)?;
                    continue;
                }
                let record = Record::read(&folder)?.is_some_and(|record| Stage::of(&record) == Some(*stage));
                if files::is_marked(&folder) || folder == *target && record {
                    cleaned.push(clean_one(*stage, &folder)?);
                }
            }
            let parts = parts::folder(target);
            if stage.definition().has_parts() && parts.exists() {
                let files = parts::remove(&parts)?;
                cleaned.push(Cleaned { files, stands: parts.exists(), folder: parts });
            }
            if *is_linked {
                // the folder is made again, so that the link does not dangle
                files::create_dir(target)?;
            }
        }
        Ok(cleaned)
    }
}

/// The folder of a finished run. `folder` is that folder itself, or a folder beside it that is under construction or
/// holds the unfinished run.
fn target_of(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let hidden = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new").or(name.strip_suffix(".old")));
    folder.with_file_name(hidden.or(name.strip_suffix(files::UNFINISHED)).unwrap_or(&name))
}

fn clean_one(stage: Stage, folder: &Path) -> Result<Cleaned> {
    let before = files::walk_all(folder)?;
    let definition = stage.definition();
    if files::is_marked(folder) && definition.is_resumable() {
        // an unfinished build has no record yet
        for path in before.iter().filter(|path| definition.is_output(&record::name(path))) {
            files::remove(&folder.join(path))?;
        }
    }
    ownership::remove_recorded(stage, folder)?;
    let left = if folder.exists() { files::walk_all(folder)?.len() } else { 0 };
    Ok(Cleaned { folder: folder.to_owned(), files: before.len() - left, stands: left > 0 })
}
