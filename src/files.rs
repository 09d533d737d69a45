//! Files whole or not at all: temporary siblings, renames, locks, and stamps that tell an untouched file.
//!
//! The promise, against kills and power cuts alike: what a name shows is either the old state or the new one, never half
//! of either. Nothing here removes or replaces a file that this program did not write, but where a flag names it: a folder
//! under construction carries a mark, and one without it is left alone.

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

/// Bytes of a text at most: a record of 50,000 files has about 14 MB.
const TEXT: u64 = 16 << 20;

/// The ending of a folder whose work was interrupted and can go on.
pub const UNFINISHED: &str = ".unfinished";

/// The hidden file that marks a folder in which this program is at work, or was when it was killed.
pub const MARK: &str = ".multidigit";

/// The hidden file that marks a finished folder whose place another one takes: what a kill leaves of it can go.
pub const REPLACED: &str = ".multidigit-replaced";

/// Creates a folder and its parents.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io(path, "create the folder"))
}

/// Opens a regular file for reading. A pipe or a device would keep the program waiting, or never end.
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

/// Reads a whole file of UTF-8 text: settings, a record, a table. What is made of a text in memory can be twenty times its
/// size.
///
/// # Errors
/// [`Error::Format`] for one that is larger than any of this program's, or not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    within(path, TEXT)?.read_to_end(&mut bytes).map_err(Error::io(path, "read it"))?;
    // a fault of the file, and none of the system's
    String::from_utf8(bytes).map_err(|e| {
        let place = e.utf8_error().valid_up_to();
        Error::format(path, format!("bytes from {place} on that are no UTF-8"), "a text in UTF-8")
    })
}

/// Opens a regular file of at most `limit` bytes for reading; of one that grows meanwhile, no more are read.
pub fn within(path: &Path, limit: u64) -> Result<impl Read + use<>> {
    let file = open(path)?;
    let bytes = file.metadata().map_err(Error::io(path, "look at it"))?.len();
    if bytes > limit {
        return Err(Error::format(path, format!("{bytes} bytes"), format!("at most {limit}")));
    }
    Ok(file.take(limit))
}

/// Writes a file of a folder under construction, which nobody reads before it is committed, and which is forced to the disk
/// then.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io(path, "create it"))?;
    file.write_all(bytes).map_err(Error::io(path, "write it"))
}

/// Writes a file of one of this program's own folders in one step: neither a reader, nor a kill, nor a power cut ever
/// meets half of it.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_by(path, None, |file| file.write_all(bytes).map_err(Error::io(path, "write it")))
}

/// [`replace`] by what `make` writes. What stood there before takes the name `former`, if there is one. Where `make` fails,
/// nothing is changed, and nothing left beside `path`.
pub fn replace_by(path: &Path, former: Option<&Path>, make: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let temporary = sibling(path, NEW);
    let file = File::create(&temporary).map_err(Error::io(path, "create it"))?;
    put(file, &temporary, path, former, make)
}

/// Writes a file among the user's own, such as one that a flag names: into a folder that is there, under a new name or
/// in place of a regular file.
///
/// # Errors
/// [`Error::Format`] where a folder, a link or a device has the name.
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
    // whatever has the temporary name already is not ours to write over, or to remove
    let temporary = sibling(path, &format!(".{}{NEW}", std::process::id()));
    let file = File::create_new(&temporary).map_err(Error::io(path, "create a file beside it"))?;
    put(file, &temporary, path, None, |file| file.write_all(bytes).map_err(Error::io(path, "write it")))
}

/// [`replace`], but not where another process is writing the same file, or left a half of it. Whether it was written.
pub fn replace_unless_taken(path: &Path, bytes: &[u8]) -> bool {
    let temporary = sibling(path, NEW);
    let Ok(file) = File::create_new(&temporary) else { return false };
    put(file, &temporary, path, None, |file| file.write_all(bytes).map_err(Error::io(path, "write it"))).is_ok()
}

/// Fills a temporary file and gives it its name, once its content is on the disk.
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
        // the failure under way matters more than one from here
        let _ = fs::remove_file(temporary);
        return made;
    }
    sync::name(path)
}

/// Gives a file of this program's own folders another name, in place of what has that name.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io(to, "put it in place"))?;
    sync::name(to)
}

