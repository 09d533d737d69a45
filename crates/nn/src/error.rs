//! Every way in which this crate can fail.

/// The result of every function of this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operator was given tensors whose shapes, types or devices do not fit it, or the tensor library refused one.
    #[error("a tensor operation failed: {message}")]
    Tensor {
        /// What was refused.
        message: String,
    },
    /// The GPU, its driver or one of its libraries refused.
    #[error("the GPU could not be used: {message}")]
    Cuda {
        /// The answer of the driver or library.
        message: String,
    },
    /// A setting has a value that cannot work.
    #[error("`{name}`: found {found}; expected {expected}")]
    Setting {
        /// The name of the field.
        name: &'static str,
        /// Its value.
        found: f64,
        /// The values that work.
        expected: &'static str,
    },
    /// A file of weights does not hold what it should.
    #[error("{found}; expected {expected}")]
    Weights {
        /// What the file holds.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// A file of tensors has no description, so that this crate did not write it.
    #[error("no `{key}` in its metadata; expected weights with a description")]
    NoDescription {
        /// The key under which the description stands.
        key: &'static str,
    },
    /// A file of weights has changed since it was written.
    #[error("its content is not what its own digest says; expected the file as it was written")]
    Damaged,
    /// The operating system refused to read or write a file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    /// An [`Error::Tensor`].
    pub fn tensor(message: impl Into<String>) -> Error {
        Error::Tensor { message: message.into() }
    }

    /// An [`Error::Weights`].
    pub fn weights(found: impl Into<String>, expected: impl Into<String>) -> Error {
        Error::Weights { found: found.into(), expected: expected.into() }
    }

    /// Whether a GPU refused memory.
    pub fn is_out_of_memory(&self) -> bool {
        /// The words of the driver, cuBLAS and cuDNN for a lack of memory.
        const WORDS: [&str; 3] = ["OUT_OF_MEMORY", "ALLOC_FAILED", "ALLOCATION_FAILED"];
        match self {
            Error::Cuda { message } | Error::Tensor { message } => WORDS.iter().any(|word| message.contains(word)),
            _ => false,
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(mut source: candle_core::Error) -> Error {
        // where RUST_BACKTRACE is set, the text would go on with a backtrace
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
        // as cudarc, and candle around it, write the answers of the driver, cuBLAS and cuDNN
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
