//! The training images of every epoch: plain, stored by the stage `augment`, or augmented in flight.

use std::cell::RefCell;

use serde_json::{Map, Value};

use crate::augment::apply::{Scratch, Transform};
use crate::augment::exchange::Exchange;
use crate::augment::{self, Augmenter};
use crate::error::Result;
use crate::shards::Split;

/// Reads the stored images of an epoch, counted from 0, if the epoch is stored.
pub type Stored<'a> = dyn Fn(usize) -> Result<Option<Split>> + Sync + 'a;

/// The source of the images of each epoch.
pub struct Epochs<'a> {
    train: &'a Split,
    augmented: Option<Augmented<'a>>,
}

struct Augmented<'a> {
    config: &'a augment::Config,
    stored: Box<Stored<'a>>,
}

impl<'a> Epochs<'a> {
    /// Epochs that all show the training split unchanged.
    pub fn plain(train: &'a Split) -> Epochs<'a> {
        Epochs { train, augmented: None }
    }

    /// Epochs that show the training split augmented by `config`. A stored epoch is read; any other epoch is computed
    /// in flight. Both give the same pixels.
    pub fn augmented(
        train: &'a Split,
        config: &'a augment::Config,
        stored: impl Fn(usize) -> Result<Option<Split>> + Sync + 'a,
    ) -> Epochs<'a> {
        Epochs { train, augmented: Some(Augmented { config, stored: Box::new(stored) }) }
    }

    /// The settings of the augmentation; `None` if the images are not augmented.
    pub fn settings(&self) -> Option<Map<String, Value>> {
        self.augmented.as_ref().map(|augmented| augment::pixel_settings(augmented.config))
    }

    /// The training split, not augmented.
    pub fn train(&self) -> &'a Split {
        self.train
    }

    /// The images of an epoch, counted from 0.
    ///
    /// # Errors
    /// The errors of reading a stored epoch.
    pub fn images(&self, epoch: usize) -> Result<Images<'a>> {
        let Some(Augmented { config, stored }) = &self.augmented else { return Ok(Images::Plain(self.train)) };
        Ok(match stored(epoch)? {
            Some(split) => Images::Stored(Box::new(split)),
            None => Images::InFlight(Box::new(InFlight {
                train: self.train,
                augmenter: Augmenter::new(config, epoch, self.train.digits),
                exchange: self.exchange(epoch),
                buffers: RefCell::default(),
            })),
        })
    }

    /// The exchange of an epoch, counted from 0. `None` if no digits are exchanged.
    pub fn exchange(&self, epoch: usize) -> Option<Exchange> {
        let Augmented { config, .. } = self.augmented.as_ref()?;
        config.exchange.map(|pairs| Exchange::draw(pairs, config.seed, epoch, self.train))
    }

    /// The transforms of an epoch, counted from 0, by the position of the image in the training split, for a GPU that
    /// applies them itself. `None` if the images are not augmented.
    pub fn transforms(&self, epoch: usize) -> Option<impl Fn(usize) -> Vec<Transform> + Sync + 'a> {
        let Augmented { config, .. } = self.augmented.as_ref()?;
        let (augmenter, train) = (Augmenter::new(config, epoch, self.train.digits), self.train);
        Some(move |row: usize| {
            let size = (train.height, train.width);
            augmenter.transforms(&augmenter.params(train.sample(row), size), size)
        })
    }
}

/// The images of one epoch.
pub enum Images<'a> {
    /// The training split, not augmented.
    Plain(&'a Split),
    /// A stored epoch.
    Stored(Box<Split>),
    /// The training split, whose images are augmented one by one on request.
    InFlight(Box<InFlight<'a>>),
}

/// The augmentation of one epoch in flight.
pub struct InFlight<'a> {
    train: &'a Split,
    augmenter: Augmenter,
    exchange: Option<Exchange>,
    /// An image after its exchange, and the augmentation's buffers.
    buffers: RefCell<(Vec<u8>, Scratch)>,
}

impl Images<'_> {
    /// Fills `out` with the pixels of the image at a position of the training split.
    pub fn fill(&self, row: usize, out: &mut [u8]) {
        match self {
            Images::Plain(split) => out.copy_from_slice(split.image(row)),
            Images::Stored(split) => out.copy_from_slice(split.image(row)),
            Images::InFlight(images) => images.fill(row, out),
        }
    }

    /// The digits of the image at a position of the training split, left to right.
    pub fn target(&self, row: usize) -> &[u8] {
        match self {
            Images::Plain(split) => split.target(row),
            Images::Stored(split) => split.target(row),
            Images::InFlight(images) => match &images.exchange {
                Some(exchange) => exchange.target(row),
                None => images.train.target(row),
            },
        }
    }
}

impl InFlight<'_> {
    fn fill(&self, row: usize, out: &mut [u8]) {
        let InFlight { train, augmenter, exchange, buffers } = self;
        let (exchanged, scratch) = &mut *buffers.borrow_mut();
        let image = match exchange {
            Some(exchange) => {
                exchanged.resize(out.len(), 0);
                exchange.fill(train, row, exchanged);
                exchanged
            }
            None => train.image(row),
        };
        augmenter.apply(train.sample(row), image, (train.height, train.width), out, scratch);
    }
}
