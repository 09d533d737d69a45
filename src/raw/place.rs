//! Puts finished files into a folder of the user, without ever replacing a file there.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::sync;
use crate::raw::RawError;

/// Moves a file into `folder` under its own name in one step, after its content has been flushed to disk. Where
/// the file system cannot rename without replacing, the file is linked instead of moved; the caller must then
/// remove the old path.
///
/// If a file of that name has appeared in `folder` meanwhile, it is kept and the call succeeds. Only the user can have
/// put it there, and the caller reads and checks all files of the set afterwards.
///
/// # Errors
/// [`RawError::RawInTheWay`] if the name belongs to something that is not a file.
pub(super) fn put(file: &Path, folder: &Path) -> Result<()> {
    let target = folder.join(file.file_name().unwrap_or_default());
    sync::path(file)?;
    if !rename_to_free(file, &target) {
        // if the system or the file system cannot rename without replacing: a link never replaces a file either
        match fs::hard_link(file, &target) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match target.is_file() {
                true => return Ok(()),
                false => return Err(Error::from(RawError::RawInTheWay { path: target })),
            },
            linked => linked.map_err(Error::io(&target, "put it in place"))?,
        }
    }
    sync::name(&target)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn rename_to_free(from: &Path, to: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn rename_to_free(_: &Path, _: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A home folder that contains a folder `raw` and a file to put there.
    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("raw")).unwrap();
        fs::write(home.path().join("labels"), "new").unwrap();
        home
    }

    fn put_labels(home: &tempfile::TempDir) -> Result<(), String> {
        let put = put(&home.path().join("labels"), &home.path().join("raw"));
        put.map_err(|error| error.to_string().replace(&home.path().display().to_string(), "HOME"))
    }

    #[test]
    fn a_file_moves_to_a_name_that_is_free() {
        let home = home();
        put_labels(&home).unwrap();
        assert_eq!(fs::read_to_string(home.path().join("raw/labels")).unwrap(), "new");
    }

    #[test]
    fn a_file_that_stands_there_is_kept() {
        let home = home();
        fs::write(home.path().join("raw/labels"), "the user's").unwrap();
        put_labels(&home).unwrap();
        assert_eq!(fs::read_to_string(home.path().join("raw/labels")).unwrap(), "the user's");
    }

    #[test]
    fn what_is_no_file_is_kept_and_named() {
        let expected = "`HOME/raw/labels`: found something that is no file; expected a file, or nothing: move it away";
        let folder = home();
        fs::create_dir(folder.path().join("raw/labels")).unwrap();
        assert_eq!(put_labels(&folder), Err(expected.to_owned()));
        assert!(folder.path().join("raw/labels").is_dir());
        #[cfg(unix)]
        {
            let link = home();
            std::os::unix::fs::symlink("nowhere", link.path().join("raw/labels")).unwrap();
            assert_eq!(put_labels(&link), Err(expected.to_owned()));
            assert!(link.path().join("raw/labels").is_symlink());
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let home = home();
        fs::remove_dir(home.path().join("raw")).unwrap();
        let message = put_labels(&home).unwrap_err();
        assert!(message.starts_with("`HOME/raw/labels`: cannot put it in place: "), "{message}");
    }
}
