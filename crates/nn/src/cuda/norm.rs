//! Batch norm on the device: see [`crate::cpu::norm`].

use candle_core::{DType, Tensor};

use super::epilogue::{self, Affine, Output, number, optional, size};
use super::kernels::{Argument, Form, each, summing, writing};
use super::session::{Session, address};
use crate::cpu::epilogue::Epilogue;
use crate::error::Result;

/// The tensors of a batch norm, `(channels)` each, in floats.
pub struct Norm {
    /// Scale.
    pub weight: Tensor,
    /// Shift.
    pub bias: Tensor,
    /// Running mean.
    pub running_mean: Tensor,
    /// Running variance.
    pub running_var: Tensor,
    /// The bias of the convolution before, which is not added: the norm would take it away again.
    pub shift: Option<Tensor>,
}

/// Per channel the mean, the scale and the inverse deviation, one after the other: `(3, channels)`.
pub struct Saved(Tensor);

impl Saved {
    fn affine(&self, norm: &Norm) -> Result<Affine> {
        let (start, channels) = (address(&self.0)?, norm.bias.elem_count() as u64);
        Ok(Affine { mean: start, scale: start + 4 * channels, shift: address(&norm.bias)? })
    }
}

/// The batch's statistics; moves the running ones.
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
    // SAFETY: the kernel's arguments; the tensors have the sizes that it is told.
    unsafe { session.launch(form, "norm_statistics", summing(rows, channels, session.lanes(form)), &arguments) }?;
    Ok(Saved(saved))
}

/// What evaluation takes in their place.
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
    // SAFETY: the kernel's arguments; the tensors have the sizes that it is told.
    unsafe { session.launch(Form::Single, "norm_running", each(channels), &arguments) }?;
    Ok(Saved(saved))
}

/// The normalised input, plus `other` where it is given, finished.
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
    /// Of the input.
    pub input: Tensor,
    /// Of the scale.
    pub weight: Tensor,
    /// Of the shift.
    pub bias: Tensor,
    /// Of what was added before the epilogue, if anything was.
    pub other: Option<Tensor>,
}

/// The gradients, from what the forward pass had and the gradient of its result. `other` tells that something was added.
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
    // SAFETY: the kernel's arguments; the tensors have the sizes that it is told.
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
    // SAFETY: the kernel's arguments; the tensors have the sizes that it is told.
    unsafe { session.launch(form, "norm_gradient", writing(rows.div_ceil(windows), channels, lanes), &arguments) }?;
    Ok(Gradients { input: into, weight, bias, other: shortcut })
}
