//! cuDNN's descriptors, which all are made, filled and finished in the same way.

use std::ffi::c_void;
use std::ptr::null_mut;

use candle_core::cuda_backend::cudarc::cudnn::{CudnnError, sys};
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendAttributeType_t as Type;
use sys::cudnnBackendDescriptorType_t as Kind;

/// One of cuDNN's descriptors; destroyed with it.
pub struct Descriptor(sys::cudnnBackendDescriptor_t);

// SAFETY: a descriptor is plain memory of cuDNN's, bound to no thread; it is used by one thread at a time, since all are
// behind the lock of `Convolutions`.
unsafe impl Send for Descriptor {}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new` and destroyed once. A failure leaves memory behind, no more.
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

    /// Sets an attribute to some values of the type that cuDNN documents for it.
    fn set<T>(&self, name: Name, kind: Type, values: &[T]) -> Result<(), CudnnError> {
        let values_at = values.as_ptr().cast::<c_void>();
        // SAFETY: cuDNN copies `values.len()` values, whose type the callers below match to `kind`.
        unsafe { sys::cudnnBackendSetAttribute(self.0, name, kind, values.len() as i64, values_at) }.result()
    }

    /// Sets whole numbers.
    pub fn numbers(&self, name: Name, values: &[i64]) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_INT64, values)
    }

    /// Sets a float. The factors of a convolution must be of the type that it computes in: of doubles it would take half
    /// the bits.
    pub fn float(&self, name: Name, value: f32) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_FLOAT, &[value])
    }

    /// Sets a type of elements.
    pub fn data_type(&self, name: Name, value: sys::cudnnDataType_t) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_DATA_TYPE, &[value])
    }

    /// Sets the mode of a convolution.
    pub fn convolution_mode(&self, name: Name, value: sys::cudnnConvolutionMode_t) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_CONVOLUTION_MODE, &[value])
    }

    /// Sets which heuristics are asked.
    pub fn heuristics(&self, name: Name, value: sys::cudnnBackendHeurMode_t) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_HEUR_MODE, &[value])
    }

    /// Sets the library's handle.
    pub fn handle(&self, name: Name, value: sys::cudnnHandle_t) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_HANDLE, &[value])
    }

    /// Sets addresses on the device.
    pub fn pointers(&self, name: Name, values: &[u64]) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_VOID_PTR, values)
    }

    /// Sets another descriptor, of which cuDNN keeps what it needs.
    pub fn descriptor(&self, name: Name, value: &Descriptor) -> Result<(), CudnnError> {
        self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[value.0])
    }

    /// Checks what was set; the descriptor can be used from here on.
    pub fn finish(self) -> Result<Descriptor, CudnnError> {
        // SAFETY: a descriptor of ours.
        unsafe { sys::cudnnBackendFinalize(self.0) }.result()?;
        Ok(self)
    }

    /// A whole number.
    pub fn number(&self, name: Name) -> Result<i64, CudnnError> {
        let (mut value, mut count) = (0i64, 0);
        let into = std::ptr::from_mut(&mut value).cast();
        // SAFETY: room for the one number that is asked for.
        unsafe { sys::cudnnBackendGetAttribute(self.0, name, Type::CUDNN_TYPE_INT64, 1, &mut count, into) }.result()?;
        Ok(value)
    }

    /// Descriptors of some kind.
    pub fn descriptors(&self, name: Name, kind: Kind, most: usize) -> Result<Vec<Descriptor>, CudnnError> {
        let mut all = (0..most).map(|_| Descriptor::new(kind)).collect::<Result<Vec<_>, _>>()?;
        let mut raw: Vec<_> = all.iter().map(|one| one.0).collect();
        let (mut count, into) = (0, raw.as_mut_ptr().cast());
        let of = Type::CUDNN_TYPE_BACKEND_DESCRIPTOR;
        // SAFETY: room for `most` descriptors, made as cuDNN asks for, which it fills.
        unsafe { sys::cudnnBackendGetAttribute(self.0, name, of, most as i64, &mut count, into) }.result()?;
        all.truncate(count.clamp(0, most as i64) as usize);
        Ok(all)
    }

    /// What is said of an engine's numbers, as cuDNN numbers such notes: newer versions have more than this one knows.
    pub fn notes(&self) -> Result<Vec<u32>, CudnnError> {
        const MOST: usize = sys::cudnnBackendNumericalNote_t::CUDNN_NUMERICAL_NOTE_TYPE_COUNT as usize;
        let (mut notes, mut count) = ([0u32; MOST], 0);
        let (name, of) = (Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, Type::CUDNN_TYPE_NUMERICAL_NOTE);
        let into = notes.as_mut_ptr().cast();
        // SAFETY: a note is a C enumeration, 32 bits, and there is room for `MOST`.
        unsafe { sys::cudnnBackendGetAttribute(self.0, name, of, MOST as i64, &mut count, into) }.result()?;
        Ok(notes[..count.clamp(0, MOST as i64) as usize].to_vec())
    }

    /// Runs this plan on the operands of a variant pack.
    ///
    /// # Safety
    /// The pack's addresses are valid for what the plan reads and writes.
    pub unsafe fn execute(&self, handle: sys::cudnnHandle_t, pack: &Descriptor) -> Result<(), CudnnError> {
        // SAFETY: the caller's promise; both descriptors are finished.
        unsafe { sys::cudnnBackendExecute(handle, self.0, pack.0) }.result()
    }
}
