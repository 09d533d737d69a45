//! Convolution and its two gradients through cuDNN, channels-last.
//!
//! cuDNN is asked once per shape for its engines. In training each is timed and the fastest kept; elsewhere, and where
//! the same bits are asked for, the first of its heuristics is taken that runs. Nothing is looked up, described or
//! allocated again afterwards.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc;
use cudarc::cudnn::{CudnnError, result, sys};
use cudarc::driver::{CudaStream, sys as driver};
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendDescriptorType_t as Kind;

use super::descriptor::Descriptor;
use super::session::Session;
use crate::Precision;
use crate::cpu::conv_shape::ConvShape;
use crate::error::{Error, Result};

/// Engines that are timed for a shape: cuDNN names the likely ones first.
const TIMED: usize = 10;
/// Runs that are timed of each, after one that is not.
const RUNS: usize = 3;
/// Engines that want more memory to work in are left out.
const WORKSPACE_LIMIT: i64 = 2 << 30;

impl From<CudnnError> for Error {
    fn from(source: CudnnError) -> Error {
        Error::Cuda { message: format!("cuDNN: {:?}", source.0) }
    }
}

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Input and weight to output.
    Forward,
    /// Weight and output's gradient to input's gradient.
    InputGradient,
    /// Input and output's gradient to weight's gradient.
    WeightGradient,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    task: Task,
    input: [usize; 4],
    output: [usize; 4],
    kernel: usize,
    stride: usize,
    padding: usize,
}

struct Plan {
    plan: Descriptor,
    workspace: i64,
}

/// The library's handle and the plans for the shapes that were met.
pub struct Convolutions {
    handle: sys::cudnnHandle_t,
    plans: HashMap<Key, Plan>,
    search: bool,
}

// SAFETY: the handle is bound to no thread, and is used by one at a time, behind the session's lock.
unsafe impl Send for Convolutions {}

impl Convolutions {
    /// Opens the library for a stream.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Convolutions> {
        stream.context().bind_to_thread()?;
        let handle = result::create_handle()?;
        // SAFETY: both are valid, and the stream outlives the handle: sessions live as long as the program.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }?;
        Ok(Convolutions { handle, plans: HashMap::new(), search: false })
    }

    /// Whether the engines for new shapes are timed.
    pub fn set_search(&mut self, search: bool) {
        self.search = search;
    }
}

/// Runs one of the three: `input`, `weight` and `output` are the addresses of those tensors or of their gradients, the
/// weights as `(outputs, kernel, kernel, inputs)`.
///
/// # Safety
/// The addresses are those of whole tensors of the session's type of activations, in the shapes of `shape`.
pub unsafe fn run(
    session: &Session,
    task: Task,
    shape: &ConvShape,
    input: u64,
    weight: u64,
    output: u64,
) -> Result<()> {
    let key = Key {
        task,
        input: [shape.images, shape.height, shape.width, shape.inputs],
        output: [shape.images, shape.lines(), shape.columns(), shape.outputs],
        kernel: shape.kernel,
        stride: shape.stride,
        padding: shape.padding,
    };
    let mut convolutions = session.convolutions();
    let Convolutions { handle, plans, search } = &mut *convolutions;
    let operands = [input, weight, output];
    let plan = match plans.entry(key) {
        Entry::Occupied(found) => found.into_mut(),
        // SAFETY: the caller's promise.
        Entry::Vacant(place) => place.insert(unsafe { find(session, *handle, *search, &key, operands) }?),
    };
    let workspace = session.workspace(plan.workspace as usize)?;
    // SAFETY: the caller's promise.
    unsafe { execute(*handle, plan, operands, workspace) }
}

/// The operands' numbers in plans and packs.
const OPERANDS: [i64; 3] = [1, 2, 3];

/// Runs a plan.
///
/// # Safety
/// As [`run`]; `workspace` is the address of as much memory as the plan asks for.
unsafe fn execute(handle: sys::cudnnHandle_t, plan: &Plan, operands: [u64; 3], workspace: u64) -> Result<()> {
    let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
    pack.pointers(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &operands)?;
    pack.numbers(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &OPERANDS)?;
    pack.pointers(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[workspace])?;
    // SAFETY: the caller's promise.
    Ok(unsafe { plan.plan.execute(handle, &pack.finish()?) }?)
}

fn tensor(number: i64, kind: sys::cudnnDataType_t, [n, h, w, c]: [usize; 4]) -> Result<Descriptor, CudnnError> {
    let [n, h, w, c] = [n, h, w, c].map(|extent| extent as i64);
    let tensor = Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
    tensor.data_type(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, kind)?;
    tensor.numbers(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &[n, c, h, w])?;
    tensor.numbers(Name::CUDNN_ATTR_TENSOR_STRIDES, &[h * w * c, 1, w * c, c])?;
    tensor.numbers(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[number])?;
    tensor.numbers(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[16])?;
    tensor.finish()
}

