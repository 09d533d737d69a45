//! The networks against what PyTorch computes, in f64, for the same weights and the same batch.
//!
//! `fixtures/models` holds PyTorch's figures; weights and batch are a formula of a stream's number and an index, so
//! that both sides make them without files. PyTorch in f32 differs from PyTorch in f64 as well: a tolerance here is
//! five times the error measured there for that kind of number, or 1e-5 (a few dozen roundings of f32) where that is
//! smaller.

use candle_core::{Device, Tensor};
use multidigit::nn::optim::Adam;
use multidigit::nn::{self, Mode, Model, Network, Shape};
use serde_json::Value;

fn uniform(stream: u64, index: u64) -> f64 {
    let mut z = (stream << 32).wrapping_add(index).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 * 2f64.powi(-53)
}

fn tensor(stream: u64, shape: &[usize], f: impl Fn(f64) -> f64) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count as u64).map(|i| f(uniform(stream, i)) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn fill(network: &Network) {
    for (stream, (name, var)) in (1000..).zip(network.store().parameters()) {
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

fn values(tensors: &[Tensor]) -> Vec<f64> {
    tensors.iter().flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).map(f64::from).collect()
}

fn norm(tensor: &Tensor) -> f64 {
    values(std::slice::from_ref(tensor)).iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The largest difference, as a share of the largest value.
fn error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    found.iter().zip(expected).fold(0.0, |worst: f64, (a, b)| worst.max((a - b).abs())) / largest
}

fn two_digits(model: Model) -> Network {
    Network::new(Shape { model, digits: 2, height: 64, width: 64 }, 0, 0.0).unwrap()
}

/// The relative errors that are allowed.
struct Allowed {
    eval_logits: f64,
    train_logits: f64,
    gradient_norms: f64,
    losses: f64,
    eval_logits_after: f64,
}

fn compare(model: Model, allowed: Allowed) {
    let path = format!("{}/tests/fixtures/models/model_{model}.json", env!("CARGO_MANIFEST_DIR"));
    let expected: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let network = two_digits(model);
    let parameters = network.store().parameters();
    let names: Vec<_> =
        parameters.iter().map(|(name, var)| serde_json::json!({"name": name, "shape": var.dims()})).collect();
    let named = |p: &Value| serde_json::json!({"name": p["name"], "shape": p["shape"]});
    assert_eq!(names, expected["parameters"].as_array().unwrap().iter().map(named).collect::<Vec<_>>());
    let buffers: Vec<_> = network.store().buffers().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(serde_json::json!(buffers), expected["buffers"]);

    fill(&network);
    // one channel: the order of PyTorch's (8, 1, 64, 64) is that of (8, 64, 64, 1)
    let input = tensor(1, &[8, 64, 64, 1], |u| u - 0.5);
    let labels = (0..8u8).map(|n| (37 * u32::from(n) + 5) % 100);
    let targets: Vec<u8> = labels.flat_map(|label| [label / 10, label % 10]).map(|digit| digit as u8).collect();
    let near = |what: &str, error: f64, allowed: f64| {
        println!("{model}: {what}: relative error {error:.1e}, allowed {allowed:.1e}");
        assert!(error <= allowed, "{model}: {what}: relative error {error:.2e}, allowed {allowed:.2e}");
    };

    let logits = network.forward(&input, Mode::Eval).unwrap();
    near("evaluation logits", error(&values(&logits), &numbers(&expected["eval_logits"])), allowed.eval_logits);
    let mut adam = Adam::new(network.store());
    for (step, entry) in expected["steps"].as_array().unwrap().iter().enumerate() {
        let logits = network.forward(&input, Mode::Train { seed: 0, step: step as u64 }).unwrap();
        let loss = nn::loss(&logits, &targets).unwrap();
        near(
            &format!("loss {step}"),
            error(&values(std::slice::from_ref(&loss)), &numbers(&entry["loss"])),
            allowed.losses,
        );
        let gradients = loss.backward().unwrap();
        if step == 0 {
            near("training logits", error(&values(&logits), &numbers(&entry["train_logits"])), allowed.train_logits);
            let mut worst: f64 = 0.0;
            for ((name, var), expected) in parameters.iter().zip(entry["gradients"].as_array().unwrap()) {
                let (found, expected) = (norm(gradients.get(var).unwrap()), expected["norm"].as_f64().unwrap());
                if model == Model::Fcn && name.starts_with("conv") && name.ends_with("bias") {
                    // batch norm takes the mean away again: 0 in exact arithmetic, rounding noise here
                    assert!(expected < 1e-12 && found < 1e-5, "{name}: {found}");
                } else {
                    worst = worst.max((found - expected).abs() / expected);
                }
            }
            near("gradient norms", worst, allowed.gradient_norms);
        }
        adam.step(network.store(), &gradients, 1e-3).unwrap();
    }
    let after = values(&network.forward(&input, Mode::Eval).unwrap());
    near("evaluation logits after", error(&after, &numbers(&expected["eval_logits_after"])), allowed.eval_logits_after);
}

#[test]
fn alexnet_computes_what_pytorch_computes() {
    let allowed = Allowed {
        eval_logits: 1e-5,
        train_logits: 1e-5,
        gradient_norms: 1e-5,
        losses: 5.0 * 9.1e-6,
        eval_logits_after: 5.0 * 1.2e-4,
    };
    compare(Model::AlexNet, allowed);
}

#[test]
fn fcn_computes_what_pytorch_computes() {
    let allowed = Allowed {
        eval_logits: 1e-5,
        train_logits: 5.0 * 2.9e-6,
        gradient_norms: 1e-5,
        losses: 5.0 * 2.2e-6,
        eval_logits_after: 5.0 * 5.4e-3,
    };
    compare(Model::Fcn, allowed);
}

#[test]
fn resnet_computes_what_pytorch_computes() {
    let allowed = Allowed {
        eval_logits: 1e-5,
        train_logits: 1e-5,
        gradient_norms: 5.0 * 5.1e-4, // ReLUs whose input is near 0 flip
        losses: 5.0 * 1.1e-3,
        eval_logits_after: 5.0 * 5.0e-3,
    };
    compare(Model::ResNet, allowed);
}

#[test]
fn the_networks_have_the_papers_numbers_of_parameters() {
    let count = |model| two_digits(model).store().count();
    assert_eq!(count(Model::AlexNet), 3_464_084);
    assert_eq!(count(Model::ResNet), 11_177_940);
    assert_eq!(count(Model::Fcn), 1_761_364);
}

#[test]
fn heads_and_image_size_follow_the_data() {
    for (model, digits, height, width) in
        [(Model::AlexNet, 3, 44, 84), (Model::Fcn, 1, 67, 60), (Model::ResNet, 4, 28, 33)]
    {
        let network = Network::new(Shape { model, digits, height, width }, 0, 0.5).unwrap();
        let input = tensor(1, &[2, height, width, 1], |u| u);
        for mode in [Mode::Eval, Mode::Train { seed: 0, step: 0 }] {
            let logits = network.forward(&input, mode).unwrap();
            assert_eq!(logits.iter().map(Tensor::dims).collect::<Vec<_>>(), vec![&[2, 10]; digits]);
        }
    }
}

#[test]
fn an_image_size_that_a_network_cannot_take_is_a_configuration_error() {
    let refusal = |model, height, width| {
        let error = Network::new(Shape { model, digits: 2, height, width }, 0, 0.5).err().unwrap();
        assert!(error.is_configuration());
        error.to_string()
    };
    assert_eq!(
        refusal(Model::AlexNet, 64, 43),
        "`train.model`: found alexnet for images of 64x43 pixels (height x width); expected images of at least 44x44 \
         pixels, or another model"
    );
    for size in [59, 68] {
        assert_eq!(
            refusal(Model::Fcn, 64, size),
            format!(
                "`train.model`: found fcn for images of 64x{size} pixels (height x width); expected images of 60 to 67 \
                 pixels in height and width, or another model"
            )
        );
    }
}
