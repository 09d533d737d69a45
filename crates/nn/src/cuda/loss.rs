//! The cross entropy of all heads on the GPU, with its gradient and the sums of an epoch, which stay on the device
//! until they are read.

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, LaunchConfig};

use super::kernels::{Argument, Form};
use super::session::{Session, address};
use crate::error::{Error, Result};
use crate::tape::Value;

/// The maximum number of heads per launch; `HEADS` in `loss.cu`.
const HEADS: usize = 64;
/// The number of words of `Totals` in `loss.cu` before the counts of the heads.
const FIXED: usize = 5;
/// The number of threads of the single block.
const THREADS: u32 = 1024;

/// The sums since the last reset.
#[derive(Debug, Clone, PartialEq)]
pub struct Totals {
    /// The sum of the cross entropy over images and heads.
    pub loss: f64,
    /// The first step, counted from 1 in its epoch, whose mean loss was not finite, and that loss.
    pub bad: Option<(u64, f64)>,
    /// The number of images.
    pub images: usize,
    /// The number of images on which all heads are right.
    pub correct: usize,
    /// The number of images on which a head is right, for each head.
    pub correct_heads: Vec<usize>,
}

/// The images of the data set that make up a batch.
#[derive(Debug, Clone, Copy)]
pub enum Rows {
    /// Images in the order of the epoch, starting at the number of the step times `stride`.
    Ordered {
        /// The address of the order.
        order: u64,
        /// The number of images in a batch.
        stride: usize,
    },
    /// Consecutive images, starting at this one.
    From(usize),
}

impl Rows {
    /// The address of the order (0 if there is none), the first image, and the stride.
    pub fn arguments(self) -> (u64, usize, usize) {
        match self {
            Rows::Ordered { order, stride } => (order, 0, stride),
            Rows::From(first) => (0, first, 0),
        }
    }
}

/// The loss of a network, with its sums over an epoch.
pub struct Loss {
    session: Arc<Session>,
    smoothing: f64,
    totals: CudaSlice<u64>,
}

impl Loss {
    /// A loss whose sums are 0, and whose gradients are those with label smoothing: see [`crate::loss::loss`]. The sums
    /// are those of the plain cross entropy.
    pub fn new(session: &Arc<Session>, smoothing: f64) -> Result<Loss> {
        Ok(Loss { session: session.clone(), smoothing, totals: session.stream().alloc_zeros(FIXED + HEADS)? })
    }

    /// Sets the sums to 0.
    pub fn reset(&mut self) -> Result<()> {
        Ok(self.session.stream().memset_zeros(&mut self.totals)?)
    }

    /// Waits for the device and returns the sums for `heads` heads.
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

    /// Adds the loss of a batch to the sums, and returns the gradients of the logits if they are wanted. `targets` is
    /// the address of the classes of all images of the data set, image by image, with one byte for each head. The
    /// predicted classes are written to the address `predicted`.
    ///
    /// # Safety
    /// The addresses are valid for the images of `rows`, of which there are as many as rows of logits.
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
            Argument::Float(self.smoothing as f32),
        ];
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the arguments are those of the kernel; the rest is guaranteed by the caller.
        unsafe { self.session.launch(Form::Single, "cross_entropy", config, &arguments) }?;
        Ok(gradients)
    }
}
