//! Compares the networks with PyTorch in f64, for the same weights and the same batch.
//!
//! `fixtures/models` holds the numbers that PyTorch computed. Weights and batch are given by a formula of a stream
//! number and an index, so that both sides generate them without files. PyTorch's results in f32 (`model_*_f32.json`)
//! also differ from those in f64. For each kind of number, the worst error here may be at most five times the worst
//! error there, or 1e-5 (a few dozen rounding errors of f32) if that is larger. In bfloat16, it may be at most twice that of
//! PyTorch's autocast (`model_*_bf16.json`), whose errors are no accidents of a few roundings. The same comparison is used
//! for the CPU and, in `gpu/mod.rs`, for a GPU.

use std::collections::BTreeMap;
use std::io::Write;

use candle_core::{Device, Tensor};
use multidigit::networks::{Model, Network, Shape};
use multidigit_nn::loss::loss;
use multidigit_nn::optim::Adam;
use multidigit_nn::{Mode, Precision, Tape};
use serde_json::Value;

use super::compare::{error, tensor, values};

/// Sets the weights of a network to those of the streams from 1000 + `offset` on.
fn fill(network: &Network, offset: u64) {
    for (stream, (name, var)) in (1000 + offset..).zip(network.store().parameters()) {
        let dims = var.dims();
        let scale = (6.0 / dims[1..].iter().product::<usize>() as f64).sqrt();
        let values = match dims.len() {
            1 if name.ends_with("weight") => tensor(stream, dims, |u| 1.0 + 0.1 * (2.0 * u - 1.0)),
            1 => tensor(stream, dims, |u| 0.1 * (2.0 * u - 1.0)),
            _ => tensor(stream, dims, |u| (2.0 * u - 1.0) * scale),
        };
        var.set(&values).unwrap();
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn a_comparison_of_figures_fails_on_nan_and_on_nothing() {
    let figures = |values: Vec<(String, Vec<f64>)>| Figures::from([("gradients", values)]);
    let nan = figures(vec![("a".to_owned(), vec![f64::NAN])]);
    assert!(std::panic::catch_unwind(|| errors(&nan, &nan)).is_err());
    assert!(std::panic::catch_unwind(|| errors(&figures(vec![]), &figures(vec![]))).is_err());
    assert!(std::panic::catch_unwind(|| errors(&Figures::new(), &Figures::new())).is_err());
}

fn two_digits(model: Model) -> Network {
    Network::new(Shape::new(model, 2, [64, 64]), 0, 0.0).unwrap()
}

/// The numbers of a fixture by kind: a vector for each tensor.
type Figures = BTreeMap<&'static str, Vec<(String, Vec<f64>)>>;

/// The part of a fixture that is compared.
#[derive(Clone, Copy, PartialEq)]
pub enum Extent {
    /// Evaluation, three steps, and the state after them.
    Whole,
    /// Evaluation, and the results of the first step before it updates the parameters.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the CPU is compared whole"))]
    FirstStep,
}

impl Extent {
    fn steps(self) -> usize {
        if self == Extent::Whole { 3 } else { 1 }
    }
}

/// The numbers that PyTorch computed for a network and a batch.
pub struct Fixture {
    name: String,
    model: Model,
    precision: Precision,
    exact: Value,
    /// What PyTorch computed at the precision.
    pytorch: Value,
}

impl Fixture {
    /// Reads `model_NAME.json`, and what PyTorch computed at a precision.
    pub fn read(name: &str, model: Model, precision: Precision) -> Fixture {
        let read = |suffix| -> Value {
            let path = format!("{}/tests/fixtures/models/model_{name}{suffix}.json", env!("CARGO_MANIFEST_DIR"));
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        };
        let pytorch = read(if precision == Precision::Bf16 { "_bf16" } else { "_f32" });
        Fixture { name: name.to_owned(), model, precision, exact: read(""), pytorch }
    }

    fn count(&self, key: &str) -> usize {
        self.exact[key].as_u64().unwrap() as usize
    }

    /// The network with the fixture's weights on a device.
    pub fn network(&self, device: &Device) -> Network {
        let size = self.count("size");
        let shape = Shape::new(self.model, 2, [size, size]);
        let network = Network::on(device, self.precision.dtype(), shape, 0, 0.0).unwrap();
        fill(&network, self.count("stream_offset") as u64);
        network.store().send().unwrap();
        network
    }

    /// The batch, and its digits, image by image.
    pub fn batch(&self) -> (Tensor, Vec<u8>) {
        let (images, size) = (self.count("images"), self.count("size"));
        // with one channel, PyTorch's order (images, 1, size, size) equals the order (images, size, size, 1)
        let input = tensor(1 + self.count("stream_offset") as u64, &[images, size, size, 1], |u| u - 0.5);
        let labels = (0..images).map(|n| (37 * n + 5) % 100);
        (input, labels.flat_map(|label| [label / 10, label % 10]).map(|digit| digit as u8).collect())
    }

    /// Scales the gradients of the logits as in the fixture: by a power of two, which causes no rounding.
    pub fn scale(&self, gradients: Vec<Tensor>) -> Vec<Tensor> {
        let scale = self.exact["gradient_scale"].as_f64().unwrap();
        let scaled = |gradient: &Tensor| (gradient.to_device(&Device::Cpu)? * scale)?.to_device(gradient.device());
        gradients.iter().map(|gradient| scaled(gradient).unwrap()).collect()
    }

    /// Whether a parameter is a bias before a batch norm, which subtracts it again. Its gradient is 0 in exact
    /// arithmetic, and Adam turns the rounding noise into updates as large as the learning rate.
    fn is_without_effect(&self, name: &str) -> bool {
        self.model == Model::Fcn && name.starts_with("conv") && name.ends_with("bias")
    }

    /// The numbers by kind, in f64 or in f32.
    fn figures(&self, all: &Value, extent: Extent) -> Figures {
        let mut figures = Figures::new();
        let mut add = |kind, name: &str, value: &Value| {
            figures.entry(kind).or_default().push((name.to_owned(), numbers(value)));
        };
        let steps = all["steps"].as_array().unwrap();
        add("evaluation logits", "", &all["eval_logits"]);
        add("training logits", "", &steps[0]["train_logits"]);
        for (number, step) in steps.iter().enumerate().take(extent.steps()) {
            add("losses", &format!("step {number}"), &step["loss"]);
        }
        let mut kinds = vec![("gradient norms", "gradients", &steps[0]["gradients"])];
        if extent == Extent::Whole {
            kinds.push(("norms afterwards", "values afterwards", &all["after"]));
            add("evaluation logits afterwards", "", &all["eval_logits_after"]);
        }
        for (kind, first_kind, tensors) in kinds {
            for tensor in tensors.as_array().unwrap() {
                let name = tensor["name"].as_str().unwrap();
                if !self.is_without_effect(name) {
                    add(kind, name, &tensor["norm"]);
                    add(first_kind, name, &tensor["first"]);
                }
            }
        }
        figures
    }
}

/// The worst error of each kind.
fn errors(found: &Figures, exact: &Figures) -> BTreeMap<&'static str, f64> {
    assert_eq!(found.keys().collect::<Vec<_>>(), exact.keys().collect::<Vec<_>>());
    assert!(!exact.is_empty(), "nothing to compare");
    let worst = |kind: &&'static str| {
        assert_eq!(found[kind].len(), exact[kind].len(), "{kind}");
        assert!(!exact[kind].is_empty(), "{kind}: nothing to compare");
        found[kind].iter().zip(&exact[kind]).fold(0.0, |worst: f64, ((name, found), (same, exact))| {
            assert_eq!(name, same);
            worst.max(error(found, exact))
        })
    };
    exact.keys().map(|kind| (*kind, worst(kind))).collect()
}

