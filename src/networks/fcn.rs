//! A fully convolutional network. The layers have the names of the PyTorch reference implementation.

use multidigit_nn::Epilogue::{Identity, Relu, ReluPool};
use multidigit_nn::layers::{BatchNorm, Conv2d};
use multidigit_nn::{Mode, Result, Store, Value, ops};

use super::{Architecture, CLASSES, Layers, after_conv, alexnet};

/// Six convolutions with batch norm, three max pools, and for each digit a 1x1 convolution on the
/// single remaining position.
pub const ARCHITECTURE: Architecture = Architecture {
    name: "fcn",
    has_batch_norm: true,
    has_trunk: false,
    by_digit: Some("heads."),
    unfit: |height, width| {
        let fits = (extent(height), extent(width)) == (1, 1);
        if fits { None } else { Some("images of 60 to 67 pixels in height and width") }
    },
    largest: |_| 256 * 512 * 9,
    build: |store, shape, _| Ok(Box::new(Fcn::new(store, shape.digits)?)),
};

/// The height or width of the output of the convolutions for an image of height or width `size`. It must be 1, since a
/// head gives logits for each position.
fn extent(size: usize) -> usize {
    after_conv(alexnet::extent(size), 3)
}

struct Fcn {
    layers: Vec<(Conv2d, BatchNorm)>,
    heads: Vec<Conv2d>,
}

impl Fcn {
    fn new(store: &mut Store, digits: usize) -> Result<Fcn> {
        let widths = [(1, 32, 5), (32, 64, 5), (64, 128, 3), (128, 128, 3), (128, 256, 3), (256, 512, 3)];
        let mut layers = Vec::new();
        for (number, (inputs, outputs, kernel)) in (1..).zip(widths) {
            let conv = Conv2d::new(store, &format!("conv{number}"), inputs, outputs, kernel)?;
            layers.push((conv, BatchNorm::new(store, &format!("bn{number}"), outputs)?));
        }
        let heads = (0..digits).map(|head| Conv2d::new(store, &format!("heads.{head}"), 512, CLASSES, 1));
        Ok(Fcn { layers, heads: heads.collect::<Result<_>>()? })
    }
}

impl Layers for Fcn {
    fn forward(&self, input: &Value, mode: Mode) -> Result<Vec<Value>> {
        let mut x = input.clone();
        for ((conv, norm), epilogue) in self.layers.iter().zip([ReluPool, ReluPool, Relu, Relu, ReluPool, Relu]) {
            x = norm.forward(&x, conv, mode, epilogue)?;
        }
        self.heads.iter().map(|head| ops::squeeze(mode.at("squeeze"), &head.forward(&x, mode, Identity)?)).collect()
    }
}
