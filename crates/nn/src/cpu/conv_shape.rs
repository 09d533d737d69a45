//! The shape of a convolution, and the tiles and the method that depend on it.

use std::ops::Range;

use super::CHUNKS;
use super::epilogue::Epilogue;
use super::vector::LANES;

/// The minimum number of rows of an im2col product. With fewer rows, packing the weights costs more than it gains.
const IM2COL_ROWS: usize = 256;
/// The number of rows that the 36 products of a tile have at least, by Winograd's method in f32.
const WINOGRAD_ROWS: usize = 128;
/// The maximum number of images in a tile, for images with few positions.
const TILE_IMAGES: usize = 32;

/// The shape of a convolution with square kernels on channels-last images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConvShape {
    /// The number of images.
    pub images: usize,
    /// The height of the input in pixels.
    pub height: usize,
    /// The width of the input in pixels.
    pub width: usize,
    /// The number of input channels.
    pub inputs: usize,
    /// The number of output channels.
    pub outputs: usize,
    /// The height and width of the kernel.
    pub kernel: usize,
    /// The stride in both directions.
    pub stride: usize,
    /// The zero padding of the input, on each side.
    pub padding: usize,
    /// The epilogue applied to the output.
    pub epilogue: Epilogue,
}

/// The method by which a pass is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Method {
    Im2col,
    /// Winograd's method on squares of this size. The products of a tile have about `rows` rows or more, if there are so many.
    Winograd {
        size: SquareSize,
        rows: usize,
    },
}

impl Method {
    /// The minimum number of rows of the products of a tile.
    fn rows(self) -> usize {
        match self {
            Method::Im2col => IM2COL_ROWS,
            Method::Winograd { rows, .. } => rows,
        }
    }
}

/// The size of a square of outputs, and of the square of inputs that Winograd's method computes them from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SquareSize {
    /// 4x4 outputs of a 3x3 kernel from 6x6 inputs.
    FourOfSix,
    /// 2x2 outputs of a 5x5 kernel from 6x6 inputs.
    TwoOfSix,
    /// 4x4 outputs of a 5x5 kernel from 8x8 inputs.
    FourOfEight,
}

impl SquareSize {
    /// The height and width of a square of outputs.
    pub(super) fn outputs(self) -> usize {
        match self {
            SquareSize::FourOfSix | SquareSize::FourOfEight => 4,
            SquareSize::TwoOfSix => 2,
        }
    }

    /// The number of products that a square takes for each pair of channels.
    pub(super) fn products(self) -> usize {
        match self {
            SquareSize::FourOfSix | SquareSize::TwoOfSix => 36,
            SquareSize::FourOfEight => 64,
        }
    }
}

/// Lines of output of one or several images. A tile of several images contains all their lines.
pub(super) struct Tile {
    pub(super) image: usize,
    pub(super) images: usize,
    pub(super) line: usize,
    pub(super) lines: usize,
}

impl ConvShape {
    /// The number of output lines before the epilogue.
    pub fn lines(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// The number of output columns before the epilogue.
    pub fn columns(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// The shape of the output after the epilogue.
    pub fn shape(&self) -> [usize; 4] {
        [self.images, self.epilogue.extent(self.lines()), self.epilogue.extent(self.columns()), self.outputs]
    }

    /// The length of a row of the im2col matrix, whose order is `(kernel line, kernel column, input channel)`.
    pub(super) fn depth(&self) -> usize {
        self.kernel * self.kernel * self.inputs
    }

    pub(super) fn image_in(&self) -> usize {
        self.height * self.width * self.inputs
    }

    pub(super) fn image_out(&self) -> usize {
        self.shape()[1..].iter().product()
    }

    /// The method in f32: Winograd's if its squares cover at most an eighth more outputs than needed, else im2col. The errors of
    /// Winograd's method are about twice as large, and an error that changes the choice of a ReLU or a maximum changes
    /// the gradient. A small gain in speed does not justify that.
    pub(super) fn method(&self) -> Method {
        let size = match self.kernel {
            3 => SquareSize::FourOfSix,
            5 => SquareSize::TwoOfSix,
            _ => return Method::Im2col,
        };
        let covered = self.squares(size, self.lines()) * size.outputs() * size.outputs();
        let pays = 8 * covered <= 9 * self.lines() * self.columns();
        if pays && self.suits_winograd() { Method::Winograd { size, rows: WINOGRAD_ROWS } } else { Method::Im2col }
    }

    /// Whether Winograd's method can compute the convolution, if it has squares for the kernel.
    pub(super) fn suits_winograd(&self) -> bool {
        self.stride == 1 && self.inputs.is_multiple_of(LANES) && self.outputs.is_multiple_of(LANES)
    }

    /// The number of squares that cover `lines` lines of one image.
    pub(super) fn squares(&self, size: SquareSize, lines: usize) -> usize {
        lines.div_ceil(size.outputs()) * self.columns().div_ceil(size.outputs())
    }

    /// The number of matrix rows for `lines` lines of one image.
    fn rows(&self, method: Method, lines: usize) -> usize {
        match method {
            Method::Winograd { size, .. } => self.squares(size, lines),
            Method::Im2col => lines * self.columns(),
        }
    }

    /// The maximum number of images in a tile.
    pub(super) fn unit(&self) -> usize {
        self.unit_by(self.method())
    }

    /// The maximum number of images in a tile by a method.
    pub(super) fn unit_by(&self, method: Method) -> usize {
        method.rows().div_ceil(self.rows(method, self.lines())).clamp(1, TILE_IMAGES)
    }

    /// The number of images for which one thread computes the gradients, at least `unit`. It does not depend on the number of threads.
    pub(super) fn chunk(&self, unit: usize) -> usize {
        self.images.div_ceil(CHUNKS).max(unit)
    }

    /// The tiles of `images` images.
    pub(super) fn tiles(&self, images: usize) -> Vec<Tile> {
        self.tiles_by(self.method(), images)
    }

    /// The tiles of `images` images by a method.
    pub(super) fn tiles_by(&self, method: Method, images: usize) -> Vec<Tile> {
        let lines = self.lines();
        let groups = images.div_ceil(self.unit_by(method));
        let group = images.div_ceil(groups.max(1));
        if group > 1 {
            let tile = |image| Tile { image, images: group.min(images - image), line: 0, lines };
            return (0..images).step_by(group).map(tile).collect();
        }
        // a pooling window or a Winograd square must lie within one tile
        let step = match method {
            Method::Im2col => 2,
            Method::Winograd { size, .. } => size.outputs(),
        };
        let bands = (self.rows(method, lines) / method.rows()).max(1);
        let band = lines.div_ceil(bands).next_multiple_of(step);
        let bands = (0..lines).step_by(band).map(|line| (line, band.min(lines - line))).collect::<Vec<_>>();
        let tile = |image| bands.iter().map(move |&(line, lines)| Tile { image, images: 1, line, lines });
        (0..images).flat_map(tile).collect()
    }

    /// The tile of all lines of some images.
    pub(super) fn whole(&self, images: Range<usize>) -> Tile {
        Tile { image: images.start, images: images.len(), line: 0, lines: self.lines() }
    }

    /// The range of the output after the epilogue that a tile covers.
    pub(super) fn written(&self, tile: &Tile) -> Range<usize> {
        let line = self.shape()[2] * self.outputs;
        let start = tile.image * self.image_out() + self.epilogue.extent(tile.line) * line;
        start..start + tile.images * self.epilogue.extent(tile.lines) * line
    }
}
