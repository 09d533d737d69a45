//! Winograd transforms in one and two dimensions. From a square of 6x6 inputs they give 4x4 outputs with a kernel of
//! 3x3, or 2x2 outputs with a kernel of 5x5.
//!
//! The interpolation points are 0, P, -P, Q, -Q and infinity: `outputs = A^T [(G g G^T) * (B^T d B)] A`, where the
//! product in brackets is elementwise (Lavin and Gray, Fast algorithms for convolutional neural networks, 2016). The
//! gradients are the transposes of these maps.

use super::vector::Lanes;

/// The height and width of a square of inputs.
pub const SIDE: usize = 6;
/// The number of elements of a square of inputs.
pub const AREA: usize = SIDE * SIDE;

/// The points other than 0 and infinity are `+-P` and `+-Q`. They and their squares are exact in f32. Of seventeen
/// pairs that were tried, this one gives the smallest error for 3x3, half of that of the usual 1 and 2.
const P: f32 = 0.625;
const Q: f32 = 1.5;
const P2: f32 = P * P;
const Q2: f32 = Q * Q;

/// Computes `B^T d`.
#[inline(always)]
pub fn input(d: [Lanes; SIDE]) -> [Lanes; SIDE] {
    let (even_p, odd_p) = (d[4] - Q2 * d[2], P * (d[3] - Q2 * d[1]));
    let (even_q, odd_q) = (d[4] - P2 * d[2], Q * (d[3] - P2 * d[1]));
    [
        (P2 * Q2) * d[0] - (P2 + Q2) * d[2] + d[4],
        even_p + odd_p,
        even_p - odd_p,
        even_q + odd_q,
        even_q - odd_q,
        (P2 * Q2) * d[1] - (P2 + Q2) * d[3] + d[5],
    ]
}

/// Computes `B v`, the transpose of [`input`].
#[inline(always)]
pub fn input_back(v: [Lanes; SIDE]) -> [Lanes; SIDE] {
    let (even_p, odd_p) = (v[1] + v[2], P * (v[1] - v[2]));
    let (even_q, odd_q) = (v[3] + v[4], Q * (v[3] - v[4]));
    [
        (P2 * Q2) * v[0],
        (P2 * Q2) * v[5] - Q2 * odd_p - P2 * odd_q,
        Lanes::ZERO - (P2 + Q2) * v[0] - Q2 * even_p - P2 * even_q,
        odd_p + odd_q - (P2 + Q2) * v[5],
        v[0] + even_p + even_q,
        v[5],
    ]
}

/// Computes the `M` outputs of `A^T m`.
#[inline(always)]
pub fn output<const M: usize>(m: [Lanes; SIDE]) -> [Lanes; M] {
    let (even_p, odd_p) = (m[1] + m[2], P * (m[1] - m[2]));
    let (even_q, odd_q) = (m[3] + m[4], Q * (m[3] - m[4]));
    let mut y = [Lanes::ZERO; M];
    y[0] = m[0] + even_p + even_q;
    y[1] = odd_p + odd_q;
    if M == 4 {
        y[2] = P2 * even_p + Q2 * even_q;
        y[3] = P2 * odd_p + Q2 * odd_q;
    }
    y[M - 1] = y[M - 1] + m[5];
    y
}

/// Computes `A y`, the transpose of [`output`].
#[inline(always)]
pub fn output_back<const M: usize>(y: [Lanes; M]) -> [Lanes; SIDE] {
    let sums = |point: f32| {
        let (mut even, mut odd) = (y[0], y[1]);
        if M == 4 {
            even = even + (point * point) * y[2];
            odd = odd + (point * point) * y[3];
        }
        (even, point * odd)
    };
    let ((even_p, odd_p), (even_q, odd_q)) = (sums(P), sums(Q));
    [y[0], even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, y[M - 1]]
}

/// The value of `1 / product of (point - other point)` for the points 0, `P` and `Q`.
const N0: f32 = 1.0 / (P2 * Q2);
const NP: f32 = 1.0 / (2.0 * P2 * (P2 - Q2));
const NQ: f32 = 1.0 / (2.0 * Q2 * (Q2 - P2));

/// Computes `G g`.
#[inline(always)]
pub fn weight<const R: usize>(g: [Lanes; R]) -> [Lanes; SIDE] {
    let sums = |point: f32, factor: f32| {
        let square = point * point;
        let (mut even, mut odd) = (g[0] + square * g[2], g[1]);
        if R == 5 {
            even = even + (square * square) * g[4];
            odd = odd + square * g[3];
        }
        (factor * even, (factor * point) * odd)
    };
    let ((even_p, odd_p), (even_q, odd_q)) = (sums(P, NP), sums(Q, NQ));
    [N0 * g[0], even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, g[R - 1]]
}

