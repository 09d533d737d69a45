//! Convolution with stride 1 by Winograd's method. Instead of a product for each output and element of the kernel, it takes a
//! product for each element of a square of inputs: with 6x6 inputs, 36 products instead of 144 for 4x4 outputs of a 3x3 kernel,
//! or of 100 for 2x2 outputs of a 5x5 kernel; with 8x8 inputs, 64 instead of 400 for 4x4 outputs of a 5x5 kernel. The products
//! of many squares are computed as 36 or 64 matrix products over the channels.
//!
//! A plane is the matrix of one element of all squares, `(square, channel)`, or of one element of all kernels. In the functions
//! below, `M` is the height and width of a square of outputs, `N` of a square of inputs, and `K` of the kernel.

// A function passed by name is called, in its baseline compilation; a closure is inlined.
#![expect(clippy::redundant_closure)]

mod eight;
mod planes;
mod six;
mod transforms;

use rayon::prelude::*;

use self::planes::Planes;
use self::transforms::{Between, GROUPS, Points, Transform};
use super::conv_shape::{ConvShape, SquareSize, Tile};
use super::element::Element;
use super::scratch::{Kept, Scratch, grown};
use super::vector::{LANES, Lanes, widest};

/// The number of rows of weights that are transformed at a time.
const TASK_ROWS: usize = 8;

// the numbers of channels are multiples of LANES, and so of the rows of a task
const _: () = assert!(LANES.is_multiple_of(TASK_ROWS));

/// The planes of the weights `(row, kernel, kernel, column)`, where rows are inputs and columns outputs, or rows are outputs and
/// columns inputs. Each plane is `(row, column)`, in the [panels](Planes::panel) of a type of activations.
pub fn weight_planes<T: Planes>(size: SquareSize, weights: &[f32], columns: usize) -> Kept {
    match size {
        SquareSize::FourOfSix => kernels::<3, 6>(weights, columns, T::panel(columns)),
        SquareSize::TwoOfSix => kernels::<5, 6>(weights, columns, T::panel(columns)),
        SquareSize::FourOfEight => kernels::<5, 8>(weights, columns, T::panel(columns)),
    }
}

/// The weight gradient `(outputs, kernel, kernel, inputs)`, computed from the planes that [`gradients`] left in the
/// scratch buffers.
pub fn weight_gradient(conv: &ConvShape, size: SquareSize, scratch: &mut Scratch) -> Vec<f32> {
    let planes = grown(&mut scratch.weights, size.products() * conv.inputs * conv.outputs);
    match size {
        SquareSize::FourOfSix => kernels_back::<3, 6>(planes, conv.inputs),
        SquareSize::TwoOfSix => kernels_back::<5, 6>(planes, conv.inputs),
        SquareSize::FourOfEight => kernels_back::<5, 8>(planes, conv.inputs),
    }
}

/// Computes the outputs of a tile before the epilogue. `weight` has the planes `(input, output)`.
#[expect(clippy::too_many_arguments, reason = "operands, a place to work in and a result")]
pub fn product<T: Planes, U: Element>(
    conv: &ConvShape,
    size: SquareSize,
    tile: &Tile,
    input: &[T],
    weight: &[f32],
    bias: Option<&[f32]>,
    scratch: &mut Scratch,
    target: &mut [U],
) {
    match size {
        SquareSize::FourOfSix => sized_product::<4, 6, T, U>(conv, tile, input, weight, bias, scratch, target),
        SquareSize::TwoOfSix => sized_product::<2, 6, T, U>(conv, tile, input, weight, bias, scratch, target),
        SquareSize::FourOfEight => sized_product::<4, 8, T, U>(conv, tile, input, weight, bias, scratch, target),
    }
}

fn sized_product<const M: usize, const N: usize, T: Planes, U: Element>(
    conv: &ConvShape,
    tile: &Tile,
    input: &[T],
    weight: &[f32],
    bias: Option<&[f32]>,
    scratch: &mut Scratch,
    target: &mut [U],
) where
    Points: Transform<N>,
{
    let squares = Squares::new(conv, tile);
    let rows = squares.count::<M>();
    let (plane_in, plane_out) = (plane(rows, conv.inputs), plane(rows, conv.outputs));
    let inputs = grown(&mut scratch.inputs, N * N * plane_in);
    let outputs = grown(&mut scratch.outputs, N * N * plane_out);
    squares.inputs::<M, N, T>(&input[tile.image * conv.image_in()..], conv.inputs, inputs);
    let weights = weight.chunks_exact(conv.inputs * conv.outputs);
    for ((input, output), weight) in inputs.chunks_exact(plane_in).zip(outputs.chunks_exact_mut(plane_out)).zip(weights)
    {
        T::product(input, weight, [rows, conv.inputs, conv.outputs], &mut output[..rows * conv.outputs]);
    }
    squares.outputs::<M, N, U>(outputs, conv.outputs, bias, target);
}

