//! The three networks, layer by layer, under the names that their PyTorch counterparts use.
//!
//! Activations are `(images, height, width, channels)`; the order in which layers are made is the order of the
//! parameters.

use super::cpu::finish::Finish::{Plain, Relu, ReluPool};
use super::layers::{Conv, DROPPED, Linear, Norm, dropout};
use super::ops;
use super::store::Store;
use super::tape::Value;
use super::{CLASSES, Mode};
use crate::error::Result;

/// A size after a convolution without padding.
fn after_conv(size: usize, kernel: usize) -> usize {
    (size + 1).saturating_sub(kernel)
}

fn heads(store: &mut Store, digits: usize, inputs: usize) -> Result<Vec<Linear>> {
    (0..digits).map(|head| Linear::new(store, &format!("heads.{head}"), inputs, CLASSES)).collect()
}

/// Five convolutions, three pools, two fully connected layers with dropout, a linear head per digit.
pub struct AlexNet {
    conv: Vec<Conv>,
    fc: Vec<Linear>,
    heads: Vec<Linear>,
    dropout: f64,
}

impl AlexNet {
    /// What the convolutions leave of a height or width; 0 where they do not fit.
    pub fn extent(size: usize) -> usize {
        let size = after_conv(size, 5) / 2;
        let size = after_conv(size, 5) / 2;
        after_conv(after_conv(after_conv(size, 3), 3), 3) / 2
    }

    /// What the convolutions leave of an image of this size: the inputs of the first fully connected layer.
    pub fn features(height: usize, width: usize) -> usize {
        256 * AlexNet::extent(height) * AlexNet::extent(width)
    }

    /// For images of this size; `dropout` is the share of features dropped in training.
    pub fn new(store: &mut Store, digits: usize, height: usize, width: usize, dropout: f64) -> Result<AlexNet> {
        let features = AlexNet::features(height, width);
        Ok(AlexNet {
            conv: vec![
                Conv::new(store, "conv1", 1, 32, 5)?,
                Conv::new(store, "conv2", 32, 64, 5)?,
                Conv::new(store, "conv3", 64, 128, 3)?,
                Conv::new(store, "conv4", 128, 128, 3)?,
                Conv::new(store, "conv5", 128, 256, 3)?,
            ],
            fc: vec![Linear::new(store, "fc1", features, 1024)?, Linear::new(store, "fc2", 1024, 512)?],
            heads: heads(store, digits, 512)?,
            dropout,
        })
    }

    /// The logits of each head.
    pub fn forward(&self, input: &Value, mode: Mode) -> Result<Vec<Value>> {
        let mut x = input.clone();
        for (conv, finish) in self.conv.iter().zip([ReluPool, ReluPool, Relu, Relu, ReluPool]) {
            x = conv.forward(&x, mode, finish)?;
        }
        x = ops::flatten(mode.at("flatten"), &x)?;
        for (fc, name) in self.fc.iter().zip(DROPPED) {
            x = ops::relu_of(mode.at(&format!("{name} relu")), &fc.forward(&x, mode)?)?;
            x = dropout(&x, self.dropout, name, mode)?;
        }
        self.heads.iter().map(|head| head.forward(&x, mode)).collect()
    }
}

/// Six convolutions with batch norm, three pools, a 1x1 convolution per digit on what is then one position.
pub struct Fcn {
    layers: Vec<(Conv, Norm)>,
    heads: Vec<Conv>,
}

impl Fcn {
    /// What the convolutions leave of a height or width, which must be 1: a head gives its logits per position.
    pub fn extent(size: usize) -> usize {
        after_conv(AlexNet::extent(size), 3)
    }

