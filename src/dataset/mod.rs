//! The stage `dataset`: renders the plan into the shards that are published.
//!
//! Input: `plan.parquet` and the glyphs. Output: `data/{train,val,test}-*.parquet`, a dataset card `README.md`,
//! `montage.png`, and a description for machines, `croissant.json`. Rendering is a pure function of a plan row. Rows are
//! streamed, so that memory does not grow with their number.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::parquet_file::{Compression, LISTS, ParquetFile};
use crate::plan::{self, Facts, facts, split, table};
use crate::progress::Progress;
use crate::raw::Glyphs;
use crate::shards::set::write_all;
use crate::shards::{self, Cut, DATA, Layout, ShardPlan, ShardSet, ShardWriter, Shards, Sink, Written};

pub mod card;
mod croissant;
#[allow(clippy::indexing_slicing, reason = "draws rows whose places the reader of the plan has checked")]
pub mod montage;
#[allow(clippy::indexing_slicing, reason = "draws rows whose places the reader of the plan has checked")]
pub mod render;

/// The maximum number of shards of a split, because file names number them with five digits.
const MAX_SHARDS: usize = 99_999;

/// The maximum number of bytes of pixels in a row group, because the size of a column chunk is counted with 32 bits.
const MAX_ROW_GROUP: usize = i32::MAX as usize;

/// The files beside the shards.
pub const BESIDE: [&str; 3] = [card::FILE, card::MONTAGE, croissant::FILE];

/// The number of rows of a plan that are looked at together for the picture.
const SCAN: usize = 1 << 16;

/// The section `dataset`: how the shards are stored. None of it changes a pixel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Maximum number of rows per shard; the shards of a split are of equal size.
    pub rows_per_shard: usize,
    /// Maximum number of rows per row group: the unit that readers fetch; shuffled reading should hold several.
    pub row_group_rows: usize,
    /// Compression of the Parquet pages.
    pub compression: Compression,
    /// Add a column `pixels` with the raw bytes of each image (row-major), for readers without a PNG decoder.
    pub pixels: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config { rows_per_shard: 16_000, row_group_rows: 1000, compression: Compression::Zstd, pixels: false }
    }
}

impl Config {
    /// Checks the settings before any work is done, for the images of a plan. A row of their shards, or of the shards of
    /// their augmentation, has up to `list_bytes` bytes of lists.
    ///
    /// # Errors
    /// [`Error::ConfigValue`] if a number is 0, or if a row group would hold too many bytes of pixels or lists.
    pub fn validate(&self, plan: &plan::Config, list_bytes: usize) -> Result<()> {
        for (key, value) in
            [("dataset.rows_per_shard", self.rows_per_shard), ("dataset.row_group_rows", self.row_group_rows)]
        {
            if value == 0 {
                return Err(Error::value(key, 0, "at least 1"));
            }
        }
        let [height, width] = plan.image_size;
        let (pixels, lists) = (MAX_ROW_GROUP / (height * width).max(1), LISTS as usize / list_bytes);
        let (most, why) = if pixels <= lists { (pixels, "2 GiB of pixels") } else { (lists, "128 MiB of lists") };
        if self.row_group_rows.min(self.rows_per_shard) > most {
            let found = format!("{} rows of {height}x{width} pixels", self.row_group_rows);
            return Err(Error::value("dataset.row_group_rows", found, format!("at most {most}: {why}")));
        }
        Ok(())
    }

    fn cut(&self) -> Cut {
        Cut { rows_per_shard: self.rows_per_shard, row_group_rows: self.row_group_rows }
    }
}

/// Renders a plan into the folder `out`. Returns the digest of the facts and all samples.
///
/// # Errors
/// [`Error::Format`] if the plan cannot be read, [`Error::Io`] if a file cannot be written.
pub fn run(work: &Work, out: &Path, progress: &Progress) -> Result<Digest> {
    progress.begin("dataset", work.rows(), "images")?;
    let written = write_all(work, out, progress)?;
    let content = work.finish(out, &written)?;
    progress.end();
    Ok(content)
}

