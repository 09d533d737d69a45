//! The data set as the page shows it: its counts, the split of each class, and pictures of each split. The data are
//! read from the shards and the facts in them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::Path;

use image::{GrayImage, ImageBuffer, ImageFormat, Luma, imageops};
use rayon::prelude::*;

use super::figures::{Figure, Figures};
use super::tables::{Cell, Table, count, number, words};
use crate::error::Result;
use crate::labels;
use crate::plan::Facts;
use crate::plan::split::NAMES;
use crate::shards::{DATA, Layout, Shards};

/// The number of images in the picture of a split, and the number in one of its lines.
const PICTURES: usize = 40;
const COLUMNS: usize = 10;
/// The maximum number of pixels of a picture.
const MOST_PIXELS: usize = 1 << 22;
/// The space between images, in pixels.
const GAP: usize = 2;
/// The grey value of that space.
const GROUND: u8 = 96;

/// A split of the data set.
pub struct SplitShards {
    /// The name of the split.
    pub name: &'static str,
    /// The shards of the split.
    pub shards: Shards,
    /// The number of samples of each class that occurs in the split.
    pub classes: BTreeMap<i64, u64>,
}

/// Opens the splits of a data set (a folder of the stage `dataset`) and counts their classes.
pub fn splits(dataset: &Path) -> Result<[SplitShards; 3]> {
    let open = |name: &'static str| -> Result<SplitShards> {
        let shards = Shards::open(&dataset.join(DATA), name)?;
        let mut classes = BTreeMap::new();
        shards.each_label(|label| *classes.entry(label).or_default() += 1)?;
        Ok(SplitShards { name, shards, classes })
    };
    let [train, val, test] = NAMES.map(open);
    Ok([train?, val?, test?])
}

/// The number of samples and of classes in each split, with the sizes of the smallest and the largest class.
pub fn balance(splits: &[SplitShards]) -> Table {
    let titles = ["<split", "samples", "classes", "fewest per class", "most per class"];
    let mut table = Table::new("splits", "Samples and classes of each split", &titles);
    for split in splits {
        let counts = || split.classes.values().copied();
        let ends = [counts().min().unwrap_or_default(), counts().max().unwrap_or_default()];
        let row = [words(split.name), count(split.shards.rows()), count(split.classes.len() as u64)];
        table.rows.push(row.into_iter().chain(ends.map(count)).collect());
    }
    table
}

/// The number of samples with each digit at each position, for each split.
pub fn digits(splits: &[SplitShards], digits: usize) -> Table {
    let titles: Vec<String> =
        ["<split", "position"].into_iter().map(str::to_owned).chain((0..10).map(|digit| digit.to_string())).collect();
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let mut table = Table::new("digits", "Samples with each digit at each position, from the left", &titles);
    for split in splits {
        let mut counts = vec![[0; 10]; digits];
        for (&class, samples) in &split.classes {
            // a label below zero, which only a damaged file has, spells no digits
            let Ok(label) = u64::try_from(class) else { continue };
            for (counts, digit) in counts.iter_mut().zip(labels::digits(label, digits)) {
                counts.get_mut(usize::from(digit)).into_iter().for_each(|count| *count += samples);
            }
        }
        for (position, counts) in (1..).zip(counts) {
            let row = [words(split.name), count(position)];
            table.rows.push(row.into_iter().chain(counts.map(count)).collect());
        }
    }
    table
}

/// The split of each class, as a map of tens and units. A map for one digit has a single row; for more than
/// two digits there is no map.
pub fn map(splits: &[SplitShards], layout: &Layout) -> Option<Table> {
    let caption = match layout.digits {
        1 => "The splits that hold each digit",
        2 => "The split that holds each pair: left digit by row, right digit by column",
        _ => return None,
    };
    let cell = |pair: [u8; 2]| {
        let class = labels::label(pair).unwrap_or_default();
        let holds: Vec<&str> =
            splits.iter().filter(|split| split.classes.contains_key(&class)).map(|split| split.name).collect();
        match holds[..] {
            [] => Cell { text: "–".to_owned(), ..Cell::default() },
            [one] => Cell { text: one.to_owned(), raw: one.to_owned(), kind: kind_of(one), heat: 0.5 },
            _ => Cell { text: "all".to_owned(), raw: holds.join(" "), ..Cell::default() },
        }
    };
    Some(class_map("split-map", caption, layout.digits, cell))
}

fn kind_of(split: &str) -> &'static str {
    NAMES.into_iter().find(|name| *name == split).unwrap_or_default()
}

/// A map of the classes of one or two digits. `cell` makes the cell for a pair of digits, its row and its column. A map
/// of one digit has only the row 0, without a heading.
pub fn class_map(file: &str, caption: &str, digits: usize, cell: impl Fn([u8; 2]) -> Cell) -> Table {
    let titles: Vec<String> =
        std::iter::once("digit".to_owned()).chain((0..10).map(|digit| digit.to_string())).collect();
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let mut table = Table::new(file, caption, &titles);
    table.is_map = true;
    for row in 0..if digits == 1 { 1 } else { 10 } {
        let head = if digits == 1 { words("") } else { words(row.to_string()) };
        table.rows.push(std::iter::once(head).chain((0..10).map(|column| cell([row, column]))).collect());
    }
    table
}

