//! Exchange of digits between training images: an image keeps the slot of its first digit, and each of its other slots
//! is taken from a training image that is drawn for it.
//!
//! No ink of the data set crosses the border of a slot, so that an exchange cuts no digit.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::sample_id;
use crate::labels;
use crate::plan::slot;
use crate::rng::Streams;
use crate::shards::{Donors, Samples, Split};

/// Which images may give a slot to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pairs {
    /// Images with the same digit in that slot, so that every image keeps its class.
    Strict,
    /// All images.
    Free,
}

/// The exchange of one epoch: the source of every slot of every training image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    digits: usize,
    donors: Vec<u32>,
    targets: Vec<u8>,
}

impl Exchange {
    /// Draws the exchange of epoch `epoch`, counted from 0, between the images of a training split. A draw is keyed by the
    /// seed, the epoch, and the class and index of the image that takes; the order of the images has no influence.
    pub fn draw(pairs: Pairs, seed: u64, epoch: usize, train: &Split) -> Exchange {
        let streams = Streams::new(seed, "augment/exchange", epoch as u64);
        let mut sorted: Vec<u32> = (0..train.len() as u32).collect();
        sorted.sort_unstable_by_key(|&row| train.sample(row as usize));
        let candidates = |place: usize| {
            let mut with: [Vec<u32>; 10] = Default::default();
            sorted.iter().for_each(|&row| with[digit_of(train, row, place)].push(row));
            with
        };
        let by_place: Vec<[Vec<u32>; 10]> = match pairs {
            Pairs::Strict => (1..train.digits).map(candidates).collect(),
            Pairs::Free => Vec::new(),
        };
        let mut donors = Vec::with_capacity(train.len() * train.digits);
        for row in 0..train.len() as u32 {
            let (label, index) = train.sample(row as usize);
            let mut rng = streams.at(sample_id(label, index));
            donors.push(row);
            for place in 1..train.digits {
                // not empty, because the image itself is among them
                let from = match pairs {
                    Pairs::Strict => &by_place[place - 1][digit_of(train, row, place)],
                    Pairs::Free => &sorted,
                };
                donors.push(from[rng.random_range(0..from.len())]);
            }
        }
        let target = |(at, &donor): (usize, &u32)| digit_of(train, donor, at % train.digits) as u8;
        let targets = donors.iter().enumerate().map(target).collect();
        Exchange { digits: train.digits, donors, targets }
    }

    /// The rows of all images' slots: `digits` rows of the training split per image.
    pub fn donors(&self) -> &[u32] {
        &self.donors
    }

    /// The digits of all images: `digits` per image.
    pub fn targets(&self) -> &[u8] {
        &self.targets
    }

    /// The digits of the image of a row.
    pub fn target(&self, row: usize) -> &[u8] {
        &self.targets[row * self.digits..(row + 1) * self.digits]
    }

    /// Composes the image of a row into `out`, `height * width` pixels.
    pub fn fill(&self, train: &Split, row: usize, out: &mut [u8]) {
        out.copy_from_slice(train.image(row));
        for (place, &donor) in self.of(row).iter().enumerate().skip(1) {
            let columns = slot(place, self.digits, train.width);
            let lines = out.chunks_exact_mut(train.width).zip(train.image(donor as usize).chunks_exact(train.width));
            lines.for_each(|(line, from)| line[columns.clone()].copy_from_slice(&from[columns.clone()]));
        }
    }

    /// Exchanges the samples of the rows from `first` on. `sources` and `boxes` are the glyphs and the boxes of the whole
    /// training split.
    pub fn apply(&self, train: &Split, sources: &[i64], boxes: &[[i64; 4]], first: usize, samples: &mut Samples) {
        let rows = first..first + samples.labels.len();
        for (row, image) in rows.clone().zip(samples.images.chunks_exact_mut(train.height * train.width)) {
            self.fill(train, row, image);
        }
        let cells = rows.start * self.digits..rows.end * self.digits;
        let digits = &self.targets[cells.clone()];
        let donors = &self.donors[cells];
        samples.labels =
            digits.chunks_exact(self.digits).map(|digits| labels::wrapping_label(digits.iter().copied())).collect();
        samples.digits = digits.iter().map(|&digit| i64::from(digit)).collect();
        let cell = |(at, &donor): (usize, &u32)| donor as usize * self.digits + at % self.digits;
        samples.sources = donors.iter().enumerate().map(|slot| sources[cell(slot)]).collect();
        samples.boxes = donors.iter().enumerate().flat_map(|slot| boxes[cell(slot)]).collect();
        let of: Vec<(i64, i64)> = donors.iter().map(|&donor| train.sample(donor as usize)).collect();
        let (labels, index) = of.into_iter().unzip();
        samples.donors = Some(Donors { labels, index });
    }

