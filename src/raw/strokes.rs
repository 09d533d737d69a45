//! Draws digits with a pen: varies a skeleton as handwriting does, and inks it on 28x28 pixels.
//!
//! A glyph is a pure function of a random stream. Only sums, products, quotients and square roots are used, which
//! IEEE 754 defines to the last bit, so that every machine draws the same bytes.

use rand::Rng;

use super::size::{PIXELS, SIDE};
use super::skeletons::{Point, SKELETONS};

/// An upper bound on the number of points of a skeleton.
const MAX_POINTS: usize = 12;
/// The number of straight pieces between two points of a stroke.
const PIECES: usize = 4;
/// The range of the jitter: each coordinate is moved by the sum of two draws from `-JITTER..JITTER`.
const JITTER: f32 = 0.045;
/// The approximate length in pixels of a glyph's longer side, as in MNIST, which fits digits into 20x20 pixels and
/// centres them by mass.
const BOX: f32 = 20.0;
/// The number of pixels at the edges that stay empty.
const MARGIN: f32 = 1.0;

/// A straight piece of a stroke from `a` to `b`, in pixels after [`place`].
#[derive(Clone, Copy)]
struct Piece {
    a: Point,
    b: Point,
}

/// Draws a number from `low..high`.
fn between(rng: &mut impl Rng, low: f32, high: f32) -> f32 {
    let unit = (rng.next_u32() >> 8) as f32 * (1.0 / (1 << 24) as f32);
    low + unit * (high - low)
}

/// Draws a digit (0 to 9) into `out`: 784 pixels, row-major, from 0 for paper to 255 for ink.
pub fn draw(digit: u8, rng: &mut impl Rng, out: &mut [u8]) {
    let ways = SKELETONS[digit as usize];
    let way = &ways[((rng.next_u32() as u64 * ways.len() as u64) >> 32) as usize];

    // the handwriting: slant, tilt, bend and width of the whole digit, and a jitter of each point
    let slant = between(rng, -0.2, 0.5);
    let tilt = between(rng, -0.1, 0.1);
    let bend = between(rng, -0.25, 0.25);
    let width = between(rng, 0.72, 1.3);
    let mut points = [(0.0, 0.0); MAX_POINTS];
    for (point, &(x, y)) in points.iter_mut().zip(way.points) {
        let x = x - 0.5 + between(rng, -JITTER, JITTER) + between(rng, -JITTER, JITTER);
        let y = y - 0.5 + between(rng, -JITTER, JITTER) + between(rng, -JITTER, JITTER);
        *point = (width * x + bend * (y * y - 0.1) - slant * y, y + tilt * x);
    }
    let mut pieces = Vec::with_capacity(64);
    way.strokes.iter().for_each(|stroke| flatten(stroke, &points, &mut pieces));

    // the pen: half its width in pixels, and the width of its soft edge
    let pen = between(rng, 0.75, 1.75);
    let soft = between(rng, 0.9, 1.6);
    let wobble = (between(rng, -0.6, 0.6), between(rng, -0.6, 0.6));
    place(&mut pieces, pen, BOX * between(rng, 0.92, 1.04), wobble);
    ink(&pieces, pen, soft, out);
}

/// Divides a stroke, which is a uniform Catmull-Rom spline through its points, into straight pieces.
fn flatten(stroke: &[usize], points: &[Point], pieces: &mut Vec<Piece>) {
    let last = stroke.len() - 1;
    let closed = stroke[0] == stroke[last];
    for i in 0..last {
        let before = if i > 0 {
            i - 1
        } else if closed {
            last - 1
        } else {
            0
        };
        let after = if i + 2 <= last {
            i + 2
        } else if closed {
            1
        } else {
            last
        };
        let [p0, p1, p2, p3] = [before, i, i + 1, after].map(|at| points[stroke[at]]);
        let at = |a: f32, b: f32, c: f32, d: f32, t: f32| {
            b + 0.5 * t * ((c - a) + t * ((2.0 * a - 5.0 * b + 4.0 * c - d) + t * (3.0 * (b - c) + d - a)))
        };
        let mut from = p1;
        for step in 1..=PIECES {
            let t = step as f32 / PIECES as f32;
            let to = (at(p0.0, p1.0, p2.0, p3.0, t), at(p0.1, p1.1, p2.1, p3.1, t));
            pieces.push(Piece { a: from, b: to });
            from = to;
        }
    }
}

