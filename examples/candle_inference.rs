//! A trained run in another candle program: `weights/best.safetensors` in stock layers of candle-nn.
//!
//!     cargo run --release --example candle_inference -- artifacts/train/RUN/weights/best.safetensors IMAGE.png...
//!
//! Nothing of this crate is needed for it: the names and shapes of the tensors are PyTorch's, and the file's metadata say
//! which network it holds and how pixels are normalised.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;

use candle_core::{D, DType, Device, IndexOp, Result, Tensor};
use candle_nn::{BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Linear, Module, ModuleT, VarBuilder};
use serde::Deserialize;

/// The description in the file's metadata, under the key `multidigit`.
#[derive(Debug, Deserialize)]
pub struct Description {
    pub model: String,
    pub digits: usize,
    pub height: usize,
    pub width: usize,
    pub mean: f64,
    pub std: f64,
    /// The settings of the convolutions of `towers` and `attention`.
    pub trunk: Option<Trunk>,
}

/// The settings of the convolutions that `towers` and `attention` share.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Trunk {
    pub channels: usize,
    pub margin: usize,
    pub pool: Pool,
}

/// What becomes of the features at all positions of a window.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    Max,
    Mean,
}

/// A network: images `(n, 1, height, width)` to logits `(n, 10)` per digit.
pub type Network = Box<dyn Fn(&Tensor) -> Result<Vec<Tensor>>>;

/// All layers before the heads; of `towers` and `attention`, the convolutions.
type Features = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// The features of an image that the heads of the paper's networks take.
const FEATURES: usize = 512;

/// The description and the network in a file of weights.
pub fn load(path: &Path) -> std::result::Result<(Description, Network), Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes)?;
    let metadata: HashMap<String, String> = metadata.metadata().clone().unwrap_or_default();
    let text = metadata.get("multidigit").ok_or("the file's metadata have no key `multidigit`")?;
    let description: Description = serde_json::from_str(text)?;
    let builder = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)?;
    let network = network(&description, builder)?;
    Ok((description, network))
}

fn network(description: &Description, vb: VarBuilder) -> Result<Network> {
    let features = match description.model.as_str() {
        "alexnet" => alexnet(description, &vb)?,
        "fcn" => fcn(&vb)?,
        "resnet" => resnet(&vb)?,
        "towers" => return towers(description, &vb),
        "attention" => return attention(description, &vb),
        other => candle_core::bail!("no network is called {other}"),
    };
    let head = |digit: usize| {
        let vb = vb.pp(format!("heads.{digit}"));
        // a head of the fully convolutional network is a 1x1 convolution on one position, which is a linear layer
        let weight = match description.model.as_str() {
            "fcn" => vb.get((10, FEATURES, 1, 1), "weight")?.flatten_from(1)?,
            _ => vb.get((10, FEATURES), "weight")?,
        };
        Ok(Linear::new(weight, Some(vb.get(10, "bias")?)))
    };
    let heads = (0..description.digits).map(head).collect::<Result<Vec<_>>>()?;
    Ok(Box::new(move |images| {
        let features = features(images)?;
        heads.iter().map(|head| head.forward(&features)).collect()
    }))
}

fn alexnet(description: &Description, vb: &VarBuilder) -> Result<Features> {
    let extent = |size: usize| (((((size - 4) / 2 - 4) / 2) - 2 - 2 - 2) / 2).max(1);
    let flat = 256 * extent(description.height) * extent(description.width);
    let conv = |name: &str, inputs, outputs, kernel| {
        candle_nn::conv2d(inputs, outputs, kernel, Conv2dConfig::default(), vb.pp(name))
    };
    let convs = [
        (conv("conv1", 1, 32, 5)?, true),
        (conv("conv2", 32, 64, 5)?, true),
        (conv("conv3", 64, 128, 3)?, false),
        (conv("conv4", 128, 128, 3)?, false),
        (conv("conv5", 128, 256, 3)?, true),
    ];
    let fc = [candle_nn::linear(flat, 1024, vb.pp("fc1"))?, candle_nn::linear(1024, 512, vb.pp("fc2"))?];
    Ok(Box::new(move |images| {
        let mut x = images.clone();
        for (conv, pools) in &convs {
            x = conv.forward(&x)?.relu()?;
            x = if *pools { x.max_pool2d(2)? } else { x };
        }
        x = x.flatten_from(1)?;
        for layer in &fc {
            x = layer.forward(&x)?.relu()?;
        }
        Ok(x)
    }))
}