/// Computes the weight gradient of a tile, which is set in or added to the planes in the scratch buffers, and its input
/// gradient, which is added to `into` unless `into` is empty. `weight` has the planes `(output, input)`.
#[expect(clippy::too_many_arguments, reason = "operands, a place to work in and two results")]
pub fn gradients<T: Planes>(
    conv: &ConvShape,
    size: SquareSize,
    tile: &Tile,
    input: &[T],
    grad: &[T],
    weight: &[f32],
    add: bool,
    scratch: &mut Scratch,
    into: &mut [f32],
) {
    match size {
        SquareSize::FourOfSix => sized_gradients::<4, 6, T>(conv, tile, input, grad, weight, add, scratch, into),
        SquareSize::TwoOfSix => sized_gradients::<2, 6, T>(conv, tile, input, grad, weight, add, scratch, into),
        SquareSize::FourOfEight => sized_gradients::<4, 8, T>(conv, tile, input, grad, weight, add, scratch, into),
    }
}

#[expect(clippy::too_many_arguments, reason = "operands, a place to work in and two results")]
fn sized_gradients<const M: usize, const N: usize, T: Planes>(
    conv: &ConvShape,
    tile: &Tile,
    input: &[T],
    grad: &[T],
    weight: &[f32],
    add: bool,
    scratch: &mut Scratch,
    into: &mut [f32],
) where
    Points: Transform<N>,
{
    let squares = Squares::new(conv, tile);
    let rows = squares.count::<M>();
    let size = conv.inputs * conv.outputs;
    let (plane_in, plane_out) = (plane(rows, conv.inputs), plane(rows, conv.outputs));
    let inputs = grown(&mut scratch.inputs, N * N * plane_in);
    let outputs = grown(&mut scratch.outputs, N * N * plane_out);
    let weight_grads = grown(&mut scratch.weights, N * N * size);
    squares.inputs::<M, N, T>(&input[tile.image * conv.image_in()..], conv.inputs, inputs);
    squares.outputs_back::<M, N, T>(grad, conv.outputs, outputs);
    let places = inputs.chunks_exact_mut(plane_in).zip(outputs.chunks_exact(plane_out));
    for (i, ((input, grad), weight_grad)) in places.zip(weight_grads.chunks_exact_mut(size)).enumerate() {
        T::product_of_transpose(grad, input, [conv.outputs, rows, conv.inputs], add, weight_grad);
        if !into.is_empty() {
            let (weight, input) = (&weight[i * size..][..size], &mut input[..rows * conv.inputs]);
            T::product(grad, weight, [rows, conv.outputs, conv.inputs], input);
        }
    }
    if !into.is_empty() {
        squares.inputs_back::<M, N>(inputs, conv.inputs, &mut into[tile.image * conv.image_in()..]);
    }
}

