//! A convolution and its batch norm as the operands of one operator. For evaluation, both are folded into one
//! convolution; training updates the running statistics.

use candle_core::Var;

use crate::cpu::norm::{Statistics, affine};
use crate::error::Result;
use crate::floats::{Floats, tensor};
use crate::tape::Value;

/// The weight of a new batch in the running statistics; PyTorch's default.
const MOMENTUM: f64 = 0.1;

/// The parameters of a convolution and of the batch norm after it.
#[derive(Clone, Copy)]
pub struct ConvNorm<'a> {
    /// The name of the convolution, for its times.
    pub conv_name: &'a str,
    /// The name of the batch norm, for its times.
    pub norm_name: &'a str,
    /// The convolution's weight `(outputs, inputs, kernel, kernel)`.
    pub weight: &'a Value,
    /// The convolution's bias `(outputs)`.
    pub bias: Option<&'a Value>,
    /// The stride of the convolution in both directions.
    pub stride: usize,
    /// The zero padding of the convolution's input, on each side.
    pub padding: usize,
    /// The scale of the batch norm `(outputs)`.
    pub norm_weight: &'a Value,
    /// The shift of the batch norm `(outputs)`.
    pub norm_bias: &'a Value,
    /// The running mean `(outputs)`.
    pub running_mean: &'a Var,
    /// The running variance `(outputs)`.
    pub running_var: &'a Var,
}

impl ConvNorm<'_> {
    /// Weight and bias of the single convolution that equals both layers in evaluation.
    pub fn folded(&self) -> Result<(Value, Value)> {
        let wide = |var: &Var| -> Result<Vec<f64>> { Ok(Floats::of(var)?.iter().map(|v| f64::from(*v)).collect()) };
        let running = Statistics { mean: wide(self.running_mean)?, variance: wide(self.running_var)? };
        let (scale, shift) = affine(&running, &Floats::of(self.norm_weight)?, &Floats::of(self.norm_bias)?);
        let mut weight = Floats::of(self.weight)?.to_vec();
        let depth = weight.len() / scale.len();
        for (weight, scale) in weight.chunks_exact_mut(depth).zip(&scale) {
            weight.iter_mut().for_each(|weight| *weight *= scale);
        }
        let bias = match self.bias {
            Some(bias) => Floats::of(bias)?.iter().zip(scale.iter().zip(&shift)).map(|(b, (k, s))| b * k + s).collect(),
            None => shift,
        };
        let weight = Value::constant(tensor(weight, self.weight.dims())?);
        Ok((weight, Value::constant(tensor(bias, &[scale.len()])?)))
    }

    /// Moves the running statistics towards those of a batch with `count` values per channel.
    pub fn follow(&self, batch: &Statistics, count: usize) -> Result<()> {
        // the running variance is unbiased, as in PyTorch, although the batch is normalised by the biased variance
        let unbiased = count as f64 / (count.max(2) - 1) as f64;
        follow(self.running_mean, batch.mean.iter().copied())?;
        follow(self.running_var, batch.variance.iter().map(|variance| variance * unbiased))
    }
}

fn follow(running: &Var, batch: impl Iterator<Item = f64>) -> Result<()> {
    let moved = |(old, new): (&f32, f64)| (f64::from(*old) * (1.0 - MOMENTUM) + new * MOMENTUM) as f32;
    let values = Floats::of(running)?.iter().zip(batch).map(moved).collect();
    Ok(running.set(&tensor(values, running.dims())?)?)
}
