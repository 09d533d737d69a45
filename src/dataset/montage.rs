//! The picture of a data set: one sample for each of up to a hundred classes, with a frame in the colour of its split
//! and a box around each digit.

use image::buffer::ConvertBuffer;
use image::{ImageBuffer, Luma, Rgb, RgbImage, imageops};
use imageproc::drawing::{draw_filled_rect_mut, draw_hollow_rect_mut};
use imageproc::rect::Rect;

use crate::plan::rows::Rows;
use crate::shards::Samples;

/// The maximum number of samples in the picture, and the maximum number of their pixels in all.
const MOST: u64 = 100;
const MOST_PIXELS: u64 = 1 << 24;
const COLUMNS: usize = 10;
const FRAME: usize = 3;
const GAP: usize = 3;
const BACKGROUND: Rgb<u8> = Rgb([255, 255, 255]);
const BOX: Rgb<u8> = Rgb([200, 60, 60]);
/// The colours of the frames of train, val and test. The card names these colours.
const SPLITS: [Rgb<u8>; 3] = [Rgb([150, 150, 150]), Rgb([40, 110, 220]), Rgb([240, 150, 30])];

/// Picks the samples of the picture while a plan is read: the first sample of up to a hundred classes at equal
/// distances. If images are large, it picks fewer.
pub struct Picks {
    /// The distance between two picked classes.
    step: u64,
    /// The picked rows, each with the number of its split.
    picked: Vec<(Rows, usize)>,
    /// The number of rows that were looked at.
    seen: u64,
}

impl Picks {
    /// Creates an empty selection for `classes` classes of images with `pixels` pixels.
    pub fn new(classes: u64, pixels: usize) -> Picks {
        let most = (MOST_PIXELS / pixels.max(1) as u64).clamp(1, MOST);
        Picks { step: classes.div_ceil(most), picked: Vec::new(), seen: 0 }
    }

    /// Picks rows from the next rows of a split.
    pub fn scan(&mut self, rows: &Rows, split: usize) {
        self.seen += rows.len() as u64;
        for row in (0..rows.len()).filter(|&row| rows.index[row] == 0) {
            if u64::from(rows.labels[row]).is_multiple_of(self.step) {
                let mut one = Rows::new(rows.digits);
                one.push_from(rows, row);
                self.picked.push((one, split));
            }
        }
    }

    /// The number of rows that were looked at.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The picked rows in the order of their classes, and the numbers of their splits.
    pub fn into_rows(mut self, digits: usize) -> (Rows, Vec<usize>) {
        self.picked.sort_by_key(|(rows, _)| rows.labels[0]);
        let mut all = Rows::new(digits);
        let splits = self.picked.iter().map(|(_, split)| *split).collect();
        self.picked.into_iter().for_each(|(rows, _)| all.append(rows));
        (all, splits)
    }
}

/// Draws samples of `height * width` pixels in a grid of ten columns. `splits` holds the number of each sample's split.
pub fn draw(samples: &Samples, splits: &[usize], height: usize, width: usize) -> RgbImage {
    let lines = splits.len().div_ceil(COLUMNS);
    let (cell_width, cell_height) = (width + 2 * FRAME + GAP, height + 2 * FRAME + GAP);
    let columns = COLUMNS.min(splits.len());
    let size = (columns * cell_width + GAP, lines * cell_height + GAP);
    let mut picture = RgbImage::from_pixel(size.0 as u32, size.1 as u32, BACKGROUND);
    for (i, (pixels, &split)) in samples.images.chunks_exact(height * width).zip(splits).enumerate() {
        let (left, top) = (GAP + i % COLUMNS * cell_width, GAP + i / COLUMNS * cell_height);
        draw_filled_rect_mut(&mut picture, rect([left, top, width + 2 * FRAME, height + 2 * FRAME]), SPLITS[split]);
        let (left, top) = (left + FRAME, top + FRAME);
        let grey = ImageBuffer::<Luma<u8>, &[u8]>::from_raw(width as u32, height as u32, pixels);
        let coloured: Option<RgbImage> = grey.map(|grey| grey.convert());
        coloured.iter().for_each(|sample| imageops::replace(&mut picture, sample, left as i64, top as i64));
        let digits = samples.digits.len() / splits.len();
        for ink in samples.boxes.chunks_exact(4).skip(i * digits).take(digits) {
            let [x, y, w, h] = [ink[0], ink[1], ink[2], ink[3]].map(|value| value as usize);
            // one pixel outside the ink, if there is room, so that the outline hides no ink
            let (x0, y0) = (x.saturating_sub(1), y.saturating_sub(1));
            let (x1, y1) = ((x + w + 1).min(width), (y + h + 1).min(height));
            draw_hollow_rect_mut(&mut picture, rect([left + x0, top + y0, x1 - x0, y1 - y0]), BOX);
        }
    }
    picture
}

/// A rectangle of at least one pixel.
fn rect([x, y, width, height]: [usize; 4]) -> Rect {
    Rect::at(x as i32, y as i32).of_size((width as u32).max(1), (height as u32).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_are_the_first_samples_of_evenly_spaced_classes() {
        let mut picks = Picks::new(1000, 64 * 64);
        let rows = Rows {
            digits: 1,
            labels: vec![20, 7, 10, 10],
            index: vec![0, 0, 1, 0],
            sources: vec![0, 1, 2, 3],
            y: vec![0; 4],
            x: vec![0; 4],
        };
        picks.scan(&rows, 2);
        let (picked, splits) = picks.into_rows(1);
        assert_eq!((picked.labels, picked.sources, splits), (vec![10, 20], vec![3, 0], vec![2, 2]));
    }

    #[test]
    fn a_sample_is_framed_in_the_colour_of_its_split() {
        let samples = Samples { digits: vec![1], boxes: vec![2, 2, 1, 1], images: vec![9; 36], ..Samples::default() };
        let picture = draw(&samples, &[1], 6, 6);
        assert_eq!(picture.dimensions(), (18, 18));
        assert_eq!(*picture.get_pixel(0, 0), BACKGROUND);
        assert_eq!(*picture.get_pixel(3, 3), SPLITS[1]);
        assert_eq!(*picture.get_pixel(6, 6), Rgb([9; 3]));
        assert_eq!(*picture.get_pixel(7, 7), BOX);
        assert_eq!(*picture.get_pixel(8, 8), Rgb([9; 3]));
    }
}
