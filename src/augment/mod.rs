//! The stage `augment`: augments the training split by rotation, an affine map and erasing, and writes it as shards
//! of the same schema.
//!
//! Input: the dataset's train shards. Output: `epoch-NNN/data/train-*.parquet`, with the epoch and the drawn parameters of
//! each sample as columns, and a card. Parameters are drawn first, then applied. They are keyed by (seed, epoch, sample),
//! where a sample is identified by its class and its index, so that neither the order of samples nor the number of threads
//! matters.

pub use self::error::AugmentError;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Parts};
use crate::error::{Error, Result};
use crate::files;
use crate::parquet_file::Compression;
use crate::plan::{facts, table};
use crate::progress::Progress;
use crate::shards::schema::list_bytes;
use crate::shards::set::write_all;
use crate::shards::{
    self, DATA, Layout, Parameters, Samples, ShardPlan, ShardSet, ShardWriter, Shards, Sink, Split, Written, read_split,
};

#[forbid(unsafe_code)]
#[allow(clippy::indexing_slicing, reason = "arithmetic on pixels in memory, of sizes that callers keep to")]
pub mod apply;
#[forbid(unsafe_code)]
#[allow(clippy::indexing_slicing, reason = "arithmetic on pixels in memory, of sizes that callers keep to")]
mod boxes;
#[forbid(unsafe_code)]
mod card;
#[forbid(unsafe_code)]
pub mod draw;
#[forbid(unsafe_code)]
mod error;
#[forbid(unsafe_code)]
#[allow(
    clippy::indexing_slicing,
    reason = "rows and slots of a training split in memory, which has checked its digits"
)]
pub mod exchange;
#[allow(unsafe_code, reason = "the gathers of AVX-512, and a loop compiled for AVX2")]
#[allow(clippy::indexing_slicing, reason = "arithmetic on pixels in memory, of sizes that callers keep to")]
pub mod gather;
#[forbid(unsafe_code)]
mod letters;
#[forbid(unsafe_code)]
pub mod preview;
#[cfg(test)]
#[forbid(unsafe_code)]
mod tests;
#[forbid(unsafe_code)]
#[allow(clippy::indexing_slicing, reason = "arithmetic on pixels in memory, of sizes that callers keep to")]
pub mod warp;

use apply::{Resampling, Scratch, Transform};
pub use card::FILE as CARD;
use exchange::Exchange;

/// The metadata key of the number and settings of a stored epoch in its shards.
pub const KEY: &str = "augment";

/// The size of a stored epoch divided by the size of the train shards that it is made from, for the estimate of the
/// required space. Measured as 1.07 for the default pipeline, because warped edges compress a little worse and there
/// are parameters; rounded up.
const BYTES_PER_BYTE: f64 = 1.2;

/// The section `augment`, whose default is the paper's recipe. An operator that is null is off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Epochs to store as shards, for other tools or for replay; training augments further epochs in flight.
    pub epochs: usize,
    /// Seed of all draws.
    pub seed: u64,
    /// What the operators are applied to. image: the whole image, as in the paper; slot: the slot of each digit, as if it
    /// were an image, with draws of its own. A slot has the full height and an equal share of the width.
    pub by: By,
    /// Exchange of digits between training images, before the operators: an image keeps the slot of its first digit, and
    /// takes every other slot from a training image that is drawn for it. strict: from one with the same digit there, so
    /// that no image changes its class; free: from any, so that training shows pairs of digits that the data set keeps for
    /// val and test. null: no exchange.
    pub exchange: Option<exchange::Pairs>,
    /// Rotation about the centre.
    pub rotation: Option<Rotation>,
    /// Translation, scaling and shearing, after the rotation.
    pub affine: Option<Affine>,
    /// Erasing of a rectangle, last.
    pub erasing: Option<Erasing>,
    /// How the grey at a position between pixels is computed. nearest: that of the nearest pixel, as in the paper;
    /// bilinear: the mean of the four nearest pixels, weighted by distance and rounded down. Both equal Pillow's to the
    /// last pixel, with black outside the image.
    pub interpolation: Interpolation,
    /// How rotation and affine map are combined. sequential: the affine map resamples the result of the rotation,
    /// as in the paper; fused: the two maps are multiplied and resampled once, which is sharper and faster, and
    /// gives other pixels.
    pub compose: Compose,
}

/// What the operators are applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The whole image.
    #[default]
    Image,
    /// The slot of each digit.
    Slot,
}

/// How the grey at a position between pixels is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The grey of the nearest pixel.
    #[default]
    Nearest,
    /// The mean of the four nearest pixels, weighted by distance.
    Bilinear,
}

