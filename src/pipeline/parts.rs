//! Stages in parts: several processes, on one machine or on many with one file system, write the shards of a stage, each its
//! share, and one commits them.
//!
//! The shards of a key lie in the folder `STAGE.parts/KEY`, where KEY begins the digest of the stage's key. Each shard has a
//! receipt in [`RECEIPTS`], which is written before the shard takes its name. A file without a receipt is the user's, and is
//! neither replaced nor removed. The bytes of a shard follow from the key, so any part may run twice, at the same time, or be
//! killed: the shards are the same. A commit links the shards into a new folder of the stage and leaves them in place until that
//! folder has taken its name.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::panic::resume_unwind;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::definition::Parts;
use super::lock::Lock;
use super::{Freshness, Outcome, Pipeline, PipelineError, Stage, ownership};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files::{self, Build, Draft, FolderLock, Hold, Stamp};
use crate::progress::Progress;
use crate::record::{self, Key, Output, seal};
use crate::shards::set::Gathered;
use crate::shards::{ShardFile, ShardPlan, Sink};

/// The ending of the folder of all parts of a stage.
const PARTS: &str = "parts";

/// The folder of the receipts in the folder of a key.
const RECEIPTS: &str = "receipts";

/// The ending of a receipt.
const RECEIPT: &str = "json";

/// The ending of the file with the digests of the rows of a shard.
const ROWS: &str = "rows";

/// The number of missing shards that an error names.
const NAMED: usize = 3;

/// A share of the work: part `number` of `of` parts, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    number: usize,
    of: usize,
}

impl Share {
    /// The positions of the share's items among `items` items.
    pub(super) fn range(self, items: usize) -> std::ops::Range<usize> {
        let Share { number, of } = self;
        // in 128 bits, as the number of parts has no limit
        let bound = |number: usize| (number as u128 * items as u128 / of as u128) as usize;
        bound(number)..bound(number + 1)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let numbers = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((number, of)) if number < of => Ok(Share { number, of }),
            _ => Err("expected I/N, with I from 0 to N - 1: `0/4` to `3/4` are the parts of four".to_owned()),
        }
    }
}

/// The result of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartWritten {
    /// The number of shards that the part wrote.
    pub written: usize,
    /// The number of its shards that were there before.
    pub found: usize,
    /// The number of shards of all parts.
    pub of: usize,
}

/// What is known of a shard. The digests of its rows are in a file of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Receipt {
    /// The shard.
    pub(super) output: Output,
    pub(super) sha256: String,
    /// The digest of the file with the digests of the rows.
    pub(super) rows: Digest,
}

impl Pipeline {
    /// Writes a share of a stage's shards. The inputs of the stage must be fresh. If the stage itself is fresh, all shards are
    /// there.
    ///
    /// # Errors
    /// [`PipelineError::NoParts`] if the stage has no shards. [`Error::Foreign`] if files of the user are in the way.
    pub fn run_part(&self, stage: Stage, share: Share, progress: &Progress) -> Result<PartWritten> {
        let target = self.target_of_parts(stage)?;
        let _inputs = self.lock_inputs(stage)?;
        let (work, (key, _)) = (self.parts(stage)?, self.key(stage)?);
        let place = Place::new(&target, &key);
        let all = work.shards();
        let own = all.get(share.range(all.len())).unwrap_or_default();
        if let Freshness::Fresh(_) = self.freshness(stage, &BTreeSet::new())? {
            return Ok(PartWritten { written: 0, found: own.len(), of: all.len() });
        }
        let rows = own.iter().map(ShardPlan::rows).sum();
        progress.begin(&format!("{stage}, part {share}"), rows, "images")?;
        let written = thread::scope(|scope| {
            // one shard is digested and waits for the disk while the next one is made
            let (drafts, next) = sync_channel::<Drafted>(0);
            let finisher = scope.spawn(|| next.into_iter().try_for_each(|draft| draft.commit()));
            let make = || {
                let mut written = 0;
                for shard in own {
                    if place.complete(shard)?.is_some() {
                        progress.advance(shard.rows())?;
                    } else if drafts.send(place.draft(work.as_ref(), shard, progress)?).is_ok() {
                        written += 1;
                    } else {
                        break; // the finisher has failed and says why
                    }
                }
                Ok(written)
            };
            let made = make();
            drop(drafts);
            finisher.join().unwrap_or_else(|panic| resume_unwind(panic)).and(made)
        })?;
        progress.end();
        Ok(PartWritten { written, found: own.len() - written, of: all.len() })
    }