/// The hidden sibling of a path that holds a state in transit.
fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{suffix}"))
}

/// Whether a file, by its name, is the half of another that a killed run was writing.
pub fn is_half_of(name: &str, other: &str) -> bool {
    name.strip_prefix('.').and_then(|name| name.strip_suffix(NEW)) == Some(other)
}

/// The folder that a path leads to: a link to a folder elsewhere stays one, and its folder is worked on.
///
/// # Errors
/// [`Error::Format`] for a link that leads nowhere, or a file.
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

/// A folder under construction beside the place where it will stand. It carries [`MARK`] until it stands there.
pub struct Build {
    target: PathBuf,
    folder: PathBuf,
    /// Whether a build that fails leaves its folder.
    keep: bool,
    committed: bool,
}

impl Build {
    /// Starts an empty folder for `target`, which is no link; what an earlier, killed build left there goes.
    ///
    /// # Errors
    /// [`Error::Foreign`] where a folder stands there that no build of this program made.
    pub fn beside(target: &Path) -> Result<Build> {
        let folder = sibling(target, NEW);
        clear_build(target)?;
        remove_empty(&folder)?;
        create_dir(&folder)?;
        let build = Build { target: target.to_owned(), folder, keep: false, committed: false };
        build.mark("what `multidigit` is making; the next run removes it")?;
        Ok(build)
    }

    /// Starts, or goes on with, a folder for `target` that a failed or killed build leaves behind: see [`unfinished`].
    /// `mark` is the text of its mark, where it has none yet.
    ///
    /// # Errors
    /// [`Error::Foreign`] where a folder with something in it stands there that no build of this program made.
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

    /// Writes the folder's mark.
    pub fn mark(&self, text: &str) -> Result<()> {
        replace(&self.folder.join(MARK), format!("{text}\n").as_bytes())
    }

    /// The folder to build in.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Puts the folder in the target's place in one step, once its `files`, named below it, are on the disk. Returns the
    /// folder that holds what stood there before, for the caller to remove.
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
            // Two renames where the system cannot exchange two names; whoever builds here next mends a kill between them.
            let old = sibling(&self.target, OLD);
            fs::rename(&self.target, &old).map_err(Error::io(&self.target, "move it aside"))?;
            if let Err(error) = place(&self.folder) {
                put_back(&self.target)?;
                return Err(error);
            }
            Some(old)
        };
        self.committed = true;
        // before anything of the former state goes
        sync::name(&self.target)?;
        let mark = self.target.join(MARK);
        fs::remove_file(&mark).map_err(Error::io(&mark, "remove it"))?;
        Ok(former)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if !self.committed && !self.keep {
            // A build that was not committed failed: the error under way matters more than one from here.
            let _ = remove_marked(&self.folder);
        }
    }
}

/// The folder beside a target in which a build stands that can go on.
pub fn unfinished(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{name}{UNFINISHED}"))
}

/// The places beside a target where a killed run may have left the state that stood there before.
pub fn former(target: &Path) -> [PathBuf; 3] {
    [sibling(target, NEW), unfinished(target), sibling(target, OLD)]
}

/// Puts the state back that a killed run had moved aside, which is in the last of [`former`].
pub fn put_back(target: &Path) -> Result<()> {
    fs::rename(sibling(target, OLD), target).map_err(Error::io(target, "put it back"))
}

/// Whether a killed run left a build beside a target that cannot go on.
pub fn is_build_left(target: &Path) -> bool {
    let folder = sibling(target, NEW);
    is_marked(&folder) || is_rest(&folder)
}

/// Removes a build that a killed run left, unless it can go on.
pub fn clear_build(target: &Path) -> Result<()> {
    let folder = sibling(target, NEW);
    if is_marked(&folder) {
        remove_marked(&folder)?;
    }
    if is_rest(&folder) { remove_empty(&folder) } else { Ok(()) }
}

/// Removes a folder that carries a mark. The mark goes last, so that what a kill leaves is still known by it.
fn remove_marked(folder: &Path) -> Result<()> {
    for path in entries(folder)?.into_iter().filter(|path| !path.ends_with(MARK)) {
        let is_folder = path.is_dir() && !path.is_symlink();
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io(&path, "remove it"))?;
    }
    remove(&folder.join(MARK))?;
    fs::remove_dir(folder).map_err(Error::io(folder, "remove it"))
}

