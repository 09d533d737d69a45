//! The epilogue of an operator on the GPU: see [`crate::cpu::epilogue`].

use candle_core::{DType, Tensor};

use super::kernels::{Argument, summing, writing};
use super::session::{Session, address};
use crate::cpu::epilogue::Epilogue;
use crate::error::Result;

/// The output of an operator, with the choices of its pooling windows if it has any.
pub struct Output {
    /// The values after the epilogue, `(images, lines, columns, channels)`.
    pub values: Tensor,
    /// The index of each value in its pooling window, one byte each, in the shape of the values.
    pub choice: Option<Tensor>,
}

/// The map of each channel before the epilogue, `(x - mean) * scale + shift`. The fields are addresses; 0 means absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Affine {
    /// The address of the numbers to subtract.
    pub mean: u64,
    /// The address of the factors.
    pub scale: u64,
    /// The address of the numbers to add.
    pub shift: u64,
}

/// The number of an epilogue in the kernels.
pub fn number(epilogue: Epilogue) -> Argument<'static> {
    Argument::Word(match epilogue {
        Epilogue::Identity => 0,
        Epilogue::Relu => 1,
        Epilogue::ReluPool => 2,
    })
}

/// The images, height, width and channels of a tensor before the epilogue, in the form that the kernels expect.
pub fn size(input: &Tensor) -> Result<[u32; 4]> {
    let (images, height, width, channels) = input.dims4()?;
    Ok([images, height, width, channels].map(|extent| extent as u32))
}

/// Applies the map, adds `other` if it is given, and applies the epilogue.
pub fn forward(
    session: &Session,
    input: &Tensor,
    map: Affine,
    other: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Output> {
    let (images, height, width, channels) = input.dims4()?;
    let shape = [images, epilogue.extent(height), epilogue.extent(width), channels];
    let values = session.activations(&shape)?;
    let choice = match epilogue {
        Epilogue::ReluPool => Some(session.empty(&shape, DType::U8)?),
        Epilogue::Identity | Epilogue::Relu => None,
    };
    into(session, input, map, other, &values, choice.as_ref(), epilogue)?;
    Ok(Output { values, choice })
}

/// Like [`forward`], but writes to existing tensors. Without pooling, the values may be written over the input.
pub fn into(
    session: &Session,
    input: &Tensor,
    map: Affine,
    other: Option<&Tensor>,
    values: &Tensor,
    choice: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<()> {
    let size = size(input)?;
    let channels = size[3] as usize;
    let form = session.form(channels);
    let config = writing(values.elem_count() / channels, channels, session.lanes(form));
    let arguments = [
        address(input)?.into(),
        map.mean.into(),
        map.scale.into(),
        map.shift.into(),
        optional(other)?,
        address(values)?.into(),
        optional(choice)?,
        Argument::Words(&size),
        number(epilogue),
    ];
    // SAFETY: the arguments are those of the kernel, and they state the sizes of the tensors.
    unsafe { session.launch(form, "epilogue", config, &arguments) }
}

/// Computes the gradient of the input of bias and epilogue, and the gradient of the bias if it is wanted.
pub fn gradient(
    session: &Session,
    before: &[usize; 4],
    output: &Output,
    grad: &Tensor,
    epilogue: Epilogue,
    with_bias: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    if epilogue == Epilogue::Identity && !with_bias {
        return Ok((grad.clone(), None));
    }
    let channels = before[3];
    let size = before.map(|extent| extent as u32);
    let into = match epilogue {
        Epilogue::Identity => None,
        Epilogue::Relu | Epilogue::ReluPool => Some(session.activations(before)?),
    };
    let bias = with_bias.then(|| session.empty(&[channels], DType::F32)).transpose()?;
    let form = session.form(channels);
    let rows = before[..3].iter().product();
    let config = match with_bias {
        true => summing(rows, channels, session.lanes(form)),
        false => writing(rows, channels, session.lanes(form)),
    };
    let [partial, tickets] = session.sums();
    let arguments = [
        address(&output.values)?.into(),
        optional(output.choice.as_ref())?,
        address(grad)?.into(),
        optional(into.as_ref())?,
        optional(bias.as_ref())?,
        Argument::Words(&size),
        number(epilogue),
        partial,
        tickets,
    ];
    // SAFETY: the arguments are those of the kernel, and they state the sizes of the tensors.
    unsafe { session.launch(form, "epilogue_gradient", config, &arguments) }?;
    Ok((into.unwrap_or_else(|| grad.clone()), bias))
}

/// The address of a tensor, or 0.
pub fn optional(tensor: Option<&Tensor>) -> Result<Argument<'static>> {
    Ok(Argument::Long(tensor.map(address).transpose()?.unwrap_or(0)))
}
