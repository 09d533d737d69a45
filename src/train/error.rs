//! Errors of training.

use crate::error::Error;
use crate::networks::NetworkError;

/// Training cannot continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant names its fields")]
pub enum TrainError {
    /// The loss is NaN or infinite.
    #[error(
        "training stopped at step {step}: the loss is {loss} at learning rate {rate}; weights saved before stay; try a smaller `train.learning_rate`, or another `train.seed`"
    )]
    NotFinite { step: u64, loss: f64, rate: f64 },
    /// A split that must hold images is empty.
    #[error("the {split} split holds no images; give it a share in `plan.split.ratio`")]
    EmptySplit { split: String },
    /// The GPU's memory is too small.
    #[error("the GPU's memory does not hold {what}; try {advice}")]
    DeviceMemory { what: String, advice: &'static str },
}

impl From<TrainError> for Error {
    fn from(error: TrainError) -> Error {
        Error::of_area(error)
    }
}

/// Converts a GPU's out-of-memory error into one that says `what` did not fit and gives `advice`. Any other error is
/// returned unchanged.
pub fn or_device_memory(error: Error, what: impl FnOnce() -> String, advice: &'static str) -> Error {
    match error.area::<NetworkError>() {
        Some(network) if network.source.is_out_of_memory() => TrainError::DeviceMemory { what: what(), advice }.into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpus_refusal_of_memory_names_what_was_too_much_and_what_to_try() {
        let convert = |error: Error| {
            let advice = "a smaller `train.batch_size`, or `train.precision` bf16";
            or_device_memory(error, || "a step of 1024 images".to_owned(), advice).to_string()
        };
        let full = "the GPU's memory does not hold a step of 1024 images; try a smaller `train.batch_size`, or \
                    `train.precision` bf16";
        let cuda = |message: &str| Error::from(multidigit_nn::Error::Cuda { message: message.to_owned() });
        assert_eq!(convert(cuda("CUBLAS_STATUS_ALLOC_FAILED")), full);
        let other = cuda("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)");
        assert_eq!(convert(other), "the GPU could not be used: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)");
        assert_eq!(convert(Error::Interrupted), "interrupted; what was finished before stays");
    }

    #[test]
    fn a_refused_tensor_operation_asks_for_a_report() {
        let error = Error::from(candle_core::Error::Msg("no such shape".to_owned()));
        assert_eq!(error.to_string(), "a tensor operation failed: no such shape; please report this");
    }
}
