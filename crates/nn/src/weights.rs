//! Weights in safetensors files: tensors under their PyTorch names, with a description.
//!
//! The description is one JSON object under a single key of the file's metadata, so that equal weights give
//! equal bytes. The last member of the object is a digest of the description and all tensors. It is
//! verified before a value is used.

use std::collections::HashMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::ops::Deref;
use std::path::Path;

use candle_core::{Tensor, Var};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};

use crate::error::{Error, Result};
use crate::floats::{Floats, tensor};
use crate::store::Store;

/// The key of the description in the file's metadata.
pub const KEY: &str = "multidigit";
/// The text that separates a description from its digest, the last member of the JSON object.
const DIGEST: &str = ",\"digest\":\"";
/// The number of floats that are converted to bytes at a time.
const BLOCK: usize = 1 << 14;

/// All parameters and buffers of a store as entries of a file.
pub fn entries(store: &Store) -> Result<Vec<(String, Entry<'_>)>> {
    all(store).map(|(name, var)| Ok((name.clone(), Entry::of(var)?))).collect()
}

/// All parameters and buffers of a store.
pub fn all(store: &Store) -> impl Iterator<Item = &(String, Var)> {
    store.parameters().iter().chain(store.buffers())
}

/// Saves all parameters and buffers of a store with a description, a JSON object that must not be empty. The file is
/// written under a temporary name and renamed when it is complete.
///
/// # Errors
/// [`Error::Io`]
pub fn save(path: &Path, store: &Store, description: &serde_json::Value) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let mut file = BufWriter::new(fs::File::create(&part)?);
    write(&mut file, entries(store)?, description)?;
    file.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok(fs::rename(part, path)?)
}

/// Loads all parameters and buffers of a store from a file, and returns the file's description.
///
/// # Errors
/// [`Error::Weights`] if the file is not a readable safetensors file or lacks a tensor of the store;
/// [`Error::NoDescription`]; [`Error::Damaged`]; [`Error::Io`].
pub fn load(path: &Path, store: &Store) -> Result<serde_json::Value> {
    let bytes = fs::read(path)?;
    let Parsed { tensors, description, .. } = parse(&bytes)?;
    restore(&tensors, "", store, |_, _| Ok(()))?;
    store.send()?;
    serde_json::from_str(&description).map_err(|e| Error::weights(format!("description `{description}` ({e})"), "JSON"))
}

/// A tensor of floats to write to a file.
pub struct Entry<'a> {
    shape: Vec<usize>,
    floats: Box<dyn Deref<Target = [f32]> + 'a>,
}

