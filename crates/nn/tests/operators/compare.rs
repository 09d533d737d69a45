//! Tensors given by a formula, and the error of values with respect to expected ones.

use std::ops::Deref;

use candle_core::{Device, Tensor};

/// SplitMix64 of a stream number and an index, as a number from 0 to 1. `tests/reference/make_model_fixtures.py` computes
/// the same.
fn uniform(stream: u64, index: u64) -> f64 {
    let mut z = (stream << 32).wrapping_add(index).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 * 2f64.powi(-53)
}

/// A tensor of this shape whose elements are `f` of the numbers of a stream.
pub fn tensor(stream: u64, shape: &[usize], f: impl Fn(f64) -> f64) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count as u64).map(|i| f(uniform(stream, i)) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The elements of tensors on the CPU, one tensor after the other.
pub fn values(tensors: &[impl Deref<Target = Tensor>]) -> Vec<f64> {
    tensors.iter().flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).map(f64::from).collect()
}

/// The largest difference, relative to the largest expected value.
pub fn error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    assert!(!found.is_empty(), "nothing to compare");
    // f64::max ignores NaN, so a NaN would not count as an error
    assert!(found.iter().chain(expected).all(|value| value.is_finite()), "a number is not finite");
    let largest = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    let worst = found.iter().zip(expected).fold(0.0, |worst: f64, (a, b)| worst.max((a - b).abs()));
    if worst == 0.0 { 0.0 } else { worst / largest }
}

#[test]
fn a_comparison_fails_on_nan_on_infinity_and_on_nothing() {
    let fails = |found: &[f64], expected: &[f64]| std::panic::catch_unwind(|| error(found, expected)).is_err();
    assert!(fails(&[f64::NAN, 1.0], &[1.0, 1.0]) && fails(&[1.0, 1.0], &[1.0, f64::NAN]));
    assert!(fails(&[f64::INFINITY], &[1.0]) && fails(&[1.0], &[f64::INFINITY]) && fails(&[], &[]));
    assert_eq!((error(&[1.0, 3.0], &[1.0, 4.0]), error(&[0.0], &[0.0])), (0.25, 0.0));
    assert!(error(&[1.0], &[0.0]).is_infinite());
}
