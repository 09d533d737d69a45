//! Convolution and its two gradients through cuDNN, channels-last.
//!
//! For each shape, cuDNN is asked once for its engines. In training, the engines are timed and the fastest is kept. In
//! evaluation, and if deterministic results are requested, the first engine of cuDNN's heuristics that runs is taken.
//! After that, nothing is looked up, described or allocated again.

use std::collections::hash_map::Entry;

use candle_core::cuda_backend::cudarc;
use cudarc::cudnn::{CudnnError, sys};
use cudarc::driver::sys as driver;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendDescriptorType_t as Kind;

use super::descriptor::Descriptor;
use super::plans::{Convolutions, Key, Plan, Task, execute, graph, plan, proposals};
use super::session::Session;
use crate::Precision;
use crate::cpu::conv_shape::ConvShape;
use crate::error::{Error, Result};

/// The number of engines that are timed for a shape. cuDNN lists the most promising ones first.
const TIMED: usize = 10;
/// The number of timed runs of each engine, after one run that is not timed.
const RUNS: usize = 3;
/// The maximum workspace of an engine in bytes.
const WORKSPACE_LIMIT: i64 = 2 << 30;

/// Runs one of the three operations. `input`, `weight` and `output` are the addresses of these tensors or of their
/// gradients; the weights are `(outputs, kernel, kernel, inputs)`.
///
/// # Safety
/// The addresses are those of whole tensors in the shapes of `shape`, in the session's type of activations.
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
        // SAFETY: guaranteed by the caller.
        Entry::Vacant(place) => place.insert(unsafe { find(session, *handle, *search, &key, operands) }?),
    };
    let workspace = session.workspace(plan.workspace as usize)?;
    // SAFETY: guaranteed by the caller.
    unsafe { execute(*handle, plan, operands, workspace) }
}

/// Whether an engine is as exact and as deterministic as the session requires.
fn is_allowed(session: &Session, proposal: &Descriptor) -> Result<bool, CudnnError> {
    use sys::cudnnBackendNumericalNote_t as Note;
    let (name, kind) = (Name::CUDNN_ATTR_ENGINECFG_ENGINE, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    let engines = proposal.descriptors(name, kind, 1)?;
    let Some(engine) = engines.first() else { return Ok(false) };
    let notes = engine.notes()?;
    let has = |note: Note| notes.contains(&(note as u32));
    // transforms of the images cost some bits; the float32 mode of the matrix units costs more
    let inexact =
        [Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE, Note::CUDNN_NUMERICAL_NOTE_WINOGRAD, Note::CUDNN_NUMERICAL_NOTE_FFT];
    let is_coarse = session.precision() == Precision::F32 && inexact.into_iter().any(has);
    let varies = session.is_deterministic() && has(Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC);
    Ok(!has(Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS) && !is_coarse && !varies)
}

/// Chooses the plan for a shape, which is tried on the operands of the first call.
///
/// # Safety
/// The same conditions as for [`run`].
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
            // A case that one engine refuses may be supported by another.
            if !is_allowed(session, &proposal).unwrap_or(false) {
                continue;
            }
            let Ok(plan) = plan(handle, &proposal) else { continue };
            if plan.workspace > WORKSPACE_LIMIT {
                continue;
            }
            // the workspace is freed before the next engine is tried, since all workspaces need not fit together
            // SAFETY: the library reads nothing of the workspace that it has not written.
            let workspace = match unsafe { stream.alloc::<u8>((plan.workspace as usize).max(1)) } {
                Ok(workspace) => workspace,
                Err(error) => {
                    refusal = Some(Error::from(error));
                    continue;
                }
            };
            // SAFETY: guaranteed by the caller; every run overwrites the result of the previous one.
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