    /// Puts a stage in place whose shards were all written by parts. The content and the files are those of a single run. A
    /// stage that is fresh is left as it is, so that a commit may be repeated.
    ///
    /// # Errors
    /// [`PipelineError::PartsMissing`] if shards are missing, damaged, or were made with other settings or inputs.
    /// [`Error::Busy`] if the stage runs. [`Error::Foreign`] if files of the user are in the stage's folder.
    pub fn commit(&self, stage: Stage, progress: &Progress) -> Result<Outcome> {
        let started = Instant::now();
        let target = self.target_of_parts(stage)?;
        let _writing = FolderLock::beside(&target, Hold::Write)?;
        ownership::mend(stage, &target)?;
        let _inputs = self.lock_inputs(stage)?;
        let (key, _) = self.key(stage)?;
        let place = Place::new(&target, &key);
        if let Freshness::Fresh(record) = self.freshness(stage, &BTreeSet::new())? {
            // a commit may have been killed while it removed the parts
            remove(&place.folder)?;
            return Ok(Outcome::Fresh(record));
        }
        ownership::check_around(stage, &target)?;
        let work = self.parts(stage)?;
        let receipts = place.all(stage, work.as_ref())?;
        progress.begin(&format!("{stage}, commit"), work.shards().iter().map(ShardPlan::rows).sum(), "images")?;
        let build = Build::beside(&target)?;
        let (mut gathered, mut outputs) = (Gathered::default(), Vec::new());
        for (shard, Receipt { output, sha256, rows }) in work.shards().iter().zip(receipts) {
            gathered.rows(shard.part, &place.digests(shard, rows)?);
            let (path, bytes) = (shard.path.clone(), output.stamp.bytes);
            gathered.shard(shard.part, ShardFile { path, bytes, sha256 });
            let linked = build.path().join(&shard.path);
            link(&place.folder.join(&shard.path), &linked)?;
            outputs.push(Output { stamp: Stamp::of(&linked)?, ..output });
            progress.advance(shard.rows())?;
        }
        let done = work.finish(build.path(), &gathered.finish())?;
        let beside: Vec<PathBuf> = work.beside().iter().map(PathBuf::from).collect();
        outputs.extend(record::outputs(build.path(), &beside)?);
        outputs.sort_by(|a, b| a.path.cmp(&b.path));
        let record = super::record_of(key, done, outputs, started);
        record.write(build.path())?;
        super::put_in_place(stage, build, &record, progress)?;
        remove(&place.folder)?;
        progress.end();
        let pinned = Lock::read(&self.lock_file)?.and_then(|lock| lock.expected(stage, &self.config));
        let pinned = pinned.map(|content| content == record.content);
        Ok(Outcome::Ran { reasons: vec!["--commit".to_owned()], record: Box::new(record), pinned })
    }

    /// How far the parts of a stage are, in words. `None` if none of its shards was written by parts.
    pub(super) fn parts_under_way(&self, stage: Stage) -> Result<Option<String>> {
        if !stage.definition().has_parts() {
            return Ok(None);
        }
        let place = Place::new(&self.folder(stage), &self.key(stage)?.0);
        if !is_folder(&place.folder) {
            return Ok(None);
        }
        let shards = stage.definition().shards(self)?;
        let written = shards.iter().filter(|shard| is_regular(&receipt_path(&place.folder, &shard.path))).count();
        Ok(match (written, shards.len()) {
            (0, _) => None,
            (written, of) if written == of => {
                let way = format!("`multidigit run {stage} --commit` puts them in place");
                Some(format!("parts have written all {of} shards; {way}"))
            }
            (written, of) => Some(format!("parts have written {written} of {of} shards")),
        })
    }

