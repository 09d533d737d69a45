//! Convolution by matrix products. The output is computed in tiles that are small enough for the cache. A tile is laid
//! out by im2col (`im2col.rs`), or transformed by Winograd's method (`winograd/`) if that takes fewer products.
//!
//! The tiles, and the chunks of images over which weight gradients are summed, depend on the shape alone.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::conv_shape::{ConvShape, Method, Tile};
use super::element::Element;
use super::epilogue::{self, Epilogue};
use super::memory::by_chunks;
use super::scratch::{Kept, Scratch, grown};
use super::vector::widest;
use super::{layout, sum_in_order, winograd};

/// The result of a forward pass.
pub struct Output<T> {
    /// The values after the epilogue, `(images, lines, columns, outputs)`.
    pub values: Vec<T>,
    /// The index of each value in its pooling window; empty without pooling.
    pub choice: Vec<u8>,
}

/// The gradients of a convolution.
pub struct Gradients<T> {
    /// The gradient of the weight, `(outputs, inputs, kernel, kernel)`.
    pub weight: Vec<f32>,
    /// The gradient of the bias, `(outputs)`.
    pub bias: Vec<f32>,
    /// The gradient of the input, in the shape of the input, if it was requested.
    pub input: Option<Vec<T>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl ConvShape {
    /// Computes the output for `input` `(images, height, width, inputs)`, `weight`
    /// `(outputs, inputs, kernel, kernel)` and `bias`.
    pub fn forward(&self, input: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Output<f32> {
        let (depth, image_in, image_out) = (self.depth(), self.image_in(), self.image_out());
        assert_eq!(input.len(), self.images * image_in);
        assert_eq!(weight.len(), self.outputs * depth);
        let method = self.method();
        let weight = match method {
            Method::Im2col => {
                Kept::from(layout::transposed(&layout::channel_last(weight, self.kernel, self.inputs), depth))
            }
            Method::Winograd { size, .. } => {
                winograd::weight_planes::<f32>(size, &layout::transposed(weight, depth), self.outputs)
            }
        };
        let pooled = self.epilogue == Epilogue::ReluPool;
        let mut choice = vec![0; if pooled { self.images * image_out } else { 0 }];
        let unit = self.unit();
        // one chunk of choices for each chunk of values; the chunks are empty without pooling
        let mut choices: Vec<&mut [u8]> = choice.chunks_mut((unit * image_out).max(1)).collect();
        choices.resize_with(self.images.div_ceil(unit), Default::default);
        let (values, _) = by_chunks(self.images * image_out, unit * image_out, choices, |chunk, values, choice| {
            let input = &input[chunk * unit * image_in..];
            SCRATCH.with_borrow_mut(|scratch| {
                for tile in self.tiles(values.len() / image_out) {
                    let written = self.written(&tile);
                    let product = |target: &mut [f32], scratch: &mut Scratch| match method {
                        Method::Im2col => self.im2col_product(&tile, input, &weight, bias, scratch, target),
                        Method::Winograd { size, .. } => {
                            winograd::product(self, size, &tile, input, &weight, bias, scratch, target);
                        }
                    };
                    let values = &mut values[written.clone()];
                    match self.epilogue {
                        Epilogue::Identity => product(values, scratch),
                        Epilogue::Relu => {
                            product(values, scratch);
                            epilogue::relu(values);
                        }
                        Epilogue::ReluPool => {
                            let mut before = std::mem::take(&mut scratch.values);
                            let len = tile.images * tile.lines * self.columns() * self.outputs;
                            product(grown(&mut before, len), scratch);
                            let (image, out) = (len / tile.images, (written.len() / tile.images).max(1));
                            let outs = values.chunks_exact_mut(out).zip(choice[written].chunks_exact_mut(out));
                            for (before, (values, choice)) in before[..len].chunks_exact(image).zip(outs) {
                                epilogue::pool(before, self.columns(), self.outputs, values, choice);
                            }
                            scratch.values = before;
                        }
                    }
                }
            });
        });
        Output { values, choice }
    }

    /// Computes the gradient of a tile's outputs before the epilogue from the gradient after the epilogue. `output`,
    /// `grad` and `choice` hold the images and lines of the tile.
    pub(super) fn before<T: Element>(&self, tile: &Tile, [output, grad]: [&[T]; 2], choice: &[u8], before: &mut [T]) {
        match self.epilogue {
            Epilogue::Identity => before.copy_from_slice(grad),
            Epilogue::Relu => epilogue::relu_gradient(output, grad, before),
            Epilogue::ReluPool => {
                let (image, out) = (before.len() / tile.images, grad.len() / tile.images);
                for (i, before) in before.chunks_exact_mut(image).enumerate() {
                    let part = i * out..(i + 1) * out;
                    let (output, choice) = (&output[part.clone()], &choice[part.clone()]);
                    epilogue::pool_gradient(output, choice, &grad[part], self.columns(), self.outputs, before);
                }
            }
        }
    }

    /// Computes the gradients from the operands and the result of the forward pass and the
    /// gradient `grad` of the result.
    pub fn backward(
        &self,
        input: &[f32],
        weight: &[f32],
        output: &[f32],
        choice: &[u8],
        grad: &[f32],
        want_input: bool,
    ) -> Gradients<f32> {
        let (depth, image_in, image_out) = (self.depth(), self.image_in(), self.image_out());
        assert_eq!(input.len(), self.images * image_in);
        assert_eq!(output.len(), self.images * image_out);
        assert_eq!(grad.len(), output.len());
        let method = self.method();
        let by_output = if want_input { layout::channel_last(weight, self.kernel, self.inputs) } else { Vec::new() };
        let by_output = match method {
            Method::Winograd { size, .. } => winograd::weight_planes::<f32>(size, &by_output, self.inputs),
            Method::Im2col => Kept::from(by_output),
        };
        let part = |images: Range<usize>, input_grad: &mut [f32]| {
            let input = &input[images.start * image_in..];
            let start = images.start * image_out;
            let mut bias_grad = vec![0.0f64; self.outputs];
            let mut weight_grad = vec![0.0; if method == Method::Im2col { depth * self.outputs } else { 0 }];
            SCRATCH.with_borrow_mut(|scratch| {
                for (number, tile) in self.tiles(images.len()).into_iter().enumerate() {
                    let written = self.written(&tile);
                    let part = start + written.start..start + written.end;
                    let choice = if choice.is_empty() { choice } else { &choice[part.clone()] };
                    let mut before = std::mem::take(&mut scratch.values);
                    let len = tile.images * tile.lines * self.columns() * self.outputs;
                    let rows = match self.epilogue {
                        Epilogue::Identity => &grad[part],
                        _ => {
                            let rows = grown(&mut before, len);
                            self.before(&tile, [&output[part.clone()], &grad[part]], choice, rows);
                            rows
                        }
                    };
                    add_rows(rows, &mut bias_grad);
                    let add = number > 0;
                    match method {
                        Method::Im2col => {
                            let weights = (&by_output[..], &mut weight_grad[..]);
                            self.im2col_gradients(&tile, input, rows, weights, add, scratch, input_grad);
                        }
                        Method::Winograd { size, .. } => {
                            winograd::gradients(self, size, &tile, input, rows, &by_output, add, scratch, input_grad);
                        }
                    }
                    scratch.values = before;
                }
                if let Method::Winograd { size, .. } = method {
                    weight_grad = winograd::weight_gradient(self, size, scratch);
                }
            });
            (weight_grad, bias_grad.iter().map(|v| *v as f32).collect())
        };
        let gradients = by_images(self, self.unit(), want_input, part);
        Gradients { weight: layout::channel_first(&gradients.weight, self.kernel, self.inputs), ..gradients }
    }
}

/// Computes the gradients of [chunks](ConvShape::chunk) of images in parallel. `part` receives the images of a chunk and the place for
/// the gradient of their input, which is empty unless that gradient is wanted. It returns the gradients of the weight, in a layout of
/// its own, and of the bias. They are added in the order of the chunks.
pub(super) fn by_images<T: Element>(
    conv: &ConvShape,
    unit: usize,
    want_input: bool,
    part: impl Fn(Range<usize>, &mut [T]) -> (Vec<f32>, Vec<f32>) + Sync,
) -> Gradients<T> {
    let chunk = conv.chunk(unit);
    let chunks = conv.images.div_ceil(chunk);
    let images = |number: usize| number * chunk..((number + 1) * chunk).min(conv.images);
    let (input, parts) = match want_input {
        true => {
            by_chunks(conv.images * conv.image_in(), chunk * conv.image_in(), vec![(); chunks], |number, into, ()| {
                part(images(number), into)
            })
        }
        false => (Vec::new(), (0..chunks).into_par_iter().map(|number| part(images(number), &mut [])).collect()),
    };
    let (weights, biases): (Vec<Vec<f32>>, Vec<Vec<f32>>) = parts.into_iter().unzip();
    Gradients { weight: sum_in_order(weights), bias: sum_in_order(biases), input: want_input.then_some(input) }
}

/// Adds the rows of a matrix to `sums`. Blocks of a few rows are summed in f32, the blocks in f64.
pub(super) fn add_rows<T: Element>(rows: &[T], sums: &mut [f64]) {
    let mut part = vec![0.0f32; sums.len()];
    widest(
        #[inline(always)]
        || {
            for block in rows.chunks(sums.len() * 32) {
                part.fill(0.0);
                for row in block.chunks_exact(sums.len()) {
                    for (sum, value) in part.iter_mut().zip(row) {
                        *sum += value.widen();
                    }
                }
                for (sum, part) in sums.iter_mut().zip(&part) {
                    *sum += f64::from(*part);
                }
            }
        },
    );
}
