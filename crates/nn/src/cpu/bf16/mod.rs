//! Products whose factors are rounded to bfloat16 and whose sums are f32.

#[forbid(unsafe_code)]
pub mod conv;
#[allow(unsafe_code, reason = "loads and instructions of AMX and AVX512-BF16, on offsets that are checked")]
pub mod kernel;
#[forbid(unsafe_code)]
pub mod linear;
#[forbid(unsafe_code)]
mod outputs;
#[forbid(unsafe_code)]
mod pack;
#[forbid(unsafe_code)]
pub mod winograd;
