//! Drawing the parameters of the operators: torchvision's distributions, from streams keyed by (seed, epoch, sample).
//!
//! Every operator has a stream of its own, so turning one off changes nothing of the others.

use rand::{Rng, RngExt};
use rand_distr::{Distribution, Uniform};

use super::{Config, Erasing};
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

/// The draws of one epoch: a family of streams for each operator that is on, and its distributions.
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
    /// The draws of an epoch, by a configuration that has been validated.
    pub fn new(config: &Config, epoch: u64) -> Draws {
        let streams = |operator| Streams::new(config.seed, operator, epoch);
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

    /// The parameters of one sample of `height * width` pixels.
    pub fn params(&self, sample: u64, height: usize, width: usize) -> Params {
        Params {
            angle: self.rotation.as_ref().map(|(streams, degrees)| degrees.sample(&mut streams.at(sample))),
            affine: self.affine.as_ref().map(|(streams, draws)| draws.draw(&mut streams.at(sample), height, width)),
            erase: self.erasing.as_ref().and_then(|(s, draws)| draws.draw(&mut s.at(sample), height, width)),
        }
    }
}

/// Uniform in `low..=high`; the configuration has been checked to be finite and in order.
fn uniform([low, high]: [f64; 2]) -> Uniform<f64> {
    Uniform::new_inclusive(low, high).expect("ranges are checked before any draw")
}

impl AffineDraws {
    /// As torchvision's `RandomAffine.get_params`: translation, then scale, then shear; translation is rounded to
    /// pixels, halves to even.
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
    /// As torchvision's `RandomApply` around `RandomErasing`: two probabilities, then up to ten attempts at a rectangle
    /// smaller than the image.
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
