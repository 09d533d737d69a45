//! The operators on an NVIDIA GPU: convolutions through cuDNN, products through cuBLAS, the rest kernels of this crate.
//!
//! The files beside those of [`super::cpu`] have the same names and tasks; [`ops`] joins them to the tape. All work goes
//! to one stream of the device in the order of the calls, and nothing here waits for it but what says so. The kernels'
//! source is `kernels/*.cu`; it is compiled when the program starts, by NVRTC, for the GPU that is there: so the binary
//! needs no GPU's name when it is built, and bfloat16 and float kernels come from one text.

pub mod adam;
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
pub mod session;

pub use kernels::{Argument, Form, THREADS, compile_all};
pub use session::Session;
