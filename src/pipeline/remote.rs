//! The pipeline with its outputs in an object store.
//!
//! The folder of a stage is a prefix of names below the address of the store. What a stage reads is fetched into a scratch folder
//! and compared with its record there. A stage without shards is made in that folder, and its files are put as they are. The
//! shards of the others are encoded in memory and put under their final names, each with a receipt beside the stage, as for
//! [parts](super::parts). The record is put last: without it, the stage is unfinished, and the same command goes on with it.
//!
//! Nothing in a store is replaced. Several processes may therefore write the same stage at the same time: what one has put, the
//! others find. Other settings need another address.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tempfile::TempDir;

use super::definition::Parts;
use super::lock::Lock;
use super::parts::{PartWritten, Receipt, Share, missing_parts, no_parts, receipt_path, row_digests, rows_path};
use super::{Outcome, Pipeline, PipelineError, Request, Stage};
use crate::config::Config;
use crate::digest::{Digest, sha256_of};
use crate::error::{Error, Result};
use crate::files::{self, Stamp};
use crate::progress::Progress;
use crate::record::{self, Output, Record};
use crate::shards::set::Gathered;
use crate::shards::{ShardFile, ShardPlan, Sink};
use crate::store::Store;

/// The number of shards whose row digests are read at the same time.
const WINDOW: usize = 64;

/// The number of files that an error names.
const NAMED: usize = 3;

/// A configured pipeline over a folder of glyph files and an object store.
pub struct Remote<'a> {
    store: Store<'a>,
    /// Works in the scratch folder: it holds the records of the store, and what was fetched.
    local: Pipeline,
    scratch: TempDir,
    progress: Progress<'a>,
}

/// The receipts of a stage for its present key.
struct Receipts {
    /// The prefix of their names.
    place: PathBuf,
    /// The sizes of the objects there, by their names without the prefix.
    sizes: BTreeMap<String, u64>,
}

/// Whether the output of a stage may lie in an object store: it has its own folder, and its content follows from the settings
/// alone, so that all writers put the same.
fn can_be_in_store(stage: Stage) -> bool {
    stage.definition().is_pinned() && !stage.definition().has_outputs_elsewhere()
}

