//! Errors of the preview image of the augmentation.

use crate::error::Error;

/// The preview image of the augmentation cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant names its fields")]
pub enum AugmentError {
    /// The image would be too large.
    #[error("a picture of {width}x{height} pixels; expected at most {limit} pixels: take fewer --rows or --epochs")]
    PictureSize { width: u64, height: u64, limit: u64 },
}

impl From<AugmentError> for Error {
    fn from(error: AugmentError) -> Error {
        Error::of_area(error)
    }
}