    /// The folder of a stage that is made in parts. Its inputs are fresh.
    fn target_of_parts(&self, stage: Stage) -> Result<PathBuf> {
        super::check(&self.config, &[stage])?;
        self.check_folders()?;
        if !stage.definition().has_parts() {
            return Err(no_parts(stage));
        }
        self.require_fresh_inputs(&[stage])?;
        files::resolve(&self.folder(stage))
    }

    /// The work of a stage that is made in parts.
    pub(super) fn parts(&self, stage: Stage) -> Result<Box<dyn Parts>> {
        stage.definition().parts(self)?.ok_or_else(|| no_parts(stage))
    }
}

/// The error for a stage that cannot be made in parts.
pub(super) fn no_parts(stage: Stage) -> Error {
    let others = Stage::ALL.into_iter().filter(|stage| stage.definition().has_parts());
    let expected = others.map(Stage::name).collect::<Vec<_>>().join(" or ");
    Error::from(PipelineError::NoParts { stage: stage.name(), expected })
}

/// The folder of all parts of a stage, beside the stage's folder `target`.
pub(super) fn folder(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{name}.{PARTS}"))
}

/// Removes the shards that receipts below a folder name, with the receipts, then the folders that are empty. Other files
/// stay. Returns the number of files that were removed.
pub(super) fn remove(folder: &Path) -> Result<usize> {
    let mut removed = 0;
    for path in files::walk_all(folder)? {
        let full = folder.join(&path);
        let of_receipts = path.extension().is_some_and(|ending| ending == RECEIPT) && is_plain(folder, &path);
        let Some(home) = full.ancestors().find(|home| home.ends_with(RECEIPTS)).filter(|_| of_receipts) else {
            continue;
        };
        let (Some(home), Ok(Some(receipt))) = (home.parent(), Receipt::read(&full)) else { continue };
        let shard = PathBuf::from(&receipt.output.path);
        if receipt_path(home, &shard) != full || !is_plain(home, &shard) {
            continue;
        }
        // the receipt last, so that what is left after a kill is still known
        for path in [home.join(&shard), rows_path(home, &shard), full] {
            for draft in files::drafts_of(&path)? {
                files::remove(&draft)?;
            }
            if is_regular(&path) {
                files::remove(&path)?;
                removed += 1;
            }
        }
    }
    if is_folder(folder) {
        ownership::remove_empty_folders(folder)?;
        files::remove_if_empty(folder)?;
    }
    // of the folder of a key, the folder around it: a kill may have left it empty
    if let Some(around) = folder.parent().filter(|around| around.extension().is_some_and(|ending| ending == PARTS))
        && is_folder(around)
    {
        files::remove_if_empty(around)?;
    }
    Ok(removed)
}

/// Whether a relative path leads to a place below a folder without a link.
fn is_plain(folder: &Path, path: &Path) -> bool {
    let is_within = path.components().all(|part| matches!(part, Component::Normal(_)));
    let way = path.ancestors().skip(1).filter(|way| !way.as_os_str().is_empty());
    is_within && !way.into_iter().any(|way| folder.join(way).is_symlink())
}

/// The folder of the parts of one key.
struct Place {
    folder: PathBuf,
}

impl Place {
    fn new(target: &Path, key: &Key) -> Place {
        Place { folder: folder(target).join(key.digest().short()) }
    }

    /// The receipt of a shard; `None` if there is none.
    fn receipt(&self, shard: &ShardPlan) -> Result<Option<Receipt>> {
        Receipt::read(&receipt_path(&self.folder, &shard.path))
    }

    /// The receipt of a shard that is as its receipt says; `None` if it has to be written. A shard is read only if its stamp
    /// is not the one in the receipt.
    fn complete(&self, shard: &ShardPlan) -> Result<Option<Receipt>> {
        let Some(receipt) = self.receipt(shard)? else { return Ok(None) };
        let (path, rows) = (self.folder.join(&shard.path), rows_path(&self.folder, &shard.path));
        if !is_regular(&path) || !is_regular(&rows) {
            return Ok(None);
        }
        let (stamp, Output { stamp: recorded, digest, .. }) = (Stamp::of(&path)?, &receipt.output);
        let is_whole = stamp == *recorded || stamp.bytes == recorded.bytes && Digest::of_file(&path)? == *digest;
        Ok((is_whole && Digest::of_file(&rows)? == receipt.rows).then_some(receipt))
    }

