//! Tar files for WebDataset, `SPLIT-NNNNNN.tar`: for each sample the members `NAME.png`, `NAME.cls` with the label, and
//! `NAME.json` with all columns.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::{Group, Job, Sample};
use crate::error::{Error, Result};

/// The maximum number of samples of a tar file: about 40 MB with images of 64x64 pixels.
const SAMPLES: usize = 10_000;

/// Writes the files.
pub(super) fn write(job: &Job) -> Result<()> {
    for (split, shards) in job.splits {
        let mut tars = Tars { stem: job.out.join(split), files: 0, samples: 0, open: None };
        job.in_order(
            shards,
            |position| Group::read(shards, position),
            |group| group.iter().try_for_each(|sample| tars.append(&sample)),
        )?;
        tars.close()?;
    }
    Ok(())
}

/// The tar files of a split.
struct Tars {
    /// The path without the number and the extension.
    stem: PathBuf,
    /// The number of files begun.
    files: usize,
    /// The number of samples in the open file.
    samples: usize,
    open: Option<(PathBuf, Builder<BufWriter<File>>)>,
}

impl Tars {
    fn append(&mut self, sample: &Sample) -> Result<()> {
        if self.samples == SAMPLES {
            self.close()?;
        }
        let (path, tar) = match &mut self.open {
            Some(open) => open,
            none => {
                let path = PathBuf::from(format!("{}-{:06}.tar", self.stem.display(), self.files));
                let file = File::create(&path).map_err(Error::io(&path, "create it"))?;
                self.files += 1;
                none.insert((path, Builder::new(BufWriter::new(file))))
            }
        };
        let columns = json!({
            "label": sample.label, "digits": sample.digits, "index": sample.index,
            "source_index": sample.sources, "boxes": sample.boxes,
        });
        let (label, columns) = (sample.label.to_string(), columns.to_string());
        for (extension, bytes) in [("png", sample.png), ("cls", label.as_bytes()), ("json", columns.as_bytes())] {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            // without time and owner, the same samples give the same bytes
            header.set_mtime(0);
            tar.append_data(&mut header, format!("{}.{extension}", sample.name()), bytes)
                .map_err(Error::io(path, "write it"))?;
        }
        self.samples += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.samples = 0;
        let Some((path, tar)) = self.open.take() else { return Ok(()) };
        let written = tar.into_inner().and_then(|out| out.into_inner().map_err(std::io::Error::from));
        written.map(drop).map_err(Error::io(&path, "write it"))
    }
}
