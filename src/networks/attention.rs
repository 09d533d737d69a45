//! A network that finds the digits itself: for each digit, learned attention over the whole image selects the features
//! that one head reads. The layers have the names of the PyTorch reference implementation.

use multidigit_nn::Epilogue::Identity;
use multidigit_nn::layers::{Conv2d, Linear};
use multidigit_nn::{Mode, Result, Store, Value, ops};

use super::trunk::{self, Convolutions};
use super::{Architecture, CLASSES, Layers, Shape};

/// The trunk on the whole image, a convolution that scores every position for each digit, the mean of the features
/// weighted by the softmax of the scores, and one linear head for all digits.
pub const ARCHITECTURE: Architecture = Architecture {
    name: "attention",
    has_batch_norm: true,
    has_trunk: true,
    by_digit: Some("scores."),
    unfit: trunk::unfit,
    largest: |shape| shape.trunk().largest(),
    build: |store, shape, _| Ok(Box::new(Attention::new(store, shape)?)),
};

struct Attention {
    digits: usize,
    convolutions: Convolutions,
    scores: Conv2d,
    head: Linear,
}

impl Attention {
    fn new(store: &mut Store, shape: Shape) -> Result<Attention> {
        let features = shape.trunk().features();
        let convolutions = Convolutions::new(store, shape.trunk())?;
        let scores = Conv2d::padded(store, "scores", [features, shape.digits], 3, 1)?;
        let head = Linear::new(store, "head", features, CLASSES)?;
        Ok(Attention { digits: shape.digits, convolutions, scores, head })
    }
}

impl Layers for Attention {
    fn forward(&self, input: &Value, mode: Mode) -> Result<Vec<Value>> {
        let features = self.convolutions.forward(input, mode)?;
        let scores = self.scores.forward(&features, mode, Identity)?;
        let x = ops::attend(mode.at("attend"), &scores, &features)?;
        let x = self.head.forward(&x, mode)?;
        (0..self.digits).map(|digit| ops::every(mode.at("digits"), &x, digit, self.digits)).collect()
    }
}
