//! The exponential moving average of a network's weights.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::floats::Floats;
use crate::store::Store;
use crate::weights::{Entry, all};

/// The moving average of all parameters and buffers of a store, as PyTorch's `AveragedModel` computes it with
/// `get_ema_multi_avg_fn(decay)` and `use_buffers`: the first step copies the values, and every further step moves the
/// average towards them by the share `1 - decay` of the distance.
#[derive(Debug, Clone, PartialEq)]
pub struct Average {
    decay: f64,
    /// The values of each parameter and buffer, in the order of the store; empty before the first step.
    values: Vec<Vec<f32>>,
}

impl Average {
    /// An average before its first step.
    pub fn new(decay: f64) -> Average {
        Average { decay, values: Vec::new() }
    }

    /// The share of the distance by which a step moves the average.
    pub fn share(&self) -> f32 {
        (1.0 - self.decay) as f32
    }

    /// The values of each parameter and buffer, in the order of the store; empty before the first step.
    pub fn values(&self) -> &[Vec<f32>] {
        &self.values
    }

    /// Restores the values of an interrupted run.
    pub fn resume(&mut self, values: Vec<Vec<f32>>) {
        self.values = values;
    }

    /// Follows a step of the optimiser.
    pub fn step(&mut self, store: &Store) -> Result<()> {
        let share = self.share();
        if self.values.is_empty() {
            self.values = all(store).map(|(_, var)| Ok(Floats::of(var)?.to_vec())).collect::<Result<_>>()?;
            return Ok(());
        }
        for (average, (_, var)) in self.values.iter_mut().zip(all(store)) {
            let values = Floats::of(var)?;
            let block = 1 << 14;
            average.par_chunks_mut(block).zip(values.par_chunks(block)).for_each(|(average, values)| {
                average.iter_mut().zip(values).for_each(|(average, value)| *average += share * (value - *average));
            });
        }
        Ok(())
    }

    /// The values as entries of a file, under the names of the store.
    ///
    /// # Errors
    /// [`Error::Tensor`] before the first step.
    pub fn entries(&self, store: &Store) -> Result<Vec<(String, Entry<'_>)>> {
        let named: Vec<_> = all(store).zip(&self.values).collect();
        if named.len() != all(store).count() {
            return Err(Error::tensor("an average without a step has no values"));
        }
        Ok(named.into_iter().map(|((name, var), values)| (name.clone(), Entry::new(var.dims(), values))).collect())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use serde_json::Value;

    use super::*;

    #[test]
    fn an_average_is_pytorchs() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/optim.json");
        let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let numbers = |value: &Value| -> Vec<f32> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
        };
        let cases = all["average"].as_array().unwrap();
        assert!(cases.len() >= 2);
        for case in cases {
            let mut store = Store::new(0);
            let [parameters, buffers] = ["parameters", "buffers"]
                .map(|key| case[key].as_array().unwrap().iter().map(numbers).collect::<Vec<_>>());
            let averages: Vec<Vec<f32>> = case["averages"].as_array().unwrap().iter().map(numbers).collect();
            assert!(averages.len() >= 3 && [parameters.len(), buffers.len()] == [averages.len(); 2]);
            let (count, more) = (parameters[0].len(), buffers[0].len());
            store.constant("p".to_owned(), &[count], 0.0).unwrap();
            store.buffer("b".to_owned(), &[more], 0.0).unwrap();
            let mut average = Average::new(case["decay"].as_f64().unwrap());
            assert!(average.entries(&store).is_err());
            for ((parameter, buffer), expected) in parameters.into_iter().zip(buffers).zip(averages) {
                store.parameters()[0].1.set(&Tensor::from_vec(parameter, count, &Device::Cpu).unwrap()).unwrap();
                store.buffers()[0].1.set(&Tensor::from_vec(buffer, more, &Device::Cpu).unwrap()).unwrap();
                average.step(&store).unwrap();
                assert_eq!(average.values().concat().len(), expected.len());
                for (found, expected) in average.values().concat().iter().zip(&expected) {
                    // two roundings of numbers below 4
                    assert!((found - expected).abs() <= 4.0 * f32::EPSILON, "{found} {expected}");
                }
            }
            assert_eq!(average.entries(&store).unwrap().len(), 2);
        }
    }
}