impl<'a> Remote<'a> {
    /// Creates a pipeline over a folder of glyph files and the store at an address. The other values are those of
    /// [`Pipeline::new`].
    ///
    /// # Errors
    /// Those of [`Store::open`], and [`Error::Io`] if there is no scratch folder.
    pub fn open(
        address: &str,
        config: Config,
        raw: PathBuf,
        lock_file: PathBuf,
        progress: Progress<'a>,
    ) -> Result<Remote<'a>> {
        let store = Store::open(address, progress)?;
        let temporary = std::env::temp_dir();
        let scratch = tempfile::Builder::new().prefix("multidigit-").tempdir();
        let scratch = scratch.map_err(Error::io(&temporary, "create a folder in it"))?;
        let mut local = Pipeline::new(config, Vec::new(), raw, scratch.path().to_owned(), lock_file);
        local.in_store = true;
        Ok(Remote { store, local, scratch, progress })
    }

    /// Brings stages and their inputs up to date, and passes the outcome of each stage to `tell` as soon as it is done.
    ///
    /// # Errors
    /// [`PipelineError::StoreStands`] if the store holds the output of other settings. [`Error::Format`] if it holds objects that
    /// are not the stage's own, or receipts of parts with other settings.
    pub fn run(&self, stages: &[Stage], tell: &mut dyn FnMut(Stage, &Outcome) -> Result<()>) -> Result<()> {
        self.check(stages)?;
        let all: BTreeSet<Stage> = stages.iter().flat_map(|stage| stage.with_upstream(&self.local.config)).collect();
        for stage in all {
            match can_be_in_store(stage) {
                true => tell(stage, &self.bring(stage)?)?,
                // its output is in no store, and every command works on it anew
                false => drop(self.run_locally(stage)?),
            }
        }
        Ok(())
    }

    /// Writes a share of a stage's shards. The inputs of the stage must be in the store.
    ///
    /// # Errors
    /// [`PipelineError::NoParts`] if the stage has no shards. [`PipelineError::InputStale`] if an input is not there.
    pub fn run_part(&self, stage: Stage, share: Share) -> Result<PartWritten> {
        self.check(&[stage])?;
        let work = self.work(stage)?;
        let shards = work.shards();
        let own = shards.get(share.range(shards.len())).unwrap_or_default();
        let written = match self.standing(stage)? {
            Some(_) => 0,
            None => self.write(stage, work.as_ref(), own, &format!("{stage}, part {share}"))?,
        };
        Ok(PartWritten { written, found: own.len() - written, of: shards.len() })
    }

    /// Finishes a stage whose shards were all written by parts. A stage that is finished is left as it is.
    ///
    /// # Errors
    /// [`PipelineError::PartsMissing`] if shards are missing, or were made with other settings or inputs.
    pub fn commit(&self, stage: Stage) -> Result<Outcome> {
        let started = Instant::now();
        self.check(&[stage])?;
        let work = self.work(stage)?;
        if let Some(record) = self.standing(stage)? {
            self.remove_receipts(stage, &record)?;
            return Ok(Outcome::Fresh(Box::new(record)));
        }
        self.finish_or_find(stage, work.as_ref(), "--commit", started)
    }

    /// Fails if a stage cannot be in a store, if it cannot work with the configuration, or if there is no such store.
    fn check(&self, stages: &[Stage]) -> Result<()> {
        if stages.is_empty() || !stages.iter().all(|&stage| can_be_in_store(stage)) {
            let names: Vec<&str> =
                Stage::ALL.into_iter().filter(|&stage| can_be_in_store(stage)).map(Stage::name).collect();
            let found = stages.iter().find(|&&stage| !can_be_in_store(stage)).map_or("no stage", |stage| stage.name());
            let expected = format!("one of {}: others need a folder", names.join(", "));
            return Err(Error::value("--artifacts", format!("the address of an object store for {found}"), expected));
        }
        super::check(&self.local.config, stages)?;
        // an object that is missing reads like one in a bucket that is missing; a list tells them apart
        stages.first().map_or(Ok(()), |stage| self.store.list(stage.name()).map(drop))
    }

    /// The name of a file of a stage in the store.
    fn name(stage: Stage, path: &str) -> String {
        format!("{stage}/{path}")
    }

    /// The record of a stage in the store. A copy is kept in the scratch folder, where the keys of other stages are computed.
    fn record(&self, stage: Stage) -> Result<Option<Record>> {
        let name = Remote::name(stage, record::FILE);
        let Some(bytes) = self.store.read(&name)? else { return Ok(None) };
        let record = Record::parse(&self.store.address(&name), &String::from_utf8_lossy(&bytes))?;
        self.keep(stage, &record)?;
        Ok(Some(record))
    }

    /// Keeps a record of the store in the scratch folder.
    fn keep(&self, stage: Stage, record: &Record) -> Result<()> {
        let folder = self.local.folder(stage);
        files::create_dir(&folder)?;
        record.write(&folder)
    }

    /// The record of a stage that stands in the store, made with the present settings and inputs.
    fn standing(&self, stage: Stage) -> Result<Option<Record>> {
        let Some(record) = self.record(stage)? else { return Ok(None) };
        let differences = self.local.differences(stage, &record, &BTreeSet::new())?;
        let path = self.store.address(stage.name());
        if !differences.is_empty() {
            return Err(Error::from(PipelineError::StoreStands { path, differences: differences.join("; ") }));
        }
        let sizes = self.sizes(stage, record.outputs.iter().map(|output| output.path.clone()))?;
        match record.outputs.iter().find(|output| sizes.get(&output.path) != Some(&output.stamp.bytes)) {
            None => Ok(Some(record)),
            Some(output) => {
                let found = format!("{} is missing, or has another size", output.path);
                Err(Error::format(
                    &path,
                    found,
                    "what its record says; restore it from a copy, or give another address",
                ))
            }
        }
    }

    /// The sizes of the objects of a stage. Fails if there are others than its record and `own`: readers take every shard.
    fn sizes(&self, stage: Stage, own: impl Iterator<Item = String>) -> Result<BTreeMap<String, u64>> {
        let own: BTreeSet<String> = own.chain([record::FILE.to_owned()]).collect();
        let sizes: BTreeMap<String, u64> = self.store.list(stage.name())?.into_iter().collect();
        let mut others: Vec<&str> = sizes.keys().filter(|name| !own.contains(*name)).map(String::as_str).collect();
        if others.is_empty() {
            return Ok(sizes);
        }
        let count = others.len();
        others.truncate(NAMED);
        let objects = match count {
            1 => "1 object that is not one".to_owned(),
            count => format!("{count} objects that are not those"),
        };
        let found = format!("{objects} of these settings and inputs ({})", others.join(", "));
        Err(Error::format(&self.store.address(stage.name()), found, "no others; remove them, or give another address"))
    }

    /// The sizes of the objects of a stage that is made of shards.
    fn sizes_of(&self, stage: Stage, work: &dyn Parts) -> Result<BTreeMap<String, u64>> {
        let shards = work.shards().iter().map(|shard| record::name(&shard.path));
        self.sizes(stage, shards.chain(work.beside().iter().map(|&path| path.to_owned())))
    }

    /// Brings a stage up to date in the scratch folder.
    fn run_locally(&self, stage: Stage) -> Result<Outcome> {
        let request = Request { stages: vec![stage], ..Request::default() };
        let mut outcome = None;
        self.local.run(&request, &self.progress, &mut |ran, told| {
            outcome = (ran == stage).then(|| told.clone());
            Ok(())
        })?;
        outcome.ok_or_else(|| Error::format(self.scratch.path(), "no output", format!("that of the stage {stage}")))
    }

    /// Brings a stage up to date whose inputs are.
    fn bring(&self, stage: Stage) -> Result<Outcome> {
        let started = Instant::now();
        if let Some(record) = self.standing(stage)? {
            self.remove_receipts(stage, &record)?;
            return Ok(Outcome::Fresh(Box::new(record)));
        }
        if stage.definition().has_parts() {
            let work = self.work(stage)?;
            self.write(stage, work.as_ref(), work.shards(), stage.name())?;
            return self.finish_or_find(stage, work.as_ref(), "has not run yet", started);
        }
        self.fetch_inputs(stage)?;
        let outcome = self.run_locally(stage)?;
        if let Some(record) = Record::read(&self.local.folder(stage))? {
            let paths = || record.outputs.iter().map(|output| output.path.as_str());
            self.sizes(stage, paths().map(str::to_owned))?;
            self.put(stage, &self.local.folder(stage), paths())?;
            self.put_record(stage, record)?;
        }
        Ok(outcome)
    }

    /// Finishes a stage whose shards are all in the store, unless another process does so first.
    fn finish_or_find(&self, stage: Stage, work: &dyn Parts, reason: &str, started: Instant) -> Result<Outcome> {
        let record = match self.finish(stage, work, started) {
            Ok(record) => record,
            // another process that finished the stage has removed its receipts meanwhile
            Err(error) => {
                let standing = self.standing(stage).ok().flatten();
                return standing.map(|record| Outcome::Fresh(Box::new(record))).ok_or(error);
            }
        };
        self.remove_receipts(stage, &record)?;
        let pinned = Lock::read(&self.local.lock_file)?.and_then(|lock| lock.expected(stage, &self.local.config));
        let pinned = pinned.map(|content| content == record.content);
        Ok(Outcome::Ran { reasons: vec![reason.to_owned()], record: Box::new(record), pinned })
    }

    /// The work of a stage that is made of shards. Its inputs are fetched.
    fn work(&self, stage: Stage) -> Result<Box<dyn Parts>> {
        if !stage.definition().has_parts() {
            return Err(no_parts(stage));
        }
        self.fetch_inputs(stage)?;
        self.local.parts(stage)
    }

    /// Fetches what a stage reads into the scratch folder, and compares it with its record.
    fn fetch_inputs(&self, stage: Stage) -> Result<()> {
        for input in stage.needed(&self.local.config) {
            if !can_be_in_store(input) {
                self.run_locally(input)?;
                continue;
            }
            // the key of an input covers the contents of its own inputs
            input.needed(&self.local.config).try_for_each(|above| self.know(above))?;
            let Some(record) = self.standing(input)? else {
                let why = format!("it is not in `{}`", self.store.address(input.name()).display());
                return Err(Error::from(PipelineError::InputStale { stage: stage.name(), input: input.name(), why }));
            };
            let folder = self.local.folder(input);
            let is_wanted =
                |output: &&Output| stage.definition().reads(input, &output.path) && !folder.join(&output.path).exists();
            let wanted: Vec<&Output> = record.outputs.iter().filter(is_wanted).collect();
            if wanted.is_empty() {
                continue;
            }
            self.progress.begin(
                &format!("fetch {input}"),
                wanted.iter().map(|output| output.stamp.bytes).sum(),
                "bytes",
            )?;
            for Output { path, stamp, digest } in wanted {
                let (name, to) = (Remote::name(input, path), folder.join(path));
                self.store.fetch(&name, stamp.bytes, &to, |bytes| self.progress.advance(bytes))?;
                let found = Digest::of_file(&to)?;
                if found != *digest {
                    let found = format!("its bytes are not those that were recorded (digest {})", found.short());
                    let expected = format!("{}; restore it from a copy, or give another address", digest.short());
                    return Err(Error::format(&self.store.address(&name), found, expected));
                }
            }
            self.progress.end();
        }
        Ok(())
    }

    /// Brings the record of a stage into the scratch folder, and those of its inputs.
    fn know(&self, stage: Stage) -> Result<()> {
        if !can_be_in_store(stage) {
            return self.run_locally(stage).map(drop);
        }
        stage.needed(&self.local.config).try_for_each(|input| self.know(input))?;
        self.record(stage).map(drop)
    }

    /// The receipts of a stage for its present key.
    ///
    /// # Errors
    /// [`Error::Format`] if there are receipts for another key: the shards that they name are in the way of this one's.
    fn receipts(&self, stage: Stage) -> Result<Receipts> {
        let (all, key) = (format!("{stage}.parts"), self.local.key(stage)?.0.digest().short());
        let mut sizes = BTreeMap::new();
        for (name, bytes) in self.store.list(&all)? {
            match name.strip_prefix(&key).and_then(|name| name.strip_prefix('/')) {
                Some(name) => drop(sizes.insert(name.to_owned(), bytes)),
                None => {
                    let found = format!("{name}, from parts with other settings or inputs");
                    let expected =
                        format!("none beside `{key}`; wait until those parts are committed, or give another address");
                    return Err(Error::format(&self.store.address(&all), found, expected));
                }
            }
        }
        Ok(Receipts { place: Path::new(&all).join(key), sizes })
    }

    /// Reads the receipts of shards. A shard that is not there as its receipt says has none.
    fn read_receipts(&self, stage: Stage, work: &dyn Parts, shards: &[ShardPlan]) -> Result<Vec<Option<Receipt>>> {
        let Receipts { place, sizes: beside } = self.receipts(stage)?;
        let sizes = self.sizes_of(stage, work)?;
        let there = |shard: &&ShardPlan| {
            let rows = beside.get(&record::name(&rows_path(Path::new(""), &shard.path)));
            beside.contains_key(&record::name(&receipt_path(Path::new(""), &shard.path)))
                && rows == Some(&(shard.rows() * Digest::BYTES as u64))
        };
        let known: Vec<&ShardPlan> = shards.iter().filter(there).collect();
        let names: Vec<String> = known.iter().map(|shard| record::name(&receipt_path(&place, &shard.path))).collect();
        let mut receipts = BTreeMap::new();
        for ((shard, name), bytes) in known.into_iter().zip(&names).zip(self.store.read_all(&names)?) {
            let Some(bytes) = bytes else { continue };
            let receipt = Receipt::parse(&self.store.address(name), &String::from_utf8_lossy(&bytes))?;
            let (path, output) = (record::name(&shard.path), &receipt.output);
            if output.path == path && sizes.get(&path) == Some(&output.stamp.bytes) {
                receipts.insert(path, receipt);
            }
        }
        Ok(shards.iter().map(|shard| receipts.remove(&record::name(&shard.path))).collect())
    }

    /// Writes the shards that have no receipt, and returns their number.
    fn write(&self, stage: Stage, work: &dyn Parts, shards: &[ShardPlan], what: &str) -> Result<usize> {
        let (place, receipts) = (self.receipts(stage)?.place, self.read_receipts(stage, work, shards)?);
        self.progress.begin(what, shards.iter().map(ShardPlan::rows).sum(), "images")?;
        let (mut uploads, mut written) = (self.store.uploads(), 0);
        for (shard, receipt) in shards.iter().zip(receipts) {
            if receipt.is_some() {
                self.progress.advance(shard.rows())?;
                continue;
            }
            let path = record::name(&shard.path);
            let name = Remote::name(stage, &path);
            let (mut bytes, mut rows) = (Vec::new(), Vec::new());
            let to = Sink { path: &self.store.address(&name), bytes: &mut bytes };
            work.write(shard, to, &mut |digests| {
                rows.extend(digests.iter().flat_map(Digest::bytes));
                self.progress.advance(digests.len() as u64)
            })?;
            let stamp = Stamp { bytes: bytes.len() as u64, modified_ns: 0, inode: 0 };
            let output = Output { path, stamp, digest: Digest::of(&bytes) };
            let receipt = Receipt { output, sha256: sha256_of(&bytes), rows: Digest::of(&rows) };
            let [rows_name, receipt_name] =
                [rows_path, receipt_path].map(|path| record::name(&path(&place, &shard.path)));
            // the receipt last: what it names is there
            uploads.begin(vec![(name, bytes), (rows_name, rows), (receipt_name, receipt.text().into_bytes())])?;
            written += 1;
        }
        uploads.finish()?;
        self.progress.end();
        Ok(written)
    }

    /// Finishes a stage whose shards are all in the store.
    fn finish(&self, stage: Stage, work: &dyn Parts, started: Instant) -> Result<Record> {
        let (place, shards) = (self.receipts(stage)?.place, work.shards());
        let receipts = self.read_receipts(stage, work, shards)?;
        let without = shards.iter().zip(&receipts).filter(|(_, receipt)| receipt.is_none());
        let missing: Vec<String> = without.map(|(shard, _)| record::name(&shard.path)).collect();
        if !missing.is_empty() {
            return Err(missing_parts(stage, self.store.address(stage.name()), missing, shards.len()));
        }
        let receipts: Vec<Receipt> = receipts.into_iter().flatten().collect();
        self.progress.begin(&format!("{stage}, commit"), shards.iter().map(ShardPlan::rows).sum(), "images")?;
        let (mut gathered, mut outputs) = (Gathered::default(), Vec::new());
        for (shards, receipts) in shards.chunks(WINDOW).zip(receipts.chunks(WINDOW)) {
            let names: Vec<String> = shards.iter().map(|shard| record::name(&rows_path(&place, &shard.path))).collect();
            let all = self.store.read_all(&names)?;
            for (((shard, receipt), name), rows) in shards.iter().zip(receipts).zip(&names).zip(all) {
                let address = self.store.address(name);
                gathered.rows(shard.part, &row_digests(&address, &rows.unwrap_or_default(), shard, receipt.rows)?);
                let Receipt { output, sha256, .. } = receipt.clone();
                let bytes = output.stamp.bytes;
                gathered.shard(shard.part, ShardFile { path: shard.path.clone(), bytes, sha256 });
                outputs.push(output);
                self.progress.advance(shard.rows())?;
            }
        }
        let folder = self.scratch.path().join(format!("{stage}.finished"));
        files::create_dir(&folder)?;
        let done = work.finish(&folder, &gathered.finish())?;
        let beside: Vec<PathBuf> = work.beside().iter().map(PathBuf::from).collect();
        outputs.extend(record::outputs(&folder, &beside)?);
        outputs.sort_by(|a, b| a.path.cmp(&b.path));
        self.put(stage, &folder, work.beside().iter().copied())?;
        // again, since other processes may have put theirs meanwhile
        self.sizes_of(stage, work)?;
        let (key, _) = self.local.key(stage)?;
        let record = self.put_record(stage, super::record_of(key, done, outputs, started))?;
        self.progress.end();
        Ok(record)
    }

    /// Puts files of a folder.
    fn put<'p>(&self, stage: Stage, folder: &Path, paths: impl Iterator<Item = &'p str>) -> Result<()> {
        for path in paths {
            self.store.put(&Remote::name(stage, path), files::read(&folder.join(path))?)?;
        }
        Ok(())
    }

    /// Puts a record. If another process was faster, its record, of the same content, is the one.
    fn put_record(&self, stage: Stage, record: Record) -> Result<Record> {
        match self.store.put(&Remote::name(stage, record::FILE), record.text().into_bytes()) {
            Ok(()) => self.keep(stage, &record).map(|()| record),
            Err(error) => {
                let standing = self.standing(stage).ok().flatten();
                standing.filter(|standing| standing.content == record.content).ok_or(error)
            }
        }
    }

    /// Removes the receipts of a finished stage.
    fn remove_receipts(&self, stage: Stage, record: &Record) -> Result<()> {
        let Receipts { place, sizes } = self.receipts(stage)?;
        let of = |output: &Output| {
            [rows_path, receipt_path].map(|path| record::name(&path(Path::new(""), Path::new(&output.path))))
        };
        let own = record.outputs.iter().flat_map(of).filter(|name| sizes.contains_key(name));
        let own: Vec<String> = own.map(|name| record::name(&place.join(name))).collect();
        match self.store.remove_all(&own) {
            Err(error @ Error::Interrupted) => Err(error),
            // the stage is finished; the next command tries again
            Err(error) => {
                self.progress.warn(&format!("receipts of {stage} stay: {error}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}
