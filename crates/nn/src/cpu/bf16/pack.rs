//! Layouts of the operands of products: pairs of depth side by side.

use half::bf16;
use rayon::prelude::*;

use super::kernel::PANEL;
use crate::cpu::element::Element;
use crate::cpu::vector::widest;

/// The elements after the end of a right operand whose last panel may be read beyond its columns.
pub const SLACK: usize = 2 * PANEL;

/// A right operand in panels of columns. In a panel, the pairs of depth follow each other, each with [`PANEL`] columns.
pub struct Panels {
    pub values: Vec<bf16>,
    /// The number of elements in a panel.
    pub panel: usize,
}

/// The places of pairs that follow each other in the rows of the left operand, and in panels of the right operand.
pub fn pairs(count: usize) -> Vec<[u32; 2]> {
    (0..count).map(|pair| [2 * pair as u32, (2 * PANEL * pair) as u32]).collect()
}

/// Packs the transpose of a row-major matrix, whose rows are the columns of the operand. A row consists of parts of `part`
/// elements; each part is filled up to an even number of elements by zeros.
pub fn columns(matrix: &[f32], row: usize, part: usize) -> Panels {
    let pairs = row / part * part.div_ceil(2);
    let panel = pairs * 2 * PANEL;
    let mut values = vec![bf16::ZERO; (matrix.len() / row).div_ceil(PANEL) * panel];
    values.par_chunks_mut(panel).zip(matrix.par_chunks(PANEL * row)).for_each(|(to, rows)| {
        for (column, row) in rows.chunks_exact(row).enumerate() {
            let mut pairs = to.chunks_exact_mut(2 * PANEL);
            for part in row.chunks_exact(part) {
                for (pair, to) in part.chunks(2).zip(&mut pairs) {
                    to[2 * column] = bf16::narrow(pair[0]);
                    to[2 * column + 1] = pair.get(1).copied().map_or(bf16::ZERO, bf16::narrow);
                }
            }
        }
    });
    Panels { values, panel }
}

/// Packs a row-major matrix with `columns` columns, whose rows are the depth of the operand.
pub fn rows(matrix: &[f32], columns: usize) -> Panels {
    let pairs = (matrix.len() / columns).div_ceil(2);
    let panel = pairs * 2 * PANEL;
    let mut values = vec![bf16::ZERO; columns.div_ceil(PANEL) * panel];
    values.par_chunks_mut(panel).enumerate().for_each(|(number, to)| {
        let start = number * PANEL;
        let count = PANEL.min(columns - start);
        for (two, to) in matrix.chunks(2 * columns).zip(to.chunks_exact_mut(2 * PANEL)) {
            let (upper, lower) = two.split_at(columns);
            let mut rows = [[bf16::ZERO; PANEL]; 2];
            narrow(&upper[start..start + count], &mut rows[0]);
            narrow(lower.get(start..start + count).unwrap_or_default(), &mut rows[1]);
            interleave(&rows[0], &rows[1], to);
        }
    });
    Panels { values, panel }
}

/// Writes the elements of two rows side by side: `to` begins with the first of `upper`, the first of `lower`, the second of
/// `upper`, and so on.
pub fn interleave(upper: &[bf16], lower: &[bf16], to: &mut [bf16]) {
    widest(
        #[inline(always)]
        || interleave_loop(upper, lower, to),
    );
}

#[inline(always)]
fn interleave_loop(upper: &[bf16], lower: &[bf16], to: &mut [bf16]) {
    let pairs = to.as_chunks_mut::<2>().0.iter_mut().zip(upper.iter().zip(lower));
    pairs.for_each(|(to, (a, b))| *to = [*a, *b]);
}

/// Packs pairs of rows with `columns` columns, which are given as one slice for each pair. A row without another is paired with
/// zeros.
pub fn pairs_in_panels<'a>(twos: impl Iterator<Item = &'a [bf16]>, columns: usize, panel: usize, to: &mut [bf16]) {
    widest(
        #[inline(always)]
        || {
            for (pair, two) in twos.enumerate() {
                let (upper, lower) = two.split_at(columns);
                for (number, start) in (0..columns).step_by(PANEL).enumerate() {
                    let count = PANEL.min(columns - start);
                    let to = &mut to[number * panel + pair * 2 * PANEL..][..2 * PANEL];
                    let (upper, lower) = (&upper[start..start + count], lower.get(start..start + count));
                    let lower = lower.unwrap_or(&[bf16::ZERO; PANEL][..count]);
                    match (upper.as_array::<PANEL>(), lower.as_array::<PANEL>()) {
                        (Some(upper), Some(lower)) => interleave_loop(upper, lower, to),
                        _ => interleave_loop(upper, lower, to),
                    }
                }
            }
        },
    );
}

/// Rounds values.
pub fn narrow(from: &[f32], to: &mut [bf16]) {
    widest(
        #[inline(always)]
        || to.iter_mut().zip(from).for_each(|(to, from)| *to = bf16::narrow(*from)),
    );
}
