//! The four files of a set: their names, their places in a folder, and the digests of MNIST's.
//!
//! This module looks at names only and opens no file.

use std::path::{Path, PathBuf};

use super::idx::Kind;

/// One of the four files.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The name on the original site, without `.gz`.
    pub name: &'static str,
    /// The name that other copies of the set use, without `.gz`.
    pub other_name: &'static str,
    /// The content of the file.
    pub kind: Kind,
    /// The SHA-256 of MNIST's file, unpacked.
    pub mnist_sha256: &'static str,
}

/// Train images, train labels, test images, test labels. The digests are those of the files that the MNIST site served.
/// The MD5 sums of the same files, compressed, are those that torchvision checks.
pub const PARTS: [Part; 4] = [
    Part {
        name: "train-images-idx3-ubyte",
        other_name: "train-images.idx3-ubyte",
        kind: Kind::Images,
        mnist_sha256: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    },
    Part {
        name: "train-labels-idx1-ubyte",
        other_name: "train-labels.idx1-ubyte",
        kind: Kind::Labels,
        mnist_sha256: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    },
    Part {
        name: "t10k-images-idx3-ubyte",
        other_name: "t10k-images.idx3-ubyte",
        kind: Kind::Images,
        mnist_sha256: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    },
    Part {
        name: "t10k-labels-idx1-ubyte",
        other_name: "t10k-labels.idx1-ubyte",
        kind: Kind::Labels,
        mnist_sha256: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
];

impl Part {
    /// The name under which this crate writes the file.
    pub fn packed_name(&self) -> String {
        format!("{}.gz", self.name)
    }

    /// The path of the file in a folder, if it exists there. If several exist, the first in this order is returned: the
    /// original name with `.gz`, the other name with `.gz`, the original name, the other name.
    pub fn find(&self, folder: &Path) -> Option<PathBuf> {
        let packed = [self.packed_name(), format!("{}.gz", self.other_name)];
        let plain = [self.name.to_owned(), self.other_name.to_owned()];
        packed.into_iter().chain(plain).map(|name| folder.join(name)).find(|path| path.is_file())
    }
}

/// The paths of the four files of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Train images, train labels, test images, test labels.
    pub paths: [PathBuf; 4],
}

impl Files {
    /// The four files in a folder, or the names of the missing ones.
    pub fn find(folder: &Path) -> Result<Files, Vec<&'static str>> {
        let found = PARTS.map(|part| part.find(folder));
        match found {
            [Some(a), Some(b), Some(c), Some(d)] => Ok(Files { paths: [a, b, c, d] }),
            found => {
                Err(PARTS.iter().zip(found).filter(|(_, path)| path.is_none()).map(|(part, _)| part.name).collect())
            }
        }
    }
}
