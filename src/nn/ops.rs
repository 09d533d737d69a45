//! The operators of the networks as tensor operations with gradients: the bridge between tensors and [`super::cpu`].
//!
//! All are custom operations, because the stock ones are slow on the CPU, or have wrong gradients (the maximum pool),
//! or others than PyTorch's (ReLU at 0). What a backward pass needs from the forward pass stays in the operation
//! itself.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::cpu::conv::Conv;
use super::cpu::finish::{Finish, relu, relu_gradient};
use super::cpu::linear::Linear;
use super::cpu::norm::{Norm, Output, Statistics};
use super::floats::{Floats, floats, tensor};
use super::loss;

/// Convolution of `(images, height, width, inputs)` with `(outputs, inputs, kernel, kernel)`, then `finish`.
pub fn conv(
    input: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
    finish: Finish,
) -> Result<Tensor> {
    let (images, height, width, inputs) = input.dims4()?;
    let (outputs, depth, kernel, _) = weight.dims4()?;
    if depth != inputs || height.min(width) + 2 * padding < kernel {
        bail!("a convolution of {:?} with {:?} does not exist", input.shape(), weight.shape());
    }
    let shape = Conv { images, height, width, inputs, outputs, kernel, stride, padding, finish };
    if shape.shape().contains(&0) {
        bail!("nothing is left of {:?} after a convolution with {:?}", input.shape(), weight.shape());
    }
    let op = ConvOp { shape, choice: OnceLock::new() };
    match bias {
        Some(bias) => input.apply_op3(weight, bias, op),
        None => input.apply_op2(weight, op),
    }
}

struct ConvOp {
    shape: Conv,
    choice: OnceLock<Vec<u8>>,
}

impl ConvOp {
    fn forward(&self, input: &[f32], weight: &[f32], bias: Option<&[f32]>) -> (CpuStorage, Shape) {
        let output = self.shape.forward(input, weight, bias);
        let _ = self.choice.set(output.choice); // one operation runs forward once
        (CpuStorage::F32(output.values), Shape::from(&self.shape.shape()))
    }

    /// The gradients of input, weight and bias.
    fn backward(&self, arg: &Tensor, weight: &Tensor, res: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let choice = self.choice.get().map_or(&[][..], Vec::as_slice);
        let grad = grad.contiguous()?;
        let (input, output) = (Floats::of(arg)?, Floats::of(res)?);
        let found =
            self.shape.backward(&input, &Floats::of(weight)?, &output, choice, &Floats::of(&grad)?, arg.track_op());
        Ok([
            found.input.map(|values| tensor(values, arg.shape())).transpose()?,
            Some(tensor(found.weight, weight.shape())?),
            Some(tensor(found.bias, self.shape.outputs)?),
        ])
    }
}

impl CustomOp2 for ConvOp {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(self.forward(floats(s1, l1)?, floats(s2, l2)?, None))
    }

    fn bwd(&self, a1: &Tensor, a2: &Tensor, res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [input, weight, _] = self.backward(a1, a2, res, grad)?;
        Ok((input, weight))
    }
}

type Three = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl CustomOp3 for ConvOp {
    fn name(&self) -> &'static str {
        "conv with bias"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(self.forward(floats(s1, l1)?, floats(s2, l2)?, Some(floats(s3, l3)?)))
    }

    fn bwd(&self, a1: &Tensor, a2: &Tensor, _: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Three> {
        let [input, weight, bias] = self.backward(a1, a2, res, grad)?;
        Ok((input, weight, bias))
    }
}

/// Batch norm of `(images, height, width, channels)` by the batch's own statistics, which come back, then `finish`.
pub fn batch_norm(input: &Tensor, weight: &Tensor, bias: &Tensor, finish: Finish) -> Result<(Tensor, Statistics)> {
    let (images, height, width, channels) = input.dims4()?;
    let shape = Norm { images, height, width, channels, finish };
    let saved = Arc::new(OnceLock::new());
    let result = input.apply_op3(weight, bias, NormOp { shape, saved: saved.clone() })?;
    let statistics = saved.get().map(|output: &Output| output.statistics.clone());
    Ok((result, statistics.unwrap_or_default()))
}

struct NormOp {
    shape: Norm,
    /// What the forward pass found, its values excepted: those are the result.
    saved: Arc<OnceLock<Output>>,
}

impl CustomOp3 for NormOp {
    fn name(&self) -> &'static str {
        "batch norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut output = self.shape.forward(floats(s1, l1)?, floats(s2, l2)?, floats(s3, l3)?);
        let values = std::mem::take(&mut output.values);
        let _ = self.saved.set(output); // one operation runs forward once
        Ok((CpuStorage::F32(values), Shape::from(&self.shape.shape())))
    }

    fn bwd(&self, a1: &Tensor, a2: &Tensor, a3: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Three> {
        let Some(saved) = self.saved.get() else { bail!("backward before forward") };
        let grad = grad.contiguous()?;
        let (input, values) = (Floats::of(a1)?, Floats::of(res)?);
        let found = self.shape.backward(&input, &Floats::of(a2)?, saved, &values, &Floats::of(&grad)?);
        let input = tensor(found.input, a1.shape())?;
        Ok((Some(input), Some(tensor(found.weight, a2.shape())?), Some(tensor(found.bias, a3.shape())?)))
    }
}

