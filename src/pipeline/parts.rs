//! Stages in parts: several processes, on one machine or on many with one file system, write the shards of a stage, each its
//! share, and one commits them.
//!
//! The shards are written into the folder of an unfinished build, `STAGE.unfinished`, under their final names. A shard takes its
//! name when it is complete, and then gets a receipt in [`RECEIPTS`]. The bytes of a shard follow from the key of the stage, so
//! any part may run twice, at the same time, or be killed: the shards are the same.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::definition::Parts;
use super::lock::Lock;
use super::{Freshness, Outcome, Pipeline, PipelineError, Stage, ownership};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files::{self, Build, FolderLock, Hold, Stamp};
use crate::progress::Progress;
use crate::record::{self, Key, Output, Record};
use crate::shards::set::Gathered;
use crate::shards::{ShardFile, ShardPlan};

/// The folder of the receipts in a folder that parts are written into.
pub const RECEIPTS: &str = "receipts";

/// The size of a digest of a row in bytes.
const DIGEST: usize = 32;

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
    fn range(self, items: usize) -> std::ops::Range<usize> {
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

/// What is known of a complete shard. The digests of its rows are in a file of their own, [`rows_file`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Receipt {
    /// The digest of the stage's key.
    key: Digest,
    bytes: u64,
    /// The digest of the file.
    digest: Digest,
    sha256: String,
}

impl Pipeline {
    /// Writes a share of a stage's shards. The inputs of the stage must be fresh.
    ///
    /// # Errors
    /// [`PipelineError::NoParts`] if the stage has no shards. [`Error::Busy`] if the stage runs, or is being committed.
    /// [`Error::Foreign`] if files of the user are in the way.
    pub fn run_part(&self, stage: Stage, share: Share, progress: &Progress) -> Result<PartWritten> {
        let target = self.target_of_parts(stage)?;
        let _sharing = FolderLock::beside(&target, Hold::Read)?;
        let _inputs = self.lock_inputs(stage)?;
        let (work, key) = self.parts(stage)?;
        let key = key.digest();
        let mark = format!("parts of the stage {stage}; `multidigit run {stage} --commit` puts them in place");
        let build = Build::resumable(&target, &mark)?;
        let all = work.shards();
        let own = all.get(share.range(all.len())).unwrap_or_default();
        let rows = own.iter().map(ShardPlan::rows).sum();
        progress.begin(&format!("{stage}, part {share}"), rows, "images")?;
        let mut written = 0;
        for shard in own {
            match Receipt::read(build.path(), shard)?.filter(|receipt| receipt.key == key) {
                Some(_) => progress.advance(shard.rows())?,
                None => {
                    write(work.as_ref(), shard, key, build.path(), progress)?;
                    written += 1;
                }
            }
        }
        progress.end();
        Ok(PartWritten { written, found: own.len() - written, of: all.len() })
    }

    /// Puts a stage in place whose shards were all written by parts. The content and the files are those of a single run. A
    /// stage that is fresh, without parts, is left as it is, so that a commit may be repeated.
    ///
    /// # Errors
    /// [`PipelineError::PartsMissing`] if shards are missing or were made with other settings or inputs.
    /// [`Error::Busy`] if a part is being written. [`Error::Foreign`] if files of the user are among the parts.
    pub fn commit(&self, stage: Stage, progress: &Progress) -> Result<Outcome> {
        let started = Instant::now();
        let target = self.target_of_parts(stage)?;
        let _writing = FolderLock::beside(&target, Hold::Write)?;
        ownership::mend(stage, &target)?;
        let folder = files::unfinished(&target);
        if !files::is_marked(&folder)
            && let Freshness::Fresh(record) = self.freshness(stage, &BTreeSet::new())?
        {
            return Ok(Outcome::Fresh(record));
        }
        let _inputs = self.lock_inputs(stage)?;
        ownership::check(stage, &target)?;
        let (work, key) = self.parts(stage)?;
        // there is a record if a commit was killed after it had gathered the parts
        let is_whole = |mut record: Record| record.look(&folder).is_empty().then_some(record);
        let record = match Record::read(&folder)?.filter(|record| record.key == key).and_then(is_whole) {
            Some(record) => record,
            None => gather(stage, work.as_ref(), key, &folder, started, progress)?,
        };
        let of_parts = files::walk_all(&folder)?.into_iter().filter(|path| is_of_parts(&record::name(path)));
        of_parts.into_iter().try_for_each(|path| files::remove(&folder.join(path)))?;
        ownership::remove_empty_folders(&folder)?;
        super::put_in_place(stage, Build::resumable(&target, "")?, &record, progress)?;
        let pinned = Lock::read(&self.lock_file)?.and_then(|lock| lock.expected(stage, &self.config));
        let pinned = pinned.map(|content| content == record.content);
        Ok(Outcome::Ran { reasons: vec!["--commit".to_owned()], record: Box::new(record), pinned })
    }

