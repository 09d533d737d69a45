//! The operators of the networks on tensors, with their gradients.
//!
//! This module alone selects the kernels of an operator by the device of a tensor. The crate has operators of its own
//! because those of candle are slow on the CPU, have a wrong gradient (max pooling) or a gradient that
//! differs from PyTorch's (ReLU at 0).

use candle_core::{DType, Tensor};
use half::bf16;
use rand_chacha::rand_core::Rng;
use rayon::prelude::*;

use crate::Mode;
use crate::conv_norm::ConvNorm;
use crate::cpu::bf16 as narrow;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::element::Element;
use crate::cpu::epilogue::{Epilogue, relu, relu_gradient};
use crate::cpu::linear;
use crate::cpu::norm;
use crate::cpu::pooling::{self, PoolShape};
use crate::cpu::products::Factor;
use crate::cpu::vector::widest;
use crate::error::{Error, Result};
use crate::floats::{Elements, Floats, tensor};
use crate::rng::Streams;
use crate::tape::{At, Gradients, Tape, Value, apply};

/// Calls a function on the CPU for the type of the activations, which is that of a tensor.
macro_rules! by_type {
    ($tensor:expr, $function:ident($($argument:expr),*)) => {
        match $tensor.dtype() {
            DType::BF16 => $function::<bf16>($($argument),*),
            _ => $function::<f32>($($argument),*),
        }
    };
}

/// The number of elements that a thread handles at a time in elementwise operations.
const BLOCK: usize = 1 << 14;

impl Tape {
    /// The gradients of the parameters, given the gradients of some outputs.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the numbers of outputs and gradients differ, or an output belongs to another tape.
    pub fn backward(self, outputs: &[Value], gradients: Vec<Tensor>) -> Result<Gradients> {
        self.backward_by(sum, outputs, gradients)
    }
}

/// The shape of a convolution of two tensors. Returns an error if their shapes do not match.
pub fn conv_shape(
    input: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
    epilogue: Epilogue,
) -> Result<ConvShape> {
    let (images, height, width, inputs) = input.dims4()?;
    let (outputs, depth, kernel, _) = weight.dims4()?;
    if depth != inputs || height.min(width) + 2 * padding < kernel {
        return Err(Error::tensor(format!(
            "a convolution of {:?} with {:?} does not exist",
            input.shape(),
            weight.shape()
        )));
    }
    let shape = ConvShape { images, height, width, inputs, outputs, kernel, stride, padding, epilogue };
    if shape.shape().contains(&0) {
        let message = format!("nothing is left of {:?} after a convolution with {:?}", input.shape(), weight.shape());
        return Err(Error::tensor(message));
    }
    Ok(shape)
}

/// Convolution of `(images, height, width, inputs)` with `(outputs, inputs, kernel, kernel)`, followed by `epilogue`.
pub fn conv(
    at: At,
    input: &Value,
    weight: &Value,
    bias: Option<&Value>,
    stride: usize,
    padding: usize,
    epilogue: Epilogue,
) -> Result<Value> {
    let shape = conv_shape(input, weight, stride, padding, epilogue)?;
    on_gpu!(input, crate::cuda::ops::conv(at, input, weight, bias, shape));
    by_type!(input, conv_of(at, input, weight, bias, shape))
}

/// A convolution of activations of type `T`.
fn conv_of<T: Factor>(at: At, input: &Value, weight: &Value, bias: Option<&Value>, shape: ConvShape) -> Result<Value> {
    let outputs = shape.outputs;
    let operands: Vec<&Value> = [input, weight].into_iter().chain(bias).collect();
    apply(at, &operands, || {
        let bias = bias.map(|bias| Floats::of(bias)).transpose()?;
        let output = T::conv(&shape, &Elements::of(input)?, &Floats::of(weight)?, bias.as_deref());
        let (values, choice) = (tensor(output.values, &shape.shape())?, output.choice);
        let (input, weight, kept) = (input.clone(), weight.clone(), values.clone());
        let backward = move |grad: Tensor| {
            let (wanted, values, weights) = (input.wants_gradient(), Elements::<T>::of(&input)?, Floats::of(&weight)?);
            let (kept, grad) = (Elements::of(&kept)?, Elements::of(&grad)?);
            let found = T::conv_gradients(&shape, (&values, &weights), (&kept, &choice), &grad, wanted);
            Ok(vec![
                found.input.map(|values| tensor(values, input.dims())).transpose()?,
                Some(tensor(found.weight, weight.dims())?),
                Some(tensor(found.bias, &[outputs])?),
            ])
        };
        Ok((values, Box::new(backward)))
    })
}

