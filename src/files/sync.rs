//! Flushes files to disk, so that a power cut leaves the old state or the new one.
//!
//! A file system may write a new name to disk before the content of the file. A power cut in between leaves a file of
//! the right size that holds zeros. Therefore the content is flushed before a name declares it finished, and a name is
//! flushed before the file that it replaced is removed.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::error::{Error, Result};

/// The answer of [`waits`]. The flag applies to the whole process, because it changes no result and
/// does not concern the code that writes.
static WAITS: AtomicBool = AtomicBool::new(true);

const ACTION: &str = "force it to the disk";

/// Lets the system decide when files reach the disk (`--no-sync`), for the rest of this process.
pub fn leave_to_the_system() {
    WAITS.store(false, Ordering::Relaxed);
}

/// Whether this process waits for the disk.
pub fn waits() -> bool {
    WAITS.load(Ordering::Relaxed)
}

/// Flushes the content of a file to disk.
pub(super) fn file(file: &File, path: &Path) -> Result<()> {
    match waits() {
        true => file.sync_all().map_err(Error::io(path, ACTION)),
        false => Ok(()),
    }
}

/// Flushes the content of the file at a path to disk.
pub fn path(path: &Path) -> Result<()> {
    match waits() {
        true => {
            // Windows flushes only files that are opened for writing
            let opened = File::options().read(true).write(cfg!(windows)).open(path);
            file(&opened.map_err(Error::io(path, "read it"))?, path)
        }
        false => Ok(()),
    }
}

/// Flushes the names in a folder to disk, if the system supports that.
#[cfg(unix)]
pub(super) fn folder(path: &Path) -> Result<()> {
    use std::io::ErrorKind;
    if !waits() {
        return Ok(());
    }
    // the folder of a path that has none
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match File::open(path).map_err(Error::io(path, "open it"))?.sync_all() {
        // some network file systems do not support this for folders
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced.map_err(Error::io(path, ACTION)),
    }
}

/// Flushes the names in a folder to disk, if the system supports that.
#[cfg(not(unix))]
pub(super) fn folder(_: &Path) -> Result<()> {
    Ok(())
}

/// Flushes the names in the parent folder of a path to disk.
pub fn name(path: &Path) -> Result<()> {
    folder(path.parent().unwrap_or(Path::new("")))
}

/// Flushes the content of files below `base` to disk, and the names of the files and of the folders on their paths.
pub(super) fn tree(base: &Path, files: &[PathBuf]) -> Result<()> {
    if !waits() {
        return Ok(());
    }
    files.par_iter().try_for_each(|name| path(&base.join(name)))?;
    let folders = files.iter().flat_map(|path| path.ancestors().skip(1));
    let folders: BTreeSet<&Path> = folders.collect();
    // the deepest folder comes first
    folders.into_iter().rev().try_for_each(|path| folder(&base.join(path)))
}
