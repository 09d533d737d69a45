//! Affine resampling of 8-bit grey images. The pixels are exactly those of Pillow; positions outside
//! the image give black.
//!
//! Pillow has three arithmetics for nearest resampling: positions accumulated in floating point if the map only scales
//! and shifts, 16.16 fixed point for other maps, and floating point again if coordinates exceed fixed point. Bilinear
//! resampling is one formula in floating point. imageproc's `warp` is not used, because it computes in 32-bit floats
//! and gives other pixels.

use image::{ImageBuffer, Luma, imageops};

use super::gather::{Fixed, PADDING, gather};

/// A map from output to source positions, in the form of Pillow's `AFFINE`: `x' = a x + b y + c`, `y' = d x + e y + f`.
/// The middle of the first pixel is at (0.5, 0.5).
pub type Matrix = [f64; 6];

/// The bound of coordinates in 16.16 fixed point.
const FIXED_LIMIT: f64 = 32768.0;

/// One resampling of an image, and its arithmetic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warp {
    /// Copies the image.
    Still,
    /// Rotates the image by 180 degrees.
    HalfTurn,
    /// Rotates a square image by 90 degrees counter-clockwise.
    Left,
    /// Rotates a square image by 90 degrees clockwise.
    Right,
    /// Takes the nearest pixel, with positions in 16.16 fixed point.
    Fixed(Fixed),
    /// Takes the nearest pixel. Positions are accumulated in floating point along each line, and from line to line for
    /// the first pixel of a line.
    Floating(Matrix),
    /// Takes the nearest pixel. Positions are accumulated in floating point along each axis separately.
    Scale(Matrix),
    /// Interpolates between the four nearest pixels.
    Bilinear(Matrix),
}

impl Warp {
    /// The warp to the nearest pixel by the map `m`, in the arithmetic that Pillow uses for it.
    pub fn nearest(height: usize, width: usize, m: Matrix) -> Warp {
        if m[1] == 0.0 && m[3] == 0.0 {
            return Warp::Scale(m);
        }
        let (w, h) = (width as f64, height as f64);
        let fits = |x: f64, y: f64| {
            (x * m[0] + y * m[1] + m[2]).abs() < FIXED_LIMIT && (x * m[3] + y * m[4] + m[5]).abs() < FIXED_LIMIT
        };
        if !(fits(0.0, 0.0) && fits(w, h) && fits(0.0, h) && fits(w, 0.0)) {
            return Warp::Floating(m);
        }
        // rounded to nearest; positions are those of the middles of pixels
        let fix = |value: f64| (value * 65536.0 + 0.5).floor() as i32;
        let origin = [fix(m[2] + m[0] * 0.5 + m[1] * 0.5), fix(m[5] + m[3] * 0.5 + m[4] * 0.5)];
        Warp::Fixed(Fixed { origin, right: [fix(m[0]), fix(m[3])], down: [fix(m[1]), fix(m[4])] })
    }

    /// Resamples `source`, which has `height * width` pixels and [`PADDING`] zeros, into `out`, which has
    /// `height * width` pixels. `columns` is a work buffer.
    pub fn resample(&self, source: &[u8], height: usize, width: usize, out: &mut [u8], columns: &mut Vec<usize>) {
        let pixels = &source[..out.len()];
        match self {
            Warp::Still => out.copy_from_slice(pixels),
            Warp::HalfTurn | Warp::Left | Warp::Right => self.turn(pixels, height, width, out),
            Warp::Fixed(map) => gather(source, height, width, map, out),
            Warp::Floating(m) => floating(source, height, width, m, out),
            Warp::Scale(m) => scale(source, height, width, m, out, columns),
            Warp::Bilinear(m) => bilinear(source, height, width, m, out),
        }
    }

    /// Rotates an image by 180 degrees, or a square one by 90 degrees.
    #[expect(clippy::expect_used, reason = "`Transform::apply` has compared the lengths with the sides")]
    fn turn(&self, pixels: &[u8], height: usize, width: usize, out: &mut [u8]) {
        let (width, height) = (width as u32, height as u32);
        let source = ImageBuffer::<Luma<u8>, _>::from_raw(width, height, pixels).expect("a pixel for each place");
        let mut turned = ImageBuffer::from_raw(width, height, out).expect("a pixel for each place");
        // the library counts angles clockwise
        let turn = match self {
            Warp::Left => imageops::rotate270_in(&source, &mut turned),
            Warp::Right => imageops::rotate90_in(&source, &mut turned),
            _ => imageops::rotate180_in(&source, &mut turned),
        };
        turn.expect("a quarter turn is made of a square image");
    }
}