/// Batch norm of `(images, height, width, channels)` by the statistics of the batch, followed by `epilogue`. Returns
/// the statistics too.
pub(crate) fn batch_norm(
    at: At,
    input: &Value,
    weight: &Value,
    bias: &Value,
    epilogue: Epilogue,
) -> Result<(Value, norm::Statistics)> {
    by_type!(input, batch_norm_of(at, input, weight, bias, epilogue))
}

fn batch_norm_of<T: Element>(
    at: At,
    input: &Value,
    weight: &Value,
    bias: &Value,
    epilogue: Epilogue,
) -> Result<(Value, norm::Statistics)> {
    let (images, height, width, channels) = input.dims4()?;
    let shape = norm::NormShape { images, height, width, channels, epilogue };
    let mut statistics = norm::Statistics::default();
    let value = apply(at, &[input, weight, bias], || {
        let mut output = shape.forward(&Elements::<T>::of(input)?, &Floats::of(weight)?, &Floats::of(bias)?);
        let values = tensor(std::mem::take(&mut output.values), &shape.shape())?;
        statistics = output.statistics.clone();
        let (input, weight, kept) = (input.clone(), weight.clone(), values.clone());
        let backward = move |grad: Tensor| {
            let (values, weights) = (Elements::<T>::of(&input)?, Floats::of(&weight)?);
            let found = shape.backward(&values, &weights, &output, &Elements::of(&kept)?, &Elements::of(&grad)?);
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

/// The product `input weight^T + bias` for `input` `(rows, inputs)` and `weight` `(outputs, inputs)`. On the CPU, its factors,
/// and those of its gradients, are rounded to the type `factors`; all operands and results are f32.
pub fn linear(at: At, input: &Value, weight: &Value, bias: &Value, factors: DType) -> Result<Value> {
    let ((rows, inputs), (outputs, depth)) = (input.dims2()?, weight.dims2()?);
    if depth != inputs {
        return Err(Error::tensor(format!(
            "a linear layer of {:?} with {:?} does not exist",
            input.shape(),
            weight.shape()
        )));
    }
    on_gpu!(input, crate::cuda::ops::linear(at, input, weight, bias));
    let shape = linear::LinearShape { rows, inputs, outputs };
    let is_narrow = factors == DType::BF16;
    apply(at, &[input, weight, bias], || {
        let operands = (Floats::of(input)?, Floats::of(weight)?, Floats::of(bias)?);
        let values = match is_narrow {
            true => narrow::linear::forward(&shape, &operands.0, &operands.1, &operands.2),
            false => shape.forward(&operands.0, &operands.1, &operands.2),
        };
        let (input, weight) = (input.clone(), weight.clone());
        let backward = move |grad: Tensor| {
            let (grad, weights) = (Floats::of(&grad)?, Floats::of(&weight)?);
            let input_gradient = || match is_narrow {
                true => narrow::linear::input_gradient(&shape, &weights, &grad),
                false => shape.input_gradient(&weights, &grad),
            };
            let input_gradient = match input.wants_gradient() {
                true => Some(tensor(input_gradient(), input.dims())?),
                false => None,
            };
            let weight_gradient = match is_narrow {
                true => narrow::linear::weight_gradient(&shape, &Floats::of(&input)?, &grad),
                false => shape.weight_gradient(&Floats::of(&input)?, &grad),
            };
            let weight_gradient = tensor(weight_gradient, weight.dims())?;
            Ok(vec![input_gradient, Some(weight_gradient), Some(tensor(shape.bias_gradient(&grad), &[outputs])?)])
        };
        Ok((tensor(values, &[rows, outputs])?, Box::new(backward)))
    })
}

/// The function `max(a + b, 0)` of two tensors of the same shape.
pub fn add_relu(at: At, a: &Value, b: &Value) -> Result<Value> {
    if a.shape() != b.shape() {
        return Err(Error::tensor(format!("a sum of {:?} and {:?} does not exist", a.shape(), b.shape())));
    }
    on_gpu!(a, crate::cuda::ops::add_relu(at, a, b));
    by_type!(a, add_relu_of(at, a, b))
}

fn add_relu_of<T: Element>(at: At, a: &Value, b: &Value) -> Result<Value> {
    apply(at, &[a, b], || {
        let values = map2::<T>(&Elements::of(a)?, &Elements::of(b)?, |left, right, sum| {
            widest(
                #[inline(always)]
                || {
                    for (sum, (a, b)) in sum.iter_mut().zip(left.iter().zip(right)) {
                        let value = a.widen() + b.widen();
                        *sum = T::narrow(if value < 0.0 { 0.0 } else { value });
                    }
                },
            );
        });
        let values = tensor(values, a.dims())?;
        let kept = values.clone();
        let backward = move |grad: Tensor| {
            let both = masked::<T>(&kept, &grad)?;
            Ok(vec![Some(both.clone()), Some(both)])
        };
        Ok((values, Box::new(backward)))
    })
}

/// The function `max(x, 0)`, whose derivative at 0 is 0.
pub fn relu_of(at: At, input: &Value) -> Result<Value> {
    on_gpu!(input, crate::cuda::ops::relu(at, input));
    apply(at, &[input], || {
        let mut values = Floats::of(input)?.to_vec();
        relu(&mut values);
        let values = tensor(values, input.dims())?;
        let kept = values.clone();
        Ok((values, Box::new(move |grad| Ok(vec![Some(masked::<f32>(&kept, &grad)?)]))))
    })
}

/// The gradient where the output is positive, and 0 elsewhere.
fn masked<T: Element>(output: &Tensor, grad: &Tensor) -> Result<Tensor> {
    Ok(tensor(map2::<T>(&Elements::of(output)?, &Elements::of(grad)?, relu_gradient), output.dims())?)
}

/// A convolution and its batch norm, followed by the epilogue. Training normalises by the statistics of the batch and
/// updates the running statistics. Evaluation normalises by the running statistics, which are folded into the
/// convolution, and has no gradient.
pub fn conv_norm(mode: Mode, input: &Value, layers: ConvNorm, epilogue: Epilogue) -> Result<Value> {
    let ConvNorm { weight, bias, stride, padding, .. } = layers;
    let shape = conv_shape(input, weight, stride, padding, epilogue)?;
    on_gpu!(input, crate::cuda::ops::conv_norm(mode, input, layers, None, shape));
    let at = mode.at(layers.conv_name);
    match mode {
        Mode::Train { .. } => {
            let input = conv(at, input, weight, bias, stride, padding, Epilogue::Identity)?;
            let (scale, shift) = (layers.norm_weight, layers.norm_bias);
            let (output, batch) = batch_norm(mode.at(layers.norm_name), &input, scale, shift, epilogue)?;
            layers.follow(&batch, input.elem_count() / shape.outputs)?;
            Ok(output)
        }
        Mode::Eval => {
            let (weight, bias) = layers.folded()?;
            conv(at, input, &weight, Some(&bias), stride, padding, epilogue)
        }
    }
}

/// A convolution and its batch norm, plus `residual`, followed by ReLU. `name` is the name of the sum.
pub fn conv_norm_residual(mode: Mode, input: &Value, layers: ConvNorm, residual: &Value, name: &str) -> Result<Value> {
    on_gpu!(input, {
        let shape = conv_shape(input, layers.weight, layers.stride, layers.padding, Epilogue::Relu)?;
        crate::cuda::ops::conv_norm(mode, input, layers, Some(residual), shape)
    });
    add_relu(mode.at(name), &conv_norm(mode, input, layers, Epilogue::Identity)?, residual)
}

/// The random streams of a dropout layer in one step, one for each row of the batch.
pub fn dropout_streams(seed: u64, layer: &str, step: u64) -> Streams {
    Streams::new(seed, &format!("dropout/{layer}"), step)
}

/// Sets each element of `(rows, columns)` to 0 with probability `rate` and multiplies the others by `1 / (1 - rate)`.
/// On the CPU, each row draws from its own stream of `streams`. A GPU holds the keys of these streams and finds them by
/// the number of the layer.
pub fn dropout(
    at: At,
    input: &Value,
    rate: f64,
    streams: &Streams,
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "a GPU finds its keys by it"))] layer: usize,
) -> Result<Value> {
    on_gpu!(input, crate::cuda::ops::dropout(at, input, rate, layer));
    let (rows, columns) = input.dims2()?;
    let (dropped, kept) = ((rate * 2f64.powi(32)) as u64, (1.0 / (1.0 - rate)) as f32);
    let mut factors = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        let mut rng = streams.at(row as u64);
        factors.extend((0..columns).map(|_| if u64::from(rng.next_u32()) < dropped { 0.0 } else { kept }));
    }
    apply(at, &[input], || {
        let factors = tensor(factors, input.dims())?;
        let values = product(input, &factors)?;
        Ok((values, Box::new(move |grad| Ok(vec![Some(product(&grad, &factors)?)]))))
    })
}

