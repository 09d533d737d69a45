//! The matrix product of bfloat16, on the matrix units of AMX or the vector units of AVX512-BF16, and of f32 on the vector units of
//! AVX-512. All sums are f32.
//!
//! A register holds words of 4 bytes: an f32, or a pair of bfloat16. The units for bfloat16 multiply pairs: a sum grows by the
//! products of two neighbouring elements of depth. Operands of bfloat16 therefore hold the pairs of depth side by side. The order of
//! the additions follows from the shapes alone, and is another one on either unit.

use std::fmt;
use std::sync::LazyLock;

use half::bf16;

/// The number of columns in a panel: the sums of one AVX-512 register, and of one row of a tile.
pub const PANEL: usize = 16;

/// A type of factors, of which a word holds one or several.
pub trait InWords: Copy {
    /// The number of elements in a word.
    const IN_WORD: usize;
}

impl InWords for bf16 {
    const IN_WORD: usize = 2;
}

impl InWords for f32 {
    const IN_WORD: usize = 1;
}

/// The operands of a product. All offsets count elements.
#[derive(Clone, Copy)]
pub struct Operands<'a, T> {
    /// The left operand.
    pub a: &'a [T],
    /// The start of each row in `a`.
    pub rows: &'a [u32],
    /// The right operand. A word of depth has [`PANEL`] neighbouring words in a panel.
    pub b: &'a [T],
    /// The distance of two panels in `b`.
    pub panel: usize,
    /// The place of each word of depth: in a row of `a`, and in a panel of `b`.
    pub words: &'a [[u32; 2]],
}

/// An offset in an operand.
///
/// # Panics
/// If the operand has 2^32 elements or more, which no network that fits the memory has.
pub fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("an operand of less than 2^32 elements")
}

/// Where the sums of a product begin.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    /// All sums begin at 0.
    Zero,
    /// Each sum begins at the value that stands in its place in the result.
    Result,
    /// The sums of a column begin at its bias.
    Bias(&'a [f32]),
}

/// The part of a processor that computes products of bfloat16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Tiles of 16 rows of 64 bytes: Intel's Xeons since Sapphire Rapids.
    Amx,
    /// Vectors of 64 bytes: AMD's processors since Zen 4, and Intel's Xeons since Sapphire Rapids.
    Avx512,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Amx => "AMX",
            Unit::Avx512 => "AVX512-BF16",
        })
    }
}

impl Unit {
    /// The units that this processor has and that the system lets this process use, the fastest first.
    pub fn all() -> &'static [Unit] {
        static UNITS: LazyLock<Vec<Unit>> = LazyLock::new(|| {
            // tiles leave the edges of a product to vectors
            match (has_avx512(), has_amx()) {
                (true, true) => vec![Unit::Amx, Unit::Avx512],
                (true, false) => vec![Unit::Avx512],
                (false, _) => Vec::new(),
            }
        });
        &UNITS
    }
}

fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Whether there is AMX with bfloat16. The system must allow a process to use tiles, as their state takes 8 KiB of each thread.
fn has_amx() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return amx::is_there() && amx::is_allowed();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    return false;
}

impl Operands<'_, f32> {
    /// Whether the processor can compute products of f32 here.
    pub fn can_multiply() -> bool {
        #[cfg(target_arch = "x86_64")]
        return is_x86_feature_detected!("avx512f");
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// Computes `columns` columns of the product. Row `i` of the result begins at `c[i * stride]`.
    ///
    /// # Panics
    /// If the processor [cannot](Operands::can_multiply), or an element is outside its slice.
    pub fn multiply(&self, columns: usize, start: Start, c: &mut [f32], stride: usize) {
        if !self.check(columns, start, c, stride) {
            return;
        }
        assert!(Self::can_multiply(), "the processor has no AVX-512");
        // SAFETY: the processor has AVX-512, and the offsets are checked
        #[cfg(target_arch = "x86_64")]
        unsafe {
            avx512::multiply_f32(self, columns, start, c, stride);
        }
    }
}

