//! Convolution whose operands are bfloat16. All sums are f32.
//!
//! A row of the left operand is the input under the kernel at one position: a run of neighbouring elements for each line of the
//! kernel. The runs are read where they lie, in the input itself or, if it has padding, in a copy of a tile's input with zeros around
//! it. The depth of the weight's gradient is the positions, of which neighbours are paired. The gradient of the input is the
//! convolution of the gradient with the turned kernel, or the sum of a product's rows where they overlap.

use std::cell::RefCell;

use half::bf16;
use rayon::prelude::*;

use super::outputs::{self, Results};
use super::pack::{self, Panels, interleave};
use crate::cpu::conv::{Gradients, Output, add_rows, by_images};
use crate::cpu::conv_shape::{ConvShape, Method, Tile};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::kernel::{Operands, PANEL, Start, offset};
use crate::cpu::layout;
use crate::cpu::scratch::{Kept, grown};

/// The buffers that a thread keeps from tile to tile. Their contents are unspecified.
#[derive(Default)]
struct Scratch {
    copy: Vec<bf16>,
    pairs: Vec<bf16>,
    grads: Vec<bf16>,
    before: Vec<bf16>,
    sums: Vec<f32>,
    image: Vec<f32>,
}

/// The number of channels whose products take as long as writing and adding a sum.
const SUM_CHANNELS: usize = 12;

/// The number of weights whose gradient stays in the cache.
const CACHED: usize = 1 << 17;

/// The number of positions over which a larger gradient is summed before it is written.
const POSITIONS: usize = 1 << 11;

/// The number of positions of all images up to which a larger gradient is summed by [`Summation::Together`].
const FEW_POSITIONS: usize = 1 << 13;

/// The number of rows of such a gradient that a thread computes at a time.
const WEIGHT_ROWS: usize = 96;

/// The number of sums of a product whose rows are added, which should stay in the cache.
const ROW_SUMS: usize = 1 << 15;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// How the input of the tiles of a convolution lies in memory, in elements. A tile has all lines of one or several images, or some
/// lines of one image.
struct Source {
    /// The number of elements of a run: what a line of the kernel covers, filled up to an even number.
    run: usize,
    /// The distance of two lines of the input, which is that of two runs of a row.
    input_line: usize,
    /// The distance of two neighbouring positions of the output.
    step: usize,
    /// The distance of two lines of the output.
    line: usize,
    /// The distance of two images.
    image: usize,
    /// Whether the input is read where it is, since it has neither padding nor elements between pixels.
    is_input: bool,
}

impl Source {
    /// For tiles of at most `lines` lines.
    fn new(shape: &ConvShape, lines: usize) -> Source {
        let channels = wide(shape.inputs);
        let is_input = shape.padding == 0 && shape.inputs.is_multiple_of(2);
        let input_line = (shape.width + 2 * shape.padding) * channels;
        let input_lines = if is_input { shape.height } else { (lines - 1) * shape.stride + shape.kernel };
        Source {
            run: (shape.kernel * channels).next_multiple_of(2),
            input_line,
            step: shape.stride * channels,
            line: shape.stride * input_line,
            image: input_lines * input_line,
            is_input,
        }
    }

    /// The start of every line of a tile.
    fn lines<'a>(&'a self, tile: &'a Tile) -> impl Iterator<Item = usize> + 'a {
        (0..tile.images).flat_map(move |image| (0..tile.lines).map(move |line| image * self.image + line * self.line))
    }

