//! The trunk of the networks `towers` and `attention`: four convolutions whose features do not depend on the position.

use multidigit_nn::Epilogue::{Relu, ReluPool};
use multidigit_nn::layers::{BatchNorm, Conv2d};
use multidigit_nn::{Mode, Result, Store, Value};
use serde::{Deserialize, Serialize};

/// If nothing of an image of this height and width is left after the trunk, which divides both by 8, a description of the
/// images that the trunk can take.
pub fn unfit(height: usize, width: usize) -> Option<&'static str> {
    if height.min(width) >= 8 { None } else { Some("images of at least 8x8 pixels") }
}

/// The settings of the trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Trunk {
    /// Channels of the first convolution; the second has twice as many, the third and the fourth four times as many.
    pub channels: usize,
    /// Columns by which the window of a digit extends beyond its slot on either side (towers), for ink that augmentation of
    /// whole images moves out of its slot.
    pub margin: usize,
    /// How the features of a window become one vector (towers): the `max` or the `mean` over all positions.
    pub pool: Pool,
}

/// How features become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The maximum over all positions.
    Max,
    /// The mean over all positions.
    Mean,
}

impl Default for Trunk {
    fn default() -> Trunk {
        Trunk { channels: 32, margin: 8, pool: Pool::Max }
    }
}

/// The largest number of channels, so that a damaged file cannot request any amount of memory.
const MAX_CHANNELS: usize = 512;
/// The largest margin, for the same reason.
const MAX_MARGIN: usize = 1024;

impl Trunk {
    /// Checks the values. An error holds the name of a value, the value, and what was expected.
    pub fn check(self) -> std::result::Result<(), (&'static str, usize, String)> {
        if !(1..=MAX_CHANNELS).contains(&self.channels) {
            return Err(("channels", self.channels, format!("1 to {MAX_CHANNELS}")));
        }
        if self.margin > MAX_MARGIN {
            return Err(("margin", self.margin, format!("at most {MAX_MARGIN}")));
        }
        Ok(())
    }

    /// The number of channels of the features.
    pub fn features(self) -> usize {
        4 * self.channels
    }

    /// The number of elements in the largest parameter.
    pub fn largest(self) -> u64 {
        (9 * self.features() * self.features()) as u64
    }
}

/// The layers of the trunk.
pub struct Convolutions(Vec<(Conv2d, BatchNorm)>);

impl Convolutions {
    /// Four 3x3 convolutions with batch norm and ReLU. The first one has stride 2, and max pools follow the second and
    /// the third.
    pub fn new(store: &mut Store, trunk: Trunk) -> Result<Convolutions> {
        let Trunk { channels, .. } = trunk;
        let mut layers = Vec::new();
        let mut inputs = 1;
        for (number, (times, stride)) in (1..).zip([(1, 2), (2, 1), (4, 1), (4, 1)]) {
            let outputs = times * channels;
            let conv = Conv2d::padded(store, &format!("conv{number}"), [inputs, outputs], 3, stride)?;
            layers.push((conv, BatchNorm::new(store, &format!("bn{number}"), outputs)?));
            inputs = outputs;
        }
        Ok(Convolutions(layers))
    }

    /// Maps `(images, height, width, 1)` to features of about an eighth of the height and width, with `4 * channels`
    /// channels.
    pub fn forward(&self, input: &Value, mode: Mode) -> Result<Value> {
        let mut x = input.clone();
        for ((conv, norm), epilogue) in self.0.iter().zip([Relu, ReluPool, ReluPool, Relu]) {
            x = norm.forward(&x, conv, mode, epilogue)?;
        }
        Ok(x)
    }
}
