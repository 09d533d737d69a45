//! Compiles and launches the CUDA kernels.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::cudarc;
use cudarc::driver::{CudaFunction, CudaModule, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{Ptx, result, sys};

use crate::error::{Error, Result};

const COMMON: &str = include_str!("kernels/common.cu");
const NETWORK: [&str; 7] = [
    include_str!("kernels/elements.cu"),
    include_str!("kernels/pooling.cu"),
    include_str!("kernels/epilogue.cu"),
    include_str!("kernels/norm.cu"),
    include_str!("kernels/conv_one_channel.cu"),
    include_str!("kernels/loss.cu"),
    include_str!("kernels/adam.cu"),
];

/// The number of threads per block in all kernels except the loss.
pub const THREADS: u32 = 256;
/// The number of channel groups that a block covers side by side; `place` in `common.cu`.
const LANES: usize = 16;
/// The number of blocks of a reduction kernel: three per multiprocessor of a large GPU, and few enough that the last
/// block adds their sums quickly.
const SUMMING_BLOCKS: usize = 396;
/// The number of blocks of a kernel that only writes.
const WRITING_BLOCKS: usize = 132 * 16;

/// The compiled form from which a kernel is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// A thread handles one channel at a time.
    Single,
    /// A thread handles 16 bytes of neighbouring channels at a time.
    Vector,
    /// The caller's own kernels, compiled without fused multiply-adds.
    Extra,
}

fn source(form: Form, half: bool, extra: &str) -> String {
    let lanes = match (form, half) {
        (Form::Vector, false) => 4,
        (Form::Vector, true) => 8,
        _ => 1,
    };
    let rest = if form == Form::Extra { extra.to_owned() } else { NETWORK.concat() };
    format!("#define HALF {}\n#define V {lanes}\n{COMMON}\n{rest}", u8::from(half))
}

/// Compiles one form of the kernels to machine code. It is not PTX, because a driver refuses PTX of a newer NVRTC than
/// its own, which PyTorch may well install; machine code is accepted (CUDA's minor version compatibility).
fn compile(form: Form, half: bool, extra: &str, architecture: &str) -> Result<Vec<u8>> {
    let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()];
    if form == Form::Extra {
        options.push("--fmad=false".to_owned());
    }
    let text = CString::new(source(form, half, extra)).expect("the source holds no zeros");
    let refuse = |what: &str| Error::Cuda { message: format!("the kernels do not compile for {architecture}: {what}") };
    let program = result::create_program(&text, None).map_err(|e| refuse(&e.to_string()))?;
    // SAFETY: the program lives until it is destroyed below, its source lives longer, and the
    // buffer has the requested size.
    unsafe {
        let code = || {
            result::compile_program(program, &options)?;
            let mut size = 0;
            sys::nvrtcGetCUBINSize(program, &mut size).result()?;
            let mut code = vec![0u8; size];
            sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
            Ok::<_, result::NvrtcError>(code)
        };
        let code = code().map_err(|error| {
            let log = result::get_program_log(program).unwrap_or_default();
            let log = CStr::from_bytes_until_nul(log.iter().map(|c| *c as u8).collect::<Vec<_>>().as_slice())
                .map_or_else(|_| String::new(), |log| log.to_string_lossy().trim().to_owned());
            refuse(&format!("{error}: {log}"))
        });
        let _ = result::destroy_program(program);
        code
    }
}

/// Compiles every form of the kernels, and the caller's own, for an architecture such as
/// `sm_90`. Needs NVRTC but no GPU.
pub fn compile_all(extra: &str, architecture: &str) -> Result<()> {
    for form in [Form::Single, Form::Vector, Form::Extra] {
        for half in [false, true] {
            compile(form, half, extra, architecture)?;
        }
    }
    Ok(())
}

/// A kernel argument, in the form in which it is passed.
#[derive(Debug, Clone, Copy)]
pub enum Argument<'a> {
    /// A pointer or a 64-bit number.
    Long(u64),
    /// A 32-bit number.
    Word(u32),
    /// A 32-bit float.
    Float(f32),
    /// A structure made of 64-bit words.
    Block(&'a [u64]),
    /// A structure made of 32-bit words.
    Words(&'a [u32]),
}

impl From<u64> for Argument<'_> {
    fn from(value: u64) -> Self {
        Argument::Long(value)
    }
}

impl From<usize> for Argument<'_> {
    /// Converts shapes, strides and counts, which are far below 2^32. Their products are computed
    /// in 64 bits on the device.
    fn from(value: usize) -> Self {
        Argument::Word(value as u32)
    }
}

