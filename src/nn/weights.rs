//! Weights as safetensors files: the tensors under their PyTorch names, and what is needed to rebuild the network.
//!
//! The description is one JSON text under one key of the file's metadata, so that equal networks give equal bytes.
//! What a file says is checked against the network that it describes before a value is used.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::floats::Floats;
use super::{Network, Shape};
use crate::error::{Error, Result};
use crate::files;

/// The key of the description in the file's metadata.
const KEY: &str = "multidigit";
/// More digits per image than this are no network of ours: keeps a damaged file from asking for any amount of memory.
const MAX_DIGITS: usize = 64;
/// The largest image size in either direction, for the same reason.
const MAX_SIZE: usize = 4096;

/// What a file of weights says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The network.
    #[serde(flatten)]
    pub shape: Shape,
    /// The mean that was taken from pixels in 0..=1 before training.
    pub mean: f64,
    /// What they were divided by then.
    pub std: f64,
    /// The epoch, counted from 1, after which the weights were as they stand here.
    pub epoch: usize,
}

fn all(network: &Network) -> impl Iterator<Item = &(String, Var)> {
    network.store().parameters().iter().chain(network.store().buffers())
}

/// Writes all parameters and buffers.
pub fn save(path: &Path, network: &Network, description: &Description) -> Result<()> {
    let mut tensors = Vec::new();
    for (name, var) in all(network) {
        let bytes: Vec<u8> = Floats::of(var)?.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensors.push((name, var.dims().to_vec(), bytes));
    }
    let views =
        tensors.iter().map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    let text = serde_json::to_string(description).expect("numbers and names are JSON");
    let metadata = Some(HashMap::from([(KEY.to_owned(), text)]));
    let bytes = views
        .collect::<Result<Vec<_>, _>>()
        .and_then(|views| safetensors::serialize(views, metadata))
        .map_err(|e| Error::Tensor { message: e.to_string() })?;
    files::write(path, &bytes)
}

/// Rebuilds a network from its weights.
pub fn load(path: &Path) -> Result<(Network, Description)> {
    let bytes = files::read(path)?;
    let broken =
        |e: &dyn std::fmt::Display| Error::format(path, format!("not readable as safetensors ({e})"), "weights");
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| broken(&e))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| broken(&e))?;
    let text = metadata.metadata().as_ref().and_then(|all| all.get(KEY)).ok_or_else(|| {
        Error::format(path, format!("no `{KEY}` in its metadata"), "weights that `multidigit run train` wrote")
    })?;
    let description: Description = serde_json::from_str(text)
        .map_err(|e| Error::format(path, format!("metadata `{text}` ({e})"), "a description of the network"))?;
    let Shape { digits, height, width, .. } = description.shape;
    let sizes = 1..=MAX_SIZE;
    if !(1..=MAX_DIGITS).contains(&digits) || !sizes.contains(&height) || !sizes.contains(&width) {
        let expected = format!("1 to {MAX_DIGITS} digits and 1 to {MAX_SIZE} pixels in each direction");
        return Err(Error::format(path, format!("{digits} digits on {height}x{width} pixels"), expected));
    }
    // dropout has no part in evaluation, and the seed's values are all replaced
    let network = Network::new(description.shape, 0, 0.0)?;
    for (name, var) in all(&network) {
        let view = tensors.tensor(name).map_err(|_| {
            Error::format(path, format!("no tensor `{name}`"), format!("one of shape {:?}", var.dims()))
        })?;
        if view.dtype() != Dtype::F32 || view.shape() != var.dims() {
            let found = format!("tensor `{name}` of {:?} {:?}", view.dtype(), view.shape());
            return Err(Error::format(path, found, format!("F32 {:?}", var.dims())));
        }
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        var.set(&Tensor::from_vec::<_, f32>(values, var.shape(), &Device::Cpu)?)?;
    }
    Ok((network, description))
}
