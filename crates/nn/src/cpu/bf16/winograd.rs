//! Convolution with kernels of 3x3 and 5x5 and stride 1 on bfloat16 activations, by Winograd's method. Factors are rounded to
//! bfloat16, as in the other products of this folder. Their transforms, products and sums are f32, since rounding the transforms
//! would multiply the errors.
//!
//! The method takes at most 3 in 10 of the products, and a vector unit multiplies f32 half as fast as bfloat16. On a processor
//! without AMX, the method is therefore the faster way. AMX multiplies bfloat16 many times as fast as vectors multiply f32, so
//! products of bfloat16 are the faster way there.

use std::cell::RefCell;

use half::bf16;
use rayon::prelude::*;

use super::outputs::{self, Results};
use super::pack;
use crate::cpu::conv::{Gradients, Output, add_rows, by_images};
use crate::cpu::conv_shape::{ConvShape, Method, SquareSize};
use crate::cpu::element::Element;
use crate::cpu::epilogue::{self, Epilogue};
use crate::cpu::kernel::Unit;
use crate::cpu::memory::by_chunks;
use crate::cpu::scratch::{Scratch, grown};
use crate::cpu::{layout, winograd};

/// The minimum number of rows of the products of a tile: few, so that its squares stay in the cache; more for large weights, whose
/// gradient is read and written for each tile.
const ROWS: usize = 64;
const ROWS_OF_LARGE_WEIGHTS: usize = 256;

/// The number of pairs of channels from which on weights are large.
const LARGE_WEIGHTS: usize = 128 * 256;

/// The buffers that a thread keeps from tile to tile. Their contents are unspecified.
#[derive(Default)]
struct Buffers {
    scratch: Scratch,
    /// The gradient of the outputs before the epilogue.
    before: Vec<bf16>,
    /// The sums of the gradient of the input.
    sums: Vec<f32>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// Whether this is the faster way on this processor, for the convolutions that [suit](suits).
pub fn is_faster() -> bool {
    Unit::all().first() == Some(&Unit::Avx512)
}

/// Whether a convolution can be computed here and takes at most 3 in 10 of the products of its definition. A product of f32 takes
/// twice the time of one of bfloat16, and the transforms of the squares take time, too.
pub fn suits(shape: &ConvShape) -> bool {
    let products = square_size(shape).products() * shape.squares(square_size(shape), shape.lines());
    let pays = 10 * products <= 3 * shape.kernel * shape.kernel * shape.lines() * shape.columns();
    pays && matches!(shape.kernel, 3 | 5) && shape.suits_winograd()
}

/// The size of the squares for a kernel of 3x3 or 5x5.
fn square_size(shape: &ConvShape) -> SquareSize {
    if shape.kernel == 3 { SquareSize::FourOfSix } else { SquareSize::FourOfEight }
}

/// The size of the squares, and the method with this size.
///
/// # Panics
/// If the convolution does not [suit](suits).
fn method(shape: &ConvShape) -> (SquareSize, Method) {
    assert!(suits(shape), "{shape:?}");
    let size = square_size(shape);
    let rows = if shape.inputs * shape.outputs < LARGE_WEIGHTS { ROWS } else { ROWS_OF_LARGE_WEIGHTS };
    (size, Method::Winograd { size, rows })
}

/// Computes the output for `input` `(images, height, width, inputs)`: see [`ConvShape::forward`].
///
/// # Panics
/// If the convolution does not [suit](suits), or the processor has no AVX-512.
pub fn forward(shape: &ConvShape, input: &[bf16], weight: &[f32], bias: Option<&[f32]>) -> Output<bf16> {
    let (size, method) = method(shape);
    let (image_in, image_out) = (shape.image_in(), shape.image_out());
    assert_eq!(input.len(), shape.images * image_in);
    let weight =
        winograd::weight_planes::<bf16>(size, &layout::transposed(&rounded(weight), shape.depth()), shape.outputs);
    if shape.epilogue == Epilogue::ReluPool {
        return outputs::by_tiles(shape, method, |image, tile, sums| {
            let input = &input[image * image_in..];
            BUFFERS.with_borrow_mut(|Buffers { scratch, .. }| {
                winograd::product(shape, size, tile, input, &weight, bias, scratch, sums);
            });
        });
    }
    // without a pool, the sums of a square are rounded at once, as those of a tile may not stay in the cache
    let unit = shape.unit_by(method);
    let chunks = vec![(); shape.images.div_ceil(unit)];
    let (values, _) = by_chunks(shape.images * image_out, unit * image_out, chunks, |chunk, values, ()| {
        let input = &input[chunk * unit * image_in..];
        BUFFERS.with_borrow_mut(|Buffers { scratch, .. }| {
            for tile in shape.tiles_by(method, values.len() / image_out) {
                let values = &mut values[shape.written(&tile)];
                winograd::product(shape, size, &tile, input, &weight, bias, scratch, values);
                if shape.epilogue == Epilogue::Relu {
                    epilogue::relu(values);
                }
            }
        });
    });
    Output { values, choice: Vec::new() }
}

/// Computes the gradients: see [`ConvShape::backward`].
///
/// # Panics
/// If the convolution does not [suit](suits), or the processor has no AVX-512.
pub fn backward(
    shape: &ConvShape,
    input: &[bf16],
    weight: &[f32],
    output: &[bf16],
    choice: &[u8],
    grad: &[bf16],
    want_input: bool,
) -> Gradients<bf16> {
    let (size, method) = method(shape);
    let image_in = shape.image_in();
    assert_eq!(input.len(), shape.images * image_in);
    assert_eq!(output.len(), shape.images * shape.image_out());
    assert_eq!(grad.len(), output.len());
    let weight =
        if want_input { layout::channel_last(&rounded(weight), shape.kernel, shape.inputs) } else { Vec::new() };
    let by_output = winograd::weight_planes::<bf16>(size, &weight, shape.inputs);
    let results = Results { output, choice, grad };
    let unit = shape.unit_by(method);
    let gradients = by_images(shape, unit, want_input, |images, input_grad: &mut [bf16]| {
        let mut bias_grad = vec![0.0f64; shape.outputs];
        BUFFERS.with_borrow_mut(|Buffers { scratch, before, sums }| {
            let mut add = false;
            for first in images.clone().step_by(unit) {
                let count = unit.min(images.end - first);
                let rows = results.before(shape, first..first + count, before);
                add_rows(rows, &mut bias_grad);
                let wanted = (first - images.start) * image_in..(first - images.start + count) * image_in;
                let into = input_grad.get_mut(wanted).unwrap_or_default();
                let sums = grown(sums, into.len());
                sums.fill(0.0);
                for tile in shape.tiles_by(method, count) {
                    let line = shape.columns() * shape.outputs;
                    let rows = &rows[(tile.image * shape.lines() + tile.line) * line..];
                    let rows = &rows[..tile.images * tile.lines * line];
                    let input = &input[first * image_in..];
                    winograd::gradients(shape, size, &tile, input, rows, &by_output, add, scratch, sums);
                    add = true;
                }
                pack::narrow(sums, into);
            }
            (winograd::weight_gradient(shape, size, scratch), bias_grad.iter().map(|sum| *sum as f32).collect())
        })
    });
    Gradients { weight: layout::channel_first(&gradients.weight, shape.kernel, shape.inputs), ..gradients }
}

/// The values rounded to bfloat16.
fn rounded(values: &[f32]) -> Vec<f32> {
    values.par_iter().map(|value| bf16::narrow(*value).widen()).collect()
}
