//! An open device: its stream, libraries and kernels, and the memory that belongs to no tensor.
//!
//! A session is found by the id of candle's device, which every tensor carries. It lives as long as the program.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use candle_core::cuda_backend::cudarc;
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId};
use candle_core::{CudaDevice, DType, Device, Storage, Tensor};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, LaunchConfig, result, sys};

use super::kernels::{Argument, Form, Kernels, PARTIAL_SUMS, SLICES};
use super::plans::Convolutions;
use crate::Precision;
use crate::error::{Error, Result};

/// An open device.
pub struct Session {
    device: CudaDevice,
    precision: Precision,
    deterministic: bool,
    kernels: Kernels,
    convolutions: Mutex<Convolutions>,
    partial: CudaSlice<f32>,
    tickets: CudaSlice<u32>,
    step: CudaSlice<u32>,
    feed: RwLock<Feed>,
    workspaces: Mutex<Vec<CudaSlice<u8>>>,
    zeros: Mutex<HashMap<usize, Tensor>>,
}

/// The keys of the random streams of dropout: one for each step of an epoch and each dropout layer.
#[derive(Default)]
pub struct Feed {
    keys: Option<CudaSlice<u32>>,
    layers: usize,
}

static SESSIONS: RwLock<Option<HashMap<DeviceId, Arc<Session>>>> = RwLock::new(None);

impl From<DriverError> for Error {
    fn from(source: DriverError) -> Error {
        Error::Cuda { message: source.to_string() }
    }
}

const POISONED: &str = "no thread panics with a session in hand";

impl Session {
    /// Opens the GPU of this number for one precision. `extra` is the CUDA source of the caller's own kernels, which
    /// are launched in the form [`Form::Extra`]. It is compiled when the first of them is launched.
    ///
    /// # Errors
    /// [`Error::Cuda`] if there is no such GPU or no driver.
    pub fn open(
        ordinal: usize,
        precision: Precision,
        deterministic: bool,
        extra: &'static str,
    ) -> Result<Arc<Session>> {
        // A new stream, because work on the default stream cannot be captured.
        let device = CudaDevice::new_with_stream(ordinal).map_err(|error| match error.into() {
            Error::Tensor { message } => Error::Cuda { message },
            other => other,
        })?;
        // SAFETY: all work is on one stream, in the order of the calls, so no events are needed to order it.
        unsafe { device.disable_event_tracking() };
        let stream = device.cuda_stream();
        keep_freed_memory(&stream)?;
        let (major, minor) = stream.context().compute_capability()?;
        let half = precision == Precision::Bf16;
        let kernels = Kernels::new(stream.clone(), half, extra, format!("sm_{major}{minor}"));
        let session = Arc::new(Session {
            precision,
            deterministic,
            kernels,
            convolutions: Mutex::new(Convolutions::new(&stream)?),
            partial: stream.alloc_zeros(PARTIAL_SUMS)?,
            tickets: stream.alloc_zeros(SLICES)?,
            step: stream.alloc_zeros(1)?,
            feed: RwLock::default(),
            workspaces: Mutex::default(),
            zeros: Mutex::default(),
            device,
        });
        let mut sessions = SESSIONS.write().expect(POISONED);
        sessions.get_or_insert_default().insert(session.device.id(), session.clone());
        Ok(session)
    }

    /// The session of a tensor's device.
    pub fn of(tensor: &Tensor) -> Result<Arc<Session>> {
        let Device::Cuda(device) = tensor.device() else {
            return Err(Error::Tensor { message: "expected a tensor on a GPU".to_owned() });
        };
        let sessions = SESSIONS.read().expect(POISONED);
        let session = sessions.as_ref().and_then(|sessions| sessions.get(&device.id()));
        session.cloned().ok_or_else(|| Error::Tensor { message: "a GPU that no session opened".to_owned() })
    }

    /// The device in candle's terms.
    pub fn device(&self) -> Device {
        Device::Cuda(self.device.clone())
    }

    /// The stream of all work.
    pub fn stream(&self) -> Arc<CudaStream> {
        self.device.cuda_stream()
    }

    /// The handle of cuBLAS.
    pub fn blas(&self) -> cudarc::cublas::sys::cublasHandle_t {
        *self.device.cublas_handle().handle()
    }

    /// The precision of matrix products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Whether the results are deterministic.
    pub fn is_deterministic(&self) -> bool {
        self.deterministic
    }

