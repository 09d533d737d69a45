//! The operators of the networks on tensors: what each computes, and what it keeps for its gradients.
//!
//! This is where a tensor's device decides which kernels compute. The operators are this crate's own, because candle's
//! are slow on the CPU, or have wrong gradients (the maximum pool), or others than PyTorch's (ReLU at 0).

use candle_core::Tensor;
use rayon::prelude::*;

use super::cpu::conv;
use super::cpu::finish::{Finish, relu, relu_gradient};
use super::cpu::linear;
use super::cpu::norm;
use super::floats::{Floats, tensor};
use super::tape::{At, Value, apply};
use crate::error::{Error, Result};

/// Elements that one thread takes at a time where an operation is done element by element.
const BLOCK: usize = 1 << 14;

fn refuse(message: String) -> Error {
    Error::Tensor { message }
}

/// The shape of a convolution of two tensors, where there is one.
pub fn conv_shape(
    input: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
    finish: Finish,
) -> Result<conv::Conv> {
    let (images, height, width, inputs) = input.dims4()?;
    let (outputs, depth, kernel, _) = weight.dims4()?;
    if depth != inputs || height.min(width) + 2 * padding < kernel {
        return Err(refuse(format!("a convolution of {:?} with {:?} does not exist", input.shape(), weight.shape())));
    }
    let shape = conv::Conv { images, height, width, inputs, outputs, kernel, stride, padding, finish };
    if shape.shape().contains(&0) {
        let message = format!("nothing is left of {:?} after a convolution with {:?}", input.shape(), weight.shape());
        return Err(refuse(message));
    }
    Ok(shape)
}

/// Convolution of `(images, height, width, inputs)` with `(outputs, inputs, kernel, kernel)`, then `finish`.
pub fn conv(
    at: At,
    input: &Value,
    weight: &Value,
    bias: Option<&Value>,
    stride: usize,
    padding: usize,
    finish: Finish,
) -> Result<Value> {
    let shape = conv_shape(input, weight, stride, padding, finish)?;
    let outputs = shape.outputs;
    on_gpu!(input, super::cuda::ops::conv(at, input, weight, bias, shape));
    let operands: Vec<&Value> = [input, weight].into_iter().chain(bias).collect();
    apply(at, &operands, || {
        let bias = bias.map(|bias| Floats::of(bias)).transpose()?;
        let output = shape.forward(&Floats::of(input)?, &Floats::of(weight)?, bias.as_deref());
        let (values, choice) = (tensor(output.values, &shape.shape())?, output.choice);
        let (input, weight, kept) = (input.clone(), weight.clone(), values.clone());
        let backward = move |grad: Tensor| {
            let (floats, wanted) = (Floats::of(&input)?, input.wants_gradient());
            let (weights, kept, grad) = (Floats::of(&weight)?, Floats::of(&kept)?, Floats::of(&grad)?);
            let found = shape.backward(&floats, &weights, &kept, &choice, &grad, wanted);
            Ok(vec![
                found.input.map(|values| tensor(values, input.dims())).transpose()?,
                Some(tensor(found.weight, weight.dims())?),
                Some(tensor(found.bias, &[outputs])?),
            ])
        };
        Ok((values, Box::new(backward)))
    })
}

/// Batch norm of `(images, height, width, channels)` by the batch's own statistics, which come back, then `finish`.
pub fn batch_norm(
    at: At,
    input: &Value,
    weight: &Value,
    bias: &Value,
    finish: Finish,
) -> Result<(Value, norm::Statistics)> {
    let (images, height, width, channels) = input.dims4()?;
    let shape = norm::Norm { images, height, width, channels, finish };
    let mut statistics = norm::Statistics::default();
    let value = apply(at, &[input, weight, bias], || {
        let mut output = shape.forward(&Floats::of(input)?, &Floats::of(weight)?, &Floats::of(bias)?);
        let values = tensor(std::mem::take(&mut output.values), &shape.shape())?;
        statistics = output.statistics.clone();
        let (input, weight, kept) = (input.clone(), weight.clone(), values.clone());
        let backward = move |grad: Tensor| {
            let (floats, weights) = (Floats::of(&input)?, Floats::of(&weight)?);
            let found = shape.backward(&floats, &weights, &output, &Floats::of(&kept)?, &Floats::of(&grad)?);
            Ok(vec![
                Some(tensor(found.input, input.dims())?),
                Some(tensor(found.weight, &[channels])?),
                Some(tensor(found.bias, &[channels])?),
            ])
        };
        Ok((values, Box::new(backward)))
    })?;
    Ok((value, statistics))
}

/// `input weight^T + bias` for `(rows, inputs)` and `(outputs, inputs)`.
pub fn linear(at: At, input: &Value, weight: &Value, bias: &Value) -> Result<Value> {
    let ((rows, inputs), (outputs, depth)) = (input.dims2()?, weight.dims2()?);
    if depth != inputs {
        return Err(refuse(format!("a linear layer of {:?} with {:?} does not exist", input.shape(), weight.shape())));
    }
    on_gpu!(input, super::cuda::ops::linear(at, input, weight, bias));
    let shape = linear::Linear { rows, inputs, outputs };
    apply(at, &[input, weight, bias], || {
        let values = shape.forward(&Floats::of(input)?, &Floats::of(weight)?, &Floats::of(bias)?);
        let (input, weight) = (input.clone(), weight.clone());
        let backward = move |grad: Tensor| {
            let grad = Floats::of(&grad)?;
            let input_gradient = match input.wants_gradient() {
                true => Some(tensor(shape.input_gradient(&Floats::of(&weight)?, &grad), input.dims())?),
                false => None,
            };
            let weight_gradient = tensor(shape.weight_gradient(&Floats::of(&input)?, &grad), weight.dims())?;
            Ok(vec![input_gradient, Some(weight_gradient), Some(tensor(shape.bias_gradient(&grad), &[outputs])?)])
        };
        Ok((tensor(values, &[rows, outputs])?, Box::new(backward)))
    })
}