fn batch_norm(channels: usize, vb: VarBuilder) -> Result<BatchNorm> {
    candle_nn::batch_norm(channels, BatchNormConfig::default(), vb)
}

fn fcn(vb: &VarBuilder) -> Result<Features> {
    let widths = [(1, 32, 5, true), (32, 64, 5, true), (64, 128, 3, false), (128, 128, 3, false), (128, 256, 3, true)];
    let mut layers = Vec::new();
    for (number, (inputs, outputs, kernel, pools)) in (1..).zip(widths.into_iter().chain([(256, 512, 3, false)])) {
        let conv = candle_nn::conv2d(inputs, outputs, kernel, Conv2dConfig::default(), vb.pp(format!("conv{number}")))?;
        layers.push((conv, batch_norm(outputs, vb.pp(format!("bn{number}")))?, pools));
    }
    Ok(Box::new(move |images| {
        let mut x = images.clone();
        for (conv, norm, pools) in &layers {
            x = norm.forward_t(&conv.forward(&x)?, false)?.relu()?;
            x = if *pools { x.max_pool2d(2)? } else { x };
        }
        x.flatten_from(1)
    }))
}

fn conv_norm(
    vb: [VarBuilder; 2],
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
) -> Result<(Conv2d, BatchNorm)> {
    let [conv, norm] = vb;
    let config = Conv2dConfig { stride, padding: kernel / 2, ..Conv2dConfig::default() };
    Ok((candle_nn::conv2d_no_bias(inputs, outputs, kernel, config, conv)?, batch_norm(outputs, norm)?))
}

fn resnet(vb: &VarBuilder) -> Result<Features> {
    let stem = conv_norm([vb.pp("conv1"), vb.pp("bn1")], 1, 64, 3, 1)?;
    let (mut blocks, mut inputs) = (Vec::new(), 64);
    for (stage, (width, stride)) in (1..).zip([(64, 1), (128, 2), (256, 2), (512, 2)]) {
        for (number, stride) in [stride, 1].into_iter().enumerate() {
            let vb = vb.pp(format!("layer{stage}.{number}"));
            let first = conv_norm([vb.pp("conv1"), vb.pp("bn1")], inputs, width, 3, stride)?;
            let second = conv_norm([vb.pp("conv2"), vb.pp("bn2")], width, width, 3, 1)?;
            let vb = vb.pp("downsample");
            let shortcut = match stride != 1 || inputs != width {
                true => Some(conv_norm([vb.pp("0"), vb.pp("1")], inputs, width, 1, stride)?),
                false => None,
            };
            blocks.push((first, second, shortcut));
            inputs = width;
        }
    }
    let apply = |(conv, norm): &(Conv2d, BatchNorm), x: &Tensor| norm.forward_t(&conv.forward(x)?, false);
    Ok(Box::new(move |images| {
        let mut x = apply(&stem, images)?.relu()?;
        for (first, second, shortcut) in &blocks {
            let residual = shortcut.as_ref().map_or(Ok(x.clone()), |shortcut| apply(shortcut, &x))?;
            x = (apply(second, &apply(first, &x)?.relu()?)? + residual)?.relu()?;
        }
        x.mean((2, 3))
    }))
}