/// Resamples by a map whose coordinates do not fit fixed point.
fn floating(source: &[u8], height: usize, width: usize, m: &Matrix, out: &mut [u8]) {
    let mut row = [m[2] + m[1] * 0.5 + m[0] * 0.5, m[5] + m[4] * 0.5 + m[3] * 0.5];
    for line in out.chunks_exact_mut(width) {
        let [mut x, mut y] = row;
        for pixel in line {
            *pixel = match (whole(x, width), whole(y, height)) {
                (Some(x), Some(y)) => source[y * width + x],
                _ => 0,
            };
            x += m[0];
            y += m[3];
        }
        row[0] += m[1];
        row[1] += m[4];
    }
}

/// The pixel that contains a position; `None` if it is outside the image.
fn whole(position: f64, size: usize) -> Option<usize> {
    (position >= 0.0 && position < size as f64).then_some(position as usize)
}

/// Resamples by a map that only scales and shifts.
fn scale(source: &[u8], height: usize, width: usize, m: &Matrix, out: &mut [u8], columns: &mut Vec<usize>) {
    let mut x = m[2] + m[0] * 0.5;
    columns.clear();
    columns.extend((0..width).map(|_| {
        let from = whole(x, width).unwrap_or(usize::MAX);
        x += m[0];
        from
    }));
    let mut y = m[5] + m[4] * 0.5;
    for line in out.chunks_exact_mut(width) {
        match whole(y, height) {
            None => line.fill(0),
            Some(from) => {
                let from = &source[from * width..(from + 1) * width];
                line.iter_mut().zip(&*columns).for_each(|(to, &x)| *to = from.get(x).copied().unwrap_or(0));
            }
        }
        y += m[4];
    }
}

/// Interpolates between the four nearest pixels, weighted by distance, and rounds down. The pixels at the edge extend
/// beyond their middles by half a pixel; positions further out give black.
fn bilinear(source: &[u8], height: usize, width: usize, m: &Matrix, out: &mut [u8]) {
    let source = &source[..source.len() - PADDING];
    let (w, h) = (width as f64, height as f64);
    for (row, line) in out.chunks_exact_mut(width).enumerate() {
        let at_y = row as f64 + 0.5;
        for (column, pixel) in line.iter_mut().enumerate() {
            let at_x = column as f64 + 0.5;
            let (x, y) = (m[0] * at_x + m[1] * at_y + m[2], m[3] * at_x + m[4] * at_y + m[5]);
            *pixel = 0;
            if x >= 0.0 && x < w && y >= 0.0 && y < h {
                let ([left, right], dx) = neighbours(x, width);
                let ([above, below], dy) = neighbours(y, height);
                let between = |line: usize| {
                    let (a, b) = (source[line * width + left], source[line * width + right]);
                    f64::from(a) + f64::from(i32::from(b) - i32::from(a)) * dx
                };
                let (upper, lower) = (between(above), between(below));
                *pixel = (upper + (lower - upper) * dy) as u8;
            }
        }
    }
}

/// The two pixels whose middles enclose a position, limited to the image, and the distance of the
/// position from the first.
fn neighbours(position: f64, size: usize) -> ([usize; 2], f64) {
    let position = position - 0.5;
    if position < 0.0 {
        return ([0, 0], position + 1.0);
    }
    let first = position as usize;
    ([first, (first + 1).min(size - 1)], position - first as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bilinear_shifts_a_ramp_by_parts_of_a_pixel_exactly() {
        let (height, width) = (12, 40);
        let ramp = |x: f64, y: f64| (4.0 * x + 8.0 * y) as u8;
        let mut source: Vec<u8> = (0..height * width).map(|n| ramp((n % width) as f64, (n / width) as f64)).collect();
        source.extend([0; PADDING]);
        let mut out = vec![0; height * width];
        bilinear(&source, height, width, &[1.0, 0.0, 0.25, 0.0, 1.0, 0.5], &mut out);
        for (y, x) in (0..height - 1).flat_map(|y| (0..width - 1).map(move |x| (y, x))) {
            assert_eq!(out[y * width + x], ramp(x as f64 + 0.25, y as f64 + 0.5), "{x}, {y}");
        }
    }
}
