//! A training in progress: its epochs and steps, and the files that it writes.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::batch::{Normalise, Scores, forward};
use super::checkpoint::{self, Best, Point, TrainingState};
use super::events::Events;
use super::gpu::Gpu;
use super::learner::Learner;
use super::loader::{Batch, Loader};
use super::metrics::{self, Epoch};
use super::{Config, Data, STOPPED, Stretch, TrainingSummary, WEIGHTS};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::networks::weights::{self, Description};
use crate::progress::Progress;
use crate::train::TrainError;
use multidigit_nn::optim::Adam;
use multidigit_nn::schedule::Schedule;

/// The number of images in a forward pass on the validation split: enough to occupy the threads,
/// and few enough for 200 MB.
const VALIDATION_BATCH: usize = 500;

/// The number of images that a GPU processes before the host checks it. A large GPU takes some hundredths of a second,
/// so that the check costs nothing; a small one still reacts to Ctrl-C quickly enough.
const STRETCH: usize = 6400;

/// The maximum number of points in each epoch of TensorBoard's curves. A checkpoint holds all of them, so they are few.
const POINTS: usize = 20;

/// The device that computes the steps.
pub enum Engine<'scope> {
    /// The CPU, with batches that a thread makes ahead of time.
    Cpu(Loader<'scope>),
    /// A GPU, which holds the data set and makes its batches itself.
    Gpu(Box<Gpu>),
}

/// A training in progress.
pub struct Training<'a, 'data, 'scope> {
    pub config: &'a Config,
    pub data: &'a Data<'data>,
    pub images: usize,
    pub batches: usize,
    pub learner: Learner,
    pub normalise: Normalise,
    pub schedule: Schedule,
    pub engine: Engine<'scope>,
    pub state: TrainingState,
    pub epochs: Vec<Epoch>,
    pub events: Events,
    pub out: &'a Path,
    pub progress: &'a Progress<'a>,
}

