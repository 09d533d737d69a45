//! The first layer's convolution, of images with one channel: its own kernels, several times as fast as cuDNN's.

use candle_core::cuda_backend::cudarc::driver::LaunchConfig;

use super::kernels::{Argument, Form, THREADS};
use super::session::Session;
use crate::cpu::conv_shape::ConvShape;
use crate::error::Result;

/// Lines of output in a tile.
const TILE: usize = 20;
/// Shared memory that a block may have without asking for it, less what the kernels have besides.
const SHARED: usize = 40 << 10;
/// Channels that a thread takes; `PART` in `first.cu`.
const PART: usize = 4;
/// Blocks that sum weights' gradients.
const BLOCKS: usize = 264;

fn shared(shape: &ConvShape) -> usize {
    4 * (TILE + shape.kernel - 1) * (shape.width + 2 * shape.padding)
}

/// Whether the kernels take such a convolution.
pub fn takes(shape: &ConvShape) -> bool {
    let groups = shape.outputs / PART;
    let fits = shape.outputs.is_multiple_of(PART) && (THREADS as usize).is_multiple_of(groups.max(1));
    (shape.inputs, shape.stride) == (1, 1) && matches!(shape.kernel, 3 | 5) && fits && shared(shape) <= SHARED
}

/// The output, without bias and epilogue.
///
/// # Safety
/// The addresses are those of whole tensors in the shapes of `shape`, which [`takes`] says yes to.
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
    // SAFETY: the kernel's arguments, and the caller's promise.
    unsafe { session.launch(Form::Single, name, config, &arguments) }
}

/// The gradient of the weight.
///
/// # Safety
/// As [`forward`].
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
    // SAFETY: the kernel's arguments, and the caller's promise; there is room for a sum per block and weight.
    unsafe { session.launch(Form::Single, name, config, &arguments) }?;
    let config =
        LaunchConfig { grid_dim: (weights.div_ceil(32) as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    let arguments: [Argument; 4] = [partial.into(), weight.into(), weights.into(), blocks.into()];
    // SAFETY: as above.
    unsafe { session.launch(Form::Single, "first_total", config, &arguments) }
}