    /// The folder of a stage that is made in parts.
    fn target_of_parts(&self, stage: Stage) -> Result<PathBuf> {
        super::check(&self.config, &[stage])?;
        self.check_folders()?;
        if !stage.definition().has_parts() {
            return Err(Error::from(PipelineError::NoParts { stage: stage.name() }));
        }
        self.require_fresh_inputs(&[stage])?;
        let target = files::resolve(&self.folder(stage))?;
        ownership::mend_if_left(stage, &target);
        ownership::check_around(stage, &target)?;
        Ok(target)
    }

    /// The work of a stage that is made in parts, and its key.
    fn parts(&self, stage: Stage) -> Result<(Box<dyn Parts>, Key)> {
        let work = stage.definition().parts(self)?.ok_or(PipelineError::NoParts { stage: stage.name() })?;
        Ok((work, self.key(stage)?.0))
    }
}

/// Gathers the shards of all parts: writes what stands beside them, and the record.
fn gather(
    stage: Stage,
    work: &dyn Parts,
    key: Key,
    folder: &Path,
    started: Instant,
    progress: &Progress,
) -> Result<Record> {
    let receipts = require_all(stage, work, key.digest(), folder)?;
    require_no_others(work, folder)?;
    progress.begin(&format!("{stage}, commit"), work.shards().iter().map(ShardPlan::rows).sum(), "images")?;
    let (mut gathered, mut outputs) = (Gathered::default(), Vec::new());
    for (shard, receipt) in work.shards().iter().zip(receipts) {
        let Receipt { bytes, digest, sha256, .. } = receipt;
        add_rows(&mut gathered, shard, folder)?;
        gathered.shard(shard.part, ShardFile { path: shard.path.clone(), bytes, sha256 });
        let stamp = Stamp::of(&folder.join(&shard.path))?;
        outputs.push(Output { path: record::name(&shard.path), stamp, digest });
        progress.advance(shard.rows())?;
    }
    let done = work.finish(folder, &gathered.finish())?;
    let beside: Vec<PathBuf> = work.beside().iter().map(PathBuf::from).collect();
    outputs.extend(record::outputs(folder, &beside)?);
    outputs.sort_by(|a, b| a.path.cmp(&b.path));
    let record = super::record_of(key, done, outputs, started);
    record.write_whole(folder)?;
    progress.end();
    Ok(record)
}

/// Whether a path in a folder of parts is that of a receipt or of a file that is being written.
pub(super) fn is_of_parts(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path.starts_with(&format!("{RECEIPTS}/")) || name.starts_with(HALF)
}

/// The beginning of the name of a file that is being written.
const HALF: &str = ".part-";

/// Writes a shard and its receipt into a folder.
fn write(work: &dyn Parts, shard: &ShardPlan, key: Digest, folder: &Path, progress: &Progress) -> Result<()> {
    let digests = Half::create(&rows_file(folder, shard))?;
    let half = Half::create(&folder.join(&shard.path))?;
    let mut file = File::create(digests.path()).map_err(Error::io(digests.path(), "create it"))?;
    work.write(shard, half.path(), &mut |rows| {
        rows.iter().try_for_each(|row| file.write_all(&row.bytes())).map_err(Error::io(digests.path(), "write it"))?;
        progress.advance(rows.len() as u64)
    })?;
    drop(file);
    let digest = Digest::of_file(half.path())?;
    let name = half.path().file_name().map_or_else(PathBuf::new, PathBuf::from);
    let ShardFile { bytes, sha256, .. } = ShardFile::of(half.path().parent().unwrap_or(folder), &name)?;
    digests.commit()?;
    half.commit()?;
    let receipt = Receipt { key, bytes, digest, sha256 };
    let path = receipt_file(folder, shard);
    let half = Half::create(&path)?;
    let text = format!("{:#}\n", serde_json::json!(receipt));
    files::write(half.path(), text.as_bytes())?;
    half.commit()
}

