//! The stage `dataset`: renders the plan into the shards that are published.
//!
//! Input: `plan.parquet` and the glyphs. Output: `data/{train,val,test}-*.parquet`, a dataset card `README.md`,
//! `montage.png`, and a description for machines, `croissant.json`. Rendering is a pure function of a plan row. Rows are streamed, so that memory does not grow
//! with their number.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::parquet_file::{Compression, LISTS, ParquetFile};
use crate::plan::{self, Facts, facts, split, table};
use crate::progress::Progress;
use crate::raw::Glyphs;
use crate::shards::{Cut, DATA, Layout, Shards, Written, write_split};

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

/// Renders the plan in the file `plan`, whose content digest is `content`, into the folder `out`. Returns the digest of the
/// facts and all samples.
///
/// # Errors
/// [`Error::Format`] if the plan was made for another number of glyphs, and [`Error::ConfigValue`] if a split would
/// have more than 99,999 shards.
pub fn run(
    config: &Config,
    (plan, content): (&Path, Digest),
    glyphs: &Glyphs,
    out: &Path,
    progress: &Progress,
) -> Result<Digest> {
    let data = out.join(DATA);
    files::create_dir(&data)?;
    let facts = table::facts(&ParquetFile::open(plan)?)?;
    if facts.glyphs.count != glyphs.len() {
        let found = format!("made for {} glyphs", facts.glyphs.count);
        return Err(Error::format(plan, found, format!("a plan for the {} glyphs in hand", glyphs.len())));
    }
    let [height, width] = facts.plan.image_size;
    let layout =
        Layout { digits: facts.plan.digits, height, width, pixels: config.pixels, parameters: 0, donors: false };
    let metadata = [(facts::KEY, facts.text())];
    let mut picks = montage::Picks::new(facts.plan.classes(), height * width);
    let mut written: Vec<Written> = Vec::new();
    progress.begin("dataset", facts.counts.as_array().into_iter().sum(), "images")?;
    for (number, name) in split::NAMES.into_iter().enumerate() {
        let mut rows = table::Reader::open(plan, name)?;
        let groups = config.cut().groups(rows.len());
        if groups.len() > MAX_SHARDS {
            let found = format!("{}, which cuts `{name}` into {} shards", config.rows_per_shard, groups.len());
            return Err(Error::value("dataset.rows_per_shard", found, format!("at most {MAX_SHARDS} shards")));
        }
        let next = |n: usize| {
            let rows = rows.take(n)?;
            picks.scan(&rows, number);
            Ok(rows)
        };
        let render = |rows| Ok(render::render(&rows, height, width, glyphs));
        written.push(write_split(
            &data,
            name,
            &layout,
            &metadata,
            config.compression,
            &groups,
            next,
            render,
            progress,
        )?);
    }
    let (picked, splits) = picks.into_rows(layout.digits);
    let samples = render::render(&picked, height, width, glyphs);
    let picture = out.join(card::MONTAGE);
    // encoded in memory first, because the encoder hides the system's error if writing a file fails
    let mut bytes = std::io::Cursor::new(Vec::new());
    let montage = montage::draw(&samples, &splits, height, width);
    montage.write_to(&mut bytes, image::ImageFormat::Png).map_err(Error::write(&picture))?;
    files::write(&picture, bytes.get_ref())?;
    files::write(&out.join("README.md"), card::card(&facts, &layout, &written).as_bytes())?;
    let description = croissant::croissant(&facts, &layout, &written, content)?;
    files::write(&out.join(croissant::FILE), description.as_bytes())?;
    progress.end();
    Ok(digest(&facts, written.iter().map(|split| split.digest)))
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
