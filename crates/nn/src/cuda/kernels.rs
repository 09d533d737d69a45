//! The kernels' source, compiled, and how one is launched.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::cudarc;
use cudarc::driver::{CudaFunction, CudaModule, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{Ptx, result, sys};

use crate::error::{Error, Result};

const COMMON: &str = include_str!("kernels/common.cu");
const NETWORK: [&str; 6] = [
    include_str!("kernels/elements.cu"),
    include_str!("kernels/epilogue.cu"),
    include_str!("kernels/norm.cu"),
    include_str!("kernels/conv_one_channel.cu"),
    include_str!("kernels/loss.cu"),
    include_str!("kernels/adam.cu"),
];

/// Threads in a block of every kernel but the loss's.
pub const THREADS: u32 = 256;
/// Groups of channels that a block stands on side by side; `place` in `common.cu`.
const LANES: usize = 16;
/// Blocks of a kernel that sums: three for each of a large GPU's processors, few enough that the last adds theirs up
/// quickly.
const SUMMING_BLOCKS: usize = 396;
/// Blocks of a kernel that only writes.
const WRITING_BLOCKS: usize = 132 * 16;

/// Which of the compiled forms a kernel is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// One channel per thread and step.
    Single,
    /// 16 bytes of neighbouring channels.
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

/// The machine code of a form of the kernels. Not PTX: that of a newer NVRTC than the driver is refused by it, machine code
/// is not (CUDA's minor version compatibility), and PyTorch may well bring a newer one.
fn compile(form: Form, half: bool, extra: &str, architecture: &str) -> Result<Vec<u8>> {
    let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()];
    if form == Form::Extra {
        options.push("--fmad=false".to_owned());
    }
    let text = CString::new(source(form, half, extra)).expect("the source holds no zeros");
    let refuse = |what: &str| Error::Cuda { message: format!("the kernels do not compile for {architecture}: {what}") };
    let program = result::create_program(&text, None).map_err(|e| refuse(&e.to_string()))?;
    // SAFETY: the program lives until it is destroyed below, its source for longer, and the room has the size that was
    // asked for.
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

/// Compiles every form of the kernels, and the caller's own, for an architecture such as `sm_90`; needs NVRTC and no GPU.
pub fn compile_all(extra: &str, architecture: &str) -> Result<()> {
    for form in [Form::Single, Form::Vector, Form::Extra] {
        for half in [false, true] {
            compile(form, half, extra, architecture)?;
        }
    }
    Ok(())
}

/// An argument of a kernel, as it stands in its parameters.
#[derive(Debug, Clone, Copy)]
pub enum Argument<'a> {
    /// A pointer, or a number of 64 bits.
    Long(u64),
    /// A number of 32 bits.
    Word(u32),
    /// A float.
    Float(f32),
    /// A structure, in whole words of 64 bits.
    Block(&'a [u64]),
    /// A structure of 32-bit numbers.
    Words(&'a [u32]),
}

impl From<u64> for Argument<'_> {
    fn from(value: u64) -> Self {
        Argument::Long(value)
    }
}

impl From<usize> for Argument<'_> {
    /// Shapes, strides and counts, which stay far below 32 bits: products of them are taken in 64 on the device.
    fn from(value: usize) -> Self {
        Argument::Word(value as u32)
    }
}

impl From<f32> for Argument<'_> {
    fn from(value: f32) -> Self {
        Argument::Float(value)
    }
}

/// The compiled kernels of one device and type of activations.
pub struct Kernels {
    stream: Arc<CudaStream>,
    half: bool,
    extra: &'static str,
    architecture: String,
    modules: Mutex<HashMap<Form, Arc<CudaModule>>>,
    functions: Mutex<HashMap<(Form, &'static str), CudaFunction>>,
}

impl Kernels {
    /// Nothing is compiled yet.
    pub fn new(stream: Arc<CudaStream>, half: bool, extra: &'static str, architecture: String) -> Kernels {
        Kernels { stream, half, extra, architecture, modules: Mutex::default(), functions: Mutex::default() }
    }

    /// The form for so many channels.
    pub fn form(&self, channels: usize) -> Form {
        if channels.is_multiple_of(self.lanes(Form::Vector)) { Form::Vector } else { Form::Single }
    }

    /// Channels that a thread takes at a time.
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
    /// The arguments are those of the kernel, in number, order and kind, and its pointers are valid on the device for
    /// what it reads and writes.
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
                // The driver copies as many bytes from here as the kernel declares.
                Argument::Block(values) => builder.arg(first(values)),
                Argument::Words(values) => builder.arg(first(values)),
            };
        }
        // SAFETY: the caller's promise.
        unsafe { builder.launch(config) }?;
        Ok(())
    }
}

fn first<T: DeviceRepr>(values: &[T]) -> &T {
    values.first().expect("structures that are passed to kernels have fields")
}

/// The blocks of a kernel that stands on `(rows, channels)`: see `place` in `common.cu`.
fn blocks(rows: usize, channels: usize, lanes: usize, most: usize) -> LaunchConfig {
    let groups = channels / lanes;
    let side = groups.min(LANES);
    let across = groups.div_ceil(side);
    let down = rows.div_ceil(THREADS as usize / side).clamp(1, (most / across).max(1));
    LaunchConfig { grid_dim: (across as u32, down as u32, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

/// The blocks of a kernel that ends in `total`.
pub fn summing(rows: usize, channels: usize, lanes: usize) -> LaunchConfig {
    blocks(rows, channels, lanes, SUMMING_BLOCKS)
}

/// Floats that partial sums take at most: two for each of a block's channels.
pub const PARTIAL_SUMS: usize = 2 * 8 * LANES * SUMMING_BLOCKS;
/// The most slices of channels that sums are made over.
pub const SLICES: usize = SUMMING_BLOCKS;

/// The blocks of a kernel that writes `(rows, channels)`.
pub fn writing(rows: usize, channels: usize, lanes: usize) -> LaunchConfig {
    blocks(rows, channels, lanes, WRITING_BLOCKS)
}

/// The blocks of a kernel that takes elements, or groups of them, one by one.
pub fn each(count: usize) -> LaunchConfig {
    let blocks = count.div_ceil(THREADS as usize).clamp(1, WRITING_BLOCKS);
    LaunchConfig { grid_dim: (blocks as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}
