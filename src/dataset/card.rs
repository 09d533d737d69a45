//! The dataset card: the file `README.md` beside the shards, with the YAML header that Hugging Face reads. It is
//! rendered from the template `card.md`.

use serde::Serialize;

use crate::documents;
use crate::plan::facts::GlyphSet;
use crate::plan::split::NAMES;
use crate::plan::{self, Facts};
use crate::raw::{Licence, Origin};
use crate::shards::{DATA, Layout, Written};

/// The file name of the card.
pub const FILE: &str = "README.md";

/// The name of the picture that the card shows.
pub const MONTAGE: &str = "montage.png";

/// The values that the template uses.
#[derive(Serialize)]
struct Card<'a> {
    title: String,
    origin: Origin,
    licence: Licence,
    plan: &'a plan::Config,
    glyphs: &'a GlyphSet,
    glyphs_digest: String,
    leakage_sentence: String,
    size_category: &'static str,
    height: usize,
    width: usize,
    /// Whether the shards have a column of raw pixels.
    pixels: bool,
    classes: u64,
    /// The names of all classes, in order, unless there are too many.
    names: Option<Vec<String>>,
    /// The name of the folder of the shards.
    data: &'static str,
    splits: Vec<SplitRow>,
    /// The size of all shards in bytes.
    bytes: u64,
}

/// One split in the card's table.
#[derive(Serialize)]
struct SplitRow {
    name: &'static str,
    rows: u64,
    bytes: u64,
    shards: usize,
    digest: String,
}

/// Renders the card of a data set from its facts, its schema and what was written of each split.
pub fn card(facts: &Facts, layout: &Layout, written: &[Written]) -> String {
    let [height, width] = facts.plan.image_size;
    let origin = facts.glyphs.origin();
    let row = |(name, split): (&'static str, &Written)| SplitRow {
        name,
        rows: split.rows,
        bytes: split.bytes(),
        shards: split.files.len(),
        digest: split.digest.short(),
    };
    let card = Card {
        title: origin.title(facts.plan.digits),
        origin,
        licence: origin.licence(),
        plan: &facts.plan,
        glyphs: &facts.glyphs,
        glyphs_digest: facts.glyphs.digest.short(),
        leakage_sentence: facts.leakage_sentence(),
        size_category: size_category(written.iter().map(|split| split.rows).sum()),
        height,
        width,
        pixels: layout.pixels,
        classes: facts.plan.classes(),
        names: layout.class_names(),
        data: DATA,
        splits: NAMES.into_iter().zip(written).map(row).collect(),
        bytes: written.iter().map(Written::bytes).sum(),
    };
    documents::markdown(include_str!("card.md"), &card)
}

/// The size category of a data set at Hugging Face.
fn size_category(rows: u64) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        _ => "n>10M",
    }
}