/// The squares that cover some lines of one or several images.
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
/// power of two all planes would map to the same few cache lines.
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
    fn first_input<const N: usize>(&self, line: usize, column: usize) -> Option<usize> {
        let last = N - 1;
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

    /// Writes `B^T d B` of every square of `values` `(image, height, width, channels)` to the planes
    /// `(square, channel)`.
    fn inputs<const M: usize, const N: usize, T: Element>(&self, values: &[T], channels: usize, into: &mut [f32])
    where
        Points: Transform<N>,
    {
        let plane = plane(self.count::<M>(), channels);
        let image_stride = self.height * self.width * channels;
        widest(
            #[inline(always)]
            || {
                let mut between = Between::<N>::NEW;
                self.each::<M>(
                    #[inline(always)]
                    |square, image, line, column| {
                        let values = &values[image * image_stride..(image + 1) * image_stride];
                        let first = self.first_input::<N>(line, column);
                        for (c, groups) in blocks(channels) {
                            let into = &mut into[square * channels + c..];
                            between.both::<N, N>(
                                groups,
                                #[inline(always)]
                                |y, x, group| match self.input_at(first, line, column, y, x) {
                                    Some(at) => Lanes::load(&values[at * channels + c + group * LANES..]),
                                    None => Lanes::ZERO,
                                },
                                #[inline(always)]
                                |v| Points::input(v),
                                #[inline(always)]
                                |y, x, group, v| v.store(&mut into[(y * N + x) * plane + group * LANES..]),
                            );
                        }
                    },
                );
            },
        );
    }

    /// Adds `B v B^T` of every square to `into` `(image, height, width, channels)`: the transpose of
    /// [`Squares::inputs`].
    fn inputs_back<const M: usize, const N: usize>(&self, planes: &[f32], channels: usize, into: &mut [f32])
    where
        Points: Transform<N>,
    {
        let plane = plane(self.count::<M>(), channels);
        let image_stride = self.height * self.width * channels;
        widest(
            #[inline(always)]
            || {
                let mut between = Between::<N>::NEW;
                self.each::<M>(
                    #[inline(always)]
                    |square, image, line, column| {
                        let into = &mut into[image * image_stride..(image + 1) * image_stride];
                        let first = self.first_input::<N>(line, column);
                        for (c, groups) in blocks(channels) {
                            between.both::<N, N>(
                                groups,
                                #[inline(always)]
                                |y, x, group| {
                                    let at = (y * N + x) * plane + square * channels + c + group * LANES;
                                    Lanes::load(&planes[at..])
                                },
                                #[inline(always)]
                                |v| Points::input_back(v),
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
    fn outputs<const M: usize, const N: usize, T: Element>(
        &self,
        planes: &[f32],
        channels: usize,
        bias: Option<&[f32]>,
        into: &mut [T],
    ) where
        Points: Transform<N>,
    {
        let plane = plane(self.count::<M>(), channels);
        let (stride, image_stride) = (self.columns * channels, self.lines * self.columns * channels);
        widest(
            #[inline(always)]
            || {
                let mut between = Between::<N>::NEW;
                self.each::<M>(
                    #[inline(always)]
                    |square, image, line, column| {
                        let into = &mut into[image * image_stride..(image + 1) * image_stride];
                        let (high, wide) = (M.min(self.lines - line), M.min(self.columns - column));
                        for (c, groups) in blocks(channels) {
                            between.both::<N, M>(
                                groups,
                                #[inline(always)]
                                |y, x, group| {
                                    let at = (y * N + x) * plane + square * channels + c + group * LANES;
                                    Lanes::load(&planes[at..])
                                },
                                #[inline(always)]
                                |v| Points::output(v),
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
    fn outputs_back<const M: usize, const N: usize, T: Element>(&self, values: &[T], channels: usize, into: &mut [f32])
    where
        Points: Transform<N>,
    {
        let plane = plane(self.count::<M>(), channels);
        let (stride, image_stride) = (self.columns * channels, self.lines * self.columns * channels);
        widest(
            #[inline(always)]
            || {
                let mut between = Between::<N>::NEW;
                self.each::<M>(
                    #[inline(always)]
                    |square, image, line, column| {
                        let values = &values[image * image_stride..(image + 1) * image_stride];
                        let (high, wide) = (M.min(self.lines - line), M.min(self.columns - column));
                        for (c, groups) in blocks(channels) {
                            between.both::<M, N>(
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
                                |v| Points::output_back(v),
                                #[inline(always)]
                                |y, x, group, v| {
                                    let at = (y * N + x) * plane + square * channels + c + group * LANES;
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
/// for each of the planes, in panels of `panel` columns.
fn kernels<const K: usize, const N: usize>(from: &[f32], columns: usize, panel: usize) -> Kept
where
    Points: Transform<N>,
{
    let rows = from.len() / (K * K * columns);
    // a task has a few rows of a panel, so that it writes a run of memory to each plane
    let tasks = rows / TASK_ROWS * (columns / panel);
    let mut planes = Kept::new(N * N * rows * columns);
    let mut by_task: Vec<Vec<&mut [f32]>> = (0..tasks).map(|_| Vec::with_capacity(N * N)).collect();
    for (i, part) in planes.chunks_exact_mut(TASK_ROWS * panel).enumerate() {
        by_task[i % tasks].push(part);
    }
    by_task.into_par_iter().enumerate().for_each(|(task, mut to)| {
        let first_row = task * TASK_ROWS % rows;
        let first_column = task * TASK_ROWS / rows * panel;
        widest(
            #[inline(always)]
            || {
                let mut between = Between::<N>::NEW;
                for row in 0..TASK_ROWS {
                    let from = &from[(first_row + row) * K * K * columns + first_column..];
                    for (c, groups) in blocks(panel) {
                        between.both::<K, N>(
                            groups,
                            #[inline(always)]
                            |y, x, group| Lanes::load(&from[(y * K + x) * columns + c + group * LANES..]),
                            #[inline(always)]
                            |v| Points::kernel(v),
                            #[inline(always)]
                            |y, x, group, v| v.store(&mut to[y * N + x][row * panel + c + group * LANES..]),
                        );
                    }
                }
            },
        );
    });
    planes
}

/// Computes `G^T u G` of the planes `(row, column)`, in the shape `(row, kernel, kernel, column)`: the transpose of
/// [`kernels`].
fn kernels_back<const K: usize, const N: usize>(planes: &[f32], columns: usize) -> Vec<f32>
where
    Points: Transform<N>,
{
    let rows = planes.len() / (N * N * columns);
    let mut into = vec![0.0; K * K * rows * columns];
    into.chunks_exact_mut(K * K * columns).enumerate().for_each(|(row, to)| {
        widest(
            #[inline(always)]
            || {
                let mut between = Between::<N>::NEW;
                for (c, groups) in blocks(columns) {
                    between.both::<N, K>(
                        groups,
                        #[inline(always)]
                        |y, x, group| {
                            let at = ((y * N + x) * rows + row) * columns + c + group * LANES;
                            Lanes::load(&planes[at..])
                        },
                        #[inline(always)]
                        |v| Points::kernel_back(v),
                        #[inline(always)]
                        |y, x, group, v| v.store(&mut to[(y * K + x) * columns + c + group * LANES..]),
                    );
                }
            },
        );
    });
    into
}
