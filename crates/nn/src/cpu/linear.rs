//! The fully connected layer, computed in blocks of features because a batch has too few rows to divide.

use rayon::prelude::*;

use super::gemm::{Matrix, multiply};
use super::memory::by_chunks;

/// The number of features in a block.
pub(super) const BLOCK: usize = 128;

/// The shape of a fully connected layer and a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearShape {
    /// The number of rows of the batch.
    pub rows: usize,
    /// The number of input features.
    pub inputs: usize,
    /// The number of output features.
    pub outputs: usize,
}

impl LinearShape {
    /// Computes `input weight^T + bias` for `input` `(rows, inputs)` and `weight` `(outputs, inputs)`.
    pub fn forward(&self, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let input = Matrix::new(input, self.rows, self.inputs);
        let weight = Matrix::new(weight, self.outputs, self.inputs).transposed();
        by_blocks(self.rows, self.outputs, |start, count, block| {
            block.chunks_exact_mut(count).for_each(|row| row.copy_from_slice(&bias[start..start + count]));
            multiply(input, weight.columns(start, count), block, true);
        })
    }

    /// The gradient of the input, `(rows, inputs)`.
    pub fn input_gradient(&self, weight: &[f32], grad: &[f32]) -> Vec<f32> {
        let grad = Matrix::new(grad, self.rows, self.outputs);
        let weight = Matrix::new(weight, self.outputs, self.inputs);
        by_blocks(self.rows, self.inputs, |start, count, block| {
            multiply(grad, weight.columns(start, count), block, false);
        })
    }

    /// The gradient of the weight, `(outputs, inputs)`.
    pub fn weight_gradient(&self, input: &[f32], grad: &[f32]) -> Vec<f32> {
        let input = Matrix::new(input, self.rows, self.inputs);
        let grad = Matrix::new(grad, self.rows, self.outputs);
        let blocks = vec![(); self.outputs.div_ceil(BLOCK)];
        let (weight, _) = by_chunks(self.outputs * self.inputs, BLOCK * self.inputs, blocks, |i, block, ()| {
            let grad = grad.columns(i * BLOCK, block.len() / self.inputs);
            multiply(grad.transposed(), input, block, false);
        });
        weight
    }

    /// The gradient of the bias, `(outputs)`.
    pub fn bias_gradient(&self, grad: &[f32]) -> Vec<f32> {
        let sum = |output| (0..self.rows).map(|row| f64::from(grad[row * self.outputs + output])).sum::<f64>() as f32;
        (0..self.outputs).map(sum).collect()
    }
}

/// Makes a matrix `(rows, columns)` from blocks of columns, computed in parallel by
/// `fill(first column, columns, block)`.
pub(super) fn by_blocks(rows: usize, columns: usize, fill: impl Fn(usize, usize, &mut [f32]) + Sync) -> Vec<f32> {
    let block = |start: usize| {
        let count = BLOCK.min(columns - start);
        let mut block = vec![0.0; rows * count];
        fill(start, count, &mut block);
        (start, count, block)
    };
    let starts: Vec<usize> = (0..columns).step_by(BLOCK).collect();
    let blocks: Vec<_> = starts.into_par_iter().map(block).collect();
    let mut all = vec![0.0; rows * columns];
    for (start, count, block) in &blocks {
        for (row, part) in all.chunks_exact_mut(columns).zip(block.chunks_exact(*count)) {
            row[*start..start + count].copy_from_slice(part);
        }
    }
    all
}
