//! Convolution by matrix products: columns are laid out a tile of output positions at a time, small enough for the
//! cache.
//!
//! The tiles, and the chunks of images that weight gradients are summed over, follow from the shape alone.

use std::cell::RefCell;

use rayon::prelude::*;

use super::finish::{self, Finish};
use super::gemm::{Matrix, multiply};
use super::{CHUNKS, layout, sum_in_order};

/// Rows that a matrix product should have at least: below it, packing the weights costs more than it gains.
const TILE_ROWS: usize = 256;
/// Images in one tile at most, where an image has few positions.
const TILE_IMAGES: usize = 32;

/// The shape of a convolution with square kernels on channels-last images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv {
    /// Images.
    pub images: usize,
    /// Height of the input in pixels.
    pub height: usize,
    /// Width of the input in pixels.
    pub width: usize,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros around the input, on each side.
    pub padding: usize,
    /// What happens to the output.
    pub finish: Finish,
}

/// The result of a forward pass.
pub struct Output {
    /// `(images, lines, columns, outputs)` after the finish.
    pub values: Vec<f32>,
    /// Which element of its window each value is; empty where nothing is pooled.
    pub choice: Vec<u8>,
}

/// The gradients of a convolution.
pub struct Gradients {
    /// `(outputs, inputs, kernel, kernel)`.
    pub weight: Vec<f32>,
    /// `(outputs)`.
    pub bias: Vec<f32>,
    /// As the input, if it was asked for.
    pub input: Option<Vec<f32>>,
}

