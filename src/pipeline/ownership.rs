//! Ownership: the program replaces a stage's folder only if the folder's record names every file in it, and removes
//! only files that a record names.
//!
//! The record is the file `record.json` in the folder. A file that it does not name belongs to the user.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Stage;
use crate::error::{Error, Result};
use crate::files::{self, FolderLock, Hold};
use crate::record::{self, Record};

/// Returns an error if the record of a stage's folder does not name everything in it. Such a
/// folder may not be replaced.
///
/// # Errors
/// [`Error::Foreign`] for files that the record does not name. [`Error::Format`] if the record cannot be read or is the
/// record of another stage, or if another file system is mounted on the folder.
pub fn check(stage: Stage, folder: &Path) -> Result<()> {
    let folder = files::resolve(folder)?;
    require_exchangeable(&folder)?;
    if files::entries(&folder)?.is_empty() {
        return Ok(());
    }
    let record = Record::read(&folder)?;
    if let Some(other) = record.as_ref().and_then(Stage::of).filter(|&other| other != stage) {
        let expected = format!("that of {stage}, or nothing; work in another folder with --artifacts");
        return Err(Error::format(&folder, format!("the output of the stage {other}"), expected));
    }
    let found = foreign(stage, &folder, record.as_ref())?;
    match found.is_empty() {
        true => Ok(()),
        false => Err(Error::Foreign { folder, found }),
    }
}

