//! Cross entropy of all heads on the device, with its gradient, and the sums of an epoch, which stay there until asked
//! for.

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, LaunchConfig};

use super::kernels::{Argument, Form};
use super::session::{Session, address};
use crate::error::{Error, Result};
use crate::tape::Value;

/// The most heads that one launch takes; `HEADS` in `loss.cu`.
const HEADS: usize = 64;
/// Words of `Totals` in `loss.cu` before those of the heads.
const FIXED: usize = 5;
/// Threads of the one block.
const THREADS: u32 = 1024;

/// The sums since the last reset.
#[derive(Debug, Clone, PartialEq)]
pub struct Totals {
    /// Sum over images and heads of the cross entropy.
    pub loss: f64,
    /// The first step, counted from 1 in its epoch, whose mean loss was not finite, and that loss.
    pub bad: Option<(u64, f64)>,
    /// Images.
    pub images: usize,
    /// Images on which all heads are right.
    pub correct: usize,
    /// Images on which a head is right, per head.
    pub correct_heads: Vec<usize>,
}

/// Which images of the data set a batch is.
#[derive(Debug, Clone, Copy)]
pub enum Rows {
    /// Of the epoch's order, whose address is given: those from the number of the step times `stride` on.
    Ordered {
        /// Address of the order.
        order: u64,
        /// Images in a batch.
        stride: usize,
    },
    /// Those from here on.
    From(usize),
}

impl Rows {
    /// The address of the order or 0, the first image, and the stride.
    pub fn arguments(self) -> (u64, usize, usize) {
        match self {
            Rows::Ordered { order, stride } => (order, 0, stride),
            Rows::From(first) => (0, first, 0),
        }
    }
}

/// The loss of a network with its sums.
pub struct Loss {
    session: Arc<Session>,
    totals: CudaSlice<u64>,
}

impl Loss {
    /// With empty sums.
    pub fn new(session: &Arc<Session>) -> Result<Loss> {
        Ok(Loss { session: session.clone(), totals: session.stream().alloc_zeros(FIXED + HEADS)? })
    }

    /// Empties the sums.
    pub fn reset(&mut self) -> Result<()> {
        Ok(self.session.stream().memset_zeros(&mut self.totals)?)
    }

    /// Waits for the device and tells the sums of so many heads.
    pub fn read(&self, heads: usize) -> Result<Totals> {
        let words = self.session.stream().clone_dtoh(&self.totals)?;
        self.session.wait()?;
        let bad = (words[2] != 0).then(|| (words[2], f64::from_bits(words[1])));
        let correct = words[FIXED..].iter().take(heads);
        Ok(Totals {
            loss: f64::from_bits(words[0]),
            bad,
            images: words[3] as usize,
            correct: words[4] as usize,
            correct_heads: correct.map(|count| *count as usize).collect(),
        })
    }

    /// Adds a batch to the sums, and gives the gradients of the logits where they are wanted. `targets` is the address of
    /// the classes of all images of the data set, a byte for each head, image by image; the classes that were found go to the
    /// address `predicted`.
    ///
    /// # Safety
    /// The addresses are valid for the images of `rows`, as many as there are logits.
    pub unsafe fn add(
        &self,
        logits: &[Value],
        targets: u64,
        rows: Rows,
        predicted: Option<u64>,
        with_gradients: bool,
    ) -> Result<Vec<Tensor>> {
        let (images, classes) = logits.first().map(|head| head.dims2()).transpose()?.unwrap_or_default();
        if logits.len() > HEADS || logits.iter().any(|head| head.dims() != [images, classes]) {
            return Err(Error::tensor(format!("a loss of {} heads, or of heads of other shapes", logits.len())));
        }
        let gradients = match with_gradients {
            true => logits.iter().map(|head| self.session.activations(head.dims())).collect::<Result<Vec<_>>>()?,
            false => Vec::new(),
        };
        let mut heads = [0u64; 2 * HEADS];
        for (into, head) in heads.iter_mut().zip(logits) {
            *into = address(head)?;
        }
        for (into, gradient) in heads[HEADS..].iter_mut().zip(&gradients) {
            *into = address(gradient)?;
        }
        let (order, first, stride) = rows.arguments();
        let arguments = [
            Argument::Block(&heads),
            logits.len().into(),
            classes.into(),
            images.into(),
            stride.into(),
            targets.into(),
            order.into(),
            first.into(),
            self.session.step().into(),
            self.session.address(&self.totals).into(),
            predicted.unwrap_or(0).into(),
            usize::from(with_gradients).into(),
        ];
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the kernel's arguments, and the caller's promise.
        unsafe { self.session.launch(Form::Single, "cross_entropy", config, &arguments) }?;
        Ok(gradients)
    }
}
