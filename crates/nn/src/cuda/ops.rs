//! The operators on a GPU, connected to the tape. [`crate::ops`] calls them for tensors on a GPU.

use std::sync::Arc;

use candle_core::Tensor;

use super::conv;
use super::conv_one_channel;
use super::epilogue::{self, Affine, Output};
use super::kernels::{Argument, Form, each};
use super::linear::Linear;
use super::norm::{self, Norm};
use super::plans::Task;
use super::session::{Session, address, weight_address};
use crate::Mode;
use crate::conv_norm::ConvNorm;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::epilogue::Epilogue;
use crate::error::Result;
use crate::tape::{At, Value, apply};

/// The matrix product that equals a 1x1 convolution; `None` for other convolutions.
fn pointwise(shape: &ConvShape) -> Option<Linear> {
    let rows = shape.images * shape.height * shape.width;
    let plain = (shape.kernel, shape.stride, shape.padding) == (1, 1, 0);
    plain.then_some(Linear { rows, inputs: shape.inputs, outputs: shape.outputs })
}

/// Computes the output before bias and epilogue.
fn convolve(session: &Session, shape: &ConvShape, input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let output = session.activations(&[shape.images, shape.lines(), shape.columns(), shape.outputs])?;
    let (input, weight, into) = (address(input)?, weight_address(weight)?, address(&output)?);
    // SAFETY: the tensors have the shapes of `shape`, which was derived from them.
    match pointwise(shape) {
        Some(linear) => unsafe { linear.forward(session, input, weight, into) }?,
        None if conv_one_channel::takes(shape) => {
            unsafe { conv_one_channel::forward(session, shape, input, weight, into) }?
        }
        None => unsafe { conv::run(session, Task::Forward, shape, input, weight, into) }?,
    }
    Ok(output)
}

/// Computes the gradients of the input, if it is wanted, and of the weight.
fn convolve_back(
    session: &Session,
    shape: &ConvShape,
    input: &Value,
    weight: &Tensor,
    grad: &Tensor,
) -> Result<[Option<Tensor>; 2]> {
    let weight_grad = session.activations(&[shape.outputs, shape.kernel, shape.kernel, shape.inputs])?;
    let (x, w, g) = (address(input)?, weight_address(weight)?, address(grad)?);
    let linear = pointwise(shape);
    let into = address(&weight_grad)?;
    // SAFETY: the tensors have the shapes of `shape`, which was derived from them. The same holds below.
    match linear {
        Some(linear) => unsafe { linear.weight_gradient(session, x, g, into) }?,
        None if conv_one_channel::takes(shape) => {
            unsafe { conv_one_channel::weight_gradient(session, shape, x, g, into) }?
        }
        None => unsafe { conv::run(session, Task::WeightGradient, shape, x, into, g) }?,
    }
    let mut input_grad = None;
    if input.wants_gradient() {
        let tensor = session.activations(input.dims())?;
        let into = address(&tensor)?;
        match linear {
            Some(linear) => unsafe { linear.input_gradient(session, w, g, into) }?,
            None => unsafe { conv::run(session, Task::InputGradient, shape, into, w, g) }?,
        }
        input_grad = Some(tensor);
    }
    // the shape of the weight: outputs, inputs, kernel, kernel
    Ok([input_grad, Some(weight_grad.permute((0, 3, 1, 2))?)])
}

/// Convolution, followed by bias and epilogue.
pub fn conv(at: At, input: &Value, weight: &Value, bias: Option<&Value>, shape: ConvShape) -> Result<Value> {
    let session = Session::of(input)?;
    let operands: Vec<&Value> = [input, weight].into_iter().chain(bias).collect();
    apply(at, &operands, || {
        let before = convolve(&session, &shape, input, weight)?;
        let size = [shape.images, shape.lines(), shape.columns(), shape.outputs];
        let output = match (bias, shape.epilogue) {
            (None, Epilogue::Identity) => Output { values: before, choice: None },
            (bias, epilogue) => {
                let shift = bias.map(|bias| address(bias)).transpose()?.unwrap_or(0);
                epilogue::forward(&session, &before, Affine { shift, ..Affine::default() }, None, epilogue)?
            }
        };
        let values = output.values.clone();
        let (input, weight, with_bias) = (input.clone(), weight.clone(), bias.is_some());
        let backward = move |grad: Tensor| {
            let (grad, bias) = epilogue::gradient(&session, &size, &output, &grad, shape.epilogue, with_bias)?;
            let [input, weight] = convolve_back(&session, &shape, &input, &weight, &grad)?;
            Ok(vec![input, weight, bias])
        };
        Ok((values, Box::new(backward)))
    })
}

