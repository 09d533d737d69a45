//! What a row of logits says: its probabilities, its loss, its digit. In f64, where it costs nothing.

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

/// Minus the logarithm of the right class's probability.
pub fn cross_entropy(logits: &[f32], target: u8) -> f64 {
    let max = max(logits);
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - max).exp()).sum();
    sum.ln() + max - f64::from(logits[usize::from(target)])
}

/// The class with the largest logit, the first of equals.
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
        // odds 1 : 3 : 4, so the second class has probability 3/8
        let logits = [1f32.ln() + 50.0, 3f32.ln() + 50.0, 4f32.ln() + 50.0];
        // f32 logits near 50 are 4e-6 apart
        assert!((cross_entropy(&logits, 1) - (8.0f64 / 3.0).ln()).abs() < 1e-5);
        assert!(softmax(&logits).zip([0.125, 0.375, 0.5]).all(|(p, q)| (p - q).abs() < 1e-5));
    }

    #[test]
    fn the_first_of_equal_logits_is_the_answer() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0, 1.0]), 1);
    }
}
