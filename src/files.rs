//! File operations that leave a file complete or unchanged, and stamps by which an unchanged file is recognised.
//!
//! After a kill or a power cut, a path shows either the old state or the new one, never a part of either. Nothing here
//! removes or replaces a file that this program did not write, unless a flag names it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

mod build;
mod lock;
pub mod sync;

pub use self::build::{
    Build, MARK, REPLACED, UNFINISHED, clear_build, former, is_build_left, is_marked, is_rest, needs_mending, put_back,
    remove_empty, require_free, unfinished,
};
pub use self::lock::{FolderLock, Hold};

const NEW: &str = ".new";

/// The maximum number of bytes of a text file. A record of 50,000 files has about 14 MB.
const TEXT: u64 = 16 << 20;

/// Creates a folder and its parents.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io(path, "create the folder"))
}

/// Opens a regular file for reading. Pipes and devices are refused, because reading them may block or never end.
pub fn open(path: &Path) -> Result<File> {
    let meta = fs::metadata(path).map_err(Error::io(path, "read it"))?;
    if !meta.is_file() {
        return Err(Error::format(path, "not a regular file", "a file"));
    }
    File::open(path).map_err(Error::io(path, "read it"))
}

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map_err(Error::io(path, "read it"))?;
    Ok(bytes)
}

/// Reads a whole file of UTF-8 text, such as settings, a record or a table. The data made from a text in memory can be
/// twenty times its size.
///
/// # Errors [`Error::Format`] if the file is larger than any file of this program, or not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    within(path, TEXT)?.read_to_end(&mut bytes).map_err(Error::io(path, "read it"))?;
    // an error of the content, not of the system
    String::from_utf8(bytes).map_err(|e| {
        let place = e.utf8_error().valid_up_to();
        Error::format(path, format!("bytes from {place} on that are no UTF-8"), "a text in UTF-8")
    })
}

/// Opens a regular file of at most `limit` bytes for reading. If the file grows meanwhile, no more
/// than `limit` bytes are read.
pub fn within(path: &Path, limit: u64) -> Result<impl Read + use<>> {
    let file = open(path)?;
    let bytes = file.metadata().map_err(Error::io(path, "look at it"))?.len();
    if bytes > limit {
        return Err(Error::format(path, format!("{bytes} bytes"), format!("at most {limit}")));
    }
    Ok(file.take(limit))
}

/// Writes a file in a folder under construction. Nobody reads the file before the folder is committed, which also
/// flushes the file to disk.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io(path, "create it"))?;
    file.write_all(bytes).map_err(Error::io(path, "write it"))
}

/// Replaces a file in one of this program's own folders atomically: neither a reader, a kill nor a power cut ever sees
/// a partial file.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_by(path, None, |file| file.write_all(bytes).map_err(Error::io(path, "write it")))
}

/// Like [`replace`], with the content that `make` writes. The former file is renamed to `former`, if that is given. If
/// `make` fails, `path` is unchanged and no temporary file is left.
pub fn replace_by(path: &Path, former: Option<&Path>, make: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let temporary = sibling(path, NEW);
    let file = File::create(&temporary).map_err(Error::io(path, "create it"))?;
    put(file, &temporary, path, former, make)
}

/// Writes a file among the user's own files, such as one that a flag names. The folder must exist, and the name must be
/// new or that of a regular file.
///
/// # Errors
/// [`Error::Format`] if the name belongs to a folder, a link or a device.
pub fn write_among_users(path: &Path, bytes: &[u8]) -> Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => None,
        Ok(meta) if meta.is_dir() => Some("a folder"),
        Ok(meta) if meta.is_symlink() => Some("a link"),
        Ok(_) => Some("a device, or something else that is no file"),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(Error::io(path, "look at it")(error)),
    };
    if let Some(found) = found {
        return Err(Error::format(path, found, "a regular file, or a name that is not taken"));
    }
    // an existing file with the temporary name may not be overwritten or removed
    let temporary = sibling(path, &format!(".{}{NEW}", std::process::id()));
    let file = File::create_new(&temporary).map_err(Error::io(path, "create a file beside it"))?;
    put(file, &temporary, path, None, |file| file.write_all(bytes).map_err(Error::io(path, "write it")))
}

