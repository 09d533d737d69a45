//! Benchmarks of all shapes of convolutions and batch norms in the three networks at batch size 64, forward and
//! backward, in images per second, in float32 and, on processors that have a unit for it, in bfloat16. The rate of such a unit, on
//! operands that stay in the first cache, is given in floating-point operations per second.

#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark that panics has failed, as it should"
)]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use multidigit_nn::cpu::conv_shape::ConvShape;
use multidigit_nn::cpu::epilogue::Epilogue::{self, Identity, Relu, ReluPool};
use multidigit_nn::cpu::kernel::{Operands, PANEL, Start, Unit};
use multidigit_nn::cpu::memory;
use multidigit_nn::cpu::norm::NormShape;
use multidigit_nn::cpu::products::Factor as _;

const BATCH: usize = 64;

/// Name, height and width of the input, inputs, outputs, kernel, stride, padding, epilogue.
type Layer = (&'static str, usize, usize, usize, usize, usize, usize, Epilogue);

const CONVS: &[Layer] = &[
    ("alexnet/conv1", 64, 1, 32, 5, 1, 0, ReluPool),
    ("alexnet/conv2", 30, 32, 64, 5, 1, 0, ReluPool),
    ("alexnet/conv3", 13, 64, 128, 3, 1, 0, Relu),
    ("alexnet/conv4", 11, 128, 128, 3, 1, 0, Relu),
    ("alexnet/conv5", 9, 128, 256, 3, 1, 0, ReluPool),
    ("fcn/conv2", 30, 32, 64, 5, 1, 0, Identity),
    ("fcn/conv6", 3, 256, 512, 3, 1, 0, Identity),
    ("attention/conv2", 32, 32, 64, 3, 1, 1, Identity),
    ("attention/conv3", 16, 64, 128, 3, 1, 1, Identity),
    ("attention/conv4", 8, 128, 128, 3, 1, 1, Identity),
    ("resnet/conv1", 64, 1, 64, 3, 1, 1, Identity),
    ("resnet/layer1", 64, 64, 64, 3, 1, 1, Identity),
    ("resnet/layer2 halved", 64, 64, 128, 3, 2, 1, Identity),
    ("resnet/layer2 shortcut", 64, 64, 128, 1, 2, 0, Identity),
    ("resnet/layer2", 32, 128, 128, 3, 1, 1, Identity),
    ("resnet/layer3", 16, 256, 256, 3, 1, 1, Identity),
    ("resnet/layer4", 8, 512, 512, 3, 1, 1, Identity),
];

/// Name, height and width, channels, epilogue.
const NORMS: &[(&str, usize, usize, Epilogue)] = &[
    ("fcn/bn1", 60, 32, ReluPool),
    ("fcn/bn3", 11, 128, Relu),
    ("resnet/layer1 norm", 64, 64, Identity),
    ("resnet/layer1 norm and relu", 64, 64, Relu),
    ("resnet/layer4 norm", 8, 512, Identity),
];

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 7919 % 256) as f32 / 128.0 - 1.0).collect()
}

fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}

fn bench(c: &mut Criterion) {
    memory::keep_freed(); // as in the stages
    let mut group = c.benchmark_group("kernels");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(700));
    group.throughput(Throughput::Elements(BATCH as u64));
    for &(name, size, inputs, outputs, kernel, stride, padding, epilogue) in CONVS {
        let conv =
            ConvShape { images: BATCH, height: size, width: size, inputs, outputs, kernel, stride, padding, epilogue };
        let (input, weight) = (values(BATCH * size * size * inputs), values(outputs * inputs * kernel * kernel));
        let bias = values(outputs);
        let output = conv.forward(&input, &weight, Some(&bias));
        let grad = values(output.values.len());
        group.bench_function(format!("{name} forward"), |b| b.iter(|| conv.forward(&input, &weight, Some(&bias))));
        group.bench_function(format!("{name} backward"), |b| {
            b.iter(|| conv.backward(&input, &weight, &output.values, &output.choice, &grad, inputs > 1));
        });
        if !Unit::all().is_empty() {
            let [input, grad] = [&input, &grad].map(|values| narrow(values));
            let output = bf16::conv(&conv, &input, &weight, Some(&bias));
            group.bench_function(format!("{name} forward, bf16"), |b| {
                b.iter(|| bf16::conv(&conv, &input, &weight, Some(&bias)));
            });
            group.bench_function(format!("{name} backward, bf16"), |b| {
                let (factors, result) = ((&input[..], &weight[..]), (&output.values[..], &output.choice[..]));
                b.iter(|| bf16::conv_gradients(&conv, factors, result, &grad, inputs > 1));
            });
        }
    }
    for &(name, size, channels, epilogue) in NORMS {
        let norm = NormShape { images: BATCH, height: size, width: size, channels, epilogue };
        let (input, weight, bias) = (values(BATCH * size * size * channels), values(channels), values(channels));
        let output = norm.forward(&input, &weight, &bias);
        let grad = values(output.values.len());
        group.bench_function(format!("{name} forward"), |b| b.iter(|| norm.forward(&input, &weight, &bias)));
        group.bench_function(format!("{name} backward"), |b| {
            b.iter(|| norm.backward(&input, &weight, &output, &output.values, &grad));
        });
        let [input, grad] = [&input, &grad].map(|values| narrow(values));
        let output = norm.forward(&input, &weight, &bias);
        group.bench_function(format!("{name} forward, bf16"), |b| b.iter(|| norm.forward(&input, &weight, &bias)));
        group.bench_function(format!("{name} backward, bf16"), |b| {
            b.iter(|| norm.backward(&input, &weight, &output, &output.values, &grad));
        });
    }
    let (rows, columns, depth) = (48, 32, 128);
    let (a, b) = (narrow(&values(rows * 2 * depth)), narrow(&values(columns * 2 * depth)));
    let starts: Vec<u32> = (0..rows).map(|row| (row * 2 * depth) as u32).collect();
    let pairs: Vec<[u32; 2]> = (0..depth).map(|pair| [2 * pair as u32, (2 * PANEL * pair) as u32]).collect();
    let operands = Operands { a: &a, rows: &starts, b: &b, panel: 2 * PANEL * depth, words: &pairs };
    let mut sums = vec![0.0; rows * columns];
    group.throughput(Throughput::Elements((2 * rows * columns * 2 * depth) as u64));
    for &unit in Unit::all() {
        group.bench_function(format!("product by {unit}, one thread"), |b| {
            b.iter(|| operands.multiply_on(Some(unit), columns, Start::Zero, &mut sums, columns));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