    /// The input of a tile, with its padding. If it is a copy, zeros follow it: those of a position, and what the last run may read.
    fn input<'a>(&self, shape: &ConvShape, tile: &Tile, input: &'a [bf16], copy: &'a mut Vec<bf16>) -> &'a [bf16] {
        let (channels, wide) = (shape.inputs, wide(shape.inputs));
        if self.is_input {
            let end = (tile.image + tile.images) * self.image;
            return &input[tile.image * self.image + tile.line * self.line..end];
        }
        copy.clear();
        copy.resize(tile.images * self.image + self.step + 1, bf16::ZERO);
        for image in 0..tile.images {
            let from = &input[(tile.image + image) * shape.image_in()..][..shape.image_in()];
            let into = &mut copy[image * self.image..][..self.image];
            for (number, line) in into.chunks_exact_mut(self.input_line).enumerate() {
                let y = (tile.line * shape.stride + number).checked_sub(shape.padding).filter(|y| *y < shape.height);
                let Some(y) = y else { continue };
                let from = &from[y * shape.width * channels..][..shape.width * channels];
                let line = &mut line[shape.padding * wide..][..shape.width * wide];
                if wide == channels {
                    line.copy_from_slice(from);
                } else {
                    let pixels = line.chunks_exact_mut(wide).zip(from.chunks_exact(channels));
                    pixels.for_each(|(to, from)| to[..channels].copy_from_slice(from));
                }
            }
        }
        copy
    }
}

/// The number of channels that are stored for each pixel. A single channel needs no other, since a run then has zeros at its end
/// in the weights.
fn wide(channels: usize) -> usize {
    if channels == 1 { 1 } else { channels.next_multiple_of(2) }
}

/// The tile that no other tile of a convolution exceeds.
fn largest_tile(shape: &ConvShape) -> Tile {
    let unit = shape.unit_by(Method::Im2col).min(shape.images);
    let largest = shape.tiles_by(Method::Im2col, unit).into_iter().next();
    largest.unwrap_or(Tile { image: 0, images: 0, line: 0, lines: 1 })
}

/// The product that computes the outputs of a tile.
struct Product<'a> {
    shape: &'a ConvShape,
    source: Source,
    /// The starts of the rows of the largest tile, of which other tiles have the first ones.
    rows: Vec<u32>,
    pairs: Vec<[u32; 2]>,
    weight: Panels,
}

impl Product<'_> {
    /// For weights `(outputs, kernel, kernel, inputs)`.
    fn new<'a>(shape: &'a ConvShape, weight: &[f32]) -> Product<'a> {
        let tile = largest_tile(shape);
        let source = Source::new(shape, tile.lines);
        let columns = shape.columns();
        let rows = source.lines(&tile).flat_map(|line| (0..columns).map(move |x| (line, x)));
        let rows = rows.map(|(line, x)| offset(line + x * source.step)).collect();
        let half = source.run / 2;
        let place = |pair: usize| [pair / half * source.input_line + 2 * (pair % half), 2 * PANEL * pair];
        let pairs = (0..shape.kernel * half).map(|pair| place(pair).map(offset)).collect();
        let part = if shape.inputs == 1 { shape.kernel } else { shape.inputs };
        Product { shape, source, rows, pairs, weight: pack::columns(weight, shape.depth(), part) }
    }

    /// Computes the outputs of a tile before the epilogue.
    fn run(&self, tile: &Tile, input: &[bf16], start: Start, copy: &mut Vec<bf16>, into: &mut [f32]) {
        let Product { shape, source, rows, pairs, weight } = self;
        let operands = Operands {
            a: source.input(shape, tile, input, copy),
            rows: &rows[..tile.images * tile.lines * shape.columns()],
            b: &weight.values,
            panel: weight.panel,
            words: pairs,
        };
        operands.multiply(shape.outputs, start, into, shape.outputs);
    }
}

/// Computes the output for `input` `(images, height, width, inputs)`: see [`ConvShape::forward`].
pub fn forward(shape: &ConvShape, input: &[bf16], weight: &[f32], bias: Option<&[f32]>) -> Output<bf16> {
    let image_in = shape.image_in();
    assert_eq!(input.len(), shape.images * image_in);
    let by_output = layout::channel_last(weight, shape.kernel, shape.inputs);
    let product = Product::new(shape, &by_output);
    outputs::by_tiles(shape, Method::Im2col, |image, tile, sums| {
        SCRATCH.with_borrow_mut(|Scratch { copy, .. }| {
            product.run(tile, &input[image * image_in..], bias.map_or(Start::Zero, Start::Bias), copy, sums);
        });
    })
}

