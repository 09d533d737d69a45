//! Pooling over all positions of an image: the maximum and the mean of each channel, and the mean weighted by attention.

use rayon::prelude::*;

use super::element::Element;
use super::memory::by_chunks;

/// The shape of features on channels-last images, whose lines are joined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolShape {
    /// The number of images.
    pub images: usize,
    /// The number of positions of an image.
    pub positions: usize,
    /// The number of channels.
    pub channels: usize,
}

impl PoolShape {
    fn image(&self) -> usize {
        self.positions * self.channels
    }

    /// The maximum of each channel, `(images, channels)`, and the position where it first occurs.
    pub fn max(&self, input: &[f32]) -> (Vec<f32>, Vec<u32>) {
        assert_eq!(input.len(), self.images * self.image());
        let mut places = vec![0u32; self.images * self.channels];
        let extras: Vec<&mut [u32]> = places.chunks_mut(self.channels.max(1)).collect();
        let (values, _) = by_chunks(self.images * self.channels, self.channels, extras, |image, values, places| {
            let input = &input[image * self.image()..][..self.image()];
            values.copy_from_slice(&input[..self.channels]);
            for (position, row) in input.chunks_exact(self.channels).enumerate().skip(1) {
                for ((value, place), candidate) in values.iter_mut().zip(places.iter_mut()).zip(row) {
                    let larger = candidate > value;
                    *value = if larger { *candidate } else { *value };
                    *place = if larger { position as u32 } else { *place };
                }
            }
        });
        (values, places)
    }

    /// The gradient of the input of [`PoolShape::max`], `(images, positions, channels)`. Each gradient goes to the
    /// position of its maximum.
    pub fn max_gradient(&self, places: &[u32], grad: &[f32]) -> Vec<f32> {
        let (values, _) =
            by_chunks(self.images * self.image(), self.image(), vec![(); self.images], |image, into, ()| {
                let part = image * self.channels..(image + 1) * self.channels;
                for (channel, (place, grad)) in places[part.clone()].iter().zip(&grad[part]).enumerate() {
                    into[*place as usize * self.channels + channel] = *grad;
                }
            });
        values
    }

    /// The mean of each channel, `(images, channels)`.
    pub fn mean(&self, input: &[f32]) -> Vec<f32> {
        assert_eq!(input.len(), self.images * self.image());
        let factor = (1.0 / self.positions as f64) as f32;
        let images = vec![(); self.images];
        let (values, _) = by_chunks(self.images * self.channels, self.channels, images, |image, sums, ()| {
            for row in input[image * self.image()..][..self.image()].chunks_exact(self.channels) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sums.iter_mut().for_each(|sum| *sum *= factor);
        });
        values
    }

    /// The weights of each position, `(images, heads, positions)`: the softmax over the positions of `scores`,
    /// `(images, positions, heads)`.
    pub fn attention(&self, scores: &[f32], heads: usize) -> Vec<f32> {
        assert_eq!(scores.len(), self.images * self.positions * heads);
        let one = self.positions * heads;
        let (weights, _) = by_chunks(scores.len(), one, vec![(); self.images], |image, into, ()| {
            let scores = &scores[image * one..][..one];
            for (head, weights) in into.chunks_exact_mut(self.positions).enumerate() {
                let own = || scores.iter().skip(head).step_by(heads);
                let max = own().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut sum = 0.0f64;
                for (weight, score) in weights.iter_mut().zip(own()) {
                    *weight = (score - max).exp();
                    sum += f64::from(*weight);
                }
                weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) / sum) as f32);
            }
        });
        weights
    }

    /// The mean of `features`, `(images, positions, channels)`, with the weights of each head: `(images * heads,
    /// channels)`.
    pub fn weighted(&self, weights: &[f32], features: &[f32], heads: usize) -> Vec<f32> {
        assert_eq!(features.len(), self.images * self.image());
        let rows = self.images * heads;
        let (values, _) = by_chunks(rows * self.channels, self.channels, vec![(); rows], |row, into, ()| {
            let features = &features[row / heads * self.image()..][..self.image()];
            let weights = &weights[row * self.positions..][..self.positions];
            for (weight, feature) in weights.iter().zip(features.chunks_exact(self.channels)) {
                into.iter_mut().zip(feature).for_each(|(sum, value)| *sum += weight * value);
            }
        });
        values
    }

    /// The gradients of the scores and of the features, given the gradient of the result of [`PoolShape::weighted`].
    /// With the weights `a` of a head, the score at position `p` has the gradient `a[p] * (d[p] - sum over q of a[q] *
    /// d[q])`, where `d[p]` is the product of the head's gradient with the features at `p`.
    pub fn attention_gradients(
        &self,
        weights: &[f32],
        features: &[f32],
        grad: &[f32],
        heads: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        let one = self.positions * heads;
        let mut scores = vec![0.0; self.images * one];
        let extras: Vec<&mut [f32]> = scores.chunks_mut(one.max(1)).collect();
        let (features, _) = by_chunks(features.len(), self.image(), extras, |image, into, scores| {
            let features = &features[image * self.image()..][..self.image()];
            for head in 0..heads {
                let row = image * heads + head;
                let grad = &grad[row * self.channels..][..self.channels];
                let weights = &weights[row * self.positions..][..self.positions];
                let products: Vec<f64> =
                    features.chunks_exact(self.channels).map(|feature| f64::from(dot(feature, grad))).collect();
                let mean: f64 = weights.iter().zip(&products).map(|(a, d)| f64::from(*a) * d).sum();
                for (position, (weight, product)) in weights.iter().zip(products).enumerate() {
                    scores[position * heads + head] = (f64::from(*weight) * (product - mean)) as f32;
                    let into = &mut into[position * self.channels..][..self.channels];
                    into.iter_mut().zip(grad).for_each(|(sum, grad)| *sum += weight * grad);
                }
            }
        });
        (scores, features)
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Cuts `count` windows side by side out of each image `(height, width)`: see `ops::windows`.
pub fn windows<T: Element>(input: &[T], [height, width]: [usize; 2], count: usize, margin: usize) -> Vec<T> {
    let across = width / count + 2 * margin;
    let mut values = vec![T::default(); input.len() / (height * width).max(1) * count * height * across];
    let images = values.par_chunks_mut((count * height * across).max(1)).zip(input.par_chunks((height * width).max(1)));
    images.for_each(|(windows, image)| {
        for (number, window) in windows.chunks_exact_mut(height * across).enumerate() {
            let start = (number * width / count) as isize - margin as isize;
            let (from, to) = (start.max(0) as usize, (start + across as isize).clamp(0, width as isize) as usize);
            let before = (from as isize - start) as usize;
            for (line, pixels) in window.chunks_exact_mut(across).zip(image.chunks_exact(width)) {
                line[before..][..to - from].copy_from_slice(&pixels[from..to]);
            }
        }
    });
    values
}
