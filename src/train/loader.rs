//! The data loader: a separate thread makes batches of training images ahead of the steps that need them.
//!
//! The content of a batch depends on the seed, the epoch and its position in the epoch alone. Pixels stay bytes until a
//! batch is made of them.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::batch::{Normalise, batches, order};
use super::{Config, Data};
use crate::error::Result;

/// The maximum number of batches that wait: enough to bridge a step that takes longer than the others.
const AHEAD: usize = 3;

/// A batch as the input of a network.
pub struct Batch {
    /// The normalised pixels, `(images, height, width, 1)`.
    pub input: Tensor,
    /// The digit at each position, image by image.
    pub targets: Vec<u8>,
}

/// The batches of a run, in order.
pub struct Loader<'scope> {
    receiver: Receiver<Result<Batch>>,
    _maker: ScopedJoinHandle<'scope, ()>,
    waited: Duration,
}

impl<'scope> Loader<'scope> {
    /// Starts making the batches of a run from an epoch, counted from 0, and a batch within it.
    pub fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        config: &'env Config,
        data: &'env Data,
        images: usize,
        [epoch, batch]: [usize; 2],
    ) -> Loader<'scope> {
        let (sender, receiver) = sync_channel(AHEAD);
        let maker = scope.spawn(move || {
            let make = Maker { config, data, normalise: Normalise::new(config.mean, config.std), images };
            for number in epoch..config.epochs {
                let from = if number == epoch { batch } else { 0 };
                // sending fails if no more batches are wanted
                let mut send = |batch| sender.send(batch).is_ok();
                match make.epoch(number, from, &mut send) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        send(Err(error));
                        return;
                    }
                }
            }
        });
        Loader { receiver, _maker: maker, waited: Duration::ZERO }
    }

    /// The next batch.
    pub fn take(&mut self) -> Result<Batch> {
        let begun = Instant::now();
        let batch = self.receiver.recv();
        self.waited += begun.elapsed();
        batch.unwrap_or_else(|_| Err(multidigit_nn::Error::tensor("the thread that makes batches ended early").into()))
    }

    /// The time that steps have waited for batches so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

struct Maker<'a, 'data> {
    config: &'a Config,
    data: &'a Data<'data>,
    normalise: Normalise,
    images: usize,
}

impl Maker<'_, '_> {
    /// Makes the batches of an epoch, starting at batch `from`. Returns whether all of them were wanted.
    fn epoch(&self, number: usize, from: usize, send: &mut dyn FnMut(Result<Batch>) -> bool) -> Result<bool> {
        let train = self.data.epochs.train();
        let images = self.data.epochs.images(number)?;
        let order = order(self.config.seed, number, self.images);
        for batch in batches(&order, self.config.batch_size).into_iter().skip(from) {
            let size = [train.height, train.width];
            #[expect(clippy::indexing_slicing, reason = "it asks for as many images as it is told that there are")]
            let input = self.normalise.batch(batch.len(), size, |i, into| images.fill(batch[i], into))?;
            let targets = batch.iter().flat_map(|&i| images.target(i));
            if !send(Ok(Batch { input, targets: targets.copied().collect() })) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