/// Like [`replace`], but does nothing if another process is writing the same file, or left its temporary file. Returns
/// whether the file was written.
pub fn replace_unless_taken(path: &Path, bytes: &[u8]) -> bool {
    let temporary = sibling(path, NEW);
    let Ok(file) = File::create_new(&temporary) else { return false };
    put(file, &temporary, path, None, |file| file.write_all(bytes).map_err(Error::io(path, "write it"))).is_ok()
}

/// Fills a temporary file, flushes it to disk and renames it to `path`.
fn put(
    mut file: File,
    temporary: &Path,
    path: &Path,
    former: Option<&Path>,
    make: impl FnOnce(&mut File) -> Result<()>,
) -> Result<()> {
    let made = make(&mut file).and_then(|()| sync::file(&file, path)).and_then(|()| {
        match former.map(|former| fs::rename(path, former)) {
            Some(Err(error)) if error.kind() != ErrorKind::NotFound => Err(Error::io(path, "move it aside")(error)),
            _ => fs::rename(temporary, path).map_err(Error::io(path, "put it in place")),
        }
    });
    if made.is_err() {
        // the current error matters more than an error here
        let _ = fs::remove_file(temporary);
        return made;
    }
    sync::name(path)
}

/// A file that several processes may write at the same time: each writes it under a name of its own, and the file takes its path
/// when it is complete. A draft that is dropped is removed.
pub struct Draft {
    draft: tempfile::TempPath,
    path: PathBuf,
}

/// What separates the name of a file from the rest of the name of its draft.
const DRAFT: &str = ".draft-";

impl Draft {
    /// Begins a file. Creates its folder if it does not exist.
    pub fn beside(path: &Path) -> Result<Draft> {
        let folder = path.parent().unwrap_or(path);
        create_dir(folder)?;
        let beginning = sibling(path, DRAFT);
        let mut names = tempfile::Builder::new();
        names.prefix(beginning.file_name().unwrap_or_default());
        // not the library's own files, which nobody but their owner may read
        let file = names.make_in(folder, |draft| File::create_new(draft)).map_err(Error::io(path, "create it"))?;
        Ok(Draft { draft: file.into_temp_path(), path: path.to_owned() })
    }

    /// The path to write to.
    pub fn path(&self) -> &Path {
        &self.draft
    }

    /// Flushes the file to disk and gives it its path, where it replaces any other file.
    pub fn commit(self) -> Result<()> {
        let Draft { draft, path } = self;
        sync::path(&draft)?;
        draft.persist(&path).map_err(|error| Error::io(&path, "put it in place")(error.error))?;
        sync::name(&path)
    }
}

/// The drafts of a file that killed processes left, or that others are writing.
pub fn drafts_of(path: &Path) -> Result<Vec<PathBuf>> {
    let beginning = sibling(path, DRAFT);
    let beginning = beginning.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found = entries(path.parent().unwrap_or(path))?;
    found.retain(|path| path.file_name().unwrap_or_default().to_string_lossy().starts_with(&beginning));
    Ok(found)
}

/// Renames a file in one of this program's own folders, replacing any file of the new name.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io(to, "put it in place"))?;
    sync::name(to)
}

/// The hidden sibling of a path, for a temporary state.
fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{suffix}"))
}

/// Whether a file name is that of the temporary file for `other`, left by a killed run.
pub fn is_half_of(name: &str, other: &str) -> bool {
    name.strip_prefix('.').and_then(|name| name.strip_suffix(NEW)) == Some(other)
}

/// The folder that a path leads to. A link to a folder is followed, so that the link remains and its target is changed.
///
/// # Errors
/// [`Error::Format`] for a dangling link, or a file.
pub fn resolve(target: &Path) -> Result<PathBuf> {
    let resolved = match target.is_symlink() {
        true => fs::canonicalize(target).map_err(|_| {
            Error::format(target, "a link that leads nowhere", "a folder, or nothing, in its place; remove the link")
        })?,
        false => target.to_owned(),
    };
    match fs::metadata(&resolved) {
        Ok(meta) if !meta.is_dir() => {
            Err(Error::format(target, "a file", "a folder, or nothing, in its place; move it"))
        }
        _ => Ok(resolved),
    }
}

