//! Convolution with stride 1 by Winograd's method. A square of outputs and a pair of channels take 36 products instead
//! of 144 (3x3) or 100 (5x5). The products are computed as 36 matrix products over the channels of many squares.
//!
//! A plane is the matrix of one element of all squares: `(square, channel)`, or `(output, input)` for weights.

// A function passed by name is called, in its baseline compilation; a closure is inlined.
#![expect(clippy::redundant_closure)]

use rayon::prelude::*;

use super::conv_shape::{ConvShape, Tile};
use super::element::Element;
use super::gemm::{Matrix, multiply};
use super::scratch::{Scratch, grown};
use super::vector::{LANES, Lanes, widest};
use super::winograd_transforms::{
    AREA, Between, GROUPS, SIDE, input, input_back, output, output_back, weight, weight_back,
};

/// The planes of the weights `(inputs, kernel, kernel, outputs)`. Each plane is `(inputs, outputs)`.
pub fn forward_weights(conv: &ConvShape, by_input: &[f32]) -> Vec<f32> {
    match conv.kernel {
        3 => weights::<3>(by_input, conv.outputs),
        _ => weights::<5>(by_input, conv.outputs),
    }
}

/// The planes of the weights `(outputs, kernel, kernel, inputs)`. Each plane is `(outputs, inputs)`.
pub fn backward_weights(conv: &ConvShape, by_output: &[f32]) -> Vec<f32> {
    match conv.kernel {
        3 => weights::<3>(by_output, conv.inputs),
        _ => weights::<5>(by_output, conv.inputs),
    }
}

/// The weight gradient `(outputs, kernel, kernel, inputs)`, computed from the planes that [`gradients`] left in the
/// scratch buffers.
pub fn weight_gradient(conv: &ConvShape, scratch: &mut Scratch) -> Vec<f32> {
    let planes = grown(&mut scratch.weights, AREA * conv.inputs * conv.outputs);
    match conv.kernel {
        3 => weights_back::<3>(planes, conv.inputs),
        _ => weights_back::<5>(planes, conv.inputs),
    }
}

/// Computes the outputs of a tile before the epilogue.
pub fn product<const M: usize, T: Element, U: Element>(
    conv: &ConvShape,
    tile: &Tile,
    input: &[T],
    weight: &[f32],
    bias: Option<&[f32]>,
    scratch: &mut Scratch,
    target: &mut [U],
) {
    let squares = Squares::new(conv, tile);
    let rows = squares.count::<M>();
    let (plane_in, plane_out) = (plane(rows, conv.inputs), plane(rows, conv.outputs));
    let inputs = grown(&mut scratch.inputs, AREA * plane_in);
    let outputs = grown(&mut scratch.outputs, AREA * plane_out);
    squares.inputs::<M, T>(&input[tile.image * conv.image_in()..], conv.inputs, inputs);
    let weights = weight.chunks_exact(conv.inputs * conv.outputs);
    for ((input, output), weight) in inputs.chunks_exact(plane_in).zip(outputs.chunks_exact_mut(plane_out)).zip(weights)
    {
        let (input, weight) = (Matrix::new(input, rows, conv.inputs), Matrix::new(weight, conv.inputs, conv.outputs));
        multiply(input, weight, &mut output[..rows * conv.outputs], false);
    }
    squares.outputs::<M, U>(outputs, conv.outputs, bias, target);
}

