//! The matrix products of planes, which are f32, for each type of activations.

use half::bf16;

use crate::cpu::element::Element;
use crate::cpu::gemm::{self, Matrix};
use crate::cpu::kernel::{Operands, PANEL, Start, offset};

/// A type of activations, whose planes are multiplied in a way of their own.
pub trait Planes: Element {
    /// The number of columns in a panel of weights with `columns` columns. A panel is the matrix of some neighbouring columns. The
    /// panels of a plane follow each other.
    fn panel(columns: usize) -> usize;

    /// Computes `a b`, of shape `(rows, columns)`, for `a` `(rows, depth)` and weights `b` `(depth, columns)` in panels.
    fn product(a: &[f32], b: &[f32], size: [usize; 3], c: &mut [f32]);

    /// Computes `a^T b`, of shape `(rows, columns)`, for `a` `(depth, rows)` and `b` `(depth, columns)`, or adds it to `c`.
    fn product_of_transpose(a: &[f32], b: &[f32], size: [usize; 3], add: bool, c: &mut [f32]);
}

impl Planes for f32 {
    fn panel(columns: usize) -> usize {
        columns
    }

    fn product(a: &[f32], b: &[f32], [rows, depth, columns]: [usize; 3], c: &mut [f32]) {
        gemm::multiply(Matrix::new(a, rows, depth), Matrix::new(b, depth, columns), c, false);
    }

    fn product_of_transpose(a: &[f32], b: &[f32], [rows, depth, columns]: [usize; 3], add: bool, c: &mut [f32]) {
        gemm::multiply(Matrix::new(a, depth, rows).transposed(), Matrix::new(b, depth, columns), c, add);
    }
}

/// The products are those of this crate's kernel, which reads the planes where they are. The crate gemm, whose sums training in f32
/// keeps, copies both operands of each product to panels first.
impl Planes for bf16 {
    fn panel(_: usize) -> usize {
        PANEL
    }

    fn product(a: &[f32], b: &[f32], [rows, depth, columns]: [usize; 3], c: &mut [f32]) {
        let starts: Vec<u32> = (0..rows).map(|row| offset(row * depth)).collect();
        let words: Vec<[u32; 2]> = (0..depth).map(|k| [k, k * PANEL].map(offset)).collect();
        let operands = Operands { a, rows: &starts, b, panel: PANEL * depth, words: &words };
        operands.multiply(columns, Start::Zero, c, columns);
    }

    fn product_of_transpose(a: &[f32], b: &[f32], [rows, depth, columns]: [usize; 3], add: bool, c: &mut [f32]) {
        let starts: Vec<u32> = (0..rows).map(offset).collect();
        let words: Vec<[u32; 2]> = (0..depth).map(|k| [k * rows, k * columns].map(offset)).collect();
        let operands = Operands { a, rows: &starts, b, panel: PANEL, words: &words };
        operands.multiply(columns, if add { Start::Result } else { Start::Zero }, c, columns);
    }
}