/// The product that computes the gradient of the weight. Its depth is the positions of the output, in pairs of neighbours.
struct WeightProduct<'a> {
    shape: &'a ConvShape,
    source: Source,
    rows: Vec<u32>,
    /// The pairs of depth of the largest tile, of which other tiles have the first ones.
    pairs: Vec<[u32; 2]>,
}

impl WeightProduct<'_> {
    /// For tiles that do not exceed `tile`.
    fn new<'a>(shape: &'a ConvShape, tile: &Tile) -> WeightProduct<'a> {
        let source = Source::new(shape, tile.lines);
        let channels = wide(shape.inputs);
        let row = |row: usize| {
            let (place, channel) = (row / shape.inputs, row % shape.inputs);
            offset(2 * (place / shape.kernel * source.input_line + place % shape.kernel * channels + channel))
        };
        let rows = (0..shape.depth()).map(row).collect();
        let half = shape.columns().div_ceil(2);
        let starts = source.lines(tile).flat_map(|line| (0..half).map(move |pair| (line, pair)));
        let starts = starts.map(|(line, pair)| offset(2 * (line + 2 * pair * source.step)));
        let pairs = starts.enumerate().map(|(number, start)| [start, offset(number * 2 * PANEL)]).collect();
        WeightProduct { shape, source, rows, pairs }
    }

    /// Adds the gradient of a tile to `into`, `(kernel, kernel, inputs, outputs)`.
    fn add(&self, tile: &Tile, input: &[bf16], grad: &[bf16], scratch: &mut Scratch, into: &mut [f32]) {
        let outputs = self.shape.outputs;
        self.with_operands(tile, input, grad, scratch, |operands| {
            operands.multiply(outputs, Start::Result, into, outputs);
        });
    }

    /// The gradient for all images, `(kernel, kernel, inputs, outputs)`, whose rows are divided between the threads. The tiles of
    /// this product have `images` images.
    fn of_all(&self, images: usize, input: &[bf16], results: Results) -> Kept {
        let shape = self.shape;
        let outputs = shape.outputs;
        let mut buffer = Vec::new();
        let mut scratch = Scratch::default();
        let mut gradient = Kept::new(shape.depth() * outputs);
        if shape.images == 0 {
            gradient.fill(0.0); // no product sets it
        }
        for first in (0..shape.images).step_by(images) {
            let images = first..(first + images).min(shape.images);
            let grad = results.before(shape, images.clone(), &mut buffer);
            self.with_operands(&shape.whole(images), input, grad, &mut scratch, |operands| {
                let rows = operands.rows.par_chunks(WEIGHT_ROWS);
                rows.zip(gradient.par_chunks_mut(WEIGHT_ROWS * outputs)).for_each(|(rows, into)| {
                    let start = if first == 0 { Start::Zero } else { Start::Result };
                    Operands { rows, ..operands }.multiply(outputs, start, into, outputs);
                });
            });
        }
        gradient
    }

    /// Calls `work` with the operands of a tile.
    fn with_operands(
        &self,
        tile: &Tile,
        input: &[bf16],
        grad: &[bf16],
        scratch: &mut Scratch,
        work: impl FnOnce(Operands<'_, bf16>),
    ) {
        let WeightProduct { shape, source, rows, pairs } = self;
        let Scratch { copy, pairs: inputs, grads, .. } = scratch;
        let values = source.input(shape, tile, input, copy);
        // every element beside that of the next position; after the last position, beside a zero
        let paired = values.len().saturating_sub(source.step);
        let inputs = grown(inputs, 2 * values.len());
        interleave(&values[..paired], values.get(source.step..).unwrap_or_default(), inputs);
        let zeros = vec![bf16::ZERO; source.step];
        interleave(&values[paired..], &zeros, &mut inputs[2 * paired..]);
        let pairs = &pairs[..tile.images * tile.lines * shape.columns().div_ceil(2)];
        let panel = pairs.len() * 2 * PANEL;
        let grads = grown(grads, shape.outputs.div_ceil(PANEL) * panel);
        let lines = grad.chunks_exact(shape.columns() * shape.outputs);
        pack::pairs_in_panels(lines.flat_map(|line| line.chunks(2 * shape.outputs)), shape.outputs, panel, grads);
        work(Operands { a: inputs, rows, b: grads, panel, words: pairs });
    }
}

