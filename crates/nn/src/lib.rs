#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

/// Calls the GPU implementation of an operator if its input is on a GPU.
macro_rules! on_gpu {
    ($input:expr, $call:expr) => {
        #[cfg(feature = "cuda")]
        if $input.device().is_cuda() {
            return $call;
        }
    };
}

#[forbid(unsafe_code)]
pub mod average;
#[forbid(unsafe_code)]
mod candle;
#[forbid(unsafe_code)]
mod conv_norm;
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "kernels, whose lengths follow from shapes that are checked where an operator begins"
)]
pub mod cpu;
#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "launches kernels on addresses of the device, and calls cuDNN and cuBLAS")]
#[allow(clippy::expect_used, clippy::indexing_slicing, reason = "kernels, as those of the CPU, behind locks")]
pub mod cuda;
#[forbid(unsafe_code)]
mod error;
#[forbid(unsafe_code)]
#[allow(clippy::indexing_slicing, clippy::unreachable, reason = "the borrowed tensor is checked when it is borrowed")]
pub mod floats;
#[forbid(unsafe_code)]
pub mod layers;
#[forbid(unsafe_code)]
#[allow(clippy::indexing_slicing, reason = "arithmetic on the elements of tensors, by their shapes")]
pub mod loss;
#[forbid(unsafe_code)]
pub mod ops;
#[forbid(unsafe_code)]
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "arithmetic on the elements of tensors, by their shapes, behind a lock"
)]
pub mod optim;
#[forbid(unsafe_code)]
pub mod rng;
#[forbid(unsafe_code)]
pub mod schedule;
#[forbid(unsafe_code)]
pub mod store;
#[forbid(unsafe_code)]
pub mod tape;
#[forbid(unsafe_code)]
pub mod weights;

use std::fmt;

use candle_core::DType;
use serde::{Deserialize, Serialize};

pub use self::cpu::epilogue::Epilogue;
use self::cpu::kernel::Unit;
pub use self::error::{Error, Result};
pub use self::store::Store;
use self::tape::At;
pub use self::tape::{Tape, Value};

/// How exactly products of matrices are computed. Sums, norms, losses and the optimiser are in float32 or better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Products of float32.
    F32,
    /// Products of float32 whose factors the matrix units of a GPU round to 10 bits, as PyTorch's convolutions do; the same as
    /// F32 on the CPU.
    Tf32,
    /// Activations and the factors of products in bfloat16, weights and optimiser in float32.
    Bf16,
}

impl Precision {
    /// The type of activations.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 | Precision::Tf32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }

    /// What computes the products on this processor; `None` if it cannot.
    pub fn on_cpu(self) -> Option<String> {
        match self {
            Precision::F32 | Precision::Tf32 => Some("float32".to_owned()),
            Precision::Bf16 => Unit::all().first().map(|unit| match unit {
                Unit::Amx => format!("bfloat16, by {unit}"),
                Unit::Avx512 => format!("bfloat16, by {unit}; Winograd convolutions in float32"),
            }),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        })
    }
}

/// The purpose of a forward pass.
#[derive(Clone, Copy)]
pub enum Mode<'a> {
    /// A training pass. Dropout draws from the seed and the step. Batch norm normalises by the statistics of the batch
    /// and updates the running statistics.
    Train {
        /// The run's seed.
        seed: u64,
        /// The number of the optimiser step.
        step: u64,
        /// The tape on which the operators are recorded for the backward pass.
        tape: &'a Tape,
    },
    /// An evaluation pass, without gradients. Dropout does nothing, and batch norm uses the running statistics, so that
    /// the result for an image does not depend on the other images of the batch.
    Eval,
}

impl<'a> Mode<'a> {
    /// The tape and the name under which an operator of this pass is recorded.
    pub fn at(self, name: &'a str) -> At<'a> {
        match self {
            Mode::Train { tape, .. } => At { tape: Some(tape), name },
            Mode::Eval => At { tape: None, name },
        }
    }
}
