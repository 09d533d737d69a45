//! Batch norm on the GPU: see [`crate::cpu::norm`].

use candle_core::{DType, Tensor};

use super::epilogue::{self, Affine, Output, number, optional, size};
use super::kernels::{Argument, Form, each, summing, writing};
use super::session::{Session, address};
use crate::cpu::epilogue::Epilogue;
use crate::error::Result;

/// The tensors of a batch norm, each `(channels)` in float32.
pub struct Norm {
    /// The factor of the normalised values (gamma).
    pub weight: Tensor,
    /// The summand of the normalised values (beta).
    pub bias: Tensor,
    /// The running mean.
    pub running_mean: Tensor,
    /// The running variance.
    pub running_var: Tensor,
    /// The bias of the preceding convolution. It is not added, since the batch norm would subtract it again.
    pub shift: Option<Tensor>,
}

/// The mean, the scale and the inverse standard deviation of each channel, `(3, channels)`.
pub struct Saved(Tensor);

impl Saved {
    fn affine(&self, norm: &Norm) -> Result<Affine> {
        let (start, channels) = (address(&self.0)?, norm.bias.elem_count() as u64);
        Ok(Affine { mean: start, scale: start + 4 * channels, shift: address(&norm.bias)? })
    }
}

/// Computes the statistics of the batch and updates the running statistics.
pub fn statistics(session: &Session, input: &Tensor, norm: &Norm) -> Result<Saved> {
    let (images, height, width, channels) = input.dims4()?;
    let saved = session.empty(&[3, channels], DType::F32)?;
    let rows = images * height * width;
    let form = session.form(channels);
    let [partial, tickets] = session.sums();
    let arguments = [
        address(input)?.into(),
        rows.into(),
        channels.into(),
        address(&norm.weight)?.into(),
        optional(norm.shift.as_ref())?,
        address(&norm.running_mean)?.into(),
        address(&norm.running_var)?.into(),
        address(&saved)?.into(),
        partial,
        tickets,
    ];
    // SAFETY: the arguments are those of the kernel, and they state the sizes of the tensors.
    unsafe { session.launch(form, "norm_statistics", summing(rows, channels, session.lanes(form)), &arguments) }?;
    Ok(Saved(saved))
}

/// The running statistics in place of the batch's, for evaluation.
pub fn running(session: &Session, norm: &Norm) -> Result<Saved> {
    let channels = norm.weight.elem_count();
    let saved = session.empty(&[3, channels], DType::F32)?;
    let arguments = [
        address(&norm.running_mean)?.into(),
        address(&norm.running_var)?.into(),
        address(&norm.weight)?.into(),
        optional(norm.shift.as_ref())?,
        channels.into(),
        address(&saved)?.into(),
    ];
    // SAFETY: the arguments are those of the kernel, and they state the sizes of the tensors.
    unsafe { session.launch(Form::Single, "norm_running", each(channels), &arguments) }?;
    Ok(Saved(saved))
}

/// Normalises the input, adds `other` if it is given, and applies the epilogue.
pub fn forward(
    session: &Session,
    input: &Tensor,
    norm: &Norm,
    saved: &Saved,
    other: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Output> {
    epilogue::forward(session, input, saved.affine(norm)?, other, epilogue)
}

/// The gradients of a batch norm.
pub struct Gradients {
    /// The gradient of the input.
    pub input: Tensor,
    /// The gradient of the scale.
    pub weight: Tensor,
    /// The gradient of the shift.
    pub bias: Tensor,
    /// The gradient of the tensor that was added before the epilogue, if there was one.
    pub other: Option<Tensor>,
}

/// Computes the gradients from the operands and the result of the forward pass and the gradient of the result. `other`
/// tells whether a tensor was added before the epilogue.
pub fn backward(
    session: &Session,
    input: &Tensor,
    norm: &Norm,
    saved: &Saved,
    output: &Output,
    grad: &Tensor,
    (epilogue, other): (Epilogue, bool),
) -> Result<Gradients> {
    let (images, height, width, channels) = input.dims4()?;
    let [weight, bias] = [session.empty(&[channels], DType::F32)?, session.empty(&[channels], DType::F32)?];
    let slopes = session.empty(&[2, channels], DType::F32)?;
    let form = session.form(channels);
    let (size, rows, lanes) = (size(input)?, images * height * width, session.lanes(form));
    let [partial, tickets] = session.sums();
    let signs = optional(other.then_some(&output.values))?;
    let choice = optional(output.choice.as_ref())?;
    let [x, grad, saved] = [address(input)?, address(grad)?, address(&saved.0)?].map(Argument::Long);
    let arguments = [
        x,
        signs,
        choice,
        grad,
        saved,
        address(&norm.weight)?.into(),
        address(&norm.bias)?.into(),
        Argument::Words(&size),
        number(epilogue),
        address(&weight)?.into(),
        address(&bias)?.into(),
        address(&slopes)?.into(),
        partial,
        tickets,
    ];
    let windows = if epilogue == Epilogue::ReluPool { 4 } else { 1 };
    // SAFETY: the arguments are those of the kernel, and they state the sizes of the tensors.
    unsafe { session.launch(form, "norm_sums", summing(rows.div_ceil(windows), channels, lanes), &arguments) }?;
    let into = session.activations(input.dims())?;
    let shortcut = other.then(|| session.activations(input.dims())).transpose()?;
    let arguments = [
        x,
        signs,
        choice,
        grad,
        saved,
        address(&norm.bias)?.into(),
        address(&slopes)?.into(),
        Argument::Words(&size),
        number(epilogue),
        address(&into)?.into(),
        optional(shortcut.as_ref())?,
    ];
    // SAFETY: the arguments are those of the kernel, and they state the sizes of the tensors.
    unsafe { session.launch(form, "norm_gradient", writing(rows.div_ceil(windows), channels, lanes), &arguments) }?;
    Ok(Gradients { input: into, weight, bias, other: shortcut })
}
