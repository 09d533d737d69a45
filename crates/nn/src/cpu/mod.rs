//! The arithmetic of the networks on the CPU: pure functions of slices.
//!
//! Activations are channels-last, `(image, line, column, channel)`, so that a row of an image-to-columns matrix is a
//! few copies of contiguous floats. Rayon works across images; a matrix product itself is single-threaded. Every sum
//! over images runs over chunks whose bounds depend on the shapes alone, and the chunks are added in order: the number
//! of threads cannot change a bit of any result. Nothing here knows tensors, gradients' bookkeeping or parameters'
//! names.

#[forbid(unsafe_code)]
pub mod conv;
#[forbid(unsafe_code)]
pub mod conv_shape;
#[forbid(unsafe_code)]
pub mod epilogue;
#[allow(unsafe_code, reason = "hands slices to the kernels of the crate gemm")]
pub mod gemm;
#[forbid(unsafe_code)]
mod im2col;
#[forbid(unsafe_code)]
mod layout;
#[forbid(unsafe_code)]
pub mod linear;
#[allow(unsafe_code, reason = "fills a vector in parallel before it has its length, and calls mallopt")]
pub mod memory;
#[forbid(unsafe_code)]
pub mod norm;
#[forbid(unsafe_code)]
mod scratch;
#[allow(unsafe_code, reason = "runs loops compiled for AVX-512 and AVX2")]
mod vector;
#[forbid(unsafe_code)]
mod winograd;
#[forbid(unsafe_code)]
mod winograd_transforms;

/// The most chunks that a sum over images is cut into: enough to keep some cores busy, few enough that a sum of weight
/// gradients per chunk stays small beside the activations.
const CHUNKS: usize = 8;

/// Adds equally long parts in their order.
fn sum_in_order(parts: &[Vec<f32>]) -> Vec<f32> {
    use rayon::prelude::*;
    let Some((first, others)) = parts.split_first() else { return Vec::new() };
    let mut sum = first.clone();
    let block = 1 << 14;
    sum.par_chunks_mut(block).enumerate().for_each(|(i, sum)| {
        for part in others {
            for (sum, value) in sum.iter_mut().zip(&part[i * block..]) {
                *sum += value;
            }
        }
    });
    sum
}
