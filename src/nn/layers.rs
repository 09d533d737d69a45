//! The layers that the networks are made of: parameters under their names, and what they do to activations.

use candle_core::Var;
use rand::Rng;

use super::Mode;
use super::cpu::finish::Finish;
use super::cpu::norm::{Statistics, affine};
use super::floats::{Floats, tensor};
use super::ops;
use super::store::Store;
use super::tape::Value;
use crate::error::Result;
use crate::rng::Streams;

/// The weight of a new batch in the running statistics; PyTorch's default.
const MOMENTUM: f64 = 0.1;

/// A convolution with a square kernel.
pub struct Conv {
    name: String,
    weight: Value,
    bias: Option<Value>,
    stride: usize,
    padding: usize,
}

impl Conv {
    /// `kernel` x `kernel`, no padding, with bias.
    pub fn new(store: &mut Store, name: &str, inputs: usize, outputs: usize, kernel: usize) -> Result<Conv> {
        let fan_in = inputs * kernel * kernel;
        let weight = store.uniform(format!("{name}.weight"), &[outputs, inputs, kernel, kernel], fan_in)?;
        let bias = Some(store.uniform(format!("{name}.bias"), &[outputs], fan_in)?);
        Ok(Conv { name: name.to_owned(), weight, bias, stride: 1, padding: 0 })
    }

    /// Without bias, and padded so that stride 1 keeps the size.
    pub fn padded(store: &mut Store, name: &str, channels: [usize; 2], kernel: usize, stride: usize) -> Result<Conv> {
        let [inputs, outputs] = channels;
        let shape = [outputs, inputs, kernel, kernel];
        let weight = store.uniform(format!("{name}.weight"), &shape, inputs * kernel * kernel)?;
        Ok(Conv { name: name.to_owned(), weight, bias: None, stride, padding: kernel / 2 })
    }

    /// `(images, height, width, inputs)` to `(images, lines, columns, outputs)`.
    pub fn forward(&self, input: &Value, mode: Mode, finish: Finish) -> Result<Value> {
        let (weight, bias) = (&self.weight, self.bias.as_ref());
        ops::conv(mode.at(&self.name), input, weight, bias, self.stride, self.padding, finish)
    }
}

/// A batch norm after a convolution.
pub struct Norm {
    name: String,
    weight: Value,
    bias: Value,
    running_mean: Var,
    running_var: Var,
}

impl Norm {
    /// For so many channels.
    pub fn new(store: &mut Store, name: &str, channels: usize) -> Result<Norm> {
        Ok(Norm {
            name: name.to_owned(),
            weight: store.constant(format!("{name}.weight"), &[channels], 1.0)?,
            bias: store.constant(format!("{name}.bias"), &[channels], 0.0)?,
            running_mean: store.buffer(format!("{name}.running_mean"), &[channels], 0.0)?,
            running_var: store.buffer(format!("{name}.running_var"), &[channels], 1.0)?,
        })
    }

    /// The norm of the convolution of `input`, then `finish`. Training normalises by the batch's statistics and moves
    /// the running ones; evaluation uses the running ones, folded into the convolution, and has no gradient.
    pub fn forward(&self, input: &Value, conv: &Conv, mode: Mode, finish: Finish) -> Result<Value> {
        on_gpu!(input, self.on_gpu(input, conv, mode, None, finish));
        match mode {
            Mode::Train { .. } => {
                let input = conv.forward(input, mode, Finish::Plain)?;
                let count = input.elem_count() / self.weight.elem_count();
                let (weight, bias) = (&self.weight, &self.bias);
                let (output, batch) = ops::batch_norm(mode.at(&self.name), &input, weight, bias, finish)?;
                // the running variance is PyTorch's: unbiased, though the batch is normalised by the biased one
                let unbiased = count as f64 / (count.max(2) - 1) as f64;
                follow(&self.running_mean, batch.mean.iter().copied())?;
                follow(&self.running_var, batch.variance.iter().map(|variance| variance * unbiased))?;
                Ok(output)
            }
            Mode::Eval => {
                let wide =
                    |var: &Var| Ok::<_, candle_core::Error>(Floats::of(var)?.iter().map(|v| f64::from(*v)).collect());
                let running = Statistics { mean: wide(&self.running_mean)?, variance: wide(&self.running_var)? };
                let (scale, shift) = affine(&running, &Floats::of(&self.weight)?, &Floats::of(&self.bias)?);
                let mut weight = Floats::of(&conv.weight)?.to_vec();
                let depth = weight.len() / scale.len();
                for (weight, scale) in weight.chunks_exact_mut(depth).zip(&scale) {
                    weight.iter_mut().for_each(|weight| *weight *= scale);
                }
                let bias = match &conv.bias {
                    Some(bias) => {
                        Floats::of(bias)?.iter().zip(scale.iter().zip(&shift)).map(|(b, (k, s))| b * k + s).collect()
                    }
                    None => shift,
                };
                let weight = Value::constant(tensor(weight, conv.weight.dims())?);
                let bias = Value::constant(tensor(bias, &[scale.len()])?);
                ops::conv(mode.at(&conv.name), input, &weight, Some(&bias), conv.stride, conv.padding, finish)
            }
        }
    }
}