/// Computes the weight gradient of a tile, which is set in or added to the planes in the scratch buffers, and its input
/// gradient, which is added to `into` unless `into` is empty.
#[expect(clippy::too_many_arguments, reason = "operands, a place to work in and two results")]
pub fn gradients<const M: usize, T: Element>(
    conv: &ConvShape,
    tile: &Tile,
    input: &[T],
    grad: &[T],
    weight: &[f32],
    add: bool,
    scratch: &mut Scratch,
    into: &mut [f32],
) {
    let squares = Squares::new(conv, tile);
    let rows = squares.count::<M>();
    let size = conv.inputs * conv.outputs;
    let (plane_in, plane_out) = (plane(rows, conv.inputs), plane(rows, conv.outputs));
    let inputs = grown(&mut scratch.inputs, AREA * plane_in);
    let outputs = grown(&mut scratch.outputs, AREA * plane_out);
    let weight_grads = grown(&mut scratch.weights, AREA * size);
    squares.inputs::<M, T>(&input[tile.image * conv.image_in()..], conv.inputs, inputs);
    squares.outputs_back::<M, T>(grad, conv.outputs, outputs);
    let places = inputs.chunks_exact_mut(plane_in).zip(outputs.chunks_exact(plane_out));
    for (i, ((input, grad), weight_grad)) in places.zip(weight_grads.chunks_exact_mut(size)).enumerate() {
        let grad = Matrix::new(grad, rows, conv.outputs);
        multiply(grad.transposed(), Matrix::new(input, rows, conv.inputs), weight_grad, add);
        if !into.is_empty() {
            let weight = Matrix::new(&weight[i * size..], conv.outputs, conv.inputs);
            multiply(grad, weight, &mut input[..rows * conv.inputs], false);
        }
    }
    if !into.is_empty() {
        squares.inputs_back::<M>(inputs, conv.inputs, &mut into[tile.image * conv.image_in()..]);
    }
}

/// The squares that cover some lines of one or several images; a square has `M` x `M` outputs.
#[derive(Debug, Clone, Copy)]
struct Squares {
    /// The number of images.
    images: usize,
    /// The number of output lines per image.
    lines: usize,
    /// The number of output columns.
    columns: usize,
    /// The first output line within an image.
    line: usize,
    /// The height of the input.
    height: usize,
    /// The width of the input.
    width: usize,
    /// The zero padding of the input.
    padding: usize,
}

/// The distance in elements between two planes. It is slightly more than a plane, because at a distance of a large
/// power of two all 36 planes would map to the same few cache lines.
fn plane(rows: usize, channels: usize) -> usize {
    rows * channels + LANES
}

impl Squares {
    fn new(conv: &ConvShape, tile: &Tile) -> Squares {
        Squares {
            images: tile.images,
            lines: tile.lines,
            columns: conv.columns(),
            line: tile.line,
            height: conv.height,
            width: conv.width,
            padding: conv.padding,
        }
    }

    /// The number of squares.
    fn count<const M: usize>(&self) -> usize {
        self.images * self.lines.div_ceil(M) * self.columns.div_ceil(M)
    }

    /// Calls `f(number of the square, image, line, column)` for every square. Line and column are those of its first
    /// output, and lines are counted from [`Squares::line`].
    #[inline(always)]
    fn each<const M: usize>(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let mut number = 0;
        for image in 0..self.images {
            for line in (0..self.lines).step_by(M) {
                for column in (0..self.columns).step_by(M) {
                    f(number, image, line, column);
                    number += 1;
                }
            }
        }
    }

    /// The place in an image of the first input of a square whose first output has this line and column, if none of the inputs of
    /// the square is in the padding.
    #[inline(always)]
    fn first_input(&self, line: usize, column: usize) -> Option<usize> {
        let last = SIDE - 1;
        self.input_at(None, line, column, last, last).and_then(|_| self.input_at(None, line, column, 0, 0))
    }

    /// The place in an image of the input `y` lines and `x` columns from the first of a square, if it is not in the padding. `first`
    /// is that of [`Squares::first_input`], with which nothing is left to check.
    #[inline(always)]
    fn input_at(&self, first: Option<usize>, line: usize, column: usize, y: usize, x: usize) -> Option<usize> {
        if let Some(first) = first {
            return Some(first + y * self.width + x);
        }
        let y = (self.line + line + y).checked_sub(self.padding).filter(|y| *y < self.height)?;
        let x = (column + x).checked_sub(self.padding).filter(|x| *x < self.width)?;
        Some(y * self.width + x)
    }

