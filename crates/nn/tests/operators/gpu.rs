//! Compares the operators on the GPU with those on the CPU, in all precisions. Without a GPU, these tests print a
//! message and pass, except the test that the kernels compile, which needs no GPU. If MULTIDIGIT_REQUIRE_GPU is set, a
//! GPU that cannot be used is a failure.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use multidigit_nn::cpu::conv_shape::ConvShape;
use multidigit_nn::cpu::linear::LinearShape;
use multidigit_nn::cuda::{Session, compile_all};
use multidigit_nn::layers::{BatchNorm, Conv2d, Dropout};
use multidigit_nn::ops::dropout_streams;
use multidigit_nn::tape::At;
use multidigit_nn::{Epilogue, Mode, Precision, Store, Tape, Value, ops, rng};
use rand::Rng;

use super::compare::{error, tensor, values};
use super::gradients;

/// The GPU's session. Without a GPU, prints a message and returns `None`.
fn session(precision: Precision) -> Option<Arc<Session>> {
    match Session::open(0, precision, true, "") {
        Ok(session) => Some(session),
        Err(error) if std::env::var_os("MULTIDIGIT_REQUIRE_GPU").is_some() => {
            panic!("MULTIDIGIT_REQUIRE_GPU is set, and there is no GPU: {error}")
        }
        Err(error) => {
            eprintln!("skipped, as there is no GPU: {error}");
            None
        }
    }
}

#[test]
fn the_kernels_compile() {
    compile_all("", "sm_90").unwrap();
    // an architecture that the compiler does not know, because it is too old or too new
    let error = compile_all("", "sm_10").unwrap_err().to_string();
    assert!(error.starts_with("the GPU could not be used: the kernels do not compile for sm_10: "), "{error}");
}

// ---- operators

/// The kind of an operand, which decides its type and its order on the GPU.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Activations,
    ConvWeight,
    Weight,
    Vector,
}

fn place(operand: &Tensor, kind: Kind, device: &Device, dtype: DType) -> Tensor {
    if device.is_cpu() {
        return operand.clone();
    }
    let dtype = if kind == Kind::Vector { DType::F32 } else { dtype };
    let there = |t: Tensor| t.to_dtype(dtype).unwrap().to_device(device).unwrap();
    match kind {
        Kind::ConvWeight => {
            there(operand.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()).permute((0, 3, 1, 2)).unwrap()
        }
        _ => there(operand.clone()),
    }
}

fn host(tensor: &Tensor) -> Vec<f64> {
    // the storage of a view is copied as a whole and made contiguous here
    let plain = tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap().contiguous().unwrap();
    values(&[&plain])
}

/// The output of an operator on a device, and the gradients of its operands for a given gradient of the output.
fn run(
    device: &Device,
    dtype: DType,
    operands: &[(Tensor, Kind)],
    grad: impl Fn(&[usize]) -> Tensor,
    operator: &dyn Fn(At, &[Value]) -> Value,
) -> Vec<Vec<f64>> {
    let tape = Tape::new(operands.len());
    let placed = operands.iter().map(|(operand, kind)| place(operand, *kind, device, dtype));
    let placed: Vec<Value> = placed.enumerate().map(|(i, operand)| Value::parameter(operand, i)).collect();
    let output = operator(At { tape: Some(&tape), name: "tested" }, &placed);
    let grad = place(&grad(output.dims()), Kind::Activations, device, dtype);
    let mut all = vec![host(&output)];
    let gradients = tape.backward(&[output], vec![grad]).unwrap().parameters;
    all.extend(gradients.iter().map(|gradient| host(gradient.as_ref().unwrap())));
    all
}

