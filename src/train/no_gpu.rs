//! Replaces training on a GPU in a program that was built without CUDA: every request for a GPU is an error.

use candle_core::Device;

use super::batch::Scores;
use super::learner::Learner;
use super::{Config, Data, Stretch};
use crate::error::Result;
use crate::networks::Network;
use multidigit_nn::Precision;

/// An open GPU. No value of this type exists in a program without CUDA.
pub enum Opened {}

/// Training on a GPU. No value of this type exists in a program without CUDA.
pub enum Gpu {}

/// Returns the error that this program was built without CUDA. `key` is the setting that requests a GPU.
pub fn open(key: &str, _: Precision, _: bool) -> Result<Opened> {
    Err(super::no_cuda(key))
}

impl Opened {
    /// The device of the GPU. Never called.
    pub fn device(&self) -> Device {
        match *self {}
    }
}

impl Gpu {
    /// Copies data and network to the GPU. Never called.
    pub fn new(opened: Opened, _: &Config, _: &Data, _: usize, _: &Learner, _: bool) -> Result<Gpu> {
        match opened {}
    }

    /// Copies the plan of an epoch to the GPU. Never called.
    pub fn begin(&mut self, _: &Network, _: &Data, _: usize, _: u64, _: &[[f32; 3]]) -> Result<()> {
        match *self {}
    }

    /// Runs steps on the GPU. Never called.
    pub fn steps(&mut self, _: &Network, _: [usize; 2], _: usize) -> Result<Stretch> {
        match *self {}
    }

    /// Scores the network on the GPU. Never called.
    pub fn score(&mut self, _: &Network, _: usize, _: impl FnMut(usize) -> Result<()>) -> Result<Scores> {
        match *self {}
    }

    /// Copies values and moments to the host. Never called.
    pub fn fetch(&self, _: &mut Learner, _: i32) -> Result<()> {
        match *self {}
    }
}
