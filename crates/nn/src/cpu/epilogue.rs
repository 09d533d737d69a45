//! The epilogue of a convolution or a batch norm: nothing, ReLU, or ReLU and 2x2 max pooling. It is fused into the
//! operator, so that the largest activations are never stored.
//!
//! The maximum is computed before ReLU: the values and gradients are those of the other order, for a quarter of the
//! work. Windows do not overlap. If a size is odd, the last line or column belongs to no window (PyTorch's floor mode).
//! Of equal values, the first of the window is chosen, as in PyTorch. ReLU has derivative 0 at 0. NaN is propagated.

use super::element::Element;
use super::vector::{LANES, Lanes, by_lanes, widest};

/// The epilogue of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// No change to the output.
    Identity,
    /// ReLU: `max(x, 0)` of each element.
    Relu,
    /// ReLU, then the maximum of each 2x2 window.
    ReluPool,
}

impl Epilogue {
    /// The extent after the epilogue, in one direction, of an output whose extent before it is `computed`.
    pub fn extent(self, computed: usize) -> usize {
        match self {
            Epilogue::Identity | Epilogue::Relu => computed,
            Epilogue::ReluPool => computed / 2,
        }
    }
}

/// ReLU in place.
pub fn relu<T: Element>(values: &mut [T]) {
    widest(
        #[inline(always)]
        || relu_loop(values),
    );
}

#[inline(always)]
fn relu_loop<T: Element>(values: &mut [T]) {
    for value in values {
        *value = if value.widen() < 0.0 { T::default() } else { *value };
    }
}

/// The gradient of ReLU: `grad` where the output is positive, and 0 elsewhere.
pub fn relu_gradient<T: Element>(out: &[T], grad: &[T], into: &mut [T]) {
    widest(
        #[inline(always)]
        || relu_gradient_loop(out, grad, into),
    );
}

#[inline(always)]
fn relu_gradient_loop<T: Element>(out: &[T], grad: &[T], into: &mut [T]) {
    for ((into, &out), &grad) in into.iter_mut().zip(out).zip(grad) {
        *into = if out.widen() > 0.0 { grad } else { T::default() };
    }
}

/// ReLU and 2x2 max pooling of some lines `(line, width, channels)`. `choice` receives the index, 0 to 3, of each
/// maximum in its window.
pub fn pool<T: Element>(values: &[f32], width: usize, channels: usize, out: &mut [T], choice: &mut [u8]) {
    widest(
        #[inline(always)]
        || pool_loop(values, width, channels, out, choice),
    );
}

#[inline(always)]
fn pool_loop<T: Element>(values: &[f32], width: usize, channels: usize, out: &mut [T], choice: &mut [u8]) {
    let (line, out_line) = (width * channels, width / 2 * channels);
    if out_line == 0 {
        return;
    }
    let windows = out.chunks_exact_mut(out_line).zip(choice.chunks_exact_mut(out_line));
    for ((out, choice), lines) in windows.zip(values.chunks_exact(2 * line)) {
        let (upper, lower) = lines.split_at(line);
        let cells = out.chunks_exact_mut(channels).zip(choice.chunks_exact_mut(channels));
        let inputs = upper.chunks_exact(2 * channels).zip(lower.chunks_exact(2 * channels));
        for ((out, choice), (upper, lower)) in cells.zip(inputs) {
            by_lanes(
                channels,
                #[inline(always)]
                |i, count| {
                    let (best, which) = Lanes::largest([
                        Lanes::some(upper, i, count),
                        Lanes::some(upper, channels + i, count),
                        Lanes::some(lower, i, count),
                        Lanes::some(lower, channels + i, count),
                    ]);
                    best.relu().put(out, i, count);
                    choice[i..i + count].copy_from_slice(&which[..count]);
                },
            );
        }
    }
}

/// The gradient of [`pool`], in the shape `(line, width, channels)`. The gradient of a window
/// goes to its chosen element.
pub fn pool_gradient<T: Element>(out: &[T], choice: &[u8], grad: &[T], width: usize, channels: usize, into: &mut [T]) {
    widest(
        #[inline(always)]
        || pool_gradient_loop(out, choice, grad, width, channels, into),
    );
}