/// How the gradient of the weight is summed over the positions of all images.
#[derive(Clone, Copy)]
enum Summation {
    /// Tile by tile for each chunk of images. The sums of the chunks are added at the end.
    ByTile,
    /// The same, with tiles of this number of images: the gradient exceeds the cache, and each tile reads and writes all of it.
    ByImages(usize),
    /// With tiles of this number of images, for all images: threads divide the gradient instead of the images. It exceeds the cache,
    /// and there are so few positions that adding the sums of chunks would take much of the time.
    Together(usize),
}

impl Summation {
    /// For chunks of `chunk` images, and at least `least` images in a tile.
    fn new(shape: &ConvShape, least: usize, chunk: usize) -> Summation {
        let positions = shape.lines() * shape.columns();
        let images = |most: usize| (POSITIONS / positions).clamp(1, most.max(1));
        if shape.depth() * shape.outputs <= CACHED {
            Summation::ByTile
        } else if shape.images * positions <= FEW_POSITIONS {
            Summation::Together(images(shape.images))
        } else if images(chunk) > least {
            Summation::ByImages(images(chunk))
        } else {
            Summation::ByTile
        }
    }
}

/// How the gradient of the input is computed.
enum ToInput<'a> {
    /// It is not wanted.
    Not,
    /// By a convolution of the gradient.
    Convolution(Product<'a>),
    /// By a product with these weights, whose rows are added where they overlap.
    Rows(Panels),
}

/// The convolution of the gradient that gives the gradient of the input, if that is the faster way.
fn turned(shape: &ConvShape) -> Option<ConvShape> {
    let ConvShape { height, width, inputs, outputs, kernel, stride, padding, .. } = *shape;
    // a convolution computes a product for every position of the input, and the sum of rows one for every position of the
    // output, and as much time as for some more channels to write and to add them
    let suits = stride == 1 && padding < kernel;
    let pays = height * width * outputs <= shape.lines() * shape.columns() * (outputs + SUM_CHANNELS);
    (suits && pays).then(|| ConvShape {
        height: shape.lines(),
        width: shape.columns(),
        inputs: outputs,
        outputs: inputs,
        padding: kernel - 1 - padding,
        epilogue: Epilogue::Identity,
        ..*shape
    })
}