/// Computes `G^T u`, the transpose of [`weight`].
#[inline(always)]
pub fn weight_back<const R: usize>(u: [Lanes; SIDE]) -> [Lanes; R] {
    let (even_p, odd_p) = (NP * (u[1] + u[2]), (NP * P) * (u[1] - u[2]));
    let (even_q, odd_q) = (NQ * (u[3] + u[4]), (NQ * Q) * (u[3] - u[4]));
    let mut g = [Lanes::ZERO; R];
    g[0] = N0 * u[0] + even_p + even_q;
    g[1] = odd_p + odd_q;
    g[2] = P2 * even_p + Q2 * even_q;
    if R == 5 {
        g[3] = P2 * odd_p + Q2 * odd_q;
        g[4] = (P2 * P2) * even_p + (Q2 * Q2) * even_q;
    }
    g[R - 1] = g[R - 1] + u[5];
    g
}

/// The number of groups of [`LANES`] channels whose squares are transformed together.
pub const GROUPS: usize = 8;

/// What lies between the two maps of a square: the mapped columns. A caller keeps it from square to square, since filling it with
/// zeros would take as long as a map.
pub struct Between([[[Lanes; GROUPS]; SIDE]; SIDE]);

impl Between {
    /// Before the first square.
    pub const NEW: Between = Between([[[Lanes::ZERO; GROUPS]; SIDE]; SIDE]);

    /// Applies a map of columns to both sides of squares of `N` x `N`, which gives `K` x `K`. There are `groups` squares, of
    /// neighbouring channels. `from` and `to` receive line, column and number of the square.
    #[inline(always)]
    pub fn both<const N: usize, const K: usize>(
        &mut self,
        groups: usize,
        from: impl Fn(usize, usize, usize) -> Lanes,
        map: impl Fn([Lanes; N]) -> [Lanes; K],
        mut to: impl FnMut(usize, usize, usize, Lanes),
    ) {
        assert!(groups <= GROUPS && N <= SIDE && K <= SIDE);
        // Loops instead of `array::from_fn`, which the compiler may call, in its baseline compilation, instead of inlining it. The
        // squares are the inner loop, so that memory is read and written in few streams.
        for (x, column) in self.0.iter_mut().enumerate().take(N) {
            for group in 0..groups {
                let mut values = [Lanes::ZERO; N];
                for (y, value) in values.iter_mut().enumerate() {
                    *value = from(y, x, group);
                }
                for (row, value) in column.iter_mut().zip(map(values)) {
                    row[group] = value;
                }
            }
        }
        for y in 0..K {
            for group in 0..groups {
                let mut values = [Lanes::ZERO; N];
                for (value, column) in values.iter_mut().zip(&self.0) {
                    *value = column[y][group];
                }
                for (x, value) in map(values).into_iter().enumerate() {
                    to(y, x, group, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes<const N: usize>(seed: usize) -> [Lanes; N] {
        std::array::from_fn(|i| Lanes(std::array::from_fn(|c| ((seed + 7 * i + 3 * c) * 37 % 64) as f32 / 32.0 - 1.0)))
    }

    fn dot<const N: usize>(a: [Lanes; N], b: [Lanes; N]) -> Lanes {
        a.into_iter().zip(b).fold(Lanes::ZERO, |sum, (a, b)| sum + a * b)
    }

    /// Whether two sums of about ten terms, each of at most a few units, are equal up to rounding.
    fn near(a: Lanes, b: Lanes) -> bool {
        a.0.iter().zip(b.0).all(|(a, b)| (a - b).abs() < 64.0 * f32::EPSILON)
    }

    fn filters<const M: usize, const R: usize>() {
        for seed in 0..100 {
            let (d, g) = (lanes::<SIDE>(seed), lanes::<R>(seed + 1000));
            let (v, u) = (input(d), weight(g));
            let y = output::<M>(std::array::from_fn(|i| u[i] * v[i]));
            for (i, y) in y.into_iter().enumerate() {
                assert!(near(y, dot(g, std::array::from_fn(|k| d[i + k]))), "output {i} of {M} by {R}");
            }
            // a map M and its transpose satisfy a (M b) = (M^T a) b
            let a = lanes::<SIDE>(seed + 2000);
            assert!(near(dot(a, v), dot(input_back(a), d)));
            assert!(near(dot(a, u), dot(weight_back::<R>(a), g)));
            let b = lanes::<M>(seed + 3000);
            assert!(near(dot(b, output::<M>(a)), dot(output_back::<M>(b), a)));
        }
    }

    #[test]
    fn six_products_filter_four_by_three_and_two_by_five_and_every_map_has_its_transpose() {
        filters::<4, 3>();
        filters::<2, 5>();
    }
}
