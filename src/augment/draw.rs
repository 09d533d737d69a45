//! Draws the parameters of the operators from torchvision's distributions, with random streams keyed by
//! (seed, epoch, sample).
//!
//! Each operator has a stream of its own, so that switching one off does not change the draws of the others.

use rand::{Rng, RngExt};
use rand_distr::{Distribution, Uniform};

use super::{Config, Erasing};
use crate::rng::Streams;

/// The parameters of one sample. `None` means that an operator is off or was not drawn.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Params {
    /// Rotation in degrees, counter-clockwise.
    pub angle: Option<f64>,
    /// The affine map, which follows the rotation.
    pub affine: Option<AffineParams>,
    /// The rectangle that is erased last.
    pub erase: Option<EraseParams>,
}

/// An affine map without rotation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineParams {
    /// Shift along x and y in whole pixels.
    pub translate: [i32; 2],
    /// Magnification.
    pub scale: f64,
    /// Shear along x and y in degrees.
    pub shear: [f64; 2],
}

/// A rectangle to fill with one grey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EraseParams {
    /// The first line, in pixels from the top.
    pub top: usize,
    /// The first column, in pixels from the left.
    pub left: usize,
    /// The height in pixels.
    pub height: usize,
    /// The width in pixels.
    pub width: usize,
    /// The grey that the rectangle is filled with.
    pub value: u8,
}

/// The draws of one epoch: a family of streams and the distributions of each operator that is on.
pub struct Draws {
    rotation: Option<(Streams, Uniform<f64>)>,
    affine: Option<(Streams, AffineDraws)>,
    erasing: Option<(Streams, ErasingDraws)>,
}

struct AffineDraws {
    translate: [f64; 2],
    scale: Uniform<f64>,
    shear: Uniform<f64>,
}

struct ErasingDraws {
    apply_probability: f64,
    probability: f64,
    area: Uniform<f64>,
    log_ratio: Uniform<f64>,
    value: u8,
}

impl Draws {
    /// The draws of an epoch for whole images, or for one slot of every image. The configuration must be valid.
    pub fn new(config: &Config, epoch: u64, slot: Option<usize>) -> Draws {
        let streams = |operator: &str| match slot {
            None => Streams::new(config.seed, operator, epoch),
            Some(slot) => Streams::new(config.seed, &format!("{operator}/{slot}"), epoch),
        };
        Draws {
            rotation: config.rotation.as_ref().map(|r| (streams("augment/rotation"), uniform([-r.degrees, r.degrees]))),
            affine: config.affine.as_ref().map(|affine| {
                let [scale, shear] = [affine.scale, [-affine.shear, affine.shear]].map(uniform);
                (streams("augment/affine"), AffineDraws { translate: affine.translate, scale, shear })
            }),
            erasing: config.erasing.as_ref().map(|erasing| {
                let Erasing { apply_probability, probability, scale, ratio, value } = *erasing;
                let [area, log_ratio] = [scale, ratio.map(f64::ln)].map(uniform);
                (streams("augment/erasing"), ErasingDraws { apply_probability, probability, area, log_ratio, value })
            }),
        }
    }

    /// The parameters of the sample with number `sample`; the image or the slot has `height * width` pixels.
    pub fn params(&self, sample: u64, height: usize, width: usize) -> Params {
        Params {
            angle: self.rotation.as_ref().map(|(streams, degrees)| degrees.sample(&mut streams.at(sample))),
            affine: self.affine.as_ref().map(|(streams, draws)| draws.draw(&mut streams.at(sample), height, width)),
            erase: self.erasing.as_ref().and_then(|(s, draws)| draws.draw(&mut s.at(sample), height, width)),
        }
    }
}

/// The uniform distribution on `low..=high`. The configuration has been checked to be finite and in order.
#[expect(clippy::expect_used, reason = "no draw without a configuration that has been validated")]
fn uniform([low, high]: [f64; 2]) -> Uniform<f64> {
    Uniform::new_inclusive(low, high).expect("ranges are checked before any draw")
}

impl AffineDraws {
    /// Draws as torchvision's `RandomAffine.get_params` does: translation, then scale, then shear. The translation is
    /// rounded to whole pixels, halves to even.
    fn draw(&self, rng: &mut impl Rng, height: usize, width: usize) -> AffineParams {
        let mut shift = |share: f64, size: usize| {
            let most = share * size as f64;
            uniform([-most, most]).sample(rng).round_ties_even() as i32
        };
        let translate = [shift(self.translate[0], width), shift(self.translate[1], height)];
        let scale = self.scale.sample(rng);
        AffineParams { translate, scale, shear: [self.shear.sample(rng), 0.0] }
    }
}

