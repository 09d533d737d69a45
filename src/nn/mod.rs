//! What training is made of: kernels, operators with gradients, layers, the three networks, parameters, optimiser.
//!
//! A network takes `(images, height, width, 1)` normalised floats and gives a `(images, 10)` tensor of logits per
//! digit. Whether it trains or evaluates is an argument of every forward pass. This module knows no files but weights
//! and no data set.

/// Hands an operator over to the kernels of the GPU, where its input lies on one.
macro_rules! on_gpu {
    ($input:expr, $call:expr) => {
        #[cfg(feature = "cuda")]
        if $input.device().is_cuda() {
            return $call;
        }
    };
}

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
#[allow(clippy::indexing_slicing, clippy::unreachable, reason = "what it borrows is checked when it is made")]
pub mod floats;
#[forbid(unsafe_code)]
pub mod layers;
#[forbid(unsafe_code)]
#[allow(clippy::indexing_slicing, reason = "arithmetic on the elements of tensors, by their shapes")]
pub mod loss;
#[forbid(unsafe_code)]
pub mod networks;
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
pub mod schedule;
#[forbid(unsafe_code)]
pub mod store;
#[forbid(unsafe_code)]
pub mod tape;
#[forbid(unsafe_code)]
pub mod weights;

use std::fmt;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use self::networks::{AlexNet, Fcn, ResNet};
use self::store::Store;
use self::tape::{At, Tape, Value};
use crate::error::{Error, Result};

/// The classes of a head: the ten digits.
pub const CLASSES: usize = 10;

/// The share of features that AlexNet drops in training, as in the paper.
pub const DROPOUT: f64 = 0.5;

/// A network's architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// Five convolutions and three fully connected layers, with dropout; 3,464,084 parameters for two digits.
    AlexNet,
    /// Residual blocks with batch norm; 11,177,940 parameters for two digits.
    ResNet,
    /// Convolutions with batch norm alone; 1,761,364 parameters for two digits.
    Fcn,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Model::AlexNet => "alexnet",
            Model::ResNet => "resnet",
            Model::Fcn => "fcn",
        })
    }
}

impl Model {
    /// Whether it normalises by the statistics of a batch, which one image alone does not have.
    pub fn has_batch_norm(self) -> bool {
        matches!(self, Model::ResNet | Model::Fcn)
    }

    /// Refuses a size of images that the network cannot take.
    pub fn check_image_size(self, height: usize, width: usize) -> Result<()> {
        let expected = match self {
            Model::AlexNet if AlexNet::extent(height).min(AlexNet::extent(width)) == 0 => {
                "images of at least 44x44 pixels, or another model"
            }
            Model::Fcn if (Fcn::extent(height), Fcn::extent(width)) != (1, 1) => {
                "images of 60 to 67 pixels in height and width, or another model"
            }
            Model::ResNet if height.min(width) == 0 => "images of at least one pixel",
            _ => return Ok(()),
        };
        Err(Error::value(
            "train.model",
            format!("{self} for images of {height}x{width} pixels (height x width)"),
            expected,
        ))
    }
}

/// How exactly products of matrices are computed on a GPU; sums, norms, losses and the optimiser are in float32 or better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Products of float32.
    F32,
    /// Products of float32 whose factors the matrix units round to 10 bits, as PyTorch's convolutions do.
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

/// What a forward pass is for.
#[derive(Clone, Copy)]
pub enum Mode<'a> {
    /// Training: dropout, drawn from seed and step, and batch norm by the batch, which moves the running statistics.
    Train {
        /// The run's seed.
        seed: u64,
        /// The number of the optimiser's step.
        step: u64,
        /// What the gradients will come from.
        tape: &'a Tape,
    },
    /// Evaluation: no dropout, batch norm by the running statistics, each image for itself; no gradients.
    Eval,
}

impl<'a> Mode<'a> {
    /// The place of a layer's operator in this pass.
    pub fn at(self, name: &'a str) -> At<'a> {
        match self {
            Mode::Train { tape, .. } => At { tape: Some(tape), name },
            Mode::Eval => At { tape: None, name },
        }
    }
}

/// What a network is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The architecture.
    pub model: Model,
    /// Digits per image: the number of heads.
    pub digits: usize,
    /// Height of the images in pixels.
    pub height: usize,
    /// Width of the images in pixels.
    pub width: usize,
}

impl Shape {
    /// Numbers in the largest tensor.
    pub fn largest(self) -> u64 {
        match self.model {
            Model::AlexNet => AlexNet::features(self.height, self.width) as u64 * 1024,
            Model::ResNet => 512 * 512 * 9,
            Model::Fcn => 256 * 512 * 9,
        }
    }
}

/// A network with its parameters.
pub struct Network {
    shape: Shape,
    store: Store,
    layers: Layers,
}

enum Layers {
    AlexNet(AlexNet),
    ResNet(ResNet),
    Fcn(Fcn),
}

impl Network {
    /// A fresh network whose parameters are drawn from `seed`; `dropout` is for AlexNet alone.
    pub fn new(shape: Shape, seed: u64, dropout: f64) -> Result<Network> {
        Network::on(&Device::Cpu, DType::F32, shape, seed, dropout)
    }

    /// As [`Network::new`], to compute on a device with activations of a type.
    pub fn on(device: &Device, dtype: DType, shape: Shape, seed: u64, dropout: f64) -> Result<Network> {
        let Shape { model, digits, height, width } = shape;
        model.check_image_size(height, width)?;
        let mut store = Store::on(device, dtype, seed);
        let layers = match model {
            Model::AlexNet => Layers::AlexNet(AlexNet::new(&mut store, digits, height, width, dropout)?),
            Model::ResNet => Layers::ResNet(ResNet::new(&mut store, digits)?),
            Model::Fcn => Layers::Fcn(Fcn::new(&mut store, digits)?),
        };
        Ok(Network { shape, store, layers })
    }

    /// What it is made for.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its parameters and buffers.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The logits `(images, 10)` of each digit for `(images, height, width, 1)`.
    pub fn forward(&self, input: &Tensor, mode: Mode) -> Result<Vec<Value>> {
        let input = Value::constant(input.clone());
        match &self.layers {
            Layers::AlexNet(net) => net.forward(&input, mode),
            Layers::ResNet(net) => net.forward(&input, mode),
            Layers::Fcn(net) => net.forward(&input, mode),
        }
    }
}