/// The elementwise product of two tensors of the same shape.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let multiply = |a: &[f32], b: &[f32], into: &mut [f32]| {
        into.iter_mut().zip(a.iter().zip(b)).for_each(|(into, (a, b))| *into = a * b);
    };
    Ok(tensor(map2(&Floats::of(a)?, &Floats::of(b)?, multiply), a.dims())?)
}

/// Reshapes `(images, height, width, channels)` to `(images, channels * height * width)`. Features are numbered channel
/// first, as in PyTorch.
pub fn flatten(at: At, input: &Value) -> Result<Value> {
    on_gpu!(input, crate::cuda::ops::flatten(at, input));
    let input = &in_f32(at, input)?;
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

/// The mean over all positions of `(images, height, width, channels)`, of shape `(images, channels)`.
pub fn mean(at: At, input: &Value) -> Result<Value> {
    on_gpu!(input, crate::cuda::ops::mean(at, input));
    let input = &in_f32(at, input)?;
    let (images, height, width, channels) = input.dims4()?;
    let shape = PoolShape { images, positions: height * width, channels };
    apply(at, &[input], || {
        let values = tensor(shape.mean(&Floats::of(input)?), &[images, channels])?;
        let backward = move |grad: Tensor| {
            let grad = grad.affine(1.0 / (height * width) as f64, 0.0)?.reshape((images, 1, 1, channels))?;
            Ok(vec![Some(grad.broadcast_as((images, height, width, channels))?.contiguous()?)])
        };
        Ok((values, Box::new(backward)))
    })
}

/// The maximum over all positions of `(images, height, width, channels)`, of shape `(images, channels)`. The gradient
/// goes to the first position with the maximum, as in PyTorch's `adaptive_max_pool2d`.
pub fn max(at: At, input: &Value) -> Result<Value> {
    on_gpu!(input, crate::cuda::pooling::max(at, input));
    let input = &in_f32(at, input)?;
    let (images, height, width, channels) = input.dims4()?;
    let shape = PoolShape { images, positions: height * width, channels };
    apply(at, &[input], || {
        let (values, places) = shape.max(&Floats::of(input)?);
        let backward = move |grad: Tensor| {
            let values = shape.max_gradient(&places, &Floats::of(&grad)?);
            Ok(vec![Some(tensor(values, &[images, height, width, channels])?)])
        };
        Ok((tensor(values, &[images, channels])?, Box::new(backward)))
    })
}

/// Pools features by attention. The weights of a head are the softmax, over all positions of an image, of its `scores`,
/// `(images, height, width, heads)`. The result holds the weighted mean of `features`, `(images, height, width,
/// channels)`, for each head of each image: `(images * heads, channels)`.
pub fn attend(at: At, scores: &Value, features: &Value) -> Result<Value> {
    let (images, height, width, channels) = features.dims4()?;
    let heads = scores.dims4()?.3;
    if scores.dims4()? != (images, height, width, heads) {
        let found = format!("attention with scores {:?} on features {:?}", scores.shape(), features.shape());
        return Err(Error::tensor(format!("{found} does not exist")));
    }
    on_gpu!(features, crate::cuda::pooling::attend(at, scores, features));
    let (scores, features) = (&in_f32(at, scores)?, &in_f32(at, features)?);
    let shape = PoolShape { images, positions: height * width, channels };
    apply(at, &[scores, features], || {
        let weights = shape.attention(&Floats::of(scores)?, heads);
        let values = shape.weighted(&weights, &Floats::of(features)?, heads);
        let features = features.clone();
        let backward = move |grad: Tensor| {
            let floats = Floats::of(&features)?;
            let (scores, found) = shape.attention_gradients(&weights, &floats, &Floats::of(&grad)?, heads);
            let scores = tensor(scores, &[images, height, width, heads])?;
            Ok(vec![Some(scores), Some(tensor(found, features.dims())?)])
        };
        Ok((tensor(values, &[images * heads, channels])?, Box::new(backward)))
    })
}

/// Cuts `count` windows side by side out of each image of `(images, height, width, 1)`, which has no gradient. Window
/// `l` begins at column `l * width / count - margin` and has `width / count + 2 * margin` columns, both rounded down.
/// Columns outside the image are 0. Returns `(images * count, height, width / count + 2 * margin, 1)`, image by image.
pub fn windows(input: &Tensor, count: usize, margin: usize) -> Result<Value> {
    let (images, height, width, channels) = input.dims4()?;
    if channels != 1 || count == 0 || width < count {
        return Err(Error::tensor(format!("{count} windows of images {:?} do not exist", input.shape())));
    }
    on_gpu!(input, crate::cuda::pooling::windows(input, count, margin));
    let shape = [images * count, height, width / count + 2 * margin, 1];
    by_type!(input, windows_of(input, [height, width], count, margin, &shape))
}

fn windows_of<T: Element>(
    input: &Tensor,
    size: [usize; 2],
    count: usize,
    margin: usize,
    shape: &[usize],
) -> Result<Value> {
    let values = pooling::windows(&Elements::<T>::of(input)?, size, count, margin);
    Ok(Value::constant(tensor(values, shape)?))
}

/// Every `step`-th row of `(rows, columns)`, from row `first` on.
pub fn every(at: At, input: &Value, first: usize, step: usize) -> Result<Value> {
    let (rows, columns) = input.dims2()?;
    if step == 0 || first >= step || rows % step != 0 {
        return Err(Error::tensor(format!("rows {first}, {first} + {step}, .. of {:?} do not exist", input.shape())));
    }
    on_gpu!(input, crate::cuda::pooling::every(at, input, first, step));
    apply(at, &[input], || {
        let chosen: Vec<f32> =
            Floats::of(input)?.chunks_exact(columns).skip(first).step_by(step).flatten().copied().collect();
        let backward = move |grad: Tensor| {
            let mut values = vec![0.0; rows * columns];
            let into = values.chunks_exact_mut(columns).skip(first).step_by(step);
            into.zip(Floats::of(&grad)?.chunks_exact(columns)).for_each(|(into, row)| into.copy_from_slice(row));
            Ok(vec![Some(tensor(values, &[rows, columns])?)])
        };
        Ok((tensor(chosen, &[rows / step, columns])?, Box::new(backward)))
    })
}

/// Reshapes `(rows, 1, 1, columns)` to `(rows, columns)`.
pub fn squeeze(at: At, input: &Value) -> Result<Value> {
    let shape = input.dims4()?;
    let input = match input.device().is_cpu() {
        true => &in_f32(at, input)?,
        false => input,
    };
    apply(at, &[input], || {
        Ok((input.flatten_from(1)?, Box::new(move |grad: Tensor| Ok(vec![Some(grad.reshape(shape)?)]))))
    })
}

/// The sum of two tensors of the same shape. It is written to new memory, since gradients may share theirs.
fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    on_gpu!(a, crate::cuda::ops::sum(a, b));
    by_type!(a, sum_of(a, b))
}

