//! The matrix product of pairs of bfloat16, on the vector units of AVX512-BF16.
//!
//! `vdpbf16ps` multiplies pairs: each of its 16 sums in f32 grows by the products of two neighbouring elements of depth. Both
//! operands therefore hold the pairs of depth side by side. The order of the additions follows from the shapes alone.

use half::bf16;

/// The number of columns in a panel: the sums of one AVX-512 register.
pub const PANEL: usize = 16;

/// The operands of a product. All offsets count elements.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// The left operand.
    pub a: &'a [bf16],
    /// The start of each row in `a`.
    pub rows: &'a [u32],
    /// The right operand. A pair of depth has [`PANEL`] neighbouring pairs of elements in a panel.
    pub b: &'a [bf16],
    /// The distance of two panels in `b`.
    pub panel: usize,
    /// The place of each pair of depth: in a row of `a`, and in a panel of `b`.
    pub pairs: &'a [[u32; 2]],
}

/// Where the sums of a product begin.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    /// At zero.
    Zero,
    /// At the values in the result.
    Result,
    /// At one value for each column.
    Bias(&'a [f32]),
}

/// Whether this processor has the instructions.
pub fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

impl Operands<'_> {
    /// Computes `columns` columns of the product. Row `i` of the result begins at `c[i * stride]`.
    ///
    /// # Panics
    /// If the processor lacks the instructions, or an element is outside its slice.
    pub fn multiply(&self, columns: usize, start: Start, c: &mut [f32], stride: usize) {
        let Some(last_row) = self.rows.len().checked_sub(1) else { return };
        if columns == 0 {
            return;
        }
        assert!(c.len() >= last_row * stride + columns && stride >= columns, "the size of a product");
        if let Start::Bias(bias) = start {
            assert!(bias.len() >= columns, "the size of a bias");
        }
        let [row, a, b] = [
            self.rows.iter().max().copied(),
            self.pairs.iter().map(|pair| pair[0]).max(),
            self.pairs.iter().map(|pair| pair[1]).max(),
        ];
        if let (Some(row), Some(a), Some(b)) = (row, a, b) {
            assert!(row as usize + a as usize + 2 <= self.a.len(), "the left operand of a product");
            let last = (columns.div_ceil(PANEL) - 1) * self.panel;
            assert!(last + b as usize + 2 * PANEL <= self.b.len(), "the right operand of a product");
        }
        assert!(is_supported(), "the processor has no AVX512-BF16");
        // SAFETY: the processor has the instructions, and the assertions above cover the largest offset in each slice.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            avx512::multiply(self, columns, start, c, stride);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m512, __mmask16, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_setzero_ps,
    };

    use half::bf16;

    use super::{Operands, PANEL, Start};

    /// The number of rows of a block: with two panels, it takes 24 registers for sums, and three for factors.
    const ROWS: usize = 12;

    /// # Safety
    /// The processor has AVX512-BF16, and the caller has checked the offsets.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn multiply(of: &Operands, columns: usize, start: Start, c: &mut [f32], stride: usize) {
        for column in (0..columns).step_by(2 * PANEL) {
            let is_one = columns - column <= PANEL;
            let mut row = 0;
            while row < of.rows.len() {
                // blocks of nearly equal size, since one of a single row would wait for its own sums
                let left = of.rows.len() - row;
                let rows = left.div_ceil(left.div_ceil(ROWS));
                macro_rules! block_of {
                    ($($count:literal)*) => {
                        match rows {
                            $($count if is_one => block::<$count, 1>(of, row, column, columns, start, c, stride),
                            $count => block::<$count, 2>(of, row, column, columns, start, c, stride),)*
                            _ => unreachable!("at most {ROWS} rows"),
                        }
                    };
                }
                // SAFETY: as this function's; the block lies within the result
                unsafe { block_of!(1 2 3 4 5 6 7 8 9 10 11 12) };
                row += rows;
            }
        }
    }

    /// Adds the products of a pair of the left operand and one of each panel. In assembly, since the compiler would load the pairs
    /// of all rows first, for which the registers do not suffice.
    ///
    /// # Safety
    /// `a` points to two elements.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn multiply_pair<const V: usize>(a: *const bf16, b: &[__m512; V], sums: &mut [__m512; V]) {
        let pair: __m512;
        // SAFETY: reads the four bytes at `a`; the registers are those of the operands, and nothing else changes
        unsafe {
            asm!("vbroadcastss {pair}, dword ptr [{a}]", pair = out(zmm_reg) pair, a = in(reg) a, options(nostack, readonly));
            for (sum, b) in sums.iter_mut().zip(b) {
                asm!("vdpbf16ps {sum}, {pair}, {b}", sum = inout(zmm_reg) *sum, pair = in(zmm_reg) pair, b = in(zmm_reg) *b,
                    options(nostack, nomem, preserves_flags));
            }
        }
    }

    /// Computes a block of `M` rows and `V` panels, which stays in registers.
    ///
    /// # Safety
    /// As [`multiply`], and the block has `M` rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn block<const M: usize, const V: usize>(
        of: &Operands,
        row: usize,
        column: usize,
        columns: usize,
        start: Start,
        c: &mut [f32],
        stride: usize,
    ) {
        // the last panel may have fewer columns than a register
        let masks: [__mmask16; V] = std::array::from_fn(|v| {
            let count = columns.saturating_sub(column + v * PANEL).min(PANEL);
            ((1_u32 << count) - 1) as __mmask16
        });
        // SAFETY: the caller has checked the largest offsets; masked lanes are not touched
        unsafe {
            let b = of.b.as_ptr().add(column / PANEL * of.panel);
            let result: *mut f32 = c.as_mut_ptr().add(row * stride + column);
            let mut sums: [[__m512; V]; M] = [[_mm512_setzero_ps(); V]; M];
            match start {
                Start::Zero => {}
                Start::Result => {
                    for (m, sums) in sums.iter_mut().enumerate() {
                        for (v, sum) in sums.iter_mut().enumerate() {
                            *sum = _mm512_maskz_loadu_ps(masks[v], result.add(m * stride + v * PANEL));
                        }
                    }
                }
                Start::Bias(bias) => {
                    for sums in &mut sums {
                        for (v, sum) in sums.iter_mut().enumerate() {
                            *sum = _mm512_maskz_loadu_ps(masks[v], bias.as_ptr().add(column + v * PANEL));
                        }
                    }
                }
            }
            let a: [*const bf16; M] = std::array::from_fn(|m| of.a.as_ptr().add(of.rows[row + m] as usize));
            for &[a_at, b_at] in of.pairs {
                let (a_at, b_at) = (a_at as usize, b_at as usize);
                let b: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(b.add(b_at + v * of.panel).cast()));
                for (a, sums) in a.iter().zip(&mut sums) {
                    multiply_pair(a.add(a_at), &b, sums);
                }
            }
            for (m, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    _mm512_mask_storeu_ps(result.add(m * stride + v * PANEL), masks[v], *sum);
                }
            }
        }
    }
}
