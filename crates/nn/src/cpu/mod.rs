//! The arithmetic of the networks on the CPU: pure functions on slices.
//!
//! Activations are channels-last, `(image, line, column, channel)`, so that a row of an im2col matrix consists of a few
//! contiguous runs of floats. Rayon distributes images over threads; each matrix product is single-threaded. Every sum
//! over images is divided into chunks whose bounds depend on the shapes alone, and the chunks are added in order. The
//! results are therefore bitwise independent of the number of threads. This module knows nothing of tensors, tapes or
//! the names of parameters.

pub mod bf16;
#[forbid(unsafe_code)]
pub mod conv;
#[forbid(unsafe_code)]
pub mod conv_shape;
#[forbid(unsafe_code)]
pub mod element;
#[forbid(unsafe_code)]
pub mod epilogue;
#[allow(unsafe_code, reason = "hands slices to the kernels of the crate gemm")]
pub mod gemm;
#[forbid(unsafe_code)]
mod im2col;
#[allow(unsafe_code, reason = "loads and instructions of AMX and AVX-512, on offsets that are checked")]
pub mod kernel;
#[forbid(unsafe_code)]
mod layout;
#[forbid(unsafe_code)]
pub mod linear;
#[allow(unsafe_code, reason = "fills a vector in parallel before it has its length, and calls mallopt")]
pub mod memory;
#[forbid(unsafe_code)]
pub mod norm;
#[forbid(unsafe_code)]
pub mod pooling;
#[forbid(unsafe_code)]
pub mod products;
#[forbid(unsafe_code)]
mod scratch;
#[allow(unsafe_code, reason = "runs loops compiled for AVX-512 and AVX2")]
pub(crate) mod vector;
#[forbid(unsafe_code)]
mod winograd;

/// The maximum number of chunks of a sum over images: enough to occupy several cores, and few enough that the weight
/// gradients of all chunks stay small compared with the activations.
const CHUNKS: usize = 8;

/// Adds parts of equal length in their order.
fn sum_in_order(parts: Vec<Vec<f32>>) -> Vec<f32> {
    use rayon::prelude::*;
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_default();
    let others = parts.as_slice();
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
