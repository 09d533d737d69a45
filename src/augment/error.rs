//! Ways in which a picture of the augmentation can fail.

use crate::error::Error;

/// A picture of the augmentation cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant names its fields")]
pub enum AugmentError {
    /// A picture that would be too large.
    #[error("a picture of {width}x{height} pixels; expected at most {limit} pixels: take fewer --rows or --epochs")]
    PictureSize { width: u64, height: u64, limit: u64 },
}

impl From<AugmentError> for Error {
    fn from(error: AugmentError) -> Error {
        Error::of_area(error)
    }
}
