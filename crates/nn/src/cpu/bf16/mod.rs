//! Products whose factors are rounded to bfloat16 and whose sums are f32.

#[forbid(unsafe_code)]
pub mod conv;
#[forbid(unsafe_code)]
pub mod linear;
#[forbid(unsafe_code)]
mod outputs;
#[forbid(unsafe_code)]
mod pack;
#[forbid(unsafe_code)]
pub mod winograd;
