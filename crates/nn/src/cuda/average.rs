//! The moving average of a network's weights on a GPU: see [`crate::average`].

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;

use super::kernels::{Argument, Form, each};
use super::session::{Session, address};
use crate::average;
use crate::error::Result;
use crate::store::Store;
use crate::weights::all;

/// The average of each parameter and buffer, in the order of the store.
pub struct Average {
    session: Arc<Session>,
    values: Vec<CudaSlice<f32>>,
    share: f32,
}

impl Average {
    /// An average of the weights of a store on the GPU, with the values of `host` if that has had a step.
    pub fn new(session: &Arc<Session>, store: &Store, host: &average::Average) -> Result<Average> {
        let stream = session.stream();
        let zeros = |count| Ok(stream.alloc_zeros(count)?);
        let values = match host.values() {
            [] => all(store).map(|(_, var)| zeros(var.elem_count())).collect::<Result<_>>()?,
            values => all(store)
                .zip(values)
                .map(|((_, var), values)| Ok(stream.clone_htod(&store.device_order(values, var.dims())?)?))
                .collect::<Result<_>>()?,
        };
        session.wait()?;
        Ok(Average { session: session.clone(), values, share: host.share() })
    }

    /// Follows a step of the optimiser. The first step of a run copies the values.
    pub fn step(&self, store: &Store, is_first: bool) -> Result<()> {
        let share = if is_first { 1.0 } else { self.share };
        let parameters = store.device_parameters().iter().map(|parameter| parameter.values.as_tensor());
        let values = parameters.chain(store.device_buffers().iter().map(|buffer| buffer.as_tensor()));
        for (average, values) in self.values.iter().zip(values) {
            let values: &Tensor = values;
            let arguments = [
                address(values)?.into(),
                self.session.address(average).into(),
                Argument::Long(average.len() as u64),
                share.into(),
            ];
            // SAFETY: the arguments are those of the kernel; the average is as long as the values.
            unsafe { self.session.launch(Form::Single, "average", each(average.len()), &arguments) }?;
        }
        Ok(())
    }

    /// Copies the average to the host. Its elements are in the host's order.
    pub fn values(&self, store: &Store) -> Result<Vec<Vec<f32>>> {
        let each = self.values.iter().zip(all(store));
        each.map(|(average, (_, var))| store.host_order(&self.session.stream().clone_dtoh(average)?, var.dims()))
            .collect()
    }
}