    /// The receipts of all shards, in order.
    fn all(&self, stage: Stage, work: &dyn Parts) -> Result<Vec<Receipt>> {
        let (mut receipts, mut missing) = (Vec::new(), Vec::new());
        for shard in work.shards() {
            match self.complete(shard)? {
                Some(receipt) => receipts.push(receipt),
                None => missing.push(record::name(&shard.path)),
            }
        }
        match missing.is_empty() {
            true => Ok(receipts),
            false => Err(missing_parts(stage, self.folder.clone(), missing, work.shards().len())),
        }
    }

    /// Writes the drafts of a shard and of the digests of its rows.
    fn draft(&self, work: &dyn Parts, shard: &ShardPlan, progress: &Progress) -> Result<Drafted> {
        let (path, rows, receipt) = (
            self.folder.join(&shard.path),
            rows_path(&self.folder, &shard.path),
            receipt_path(&self.folder, &shard.path),
        );
        [&path, &rows].into_iter().try_for_each(|path| self.require_folders(path))?;
        // looked at before the receipt, which another process writes before them
        let taken = [&path, &rows, &receipt].map(|path| fs::symlink_metadata(path).ok().map(|meta| (path, meta)));
        let is_known = self.receipt(shard)?.is_some();
        let foreign = taken.into_iter().flatten().filter(|(_, meta)| !meta.is_file() || !is_known);
        let name = |path: &Path| record::name(path.strip_prefix(&self.folder).unwrap_or(path));
        let found: Vec<String> = foreign.map(|(path, _)| name(path)).collect();
        if !found.is_empty() {
            return Err(Error::Foreign { folder: self.folder.clone(), found });
        }
        let (shard_draft, rows_draft) = (Draft::beside(&path)?, Draft::beside(&rows)?);
        let mut file = File::create(rows_draft.path()).map_err(Error::io(&rows, "create it"))?;
        let mut bytes = File::create(shard_draft.path()).map_err(Error::io(&path, "create it"))?;
        work.write(shard, Sink { path: &path, bytes: &mut bytes }, &mut |digests| {
            digests.iter().try_for_each(|row| file.write_all(&row.bytes())).map_err(Error::io(&rows, "write it"))?;
            progress.advance(digests.len() as u64)
        })?;
        Ok(Drafted { name: record::name(&shard.path), shard: shard_draft, rows: rows_draft, receipt })
    }

    /// Fails if a file or a link stands in the place of a folder on the way to a path below this place. What is behind a link is
    /// the user's.
    fn require_folders(&self, path: &Path) -> Result<()> {
        let top = self.folder.parent().unwrap_or(&self.folder);
        for way in path.ancestors().skip(1).take_while(|way| way.starts_with(top)) {
            let Ok(meta) = fs::symlink_metadata(way) else { continue };
            if !meta.is_dir() {
                let kind = if meta.is_symlink() { "link" } else { "file" };
                let expected = format!("a folder of this program, or nothing; move the {kind} away");
                return Err(Error::format(way, format!("a {kind}"), expected));
            }
        }
        Ok(())
    }

    /// The digests of the rows of a shard, from the file with the digest `digest`.
    fn digests(&self, shard: &ShardPlan, digest: Digest) -> Result<Vec<Digest>> {
        let path = rows_path(&self.folder, &shard.path);
        row_digests(&path, &files::read(&path)?, shard, digest)
    }
}

/// The digests of the rows of a shard, from the bytes of their file, whose digest is `digest`.
pub(super) fn row_digests(path: &Path, bytes: &[u8], shard: &ShardPlan, digest: Digest) -> Result<Vec<Digest>> {
    let (rows, rest) = bytes.as_chunks();
    if Digest::of(bytes) != digest || rows.len() as u64 != shard.rows() || !rest.is_empty() {
        let expected = "what its receipt says; remove it, and write the part again";
        return Err(Error::format(path, "other bytes", expected));
    }
    Ok(rows.iter().map(|row| Digest::from_bytes(*row)).collect())
}

