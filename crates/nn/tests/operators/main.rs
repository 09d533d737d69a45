//! Tests of the operators on tensors: the forward pass against plain definitions and candle, the backward pass against
//! finite differences.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that panics has failed, as it should"
)]

mod bf16;
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the tests of the GPU compare numbers by it"))]
mod compare;
#[cfg(feature = "cuda")]
mod gpu;
mod gradients;
mod kernels;