/// Returns an error if a file system is mounted on the folder, since such a folder cannot be
/// exchanged with another one.
#[cfg(unix)]
fn require_exchangeable(folder: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let folder = files::absolute(folder);
    match folder.parent() {
        Some(parent) if folder.exists() && device(parent) != device(&folder) => {
            let expected = "one on the file system of the folder around it, as it is replaced as a whole; mount that file \
                            system elsewhere, and put a link to a folder on it here";
            Err(Error::format(&folder, "a folder on which another file system is mounted", expected))
        }
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn require_exchangeable(_: &Path) -> Result<()> {
    Ok(())
}

/// Like [`check`], but also returns an error if foreign files are in the places beside the folder
/// where a build would be made.
pub fn check_around(stage: Stage, folder: &Path) -> Result<()> {
    check(stage, folder)?;
    let [build, _, aside] = files::former(&files::resolve(folder)?);
    for place in [build, aside].iter().filter(|place| !files::is_marked(place) && !is_replaced(stage, place)) {
        files::require_free(place)?;
    }
    Ok(())
}

/// Removes the files that the record in a folder names, then the folders that are empty, the record and the marks.
/// Other files stay, and so do files behind a link.
pub fn remove_recorded(stage: Stage, folder: &Path) -> Result<()> {
    let record = Record::read(folder)?;
    for name in named(stage, record.as_ref()) {
        // a file behind a link is not in the folder
        let way = Path::new(name).ancestors().skip(1);
        if !way.into_iter().any(|part| folder.join(part).is_symlink() && !part.as_os_str().is_empty()) {
            files::remove(&folder.join(name))?;
        }
    }
    remove_empty_folders(folder)?;
    // the marks last, so that the remains of a killed removal can be recognised
    files::remove(&half_of_record(folder))?;
    for name in [record::FILE, files::MARK, files::REPLACED] {
        files::remove(&folder.join(name))?;
    }
    files::remove_if_empty(folder)
}

/// Cleans up what a killed run left beside the folder of a stage. A state that was moved aside is moved
/// back if no other state took its place; an unfinished build and a replaced state are removed. The caller
/// holds the folder's lock.
pub fn mend(stage: Stage, target: &Path) -> Result<()> {
    let former = files::former(target);
    if is_replaced(stage, &former[2]) && !target.exists() {
        files::put_back(target)?;
    }
    for folder in former.iter().filter(|folder| target.exists() && is_replaced(stage, folder)) {
        remove_recorded(stage, folder)?;
    }
    for folder in former.iter().filter(|folder| files::is_rest(folder)) {
        files::remove_empty(folder)?;
    }
    if target.join(record::FILE).is_file() {
        files::remove(&target.join(files::MARK))?;
        files::remove(&target.join(files::REPLACED))?;
        files::remove(&half_of_record(target))?;
    }
    files::clear_build(target)
}

/// Calls [`mend`] if a killed run left files beside the folder and no other process is at work there. A fresh stage is
/// not cleaned up otherwise.
pub fn mend_if_left(stage: Stage, target: &Path) {
    let is_left = |folder: &PathBuf| is_replaced(stage, folder) || files::is_rest(folder);
    let is_left =
        files::needs_mending(target) || half_of_record(target).is_file() || files::former(target).iter().any(is_left);
    if is_left && let Ok(_writing) = FolderLock::beside(target, Hold::Write) {
        // the next command that builds here reports the obstacle
        let _ = mend(stage, target);
    }
}

/// The temporary file that a kill leaves if it interrupts the writing of a record.
fn half_of_record(folder: &Path) -> PathBuf {
    folder.join(format!(".{}.new", record::FILE))
}

/// Whether a folder holds a finished state of a stage that another state replaced, or was about to replace.
pub fn is_replaced(stage: Stage, folder: &Path) -> bool {
    let record = || Record::read(folder).ok().flatten();
    folder.join(files::REPLACED).is_file() && record().is_some_and(|record| Stage::of(&record) == Some(stage))
}

/// The paths of the files that a record names in its own folder. Outputs in another folder belong to the user.
fn named(stage: Stage, record: Option<&Record>) -> BTreeSet<&str> {
    let outputs =
        record.filter(|_| !stage.definition().has_outputs_elsewhere()).into_iter().flat_map(|record| &record.outputs);
    outputs.map(|output| output.path.as_str()).collect()
}

/// The files in a folder that its record does not name, at any depth, and the folders that hold no file that it names.
fn foreign(stage: Stage, folder: &Path, record: Option<&Record>) -> Result<Vec<String>> {
    let named = named(stage, record);
    let is_ours = |name: &str| {
        let of_record = record.is_some() && (name == record::FILE || files::is_half_of(name, record::FILE));
        let marks = [files::MARK, files::REPLACED];
        named.contains(name) || marks.contains(&name) || files::is_half_of(name, files::MARK) || of_record
    };
    let holds_ours = |name: &str| named.iter().any(|path| path.strip_prefix(name).is_some_and(|p| p.starts_with('/')));
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for path in files::entries(&next)? {
            let name = record::name(path.strip_prefix(folder).unwrap_or(&path));
            let is_folder = path.is_dir() && !path.is_symlink();
            if is_folder && holds_ours(&name) {
                pending.push(path);
            } else if is_folder || !is_ours(&name) {
                found.push(name);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Removes the empty folders in a folder, at any depth.
pub fn remove_empty_folders(folder: &Path) -> Result<()> {
    for path in files::entries(folder)? {
        if std::fs::symlink_metadata(&path).map_err(Error::io(&path, "look at it"))?.is_dir() {
            remove_empty_folders(&path)?;
            files::remove_if_empty(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use crate::digest::Digest;
    use crate::record::Key;

    /// A folder with two recorded files.
    fn recorded() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("dataset");
        fs::create_dir_all(folder.join("data/parts")).unwrap();
        fs::write(folder.join("README.md"), "card").unwrap();
        fs::write(folder.join("data/parts/a"), "shard").unwrap();
        let outputs = record::outputs(&folder, &files::walk(&folder).unwrap()).unwrap();
        let key = Key { version: 1, settings: json!({"dataset": {}}), inputs: Default::default() };
        let content = Digest::of(b"");
        let record = Record { key, content, outputs, rows: 0, facts: Value::Null, seconds: 0.0, finished: 0 };
        record.write(&folder).unwrap();
        (home, folder)
    }

    fn refused(folder: &Path) -> Vec<String> {
        match check(Stage::Dataset, folder) {
            Ok(()) => Vec::new(),
            Err(Error::Foreign { found, .. }) => found,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn what_a_record_names_is_ours_and_all_else_is_not_at_any_depth_hidden_or_linked() {
        let (_home, folder) = recorded();
        assert!(refused(&folder).is_empty());
        fs::write(folder.join(".record.json.new"), "half").unwrap();
        fs::write(folder.join(files::MARK), "").unwrap();
        assert!(refused(&folder).is_empty());
        fs::write(folder.join("thesis.tex"), "").unwrap();
        fs::write(folder.join("data/parts/.hidden"), "").unwrap();
        fs::create_dir_all(folder.join("data/mine/deep")).unwrap();
        fs::remove_file(folder.join("README.md")).unwrap();
        fs::create_dir(folder.join("README.md")).unwrap();
        assert_eq!(refused(&folder), ["README.md", "data/mine", "data/parts/.hidden", "thesis.tex"]);
    }

    #[test]
    fn the_files_that_raws_record_names_stand_elsewhere_and_are_nobodys_to_remove() {
        let (_home, folder) = recorded();
        let mut record = Record::read(&folder).unwrap().unwrap();
        record.key.settings = json!({"raw": {}});
        record.write(&folder).unwrap();
        assert!(
            matches!(check(Stage::Raw, &folder), Err(Error::Foreign { found, .. }) if found == ["README.md", "data"])
        );
        remove_recorded(Stage::Raw, &folder).unwrap();
        assert!(folder.join("README.md").exists() && !folder.join(record::FILE).exists());
    }

    #[test]
    fn without_a_readable_record_nothing_is_ours() {
        let (_home, folder) = recorded();
        fs::write(folder.join(record::FILE), "garbage").unwrap();
        let refused = check(Stage::Dataset, &folder).unwrap_err().to_string();
        assert!(refused.contains("record.json`: not a record ("), "{refused}");
        fs::remove_file(folder.join(record::FILE)).unwrap();
        assert!(matches!(check(Stage::Dataset, &folder), Err(Error::Foreign { found, .. }) if found.len() == 2));
    }

    #[test]
    fn the_output_of_another_stage_is_in_the_way() {
        let (_home, folder) = recorded();
        let refused = check(Stage::Plan, &folder).unwrap_err().to_string();
        let words = "the output of the stage dataset; expected that of plan, or nothing; work in another folder with \
                     --artifacts";
        assert_eq!(refused, format!("`{}`: {words}", folder.display()));
    }

    #[test]
    #[cfg(unix)]
    fn removal_follows_no_link_out_of_the_folder() {
        let (home, folder) = recorded();
        fs::rename(folder.join("data"), home.path().join("big")).unwrap();
        std::os::unix::fs::symlink(home.path().join("big"), folder.join("data")).unwrap();
        remove_recorded(Stage::Dataset, &folder).unwrap();
        assert!(home.path().join("big/parts/a").exists() && folder.join("data").is_symlink());
        assert!(!folder.join("README.md").exists());
    }

    #[test]
    fn removal_takes_what_is_named_and_leaves_the_rest() {
        let (home, folder) = recorded();
        fs::write(folder.join("data/notes"), "mine").unwrap();
        remove_recorded(Stage::Dataset, &folder).unwrap();
        assert_eq!(files::walk(home.path()).unwrap(), [PathBuf::from("dataset/data/notes")]);
        let (home, folder) = recorded();
        remove_recorded(Stage::Dataset, &folder).unwrap();
        assert!(files::entries(home.path()).unwrap().is_empty());
    }

    #[test]
    fn a_state_that_was_replaced_goes_and_a_folder_of_the_users_stays() {
        let (home, folder) = recorded();
        let former = home.path().join(".dataset.new");
        fs::rename(&folder, &former).unwrap();
        fs::create_dir(&folder).unwrap();
        mend(Stage::Dataset, &folder).unwrap();
        assert!(former.join("README.md").exists(), "a copy that somebody keeps");
        fs::write(former.join(files::REPLACED), "").unwrap();
        fs::remove_dir(&folder).unwrap();
        mend(Stage::Dataset, &folder).unwrap();
        assert!(former.exists(), "nothing took its place");
        fs::create_dir(&folder).unwrap();
        mend(Stage::Dataset, &folder).unwrap();
        assert!(!former.exists());
        fs::create_dir(&former).unwrap();
        fs::write(former.join("mine"), "").unwrap();
        mend(Stage::Dataset, &folder).unwrap();
        assert!(former.join("mine").exists());
    }

    #[test]
    fn the_end_of_a_removal_that_a_kill_met_goes_too() {
        let (home, folder) = recorded();
        let former = home.path().join(".dataset.new");
        for rest in [None, Some(files::REPLACED)] {
            fs::create_dir(&former).unwrap();
            rest.iter().for_each(|mark| fs::write(former.join(mark), "").unwrap());
            mend_if_left(Stage::Dataset, &folder);
            assert!(!former.exists() && folder.join("README.md").exists());
        }
    }

    #[test]
    fn half_of_a_record_that_a_kill_left_goes_too() {
        let (_home, folder) = recorded();
        fs::write(folder.join(".record.json.new"), "half").unwrap();
        mend_if_left(Stage::Dataset, &folder);
        assert!(!folder.join(".record.json.new").exists() && folder.join(record::FILE).exists());
    }

    #[test]
    fn a_state_that_took_its_place_loses_the_mark_that_a_kill_left_in_it() {
        let (_home, folder) = recorded();
        fs::write(folder.join(files::MARK), "").unwrap();
        mend_if_left(Stage::Dataset, &folder);
        assert!(!folder.join(files::MARK).exists() && folder.join("README.md").exists());
    }

    #[test]
    fn a_state_that_was_moved_aside_returns_where_nothing_took_its_place_and_a_folder_of_the_users_does_not() {
        let (home, folder) = recorded();
        let aside = home.path().join(".dataset.old");
        fs::write(folder.join(files::REPLACED), "").unwrap();
        fs::rename(&folder, &aside).unwrap();
        mend(Stage::Dataset, &folder).unwrap();
        assert!(folder.join(record::FILE).exists() && !aside.exists() && !folder.join(files::REPLACED).exists());
        remove_recorded(Stage::Dataset, &folder).unwrap();
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join("mine"), "").unwrap();
        mend(Stage::Dataset, &folder).unwrap();
        assert!(aside.join("mine").exists() && !folder.exists());
    }
}