/// The number of glyphs in val and test, and how many of them also occur in train.
pub fn leakage(facts: &Facts) -> Table {
    let titles = ["<split", "glyphs", "also in train", "share"];
    let mut table = Table::new("leakage", "Glyphs that a split shares with train", &titles);
    for (name, leakage) in [("val", facts.val_leakage), ("test", facts.test_leakage)] {
        let share = number(Some(leakage.share()), |share| format!("{:.1}%", 100.0 * share));
        table.rows.push(vec![words(name), count(leakage.glyphs), count(leakage.also_in_train), share]);
    }
    table
}

/// A picture of samples of a split, evenly spaced over up to four row groups and sorted by class.
pub fn montage(split: &SplitShards, figures: &Figures) -> Result<Figure> {
    let Layout { height, width, .. } = *split.shards.layout();
    let most = PICTURES.min(MOST_PIXELS / (height * width).max(1)).max(1);
    let positions: Vec<(usize, usize)> = split.shards.positions().collect();
    let groups = positions.len().clamp(1, 4);
    let chosen: Vec<(usize, usize)> =
        (0..groups).filter_map(|i| positions.get(i * positions.len() / groups).copied()).collect();
    let read = chosen.par_iter().map(|&position| split.shards.read(position)).collect::<Result<Vec<_>>>()?;
    let mut pictures: Vec<(i64, Vec<u8>)> = Vec::new();
    for samples in &read {
        let (n, wanted) = (samples.labels.len(), most.div_ceil(groups).min(samples.labels.len()));
        let picture = |at: usize| Some((*samples.labels.get(at)?, samples.image(at, height * width)?.to_vec()));
        pictures.extend((0..wanted).filter_map(|i| picture(i * n / wanted)));
    }
    pictures.truncate(most);
    pictures.sort_by_key(|(label, _)| *label);
    let (columns, lines) = (COLUMNS.min(pictures.len()), pictures.len().div_ceil(COLUMNS));
    let extent = |cells: usize, size: usize| (cells * (size + GAP) + GAP) as u32;
    let mut picture = GrayImage::from_pixel(extent(columns, width), extent(lines, height), Luma([GROUND]));
    for (i, (_, pixels)) in pictures.iter().enumerate() {
        let (left, top) = (GAP + i % COLUMNS * (width + GAP), GAP + i / COLUMNS * (height + GAP));
        let sample = ImageBuffer::from_raw(width as u32, height as u32, pixels.as_slice());
        sample.iter().for_each(|sample| imageops::replace(&mut picture, sample, left as i64, top as i64));
    }
    let (name, n) = (split.name, pictures.len());
    let alt = format!("{n} sample images of the {name} split, in the order of their classes");
    figures.embed(
        &format!("montage-{name}.png"),
        &png(&picture),
        alt,
        format!("{name}: {n} samples, in the order of their classes"),
    )
}

/// An image as PNG.
#[expect(clippy::expect_used, reason = "8-bit grey of a checked size is encoded in memory")]
pub fn png(picture: &GrayImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).expect("memory takes every PNG");
    bytes.into_inner()
}

/// The images in some rows of a split, as PNG. Rows that the split does not have are left out.
pub fn images(shards: &Shards, rows: &BTreeSet<usize>) -> Result<BTreeMap<usize, Vec<u8>>> {
    let Layout { height, width, .. } = *shards.layout();
    let mut first = 0;
    let mut wanted = Vec::new();
    for (position, n) in shards.positions().zip(shards.groups().concat()) {
        let here: Vec<usize> = rows.range(first..first + n).map(|row| row - first).collect();
        if !here.is_empty() {
            wanted.push((position, first, here));
        }
        first += n;
    }
    let read = wanted.into_par_iter().map(|(position, first, here)| {
        let samples = shards.read(position)?;
        let png_of = |at: usize| {
            let pixels = samples.image(at, height * width)?.to_vec();
            Some((first + at, png(&GrayImage::from_raw(width as u32, height as u32, pixels)?)))
        };
        Ok(here.into_iter().filter_map(png_of).collect::<Vec<_>>())
    });
    Ok(read.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parquet_file::Compression;
    use crate::shards::{Samples, ShardWriter, write_split};

    #[test]
    fn a_class_below_zero_is_a_class_and_has_no_digit() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout { digits: 1, height: 1, width: 1, pixels: false, parameters: 0, donors: false };
        let (labels, pair) = (vec![-1, 3], vec![0, 0]);
        let samples =
            Samples { labels, index: pair.clone(), digits: pair.clone(), sources: pair, ..Samples::default() };
        let render = |()| Ok(Samples { boxes: vec![0; 8], images: vec![0; 2], ..samples.clone() });
        let zstd = Compression::Zstd;
        write_split(&ShardWriter::new(&layout, &[], zstd), home.path(), "val", &[vec![2]], |_| Ok(()), render).unwrap();
        let shards = Shards::open(home.path(), "val").unwrap();
        let split = SplitShards { name: "val", shards, classes: BTreeMap::from([(-1, 1), (3, 1)]) };
        let table = digits(&[split], 1);
        let counts: Vec<&str> = table.rows[0].iter().map(|cell| cell.raw.as_str()).collect();
        assert_eq!(counts, ["val", "1", "0", "0", "0", "1", "0", "0", "0", "0", "0", "0"]);
    }
}