    /// Writes `B^T d B` of every square of `values` `(image, height, width, channels)` to the 36
    /// planes `(square, channel)`.
    fn inputs<const M: usize, T: Element>(&self, values: &[T], channels: usize, into: &mut [f32]) {
        let plane = plane(self.count::<M>(), channels);
        let image_stride = self.height * self.width * channels;
        widest(
            #[inline(always)]
            || {
                let mut between = Between::NEW;
                self.each::<M>(
                    #[inline(always)]
                    |square, image, line, column| {
                        let values = &values[image * image_stride..(image + 1) * image_stride];
                        let first = self.first_input(line, column);
                        for (c, groups) in blocks(channels) {
                            let into = &mut into[square * channels + c..];
                            between.both::<SIDE, SIDE>(
                                groups,
                                #[inline(always)]
                                |y, x, group| match self.input_at(first, line, column, y, x) {
                                    Some(at) => Lanes::load(&values[at * channels + c + group * LANES..]),
                                    None => Lanes::ZERO,
                                },
                                #[inline(always)]
                                |v| input(v),
                                #[inline(always)]
                                |y, x, group, v| v.store(&mut into[(y * SIDE + x) * plane + group * LANES..]),
                            );
                        }
                    },
                );
            },
        );
    }

    /// Adds `B v B^T` of every square to `into` `(image, height, width, channels)`: the transpose of
    /// [`Squares::inputs`].
    fn inputs_back<const M: usize>(&self, planes: &[f32], channels: usize, into: &mut [f32]) {
        let plane = plane(self.count::<M>(), channels);
        let image_stride = self.height * self.width * channels;
        widest(
            #[inline(always)]
            || {
                let mut between = Between::NEW;
                self.each::<M>(
                    #[inline(always)]
                    |square, image, line, column| {
                        let into = &mut into[image * image_stride..(image + 1) * image_stride];
                        let first = self.first_input(line, column);
                        for (c, groups) in blocks(channels) {
                            between.both::<SIDE, SIDE>(
                                groups,
                                #[inline(always)]
                                |y, x, group| {
                                    let at = (y * SIDE + x) * plane + square * channels + c + group * LANES;
                                    Lanes::load(&planes[at..])
                                },
                                #[inline(always)]
                                |v| input_back(v),
                                #[inline(always)]
                                |y, x, group, v| {
                                    if let Some(at) = self.input_at(first, line, column, y, x) {
                                        let into = &mut into[at * channels + c + group * LANES..];
                                        (Lanes::load(into) + v).store(into);
                                    }
                                },
                            );
                        }
                    },
                );
            },
        );
    }

    /// Writes `A^T m A` of every square of the planes `(square, channel)`, plus a bias, to `into`
    /// `(image, line, column, channel)`.
    fn outputs<const M: usize, T: Element>(
        &self,
        planes: &[f32],
        channels: usize,
        bias: Option<&[f32]>,
        into: &mut [T],
    ) {
        let plane = plane(self.count::<M>(), channels);
        let (stride, image_stride) = (self.columns * channels, self.lines * self.columns * channels);
        widest(
            #[inline(always)]
            || {
                let mut between = Between::NEW;
                self.each::<M>(
                    #[inline(always)]
                    |square, image, line, column| {
                        let into = &mut into[image * image_stride..(image + 1) * image_stride];
                        let (high, wide) = (M.min(self.lines - line), M.min(self.columns - column));
                        for (c, groups) in blocks(channels) {
                            between.both::<SIDE, M>(
                                groups,
                                #[inline(always)]
                                |y, x, group| {
                                    let at = (y * SIDE + x) * plane + square * channels + c + group * LANES;
                                    Lanes::load(&planes[at..])
                                },
                                #[inline(always)]
                                |v| output::<M>(v),
                                #[inline(always)]
                                |y, x, group, v| {
                                    if y < high && x < wide {
                                        let c = c + group * LANES;
                                        let bias = bias.map_or(Lanes::ZERO, |bias| Lanes::load(&bias[c..]));
                                        (v + bias)
                                            .store(&mut into[(line + y) * stride + (column + x) * channels + c..]);
                                    }
                                },
                            );
                        }
                    },
                );
            },
        );
    }