/// How rotation and affine map are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compose {
    /// The affine map resamples the result of the rotation.
    #[default]
    Sequential,
    /// Both are multiplied into one map, which is resampled once.
    Fused,
}

/// Rotation by a uniform angle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// Largest angle in degrees, either way.
    pub degrees: f64,
}

/// A random affine map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Affine {
    /// Largest shift along x and y, as shares of width and height; rounded to whole pixels.
    pub translate: [f64; 2],
    /// Smallest and largest magnification.
    pub scale: [f64; 2],
    /// Largest shear along x in degrees, either way.
    pub shear: f64,
}

/// Erasing of a random rectangle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Erasing {
    /// Probability that the operator is applied at all; it is multiplied by the next one.
    pub apply_probability: f64,
    /// Probability of the erasing itself.
    pub probability: f64,
    /// Smallest and largest area, as shares of the image.
    pub scale: [f64; 2],
    /// Smallest and largest height over width.
    pub ratio: [f64; 2],
    /// Grey of the rectangle, 0 to 255; 33 is the mean of MNIST, 0 after normalisation.
    pub value: u8,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            epochs: 1,
            seed: 0,
            by: By::default(),
            exchange: None,
            rotation: Some(Rotation::default()),
            affine: Some(Affine::default()),
            erasing: Some(Erasing::default()),
            interpolation: Interpolation::default(),
            compose: Compose::default(),
        }
    }
}

impl Default for Rotation {
    fn default() -> Rotation {
        Rotation { degrees: 15.0 }
    }
}

impl Default for Affine {
    fn default() -> Affine {
        Affine { translate: [0.1, 0.1], scale: [0.9, 1.1], shear: 10.0 }
    }
}

impl Default for Erasing {
    fn default() -> Erasing {
        Erasing { apply_probability: 0.5, probability: 0.5, scale: [0.02, 0.1], ratio: [0.3, 3.3], value: 33 }
    }
}

impl Config {
    /// The number of parts of an image with `digits` digits that are augmented on their own.
    fn parts(&self, digits: usize) -> usize {
        match self.by {
            By::Image => 1,
            By::Slot => digits,
        }
    }

    /// The size in bytes of all lists in a row of a stored epoch.
    pub fn list_bytes(&self, digits: usize) -> usize {
        list_bytes(digits, self.parts(digits), self.exchange.is_some())
    }

    /// Checks the settings before any work is done.
    ///
    /// # Errors
    /// [`Error::ConfigValue`] if a number is outside its range.
    pub fn validate(&self) -> Result<()> {
        let within = |key: &str, value: f64, low: f64, high: f64| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(Error::value(key, value, format!("{low} to {high}"))),
        };
        let range =
            |key: &str, [low, high]: [f64; 2], least: f64, most: f64| match least <= low && low <= high && high <= most
            {
                true => Ok(()),
                false => Err(Error::value(
                    key,
                    format!("[{low}, {high}]"),
                    format!("two numbers in ascending order, {least} to {most}"),
                )),
            };
        if let Some(rotation) = &self.rotation {
            within("augment.rotation.degrees", rotation.degrees, 0.0, 360.0)?;
        }
        if let Some(affine) = &self.affine {
            within("augment.affine.translate", affine.translate[0], 0.0, 1.0)?;
            within("augment.affine.translate", affine.translate[1], 0.0, 1.0)?;
            range("augment.affine.scale", affine.scale, 0.01, 100.0)?;
            within("augment.affine.shear", affine.shear, 0.0, 89.0)?;
        }
        if let Some(erasing) = &self.erasing {
            within("augment.erasing.apply_probability", erasing.apply_probability, 0.0, 1.0)?;
            within("augment.erasing.probability", erasing.probability, 0.0, 1.0)?;
            range("augment.erasing.scale", erasing.scale, 0.0, 1.0)?;
            range("augment.erasing.ratio", erasing.ratio, 0.01, 100.0)?;
        }
        Ok(())
    }
}

/// The augmentation of one epoch: draws parameters and applies them.
pub struct Augmenter {
    resampling: Resampling,
    /// The draws for whole images, or those for each slot.
    draws: Vec<draw::Draws>,
}

impl Augmenter {
    /// The augmentation of epoch `epoch`, counted from 0, of images with `digits` digits. The configuration must be valid.
    pub fn new(config: &Config, epoch: usize, digits: usize) -> Augmenter {
        let resampling = Resampling { interpolation: config.interpolation, compose: config.compose };
        let slots = match config.by {
            By::Image => vec![None],
            By::Slot => (0..digits).map(Some).collect(),
        };
        let draws = slots.into_iter().map(|slot| draw::Draws::new(config, epoch as u64, slot));
        Augmenter { resampling, draws: draws.collect() }
    }