impl<'a> Entry<'a> {
    /// The entry of a tensor on the CPU.
    pub fn of(tensor: &'a Tensor) -> Result<Entry<'a>> {
        Ok(Entry { shape: tensor.dims().to_vec(), floats: Box::new(Floats::of(tensor)?) })
    }

    /// The entry of the values of a tensor of this shape.
    pub fn new(shape: &[usize], values: &'a [f32]) -> Entry<'a> {
        Entry { shape: shape.to_vec(), floats: Box::new(values) }
    }

    /// The entry of a vector.
    pub fn vector(values: &'a [f32]) -> Entry<'a> {
        Entry::new(&[values.len()], values)
    }

    /// The entry that copies a tensor of another file.
    pub fn of_file(tensors: &SafeTensors, name: &str) -> Result<Entry<'static>> {
        let shape = tensors.tensor(name).map(|view| view.shape().to_vec()).unwrap_or_default();
        Ok(Entry { floats: Box::new(floats(tensors, name, &shape)?), shape })
    }

    /// Calls `take` with the little-endian bytes of all floats, one block at a time.
    fn each_block<E>(&self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut bytes = Vec::with_capacity(4 * BLOCK);
        for block in self.floats.chunks(BLOCK) {
            bytes.clear();
            bytes.extend(block.iter().flat_map(|value| value.to_le_bytes()));
            take(&bytes)?;
        }
        Ok(())
    }
}

/// The digest of a description and its tensors. It covers names, types, shapes and bytes in the order of the file; each
/// part is preceded by its length.
struct Content(blake3::Hasher);

impl Content {
    fn new(description: &str) -> Content {
        let mut content = Content(blake3::Hasher::new());
        content.framed(description.as_bytes());
        content
    }

    fn framed(&mut self, bytes: &[u8]) -> &mut Content {
        self.0.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        self
    }

    /// Starts a tensor and returns the hasher, to which the caller passes the tensor's bytes.
    fn tensor(&mut self, name: &str, dtype: Dtype, shape: &[usize], length: usize) -> &mut blake3::Hasher {
        self.framed(name.as_bytes()).framed(format!("{dtype:?} {shape:?}").as_bytes());
        self.0.update(&(length as u64).to_le_bytes())
    }

    fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

/// Writes named tensors with a description, a JSON object that must not be empty. The output is byte for byte that of
/// the safetensors library, but is never held in memory as a whole.
///
/// # Errors
/// [`Error::Io`]
pub fn write(out: &mut impl Write, mut tensors: Vec<(String, Entry)>, description: &serde_json::Value) -> Result<()> {
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let description = description.to_string();
    let mut content = Content::new(&description);
    let (mut infos, mut end) = (Vec::with_capacity(tensors.len()), 0);
    for (name, entry) in &tensors {
        let (begin, shape, dtype) = (end, entry.shape.clone(), Dtype::F32);
        end += 4 * entry.floats.len();
        let hasher = content.tensor(name, dtype, &shape, end - begin);
        entry.each_block(|bytes| {
            hasher.update(bytes);
            Ok::<_, Error>(())
        })?;
        infos.push((name.clone(), TensorInfo { dtype, shape, data_offsets: (begin, end) }));
    }
    let open = description.strip_suffix('}').unwrap_or(&description);
    let text = format!("{open}{DIGEST}{}\"}}", content.finish());
    let metadata =
        Metadata::new(Some(HashMap::from([(KEY.to_owned(), text)])), infos).map_err(std::io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata).map_err(std::io::Error::other)?;
    header.resize(header.len().next_multiple_of(8), b' '); // so that the tensors are aligned
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    tensors.iter().try_for_each(|(_, entry)| entry.each_block(|bytes| out.write_all(bytes)))?;
    Ok(out.flush()?)
}

/// A parsed safetensors file.
pub struct Parsed<'a> {
    /// The tensors by name, which borrow the bytes of the file.
    pub tensors: SafeTensors<'a>,
    /// The text of the description in the file, without the digest.
    pub description: String,
    /// Whether the file has a digest. A digest that is present has been verified.
    pub is_checked: bool,
}

/// Parses the bytes of a safetensors file and verifies its digest. A file written by another program may have none.
///
/// # Errors
/// [`Error::Weights`], [`Error::NoDescription`], and [`Error::Damaged`] if the digest does not match the content.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>> {
    let broken = |e: &dyn std::fmt::Display| Error::weights(format!("not readable as safetensors ({e})"), "weights");
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| broken(&e))?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| broken(&e))?;
    let text = metadata.metadata().as_ref().and_then(|all| all.get(KEY)).ok_or(Error::NoDescription { key: KEY })?;
    let Some((open, rest)) = text.rsplit_once(DIGEST) else {
        return Ok(Parsed { tensors, description: text.clone(), is_checked: false });
    };
    let description = format!("{open}}}");
    let mut content = Content::new(&description);
    for name in metadata.offset_keys() {
        let view = tensors.tensor(&name).map_err(|e| broken(&e))?;
        content.tensor(&name, view.dtype(), view.shape(), view.data().len()).update(view.data());
    }
    if rest != format!("{}\"}}", content.finish()) {
        return Err(Error::Damaged);
    }
    Ok(Parsed { tensors, description, is_checked: true })
}

