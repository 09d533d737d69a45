//! Compares runs and evaluations on the GPU with those on the CPU, and interrupted runs with uninterrupted ones.

use std::sync::atomic::{AtomicUsize, Ordering};

use multidigit::error::Error;
use multidigit::evaluate;
use multidigit::networks::weights::{self, Description};
use multidigit::networks::{Model, Network, Shape};
use multidigit::progress::{Event, Progress};
use multidigit::train::TrainError;
use multidigit::train::{self, Config};
use multidigit_nn::Precision;

use super::is_there;
use crate::learning::{bars, small, train_watched};
use crate::resume::{learned, rows};

#[test]
fn a_gpu_that_is_not_there_is_a_configuration_error() {
    if is_there() {
        return;
    }
    let (split, home) = (bars(1, 8, 12, 12), tempfile::tempdir().unwrap());
    let config = Config { device: train::Device::Cuda, model: Model::ResNet, ..Config::default() };
    let error = train_watched(&config, &split, &split, home.path(), &Progress::silent()).unwrap_err();
    let text = error.to_string();
    assert!(error.is_configuration() && text.starts_with("`train.device`: found cuda; expected a GPU that"), "{text}");
    assert!(text.ends_with("), or cpu") && text.lines().count() == 1, "{text}");

    let network = Network::new(Shape::new(Model::ResNet, 2, [12, 12]), 0, 0.0).unwrap();
    let weights = home.path().join("weights.safetensors");
    let description = Description { shape: network.shape(), mean: 0.0, std: 1.0, epoch: 1 };
    weights::save(&weights, &network, &description).unwrap();
    let config = evaluate::Config { device: train::Device::Cuda, ..evaluate::Config::default() };
    let error =
        evaluate::run(&config, &weights, None, &[("val", &split)], home.path(), &Progress::silent()).unwrap_err();
    let text = error.to_string();
    assert!(error.is_configuration() && text.starts_with("`evaluate.device`: found cuda; expected a GPU"), "{text}");
}

fn on_gpu(model: Model) -> Config {
    let config = Config { model, device: train::Device::Cuda, deterministic: true, ..Config::default() };
    Config { epochs: 3, batch_size: 32, learning_rate: 1e-3, ..config }
}

#[test]
fn training_on_the_gpu_learns_bars_in_every_precision() {
    if !is_there() {
        return;
    }
    // with 323 images, the last batch is smaller
    let (train, val) = (bars(1, 323, 60, 60), bars(2, 200, 60, 60));
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        for deterministic in [true, false] {
            let home = tempfile::tempdir().unwrap();
            let config = Config { precision, deterministic, epochs: 4, ..on_gpu(Model::Fcn) };
            let summary = train_watched(&config, &train, &val, home.path(), &Progress::silent()).unwrap();
            assert_eq!((summary.images, summary.steps, summary.epochs.len()), (323, 44, 4));
            let last = &summary.epochs[3];
            assert!(last.val_accuracy > 0.9 && last.train_accuracy > 0.9, "{precision}: {last:?}");
        }
    }
}

#[test]
fn a_run_on_the_gpu_is_that_on_the_cpu_but_for_rounding() {
    if !is_there() {
        return;
    }
    // only AlexNet has dropout, where different masks would give different losses
    let (train, val) = (bars(1, 96, 44, 44), bars(2, 40, 44, 44));
    let on = |device| {
        let home = tempfile::tempdir().unwrap();
        let config = Config { device, precision: Precision::F32, epochs: 2, ..on_gpu(Model::AlexNet) };
        train_watched(&config, &train, &val, home.path(), &Progress::silent()).unwrap().epochs
    };
    for (gpu, cpu) in on(train::Device::Cuda).iter().zip(&on(train::Device::Cpu)) {
        assert!((gpu.train_loss / cpu.train_loss - 1.0).abs() < 1e-3, "{gpu:?} {cpu:?}");
        assert!((gpu.val_loss / cpu.val_loss - 1.0).abs() < 1e-3, "{gpu:?} {cpu:?}");
    }
}

#[test]
fn an_evaluation_on_the_gpu_is_that_on_the_cpu_but_for_rounding() {
    if !is_there() {
        return;
    }
    for model in Model::ALL {
        let size = small(model);
        let (train, val) = (bars(1, 96, size, size), bars(2, 130, size, size));
        let home = tempfile::tempdir().unwrap();
        // engines are timed in training and not in scoring; both must agree
        let config = Config { precision: Precision::F32, deterministic: false, ..on_gpu(model) };
        let summary = train_watched(&config, &train, &val, home.path(), &Progress::silent()).unwrap();
        let weights = home.path().join("weights/last.safetensors");
        let on = |device| {
            let config = evaluate::Config { device, batch_size: 50, ..evaluate::Config::default() };
            let out = tempfile::tempdir().unwrap();
            let metrics =
                evaluate::run(&config, &weights, None, &[("val", &val)], out.path(), &Progress::silent()).unwrap();
            metrics.splits[0].loss
        };
        let (gpu, cpu, scored) = (on(train::Device::Cuda), on(train::Device::Cpu), summary.epochs[2].val_loss);
        assert!((gpu / cpu - 1.0).abs() < 1e-4, "{model}: {gpu} {cpu}");
        assert!((scored / cpu - 1.0).abs() < 1e-4, "{model}: {scored} {cpu}");
    }
}

#[test]
fn a_run_on_the_gpu_that_is_interrupted_goes_on_to_the_same_bits() {
    if !is_there() {
        return;
    }
    for model in Model::ALL {
        let size = small(model);
        let (train, val) = (bars(1, 150, size, size), bars(2, 10, size, size));
        let config = Config { checkpoint_every_steps: Some(2), ..on_gpu(model) };
        let whole = tempfile::tempdir().unwrap();
        train_watched(&config, &train, &val, whole.path(), &Progress::silent()).unwrap();
        let home = tempfile::tempdir().unwrap();
        let mut interruptions = 0;
        loop {
            let heard = AtomicUsize::new(0);
            let patient = |_: Event| heard.fetch_add(1, Ordering::SeqCst) < 6;
            let watch = Progress::new(&patient);
            match train_watched(&config, &train, &val, home.path(), &watch) {
                Ok(_) => break,
                Err(Error::Interrupted) => interruptions += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(interruptions >= 2, "{interruptions}");
        assert!(
            learned(home.path()) == learned(whole.path()),
            "{model}: {interruptions} interruptions changed weights"
        );
        assert_eq!(rows(home.path()), rows(whole.path()));
    }
}

#[test]
fn a_loss_that_is_no_number_stops_a_run_on_the_gpu_at_its_step() {
    if !is_there() {
        return;
    }
    let (train, val) = (bars(1, 96, 12, 12), bars(2, 10, 12, 12));
    let home = tempfile::tempdir().unwrap();
    let config = Config { learning_rate: 1e38, ..on_gpu(Model::ResNet) };
    let error = train_watched(&config, &train, &val, home.path(), &Progress::silent()).unwrap_err();
    assert!(matches!(error.area(), Some(TrainError::NotFinite { step: 2..=4, .. })), "{error}");
}