    /// Draws the parameters of the sample (class, index), an image of `height * width` pixels, in this epoch: one for the
    /// image, or one for each slot.
    pub fn params(&self, (label, index): (i64, i64), (height, width): (usize, usize)) -> Vec<draw::Params> {
        let sample = sample_id(label, index);
        self.draws.iter().map(|draws| draws.params(sample, height, width / self.draws.len())).collect()
    }

    /// The transforms by drawn parameters of an image whose size is (height, width) in pixels, for [`apply::apply_all`].
    pub fn transforms(&self, params: &[draw::Params], (height, width): (usize, usize)) -> Vec<Transform> {
        let size = (height, width / self.draws.len());
        params.iter().map(|params| Transform::new(params, self.resampling, size)).collect()
    }

    /// Augments the sample (class, index), an image whose size is (height, width) in pixels, into `out`. Returns
    /// the drawn parameters and the transforms.
    ///
    /// # Panics
    /// If the lengths of `pixels` and `out` are not `height * width`.
    pub fn apply(
        &self,
        sample: (i64, i64),
        pixels: &[u8],
        size: (usize, usize),
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> (Vec<draw::Params>, Vec<Transform>) {
        let params = self.params(sample, size);
        let transforms = self.transforms(&params, size);
        apply::apply_all(&transforms, pixels, size, out, scratch);
        (params, transforms)
    }

    /// Augments the images of samples, whose size is (height, width) in pixels, moves their boxes, and adds the drawn
    /// parameters to them. `keys` are the class and the index that the draws for each image are keyed by.
    fn augment(&self, keys: &[(i64, i64)], mut samples: Samples, size: (usize, usize)) -> Samples {
        let (mut scratch, mut buffers) = (Scratch::default(), boxes::Buffers::default());
        let mut images = vec![0; samples.images.len()];
        let mut parameters = vec![Parameters::default(); self.draws.len()];
        let mut moved = Vec::with_capacity(samples.boxes.len());
        let (area, digits) = (size.0 * size.1, samples.boxes.len() / 4 / keys.len().max(1));
        let pairs = samples.images.chunks_exact(area).zip(images.chunks_exact_mut(area));
        let mut boxes = samples.boxes.as_chunks().0.chunks(digits.max(1));
        for (&key, (pixels, out)) in keys.iter().zip(pairs) {
            let (drawn, transforms) = self.apply(key, pixels, size, out, &mut scratch);
            moved.extend(boxes::moved(&transforms, pixels, boxes.next().unwrap_or_default(), size, &mut buffers));
            parameters.iter_mut().zip(&drawn).for_each(|(columns, drawn)| append(drawn, columns));
        }
        samples.images = images;
        samples.parameters = parameters;
        samples.boxes = moved.into_flattened();
        samples
    }
}

/// Makes the samples of one epoch from those of a train split.
pub struct Maker<'a> {
    epoch: usize,
    layout: Layout,
    augmenter: Augmenter,
    exchange: Option<(Exchange, &'a Images)>,
}

/// The images of a train split with their glyphs and boxes, in memory, as an exchange between them needs them.
pub struct Images {
    split: Split,
    sources: Vec<i64>,
    boxes: Vec<[i64; 4]>,
}

impl Images {
    /// Reads the train shards of `dataset`, a folder of the stage dataset, if an exchange is configured.
    pub fn read(config: &Config, dataset: &Path) -> Result<Option<Images>> {
        let data = dataset.join(DATA);
        let read = |_| {
            let (sources, boxes) = Shards::open(&data, "train")?.glyphs()?;
            Ok(Images { split: read_split(&data, "train", None)?, sources, boxes: boxes.as_chunks().0.to_vec() })
        };
        config.exchange.map(read).transpose()
    }
}

impl<'a> Maker<'a> {
    /// The maker of epoch `epoch`, counted from 0, of samples with the layout `of`. `images` are all images of the split, if
    /// digits are exchanged between them.
    pub fn new(config: &Config, epoch: usize, of: &Layout, images: Option<&'a Images>) -> Maker<'a> {
        let draw =
            |(pairs, images): (_, &'a Images)| (Exchange::draw(pairs, config.seed, epoch, &images.split), images);
        let (augmenter, exchange) = (Augmenter::new(config, epoch, of.digits), config.exchange.zip(images).map(draw));
        let layout = Layout { parameters: augmenter.draws.len(), donors: exchange.is_some(), ..of.clone() };
        Maker { epoch, layout, augmenter, exchange }
    }

    /// The layout of the samples that are made.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Augments samples that follow each other in the split. The first one is row `first` of the split.
    pub fn make(&self, mut samples: Samples, first: usize) -> Samples {
        let keys: Vec<_> = samples.labels.iter().copied().zip(samples.index.iter().copied()).collect();
        if let Some((exchange, Images { split, sources, boxes })) = &self.exchange {
            exchange.apply(split, sources, boxes, first, &mut samples);
        }
        samples.epochs = vec![self.epoch as i64; keys.len()];
        self.augmenter.augment(&keys, samples, (self.layout.height, self.layout.width))
    }
}

/// The number of a sample in the random streams. In every plan, class and index fit 32 bits each.
fn sample_id(label: i64, index: i64) -> u64 {
    (label as u64) << 32 | (index as u64 & 0xffff_ffff)
}

/// The name of the folder of an epoch in the stage's folder.
pub fn epoch_folder(epoch: usize) -> String {
    format!("epoch-{epoch:03}")
}

/// Writes the epochs that are stored into `out`. Returns the digest of all samples.
pub fn run(work: &Work, out: &Path, progress: &Progress) -> Result<Digest> {
    progress.begin("augment", work.rows(), "images")?;
    let written = write_all(work, out, progress)?;
    progress.end();
    work.finish(out, &written)
}

/// The shards of all epochs that are stored, which are cut as the train shards are.
///
/// # Errors
/// [`Error::ConfigValue`] if there are too many.
pub fn shards(config: &Config, train: &Shards) -> Result<Vec<ShardPlan>> {
    let (groups, mut shards) = (train.groups(), Vec::new());
    if config.epochs.saturating_mul(groups.len()) > MAX_SHARDS {
        let found = format!("{}, of {} shards each", config.epochs, groups.len());
        return Err(Error::value("augment.epochs", found, format!("at most {MAX_SHARDS} shards in all")));
    }
    for epoch in 0..config.epochs {
        let mut first = 0;
        for (number, group) in groups.iter().enumerate() {
            let name = shards::file_name("train", number, groups.len());
            let path = Path::new(&epoch_folder(epoch)).join(DATA).join(name);
            let shard = ShardPlan { path, part: epoch, first, groups: group.clone() };
            first += shard.rows();
            shards.push(shard);
        }
    }
    Ok(shards)
}

/// The augmentation of the training images in all epochs that are stored.
pub struct Work {
    config: Config,
    train: Shards,
    images: Option<Images>,
    shards: Vec<ShardPlan>,
}

impl Work {
    /// Opens the train shards in `dataset`, a folder of the stage dataset. The epochs will be written to the file system of
    /// `disk`, if it is given.
    ///
    /// # Errors
    /// [`Error::DiskSpace`] if the file system has no room for the epochs, [`Error::ConfigValue`] if they have too many shards.
    pub fn open(config: &Config, dataset: &Path, disk: Option<&Path>) -> Result<Work> {
        let train = Shards::open(&dataset.join(DATA), "train")?;
        // first, because a number of epochs for which there is no room has a list of shards for which there is none either
        disk.map_or(Ok(()), |disk| require_space(config.epochs, train.bytes()?, disk))?;
        let (images, shards) = (Images::read(config, dataset)?, shards(config, &train)?);
        Ok(Work { config: config.clone(), images, train, shards })
    }

    /// The number of images in all epochs.
    pub fn rows(&self) -> u64 {
        self.train.rows() * self.config.epochs as u64
    }

    fn maker(&self, epoch: usize) -> Maker<'_> {
        Maker::new(&self.config, epoch, self.train.layout(), self.images.as_ref())
    }

    /// Writes the card into `out`. Returns the digest of all samples.
    pub fn finish(&self, out: &Path, written: &[Written]) -> Result<Digest> {
        let facts = table::facts(self.train.first())?;
        let card = card::card(&self.config, &facts, self.maker(0).layout(), self.train.rows());
        files::write(&out.join(card::FILE), card.as_bytes())?;
        Ok(digest(&written.iter().map(|epoch| epoch.digest).collect::<Vec<_>>()))
    }
}

impl ShardSet for Work {
    fn shards(&self) -> &[ShardPlan] {
        &self.shards
    }

