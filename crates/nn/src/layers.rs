//! Layers: named parameters and the operators that use them.
//!
//! Activations have the shape `(images, height, width, channels)`.

use candle_core::{DType, Var};

use crate::Mode;
use crate::conv_norm::ConvNorm;
use crate::cpu::epilogue::Epilogue;
use crate::error::Result;
use crate::ops;
use crate::store::Store;
use crate::tape::Value;

/// A convolution with a square kernel.
pub struct Conv2d {
    name: String,
    weight: Value,
    bias: Option<Value>,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// A convolution with a kernel of `kernel` x `kernel`, with bias and without padding.
    pub fn new(store: &mut Store, name: &str, inputs: usize, outputs: usize, kernel: usize) -> Result<Conv2d> {
        let fan_in = inputs * kernel * kernel;
        let weight = store.uniform(format!("{name}.weight"), &[outputs, inputs, kernel, kernel], fan_in)?;
        let bias = Some(store.uniform(format!("{name}.bias"), &[outputs], fan_in)?);
        Ok(Conv2d { name: name.to_owned(), weight, bias, stride: 1, padding: 0 })
    }

    /// A convolution without bias, whose padding keeps the size of the image at stride 1.
    pub fn padded(store: &mut Store, name: &str, channels: [usize; 2], kernel: usize, stride: usize) -> Result<Conv2d> {
        let [inputs, outputs] = channels;
        let shape = [outputs, inputs, kernel, kernel];
        let weight = store.uniform(format!("{name}.weight"), &shape, inputs * kernel * kernel)?;
        Ok(Conv2d { name: name.to_owned(), weight, bias: None, stride, padding: kernel / 2 })
    }

    /// Maps `(images, height, width, inputs)` to `(images, lines, columns, outputs)` and applies the epilogue.
    pub fn forward(&self, input: &Value, mode: Mode, epilogue: Epilogue) -> Result<Value> {
        let (weight, bias) = (&self.weight, self.bias.as_ref());
        ops::conv(mode.at(&self.name), input, weight, bias, self.stride, self.padding, epilogue)
    }
}

/// A batch norm after a convolution.
pub struct BatchNorm {
    name: String,
    weight: Value,
    bias: Value,
    running_mean: Var,
    running_var: Var,
}

impl BatchNorm {
    /// A batch norm of `channels` channels, with initial scale 1 and shift 0.
    pub fn new(store: &mut Store, name: &str, channels: usize) -> Result<BatchNorm> {
        Ok(BatchNorm {
            name: name.to_owned(),
            weight: store.constant(format!("{name}.weight"), &[channels], 1.0)?,
            bias: store.constant(format!("{name}.bias"), &[channels], 0.0)?,
            running_mean: store.buffer(format!("{name}.running_mean"), &[channels], 0.0)?,
            running_var: store.buffer(format!("{name}.running_var"), &[channels], 1.0)?,
        })
    }

    /// Applies the convolution `conv`, this batch norm and the epilogue to `input`. Training normalises by the
    /// statistics of the batch and updates the running statistics; evaluation normalises by the running statistics and
    /// has no gradient.
    pub fn forward(&self, input: &Value, conv: &Conv2d, mode: Mode, epilogue: Epilogue) -> Result<Value> {
        ops::conv_norm(mode, input, self.after(conv), epilogue)
    }

    /// Applies the convolution `conv` and this batch norm to `input`, adds `residual` and applies ReLU: the end of the
    /// residual block `name`.
    pub fn forward_residual(
        &self,
        input: &Value,
        conv: &Conv2d,
        mode: Mode,
        residual: &Value,
        name: &str,
    ) -> Result<Value> {
        ops::conv_norm_residual(mode, input, self.after(conv), residual, name)
    }

    fn after<'a>(&'a self, conv: &'a Conv2d) -> ConvNorm<'a> {
        ConvNorm {
            conv_name: &conv.name,
            norm_name: &self.name,
            weight: &conv.weight,
            bias: conv.bias.as_ref(),
            stride: conv.stride,
            padding: conv.padding,
            norm_weight: &self.weight,
            norm_bias: &self.bias,
            running_mean: &self.running_mean,
            running_var: &self.running_var,
        }
    }
}

/// A fully connected layer.
pub struct Linear {
    name: String,
    weight: Value,
    bias: Value,
    /// The type of the factors of its products.
    factors: DType,
}

impl Linear {
    /// A layer with `inputs` input features and `outputs` output features.
    pub fn new(store: &mut Store, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        Ok(Linear {
            name: name.to_owned(),
            weight: store.uniform(format!("{name}.weight"), &[outputs, inputs], inputs)?,
            bias: store.uniform(format!("{name}.bias"), &[outputs], inputs)?,
            factors: store.dtype(),
        })
    }

    /// Maps `(images, inputs)` to `(images, outputs)`.
    pub fn forward(&self, input: &Value, mode: Mode) -> Result<Value> {
        ops::linear(mode.at(&self.name), input, &self.weight, &self.bias, self.factors)
    }
}

/// Dropout of single features.
pub struct Dropout {
    name: String,
    /// The number of this layer among the dropout layers of the store.
    number: usize,
    rate: f64,
}

impl Dropout {
    /// A layer that drops each feature with probability `rate`. Its random streams are derived from `name`, under which
    /// the layer is registered in the store.
    pub fn new(store: &mut Store, name: &str, rate: f64) -> Dropout {
        Dropout { name: name.to_owned(), number: store.dropout(name), rate }
    }

    /// In training, sets each element of `(rows, columns)` to 0 with probability `rate` and multiplies the others by
    /// `1 / (1 - rate)`. The choice depends on the seed, the step, the name of the layer and the row in the batch.
    pub fn forward(&self, input: &Value, mode: Mode) -> Result<Value> {
        let Mode::Train { seed, step, .. } = mode else { return Ok(input.clone()) };
        if self.rate == 0.0 {
            return Ok(input.clone());
        }
        let name = format!("{} dropout", self.name);
        ops::dropout(mode.at(&name), input, self.rate, &ops::dropout_streams(seed, &self.name, step), self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floats::tensor;
    use crate::tape::Tape;

    #[test]
    fn dropout_keeps_the_mean_in_training_and_everything_in_evaluation() {
        let input = Value::constant(tensor(vec![1.0f32; 64 * 512], &[64, 512]).unwrap());
        let tape = Tape::new(0);
        let layer = |rate| Dropout::new(&mut Store::new(0), "fc2", rate);
        let drop = |step, rate| layer(rate).forward(&input, Mode::Train { seed: 7, step, tape: &tape }).unwrap();
        let values = |value: Value| value.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let first = values(drop(1, 0.25));
        assert_eq!(first, values(drop(1, 0.25)));
        assert_ne!(first, values(drop(2, 0.25)));
        let dropped = first.iter().filter(|v| **v == 0.0).count() as f64 / 32768.0;
        assert!((dropped - 0.25).abs() < 4.0 * (0.25f64 * 0.75 / 32768.0).sqrt(), "{dropped}"); // four standard errors
        assert!(first.iter().all(|v| *v == 0.0 || *v == 1.0 / 0.75));
        assert_eq!(values(layer(0.25).forward(&input, Mode::Eval).unwrap()), vec![1.0; 32768]);
    }
}
