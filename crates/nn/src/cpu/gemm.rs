//! Matrix products on one thread, by a checked wrapper of the crate `gemm`.

/// A view of a matrix with constant row and column strides.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// The row-major matrix of the first `rows * columns` elements.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Matrix<'a> {
        assert!(data.len() >= rows * columns, "{} elements for {rows} rows of {columns}", data.len());
        Matrix { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The transposed view.
    pub fn transposed(self) -> Matrix<'a> {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// The view of the columns `start .. start + count`.
    pub fn columns(self, start: usize, count: usize) -> Matrix<'a> {
        assert!(start + count <= self.columns);
        Matrix { data: &self.data[start * self.column_stride..], columns: count, ..self }
    }
}

/// Computes `c = a b`, or `c += a b` if `add` is true. `c` is row-major.
pub fn multiply(a: Matrix, b: Matrix, c: &mut [f32], add: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "the inner dimensions of a matrix product");
    assert_eq!(c.len(), m * n, "the size of a matrix product");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            c.fill(0.0);
        }
        return;
    }
    for matrix in [a, b] {
        assert!(
            (matrix.rows - 1) * matrix.row_stride + (matrix.columns - 1) * matrix.column_stride < matrix.data.len()
        );
    }
    // SAFETY: the assertions above ensure that every element that the shapes and strides reach is in its slice, and `c`
    // is borrowed mutably, so that it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_views_and_transposes_agree_with_the_definition() {
        let (m, k, n) = (5, 7, 3);
        let a: Vec<f32> = (0..m * k).map(|i| (i % 11) as f32 - 5.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 7) as f32 - 3.0).collect();
        // small integers: the products and sums are exact in f32, in any order
        let expected: Vec<f32> =
            (0..m * n).map(|e| (0..k).map(|i| a[e / n * k + i] * b[i * n + e % n]).sum::<f32>()).collect();
        let mut c = vec![9.0; m * n];
        multiply(Matrix::new(&a, m, k), Matrix::new(&b, k, n), &mut c, false);
        assert_eq!(c, expected);
        multiply(Matrix::new(&a, m, k), Matrix::new(&b, k, n), &mut c, true);
        assert_eq!(c, expected.iter().map(|v| 2.0 * v).collect::<Vec<_>>());
        let mut transposed = vec![0.0; m * n];
        multiply(Matrix::new(&b, k, n).transposed(), Matrix::new(&a, m, k).transposed(), &mut transposed, false);
        assert_eq!(transposed, (0..m * n).map(|e| expected[e % m * n + e / m]).collect::<Vec<_>>());
        let mut last = vec![0.0; m];
        multiply(Matrix::new(&a, m, k), Matrix::new(&b, k, n).columns(n - 1, 1), &mut last, false);
        assert_eq!(last, (0..m).map(|row| expected[row * n + n - 1]).collect::<Vec<_>>());
    }
}
