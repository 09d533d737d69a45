//! cuDNN's descriptors, which are all created, filled and finalised in the same way.

use std::ffi::c_void;
use std::ptr::null_mut;

use candle_core::cuda_backend::cudarc::cudnn::{CudnnError, sys};
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendAttributeType_t as Type;
use sys::cudnnBackendDescriptorType_t as Kind;

/// A cuDNN descriptor, destroyed when it is dropped.
pub struct Descriptor(sys::cudnnBackendDescriptor_t);

// SAFETY: a descriptor is plain memory owned by cuDNN and not bound to a thread. It is used by one thread at a time,
// since all descriptors are behind the lock of `Convolutions`.
unsafe impl Send for Descriptor {}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor was created by `new` and is destroyed once. A failure only leaks memory.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}

impl Descriptor {
    /// An empty descriptor.
    pub fn new(kind: Kind) -> Result<Descriptor, CudnnError> {
        let mut raw = null_mut();
        // SAFETY: `raw` is written before it is read.
        unsafe { sys::cudnnBackendCreateDescriptor(kind, &mut raw) }.result()?;
        Ok(Descriptor(raw))
    }

    /// Sets an attribute to values of the type that cuDNN documents for it.
    fn set<T>(&self, name: Name, kind: Type, values: &[T]) -> Result<(), CudnnError> {
        let values_at = values.as_ptr().cast::<c_void>();
        // SAFETY: cuDNN copies `values.len()` values, whose type matches `kind` in all callers below.
        unsafe { sys::cudnnBackendSetAttribute(self.0, name, kind, values.len() as i64, values_at) }.result()
    }

    /// Sets an attribute of integers.
    pub fn numbers(&self, name: Name, values: &[i64]) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_INT64, values)
    }

    /// Sets an attribute of one float. The scaling factors of a convolution must have its compute type: cuDNN would
    /// read only half of the bits of a double.
    pub fn float(&self, name: Name, value: f32) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_FLOAT, &[value])
    }

    /// Sets an attribute of an element type.
    pub fn data_type(&self, name: Name, value: sys::cudnnDataType_t) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_DATA_TYPE, &[value])
    }

    /// Sets an attribute of a convolution mode.
    pub fn convolution_mode(&self, name: Name, value: sys::cudnnConvolutionMode_t) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_CONVOLUTION_MODE, &[value])
    }

    /// Sets an attribute of a heuristics mode.
    pub fn heuristics(&self, name: Name, value: sys::cudnnBackendHeurMode_t) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_HEUR_MODE, &[value])
    }

    /// Sets an attribute of a library handle.
    pub fn handle(&self, name: Name, value: sys::cudnnHandle_t) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_HANDLE, &[value])
    }

    /// Sets an attribute of device addresses.
    pub fn pointers(&self, name: Name, values: &[u64]) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_VOID_PTR, values)
    }

    /// Sets an attribute of another descriptor, of which cuDNN keeps what it needs.
    pub fn descriptor(&self, name: Name, value: &Descriptor) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[value.0])
    }

    /// Checks the attributes and finalises the descriptor, which can be used from then on.
    pub fn finish(self) -> Result<Descriptor, CudnnError> {
        // SAFETY: the descriptor was created by `new`.
        unsafe { sys::cudnnBackendFinalize(self.0) }.result()?;
        Ok(self)
    }

    /// Reads an attribute of one integer.
    pub fn number(&self, name: Name) -> Result<i64, CudnnError> {
        let (mut value, mut count) = (0i64, 0);
        let into = std::ptr::from_mut(&mut value).cast();
        // SAFETY: there is room for the one integer that is requested.
        unsafe { sys::cudnnBackendGetAttribute(self.0, name, Type::CUDNN_TYPE_INT64, 1, &mut count, into) }.result()?;
        Ok(value)
    }

    /// Reads an attribute of at most `most` descriptors of one kind.
    pub fn descriptors(&self, name: Name, kind: Kind, most: usize) -> Result<Vec<Descriptor>, CudnnError> {
        let mut all = (0..most).map(|_| Descriptor::new(kind)).collect::<Result<Vec<_>, _>>()?;
        let mut raw: Vec<_> = all.iter().map(|one| one.0).collect();
        let (mut count, into) = (0, raw.as_mut_ptr().cast());
        let of = Type::CUDNN_TYPE_BACKEND_DESCRIPTOR;
        // SAFETY: there is room for `most` descriptors, which were created as cuDNN requires and are filled by it.
        unsafe { sys::cudnnBackendGetAttribute(self.0, name, of, most as i64, &mut count, into) }.result()?;
        all.truncate(count.clamp(0, most as i64) as usize);
        Ok(all)
    }

    /// Reads the numerical notes of an engine as integers, because newer versions of cuDNN have notes that this crate
    /// does not know.
    pub fn notes(&self) -> Result<Vec<u32>, CudnnError> {
        const MOST: usize = sys::cudnnBackendNumericalNote_t::CUDNN_NUMERICAL_NOTE_TYPE_COUNT as usize;
        let (mut notes, mut count) = ([0u32; MOST], 0);
        let (name, of) = (Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, Type::CUDNN_TYPE_NUMERICAL_NOTE);
        let into = notes.as_mut_ptr().cast();
        // SAFETY: a note is a C enumeration of 32 bits, and there is room for `MOST` of them.
        unsafe { sys::cudnnBackendGetAttribute(self.0, name, of, MOST as i64, &mut count, into) }.result()?;
        Ok(notes[..count.clamp(0, MOST as i64) as usize].to_vec())
    }

    /// Runs this execution plan on the operands of a variant pack.
    ///
    /// # Safety
    /// The addresses of the pack are valid for all reads and writes of the plan.
    pub unsafe fn execute(&self, handle: sys::cudnnHandle_t, pack: &Descriptor) -> Result<(), CudnnError> {
        // SAFETY: guaranteed by the caller; both descriptors are finalised.
        unsafe { sys::cudnnBackendExecute(handle, self.0, pack.0) }.result()
    }
}
