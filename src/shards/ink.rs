//! The box around ink, as the column `boxes` holds it.

/// The smallest box around all pixels above 0 of an image with lines of `width` pixels: x, y, width, height in pixels. All
/// four are 0 if there are none.
pub fn ink_box(pixels: &[u8], width: usize) -> [i64; 4] {
    let mut columns = vec![0_u8; width];
    let mut rows = vec![0_u8; pixels.len() / width.max(1)];
    for (line, ink) in pixels.chunks_exact(width.max(1)).zip(&mut rows) {
        for (pixel, column) in line.iter().zip(&mut columns) {
            *column |= pixel;
            *ink |= pixel;
        }
    }
    let extent = |inked: &[u8]| {
        let first = inked.iter().position(|&ink| ink > 0)?;
        let last = inked.iter().rposition(|&ink| ink > 0)?;
        Some((first as i64, (last + 1 - first) as i64))
    };
    match (extent(&columns), extent(&rows)) {
        (Some((x, width)), Some((y, height))) => [x, y, width, height],
        _ => [0; 4],
    }
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
