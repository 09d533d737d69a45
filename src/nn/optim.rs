//! Adam, and the learning rate that falls where the validation loss no longer does.

use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor, bail};
use rayon::prelude::*;

use super::store::Store;
use crate::error::Result;

/// Decay of the mean of gradients; PyTorch's default.
const BETA1: f64 = 0.9;
/// Decay of the mean of squared gradients; PyTorch's default.
const BETA2: f64 = 0.999;
/// Keeps the divisor from 0; PyTorch's default.
const EPSILON: f64 = 1e-8;

/// Adam without weight decay, as PyTorch computes it.
pub struct Adam {
    moments: Vec<Mutex<Moments>>,
    steps: i32,
}

struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Adam {
    /// For the parameters of a store.
    pub fn new(store: &Store) -> Adam {
        let zeros = |count| Mutex::new(Moments { first: vec![0.0; count], second: vec![0.0; count] });
        Adam { moments: store.parameters().iter().map(|(_, var)| zeros(var.elem_count())).collect(), steps: 0 }
    }

    /// One step along the gradients, in the order of the store, at this learning rate.
    pub fn step(&mut self, store: &Store, gradients: &[Option<Tensor>], learning_rate: f64) -> Result<()> {
        self.steps += 1;
        let rate = learning_rate / (1.0 - BETA1.powi(self.steps));
        let root = (1.0 - BETA2.powi(self.steps)).sqrt();
        for (((_, var), moments), gradient) in store.parameters().iter().zip(&self.moments).zip(gradients) {
            if let Some(gradient) = gradient {
                var.inplace_op2(gradient, &Step { moments, rate: rate as f32, root: root as f32 })?;
            }
        }
        Ok(())
    }
}

struct Step<'a> {
    moments: &'a Mutex<Moments>,
    rate: f32,
    root: f32,
}

impl InplaceOp2 for Step<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(
        &self,
        values: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<()> {
        let CpuStorage::F32(values) = values else { bail!("expected f32 parameters") };
        let (Some((start, end)), Some((from, to))) =
            (layout.contiguous_offsets(), gradient_layout.contiguous_offsets())
        else {
            bail!("expected contiguous parameters and gradients")
        };
        let (values, gradient) = (&mut values[start..end], &gradient.as_slice::<f32>()?[from..to]);
        let mut moments = self.moments.lock().expect("no thread panics with the moments in hand");
        let Moments { first, second } = &mut *moments;
        let block = 1 << 14;
        let work = values.par_chunks_mut(block).zip(gradient.par_chunks(block));
        let work = work.zip(first.par_chunks_mut(block).zip(second.par_chunks_mut(block)));
        work.for_each(|((values, gradient), (first, second))| {
            let (a, b) = ((1.0 - BETA1) as f32, (1.0 - BETA2) as f32);
            for (((value, g), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
                *m += a * (g - *m);
                *v = BETA2 as f32 * *v + b * g * g;
                *value -= self.rate * *m / (v.sqrt() / self.root + EPSILON as f32);
            }
        });
        Ok(())
    }
}

/// `ReduceLROnPlateau` of PyTorch, mode `min`: once the loss has failed to fall by a ten-thousandth for more than
/// `PATIENCE` epochs, the learning rate is multiplied by `FACTOR`.
pub struct Plateau {
    rate: f64,
    best: f64,
    bad_epochs: usize,
}

/// The recipe's factor.
const FACTOR: f64 = 0.1;
/// The recipe's patience in epochs.
const PATIENCE: usize = 1;
/// The relative fall that counts as one; PyTorch's default.
const THRESHOLD: f64 = 1e-4;
/// A fall of the rate that is smaller than this is not made; PyTorch's default.
const LEAST_FALL: f64 = 1e-8;

impl Plateau {
    /// Begins at a learning rate.
    pub fn new(rate: f64) -> Plateau {
        Plateau { rate, best: f64::INFINITY, bad_epochs: 0 }
    }

    /// The learning rate for the next epoch.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Takes an epoch's validation loss.
    pub fn epoch(&mut self, loss: f64) {
        if loss < self.best * (1.0 - THRESHOLD) {
            (self.best, self.bad_epochs) = (loss, 0);
        } else {
            self.bad_epochs += 1;
        }
        if self.bad_epochs > PATIENCE {
            let next = self.rate * FACTOR;
            if self.rate - next > LEAST_FALL {
                self.rate = next;
            }
            self.bad_epochs = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_falls_after_two_epochs_without_a_fall_of_the_loss() {
        let mut plateau = Plateau::new(1.0);
        // worked by hand from PyTorch's definition: 0.99999 is no fall from 1.0, being within a ten-thousandth
        let losses = [1.0, 0.99999, 1.2, 0.9, 0.95, 0.8, 0.8, 0.8, 0.8, 0.8];
        let expected = [1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001];
        for (loss, expected) in losses.into_iter().zip(expected) {
            plateau.epoch(loss);
            assert!((plateau.rate() / expected - 1.0f64).abs() < 1e-12, "{loss}: {}", plateau.rate());
        }
    }

    #[test]
    fn a_rate_too_small_to_fall_stays() {
        let mut plateau = Plateau::new(1e-8);
        (0..5).for_each(|_| plateau.epoch(1.0));
        assert_eq!(plateau.rate(), 1e-8);
    }
}