/// Compares an operator on both devices, in all precisions. If the operator `chooses` among values, rounding may change
/// the choice, and with it the place of a gradient; in the coarser precisions, only the output is then compared.
fn agree(what: &str, chooses: bool, operands: &[(Tensor, Kind)], operator: &dyn Fn(At, &[Value]) -> Value) {
    let grad = |dims: &[usize]| tensor(99, dims, |u| u - 0.5);
    let on_cpu = run(&Device::Cpu, DType::F32, operands, grad, operator);
    // sums of rounded products: float32 has 24 bits, TF32 11, bfloat16 8, and sums may lose some of them
    for (precision, allowed) in [(Precision::F32, 1e-5), (Precision::Tf32, 4e-3), (Precision::Bf16, 3e-2)] {
        let Some(session) = session(precision) else { return };
        let on_gpu = run(&session.device(), precision.dtype(), operands, grad, operator);
        assert_eq!(on_cpu.len(), on_gpu.len());
        let compared = if chooses && precision != Precision::F32 { 1 } else { on_cpu.len() };
        for (number, (gpu, cpu)) in on_gpu.iter().zip(&on_cpu).enumerate().take(compared) {
            let found = error(gpu, cpu);
            println!("{what}, {precision}, number {number}: {found:.1e}");
            assert!(found <= allowed, "{what}, {precision}, number {number}: {found:.2e} > {allowed:.2e}");
        }
    }
}

/// Numbers that are exact in bfloat16, and whose products have exact sums of some hundred terms in float32.
fn eighths(name: &str, shape: &[usize]) -> Tensor {
    let mut rng = rng::stream(1, name, 0, 0);
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|_| (rng.next_u32() % 17) as f32 / 8.0 - 1.0).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

#[test]
fn convolutions_on_the_gpu_are_the_cpus() {
    // images, height, width, inputs, outputs, kernel, stride, padding
    for [n, h, w, inputs, outputs, kernel, stride, padding] in [
        [2, 12, 12, 1, 32, 5, 1, 0],
        [3, 9, 11, 32, 64, 3, 1, 0],
        [2, 7, 7, 16, 24, 3, 1, 1],
        [2, 8, 8, 16, 32, 3, 2, 1],
        [2, 9, 7, 16, 32, 1, 2, 0],
        [4, 1, 1, 512, 10, 1, 1, 0],
        [1, 6, 9, 8, 8, 5, 1, 0],
        [3, 26, 31, 1, 64, 3, 1, 1],
        [2, 23, 9, 1, 12, 5, 1, 2],
        [2, 5, 6, 1, 7, 3, 1, 0],
    ] {
        let operands = [
            (eighths("input", &[n, h, w, inputs]), Kind::Activations),
            (eighths("weight", &[outputs, inputs, kernel, kernel]), Kind::ConvWeight),
            (eighths("bias", &[outputs]), Kind::Vector),
        ];
        for epilogue in [Epilogue::Identity, Epilogue::Relu, Epilogue::ReluPool] {
            if epilogue == Epilogue::ReluPool && h < 4 {
                continue;
            }
            let what = format!(
                "convolution of {n}x{h}x{w}x{inputs} to {outputs} by {kernel}, {stride}, {padding}, {epilogue:?}"
            );
            agree(&what, epilogue == Epilogue::ReluPool, &operands, &|at, o| {
                ops::conv(at, &o[0], &o[1], Some(&o[2]), stride, padding, epilogue).unwrap()
            });
        }
    }
}

#[test]
fn the_small_operators_on_the_gpu_are_the_cpus() {
    let activations = |name: &str, shape: &[usize]| (eighths(name, shape), Kind::Activations);
    for (rows, inputs, outputs) in [(5, 24, 16), (64, 2304, 10), (3, 7, 5)] {
        let operands = [
            activations("input", &[rows, inputs]),
            (eighths("weight", &[outputs, inputs]), Kind::Weight),
            (eighths("bias", &[outputs]), Kind::Vector),
        ];
        let what = format!("linear layer, {rows} rows of {inputs} to {outputs}");
        agree(&what, false, &operands, &|at, o| ops::linear(at, &o[0], &o[1], &o[2], o[0].dtype()).unwrap());
    }
    agree("every third row", false, &[activations("rows", &[6, 5])], &|at, o| ops::every(at, &o[0], 1, 3).unwrap());
    for shape in [[3, 4, 5, 8], [2, 3, 3, 7]] {
        let pair = [activations("a", &shape), activations("b", &shape)];
        agree("sum and relu", false, &pair, &|at, o| ops::add_relu(at, &o[0], &o[1]).unwrap());
        agree("relu", false, &pair[..1], &|at, o| ops::relu_of(at, &o[0]).unwrap());
        agree("mean", false, &pair[..1], &|at, o| ops::mean(at, &o[0]).unwrap());
        agree("flatten", false, &pair[..1], &|at, o| ops::flatten(at, &o[0]).unwrap());
        agree("max", true, &pair[..1], &|at, o| ops::max(at, &o[0]).unwrap());
        let scores = activations("scores", &[shape[0], shape[1], shape[2], 3]);
        agree("attention", false, &[scores, pair[0].clone()], &|at, o| ops::attend(at, &o[0], &o[1]).unwrap());
        // the value is used twice, so its two gradients are added
        agree("sum of gradients", false, &pair[..1], &|at, o| ops::add_relu(at, &o[0], &o[0]).unwrap());
    }
}

