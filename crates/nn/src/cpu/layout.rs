//! The two layouts of convolution weights: channel first, as the weights are stored, and channel last,
//! as the products need them.

use super::memory::by_chunks;

/// Reorders `(outputs, inputs, kernel, kernel)` to `(outputs, kernel, kernel, inputs)`.
pub fn channel_last(weight: &[f32], kernel: usize, inputs: usize) -> Vec<f32> {
    let area = kernel * kernel;
    moved(weight, area * inputs, |output, to| {
        for (input, from) in weight[output * to.len()..][..to.len()].chunks_exact(area).enumerate() {
            from.iter().enumerate().for_each(|(place, value)| to[place * inputs + input] = *value);
        }
    })
}

/// Reorders `(outputs, inputs, kernel, kernel)` to `(inputs, kernel, kernel, outputs)`, with the lines and the columns of the
/// kernel in reverse order: the weights of the convolution that gives the gradient of the input.
pub fn turned(weight: &[f32], kernel: usize, inputs: usize) -> Vec<f32> {
    let area = kernel * kernel;
    let (row, outputs) = (area * inputs, weight.len() / (area * inputs));
    moved(weight, area * outputs, |input, to| {
        for (place, to) in to.chunks_exact_mut(outputs).enumerate() {
            let from = weight[input * area + area - 1 - place..].iter().step_by(row);
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
    })
}

/// The inverse of [`channel_last`].
pub fn channel_first(weight: &[f32], kernel: usize, inputs: usize) -> Vec<f32> {
    let area = kernel * kernel;
    moved(weight, area * inputs, |output, to| {
        let from = &weight[output * to.len()..][..to.len()];
        for (input, to) in to.chunks_exact_mut(area).enumerate() {
            to.iter_mut().enumerate().for_each(|(place, value)| *value = from[place * inputs + input]);
        }
    })
}

/// Reorders `(kernel, kernel, inputs, outputs)` to `(outputs, inputs, kernel, kernel)`, in blocks of outputs as wide as a cache line.
pub fn outputs_first(weight: &[f32], kernel: usize, inputs: usize, outputs: usize) -> Vec<f32> {
    const BLOCK: usize = 16;
    let (area, row) = (kernel * kernel, kernel * kernel * inputs);
    moved(weight, BLOCK * row, |block, to| {
        let count = to.len() / row;
        for (number, from) in weight.chunks_exact(outputs).enumerate() {
            let (place, input) = (number / inputs, number % inputs);
            let from = &from[block * BLOCK..][..count];
            from.iter().enumerate().for_each(|(i, value)| to[i * row + input * area + place] = *value);
        }
    })
}

/// The transpose of a row-major matrix, computed in blocks as wide as a cache line.
pub fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    const BLOCK: usize = 16;
    let rows = matrix.len() / columns;
    moved(matrix, BLOCK * rows, |block, to| {
        let start = block * BLOCK;
        let count = to.len() / rows;
        for (row, from) in matrix.chunks_exact(columns).enumerate() {
            from[start..start + count].iter().enumerate().for_each(|(i, value)| to[i * rows + row] = *value);
        }
    })
}

/// A vector of the length of `values`. `fill` receives the number of a chunk and its elements.
fn moved(values: &[f32], chunk: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let chunks = vec![(); values.len().div_ceil(chunk.max(1))];
    by_chunks(values.len(), chunk, chunks, |number, to, ()| fill(number, to)).0
}
