//! NumPy arrays in one compressed file: for each split `x_SPLIT`, uint8 of shape (samples, height, width); `y_SPLIT`,
//! int64 labels; and `digits_SPLIT`, uint8 of shape (samples, digits).

use std::fs::File;
use std::io::{BufWriter, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::Job;
use crate::error::{Error, Result};

/// The name of the file.
pub const FILE: &str = "multidigit.npz";

/// Writes the file.
pub(super) fn write(job: &Job) -> Result<()> {
    let path = job.out.join(FILE);
    let file = File::create(&path).map_err(Error::io(&path, "create it"))?;
    let mut zip = ZipWriter::new(BufWriter::new(file));
    // the default time is a fixed one; entries of 4 GiB and more need the larger header
    let options = SimpleFileOptions::DEFAULT.compression_method(CompressionMethod::Deflated).large_file(true);
    let failed = |error: zip::result::ZipError| Error::io(&path, "write it")(error.into());
    for (split, shards) in job.splits {
        let layout = shards.layout();
        let rows = shards.rows();
        let (mut labels, mut digits) = (Vec::new(), Vec::new());
        zip.start_file(format!("x_{split}.npy"), options).map_err(failed)?;
        let mut put = |bytes: &[u8]| zip.write_all(bytes).map_err(Error::io(&path, "write it"));
        put(&header("|u1", &[rows, layout.height as u64, layout.width as u64]))?;
        job.in_order(
            shards,
            |position| shards.read(position),
            |samples| {
                labels.extend(samples.labels.iter().flat_map(|label| label.to_le_bytes()));
                digits.extend(samples.digits.iter().map(|&digit| digit as u8));
                put(&samples.images)
            },
        )?;
        let arrays = [("y", "<i8", &[rows][..], labels), ("digits", "|u1", &[rows, layout.digits as u64], digits)];
        for (name, kind, shape, bytes) in arrays {
            zip.start_file(format!("{name}_{split}.npy"), options).map_err(failed)?;
            let written = zip.write_all(&header(kind, shape)).and_then(|()| zip.write_all(&bytes));
            written.map_err(Error::io(&path, "write it"))?;
        }
    }
    let out = zip.finish().map_err(failed)?;
    out.into_inner().map(drop).map_err(|error| Error::io(&path, "write it")(error.into()))
}

/// The header of an array in the NPY format, version 1.0: its type and its shape as a Python literal, padded to 64 bytes.
/// See <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
fn header(kind: &str, shape: &[u64]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let mut text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}), }}", sizes.trim_end());
    let before = 10; // magic, version, length
    while (before + text.len() + 1) % 64 != 0 {
        text.push(' ');
    }
    text.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_multiple_of_64_bytes_and_states_its_own_length() {
        for shape in [&[7][..], &[64_000, 64, 64], &[1, 2]] {
            let header = header("|u1", shape);
            assert_eq!((header.len() % 64, header.last()), (0, Some(&b'\n')));
            assert_eq!(usize::from(header[8]) + 256 * usize::from(header[9]), header.len() - 10);
        }
        let text = String::from_utf8(header("<i8", &[7])[10..].to_vec()).unwrap();
        assert_eq!(text.trim_end(), "{'descr': '<i8', 'fortran_order': False, 'shape': (7,), }");
    }
}
