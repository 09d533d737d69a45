//! Locks on folders. The lock file lies in the folder or beside it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{create_dir, sibling};
use crate::error::{Error, Result};

const LOCK: &str = ".lock";

/// The kind of a lock, which determines whom it excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The holder writes, and excludes everyone else.
    Write,
    /// The holder reads, and excludes writers.
    Read,
}

/// A lock on a folder. The system releases it when the process ends, in any way.
pub struct FolderLock {
    file: File,
    folder: PathBuf,
}

impl FolderLock {
    /// Takes the lock file in a folder for writing. Returns an error at once if another process holds it.
    pub fn take(folder: &Path) -> Result<FolderLock> {
        create_dir(folder)?;
        FolderLock::open(folder, &folder.join(LOCK), Hold::Write)
    }

    /// Takes the lock file beside a folder, which need not exist. Returns an error at once if another
    /// process excludes this lock.
    pub fn beside(folder: &Path, hold: Hold) -> Result<FolderLock> {
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            create_dir(parent)?;
        }
        FolderLock::open(folder, &sibling(folder, LOCK), hold)
    }

    /// Takes the lock file beside a folder for reading. Returns `None` if the lock file cannot be written, since the
    /// folder cannot be replaced then either.
    pub fn reading(folder: &Path) -> Result<Option<FolderLock>> {
        match FolderLock::open(folder, &sibling(folder, LOCK), Hold::Read) {
            Err(Error::Io { .. }) => Ok(None),
            locked => locked.map(Some),
        }
    }

    /// Exchanges the lock for a reading lock. Returns `None` if another process took a writing lock meanwhile.
    pub fn downgraded(self) -> Option<FolderLock> {
        let FolderLock { file, folder } = self;
        file.unlock().ok()?;
        FolderLock::lock(&folder, &sibling(&folder, LOCK), file, Hold::Read).ok()
    }

    fn open(folder: &Path, path: &Path, hold: Hold) -> Result<FolderLock> {
        if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
            return Err(Error::format(path, "not a regular file", "a lock file, or nothing, in its place"));
        }
        // a network file system locks a file for reading only if it is open for reading
        let file =
            File::options().create(true).read(true).append(true).open(path).map_err(Error::io(path, "open it"))?;
        FolderLock::lock(folder, path, file, hold)
    }

    fn lock(folder: &Path, path: &Path, file: File, hold: Hold) -> Result<FolderLock> {
        let locked = match hold {
            Hold::Write => file.try_lock(),
            Hold::Read => file.try_lock_shared(),
        };
        match locked {
            Ok(()) => Ok(FolderLock { file, folder: folder.to_owned() }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Busy { path: folder.to_owned() }),
            Err(fs::TryLockError::Error(e)) => Err(Error::io(path, "lock it")(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_writer_or_many_readers() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("dataset");
        let busy = |hold| matches!(FolderLock::beside(&folder, hold), Err(Error::Busy { .. }));
        let writer = FolderLock::beside(&folder, Hold::Write).unwrap();
        assert!(busy(Hold::Write) && busy(Hold::Read));
        let reader = writer.downgraded();
        assert!(reader.is_some());
        let second = FolderLock::reading(&folder).unwrap().unwrap();
        assert!(busy(Hold::Write) && !busy(Hold::Read));
        drop((reader, second));
        FolderLock::beside(&folder, Hold::Write).unwrap();
        assert!(FolderLock::reading(&home.path().join("absent/dataset")).unwrap().is_none());
    }

    #[test]
    #[cfg(unix)]
    fn what_is_no_regular_file_is_not_locked() {
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", home.path().join(".plan.lock")).unwrap();
        for hold in [Hold::Read, Hold::Write] {
            let refused = FolderLock::beside(&home.path().join("plan"), hold).err().unwrap().to_string();
            assert!(
                refused.ends_with("not a regular file; expected a lock file, or nothing, in its place"),
                "{refused}"
            );
        }
    }
}