/// Scales the pieces so that the longer side of their ink is `side` pixels, and moves their centre of mass to the
/// centre of the image plus `wobble`, as far as the margins allow.
fn place(pieces: &mut [Piece], pen: f32, side: f32, wobble: Point) {
    let (mut low, mut high) = ((f32::MAX, f32::MAX), (f32::MIN, f32::MIN));
    let (mut mass, mut centre) = (0.0, (0.0, 0.0));
    for Piece { a, b } in pieces.iter() {
        for (x, y) in [a, b] {
            low = (low.0.min(*x), low.1.min(*y));
            high = (high.0.max(*x), high.1.max(*y));
        }
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let length = (dx * dx + dy * dy).sqrt();
        mass += length;
        centre = (centre.0 + length * 0.5 * (a.0 + b.0), centre.1 + length * 0.5 * (a.1 + b.1));
    }
    let scale = (side - 2.0 * pen) / (high.0 - low.0).max(high.1 - low.1);
    let edge = MARGIN + pen;
    let middle = SIDE as f32 / 2.0;
    let shift = |centre: f32, low: f32, high: f32, wobble: f32| {
        let shift = middle + wobble - scale * centre / mass;
        shift.max(edge - scale * low).min(SIDE as f32 - edge - scale * high)
    };
    let shift = (shift(centre.0, low.0, high.0, wobble.0), shift(centre.1, low.1, high.1, wobble.1));
    for point in pieces.iter_mut().flat_map(|piece| [&mut piece.a, &mut piece.b]) {
        *point = (scale * point.0 + shift.0, scale * point.1 + shift.1);
    }
}

/// Sets each pixel by the distance of its centre to the nearest piece: full ink inside the pen, fading out over `soft`
/// pixels around its edge.
fn ink(pieces: &[Piece], pen: f32, soft: f32, out: &mut [u8]) {
    let reach = pen + soft * 0.5;
    let mut nearest = [reach * reach; PIXELS];
    for &Piece { a, b } in pieces {
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let squared = dx * dx + dy * dy;
        let inverse = if squared > 0.0 { 1.0 / squared } else { 0.0 };
        let span = |p: f32, q: f32| {
            let (first, end) = ((p.min(q) - reach - 0.5).max(0.0), (p.max(q) + reach + 0.5).max(0.0));
            (first as usize, (end as usize + 1).min(SIDE))
        };
        let ((left, right), (top, bottom)) = (span(a.0, b.0), span(a.1, b.1));
        for y in top..bottom {
            let py = y as f32 + 0.5 - a.1;
            for (x, nearest) in nearest[y * SIDE..][..SIDE].iter_mut().enumerate().take(right).skip(left) {
                let px = x as f32 + 0.5 - a.0;
                let along = ((px * dx + py * dy) * inverse).clamp(0.0, 1.0);
                let (ex, ey) = (px - along * dx, py - along * dy);
                *nearest = nearest.min(ex * ex + ey * ey);
            }
        }
    }
    for (pixel, nearest) in out.iter_mut().zip(nearest) {
        let cover = ((reach - nearest.sqrt()) / soft).clamp(0.0, 1.0);
        *pixel = (cover * 255.0 + 0.5) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    fn glyph(digit: u8, index: u64) -> Vec<u8> {
        let mut out = vec![0; PIXELS];
        draw(digit, &mut stream(1, "test", u64::from(digit), index), &mut out);
        out
    }

    #[test]
    fn every_glyph_has_ink_of_the_size_that_mnist_has() {
        for (digit, index) in (0..10).flat_map(|digit| (0..500).map(move |index| (digit, index))) {
            let glyph = glyph(digit, index);
            let inked = |&at: &usize| glyph[at] > 127;
            let rows: Vec<usize> = (0..PIXELS).filter(inked).map(|at| at / SIDE).collect();
            let columns: Vec<usize> = (0..PIXELS).filter(inked).map(|at| at % SIDE).collect();
            let span = |at: &[usize]| at.iter().max().unwrap() - at.iter().min().unwrap() + 1;
            let longer = span(&rows).max(span(&columns));
            assert!((17..=23).contains(&longer), "digit {digit}, glyph {index}: {longer} pixels");
            let full = glyph.iter().max().unwrap();
            assert!(*full > 200, "digit {digit}, glyph {index}: at most {full}");
        }
    }

    #[test]
    fn glyphs_show_their_digits() {
        // the digit is recognised by the nearest of 2,000 other glyphs
        let known: Vec<(u8, Vec<u8>)> = (0..2000).map(|i| ((i % 10) as u8, glyph((i % 10) as u8, i))).collect();
        let distance = |a: &[u8], b: &[u8]| -> i32 {
            a.iter().zip(b).map(|(&a, &b)| (i32::from(a) - i32::from(b)) * (i32::from(a) - i32::from(b))).sum()
        };
        let right = (10_000..10_500u64).filter(|&i| {
            let asked = glyph((i % 10) as u8, i);
            let nearest = known.iter().min_by_key(|(_, glyph)| distance(glyph, &asked)).unwrap();
            u64::from(nearest.0) == i % 10
        });
        let right = right.count();
        assert!(right >= 475, "{right} of 500");
    }

    #[test]
    fn no_two_glyphs_are_alike() {
        let glyphs: std::collections::HashSet<Vec<u8>> = (0..1000).map(|index| glyph(1, index)).collect();
        assert_eq!(glyphs.len(), 1000);
    }

    #[test]
    fn the_table_names_only_points_that_exist() {
        for way in SKELETONS.iter().copied().flatten() {
            assert!(way.points.len() <= MAX_POINTS);
            let used = || way.strokes.iter().copied().flatten();
            assert!(used().all(|&at| at < way.points.len()));
            assert!((0..way.points.len()).all(|point| used().any(|&at| at == point)));
            assert!(way.strokes.iter().all(|stroke| stroke.len() >= 2));
        }
    }
}
