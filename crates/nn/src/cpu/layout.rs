//! The two layouts of convolution weights: channel first, as the weights are stored, and channel last,
//! as the products need them.

use rayon::prelude::*;

/// Reorders `(outputs, inputs, kernel, kernel)` to `(outputs, kernel, kernel, inputs)`.
pub fn channel_last(weight: &[f32], kernel: usize, inputs: usize) -> Vec<f32> {
    let (area, mut moved) = (kernel * kernel, vec![0.0; weight.len()]);
    moved.par_chunks_mut(area * inputs).zip(weight.par_chunks(area * inputs)).for_each(|(to, from)| {
        for (input, from) in from.chunks_exact(area).enumerate() {
            from.iter().enumerate().for_each(|(place, value)| to[place * inputs + input] = *value);
        }
    });
    moved
}

/// Reorders `(outputs, inputs, kernel, kernel)` to `(inputs, kernel, kernel, outputs)`, with the lines and the columns of the
/// kernel in reverse order: the weights of the convolution that gives the gradient of the input.
pub fn turned(weight: &[f32], kernel: usize, inputs: usize) -> Vec<f32> {
    let area = kernel * kernel;
    let (row, outputs) = (area * inputs, weight.len() / (area * inputs));
    let mut moved = vec![0.0; weight.len()];
    moved.par_chunks_mut(area * outputs).enumerate().for_each(|(input, to)| {
        for (place, to) in to.chunks_exact_mut(outputs).enumerate() {
            let from = weight[input * area + area - 1 - place..].iter().step_by(row);
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
    });
    moved
}

/// The inverse of [`channel_last`].
pub fn channel_first(weight: &[f32], kernel: usize, inputs: usize) -> Vec<f32> {
    let (area, mut moved) = (kernel * kernel, vec![0.0; weight.len()]);
    moved.par_chunks_mut(area * inputs).zip(weight.par_chunks(area * inputs)).for_each(|(to, from)| {
        for (input, to) in to.chunks_exact_mut(area).enumerate() {
            to.iter_mut().enumerate().for_each(|(place, value)| *value = from[place * inputs + input]);
        }
    });
    moved
}

/// Reorders `(kernel, kernel, inputs, outputs)` to `(outputs, inputs, kernel, kernel)`, in blocks of outputs as wide as a cache line.
pub fn outputs_first(weight: &[f32], kernel: usize, inputs: usize, outputs: usize) -> Vec<f32> {
    const BLOCK: usize = 16;
    let (area, row) = (kernel * kernel, kernel * kernel * inputs);
    let mut moved = vec![0.0; weight.len()];
    moved.par_chunks_mut(BLOCK * row).enumerate().for_each(|(block, to)| {
        let count = to.len() / row;
        for (number, from) in weight.chunks_exact(outputs).enumerate() {
            let (place, input) = (number / inputs, number % inputs);
            let from = &from[block * BLOCK..][..count];
            from.iter().enumerate().for_each(|(i, value)| to[i * row + input * area + place] = *value);
        }
    });
    moved
}

/// The transpose of a row-major matrix, computed in blocks as wide as a cache line.
pub fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    const BLOCK: usize = 16;
    let rows = matrix.len() / columns;
    let mut transposed = vec![0.0; matrix.len()];
    transposed.par_chunks_mut(BLOCK * rows).enumerate().for_each(|(block, to)| {
        let start = block * BLOCK;
        let count = to.len() / rows;
        for (row, from) in matrix.chunks_exact(columns).enumerate() {
            from[start..start + count].iter().enumerate().for_each(|(i, value)| to[i * rows + row] = *value);
        }
    });
    transposed
}