impl Norm {
    /// The norm of the convolution of `input`, plus `other`, then ReLU: the end of a residual block.
    pub fn forward_added(&self, input: &Value, conv: &Conv, mode: Mode, other: &Value, name: &str) -> Result<Value> {
        on_gpu!(input, self.on_gpu(input, conv, mode, Some(other), Finish::Relu));
        ops::add_relu(mode.at(name), &self.forward(input, conv, mode, Finish::Plain)?, other)
    }

    /// Both layers as one operator, which needs fewer passes over the activations.
    #[cfg(feature = "cuda")]
    fn on_gpu(&self, input: &Value, conv: &Conv, mode: Mode, other: Option<&Value>, finish: Finish) -> Result<Value> {
        let layers = Normed {
            name: &self.name,
            weight: &conv.weight,
            bias: conv.bias.as_ref(),
            norm_weight: &self.weight,
            norm_bias: &self.bias,
            running_mean: &self.running_mean,
            running_var: &self.running_var,
        };
        let shape = ops::conv_shape(input, &conv.weight, conv.stride, conv.padding, finish)?;
        super::cuda::ops::conv_norm(mode, input, layers, other, shape)
    }
}

/// The parameters of a convolution and its batch norm.
#[cfg(feature = "cuda")]
pub struct Normed<'a> {
    /// What the operator is called where its time is told.
    pub name: &'a str,
    /// The convolution's.
    pub weight: &'a Value,
    /// The convolution's.
    pub bias: Option<&'a Value>,
    /// The norm's scale.
    pub norm_weight: &'a Value,
    /// The norm's shift.
    pub norm_bias: &'a Value,
    /// The norm's running mean.
    pub running_mean: &'a Var,
    /// The norm's running variance.
    pub running_var: &'a Var,
}

fn follow(running: &Var, batch: impl Iterator<Item = f64>) -> Result<()> {
    let moved = |(old, new): (&f32, f64)| (f64::from(*old) * (1.0 - MOMENTUM) + new * MOMENTUM) as f32;
    let values = Floats::of(running)?.iter().zip(batch).map(moved).collect();
    Ok(running.set(&tensor(values, running.dims())?)?)
}

/// A fully connected layer.
pub struct Linear {
    name: String,
    weight: Value,
    bias: Value,
}

impl Linear {
    /// From `inputs` features to `outputs`.
    pub fn new(store: &mut Store, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        Ok(Linear {
            name: name.to_owned(),
            weight: store.uniform(format!("{name}.weight"), &[outputs, inputs], inputs)?,
            bias: store.uniform(format!("{name}.bias"), &[outputs], inputs)?,
        })
    }

    /// `(images, inputs)` to `(images, outputs)`.
    pub fn forward(&self, input: &Value, mode: Mode) -> Result<Value> {
        ops::linear(mode.at(&self.name), input, &self.weight, &self.bias)
    }
}

/// The layers whose features are dropped.
pub const DROPPED: [&str; 2] = ["fc1", "fc2"];

/// The streams that a layer's features are dropped by in a step, one for each row of the batch.
pub fn dropout_streams(seed: u64, name: &str, step: u64) -> Streams {
    Streams::new(seed, &format!("dropout/{name}"), step)
}

#[cfg(feature = "cuda")]
fn dropout_layer(name: &str) -> Result<usize> {
    let place = DROPPED.iter().position(|other| *other == name);
    place.ok_or_else(|| crate::error::Error::Tensor { message: format!("dropout of an unknown layer {name}") })
}

/// In training, drops each element with probability `rate` and scales the others by `1 / (1 - rate)`. What is dropped
/// follows from seed, step, the layer's name and the row in the batch.
pub fn dropout(input: &Value, rate: f64, name: &str, mode: Mode) -> Result<Value> {
    let Mode::Train { seed, step, .. } = mode else { return Ok(input.clone()) };
    if rate == 0.0 {
        return Ok(input.clone());
    }
    on_gpu!(input, super::cuda::ops::dropout(mode.at(&format!("{name} dropout")), input, rate, dropout_layer(name)?));
    let (rows, columns) = input.dims2()?;
    let streams = dropout_streams(seed, name, step);
    let (dropped, kept) = ((rate * 2f64.powi(32)) as u64, (1.0 / (1.0 - rate)) as f32);
    let mut factors = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        let mut rng = streams.at(row as u64);
        factors.extend((0..columns).map(|_| if u64::from(rng.next_u32()) < dropped { 0.0 } else { kept }));
    }
    ops::scale_each(mode.at(&format!("{name} dropout")), input, factors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::tape::Tape;

    #[test]
    fn dropout_keeps_the_mean_in_training_and_everything_in_evaluation() {
        let input = Value::constant(tensor(vec![1.0; 64 * 512], &[64, 512]).unwrap());
        let tape = Tape::new(0);
        let drop = |step, rate| dropout(&input, rate, "fc2", Mode::Train { seed: 7, step, tape: &tape }).unwrap();
        let values = |value: Value| value.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let first = values(drop(1, 0.25));
        assert_eq!(first, values(drop(1, 0.25)));
        assert_ne!(first, values(drop(2, 0.25)));
        let dropped = first.iter().filter(|v| **v == 0.0).count() as f64 / 32768.0;
        assert!((dropped - 0.25).abs() < 4.0 * (0.25f64 * 0.75 / 32768.0).sqrt(), "{dropped}"); // four standard errors
        assert!(first.iter().all(|v| *v == 0.0 || *v == 1.0 / 0.75));
        assert_eq!(values(dropout(&input, 0.25, "fc2", Mode::Eval).unwrap()), vec![1.0; 32768]);
    }
}
