//! `multidigit preview`: a picture of the augmentation of a few images of the data set.

use std::path::PathBuf;

use crate::augment::preview;
use crate::dataset::is_shard_of;
use crate::error::{Error, Result};
use crate::files;
use crate::pipeline::{Pipeline, Stage};

/// Draws a picture of the augmentation of `rows` training samples in the first `epochs` epochs. The data set must be
/// fresh. The picture is written to `out`, or to the folder of artifacts if `out` is `None`. Returns its path.
///
/// # Errors
/// [`PipelineError::InputStale`](crate::pipeline::PipelineError::InputStale). [`Error::Format`] if the data
/// set is damaged, if `out` lies in the folder of a stage or is no regular file, or if the default file was
/// not drawn by this program.
pub fn augment(pipeline: &Pipeline, rows: usize, epochs: usize, out: Option<PathBuf>) -> Result<PathBuf> {
    pipeline.require_fresh(&[Stage::Dataset], "preview")?;
    pipeline.check_outputs(Stage::Dataset, |path| is_shard_of(path, "train"))?;
    let picture = preview::draw(&pipeline.config().augment, &pipeline.folder(Stage::Dataset), rows, epochs)?;
    let out = match out {
        Some(out) => {
            pipeline.require_apart(&out)?;
            out
        }
        None => {
            let out = pipeline.artifacts().join(preview::FILE);
            if out.is_file() && !preview::is_ours(&files::read(&out)?) {
                let expected = "an earlier preview, or nothing, under this name; name another file with --out";
                return Err(Error::format(&out, "a file that this program did not draw", expected));
            }
            out
        }
    };
    files::write_among_users(&out, &preview::png(&picture))?;
    Ok(out)
}