/// `max(a + b, 0)` of two tensors of one shape.
pub fn add_relu(at: At, a: &Value, b: &Value) -> Result<Value> {
    if a.shape() != b.shape() {
        return Err(refuse(format!("a sum of {:?} and {:?} does not exist", a.shape(), b.shape())));
    }
    on_gpu!(a, super::cuda::ops::add_relu(at, a, b));
    apply(at, &[a, b], || {
        let (left, right) = (Floats::of(a)?, Floats::of(b)?);
        let values = map2(&left, &right, |left, right, sum| {
            sum.iter_mut().zip(left.iter().zip(right)).for_each(|(sum, (a, b))| *sum = a + b);
            relu(sum);
        });
        let values = tensor(values, a.dims())?;
        let kept = values.clone();
        let backward = move |grad: Tensor| {
            let both = masked(&kept, &grad)?;
            Ok(vec![Some(both.clone()), Some(both)])
        };
        Ok((values, Box::new(backward)))
    })
}

/// `max(x, 0)`, with derivative 0 at 0.
pub fn relu_of(at: At, input: &Value) -> Result<Value> {
    on_gpu!(input, super::cuda::ops::relu(at, input));
    apply(at, &[input], || {
        let mut values = Floats::of(input)?.to_vec();
        relu(&mut values);
        let values = tensor(values, input.dims())?;
        let kept = values.clone();
        Ok((values, Box::new(move |grad| Ok(vec![Some(masked(&kept, &grad)?)]))))
    })
}

/// The gradient where the output is positive.
fn masked(output: &Tensor, grad: &Tensor) -> Result<Tensor> {
    Ok(tensor(map2(&Floats::of(output)?, &Floats::of(grad)?, relu_gradient), output.dims())?)
}

/// Each element times its factor, which is no variable: dropout's mask.
pub fn scale_each(at: At, input: &Value, factors: Vec<f32>) -> Result<Value> {
    if factors.len() != input.elem_count() {
        return Err(refuse(format!("{} factors for {:?}", factors.len(), input.shape())));
    }
    apply(at, &[input], || {
        let factors = tensor(factors, input.dims())?;
        let values = scaled(input, &factors)?;
        Ok((values, Box::new(move |grad| Ok(vec![Some(scaled(&grad, &factors)?)]))))
    })
}

fn scaled(values: &Tensor, factors: &Tensor) -> Result<Tensor> {
    let product = |a: &[f32], b: &[f32], into: &mut [f32]| {
        into.iter_mut().zip(a.iter().zip(b)).for_each(|(into, (a, b))| *into = a * b);
    };
    Ok(tensor(map2(&Floats::of(values)?, &Floats::of(factors)?, product), values.dims())?)
}

/// `(images, height, width, channels)` as `(images, channels * height * width)`: features are numbered channel first,
/// as in PyTorch.
pub fn flatten(at: At, input: &Value) -> Result<Value> {
    on_gpu!(input, super::cuda::ops::flatten(at, input));
    let (images, height, width, channels) = input.dims4()?;
    apply(at, &[input], || {
        let values = input.permute((0, 3, 1, 2))?.contiguous()?.flatten_from(1)?;
        let backward = move |grad: Tensor| {
            let grad = grad.reshape((images, channels, height, width))?;
            Ok(vec![Some(grad.permute((0, 2, 3, 1))?.contiguous()?)])
        };
        Ok((values, Box::new(backward)))
    })
}

/// The mean over all positions of `(images, height, width, channels)`: `(images, channels)`.
pub fn mean(at: At, input: &Value) -> Result<Value> {
    on_gpu!(input, super::cuda::ops::mean(at, input));
    let (images, height, width, channels) = input.dims4()?;
    apply(at, &[input], || {
        let values = input.mean((1, 2))?;
        let backward = move |grad: Tensor| {
            let grad = grad.affine(1.0 / (height * width) as f64, 0.0)?.reshape((images, 1, 1, channels))?;
            Ok(vec![Some(grad.broadcast_as((images, height, width, channels))?.contiguous()?)])
        };
        Ok((values, Box::new(backward)))
    })
}

/// `(rows, 1, 1, columns)` as `(rows, columns)`.
pub fn squeeze(at: At, input: &Value) -> Result<Value> {
    let shape = input.dims4()?;
    apply(at, &[input], || {
        Ok((input.flatten_from(1)?, Box::new(move |grad: Tensor| Ok(vec![Some(grad.reshape(shape)?)]))))
    })
}

/// The sum of two tensors of one shape. Neither's memory is reused: gradients may share theirs.
pub fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    on_gpu!(a, super::cuda::ops::sum(a, b));
    let add = |a: &[f32], b: &[f32], into: &mut [f32]| {
        into.iter_mut().zip(a.iter().zip(b)).for_each(|(into, (a, b))| *into = a + b);
    };
    Ok(tensor(map2(&Floats::of(a)?, &Floats::of(b)?, add), a.dims())?)
}

/// Two equally long slices made into one, a block at a time on all threads.
fn map2(a: &[f32], b: &[f32], f: impl Fn(&[f32], &[f32], &mut [f32]) + Sync) -> Vec<f32> {
    let mut into = vec![0.0; a.len()];
    let work = into.par_chunks_mut(BLOCK).zip(a.par_chunks(BLOCK).zip(b.par_chunks(BLOCK)));
    work.for_each(|(into, (a, b))| f(a, b, into));
    into
}
