//! Files whole or not at all: temporary siblings, renames, the folder lock, and stamps that tell an untouched file.
//!
//! The promise is against kills, not power cuts: what a name shows is either the old state or the new one, never half of
//! either. Nothing is synced to the disk by force.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const NEW: &str = ".new";
const OLD: &str = ".old";

/// The ending of a folder whose work was interrupted and can go on.
pub const UNFINISHED: &str = ".unfinished";

/// Creates a folder and its parents.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io(path, "create the folder"))
}

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::io(path, "read it"))
}

/// Reads a whole file of UTF-8 text.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io(path, "read it"))
}

/// Writes a file through a temporary sibling, so that no reader ever sees half of it.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |temporary| {
        let mut file = File::create(temporary).map_err(Error::io(temporary, "create it"))?;
        file.write_all(bytes).map_err(Error::io(temporary, "write it"))
    })
}

/// Puts a file in place that `make` writes under the name it is given.
pub fn replace(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = sibling(path, NEW);
    make(&temporary)?;
    fs::rename(&temporary, path).map_err(Error::io(path, "put it in place"))
}

/// The hidden sibling of a path that holds a state in transit.
fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{suffix}"))
}

/// A folder under construction beside the place where it will stand.
pub struct Build {
    target: PathBuf,
    folder: PathBuf,
    /// Whether a build that fails leaves its folder.
    keep: bool,
}

impl Build {
    /// Starts an empty folder for `target`; what an earlier, killed build left there goes.
    pub fn beside(target: &Path) -> Result<Build> {
        // a link to a folder elsewhere stays one
        let target = match target.is_symlink() {
            true => fs::canonicalize(target).unwrap_or_else(|_| target.to_owned()),
            false => target.to_owned(),
        };
        let folder = sibling(&target, NEW);
        remove(&folder)?;
        create_dir(&folder)?;
        Ok(Build { target, folder, keep: false })
    }

    /// Starts, or goes on with, a folder for `target` that a failed or killed build leaves behind: `target.unfinished`.
    pub fn resumable(target: &Path) -> Result<Build> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let folder = target.with_file_name(format!("{name}{UNFINISHED}"));
        create_dir(&folder)?;
        Ok(Build { target: target.to_owned(), folder, keep: true })
    }

    /// Empties the folder.
    pub fn clear(&self) -> Result<()> {
        remove(&self.folder)?;
        create_dir(&self.folder)
    }

    /// The folder to build in.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Puts the folder in the target's place in one step, and removes what stood there.
    pub fn commit(self) -> Result<()> {
        if !self.target.exists() {
            return fs::rename(&self.folder, &self.target).map_err(Error::io(&self.target, "put it in place"));
        }
        if exchange(&self.folder, &self.target) {
            return remove(&self.folder); // it now holds the former state
        }
        // Two renames where the system cannot exchange two names; `sweep` mends a kill between them.
        let old = sibling(&self.target, OLD);
        remove(&old)?;
        fs::rename(&self.target, &old).map_err(Error::io(&self.target, "move it aside"))?;
        fs::rename(&self.folder, &self.target).map_err(Error::io(&self.target, "put it in place"))?;
        remove(&old)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        // A build that was not committed failed: the error under way matters more than one from here.
        let _ = match self.keep {
            false => fs::remove_dir_all(&self.folder),
            true => fs::remove_dir(&self.folder), // it refuses where something is in it
        };
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

/// Removes a file, a link, or a folder with all it holds; what is not there is fine.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "remove it")(e)),
        _ => Ok(()),
    }
}

/// Clears what killed runs left in a folder: builds that never finished go, a state that was moved aside returns.
/// Call it with the folder's lock in hand.
pub fn sweep(folder: &Path) -> Result<()> {
    for path in entries(folder)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some(hidden) = name.strip_prefix('.') else { continue };
        if hidden.ends_with(NEW) {
            remove(&path)?;
        } else if let Some(target) = hidden.strip_suffix(OLD) {
            let target = path.with_file_name(target);
            if target.exists() {
                remove(&path)?;
            } else {
                fs::rename(&path, &target).map_err(Error::io(&target, "put it back"))?;
            }
        }
    }
    Ok(())
}

