//! Batch norm in training: each channel of a batch is normalised to mean 0 and variance 1, then scaled and shifted.

use std::cell::RefCell;

use rayon::prelude::*;

use super::CHUNKS;
use super::element::Element;
use super::epilogue::{self, Epilogue};
use super::memory::by_chunks;
use super::vector::{Lanes, by_lanes, widest};

/// The number that is added to a variance before its square root is taken; PyTorch's default.
pub const EPSILON: f64 = 1e-5;

/// The shape of a batch norm on channels-last images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormShape {
    /// The number of images.
    pub images: usize,
    /// The height in pixels.
    pub height: usize,
    /// The width in pixels.
    pub width: usize,
    /// The number of channels.
    pub channels: usize,
    /// The epilogue applied to the output.
    pub epilogue: Epilogue,
}

/// The statistics of a batch, per channel.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    /// The mean over all images and positions of the batch.
    pub mean: Vec<f64>,
    /// The biased variance, by which the batch is normalised.
    pub variance: Vec<f64>,
}

/// The result of a forward pass.
pub struct Output<T> {
    /// The values after the epilogue, `(images, lines, columns, channels)`.
    pub values: Vec<T>,
    /// The index of each value in its pooling window; empty without pooling.
    pub choice: Vec<u8>,
    /// The statistics of the batch.
    pub statistics: Statistics,
}

/// The gradients of a batch norm.
pub struct Gradients<T> {
    /// The gradient of the input, in the shape of the input.
    pub input: Vec<T>,
    /// The gradient of the scale, `(channels)`.
    pub weight: Vec<f32>,
    /// The gradient of the shift, `(channels)`.
    pub bias: Vec<f32>,
}

/// The number of results that are computed at a time without pooling. They should stay in the first cache.
const BLOCK: usize = 1 << 12;

