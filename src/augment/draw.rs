//! Drawing the parameters of the operators: torchvision's distributions, from streams keyed by (seed, epoch, sample).
//!
//! Every operator has a stream of its own, so turning one off changes nothing of the others.

use rand::{Rng, RngExt};
use rand_distr::{Distribution, Uniform};

use super::{Affine, Config, Erasing, Rotation};
use crate::rng::Streams;

/// What happens to one sample; `None` is an operator that is off or was not drawn.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Params {
    /// Rotation in degrees, counter-clockwise.
    pub angle: Option<f64>,
    /// The affine map.
    pub affine: Option<AffineParams>,
    /// The rectangle that is erased.
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

/// A rectangle of one grey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EraseParams {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
    pub value: u8,
}

/// The streams of one epoch, one per operator.
pub struct Draws {
    rotation: Streams,
    affine: Streams,
    erasing: Streams,
}

impl Draws {
    /// The draws of an epoch.
    pub fn new(seed: u64, epoch: u64) -> Draws {
        let streams = |operator| Streams::new(seed, operator, epoch);
        Draws {
            rotation: streams("augment/rotation"),
            affine: streams("augment/affine"),
            erasing: streams("augment/erasing"),
        }
    }

    /// The parameters of one sample of `height * width` pixels.
    pub fn params(&self, config: &Config, sample: u64, height: usize, width: usize) -> Params {
        Params {
            angle: config.rotation.as_ref().map(|rotation| draw_angle(&mut self.rotation.at(sample), rotation)),
            affine: config.affine.as_ref().map(|a| draw_affine(&mut self.affine.at(sample), a, height, width)),
            erase: config.erasing.as_ref().and_then(|e| draw_erase(&mut self.erasing.at(sample), e, height, width)),
        }
    }
}

/// Uniform in `low..=high`; the configuration has been checked to be finite and in order.
fn uniform(rng: &mut impl Rng, [low, high]: [f64; 2]) -> f64 {
    Uniform::new_inclusive(low, high).expect("ranges are checked before any draw").sample(rng)
}

fn draw_angle(rng: &mut impl Rng, rotation: &Rotation) -> f64 {
    uniform(rng, [-rotation.degrees, rotation.degrees])
}

/// As torchvision's `RandomAffine.get_params`: translation, then scale, then shear; translation is rounded to pixels.
fn draw_affine(rng: &mut impl Rng, affine: &Affine, height: usize, width: usize) -> AffineParams {
    let mut shift = |share: f64, size: usize| {
        let most = share * size as f64;
        uniform(rng, [-most, most]).round_ties_even() as i32
    };
    let translate = [shift(affine.translate[0], width), shift(affine.translate[1], height)];
    let scale = uniform(rng, affine.scale);
    AffineParams { translate, scale, shear: [uniform(rng, [-affine.shear, affine.shear]), 0.0] }
}

/// As torchvision's `RandomApply` around `RandomErasing`: two probabilities, then up to ten attempts at a rectangle
/// smaller than the image.
fn draw_erase(rng: &mut impl Rng, erasing: &Erasing, height: usize, width: usize) -> Option<EraseParams> {
    let applied = rng.random::<f64>() < erasing.apply_probability;
    let drawn = rng.random::<f64>() < erasing.probability;
    if !(applied && drawn) {
        return None;
    }
    let log_ratio = erasing.ratio.map(f64::ln);
    for _ in 0..10 {
        let area = (height * width) as f64 * uniform(rng, erasing.scale);
        let aspect = uniform(rng, log_ratio).exp();
        let h = (area * aspect).sqrt().round_ties_even() as usize;
        let w = (area / aspect).sqrt().round_ties_even() as usize;
        if h < height && w < width {
            let (top, left) = (rng.random_range(0..=height - h), rng.random_range(0..=width - w));
            return Some(EraseParams { top, left, height: h, width: w, value: erasing.value });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_one_operator_off_changes_nothing_of_the_others() {
        let draws = Draws::new(3, 1);
        let full = Config::default();
        let without = Config { affine: None, ..Config::default() };
        for sample in 0..100 {
            let (a, b) = (draws.params(&full, sample, 64, 64), draws.params(&without, sample, 64, 64));
            assert_eq!((a.angle, a.erase, b.affine), (b.angle, b.erase, None));
        }
    }

    #[test]
    fn a_quarter_of_the_samples_is_erased() {
        let (draws, config) = (Draws::new(0, 0), Config::default());
        let n = 40_000;
        let erased = (0..n).filter(|&sample| draws.params(&config, sample, 64, 64).erase.is_some()).count();
        // binomial(40000, 0.25): standard deviation 86.6; five of them
        assert!((erased as f64 - 10_000.0).abs() < 433.0, "{erased}");
    }
}
