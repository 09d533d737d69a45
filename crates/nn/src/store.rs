//! The named parameters of a network, in the order of creation, initialised from seeded random streams.
//!
//! Candle's own map of variables is unordered, and its CPU generator cannot be seeded.
//!
//! For a network on a GPU, every parameter and buffer exists twice: on the device for computing, and on the host for
//! saving and loading. `fetch` copies the values to the host and `send` copies them to the device. On the device, the
//! weights of convolutions are stored as `(outputs, kernel, kernel, inputs)`, the order that cuDNN expects; the tensor
//! that a network sees has the shape `(outputs, inputs, kernel, kernel)`.

use candle_core::{DType, Device, Tensor, Var};
use rand_chacha::rand_core::Rng;
use rand_distr::{Distribution, Normal, StandardUniform};

use crate::error::{Error, Result};
use crate::floats::tensor;
use crate::rng;
use crate::tape::Value;

/// The parameters, which the optimiser updates, and the buffers (running statistics), which it does not.
pub struct Store {
    seed: u64,
    device: Device,
    dtype: DType,
    parameters: Vec<(String, Var)>,
    buffers: Vec<(String, Var)>,
    device_parameters: Vec<Parameter>,
    device_buffers: Vec<Var>,
    dropouts: Vec<String>,
}

/// A distribution for the initial values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Drawn {
    /// The uniform distribution on an interval.
    Uniform {
        /// The lower bound, included.
        low: f64,
        /// The upper bound, excluded.
        high: f64,
    },
    /// The normal distribution.
    Normal {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        std: f64,
    },
}

/// A parameter on a GPU.
pub struct Parameter {
    /// The values in float32, in the device's order.
    pub values: Var,
    /// A copy of a weight in the type of the activations, if that type is not f32.
    pub copy: Option<Var>,
}

impl Store {
    /// An empty store on the CPU. Parameters are drawn from `seed`.
    pub fn new(seed: u64) -> Store {
        Store::on(&Device::Cpu, DType::F32, seed)
    }

    /// An empty store on a device, for activations of type `dtype`.
    pub fn on(device: &Device, dtype: DType, seed: u64) -> Store {
        Store {
            seed,
            device: device.clone(),
            dtype,
            parameters: Vec::new(),
            buffers: Vec::new(),
            device_parameters: Vec::new(),
            device_buffers: Vec::new(),
            dropouts: Vec::new(),
        }
    }

    /// The device on which the network computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type of the activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The parameters on the GPU, in the order of creation. Empty on the CPU.
    pub fn device_parameters(&self) -> &[Parameter] {
        &self.device_parameters
    }

    /// The buffers on the GPU, in the order of creation. Empty on the CPU.
    pub fn device_buffers(&self) -> &[Var] {
        &self.device_buffers
    }

    /// Copies all values from the GPU to the host. Does nothing on the CPU.
    pub fn fetch(&self) -> Result<()> {
        for ((_, host), there) in self.parameters.iter().zip(&self.device_parameters) {
            host.set(&to_host(&there.values.to_device(&Device::Cpu)?)?)?;
        }
        for ((_, host), there) in self.buffers.iter().zip(&self.device_buffers) {
            host.set(&there.to_device(&Device::Cpu)?)?;
        }
        Ok(())
    }

    /// Copies all values from the host to the GPU. Does nothing on the CPU.
    pub fn send(&self) -> Result<()> {
        for ((_, host), there) in self.parameters.iter().zip(&self.device_parameters) {
            let values = to_device(host)?;
            there.values.set(&values.to_device(&self.device)?)?;
            if let Some(copy) = &there.copy {
                copy.set(&values.to_dtype(self.dtype)?.to_device(&self.device)?)?;
            }
        }
        for ((_, host), there) in self.buffers.iter().zip(&self.device_buffers) {
            there.set(&host.to_device(&self.device)?)?;
        }
        Ok(())
    }

    /// Reorders the values of a parameter of this shape from the GPU's order to the host's.
    pub fn host_order(&self, values: &[f32], shape: &[usize]) -> Result<Vec<f32>> {
        let values = match *shape {
            [outputs, inputs, height, width] => tensor(values.to_vec(), &[outputs, height, width, inputs])?,
            _ => tensor(values.to_vec(), shape)?,
        };
        Ok(to_host(&values)?.flatten_all()?.to_vec1()?)
    }

    /// Reorders the values of a parameter of this shape from the host's order to the GPU's.
    pub fn device_order(&self, values: &[f32], shape: &[usize]) -> Result<Vec<f32>> {
        Ok(to_device(&tensor(values.to_vec(), shape)?)?.flatten_all()?.to_vec1()?)
    }

    /// The parameters, in the order of creation.
    pub fn parameters(&self) -> &[(String, Var)] {
        &self.parameters
    }

    /// The buffers, in the order of creation.
    pub fn buffers(&self) -> &[(String, Var)] {
        &self.buffers
    }