/// The results of a training step on the host. The gradients are in the order of the store and in PyTorch's layout.
pub struct Step {
    pub loss: f64,
    pub logits: Vec<f64>,
    pub gradients: Vec<Vec<f64>>,
}

/// A network on a device, with the functions that the comparison calls.
pub struct Side<'a> {
    /// The network as the fixture made it.
    pub network: &'a Network,
    /// The largest norm of a gradient that is 0 in exact arithmetic.
    pub noise: f64,
    /// Computes the logits of all heads for the fixture's batch, in evaluation.
    pub evaluate: &'a dyn Fn() -> Vec<f64>,
    /// Runs a training step on that batch at the learning rate 1e-3. Its number counts from 0.
    pub train: &'a mut dyn FnMut(u64) -> Step,
}

/// Fails if the errors with respect to PyTorch in f64 exceed the limits.
pub fn compare(fixture: &Fixture, extent: Extent, side: Side) {
    let Fixture { name: label, exact: all, .. } = fixture;
    let exact = fixture.figures(all, extent);
    let pytorch = errors(&fixture.figures(&fixture.pytorch, extent), &exact);
    let store = side.network.store();
    let parameters = store.parameters();
    let names: Vec<_> =
        parameters.iter().map(|(name, var)| serde_json::json!({"name": name, "shape": var.dims()})).collect();
    let named = |p: &Value| serde_json::json!({"name": p["name"], "shape": p["shape"]});
    assert_eq!(names, all["parameters"].as_array().unwrap().iter().map(named).collect::<Vec<_>>());
    let buffers: Vec<_> = store.buffers().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(serde_json::json!(buffers), all["buffers"]);

    let mut found = Figures::new();
    let mut add = |kind, name: &str, values: Vec<f64>| found.entry(kind).or_default().push((name.to_owned(), values));
    add("evaluation logits", "", (side.evaluate)());
    for number in 0..extent.steps() {
        let step = (side.train)(number as u64);
        add("losses", &format!("step {number}"), vec![step.loss]);
        if number > 0 {
            continue;
        }
        add("training logits", "", step.logits);
        assert_eq!(step.gradients.len(), parameters.len());
        for ((name, _), gradient) in parameters.iter().zip(&step.gradients) {
            if fixture.is_without_effect(name) {
                assert!(norm(gradient) <= side.noise, "{name}: {}", norm(gradient));
            } else {
                add("gradient norms", name, vec![norm(gradient)]);
                add("gradients", name, gradient[..gradient.len().min(8)].to_vec());
            }
        }
    }
    if extent == Extent::Whole {
        store.fetch().unwrap();
        // PyTorch's state_dict lists the buffers of a layer after its parameters
        for tensor in all["after"].as_array().unwrap() {
            let name = tensor["name"].as_str().unwrap();
            let ours = parameters.iter().chain(store.buffers()).find(|(ours, _)| ours == name).unwrap();
            let ours = values(&[ours.1.as_tensor()]);
            if fixture.is_without_effect(name) {
                // three steps at the learning rate 1e-3, in either direction, on both sides
                let theirs = numbers(&tensor["first"]);
                assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 6e-3), "{name}");
            } else {
                add("norms afterwards", name, vec![norm(&ours)]);
                add("values afterwards", name, ours[..ours.len().min(8)].to_vec());
            }
        }
        add("evaluation logits afterwards", "", (side.evaluate)());
    }
    let mut beyond = Vec::new();
    for (kind, error) in errors(&found, &exact) {
        let times = if fixture.precision == Precision::Bf16 { 2.0 } else { 5.0 };
        let allowed = (times * pytorch[kind]).max(1e-5);
        println!("{label}: {kind}: relative error {error:.1e}, PyTorch's {:.1e}, allowed {allowed:.1e}", pytorch[kind]);
        if error > allowed {
            beyond.push(format!("{kind}: {error:.2e} > {allowed:.2e}"));
        }
    }
    assert!(beyond.is_empty(), "{label}: {beyond:?}");
}