/// Removes a folder if it is empty.
pub fn remove_if_empty(folder: &Path) -> Result<()> {
    match fs::remove_dir(folder) {
        // the errors that systems report for a folder that is not empty
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => Ok(()),
        removed => removed.map_err(Error::io(folder, "remove it")),
    }
}

/// Removes a file or a link. A path that does not exist is accepted.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path, "remove it")(error)),
        _ => Ok(()),
    }
}

/// The paths in a folder, sorted by name. If the folder does not exist, there are none.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    // a signal may interrupt this call, which std retries everywhere else
    let mut listing = fs::read_dir(folder);
    while matches!(&listing, Err(error) if error.kind() == ErrorKind::Interrupted) {
        listing = fs::read_dir(folder);
    }
    let listing = match listing {
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

/// The free bytes for this user on the file system of a folder; `None` if the system does not report them.
#[cfg(unix)]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let system = rustix::fs::statvfs(folder).ok()?;
    Some(system.f_bavail.saturating_mul(system.f_frsize))
}

/// The free bytes for this user on the file system of a folder; `None` if the system does not report them.
#[cfg(not(unix))]
pub fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// All files below a folder as sorted paths relative to it, without hidden ones.
pub fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = walk_all(folder)?;
    found.retain(|path| !path.iter().any(|part| part.to_string_lossy().starts_with('.')));
    Ok(found)
}

/// All files below a folder as sorted paths relative to it, including hidden ones. A link counts as a file.
pub fn walk_all(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for path in entries(&next)? {
            match path.is_dir() && !path.is_symlink() {
                true => pending.push(path),
                false => found.push(path.strip_prefix(folder).unwrap_or(&path).to_owned()),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The absolute path, in which all links are resolved as far as the path exists, so that two paths can be compared.
pub fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (fs::canonicalize(ancestor), path.strip_prefix(ancestor)) {
            // joining an empty rest would append a slash
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path
}

/// The metadata by which an unchanged file is recognised without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The size in bytes.
    pub bytes: u64,
    /// The time of the last change, in nanoseconds since 1970.
    pub modified_ns: u64,
    /// The inode number in the file system; 0 if there is none.
    pub inode: u64,
}

impl Stamp {
    /// The current stamp of a file.
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

    /// The names in a folder, sorted.
    pub fn names(folder: &Path) -> Vec<String> {
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        entries(folder).unwrap().into_iter().map(name).collect()
    }

    #[test]
    #[cfg(unix)]
    fn a_file_among_the_users_takes_the_place_of_a_regular_file_only() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        write_among_users(&at("new.png"), b"1").unwrap();
        write_among_users(&at("new.png"), b"2").unwrap();
        assert_eq!(read(&at("new.png")).unwrap(), b"2");
        fs::create_dir(at("folder")).unwrap();
        std::os::unix::fs::symlink(at("new.png"), at("link")).unwrap();
        let refusal = |path: &Path| write_among_users(path, b"3").unwrap_err().to_string();
        let expected = "expected a regular file, or a name that is not taken";
        assert_eq!(refusal(&at("folder")), format!("`{}`: a folder; {expected}", at("folder").display()));
        assert_eq!(refusal(&at("link")), format!("`{}`: a link; {expected}", at("link").display()));
        let device = "`/dev/null`: a device, or something else that is no file; ";
        assert_eq!(refusal(Path::new("/dev/null")), format!("{device}{expected}"));
        assert!(refusal(&at("absent/new.png")).contains("absent/new.png`: cannot create a file beside it: "));
        assert_eq!(names(home.path()), ["folder", "link", "new.png"]);
        assert_eq!(read(&at("new.png")).unwrap(), b"2");
    }

    #[test]
    #[cfg(unix)]
    fn free_space_is_known_where_there_is_a_folder() {
        let home = tempfile::tempdir().unwrap();
        assert!(free_bytes(home.path()).is_some_and(|bytes| bytes > 0));
        assert_eq!(free_bytes(&home.path().join("absent")), None);
    }

    #[test]
    #[cfg(unix)]
    fn what_is_no_regular_file_is_not_read() {
        let null = Path::new("/dev/null");
        assert_eq!(read(null).unwrap_err().to_string(), "`/dev/null`: not a regular file; expected a file");
        assert_eq!(read_text(null).unwrap_err().to_string(), "`/dev/null`: not a regular file; expected a file");
    }
}
