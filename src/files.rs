//! File operations that leave a file complete or unchanged: temporary siblings, renames, locks, and stamps by which an
//! unchanged file is recognised.
//!
//! After a kill or a power cut, a path shows either the old state or the new one, never a part of either. Nothing here
//! removes or replaces a file that this program did not write, unless a flag names it: a folder under construction
//! carries a mark, and a folder without a mark is left alone.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub mod sync;

const NEW: &str = ".new";
const OLD: &str = ".old";
const LOCK: &str = ".lock";

/// The maximum number of bytes of a text file. A record of 50,000 files has about 14 MB.
const TEXT: u64 = 16 << 20;

/// The suffix of a folder whose work was interrupted and can be resumed.
pub const UNFINISHED: &str = ".unfinished";

/// The hidden file that marks a folder that this program is building, or was building when it was killed.
pub const MARK: &str = ".multidigit";

/// The hidden file that marks a finished folder that is being replaced. If a kill leaves such a
/// folder, it can be removed.
pub const REPLACED: &str = ".multidigit-replaced";

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
        let file = File::options().create(true).append(true).open(path).map_err(Error::io(path, "open it"))?;
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

    fn names(folder: &Path) -> Vec<String> {
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        entries(folder).unwrap().into_iter().map(name).collect()
    }

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
    fn what_is_no_regular_file_is_neither_read_nor_locked() {
        let home = tempfile::tempdir().unwrap();
        let null = Path::new("/dev/null");
        assert_eq!(read(null).unwrap_err().to_string(), "`/dev/null`: not a regular file; expected a file");
        assert_eq!(read_text(null).unwrap_err().to_string(), "`/dev/null`: not a regular file; expected a file");
        std::os::unix::fs::symlink(null, home.path().join(".plan.lock")).unwrap();
        for hold in [Hold::Read, Hold::Write] {
            let refused = FolderLock::beside(&home.path().join("plan"), hold).err().unwrap().to_string();
            assert!(
                refused.ends_with("not a regular file; expected a lock file, or nothing, in its place"),
                "{refused}"
            );
        }
    }

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
}