/// A matrix of columns, and values or gradients before the finish.
#[derive(Default)]
struct Scratch {
    columns: Vec<f32>,
    values: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The first `len` elements of a buffer, which grows as needed; their content is left over from before.
fn first(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Lines of output of one or several images: `lines` is all of them where `images > 1`.
struct Tile {
    image: usize,
    images: usize,
    line: usize,
    lines: usize,
}

impl Conv {
    /// Lines of output before the finish.
    pub fn lines(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Columns of output before the finish.
    pub fn columns(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// The shape of the output after the finish.
    pub fn shape(&self) -> [usize; 4] {
        [self.images, self.finish.extent(self.lines()), self.finish.extent(self.columns()), self.outputs]
    }

    /// Length of a row of the matrix of columns, in the order `(kernel line, kernel column, input channel)`.
    fn depth(&self) -> usize {
        self.kernel * self.kernel * self.inputs
    }

    fn image_in(&self) -> usize {
        self.height * self.width * self.inputs
    }

    fn image_out(&self) -> usize {
        self.shape()[1..].iter().product()
    }

    /// Images that one tile may span.
    fn unit(&self) -> usize {
        TILE_ROWS.div_ceil(self.lines() * self.columns()).clamp(1, TILE_IMAGES)
    }

    /// The tiles of `images` images.
    fn tiles(&self, images: usize) -> Vec<Tile> {
        let lines = self.lines();
        let groups = images.div_ceil(self.unit());
        let group = images.div_ceil(groups.max(1));
        if group > 1 {
            let tile = |image| Tile { image, images: group.min(images - image), line: 0, lines };
            return (0..images).step_by(group).map(tile).collect();
        }
        let bands = (lines * self.columns() / TILE_ROWS).max(1);
        let band = lines.div_ceil(bands).next_multiple_of(2); // a window of the pool lies in one tile
        let bands = (0..lines).step_by(band).map(|line| (line, band.min(lines - line))).collect::<Vec<_>>();
        let tile = |image| bands.iter().map(move |&(line, lines)| Tile { image, images: 1, line, lines });
        (0..images).flat_map(tile).collect()
    }

    /// The part of the output, after the finish, that a tile covers.
    fn written(&self, tile: &Tile) -> std::ops::Range<usize> {
        let line = self.shape()[2] * self.outputs;
        let start = tile.image * self.image_out() + self.finish.extent(tile.line) * line;
        start..start + tile.images * self.finish.extent(tile.lines) * line
    }

    /// Calls `f(row of the matrix, start in the row, start in the input, length)` for every run of contiguous elements
    /// that a tile's matrix of columns takes from the input; what no run covers lies in the padding.
    #[inline(always)]
    fn runs(&self, tile: &Tile, mut f: impl FnMut(usize, usize, usize, usize)) {
        let (columns, span) = (self.columns(), self.kernel * self.inputs);
        let mut row = 0;
        for image in tile.image..tile.image + tile.images {
            for line in tile.line..tile.line + tile.lines {
                for column in 0..columns {
                    let left = column * self.stride;
                    let skip = self.padding.saturating_sub(left);
                    let end = self.kernel.min(self.width + self.padding - left);
                    for ky in 0..self.kernel {
                        let y = line * self.stride + ky;
                        if y < self.padding || y >= self.height + self.padding || skip >= end {
                            continue;
                        }
                        let x = left + skip - self.padding;
                        let from = ((image * self.height + y - self.padding) * self.width + x) * self.inputs;
                        f(row, ky * span + skip * self.inputs, from, (end - skip) * self.inputs);
                    }
                    row += 1;
                }
            }
        }
    }

    fn lay_out(&self, tile: &Tile, input: &[f32], into: &mut [f32]) {
        let depth = self.depth();
        if self.padding > 0 {
            into.fill(0.0);
        }
        self.runs(tile, |row, at, from, len| {
            let (into, from) = (&mut into[row * depth + at..][..len], &input[from..from + len]);
            if len <= 8 {
                // shorter than a call of memcpy is worth: the first layer's
                into.iter_mut().zip(from).for_each(|(into, from)| *into = *from);
            } else {
                into.copy_from_slice(from);
            }
        });
    }

    fn add_back(&self, tile: &Tile, columns: &[f32], into: &mut [f32]) {
        let depth = self.depth();
        self.runs(tile, |row, at, to, len| {
            let (into, from) = (&mut into[to..to + len], &columns[row * depth + at..][..len]);
            into.iter_mut().zip(from).for_each(|(into, from)| *into += *from);
        });
    }

    /// Whether the matrix of columns is the input itself.
    fn is_pointwise(&self) -> bool {
        (self.kernel, self.stride, self.padding) == (1, 1, 0)
    }

    /// The output for `input` `(images, height, width, inputs)`, `weight` `(outputs, inputs, kernel, kernel)` and
    /// `bias`.
    pub fn forward(&self, input: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Output {
        let (depth, image_in, image_out) = (self.depth(), self.image_in(), self.image_out());
        assert_eq!(input.len(), self.images * image_in);
        assert_eq!(weight.len(), self.outputs * depth);
        let weight = layout::transposed(&layout::channel_last(weight, self.kernel, self.inputs), depth);
        let weight = Matrix::new(&weight, depth, self.outputs);
        let pooled = self.finish == Finish::ReluPool;
        let mut values = vec![0.0; self.images * image_out];
        let mut choice = vec![0; if pooled { values.len() } else { 0 }];
        let unit = self.unit();
        // a chunk of choices for every chunk of values, empty ones where nothing is pooled
        let mut choices: Vec<&mut [u8]> = choice.chunks_mut((unit * image_out).max(1)).collect();
        choices.resize_with(self.images.div_ceil(unit), Default::default);
        let work = values.par_chunks_mut((unit * image_out).max(1)).zip(choices);
        work.enumerate().for_each(|(chunk, (values, choice))| {
            let input = &input[chunk * unit * image_in..];
            SCRATCH.with_borrow_mut(|scratch| {
                for tile in self.tiles(values.len() / image_out) {
                    let rows = tile.images * tile.lines * self.columns();
                    let columns = if self.is_pointwise() {
                        &input[tile.image * image_in + tile.line * self.width * self.inputs..]
                    } else {
                        let columns = first(&mut scratch.columns, rows * depth);
                        self.lay_out(&tile, input, columns);
                        columns
                    };
                    let columns = Matrix::new(columns, rows, depth);
                    let written = self.written(&tile);
                    let product = |target: &mut [f32]| {
                        if let Some(bias) = bias {
                            target.chunks_exact_mut(self.outputs).for_each(|row| row.copy_from_slice(bias));
                        }
                        multiply(columns, weight, target, bias.is_some());
                    };
                    let values = &mut values[written.clone()];
                    match self.finish {
                        Finish::Plain => product(values),
                        Finish::Relu => {
                            product(values);
                            finish::relu(values);
                        }
                        Finish::ReluPool => {
                            let before = first(&mut scratch.values, rows * self.outputs);
                            product(before);
                            let (image, out) = (before.len() / tile.images, (written.len() / tile.images).max(1));
                            let outs = values.chunks_exact_mut(out).zip(choice[written].chunks_exact_mut(out));
                            for (before, (values, choice)) in before.chunks_exact(image).zip(outs) {
                                finish::pool(before, self.columns(), self.outputs, values, choice);
                            }
                        }
                    }
                }
            });
        });
        Output { values, choice }
    }

    /// The gradients, from the operands and the result of the forward pass and the gradient `grad` of its values.
    pub fn backward(
        &self,
        input: &[f32],
        weight: &[f32],
        output: &[f32],
        choice: &[u8],
        grad: &[f32],
        want_input: bool,
    ) -> Gradients {
        let (depth, image_in, image_out) = (self.depth(), self.image_in(), self.image_out());
        assert_eq!(output.len(), self.images * image_out);
        assert_eq!(grad.len(), output.len());
        let by_output = if want_input { layout::channel_last(weight, self.kernel, self.inputs) } else { Vec::new() };
        let chunk = self.images.div_ceil(CHUNKS).max(self.unit());
        let chunks = self.images.div_ceil(chunk);
        let mut input_grad = vec![0.0; if want_input { input.len() } else { 0 }];
        let mut input_grads: Vec<&mut [f32]> = input_grad.chunks_mut((chunk * image_in).max(1)).collect();
        input_grads.resize_with(chunks, Default::default);
        let work = input_grads.into_par_iter().enumerate();
        let parts: Vec<(Vec<f32>, Vec<f32>)> = work
            .map(|(index, input_grad)| {
                let images = chunk.min(self.images - index * chunk);
                let input = &input[index * chunk * image_in..];
                let start = index * chunk * image_out;
                // Zeros are written, not only asked for: pages that are read before they are written cost two faults.
                input_grad.fill(0.0);
                let mut weight_grad = vec![0.0; depth * self.outputs];
                let mut bias_grad = vec![0.0f64; self.outputs];
                SCRATCH.with_borrow_mut(|scratch| {
                    for (number, tile) in self.tiles(images).into_iter().enumerate() {
                        let rows = tile.images * tile.lines * self.columns();
                        let written = self.written(&tile);
                        let (from, to) = (start + written.start, start + written.end);
                        let before = match self.finish {
                            Finish::Plain => &grad[from..to],
                            Finish::Relu => {
                                let before = first(&mut scratch.values, rows * self.outputs);
                                finish::relu_gradient(&output[from..to], &grad[from..to], before);
                                before
                            }
                            Finish::ReluPool => {
                                let before = first(&mut scratch.values, rows * self.outputs);
                                let (image, out) = (before.len() / tile.images, (to - from) / tile.images);
                                for (i, before) in before.chunks_exact_mut(image).enumerate() {
                                    let part = from + i * out..from + (i + 1) * out;
                                    let (output, choice) = (&output[part.clone()], &choice[part.clone()]);
                                    let (width, grad) = (self.columns(), &grad[part]);
                                    finish::pool_gradient(output, choice, grad, width, self.outputs, before);
                                }
                                before
                            }
                        };
                        add_rows(before, &mut bias_grad);
                        let before = Matrix::new(before, rows, self.outputs);
                        let columns = first(&mut scratch.columns, rows * depth);
                        self.lay_out(&tile, input, columns);
                        multiply(before.transposed(), Matrix::new(columns, rows, depth), &mut weight_grad, number > 0);
                        if want_input {
                            multiply(before, Matrix::new(&by_output, self.outputs, depth), columns, false);
                            self.add_back(&tile, columns, input_grad);
                        }
                    }
                });
                (weight_grad, bias_grad.iter().map(|v| *v as f32).collect())
            })
            .collect();
        let (weights, biases): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        Gradients {
            weight: layout::channel_first(&sum_in_order(&weights), self.kernel, self.inputs),
            bias: sum_in_order(&biases),
            input: want_input.then_some(input_grad),
        }
    }
}

/// Adds the rows of a matrix to `sums`: in f32 over a few rows, in f64 over all.
fn add_rows(rows: &[f32], sums: &mut [f64]) {
    let mut part = vec![0.0f32; sums.len()];
    for block in rows.chunks(sums.len() * 32) {
        part.fill(0.0);
        for row in block.chunks_exact(sums.len()) {
            part.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        sums.iter_mut().zip(&part).for_each(|(sum, part)| *sum += f64::from(*part));
    }
}
