//! Weights as safetensors files: the tensors under their PyTorch names, and what is needed to rebuild the network.
//!
//! The description is one JSON text under one key of the file's metadata, so that equal networks give equal bytes. It
//! ends with a digest of itself and of all tensors, which is compared before a value is used. What a file says is
//! checked against the network that it describes.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::ops::Deref;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde::{Deserialize, Serialize};

use super::floats::{Floats, tensor};
use super::{Network, Shape};
use crate::digest::{Digest, Parts};
use crate::error::{Error, Result};
use crate::files;
use crate::guard::guarded;

/// The key of the description in the file's metadata.
const KEY: &str = "multidigit";
/// What stands between a description and the digest at its end: the last member of a JSON object.
const DIGEST: &str = ",\"digest\":\"";
/// Floats that are made bytes at a time.
const BLOCK: usize = 1 << 14;
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
    write(path, None, tensors.collect::<Result<Vec<_>>>()?, &serde_json::json!(description))
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

    /// That of a file, for another one.
    pub fn of_file(path: &Path, tensors: &SafeTensors, name: &str) -> Result<Entry<'static>> {
        let shape = tensors.tensor(name).map(|view| view.shape().to_vec()).unwrap_or_default();
        Ok(Entry { floats: Box::new(floats(path, tensors, name, &shape)?), shape })
    }

    /// Gives the bytes of all floats, little-endian, block by block.
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

/// The digest of a description and of tensors: names, types, shapes and bytes, in the order of the file.
struct Content(Parts);

impl Content {
    fn new(description: &str) -> Content {
        let mut parts = Parts::default();
        parts.bytes(description.as_bytes());
        Content(parts)
    }

    /// Begins a tensor, whose bytes follow as pieces.
    fn tensor(&mut self, name: &str, dtype: Dtype, shape: &[usize], length: usize) -> &mut Parts {
        self.0.bytes(name.as_bytes()).bytes(format!("{dtype:?} {shape:?}").as_bytes()).begin(length as u64)
    }
}

/// Writes named tensors, with a description under this program's key: a JSON object that is not empty. The bytes are
/// those that the library's `serialize` gives, without being held in memory. What stood there before takes the name
/// `former`, if there is one.
pub fn write(
    path: &Path,
    former: Option<&Path>,
    mut tensors: Vec<(String, Entry)>,
    description: &serde_json::Value,
) -> Result<()> {
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let description = description.to_string();
    let mut content = Content::new(&description);
    let (mut infos, mut end) = (Vec::with_capacity(tensors.len()), 0);
    for (name, entry) in &tensors {
        let (begin, shape, dtype) = (end, entry.shape.clone(), Dtype::F32);
        end += 4 * entry.floats.len();
        let parts = content.tensor(name, dtype, &shape, end - begin);
        entry.each_block(|bytes| -> Result<()> {
            parts.piece(bytes);
            Ok(())
        })?;
        infos.push((name.clone(), TensorInfo { dtype, shape, data_offsets: (begin, end) }));
    }
    let open = description.strip_suffix('}').unwrap_or(&description);
    let text = format!("{open}{DIGEST}{}\"}}", content.0.finish());
    let metadata = Metadata::new(Some(HashMap::from([(KEY.to_owned(), text)])), infos).map_err(Error::write(path))?;
    let mut header = serde_json::to_vec(&metadata).map_err(Error::write(path))?;
    header.resize(header.len().next_multiple_of(8), b' '); // so that the tensors are aligned
    files::replace_by(path, former, |file| {
        let failed = |error| Error::io(path, "write it")(error);
        let mut file = BufWriter::new(file);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        file.write_all(&header).map_err(failed)?;
        for (_, entry) in &tensors {
            entry.each_block(|bytes| file.write_all(bytes)).map_err(failed)?;
        }
        file.flush().map_err(failed)
    })
}

/// A file of tensors, looked into.
pub struct Parsed<'a> {
    /// Its tensors.
    pub tensors: SafeTensors<'a>,
    /// Its description as it stands, without the digest.
    pub description: String,
    /// Whether it has a digest, which then is right.
    pub is_checked: bool,
}

