//! Errors of evaluation.

use crate::error::Error;

/// An error that keeps a network from being evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant names its fields")]
pub enum EvaluateError {
    /// The values that the network computes overflow.
    #[error("the network answers with numbers that are not finite; its weights, or their mean and std, are of no use")]
    NoAnswer,
}

impl From<EvaluateError> for Error {
    fn from(error: EvaluateError) -> Error {
        Error::of_area(error)
    }
}
