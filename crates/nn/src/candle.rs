//! Layers of candle-nn whose parameters belong to a [`Store`]: they are initialised by name and seed, trained by this
//! crate's optimiser, and saved in its files.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Shape, Tensor, bail};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::error::Result;
use crate::store::{Drawn, Store};

impl Store {
    /// Makes layers of candle-nn. The tensors that they request from the builder become parameters of the
    /// store; tensors named `running_mean` or `running_var` become buffers. A name that is already in the
    /// store is not drawn again.
    ///
    /// # Errors
    /// The errors of `make`, and [`crate::Error::Tensor`] for a store on a GPU, where weights are stored in another
    /// order than candle's.
    pub fn layers<T>(&mut self, make: impl FnOnce(VarBuilder) -> candle_core::Result<T>) -> Result<T> {
        let (device, dtype) = (self.device().clone(), DType::F32);
        let shared = Arc::new(Mutex::new(std::mem::replace(self, Store::new(0))));
        let builder = VarBuilder::from_backend(Box::new(Backend(shared.clone())), dtype, device);
        let made = make(builder);
        *self = std::mem::replace(&mut lock(&shared), Store::new(0));
        Ok(made?)
    }

    /// Collects the gradients of all parameters from candle's, in the order of the store.
    pub fn gradients(&self, gradients: &GradStore) -> Vec<Option<Tensor>> {
        self.parameters().iter().map(|(_, var)| gradients.get(var).cloned()).collect()
    }
}

/// The backend from which candle-nn's builder takes tensors.
struct Backend(Arc<Mutex<Store>>);

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimpleBackend for Backend {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        if !device.is_cpu() || dtype != DType::F32 {
            bail!("layers of candle-nn need a store on the CPU, in f32");
        }
        let mut store = lock(&self.0);
        if let Some(tensor) = store.find(name) {
            if tensor.shape() != &shape {
                bail!("`{name}` has the shape {:?}, and {shape:?} is asked for", tensor.shape());
            }
            return Ok(tensor);
        }
        let dims = shape.dims();
        let is_buffer = matches!(name.rsplit('.').next(), Some("running_mean" | "running_var"));
        let uniform = |low, high| Drawn::Uniform { low, high };
        let owned = name.to_owned();
        let made = match init {
            Init::Const(value) if is_buffer => store.buffer(owned, dims, value as f32).err(),
            Init::Const(value) => store.constant(owned, dims, value as f32).err(),
            Init::Uniform { lo, up } => store.drawn(owned, dims, uniform(lo, up)).err(),
            Init::Randn { mean, stdev } => store.drawn(owned, dims, Drawn::Normal { mean, std: stdev }).err(),
            Init::Kaiming { dist, fan, non_linearity } => {
                let std = non_linearity.gain() / (fan.for_shape(&shape) as f64).sqrt();
                let bound = 3f64.sqrt() * std;
                let drawn = match dist {
                    NormalOrUniform::Uniform => uniform(-bound, bound),
                    NormalOrUniform::Normal => Drawn::Normal { mean: 0.0, std },
                };
                store.drawn(owned, dims, drawn).err()
            }
        };
        if let Some(error) = made {
            return Err(candle_core::Error::wrap(error));
        }
        found(&store, name)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        found(&lock(&self.0), name)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        lock(&self.0).find(name).is_some()
    }
}

fn found(store: &Store, name: &str) -> candle_core::Result<Tensor> {
    store.find(name).ok_or_else(|| candle_core::Error::CannotFindTensor { path: name.to_owned() }.bt())
}

#[cfg(test)]
mod tests {
    use candle_nn::{BatchNormConfig, Linear, Module, ModuleT, loss};

    use super::*;
    use crate::optim::Adam;
    use crate::weights;

    struct Net {
        hidden: Linear,
        norm: candle_nn::BatchNorm,
        output: Linear,
    }

    fn net(store: &mut Store) -> Net {
        let make = |builder: VarBuilder| {
            Ok(Net {
                hidden: candle_nn::linear(2, 16, builder.pp("hidden"))?,
                norm: candle_nn::batch_norm(16, BatchNormConfig::default(), builder.pp("norm"))?,
                output: candle_nn::linear(16, 3, builder.pp("output"))?,
            })
        };
        store.layers(make).unwrap()
    }

    fn forward(net: &Net, input: &Tensor, train: bool) -> Tensor {
        let hidden = net.norm.forward_t(&net.hidden.forward(input).unwrap(), train).unwrap();
        net.output.forward(&hidden.relu().unwrap()).unwrap()
    }

    #[test]
    fn stock_layers_are_drawn_by_name_train_and_are_saved() {
        let mut store = Store::new(3);
        let trained = net(&mut store);
        let names: Vec<&str> = store.parameters().iter().map(|(name, _)| name.as_str()).collect();
        let expected = ["hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "output.weight", "output.bias"];
        assert!(expected.iter().all(|name| names.contains(name)) && names.len() == 6, "{names:?}");
        let buffers: Vec<&str> = store.buffers().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(buffers, ["norm.running_mean", "norm.running_var"]);
        let values = |store: &Store| -> Vec<f32> {
            let all = weights::all(store).flat_map(|(_, var)| var.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            all.collect()
        };
        let mut again = Store::new(3);
        net(&mut again);
        let mut other = Store::new(4);
        net(&mut other);
        assert_eq!(values(&store), values(&again));
        assert_ne!(values(&store), values(&other));

        // three clouds of points, each around a corner of a triangle
        let corners = [[0.0f32, 1.0], [-1.0, -1.0], [1.0, -1.0]];
        let points: Vec<f32> = (0..96).flat_map(|i| corners[i % 3].map(|c| c + 0.01 * (i % 7) as f32)).collect();
        let input = Tensor::from_vec(points, (96, 2), &Device::Cpu).unwrap();
        let classes = Tensor::from_vec((0..96).map(|i| i % 3).collect::<Vec<u32>>(), 96, &Device::Cpu).unwrap();
        let mut adam = Adam::new(&store, 0.0);
        let mut losses = Vec::new();
        for _ in 0..60 {
            let loss = loss::cross_entropy(&forward(&trained, &input, true), &classes).unwrap();
            losses.push(loss.to_scalar::<f32>().unwrap());
            let gradients = store.gradients(&loss.backward().unwrap());
            assert!(gradients.iter().all(Option::is_some));
            adam.step(&store, &gradients, 0.05).unwrap();
        }
        assert!(losses[0] > 0.5 && losses[59] < 0.05, "{losses:?}");

        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("net.safetensors");
        weights::save(&path, &store, &serde_json::json!({"steps": 60})).unwrap();
        let loaded = net(&mut again);
        weights::load(&path, &again).unwrap();
        assert_eq!(values(&store), values(&again));
        let logits = |net: &Net| forward(net, &input, false).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(logits(&trained), logits(&loaded));
    }

    #[test]
    fn a_name_is_drawn_once_and_keeps_its_shape() {
        let mut store = Store::new(3);
        store.layers(|builder| candle_nn::linear(2, 4, builder.pp("a"))).unwrap();
        store.layers(|builder| candle_nn::linear(2, 4, builder.pp("a"))).unwrap();
        assert_eq!(store.parameters().len(), 2);
        let error = store.layers(|builder| candle_nn::linear(3, 4, builder.pp("a"))).err().unwrap().to_string();
        assert!(error.contains("`a.weight` has the shape [4, 2], and [4, 3] is asked for"), "{error}");
    }
}
