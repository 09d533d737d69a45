//! The card of the stored epochs: the file `README.md` beside their folders, with the YAML header that Hugging Face reads.
//! Its text is the template `card.md`.

use serde::Serialize;

use super::{Config, settings};
use crate::documents;
use crate::plan::Facts;
use crate::raw::Licence;
use crate::shards::{DATA, Layout};

/// The file name of the card.
pub const FILE: &str = "README.md";

/// The values that the template uses.
#[derive(Serialize)]
struct Card {
    title: String,
    licence: Licence,
    /// The number of stored epochs, and of the images in each.
    epochs: usize,
    rows: u64,
    digits: usize,
    width: usize,
    /// The columns that not every epoch has, as in [`Layout`].
    pixels: bool,
    donors: bool,
    sets: usize,
    /// The name of the folder of the shards in an epoch.
    data: &'static str,
    /// The settings: key and value.
    settings: Vec<(String, String)>,
}

/// Renders the card of epochs with `rows` images each, which are made from a data set with these facts and have this
/// layout.
pub fn card(config: &Config, facts: &Facts, layout: &Layout, rows: u64) -> String {
    let origin = facts.glyphs.origin();
    let card = Card {
        title: origin.title(facts.plan.digits),
        licence: origin.licence(),
        epochs: config.epochs,
        rows,
        digits: layout.digits,
        width: layout.width,
        pixels: layout.pixels,
        donors: layout.donors,
        sets: layout.parameters,
        data: DATA,
        settings: settings(config).into_iter().map(|(key, value)| (key, value.to_string())).collect(),
    };
    documents::markdown(include_str!("card.md"), &card)
}
