//! Squares of 8x8 inputs, by the points 0, P, -P, Q, -Q, R, -R and infinity. They give 4x4 outputs with a kernel of 5x5.

use super::transforms::{Points, Transform};
use crate::cpu::vector::Lanes;

/// Of all triples of multiples of 1/8 from 1/4 to 19/8, this one gave the smallest root mean square error of the outputs on random
/// operands.
const P: f32 = 0.5;
const Q: f32 = 1.0;
const R: f32 = 2.0;
const P2: f32 = P * P;
const Q2: f32 = Q * Q;
const R2: f32 = R * R;

/// The value of `1 / product of (point - other point)` for the points 0, `P`, `Q` and `R`.
const N0: f32 = -1.0 / (P2 * Q2 * R2);
const NP: f32 = 1.0 / (2.0 * P2 * (P2 - Q2) * (P2 - R2));
const NQ: f32 = 1.0 / (2.0 * Q2 * (Q2 - P2) * (Q2 - R2));
const NR: f32 = 1.0 / (2.0 * R2 * (R2 - P2) * (R2 - Q2));

/// The sums and products of the squares of the points, which are the coefficients of `(x - P2) (x - Q2) (x - R2)`, and of the
/// same without one of the factors.
const SUM: f32 = P2 + Q2 + R2;
const PAIRS: f32 = P2 * Q2 + P2 * R2 + Q2 * R2;
const PRODUCT: f32 = P2 * Q2 * R2;
const QR: (f32, f32) = (Q2 + R2, Q2 * R2);
const PR: (f32, f32) = (P2 + R2, P2 * R2);
const PQ: (f32, f32) = (P2 + Q2, P2 * Q2);

/// The number of outputs, and of lines of the kernel.
const OUTPUTS: usize = 4;
const KERNEL: usize = 5;

impl Transform<8> for Points {
    #[inline(always)]
    fn input(d: [Lanes; 8]) -> [Lanes; 8] {
        values(
            d[6] - SUM * d[4] + PAIRS * d[2] - PRODUCT * d[0],
            [without(d, P, QR), without(d, Q, PR), without(d, R, PQ)],
            d[7] - SUM * d[5] + PAIRS * d[3] - PRODUCT * d[1],
        )
    }

    #[inline(always)]
    fn input_back(v: [Lanes; 8]) -> [Lanes; 8] {
        let [(even_p, odd_p), (even_q, odd_q), (even_r, odd_r)] = parts(v, [1.0; 3]);
        [
            -PRODUCT * v[0],
            QR.1 * odd_p + PR.1 * odd_q + PQ.1 * odd_r - PRODUCT * v[7],
            QR.1 * even_p + PR.1 * even_q + PQ.1 * even_r + PAIRS * v[0],
            PAIRS * v[7] - QR.0 * odd_p - PR.0 * odd_q - PQ.0 * odd_r,
            -SUM * v[0] - QR.0 * even_p - PR.0 * even_q - PQ.0 * even_r,
            odd_p + odd_q + odd_r - SUM * v[7],
            even_p + even_q + even_r + v[0],
            v[7],
        ]
    }

    #[inline(always)]
    fn output<const M: usize>(m: [Lanes; 8]) -> [Lanes; M] {
        const { assert!(M == OUTPUTS) };
        let [(even_p, odd_p), (even_q, odd_q), (even_r, odd_r)] = parts(m, [1.0; 3]);
        let mut y = [Lanes::ZERO; M];
        y[0] = m[0] + even_p + even_q + even_r;
        y[1] = odd_p + odd_q + odd_r;
        y[2] = P2 * even_p + Q2 * even_q + R2 * even_r;
        y[3] = P2 * odd_p + Q2 * odd_q + R2 * odd_r + m[7];
        y
    }

    #[inline(always)]
    fn output_back<const M: usize>(y: [Lanes; M]) -> [Lanes; 8] {
        const { assert!(M == OUTPUTS) };
        let at_p = (y[0] + P2 * y[2], P * (y[1] + P2 * y[3]));
        let at_q = (y[0] + Q2 * y[2], Q * (y[1] + Q2 * y[3]));
        let at_r = (y[0] + R2 * y[2], R * (y[1] + R2 * y[3]));
        values(y[0], [at_p, at_q, at_r], y[3])
    }

    #[inline(always)]
    fn kernel<const K: usize>(g: [Lanes; K]) -> [Lanes; 8] {
        const { assert!(K == KERNEL) };
        let at_p = (NP * (g[0] + P2 * g[2] + (P2 * P2) * g[4]), (NP * P) * (g[1] + P2 * g[3]));
        let at_q = (NQ * (g[0] + Q2 * g[2] + (Q2 * Q2) * g[4]), (NQ * Q) * (g[1] + Q2 * g[3]));
        let at_r = (NR * (g[0] + R2 * g[2] + (R2 * R2) * g[4]), (NR * R) * (g[1] + R2 * g[3]));
        values(N0 * g[0], [at_p, at_q, at_r], g[4])
    }

    #[inline(always)]
    fn kernel_back<const K: usize>(u: [Lanes; 8]) -> [Lanes; K] {
        const { assert!(K == KERNEL) };
        let [(even_p, odd_p), (even_q, odd_q), (even_r, odd_r)] = parts(u, [NP, NQ, NR]);
        let mut g = [Lanes::ZERO; K];
        g[0] = N0 * u[0] + even_p + even_q + even_r;
        g[1] = odd_p + odd_q + odd_r;
        g[2] = P2 * even_p + Q2 * even_q + R2 * even_r;
        g[3] = P2 * odd_p + Q2 * odd_q + R2 * odd_r;
        g[4] = (P2 * P2) * even_p + (Q2 * Q2) * even_q + (R2 * R2) * even_r + u[7];
        g
    }
}

/// The values at all points: those at 0 and infinity, and those at the pairs of points from their even and odd parts at `P`, `Q`
/// and `R`.
#[inline(always)]
fn values(zero: Lanes, [(p, odd_p), (q, odd_q), (r, odd_r)]: [(Lanes, Lanes); 3], infinity: Lanes) -> [Lanes; 8] {
    [zero, p + odd_p, p - odd_p, q + odd_q, q - odd_q, r + odd_r, r - odd_r, infinity]
}

/// The transpose of [`values`] for the pairs of points, times the points of the odd parts and times factors.
#[inline(always)]
fn parts(v: [Lanes; 8], [p, q, r]: [f32; 3]) -> [(Lanes, Lanes); 3] {
    [
        (p * (v[1] + v[2]), (p * P) * (v[1] - v[2])),
        (q * (v[3] + v[4]), (q * Q) * (v[3] - v[4])),
        (r * (v[5] + v[6]), (r * R) * (v[5] - v[6])),
    ]
}

/// The even and the odd part of the map of the inputs at a point, from the sum and the product of the squares of the others.
#[inline(always)]
fn without(d: [Lanes; 8], point: f32, (sum, product): (f32, f32)) -> (Lanes, Lanes) {
    (d[6] - sum * d[4] + product * d[2], point * (d[5] - sum * d[3] + product * d[1]))
}
