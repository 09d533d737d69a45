//! The errors of this crate.

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The shapes, types or devices of an operator's tensors do not match, or candle returned an error.
    #[error("a tensor operation failed: {message}")]
    Tensor {
        /// The mismatch that was found, or candle's message.
        message: String,
    },
    /// The GPU, its driver or one of its libraries returned an error.
    #[error("the GPU could not be used: {message}")]
    Cuda {
        /// The message of the driver or library.
        message: String,
    },
    /// A setting has an invalid value.
    #[error("`{name}`: found {found}; expected {expected}")]
    Setting {
        /// The name of the field.
        name: &'static str,
        /// The value found.
        found: f64,
        /// The valid values.
        expected: &'static str,
    },
    /// A weights file does not hold the expected content.
    #[error("{found}; expected {expected}")]
    Weights {
        /// What the file holds.
        found: String,
        /// The expected content.
        expected: String,
    },
    /// A safetensors file has no description, so this crate did not write it.
    #[error("no `{key}` in its metadata; expected weights with a description")]
    NoDescription {
        /// The key under which the description stands.
        key: &'static str,
    },
    /// A weights file has changed since it was written.
    #[error("its content is not what its own digest says; expected the file as it was written")]
    Damaged,
    /// The operating system returned an error for a file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    /// Makes an [`Error::Tensor`].
    pub fn tensor(message: impl Into<String>) -> Error {
        Error::Tensor { message: message.into() }
    }

    /// Makes an [`Error::Weights`].
    pub fn weights(found: impl Into<String>, expected: impl Into<String>) -> Error {
        Error::Weights { found: found.into(), expected: expected.into() }
    }

    /// Whether the GPU ran out of memory.
    pub fn is_out_of_memory(&self) -> bool {
        /// The strings by which the driver, cuBLAS and cuDNN report a lack of memory.
        const WORDS: [&str; 3] = ["OUT_OF_MEMORY", "ALLOC_FAILED", "ALLOCATION_FAILED"];
        match self {
            Error::Cuda { message } | Error::Tensor { message } => WORDS.iter().any(|word| message.contains(word)),
            _ => false,
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(mut source: candle_core::Error) -> Error {
        // with RUST_BACKTRACE set, the message would include a backtrace
        while let candle_core::Error::WithBacktrace { inner, .. } = source {
            source = *inner;
        }
        Error::Tensor { message: source.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backtrace_is_not_part_of_a_message() {
        let inner = Box::new(candle_core::Error::Msg("no such shape".to_owned()));
        let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
        let error = Error::from(candle_core::Error::WithBacktrace { inner, backtrace });
        assert_eq!(error.to_string(), "a tensor operation failed: no such shape");
    }

    #[test]
    fn a_gpus_lack_of_memory_is_recognised_in_the_words_of_each_library() {
        // the errors of the driver, cuBLAS and cuDNN as cudarc prints them, directly or through candle
        for message in [
            r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#,
            "CUBLAS_STATUS_ALLOC_FAILED",
            "cuDNN: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        ] {
            assert!(Error::Cuda { message: message.to_owned() }.is_out_of_memory());
            assert!(Error::tensor(message).is_out_of_memory());
        }
        assert!(!Error::Cuda { message: "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)".to_owned() }.is_out_of_memory());
        assert!(!Error::weights("OUT_OF_MEMORY", "a file").is_out_of_memory());
    }
}
