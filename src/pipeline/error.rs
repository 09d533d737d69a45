//! Errors of the pipeline.

use std::path::PathBuf;

use crate::error::Error;

/// The pipeline cannot continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant names its fields")]
pub enum PipelineError {
    /// A stage was requested on its own, or content was to be pinned, but an input of the stage is not fresh.
    #[error("{stage}: its input {input} is stale ({why}); run `multidigit run {input}` first")]
    InputStale { stage: &'static str, input: &'static str, why: String },
    /// A finished run would be overwritten by a training.
    #[error(
        "`{}`: a finished run stands here, and this one differs ({differences}); give this one another name \
         (`train.run`), use that one as it stands (--run {run}), or train over it (--force)",
        path.display()
    )]
    RunStands { path: PathBuf, run: String, differences: String },
    /// An unfinished run would be started over.
    #[error(
        "`{}`: an unfinished run stands here, and this one differs ({differences}); {way}, give this one another name \
         (`train.run`), or start over (--force)",
        path.display()
    )]
    UnfinishedStands { path: PathBuf, differences: String, way: String },
    /// The current data set is not the one on which a run was trained.
    #[error(
        "`{}`: {found}; run {run} was trained on another data set ({expected}); make that data set again with \
         `multidigit run dataset --run {run}`, which replaces this one, or name other data in `evaluate.data`",
        folder.display()
    )]
    OtherDataset { folder: PathBuf, run: String, found: String, expected: String },
    /// Verification found differences, which have been listed.
    #[error("differences found: {differences}; what stands is not what its records and pipeline.lock say")]
    Differences { differences: usize },
}

impl From<PipelineError> for Error {
    fn from(error: PipelineError) -> Error {
        Error::of_area(error)
    }
}