#[test]
fn windows_on_the_gpu_are_the_cpus() {
    let images = eighths("images", &[2, 5, 11, 1]);
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(session) = session(precision) else { return };
        let there = place(&images, Kind::Activations, &session.device(), precision.dtype());
        for (count, margin) in [(1, 0), (2, 0), (3, 4), (4, 1)] {
            let windows = |input: &Tensor| host(&ops::windows(input, count, margin).unwrap());
            assert_eq!(windows(&there), windows(&images), "{precision}, {count} windows, margin {margin}");
        }
    }
}

/// The gradients of input, weight and bias of an operator on the GPU, in f32. `factors` are the factors by which the
/// output is summed.
fn gradients_of(
    session: &Session,
    operands: [(&[f32], Vec<usize>, Kind); 3],
    (factors, shape): (&[f32], &[usize]),
    operator: &dyn Fn(At, &[Value]) -> Value,
) -> [Vec<f32>; 3] {
    let on_host = |values: &[f32], shape: &[usize]| Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap();
    let operands = operands.map(|(values, shape, kind)| (on_host(values, &shape), kind));
    let all = run(&session.device(), DType::F32, &operands, |_| on_host(factors, shape), operator);
    [1, 2, 3].map(|i| all[i].iter().map(|value| *value as f32).collect())
}

#[test]
fn gradients_on_the_gpu_are_finite_differences() {
    let Some(session) = session(Precision::F32) else { return };
    gradients::check_convolutions(|conv, [input, weight, bias], factors| {
        let ConvShape { images, height, width, inputs, outputs, kernel, stride, padding, epilogue } = *conv;
        let operands = [
            (input, vec![images, height, width, inputs], Kind::Activations),
            (weight, vec![outputs, inputs, kernel, kernel], Kind::ConvWeight),
            (bias, vec![outputs], Kind::Vector),
        ];
        gradients_of(&session, operands, (factors, &gradients::finished_shape(conv)), &|at, o| {
            ops::conv(at, &o[0], &o[1], Some(&o[2]), stride, padding, epilogue).unwrap()
        })
    });
    gradients::check_linear_layers(|linear, [input, weight, bias], factors| {
        let LinearShape { rows, inputs, outputs } = *linear;
        let operands = [
            (input, vec![rows, inputs], Kind::Activations),
            (weight, vec![outputs, inputs], Kind::Weight),
            (bias, vec![outputs], Kind::Vector),
        ];
        gradients_of(&session, operands, (factors, &[rows, outputs]), &|at, o| {
            ops::linear(at, &o[0], &o[1], &o[2], o[0].dtype()).unwrap()
        })
    });
}

