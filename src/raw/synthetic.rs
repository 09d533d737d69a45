//! The synthetic set: 60,000 + 10,000 drawn digits as four IDX files, for machines without a network and for tests.
//!
//! The set has the shape of MNIST, so that all counts in later stages are the same as for MNIST. The digits are
//! not handwritten, and everything published from them must say so. The set has no settings, and its content is
//! pinned by a digest.

use std::fs;
use std::io::Write;
use std::path::Path;

use byteorder::{BigEndian, WriteBytesExt};
use flate2::{Compression, GzBuilder};
use rayon::prelude::*;

use super::layout::PARTS;
use super::size::{PIXELS, SIDE};
use super::{place, strokes};
use crate::error::{Error, Result};
use crate::files::Build;
use crate::progress::Progress;
use crate::rng::{Streams, shuffle, stream};

/// The digest of the set's pixels and labels, as computed by [`Glyphs::digest`].
pub const DIGEST: &str = "f237ae49a2f9854316bb838ed2ea41e56bb898dd24a1c624a2d118fc05ae7d72";
const SEED: u64 = 28;
const TRAIN: usize = 60_000;
const TEST: usize = 10_000;
/// The number of glyphs between two reports of progress.
const BLOCK: usize = 1_000;
/// The number of bytes that are compressed into one gzip member.
const MEMBER: usize = 10_000 * PIXELS;

/// The name of the build of the set. The build's folder, `.draw.new`, is hidden among the files of the set.
pub const BUILD: &str = "draw";

/// Draws the set, and writes those of its four files that are missing into `folder`, which must exist.
pub fn complete(folder: &Path, progress: &Progress) -> Result<()> {
    let mut labels = Vec::with_capacity(TRAIN + TEST);
    for (split, count) in [(0, TRAIN), (1, TEST)] {
        labels.extend(shuffled_labels(split, count));
    }
    let pixels = draw(&labels, progress)?;

    let (train_pixels, test_pixels) = pixels.split_at(TRAIN * PIXELS);
    let (train_labels, test_labels) = labels.split_at(TRAIN);
    let side = SIDE as u32;
    let contents = [
        idx(&[TRAIN as u32, side, side], train_pixels),
        idx(&[TRAIN as u32], train_labels),
        idx(&[TEST as u32, side, side], test_pixels),
        idx(&[TEST as u32], test_labels),
    ];
    let build = Build::beside(&folder.join(BUILD))?;
    for (part, content) in PARTS.iter().zip(contents).filter(|(part, _)| part.find(folder).is_none()) {
        let file = build.path().join(part.packed_name());
        fs::write(&file, content).map_err(Error::io(&file, "write it"))?;
        place::put(&file, folder)?;
    }
    Ok(())
}

/// The labels of a split, in random order. `count` is a multiple of ten, and each digit occurs equally often.
fn shuffled_labels(split: u64, count: usize) -> Vec<u8> {
    let mut labels: Vec<u8> = (0..count).map(|i| (i % 10) as u8).collect();
    shuffle(&mut stream(SEED, "raw/synthetic/labels", 0, split), &mut labels);
    labels
}

fn draw(labels: &[u8], progress: &Progress) -> Result<Vec<u8>> {
    progress.begin("drawing synthetic glyphs", labels.len() as u64, "glyphs")?;
    let streams = Streams::new(SEED, "raw/synthetic/glyph", 0);
    let mut pixels = vec![0; labels.len() * PIXELS];
    (pixels.par_chunks_mut(BLOCK * PIXELS).zip(labels.par_chunks(BLOCK)).enumerate()).try_for_each(
        |(block, (pixels, labels))| {
            for (i, (glyph, &label)) in pixels.chunks_exact_mut(PIXELS).zip(labels).enumerate() {
                strokes::draw(label, &mut streams.at((block * BLOCK + i) as u64), glyph);
            }
            progress.advance(labels.len() as u64)
        },
    )?;
    progress.end();
    Ok(pixels)
}

/// A gzipped IDX file of unsigned bytes. A long body is compressed in parallel, as several gzip members; every gzip
/// reader joins them.
#[expect(clippy::expect_used, reason = "a vector takes every write")]
fn idx(dimensions: &[u32], body: &[u8]) -> Vec<u8> {
    let mut head = vec![0, 0, 0x08, dimensions.len() as u8];
    for &dimension in dimensions {
        head.write_u32::<BigEndian>(dimension).expect("a vector takes every write");
    }
    let members: Vec<Vec<u8>> = body
        .par_chunks(MEMBER)
        .enumerate()
        .map(|(i, part)| {
            // the time in the gzip header stays 0, so that equal content gives equal bytes
            let mut packer = GzBuilder::new().write(Vec::new(), Compression::fast());
            let head: &[u8] = if i == 0 { &head } else { &[] };
            packer.write_all(head).and_then(|()| packer.write_all(part)).expect("a vector takes every write");
            packer.finish().expect("a vector takes every write")
        })
        .collect();
    members.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::raw::glyphs::{Files, Glyphs};

    #[test]
    fn the_set_is_the_pinned_one_and_its_files_give_it_back() {
        let home = tempfile::tempdir().unwrap();
        complete(home.path(), &Progress::silent()).unwrap();
        assert_eq!(Glyphs::read(&Files::find(home.path()).unwrap()).unwrap().digest().to_string(), DIGEST);
        let again = tempfile::tempdir().unwrap();
        complete(again.path(), &Progress::silent()).unwrap();
        for part in PARTS {
            let digest = |folder: &Path| Digest::of_file(&folder.join(part.packed_name())).unwrap();
            assert_eq!(digest(home.path()), digest(again.path()), "{}", part.name);
        }
    }

    #[test]
    fn labels_are_balanced_and_shuffled() {
        let labels = shuffled_labels(0, TRAIN);
        let count = |part: &[u8], digit| part.iter().filter(|&&label| label == digit).count();
        assert!((0..10).all(|digit| count(&labels, digit) == TRAIN / 10));
        // 6,000 draws of a tenth: 5 standard deviations are 116
        assert!((0..10).all(|digit| count(&labels[..6_000], digit).abs_diff(600) < 116));
        assert_ne!(labels[..TEST], shuffled_labels(1, TEST));
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let labels = shuffled_labels(1, 3_000);
        let draw_on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| draw(&labels, &Progress::silent()).unwrap())
        };
        assert!(draw_on(1) == draw_on(3));
    }

    #[test]
    fn drawing_can_be_interrupted() {
        let stop = |_: crate::progress::Event| false;
        let home = tempfile::tempdir().unwrap();
        let error = complete(home.path(), &Progress::new(&stop)).err().unwrap();
        assert!(matches!(error, crate::error::Error::Interrupted));
        assert!(crate::files::entries(home.path()).unwrap().is_empty());
    }
}
