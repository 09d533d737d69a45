//! Weights files: the tensors of a network, and the description from which the network is rebuilt.
//!
//! The format is that of `multidigit_nn::weights`. The content of a file is checked against the
//! network that it describes.

use std::fmt::Display;
use std::path::Path;

use candle_core::Device;
use multidigit_nn::Precision;
use multidigit_nn::weights as format;
pub use multidigit_nn::weights::{Entry, Parsed};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::{Network, Shape};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::guard::guarded;

/// The maximum number of digits per image, so that a damaged file cannot request any amount of memory.
const MAX_DIGITS: usize = 64;
/// The maximum height and width of images, for the same reason.
const MAX_SIZE: usize = 4096;

/// The description of a network in its weights file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The network.
    #[serde(flatten)]
    pub shape: Shape,
    /// The mean that is subtracted from pixels in 0..=1.
    pub mean: f64,
    /// The standard deviation by which they are then divided.
    pub std: f64,
    /// The epoch, counted from 1, after which the network had these weights.
    pub epoch: usize,
}

/// Writes all parameters and buffers of a network.
pub fn save(path: &Path, network: &Network, description: &Description) -> Result<()> {
    write(path, None, format::entries(network.store())?, &serde_json::json!(description))
}

/// Writes named tensors with a description, a JSON object that must not be empty. An existing file at `path` is renamed
/// to `former`, if that is given.
pub fn write(
    path: &Path,
    former: Option<&Path>,
    tensors: Vec<(String, Entry)>,
    description: &serde_json::Value,
) -> Result<()> {
    files::replace_by(path, former, |file| {
        let mut file = std::io::BufWriter::new(file);
        format::write(&mut file, tensors, description).map_err(of_file(path))
    })
}

/// Converts an error of the format to an error about the file `path`.
fn of_file(path: &Path) -> impl Fn(multidigit_nn::Error) -> Error + '_ {
    let refuse = |found: &dyn Display, expected: &str| Error::format(path, found.to_string(), expected);
    move |error| match error {
        multidigit_nn::Error::Weights { found, expected } => refuse(&found, &expected),
        multidigit_nn::Error::NoDescription { key } => {
            let found = format!("no `{key}` in its metadata");
            refuse(&found, "weights that `multidigit run train` wrote")
        }
        multidigit_nn::Error::Damaged => refuse(
            &"its content is not what its own digest says",
            "the file as it was written; restore it from a copy, or train the run again with --force",
        ),
        multidigit_nn::Error::Io(source) => Error::io(path, "write it")(source),
        other => other.into(),
    }
}

/// Parses the bytes of a safetensors file and verifies its digest. A file written by another program may have none.
pub fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Parsed<'a>> {
    guarded(path, || format::parse(bytes))?.map_err(of_file(path))
}

/// The values of a tensor of a file. The tensor must have this shape.
pub fn floats(path: &Path, tensors: &SafeTensors, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    format::floats(tensors, name, shape).map_err(of_file(path))
}

/// The entry that copies a tensor of a file to another file.
pub fn entry(path: &Path, tensors: &SafeTensors, name: &str) -> Result<Entry<'static>> {
    Entry::of_file(tensors, name).map_err(of_file(path))
}

/// Sets all parameters and buffers of a network to the tensors of a file. The name of a tensor in the file is `prefix`
/// followed by its name in the network.
pub fn restore(path: &Path, tensors: &SafeTensors, prefix: &str, network: &Network) -> Result<()> {
    format::restore(tensors, prefix, network.store(), |_, _| Ok(())).map_err(of_file(path))
}

/// The description of a network, parsed from its text in a file.
///
/// # Errors
/// [`Error::Format`] if no network can have this description.
pub fn describe(path: &Path, text: &str) -> Result<Description> {
    let description: Description = serde_json::from_str(text)
        .map_err(|e| Error::format(path, format!("metadata `{text}` ({e})"), "a description of the network"))?;
    let Shape { digits, height, width, .. } = description.shape;
    let sizes = 1..=MAX_SIZE;
    if !(1..=MAX_DIGITS).contains(&digits) || !sizes.contains(&height) || !sizes.contains(&width) {
        let expected = format!("1 to {MAX_DIGITS} digits and 1 to {MAX_SIZE} pixels in each direction");
        return Err(Error::format(path, format!("{digits} digits on {height}x{width} pixels"), expected));
    }
    if let Some(trunk) = description.shape.trunk {
        trunk
            .check()
            .map_err(|(name, found, expected)| Error::format(path, format!("a trunk with {name} {found}"), expected))?;
    }
    let Description { mean, std, .. } = description;
    // the values are checked in single precision, in which they are used
    if !((mean as f32).is_finite() && (std as f32).is_finite() && std as f32 > 0.0) {
        let found = format!("pixels normalised by mean {mean} and standard deviation {std}");
        return Err(Error::format(path, found, "a finite mean, and a finite standard deviation above 0"));
    }
    Ok(description)
}

/// Rebuilds a network from its weights file, to compute on a device at a precision. `recorded` is the digest of the file in
/// the record of its run, if there is one.
///
/// # Errors
/// [`Error::Format`] if the file does not have the digest `recorded` or its own digest, does not describe a network, or
/// has values that are not finite.
pub fn load(
    path: &Path,
    recorded: Option<Digest>,
    device: &Device,
    precision: Precision,
) -> Result<(Network, Description)> {
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
    // dropout does nothing in evaluation, and all values drawn from the seed are replaced
    let network = Network::on(device, precision.dtype(), description.shape, 0, 0.0)?;
    format::restore(&tensors, "", network.store(), format::check_finite).map_err(of_file(path))?;
    network.store().send()?;
    Ok((network, description))
}

