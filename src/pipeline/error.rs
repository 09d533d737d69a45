//! Errors of the pipeline.

use std::path::PathBuf;

use crate::error::Error;

/// An error that keeps the pipeline from continuing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant names its fields")]
pub enum PipelineError {
    /// A stage was requested alone, or content was to be pinned, but an input of the stage is not fresh.
    #[error("{stage}: its input {input} is stale ({why}); run `multidigit run {input}` first")]
    InputStale { stage: &'static str, input: &'static str, why: String },
    /// A run of a sweep was requested alone, but its data are not fresh.
    #[error("{run}: its data are stale ({input}: {why}); run `multidigit sweep FILE --data {run}` first")]
    DataStale { run: String, input: &'static str, why: String },
    /// A training would overwrite a finished run.
    #[error(
        "`{}`: a finished run stands here, and this one differs ({differences}); give this one another name \
         (`train.run`), use that one as it stands (--run {run}), or train over it (--force)",
        path.display()
    )]
    RunStands { path: PathBuf, run: String, differences: String },
    /// A training would start an unfinished run over.
    #[error(
        "`{}`: an unfinished run stands here, and this one differs ({differences}); {way}, give this one another name \
         (`train.run`), or start over (--force)",
        path.display()
    )]
    UnfinishedStands { path: PathBuf, differences: String, way: String },
    /// The current data set is not the one that a run was trained on.
    #[error(
        "`{}`: {found}; run {run} was trained on another data set ({expected}); make that data set again with \
         `multidigit run dataset --run {run}`, which replaces this one, or name other data in `evaluate.data`",
        folder.display()
    )]
    OtherDataset { folder: PathBuf, run: String, found: String, expected: String },
    /// A stage without shards was asked for in parts.
    #[error("{stage}: cannot be made in parts; expected {expected}")]
    NoParts { stage: &'static str, expected: String },
    /// Not all shards of a stage were written by parts.
    #[error(
        "`{}`: {count} of the {of} shards of these settings and inputs are missing or damaged ({named}); write them with \
         `multidigit run {stage} --part I/N` and the same settings",
        folder.display()
    )]
    PartsMissing { stage: &'static str, folder: PathBuf, count: usize, of: usize, named: String },
    /// An object store holds the output of other settings or inputs.
    #[error(
        "`{}`: holds what other settings or inputs gave ({differences}); give another address, as nothing in an object store is \
         replaced",
        path.display()
    )]
    StoreStands { path: PathBuf, differences: String },
    /// Verification found differences, which have been listed.
    #[error("differences found: {differences}; what stands is not what its records and pipeline.lock say")]
    Differences { differences: usize },
}

impl From<PipelineError> for Error {
    fn from(error: PipelineError) -> Error {
        Error::of_area(error)
    }
}
