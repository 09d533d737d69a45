//! The fully connected layer whose factors are bfloat16. Results are f32.

use half::bf16;
use rayon::prelude::*;

use super::pack::{self, Panels, SLACK, interleave};
use crate::cpu::kernel::{Operands, PANEL, Start, offset};
use crate::cpu::linear::{BLOCK, LinearShape, by_blocks};
use crate::cpu::memory::by_chunks;

/// The left operand of a product: the rows of a matrix, rounded, and filled up to an even number of columns by zeros.
struct Rows {
    values: Vec<bf16>,
    starts: Vec<u32>,
    pairs: Vec<[u32; 2]>,
}

impl Rows {
    fn new(matrix: &[f32], columns: usize) -> Rows {
        let pairs = columns.div_ceil(2);
        let mut values = vec![bf16::ZERO; matrix.len() / columns * 2 * pairs];
        values
            .par_chunks_mut(2 * pairs)
            .zip(matrix.par_chunks(columns))
            .for_each(|(to, from)| pack::narrow(from, &mut to[..columns]));
        Rows {
            starts: (0..matrix.len() / columns).map(|row| offset(row * 2 * pairs)).collect(),
            values,
            pairs: pack::pairs(pairs),
        }
    }

    /// The product of the rows and some columns, whose first is a multiple of the columns of a panel.
    fn multiply(&self, Panels { values, panel }: &Panels, from: usize, columns: usize, start: Start, into: &mut [f32]) {
        let operands = Operands {
            a: &self.values,
            rows: &self.starts,
            b: &values[from / PANEL * panel..],
            panel: *panel,
            words: &self.pairs,
        };
        operands.multiply(columns, start, into, columns);
    }
}

/// Computes `input weight^T + bias`: see [`LinearShape::forward`].
pub fn forward(shape: &LinearShape, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let (input, weight) = (Rows::new(input, shape.inputs), pack::columns(weight, shape.inputs, shape.inputs));
    by_blocks(shape.rows, shape.outputs, |start, count, block| {
        input.multiply(&weight, start, count, Start::Bias(&bias[start..]), block);
    })
}

/// The gradient of the input, `(rows, inputs)`.
pub fn input_gradient(shape: &LinearShape, weight: &[f32], grad: &[f32]) -> Vec<f32> {
    let (grad, weight) = (Rows::new(grad, shape.outputs), pack::rows(weight, shape.inputs));
    by_blocks(shape.rows, shape.inputs, |start, count, block| grad.multiply(&weight, start, count, Start::Zero, block))
}

/// The gradient of the weight, `(outputs, inputs)`.
pub fn weight_gradient(shape: &LinearShape, input: &[f32], grad: &[f32]) -> Vec<f32> {
    let (input, grad) = (pairs(input, shape.inputs), pairs(grad, shape.outputs));
    let depth = (0..shape.rows.div_ceil(2)).map(|pair| [pair * 2 * shape.outputs, pair * 2 * shape.inputs]);
    let depth: Vec<[u32; 2]> = depth.map(|pair| pair.map(offset)).collect();
    let blocks = vec![(); shape.outputs.div_ceil(BLOCK)];
    let (weight, _) = by_chunks(shape.outputs * shape.inputs, BLOCK * shape.inputs, blocks, |i, block, ()| {
        let rows: Vec<u32> = (0..block.len() / shape.inputs).map(|row| offset(2 * (i * BLOCK + row))).collect();
        let operands = Operands { a: &grad, rows: &rows, b: &input, panel: 2 * PANEL, words: &depth };
        operands.multiply(shape.inputs, Start::Zero, block, shape.inputs);
    });
    weight
}

/// The rows of a matrix in pairs: the elements of two rows side by side. A last row without another is paired with zeros.
fn pairs(matrix: &[f32], columns: usize) -> Vec<bf16> {
    let mut values = vec![bf16::ZERO; matrix.len().div_ceil(2 * columns) * 2 * columns + SLACK];
    values.par_chunks_mut(2 * columns).zip(matrix.par_chunks(2 * columns)).for_each(|(to, two)| {
        let mut rows = vec![bf16::ZERO; 2 * columns];
        pack::narrow(two, &mut rows);
        let (upper, lower) = rows.split_at(columns);
        interleave(upper, lower, to);
    });
    values
}
