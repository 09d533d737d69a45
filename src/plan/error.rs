//! Errors of a plan.

use crate::error::Error;

/// A plan cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant names its fields")]
pub enum PlanError {
    /// The pool of glyphs has no glyph of a digit.
    #[error("{pool} holds no digit {digit}; every digit from 0 to 9 is needed")]
    GlyphsMissing { digit: u8, pool: String },
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Error {
        Error::of_area(error)
    }
}
