//! Applies drawn parameters to 8-bit grey images. The result equals that of torchvision on Pillow
//! images, pixel for pixel.
//!
//! This module turns parameters into maps, and `warp` resamples images by the maps. For right angles, Pillow's rotation
//! has shortcuts, which are reproduced here. No parameters are drawn here.

use super::draw::{AffineParams, EraseParams, Params};
use super::gather::PADDING;
use super::warp::{Matrix, Warp};
use super::{Compose, Interpolation};
use crate::plan::slot;

/// Work buffers, which are reused so that transforming an image allocates no memory.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    first: Vec<u8>,
    second: Vec<u8>,
    columns: Vec<usize>,
    slot: [Vec<u8>; 2],
}

/// How an image is resampled by a map, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resampling {
    /// How the grey at a position between pixels is computed.
    pub interpolation: Interpolation,
    /// Whether rotation and affine map are resampled one after the other or as one map.
    pub compose: Compose,
}

/// The transform of one image, as plain numbers from which the CPU and a GPU compute the same pixels.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Transform {
    /// The warps, in order.
    pub warps: [Option<Warp>; 2],
    /// The rectangle that is erased after the warps.
    pub erase: Option<EraseParams>,
}

impl Transform {
    /// The transform by drawn parameters of an image of `height * width` pixels: rotation, affine map and
    /// erasing, in this order.
    pub fn new(params: &Params, resampling: Resampling, (height, width): (usize, usize)) -> Transform {
        let Params { angle, affine, erase } = *params;
        let rotation = angle.map(|angle| rotation(angle, height, width));
        let affine = affine.map(|affine| inverse(&affine, height, width));
        let warp = |matrix: Matrix| match resampling.interpolation {
            Interpolation::Nearest => Warp::nearest(height, width, matrix),
            Interpolation::Bilinear => Warp::Bilinear(matrix),
        };
        let warps = match (rotation, affine, resampling.compose) {
            (Some(rotation), Some(affine), Compose::Fused) => {
                [Some(warp(product(&rotation.matrix(height, width), &affine))), None]
            }
            (rotation, affine, _) => {
                let turned = rotation.map(|rotation| match rotation {
                    PillowRotation::Turn(turn) => turn,
                    PillowRotation::Map(matrix) => warp(matrix),
                });
                [turned, affine.map(warp)]
            }
        };
        Transform { warps, erase }
    }

    /// Transforms `pixels`, an image of `height * width` pixels, into `out`.
    ///
    /// # Panics
    /// If the lengths of `pixels` and `out` are not `height * width`.
    pub fn apply(
        &self,
        pixels: &[u8],
        (height, width): (usize, usize),
        out: &mut [u8],
        Scratch { first, second, columns, .. }: &mut Scratch,
    ) {
        assert!(pixels.len() == height * width && out.len() == height * width, "the size of an image");
        let Transform { warps, erase: erased } = self;
        match warps {
            [None, None] => out.copy_from_slice(pixels),
            [Some(warp), None] | [None, Some(warp)] => {
                load(first, pixels);
                warp.resample(first, height, width, out, columns);
            }
            [Some(one), Some(two)] => {
                load(first, pixels);
                // cleared first, so that no pixels of an earlier, longer image remain
                second.clear();
                second.resize(pixels.len() + PADDING, 0);
                one.resample(first, height, width, &mut second[..pixels.len()], columns);
                two.resample(second, height, width, out, columns);
            }
        }
        if let Some(rectangle) = erased {
            erase(out, height, width, rectangle);
        }
    }
}