/// Compares the whole fixture on the CPU.
fn compare_cpu(name: &str, model: Model, precision: Precision) {
    let fixture = Fixture::read(name, model, precision);
    let network = fixture.network(&Device::Cpu);
    let (input, targets) = fixture.batch();
    let mut adam = Adam::new(network.store(), 0.0);
    let mut train = |step| {
        let tape = Tape::new(network.store().parameters().len());
        let logits = network.forward(&input, Mode::Train { seed: 0, step, tape: &tape }).unwrap();
        let loss = loss(&logits, &targets, 0.0).unwrap();
        let gradients = tape.backward(&logits, fixture.scale(loss.gradients)).unwrap().parameters;
        adam.step(network.store(), &gradients, 1e-3).unwrap();
        let gradients = gradients.iter().map(|gradient| values(&[gradient.as_ref().unwrap()])).collect();
        Step { loss: loss.value, logits: values(&logits), gradients }
    };
    let evaluate = || values(&network.forward(&input, Mode::Eval).unwrap());
    // in bfloat16, the parts of such a gradient are rounded before they cancel; PyTorch's have norms up to 0.0135
    let noise = if precision == Precision::Bf16 { 0.027 } else { 1e-5 };
    compare(&fixture, Extent::Whole, Side { network: &network, noise, evaluate: &evaluate, train: &mut train });
}

#[test]
fn alexnet_computes_what_pytorch_computes() {
    compare_cpu("alexnet", Model::AlexNet, Precision::F32);
}

// In this fixture, every ReLU and every maximum is far from a change of its decision, and Adam's epsilon is above the
// rounding errors of the gradients: `reference/make_sturdy_fixture.py`
#[test]
fn alexnet_computes_what_pytorch_computes_where_rounding_decides_nothing() {
    compare_cpu("alexnet_sturdy", Model::AlexNet, Precision::F32);
}

#[test]
fn fcn_computes_what_pytorch_computes() {
    compare_cpu("fcn", Model::Fcn, Precision::F32);
}

#[test]
fn resnet_computes_what_pytorch_computes() {
    compare_cpu("resnet", Model::ResNet, Precision::F32);
}

#[test]
fn towers_compute_what_pytorch_computes() {
    compare_cpu("towers", Model::Towers, Precision::F32);
}

#[test]
fn attention_computes_what_pytorch_computes() {
    compare_cpu("attention", Model::Attention, Precision::F32);
}

