//! The plans of cuDNN for convolutions: the graph of the one operation, the engines that are proposed for it, and the plans
//! that were made. What is chosen among them is `conv.rs`'s.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc;
use cudarc::cudnn::{CudnnError, result, sys};
use cudarc::driver::CudaStream;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendDescriptorType_t as Kind;

use super::descriptor::Descriptor;
use crate::Precision;
use crate::error::{Error, Result};

impl From<CudnnError> for Error {
    fn from(source: CudnnError) -> Error {
        Error::Cuda { message: format!("cuDNN: {:?}", source.0) }
    }
}

/// Which of the three operations of a convolution.
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
/// An operation on tensors of certain shapes.
pub struct Key {
    /// The operation.
    pub task: Task,
    /// The shape of the input, channels last.
    pub input: [usize; 4],
    /// The shape of the output, channels last.
    pub output: [usize; 4],
    /// Height and width of the kernel.
    pub kernel: usize,
    /// The step in both directions.
    pub stride: usize,
    /// Zeros around the input, on each side.
    pub padding: usize,
}

/// An engine that is ready to run.
pub struct Plan {
    plan: Descriptor,
    /// Bytes of memory to work in.
    pub workspace: i64,
}

/// The library's handle and the plans for the shapes that were met.
pub struct Convolutions {
    /// The handle of cuDNN.
    pub handle: sys::cudnnHandle_t,
    /// The plans of the shapes that were met.
    pub plans: HashMap<Key, Plan>,
    /// Whether the engines for new shapes are timed.
    pub search: bool,
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

/// The operands' numbers in plans and packs.
const OPERANDS: [i64; 3] = [1, 2, 3];

/// Runs a plan.
///
/// # Safety
/// The operands are the addresses of whole tensors in the shapes of the plan; `workspace` is that of as much memory as the
/// plan asks for.
pub unsafe fn execute(handle: sys::cudnnHandle_t, plan: &Plan, operands: [u64; 3], workspace: u64) -> Result<()> {
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
pub fn graph(handle: sys::cudnnHandle_t, key: &Key, precision: Precision) -> Result<Descriptor, CudnnError> {
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
pub fn proposals(graph: &Descriptor, mode: sys::cudnnBackendHeurMode_t) -> Result<Vec<Descriptor>, CudnnError> {
    /// More than cuDNN proposes for a convolution.
    const MOST: usize = 64;
    let heuristics = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
    heuristics.descriptor(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)?;
    heuristics.heuristics(Name::CUDNN_ATTR_ENGINEHEUR_MODE, mode)?;
    let heuristics = heuristics.finish()?;
    let (name, kind) = (Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    heuristics.descriptors(name, kind, MOST)
}

/// The plan of a proposed engine.
pub fn plan(handle: sys::cudnnHandle_t, proposal: &Descriptor) -> Result<Plan, CudnnError> {
    let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
    plan.handle(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle)?;
    plan.descriptor(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, proposal)?;
    let plan = plan.finish()?;
    let workspace = plan.number(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
    Ok(Plan { plan, workspace })
}
