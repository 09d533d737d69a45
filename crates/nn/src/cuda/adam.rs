//! Adam over all parameters, in launches of up to 96 tensors: see [`crate::optim`].

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, LaunchConfig};

use super::kernels::{Argument, Form, THREADS};
use super::session::{Session, address, weight_address};
use crate::Precision;
use crate::error::Result;
use crate::optim::Moments;
use crate::store::Store;

/// The number of tensors in one launch; `TENSORS` in `adam.cu`.
const TENSORS: usize = 96;
/// The number of elements per block; `CHUNK` in `adam.cu`.
const CHUNK: usize = 2048;

/// The optimiser's state: the moments of all parameters, and the rates of the steps of an epoch.
pub struct Adam {
    session: Arc<Session>,
    moments: Vec<CudaSlice<f32>>,
    rates: Option<CudaSlice<f32>>,
}

impl Adam {
    /// An optimiser for the parameters of a store on the GPU.
    pub fn new(session: &Arc<Session>, store: &Store) -> Result<Adam> {
        let zeros = |count| Ok(session.stream().alloc_zeros(2 * count)?);
        let moments = store.parameters().iter().map(|(_, var)| zeros(var.elem_count())).collect::<Result<_>>()?;
        Ok(Adam { session: session.clone(), moments, rates: None })
    }

    /// Sets the rates of the steps of an epoch, as `optim::Adam::factors` returns them. The memory is allocated once,
    /// for the number of steps of the first epoch.
    pub fn set_rates(&mut self, rates: &[[f32; 3]]) -> Result<()> {
        let words = rates.concat();
        let stream = self.session.stream();
        match &mut self.rates {
            Some(room) if room.len() >= words.len() => {
                stream.memcpy_htod(&words, &mut room.slice_mut(..words.len()))?
            }
            room => *room = Some(stream.clone_htod(&words)?),
        }
        Ok(())
    }

    /// The moments of each parameter, in the order of the store. Their elements are in the host's order.
    pub fn moments(&self, store: &Store) -> Result<Vec<Moments>> {
        let each = self.moments.iter().zip(store.parameters());
        each.map(|(moments, (_, var))| {
            let all = self.session.stream().clone_dtoh(moments)?;
            let (first, second) = all.split_at(all.len() / 2);
            Ok(Moments { first: store.host_order(first, var.dims())?, second: store.host_order(second, var.dims())? })
        })
        .collect()
    }

    /// Restores the state of an interrupted run.
    pub fn resume(&mut self, store: &Store, moments: &[Moments]) -> Result<()> {
        for ((into, from), (_, var)) in self.moments.iter_mut().zip(moments).zip(store.parameters()) {
            let both = [&from.first, &from.second].map(|values| store.device_order(values, var.dims()));
            let [first, second] = both;
            self.session.stream().memcpy_htod(&[first?, second?].concat(), into)?;
        }
        self.session.wait()
    }

    /// Updates the parameters by `gradients`, which are in the order of the store, at the rate of the current step.
    pub fn step(&self, store: &Store, gradients: &[Option<Tensor>]) -> Result<()> {
        let mut rows = Vec::new();
        for ((parameter, moments), gradient) in store.device_parameters().iter().zip(&self.moments).zip(gradients) {
            let Some(gradient) = gradient else { continue };
            let gradient_at = if gradient.rank() == 4 { weight_address(gradient)? } else { address(gradient)? };
            let copy = parameter.copy.as_ref().map(|copy| address(copy)).transpose()?.unwrap_or(0);
            let count = parameter.values.elem_count();
            rows.push(([address(&parameter.values)?, gradient_at, copy, self.session.address(moments)], count));
        }
        let rates = self.rates.as_ref().map_or(0, |rates| self.session.address(rates));
        let half = self.session.precision() == Precision::Bf16;
        for rows in rows.chunks(TENSORS) {
            // four tables of addresses, then the counts and the first chunks as 32-bit words
            let mut table = [0u64; 5 * TENSORS];
            let mut chunks = 0;
            let mut set = |index: usize, value: usize| {
                table[4 * TENSORS + index / 2] |= (value as u64) << (32 * (index % 2));
            };
            for (i, (_, count)) in rows.iter().enumerate() {
                set(i, *count);
                set(TENSORS + i, chunks);
                chunks += count.div_ceil(CHUNK);
            }
            for (i, (addresses, _)) in rows.iter().enumerate() {
                addresses.iter().enumerate().for_each(|(field, value)| table[field * TENSORS + i] = *value);
            }
            let config =
                LaunchConfig { grid_dim: (chunks as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
            let arguments = [
                Argument::Block(&table),
                rows.len().into(),
                rates.into(),
                self.session.step().into(),
                usize::from(half).into(),
            ];
            // SAFETY: the arguments are those of the kernel; gradients, copies and moments are as
            // long as their parameters.
            unsafe { self.session.launch(Form::Single, "adam", config, &arguments) }?;
        }
        Ok(())
    }
}