/// Transforms `pixels`, an image of `height * width` pixels, into `out`: the whole image if there is one transform, and
/// otherwise each slot as an image of its own. Columns of no slot are copied.
///
/// # Panics
/// If the lengths of `pixels` and `out` are not `height * width`, or if there are more transforms than columns.
pub fn apply_all(
    transforms: &[Transform],
    pixels: &[u8],
    (height, width): (usize, usize),
    out: &mut [u8],
    scratch: &mut Scratch,
) {
    if let [transform] = transforms {
        return transform.apply(pixels, (height, width), out, scratch);
    }
    out.copy_from_slice(pixels);
    let mut buffers = std::mem::take(&mut scratch.slot);
    let [source, result] = &mut buffers;
    for (place, transform) in transforms.iter().enumerate() {
        let columns = slot(place, transforms.len(), width);
        source.clear();
        pixels.chunks_exact(width).for_each(|line| source.extend_from_slice(&line[columns.clone()]));
        result.resize(source.len(), 0);
        transform.apply(source, (height, columns.len()), result, scratch);
        for (line, new) in out.chunks_exact_mut(width).zip(result.chunks_exact(columns.len())) {
            line[columns.clone()].copy_from_slice(new);
        }
    }
    scratch.slot = buffers;
}

/// Copies an image and appends the padding.
fn load(buffer: &mut Vec<u8>, pixels: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(pixels);
    buffer.extend_from_slice(&[0; PADDING]);
}

/// A rotation as Pillow computes it.
enum PillowRotation {
    /// A multiple of a right angle, for which Pillow has shortcuts.
    Turn(Warp),
    /// Any other angle.
    Map(Matrix),
}