impl ErasingDraws {
    /// Draws as torchvision's `RandomApply` around `RandomErasing` does: two probabilities, then up to ten attempts to
    /// draw a rectangle smaller than the image.
    fn draw(&self, rng: &mut impl Rng, height: usize, width: usize) -> Option<EraseParams> {
        let applied = rng.random::<f64>() < self.apply_probability;
        let drawn = rng.random::<f64>() < self.probability;
        if !(applied && drawn) {
            return None;
        }
        for _ in 0..10 {
            let area = (height * width) as f64 * self.area.sample(rng);
            let aspect = self.log_ratio.sample(rng).exp();
            let h = (area * aspect).sqrt().round_ties_even() as usize;
            let w = (area / aspect).sqrt().round_ties_even() as usize;
            if h < height && w < width {
                let (top, left) = (rng.random_range(0..=height - h), rng.random_range(0..=width - w));
                return Some(EraseParams { top, left, height: h, width: w, value: self.value });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Affine, Rotation};
    use super::*;

    /// The number of draws of each test. All tolerances are 4.5 standard errors, and seeds are fixed.
    const SAMPLES: u64 = 100_000;
    const ERRORS: f64 = 4.5;

    fn draw(config: &Config, height: usize, width: usize) -> Vec<Params> {
        let draws = Draws::new(config, 0, None);
        (0..SAMPLES).map(|sample| draws.params(sample, height, width)).collect()
    }

    /// The paper's recipe, with every sample erased.
    fn always() -> Config {
        let erasing = Some(Erasing { apply_probability: 1.0, probability: 1.0, ..Erasing::default() });
        Config { erasing, ..Config::default() }
    }

    /// Compares mean and variance with those of the expected distribution.
    fn check(name: &str, values: &[f64], mean: f64, variance: f64) {
        let n = values.len() as f64;
        let moment = |power| values.iter().map(|value| (value - mean).powi(power)).sum::<f64>() / n;
        let found = values.iter().sum::<f64>() / n;
        assert!((found - mean).abs() < ERRORS * (variance / n).sqrt(), "{name}: mean {found}, expected {mean}");
        let (found, error) = (moment(2), ((moment(4) - moment(2).powi(2)) / n).sqrt());
        assert!((found - variance).abs() < ERRORS * error, "{name}: variance {found}, expected {variance}");
    }

    /// Compares with a uniform distribution: bounds, mean, variance, and the largest distance of the distribution
    /// functions, which exceeds 2.2 / sqrt(n) once in 8,000 times (Kolmogorov).
    fn check_uniform(name: &str, mut values: Vec<f64>, low: f64, high: f64) {
        check(name, &values, (low + high) / 2.0, (high - low).powi(2) / 12.0);
        values.sort_by(f64::total_cmp);
        let n = values.len() as f64;
        assert!(low <= values[0] && values[values.len() - 1] <= high, "{name} stays within {low} to {high}");
        let distance = |(i, value): (usize, &f64)| ((value - low) / (high - low) - (i as f64 + 0.5) / n).abs();
        let largest = values.iter().enumerate().map(distance).fold(0.0, f64::max);
        assert!(largest < 2.2 / n.sqrt(), "{name}: distance {largest}");
    }

    fn check_share(name: &str, count: usize, of: usize, share: f64) {
        let (n, count) = (of as f64, count as f64);
        let tolerance = ERRORS * (n * share * (1.0 - share)).sqrt();
        assert!((count - n * share).abs() <= tolerance, "{name}: {count} of {n}, expected a share of {share}");
    }

    #[test]
    fn angles_scales_and_shears_are_uniform() {
        let params = draw(&Config::default(), 64, 64);
        let affine = || params.iter().map(|p| p.affine.unwrap());
        check_uniform("angle", params.iter().map(|p| p.angle.unwrap()).collect(), -15.0, 15.0);
        check_uniform("scale", affine().map(|a| a.scale).collect(), 0.9, 1.1);
        check_uniform("shear", affine().map(|a| a.shear[0]).collect(), -10.0, 10.0);
        assert!(affine().all(|a| a.shear[1] == 0.0));
    }

    /// A shift is uniform up to the share of the side, then rounded. The probability of a whole number is that of the
    /// interval that rounds to it.
    #[test]
    fn shifts_are_uniform_numbers_rounded_to_pixels() {
        // 6.4 pixels: 6 results only from 5.5 to 6.4; 3.0: 3 results from 2.5 to 3; 4.5: a half that never rounds up
        for (height, width, share) in [(64, 64, [0.1, 0.1]), (30, 90, [0.05, 0.1]), (64, 28, [0.0, 0.5])] {
            let affine = Affine { translate: share, ..Affine::default() };
            let params = draw(&Config { affine: Some(affine), ..Config::default() }, height, width);
            for (axis, side) in [(0, width), (1, height)] {
                let most = share[axis] * side as f64;
                let shifts: Vec<i32> = params.iter().map(|p| p.affine.unwrap().translate[axis]).collect();
                for pixel in -40..=40 {
                    let count = shifts.iter().filter(|&&shift| shift == pixel).count();
                    let overlap = (f64::from(pixel) + 0.5).min(most) - (f64::from(pixel) - 0.5).max(-most);
                    let share =
                        if most == 0.0 { f64::from(u8::from(pixel == 0)) } else { overlap.max(0.0) / most / 2.0 };
                    check_share(&format!("shift {pixel} of {most}"), count, shifts.len(), share);
                }
            }
        }
    }

    #[test]
    fn the_probabilities_of_erasing_multiply() {
        for (apply_probability, probability) in [(0.5, 0.5), (0.8, 0.3), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)] {
            let erasing = Some(Erasing { apply_probability, probability, ..Erasing::default() });
            let params = draw(&Config { erasing, ..Config::default() }, 64, 64);
            let erased = params.iter().filter(|p| p.erase.is_some()).count();
            check_share("erased", erased, params.len(), apply_probability * probability);
        }
    }

    /// The probability of each rectangle (height, width) in one attempt, by quadrature over area and
    /// logarithm of the ratio.
    fn rectangles(erasing: &Erasing, height: usize, width: usize) -> Vec<(usize, usize, f64)> {
        const STEPS: usize = 1500;
        let middle = |[low, high]: [f64; 2], step| low + (high - low) * (step as f64 + 0.5) / STEPS as f64;
        let mut table = std::collections::BTreeMap::new();
        for ratio in (0..STEPS).map(|step| middle(erasing.ratio.map(f64::ln), step).exp()) {
            for area in (0..STEPS).map(|step| middle(erasing.scale, step) * (height * width) as f64) {
                let key = ((area * ratio).sqrt().round() as usize, (area / ratio).sqrt().round() as usize);
                *table.entry(key).or_insert(0.0) += 1.0 / (STEPS * STEPS) as f64;
            }
        }
        table.into_iter().map(|((h, w), probability)| (h, w, probability)).collect()
    }

    /// Checks the moments of the rectangles drawn in an image. Returns them, and the probability that none of
    /// ten attempts fits.
    fn check_rectangles(config: &Config, height: usize, width: usize) -> (Vec<EraseParams>, f64) {
        let drawn = draw(config, height, width);
        let drawn: Vec<EraseParams> = drawn.iter().filter_map(|p| p.erase).collect();
        let fits = |&(h, w, _): &(usize, usize, f64)| h < height && w < width;
        let mut expected = rectangles(config.erasing.as_ref().unwrap(), height, width);
        expected.retain(fits);
        let fitting: f64 = expected.iter().map(|(_, _, probability)| probability).sum();
        let none = (1.0 - fitting).powi(10);
        check_share("nothing fits", SAMPLES as usize - drawn.len(), SAMPLES as usize, none);
        let mean = |of: &dyn Fn(f64, f64) -> f64| {
            expected.iter().map(|&(h, w, p)| p * of(h as f64, w as f64)).sum::<f64>() / fitting
        };
        let moments = |name: &str, of: fn(f64, f64) -> f64| {
            let values: Vec<f64> = drawn.iter().map(|e| of(e.height as f64, e.width as f64)).collect();
            let centre = mean(&of);
            check(name, &values, centre, mean(&|h, w| (of(h, w) - centre).powi(2)));
        };
        moments("height", |h, _| h);
        moments("width", |_, w| w);
        moments("area", |h, w| h * w);
        moments("log ratio", |h, w| (h / w).ln());
        // a corner is uniform over the remaining places: from 0 to s, with mean s / 2 and variance s (s + 2) / 12
        let corner = |name: &str, side: usize, at: fn(&EraseParams) -> (usize, usize), of: fn(f64, f64) -> f64| {
            let values: Vec<f64> = drawn.iter().map(|e| at(e).0 as f64).collect();
            let spare = |h: f64, w: f64| side as f64 - of(h, w);
            let centre = mean(&|h, w| spare(h, w) / 2.0);
            let square = mean(&|h, w| spare(h, w) * (2.0 * spare(h, w) + 1.0) / 6.0);
            check(name, &values, centre, square - centre * centre);
            assert!(drawn.iter().all(|e| at(e).0 + at(e).1 <= side));
            assert!(drawn.iter().any(|e| at(e).0 == 0) && drawn.iter().any(|e| at(e).0 + at(e).1 == side));
        };
        corner("top", height, |e| (e.top, e.height), |h, _| h);
        corner("left", width, |e| (e.left, e.width), |_, w| w);
        (drawn, none)
    }

    /// Compares with the results of torchvision 0.29.2, 200,000 draws each after `torch.manual_seed(0)`: mean and
    /// standard error of `RandomErasing.get_params(torch.zeros(1, H, W), SCALE, RATIO, [0.0])[:4]`.
    fn check_torchvision(name: &str, values: impl Iterator<Item = f64>, mean: f64, error: f64) {
        let values: Vec<f64> = values.collect();
        let n = values.len() as f64;
        let found = values.iter().sum::<f64>() / n;
        let own = (values.iter().map(|v| (v - found).powi(2)).sum::<f64>() / n / n).sqrt();
        assert!((found - mean).abs() < ERRORS * own.hypot(error), "{name}: {found}, torchvision's is {mean}");
    }

    #[test]
    fn erased_rectangles_have_the_moments_of_torchvisions() {
        let (drawn, none) = check_rectangles(&always(), 64, 64);
        assert!(none < 1e-9);
        // H, W = 64, 64; SCALE = (0.02, 0.1); RATIO = (0.3, 3.3)
        check_torchvision("top", drawn.iter().map(|e| e.top as f64), 23.87715, 0.03251);
        check_torchvision("left", drawn.iter().map(|e| e.left as f64), 23.80520, 0.03259);
        check_torchvision("height", drawn.iter().map(|e| e.height as f64), 16.26522, 0.01476);
        check_torchvision("width", drawn.iter().map(|e| e.width as f64), 16.32286, 0.01476);
        check_torchvision("area", drawn.iter().map(|e| (e.height * e.width) as f64), 245.77166, 0.21190);
        let log_ratio = drawn.iter().map(|e| (e.height as f64 / e.width as f64).ln());
        check_torchvision("log ratio", log_ratio, -0.00433, 0.00155);
    }

    #[test]
    fn ten_attempts_are_made_at_rectangles_that_seldom_fit() {
        let erasing = Erasing { scale: [0.5, 1.0], ratio: [0.1, 10.0], ..always().erasing.unwrap() };
        let (drawn, none) = check_rectangles(&Config { erasing: Some(erasing), ..always() }, 20, 30);
        // H, W = 20, 30; SCALE = (0.5, 1.0); RATIO = (0.1, 10.0); if nothing fits, the whole image is returned
        check_torchvision("height", drawn.iter().map(|e| e.height as f64), 16.05171, 0.00610);
        check_torchvision("width", drawn.iter().map(|e| e.width as f64), 24.27548, 0.00923);
        assert!((none - 0.29413).abs() < ERRORS * 0.00102, "{none}");
    }

    #[test]
    fn parameters_of_one_sample_are_not_correlated() {
        let params = draw(&always(), 64, 64);
        type Column = (&'static str, fn(&Params) -> f64);
        let columns: [Column; 8] = [
            ("angle", |p| p.angle.unwrap()),
            ("shift along x", |p| p.affine.unwrap().translate[0].into()),
            ("shift along y", |p| p.affine.unwrap().translate[1].into()),
            ("scale", |p| p.affine.unwrap().scale),
            ("shear", |p| p.affine.unwrap().shear[0]),
            ("top", |p| p.erase.unwrap().top as f64 + p.erase.unwrap().height as f64 / 2.0),
            ("left", |p| p.erase.unwrap().left as f64 + p.erase.unwrap().width as f64 / 2.0),
            ("area", |p| (p.erase.unwrap().height * p.erase.unwrap().width) as f64),
        ];
        let n = params.len() as f64;
        let standard = columns.map(|(name, of)| {
            let values: Vec<f64> = params.iter().map(of).collect();
            let mean = values.iter().sum::<f64>() / n;
            let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            (name, values.into_iter().map(|v| (v - mean) / deviation).collect::<Vec<f64>>())
        });
        for (i, (name, a)) in standard.iter().enumerate() {
            for (other, b) in &standard[i + 1..] {
                let correlation = a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / n;
                assert!(correlation.abs() < ERRORS / n.sqrt(), "{name} and {other}: {correlation}");
            }
            let next = a.iter().zip(&a[1..]).map(|(a, b)| a * b).sum::<f64>() / n;
            assert!(next.abs() < ERRORS / n.sqrt(), "{name} and the next sample's: {next}");
        }
    }

    #[test]
    fn wider_ranges_stretch_the_same_numbers() {
        let wide = Config { rotation: Some(Rotation { degrees: 30.0 }), ..Config::default() };
        let (narrow, wide) = (Draws::new(&Config::default(), 7, None), Draws::new(&wide, 7, None));
        for sample in 0..100 {
            let [a, b] = [&narrow, &wide].map(|draws| draws.params(sample, 64, 64).angle.unwrap());
            assert!((2.0 * a - b).abs() < 1e-12);
        }
    }
}
