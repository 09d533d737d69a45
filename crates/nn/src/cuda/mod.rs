//! The operators on an NVIDIA GPU: convolutions use cuDNN, matrix products use cuBLAS, and all others
//! use kernels of this crate.
//!
//! A file that has the name of a file of [`super::cpu`] is its counterpart; [`ops`] connects them to the tape. All work
//! goes to one stream of the device, in the order of the calls, and a function waits for it only if its documentation
//! says so. The source of the kernels, `kernels/*.cu`, is compiled by NVRTC for the GPU in use when it is first needed.
//! The binary can therefore be built without choosing a GPU, and bfloat16 and float kernels share one source.

pub mod adam;
pub mod average;
pub mod conv;
mod conv_one_channel;
mod descriptor;
pub mod epilogue;
mod kernels;
pub mod linear;
pub mod loss;
pub mod norm;
pub mod ops;
pub mod plans;
pub mod pooling;
pub mod session;

pub use kernels::{Argument, Form, THREADS, compile_all};
pub use session::Session;
