//! Functions of the logits: the probabilities, the loss and the predicted class of a row, and the loss of a batch with
//! its gradients. They compute in f64, at no noticeable cost.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::floats::{Floats, tensor};
use crate::tape::Value;

/// The loss of a batch.
pub struct Loss {
    /// The sum over the heads of the mean cross entropy.
    pub value: f64,
    /// The gradient of the loss with respect to the logits of each head.
    pub gradients: Vec<Tensor>,
}

/// The loss of a batch. `logits` holds the logits `(images, classes)` of each head; `targets` holds the correct classes
/// of all heads, image by image. With label smoothing, as in PyTorch, the target distribution of a row is the mean of
/// the correct class and the uniform distribution, with the weights `1 - smoothing` and `smoothing`.
///
/// # Errors
/// [`Error::Tensor`] if the number of targets is not the number of images times heads, or a target is not a class.
pub fn loss(logits: &[Value], targets: &[u8], smoothing: f64) -> Result<Loss> {
    let (heads, mut value, mut gradients) = (logits.len(), 0.0, Vec::new());
    for (head, logits) in logits.iter().enumerate() {
        let (images, classes) = logits.dims2()?;
        if images * heads != targets.len() || images * classes == 0 {
            let found = format!("{} targets for the logits of {heads} heads, {:?} each", targets.len(), logits.shape());
            return Err(Error::tensor(found));
        }
        let (rows, targets) = (Floats::of(logits)?, targets.iter().skip(head).step_by(heads));
        let (mut sum, mut gradient) = (0.0, Vec::with_capacity(rows.len()));
        for (row, &target) in rows.chunks_exact(classes).zip(targets) {
            if usize::from(target) >= classes {
                return Err(Error::tensor(format!("a target {target} among {classes} classes")));
            }
            // the mean of the cross entropy over all classes is that of the target plus the target's logit minus the
            // mean logit
            let mean = row.iter().map(|logit| f64::from(*logit)).sum::<f64>() / classes as f64;
            sum += cross_entropy(row, target) + smoothing * (f64::from(row[usize::from(target)]) - mean);
            let right = |class: usize| f64::from(u8::from(class == usize::from(target)));
            let wanted = |class: usize| (1.0 - smoothing) * right(class) + smoothing / classes as f64;
            gradient.extend(softmax(row).enumerate().map(|(class, p)| ((p - wanted(class)) / images as f64) as f32));
        }
        value += sum / images as f64;
        gradients.push(tensor(gradient, &[images, classes])?);
    }
    Ok(Loss { value, gradients })
}

fn max(logits: &[f32]) -> f64 {
    f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max))
}

/// The probability of each class.
pub fn softmax(logits: &[f32]) -> impl Iterator<Item = f64> {
    let max = max(logits);
    let exp = move |logit: &f32| (f64::from(*logit) - max).exp();
    let sum: f64 = logits.iter().map(exp).sum();
    logits.iter().map(move |logit| exp(logit) / sum)
}

/// The negative logarithm of the probability of class `target`.
pub fn cross_entropy(logits: &[f32], target: u8) -> f64 {
    let max = max(logits);
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - max).exp()).sum();
    sum.ln() + max - f64::from(logits[usize::from(target)])
}

/// The class with the largest logit; on a tie, the first.
pub fn argmax(logits: &[f32]) -> u8 {
    let mut best = 0;
    for (class, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = class;
        }
    }
    best as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_of_known_odds_is_their_logarithm() {
        // odds of 1 : 3 : 4 give the second class the probability 3/8
        let logits = [1f32.ln() + 50.0, 3f32.ln() + 50.0, 4f32.ln() + 50.0];
        // f32 values near 50 are 4e-6 apart
        assert!((cross_entropy(&logits, 1) - (8.0f64 / 3.0).ln()).abs() < 1e-5);
        assert!(softmax(&logits).zip([0.125, 0.375, 0.5]).all(|(p, q)| (p - q).abs() < 1e-5));
    }

    const CLASSES: usize = 10;

    #[test]
    fn the_gradient_of_a_batch_is_the_finite_difference_of_its_loss() {
        let values: Vec<f32> = (0..2 * 3 * CLASSES).map(|i| (i * 37 % 23) as f32 / 8.0 - 1.0).collect();
        let targets = [3, 9, 0, 1, 7, 7];
        let heads = |values: &[f32]| -> Vec<Value> {
            let head = |part: &[f32]| Value::constant(tensor(part.to_vec(), &[3, CLASSES]).unwrap());
            values.chunks_exact(3 * CLASSES).map(head).collect()
        };
        let found = loss(&heads(&values), &targets, 0.125).unwrap();
        let gradients: Vec<f32> = found.gradients.iter().flat_map(|g| Floats::of(g).unwrap().to_vec()).collect();
        for i in 0..values.len() {
            let shifted = |by: f32| {
                let mut values = values.clone();
                values[i] += by;
                loss(&heads(&values), &targets, 0.125).unwrap().value
            };
            // the step is exact in f32; the error of the difference quotient is the square of the step, 1.5e-5, times a
            // third derivative
            let step = 1.0 / 256.0;
            let expected = (shifted(step) - shifted(-step)) / (2.0 * f64::from(step));
            assert!((expected - f64::from(gradients[i])).abs() < 2e-6, "{i}: {} {expected}", gradients[i]);
        }
        for targets in [&[3u8, 9, 0, 1, 7][..], &[3, 9, 0, 1, 7, 10]] {
            assert!(loss(&heads(&values), targets, 0.0).is_err());
        }
    }

    #[test]
    fn the_first_of_equal_logits_is_the_answer() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0, 1.0]), 1);
    }
}
