//! Folders under construction. A folder is built beside its final path and takes that path as a whole.
//!
//! A folder under construction carries a mark. A folder without a mark is left alone, so that nothing of the user's is
//! removed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{NEW, create_dir, entries, is_half_of, remove, replace, resolve, sibling, sync};
use crate::error::{Error, Result};

const OLD: &str = ".old";

/// The suffix of a folder whose work was interrupted and can be resumed.
pub const UNFINISHED: &str = ".unfinished";

/// The hidden file that marks a folder that this program is building, or was building when it was killed.
pub const MARK: &str = ".multidigit";

/// The hidden file that marks a finished folder that is being replaced. If a kill leaves such a
/// folder, it can be removed.
pub const REPLACED: &str = ".multidigit-replaced";

/// A folder under construction beside its final path. It carries [`MARK`] until it has been moved there.
pub struct Build {
    target: PathBuf,
    folder: PathBuf,
    /// Whether the folder is kept if the build fails.
    keep: bool,
    committed: bool,
}

impl Build {
    /// Starts a build in an empty folder for `target`, which is not a link. The remains of a killed build are removed.
    ///
    /// # Errors
    /// [`Error::Foreign`] if a folder of that name exists that no build of this program made.
    pub fn beside(target: &Path) -> Result<Build> {
        let folder = sibling(target, NEW);
        clear_build(target)?;
        remove_empty(&folder)?;
        create_dir(&folder)?;
        let build = Build { target: target.to_owned(), folder, keep: false, committed: false };
        build.mark("what `multidigit` is making; the next run removes it")?;
        Ok(build)
    }

    /// Starts or resumes a build for `target` whose folder is kept if the build fails or is killed: see [`unfinished`].
    /// `mark` is the text of the mark, if the folder has none yet.
    ///
    /// # Errors
    /// [`Error::Foreign`] if a folder of that name exists that is not empty and that no build of this program made.
    pub fn resumable(target: &Path, mark: &str) -> Result<Build> {
        let folder = unfinished(target);
        if !is_marked(&folder) {
            remove_empty(&folder)?;
            create_dir(&folder)?;
        }
        let build = Build { target: target.to_owned(), folder, keep: true, committed: false };
        if !is_marked(&build.folder) {
            build.mark(mark)?;
        }
        Ok(build)
    }

    /// Writes the mark of the folder.
    pub fn mark(&self, text: &str) -> Result<()> {
        replace(&self.folder.join(MARK), format!("{text}\n").as_bytes())
    }

    /// The folder under construction.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Moves the folder to its target atomically, after its `files`, given as paths within it, have been flushed to
    /// disk. Returns the folder that now holds the former state, which the caller must remove.
    pub fn commit(mut self, files: &[PathBuf]) -> Result<Option<PathBuf>> {
        sync::tree(&self.folder, files)?;
        sync::name(&self.folder)?;
        let place = |from: &Path| fs::rename(from, &self.target).map_err(Error::io(&self.target, "put it in place"));
        let stands = self.target.exists();
        if stands {
            let replaced = self.target.join(REPLACED);
            File::create(&replaced).map_err(Error::io(&replaced, "create it"))?;
            sync::folder(&self.target)?;
        }
        let former = if !stands {
            place(&self.folder)?;
            None
        } else if exchange(&self.folder, &self.target) {
            Some(self.folder.clone())
        } else {
            // The system cannot exchange two names, so two renames are needed; the next build
            // repairs a kill between them.
            let old = sibling(&self.target, OLD);
            fs::rename(&self.target, &old).map_err(Error::io(&self.target, "move it aside"))?;
            if let Err(error) = place(&self.folder) {
                put_back(&self.target)?;
                return Err(error);
            }
            Some(old)
        };
        self.committed = true;
        // must precede the removal of the former state
        sync::name(&self.target)?;
        let mark = self.target.join(MARK);
        fs::remove_file(&mark).map_err(Error::io(&mark, "remove it"))?;
        Ok(former)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if !self.committed && !self.keep {
            // If the build was not committed, it failed, and the current error matters more than an error here.
            let _ = remove_marked(&self.folder);
        }
    }
}

/// The folder beside a target that holds a resumable build.
pub fn unfinished(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{name}{UNFINISHED}"))
}

/// The paths beside a target where a killed run may have left the former state.
pub fn former(target: &Path) -> [PathBuf; 3] {
    [sibling(target, NEW), unfinished(target), sibling(target, OLD)]
}

/// Restores the state that a killed run had moved to the last path of [`former`].
pub fn put_back(target: &Path) -> Result<()> {
    fs::rename(sibling(target, OLD), target).map_err(Error::io(target, "put it back"))
}

/// Whether a killed run left a build beside a target that cannot be resumed.
pub fn is_build_left(target: &Path) -> bool {
    let folder = sibling(target, NEW);
    is_marked(&folder) || is_rest(&folder)
}

/// Removes a build that a killed run left, unless it can be resumed.
pub fn clear_build(target: &Path) -> Result<()> {
    let folder = sibling(target, NEW);
    if is_marked(&folder) {
        remove_marked(&folder)?;
    }
    if is_rest(&folder) { remove_empty(&folder) } else { Ok(()) }
}

