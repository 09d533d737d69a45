//! The shape of a convolution, and the tiles and methods that follow from it.

use super::epilogue::Epilogue;
use super::vector::LANES;

/// Rows that a matrix product should have at least: below it, packing the weights costs more than it gains.
const IM2COL_ROWS: usize = 256;
/// The same for Winograd's products, of which a tile has 36.
const WINOGRAD_ROWS: usize = 128;
/// Images in one tile at most, where an image has few positions.
const TILE_IMAGES: usize = 32;

/// The shape of a convolution with square kernels on channels-last images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConvShape {
    /// Images.
    pub images: usize,
    /// Height of the input in pixels.
    pub height: usize,
    /// Width of the input in pixels.
    pub width: usize,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros around the input, on each side.
    pub padding: usize,
    /// What happens to the output.
    pub epilogue: Epilogue,
}

/// How a pass makes its products.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Method {
    Im2col,
    /// Winograd's, with so many outputs on a side of a square.
    Winograd(usize),
}

/// Lines of output of one or several images: `lines` is all of them where `images > 1`.
pub(super) struct Tile {
    pub(super) image: usize,
    pub(super) images: usize,
    pub(super) line: usize,
    pub(super) lines: usize,
}

impl ConvShape {
    /// Lines of output before the epilogue.
    pub fn lines(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Columns of output before the epilogue.
    pub fn columns(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// The shape of the output after the epilogue.
    pub fn shape(&self) -> [usize; 4] {
        [self.images, self.epilogue.extent(self.lines()), self.epilogue.extent(self.columns()), self.outputs]
    }

    /// Length of a row of the matrix of columns, in the order `(kernel line, kernel column, input channel)`.
    pub(super) fn depth(&self) -> usize {
        self.kernel * self.kernel * self.inputs
    }

    pub(super) fn image_in(&self) -> usize {
        self.height * self.width * self.inputs
    }

    pub(super) fn image_out(&self) -> usize {
        self.shape()[1..].iter().product()
    }

    /// Winograd's method where its squares cover at most an eighth more outputs than are asked for. Its errors are about
    /// twice as large, and a ReLU or a maximum whose choice they change has another gradient: not for a small gain.
    pub(super) fn method(&self) -> Method {
        let side = match self.kernel {
            3 => 4,
            5 => 2,
            _ => return Method::Im2col,
        };
        let covered = self.lines().next_multiple_of(side) * self.columns().next_multiple_of(side);
        let suits = self.stride == 1 && self.inputs.is_multiple_of(LANES) && self.outputs.is_multiple_of(LANES);
        let pays = 8 * covered <= 9 * self.lines() * self.columns();
        if suits && pays { Method::Winograd(side) } else { Method::Im2col }
    }

    /// Rows of the matrices for so many lines of one image.
    pub(super) fn rows(&self, lines: usize) -> usize {
        match self.method() {
            Method::Winograd(side) => lines.div_ceil(side) * self.columns().div_ceil(side),
            Method::Im2col => lines * self.columns(),
        }
    }

    /// Images that one tile may span.
    pub(super) fn unit(&self) -> usize {
        let wanted = if self.method() == Method::Im2col { IM2COL_ROWS } else { WINOGRAD_ROWS };
        wanted.div_ceil(self.rows(self.lines())).clamp(1, TILE_IMAGES)
    }

    /// The tiles of `images` images.
    pub(super) fn tiles(&self, images: usize) -> Vec<Tile> {
        let lines = self.lines();
        let groups = images.div_ceil(self.unit());
        let group = images.div_ceil(groups.max(1));
        if group > 1 {
            let tile = |image| Tile { image, images: group.min(images - image), line: 0, lines };
            return (0..images).step_by(group).map(tile).collect();
        }
        // a window of the pool, or a square of Winograd's, lies in one tile
        let (wanted, step) = match self.method() {
            Method::Im2col => (IM2COL_ROWS, 2),
            Method::Winograd(side) => (WINOGRAD_ROWS, side),
        };
        let bands = (self.rows(lines) / wanted).max(1);
        let band = lines.div_ceil(bands).next_multiple_of(step);
        let bands = (0..lines).step_by(band).map(|line| (line, band.min(lines - line))).collect::<Vec<_>>();
        let tile = |image| bands.iter().map(move |&(line, lines)| Tile { image, images: 1, line, lines });
        (0..images).flat_map(tile).collect()
    }

    /// The part of the output, after the epilogue, that a tile covers.
    pub(super) fn written(&self, tile: &Tile) -> std::ops::Range<usize> {
        let line = self.shape()[2] * self.outputs;
        let start = tile.image * self.image_out() + self.epilogue.extent(tile.line) * line;
        start..start + tile.images * self.epilogue.extent(tile.lines) * line
    }
}