    /// The rows that the slots of a row's image are taken from, in the order of the slots.
    pub fn of(&self, row: usize) -> &[u32] {
        &self.donors[row * self.digits..(row + 1) * self.digits]
    }
}

/// The digit at a place in an image of the training split.
fn digit_of(train: &Split, row: u32, place: usize) -> usize {
    usize::from(train.target(row as usize)[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images of 4 x 7 pixels with two digits, each filled with a grey of its own. No image shows 5 on the right.
    fn split(order: impl Iterator<Item = u8>) -> Split {
        let mut split = Split { height: 4, width: 7, digits: 2, ..Split::default() };
        for n in order {
            let digits = [n % 10, n / 10 % 5];
            split.images.extend([n; 28]);
            split.targets.extend(digits);
            split.labels.push(labels::wrapping_label(digits));
            split.index.push(i64::from(n / 50));
        }
        split
    }

    #[test]
    fn a_strict_exchange_keeps_every_class_and_a_free_one_makes_new_pairs() {
        let train = split(0..250);
        let strict = Exchange::draw(Pairs::Strict, 3, 1, &train);
        assert_eq!(strict.targets(), train.targets);
        let mut only = split(0..250);
        // digits that stand with one digit each: all other pairs are new
        only.targets.chunks_exact_mut(2).for_each(|pair| pair[1] = pair[0] % 5);
        let free = Exchange::draw(Pairs::Free, 3, 1, &only);
        let pairs: std::collections::BTreeSet<&[u8]> = free.targets().chunks_exact(2).collect();
        assert!(pairs.len() > 40, "{} of 50 pairs", pairs.len());
        assert!(pairs.iter().filter(|pair| !only.targets.chunks_exact(2).any(|known| known == **pair)).count() > 30);
        for (row, pair) in free.targets().chunks_exact(2).enumerate() {
            assert_eq!(pair[0], only.target(row)[0], "the first digit stays");
        }
    }

    #[test]
    fn the_slots_of_an_image_hold_the_pixels_of_their_donors() {
        let train = split(0..250);
        for pairs in [Pairs::Strict, Pairs::Free] {
            let exchange = Exchange::draw(pairs, 3, 0, &train);
            let mut other = 0;
            for row in 0..train.len() {
                let mut image = vec![0; 28];
                exchange.fill(&train, row, &mut image);
                let [first, second] = exchange.of(row) else { panic!("two slots") };
                assert_eq!(*first as usize, row);
                let grey = |row: u32| train.image(row as usize)[0];
                // three columns, three columns, and the one that is left
                let line = [[grey(*first); 3], [grey(*second); 3]].concat();
                for pixels in image.chunks_exact(7) {
                    assert_eq!((&pixels[..6], pixels[6]), (&line[..], grey(*first)), "{row}");
                }
                assert_eq!(exchange.target(row), [train.target(row)[0], train.target(*second as usize)[1]]);
                other += usize::from(*second as usize != row);
            }
            assert!(other > 150, "{other}");
        }
    }

    #[test]
    fn draws_are_those_of_a_sample_whatever_the_order_of_the_images() {
        let (train, reversed) = (split(0..250), split((0..250).rev()));
        for pairs in [Pairs::Strict, Pairs::Free] {
            let [one, two] = [&train, &reversed].map(|split| Exchange::draw(pairs, 3, 1, split));
            for row in 0..250 {
                let samples = |exchange: &Exchange, split: &Split, row: usize| {
                    exchange.of(row).iter().map(|&donor| split.sample(donor as usize)).collect::<Vec<_>>()
                };
                assert_eq!(samples(&one, &train, row), samples(&two, &reversed, 249 - row));
            }
            assert_ne!(one, Exchange::draw(pairs, 3, 2, &train), "another epoch");
            assert_ne!(one, Exchange::draw(pairs, 4, 1, &train), "another seed");
        }
    }
}
