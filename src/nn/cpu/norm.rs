//! Batch norm in training: each channel of a batch brought to mean 0 and variance 1, then scaled and shifted.

use std::cell::RefCell;

use rayon::prelude::*;

use super::CHUNKS;
use super::finish::{self, Finish};

/// What is added to a variance before its root is taken; PyTorch's default.
pub const EPSILON: f64 = 1e-5;

/// The shape of a batch norm on channels-last images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Images.
    pub images: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// What happens to the output.
    pub finish: Finish,
}

/// The statistics of a batch, per channel.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    /// Mean.
    pub mean: Vec<f64>,
    /// Biased variance, which the batch is normalised by.
    pub variance: Vec<f64>,
}

/// The result of a forward pass.
pub struct Output {
    /// `(images, lines, columns, channels)` after the finish.
    pub values: Vec<f32>,
    /// Which element of its window each value is; empty where nothing is pooled.
    pub choice: Vec<u8>,
    /// The batch's statistics.
    pub statistics: Statistics,
}

/// The gradients of a batch norm.
pub struct Gradients {
    /// As the input.
    pub input: Vec<f32>,
    /// Of the scale, per channel.
    pub weight: Vec<f32>,
    /// Of the shift, per channel.
    pub bias: Vec<f32>,
}

thread_local! {
    static LINES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Norm {
    /// The shape of the output after the finish.
    pub fn shape(&self) -> [usize; 4] {
        [self.images, self.finish.extent(self.height), self.finish.extent(self.width), self.channels]
    }

    /// Values per channel.
    pub fn count(&self) -> usize {
        self.images * self.height * self.width
    }

    fn image_in(&self) -> usize {
        self.height * self.width * self.channels
    }

    fn image_out(&self) -> usize {
        self.shape()[1..].iter().product()
    }

    /// Elements of the input in one chunk of images.
    fn chunk(&self) -> usize {
        (self.images.div_ceil(CHUNKS) * self.image_in()).max(1)
    }

    fn statistics(&self, input: &[f32]) -> Statistics {
        let parts: Vec<_> = input
            .par_chunks(self.chunk())
            .map(|chunk| {
                let mut sums = Sums::new(self.channels);
                // squares of differences from a value of the batch: no cancellation where the mean is large
                chunk
                    .chunks(self.width * self.channels)
                    .for_each(|line| sums.add_squares(line, &input[..self.channels]));
                sums
            })
            .collect();
        let sums = Sums::total(parts);
        let count = self.count() as f64;
        let shifted: Vec<f64> = sums.first.iter().map(|sum| sum / count).collect();
        let variance = sums.second.iter().zip(&shifted).map(|(sum, mean)| (sum / count - mean * mean).max(0.0));
        let mean = shifted.iter().zip(input).map(|(mean, shift)| mean + f64::from(*shift));
        Statistics { mean: mean.collect(), variance: variance.collect() }
    }

    /// The output for `input` `(images, height, width, channels)`, `weight` and `bias` `(channels)`.
    pub fn forward(&self, input: &[f32], weight: &[f32], bias: &[f32]) -> Output {
        assert_eq!(input.len(), self.images * self.image_in());
        let statistics = self.statistics(input);
        // the mean is taken away first: one factor and one summand would round values near 0 more, and flip their ReLU
        let (scale, _) = affine(&statistics, weight, bias);
        let mean: Vec<f32> = statistics.mean.iter().map(|mean| *mean as f32).collect();
        let pooled = self.finish == Finish::ReluPool;
        let image_out = self.image_out();
        let mut values = vec![0.0; self.images * image_out];
        let mut choice = vec![0; if pooled { values.len() } else { 0 }];
        let mut choices: Vec<&mut [u8]> = choice.chunks_mut(image_out.max(1)).collect();
        choices.resize_with(self.images, Default::default);
        let images = values.par_chunks_mut(image_out.max(1)).zip(choices).zip(input.par_chunks(self.image_in()));
        images.for_each(|((values, choice), input)| {
            let apply = |from: &[f32], to: &mut [f32]| {
                for (from, to) in from.chunks_exact(self.channels).zip(to.chunks_exact_mut(self.channels)) {
                    for c in 0..self.channels {
                        to[c] = (from[c] - mean[c]) * scale[c] + bias[c];
                    }
                }
            };
            match self.finish {
                Finish::Plain => apply(input, values),
                Finish::Relu => {
                    apply(input, values);
                    finish::relu(values);
                }
                Finish::ReluPool => LINES.with_borrow_mut(|lines| {
                    let (line, out_line) = (self.width * self.channels, self.width / 2 * self.channels);
                    lines.resize(2 * line, 0.0);
                    let outs = values.chunks_exact_mut(out_line.max(1)).zip(choice.chunks_exact_mut(out_line.max(1)));
                    for (input, (values, choice)) in input.chunks_exact(2 * line).zip(outs) {
                        apply(input, lines);
                        finish::pool(lines, self.width, self.channels, values, choice);
                    }
                }),
            }
        });
        Output { values, choice, statistics }
    }

    /// The gradients, from the operands and the result of the forward pass and the gradient `grad` of its values.
    pub fn backward(&self, input: &[f32], weight: &[f32], output: &Output, values: &[f32], grad: &[f32]) -> Gradients {
        let (image_in, image_out, channels) = (self.image_in(), self.image_out(), self.channels);
        let mean: Vec<f32> = output.statistics.mean.iter().map(|mean| *mean as f32).collect();
        let mut input_grad = vec![0.0; input.len()];
        let chunk = self.chunk();
        let parts: Vec<_> = input_grad
            .par_chunks_mut(chunk)
            .enumerate()
            .map(|(index, before)| {
                let mut sums = Sums::new(channels);
                for (i, before) in before.chunks_exact_mut(image_in).enumerate() {
                    let image = index * (chunk / image_in) + i;
                    let part = image * image_out..(image + 1) * image_out;
                    let (values, grad) = (&values[part.clone()], &grad[part.clone()]);
                    match self.finish {
                        Finish::Plain => before.copy_from_slice(grad),
                        Finish::Relu => finish::relu_gradient(values, grad, before),
                        Finish::ReluPool => {
                            finish::pool_gradient(values, &output.choice[part], grad, self.width, channels, before);
                        }
                    }
                    let lines = before.chunks_exact(self.width * channels);
                    let inputs = input[image * image_in..].chunks_exact(self.width * channels);
                    lines.zip(inputs).for_each(|(grad, input)| sums.add_products(grad, input, &mean));
                }
                sums
            })
            .collect();
        let sums = Sums::total(parts);
        let count = self.count() as f64;
        let inverse: Vec<f64> = output.statistics.variance.iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect();
        // d input = factor grad + slope (input - mean) + offset, per channel
        let factor: Vec<f32> = (0..channels).map(|c| (f64::from(weight[c]) * inverse[c]) as f32).collect();
        let slope: Vec<f32> = (0..channels)
            .map(|c| (-f64::from(weight[c]) * inverse[c].powi(3) * sums.second[c] / count) as f32)
            .collect();
        let offset: Vec<f32> =
            (0..channels).map(|c| (-f64::from(weight[c]) * inverse[c] * sums.first[c] / count) as f32).collect();
        input_grad.par_chunks_mut(image_in).zip(input.par_chunks(image_in)).for_each(|(grad, input)| {
            for (grad, input) in grad.chunks_exact_mut(channels).zip(input.chunks_exact(channels)) {
                for c in 0..channels {
                    grad[c] = factor[c] * grad[c] + (slope[c] * (input[c] - mean[c]) + offset[c]);
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

/// Scale and shift that turn an input into the output: `input * scale + shift`.
pub fn affine(statistics: &Statistics, weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let channels = statistics.mean.iter().zip(&statistics.variance).zip(weight.iter().zip(bias));
    channels
        .map(|((mean, variance), (weight, bias))| {
            let scale = f64::from(*weight) / (variance + EPSILON).sqrt();
            (scale as f32, (f64::from(*bias) - mean * scale) as f32)
        })
        .unzip()
}

/// Two sums per channel: in f32 over a line, in f64 over the lines.
struct Sums {
    first: Vec<f64>,
    second: Vec<f64>,
    line: Vec<[f32; 2]>,
}

impl Sums {
    fn new(channels: usize) -> Sums {
        Sums { first: vec![0.0; channels], second: vec![0.0; channels], line: vec![[0.0; 2]; channels] }
    }

    /// Adds `v - shift` and its square.
    fn add_squares(&mut self, line: &[f32], shift: &[f32]) {
        self.line.fill([0.0; 2]);
        for pixel in line.chunks_exact(shift.len()) {
            for ((sums, value), shift) in self.line.iter_mut().zip(pixel).zip(shift) {
                let value = value - shift;
                sums[0] += value;
                sums[1] += value * value;
            }
        }
        self.carry();
    }

    /// Adds `grad` and `grad * (input - mean)`.
    fn add_products(&mut self, grad: &[f32], input: &[f32], mean: &[f32]) {
        self.line.fill([0.0; 2]);
        let channels = mean.len();
        for (grad, input) in grad.chunks_exact(channels).zip(input.chunks_exact(channels)) {
            for (((sums, grad), input), mean) in self.line.iter_mut().zip(grad).zip(input).zip(mean) {
                sums[0] += grad;
                sums[1] += grad * (input - mean);
            }
        }
        self.carry();
    }

    fn carry(&mut self) {
        for ((first, second), line) in self.first.iter_mut().zip(&mut self.second).zip(&self.line) {
            *first += f64::from(line[0]);
            *second += f64::from(line[1]);
        }
    }

    /// The sum of parts, in their order.
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
