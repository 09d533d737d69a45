//! Matrix products through cuBLAS, for the fully connected layer and for 1x1 convolutions.

use candle_core::cuda_backend::cudarc::cublas::result::{CublasError, gemm_ex};
use candle_core::cuda_backend::cudarc::cublas::sys;
use sys::cublasOperation_t::{CUBLAS_OP_N as AS_IT_IS, CUBLAS_OP_T as TURNED};

use super::session::Session;
use crate::Precision;
use crate::error::{Error, Result};

impl From<CublasError> for Error {
    fn from(source: CublasError) -> Error {
        Error::Cuda { message: format!("cuBLAS: {:?}", source.0) }
    }
}

/// The shape of a fully connected layer: `(rows, inputs)` times the transpose of `(outputs, inputs)` gives
/// `(rows, outputs)`. The addresses that its methods take are those of tensors in these shapes, in the
/// session's type of activations.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// The number of rows of the batch.
    pub rows: usize,
    /// The number of input features.
    pub inputs: usize,
    /// The number of output features.
    pub outputs: usize,
}

/// A factor of a product: its address, whether it is transposed, and its leading dimension.
type Factor = (u64, sys::cublasOperation_t, usize);

impl Linear {
    /// Computes the output without bias.
    ///
    /// # Safety
    /// The addresses satisfy the conditions stated for [`Linear`].
    pub unsafe fn forward(&self, session: &Session, input: u64, weight: u64, output: u64) -> Result<()> {
        let (weight, input) = ((weight, TURNED, self.inputs), (input, AS_IT_IS, self.inputs));
        // SAFETY: guaranteed by the caller.
        unsafe { multiply(session, [self.outputs, self.rows, self.inputs], weight, input, output) }
    }

    /// Computes the gradient of the input.
    ///
    /// # Safety
    /// The addresses satisfy the conditions stated for [`Linear`].
    pub unsafe fn input_gradient(&self, session: &Session, weight: u64, grad: u64, input: u64) -> Result<()> {
        let (weight, grad) = ((weight, AS_IT_IS, self.inputs), (grad, AS_IT_IS, self.outputs));
        // SAFETY: guaranteed by the caller.
        unsafe { multiply(session, [self.inputs, self.rows, self.outputs], weight, grad, input) }
    }

    /// Computes the gradient of the weight.
    ///
    /// # Safety
    /// The addresses satisfy the conditions stated for [`Linear`].
    pub unsafe fn weight_gradient(&self, session: &Session, input: u64, grad: u64, weight: u64) -> Result<()> {
        let (input, grad) = ((input, AS_IT_IS, self.inputs), (grad, TURNED, self.outputs));
        // SAFETY: guaranteed by the caller.
        unsafe { multiply(session, [self.inputs, self.outputs, self.rows], input, grad, weight) }
    }
}

/// Multiplies two matrices into a row-major matrix `(n, m)`. cuBLAS is column-major, so that it sees every row-major
/// matrix as its transpose.
unsafe fn multiply(session: &Session, [m, n, k]: [usize; 3], a: Factor, b: Factor, into: u64) -> Result<()> {
    let (kind, compute) = match session.precision() {
        Precision::F32 => (sys::cudaDataType_t::CUDA_R_32F, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F),
        Precision::Tf32 => (sys::cudaDataType_t::CUDA_R_32F, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32),
        Precision::Bf16 => (sys::cudaDataType_t::CUDA_R_16BF, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F),
    };
    let (one, zero) = (1f32, 0f32);
    let algorithm = sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;
    let scalar = |value: &f32| std::ptr::from_ref(value).cast();
    // SAFETY: the caller's addresses are those of matrices in these shapes; alpha and beta are read
    // before the call returns.
    unsafe {
        gemm_ex(
            session.blas(),
            a.1,
            b.1,
            m as i32,
            n as i32,
            k as i32,
            scalar(&one),
            a.0 as *const _,
            kind,
            a.2 as i32,
            b.0 as *const _,
            kind,
            b.2 as i32,
            scalar(&zero),
            into as *mut _,
            kind,
            m as i32,
            compute,
            algorithm,
        )
    }?;
    Ok(())
}
