//! A set of shards, whose shards can be written one by one, in any order and by several processes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::digest::{Digest, Parts, sha256_of_file};
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;

/// One shard of a set, before it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPlan {
    /// The path in the folder of the set.
    pub path: PathBuf,
    /// The number of the split or of the epoch that the shard belongs to. The shards of a split follow each other.
    pub part: usize,
    /// The number of the first row in the split.
    pub first: u64,
    /// The number of rows of each row group.
    pub groups: Vec<usize>,
}

impl ShardPlan {
    /// The number of rows.
    pub fn rows(&self) -> u64 {
        self.groups.iter().map(|&rows| rows as u64).sum()
    }
}

/// Work that writes a set of shards. The bytes of a shard depend on nothing that was written before.
pub trait ShardSet {
    /// The shards, in order.
    fn shards(&self) -> &[ShardPlan];

    /// Writes the bytes of a shard. The digests of the samples of each row group are passed to `tell`, in order.
    fn write(&self, shard: &ShardPlan, to: Sink<'_>, tell: &mut dyn FnMut(&[Digest]) -> Result<()>) -> Result<()>;
}

/// Where the bytes of a shard go.
pub struct Sink<'a> {
    /// The path that errors name.
    pub path: &'a Path,
    /// The file, or a buffer.
    pub bytes: &'a mut (dyn Write + Send),
}

/// What was written of a split or of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The shards, in order.
    pub files: Vec<ShardFile>,
    /// The number of rows in all shards.
    pub rows: u64,
    /// The digest of the samples: pixels and all columns, row by row.
    pub digest: Digest,
}

impl Written {
    /// The size of all shards in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// A shard that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardFile {
    /// The path in the folder of the set.
    pub path: PathBuf,
    /// The size in bytes.
    pub bytes: u64,
    /// The SHA-256 of the file.
    pub sha256: String,
}

/// Gathers what was written of each split or epoch, shard by shard.
#[derive(Default)]
pub struct Gathered {
    parts: Vec<(Vec<ShardFile>, u64, Parts)>,
}

impl Gathered {
    /// Begins a shard of a split or epoch. Its rows are added by [`Gathered::rows`].
    pub fn shard(&mut self, part: usize, file: ShardFile) {
        self.parts.resize_with(self.parts.len().max(part + 1), Default::default);
        if let Some((files, ..)) = self.parts.get_mut(part) {
            files.push(file);
        }
    }

    /// Adds the digests of the next rows of a split or epoch.
    pub fn rows(&mut self, part: usize, digests: &[Digest]) {
        self.parts.resize_with(self.parts.len().max(part + 1), Default::default);
        if let Some((_, rows, content)) = self.parts.get_mut(part) {
            *rows += digests.len() as u64;
            digests.iter().for_each(|digest| {
                content.digest(digest);
            });
        }
    }

    /// What was written, in the order of splits or epochs.
    pub fn finish(self) -> Vec<Written> {
        let written = |(files, rows, content): (_, _, Parts)| Written { files, rows, digest: content.finish() };
        self.parts.into_iter().map(written).collect()
    }
}

/// Writes all shards of a set below `out`. Returns what was written, in the order of splits or epochs.
pub fn write_all(set: &dyn ShardSet, out: &Path, progress: &Progress) -> Result<Vec<Written>> {
    let mut gathered = Gathered::default();
    for shard in set.shards() {
        let path = out.join(&shard.path);
        files::create_dir(path.parent().unwrap_or(out))?;
        let mut file = File::create(&path).map_err(Error::io(&path, "create it"))?;
        set.write(shard, Sink { path: &path, bytes: &mut file }, &mut |digests| {
            gathered.rows(shard.part, digests);
            progress.advance(digests.len() as u64)
        })?;
    }
    let describe = |shard: &ShardPlan| ShardFile::of(out, &shard.path);
    let files = set.shards().par_iter().map(describe).collect::<Result<Vec<ShardFile>>>()?;
    set.shards().iter().zip(files).for_each(|(shard, file)| gathered.shard(shard.part, file));
    Ok(gathered.finish())
}

impl ShardFile {
    /// Describes a file below `folder`, which it reads.
    pub fn of(folder: &Path, path: &Path) -> Result<ShardFile> {
        let (sha256, bytes) = sha256_of_file(&folder.join(path))?;
        Ok(ShardFile { path: path.to_owned(), bytes, sha256 })
    }
}
