//! The Adam optimiser with decoupled weight decay (AdamW).

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard};

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor, bail};
use rayon::prelude::*;

use crate::error::Result;
use crate::store::Store;

/// The decay rate of the running mean of gradients; PyTorch's default.
const BETA1: f64 = 0.9;
/// The decay rate of the running mean of squared gradients; PyTorch's default.
const BETA2: f64 = 0.999;
/// The term that keeps the denominator from 0; PyTorch's default.
const EPSILON: f64 = 1e-8;

/// Adam as in PyTorch; with weight decay, AdamW as in PyTorch.
pub struct Adam {
    moments: Vec<Mutex<Moments>>,
    steps: i32,
    weight_decay: f64,
}

/// The moments of a parameter's gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// The running mean of the gradient.
    pub first: Vec<f32>,
    /// The running mean of the squared gradient.
    pub second: Vec<f32>,
}

impl Adam {
    /// An optimiser for the parameters of a store. Each step first subtracts `weight_decay` times the learning rate
    /// times its value from every parameter.
    pub fn new(store: &Store, weight_decay: f64) -> Adam {
        let zeros = |count| Mutex::new(Moments { first: vec![0.0; count], second: vec![0.0; count] });
        let moments = store.parameters().iter().map(|(_, var)| zeros(var.elem_count())).collect();
        Adam { moments, steps: 0, weight_decay }
    }

    /// The number of steps so far.
    pub fn steps(&self) -> i32 {
        self.steps
    }

    /// The moments of each parameter, in the order of the store.
    pub fn moments(&self) -> Vec<impl Deref<Target = Moments>> {
        self.moments.iter().map(lock).collect()
    }

    /// Restores the state of an interrupted run.
    pub fn resume(&mut self, steps: i32, moments: Vec<Moments>) {
        self.steps = steps;
        self.moments = moments.into_iter().map(Mutex::new).collect();
    }

    /// The numbers that step `step`, counted from 1, derives from its learning rate: the rate over `1 - beta1^t`, the
    /// square root of `1 - beta2^t`, and the factor by which weight decay multiplies each parameter.
    pub fn factors(step: i32, learning_rate: f64, weight_decay: f64) -> [f32; 3] {
        let rate = learning_rate / (1.0 - BETA1.powi(step));
        [rate as f32, (1.0 - BETA2.powi(step)).sqrt() as f32, (1.0 - learning_rate * weight_decay) as f32]
    }

    /// Updates the parameters by `gradients`, which are in the order of the store.
    pub fn step(&mut self, store: &Store, gradients: &[Option<Tensor>], learning_rate: f64) -> Result<()> {
        self.steps += 1;
        let [rate, root, kept] = Adam::factors(self.steps, learning_rate, self.weight_decay);
        for (((_, var), moments), gradient) in store.parameters().iter().zip(&self.moments).zip(gradients) {
            if let Some(gradient) = gradient {
                var.inplace_op2(gradient, &AdamStep { moments, rate, root, kept })?;
            }
        }
        Ok(())
    }
}

struct AdamStep<'a> {
    moments: &'a Mutex<Moments>,
    rate: f32,
    root: f32,
    /// The factor by which weight decay multiplies each parameter.
    kept: f32,
}

fn lock(moments: &Mutex<Moments>) -> MutexGuard<'_, Moments> {
    moments.lock().expect("no thread panics with the moments in hand")
}

impl InplaceOp2 for AdamStep<'_> {
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
        let mut moments = lock(self.moments);
        let Moments { first, second } = &mut *moments;
        let block = 1 << 14;
        let work = values.par_chunks_mut(block).zip(gradient.par_chunks(block));
        let work = work.zip(first.par_chunks_mut(block).zip(second.par_chunks_mut(block)));
        work.for_each(|((values, gradient), (first, second))| {
            let (a, b) = ((1.0 - BETA1) as f32, (1.0 - BETA2) as f32);
            for (((value, g), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
                *m += a * (g - *m);
                *v = BETA2 as f32 * *v + b * g * g;
                *value = self.kept * *value - self.rate * *m / (v.sqrt() / self.root + EPSILON as f32);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use serde_json::Value;

    use super::*;

    #[test]
    fn adam_with_and_without_weight_decay_is_pytorchs() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/optim.json");
        let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let numbers = |value: &Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        // PyTorch's Adam uses the name weight decay for L2 regularisation, which is not decoupled
        // and not implemented here
        let decoupled = |case: &&Value| case["optimiser"] == "adamw" || case["weight_decay"] == 0.0;
        let cases: Vec<&Value> = all["adam"].as_array().unwrap().iter().filter(decoupled).collect();
        assert!(cases.len() >= 4);
        for case in cases {
            let start = numbers(&case["start"]);
            let mut store = Store::new(0);
            store.constant("p".to_owned(), &[start.len()], 0.0).unwrap();
            let tensor = |values: &[f64]| {
                Tensor::from_vec(values.iter().map(|v| *v as f32).collect::<Vec<_>>(), values.len(), &Device::Cpu)
            };
            let var = &store.parameters()[0].1;
            var.set(&tensor(&start).unwrap()).unwrap();
            let mut adam = Adam::new(&store, case["weight_decay"].as_f64().unwrap());
            let each = |key: &str| case[key].as_array().unwrap().clone();
            let (mut ours, mut theirs): (f64, f64) = (0.0, 0.0);
            let (gradients, after, after_f32) = (each("gradients"), each("after"), each("after_f32"));
            let steps = gradients.len();
            assert!(steps > 0 && [after.len(), after_f32.len(), numbers(&case["rates"]).len()] == [steps; 3]);
            let rows = gradients.into_iter().zip(after.into_iter().zip(after_f32));
            for (rate, (gradient, (exact, in_f32))) in numbers(&case["rates"]).into_iter().zip(rows) {
                let gradient = tensor(&numbers(&gradient)).unwrap();
                adam.step(&store, &[Some(gradient)], rate).unwrap();
                let (found, exact, in_f32) = (var.to_vec1::<f32>().unwrap(), numbers(&exact), numbers(&in_f32));
                assert!(!found.is_empty() && [exact.len(), in_f32.len()] == [found.len(); 2]);
                for (found, (exact, in_f32)) in found.iter().zip(exact.iter().zip(in_f32)) {
                    // f64::max ignores NaN, so a NaN would not count as an error
                    assert!(found.is_finite() && exact.is_finite() && in_f32.is_finite(), "{}", case["name"]);
                    ours = ours.max((f64::from(*found) - exact).abs() / exact.abs().max(1.0));
                    theirs = theirs.max((in_f32 - exact).abs() / exact.abs().max(1.0));
                }
            }
            // the bound of the networks' tests: at most five times PyTorch's error in f32, or a
            // few rounding errors of f32
            assert!(ours <= (5.0 * theirs).max(1e-6), "{}: {ours:.2e}, PyTorch's {theirs:.2e}", case["name"]);
        }
    }
}
