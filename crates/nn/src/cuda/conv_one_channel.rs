//! The convolution of the first layer, whose images have one channel. Its own kernels are several
//! times as fast as cuDNN's.

use candle_core::cuda_backend::cudarc::driver::LaunchConfig;

use super::kernels::{Argument, Form, THREADS};
use super::session::Session;
use crate::cpu::conv_shape::ConvShape;
use crate::error::Result;

/// The number of output lines in a tile.
const TILE: usize = 20;
/// The shared memory in bytes that a block may use without an explicit request, less the other
/// shared memory of the kernels.
const SHARED: usize = 40 << 10;
/// The number of channels per thread; `PART` in `conv_one_channel.cu`.
const PART: usize = 4;
/// The number of blocks that sum the gradient of the weight.
const BLOCKS: usize = 264;

fn shared(shape: &ConvShape) -> usize {
    4 * (TILE + shape.kernel - 1) * (shape.width + 2 * shape.padding)
}

/// Whether the kernels support a convolution of this shape.
pub fn takes(shape: &ConvShape) -> bool {
    let groups = shape.outputs / PART;
    let fits = shape.outputs.is_multiple_of(PART) && (THREADS as usize).is_multiple_of(groups.max(1));
    (shape.inputs, shape.stride) == (1, 1) && matches!(shape.kernel, 3 | 5) && fits && shared(shape) <= SHARED
}

/// Computes the output without bias and epilogue.
///
/// # Safety
/// The addresses are those of whole tensors in the shapes of `shape`, which [`takes`] accepts.
pub unsafe fn forward(session: &Session, shape: &ConvShape, input: u64, weight: u64, output: u64) -> Result<()> {
    let tiles = shape.lines().div_ceil(TILE);
    let config = LaunchConfig {
        grid_dim: (shape.images as u32, tiles as u32, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: shared(shape) as u32,
    };
    let arguments: [Argument; 8] = [
        input.into(),
        weight.into(),
        output.into(),
        shape.height.into(),
        shape.width.into(),
        shape.outputs.into(),
        shape.padding.into(),
        TILE.into(),
    ];
    let name = if shape.kernel == 3 { "first_forward_3" } else { "first_forward_5" };
    // SAFETY: the arguments are those of the kernel; the rest is guaranteed by the caller.
    unsafe { session.launch(Form::Single, name, config, &arguments) }
}

/// Computes the gradient of the weight.
///
/// # Safety
/// The same conditions as for [`forward`].
pub unsafe fn weight_gradient(session: &Session, shape: &ConvShape, input: u64, grad: u64, weight: u64) -> Result<()> {
    let weights = shape.outputs * shape.kernel * shape.kernel;
    let blocks = BLOCKS.min(shape.images * shape.lines().div_ceil(TILE));
    let partial = session.workspace(4 * blocks * weights)?;
    let config = LaunchConfig {
        grid_dim: (blocks as u32, 1, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: shared(shape) as u32,
    };
    let arguments: [Argument; 9] = [
        input.into(),
        grad.into(),
        partial.into(),
        shape.images.into(),
        shape.height.into(),
        shape.width.into(),
        shape.outputs.into(),
        shape.padding.into(),
        TILE.into(),
    ];
    let name = if shape.kernel == 3 { "first_weights_3" } else { "first_weights_5" };
    // SAFETY: the arguments are those of the kernel; `partial` has room for a sum per block and weight; the rest is
    // guaranteed by the caller.
    unsafe { session.launch(Form::Single, name, config, &arguments) }?;
    let config =
        LaunchConfig { grid_dim: (weights.div_ceil(32) as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    let arguments: [Argument; 4] = [partial.into(), weight.into(), weights.into(), blocks.into()];
    // SAFETY: as above.
    unsafe { session.launch(Form::Single, "first_total", config, &arguments) }
}