/// Looks into the bytes of a file of tensors, and compares them with the digest that it holds. Files that others wrote
/// need not have one.
pub fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Parsed<'a>> {
    let broken =
        |e: &dyn std::fmt::Display| Error::format(path, format!("not readable as safetensors ({e})"), "weights");
    let (_, metadata) = guarded(path, || SafeTensors::read_metadata(bytes))?.map_err(|e| broken(&e))?;
    let tensors = guarded(path, || SafeTensors::deserialize(bytes))?.map_err(|e| broken(&e))?;
    let text = metadata.metadata().as_ref().and_then(|all| all.get(KEY)).ok_or_else(|| {
        Error::format(path, format!("no `{KEY}` in its metadata"), "weights that `multidigit run train` wrote")
    })?;
    let Some((open, rest)) = text.rsplit_once(DIGEST) else {
        return Ok(Parsed { tensors, description: text.clone(), is_checked: false });
    };
    let description = format!("{open}}}");
    let mut content = Content::new(&description);
    for name in metadata.offset_keys() {
        let view = tensors.tensor(&name).map_err(|e| broken(&e))?;
        content.tensor(&name, view.dtype(), view.shape(), view.data().len()).piece(view.data());
    }
    if rest != format!("{}\"}}", content.0.finish()) {
        let expected = "the file as it was written; restore it from a copy, or train the run again with --force";
        return Err(Error::format(path, "its content is not what its own digest says", expected));
    }
    Ok(Parsed { tensors, description, is_checked: true })
}

/// The values of a tensor of a file.
pub fn floats(path: &Path, tensors: &SafeTensors, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let missing = |_| Error::format(path, format!("no tensor `{name}`"), format!("one of shape {shape:?}"));
    let view = tensors.tensor(name).map_err(missing)?;
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        let found = format!("tensor `{name}` of {:?} {:?}", view.dtype(), view.shape());
        return Err(Error::format(path, found, format!("F32 {shape:?}")));
    }
    Ok(view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Sets all parameters and buffers of a network to those of a file, under their names behind `prefix`, once `check` has
/// let them pass.
pub fn restore(
    path: &Path,
    tensors: &SafeTensors,
    prefix: &str,
    network: &Network,
    check: impl Fn(&str, &[f32]) -> Result<()>,
) -> Result<()> {
    for (name, var) in all(network) {
        let values = floats(path, tensors, &format!("{prefix}{name}"), var.dims())?;
        check(name, &values)?;
        var.set(&tensor(values, var.dims())?)?;
    }
    Ok(())
}

/// What a description in a file says, if a network could be so.
pub fn describe(path: &Path, text: &str) -> Result<Description> {
    let description: Description = serde_json::from_str(text)
        .map_err(|e| Error::format(path, format!("metadata `{text}` ({e})"), "a description of the network"))?;
    let Shape { digits, height, width, .. } = description.shape;
    let sizes = 1..=MAX_SIZE;
    if !(1..=MAX_DIGITS).contains(&digits) || !sizes.contains(&height) || !sizes.contains(&width) {
        let expected = format!("1 to {MAX_DIGITS} digits and 1 to {MAX_SIZE} pixels in each direction");
        return Err(Error::format(path, format!("{digits} digits on {height}x{width} pixels"), expected));
    }
    let Description { mean, std, .. } = description;
    // as they are used, in single precision
    if !((mean as f32).is_finite() && (std as f32).is_finite() && std as f32 > 0.0) {
        let found = format!("pixels normalised by mean {mean} and standard deviation {std}");
        return Err(Error::format(path, found, "a finite mean, and a finite standard deviation above 0"));
    }
    Ok(description)
}

/// Rebuilds a network from its weights, to compute on a device in float32. `recorded` is the digest of the file in the
/// record of its run, if it has one.
///
/// # Errors
/// [`Error::Format`] for a file that is not the recorded one, not what its own digest says, or no network: its values
/// must be finite.
pub fn load(path: &Path, recorded: Option<Digest>, device: &Device) -> Result<(Network, Description)> {
    let bytes = files::read(path)?;
    if let Some(recorded) = recorded {
        let found = Digest::of(&bytes);
        if found != recorded {
            let found = format!("its bytes are not those that were recorded (digest {})", found.short());
            let advice = "restore the file from a copy, or train the run again with --force";
            return Err(Error::format(path, found, format!("{}; {advice}", recorded.short())));
        }
    }
    let Parsed { tensors, description, .. } = parse(path, &bytes)?;
    let description = describe(path, &description)?;
    check_size(path, &tensors, description.shape)?;
    // dropout has no part in evaluation, and the seed's values are all replaced
    let network = Network::on(device, DType::F32, description.shape, 0, 0.0)?;
    restore(path, &tensors, "", &network, |name, values| {
        match values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
            None => Ok(()),
            Some((at, value)) => {
                let found = format!("tensor `{name}` holds {value} at position {at}");
                Err(Error::format(path, found, "finite numbers; such weights answer nothing"))
            }
        }
    })?;
    network.store().send()?;
    Ok((network, description))
}