    /// Writes `A y A^T` of every square of `values` `(image, line, column, channel)`: the transpose of
    /// [`Squares::outputs`].
    fn outputs_back<const M: usize, T: Element>(&self, values: &[T], channels: usize, into: &mut [f32]) {
        let plane = plane(self.count::<M>(), channels);
        let (stride, image_stride) = (self.columns * channels, self.lines * self.columns * channels);
        widest(
            #[inline(always)]
            || {
                let mut between = Between::NEW;
                self.each::<M>(
                    #[inline(always)]
                    |square, image, line, column| {
                        let values = &values[image * image_stride..(image + 1) * image_stride];
                        let (high, wide) = (M.min(self.lines - line), M.min(self.columns - column));
                        for (c, groups) in blocks(channels) {
                            between.both::<M, SIDE>(
                                groups,
                                #[inline(always)]
                                |y, x, group| {
                                    if y < high && x < wide {
                                        let at = (line + y) * stride + (column + x) * channels + c + group * LANES;
                                        Lanes::load(&values[at..])
                                    } else {
                                        Lanes::ZERO
                                    }
                                },
                                #[inline(always)]
                                |v| output_back::<M>(v),
                                #[inline(always)]
                                |y, x, group, v| {
                                    let at = (y * SIDE + x) * plane + square * channels + c + group * LANES;
                                    v.store(&mut into[at..]);
                                },
                            );
                        }
                    },
                );
            },
        );
    }
}

/// The first channel and the number of groups of each block of channels that are transformed together.
#[inline(always)]
fn blocks(channels: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..channels).step_by(GROUPS * LANES).map(move |first| (first, GROUPS.min((channels - first) / LANES)))
}

/// Writes `G g G^T` of the weights `(row, kernel, kernel, column)` to one matrix `(row, column)`
/// for each of the 36 planes.
fn weights<const R: usize>(from: &[f32], columns: usize) -> Vec<f32> {
    let rows = from.len() / (R * R * columns);
    let mut places = vec![0.0; AREA * rows * columns];
    let mut by_row: Vec<Vec<&mut [f32]>> = (0..rows).map(|_| Vec::with_capacity(AREA)).collect();
    for (i, part) in places.chunks_exact_mut(columns).enumerate() {
        by_row[i % rows].push(part);
    }
    by_row.into_par_iter().zip(from.par_chunks_exact(R * R * columns)).for_each(|(mut to, from)| {
        widest(
            #[inline(always)]
            || {
                let mut between = Between::NEW;
                for (c, groups) in blocks(columns) {
                    between.both::<R, SIDE>(
                        groups,
                        #[inline(always)]
                        |y, x, group| Lanes::load(&from[(y * R + x) * columns + c + group * LANES..]),
                        #[inline(always)]
                        |v| weight::<R>(v),
                        #[inline(always)]
                        |y, x, group, v| v.store(&mut to[y * SIDE + x][c + group * LANES..]),
                    );
                }
            },
        );
    });
    places
}

/// Computes `G^T u G` of the planes `(row, column)`, in the shape `(row, kernel, kernel, column)`: the transpose of
/// [`weights`].
fn weights_back<const R: usize>(places: &[f32], columns: usize) -> Vec<f32> {
    let rows = places.len() / (AREA * columns);
    let mut into = vec![0.0; R * R * rows * columns];
    into.chunks_exact_mut(R * R * columns).enumerate().for_each(|(row, to)| {
        widest(
            #[inline(always)]
            || {
                let mut between = Between::NEW;
                for (c, groups) in blocks(columns) {
                    between.both::<SIDE, R>(
                        groups,
                        #[inline(always)]
                        |y, x, group| {
                            let at = ((y * SIDE + x) * rows + row) * columns + c + group * LANES;
                            Lanes::load(&places[at..])
                        },
                        #[inline(always)]
                        |v| weight_back::<R>(v),
                        #[inline(always)]
                        |y, x, group, v| v.store(&mut to[(y * R + x) * columns + c + group * LANES..]),
                    );
                }
            },
        );
    });
    into
}
