//! Statistics of predictions: accuracies with intervals, confusion, F1 and calibration. Everything is arithmetic on
//! counts and probabilities, checked against scikit-learn and SciPy (`tests/readers/test_metrics.py`).

use serde::{Deserialize, Serialize};

use crate::networks::CLASSES;

/// The 97.5% quantile of the normal distribution (SciPy's `norm.ppf(0.975)`), which leaves 2.5% on
/// either side of an interval.
const Z: f64 = 1.959963984540054;

/// The number of bins of a calibration, as in Guo et al., "On Calibration of Modern Neural Networks", 2017.
pub const BINS: usize = 15;

/// A share of right answers, with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Accuracy {
    /// The number of right answers.
    pub correct: u64,
    /// The number of all answers.
    pub samples: u64,
    /// `correct / samples`.
    pub value: f64,
    /// The lower end of the 95% interval by Wilson's score.
    pub low: f64,
    /// The upper end of the 95% interval by Wilson's score.
    pub high: f64,
}

impl Accuracy {
    /// The accuracy of `samples` answers, at least one, of which `correct` are right. The interval is that
    /// of E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927,
    /// without continuity correction.
    pub fn new(correct: u64, samples: u64) -> Accuracy {
        let n = samples.max(1) as f64;
        let value = correct as f64 / n;
        let centre = value + Z * Z / (2.0 * n);
        let half = Z * (value * (1.0 - value) / n + Z * Z / (4.0 * n * n)).sqrt();
        let end = |sum: f64| sum / (1.0 + Z * Z / n);
        // exactly 0 or 1 if every answer is wrong or right, which rounding would miss
        let low = if correct == 0 { 0.0 } else { end(centre - half) };
        let high = if correct == samples { 1.0 } else { end(centre + half) };
        Accuracy { correct, samples, value, low, high }
    }

    /// The accuracy of answers, each `true` if it is right.
    pub fn of(answers: impl Iterator<Item = bool>) -> Accuracy {
        let (mut correct, mut samples) = (0, 0);
        for right in answers {
            correct += u64::from(right);
            samples += 1;
        }
        Accuracy::new(correct, samples)
    }
}

/// The number of times that a digit (row) was taken for another digit (column).
pub type Confusion = [[u64; CLASSES]; CLASSES];

/// Counts pairs of the right digit and the digit found.
pub fn confusion(pairs: impl Iterator<Item = (u8, u8)>) -> Confusion {
    let mut counts = Confusion::default();
    for (right, found) in pairs {
        counts[usize::from(right)][usize::from(found)] += 1;
    }
    counts
}

/// The mean of the digits' F1 scores, as in scikit-learn's `f1_score(average="macro")`: over the digits that occur
/// among the right digits or the digits found.
pub fn macro_f1(counts: &Confusion) -> f64 {
    let scores: Vec<f64> = (0..CLASSES)
        .filter_map(|digit| {
            let right: u64 = counts[digit].iter().sum();
            let found: u64 = counts.iter().map(|row| row[digit]).sum();
            (right + found > 0).then(|| 2.0 * counts[digit][digit] as f64 / (right + found) as f64)
        })
        .collect();
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}

/// The distance between the confidence of answers and their accuracy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The expected calibration error: the distance between the mean confidence and the accuracy of a bin,
    /// averaged over all answers.
    pub expected_error: f64,
    /// The bins, equally wide. The upper edge belongs to the bin.
    pub bins: Vec<Bin>,
}

/// The answers of about the same confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    /// The lower edge, outside the bin.
    pub above: f64,
    /// The upper edge, inside the bin.
    pub to: f64,
    /// The number of answers in the bin.
    pub samples: u64,
    /// The mean confidence of the answers in the bin; null if the bin is empty.
    pub confidence: Option<f64>,
    /// The share of right answers in the bin; null if the bin is empty.
    pub accuracy: Option<f64>,
}

impl Calibration {
    /// The calibration of answers, from pairs of the confidence and whether the answer is right.
    pub fn of(answers: impl Iterator<Item = (f64, bool)>) -> Calibration {
        let edge = |bin: usize| bin as f64 / BINS as f64;
        let mut sums = [(0u64, 0.0, 0u64); BINS];
        for (confidence, right) in answers {
            let bin = (1..BINS).take_while(|&bin| edge(bin) < confidence).count();
            sums[bin].0 += 1;
            sums[bin].1 += confidence;
            sums[bin].2 += u64::from(right);
        }
        let all: u64 = sums.iter().map(|bin| bin.0).sum();
        let error = |&(samples, confidence, right): &(u64, f64, u64)| match samples {
            0 => 0.0,
            _ => (confidence - right as f64).abs() / all as f64,
        };
        let bin = |(bin, &(samples, confidence, right)): (usize, &(u64, f64, u64))| {
            let mean = |sum: f64| (samples > 0).then(|| sum / samples as f64);
            let (above, to) = (edge(bin), edge(bin + 1));
            Bin { above, to, samples, confidence: mean(confidence), accuracy: mean(right as f64) }
        };
        Calibration { expected_error: sums.iter().map(error).sum(), bins: sums.iter().enumerate().map(bin).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_scipy() {
        // scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        let cases = [
            (15, 20, 0.5312991223812561, 0.8881382985923344),
            (0, 10, 0.0, 0.27753279986288926),
            (10, 10, 0.7224672001371109, 1.0),
            (19240, 20000, 0.9592602528574699, 0.9645623058266894),
        ];
        for (correct, samples, low, high) in cases {
            let found = Accuracy::new(correct, samples);
            assert!((found.low - low).abs() < 1e-12 && (found.high - high).abs() < 1e-12, "{found:?}");
        }
        assert_eq!((Accuracy::new(0, 10).low, Accuracy::new(10, 10).high), (0.0, 1.0));
    }

    #[test]
    fn a_digit_that_is_neither_there_nor_found_has_no_part_in_f1() {
        // sklearn.metrics.f1_score([0, 0, 1, 2], [0, 1, 1, 3], average="macro", zero_division=0) == 0.3333333333333333
        let counts = confusion([(0, 0), (0, 1), (1, 1), (2, 3)].into_iter());
        assert!((macro_f1(&counts) - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!((counts[0][1], counts[2][3], counts[9][9]), (1, 1, 0));
    }

    #[test]
    fn a_confidence_on_an_edge_belongs_to_the_bin_below() {
        let found = Calibration::of([(0.2, true), (0.2 + 1e-12, false), (1.0, true)].into_iter());
        let filled: Vec<(usize, u64)> =
            found.bins.iter().enumerate().filter(|(_, bin)| bin.samples > 0).map(|(i, b)| (i, b.samples)).collect();
        assert_eq!(filled, [(2, 1), (3, 1), (14, 1)]);
        // |0.2 - 1| + |0.2 - 0| + |1 - 1|, of three answers
        assert!((found.expected_error - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!((found.bins[0].accuracy, found.bins[3].accuracy), (None, Some(0.0)));
    }
}