impl From<f32> for Argument<'_> {
    fn from(value: f32) -> Self {
        Argument::Float(value)
    }
}

/// The compiled kernels for one device and one type of activations.
pub struct Kernels {
    stream: Arc<CudaStream>,
    half: bool,
    extra: &'static str,
    architecture: String,
    modules: Mutex<HashMap<Form, Arc<CudaModule>>>,
    functions: Mutex<HashMap<(Form, &'static str), CudaFunction>>,
}

impl Kernels {
    /// Prepares the kernels. None is compiled yet.
    pub fn new(stream: Arc<CudaStream>, half: bool, extra: &'static str, architecture: String) -> Kernels {
        Kernels { stream, half, extra, architecture, modules: Mutex::default(), functions: Mutex::default() }
    }

    /// The form for `channels` channels.
    pub fn form(&self, channels: usize) -> Form {
        if channels.is_multiple_of(self.lanes(Form::Vector)) { Form::Vector } else { Form::Single }
    }

    /// The number of channels that a thread handles at a time.
    pub fn lanes(&self, form: Form) -> usize {
        match form {
            Form::Vector => 16 / if self.half { 2 } else { 4 },
            Form::Single | Form::Extra => 1,
        }
    }

    fn function(&self, form: Form, name: &'static str) -> Result<CudaFunction> {
        let poisoned = "no thread panics with the kernels in hand";
        let mut functions = self.functions.lock().expect(poisoned);
        if let Some(function) = functions.get(&(form, name)) {
            return Ok(function.clone());
        }
        let mut modules = self.modules.lock().expect(poisoned);
        let module = match modules.get(&form) {
            Some(module) => module.clone(),
            None => {
                let code = compile(form, self.half, self.extra, &self.architecture)?;
                let module = self.stream.context().load_module(Ptx::from_binary(code))?;
                modules.insert(form, module.clone());
                module
            }
        };
        let function = module.load_function(name)?;
        functions.insert((form, name), function.clone());
        Ok(function)
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// The arguments match those of the kernel in number, order and type, and the pointers are valid on the device for
    /// all reads and writes of the kernel.
    pub unsafe fn launch(
        &self,
        form: Form,
        name: &'static str,
        config: LaunchConfig,
        arguments: &[Argument],
    ) -> Result<()> {
        let function = self.function(form, name)?;
        let mut builder = self.stream.launch_builder(&function);
        for argument in arguments {
            match argument {
                Argument::Long(value) => builder.arg(value),
                Argument::Word(value) => builder.arg(value),
                Argument::Float(value) => builder.arg(value),
                // The driver copies the number of bytes that the kernel declares.
                Argument::Block(values) => builder.arg(first(values)),
                Argument::Words(values) => builder.arg(first(values)),
            };
        }
        // SAFETY: guaranteed by the caller.
        unsafe { builder.launch(config) }?;
        Ok(())
    }
}

fn first<T: DeviceRepr>(values: &[T]) -> &T {
    values.first().expect("structures that are passed to kernels have fields")
}

/// The launch configuration of a kernel over `(rows, channels)`: see `place` in `common.cu`.
fn blocks(rows: usize, channels: usize, lanes: usize, most: usize) -> LaunchConfig {
    let groups = channels / lanes;
    let side = groups.min(LANES);
    let across = groups.div_ceil(side);
    let down = rows.div_ceil(THREADS as usize / side).clamp(1, (most / across).max(1));
    LaunchConfig { grid_dim: (across as u32, down as u32, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

/// The launch configuration of a kernel that ends in `total`.
pub fn summing(rows: usize, channels: usize, lanes: usize) -> LaunchConfig {
    blocks(rows, channels, lanes, SUMMING_BLOCKS)
}

/// The maximum number of floats of the partial sums: two for each channel of a block.
pub const PARTIAL_SUMS: usize = 2 * 8 * LANES * SUMMING_BLOCKS;
/// The maximum number of channel slices of a reduction.
pub const SLICES: usize = SUMMING_BLOCKS;

/// The launch configuration of a kernel that writes `(rows, channels)`.
pub fn writing(rows: usize, channels: usize, lanes: usize) -> LaunchConfig {
    blocks(rows, channels, lanes, WRITING_BLOCKS)
}

/// The launch configuration of a kernel over `count` elements or groups of elements.
pub fn each(count: usize) -> LaunchConfig {
    let blocks = count.div_ceil(THREADS as usize).clamp(1, WRITING_BLOCKS);
    LaunchConfig { grid_dim: (blocks as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}
