//! What stands for training on a GPU in a program that was built without CUDA: nothing but the error that says so.

use candle_core::Device;

use super::batch::Scores;
use super::learner::Learner;
use super::{Config, Data, Stretch};
use crate::error::Result;
use crate::networks::Network;
use multidigit_nn::Precision;

/// A GPU that was opened: no value of it exists in this program.
pub enum Opened {}

/// Training on a GPU: no value of it exists in this program.
pub enum Gpu {}

/// Returns the error that this program was built without CUDA; `key` is the setting that asks for a GPU.
pub fn open(key: &str, _: Precision, _: bool) -> Result<Opened> {
    Err(super::no_cuda(key))
}

impl Opened {
    /// As for a GPU.
    pub fn device(&self) -> Device {
        match *self {}
    }
}

impl Gpu {
    /// As for a GPU.
    pub fn new(opened: Opened, _: &Config, _: &Data, _: usize, _: &Learner, _: bool) -> Result<Gpu> {
        match opened {}
    }

    /// As for a GPU.
    pub fn begin(&mut self, _: &Network, _: &Data, _: usize, _: u64, _: &[[f32; 3]]) -> Result<()> {
        match *self {}
    }

    /// As for a GPU.
    pub fn steps(&mut self, _: &Network, _: [usize; 2], _: usize) -> Result<Stretch> {
        match *self {}
    }

    /// As for a GPU.
    pub fn score(&mut self, _: &Network, _: usize, _: impl FnMut(usize) -> Result<()>) -> Result<Scores> {
        match *self {}
    }

    /// As for a GPU.
    pub fn fetch(&self, _: &mut Learner, _: i32) -> Result<()> {
        match *self {}
    }
}
