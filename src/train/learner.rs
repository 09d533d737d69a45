//! A network that learns: one step of the optimiser at a time.

use std::time::{Duration, Instant};

use super::Config;
use super::loader::Batch;
use crate::error::Result;
use crate::networks::{DROPOUT, Network, Shape};
use multidigit_nn::Mode;
use multidigit_nn::loss::loss;
use multidigit_nn::optim::Adam;
use multidigit_nn::tape::{Tape, Time, Value};

/// A network and its optimiser.
pub struct Learner {
    /// The network.
    pub network: Network,
    /// Its optimiser.
    pub adam: Adam,
    seed: u64,
}

/// The results of a step.
pub struct StepResult {
    /// The loss of the batch, before the step; where it is no finite number, no step was made.
    pub loss: f64,
    /// The logits of each head, before the step.
    pub logits: Vec<Value>,
    /// How long each operator took.
    pub times: Vec<Time>,
    /// How long the optimiser took.
    pub optimiser: Duration,
}

impl Learner {
    /// A fresh network for images of this shape.
    pub fn new(config: &Config, shape: Shape) -> Result<Learner> {
        Ok(Learner::of(config, Network::new(shape, config.seed, DROPOUT)?))
    }

    /// A network that has learned nothing.
    pub fn of(config: &Config, network: Network) -> Learner {
        let adam = Adam::new(network.store(), config.weight_decay);
        Learner { network, adam, seed: config.seed }
    }

    /// Forward, loss, backward, and a step of the optimiser, whose number and learning rate are given.
    pub fn step(&mut self, batch: &Batch, number: u64, rate: f64) -> Result<StepResult> {
        let store = self.network.store();
        let tape = Tape::new(store.parameters().len());
        let logits = self.network.forward(&batch.input, Mode::Train { seed: self.seed, step: number, tape: &tape })?;
        let loss = loss(&logits, &batch.targets)?;
        if !loss.value.is_finite() {
            return Ok(StepResult { loss: loss.value, logits, times: Vec::new(), optimiser: Duration::ZERO });
        }
        let gradients = tape.backward(&logits, loss.gradients)?;
        let begun = Instant::now();
        self.adam.step(store, &gradients.parameters, rate)?;
        Ok(StepResult { loss: loss.value, logits, times: gradients.times, optimiser: begun.elapsed() })
    }
}
