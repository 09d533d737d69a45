//! Renders plan rows into samples. Rendering is a pure function of rows and glyphs, so any part of a data set can
//! be rendered alone.

use crate::labels;
use crate::plan::rows::Rows;
use crate::plan::slot;
use crate::raw::{Glyphs, SIDE};
use crate::shards::{Samples, ink_box};

/// Renders rows into images of `height * width` pixels. Each glyph is copied to its place, 28x28 pixels,
/// on a black canvas.
pub fn render(rows: &Rows, height: usize, width: usize, glyphs: &Glyphs) -> Samples {
    let digits = rows.digits;
    let mut images = vec![0; rows.len() * height * width];
    let mut boxes = Vec::with_capacity(rows.len() * digits * 4);
    for (row, canvas) in images.chunks_exact_mut(height * width).enumerate() {
        for place in 0..digits {
            let cell = row * digits + place;
            let glyph = glyphs.image(rows.sources[cell] as usize);
            let top = usize::from(rows.y[cell]);
            let left = slot(place, digits, width).start + usize::from(rows.x[cell]);
            // lines of a known length are copied without a call
            let (lines, _) = glyph.as_chunks::<SIDE>();
            for (line, canvas) in lines.iter().zip(canvas[top * width..].chunks_mut(width)) {
                canvas[left..left + SIDE].copy_from_slice(line);
            }
            let [x, y, w, h] = ink_box(glyph, SIDE);
            boxes.extend([left as i64 + x, top as i64 + y, w, h]);
        }
    }
    let widen = |values: &[u32]| values.iter().map(|&value| i64::from(value)).collect();
    Samples {
        labels: widen(&rows.labels),
        index: widen(&rows.index),
        digits: rows.labels.iter().flat_map(|&label| labels::digits(label.into(), digits)).map(i64::from).collect(),
        sources: widen(&rows.sources),
        boxes,
        epochs: Vec::new(),
        donors: None,
        parameters: Vec::new(),
        images,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::RngExt;

    use super::*;
    use crate::rng;

    #[test]
    fn glyphs_land_in_their_cells_of_a_wide_image() {
        // three cells in 88 columns begin at 0, 29 and 58: the width is not divisible by the number of digits
        let pixels: Vec<u8> = (1..=3).flat_map(|grey| [grey; SIDE * SIDE]).collect();
        let glyphs = Glyphs::new(pixels, vec![0, 1, 2]);
        let rows = Rows {
            digits: 3,
            labels: vec![12],
            index: vec![4],
            sources: vec![0, 1, 2],
            y: vec![0, 2, 1],
            x: vec![0, 0, 1],
        };
        let samples = render(&rows, 30, 88, &glyphs);
        assert_eq!(samples.digits, [0, 1, 2]);
        assert_eq!(samples.boxes, [0, 0, 28, 28, 29, 2, 28, 28, 59, 1, 28, 28]);
        let at = |x: usize, y: usize| samples.images[y * 88 + x];
        assert_eq!([at(0, 0), at(27, 27), at(28, 0), at(29, 1), at(29, 2), at(56, 29)], [1, 1, 0, 0, 2, 2]);
        assert_eq!([at(58, 1), at(59, 0), at(59, 1), at(86, 28), at(87, 28), at(86, 29)], [0, 0, 3, 3, 0, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_pixel_is_that_of_the_glyph_over_it_and_black_elsewhere(
            (digits, count) in (1..4_usize, 0..4_usize),
            (height, room) in (SIDE..50, 0..50_usize),
            seed: u64,
        ) {
            let (width, mut rng) = (SIDE * digits + room, rng::stream(seed, "test", 0, 0));
            let pixels = (0..10 * SIDE * SIDE).map(|_| rng.random()).collect();
            let glyphs = Glyphs::new(pixels, (0..10).collect());
            let mut rows = Rows::new(digits);
            for row in 0..count {
                rows.labels.push(rng.random_range(0..10_u32.pow(digits as u32)));
                rows.index.push(row as u32);
                for _ in 0..digits {
                    rows.sources.push(rng.random_range(0..10));
                    rows.y.push(rng.random_range(0..=height - SIDE) as u16);
                    rows.x.push(rng.random_range(0..=width / digits - SIDE) as u16);
                }
            }
            let samples = render(&rows, height, width, &glyphs);
            prop_assert_eq!(samples.images.len(), count * height * width);
            for (at, &grey) in samples.images.iter().enumerate() {
                let (row, y, x) = (at / (height * width), at / width % height, at % width);
                let over = (0..digits).filter_map(|place| {
                    let cell = row * digits + place;
                    let (top, left) = (usize::from(rows.y[cell]), place * width / digits + usize::from(rows.x[cell]));
                    let (line, column) = (y.checked_sub(top)?, x.checked_sub(left)?);
                    let inside = line < SIDE && column < SIDE;
                    inside.then(|| glyphs.image(rows.sources[cell] as usize)[line * SIDE + column])
                });
                let over: Vec<u8> = over.collect();
                prop_assert!(over.len() <= 1);
                prop_assert_eq!(grey, over.first().copied().unwrap_or(0), "image {} at {}, {}", row, y, x);
            }
        }
    }
}