/// The shards that a plan with some facts is cut into.
///
/// # Errors
/// [`Error::ConfigValue`] if a split would have more than 99,999 shards.
pub fn shards(config: &Config, facts: &Facts) -> Result<Vec<ShardPlan>> {
    let mut shards = Vec::new();
    for (part, (name, &rows)) in split::NAMES.into_iter().zip(facts.counts.as_array()).enumerate() {
        let groups = config.cut().groups(rows);
        let (count, mut first) = (groups.len(), 0);
        if count > MAX_SHARDS {
            let found = format!("{}, which cuts `{name}` into {count} shards", config.rows_per_shard);
            return Err(Error::value("dataset.rows_per_shard", found, format!("at most {MAX_SHARDS} shards")));
        }
        for (number, groups) in groups.into_iter().enumerate() {
            let path = Path::new(DATA).join(shards::file_name(name, number, count));
            let shard = ShardPlan { path, part, first, groups };
            first += shard.rows();
            shards.push(shard);
        }
    }
    Ok(shards)
}

/// The rendering of a plan.
pub struct Work {
    plan: PathBuf,
    /// The content digest of the plan.
    content: Digest,
    facts: Facts,
    glyphs: Arc<Glyphs>,
    layout: Layout,
    writer: ShardWriter,
    shards: Vec<ShardPlan>,
    /// The reader of the rows that follow those of the shard written last.
    reader: Mutex<Option<Rows>>,
    /// The rows of the picture, among those of the shards that were written.
    picks: Mutex<montage::Picks>,
}

/// The rows of a split from some row on.
struct Rows {
    split: usize,
    next: u64,
    reader: table::Reader,
}

impl Work {
    /// Opens the plan in the file `plan`, whose content digest is `content`.
    ///
    /// # Errors
    /// [`Error::Format`] if the plan was made for another number of glyphs, and [`Error::ConfigValue`] if a split would
    /// have more than 99,999 shards.
    pub fn open(config: &Config, (plan, content): (&Path, Digest), glyphs: Arc<Glyphs>) -> Result<Work> {
        let facts = table::facts(&ParquetFile::open(plan)?)?;
        if facts.glyphs.count != glyphs.len() {
            let found = format!("made for {} glyphs", facts.glyphs.count);
            return Err(Error::format(plan, found, format!("a plan for the {} glyphs in hand", glyphs.len())));
        }
        let [height, width] = facts.plan.image_size;
        let layout =
            Layout { digits: facts.plan.digits, height, width, pixels: config.pixels, parameters: 0, donors: false };
        let writer = ShardWriter::new(&layout, &[(facts::KEY, facts.text())], config.compression);
        let (plan, shards) = (plan.to_owned(), shards(config, &facts)?);
        let picks = Mutex::new(montage::Picks::new(facts.plan.classes(), height * width));
        Ok(Work { plan, content, facts, glyphs, layout, writer, shards, reader: Mutex::new(None), picks })
    }

    /// The number of rows of all splits.
    pub fn rows(&self) -> u64 {
        self.facts.counts.as_array().into_iter().sum()
    }

    /// Writes what stands beside the shards into `out`: the picture, the card and the description for machines. Returns the
    /// digest of the facts and all samples.
    pub fn finish(&self, out: &Path, written: &[Written]) -> Result<Digest> {
        let [height, width] = self.facts.plan.image_size;
        let (picked, splits) = self.picks()?.into_rows(self.layout.digits);
        let samples = render::render(&picked, height, width, &self.glyphs);
        let picture = out.join(card::MONTAGE);
        // encoded in memory first, because the encoder hides the system's error if writing a file fails
        let mut bytes = std::io::Cursor::new(Vec::new());
        let montage = montage::draw(&samples, &splits, height, width);
        montage.write_to(&mut bytes, image::ImageFormat::Png).map_err(Error::write(&picture))?;
        files::write(&picture, bytes.get_ref())?;
        files::write(&out.join(card::FILE), card::card(&self.facts, &self.layout, written).as_bytes())?;
        let description = croissant::croissant(&self.facts, &self.layout, written, self.content);
        files::write(&out.join(croissant::FILE), description.as_bytes())?;
        Ok(digest(&self.facts, written.iter().map(|split| split.digest)))
    }