#[test]
fn networks_in_bfloat16_are_as_near_to_the_exact_figures_as_pytorchs_autocast() {
    if Precision::Bf16.on_cpu().is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "networks in bfloat16: skipped, as this processor has no instructions for bfloat16"
        );
        return;
    }
    for model in Model::ALL {
        compare_cpu(&model.to_string(), model, Precision::Bf16);
    }
}

#[test]
fn fresh_networks_have_the_moments_of_pytorchs_default_initialisation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models/initialisation.json");
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for model in Model::ALL {
        let seeds = 3;
        let drawn = |seed| Network::new(Shape::new(model, 2, [64, 64]), seed, 0.0).unwrap();
        let networks: Vec<Network> = (0..seeds).map(drawn).collect();
        let expected = all[model.to_string()].as_array().unwrap();
        assert_eq!(expected.len(), networks[0].store().parameters().len());
        for (i, theirs) in expected.iter().enumerate() {
            let number = |key: &str| theirs[key].as_f64();
            let (name, var) = &networks[0].store().parameters()[i];
            assert_eq!(
                (name.as_str(), serde_json::json!(var.dims())),
                (theirs["name"].as_str().unwrap(), theirs["shape"].clone())
            );
            let ours: Vec<f64> =
                networks.iter().flat_map(|network| values(&[network.store().parameters()[i].1.as_tensor()])).collect();
            if let Some(constant) = number("constant") {
                assert!(ours.iter().all(|value| *value == constant), "{name}");
                continue;
            }
            let bound = number("bound").unwrap();
            assert!(ours.iter().all(|value| value.abs() <= bound * (1.0 + 1e-6)), "{name}");
            let mean = |values: &dyn Fn(f64) -> f64| ours.iter().map(|v| values(*v)).sum::<f64>() / ours.len() as f64;
            let average = mean(&|v| v);
            let deviation = mean(&|v| (v - average).powi(2)).sqrt();
            // five standard errors of a uniform variable's mean and standard deviation, for our draws and PyTorch's
            let count = ours.len() as f64;
            let draws = count / seeds as f64 * number("seeds").unwrap();
            let error = 5.0 * bound / 3f64.sqrt() * (1.0 / count + 1.0 / draws).sqrt();
            assert!((average - number("mean").unwrap()).abs() < error, "{name}: {average}");
            assert!((deviation - number("std").unwrap()).abs() < 0.2f64.sqrt() * error, "{name}: {deviation}");
        }
    }
}

#[test]
fn the_networks_have_the_documented_numbers_of_parameters() {
    let count = |model| two_digits(model).store().count();
    assert_eq!(count(Model::AlexNet), 3_464_084);
    assert_eq!(count(Model::ResNet), 11_177_940);
    assert_eq!(count(Model::Fcn), 1_761_364);
    assert_eq!(count(Model::Towers), 241_898);
    assert_eq!(count(Model::Attention), 244_202);
}

#[test]
fn heads_and_image_size_follow_the_data() {
    for (model, digits, height, width) in [
        (Model::AlexNet, 3, 44, 84),
        (Model::Fcn, 1, 67, 60),
        (Model::ResNet, 4, 28, 33),
        (Model::Towers, 3, 28, 86),
        (Model::Attention, 1, 28, 28),
    ] {
        let network = Network::new(Shape::new(model, digits, [height, width]), 0, 0.5).unwrap();
        let input = tensor(1, &[2, height, width, 1], |u| u);
        let tape = Tape::new(network.store().parameters().len());
        for mode in [Mode::Eval, Mode::Train { seed: 0, step: 0, tape: &tape }] {
            let logits = network.forward(&input, mode).unwrap();
            assert_eq!(logits.iter().map(|logits| logits.dims()).collect::<Vec<_>>(), vec![&[2, 10]; digits]);
        }
    }
}

#[test]
fn an_image_size_that_a_network_cannot_take_is_a_configuration_error() {
    let refusal = |model, height, width| {
        let error = Network::new(Shape::new(model, 2, [height, width]), 0, 0.5).err().unwrap();
        assert!(error.is_configuration());
        error.to_string()
    };
    assert_eq!(
        refusal(Model::AlexNet, 64, 43),
        "`train.model`: found alexnet for images of 64x43 pixels (height x width); expected images of at least 44x44 \
         pixels, or a model that takes these: resnet, towers, attention"
    );
    for size in [59, 68] {
        assert_eq!(
            refusal(Model::Fcn, 64, size),
            format!(
                "`train.model`: found fcn for images of 64x{size} pixels (height x width); expected images of 60 to 67 \
                 pixels in height and width, or a model that takes these: alexnet, resnet, towers, attention"
            )
        );
    }
}
