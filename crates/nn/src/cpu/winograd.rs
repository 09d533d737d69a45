//! Convolution with stride 1 by Winograd's method. A square of outputs and a pair of channels take 36 products instead
//! of 144 (3x3) or 100 (5x5). The products are computed as 36 matrix products over the channels of many squares.
//!
//! A plane is the matrix of one element of all squares: `(square, channel)`, or `(output, input)` for weights.

// A function passed by name is called, in its baseline compilation; a closure is inlined.
#![expect(clippy::redundant_closure)]

use rayon::prelude::*;

use super::conv_shape::{ConvShape, Tile};
use super::gemm::{Matrix, multiply};
use super::scratch::{Scratch, grown};
use super::vector::{LANES, Lanes, widest};
use super::winograd_transforms::{AREA, SIDE, both, input, input_back, output, output_back, weight, weight_back};

/// The planes of the weights `(outputs, kernel, kernel, inputs)`. Each plane is `(inputs, outputs)`.
pub fn forward_weights(conv: &ConvShape, by_output: &[f32]) -> Vec<f32> {
    let row = conv.depth();
    let mut by_input = vec![0.0; by_output.len()];
    // (outputs, place, inputs) becomes (inputs, place, outputs), in blocks of outputs that fit the cache
    by_input.par_chunks_mut(row / conv.inputs * conv.outputs).enumerate().for_each(|(input, to)| {
        for (place, to) in to.chunks_exact_mut(conv.outputs).enumerate() {
            for (output, to) in to.iter_mut().enumerate() {
                *to = by_output[output * row + place * conv.inputs + input];
            }
        }
    });
    match conv.kernel {
        3 => weights::<3>(&by_input, conv.outputs),
        _ => weights::<5>(&by_input, conv.outputs),
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
pub fn product<const M: usize>(
    conv: &ConvShape,
    tile: &Tile,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    scratch: &mut Scratch,
    target: &mut [f32],
) {
    let squares = Squares::new(conv, tile);
    let rows = squares.count::<M>();
    let (plane_in, plane_out) = (plane(rows, conv.inputs), plane(rows, conv.outputs));
    let inputs = grown(&mut scratch.inputs, AREA * plane_in);
    let outputs = grown(&mut scratch.outputs, AREA * plane_out);
    squares.inputs::<M>(&input[tile.image * conv.image_in()..], conv.inputs, inputs);
    let weights = weight.chunks_exact(conv.inputs * conv.outputs);
    for ((input, output), weight) in inputs.chunks_exact(plane_in).zip(outputs.chunks_exact_mut(plane_out)).zip(weights)
    {
        let (input, weight) = (Matrix::new(input, rows, conv.inputs), Matrix::new(weight, conv.inputs, conv.outputs));
        multiply(input, weight, &mut output[..rows * conv.outputs], false);
    }
    squares.outputs::<M>(outputs, conv.outputs, bias, target);
}

/// Computes the weight gradient of a tile, which is set in or added to the planes in the scratch buffers, and its input
/// gradient, which is added to `into` unless `into` is empty.
#[expect(clippy::too_many_arguments, reason = "operands, a place to work in and two results")]
pub fn gradients<const M: usize>(
    conv: &ConvShape,
    tile: &Tile,
    input: &[f32],
    grad: &[f32],
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
    squares.inputs::<M>(&input[tile.image * conv.image_in()..], conv.inputs, inputs);
    squares.outputs_back::<M>(grad, conv.outputs, outputs);
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

    /// Whether all inputs of a square are inside the image, and the line and column of the first.
    #[inline(always)]
    fn origin(&self, line: usize, column: usize) -> (bool, isize, isize) {
        let (y, x) = ((self.line + line) as isize - self.padding as isize, column as isize - self.padding as isize);
        let inside = y >= 0 && x >= 0 && y as usize + SIDE <= self.height && x as usize + SIDE <= self.width;
        (inside, y, x)
    }

    /// Writes `B^T d B` of every square of `values` `(image, height, width, channels)` to the 36
    /// planes `(square, channel)`.
    fn inputs<const M: usize>(&self, values: &[f32], channels: usize, into: &mut [f32]) {
        let plane = plane(self.count::<M>(), channels);
        let (stride, image_stride) = (self.width * channels, self.height * self.width * channels);
        widest(
            #[inline(always)]
            || {
                self.each::<M>(
                    #[inline(always)]
                    |tile, image, line, column| {
                        let values = &values[image * image_stride..(image + 1) * image_stride];
                        let (inside, y0, x0) = self.origin(line, column);
                        for c in (0..channels).step_by(LANES) {
                            let at = tile * channels + c;
                            if inside {
                                let from = &values[y0 as usize * stride + x0 as usize * channels + c..];
                                both::<SIDE, SIDE>(
                                    #[inline(always)]
                                    |y, x| Lanes::load(&from[y * stride + x * channels..]),
                                    #[inline(always)]
                                    |v| input(v),
                                    #[inline(always)]
                                    |y, x, v| v.store(&mut into[(y * SIDE + x) * plane + at..]),
                                );
                            } else {
                                let mut square = [[Lanes::ZERO; SIDE]; SIDE];
                                for (y, row) in square.iter_mut().enumerate() {
                                    let y = y0 + y as isize;
                                    if y < 0 || y as usize >= self.height {
                                        continue;
                                    }
                                    for (x, value) in row.iter_mut().enumerate() {
                                        let x = x0 + x as isize;
                                        if x >= 0 && (x as usize) < self.width {
                                            *value =
                                                Lanes::load(&values[y as usize * stride + x as usize * channels + c..]);
                                        }
                                    }
                                }
                                both::<SIDE, SIDE>(
                                    #[inline(always)]
                                    |y, x| square[y][x],
                                    #[inline(always)]
                                    |v| input(v),
                                    #[inline(always)]
                                    |y, x, v| v.store(&mut into[(y * SIDE + x) * plane + at..]),
                                );
                            }
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
        let (stride, image_stride) = (self.width * channels, self.height * self.width * channels);
        widest(
            #[inline(always)]
            || {
                self.each::<M>(
                    #[inline(always)]
                    |tile, image, line, column| {
                        let into = &mut into[image * image_stride..(image + 1) * image_stride];
                        let (inside, y0, x0) = self.origin(line, column);
                        for c in (0..channels).step_by(LANES) {
                            let at = tile * channels + c;
                            both::<SIDE, SIDE>(
                                #[inline(always)]
                                |y, x| Lanes::load(&planes[(y * SIDE + x) * plane + at..]),
                                #[inline(always)]
                                |v| input_back(v),
                                #[inline(always)]
                                |y, x, v| {
                                    let (y, x) = (y0 + y as isize, x0 + x as isize);
                                    let exists = inside
                                        || y >= 0 && x >= 0 && (y as usize) < self.height && (x as usize) < self.width;
                                    if exists {
                                        let into = &mut into[y as usize * stride + x as usize * channels + c..];
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
    fn outputs<const M: usize>(&self, planes: &[f32], channels: usize, bias: Option<&[f32]>, into: &mut [f32]) {
        let plane = plane(self.count::<M>(), channels);
        let (stride, image_stride) = (self.columns * channels, self.lines * self.columns * channels);
        widest(
            #[inline(always)]
            || {
                self.each::<M>(
                    #[inline(always)]
                    |tile, image, line, column| {
                        let into = &mut into[image * image_stride..(image + 1) * image_stride];
                        let (high, wide) = (M.min(self.lines - line), M.min(self.columns - column));
                        for c in (0..channels).step_by(LANES) {
                            let at = tile * channels + c;
                            let bias = bias.map_or(Lanes::ZERO, |bias| Lanes::load(&bias[c..]));
                            both::<SIDE, M>(
                                #[inline(always)]
                                |y, x| Lanes::load(&planes[(y * SIDE + x) * plane + at..]),
                                #[inline(always)]
                                |v| output::<M>(v),
                                #[inline(always)]
                                |y, x, v| {
                                    if y < high && x < wide {
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
    fn outputs_back<const M: usize>(&self, values: &[f32], channels: usize, into: &mut [f32]) {
        let plane = plane(self.count::<M>(), channels);
        let (stride, image_stride) = (self.columns * channels, self.lines * self.columns * channels);
        widest(
            #[inline(always)]
            || {
                self.each::<M>(
                    #[inline(always)]
                    |tile, image, line, column| {
                        let values = &values[image * image_stride..(image + 1) * image_stride];
                        let (high, wide) = (M.min(self.lines - line), M.min(self.columns - column));
                        for c in (0..channels).step_by(LANES) {
                            let at = tile * channels + c;
                            both::<M, SIDE>(
                                #[inline(always)]
                                |y, x| {
                                    if y < high && x < wide {
                                        Lanes::load(&values[(line + y) * stride + (column + x) * channels + c..])
                                    } else {
                                        Lanes::ZERO
                                    }
                                },
                                #[inline(always)]
                                |v| output_back::<M>(v),
                                #[inline(always)]
                                |y, x, v| v.store(&mut into[(y * SIDE + x) * plane + at..]),
                            );
                        }
                    },
                );
            },
        );
    }
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
                for c in (0..columns).step_by(LANES) {
                    both::<R, SIDE>(
                        #[inline(always)]
                        |y, x| Lanes::load(&from[(y * R + x) * columns + c..]),
                        #[inline(always)]
                        |v| weight::<R>(v),
                        #[inline(always)]
                        |y, x, v| v.store(&mut to[y * SIDE + x][c..]),
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
                for c in (0..columns).step_by(LANES) {
                    both::<SIDE, R>(
                        #[inline(always)]
                        |y, x| Lanes::load(&places[((y * SIDE + x) * rows + row) * columns + c..]),
                        #[inline(always)]
                        |v| weight_back::<R>(v),
                        #[inline(always)]
                        |y, x, v| v.store(&mut to[(y * R + x) * columns + c..]),
                    );
                }
            },
        );
    });
    into
}
