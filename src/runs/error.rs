//! Errors of named runs.

use std::path::PathBuf;

use crate::error::Error;

/// An error that keeps a run from being used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant names its fields")]
pub enum RunsError {
    /// A run that is to be evaluated or used for predictions is not finished.
    #[error(
        "`{}`: run {run} is not finished; `multidigit run train --run {run}` goes on with it",
        path.display()
    )]
    RunUnfinished { path: PathBuf, run: String },
    /// No run has the given name.
    #[error("`{}`: no run {run} stands here; {}", folder.display(), known_runs(runs))]
    NoSuchRun { folder: PathBuf, run: String, runs: Vec<String> },
}

impl From<RunsError> for Error {
    fn from(error: RunsError) -> Error {
        Error::of_area(error)
    }
}

fn known_runs(runs: &[String]) -> String {
    match runs {
        [] => "expected a trained run, and there is none; `multidigit run train` makes one".to_owned(),
        _ => format!("expected one of {}", runs.join(", ")),
    }
}
