//! Loads the weights of each network into stock layers of candle-nn, like `examples/candle_inference.rs`.

use candle_core::DType;
use multidigit::networks::weights::{self, Description};
use multidigit::networks::{Model, Network, Pool, Shape, Trunk};
use multidigit_nn::Mode;

use super::compare::{error, tensor, values};

#[allow(dead_code, reason = "the example's main is not called")]
#[path = "../../examples/candle_inference.rs"]
mod example;

#[test]
fn stock_layers_of_candle_give_the_same_logits() {
    let plain = |model, size| Shape::new(model, 2, size);
    let trunk = |model, size, trunk| Shape { trunk: Some(trunk), ..Shape::new(model, 2, size) };
    for shape in [
        plain(Model::AlexNet, [64, 48]),
        plain(Model::Fcn, [64, 64]),
        plain(Model::ResNet, [20, 31]),
        trunk(Model::Towers, [30, 57], Trunk { channels: 5, margin: 3, pool: Pool::Max }),
        trunk(Model::Towers, [64, 64], Trunk { channels: 16, margin: 0, pool: Pool::Mean }),
        trunk(Model::Attention, [28, 59], Trunk { channels: 6, ..Trunk::default() }),
    ] {
        let Shape { model, height, width, .. } = shape;
        let network = Network::new(shape, 5, 0.5).unwrap();
        // running statistics as after a training, instead of the neutral ones of a new network
        for (stream, (name, var)) in (1..).zip(network.store().buffers()) {
            let is_variance = name.ends_with("running_var");
            let values = tensor(stream, var.dims(), |u| if is_variance { 0.5 + u } else { 0.2 * u - 0.1 });
            var.set(&values).unwrap();
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("best.safetensors");
        weights::save(&path, &network, &Description { shape, mean: 0.1, std: 0.3, epoch: 1 }).unwrap();
        let (description, theirs) = example::load(&path).unwrap();
        assert_eq!((description.digits, description.mean), (2, 0.1));

        let input = tensor(99, &[3, height, width, 1], |u| 2.0 * u - 1.0);
        let ours = network.forward(&input, Mode::Eval).unwrap();
        let channels_first = input.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        assert_eq!(channels_first.dtype(), DType::F32);
        let theirs = theirs(&channels_first).unwrap();
        assert_eq!((ours.len(), theirs.len()), (2, 2));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let found = error(&values(std::slice::from_ref(ours)), &values(&[theirs]));
            // sums of a few thousand products in a different order
            assert!(found < 2e-5, "{model}: {found:.1e}");
        }
    }
}
