//! Applying drawn parameters to 8-bit grey images: what torchvision computes on Pillow images, pixel for pixel.
//!
//! Nearest resampling, black outside. Pillow's nearest affine transform has an arithmetic of its own: 16.16 fixed point
//! from the half-pixel centre, another path where the map only scales and shifts, and plain copies for right angles.

use super::draw::{AffineParams, EraseParams, Params};

/// A map from output to input pixels, as Pillow's `AFFINE` has it: `x' = a x + b y + c`, `y' = d x + e y + f`.
type Matrix = [f64; 6];

/// Two buffers to work in, so that no image allocates.
#[derive(Default)]
pub struct Scratch {
    a: Vec<u8>,
}

/// Applies rotation, affine map and erasing, in this order, to an image of `height * width` pixels.
pub fn apply(params: &Params, pixels: &[u8], height: usize, width: usize, out: &mut [u8], scratch: &mut Scratch) {
    out.copy_from_slice(pixels);
    if let Some(angle) = params.angle {
        scratch.a.clear();
        scratch.a.extend_from_slice(out);
        rotate(&scratch.a, height, width, angle, out);
    }
    if let Some(affine) = &params.affine {
        scratch.a.clear();
        scratch.a.extend_from_slice(out);
        transform(&scratch.a, height, width, &inverse(affine, height, width), out);
    }
    if let Some(rectangle) = &params.erase {
        erase(out, height, width, rectangle);
    }
}

/// `PIL.Image.rotate` about the centre, by degrees counter-clockwise.
pub fn rotate(pixels: &[u8], height: usize, width: usize, angle: f64, out: &mut [u8]) {
    let angle = angle.rem_euclid(360.0);
    if angle == 0.0 {
        return out.copy_from_slice(pixels);
    }
    if angle == 180.0 {
        out.iter_mut().zip(pixels.iter().rev()).for_each(|(to, &from)| *to = from);
        return;
    }
    if height == width && (angle == 90.0 || angle == 270.0) {
        for y in 0..height {
            for x in 0..width {
                let from = if angle == 90.0 { x * width + (width - 1 - y) } else { (height - 1 - x) * width + y };
                out[y * width + x] = pixels[from];
            }
        }
        return;
    }
    let radians = -angle.to_radians();
    let (sin, cos) = (round15(radians.sin()), round15(radians.cos()));
    let (cx, cy) = (width as f64 / 2.0, height as f64 / 2.0);
    let matrix = [cos, sin, cos * -cx + sin * -cy + cx, -sin, cos, -sin * -cx + cos * -cy + cy];
    transform(pixels, height, width, &matrix, out);
}

/// Python's `round(v, 15)`.
fn round15(value: f64) -> f64 {
    format!("{value:.15}").parse().expect("a formatted number is a number")
}

/// torchvision's `_get_inverse_affine_matrix` for angle 0 and the image's centre.
fn inverse(affine: &AffineParams, height: usize, width: usize) -> Matrix {
    let [sx, sy] = affine.shear.map(f64::to_radians);
    let [tx, ty] = affine.translate.map(f64::from);
    let (cx, cy) = (width as f64 * 0.5, height as f64 * 0.5);
    let rot = 0.0_f64;
    let a = (rot - sy).cos() / sy.cos();
    let b = -(rot - sy).cos() * sx.tan() / sy.cos() - rot.sin();
    let c = (rot - sy).sin() / sy.cos();
    let d = -(rot - sy).sin() * sx.tan() / sy.cos() + rot.cos();
    let mut m = [d, -b, 0.0, -c, a, 0.0].map(|value| value / affine.scale);
    m[2] += m[0] * (-cx - tx) + m[1] * (-cy - ty);
    m[5] += m[3] * (-cx - tx) + m[4] * (-cy - ty);
    m[2] += cx;
    m[5] += cy;
    m
}

