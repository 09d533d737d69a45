//! Runs a network on images, and keeps the probability of every digit at every position beside the right digits.
//!
//! This is the only part of the stage that runs a network; everything after it is arithmetic on [`Predictions`].

use crate::error::{Error, Result};
use crate::evaluate::EvaluateError;
use crate::networks::{CLASSES, Network};
use crate::shards::Split;
use crate::train::batch::{Normalise, forward};
use multidigit_nn::floats::Floats;
use multidigit_nn::loss::{argmax, cross_entropy, softmax};

/// The predictions of a network for the first images of a split, image after image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predictions {
    /// The number of digits per image.
    pub digits: usize,
    /// The right digits, left to right: `digits` per image.
    pub targets: Vec<u8>,
    /// The digits found, left to right: `digits` per image.
    pub predicted: Vec<u8>,
    /// The probability of each digit at each position: `digits` times ten per image.
    pub probabilities: Vec<f64>,
    /// The sum of the cross entropies over images and positions.
    pub loss: f64,
}

impl Predictions {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.targets.len() / self.digits.max(1)
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The right digits of an image.
    pub fn truth(&self, image: usize) -> &[u8] {
        &self.targets[image * self.digits..][..self.digits]
    }

    /// The digits found in an image.
    pub fn predicted(&self, image: usize) -> &[u8] {
        &self.predicted[image * self.digits..][..self.digits]
    }

    /// The right digit at a position of an image, and the digit found there.
    pub fn at(&self, image: usize, position: usize) -> (u8, u8) {
        (self.truth(image)[position], self.predicted(image)[position])
    }

    /// Whether all digits of an image are right.
    pub fn is_correct(&self, image: usize) -> bool {
        self.truth(image) == self.predicted(image)
    }

    /// The probability of a digit at a position of an image.
    pub fn probability(&self, image: usize, position: usize, digit: u8) -> f64 {
        self.probabilities[(image * self.digits + position) * CLASSES + usize::from(digit)]
    }

    /// The joint probability of some digits of an image, one for each position: the product of their probabilities,
    /// since the heads are independent given the image.
    pub fn joint(&self, image: usize, digits: &[u8]) -> f64 {
        digits.iter().enumerate().map(|(position, &digit)| self.probability(image, position, digit)).product()
    }

    /// Adds the predictions for a batch. `heads` holds the logits of each head, of shape `(images, 10)`.
    fn add(&mut self, heads: &[&[f32]], targets: &[u8]) {
        for (image, targets) in targets.chunks_exact(self.digits).enumerate() {
            for (head, &target) in heads.iter().zip(targets) {
                let logits = &head[image * CLASSES..][..CLASSES];
                self.loss += cross_entropy(logits, target);
                self.predicted.push(argmax(logits));
                self.probabilities.extend(softmax(logits));
            }
            self.targets.extend_from_slice(targets);
        }
    }
}

/// Runs a network, in evaluation mode, on the first `images` images of a split, `batch` at a time. `done` is called
/// with the number of images of each batch.
///
/// # Errors
/// [`EvaluateError::NoAnswer`] if a logit is not finite.
pub fn predict(
    network: &Network,
    normalise: &Normalise,
    split: &Split,
    images: usize,
    batch: usize,
    mut done: impl FnMut(usize) -> Result<()>,
) -> Result<Predictions> {
    let mut all = Predictions { digits: split.digits, ..Predictions::default() };
    forward(network, normalise, split, images, batch, |logits, targets| {
        let heads = logits.iter().map(|logits| Floats::of(logits)).collect::<Result<Vec<_>, _>>()?;
        let heads: Vec<&[f32]> = heads.iter().map(|head| &**head).collect();
        if heads.iter().any(|head| head.iter().any(|logit| !logit.is_finite())) {
            return Err(Error::from(EvaluateError::NoAnswer));
        }
        all.add(&heads, targets);
        done(targets.len() / split.digits)
    })?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_are_those_worked_by_hand() {
        let head = |digits: [usize; 2]| -> Vec<f32> {
            let row = |digit| (0..CLASSES).map(move |class| if class == digit { 9f32.ln() } else { 0.0 });
            digits.into_iter().flat_map(row).collect()
        };
        let mut all = Predictions { digits: 2, ..Predictions::default() };
        all.add(&[&head([3, 7]), &head([1, 2])], &[3, 1, 7, 5]);
        assert_eq!((all.len(), all.predicted.as_slice()), (2, &[3, 1, 7, 2][..]));
        assert!(all.is_correct(0) && !all.is_correct(1));
        // the right digit has odds of 9 to 9 others: probability 1/2 three times, and 1/18 for the wrong digit
        let expected = 3.0 * 2f64.ln() + 18f64.ln();
        assert!((all.loss - expected).abs() < 1e-6);
        assert!((all.joint(1, &[7, 2]) - 0.25).abs() < 1e-6 && (all.joint(1, &[7, 5]) - 1.0 / 36.0).abs() < 1e-6);
        assert!((all.probabilities.iter().sum::<f64>() - 4.0).abs() < 1e-12);
    }
}