/// Convolution and batch norm, plus `other` if it is given, followed by the epilogue. In training, the convolution's
/// bias is not added, since the batch norm would subtract it again; its gradient is 0.
pub fn conv_norm(
    mode: Mode,
    input: &Value,
    layers: ConvNorm,
    other: Option<&Value>,
    shape: ConvShape,
) -> Result<Value> {
    let session = Session::of(input)?;
    let ConvNorm { norm_name, weight, bias, norm_weight, norm_bias, running_mean, running_var, .. } = layers;
    let norm = Norm {
        weight: Tensor::clone(norm_weight),
        bias: Tensor::clone(norm_bias),
        running_mean: running_mean.as_tensor().clone(),
        running_var: running_var.as_tensor().clone(),
        shift: bias.map(|bias| Tensor::clone(bias)),
    };
    if matches!(mode, Mode::Eval) {
        let before = convolve(&session, &shape, input, weight)?;
        let saved = norm::running(&session, &norm)?;
        let output = norm::forward(&session, &before, &norm, &saved, other.map(|other| &**other), shape.epilogue)?;
        return Ok(Value::constant(output.values));
    }
    let operands: Vec<&Value> = [input, weight, norm_weight, norm_bias].into_iter().chain(bias).chain(other).collect();
    apply(mode.at(norm_name), &operands, || {
        let before = convolve(&session, &shape, input, weight)?;
        let saved = norm::statistics(&session, &before, &norm)?;
        let output = norm::forward(&session, &before, &norm, &saved, other.map(|other| &**other), shape.epilogue)?;
        let values = output.values.clone();
        let (input, weight, adds) = (input.clone(), weight.clone(), other.is_some());
        let backward = move |grad: Tensor| {
            let how = (shape.epilogue, adds);
            let found = norm::backward(&session, &before, &norm, &saved, &output, &grad, how)?;
            drop(grad);
            let [input, weight] = convolve_back(&session, &shape, &input, &weight, &found.input)?;
            let mut gradients = vec![input, weight, Some(found.weight), Some(found.bias)];
            if let Some(bias) = &norm.shift {
                gradients.push(Some(session.zeros(bias.elem_count())?));
            }
            if adds {
                gradients.push(found.other);
            }
            Ok(gradients)
        };
        Ok((values, Box::new(backward)))
    })
}

/// The fully connected layer.
pub fn linear(at: At, input: &Value, weight: &Value, bias: &Value) -> Result<Value> {
    let session = Session::of(input)?;
    let ((rows, inputs), outputs) = (input.dims2()?, bias.elem_count());
    let shape = Linear { rows, inputs, outputs };
    apply(at, &[input, weight, bias], || {
        let values = session.activations(&[rows, outputs])?;
        // SAFETY: the tensors have the shapes of `shape`, which was derived from them. The same holds below.
        unsafe { shape.forward(&session, address(input)?, address(weight)?, address(&values)?) }?;
        let pixels = values.reshape((rows, 1, 1, outputs))?;
        let map = Affine { shift: address(bias)?, ..Affine::default() };
        epilogue::into(&session, &pixels, map, None, &pixels, None, Epilogue::Identity)?;
        let (input, weight) = (input.clone(), weight.clone());
        let backward = move |grad: Tensor| {
            let output = Output { values: grad.clone(), choice: None };
            let (_, bias) =
                epilogue::gradient(&session, &[rows, 1, 1, outputs], &output, &grad, Epilogue::Identity, true)?;
            let weight_grad = session.activations(&[outputs, inputs])?;
            let g = address(&grad)?;
            unsafe { shape.weight_gradient(&session, address(&input)?, g, address(&weight_grad)?) }?;
            let mut input_grad = None;
            if input.wants_gradient() {
                let tensor = session.activations(input.dims())?;
                unsafe { shape.input_gradient(&session, address(&weight)?, g, address(&tensor)?) }?;
                input_grad = Some(tensor);
            }
            Ok(vec![input_grad, Some(weight_grad), bias])
        };
        Ok((values, Box::new(backward)))
    })
}

/// Launches an elementwise kernel on tensors of the same shape: the operands, which are read, and the result.
fn elementwise(session: &Session, name: &'static str, operands: &[&Tensor]) -> Result<Tensor> {
    let first = operands[0];
    let count = first.elem_count();
    let form = session.form(count);
    let groups = count / session.lanes(form);
    let into = session.activations(first.dims())?;
    let mut arguments = Vec::with_capacity(operands.len() + 2);
    for operand in operands.iter().copied().chain([&into]) {
        arguments.push(address(operand)?.into());
    }
    arguments.push(Argument::Long(groups as u64));
    // SAFETY: the kernels named by the callers take this number of tensors of the same size, and that size.
    unsafe { session.launch(form, name, each(groups), &arguments) }?;
    Ok(into)
}

