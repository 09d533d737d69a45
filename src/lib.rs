pub mod digest;
pub mod error;
pub mod files;
pub mod progress;
pub mod raw;
pub mod rng;