#[inline(always)]
fn pool_gradient_loop<T: Element>(out: &[T], choice: &[u8], grad: &[T], width: usize, channels: usize, into: &mut [T]) {
    into.fill(T::default());
    let (line, out_line) = (width * channels, width / 2 * channels);
    if out_line == 0 {
        return;
    }
    let windows = out.chunks_exact(out_line).zip(choice.chunks_exact(out_line)).zip(grad.chunks_exact(out_line));
    for (((out, choice), grad), lines) in windows.zip(into.chunks_exact_mut(2 * line)) {
        let (upper, lower) = lines.split_at_mut(line);
        let cells = out.chunks_exact(channels).zip(choice.chunks_exact(channels)).zip(grad.chunks_exact(channels));
        let inputs = upper.chunks_exact_mut(2 * channels).zip(lower.chunks_exact_mut(2 * channels));
        for (((out, choice), grad), (upper, lower)) in cells.zip(inputs) {
            by_lanes(
                channels,
                #[inline(always)]
                |i, count| {
                    let grad = Lanes::some(grad, i, count).where_positive(Lanes::some(out, i, count));
                    let mut which = [0; LANES];
                    which[..count].copy_from_slice(&choice[i..i + count]);
                    grad.where_chosen(&which, 0).put(upper, i, count);
                    grad.where_chosen(&which, 1).put(upper, channels + i, count);
                    grad.where_chosen(&which, 2).put(lower, i, count);
                    grad.where_chosen(&which, 3).put(lower, channels + i, count);
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_of_an_odd_size_is_the_one_worked_by_hand() {
        // one channel, 3 lines of 5 values: the windows cover columns 0-1 and 2-3 of lines 0-1
        let values =
            [1.0, 4.0, -1.0, -2.0, 9.0, /**/ 3.0, 2.0, -3.0, -4.0, 9.0, /**/ 9.0, 9.0, 9.0, 9.0, 9.0];
        let (mut out, mut choice) = (vec![7.0f32; 2], vec![7; 2]);
        pool(&values, 5, 1, &mut out, &mut choice);
        assert_eq!((out.as_slice(), choice[0]), ([4.0, 0.0].as_slice(), 1));
        let mut gradient = vec![7.0; 15];
        pool_gradient(&out, &choice, &[10.0, 20.0], 5, 1, &mut gradient);
        let mut expected = vec![0.0; 15];
        expected[1] = 10.0; // the whole gradient of the first window; none of the second, where ReLU gave 0
        assert_eq!(gradient, expected);
    }

    #[test]
    fn the_pool_gradient_is_the_finite_difference_on_7x7_with_channels() {
        // the values are distinct multiples of 1/64 and the steps 1/256: exact in f32, and no step
        // changes an order or a sign
        let (size, channels) = (7, 3);
        let values: Vec<f32> =
            (0..size * size * channels).map(|i| ((i * 89 + 41) % 149) as f32 / 64.0 - 1.0 + 1.0 / 128.0).collect();
        let weight: Vec<f32> = (0..3 * 3 * channels).map(|i| (i % 5) as f32 - 2.0).collect();
        let run = |values: &[f32]| {
            let (mut out, mut choice) = (vec![0.0f32; weight.len()], vec![0; weight.len()]);
            pool(values, size, channels, &mut out, &mut choice);
            (out, choice)
        };
        let sum = |values: &[f32]| run(values).0.iter().zip(&weight).map(|(a, b)| a * b).sum::<f32>();
        let (out, choice) = run(&values);
        let mut gradient = vec![0.0; values.len()];
        pool_gradient(&out, &choice, &weight, size, channels, &mut gradient);
        assert!(gradient.iter().filter(|g| **g != 0.0).count() > 10);
        for i in 0..values.len() {
            let shifted = |by: f32| {
                let mut values = values.clone();
                values[i] += by;
                sum(&values)
            };
            let step = 1.0 / 256.0;
            assert_eq!((shifted(step) - shifted(-step)) / (2.0 * step), gradient[i], "element {i}");
        }
    }

    #[test]
    fn of_equal_values_the_first_takes_the_gradient_and_relu_gives_none_at_zero() {
        let (mut out, mut choice, mut gradient) = (vec![0.0; 2], vec![0; 2], vec![0.0; 8]);
        pool(&[5.0, 5.0, 0.0, 0.0, 5.0, 5.0, 0.0, 0.0], 4, 1, &mut out, &mut choice);
        pool_gradient(&out, &choice, &[1.0, 1.0], 4, 1, &mut gradient);
        assert_eq!(gradient, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let mut gradient = vec![0.0; 3];
        relu_gradient(&[0.0, 2.0, 0.0], &[1.0, 1.0, 1.0], &mut gradient);
        assert_eq!(gradient, [0.0, 1.0, 0.0]);
    }

    #[test]
    fn a_nan_is_not_hidden() {
        let mut values = [f32::NAN, -1.0];
        relu(&mut values);
        assert!(values[0].is_nan() && values[1] == 0.0);
        for place in 0..4 {
            let mut values = [1.0; 4];
            values[place] = f32::NAN;
            let (mut out, mut choice) = ([0.0f32], [0]);
            pool(&values, 2, 1, &mut out, &mut choice);
            assert!(out[0].is_nan());
        }
    }
}