/// Refuses tensors that cannot be those of a network before the network is made: its description can ask for any size.
fn check_size(path: &Path, tensors: &SafeTensors, shape: Shape) -> Result<()> {
    let (numbers, largest) =
        (tensors.iter().map(|(_, view)| view.data().len() as u64 / 4).sum::<u64>(), shape.largest());
    if numbers < largest {
        let Shape { model, digits, height, width } = shape;
        let found = format!("{numbers} numbers for {model} with {digits} digits on {height}x{width} pixels");
        return Err(Error::format(path, found, format!("at least the {largest} of its largest tensor")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{DROPOUT, Model};

    const SHAPE: Shape = Shape { model: Model::ResNet, digits: 1, height: 12, width: 12 };

    fn description() -> Description {
        Description { shape: SHAPE, mean: 0.1307, std: 0.3081, epoch: 3 }
    }

    /// A file of weights, and its path.
    fn saved(change: impl Fn(&mut Description)) -> (tempfile::TempDir, std::path::PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("best.safetensors");
        let network = Network::on(&Device::Cpu, DType::F32, SHAPE, 0, DROPOUT).unwrap();
        let mut description = description();
        change(&mut description);
        save(&path, &network, &description).unwrap();
        (home, path)
    }

    fn refusal(path: &Path) -> String {
        let error = load(path, None, &Device::Cpu).err().unwrap().to_string();
        error.replace(&path.display().to_string(), "P")
    }

    #[test]
    fn the_bytes_are_those_of_the_library_and_nothing_is_left_beside_them() {
        let (home, path) = saved(|_| ());
        let bytes = files::read(&path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let theirs = safetensors::serialize(tensors.iter(), metadata.metadata().clone()).unwrap();
        assert!(bytes == theirs);
        assert_eq!(files::walk_all(home.path()).unwrap().len(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let plain = home.path().join("plain");
            std::fs::File::create(&plain).unwrap();
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&plain), "anybody may read them whom the user lets read files");
        }
    }

    #[test]
    fn every_damage_to_a_file_is_found_or_changes_no_value() {
        let (_home, path) = saved(|_| ());
        let sound = files::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
        // all of the first bytes of the header, its end, where the digest is, and places all over the tensors
        let data = (header..sound.len()).step_by((sound.len() - header) / 40);
        for at in (0..200).chain(header - 120..header).chain(data) {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            let Ok(parsed) = parse(&path, &bytes) else { continue };
            let whole = parse(&path, &sound).unwrap();
            assert!(at < header && !parsed.is_checked || parsed.description == whole.description, "byte {at}");
            let same = |(name, view): (&str, safetensors::tensor::TensorView)| {
                parsed.tensors.tensor(name).is_ok_and(|other| other == view)
            };
            assert!(whole.tensors.iter().all(same), "byte {at}");
        }
    }

    #[test]
    fn weights_that_are_not_what_they_say_are_refused() {
        let (_home, path) = saved(|_| ());
        let sound = files::read(&path).unwrap();
        load(&path, Some(Digest::of(&sound)), &Device::Cpu).unwrap();
        let other = load(&path, Some(Digest::of(b"abc")), &Device::Cpu).err().unwrap().to_string();
        let advice = "expected 6437b3ac3846; restore the file from a copy, or train the run again with --force";
        let words = format!("not those that were recorded (digest {}); {advice}", Digest::of(&sound).short());
        assert!(other.ends_with(&words), "{other}");
        let mut damaged = sound;
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(
            refusal(&path),
            "`P`: its content is not what its own digest says; expected the file as it was written; restore it from a \
             copy, or train the run again with --force"
        );
    }

    #[test]
    fn weights_that_answer_nothing_are_refused() {
        let normalised = "`P`: pixels normalised by mean 0.1307 and standard deviation";
        let expected = "expected a finite mean, and a finite standard deviation above 0";
        assert_eq!(refusal(&saved(|d| d.std = 0.0).1), format!("{normalised} 0; {expected}"));
        assert_eq!(refusal(&saved(|d| d.std = -1.0).1), format!("{normalised} -1; {expected}"));
        assert!(refusal(&saved(|d| d.std = 1e-50).1).ends_with(expected));
        assert!(refusal(&saved(|d| d.mean = 1e300).1).ends_with(expected));
        let (_home, path) = saved(|_| ());
        let (network, description) = load(&path, None, &Device::Cpu).unwrap();
        let (name, var) = all(&network).next().unwrap();
        let mut values = Floats::of(var).unwrap().to_vec();
        for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            values[7] = value;
            var.set(&tensor(values.clone(), var.dims()).unwrap()).unwrap();
            save(&path, &network, &description).unwrap();
            let words = format!("`P`: tensor `{name}` holds {word} at position 7; expected finite numbers");
            assert_eq!(refusal(&path), format!("{words}; such weights answer nothing"));
        }
    }

    #[test]
    fn weights_without_a_digest_are_read_as_they_are() {
        let (_home, path) = saved(|_| ());
        let bytes = files::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let text = serde_json::json!(description()).to_string();
        let plain = safetensors::serialize(tensors.iter(), Some(HashMap::from([(KEY.to_owned(), text)]))).unwrap();
        std::fs::write(&path, plain).unwrap();
        assert_eq!(load(&path, None, &Device::Cpu).unwrap().1, description());
    }
}