/// The error for shards that are missing, by their names, of the `of` shards of a stage.
pub(super) fn missing_parts(stage: Stage, folder: PathBuf, mut missing: Vec<String>, of: usize) -> Error {
    let count = missing.len();
    missing.truncate(NAMED);
    let named = missing.join(", ");
    Error::from(PipelineError::PartsMissing { stage: stage.name(), folder, count, of, named })
}

/// A shard that is written and has no receipt yet.
struct Drafted {
    /// The name of the shard in its receipt.
    name: String,
    shard: Draft,
    rows: Draft,
    /// The path of the receipt.
    receipt: PathBuf,
}

impl Drafted {
    /// Puts the receipt in place, then the digests of the rows and the shard.
    fn commit(self) -> Result<()> {
        let Drafted { name, shard, rows, receipt } = self;
        let (sha256, _) = crate::digest::sha256_of_file(shard.path())?;
        let output = Output { path: name, stamp: Stamp::of(shard.path())?, digest: Digest::of_file(shard.path())? };
        let told = Receipt { output, sha256, rows: Digest::of_file(rows.path())? };
        let draft = Draft::beside(&receipt)?;
        files::write(draft.path(), told.text().as_bytes())?;
        // the receipt first: what it names is the program's
        draft.commit()?;
        rows.commit()?;
        shard.commit()
    }
}

impl Receipt {
    /// Reads a receipt; `None` if there is none.
    fn read(path: &Path) -> Result<Option<Receipt>> {
        if !is_regular(path) {
            return Ok(None);
        }
        Receipt::parse(path, &files::read_text(path)?).map(Some)
    }

    /// Parses the text of a receipt.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Receipt> {
        let expected = "a receipt as this program wrote it; remove it with its shard, and write the part again";
        seal::check(path, text, expected)?;
        let refuse = |e: serde_json::Error| Error::format(path, format!("not a receipt ({e})"), expected);
        serde_json::from_str(text).map_err(refuse)
    }

    /// The text of the receipt.
    pub(super) fn text(&self) -> String {
        seal::seal(&format!("{:#}", serde_json::json!(self)))
    }
}

/// Whether a path is that of a folder, and not of a link to one.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// Whether a path is that of a file, and not of a link to one.
fn is_regular(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

/// Gives a file a second name in a folder under construction. Where the file system has no such names, it is copied.
fn link(from: &Path, to: &Path) -> Result<()> {
    files::create_dir(to.parent().unwrap_or(to))?;
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop)).map_err(Error::io(to, "create it"))
}

/// The path of the receipt of a shard, in the folder of a key.
pub(super) fn receipt_path(home: &Path, shard: &Path) -> PathBuf {
    home.join(RECEIPTS).join(shard.with_extension(RECEIPT))
}

/// The path of the file with the digests of the rows of a shard, in the folder of a key.
pub(super) fn rows_path(home: &Path, shard: &Path) -> PathBuf {
    home.join(RECEIPTS).join(shard.with_extension(ROWS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_all_parts_are_all_items_once() {
        for items in [0, 1, 7, 16, 1000] {
            for of in [1, 2, 3, 16, 64] {
                let shares = (0..of).map(|number| Share { number, of });
                let all: Vec<usize> = shares.flat_map(|share| share.range(items)).collect();
                assert_eq!(all, (0..items).collect::<Vec<_>>(), "{items} items in {of} parts");
            }
        }
        let last = Share { number: usize::MAX - 1, of: usize::MAX };
        assert_eq!(last.range(7), 6..7);
    }

    #[test]
    fn a_share_is_a_number_below_the_number_of_parts() {
        assert_eq!("2/3".parse(), Ok(Share { number: 2, of: 3 }));
        for text in ["", "3", "3/3", "0/0", "-1/2", "1/2/3", "a/b", "0 / 2"] {
            assert!(text.parse::<Share>().unwrap_err().starts_with("expected I/N"), "{text}");
        }
    }
}