/// A file that is being written beside its final path, under a name that no other process uses.
struct Half {
    half: tempfile::TempPath,
    path: PathBuf,
}

impl Half {
    fn create(path: &Path) -> Result<Half> {
        let folder = path.parent().unwrap_or(path);
        files::create_dir(folder)?;
        let mut names = tempfile::Builder::new();
        // with the permissions of other files; those of temporary files are the owner's alone
        let file = names.prefix(HALF).make_in(folder, |path| File::create_new(path));
        let half = file.map_err(Error::io(folder, "create a file in it"))?.into_temp_path();
        Ok(Half { half, path: path.to_owned() })
    }

    fn path(&self) -> &Path {
        &self.half
    }

    /// Flushes the file to disk and gives it its final name.
    fn commit(self) -> Result<()> {
        let Half { half, path } = self;
        File::open(&half).and_then(|file| file.sync_all()).map_err(Error::io(&path, "flush it"))?;
        half.persist(&path).map_err(|error| Error::io(&path, "put it in place")(error.error))
    }
}

/// The receipts of all shards, in order.
fn require_all(stage: Stage, work: &dyn Parts, key: Digest, folder: &Path) -> Result<Vec<Receipt>> {
    let (mut receipts, mut missing) = (Vec::new(), Vec::new());
    for shard in work.shards() {
        match Receipt::read(folder, shard)?.filter(|receipt| receipt.key == key) {
            Some(receipt) => receipts.push(receipt),
            None => missing.push(record::name(&shard.path)),
        }
    }
    if missing.is_empty() && files::is_marked(folder) {
        return Ok(receipts);
    }
    let (count, of) = (missing.len(), work.shards().len());
    missing.truncate(NAMED);
    let folder = folder.to_owned();
    Err(Error::from(PipelineError::PartsMissing { stage: stage.name(), folder, count, of, named: missing.join(", ") }))
}

/// Fails if the folder of the parts holds files that neither the parts nor a commit writes.
fn require_no_others(work: &dyn Parts, folder: &Path) -> Result<()> {
    let shards = work.shards().iter().map(|shard| record::name(&shard.path));
    let ours: BTreeSet<String> = shards.chain(work.beside().iter().map(|name| (*name).to_owned())).collect();
    let names = files::walk_all(folder)?.into_iter().map(|path| record::name(&path));
    // a commit that was killed may have left its record
    let is_other = |name: &String| {
        let is_mark = |mark: &str| name == mark || files::is_half_of(name, mark);
        !ours.contains(name) && !is_of_parts(name) && !is_mark(files::MARK) && !is_mark(record::FILE)
    };
    let found: Vec<String> = names.filter(is_other).collect();
    match found.is_empty() {
        true => Ok(()),
        false => Err(Error::Foreign { folder: folder.to_owned(), found }),
    }
}

impl Receipt {
    /// The receipt of a shard. `None` if there is none, or if the shard is not as its receipt says.
    fn read(folder: &Path, shard: &ShardPlan) -> Result<Option<Receipt>> {
        let path = receipt_file(folder, shard);
        if !path.is_file() {
            return Ok(None);
        }
        let refuse = |e: serde_json::Error| {
            Error::format(&path, format!("not a receipt ({e})"), "one that this program wrote; remove it")
        };
        let receipt: Receipt = serde_json::from_str(&files::read_text(&path)?).map_err(refuse)?;
        let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        let is_whole = size(&folder.join(&shard.path)) == receipt.bytes
            && size(&rows_file(folder, shard)) == shard.rows() * DIGEST as u64;
        Ok(is_whole.then_some(receipt))
    }
}

/// Adds the digests of the rows of a shard.
fn add_rows(gathered: &mut Gathered, shard: &ShardPlan, folder: &Path) -> Result<()> {
    let path = rows_file(folder, shard);
    let mut file = files::open(&path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(Error::io(&path, "read it"))?;
    let digests: Vec<Digest> = bytes.as_chunks().0.iter().map(|bytes| Digest::from_bytes(*bytes)).collect();
    gathered.rows(shard.part, &digests);
    Ok(())
}

fn receipt_file(folder: &Path, shard: &ShardPlan) -> PathBuf {
    folder.join(RECEIPTS).join(shard.path.with_extension("json"))
}

fn rows_file(folder: &Path, shard: &ShardPlan) -> PathBuf {
    folder.join(RECEIPTS).join(shard.path.with_extension("rows"))
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