#[test]
fn dropout_on_the_gpu_drops_what_the_cpu_drops() {
    let Some(session) = session(Precision::F32) else { return };
    for (step, rate, columns) in [(0, 0.5, 512), (7, 0.3, 100)] {
        let input = tensor(5, &[9, columns], |u| u + 0.5);
        let mut store = Store::new(0);
        let layers = ["fc1", "fc2"].map(|name| Dropout::new(&mut store, name, rate));
        let words = |name: &String| {
            let key = dropout_streams(3, name, step).key();
            key.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
        };
        let names = store.dropouts();
        session.set_keys(&names.iter().flat_map(words).collect::<Vec<_>>(), names.len()).unwrap();
        session.set_step(0).unwrap();
        for (layer, name) in layers.iter().zip(names) {
            let drop = |device: &Device| {
                let tape = Tape::new(1);
                let input = Value::parameter(input.to_device(device).unwrap(), 0);
                let output = layer.forward(&input, Mode::Train { seed: 3, step, tape: &tape }).unwrap();
                let values = host(&output);
                let ones = Tensor::ones((9, columns), DType::F32, device).unwrap();
                let gradients = tape.backward(&[output], vec![ones]).unwrap().parameters;
                (values, host(gradients[0].as_ref().unwrap()))
            };
            assert!(drop(&session.device()) == drop(&Device::Cpu), "{name}");
        }
    }
}

#[test]
fn batch_norms_on_the_gpu_are_the_cpus() {
    // height and width, inputs and outputs, stride, epilogue, whether something is added
    for (size, [inputs, outputs], stride, epilogue, adds) in [
        ([8, 8], [16, 32], 1, Epilogue::Relu, false),
        ([9, 7], [8, 64], 1, Epilogue::ReluPool, false),
        ([8, 6], [16, 24], 2, Epilogue::Identity, false),
        ([6, 6], [32, 32], 1, Epilogue::Relu, true),
        ([3, 3], [2, 5], 1, Epilogue::Relu, true),
    ] {
        let [height, width] = size;
        let compute = |device: &Device, dtype: DType| {
            let mut store = Store::on(device, dtype, 4);
            let conv = Conv2d::padded(&mut store, "conv", [inputs, outputs], 3, stride).unwrap();
            let norm = BatchNorm::new(&mut store, "norm", outputs).unwrap();
            let count = store.parameters().len();
            let tape = Tape::new(count + 1);
            let mode = Mode::Train { seed: 0, step: 0, tape: &tape };
            let input = tensor(1, &[5, height, width, inputs], |u| u - 0.3);
            let input = Value::parameter(place(&input, Kind::Activations, device, dtype), count);
            let output = if adds {
                let other = tensor(2, &[5, height, width, outputs], |u| 2.0 * u - 1.0);
                let other = Value::constant(place(&other, Kind::Activations, device, dtype));
                norm.forward_residual(&input, &conv, mode, &other, "added").unwrap()
            } else {
                norm.forward(&input, &conv, mode, epilogue).unwrap()
            };
            let grad = place(&tensor(99, output.dims(), |u| u - 0.5), Kind::Activations, device, dtype);
            let mut all = vec![host(&output)];
            let gradients = tape.backward(&[output], vec![grad]).unwrap().parameters;
            all.extend(gradients.iter().map(|gradient| host(gradient.as_ref().unwrap())));
            store.fetch().unwrap();
            all.extend(store.buffers().iter().map(|(_, var)| host(var)));
            all.push(host(&norm.forward(&input, &conv, Mode::Eval, epilogue).unwrap()));
            all
        };
        let on_cpu = compute(&Device::Cpu, DType::F32);
        // a norm divides by the standard deviation, which enlarges the rounding error of bfloat16, 2^-8
        for (precision, allowed) in [(Precision::F32, 2e-5), (Precision::Tf32, 2e-2), (Precision::Bf16, 8e-2)] {
            let Some(session) = session(precision) else { return };
            let on_gpu = compute(&session.device(), precision.dtype());
            for (number, (gpu, cpu)) in on_gpu.iter().zip(&on_cpu).enumerate() {
                // rounding may move a value across 0, or change the maximum of a window, and with it the place of a
                // gradient; output, statistics and evaluation are not affected
                if epilogue != Epilogue::Identity && precision != Precision::F32 && (1..5).contains(&number) {
                    continue;
                }
                let found = error(gpu, cpu);
                println!("norm of {outputs} channels, {epilogue:?}, {precision}, number {number}: {found:.1e}");
                assert!(found <= allowed, "{size:?}, {outputs}, {epilogue:?}, {precision}, {number}: {found:.2e}");
            }
        }
    }
}