/// Whether a killed run left a build beside a target that cannot go on, or the mark in a target that had taken its place.
pub fn needs_mending(target: &Path) -> bool {
    is_build_left(target) || is_marked(target) || target.join(REPLACED).is_file()
}

/// Whether a folder carries a build's mark.
pub fn is_marked(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir()) && folder.join(MARK).is_file()
}

/// Refuses a folder in which anything stands; none is fine.
///
/// # Errors
/// [`Error::Foreign`]
pub fn require_free(folder: &Path) -> Result<()> {
    let listed = entries(&resolve(folder)?)?;
    let names = listed.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    // a kill may have met the writing of a mark, or the end of a removal
    let found: Vec<String> = names.filter(|name| !is_half_of(name, MARK) && name != REPLACED).collect();
    match found.is_empty() {
        true => Ok(()),
        false => Err(Error::Foreign { folder: folder.to_owned(), found }),
    }
}

/// Whether a folder stands in which nothing stands but the marks that are removed last: the end of a removal that a kill
/// met.
pub fn is_rest(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir()) && require_free(folder).is_ok()
}

/// Removes a folder that is empty but for the rest of marks; none is fine.
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

/// Removes a folder, unless something is in it.
pub fn remove_if_empty(folder: &Path) -> Result<()> {
    match fs::remove_dir(folder) {
        // what some systems call a folder that is not empty
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => Ok(()),
        removed => removed.map_err(Error::io(folder, "remove it")),
    }
}

/// Removes a file or a link; what is not there is fine.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path, "remove it")(error)),
        _ => Ok(()),
    }
}

/// The paths in a folder, sorted by name; none for a folder that is not there.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    // a signal may interrupt it, which std goes on after everywhere but here
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
    let mut found = walk_all(folder)?;
    found.retain(|path| !path.iter().any(|part| part.to_string_lossy().starts_with('.')));
    Ok(found)
}

/// Every file below a folder, hidden ones too, as paths relative to it, sorted. A link counts as a file.
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

/// Where a path leads once everything on it that stands is followed, so that two paths can be compared.
pub fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (fs::canonicalize(ancestor), path.strip_prefix(ancestor)) {
            // an empty rest would add a slash
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path
}

/// Whom a lock keeps out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Everybody else: its holder writes.
    Write,
    /// Those who write: its holder reads.
    Read,
}

/// The lock of a folder; the system releases it when the process ends, however it ends.
pub struct FolderLock {
    file: File,
    folder: PathBuf,
}

impl FolderLock {
    /// Takes the lock that lies in a folder, to write there, or fails at once if another process has it.
    pub fn take(folder: &Path) -> Result<FolderLock> {
        create_dir(folder)?;
        FolderLock::open(folder, &folder.join(LOCK), Hold::Write)
    }

    /// Takes the lock that lies beside a folder, which need not be there, or fails at once if another process keeps this
    /// one out.
    pub fn beside(folder: &Path, hold: Hold) -> Result<FolderLock> {
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            create_dir(parent)?;
        }
        FolderLock::open(folder, &sibling(folder, LOCK), hold)
    }

    /// Takes the lock that lies beside a folder for reading, where this process can write it: where it cannot, it is
    /// nobody's to replace the folder either.
    pub fn reading(folder: &Path) -> Result<Option<FolderLock>> {
        match FolderLock::open(folder, &sibling(folder, LOCK), Hold::Read) {
            Err(Error::Io { .. }) => Ok(None),
            locked => locked.map(Some),
        }
    }

    /// The same lock, held for reading from now on; none where another process was quicker to write.
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
        std::mem::forget(Build::beside(&target).unwrap()); // as a kill leaves it
        fs::write(hidden.join("half"), "").unwrap();
        fs::create_dir_all(hidden.join("data/deep")).unwrap();
        assert_eq!(names(Build::beside(&target).unwrap().path()), [MARK]);
        for half in [None, Some("..multidigit.new"), Some(REPLACED)] {
            fs::create_dir(&hidden).unwrap(); // killed between the folder and its mark
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
