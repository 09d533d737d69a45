//! The im2col matrix: one row for each position of the output, with the inputs under the kernel at that position.

use super::conv_shape::{ConvShape, Tile};
use super::element::Element;
use super::gemm::{Matrix, multiply};
use super::scratch::{Scratch, grown};
use super::vector::widest;

impl ConvShape {
    /// Calls `f(row of the matrix, start in the row, start in the input, length)` for every run of contiguous elements
    /// that a tile's im2col matrix takes from the input. The elements outside all runs are padding.
    #[inline(always)]
    fn runs(&self, tile: &Tile, mut f: impl FnMut(usize, usize, usize, usize)) {
        let (columns, span) = (self.columns(), self.kernel * self.inputs);
        let mut row = 0;
        for image in tile.image..tile.image + tile.images {
            for line in tile.line..tile.line + tile.lines {
                for column in 0..columns {
                    let left = column * self.stride;
                    let skip = self.padding.saturating_sub(left);
                    let end = self.kernel.min((self.width + self.padding).saturating_sub(left));
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

    /// Writes a tile's im2col matrix, whose rows are `row` elements apart.
    pub(super) fn lay_out<T: Element>(&self, tile: &Tile, input: &[T], into: &mut [T], row: usize) {
        if self.padding > 0 {
            into.fill(T::default());
        }
        self.runs(tile, |number, at, from, len| {
            let (into, from) = (&mut into[number * row + at..][..len], &input[from..from + len]);
            if len <= 8 {
                // the first layer: the runs are too short for a call of memcpy to pay off
                into.iter_mut().zip(from).for_each(|(into, from)| *into = *from);
            } else {
                into.copy_from_slice(from);
            }
        });
    }

    /// Adds the rows of a tile's im2col matrix to the elements of the input that they were taken from.
    pub(super) fn add_back(&self, tile: &Tile, columns: &[f32], into: &mut [f32]) {
        let depth = self.depth();
        widest(
            #[inline(always)]
            || {
                self.runs(
                    tile,
                    #[inline(always)]
                    |row, at, to, len| {
                        let (into, from) = (&mut into[to..to + len], &columns[row * depth + at..][..len]);
                        for (into, from) in into.iter_mut().zip(from) {
                            *into += *from;
                        }
                    },
                );
            },
        );
    }

    /// Whether the im2col matrix is the input itself.
    fn is_pointwise(&self) -> bool {
        (self.kernel, self.stride, self.padding) == (1, 1, 0)
    }

    /// Computes the outputs of a tile before the epilogue. `weight` is `(kernel, kernel, inputs, outputs)`.
    pub(super) fn im2col_product(
        &self,
        tile: &Tile,
        input: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        scratch: &mut Scratch,
        target: &mut [f32],
    ) {
        let (rows, depth) = (tile.images * tile.lines * self.columns(), self.depth());
        let columns = if self.is_pointwise() {
            &input[tile.image * self.image_in() + tile.line * self.width * self.inputs..]
        } else {
            let columns = grown(&mut scratch.columns, rows * depth);
            self.lay_out(tile, input, columns, depth);
            columns
        };
        if let Some(bias) = bias {
            target.chunks_exact_mut(self.outputs).for_each(|row| row.copy_from_slice(bias));
        }
        let weight = Matrix::new(weight, depth, self.outputs);
        multiply(Matrix::new(columns, rows, depth), weight, target, bias.is_some());
    }

    /// Computes the weight gradient of a tile, which is set or added, and its input gradient, which is added to `into`
    /// unless `into` is empty. The weights and their gradient are `(outputs, kernel, kernel, inputs)`.
    #[expect(clippy::too_many_arguments, reason = "operands, a place to work in and two results")]
    pub(super) fn im2col_gradients(
        &self,
        tile: &Tile,
        input: &[f32],
        grad: &[f32],
        (weight, weight_grad): (&[f32], &mut [f32]),
        add: bool,
        scratch: &mut Scratch,
        into: &mut [f32],
    ) {
        let (rows, depth) = (tile.images * tile.lines * self.columns(), self.depth());
        let grad = Matrix::new(grad, rows, self.outputs);
        let columns = grown(&mut scratch.columns, rows * depth);
        self.lay_out(tile, input, columns, depth);
        multiply(grad.transposed(), Matrix::new(columns, rows, depth), weight_grad, add);
        if !into.is_empty() {
            multiply(grad, Matrix::new(weight, self.outputs, depth), columns, false);
            self.add_back(tile, columns, into);
        }
    }
}