/// The settings in the description, the convolutions, and the head for all digits.
fn trunk(description: &Description, vb: &VarBuilder) -> Result<(Trunk, Features, Linear)> {
    let Some(trunk) = description.trunk else { candle_core::bail!("the description has no trunk") };
    let (mut layers, mut inputs) = (Vec::new(), 1);
    for (number, (times, stride, pools)) in (1..).zip([(1, 2, false), (2, 1, true), (4, 1, true), (4, 1, false)]) {
        let outputs = times * trunk.channels;
        let vb = [vb.pp(format!("conv{number}")), vb.pp(format!("bn{number}"))];
        layers.push((conv_norm(vb, inputs, outputs, 3, stride)?, pools));
        inputs = outputs;
    }
    let features: Features = Box::new(move |images| {
        let mut x = images.clone();
        for ((conv, norm), pools) in &layers {
            x = norm.forward_t(&conv.forward(&x)?, false)?.relu()?;
            x = if *pools { x.max_pool2d(2)? } else { x };
        }
        Ok(x)
    });
    Ok((trunk, features, candle_nn::linear(inputs, 10, vb.pp("head"))?))
}

/// The logits of each digit, of logits `(n, digits, 10)`.
fn by_digit(logits: &Tensor) -> Result<Vec<Tensor>> {
    (0..logits.dim(1)?).map(|digit| logits.i((.., digit))).collect()
}

fn towers(description: &Description, vb: &VarBuilder) -> Result<Network> {
    let (Trunk { margin, pool, .. }, features, head) = trunk(description, vb)?;
    let (digits, width) = (description.digits, description.width);
    Ok(Box::new(move |images| {
        let padded = images.pad_with_zeros(3, margin, margin)?;
        let window = |digit: usize| padded.narrow(3, digit * width / digits, width / digits + 2 * margin);
        let windows = (0..digits).map(window).collect::<Result<Vec<_>>>()?;
        let x = features(&Tensor::stack(&windows, 1)?.flatten(0, 1)?)?.flatten_from(2)?;
        let x = if pool == Pool::Max { x.max(D::Minus1)? } else { x.mean(D::Minus1)? };
        by_digit(&head.forward(&x)?.reshape(((), digits, 10))?)
    }))
}

fn attention(description: &Description, vb: &VarBuilder) -> Result<Network> {
    let (Trunk { channels, .. }, features, head) = trunk(description, vb)?;
    let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
    let scores = candle_nn::conv2d_no_bias(4 * channels, description.digits, 3, config, vb.pp("scores"))?;
    Ok(Box::new(move |images| {
        let features = features(images)?;
        // (n, digits, positions)
        let weights = candle_nn::ops::softmax_last_dim(&scores.forward(&features)?.flatten_from(2)?)?;
        let features = features.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        by_digit(&head.forward(&weights.matmul(&features)?)?)
    }))
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let weights = arguments.next().ok_or("usage: candle_inference WEIGHTS.safetensors IMAGE.png...")?;
    let (description, network) = load(Path::new(&weights))?;
    for path in arguments {
        let image = image::open(&path)?.into_luma8();
        let size = (image.height() as usize, image.width() as usize);
        if size != (description.height, description.width) {
            return Err(format!("an image of {size:?}; expected {}x{}", description.height, description.width).into());
        }
        let pixels = Tensor::from_vec(image.into_raw(), (1, 1, size.0, size.1), &Device::Cpu)?.to_dtype(DType::F32)?;
        let input = ((pixels / 255.0)? - description.mean)?.affine(1.0 / description.std, 0.0)?;
        let logits = network(&input)?;
        let digits = logits.iter().map(|logits| logits.i(0)?.argmax(D::Minus1)?.to_scalar::<u32>());
        let digits = digits.collect::<Result<Vec<u32>>>()?;
        println!("{}: {}", Path::new(&path).display(), digits.iter().map(u32::to_string).collect::<String>());
    }
    Ok(())
}
