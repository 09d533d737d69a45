//! Conversions between tensors and slices. On the CPU, only this module accesses the storage of a tensor.

use std::marker::PhantomData;
use std::ops::{Deref, Range};

use candle_core::{Device, Result, Storage, Tensor, WithDType, bail};

/// The borrowed elements of a contiguous tensor on the CPU.
pub struct Elements<'a, T> {
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    range: Range<usize>,
    kind: PhantomData<T>,
}

/// The borrowed elements of a contiguous f32 tensor on the CPU.
pub type Floats<'a> = Elements<'a, f32>;

impl<T: WithDType> Elements<'_, T> {
    /// The elements of `tensor`. Returns an error if it is strided, of another type or not on the CPU.
    pub fn of(tensor: &Tensor) -> Result<Elements<'_, T>> {
        let (storage, layout) = tensor.storage_and_layout();
        match &*storage {
            Storage::Cpu(values) if T::cpu_storage_as_slice(values).is_ok() => {}
            _ => bail!("expected a tensor of {:?} on the CPU", T::DTYPE),
        }
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
        let range = start..end;
        Ok(Elements { storage: Box::new(storage), range, kind: PhantomData })
    }
}

impl<T: WithDType> Deref for Elements<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &**self.storage {
            Storage::Cpu(values) => match T::cpu_storage_as_slice(values) {
                Ok(values) => &values[self.range.clone()],
                Err(_) => unreachable!("checked when it was made"),
            },
            _ => unreachable!("checked when it was made"),
        }
    }
}

/// A tensor on the CPU with these values.
pub fn tensor<T: WithDType>(values: Vec<T>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}
