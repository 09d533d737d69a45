//! The dataset card: `README.md` beside the shards, with the YAML header that Hugging Face reads.

use crate::plan::Facts;
use crate::plan::split::{By, NAMES};
use crate::raw::{Licence, Origin};
use crate::shards::{DATA, Layout, Written};

/// The picture that the card shows, beside it.
pub const MONTAGE: &str = "montage.png";

/// The card of a data set: its facts, its schema, and what was written of each split.
pub fn card(facts: &Facts, layout: &Layout, written: &[Written]) -> String {
    let plan = &facts.plan;
    let [height, width] = plan.image_size;
    let (digits, classes) = (plan.digits, plan.classes());
    let title = title(digits);
    let origin = facts.glyphs.origin();
    let Licence { id: licence, sentence: licence_sentence } = origin.licence();
    let glyph_sentence = match origin {
        Origin::Mnist => {
            "the 70,000 glyphs of MNIST (60,000 training images, then 10,000 test images), verified by SHA-256"
                .to_owned()
        }
        Origin::Synthetic => {
            "**synthetic glyphs**: strokes drawn by the program, not handwriting and not MNIST. Results on them say \
             nothing about MNIST"
                .to_owned()
        }
        Origin::Folder => {
            format!("{} glyphs of the {} (not MNIST as verified by the program)", facts.glyphs.count, facts.glyphs.name)
        }
    };
    let split_sentence = match plan.split.by {
        By::Class => "Whole classes are divided, so val and test show digit combinations that train never showed.",
        By::Sample => "Each class's samples are divided, so every split shows every class.",
        By::Source => {
            "The glyphs are divided first, then each class's samples, so every split shows every class and no glyph \
             serves two splits."
        }
    };
    let ratio = plan.split.ratio.map(|part| part.to_string()).join("/");
    let rows: String = NAMES
        .iter()
        .zip(written)
        .map(|(name, split)| {
            format!("| {name} | {} | {} | `{}` |\n", split.rows, split.files.len(), split.digest.short())
        })
        .collect();
    let splits: String = NAMES
        .iter()
        .zip(written)
        .map(|(name, s)| format!("  - name: {name}\n    num_bytes: {}\n    num_examples: {}\n", s.bytes, s.rows))
        .collect();
    let bytes: u64 = written.iter().map(|split| split.bytes).sum();
    let data_files: String =
        NAMES.iter().map(|name| format!("  - split: {name}\n    path: {DATA}/{name}-*.parquet\n")).collect();
    let pixels = match layout.pixels {
        true => format!("| `pixels` | binary | {} raw bytes, row-major |\n", height * width),
        false => String::new(),
    };
    format!(
        "---\n\
         license: {licence}\n\
         pretty_name: {title}\n\
         task_categories:\n- image-classification\n\
         size_categories:\n- {size}\n\
         configs:\n- config_name: default\n  data_files:\n{data_files}\
         dataset_info:\n{features}  splits:\n{splits}  download_size: {bytes}\n  dataset_size: {bytes}\n\
         ---\n\n\
         # {title}\n\n\
         {digits} digit{s} in an image of {height}x{width} grey pixels; {classes} classes, {per_class} samples each. \
         Made by `multidigit` out of {glyph_sentence}.\n\n\
         ![One sample per class](montage.png)\n\n\
         One sample for each of up to 100 classes. The frame tells the split (grey: train, blue: val, orange: test), \
         the thin lines are the digits' boxes.\n\n\
         ## Splits\n\n\
         Divided {ratio} by {by}. {split_sentence}\n\n\
         | split | samples | shards | content digest |\n|---|---|---|---|\n{rows}\n\
         {leakage}.\n\n\
         ## Columns\n\n\
         | column | type | what |\n|---|---|---|\n\
         | `image` | struct of bytes, path | 8-bit grey PNG; the path is `INDEX_CLASS.png` |\n\
         | `label` | int64 | class: the number that the digits spell |\n\
         | `digits` | int64 list of {digits} | the digits, left to right |\n\
         | `index` | int64 | number of the sample in its class, from 0 |\n\
         | `source_index` | int64 list of {digits} | glyph of each digit: its number in the pool, training images first |\n\
         | `boxes` | int64 list of {digits} x 4 | tight box of each digit's ink: x, y, width, height in pixels |\n\
         {pixels}\n\
         ## How it was made\n\n\
         Seed {seed}. The draws are those of the reference generator of MultiDigitMNIST (NumPy's legacy generator): for \
         each image one glyph per digit, then the vertical offsets, then the horizontal ones; a glyph overwrites its \
         28x28 cell. A row's glyphs and offsets stand in `plan.parquet` of the same run, and in the metadata \
         `multidigit` of every shard stand the settings.\n\n\
         Glyph pool: {glyphs} ({count} glyphs, content digest `{glyph_digest}`).\n\n\
         ## Licence\n\n\
         {licence_sentence}\n",
        size = size_category(written.iter().map(|split| split.rows).sum()),
        features = layout.card_features(),
        s = if digits == 1 { "" } else { "s" },
        per_class = plan.samples_per_class,
        by = match plan.split.by {
            By::Class => "class",
            By::Sample => "sample",
            By::Source => "source",
        },
        leakage = facts.leakage_sentence(),
        seed = plan.seed,
        glyphs = facts.glyphs.name,
        count = facts.glyphs.count,
        glyph_digest = facts.glyphs.digest.short(),
    )
}

/// What a data set of so many digits is called.
pub fn title(digits: usize) -> String {
    match digits {
        1 => "SingleMNIST".to_owned(),
        2 => "DoubleMNIST".to_owned(),
        3 => "TripleMNIST".to_owned(),
        n => format!("MultiMNIST with {n} digits"),
    }
}

/// Hugging Face's size categories.
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
