//! Convolution with 3x3 kernels, stride 1 and padding 1 on bfloat16 activations, by Winograd's method. Factors are rounded to
//! bfloat16, as in the other products of this folder. Their transforms, products and sums are f32, since rounding the transforms
//! would multiply the errors.
//!
//! The method takes a quarter of the products, and a vector unit multiplies f32 half as fast as bfloat16. On a processor without
//! AMX, the method is therefore the faster way. AMX multiplies bfloat16 many times as fast as vectors multiply f32, so products of
//! bfloat16 are the faster way there.

use std::cell::RefCell;

use half::bf16;
use rayon::prelude::*;

use super::kernel::Unit;
use super::outputs;
use crate::cpu::conv::{Gradients, Output, add_rows};
use crate::cpu::conv_shape::{ConvShape, Method};
use crate::cpu::element::Element;
use crate::cpu::epilogue::{self, Epilogue};
use crate::cpu::memory::by_chunks;
use crate::cpu::scratch::Scratch;
use crate::cpu::{CHUNKS, layout, sum_in_order, winograd};

/// The height and width of a square of outputs.
const OUTPUTS_SIDE: usize = 4;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Whether this is the faster way on this processor.
pub fn is_faster() -> bool {
    Unit::all().first() == Some(&Unit::Avx512)
}

/// Whether a convolution can be computed here: if it suits the method, and its inputs and outputs are of the same size.
pub fn suits(shape: &ConvShape) -> bool {
    shape.method() == Method::Winograd(OUTPUTS_SIDE) && shape.padding == 1
}

/// Whether the gradients of a convolution can be computed here: if it has no epilogue of its own, as before a batch norm.
pub fn suits_gradients(shape: &ConvShape) -> bool {
    suits(shape) && shape.epilogue == Epilogue::Identity
}

/// Computes the output for `input` `(images, height, width, inputs)`: see [`ConvShape::forward`].
///
/// # Panics
/// If the convolution does not [suit](suits).
pub fn forward(shape: &ConvShape, input: &[bf16], weight: &[f32], bias: Option<&[f32]>) -> Output<bf16> {
    assert!(suits(shape), "{shape:?}");
    product(shape, input, &layout::transposed(&rounded(weight), shape.depth()), bias)
}

/// Computes the output with weights `(inputs, kernel, kernel, outputs)`.
fn product(shape: &ConvShape, input: &[bf16], by_input: &[f32], bias: Option<&[f32]>) -> Output<bf16> {
    let (image_in, image_out) = (shape.image_in(), shape.image_out());
    assert_eq!(input.len(), shape.images * image_in);
    let weight = winograd::forward_weights(shape, by_input);
    if shape.epilogue == Epilogue::ReluPool {
        return outputs::by_tiles(shape, Method::Winograd(OUTPUTS_SIDE), |image, tile, sums| {
            let input = &input[image * image_in..];
            SCRATCH.with_borrow_mut(|scratch| {
                winograd::product::<OUTPUTS_SIDE, bf16, f32>(shape, tile, input, &weight, bias, scratch, sums);
            });
        });
    }
    // without a pool, the sums of a square are rounded at once, as those of a tile may not stay in the cache
    let unit = shape.unit();
    let chunks = vec![(); shape.images.div_ceil(unit)];
    let (values, _) = by_chunks(shape.images * image_out, unit * image_out, chunks, |chunk, values, ()| {
        let input = &input[chunk * unit * image_in..];
        SCRATCH.with_borrow_mut(|scratch| {
            for tile in shape.tiles(values.len() / image_out) {
                let values = &mut values[shape.written(&tile)];
                winograd::product::<OUTPUTS_SIDE, bf16, bf16>(shape, &tile, input, &weight, bias, scratch, values);
                if shape.epilogue == Epilogue::Relu {
                    epilogue::relu(values);
                }
            }
        });
    });
    Output { values, choice: Vec::new() }
}

/// Computes the gradients: see [`ConvShape::backward`]. The gradient of the input is the convolution of the gradient with the
/// turned kernels.
///
/// # Panics
/// If the convolution does not [suit](suits_gradients).
pub fn backward(shape: &ConvShape, input: &[bf16], weight: &[f32], grad: &[bf16], want_input: bool) -> Gradients<bf16> {
    assert!(suits_gradients(shape), "{shape:?}");
    let (weight_grad, bias) = weight_gradient(shape, input, grad);
    let input = want_input.then(|| {
        let turned = ConvShape { inputs: shape.outputs, outputs: shape.inputs, ..*shape };
        let mut by_output = layout::channel_last(&rounded(weight), shape.kernel, shape.inputs);
        layout::turn(&mut by_output, shape.kernel, shape.inputs);
        product(&turned, grad, &by_output, None).values
    });
    Gradients { weight: weight_grad, bias, input }
}

/// Computes the gradients of weight and bias.
fn weight_gradient(shape: &ConvShape, input: &[bf16], grad: &[bf16]) -> (Vec<f32>, Vec<f32>) {
    let (image_in, image_out) = (shape.image_in(), shape.image_out());
    assert_eq!(grad.len(), shape.images * image_out);
    let chunk = shape.images.div_ceil(CHUNKS).max(shape.unit());
    let part = |index: usize| {
        let images = chunk.min(shape.images - index * chunk);
        let (input, grad) = (&input[index * chunk * image_in..], &grad[index * chunk * image_out..]);
        let mut bias = vec![0.0f64; shape.outputs];
        SCRATCH.with_borrow_mut(|scratch| {
            for (number, tile) in shape.tiles(images).iter().enumerate() {
                let rows = &grad[shape.written(tile)];
                add_rows(rows, &mut bias);
                winograd::gradients::<OUTPUTS_SIDE, bf16>(shape, tile, input, rows, &[], number > 0, scratch, &mut []);
            }
            (winograd::weight_gradient(shape, scratch), bias.iter().map(|sum| *sum as f32).collect())
        })
    };
    let parts = (0..shape.images.div_ceil(chunk)).into_par_iter().map(part);
    let (weights, biases): (Vec<Vec<f32>>, Vec<Vec<f32>>) = parts.collect::<Vec<_>>().into_iter().unzip();
    (layout::channel_first(&sum_in_order(&weights), shape.kernel, shape.inputs), sum_in_order(&biases))
}

/// The values rounded to bfloat16.
fn rounded(values: &[f32]) -> Vec<f32> {
    values.par_iter().map(|value| bf16::narrow(*value).widen()).collect()
}