impl Training<'_, '_, '_> {
    /// Trains to the last epoch.
    ///
    /// # Errors
    /// [`Error::Interrupted`], after a checkpoint has been written.
    pub fn finish(mut self) -> Result<TrainingSummary> {
        while self.state.epoch < self.config.epochs && !self.is_stalled() {
            match self.epoch() {
                Err(Error::Interrupted) => {
                    self.save()?;
                    let (epoch, step) = (self.state.epoch + 1, self.state.step);
                    self.progress.note(&format!(
                        "a checkpoint stands at epoch {epoch}, step {step}; the same command goes on from there"
                    ));
                    return Err(Error::Interrupted);
                }
                outcome => outcome?,
            }
        }
        if self.is_stalled() && self.state.epoch < self.config.epochs {
            let Best { epoch, .. } = self.state.best;
            self.progress.note(&format!(
                "ends after epoch {}: the validation loss has not fallen since epoch {epoch}",
                self.state.epoch
            ));
        }
        self.events.end()?;
        // a finished run is only continued from its last checkpoint
        files::remove(&self.out.join(checkpoint::PREVIOUS))?;
        let Training { state, epochs, learner, images, .. } = self;
        let (parameters, steps) = (learner.network.store().count(), state.step);
        Ok(TrainingSummary { parameters, images, steps, epochs, best_epoch: state.best.epoch })
    }

    /// Whether the validation loss has not fallen for as many epochs as `train.stop_after` allows.
    fn is_stalled(&self) -> bool {
        self.config.stop_after.is_some_and(|epochs| self.state.epoch - self.state.best.epoch >= epochs)
    }

    /// Runs the rest of the current epoch and scores the network after it. If it is interrupted, the state is that
    /// after the last complete step.
    fn epoch(&mut self) -> Result<()> {
        let number = self.state.epoch + 1;
        let title = format!("epoch {number}/{}", self.config.epochs);
        self.progress.resume(&title, self.images as u64, self.state.scores.images as u64, "images")?;
        let (begun, before) = (Instant::now(), self.state.seconds);
        if let Engine::Gpu(gpu) = &mut self.engine {
            let first = self.state.step - self.state.batch as u64;
            let factors =
                |step: u64| Adam::factors(step as i32 + 1, self.schedule.rate(step), self.config.weight_decay);
            let factors: Vec<_> = (first..first + self.batches as u64).map(factors).collect();
            gpu.begin(&self.learner.network, self.data, self.state.epoch, first, &factors)?;
        }
        while self.state.batch < self.batches {
            let (batch, sum) = (self.state.batch, self.state.scores.loss);
            let images = self.steps()?;
            self.state.seconds = before + begun.elapsed().as_secs_f64();
            self.add_point(batch, (self.state.scores.loss - sum) / images as f64)?;
            if self.config.checkpoint_every_steps.is_some_and(|steps| self.state.step.is_multiple_of(steps)) {
                self.save()?;
            }
            self.progress.advance(images as u64)?;
            let scores = &self.state.scores;
            let (loss, accuracy) = (scores.mean_loss(), 100.0 * scores.accuracy());
            self.progress.detail(&format!("loss {loss:.4}, accuracy {accuracy:.2}%"))?;
        }
        self.progress.end();

        let begun = Instant::now();
        let val = self.data.val;
        self.progress.begin("validation", val.len() as u64, "images")?;
        let advance = |images| self.progress.advance(images as u64);
        let network = &self.learner.network;
        let validation = match &mut self.engine {
            Engine::Cpu(_) => {
                let mut scores = Scores::default();
                forward(network, &self.normalise, val, val.len(), VALIDATION_BATCH, |logits, targets| {
                    scores.add(logits, targets)?;
                    advance(targets.len() / val.digits)
                })?;
                scores
            }
            Engine::Gpu(gpu) => gpu.score(network, val.len(), advance)?,
        };
        self.progress.end();
        let row = Epoch {
            epoch: number,
            lr: self.schedule.rate(self.state.step - 1),
            train_loss: self.state.scores.mean_loss(),
            train_accuracy: self.state.scores.accuracy(),
            train_digits: self.state.scores.digit_accuracy(),
            val_loss: validation.mean_loss(),
            val_accuracy: validation.accuracy(),
            val_digits: validation.digit_accuracy(),
            images_per_second: self.images as f64 / self.state.seconds,
            seconds: self.state.seconds + begun.elapsed().as_secs_f64(),
        }
        .rounded();
        if !row.val_loss.is_finite() {
            return Err(self.stop(row.val_loss)?);
        }
        self.end_epoch(row)
    }

    /// Runs one step on the CPU, or several on a GPU. Returns the number of their images.
    fn steps(&mut self) -> Result<usize> {
        let gpu = match &mut self.engine {
            Engine::Cpu(loader) => {
                let batch = loader.take()?;
                let images = batch.targets.len() / self.learner.network.shape().digits;
                self.step(batch)?;
                return Ok(images);
            }
            Engine::Gpu(gpu) => gpu,
        };
        let from = self.state.batch;
        let stretch = (STRETCH / self.config.batch_size).max(1);
        let checkpoint = self
            .config
            .checkpoint_every_steps
            .map_or(stretch, |steps| (steps - self.state.step % steps).min(stretch as u64) as usize);
        let to = (from + checkpoint).min(self.batches);
        let Stretch { scores, bad } = gpu.steps(&self.learner.network, [from, to], self.batches - 1)?;
        if let Some((step, loss)) = bad {
            self.state.step += (step - from) as u64;
            return Err(self.stop(loss)?);
        }
        let images = scores.images;
        self.state.scores.merge(scores);
        self.state.step += (to - from) as u64;
        self.state.batch = to;
        Ok(images)
    }

    /// Adds a point to TensorBoard's curves if the steps since `batch` complete a further [`POINTS`]th of the epoch, as the
    /// last step does. `loss` is the mean loss of these steps: of one on the CPU, of several on a GPU, which the host would
    /// have to wait for if it wanted the loss of each. A point depends on nothing before these steps, so a resumed training
    /// has the points of one that was never interrupted.
    fn add_point(&mut self, batch: usize, loss: f64) -> Result<()> {
        let completed = |batch: usize| batch * POINTS / self.batches;
        if completed(batch) == completed(self.state.batch) {
            return Ok(());
        }
        let TrainingState { step, seconds, .. } = self.state;
        let point = Point { step, loss, rate: self.schedule.rate(step - 1), seconds };
        self.state.points.push(point);
        self.events.add_point(&point)
    }

    /// Runs one step of the optimiser.
    fn step(&mut self, batch: Batch) -> Result<()> {
        let step = self.learner.step(&batch, self.state.step, self.schedule.rate(self.state.step))?;
        if !step.loss.is_finite() {
            return Err(self.stop(step.loss)?);
        }
        self.state.scores.add(&step.logits, &batch.targets)?;
        self.state.step += 1;
        self.state.batch += 1;
        Ok(())
    }

    /// Writes the row of an epoch to the files, and moves on to the next epoch.
    fn end_epoch(&mut self, row: Epoch) -> Result<()> {
        self.fetch()?;
        self.progress.note(&sentence(&row, self.config.epochs));
        self.schedule.epoch(row.val_loss);
        let state = &mut self.state;
        if row.val_loss < state.best.loss {
            state.best = Best { epoch: row.epoch, loss: row.val_loss };
        }
        self.events.add_epoch(&row)?;
        self.epochs.push(row);
        metrics::write(&self.out.join(metrics::FILE), self.learner.network.shape().digits, &self.epochs)?;
        (state.epoch, state.batch, state.seconds) = (state.epoch + 1, 0, 0.0);
        self.state.scores = Scores::default();
        // the checkpoint precedes the weights: after a kill between the two, the resumed run writes the weights again
        self.checkpoint()?;
        save_weights(self.config, &self.learner, &self.state, self.out)
    }

    /// Copies weights and moments from a GPU to the host.
    fn fetch(&mut self) -> Result<()> {
        match &self.engine {
            Engine::Cpu(_) => Ok(()),
            Engine::Gpu(gpu) => gpu.fetch(&mut self.learner, self.state.step as i32),
        }
    }

    /// Copies weights and moments to the host and writes a checkpoint.
    fn save(&mut self) -> Result<()> {
        self.fetch()?;
        self.checkpoint()
    }

    /// Writes a checkpoint of the state on the host.
    fn checkpoint(&mut self) -> Result<()> {
        let state = &mut self.state;
        state.schedule = self.schedule.state().clone();
        state.adam_steps = self.learner.adam.steps();
        state.metrics = Digest::of(metrics::text(self.learner.network.shape().digits, &self.epochs).as_bytes());
        checkpoint::save(self.out, state, &self.learner)
    }

    /// Writes `stopped.json`, which reports where the loss became NaN or infinite, and returns the
    /// error that says the same.
    fn stop(&self, loss: f64) -> Result<Error> {
        let (step, rate) = (self.state.step + 1, self.schedule.rate(self.state.step));
        let error = Error::from(TrainError::NotFinite { step, loss, rate });
        let (loss, message) = (loss.to_string(), error.to_string());
        let epoch = self.state.epoch + 1;
        let word = json!({"step": step, "epoch": epoch, "learning_rate": rate, "loss": loss, "message": message});
        files::replace(&self.out.join(STOPPED), format!("{word:#}\n").as_bytes())?;
        Ok(error)
    }
}

/// Writes the weights after the last finished epoch as `last`, as `best` if they are the best, and their average as `ema`.
pub fn save_weights(config: &Config, learner: &Learner, state: &TrainingState, out: &Path) -> Result<()> {
    let network = &learner.network;
    let description = Description { shape: network.shape(), mean: config.mean, std: config.std, epoch: state.epoch };
    let folder = out.join(WEIGHTS);
    if state.best.epoch == state.epoch {
        weights::save(&folder.join("best.safetensors"), network, &description)?;
    }
    if let Some(average) = &learner.average {
        let entries = average.entries(network.store())?;
        weights::write(&folder.join("ema.safetensors"), None, entries, &json!(description))?;
    }
    weights::save(&folder.join("last.safetensors"), network, &description)
}

fn sentence(row: &Epoch, epochs: usize) -> String {
    format!(
        "epoch {}/{epochs}: train loss {:.4}, accuracy {:.2}%; val loss {:.4}, accuracy {:.2}%; learning rate {}; \
         {:.0} images/s, {:.1} s",
        row.epoch,
        row.train_loss,
        100.0 * row.train_accuracy,
        row.val_loss,
        100.0 * row.val_accuracy,
        row.lr,
        row.images_per_second,
        row.seconds
    )
}
