//! Layouts of the operands of products: pairs of depth side by side.

use half::bf16;

use crate::cpu::element::Element;
use crate::cpu::kernel::{PANEL, offset};
use crate::cpu::memory::by_chunks;
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
    (0..count).map(|pair| [2 * pair, 2 * PANEL * pair].map(offset)).collect()
}

/// Packs the transpose of a row-major matrix, whose rows are the columns of the operand. A row consists of parts of `part`
/// elements; each part is filled up to an even number of elements by zeros.
pub fn columns(matrix: &[f32], row: usize, part: usize) -> Panels {
    let even = part.next_multiple_of(2);
    let panel = row / part * even * PANEL;
    let panels: Vec<&[f32]> = matrix.chunks(PANEL * row).collect();
    let (values, _) = by_chunks(panels.len() * panel, panel, panels, |_, to, rows| {
        let mut narrowed = vec![bf16::ZERO; row / part * even];
        let to = to.as_chunks_mut::<2>().0;
        for (column, row) in rows.chunks_exact(row).enumerate() {
            match even == part {
                true => narrow(row, &mut narrowed),
                false => {
                    let parts = narrowed.chunks_exact_mut(even).zip(row.chunks_exact(part));
                    parts.for_each(|(to, part)| narrow(part, to));
                }
            }
            let pairs = to[column..].iter_mut().step_by(PANEL).zip(narrowed.as_chunks::<2>().0);
            pairs.for_each(|(to, pair)| *to = *pair);
        }
    });
    Panels { values, panel }
}

/// Packs a row-major matrix with `columns` columns, whose rows are the depth of the operand.
pub fn rows(matrix: &[f32], columns: usize) -> Panels {
    let panel = (matrix.len() / columns).div_ceil(2) * 2 * PANEL;
    let (narrowed, _) =
        by_chunks(matrix.len(), columns, matrix.chunks(columns).collect(), |_, to, from| narrow(from, to));
    let panels = columns.div_ceil(PANEL);
    let (values, _) = by_chunks(panels * panel, panel, vec![(); panels], |number, to, ()| {
        pairs_in_panel(narrowed.chunks(2 * columns), columns, number * PANEL, to);
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
pub fn pairs_in_panels<'a>(
    twos: impl Iterator<Item = &'a [bf16]> + Clone,
    columns: usize,
    panel: usize,
    to: &mut [bf16],
) {
    for (number, to) in to.chunks_exact_mut(panel).enumerate() {
        pairs_in_panel(twos.clone(), columns, number * PANEL, to);
    }
}

/// Packs the panel of the columns from `start` on.
fn pairs_in_panel<'a>(twos: impl Iterator<Item = &'a [bf16]>, columns: usize, start: usize, to: &mut [bf16]) {
    let count = PANEL.min(columns - start);
    widest(
        #[inline(always)]
        || {
            for (two, to) in twos.zip(to.chunks_exact_mut(2 * PANEL)) {
                let (upper, lower) = two.split_at(columns);
                let upper = &upper[start..start + count];
                let lower = lower.get(start..start + count).unwrap_or(&[bf16::ZERO; PANEL][..count]);
                // a whole panel is a loop of a known length
                match (<&[bf16; PANEL]>::try_from(upper), <&[bf16; PANEL]>::try_from(lower)) {
                    (Ok(upper), Ok(lower)) => interleave_loop(upper, lower, to),
                    _ => interleave_loop(upper, lower, to),
                }
            }
        },
    );
}

/// Rounds each value to the nearest bfloat16.
pub fn narrow(from: &[f32], to: &mut [bf16]) {
    widest(
        #[inline(always)]
        || to.iter_mut().zip(from).for_each(|(to, from)| *to = bf16::narrow(*from)),
    );
}
