//! Benchmarks of training steps and evaluation of the networks in images per second, on fixed batches in memory.
//!
//! A step is what the stage `train` does with a batch of 64: forward pass, loss, backward pass and Adam. Evaluation is
//! the forward pass only, with 500 images at a time. Each runs once before it is timed, so that a short measurement
//! (criterion's --quick) does not include the warm-up.

#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark that panics has failed, as it should"
)]

use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use multidigit::networks::{Model, Shape};
use multidigit::train::Config;
use multidigit::train::learner::Learner;
use multidigit::train::loader::Batch;
use multidigit_nn::cpu::memory;
use multidigit_nn::{Mode, Precision};

const BATCH: usize = 64;
const EVALUATION_BATCH: usize = 500;

fn input(images: usize) -> Tensor {
    let values: Vec<f32> = (0..images * 64 * 64).map(|i| (i * 7919 % 256) as f32 / 64.0 - 2.0).collect();
    Tensor::from_vec(values, (images, 64, 64, 1), &Device::Cpu).expect("the shape has as many elements")
}

fn bench(c: &mut Criterion) {
    memory::keep_freed(); // as in the stages
    let precisions = [(Precision::F32, ""), (Precision::Bf16, "-bf16")].into_iter();
    let precisions = precisions.filter(|(precision, _)| precision.on_cpu().is_some());
    for (model, (precision, suffix)) in
        Model::ALL.into_iter().flat_map(|model| precisions.clone().map(move |p| (model, p)))
    {
        let shape = Shape::new(model, 2, [64, 64]);
        let config = Config { model, precision, ..Config::default() };
        let name = format!("{model}{suffix}");
        let mut learner = Learner::new(&config, shape).expect("64x64 suits every network");
        let batch = Batch { input: input(BATCH), targets: (0..2 * BATCH).map(|i| (i % 10) as u8).collect() };
        let mut number = 0;
        let mut group = c.benchmark_group("training step");
        group.sample_size(10).measurement_time(Duration::from_secs(5)).throughput(Throughput::Elements(BATCH as u64));
        let mut train = || {
            learner.step(&batch, number, 5e-4).expect("it did before");
            number += 1;
        };
        let mut cold = true;
        group.bench_function(&name, |b| {
            if std::mem::take(&mut cold) {
                train();
            }
            b.iter(&mut train);
        });
        group.finish();

        let batch = input(EVALUATION_BATCH);
        let mut group = c.benchmark_group("evaluation");
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(5))
            .throughput(Throughput::Elements(EVALUATION_BATCH as u64));
        let evaluate = || learner.network.forward(&batch, Mode::Eval).expect("it did before");
        let mut cold = true;
        group.bench_function(&name, |b| {
            if std::mem::take(&mut cold) {
                evaluate();
            }
            b.iter(evaluate);
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
