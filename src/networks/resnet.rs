//! A ResNet-18 for small images. The layers have the names of the PyTorch reference implementation.

use multidigit_nn::Epilogue::{Identity, Relu};
use multidigit_nn::layers::{BatchNorm, Conv2d, Linear};
use multidigit_nn::{Mode, Result, Store, Value, ops};

use super::{Architecture, Layers, linear_heads};

/// A stem, four stages of two residual blocks, the mean over all positions, and a linear head for each digit.
pub const ARCHITECTURE: Architecture = Architecture {
    name: "resnet",
    has_batch_norm: true,
    has_trunk: false,
    by_digit: Some("heads."),
    unfit: |height, width| if height.min(width) > 0 { None } else { Some("images of at least one pixel") },
    largest: |_| 512 * 512 * 9,
    build: |store, shape, _| Ok(Box::new(ResNet::new(store, shape.digits)?)),
};

/// A residual block: two convolutions with batch norm, and a shortcut.
struct Block {
    name: String,
    conv: [Conv2d; 2],
    norm: [BatchNorm; 2],
    shortcut: Option<(Conv2d, BatchNorm)>,
}

impl Block {
    fn new(store: &mut Store, name: &str, inputs: usize, outputs: usize, stride: usize) -> Result<Block> {
        let conv1 = Conv2d::padded(store, &format!("{name}.conv1"), [inputs, outputs], 3, stride)?;
        let norm1 = BatchNorm::new(store, &format!("{name}.bn1"), outputs)?;
        let conv2 = Conv2d::padded(store, &format!("{name}.conv2"), [outputs, outputs], 3, 1)?;
        let norm2 = BatchNorm::new(store, &format!("{name}.bn2"), outputs)?;
        let shortcut = if stride != 1 || inputs != outputs {
            let conv = Conv2d::padded(store, &format!("{name}.downsample.0"), [inputs, outputs], 1, stride)?;
            Some((conv, BatchNorm::new(store, &format!("{name}.downsample.1"), outputs)?))
        } else {
            None
        };
        Ok(Block { name: name.to_owned(), conv: [conv1, conv2], norm: [norm1, norm2], shortcut })
    }

    fn forward(&self, input: &Value, mode: Mode) -> Result<Value> {
        let x = self.norm[0].forward(input, &self.conv[0], mode, Relu)?;
        let shortcut = match &self.shortcut {
            Some((conv, norm)) => norm.forward(input, conv, mode, Identity)?,
            None => input.clone(),
        };
        self.norm[1].forward_residual(&x, &self.conv[1], mode, &shortcut, &self.name)
    }
}

struct ResNet {
    stem: (Conv2d, BatchNorm),
    blocks: Vec<Block>,
    heads: Vec<Linear>,
}

impl ResNet {
    fn new(store: &mut Store, digits: usize) -> Result<ResNet> {
        let stem = (Conv2d::padded(store, "conv1", [1, 64], 3, 1)?, BatchNorm::new(store, "bn1", 64)?);
        let (mut blocks, mut inputs) = (Vec::new(), 64);
        for (stage, (width, stride)) in (1..).zip([(64, 1), (128, 2), (256, 2), (512, 2)]) {
            blocks.push(Block::new(store, &format!("layer{stage}.0"), inputs, width, stride)?);
            blocks.push(Block::new(store, &format!("layer{stage}.1"), width, width, 1)?);
            inputs = width;
        }
        Ok(ResNet { stem, blocks, heads: linear_heads(store, digits, inputs)? })
    }
}

impl Layers for ResNet {
    fn forward(&self, input: &Value, mode: Mode) -> Result<Vec<Value>> {
        let mut x = self.stem.1.forward(input, &self.stem.0, mode, Relu)?;
        for block in &self.blocks {
            x = block.forward(&x, mode)?;
        }
        let x = ops::mean(mode.at("mean"), &x)?;
        self.heads.iter().map(|head| head.forward(&x, mode)).collect()
    }
}