/// The values of one tensor of a file.
///
/// # Errors
/// [`Error::Weights`] if the file has no f32 tensor of this name and shape.
pub fn floats(tensors: &SafeTensors, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let missing = |_| Error::weights(format!("no tensor `{name}`"), format!("one of shape {shape:?}"));
    let view = tensors.tensor(name).map_err(missing)?;
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        let found = format!("tensor `{name}` of {:?} {:?}", view.dtype(), view.shape());
        return Err(Error::weights(found, format!("F32 {shape:?}")));
    }
    Ok(view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Sets the host copies of all parameters and buffers of a store to the tensors of a file. The name of a tensor in the
/// file is `prefix` followed by its name in the store. `check` is called with the values of each tensor first.
///
/// # Errors
/// [`Error::Weights`], and the errors of `check`.
pub fn restore(
    tensors: &SafeTensors,
    prefix: &str,
    store: &Store,
    check: impl Fn(&str, &[f32]) -> Result<()>,
) -> Result<()> {
    restore_some(tensors, prefix, store, |_| true, check)
}

/// Sets some parameters and buffers of a store like [`restore`]: those whose names `wanted` accepts.
///
/// # Errors
/// [`Error::Weights`], and the errors of `check`.
pub fn restore_some(
    tensors: &SafeTensors,
    prefix: &str,
    store: &Store,
    wanted: impl Fn(&str) -> bool,
    check: impl Fn(&str, &[f32]) -> Result<()>,
) -> Result<()> {
    for (name, var) in all(store).filter(|(name, _)| wanted(name)) {
        let values = floats(tensors, &format!("{prefix}{name}"), var.dims())?;
        check(name, &values)?;
        var.set(&tensor(values, var.dims())?)?;
    }
    Ok(())
}

/// Returns an error if a value is not finite, because a network cannot compute anything from it.
///
/// # Errors
/// [`Error::Weights`]
pub fn check_finite(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((at, value)) => {
            let found = format!("tensor `{name}` holds {value} at position {at}");
            Err(Error::weights(found, "finite numbers; such weights answer nothing"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn store(seed: u64) -> Store {
        let mut store = Store::new(seed);
        store.uniform("a.weight".to_owned(), &[8, 40], 40).unwrap();
        store.uniform("a.bias".to_owned(), &[8], 40).unwrap();
        store.buffer("b.running_mean".to_owned(), &[8], 0.5).unwrap();
        store
    }

    fn values(store: &Store) -> Vec<Vec<f32>> {
        all(store).map(|(_, var)| Floats::of(var).unwrap().to_vec()).collect()
    }

    #[test]
    fn what_is_saved_is_loaded_and_nothing_is_left_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.safetensors");
        let (saved, loaded) = (store(1), store(2));
        assert_ne!(values(&saved), values(&loaded));
        save(&path, &saved, &json!({"epoch": 3})).unwrap();
        assert_eq!(load(&path, &loaded).unwrap(), json!({"epoch": 3}));
        assert_eq!(values(&saved), values(&loaded));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_bytes_are_those_of_the_library() {
        let mut bytes = Vec::new();
        write(&mut bytes, entries(&store(1)).unwrap(), &json!({"epoch": 3})).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert!(bytes == safetensors::serialize(tensors.iter(), metadata.metadata().clone()).unwrap());
    }

    #[test]
    fn every_damage_to_a_file_is_found_or_changes_no_value() {
        let mut sound = Vec::new();
        write(&mut sound, entries(&store(1)).unwrap(), &json!({"epoch": 3})).unwrap();
        let whole = parse(&sound).unwrap();
        let header = 8 + u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            let Ok(parsed) = parse(&bytes) else { continue };
            assert!(at < header && !parsed.is_checked || parsed.description == whole.description, "byte {at}");
            let same = |(name, view): (&str, safetensors::tensor::TensorView)| {
                parsed.tensors.tensor(name).is_ok_and(|other| other == view)
            };
            assert!(whole.tensors.iter().all(same), "byte {at}");
        }
    }

    #[test]
    fn tensors_of_another_shape_and_values_that_are_not_finite_are_refused() {
        let mut bytes = Vec::new();
        write(&mut bytes, vec![("a".to_owned(), Entry::vector(&[1.0, f32::NAN]))], &json!({"epoch": 3})).unwrap();
        let parsed = parse(&bytes).unwrap();
        let text = |result: Result<Vec<f32>>| result.unwrap_err().to_string();
        assert_eq!(text(floats(&parsed.tensors, "a", &[3])), "tensor `a` of F32 [2]; expected F32 [3]");
        assert_eq!(text(floats(&parsed.tensors, "b", &[3])), "no tensor `b`; expected one of shape [3]");
        let values = floats(&parsed.tensors, "a", &[2]).unwrap();
        let expected = "tensor `a` holds NaN at position 1; expected finite numbers; such weights answer nothing";
        assert_eq!(check_finite("a", &values).unwrap_err().to_string(), expected);
    }
}
