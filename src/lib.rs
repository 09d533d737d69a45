pub mod digest;
pub mod error;
pub mod files;
pub mod nn;
pub mod progress;
pub mod rng;
pub mod shards;