    /// The rows of the picture. The plan is read for them, unless all shards were written by this process.
    fn picks(&self) -> Result<montage::Picks> {
        let [height, width] = self.facts.plan.image_size;
        let mut picks = montage::Picks::new(self.facts.plan.classes(), height * width);
        let mut kept = self.picks.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.seen() == self.rows() {
            return Ok(std::mem::replace(&mut kept, picks));
        }
        for (number, name) in split::NAMES.into_iter().enumerate() {
            let mut rows = table::Reader::open(&self.plan, name)?;
            let mut left = rows.len() as usize;
            while left > 0 {
                let piece = rows.take(left.min(SCAN))?;
                left -= piece.len();
                picks.scan(&piece, number);
            }
        }
        Ok(picks)
    }
}

impl ShardSet for Work {
    fn shards(&self) -> &[ShardPlan] {
        &self.shards
    }

    fn write(&self, shard: &ShardPlan, to: Sink<'_>, tell: &mut dyn FnMut(&[Digest]) -> Result<()>) -> Result<()> {
        let [height, width] = self.facts.plan.image_size;
        let mut kept = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let follows = |rows: &Rows| (rows.split, rows.next) == (shard.part, shard.first);
        let mut reader = match kept.take().filter(follows) {
            Some(rows) => rows.reader,
            None => {
                let name = split::NAMES.get(shard.part).copied().unwrap_or_default();
                table::Reader::open_at(&self.plan, name, shard.first)?
            }
        };
        let mut picks = self.picks.lock().unwrap_or_else(PoisonError::into_inner);
        let next = |rows| reader.take(rows).inspect(|rows| picks.scan(rows, shard.part));
        let render = |rows| Ok(render::render(&rows, height, width, &self.glyphs));
        self.writer.write(to, &shard.groups, next, render, tell)?;
        *kept = Some(Rows { split: shard.part, next: shard.first + shard.rows(), reader });
        Ok(())
    }
}

/// The digest of a data set in a folder, computed from its shards.
///
/// # Errors
/// [`Error::Format`] if the shards of the splits come from different plans.
pub fn digest_of(folder: &Path, progress: &Progress) -> Result<Digest> {
    let [train, val, test] = split::NAMES.map(|name| Shards::open(&folder.join(DATA), name));
    let shards = [train?, val?, test?];
    let [train, others @ ..] = &shards;
    let facts = table::facts(train.first())?;
    for split in others {
        if table::facts(split.first())? != facts {
            let path = split.first().path();
            return Err(Error::format(path, "the facts of another plan", "those of the train shards; make them again"));
        }
    }
    let digests = shards.iter().map(|split| split.digest(progress)).collect::<Result<Vec<Digest>>>()?;
    Ok(digest(&facts, digests.into_iter()))
}

fn digest(facts: &Facts, splits: impl Iterator<Item = Digest>) -> Digest {
    let mut content = facts.digest();
    for (name, digest) in split::NAMES.iter().zip(splits) {
        content.bytes(name.as_bytes()).digest(&digest);
    }
    content.finish()
}

/// Whether a path, relative to the folder of a data set, is that of a shard of a split.
pub fn is_shard_of(path: &str, split: &str) -> bool {
    let name = path.strip_prefix(DATA).and_then(|name| name.strip_prefix('/'));
    name.and_then(|name| name.strip_prefix(split)).is_some_and(|rest| rest.starts_with('-'))
}
