//! Training on a GPU. The data set is stored on the GPU and batches are made there. After a first step has run, the
//! next one is captured as a CUDA graph and replayed, so that a step costs the CPU a single call.
//!
//! The host sends the order, random draws, learning rates and dropout keys of a whole epoch at once, and reads the sums
//! of several steps at their end. All random numbers are drawn on the host, from the same streams as on the CPU.

#[allow(clippy::indexing_slicing, reason = "fills structures of fixed sizes")]
pub mod batches;

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaGraph, DriverError, sys};
use rayon::prelude::*;

use self::batches::{DeviceImages, KERNELS};
use super::batch::{Normalise, Scores, order};
use super::learner::Learner;
use super::{Config, Data, Stretch};
use crate::error::{Error, Result};
use crate::networks::Network;
use crate::shards::Split;
use crate::train::or_device_memory;
use multidigit_nn::cuda::Session;
use multidigit_nn::cuda::adam::Adam;
use multidigit_nn::cuda::average::Average;
use multidigit_nn::cuda::loss::{Loss, Rows, Totals};
use multidigit_nn::ops::dropout_streams;
use multidigit_nn::tape::Tape;
use multidigit_nn::{Mode, Precision};

/// The maximum number of images in a forward pass without gradients.
const EVALUATION_BATCH: usize = 1000;
/// The maximum number of images in such a pass, as a multiple of the batch size. It keeps far less of each image than a
/// training step.
const EVALUATION_STEPS: usize = 4;

/// A network in training on a GPU, with its data.
pub struct Gpu {
    session: Arc<Session>,
    train: DeviceImages,
    val: DeviceImages,
    adam: Adam,
    average: Option<Average>,
    loss: Loss,
    batch_size: usize,
    scored: usize,
    images: usize,
    /// Whether the images of the current epoch are augmented.
    augments: bool,
    seed: u64,
    /// Whether a complete step has run, after which nothing is looked up, compiled or permanently allocated.
    warm: bool,
    /// The number of the epoch's first step in the run.
    first_step: u64,
    graph: Option<CudaGraph>,
}

/// An open GPU.
pub type Opened = Arc<Session>;

/// Opens the GPU that the setting `key` requests.
///
/// # Errors
/// A configuration error if no GPU can be used.
pub fn open(key: &str, precision: Precision, deterministic: bool) -> Result<Opened> {
    Session::open(0, precision, deterministic, KERNELS).map_err(|error| {
        let reason = match error {
            multidigit_nn::Error::Cuda { message } => message,
            other => other.to_string(),
        };
        Error::value(key, "cuda", format!("a GPU that the driver opens (it says: {reason}), or cpu"))
    })
}

impl Gpu {
    /// Copies the data to the GPU; the first `images` images of the training split are used. If a run is resumed, the
    /// state of the network and its optimiser is copied too.
    pub fn new(
        session: Opened,
        config: &Config,
        data: &Data,
        images: usize,
        learner: &Learner,
        resumed: bool,
    ) -> Result<Gpu> {
        let take = |split: &Split, count: usize, most: usize| {
            let Split { height, width, digits, .. } = *split;
            #[expect(clippy::indexing_slicing, reason = "no more images are used than there are")]
            let (pixels, targets) = (&split.images[..count * height * width], &split.targets[..count * digits]);
            let table = Normalise::new(config.mean, config.std);
            DeviceImages::new(&session, pixels, targets, table.table(), [height, width], most)
        };
        let store = learner.network.store();
        let mut adam = Adam::new(&session, store)?;
        if resumed {
            store.send()?;
            let moments: Vec<_> = learner.adam.moments().iter().map(|moments| (**moments).clone()).collect();
            adam.resume(store, &moments)?;
        }
        let average = learner.average.as_ref().map(|average| Average::new(&session, store, average));
        Ok(Gpu {
            // the last batch may have one more image
            train: take(data.epochs.train(), images, config.batch_size + 1)?,
            val: take(data.val, data.val.len(), 0)?,
            adam,
            average: average.transpose()?,
            loss: Loss::new(&session, config.label_smoothing)?,
            batch_size: config.batch_size,
            scored: EVALUATION_BATCH.min(EVALUATION_STEPS * config.batch_size),
            images,
            augments: false,
            seed: config.seed,
            warm: false,
            first_step: 0,
            graph: None,
            session,
        })
    }

    /// Copies the plan of an epoch to the GPU: the order, the transform of each image, and for each step the factors of
    /// Adam and the keys of dropout. `first_step` is the number of the epoch's first step in the run.
    pub fn begin(
        &mut self,
        network: &Network,
        data: &Data,
        epoch: usize,
        first_step: u64,
        factors: &[[f32; 3]],
    ) -> Result<()> {
        self.bring(network, data, epoch, first_step, factors).map_err(|error| {
            or_device_memory(error, || format!("the plan of {} images", self.images), "a smaller `train.samples`")
        })
    }

