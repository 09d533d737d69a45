//! Errors of evaluation.

use crate::error::Error;

/// A network cannot be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant names its fields")]
pub enum EvaluateError {
    /// The values of the network overflow.
    #[error("the network answers with numbers that are not finite; its weights, or their mean and std, are of no use")]
    NoAnswer,
}

impl From<EvaluateError> for Error {
    fn from(error: EvaluateError) -> Error {
        Error::of_area(error)
    }
}
