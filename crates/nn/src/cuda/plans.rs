//! cuDNN's plans for convolutions: the graph of the single operation, the engines that cuDNN proposes for it, and the
//! plans made so far. `conv.rs` chooses among the engines.

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

/// The three operations of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Computes the output from input and weight.
    Forward,
    /// Computes the gradient of the input from the weight and the gradient of the output.
    InputGradient,
    /// Computes the gradient of the weight from the input and the gradient of the output.
    WeightGradient,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
/// An operation on tensors of given shapes.
pub struct Key {
    /// The kind of operation: a forward pass or a gradient.
    pub task: Task,
    /// The shape of the input, channels last.
    pub input: [usize; 4],
    /// The shape of the output, channels last.
    pub output: [usize; 4],
    /// Height and width of the kernel.
    pub kernel: usize,
    /// The stride in both directions.
    pub stride: usize,
    /// The zero padding of the input, on each side.
    pub padding: usize,
}

/// The execution plan of an engine.
pub struct Plan {
    plan: Descriptor,
    /// The size of the workspace in bytes.
    pub workspace: i64,
}

/// The handle of cuDNN and the plans made so far.
pub struct Convolutions {
    /// The handle of cuDNN.
    pub handle: sys::cudnnHandle_t,
    /// The plans by operation and shape.
    pub plans: HashMap<Key, Plan>,
    /// Whether the engines for a new shape are timed.
    pub search: bool,
}

// SAFETY: the handle is not bound to a thread, and the session's lock restricts it to one thread at a time.
unsafe impl Send for Convolutions {}

impl Convolutions {
    /// Creates a handle for a stream.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Convolutions> {
        stream.context().bind_to_thread()?;
        let handle = result::create_handle()?;
        // SAFETY: both are valid, and the stream outlives the handle, because sessions live as long as the program.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }?;
        Ok(Convolutions { handle, plans: HashMap::new(), search: false })
    }

    /// Sets whether the engines for a new shape are timed.
    pub fn set_search(&mut self, search: bool) {
        self.search = search;
    }
}

/// The ids of the operands in graphs and variant packs.
const OPERANDS: [i64; 3] = [1, 2, 3];

/// Runs a plan.
///
/// # Safety
/// The operands are the addresses of whole tensors in the shapes of the plan. `workspace` is the address of at least
/// `plan.workspace` bytes.
pub unsafe fn execute(handle: sys::cudnnHandle_t, plan: &Plan, operands: [u64; 3], workspace: u64) -> Result<()> {
    let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
    pack.pointers(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &operands)?;
    pack.numbers(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &OPERANDS)?;
    pack.pointers(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[workspace])?;
    // SAFETY: guaranteed by the caller.
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

/// The graph of the single operation.
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

/// The engines that one mode of the heuristics proposes, best first.
pub fn proposals(graph: &Descriptor, mode: sys::cudnnBackendHeurMode_t) -> Result<Vec<Descriptor>, CudnnError> {
    /// An upper bound of the number of engines that cuDNN proposes for a convolution.
    const MOST: usize = 64;
    let heuristics = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
    heuristics.descriptor(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)?;
    heuristics.heuristics(Name::CUDNN_ATTR_ENGINEHEUR_MODE, mode)?;
    let heuristics = heuristics.finish()?;
    let (name, kind) = (Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    heuristics.descriptors(name, kind, MOST)
}

/// Makes the plan of a proposed engine.
pub fn plan(handle: sys::cudnnHandle_t, proposal: &Descriptor) -> Result<Plan, CudnnError> {
    let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
    plan.handle(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle)?;
    plan.descriptor(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, proposal)?;
    let plan = plan.finish()?;
    let workspace = plan.number(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
    Ok(Plan { plan, workspace })
}