    /// The number of trainable values.
    pub fn count(&self) -> usize {
        self.parameters.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// The names of the dropout layers, in the order of creation. The keys for their draws on a
    /// GPU are in the same order.
    pub fn dropouts(&self) -> &[String] {
        &self.dropouts
    }

    /// Registers a dropout layer and returns its number.
    pub(crate) fn dropout(&mut self, name: &str) -> usize {
        self.dropouts.push(name.to_owned());
        self.dropouts.len() - 1
    }

    /// A parameter drawn uniformly from `+-1/sqrt(fan_in)`, PyTorch's default for the weights and biases of linear and
    /// convolution layers. The values depend on the seed and the name alone.
    pub fn uniform(&mut self, name: String, shape: &[usize], fan_in: usize) -> Result<Value> {
        let bound = 1.0 / (fan_in as f64).sqrt();
        let mut rng = rng::stream(self.seed, &format!("init/{name}"), 0, 0);
        let count = shape.iter().product();
        let mut draw = || ((rng.next_u64() >> 11) as f64 * 2f64.powi(-52) - 1.0) * bound; // 53 bits, in [-1, 1)
        let values: Vec<f32> = (0..count).map(|_| draw() as f32).collect();
        self.parameter(name, Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// A parameter drawn from a distribution. The values depend on the seed and the name alone.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the standard deviation is not finite.
    pub fn drawn(&mut self, name: String, shape: &[usize], distribution: Drawn) -> Result<Value> {
        let rng = rng::stream(self.seed, &format!("init/{name}"), 0, 0);
        let count = shape.iter().product();
        let values: Vec<f32> = match distribution {
            Drawn::Uniform { low, high } => {
                let units = StandardUniform.sample_iter(rng);
                units.take(count).map(|unit: f64| (low + (high - low) * unit) as f32).collect()
            }
            Drawn::Normal { mean, std } => {
                let normal = Normal::new(mean, std).map_err(|error| Error::tensor(format!("`{name}`: {error}")))?;
                normal.sample_iter(rng).take(count).map(|value| value as f32).collect()
            }
        };
        self.parameter(name, Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// The host tensor of the parameter or buffer of this name.
    pub fn find(&self, name: &str) -> Option<Tensor> {
        let mut all = self.parameters.iter().chain(&self.buffers);
        all.find(|(other, _)| other == name).map(|(_, var)| var.as_tensor().clone())
    }

    /// A parameter whose values are all `value` at first.
    pub fn constant(&mut self, name: String, shape: &[usize], value: f32) -> Result<Value> {
        self.parameter(name, Tensor::full(value, shape, &Device::Cpu)?)
    }

    fn parameter(&mut self, name: String, values: Tensor) -> Result<Value> {
        let var = Var::from_tensor(&values)?;
        let place = self.parameters.len();
        let value = match self.device {
            Device::Cpu => var.as_tensor().clone(),
            _ => self.on_device(&values)?,
        };
        self.parameters.push((name, var));
        Ok(Value::parameter(value, place))
    }

    /// Copies a parameter to the GPU and returns the tensor to compute with, in the host's shape.
    fn on_device(&mut self, host: &Tensor) -> Result<Tensor> {
        let there = to_device(host)?;
        let values = Var::from_tensor(&there.to_device(&self.device)?)?;
        let is_narrow = self.dtype != DType::F32 && host.rank() > 1;
        let copy = is_narrow.then(|| Var::from_tensor(&there.to_dtype(self.dtype)?.to_device(&self.device)?));
        let copy = copy.transpose()?;
        let reads = to_reading(copy.as_ref().unwrap_or(&values))?;
        self.device_parameters.push(Parameter { values, copy });
        Ok(reads)
    }

    /// A buffer whose values are all `value` at first.
    pub fn buffer(&mut self, name: String, shape: &[usize], value: f32) -> Result<Var> {
        let var = Var::from_tensor(&Tensor::full(value, shape, &Device::Cpu)?)?;
        self.buffers.push((name, var.clone()));
        if matches!(self.device, Device::Cpu) {
            return Ok(var);
        }
        let there = Var::from_tensor(&var.to_device(&self.device)?)?;
        self.device_buffers.push(there.clone());
        Ok(there)
    }
}

/// A view of a tensor in the GPU's order with the dimensions in the host's order.
fn to_reading(there: &Tensor) -> candle_core::Result<Tensor> {
    if there.rank() == 4 { there.permute((0, 3, 1, 2)) } else { Ok(there.clone()) }
}

fn to_host(there: &Tensor) -> candle_core::Result<Tensor> {
    to_reading(there)?.contiguous()
}

fn to_device(host: &Tensor) -> candle_core::Result<Tensor> {
    if host.rank() == 4 { host.permute((0, 2, 3, 1))?.contiguous() } else { Ok(host.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_normal_parameter_has_its_mean_and_standard_deviation() {
        let mut store = Store::new(1);
        let value = store.drawn("a".to_owned(), &[100, 100], Drawn::Normal { mean: 2.0, std: 3.0 }).unwrap();
        let values: Vec<f64> =
            value.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
        let mean = values.iter().sum::<f64>() / 1e4;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 1e4;
        // four standard errors over 10,000 draws: 3/100 for the mean, 9 times the root of 2/10,000 for the variance
        assert!((mean - 2.0).abs() < 4.0 * 0.03, "{mean}");
        assert!((variance - 9.0).abs() < 4.0 * 9.0 * 2f64.sqrt() / 100.0, "{variance}");
        assert!(store.drawn("b".to_owned(), &[1], Drawn::Normal { mean: 0.0, std: f64::NAN }).is_err());
    }

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
        // a uniform variable in +-0.2 has mean 0 and variance 0.04/3; four standard errors of each over 10,000 draws
        assert!(mean(|v| v).abs() < 4.0 * 0.2 / 3f64.sqrt() / 100.0);
        assert!((mean(|v| v * v) - 0.04 / 3.0).abs() < 4.0 * 0.04 * (4.0f64 / 45.0).sqrt() / 100.0);
    }
}
