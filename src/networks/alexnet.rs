//! An AlexNet for small images. The layers have the names of the PyTorch reference implementation.

use multidigit_nn::Epilogue::{Relu, ReluPool};
use multidigit_nn::layers::{Conv2d, Dropout, Linear};
use multidigit_nn::{Mode, Result, Store, Value, ops};

use super::{Architecture, Layers, Shape, after_conv, linear_heads};

/// Five convolutions, three max pools, two fully connected layers with dropout, and a linear head for each digit.
pub const ARCHITECTURE: Architecture = Architecture {
    name: "alexnet",
    has_batch_norm: false,
    has_trunk: false,
    by_digit: Some("heads."),
    unfit: |height, width| {
        let fits = extent(height).min(extent(width)) > 0;
        if fits { None } else { Some("images of at least 44x44 pixels") }
    },
    largest: |shape| features(shape) as u64 * 1024,
    build: |store, shape, dropout| Ok(Box::new(AlexNet::new(store, shape, dropout)?)),
};

/// The height or width of the output of the convolutions for an image of height or width `size`; 0 if they do not fit.
pub fn extent(size: usize) -> usize {
    let size = after_conv(size, 5) / 2;
    let size = after_conv(size, 5) / 2;
    after_conv(after_conv(after_conv(size, 3), 3), 3) / 2
}

/// The number of inputs of the first fully connected layer.
fn features(Shape { height, width, .. }: Shape) -> usize {
    256 * extent(height) * extent(width)
}

struct AlexNet {
    conv: Vec<Conv2d>,
    fc: Vec<(&'static str, Linear, Dropout)>,
    heads: Vec<Linear>,
}

impl AlexNet {
    fn new(store: &mut Store, shape: Shape, dropout: f64) -> Result<AlexNet> {
        let conv = vec![
            Conv2d::new(store, "conv1", 1, 32, 5)?,
            Conv2d::new(store, "conv2", 32, 64, 5)?,
            Conv2d::new(store, "conv3", 64, 128, 3)?,
            Conv2d::new(store, "conv4", 128, 128, 3)?,
            Conv2d::new(store, "conv5", 128, 256, 3)?,
        ];
        let mut fc = Vec::new();
        for (name, inputs, outputs) in [("fc1", features(shape), 1024), ("fc2", 1024, 512)] {
            fc.push((name, Linear::new(store, name, inputs, outputs)?, Dropout::new(store, name, dropout)));
        }
        Ok(AlexNet { conv, fc, heads: linear_heads(store, shape.digits, 512)? })
    }
}

impl Layers for AlexNet {
    fn forward(&self, input: &Value, mode: Mode) -> Result<Vec<Value>> {
        let mut x = input.clone();
        for (conv, epilogue) in self.conv.iter().zip([ReluPool, ReluPool, Relu, Relu, ReluPool]) {
            x = conv.forward(&x, mode, epilogue)?;
        }
        x = ops::flatten(mode.at("flatten"), &x)?;
        for (name, linear, dropout) in &self.fc {
            x = ops::relu_of(mode.at(&format!("{name} relu")), &linear.forward(&x, mode)?)?;
            x = dropout.forward(&x, mode)?;
        }
        self.heads.iter().map(|head| head.forward(&x, mode)).collect()
    }
}
