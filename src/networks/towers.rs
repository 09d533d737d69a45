//! One network for every digit: the same layers read a window around the place of each digit. Since no layer sees two
//! digits whole, the network cannot learn pairs. The layers have the names of the PyTorch reference implementation.

use multidigit_nn::layers::Linear;
use multidigit_nn::{Mode, Result, Store, Value, ops};

use super::trunk::{self, Convolutions, Pool, Trunk};
use super::{Architecture, CLASSES, Layers, Shape};

/// The trunk on a window per digit, the maximum or the mean over all positions, and one linear head for all digits.
pub const ARCHITECTURE: Architecture = Architecture {
    name: "towers",
    has_batch_norm: true,
    has_trunk: true,
    by_digit: None,
    unfit: trunk::unfit,
    largest: |shape| shape.trunk().largest(),
    build: |store, shape, _| Ok(Box::new(Towers::new(store, shape)?)),
};

struct Towers {
    digits: usize,
    trunk: Trunk,
    convolutions: Convolutions,
    head: Linear,
}

impl Towers {
    fn new(store: &mut Store, shape: Shape) -> Result<Towers> {
        let trunk = shape.trunk();
        let convolutions = Convolutions::new(store, trunk)?;
        let head = Linear::new(store, "head", trunk.features(), CLASSES)?;
        Ok(Towers { digits: shape.digits, trunk, convolutions, head })
    }
}

impl Layers for Towers {
    fn forward(&self, input: &Value, mode: Mode) -> Result<Vec<Value>> {
        let x = ops::windows(input, self.digits, self.trunk.margin)?;
        let x = self.convolutions.forward(&x, mode)?;
        let x = match self.trunk.pool {
            Pool::Max => ops::max(mode.at("max"), &x)?,
            Pool::Mean => ops::mean(mode.at("mean"), &x)?,
        };
        let x = self.head.forward(&x, mode)?;
        (0..self.digits).map(|digit| ops::every(mode.at("digits"), &x, digit, self.digits)).collect()
    }
}