/// Sets a network to the values in the weights file of another network of the same architecture. If that network has
/// another number of digits, the parameters that there are for each digit keep their values; their names are returned.
///
/// # Errors
/// [`Error::Format`] if the file is damaged, is of another architecture, or has values that are not finite.
pub fn start_from(path: &Path, network: &Network) -> Result<Vec<String>> {
    let bytes = files::read(path)?;
    let Parsed { tensors, description, .. } = parse(path, &bytes)?;
    let (theirs, ours) = (describe(path, &description)?.shape, network.shape());
    if theirs.model != ours.model {
        let found = format!("weights of the network {}", theirs.model);
        return Err(Error::format(path, found, format!("those of {}, which `train.model` names", ours.model)));
    }
    let by_digit = ours.model.architecture().by_digit.filter(|_| theirs.digits != ours.digits);
    let is_kept = |name: &str| by_digit.is_some_and(|beginning| name.starts_with(beginning));
    let restored = format::restore_some(&tensors, "", network.store(), |name| !is_kept(name), format::check_finite);
    restored.map_err(of_file(path))?;
    network.store().send()?;
    let names = network.store().parameters().iter().map(|(name, _)| name.clone());
    Ok(names.filter(|name| is_kept(name)).collect())
}

/// Checks the sizes of the tensors before the network is made, because its description can request any size.
fn check_size(path: &Path, tensors: &SafeTensors, shape: Shape) -> Result<()> {
    let (numbers, largest) =
        (tensors.iter().map(|(_, view)| view.data().len() as u64 / 4).sum::<u64>(), shape.largest());
    if numbers < largest {
        let Shape { model, digits, height, width, trunk: _ } = shape;
        let found = format!("{numbers} numbers for {model} with {digits} digits on {height}x{width} pixels");
        return Err(Error::format(path, found, format!("at least the {largest} of its largest tensor")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use multidigit_nn::floats::{Floats, tensor};

    use super::*;
    use crate::networks::{DROPOUT, Model};

    const SHAPE: Shape = Shape { model: Model::ResNet, digits: 1, height: 12, width: 12, trunk: None };

    fn description() -> Description {
        Description { shape: SHAPE, mean: 0.1307, std: 0.3081, epoch: 3 }
    }

    /// A weights file in a temporary folder, and its path.
    fn saved(change: impl Fn(&mut Description)) -> (tempfile::TempDir, std::path::PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("best.safetensors");
        let network = Network::new(SHAPE, 0, DROPOUT).unwrap();
        let mut description = description();
        change(&mut description);
        save(&path, &network, &description).unwrap();
        (home, path)
    }

    fn refusal(path: &Path) -> String {
        let error = load(path, None, &Device::Cpu, Precision::F32).err().unwrap().to_string();
        error.replace(&path.display().to_string(), "P")
    }

    #[test]
    fn anybody_may_read_weights_whom_the_user_lets_read_files() {
        let (home, path) = saved(|_| ());
        assert_eq!(files::walk_all(home.path()).unwrap().len(), 1, "nothing is left beside the file");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let plain = home.path().join("plain");
            std::fs::File::create(&plain).unwrap();
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&plain));
        }
    }

    #[test]
    fn weights_that_are_not_what_they_say_are_refused() {
        let (_home, path) = saved(|_| ());
        let sound = files::read(&path).unwrap();
        load(&path, Some(Digest::of(&sound)), &Device::Cpu, Precision::F32).unwrap();
        let other = load(&path, Some(Digest::of(b"abc")), &Device::Cpu, Precision::F32).err().unwrap().to_string();
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
        let (network, description) = load(&path, None, &Device::Cpu, Precision::F32).unwrap();
        let (name, var) = format::all(network.store()).next().unwrap();
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
    fn a_network_starts_from_the_weights_of_another_and_keeps_heads_that_it_does_not_share() {
        let (_home, path) = saved(|_| ());
        let (theirs, _) = load(&path, None, &Device::Cpu, Precision::F32).unwrap();
        let values = |network: &Network| -> Vec<(String, Vec<f32>)> {
            let all = format::all(network.store()).map(|(name, var)| (name.clone(), Floats::of(var).unwrap().to_vec()));
            all.collect()
        };
        let new = |shape| Network::new(shape, 7, 0.0).unwrap();
        let same = new(SHAPE);
        assert_ne!(values(&same), values(&theirs));
        assert_eq!(start_from(&path, &same).unwrap(), [""; 0]);
        assert_eq!(values(&same), values(&theirs));

        let two = Shape { digits: 2, ..SHAPE };
        let (ours, fresh) = (new(two), values(&new(two)));
        let random = ["heads.0.weight", "heads.0.bias", "heads.1.weight", "heads.1.bias"];
        assert_eq!(start_from(&path, &ours).unwrap(), random);
        let shared = values(&theirs);
        for (name, values) in values(&ours) {
            let from = if name.starts_with("heads.") { &fresh } else { &shared };
            assert!(from.iter().any(|(other, expected)| *other == name && *expected == values), "{name}");
        }

        let refusal = start_from(&path, &new(Shape::new(Model::AlexNet, 2, [44, 44]))).unwrap_err().to_string();
        let expected = "weights of the network resnet; expected those of alexnet, which `train.model` names";
        assert!(refusal.ends_with(expected), "{refusal}");
    }

    #[test]
    fn weights_without_a_digest_are_read_as_they_are() {
        let (_home, path) = saved(|_| ());
        let bytes = files::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let text = serde_json::json!(description()).to_string();
        let plain =
            safetensors::serialize(tensors.iter(), Some(HashMap::from([(format::KEY.to_owned(), text)]))).unwrap();
        std::fs::write(&path, plain).unwrap();
        assert_eq!(load(&path, None, &Device::Cpu, Precision::F32).unwrap().1, description());
    }
}
