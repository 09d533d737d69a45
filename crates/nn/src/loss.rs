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
    fn label_smoothing_is_pytorchs() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/optim.json");
        let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let cases = all["smoothing"].as_array().unwrap();
        assert!(cases.len() >= 3);
        let flat = |value: &serde_json::Value| -> Vec<f64> {
            value
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|row| row.as_array().unwrap().clone())
                .map(|v| v.as_f64().unwrap())
                .collect()
        };
        for case in cases {
            let targets: Vec<u8> =
                case["targets"].as_array().unwrap().iter().map(|target| target.as_u64().unwrap() as u8).collect();
            let logits = flat(&case["logits"]);
            let shape = [targets.len(), logits.len() / targets.len()];
            let head = Value::constant(tensor(logits.iter().map(|v| *v as f32).collect(), &shape).unwrap());
            let found = loss(&[head], &targets, case["smoothing"].as_f64().unwrap()).unwrap();
            let expected = case["loss"].as_f64().unwrap();
            // both sides compute in f64; sums of about ten terms
            assert!((found.value - expected).abs() <= 10.0 * f64::EPSILON * expected, "{} {expected}", found.value);
            let (gradients, expected) = (Floats::of(&found.gradients[0]).unwrap().to_vec(), flat(&case["gradients"]));
            assert_eq!(gradients.len(), expected.len());
            for (found, expected) in gradients.into_iter().zip(expected) {
                assert!((f64::from(found) - expected).abs() <= f64::from(f32::EPSILON), "{found} {expected}");
            }
        }
    }

    #[test]
    fn the_first_of_equal_logits_is_the_answer() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0, 1.0]), 1);
    }
}
