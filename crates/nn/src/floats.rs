//! Conversions between tensors and slices. On the CPU, only this module accesses the storage of a tensor.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, Result, Storage, Tensor, bail};

/// The borrowed elements of a contiguous f32 tensor on the CPU.
pub struct Floats<'a> {
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    range: Range<usize>,
}

impl Floats<'_> {
    /// The elements of `tensor`. Returns an error if it is strided, of another type or not on the CPU.
    pub fn of(tensor: &Tensor) -> Result<Floats<'_>> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cpu(CpuStorage::F32(_)) = &*storage else { bail!("expected an f32 tensor on the CPU") };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
        let range = start..end;
        Ok(Floats { storage: Box::new(storage), range })
    }
}

impl Deref for Floats<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &**self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked when it was made"),
        }
    }
}

/// A tensor on the CPU with these values.
pub fn tensor(values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}
