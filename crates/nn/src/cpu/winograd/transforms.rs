//! Winograd transforms in one and two dimensions.
//!
//! `outputs = A^T [(G g G^T) * (B^T d B)] A`, where `g` is the kernel, `d` the square of inputs, and the product in brackets is
//! elementwise (Lavin and Gray, Fast algorithms for convolutional neural networks, 2016). The matrices follow from the points at
//! which polynomials are interpolated, one for each line of a square of inputs. The gradients are the transposes of these maps.

use crate::cpu::vector::Lanes;

/// The points of all sizes of squares.
pub struct Points;

/// The maps in one dimension for squares of `N` x `N` inputs. With a kernel of `K` x `K` they have `M` x `M` outputs, where `M` is
/// `N - K + 1`.
pub trait Transform<const N: usize> {
    /// Computes `B^T d`.
    fn input(d: [Lanes; N]) -> [Lanes; N];
    /// Computes `B v`, the transpose of [`Transform::input`].
    fn input_back(v: [Lanes; N]) -> [Lanes; N];
    /// Computes the outputs `A^T m`.
    fn output<const M: usize>(m: [Lanes; N]) -> [Lanes; M];
    /// Computes `A y`, the transpose of [`Transform::output`].
    fn output_back<const M: usize>(y: [Lanes; M]) -> [Lanes; N];
    /// Computes `G g`.
    fn kernel<const K: usize>(g: [Lanes; K]) -> [Lanes; N];
    /// Computes `G^T u`, the transpose of [`Transform::kernel`].
    fn kernel_back<const K: usize>(u: [Lanes; N]) -> [Lanes; K];
}

/// The number of groups of [`LANES`](crate::cpu::vector::LANES) channels whose squares are transformed together.
pub const GROUPS: usize = 8;

/// What lies between the two maps of a square of at most `N` x `N` elements: the mapped columns. A caller keeps it from square to
/// square, since filling it with zeros would take as long as a map.
pub struct Between<const N: usize>([[[Lanes; GROUPS]; N]; N]);

impl<const N: usize> Between<N> {
    /// Before the first square.
    pub const NEW: Between<N> = Between([[[Lanes::ZERO; GROUPS]; N]; N]);

    /// Applies a map of columns to both sides of squares of `A` x `A`, which gives `B` x `B`. There are `groups` squares, of
    /// neighbouring channels. `from` and `to` receive line, column and number of the square.
    #[inline(always)]
    pub fn both<const A: usize, const B: usize>(
        &mut self,
        groups: usize,
        from: impl Fn(usize, usize, usize) -> Lanes,
        map: impl Fn([Lanes; A]) -> [Lanes; B],
        mut to: impl FnMut(usize, usize, usize, Lanes),
    ) {
        assert!(groups <= GROUPS && A <= N && B <= N);
        // Loops instead of `array::from_fn`, which the compiler may call, in its baseline compilation, instead of inlining it. The
        // squares are the inner loop, so that memory is read and written in few streams.
        for (x, column) in self.0.iter_mut().enumerate().take(A) {
            for group in 0..groups {
                let mut values = [Lanes::ZERO; A];
                for (y, value) in values.iter_mut().enumerate() {
                    *value = from(y, x, group);
                }
                for (row, value) in column.iter_mut().zip(map(values)) {
                    row[group] = value;
                }
            }
        }
        for y in 0..B {
            for group in 0..groups {
                let mut values = [Lanes::ZERO; A];
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

    /// Whether two sums of about ten terms, each of at most a dozen, are equal up to rounding.
    fn near(a: Lanes, b: Lanes) -> bool {
        a.0.iter().zip(b.0).all(|(a, b)| (a - b).abs() < 64.0 * f32::EPSILON)
    }

    fn filters<const M: usize, const K: usize, const N: usize>()
    where
        Points: Transform<N>,
    {
        for seed in 0..100 {
            let (d, g) = (lanes::<N>(seed), lanes::<K>(seed + 1000));
            let (v, u) = (Points::input(d), Points::kernel(g));
            let y: [Lanes; M] = Points::output(std::array::from_fn(|i| u[i] * v[i]));
            for (i, y) in y.into_iter().enumerate() {
                assert!(near(y, dot(g, std::array::from_fn(|k| d[i + k]))), "output {i} of {M} by {K}");
            }
            // a map M and its transpose satisfy a (M b) = (M^T a) b
            let a = lanes::<N>(seed + 2000);
            assert!(near(dot(a, v), dot(Points::input_back(a), d)));
            assert!(near(dot(a, u), dot(Points::kernel_back(a), g)));
            let b = lanes::<M>(seed + 3000);
            assert!(near(dot(b, Points::output(a)), dot(Points::output_back(b), a)));
        }
    }

    #[test]
    fn the_products_of_a_square_filter_it_and_every_map_has_its_transpose() {
        filters::<4, 3, 6>();
        filters::<2, 5, 6>();
        filters::<4, 5, 8>();
    }
}