    fn write(&self, shard: &ShardPlan, to: Sink<'_>, tell: &mut dyn FnMut(&[Digest]) -> Result<()>) -> Result<()> {
        let maker = self.maker(shard.part);
        let provenance = self.train.first().value(facts::KEY).unwrap_or_default().to_owned();
        let metadata = [(facts::KEY, provenance), (KEY, recipe(&self.config, shard.part))];
        let writer = ShardWriter::new(maker.layout(), &metadata, Compression::Zstd);
        // a shard of an epoch is cut as that of the training images with the same number
        let mut positions = self.train.places().filter_map(|(position, path, before)| {
            let is_this = path.file_name() == shard.path.file_name();
            is_this.then_some((position, shard.first as usize + before))
        });
        #[expect(clippy::expect_used, reason = "the groups and the positions are those of the same shard")]
        let next = |_| Ok(positions.next().expect("there is a position for every row group"));
        let render = |(position, first)| Ok(maker.make(self.train.read(position)?, first));
        writer.write(to, &shard.groups, next, render, tell)
    }
}

/// The settings of one stored epoch as JSON. They contain what a replay needs in addition to the parameters, such as
/// the grey of erasing.
fn recipe(config: &Config, epoch: usize) -> String {
    let mut recipe = pixel_settings(config);
    recipe.insert("epoch".to_owned(), epoch.into());
    serde_json::Value::Object(recipe).to_string()
}

/// The settings that did not exist when the stage got its version. At its default, such a setting is neither in a key nor
/// in the shards, so that epochs and runs from before stay fresh.
const ADDED: [&str; 2] = ["by", "exchange"];

/// The settings that the pixels of an epoch depend on. The number of stored epochs is not among them.
pub fn pixel_settings(config: &Config) -> serde_json::Map<String, serde_json::Value> {
    let mut settings = settings(config);
    settings.shift_remove("epochs");
    settings
}

/// The settings that the stored epochs depend on, as they stand in keys and shards.
pub fn settings(config: &Config) -> serde_json::Map<String, serde_json::Value> {
    let [settings, defaults] = [config, &Config::default()].map(|config| serde_json::json!(config));
    let mut settings = settings.as_object().cloned().unwrap_or_default();
    settings.retain(|name, value| !ADDED.contains(&name.as_str()) || defaults.get(name) != Some(value));
    settings
}

/// The maximum number of shards of all epochs.
const MAX_SHARDS: usize = 10_000_000;

/// Fails if the file system of `folder` has no room for the epochs, estimated from the size of the train shards.
fn require_space(epochs: usize, train_bytes: u64, folder: &Path) -> Result<()> {
    let need = (train_bytes as f64 * BYTES_PER_BYTE * epochs as f64) as u64; // saturates
    match files::free_bytes(folder) {
        Some(free) if free < need => {
            let what = format!("{epochs} epochs");
            let way = ", lower `augment.epochs` (training computes the epochs beyond in flight)";
            Err(Error::DiskSpace { path: folder.to_owned(), what, need, free, way })
        }
        _ => Ok(()),
    }
}

/// Appends the drawn parameters of a sample to the columns. For what was not drawn, they get values that change no pixel.
fn append(drawn: &draw::Params, columns: &mut Parameters) {
    let draw::Params { angle, affine, erase } = *drawn;
    let affine = affine.unwrap_or(draw::AffineParams { translate: [0; 2], scale: 1.0, shear: [0.0; 2] });
    let rectangle = erase.map_or([0; 4], |erase| [erase.left, erase.top, erase.width, erase.height]);
    let Parameters { angle: angles, translate, scale, shear, erased } = columns;
    angles.push(angle.unwrap_or(0.0));
    translate.push(affine.translate.map(i64::from));
    scale.push(affine.scale);
    shear.push(affine.shear);
    erased.push(rectangle.map(|value| value as i64));
}

/// The digest of the stored epochs in a folder, computed from their shards. The digest does not cover the metadata of
/// the shards; if `config` is given, the metadata are compared with it.
///
/// # Errors
/// [`Error::Format`] if the metadata are not those of an epoch with the settings `config`.
pub fn digest_of(folder: &Path, config: Option<&Config>, progress: &Progress) -> Result<Digest> {
    let mut digests = Vec::new();
    for epoch in 0.. {
        let data = folder.join(epoch_folder(epoch)).join(DATA);
        if !data.is_dir() {
            break;
        }
        let shards = Shards::open(&data, "train")?;
        let first = shards.first();
        if let Some(expected) = config.map(|config| recipe(config, epoch))
            && first.value(KEY) != Some(&expected)
        {
            let found = format!("metadata `{KEY}` {}", first.value(KEY).unwrap_or("none"));
            return Err(Error::format(first.path(), found, format!("{expected}, as its record says")));
        }
        digests.push(shards.digest(progress)?);
    }
    Ok(digest(&digests))
}

fn digest(epochs: &[Digest]) -> Digest {
    let mut content = Parts::default();
    epochs.iter().for_each(|epoch| {
        content.digest(epoch);
    });
    content.finish()
}
