//! The parameters of a network, named and in the order of their making, drawn from seeded streams.
//!
//! Candle's own map of variables is unordered and its generator on the CPU cannot be seeded.

use candle_core::{Device, Tensor, Var};
use rand::Rng;

use super::tape::Value;
use crate::error::Result;
use crate::rng;

/// Parameters, which training moves, and buffers, which it only keeps (running statistics).
pub struct Store {
    seed: u64,
    parameters: Vec<(String, Var)>,
    buffers: Vec<(String, Var)>,
}

impl Store {
    /// An empty store whose parameters will be drawn from this seed.
    pub fn new(seed: u64) -> Store {
        Store { seed, parameters: Vec::new(), buffers: Vec::new() }
    }

    /// The parameters in their order.
    pub fn parameters(&self) -> &[(String, Var)] {
        &self.parameters
    }

    /// The buffers in their order.
    pub fn buffers(&self) -> &[(String, Var)] {
        &self.buffers
    }

    /// The number of values that training moves.
    pub fn count(&self) -> usize {
        self.parameters.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// A parameter uniform in `+-1/sqrt(fan_in)`, PyTorch's default for weights and biases of linear and convolution
    /// layers; a function of the seed and the name alone.
    pub fn uniform(&mut self, name: String, shape: &[usize], fan_in: usize) -> Result<Value> {
        let bound = 1.0 / (fan_in as f64).sqrt();
        let mut rng = rng::stream(self.seed, &format!("init/{name}"), 0, 0);
        let count = shape.iter().product();
        let mut draw = || ((rng.next_u64() >> 11) as f64 * 2f64.powi(-52) - 1.0) * bound; // 53 bits, in [-1, 1)
        let values: Vec<f32> = (0..count).map(|_| draw() as f32).collect();
        self.parameter(name, Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// A parameter that begins with one value everywhere.
    pub fn constant(&mut self, name: String, shape: &[usize], value: f32) -> Result<Value> {
        self.parameter(name, Tensor::full(value, shape, &Device::Cpu)?)
    }

    fn parameter(&mut self, name: String, values: Tensor) -> Result<Value> {
        let var = Var::from_tensor(&values)?;
        let value = Value::parameter(var.as_tensor().clone(), self.parameters.len());
        self.parameters.push((name, var));
        Ok(value)
    }

    /// A buffer that begins with one value everywhere.
    pub fn buffer(&mut self, name: String, shape: &[usize], value: f32) -> Result<Var> {
        let var = Var::from_tensor(&Tensor::full(value, shape, &Device::Cpu)?)?;
        self.buffers.push((name, var.clone()));
        Ok(var)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_drawn_from_its_name_and_the_seed_within_pytorchs_bound() {
        let draw = |seed, name: &str| {
            let tensor = Store::new(seed).uniform(name.to_owned(), &[100, 100], 25).unwrap();
            tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let values = draw(1, "conv1.weight");
        assert_eq!(values, draw(1, "conv1.weight"));
        assert_ne!(values, draw(2, "conv1.weight"));
        assert_ne!(values, draw(1, "conv2.weight"));
        assert!(values.iter().all(|v| v.abs() <= 0.2));
        let mean = |f: fn(f64) -> f64| values.iter().map(|v| f(f64::from(*v))).sum::<f64>() / 1e4;
        // a uniform variable in +-0.2: mean 0, variance 0.04/3; four standard errors of each over 10,000 draws
        assert!(mean(|v| v).abs() < 4.0 * 0.2 / 3f64.sqrt() / 100.0);
        assert!((mean(|v| v * v) - 0.04 / 3.0).abs() < 4.0 * 0.04 * (4.0f64 / 45.0).sqrt() / 100.0);
    }
}