thread_local! {
    static LINES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl NormShape {
    /// The shape of the output after the epilogue.
    pub fn shape(&self) -> [usize; 4] {
        [self.images, self.epilogue.extent(self.height), self.epilogue.extent(self.width), self.channels]
    }

    /// The number of values per channel.
    pub fn count(&self) -> usize {
        self.images * self.height * self.width
    }

    fn image_in(&self) -> usize {
        self.height * self.width * self.channels
    }

    fn image_out(&self) -> usize {
        self.shape()[1..].iter().product()
    }

    /// The number of input elements in one chunk of images.
    fn chunk(&self) -> usize {
        (self.images.div_ceil(CHUNKS) * self.image_in()).max(1)
    }

    /// The number of elements of the pixels that are computed at a time without pooling.
    fn block(&self) -> usize {
        (BLOCK / self.channels.max(1)).max(1) * self.channels
    }

    fn statistics<T: Element>(&self, input: &[T]) -> Statistics {
        // differences from a value of the batch are squared, which avoids cancellation if the mean is large
        let shift = &input[..self.channels];
        let part = |chunk: &[T]| {
            let mut sums = Sums::new(self.channels);
            for line in chunk.chunks(self.width * self.channels) {
                sums.add(
                    self.width,
                    #[inline(always)]
                    |pixel, c, count| {
                        let value = Lanes::some(line, pixel * self.channels + c, count) - Lanes::some(shift, c, count);
                        (value, value * value)
                    },
                );
            }
            sums
        };
        let sums = Sums::total(input.par_chunks(self.chunk()).map(part).collect());
        let count = self.count() as f64;
        let shifted: Vec<f64> = sums.first.iter().map(|sum| sum / count).collect();
        let variance = sums.second.iter().zip(&shifted).map(|(sum, mean)| (sum / count - mean * mean).max(0.0));
        let mean = shifted.iter().zip(input).map(|(mean, shift)| mean + f64::from(shift.widen()));
        Statistics { mean: mean.collect(), variance: variance.collect() }
    }

    /// Computes the output for `input` `(images, height, width, channels)`, `weight` and `bias` `(channels)`.
    pub fn forward<T: Element>(&self, input: &[T], weight: &[f32], bias: &[f32]) -> Output<T> {
        assert_eq!(input.len(), self.images * self.image_in());
        let statistics = self.statistics(input);
        // the mean is subtracted first: a single factor and summand would round values near 0 more, and flip their ReLU
        let (scale, _) = affine(&statistics, weight, bias);
        let mean: Vec<f32> = statistics.mean.iter().map(|mean| *mean as f32).collect();
        let terms = [&mean[..], &scale, bias];
        if self.epilogue != Epilogue::ReluPool {
            let block = self.block();
            let blocks = vec![(); input.len().div_ceil(block.max(1))];
            let (values, _) = by_chunks(input.len(), block, blocks, |number, values, ()| {
                let input = &input[number * block..][..values.len()];
                match self.epilogue {
                    Epilogue::Relu => apply::<true, _, _>(input, terms, values),
                    _ => apply::<false, _, _>(input, terms, values),
                }
            });
            return Output { values, choice: Vec::new(), statistics };
        }
        let image_out = self.image_out();
        let mut choice = vec![0; self.images * image_out];
        let mut choices: Vec<&mut [u8]> = choice.chunks_mut(image_out.max(1)).collect();
        choices.resize_with(self.images, Default::default);
        let (values, _) = by_chunks(self.images * image_out, image_out, choices, |image, values, choice| {
            let input = &input[image * self.image_in()..][..self.image_in()];
            LINES.with_borrow_mut(|lines| {
                let (line, out_line) = (self.width * self.channels, self.width / 2 * self.channels);
                lines.resize(2 * line, 0.0);
                let outs = values.chunks_exact_mut(out_line.max(1)).zip(choice.chunks_exact_mut(out_line.max(1)));
                for (input, (values, choice)) in input.chunks_exact(2 * line).zip(outs) {
                    apply::<false, _, _>(input, terms, lines);
                    epilogue::pool(lines, self.width, self.channels, values, choice);
                }
            });
        });
        Output { values, choice, statistics }
    }

    /// Adds the gradient of an image before the epilogue, and its product with `input - mean`, to the sums. The
    /// gradient is not stored: computing it twice costs less than a pass through memory.
    fn add_products<T: Element>(&self, [input, values, grad]: [&[T]; 3], choice: &[u8], mean: &[f32], sums: &mut Sums) {
        let channels = self.channels;
        let line = self.width * channels;
        if self.epilogue == Epilogue::ReluPool {
            let columns = self.width / 2;
            for (y, lines) in input.chunks_exact(2 * line).enumerate() {
                sums.add(
                    columns,
                    #[inline(always)]
                    |x, c, count| {
                        let (at, from) = ((y * columns + x) * channels + c, 2 * x * channels + c);
                        let corner = |at: usize| Lanes::some(lines, at, count);
                        let window = [
                            corner(from),
                            corner(from + channels),
                            corner(from + line),
                            corner(from + line + channels),
                        ];
                        let chosen = Lanes::chosen(choice, at, count, window);
                        let grad = Lanes::some(grad, at, count).where_positive(Lanes::some(values, at, count));
                        (grad, grad * (chosen - Lanes::some(mean, c, count)))
                    },
                );
            }
            return;
        }
        for (y, input) in input.chunks_exact(line).enumerate() {
            sums.add(
                self.width,
                #[inline(always)]
                |x, c, count| {
                    let at = y * line + x * channels + c;
                    let mut grad = Lanes::some(grad, at, count);
                    if self.epilogue == Epilogue::Relu {
                        grad = grad.where_positive(Lanes::some(values, at, count));
                    }
                    (grad, grad * (Lanes::some(input, x * channels + c, count) - Lanes::some(mean, c, count)))
                },
            );
        }
    }

    /// Computes the gradients from the operands and the result of the forward pass and the
    /// gradient `grad` of the result.
    pub fn backward<T: Element>(
        &self,
        input: &[T],
        weight: &[f32],
        output: &Output<T>,
        values: &[T],
        grad: &[T],
    ) -> Gradients<T> {
        let (image_in, image_out, channels) = (self.image_in(), self.image_out(), self.channels);
        let mean: Vec<f32> = output.statistics.mean.iter().map(|mean| *mean as f32).collect();
        let of_image = |image: usize| {
            let (from, to) = (image * image_in, image * image_out);
            let choice = if output.choice.is_empty() { &[][..] } else { &output.choice[to..to + image_out] };
            ([&input[from..from + image_in], &values[to..to + image_out], &grad[to..to + image_out]], choice)
        };
        let chunk = self.images.div_ceil(CHUNKS).max(1);
        let parts = (0..self.images.div_ceil(chunk)).into_par_iter().map(|index| {
            let mut sums = Sums::new(channels);
            for image in index * chunk..self.images.min((index + 1) * chunk) {
                let (slices, choice) = of_image(image);
                self.add_products(slices, choice, &mean, &mut sums);
            }
            sums
        });
        let sums = Sums::total(parts.collect());
        let count = self.count() as f64;
        let inverse: Vec<f64> = output.statistics.variance.iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect();
        // d input = factor grad + slope (input - mean) + offset, per channel
        let factor: Vec<f32> = (0..channels).map(|c| (f64::from(weight[c]) * inverse[c]) as f32).collect();
        let slope: Vec<f32> = (0..channels)
            .map(|c| (-f64::from(weight[c]) * inverse[c].powi(3) * sums.second[c] / count) as f32)
            .collect();
        let offset: Vec<f32> =
            (0..channels).map(|c| (-f64::from(weight[c]) * inverse[c] * sums.first[c] / count) as f32).collect();
        let terms = [&factor[..], &slope, &offset, &mean];
        let block = if self.epilogue == Epilogue::ReluPool { image_in } else { self.block() };
        let blocks = vec![(); input.len().div_ceil(block.max(1))];
        let (input_grad, _) = by_chunks(input.len(), block, blocks, |number, into, ()| {
            let first = number * block;
            let input = &input[first..][..into.len()];
            match self.epilogue {
                Epilogue::Identity => spread(
                    input,
                    terms,
                    into,
                    #[inline(always)]
                    |at, count, _| Lanes::some(grad, first + at, count),
                ),
                Epilogue::Relu => spread(
                    input,
                    terms,
                    into,
                    #[inline(always)]
                    |at, count, _| {
                        Lanes::some(grad, first + at, count).where_positive(Lanes::some(values, first + at, count))
                    },
                ),
                Epilogue::ReluPool => {
                    let ([_, values, grad], choice) = of_image(number);
                    epilogue::pool_gradient(values, choice, grad, self.width, channels, into);
                    spread(
                        input,
                        terms,
                        into,
                        #[inline(always)]
                        |_, _, grad| grad,
                    );
                }
            }
        });
        Gradients {
            input: input_grad,
            weight: sums.second.iter().zip(&inverse).map(|(sum, inverse)| (sum * inverse) as f32).collect(),
            bias: sums.first.iter().map(|sum| *sum as f32).collect(),
        }
    }
}

/// Computes `(from - mean) * scale + bias`, followed by ReLU if `RELU` is true.
fn apply<const RELU: bool, F: Element, T: Element>(from: &[F], [mean, scale, bias]: [&[f32]; 3], to: &mut [T]) {
    let channels = mean.len();
    let (scale, bias) = (&scale[..channels], &bias[..channels]);
    widest(
        #[inline(always)]
        || {
            for (from, to) in from.chunks_exact(channels).zip(to.chunks_exact_mut(channels)) {
                by_lanes(
                    channels,
                    #[inline(always)]
                    |c, count| {
                        let shifted = Lanes::some(from, c, count) - Lanes::some(mean, c, count);
                        let value = shifted * Lanes::some(scale, c, count) + Lanes::some(bias, c, count);
                        if RELU { value.relu() } else { value }.put(to, c, count);
                    },
                );
            }
        },
    );
}

/// Computes `factor * grad + slope * (input - mean) + offset`. `grad(element, count, own)` gives the gradient before the epilogue
/// for `count` elements from `element` on, where `own` is what `into` holds there.
fn spread<T: Element>(
    input: &[T],
    [factor, slope, offset, mean]: [&[f32]; 4],
    into: &mut [T],
    grad: impl Fn(usize, usize, Lanes) -> Lanes,
) {
    let channels = mean.len();
    let (factor, slope, offset) = (&factor[..channels], &slope[..channels], &offset[..channels]);
    widest(
        #[inline(always)]
        || {
            for (pixel, (into, input)) in into.chunks_exact_mut(channels).zip(input.chunks_exact(channels)).enumerate()
            {
                by_lanes(
                    channels,
                    #[inline(always)]
                    |c, count| {
                        let grad = grad(pixel * channels + c, count, Lanes::some(into, c, count));
                        let shifted = Lanes::some(input, c, count) - Lanes::some(mean, c, count);
                        let sum = Lanes::some(slope, c, count) * shifted + Lanes::some(offset, c, count);
                        (Lanes::some(factor, c, count) * grad + sum).put(into, c, count);
                    },
                );
            }
        },
    );
}

/// The scale and shift of the map `input * scale + shift` from an input to the output.
pub fn affine(statistics: &Statistics, weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let channels = statistics.mean.iter().zip(&statistics.variance).zip(weight.iter().zip(bias));
    channels
        .map(|((mean, variance), (weight, bias))| {
            let scale = f64::from(*weight) / (variance + EPSILON).sqrt();
            (scale as f32, (f64::from(*bias) - mean * scale) as f32)
        })
        .unzip()
}

/// Two sums per channel. A line is summed in f32, the lines in f64.
struct Sums {
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Sums {
    fn new(channels: usize) -> Sums {
        Sums { first: vec![0.0; channels], second: vec![0.0; channels] }
    }

    /// Adds the terms of all pixels of a line. `terms(pixel, channel, count)` gives the terms of `count` channels from
    /// `channel` on.
    #[inline(always)]
    fn add(&mut self, pixels: usize, terms: impl Fn(usize, usize, usize) -> (Lanes, Lanes)) {
        widest(
            #[inline(always)]
            || {
                by_lanes(
                    self.first.len(),
                    #[inline(always)]
                    |c, count| {
                        let (mut first, mut second) = (Lanes::ZERO, Lanes::ZERO);
                        for pixel in 0..pixels {
                            let (a, b) = terms(pixel, c, count);
                            (first, second) = (first + a, second + b);
                        }
                        let sums = self.first[c..c + count].iter_mut().zip(&mut self.second[c..c + count]);
                        for (i, (a, b)) in sums.enumerate() {
                            *a += f64::from(first.0[i]);
                            *b += f64::from(second.0[i]);
                        }
                    },
                );
            },
        );
    }

    /// Adds the sums of all parts in their order.
    fn total(parts: Vec<Sums>) -> Sums {
        let mut parts = parts.into_iter();
        let mut total = parts.next().unwrap_or_else(|| Sums::new(0));
        for part in parts {
            total.first.iter_mut().zip(&part.first).for_each(|(sum, part)| *sum += part);
            total.second.iter_mut().zip(&part.second).for_each(|(sum, part)| *sum += part);
        }
        total
    }
}