/// The graph of the one operation.
fn graph(handle: sys::cudnnHandle_t, key: &Key, precision: Precision) -> Result<Descriptor, CudnnError> {
    let kind = match precision {
        Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        Precision::F32 | Precision::Tf32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
    };
    let convolution = Descriptor::new(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
    let both = |value: usize| [value as i64; 2];
    convolution.numbers(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2])?;
    convolution.data_type(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, sys::cudnnDataType_t::CUDNN_DATA_FLOAT)?;
    let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
    convolution.convolution_mode(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, mode)?;
    convolution.numbers(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &both(key.padding))?;
    convolution.numbers(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &both(key.padding))?;
    convolution.numbers(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &both(1))?;
    convolution.numbers(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &both(key.stride))?;
    let convolution = convolution.finish()?;

    let [inputs, outputs] = [key.input[3], key.output[3]];
    let [one, two, three] = OPERANDS;
    let operands = [
        tensor(one, kind, key.input)?,
        tensor(two, kind, [outputs, key.kernel, key.kernel, inputs])?,
        tensor(three, kind, key.output)?,
    ];
    let (operation, names) = match key.task {
        Task::Forward => (
            Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
            [
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
            ],
        ),
        Task::InputGradient => (
            Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
            [
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
            ],
        ),
        Task::WeightGradient => (
            Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
            [
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
            ],
        ),
    };
    let operation = Descriptor::new(operation)?;
    let [input, weight, output, description, alpha, beta] = names;
    for (name, operand) in [input, weight, output].into_iter().zip(&operands) {
        operation.descriptor(name, operand)?;
    }
    operation.descriptor(description, &convolution)?;
    operation.float(alpha, 1.0)?;
    operation.float(beta, 0.0)?;
    let operation = operation.finish()?;

    let graph = Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
    graph.descriptor(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &operation)?;
    graph.handle(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle)?;
    graph.finish()
}

/// What the heuristics of one kind propose, best first.
fn proposals(graph: &Descriptor, mode: sys::cudnnBackendHeurMode_t) -> Result<Vec<Descriptor>, CudnnError> {
    /// More than cuDNN proposes for a convolution.
    const MOST: usize = 64;
    let heuristics = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
    heuristics.descriptor(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)?;
    heuristics.heuristics(Name::CUDNN_ATTR_ENGINEHEUR_MODE, mode)?;
    let heuristics = heuristics.finish()?;
    let (name, kind) = (Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    heuristics.descriptors(name, kind, MOST)
}

/// Whether an engine computes as exactly, and as repeatably, as the session asks.
fn is_allowed(session: &Session, proposal: &Descriptor) -> Result<bool, CudnnError> {
    use sys::cudnnBackendNumericalNote_t as Note;
    let (name, kind) = (Name::CUDNN_ATTR_ENGINECFG_ENGINE, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    let engines = proposal.descriptors(name, kind, 1)?;
    let Some(engine) = engines.first() else { return Ok(false) };
    let notes = engine.notes()?;
    let has = |note: Note| notes.contains(&(note as u32));
    // transforms of the images cost some bits, the matrix units' float32 more
    let inexact =
        [Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE, Note::CUDNN_NUMERICAL_NOTE_WINOGRAD, Note::CUDNN_NUMERICAL_NOTE_FFT];
    let is_coarse = session.precision() == Precision::F32 && inexact.into_iter().any(has);
    let varies = session.is_deterministic() && has(Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC);
    Ok(!has(Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS) && !is_coarse && !varies)
}

fn plan(handle: sys::cudnnHandle_t, proposal: &Descriptor) -> Result<Plan, CudnnError> {
    let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
    plan.handle(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle)?;
    plan.descriptor(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, proposal)?;
    let plan = plan.finish()?;
    let workspace = plan.number(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
    Ok(Plan { plan, workspace })
}

/// The plan for a shape, tried on its first operands.
///
/// # Safety
/// As [`run`].
unsafe fn find(
    session: &Session,
    handle: sys::cudnnHandle_t,
    search: bool,
    key: &Key,
    operands: [u64; 3],
) -> Result<Plan> {
    let graph = graph(handle, key, session.precision())?;
    let only_first = !search || session.is_deterministic();
    let stream = session.stream();
    let (mut best, mut refusal): (Option<(f32, Plan)>, _) = (None, None);
    for mode in [sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A, sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_FALLBACK]
    {
        let mut tried = 0;
        for proposal in proposals(&graph, mode).unwrap_or_default() {
            // What an engine refuses, another may take.
            if !is_allowed(session, &proposal).unwrap_or(false) {
                continue;
            }
            let Ok(plan) = plan(handle, &proposal) else { continue };
            if plan.workspace > WORKSPACE_LIMIT {
                continue;
            }
            // given back before the next engine is tried: what they want between them need not fit
            // SAFETY: the library reads nothing of it that it has not written.
            let workspace = match unsafe { stream.alloc::<u8>((plan.workspace as usize).max(1)) } {
                Ok(workspace) => workspace,
                Err(error) => {
                    refusal = Some(Error::from(error));
                    continue;
                }
            };
            // SAFETY: the caller's promise; every run overwrites the result of the one before.
            let once = || unsafe { execute(handle, &plan, operands, session.address(&workspace)) };
            if let Err(error) = once() {
                refusal = Some(error);
                continue;
            }
            if only_first {
                return Ok(plan);
            }
            let now = || stream.record_event(Some(driver::CUevent_flags::CU_EVENT_DEFAULT));
            let begun = now()?;
            (0..RUNS).try_for_each(|_| once())?;
            let time = begun.elapsed_ms(&now()?)?;
            if best.as_ref().is_none_or(|(fastest, _)| time < *fastest) {
                best = Some((time, plan));
            }
            tried += 1;
            if tried == TIMED {
                break;
            }
        }
        if best.is_some() {
            break;
        }
    }
    let none = || {
        let why = refusal.map_or_else(|| "none is proposed".to_owned(), |last: Error| last.to_string());
        Error::Cuda { message: format!("cuDNN has no engine for {key:?}: {why}") }
    };
    best.map(|(_, plan)| plan).ok_or_else(none)
}