impl PillowRotation {
    /// The rotation as a map, also for the angles with a shortcut.
    fn matrix(&self, height: usize, width: usize) -> Matrix {
        let (w, h) = (width as f64, height as f64);
        match *self {
            PillowRotation::Turn(Warp::HalfTurn) => [-1.0, 0.0, w, 0.0, -1.0, h],
            PillowRotation::Turn(Warp::Left) => [0.0, -1.0, w, 1.0, 0.0, 0.0],
            PillowRotation::Turn(Warp::Right) => [0.0, 1.0, 0.0, -1.0, 0.0, h],
            PillowRotation::Turn(_) => [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            PillowRotation::Map(matrix) => matrix,
        }
    }
}

/// The rotation of `PIL.Image.rotate` about the centre. `angle` is in degrees, counter-clockwise.
fn rotation(angle: f64, height: usize, width: usize) -> PillowRotation {
    let angle = angle.rem_euclid(360.0);
    match angle {
        0.0 => return PillowRotation::Turn(Warp::Still),
        180.0 => return PillowRotation::Turn(Warp::HalfTurn),
        90.0 if height == width => return PillowRotation::Turn(Warp::Left),
        270.0 if height == width => return PillowRotation::Turn(Warp::Right),
        _ => {}
    }
    let radians = -angle.to_radians();
    let (sin, cos) = (round15(radians.sin()), round15(radians.cos()));
    let (cx, cy) = (width as f64 / 2.0, height as f64 / 2.0);
    PillowRotation::Map([cos, sin, cos * -cx + sin * -cy + cx, -sin, cos, -sin * -cx + cos * -cy + cy])
}

/// Python's `round(v, 15)` for sines and cosines, whose magnitude is at most 1: the nearest multiple of 1e-15, ties to
/// even, as the nearest double.
fn round15(value: f64) -> f64 {
    const UNIT: u128 = 1_000_000_000_000_000;
    let bits = value.abs().to_bits();
    let exponent = (bits >> 52) as u32;
    // |value| = mantissa / 2^shift; values below 2^-60, and therefore all subnormal numbers, round to zero
    let (mantissa, shift) = ((bits & ((1 << 52) - 1)) | 1 << 52, 1075_u32.saturating_sub(exponent));
    if shift > 112 {
        return 0.0_f64.copysign(value);
    }
    let scaled = u128::from(mantissa) * UNIT;
    let (whole, rest, half) = (scaled >> shift, scaled & ((1 << shift) - 1), 1_u128 << (shift - 1));
    let up = rest > half || (rest == half && whole % 2 == 1);
    // both numbers are whole and below 2^53, so that the quotient is the double nearest to the decimal number
    ((whole + u128::from(up)) as f64 / UNIT as f64).copysign(value)
}

/// torchvision's `_get_inverse_affine_matrix` for angle 0 and the centre of the image.
fn inverse(affine: &AffineParams, height: usize, width: usize) -> Matrix {
    let [sx, sy] = affine.shear.map(f64::to_radians);
    let [tx, ty] = affine.translate.map(f64::from);
    let (cx, cy) = (width as f64 * 0.5, height as f64 * 0.5);
    let (cos, sin, tan) = (sy.cos(), (-sy).sin(), sx.tan());
    // the matrix of the shears alone, [[a, b], [c, d]], has determinant 1
    let (a, b, c, d) = (1.0, -cos * tan / cos, sin / cos, -sin * tan / cos + 1.0);
    let mut m = [d, -b, 0.0, -c, a, 0.0].map(|value| value / affine.scale);
    m[2] += m[0] * (-cx - tx) + m[1] * (-cy - ty);
    m[5] += m[3] * (-cx - tx) + m[4] * (-cy - ty);
    m[2] += cx;
    m[5] += cy;
    m
}

/// The map that applies `then` to a position of the output, and `first` to the result.
fn product(first: &Matrix, then: &Matrix) -> Matrix {
    let row =
        |a: f64, b: f64, c: f64| [a * then[0] + b * then[3], a * then[1] + b * then[4], a * then[2] + b * then[5] + c];
    let ([a, b, c], [d, e, f]) = (row(first[0], first[1], first[2]), row(first[3], first[4], first[5]));
    [a, b, c, d, e, f]
}

/// Fills the part of a rectangle that lies inside the image with one grey.
fn erase(out: &mut [u8], height: usize, width: usize, rectangle: &EraseParams) {
    let (right, bottom) = (rectangle.left + rectangle.width, rectangle.top + rectangle.height);
    for y in rectangle.top..bottom.min(height) {
        out[y * width + rectangle.left.min(width)..y * width + right.min(width)].fill(rectangle.value);
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::rng::stream;

    /// As in Python, `format!` rounds the exact decimal expansion, ties to even, and `parse` takes the nearest double.
    fn round15_by_text(value: f64) -> f64 {
        format!("{value:.15}").parse().unwrap()
    }

    #[test]
    fn rounding_to_fifteen_decimals_is_that_of_the_decimal_text() {
        let mut rng = stream(1, "round15", 0, 0);
        let check = |value: f64| {
            for value in [value, -value] {
                assert_eq!(round15(value).to_bits(), round15_by_text(value).to_bits(), "{value:e}");
            }
        };
        for _ in 0..1_000_000 {
            let value: f64 = rng.random();
            check(value);
            check((value * std::f64::consts::TAU).sin());
            check(value * 10_f64.powi(-rng.random_range(0..25)));
        }
        // odd multiples of 2^-16 are ties: times 10^15, they are odd multiples of 5^15, halved
        for odd in (1..65536).step_by(2) {
            check(f64::from(odd) / 65536.0);
        }
        for value in [0.0, 1.0, 0.5, 1.0 - f64::EPSILON, f64::MIN_POSITIVE, 5e-324, 5e-16, 4.9e-16, 5.1e-16, 1.5e-15] {
            check(value);
        }
    }

    #[test]
    fn a_rectangle_across_the_edge_is_cut_off_there() {
        let erased = |top, left, height, width| {
            let mut out = [0; 12];
            erase(&mut out, 3, 4, &EraseParams { top, left, height, width, value: 9 });
            out
        };
        assert_eq!(erased(1, 2, 5, 5), [0, 0, 0, 0, 0, 0, 9, 9, 0, 0, 9, 9]);
        assert_eq!(erased(4, 5, 1, 1), [0; 12]);
    }
}