    /// A fresh network.
    pub fn new(store: &mut Store, digits: usize) -> Result<Fcn> {
        let widths = [(1, 32, 5), (32, 64, 5), (64, 128, 3), (128, 128, 3), (128, 256, 3), (256, 512, 3)];
        let mut layers = Vec::new();
        for (number, (inputs, outputs, kernel)) in (1..).zip(widths) {
            let conv = Conv::new(store, &format!("conv{number}"), inputs, outputs, kernel)?;
            layers.push((conv, Norm::new(store, &format!("bn{number}"), outputs)?));
        }
        let heads = (0..digits).map(|head| Conv::new(store, &format!("heads.{head}"), 512, CLASSES, 1));
        Ok(Fcn { layers, heads: heads.collect::<Result<_>>()? })
    }

    /// The logits of each head.
    pub fn forward(&self, input: &Value, mode: Mode) -> Result<Vec<Value>> {
        let mut x = input.clone();
        for ((conv, norm), finish) in self.layers.iter().zip([ReluPool, ReluPool, Relu, Relu, ReluPool, Relu]) {
            x = norm.forward(&x, conv, mode, finish)?;
        }
        self.heads.iter().map(|head| ops::squeeze(mode.at("squeeze"), &head.forward(&x, mode, Plain)?)).collect()
    }
}

/// Two convolutions with batch norm beside a shortcut.
struct Block {
    name: String,
    conv: [Conv; 2],
    norm: [Norm; 2],
    shortcut: Option<(Conv, Norm)>,
}

impl Block {
    fn new(store: &mut Store, name: &str, inputs: usize, outputs: usize, stride: usize) -> Result<Block> {
        let conv1 = Conv::padded(store, &format!("{name}.conv1"), [inputs, outputs], 3, stride)?;
        let norm1 = Norm::new(store, &format!("{name}.bn1"), outputs)?;
        let conv2 = Conv::padded(store, &format!("{name}.conv2"), [outputs, outputs], 3, 1)?;
        let norm2 = Norm::new(store, &format!("{name}.bn2"), outputs)?;
        let shortcut = if stride != 1 || inputs != outputs {
            let conv = Conv::padded(store, &format!("{name}.downsample.0"), [inputs, outputs], 1, stride)?;
            Some((conv, Norm::new(store, &format!("{name}.downsample.1"), outputs)?))
        } else {
            None
        };
        Ok(Block { name: name.to_owned(), conv: [conv1, conv2], norm: [norm1, norm2], shortcut })
    }

    fn forward(&self, input: &Value, mode: Mode) -> Result<Value> {
        let x = self.norm[0].forward(input, &self.conv[0], mode, Relu)?;
        let shortcut = match &self.shortcut {
            Some((conv, norm)) => norm.forward(input, conv, mode, Plain)?,
            None => input.clone(),
        };
        self.norm[1].forward_added(&x, &self.conv[1], mode, &shortcut, &self.name)
    }
}

/// A stem, four stages of two blocks, the mean over all positions, a linear head per digit.
pub struct ResNet {
    stem: (Conv, Norm),
    blocks: Vec<Block>,
    heads: Vec<Linear>,
}

impl ResNet {
    /// A fresh network.
    pub fn new(store: &mut Store, digits: usize) -> Result<ResNet> {
        let stem = (Conv::padded(store, "conv1", [1, 64], 3, 1)?, Norm::new(store, "bn1", 64)?);
        let (mut blocks, mut inputs) = (Vec::new(), 64);
        for (stage, (width, stride)) in (1..).zip([(64, 1), (128, 2), (256, 2), (512, 2)]) {
            blocks.push(Block::new(store, &format!("layer{stage}.0"), inputs, width, stride)?);
            blocks.push(Block::new(store, &format!("layer{stage}.1"), width, width, 1)?);
            inputs = width;
        }
        Ok(ResNet { stem, blocks, heads: heads(store, digits, inputs)? })
    }

    /// The logits of each head.
    pub fn forward(&self, input: &Value, mode: Mode) -> Result<Vec<Value>> {
        let mut x = self.stem.1.forward(input, &self.stem.0, mode, Relu)?;
        for block in &self.blocks {
            x = block.forward(&x, mode)?;
        }
        let x = ops::mean(mode.at("mean"), &x)?;
        self.heads.iter().map(|head| head.forward(&x, mode)).collect()
    }
}
