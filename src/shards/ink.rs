//! The box around ink, as the column `boxes` holds it.

/// The smallest box around all pixels above 0 of an image with lines of `width` pixels: x, y, width, height in pixels. All
/// four are 0 if there are none.
// inline, so that the loops are compiled for glyphs, whose width is constant
#[inline]
pub fn ink_box(pixels: &[u8], width: usize) -> [i64; 4] {
    let mut lines = pixels.chunks_exact(width.max(1));
    // a whole line at a time, which has no branch for each pixel
    let has_ink = |line: &[u8]| line.iter().fold(0, |ink, pixel| ink | pixel) > 0;
    let (Some(top), bottom) = (lines.clone().position(has_ink), lines.rposition(has_ink)) else { return [0; 4] };
    let height = bottom.unwrap_or(top) + 1 - top;
    let mut columns = vec![0_u8; width];
    for line in pixels.chunks_exact(width.max(1)).skip(top).take(height) {
        columns.iter_mut().zip(line).for_each(|(column, pixel)| *column |= pixel);
    }
    let left = columns.iter().position(|&ink| ink > 0).unwrap_or(0);
    let right = columns.iter().rposition(|&ink| ink > 0).unwrap_or(left);
    [left, top, right + 1 - left, height].map(|value| value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_tight_around_the_ink() {
        let (width, height) = (28, 20);
        let mut image = vec![0; width * height];
        assert_eq!(ink_box(&image, width), [0, 0, 0, 0]);
        image[3 * width + 5] = 1;
        assert_eq!(ink_box(&image, width), [5, 3, 1, 1]);
        image[10 * width + 27] = 255;
        assert_eq!(ink_box(&image, width), [5, 3, 23, 8]);
    }
}