/// Pillow's nearest `AFFINE` transform, black outside.
fn transform(pixels: &[u8], height: usize, width: usize, m: &Matrix, out: &mut [u8]) {
    out.fill(0);
    if m[1] == 0.0 && m[3] == 0.0 {
        return scale(pixels, height, width, m, out);
    }
    // 16.16 fixed point, rounded to nearest; positions are taken at pixel centres
    let fix = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
    let (a0, a1, a3, a4) = (fix(m[0]), fix(m[1]), fix(m[3]), fix(m[4]));
    let mut row_x = fix(m[2] + m[0] * 0.5 + m[1] * 0.5);
    let mut row_y = fix(m[5] + m[3] * 0.5 + m[4] * 0.5);
    for line in out.chunks_exact_mut(width) {
        let (mut x, mut y) = (row_x, row_y);
        for pixel in line {
            let (from_x, from_y) = (x >> 16, y >> 16);
            if (0..width as i64).contains(&from_x) && (0..height as i64).contains(&from_y) {
                *pixel = pixels[from_y as usize * width + from_x as usize];
            }
            x += a0;
            y += a3;
        }
        row_x += a1;
        row_y += a4;
    }
}

/// Pillow's path for maps that only scale and shift: positions are accumulated in floating point.
fn scale(pixels: &[u8], height: usize, width: usize, m: &Matrix, out: &mut [u8]) {
    let inside = |position: f64, size: usize| (position >= 0.0 && position < size as f64).then_some(position as usize);
    let mut y = m[5] + m[4] * 0.5;
    for line in out.chunks_exact_mut(width) {
        if let Some(from_y) = inside(y, height) {
            let mut x = m[2] + m[0] * 0.5;
            for pixel in line {
                if let Some(from_x) = inside(x, width) {
                    *pixel = pixels[from_y * width + from_x];
                }
                x += m[0];
            }
        }
        y += m[4];
    }
}

/// Fills a rectangle with one grey; what of it lies outside is left out.
pub fn erase(out: &mut [u8], height: usize, width: usize, rectangle: &EraseParams) {
    let (right, bottom) = (rectangle.left + rectangle.width, rectangle.top + rectangle.height);
    for y in rectangle.top..bottom.min(height) {
        out[y * width + rectangle.left.min(width)..y * width + right.min(width)].fill(rectangle.value);
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;
    use serde_json::Value;

    use super::*;

    /// What torchvision computed on Pillow images: see tests/reference/make_augment_fixtures.py.
    #[test]
    fn every_case_equals_torchvision_on_pillow() {
        let stem = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/augment");
        let bytes = std::fs::read(format!("{stem}.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let (inputs, expected) = (tensors.tensor("inputs").unwrap(), tensors.tensor("expected").unwrap());
        let cases: Value = serde_json::from_str(&std::fs::read_to_string(format!("{stem}.json")).unwrap()).unwrap();
        let cases = cases["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 240);
        for (n, case) in cases.iter().enumerate() {
            let (int, float) = (|v: &Value| v.as_i64().unwrap(), |v: &Value| v.as_f64().unwrap());
            let params = match case["op"].as_str().unwrap() {
                "rotate" => Params { angle: Some(float(&case["angle"])), ..Params::default() },
                "affine" => {
                    let translate = [0, 1].map(|i| int(&case["translate"][i]) as i32);
                    let shear = [0, 1].map(|i| float(&case["shear"][i]));
                    let affine = AffineParams { translate, scale: float(&case["scale"]), shear };
                    Params { affine: Some(affine), ..Params::default() }
                }
                _ => {
                    let [top, left, height, width] =
                        ["top", "left", "height", "width"].map(|key| int(&case[key]) as usize);
                    let value = int(&case["value"]) as u8;
                    Params { erase: Some(EraseParams { top, left, height, width, value }), ..Params::default() }
                }
            };
            let input = &inputs.data()[int(&case["image"]) as usize * 4096..][..4096];
            let mut out = vec![0; 4096];
            apply(&params, input, 64, 64, &mut out, &mut Scratch::default());
            assert!(out == expected.data()[n * 4096..][..4096], "case {n}: {case}");
        }
    }
}