/// Removes a folder with a mark. The mark is removed last, so that the remains after a kill can still be recognised.
fn remove_marked(folder: &Path) -> Result<()> {
    for path in entries(folder)?.into_iter().filter(|path| !path.ends_with(MARK)) {
        let is_folder = path.is_dir() && !path.is_symlink();
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io(&path, "remove it"))?;
    }
    remove(&folder.join(MARK))?;
    fs::remove_dir(folder).map_err(Error::io(folder, "remove it"))
}

/// Whether a killed run left a build beside a target that cannot be resumed, or a mark in the target itself.
pub fn needs_mending(target: &Path) -> bool {
    is_build_left(target) || is_marked(target) || target.join(REPLACED).is_file()
}

/// Whether a folder carries the mark of a build.
pub fn is_marked(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir()) && folder.join(MARK).is_file()
}

/// Returns an error if a folder is not empty. A folder that does not exist is accepted.
///
/// # Errors
/// [`Error::Foreign`]
pub fn require_free(folder: &Path) -> Result<()> {
    let listed = entries(&resolve(folder)?)?;
    let names = listed.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    // a kill may have interrupted the writing of a mark, or the end of a removal
    let found: Vec<String> = names.filter(|name| !is_half_of(name, MARK) && name != REPLACED).collect();
    match found.is_empty() {
        true => Ok(()),
        false => Err(Error::Foreign { folder: folder.to_owned(), found }),
    }
}

/// Whether a folder exists and holds nothing but the marks that are removed last, as after a removal that was killed.
pub fn is_rest(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir()) && require_free(folder).is_ok()
}

/// Removes a folder that holds nothing but marks. A folder that does not exist is accepted.
pub fn remove_empty(folder: &Path) -> Result<()> {
    require_free(folder)?;
    remove(&sibling(&folder.join(MARK), NEW))?;
    remove(&folder.join(REPLACED))?;
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(folder, "remove it")(error)),
        _ => Ok(()),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn exchange(a: &Path, b: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::read_text;
    use crate::files::tests::names;

    #[test]
    fn a_build_takes_its_targets_place_as_a_whole_and_hands_back_what_stood_there() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("dataset");
        for (round, before) in [("one", None), ("two", Some([REPLACED, "one"]))] {
            let build = Build::beside(&target).unwrap();
            fs::write(build.path().join(round), round).unwrap();
            let former = build.commit(&[PathBuf::from(round)]).unwrap();
            assert_eq!(names(&target), [round]);
            assert_eq!(former.as_deref().map(names), before.map(|names| names.map(str::to_owned).to_vec()));
            former.iter().for_each(|former| fs::remove_dir_all(former).unwrap());
        }
        assert_eq!(names(home.path()), ["dataset"]);
    }

    #[test]
    fn a_build_that_is_dropped_leaves_the_target_alone() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("dataset");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("kept"), "").unwrap();
        drop(Build::beside(&target).unwrap());
        assert_eq!((names(&target), names(home.path())), (vec!["kept".to_owned()], vec!["dataset".to_owned()]));
    }

    #[test]
    fn a_build_clears_what_builds_left_and_refuses_what_they_did_not() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("dataset");
        let (hidden, visible) = (home.path().join(".dataset.new"), home.path().join("dataset.unfinished"));
        std::mem::forget(Build::beside(&target).unwrap()); // the state after a kill
        fs::write(hidden.join("half"), "").unwrap();
        fs::create_dir_all(hidden.join("data/deep")).unwrap();
        assert_eq!(names(Build::beside(&target).unwrap().path()), [MARK]);
        for half in [None, Some("..multidigit.new"), Some(REPLACED)] {
            fs::create_dir(&hidden).unwrap(); // the state after a kill between the creation of the folder and its mark
            half.iter().for_each(|half| fs::write(hidden.join(half), "").unwrap());
            drop(Build::beside(&target).unwrap());
            assert!(names(home.path()).is_empty());
        }
        for folder in [&hidden, &visible] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("mine"), "").unwrap();
        }
        let refusals = [Build::beside(&target).err(), Build::resumable(&target, "").err()];
        for (folder, refusal) in [&hidden, &visible].into_iter().zip(refusals) {
            let refusal = refusal.unwrap().to_string();
            let expected = "holds mine, which no record of this program names; move it away, or work in another folder \
                            with --artifacts";
            assert_eq!(refusal, format!("`{}`: {expected}", folder.display()));
            assert_eq!(names(folder), ["mine"]);
        }
    }

    #[test]
    fn a_build_that_can_go_on_keeps_its_mark_and_its_files() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("run");
        let build = Build::resumable(&target, "first").unwrap();
        fs::write(build.path().join("step"), "").unwrap();
        drop(build);
        let build = Build::resumable(&target, "second").unwrap();
        assert_eq!(names(build.path()), [MARK, "step"]);
        assert_eq!(read_text(&build.path().join(MARK)).unwrap(), "first\n");
        assert_eq!(build.commit(&[]).unwrap(), None);
        assert_eq!(names(&target), ["step"]);
    }
}