/// The function `max(a + b, 0)`.
pub fn add_relu(at: At, a: &Value, b: &Value) -> Result<Value> {
    let session = Session::of(a)?;
    apply(at, &[a, b], || {
        let values = elementwise(&session, "add_relu", &[a, b])?;
        let kept = values.clone();
        let backward = move |grad: Tensor| {
            let both = elementwise(&session, "relu_gradient", &[&kept, &grad])?;
            Ok(vec![Some(both.clone()), Some(both)])
        };
        Ok((values, Box::new(backward)))
    })
}

/// The function `max(x, 0)`.
pub fn relu(at: At, input: &Value) -> Result<Value> {
    let session = Session::of(input)?;
    apply(at, &[input], || {
        let values = elementwise(&session, "relu_forward", &[input])?;
        let kept = values.clone();
        Ok((values, Box::new(move |grad| Ok(vec![Some(elementwise(&session, "relu_gradient", &[&kept, &grad])?)]))))
    })
}

/// The sum of two tensors of the same shape.
pub fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    elementwise(&*Session::of(a)?, "sum", &[a, b])
}

/// Drops elements by the random streams of a layer: see [`crate::ops::dropout`].
pub fn dropout(at: At, input: &Value, rate: f64, layer: usize) -> Result<Value> {
    let session = Session::of(input)?;
    apply(at, &[input], || {
        let values = drop_some(&session, input, rate, layer)?;
        Ok((values, Box::new(move |grad| Ok(vec![Some(drop_some(&session, &grad, rate, layer)?)]))))
    })
}

fn drop_some(session: &Arc<Session>, input: &Tensor, rate: f64, layer: usize) -> Result<Tensor> {
    let (rows, columns) = input.dims2()?;
    let into = session.activations(input.dims())?;
    let (keys, layers) = session.keys()?;
    let arguments = [
        address(input)?.into(),
        address(&into)?.into(),
        rows.into(),
        columns.into(),
        keys.into(),
        layers.into(),
        layer.into(),
        session.step().into(),
        Argument::Long((rate * 2f64.powi(32)) as u64),
        Argument::Float((1.0 / (1.0 - rate)) as f32),
    ];
    // SAFETY: the arguments are those of the kernel; there are keys for every step and layer.
    unsafe { session.launch(Form::Single, "dropout", each(rows * columns.div_ceil(16)), &arguments) }?;
    Ok(into)
}

/// Transposes each image of `(images, rows, columns)`.
fn exchange(session: &Session, input: &Tensor, into: &[usize], [images, rows, columns]: [usize; 3]) -> Result<Tensor> {
    let output = session.activations(into)?;
    let arguments = [address(input)?.into(), address(&output)?.into(), images.into(), rows.into(), columns.into()];
    // SAFETY: the arguments are those of the kernel; both tensors have `images * rows * columns` elements.
    unsafe { session.launch(Form::Single, "exchange", each(images * rows * columns), &arguments) }?;
    Ok(output)
}

/// Flattens with the channels first: see [`crate::ops::flatten`].
pub fn flatten(at: At, input: &Value) -> Result<Value> {
    let session = Session::of(input)?;
    let (images, height, width, channels) = input.dims4()?;
    apply(at, &[input], || {
        let area = height * width;
        let values = exchange(&session, input, &[images, channels * area], [images, area, channels])?;
        let backward = move |grad: Tensor| {
            let shape = [images, height, width, channels];
            Ok(vec![Some(exchange(&session, &grad, &shape, [images, channels, area])?)])
        };
        Ok((values, Box::new(backward)))
    })
}

/// The mean over all positions: see [`crate::ops::mean`].
pub fn mean(at: At, input: &Value) -> Result<Value> {
    let session = Session::of(input)?;
    let (images, height, width, channels) = input.dims4()?;
    let positions = height * width;
    apply(at, &[input], || {
        let values = session.activations(&[images, channels])?;
        let arguments =
            [address(input)?.into(), address(&values)?.into(), images.into(), positions.into(), channels.into()];
        // SAFETY: the arguments are those of the kernel, and they state the sizes of the tensors.
        unsafe { session.launch(Form::Single, "mean_forward", each(images * channels), &arguments) }?;
        let backward = move |grad: Tensor| {
            let into = session.activations(&[images, height, width, channels])?;
            let form = session.form(channels);
            let arguments =
                [address(&grad)?.into(), address(&into)?.into(), images.into(), positions.into(), channels.into()];
            let groups = into.elem_count() / session.lanes(form);
            // SAFETY: the arguments are those of the kernel, and they state the sizes of the tensors.
            unsafe { session.launch(form, "mean_gradient", each(groups), &arguments) }?;
            Ok(vec![Some(into)])
        };
        Ok((values, Box::new(backward)))
    })
}