    /// The plans of the convolutions.
    pub fn convolutions(&self) -> MutexGuard<'_, Convolutions> {
        self.convolutions.lock().expect(POISONED)
    }

    /// Waits until all work on the stream is done.
    pub fn wait(&self) -> Result<()> {
        Ok(self.stream().synchronize()?)
    }

    /// An uninitialised tensor, of which the caller must write every element.
    pub fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        // SAFETY: callers pass the tensor to a kernel that writes all of it before anything reads it.
        Ok(unsafe { Tensor::empty(shape, dtype, &self.device()) }?)
    }

    /// An uninitialised tensor of activations, like [`Session::empty`].
    pub fn activations(&self, shape: &[usize]) -> Result<Tensor> {
        self.empty(shape, self.precision.dtype())
    }

    /// The form of the kernels for `channels` channels.
    pub fn form(&self, channels: usize) -> Form {
        self.kernels.form(channels)
    }

    /// The number of channels that a thread handles at a time in this form.
    pub fn lanes(&self, form: Form) -> usize {
        self.kernels.lanes(form)
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// The same conditions as for [`Kernels::launch`].
    pub unsafe fn launch(
        &self,
        form: Form,
        name: &'static str,
        config: LaunchConfig,
        arguments: &[Argument],
    ) -> Result<()> {
        // SAFETY: guaranteed by the caller.
        unsafe { self.kernels.launch(form, name, config, arguments) }
    }

    /// The addresses of the partial sums of reduction kernels and of the tickets of their blocks.
    pub fn sums(&self) -> [Argument<'static>; 2] {
        [self.address(&self.partial).into(), self.address(&self.tickets).into()]
    }

    /// The device address of the number of the current step in its epoch.
    pub fn step(&self) -> u64 {
        self.address(&self.step)
    }

    /// Sets the number of the current step.
    pub fn set_step(&self, step: u32) -> Result<()> {
        // SAFETY: the address is that of the single word that is written, and it stays valid.
        unsafe { result::memcpy_htod_async(self.step(), &[step], self.stream().cu_stream()) }?;
        self.wait()
    }

    /// Increments the number of the current step.
    pub fn next_step(&self) -> Result<()> {
        // SAFETY: the kernel takes one pointer, to the step.
        unsafe {
            self.launch(
                Form::Single,
                "next_step",
                LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 },
                &[self.step().into()],
            )
        }
    }

    /// Sets the keys of dropout's random streams for the steps of an epoch: `layers` keys of eight words for each step.
    /// The memory is allocated once, for the number of steps of the first epoch.
    pub fn set_keys(&self, keys: &[u32], layers: usize) -> Result<()> {
        let mut feed = self.feed.write().expect(POISONED);
        let stream = self.stream();
        match &mut feed.keys {
            Some(room) if room.len() >= keys.len() => {
                let mut room = room.slice_mut(..keys.len());
                stream.memcpy_htod(keys, &mut room)?;
            }
            room => *room = Some(stream.clone_htod(keys)?),
        }
        feed.layers = layers;
        Ok(())
    }

    /// The address of the keys, and their number for each step.
    pub fn keys(&self) -> Result<(u64, usize)> {
        let feed = self.feed.read().expect(POISONED);
        let keys = feed.keys.as_ref().ok_or_else(|| Error::Tensor { message: "dropout without keys".to_owned() })?;
        Ok((self.address(keys), feed.layers))
    }

    /// The device address of this memory.
    pub fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.stream()).0
    }

    /// A tensor of `count` zeros in float32. It is shared by all callers, which only read it.
    pub fn zeros(&self, count: usize) -> Result<Tensor> {
        let mut zeros = self.zeros.lock().expect(POISONED);
        if let Some(zeros) = zeros.get(&count) {
            return Ok(zeros.clone());
        }
        let tensor = Tensor::zeros(count, DType::F32, &self.device())?;
        zeros.insert(count, tensor.clone());
        Ok(tensor)
    }

    /// The address of a workspace of at least `bytes` bytes. It is shared by all calls, which follow each other on the
    /// stream. A larger workspace does not replace an earlier one, because a captured step keeps using its address.
    pub fn workspace(&self, bytes: usize) -> Result<u64> {
        let mut spaces = self.workspaces.lock().expect(POISONED);
        if spaces.last().is_none_or(|space| space.len() < bytes) {
            // SAFETY: the libraries read nothing of the workspace that they have not written.
            spaces.push(unsafe { self.stream().alloc::<u8>(bytes.max(1)) }?);
        }
        Ok(self.address(spaces.last().expect("one was pushed where there was none")))
    }
}

/// Makes the memory pool keep the memory of freed tensors. By default, each synchronisation returns it to the system.
fn keep_freed_memory(stream: &CudaStream) -> Result<()> {
    let mut keep = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is a 64-bit number, and the pool is that of the context's device.
    unsafe {
        let pool = result::device::get_default_mem_pool(stream.context().cu_device())?;
        result::mem_pool::set_attribute(pool, attribute, std::ptr::from_mut(&mut keep).cast())?;
    }
    Ok(())
}

/// The address of the first element of a contiguous tensor on a GPU.
pub fn address(tensor: &Tensor) -> Result<u64> {
    let refuse = |what: &str| Error::Tensor { message: format!("expected a tensor on a GPU, {what}") };
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { return Err(refuse("found one elsewhere")) };
    if !layout.is_contiguous() {
        return Err(refuse("in the order of its elements"));
    }
    let stream = storage.device.cuda_stream();
    let start = match &storage.slice {
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        _ => return Err(refuse("of floats, bfloat16 or bytes")),
    };
    Ok(start + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}

/// The address of a convolution weight, a tensor of shape `(outputs, inputs, kernel, kernel)` that is stored on the GPU
/// as `(outputs, kernel, kernel, inputs)`.
pub fn weight_address(weight: &Tensor) -> Result<u64> {
    address(&weight.permute((0, 2, 3, 1))?)
}
