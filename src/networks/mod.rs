//! The networks: five architectures, with logits for each digit.
//!
//! A network maps normalised floats `(images, height, width, 1)` to a tensor of logits `(images, 10)` for each digit.
//! The kernels, layers and parameters are those of `multidigit_nn`; this module defines the architectures, and the
//! description of a network and its data in a weights file.

mod alexnet;
mod attention;
mod error;
mod fcn;
mod resnet;
mod towers;
mod trunk;
pub mod weights;

pub use self::error::NetworkError;
pub use self::trunk::{Pool, Trunk};
use std::fmt;

use candle_core::{DType, Device, Tensor};
use multidigit_nn::layers::Linear;
use multidigit_nn::{Mode, Store, Value, ops};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The number of classes of a head: the ten digits.
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
    /// The same small network on a window around each digit; 241,898 parameters for any number of digits.
    Towers,
    /// A small network on the whole image, and attention for each digit; 244,202 parameters for two digits.
    Attention,
}

/// The facts about an architecture. Each architecture defines them in its own file.
struct Architecture {
    /// The name in configurations and files.
    name: &'static str,
    /// Whether the architecture normalises by the statistics of a batch.
    has_batch_norm: bool,
    /// Whether the architecture is built on the trunk that [`Trunk`] describes.
    has_trunk: bool,
    /// The beginning of the names of the parameters that there are for each digit; `None` if there are none.
    by_digit: Option<&'static str>,
    /// If the architecture cannot take images of this height and width, a description of those that it can.
    unfit: fn(usize, usize) -> Option<&'static str>,
    /// The number of elements in the largest tensor.
    largest: fn(Shape) -> u64,
    /// Makes the layers, whose parameters are added to the store in the order of creation. The last argument is the
    /// share of features that dropout drops.
    build: fn(&mut Store, Shape, f64) -> multidigit_nn::Result<Box<dyn Layers>>,
}

/// The layers of a network.
trait Layers: Send + Sync {
    /// The logits of each head.
    fn forward(&self, input: &Value, mode: Mode) -> multidigit_nn::Result<Vec<Value>>;
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.architecture().name)
    }
}

impl Model {
    /// All architectures.
    pub const ALL: [Model; 5] = [Model::AlexNet, Model::ResNet, Model::Fcn, Model::Towers, Model::Attention];

    fn architecture(self) -> &'static Architecture {
        match self {
            Model::AlexNet => &alexnet::ARCHITECTURE,
            Model::ResNet => &resnet::ARCHITECTURE,
            Model::Fcn => &fcn::ARCHITECTURE,
            Model::Towers => &towers::ARCHITECTURE,
            Model::Attention => &attention::ARCHITECTURE,
        }
    }

    /// Whether the network normalises by the statistics of a batch, which needs more than one image.
    pub fn has_batch_norm(self) -> bool {
        self.architecture().has_batch_norm
    }

    /// Whether the network is built on the trunk that [`Trunk`] describes.
    pub fn has_trunk(self) -> bool {
        self.architecture().has_trunk
    }

    /// Checks that the network can take images of this size.
    ///
    /// # Errors
    /// A configuration error if it cannot.
    pub fn check_image_size(self, height: usize, width: usize) -> Result<()> {
        match (self.architecture().unfit)(height, width) {
            None => Ok(()),
            Some(needed) => {
                let found = format!("{self} for images of {height}x{width} pixels (height x width)");
                let fits = |model: &Model| (model.architecture().unfit)(height, width).is_none();
                let fitting: Vec<String> = Model::ALL.into_iter().filter(fits).map(|model| model.to_string()).collect();
                Err(Error::value(
                    "train.model",
                    found,
                    format!("{needed}, or a model that takes these: {}", fitting.join(", ")),
                ))
            }
        }
    }
}

/// The parameters that define the layers of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The architecture.
    pub model: Model,
    /// The number of digits per image, which is the number of heads.
    pub digits: usize,
    /// The height of the images in pixels.
    pub height: usize,
    /// The width of the images in pixels.
    pub width: usize,
    /// The trunk, for the networks that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk: Option<Trunk>,
}

impl Shape {
    /// The layers of an architecture for images whose size is `[height, width]`, with the default trunk if it has one.
    pub fn new(model: Model, digits: usize, [height, width]: [usize; 2]) -> Shape {
        Shape { model, digits, height, width, trunk: model.has_trunk().then(Trunk::default) }
    }

    /// The settings of the trunk; the default if there are none.
    pub fn trunk(self) -> Trunk {
        self.trunk.unwrap_or_default()
    }

    /// The number of elements in the largest tensor.
    pub fn largest(self) -> u64 {
        (self.model.architecture().largest)(self)
    }
}

/// A network with its parameters.
pub struct Network {
    shape: Shape,
    store: Store,
    layers: Box<dyn Layers>,
}

impl Network {
    /// A new network on the CPU, whose parameters are drawn from `seed`. `dropout` is the share of features that its
    /// dropout layers drop in training.
    ///
    /// # Errors
    /// A configuration error if the network cannot take images of this size.
    pub fn new(shape: Shape, seed: u64, dropout: f64) -> Result<Network> {
        Network::on(&Device::Cpu, DType::F32, shape, seed, dropout)
    }

    /// A new network like [`Network::new`], on a device and with activations of type `dtype`.
    pub fn on(device: &Device, dtype: DType, shape: Shape, seed: u64, dropout: f64) -> Result<Network> {
        shape.model.check_image_size(shape.height, shape.width)?;
        let mut store = Store::on(device, dtype, seed);
        let layers = (shape.model.architecture().build)(&mut store, shape, dropout)?;
        Ok(Network { shape, store, layers })
    }

    /// The parameters that define the layers of the network.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The parameters and buffers of the network.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Maps `(images, height, width, 1)` to the logits `(images, 10)` of each digit.
    pub fn forward(&self, input: &Tensor, mode: Mode) -> Result<Vec<Value>> {
        let input = ops::in_type(input, self.store.dtype())?;
        Ok(self.layers.forward(&Value::constant(input), mode)?)
    }
}

/// The height or width of an image after a convolution without padding.
fn after_conv(size: usize, kernel: usize) -> usize {
    (size + 1).saturating_sub(kernel)
}

/// One linear head for each digit.
fn linear_heads(store: &mut Store, digits: usize, inputs: usize) -> multidigit_nn::Result<Vec<Linear>> {
    (0..digits).map(|head| Linear::new(store, &format!("heads.{head}"), inputs, CLASSES)).collect()
}