    fn bring(
        &mut self,
        network: &Network,
        data: &Data,
        epoch: usize,
        first_step: u64,
        factors: &[[f32; 3]],
    ) -> Result<()> {
        let order: Vec<u32> = order(self.seed, epoch, self.images).into_iter().map(|row| row as u32).collect();
        self.train.set_order(&order)?;
        if let Some(exchange) = data.epochs.exchange(epoch) {
            self.train.set_exchange(exchange.donors(), exchange.targets())?;
        }
        self.augments = false;
        if let Some(transform) = data.epochs.transforms(epoch) {
            self.augments = true;
            let transforms: Vec<_> = (0..self.images).into_par_iter().map(transform).collect();
            self.train.set_transforms(&transforms)?;
        }
        self.adam.set_rates(factors)?;
        self.first_step = first_step;
        let steps = first_step..first_step + factors.len() as u64;
        let (seed, dropouts) = (self.seed, network.store().dropouts());
        if !dropouts.is_empty() {
            let keys = steps.flat_map(|step| dropouts.iter().map(move |name| dropout_streams(seed, name, step).key()));
            let words: Vec<u32> = keys
                .flat_map(|key| key.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect::<Vec<_>>())
                .collect();
            self.session.set_keys(&words, dropouts.len())?;
        }
        Ok(self.session.wait()?)
    }

    /// Runs the steps `from..to` of the epoch, whose last step is `last`, and returns their results.
    pub fn steps(&mut self, network: &Network, [from, to]: [usize; 2], last: usize) -> Result<Stretch> {
        let totals = self.run_steps(network, [from, to], last).map_err(|error| {
            let advice = "a smaller `train.batch_size`, or `train.precision` bf16";
            or_device_memory(error, || format!("a step of {} images", self.batch_size), advice)
        })?;
        Ok(Stretch { bad: totals.bad.map(|(step, loss)| (step as usize - 1, loss)), scores: scores(totals) })
    }

    fn run_steps(&mut self, network: &Network, [from, to]: [usize; 2], last: usize) -> Result<Totals> {
        self.loss.reset()?;
        self.session.set_step(from as u32)?;
        for step in from..to {
            let images = if step == last { self.images - last * self.batch_size } else { self.batch_size };
            if images != self.batch_size || !self.warm {
                // engines are timed for the batch size that all batches but the last have
                self.session.convolutions().set_search(images == self.batch_size);
                self.step(network, images, self.first_step + step as u64 == 0)?;
                self.session.convolutions().set_search(false);
                self.warm |= images == self.batch_size;
                continue;
            }
            if self.graph.is_none() {
                self.graph = Some(self.record(network)?);
            }
            if let Some(graph) = &self.graph {
                graph.launch().map_err(driver)?;
            }
        }
        Ok(self.loss.read(network.shape().digits)?)
    }

    /// Enqueues one step without waiting for it. The first step of a run begins the average.
    fn step(&self, network: &Network, images: usize, is_first: bool) -> Result<()> {
        let rows = self.train.ordered(self.batch_size)?;
        // SAFETY: the order holds rows of this data set; the number of the step is within the epoch.
        let input = unsafe { self.train.batch(rows, images, self.augments) }?;
        let tape = Tape::new(network.store().parameters().len());
        // the number of the step is stored on the GPU
        let logits = network.forward(&input, Mode::Train { seed: self.seed, step: 0, tape: &tape })?;
        // SAFETY: as above; the targets are those of the same data set.
        let gradients = unsafe { self.loss.add(&logits, self.train.targets(), rows, None, true) }?;
        let gradients = tape.backward(&logits, gradients)?.parameters;
        self.adam.step(network.store(), &gradients)?;
        if let Some(average) = &self.average {
            average.step(network.store(), is_first)?;
        }
        Ok(self.session.next_step()?)
    }

    /// Captures a step without running it.
    fn record(&self, network: &Network) -> Result<CudaGraph> {
        let stream = self.session.stream();
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(driver)?;
        let asked = self.step(network, self.batch_size, false);
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        asked?;
        let empty = || multidigit_nn::Error::Cuda { message: "a step that was recorded is empty".to_owned() };
        Ok(graph.map_err(driver)?.ok_or_else(empty)?)
    }

    /// The scores of the network on the validation split. `done` is called for each batch.
    pub fn score(
        &mut self,
        network: &Network,
        images: usize,
        mut done: impl FnMut(usize) -> Result<()>,
    ) -> Result<Scores> {
        self.loss.reset()?;
        for first in (0..images).step_by(self.scored) {
            let count = self.scored.min(images - first);
            self.score_batch(network, first, count).map_err(|error| {
                let what = || format!("a forward pass of {count} images");
                or_device_memory(error, what, "a smaller `train.batch_size`, or `train.precision` bf16")
            })?;
            done(count)?;
        }
        Ok(scores(self.loss.read(network.shape().digits)?))
    }

    fn score_batch(&self, network: &Network, first: usize, count: usize) -> Result<()> {
        let rows = Rows::From(first);
        // SAFETY: the rows are rows of the split.
        let input = unsafe { self.val.batch(rows, count, false) }?;
        let logits = network.forward(&input, Mode::Eval)?;
        // SAFETY: as above; the targets are those of the same split.
        unsafe { self.loss.add(&logits, self.val.targets(), rows, None, false) }?;
        Ok(())
    }

    /// Copies the network's values, their average and Adam's moments to the host.
    pub fn fetch(&self, learner: &mut Learner, steps: i32) -> Result<()> {
        let store = learner.network.store();
        store.fetch()?;
        learner.adam.resume(steps, self.adam.moments(store)?);
        if let (Some(host), Some(average)) = (&mut learner.average, &self.average) {
            host.resume(average.values(store)?);
        }
        Ok(())
    }
}

/// Converts an error of the driver.
fn driver(error: DriverError) -> Error {
    Error::from(multidigit_nn::Error::from(error))
}

fn scores(totals: Totals) -> Scores {
    let Totals { loss, images, correct, correct_heads, .. } = totals;
    Scores { images, loss, correct, correct_digits: correct_heads }
}