impl<'a> ToInput<'a> {
    fn new(shape: &ConvShape, turned: Option<&'a ConvShape>, weight: &[f32]) -> ToInput<'a> {
        let ConvShape { kernel, inputs, .. } = *shape;
        match turned {
            Some(turned) => ToInput::Convolution(Product::new(turned, &layout::turned(weight, kernel, inputs))),
            None => ToInput::Rows(pack::rows(&layout::channel_last(weight, kernel, inputs), shape.depth())),
        }
    }

    /// Writes the gradient of the input of some images.
    fn run(&self, shape: &ConvShape, images: usize, grad: &[bf16], scratch: &mut Scratch, into: &mut [bf16]) {
        let Scratch { copy, sums, image, grads, .. } = scratch;
        match self {
            ToInput::Not => {}
            ToInput::Convolution(product) => {
                for tile in product.shape.tiles_by(Method::Im2col, images) {
                    let written = product.shape.written(&tile);
                    let sums = grown(sums, written.len());
                    product.run(&tile, grad, Start::Zero, copy, sums);
                    pack::narrow(sums, &mut into[written]);
                }
            }
            ToInput::Rows(weight) => {
                let outputs = shape.outputs;
                let even = outputs.next_multiple_of(2);
                let image = grown(image, into.len());
                image.fill(0.0);
                let pairs = pack::pairs(even / 2);
                let step = (ROW_SUMS / (shape.columns() * shape.depth())).max(1);
                let starts =
                    (0..images).flat_map(|image| (0..shape.lines()).step_by(step).map(move |line| (image, line)));
                for (number, line) in starts {
                    let tile = Tile { image: number, images: 1, line, lines: step.min(shape.lines() - line) };
                    let rows = tile.lines * shape.columns();
                    let first = (number * shape.lines() + line) * shape.columns();
                    let mut grad = &grad[first * outputs..][..rows * outputs];
                    if even != outputs {
                        grads.clear();
                        grads.resize(rows * even, bf16::ZERO);
                        let all = grads.chunks_exact_mut(even).zip(grad.chunks_exact(outputs));
                        all.for_each(|(to, from)| to[..outputs].copy_from_slice(from));
                        grad = grads;
                    }
                    let rows: Vec<u32> = (0..rows).map(|row| offset(row * even)).collect();
                    let operands =
                        Operands { a: grad, rows: &rows, b: &weight.values, panel: weight.panel, words: &pairs };
                    let sums = grown(sums, rows.len() * shape.depth());
                    operands.multiply(shape.depth(), Start::Zero, sums, shape.depth());
                    shape.add_back(&tile, sums, image);
                }
                pack::narrow(image, into);
            }
        }
    }
}

/// Computes the gradients: see [`ConvShape::backward`].
pub fn backward(
    shape: &ConvShape,
    input: &[bf16],
    weight: &[f32],
    output: &[bf16],
    choice: &[u8],
    grad: &[bf16],
    want_input: bool,
) -> Gradients<bf16> {
    let (image_in, image_out, outputs) = (shape.image_in(), shape.image_out(), shape.outputs);
    assert_eq!(input.len(), shape.images * image_in);
    assert_eq!(output.len(), shape.images * image_out);
    assert_eq!(grad.len(), output.len());
    let turned = turned(shape);
    let to_input = if want_input { ToInput::new(shape, turned.as_ref(), weight) } else { ToInput::Not };
    let least = shape.unit_by(Method::Im2col);
    let positions = shape.lines() * shape.columns();
    let summation = Summation::new(shape, least, shape.chunk(least));
    let (unit, largest) = match summation {
        Summation::ByTile => (least, largest_tile(shape)),
        Summation::ByImages(images) => (images, shape.whole(0..images)),
        Summation::Together(images) => (least, shape.whole(0..images)),
    };
    let product = WeightProduct::new(shape, &largest);
    let results = Results { output, choice, grad };
    let gradients = by_images(shape, least, want_input, |images, input_grad: &mut [bf16]| {
        let mut weight_grad = vec![0.0; if matches!(summation, Summation::Together(_)) { 0 } else { weight.len() }];
        let mut bias_grad = vec![0.0f64; outputs];
        SCRATCH.with_borrow_mut(|scratch| {
            for first in (0..images.len()).step_by(unit) {
                let count = unit.min(images.len() - first);
                let image = images.start + first;
                let mut before = std::mem::take(&mut scratch.before);
                let rows = results.before(shape, image..image + count, &mut before);
                add_rows(rows, &mut bias_grad);
                let tiles = match summation {
                    Summation::ByTile => shape.tiles_by(Method::Im2col, count),
                    Summation::ByImages(_) => vec![shape.whole(0..count)],
                    Summation::Together(_) => Vec::new(),
                };
                for tile in tiles {
                    let from = (tile.image * positions + tile.line * shape.columns()) * outputs;
                    let rows = &rows[from..][..tile.images * tile.lines * shape.columns() * outputs];
                    product.add(&tile, &input[image * image_in..], rows, scratch, &mut weight_grad);
                }
                let into = input_grad.get_mut(first * image_in..(first + count) * image_in).unwrap_or_default();
                to_input.run(shape, count, rows, scratch, into);
                scratch.before = before;
            }
        });
        (weight_grad, bias_grad.iter().map(|v| *v as f32).collect())
    });
    let weight_grad = match summation {
        Summation::Together(images) => product.of_all(images, input, results),
        _ => Kept::from(gradients.weight),
    };
    Gradients { weight: layout::outputs_first(&weight_grad, shape.kernel, shape.inputs, outputs), ..gradients }
}
