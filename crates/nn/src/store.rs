//! The parameters of a network, named and in the order of their making, drawn from seeded streams.
//!
//! Candle's own map of variables is unordered and its generator on the CPU cannot be seeded.
//!
//! On a GPU every parameter and buffer stands twice: what computes is on the device, and what is saved and loaded on the
//! host, brought over by `fetch` and `send`. Weights of convolutions lie on the device as `(outputs, kernel, kernel,
//! inputs)`, the order in which its libraries take them, and read as `(outputs, inputs, kernel, kernel)`.

use candle_core::{DType, Device, Tensor, Var};
use rand_chacha::rand_core::Rng;
use rand_distr::{Distribution, Normal, StandardUniform};

use crate::error::{Error, Result};
use crate::floats::tensor;
use crate::rng;
use crate::tape::Value;

/// Parameters, which training moves, and buffers, which it only keeps (running statistics).
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

/// A distribution from which a parameter is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Drawn {
    /// Uniform between two numbers.
    Uniform {
        /// The lowest value.
        low: f64,
        /// The value that all others lie below.
        high: f64,
    },
    /// Normal.
    Normal {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        std: f64,
    },
}

/// A parameter on a GPU.
pub struct Parameter {
    /// Its values, in floats, in the device's order.
    pub values: Var,
    /// For a weight: its values once more in the type of the activations, if that is not f32.
    pub copy: Option<Var>,
}

impl Store {
    /// An empty store whose parameters will be drawn from this seed.
    pub fn new(seed: u64) -> Store {
        Store::on(&Device::Cpu, DType::F32, seed)
    }

    /// An empty store for a device on which activations have a type.
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

    /// What computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The parameters on the GPU, in their order; none on the CPU.
    pub fn device_parameters(&self) -> &[Parameter] {
        &self.device_parameters
    }

    /// Brings all values from the GPU to the host; nothing to do on the CPU.
    pub fn fetch(&self) -> Result<()> {
        for ((_, host), there) in self.parameters.iter().zip(&self.device_parameters) {
            host.set(&to_host(&there.values.to_device(&Device::Cpu)?)?)?;
        }
        for ((_, host), there) in self.buffers.iter().zip(&self.device_buffers) {
            host.set(&there.to_device(&Device::Cpu)?)?;
        }
        Ok(())
    }

    /// Brings all values from the host to the GPU; nothing to do on the CPU.
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

    /// Values of a parameter of this shape, from the GPU's order to the host's.
    pub fn host_order(&self, values: &[f32], shape: &[usize]) -> Result<Vec<f32>> {
        let values = match *shape {
            [outputs, inputs, height, width] => tensor(values.to_vec(), &[outputs, height, width, inputs])?,
            _ => tensor(values.to_vec(), shape)?,
        };
        Ok(to_host(&values)?.flatten_all()?.to_vec1()?)
    }

    /// Values of a parameter of this shape, from the host's order to the GPU's.
    pub fn device_order(&self, values: &[f32], shape: &[usize]) -> Result<Vec<f32>> {
        Ok(to_device(&tensor(values.to_vec(), shape)?)?.flatten_all()?.to_vec1()?)
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

    /// The names of the dropout layers, in the order of their making: a GPU is given the keys of their draws in this order.
    pub fn dropouts(&self) -> &[String] {
        &self.dropouts
    }

    /// Takes note of a dropout layer, and returns its number.
    pub(crate) fn dropout(&mut self, name: &str) -> usize {
        self.dropouts.push(name.to_owned());
        self.dropouts.len() - 1
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

    /// A parameter drawn from a distribution; a function of the seed and the name alone.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a standard deviation that is not finite.
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

    /// The tensor of a parameter or buffer on the host.
    pub fn find(&self, name: &str) -> Option<Tensor> {
        let mut all = self.parameters.iter().chain(&self.buffers);
        all.find(|(other, _)| other == name).map(|(_, var)| var.as_tensor().clone())
    }

    /// A parameter that begins with one value everywhere.
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

    /// Puts a parameter on the GPU; what computes, as it reads.
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

    /// A buffer that begins with one value everywhere.
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

/// A tensor in the GPU's order, as it reads on the host.
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
        // four standard errors over 10,000 draws: of the mean 3/100, of the variance 9 times the root of 2/10,000
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
        // a uniform variable in +-0.2: mean 0, variance 0.04/3; four standard errors of each over 10,000 draws
        assert!(mean(|v| v).abs() < 4.0 * 0.2 / 3f64.sqrt() / 100.0);
        assert!((mean(|v| v * v) - 0.04 / 3.0).abs() < 4.0 * 0.04 * (4.0f64 / 45.0).sqrt() / 100.0);
    }
}