/// The paths in a folder, sorted by name; none for a folder that is not there.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(Error::io(folder, "list it"))?,
    };
    let mut paths = Vec::new();
    for entry in listing {
        paths.push(entry.map_err(Error::io(folder, "list it"))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Bytes that are free, for this user, on the file system of a folder; `None` where the system does not tell.
#[cfg(unix)]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let system = rustix::fs::statvfs(folder).ok()?;
    Some(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Bytes that are free, for this user, on the file system of a folder; `None` where the system does not tell.
#[cfg(not(unix))]
pub fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// Every file below a folder, as paths relative to it, sorted; hidden names are left out.
pub fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for path in entries(&next)? {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                continue;
            }
            match path.is_dir() {
                true => pending.push(path),
                false => found.push(path.strip_prefix(folder).unwrap_or(&path).to_owned()),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The exclusive lock of a folder; the system releases it when the process ends, however it ends.
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock, or fails at once if another process has it.
    pub fn take(folder: &Path) -> Result<FolderLock> {
        create_dir(folder)?;
        let path = folder.join(".lock");
        let file = File::options().create(true).append(true).open(&path).map_err(Error::io(&path, "open it"))?;
        FolderLock::lock(folder, &path, file)
    }

    /// Takes the lock for reading what stands: nothing is created, and a folder that this process cannot write, which it
    /// cannot be at work in either, is not locked.
    pub fn take_if_writable(folder: &Path) -> Result<Option<FolderLock>> {
        let path = folder.join(".lock");
        match File::options().append(true).open(&path) {
            Ok(file) => FolderLock::lock(folder, &path, file).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn lock(folder: &Path, path: &Path, file: File) -> Result<FolderLock> {
        match file.try_lock() {
            Ok(()) => Ok(FolderLock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Busy { path: folder.to_owned() }),
            Err(fs::TryLockError::Error(e)) => Err(Error::io(path, "lock it")(e)),
        }
    }
}

/// What tells an untouched file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Size in bytes.
    pub bytes: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified_ns: u64,
    /// The file's number in its file system; 0 where there is none.
    pub inode: u64,
}

impl Stamp {
    /// The stamp of a file as it stands.
    pub fn of(path: &Path) -> Result<Stamp> {
        let meta = fs::metadata(path).map_err(Error::io(path, "look at it"))?;
        let modified = meta.modified().map_err(Error::io(path, "look at its time"))?;
        let modified_ns = modified.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_nanos() as u64);
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&meta);
        #[cfg(not(unix))]
        let inode = 0;
        Ok(Stamp { bytes: meta.len(), modified_ns, inode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_replaces_its_target_as_a_whole() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("dataset");
        for round in ["one", "two"] {
            let build = Build::beside(&target).unwrap();
            fs::write(build.path().join(round), round).unwrap();
            build.commit().unwrap();
            assert_eq!(walk(&target).unwrap(), [PathBuf::from(round)]);
            assert_eq!(entries(home.path()).unwrap(), std::slice::from_ref(&target));
        }
    }

    #[test]
    fn a_build_that_is_dropped_leaves_the_target_alone() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("dataset");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("kept"), "").unwrap();
        drop(Build::beside(&target).unwrap());
        assert_eq!(walk(&target).unwrap(), [PathBuf::from("kept")]);
        assert_eq!(entries(home.path()).unwrap(), [target]);
    }

    #[test]
    fn sweeping_removes_halves_and_restores_what_was_moved_aside() {
        let home = tempfile::tempdir().unwrap();
        for folder in [".plan.new", ".dataset.old", ".plan.old", "plan"] {
            fs::create_dir(home.path().join(folder)).unwrap();
        }
        fs::write(home.path().join(".note.txt.new"), "half").unwrap();
        sweep(home.path()).unwrap();
        assert_eq!(entries(home.path()).unwrap(), ["dataset", "plan"].map(|name| home.path().join(name)));
    }

    #[test]
    #[cfg(unix)]
    fn free_space_is_known_where_there_is_a_folder() {
        let home = tempfile::tempdir().unwrap();
        assert!(free_bytes(home.path()).is_some_and(|bytes| bytes > 0));
        assert_eq!(free_bytes(&home.path().join("absent")), None);
    }

    #[test]
    fn a_folder_is_locked_once() {
        let home = tempfile::tempdir().unwrap();
        let first = FolderLock::take(home.path()).unwrap();
        assert!(matches!(FolderLock::take(home.path()), Err(Error::Busy { .. })));
        drop(first);
        FolderLock::take(home.path()).unwrap();
    }
}