/// `input weight^T + bias` for `(rows, inputs)` and `(outputs, inputs)`.
pub fn linear(input: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let ((rows, inputs), (outputs, depth)) = (input.dims2()?, weight.dims2()?);
    if depth != inputs {
        bail!("a linear layer of {:?} with {:?} does not exist", input.shape(), weight.shape());
    }
    input.apply_op3(weight, bias, LinearOp(Linear { rows, inputs, outputs }))
}

struct LinearOp(Linear);

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let values = self.0.forward(floats(s1, l1)?, floats(s2, l2)?, floats(s3, l3)?);
        Ok((CpuStorage::F32(values), (self.0.rows, self.0.outputs).into()))
    }

    fn bwd(&self, a1: &Tensor, a2: &Tensor, a3: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Three> {
        let grad = grad.contiguous()?;
        let grad = Floats::of(&grad)?;
        let input = match a1.track_op() {
            true => Some(tensor(self.0.input_gradient(&Floats::of(a2)?, &grad), a1.shape())?),
            false => None,
        };
        let weight = tensor(self.0.weight_gradient(&Floats::of(a1)?, &grad), a2.shape())?;
        Ok((input, Some(weight), Some(tensor(self.0.bias_gradient(&grad), a3.shape())?)))
    }
}

/// `max(a + b, 0)` of two tensors of one shape.
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.shape() != b.shape() {
        bail!("a sum of {:?} and {:?} does not exist", a.shape(), b.shape());
    }
    a.apply_op2(b, AddRelu)
}

struct AddRelu;

impl CustomOp2 for AddRelu {
    fn name(&self) -> &'static str {
        "add, then relu"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut sum: Vec<f32> = floats(s1, l1)?.iter().zip(floats(s2, l2)?).map(|(a, b)| a + b).collect();
        relu(&mut sum);
        Ok((CpuStorage::F32(sum), l1.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let both = masked(res, grad)?;
        Ok((Some(both.clone()), Some(both)))
    }
}

/// `max(x, 0)`, with derivative 0 at 0.
pub fn relu_of(input: &Tensor) -> Result<Tensor> {
    input.apply_op1(Relu)
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut values = floats(storage, layout)?.to_vec();
        relu(&mut values);
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        masked(res, grad).map(Some)
    }
}

fn masked(res: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let grad = grad.contiguous()?;
    let mut into = vec![0.0; res.elem_count()];
    relu_gradient(&Floats::of(res)?, &Floats::of(&grad)?, &mut into);
    tensor(into, res.shape())
}

/// Each element times its factor, which is no variable: dropout's mask.
pub fn scale_each(input: &Tensor, factors: Vec<f32>) -> Result<Tensor> {
    if factors.len() != input.elem_count() {
        bail!("{} factors for {:?}", factors.len(), input.shape());
    }
    input.apply_op1(ScaleEach(factors))
}

struct ScaleEach(Vec<f32>);

impl CustomOp1 for ScaleEach {
    fn name(&self) -> &'static str {
        "scale each element"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = floats(storage, layout)?.iter().zip(&self.0).map(|(value, factor)| value * factor).collect();
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let values = Floats::of(&grad)?.iter().zip(&self.0).map(|(value, factor)| value * factor).collect();
        tensor(values, grad.shape()).map(Some)
    }
}

/// The mean cross entropy, a scalar, of `logits` `(rows, classes)` with the right class of each row.
pub fn cross_entropy(logits: &Tensor, targets: Vec<u8>) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    if targets.len() != rows || rows == 0 || targets.iter().any(|target| usize::from(*target) >= classes) {
        bail!("{} targets for logits of {:?}, or one that is no class", targets.len(), logits.shape());
    }
    logits.apply_op1(CrossEntropy { targets, classes })
}

struct CrossEntropy {
    targets: Vec<u8>,
    classes: usize,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = floats(storage, layout)?;
        let rows = logits.chunks_exact(self.classes).zip(&self.targets);
        let sum: f64 = rows.map(|(row, target)| loss::cross_entropy(row, *target)).sum();
        Ok((CpuStorage::F32(vec![(sum / self.targets.len() as f64) as f32]), ().into()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let factor = f64::from(grad.to_scalar::<f32>()?) / self.targets.len() as f64;
        let logits = Floats::of(arg)?;
        let mut into = Vec::with_capacity(logits.len());
        for (row, target) in logits.chunks_exact(self.classes).zip(&self.targets) {
            let right = |class: usize| f64::from(u8::from(class == usize::from(*target)));
            into.extend(loss::softmax(row).enumerate().map(|(class, p)| ((p - right(class)) * factor) as f32));
        }
        tensor(into, arg.shape()).map(Some)
    }
}