impl Operands<'_, bf16> {
    /// Computes `columns` columns of the product on the fastest unit. Row `i` of the result begins at `c[i * stride]`.
    ///
    /// # Panics
    /// If the processor has no unit, or an element is outside its slice.
    pub fn multiply(&self, columns: usize, start: Start, c: &mut [f32], stride: usize) {
        self.multiply_on(Unit::all().first().copied(), columns, start, c, stride);
    }

    /// Like [`Operands::multiply`], on one of [`Unit::all`].
    pub fn multiply_on(&self, unit: Option<Unit>, columns: usize, start: Start, c: &mut [f32], stride: usize) {
        if !self.check(columns, start, c, stride) {
            return;
        }
        let unit = unit.filter(|unit| Unit::all().contains(unit));
        assert!(unit.is_some(), "the processor has no such unit for bfloat16");
        // SAFETY: the processor has the unit, and the offsets are checked
        #[cfg(target_arch = "x86_64")]
        match unit {
            #[cfg(target_os = "linux")]
            Some(Unit::Amx) => unsafe { amx::multiply(self, columns, start, c, stride) },
            Some(Unit::Avx512) => unsafe { avx512::multiply(self, columns, start, c, stride) },
            _ => {}
        }
    }
}

impl<T: InWords> Operands<'_, T> {
    /// Whether the result has elements. Asserts that the largest offset lies within each slice.
    fn check(&self, columns: usize, start: Start, c: &[f32], stride: usize) -> bool {
        let Some(last_row) = self.rows.len().checked_sub(1) else { return false };
        if columns == 0 {
            return false;
        }
        let end = last_row.checked_mul(stride).and_then(|last| last.checked_add(columns));
        assert!(end.is_some_and(|end| end <= c.len()) && stride >= columns, "the size of a product");
        if let Start::Bias(bias) = start {
            assert!(bias.len() >= columns, "the size of a bias");
        }
        let [row, a, b] = [
            self.rows.iter().max().copied(),
            self.words.iter().map(|word| word[0]).max(),
            self.words.iter().map(|word| word[1]).max(),
        ];
        if let (Some(row), Some(a), Some(b)) = (row, a, b) {
            assert!(row as usize + a as usize + T::IN_WORD <= self.a.len(), "the left operand of a product");
            let last = (columns.div_ceil(PANEL) - 1).checked_mul(self.panel);
            let end = last.and_then(|last| last.checked_add(b as usize + T::IN_WORD * PANEL));
            assert!(end.is_some_and(|end| end <= self.b.len()), "the right operand of a product");
        }
        true
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m512, __mmask16, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_setzero_ps,
    };

    use half::bf16;

    use super::{InWords, Operands, PANEL, Start};

    /// The number of rows of a block: with two panels, it takes 24 registers for sums, and three for factors.
    const ROWS: usize = 12;

    /// # Safety
    /// The processor has AVX512-BF16, and the caller has checked the offsets.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn multiply(of: &Operands<bf16>, columns: usize, start: Start, c: &mut [f32], stride: usize) {
        // SAFETY: as this function's
        unsafe { by_blocks(of, columns, start, c, stride) };
    }

    /// # Safety
    /// The processor has AVX-512, and the caller has checked the offsets.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn multiply_f32(of: &Operands<f32>, columns: usize, start: Start, c: &mut [f32], stride: usize) {
        // SAFETY: as this function's
        unsafe { by_blocks(of, columns, start, c, stride) };
    }

    /// # Safety
    /// The processor has AVX-512, for bfloat16 with AVX512-BF16, and the caller has checked the offsets.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn by_blocks<T: InWords>(of: &Operands<T>, columns: usize, start: Start, c: &mut [f32], stride: usize) {
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
                            $($count if is_one => block::<T, $count, 1>(of, row, column, columns, start, c, stride),
                            $count => block::<T, $count, 2>(of, row, column, columns, start, c, stride),)*
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

    /// Adds the products of a word of the left operand and one of each panel. In assembly, since the compiler would load
    /// the words of all rows first, for which the registers do not suffice.
    ///
    /// # Safety
    /// `a` points to a word, and the processor is as [`by_blocks`] requires.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn multiply_word<T: InWords, const V: usize>(a: *const T, b: &[__m512; V], sums: &mut [__m512; V]) {
        let word: __m512;
        // SAFETY: reads the four bytes at `a`; the registers are those of the operands, and nothing else changes
        unsafe {
            asm!("vbroadcastss {word}, dword ptr [{a}]", word = out(zmm_reg) word, a = in(reg) a,
                options(nostack, readonly, preserves_flags));
            for (sum, b) in sums.iter_mut().zip(b) {
                if T::IN_WORD == 2 {
                    asm!("vdpbf16ps {sum}, {word}, {b}", sum = inout(zmm_reg) *sum, word = in(zmm_reg) word,
                        b = in(zmm_reg) *b, options(nostack, nomem, preserves_flags));
                } else {
                    // unlike the instruction for bfloat16, this one sets the flags of exceptions
                    asm!("vfmadd231ps {sum}, {word}, {b}", sum = inout(zmm_reg) *sum, word = in(zmm_reg) word,
                        b = in(zmm_reg) *b, options(nostack, nomem));
                }
            }
        }
    }

    /// Computes a block of `M` rows and `V` panels, which stays in registers.
    ///
    /// # Safety
    /// As [`by_blocks`], and the block has `M` rows.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn block<T: InWords, const M: usize, const V: usize>(
        of: &Operands<T>,
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
        // without words, the starts of a row and of a panel may lie beyond the operand, and nothing is read there
        let b = of.b.as_ptr().wrapping_add((column / PANEL).wrapping_mul(of.panel));
        // SAFETY: the caller has checked the largest offsets; masked lanes are not touched
        unsafe {
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
            let a: [*const T; M] = std::array::from_fn(|m| of.a.as_ptr().wrapping_add(of.rows[row + m] as usize));
            for &[a_at, b_at] in of.words {
                let (a_at, b_at) = (a_at as usize, b_at as usize);
                let b: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(b.add(b_at + v * of.panel).cast()));
                for (a, sums) in a.iter().zip(&mut sums) {
                    multiply_word(a.add(a_at), &b, sums);
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

/// Products on tiles. Four tiles hold the sums of 32 rows and 32 columns, two hold rows, two hold columns. The rows are copied to
/// tiles before, once for all columns. Tiles are configured when a product begins and released when it ends, so that no other code
/// on the thread finds any; the system saves them when it interrupts the thread. What is left of the depth, fewer than 16 pairs,
/// is added by vectors.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;
    use std::cell::RefCell;

    use half::bf16;

    use super::{Operands, PANEL, Start, avx512};

    /// The number of rows, and of pairs in a row, of a tile.
    const TILE: usize = 16;
    /// The number of elements of a tile.
    const ELEMENTS: usize = TILE * 2 * TILE;
    /// The number of rows and of columns whose sums are held at a time.
    const BLOCK: usize = 2 * TILE;

    /// The configuration of eight tiles of 16 rows of 64 bytes: the palette, and where `ldtilecfg` finds the sizes.
    #[repr(C, align(64))]
    struct Tiles {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    static TILES: Tiles = {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        let mut tile = 0;
        while tile < 8 {
            row_bytes[tile] = 64;
            rows[tile] = TILE as u8;
            tile += 1;
        }
        Tiles { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    };

    /// The rows of a block as tiles, and its sums.
    #[derive(Default)]
    struct Scratch {
        rows: Vec<bf16>,
        sums: Vec<f32>,
    }

    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }

    /// Whether the processor has AMX with bfloat16: bits 22 and 24 of CPUID's leaf 7.
    pub fn is_there() -> bool {
        let features = __cpuid_count(7, 0).edx;
        features & 1 << 22 != 0 && features & 1 << 24 != 0
    }

    /// Asks the system once for the state of tiles, for all threads of the process (`Documentation/arch/x86/xstate.rst` of Linux).
    pub fn is_allowed() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
        const XFEATURE_XTILEDATA: u64 = 18;
        let answer: i64;
        // SAFETY: a system call that reads and writes no memory; it changes the registers that are named
        unsafe {
            asm!("syscall", inlateout("rax") ARCH_PRCTL => answer, in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        answer == 0
    }

    /// # Safety
    /// The processor has AMX and AVX512-BF16, the system allows tiles, and the caller has checked the offsets.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn multiply(of: &Operands<bf16>, columns: usize, start: Start, c: &mut [f32], stride: usize) {
        let (whole, rest) = of.words.split_at(of.words.len() / TILE * TILE);
        // of pairs in a panel that do not follow each other at one distance, tiles cannot be loaded
        let mut steps = whole.windows(2).map(|two| two[1][1].checked_sub(two[0][1]));
        let step = steps.next().flatten();
        let Some(step) = step.filter(|step| steps.all(|other| other == Some(*step))) else {
            // SAFETY: as this function's
            return unsafe { avx512::multiply(of, columns, start, c, stride) };
        };
        let are_runs: Vec<bool> = whole.chunks_exact(TILE).map(is_run).collect();
        SCRATCH.with_borrow_mut(|Scratch { rows: tiles, sums }| {
            tiles.resize(2 * whole.len() / TILE * ELEMENTS, bf16::ZERO);
            sums.resize(BLOCK * BLOCK, 0.0);
            // SAFETY: the configuration is one of palette 1, and is released below
            unsafe { asm!("ldtilecfg [{}]", in(reg) &TILES, options(nostack, readonly, preserves_flags)) };
            for (number, rows) in of.rows.chunks(BLOCK).enumerate() {
                let (upper, lower) = tiles.split_at_mut(whole.len() / TILE * ELEMENTS);
                lay_out(of.a, &rows[..rows.len().min(TILE)], whole, &are_runs, upper);
                lay_out(of.a, rows.get(TILE..).unwrap_or_default(), whole, &are_runs, lower);
                for column in (0..columns).step_by(BLOCK) {
                    let panel = column / PANEL;
                    // a panel that does not exist is replaced by the one before it, and its sums are not used
                    let other = if column + PANEL < columns { panel + 1 } else { panel };
                    let b = [panel, other].map(|panel| of.b[panel * of.panel + whole[0][1] as usize..].as_ptr());
                    // SAFETY: tiles are configured; the rows hold a tile for each 16 pairs, the caller has checked the
                    // largest offset in `b`, whose pairs are all `step` apart, and there is room for all sums
                    unsafe {
                        block([upper.as_ptr(), lower.as_ptr()], b, step as usize, whole.len() / TILE, sums);
                    }
                    let count = BLOCK.min(columns - column);
                    for (row, sums) in sums.chunks_exact(BLOCK).enumerate().take(rows.len()) {
                        let c = &mut c[(number * BLOCK + row) * stride + column..][..count];
                        match start {
                            Start::Zero => c.copy_from_slice(&sums[..count]),
                            Start::Result => c.iter_mut().zip(sums).for_each(|(c, sum)| *c += sum),
                            Start::Bias(bias) => {
                                let terms = sums.iter().zip(&bias[column..]);
                                c.iter_mut().zip(terms).for_each(|(c, (sum, bias))| *c = bias + sum);
                            }
                        }
                    }
                }
            }
            // SAFETY: nothing uses tiles after this
            unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
        });
        if !rest.is_empty() {
            // SAFETY: as this function's
            unsafe { avx512::multiply(&Operands { words: rest, ..*of }, columns, Start::Result, c, stride) };
        }
    }

    /// Whether pairs of a row follow each other.
    fn is_run(pairs: &[[u32; 2]]) -> bool {
        pairs.windows(2).all(|two| two[1][0] == two[0][0] + 2)
    }

    /// Copies at most 16 rows to tiles, one for each 16 pairs. Rows that do not exist are zeros.
    #[target_feature(enable = "avx512f")]
    fn lay_out(a: &[bf16], rows: &[u32], pairs: &[[u32; 2]], are_runs: &[bool], tiles: &mut [bf16]) {
        let are_neighbours = rows.len() == TILE && rows.windows(2).all(|two| two[1] == two[0] + 2);
        let tiles = tiles.chunks_exact_mut(ELEMENTS);
        for ((tile, pairs), is_run) in tiles.zip(pairs.chunks_exact(TILE)).zip(are_runs) {
            let first = pairs[0][0] as usize;
            if *is_run {
                for (to, row) in tile.chunks_exact_mut(2 * TILE).zip(rows) {
                    to.copy_from_slice(&a[*row as usize + first..][..2 * TILE]);
                }
            } else if are_neighbours {
                // the rows of a pair lie side by side: a transpose of pairs
                let tile = tile.as_chunks_mut::<2>().0;
                for (number, pair) in pairs.iter().enumerate() {
                    let from = a[(rows[0] + pair[0]) as usize..][..2 * TILE].as_chunks::<2>().0;
                    tile[number..].iter_mut().step_by(TILE).zip(from).for_each(|(to, from)| *to = *from);
                }
            } else {
                for (to, row) in tile.chunks_exact_mut(2 * TILE).zip(rows) {
                    for (to, pair) in to.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
                        let at = (row + pair[0]) as usize;
                        *to = [a[at], a[at + 1]];
                    }
                }
            }
            tile[rows.len() * 2 * TILE..].fill(bf16::ZERO);
        }
    }

    /// Computes the sums of two tiles of rows and two panels, 32 by 32, over `count` tiles of depth.
    ///
    /// # Safety
    /// Tiles are configured. `rows` point to `count` tiles each; in each panel of `b`, `16 * count` pairs are `step` elements apart.
    unsafe fn block(rows: [*const bf16; 2], b: [*const bf16; 2], step: usize, count: usize, sums: &mut [f32]) {
        assert!(sums.len() == BLOCK * BLOCK);
        let below = sums[TILE * BLOCK..].as_mut_ptr();
        // SAFETY: reads the tiles and panels that the caller promises, writes 16 rows of `sums` at two places, and changes
        // tiles alone beside the registers that are named
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{upper} + {row}*1]",
                "tileloadd tmm6, [{left} + {step}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right} + {step}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{lower} + {row}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {upper}, 1024",
                "add {lower}, 1024",
                "add {left}, {next}",
                "add {right}, {next}",
                "dec {count}",
                "jnz 2b",
                "tilestored [{sums} + {line}*1], tmm0",
                "tilestored [{sums} + {line}*1 + 64], tmm1",
                "tilestored [{below} + {line}*1], tmm2",
                "tilestored [{below} + {line}*1 + 64], tmm3",
                upper = inout(reg) rows[0] => _,
                lower = inout(reg) rows[1] => _,
                left = inout(reg) b[0] => _,
                right = inout(reg) b[1] => _,
                count = inout(reg) count => _,
                row = in(reg) 64_usize,
                step = in(reg) 2 * step,
                next = in(reg) 2 * step * TILE,
                sums = in(reg) sums.as_mut_ptr(),
                below = in(reg) below,
                line = in(reg) 4 * BLOCK,
                out("tmm0") _,
                out("tmm1") _,
                out("tmm2") _,
                out("tmm3") _,
                out("tmm4") _,
                out("tmm5") _,
                out("tmm6") _,
                out("tmm7") _,
                options(nostack),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cpu::element::Element;

    /// The number of pairs in a tile of AMX.
    const TILE: usize = 16;

    /// Small multiples of 1/8, whose products and sums are exact in f32.
    fn eighths<T: Element>(count: usize, factor: usize) -> Vec<T> {
        (0..count).map(|i| T::narrow((i * factor % 17) as f32 / 8.0 - 1.0)).collect()
    }

    /// Computes a product by its definition.
    fn definition<T: InWords + Element>(of: &Operands<T>, columns: usize, start: Start, c: &mut [f32], stride: usize) {
        for (row, &from) in of.rows.iter().enumerate() {
            for column in 0..columns {
                let result = &mut c[row * stride + column];
                let mut sum = match start {
                    Start::Zero => 0.0,
                    Start::Result => *result,
                    Start::Bias(bias) => bias[column],
                };
                for &[a, b] in of.words {
                    let b = column / PANEL * of.panel + b as usize + T::IN_WORD * (column % PANEL);
                    for i in 0..T::IN_WORD {
                        sum += of.a[(from + a) as usize + i].widen() * of.b[b + i].widen();
                    }
                }
                *result = sum;
            }
        }
    }

    #[test]
    fn products_of_every_edge_are_the_definition_on_every_unit() {
        let mut said = std::io::stderr(); // not captured, so that the log of a test that passes says it
        for unit in [Unit::Amx, Unit::Avx512] {
            if !Unit::all().contains(&unit) {
                writeln!(said, "bfloat16, products: {unit} skipped, as this processor does not have it").unwrap();
                continue;
            }
            writeln!(said, "bfloat16, products: by {unit}").unwrap();
            check_edges(&unit.to_string(), |of: &Operands<bf16>, columns, start, c, stride| {
                of.multiply_on(Some(unit), columns, start, c, stride);
            });
        }
        if Operands::<f32>::can_multiply() {
            writeln!(said, "f32, products: by AVX-512").unwrap();
            check_edges("AVX-512", |of: &Operands<f32>, columns, start, c, stride| {
                of.multiply(columns, start, c, stride);
            });
        } else {
            writeln!(said, "f32, products: skipped, as this processor does not have AVX-512").unwrap();
        }
    }

    /// Compares products of all sizes around those of a block with the definition.
    fn check_edges<T: InWords + Element>(unit: &str, multiply: impl Fn(&Operands<T>, usize, Start, &mut [f32], usize)) {
        for rows in [1, 2, 11, 12, 13, 15, 16, 17, 25, 31, 32, 33, 50] {
            for columns in [1, 15, 16, 17, 31, 32, 33, 50] {
                for depth in [0, 1, 15, 16, 17, 32, 35] {
                    check(unit, [rows, columns, depth], &multiply);
                }
            }
        }
    }

    /// Compares a product whose rows are runs, and one whose rows are neighbours, with the definition.
    fn check<T: InWords + Element>(
        unit: &str,
        [rows, columns, depth]: [usize; 3],
        multiply: impl Fn(&Operands<T>, usize, Start, &mut [f32], usize),
    ) {
        let what = format!("{rows} rows, {columns} columns, {depth} words, {unit}");
        let word = T::IN_WORD;
        let panel = word * PANEL * depth + 6;
        let (row, stride) = (word * depth + 10, columns + 3);
        let a = eighths((rows + 1) * row + word * rows * (depth + 1), 7);
        let b = eighths(columns.div_ceil(PANEL) * panel + word * PANEL, 5);
        let bias: Vec<f32> = (0..columns).map(|column| column as f32 / 4.0).collect();
        let words = |a_step: usize, gap: usize| -> Vec<[u32; 2]> {
            // after half of the words, the runs of the left operand have a gap
            let a = |number: usize| number * a_step + if 2 * number > depth { gap } else { 0 };
            (0..depth).map(|number| [a(number) as u32, (word * PANEL * number) as u32]).collect()
        };
        let apart: Vec<u32> = (0..rows).map(|i| (i * row) as u32).collect();
        let neighbours: Vec<u32> = (0..rows).map(|i| (word * i) as u32).collect();
        let layouts = [(&apart, words(word, 0)), (&apart, words(word, 4)), (&neighbours, words(word * rows, 0))];
        for (rows, words) in layouts {
            let of = Operands { a: &a, rows, b: &b, panel, words: &words };
            for start in [Start::Zero, Start::Result, Start::Bias(&bias)] {
                let mut expected: Vec<f32> = (0..rows.len() * stride).map(|i| (i % 9) as f32).collect();
                let mut found = expected.clone();
                definition(&of, columns, start, &mut expected, stride);
                multiply(&of, columns, start, &mut found, stride);
                let differs = found.iter().zip(&expected).position(|(found, expected)| found != expected);
                assert!(differs.is_none(), "{what}: element {differs:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "the left operand of a product")]
    fn a_row_beyond_the_left_operand_is_refused() {
        let (a, b) = (eighths::<bf16>(10, 3), eighths(32, 3));
        let of = Operands { a: &a, rows: &[9], b: &b, panel: 32, words: &[[0, 0]] };
        of.multiply(1, Start::Zero, &mut [0.0], 1);
    }

    #[test]
    fn panels_whose_words_descend_and_products_without_words_are_computed() {
        for unit in Unit::all() {
            let (a, b) = (eighths::<bf16>(64, 3), eighths::<bf16>(2 * PANEL * TILE, 5));
            let words: Vec<[u32; 2]> = (0..TILE).map(|i| [2 * i, 2 * PANEL * (TILE - 1 - i)].map(offset)).collect();
            let of = Operands { a: &a, rows: &[0, 32], b: &b, panel: 2 * PANEL * TILE, words: &words };
            let (mut found, mut expected) = (vec![0.0; 2 * PANEL], vec![0.0; 2 * PANEL]);
            of.multiply_on(Some(*unit), PANEL, Start::Zero, &mut found, PANEL);
            definition(&of, PANEL, Start::Zero, &mut expected, PANEL);
            assert_eq!(found, expected, "{unit}");
            let none = Operands { a: &a[..0], rows: &[7], b: &b[..0], panel: 99, words: &[] };
            let mut kept = vec![3.0; 2 * PANEL];
            none.multiply_on(Some(*unit), 2 * PANEL, Start::Result, &mut kept, 2 * PANEL);
            assert_eq!(kept, vec![3.0; 2 * PANEL], "{unit}");
        }
    }

    #[test]
    #[should_panic(expected = "the size of a product")]
    fn a_stride_that_wraps_is_refused() {
        let (a, b) = (eighths::<bf16>(10, 3), eighths(32, 3));
        let of = Operands { a: &a, rows: &[0, 0, 0], b: &b, panel: 32, words: &[[0, 0]] };
        of.multiply(1, Start::Zero, &mut [0.0], 1 << (usize::BITS - 1));
    }

    #[test]
    #[should_panic(expected = "the right operand of a product")]
    fn a_panel_beyond_the_right_operand_is_refused() {
        let (a, b) = (eighths::<bf16>(10, 3), eighths(32, 3));
        let of = Operands { a: &a, rows: &[0], b: &b, panel: 32, words: &[[0, 0]] };
        of.multiply(17, Start::Zero, &mut [0.0; 17], 17);
    }
}
