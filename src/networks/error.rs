//! The errors of `multidigit_nn` as errors of this program.

use crate::error::Error;

/// An error of a network. A refused tensor operation is a defect of this program.
#[derive(Debug, thiserror::Error)]
#[error("{source}{}", if matches!(source, multidigit_nn::Error::Tensor { .. }) { "; please report this" } else { "" })]
pub struct NetworkError {
    /// The error of the crate `multidigit_nn`.
    #[from]
    pub source: multidigit_nn::Error,
}

impl From<multidigit_nn::Error> for Error {
    fn from(source: multidigit_nn::Error) -> Error {
        Error::of_area(NetworkError { source })
    }
}

impl From<candle_core::Error> for Error {
    fn from(source: candle_core::Error) -> Error {
        Error::from(multidigit_nn::Error::from(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_tensor_operation_asks_for_a_report() {
        let error = Error::from(candle_core::Error::Msg("no such shape".to_owned()));
        assert_eq!(error.to_string(), "a tensor operation failed: no such shape; please report this");
    }
}
