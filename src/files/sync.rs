//! Forcing files to the disk, so that a power cut finds the old state or the new one.
//!
//! A file system may put a new name on the disk before the content that the name stands for, and a power cut between the
//! two leaves a file of the right size that holds zeros. So content is forced there before its name says that it is
//! finished, and a name before what it replaced is removed.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Whether this process waits for the disk. A flag of the whole process, since it changes no result and is no matter of
/// the code that writes.
static WAITS: AtomicBool = AtomicBool::new(true);

const ACTION: &str = "force it to the disk";

/// Leaves it to the system, for the rest of this process, when files reach the disk (`--no-sync`).
pub fn leave_to_the_system() {
    WAITS.store(false, Ordering::Relaxed);
}

/// Waits until the content of a file is on the disk.
pub(super) fn file(file: &File, path: &Path) -> Result<()> {
    match WAITS.load(Ordering::Relaxed) {
        true => file.sync_all().map_err(Error::io(path, ACTION)),
        false => Ok(()),
    }
}

/// Waits until the content of the file at a path is on the disk.
pub fn path(path: &Path) -> Result<()> {
    match WAITS.load(Ordering::Relaxed) {
        true => {
            // Windows flushes only what can be written
            let opened = File::options().read(true).write(cfg!(windows)).open(path);
            file(&opened.map_err(Error::io(path, "read it"))?, path)
        }
        false => Ok(()),
    }
}

/// Waits until the names in a folder are on the disk, where the system can be asked for that.
#[cfg(unix)]
pub(super) fn folder(path: &Path) -> Result<()> {
    use std::io::ErrorKind;
    if !WAITS.load(Ordering::Relaxed) {
        return Ok(());
    }
    // the folder of a path without one
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match File::open(path).map_err(Error::io(path, "open it"))?.sync_all() {
        // some network file systems do not know the request for folders
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced.map_err(Error::io(path, ACTION)),
    }
}

/// Waits until the names in a folder are on the disk, where the system can be asked for that.
#[cfg(not(unix))]
pub(super) fn folder(_: &Path) -> Result<()> {
    Ok(())
}

/// Waits until the names in the folder in which a path stands are on the disk.
pub fn name(path: &Path) -> Result<()> {
    folder(path.parent().unwrap_or(Path::new("")))
}

/// Waits until files below `base` are on the disk, and the names of all that stands on the way to them.
pub(super) fn tree(base: &Path, files: &[PathBuf]) -> Result<()> {
    if !WAITS.load(Ordering::Relaxed) {
        return Ok(());
    }
    files.par_iter().try_for_each(|name| path(&base.join(name)))?;
    let folders = files.iter().flat_map(|path| path.ancestors().skip(1));
    let folders: BTreeSet<&Path> = folders.collect();
    // the deepest first
    folders.into_iter().rev().try_for_each(|path| folder(&base.join(path)))
}
