//! A network in training, and the steps of its optimiser.

use std::time::{Duration, Instant};

use candle_core::Device;

use super::Config;
use super::loader::Batch;
use crate::error::Result;
use crate::networks::{DROPOUT, Network, Shape};
use multidigit_nn::Mode;
use multidigit_nn::average::Average;
use multidigit_nn::loss::loss;
use multidigit_nn::optim::Adam;
use multidigit_nn::tape::{Tape, Time, Value};

/// A network and its optimiser.
pub struct Learner {
    /// The network.
    pub network: Network,
    /// The optimiser.
    pub adam: Adam,
    /// The moving average of the weights, if one is wanted.
    pub average: Option<Average>,
    seed: u64,
    label_smoothing: f64,
}

/// The results of a step.
pub struct StepResult {
    /// The loss of the batch before the step. If it is not finite, the step was not taken.
    pub loss: f64,
    /// The logits of each head before the step.
    pub logits: Vec<Value>,
    /// The time of each operator.
    pub times: Vec<Time>,
    /// The time of the optimiser and of the average.
    pub optimiser: Duration,
}

impl Learner {
    /// A new network for images of this shape, with a new optimiser.
    pub fn new(config: &Config, shape: Shape) -> Result<Learner> {
        Ok(Learner::of(config, Network::on(&Device::Cpu, config.precision.dtype(), shape, config.seed, DROPOUT)?))
    }

    /// A network with a new optimiser.
    pub fn of(config: &Config, network: Network) -> Learner {
        let adam = Adam::new(network.store(), config.weight_decay);
        Learner {
            network,
            adam,
            average: config.ema.map(Average::new),
            seed: config.seed,
            label_smoothing: config.label_smoothing,
        }
    }

    /// Runs the forward pass, the loss, the backward pass and a step of the optimiser, given its
    /// number and learning rate.
    pub fn step(&mut self, batch: &Batch, number: u64, rate: f64) -> Result<StepResult> {
        let store = self.network.store();
        let tape = Tape::new(store.parameters().len());
        let logits = self.network.forward(&batch.input, Mode::Train { seed: self.seed, step: number, tape: &tape })?;
        let loss = loss(&logits, &batch.targets, self.label_smoothing)?;
        if !loss.value.is_finite() {
            return Ok(StepResult { loss: loss.value, logits, times: Vec::new(), optimiser: Duration::ZERO });
        }
        let gradients = tape.backward(&logits, loss.gradients)?;
        let begun = Instant::now();
        self.adam.step(store, &gradients.parameters, rate)?;
        if let Some(average) = &mut self.average {
            average.step(store)?;
        }
        Ok(StepResult { loss: loss.value, logits, times: gradients.times, optimiser: begun.elapsed() })
    }
}
