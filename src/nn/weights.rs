//! Weights as safetensors files: the tensors under their PyTorch names, and what is needed to rebuild the network.
//!
//! The description is one JSON text under one key of the file's metadata, so that equal networks give equal bytes.
//! What a file says is checked against the network that it describes before a value is used.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Deref;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::floats::{Floats, tensor};
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

/// All parameters and buffers.
pub fn all(network: &Network) -> impl Iterator<Item = &(String, Var)> {
    network.store().parameters().iter().chain(network.store().buffers())
}

/// Writes all parameters and buffers.
pub fn save(path: &Path, network: &Network, description: &Description) -> Result<()> {
    let tensors = all(network).map(|(name, var)| Ok((name.clone(), Entry::of(var)?)));
    write(path, tensors.collect::<Result<Vec<_>>>()?, &serde_json::json!(description))
}

/// A tensor of floats to be written.
pub struct Entry<'a> {
    shape: Vec<usize>,
    floats: Box<dyn Deref<Target = [f32]> + 'a>,
}

impl<'a> Entry<'a> {
    /// A tensor's.
    pub fn of(tensor: &'a Tensor) -> Result<Entry<'a>> {
        Ok(Entry { shape: tensor.dims().to_vec(), floats: Box::new(Floats::of(tensor)?) })
    }

    /// A vector's.
    pub fn vector(values: &'a [f32]) -> Entry<'a> {
        Entry { shape: vec![values.len()], floats: Box::new(values) }
    }
}

impl View for Entry<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.floats.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        4 * self.floats.len()
    }
}

/// Writes named tensors, with a description under this program's key.
pub fn write(path: &Path, tensors: Vec<(String, Entry)>, description: &serde_json::Value) -> Result<()> {
    let metadata = Some(HashMap::from([(KEY.to_owned(), description.to_string())]));
    files::replace(path, |temporary| {
        safetensors::serialize_to_file(tensors, metadata, temporary).map_err(Error::write(path))
    })
}

/// The bytes of a file of tensors, looked into: its tensors, and its description as it stands.
pub fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<(SafeTensors<'a>, String)> {
    let broken =
        |e: &dyn std::fmt::Display| Error::format(path, format!("not readable as safetensors ({e})"), "weights");
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| broken(&e))?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| broken(&e))?;
    let text = metadata.metadata().as_ref().and_then(|all| all.get(KEY)).ok_or_else(|| {
        Error::format(path, format!("no `{KEY}` in its metadata"), "weights that `multidigit run train` wrote")
    })?;
    Ok((tensors, text.clone()))
}

/// The values of a tensor of a file.
pub fn floats(path: &Path, tensors: &SafeTensors, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let missing = |_| Error::format(path, format!("no tensor `{name}`"), format!("one of shape {shape:?}"));
    let view = tensors.tensor(name).map_err(missing)?;
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        let found = format!("tensor `{name}` of {:?} {:?}", view.dtype(), view.shape());
        return Err(Error::format(path, found, format!("F32 {shape:?}")));
    }
    Ok(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// Sets all parameters and buffers of a network to those of a file, under their names behind `prefix`.
pub fn restore(path: &Path, tensors: &SafeTensors, prefix: &str, network: &Network) -> Result<()> {
    for (name, var) in all(network) {
        let values = floats(path, tensors, &format!("{prefix}{name}"), var.dims())?;
        var.set(&tensor(values, var.dims())?)?;
    }
    Ok(())
}

/// Rebuilds a network from its weights, to compute on a device in float32.
pub fn load(path: &Path, device: &Device) -> Result<(Network, Description)> {
    let bytes = files::read(path)?;
    let (tensors, text) = parse(path, &bytes)?;
    let description: Description = serde_json::from_str(&text)
        .map_err(|e| Error::format(path, format!("metadata `{text}` ({e})"), "a description of the network"))?;
    let Shape { digits, height, width, .. } = description.shape;
    let sizes = 1..=MAX_SIZE;
    if !(1..=MAX_DIGITS).contains(&digits) || !sizes.contains(&height) || !sizes.contains(&width) {
        let expected = format!("1 to {MAX_DIGITS} digits and 1 to {MAX_SIZE} pixels in each direction");
        return Err(Error::format(path, format!("{digits} digits on {height}x{width} pixels"), expected));
    }
    // dropout has no part in evaluation, and the seed's values are all replaced
    let network = Network::on(device, DType::F32, description.shape, 0, 0.0)?;
    restore(path, &tensors, "", &network)?;
    network.store().send()?;
    Ok((network, description))
}