fn sum_of<T: Element>(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let add = |a: &[T], b: &[T], into: &mut [T]| {
        widest(
            #[inline(always)]
            || {
                let terms = a.iter().zip(b);
                into.iter_mut().zip(terms).for_each(|(into, (a, b))| *into = T::narrow(a.widen() + b.widen()));
            },
        );
    };
    Ok(tensor(map2(&Elements::of(a)?, &Elements::of(b)?, add), a.dims())?)
}

/// The activations in another type, or the same tensor if they are of this type.
pub fn in_type(activations: &Tensor, dtype: DType) -> Result<Tensor> {
    match (activations.dtype(), dtype) {
        (DType::F32, DType::BF16) if activations.device().is_cpu() => converted::<f32, bf16>(activations),
        (DType::BF16, DType::F32) if activations.device().is_cpu() => converted::<bf16, f32>(activations),
        _ => Ok(activations.to_dtype(dtype)?),
    }
}

fn converted<F: Element, T: Element>(from: &Tensor) -> Result<Tensor> {
    let values = Elements::<F>::of(from)?;
    let mut into = vec![T::default(); values.len()];
    into.par_chunks_mut(BLOCK).zip(values.par_chunks(BLOCK)).for_each(|(into, values)| {
        widest(
            #[inline(always)]
            || into.iter_mut().zip(values).for_each(|(into, value)| *into = T::narrow(value.widen())),
        );
    });
    Ok(tensor(into, from.dims())?)
}

/// The activations in f32, on the CPU. The gradient has their type.
fn in_f32(at: At, input: &Value) -> Result<Value> {
    let dtype = input.dtype();
    match dtype {
        DType::F32 => Ok(input.clone()),
        _ => apply(at, &[input], || {
            let backward = move |grad: Tensor| Ok(vec![Some(in_type(&grad, dtype)?)]);
            Ok((in_type(input, DType::F32)?, Box::new(backward)))
        }),
    }
}

/// Combines two slices of equal length into one with `f`, block by block on all threads.
fn map2<T: Element>(a: &[T], b: &[T], f: impl Fn(&[T], &[T], &mut [T]) + Sync) -> Vec<T> {
    let mut into = vec![T::default(); a.len()];
    let work = into.par_chunks_mut(BLOCK).zip(a.par_chunks(BLOCK).zip(b.par_chunks(BLOCK)));
    work.for_each(|(into, (a, b))| f(a, b, into));
    into
}
