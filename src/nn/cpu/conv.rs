//! Convolution by matrix products, a tile of the output at a time, small enough for the cache: of a matrix of columns
//! (`columns.rs`), or of Winograd's transforms (`winograd.rs`) where those take fewer products.
//!
//! The tiles, and the chunks of images that weight gradients are summed over, follow from the shape alone.

use std::cell::RefCell;

use rayon::prelude::*;

use super::finish::{self, Finish};
use super::memory::by_chunks;
use super::vector::{LANES, widest};
use super::{CHUNKS, layout, sum_in_order, winograd};

/// Rows that a matrix product should have at least: below it, packing the weights costs more than it gains.
const COLUMNS_ROWS: usize = 256;
/// The same for Winograd's products, of which a tile has 36.
const WINOGRAD_ROWS: usize = 128;
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

/// How a pass makes its products.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Method {
    Columns,
    /// Winograd's, with so many outputs on a side of a square.
    Winograd(usize),
}

/// What a thread keeps from tile to tile: contents are left over from before.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) columns: Vec<f32>,
    pub(super) inputs: Vec<f32>,
    pub(super) outputs: Vec<f32>,
    pub(super) weights: Vec<f32>,
    values: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The first `len` elements of a buffer, which grows as needed; their content is left over from before.
pub(super) fn first(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Lines of output of one or several images: `lines` is all of them where `images > 1`.
pub(super) struct Tile {
    pub(super) image: usize,
    pub(super) images: usize,
    pub(super) line: usize,
    pub(super) lines: usize,
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
    pub(super) fn depth(&self) -> usize {
        self.kernel * self.kernel * self.inputs
    }

    pub(super) fn image_in(&self) -> usize {
        self.height * self.width * self.inputs
    }

    fn image_out(&self) -> usize {
        self.shape()[1..].iter().product()
    }

    /// Winograd's method where its squares cover at most an eighth more outputs than are asked for. Its errors are about
    /// twice as large, and a ReLU or a maximum whose choice they change has another gradient: not for a small gain.
    fn method(&self) -> Method {
        let side = match self.kernel {
            3 => 4,
            5 => 2,
            _ => return Method::Columns,
        };
        let covered = self.lines().next_multiple_of(side) * self.columns().next_multiple_of(side);
        let suits = self.stride == 1 && self.inputs.is_multiple_of(LANES) && self.outputs.is_multiple_of(LANES);
        let pays = 8 * covered <= 9 * self.lines() * self.columns();
        if suits && pays { Method::Winograd(side) } else { Method::Columns }
    }

    /// Rows of the matrices for so many lines of one image.
    fn rows(&self, lines: usize) -> usize {
        match self.method() {
            Method::Winograd(side) => lines.div_ceil(side) * self.columns().div_ceil(side),
            Method::Columns => lines * self.columns(),
        }
    }

    /// Images that one tile may span.
    fn unit(&self) -> usize {
        let wanted = if self.method() == Method::Columns { COLUMNS_ROWS } else { WINOGRAD_ROWS };
        wanted.div_ceil(self.rows(self.lines())).clamp(1, TILE_IMAGES)
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
        // a window of the pool, or a square of Winograd's, lies in one tile
        let (wanted, step) = match self.method() {
            Method::Columns => (COLUMNS_ROWS, 2),
            Method::Winograd(side) => (WINOGRAD_ROWS, side),
        };
        let bands = (self.rows(lines) / wanted).max(1);
        let band = lines.div_ceil(bands).next_multiple_of(step);
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

    /// The output for `input` `(images, height, width, inputs)`, `weight` `(outputs, inputs, kernel, kernel)` and
    /// `bias`.
    pub fn forward(&self, input: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Output {
        let (depth, image_in, image_out) = (self.depth(), self.image_in(), self.image_out());
        assert_eq!(input.len(), self.images * image_in);
        assert_eq!(weight.len(), self.outputs * depth);
        let method = self.method();
        let by_output = layout::channel_last(weight, self.kernel, self.inputs);
        let weight = match method {
            Method::Columns => layout::transposed(&by_output, depth),
            Method::Winograd(_) => winograd::forward_weights(self, &by_output),
        };
        let pooled = self.finish == Finish::ReluPool;
        let mut choice = vec![0; if pooled { self.images * image_out } else { 0 }];
        let unit = self.unit();
        // a chunk of choices for every chunk of values, empty ones where nothing is pooled
        let mut choices: Vec<&mut [u8]> = choice.chunks_mut((unit * image_out).max(1)).collect();
        choices.resize_with(self.images.div_ceil(unit), Default::default);
        let (values, _) = by_chunks(self.images * image_out, unit * image_out, choices, |chunk, values, choice| {
            let input = &input[chunk * unit * image_in..];
            SCRATCH.with_borrow_mut(|scratch| {
                for tile in self.tiles(values.len() / image_out) {
                    let written = self.written(&tile);
                    let product = |target: &mut [f32], scratch: &mut Scratch| match method {
                        Method::Columns => self.columns_product(&tile, input, &weight, bias, scratch, target),
                        Method::Winograd(4) => {
                            winograd::product::<4>(self, &tile, input, &weight, bias, scratch, target)
                        }
                        Method::Winograd(_) => {
                            winograd::product::<2>(self, &tile, input, &weight, bias, scratch, target)
                        }
                    };
                    let values = &mut values[written.clone()];
                    match self.finish {
                        Finish::Plain => product(values, scratch),
                        Finish::Relu => {
                            product(values, scratch);
                            finish::relu(values);
                        }
                        Finish::ReluPool => {
                            let mut before = std::mem::take(&mut scratch.values);
                            let len = tile.images * tile.lines * self.columns() * self.outputs;
                            product(first(&mut before, len), scratch);
                            let (image, out) = (len / tile.images, (written.len() / tile.images).max(1));
                            let outs = values.chunks_exact_mut(out).zip(choice[written].chunks_exact_mut(out));
                            for (before, (values, choice)) in before[..len].chunks_exact(image).zip(outs) {
                                finish::pool(before, self.columns(), self.outputs, values, choice);
                            }
                            scratch.values = before;
                        }
                    }
                }
            });
        });
        Output { values, choice }
    }

    /// The gradient before the finish of the outputs of a tile, out of those of its images and lines after it.
    fn before(&self, tile: &Tile, [output, grad]: [&[f32]; 2], choice: &[u8], before: &mut [f32]) {
        match self.finish {
            Finish::Plain => before.copy_from_slice(grad),
            Finish::Relu => finish::relu_gradient(output, grad, before),
            Finish::ReluPool => {
                let (image, out) = (before.len() / tile.images, grad.len() / tile.images);
                for (i, before) in before.chunks_exact_mut(image).enumerate() {
                    let part = i * out..(i + 1) * out;
                    let (output, choice) = (&output[part.clone()], &choice[part.clone()]);
                    finish::pool_gradient(output, choice, &grad[part], self.columns(), self.outputs, before);
                }
            }
        }
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
        let method = self.method();
        let mut by_output =
            if want_input { layout::channel_last(weight, self.kernel, self.inputs) } else { Vec::new() };
        if want_input && method != Method::Columns {
            by_output = winograd::backward_weights(self, &by_output);
        }
        let chunk = self.images.div_ceil(CHUNKS).max(self.unit());
        let chunks = self.images.div_ceil(chunk);
        let part = |index: usize, input_grad: &mut [f32]| {
            let images = chunk.min(self.images - index * chunk);
            let input = &input[index * chunk * image_in..];
            let start = index * chunk * image_out;
            let mut bias_grad = vec![0.0f64; self.outputs];
            let mut weight_grad = vec![0.0; if method == Method::Columns { depth * self.outputs } else { 0 }];
            SCRATCH.with_borrow_mut(|scratch| {
                for (number, tile) in self.tiles(images).into_iter().enumerate() {
                    let written = self.written(&tile);
                    let part = start + written.start..start + written.end;
                    let choice = if choice.is_empty() { choice } else { &choice[part.clone()] };
                    let mut before = std::mem::take(&mut scratch.values);
                    let len = tile.images * tile.lines * self.columns() * self.outputs;
                    let rows = match self.finish {
                        Finish::Plain => &grad[part],
                        _ => {
                            let rows = first(&mut before, len);
                            self.before(&tile, [&output[part.clone()], &grad[part]], choice, rows);
                            rows
                        }
                    };
                    add_rows(rows, &mut bias_grad);
                    let add = number > 0;
                    match method {
                        Method::Columns => {
                            let weights = (&by_output[..], &mut weight_grad[..]);
                            self.columns_gradients(&tile, input, rows, weights, add, scratch, input_grad);
                        }
                        Method::Winograd(4) => {
                            winograd::gradients::<4>(self, &tile, input, rows, &by_output, add, scratch, input_grad);
                        }
                        Method::Winograd(_) => {
                            winograd::gradients::<2>(self, &tile, input, rows, &by_output, add, scratch, input_grad);
                        }
                    }
                    scratch.values = before;
                }
                if method != Method::Columns {
                    weight_grad = winograd::weight_gradient(self, scratch);
                }
            });
            (weight_grad, bias_grad.iter().map(|v| *v as f32).collect())
        };
        let (input_grad, parts) = if want_input {
            by_chunks(input.len(), chunk * image_in, vec![(); chunks], |index, input_grad, ()| part(index, input_grad))
        } else {
            (Vec::new(), (0..chunks).into_par_iter().map(|index| part(index, &mut [])).collect())
        };
        let (weights, biases): (Vec<Vec<f32>>, Vec<Vec<f32>>) = parts.into_iter().unzip();
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
    widest(
        #[inline(always)]
        || {
            for block in rows.chunks(sums.len() * 32) {
                part.fill(0.0);
                for row in block.chunks_exact(sums.len()) {
                    for (sum, value) in part.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
                for (sum, part) in sums.iter_mut().zip(&part) {
                    *sum += f64::from(*part);
                }
            }
        },
    );
}
