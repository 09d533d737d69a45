//! Compares the kernels with their definitions, written as plain loops in f64, for odd sizes, strides and paddings.

use candle_core::{D, Device, Tensor};
use candle_nn::{BatchNormConfig, Module, ModuleT, VarBuilder, VarMap};
use multidigit_nn::cpu::conv_shape::ConvShape;
use multidigit_nn::cpu::epilogue::Epilogue;
use multidigit_nn::cpu::linear::LinearShape;
use multidigit_nn::cpu::norm::{self, NormShape};
use multidigit_nn::cpu::pooling::PoolShape;
use multidigit_nn::loss;
use multidigit_nn::rng;
use proptest::prelude::*;
use rand::Rng;

/// Small multiples of 1/8. Sums of some thousand products of them are exact in f32, so that results
/// can be tested for equality.
pub fn eighths(name: &str, count: usize) -> Vec<f32> {
    let mut rng = rng::stream(1, name, 0, 0);
    (0..count).map(|_| (rng.next_u32() % 17) as f32 / 8.0 - 1.0).collect()
}

/// Calls `f(output element, input element, weight element)` for every product of a convolution without epilogue.
pub fn products(conv: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    for image in 0..conv.images {
        for line in 0..conv.lines() {
            for column in 0..conv.columns() {
                for output in 0..conv.outputs {
                    let to = ((image * conv.lines() + line) * conv.columns() + column) * conv.outputs + output;
                    for input in 0..conv.inputs {
                        for (ky, kx) in (0..conv.kernel).flat_map(|ky| (0..conv.kernel).map(move |kx| (ky, kx))) {
                            let (y, x) = (line * conv.stride + ky, column * conv.stride + kx);
                            let inside = (conv.padding..conv.height + conv.padding).contains(&y)
                                && (conv.padding..conv.width + conv.padding).contains(&x);
                            if inside {
                                let (y, x) = (y - conv.padding, x - conv.padding);
                                let from = ((image * conv.height + y) * conv.width + x) * conv.inputs + input;
                                let place = ((output * conv.inputs + input) * conv.kernel + ky) * conv.kernel + kx;
                                f(to, from, place);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The shape of a convolution without epilogue.
pub fn plain([images, height, width, inputs, outputs, kernel, stride, padding]: [usize; 8]) -> ConvShape {
    let epilogue = Epilogue::Identity;
    ConvShape { images, height, width, inputs, outputs, kernel, stride, padding, epilogue }
}

pub fn shapes() -> impl Iterator<Item = ConvShape> {
    // images, height, width, inputs, outputs, kernel, stride, padding
    [
        [1, 7, 7, 1, 3, 5, 1, 0],
        [1, 1, 1, 2, 1, 1, 1, 0],
        [9, 9, 6, 3, 4, 3, 1, 0],
        [2, 5, 8, 3, 2, 3, 2, 1],
        [3, 6, 9, 2, 5, 3, 2, 1],
        [2, 7, 5, 4, 3, 1, 2, 0],
        [1, 4, 3, 2, 2, 3, 1, 1],
        [2, 40, 37, 1, 2, 5, 1, 0],
        [1, 3, 2, 1, 2, 5, 3, 2],
        [70, 3, 3, 2, 2, 3, 1, 0],
        [1, 2, 1, 1, 2, 2, 1, 3], // windows entirely outside the image
    ]
    .into_iter()
    .map(plain)
}

#[test]
fn a_convolution_and_its_gradients_are_their_definitions() {
    shapes().for_each(|conv| check(&conv));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_convolution_of_any_shape_and_its_gradients_are_their_definitions(
        (images, height, width) in (1usize..=5, 1usize..=9, 1usize..=9),
        (inputs, outputs) in (1usize..=4, 1usize..=4),
        (kernel, stride, padding) in (1usize..=5, 1usize..=3, 0usize..=3),
    ) {
        prop_assume!(height.min(width) + 2 * padding >= kernel);
        check(&ConvShape { images, height, width, inputs, outputs, kernel, stride, padding, epilogue: Epilogue::Identity });
    }
}

/// Asserts equality with the definition, which small multiples of 1/8 make possible.
fn check(conv: &ConvShape) {
    let input = eighths("input", conv.images * conv.height * conv.width * conv.inputs);
    let weight = eighths("weight", conv.outputs * conv.inputs * conv.kernel * conv.kernel);
    let bias = eighths("bias", conv.outputs);
    let found = conv.forward(&input, &weight, Some(&bias)).values;
    let mut expected: Vec<f32> = (0..found.len()).map(|i| bias[i % conv.outputs]).collect();
    products(conv, |to, from, place| expected[to] += input[from] * weight[place]);
    assert_eq!(found, expected, "{conv:?}");

    let grad = eighths("grad", found.len());
    let gradients = conv.backward(&input, &weight, &found, &[], &grad, true);
    let (mut input_grad, mut weight_grad) = (vec![0.0; input.len()], vec![0.0; weight.len()]);
    products(conv, |to, from, place| {
        input_grad[from] += grad[to] * weight[place];
        weight_grad[place] += grad[to] * input[from];
    });
    assert_eq!(gradients.input.unwrap(), input_grad, "{conv:?}");
    assert_eq!(gradients.weight, weight_grad, "{conv:?}");
    let bias_grad = |output| grad.iter().skip(output).step_by(conv.outputs).sum::<f32>();
    assert_eq!(gradients.bias, (0..conv.outputs).map(bias_grad).collect::<Vec<_>>(), "{conv:?}");
    assert!(conv.backward(&input, &weight, &found, &[], &grad, false).input.is_none());
}

#[test]
fn a_finished_convolution_is_the_plain_one_then_relu_then_the_maximum() {
    for plain in shapes().filter(|conv| conv.lines().min(conv.columns()) >= 2) {
        let input = eighths("input", plain.images * plain.height * plain.width * plain.inputs);
        let weight = eighths("weight", plain.outputs * plain.inputs * plain.kernel * plain.kernel);
        let before = plain.forward(&input, &weight, None).values;
        let (lines, columns, channels) = (plain.lines(), plain.columns(), plain.outputs);
        for epilogue in [Epilogue::Relu, Epilogue::ReluPool] {
            let conv = ConvShape { epilogue, ..plain };
            let output = conv.forward(&input, &weight, None);
            let step = if epilogue == Epilogue::ReluPool { 2 } else { 1 };
            // the element of the output without epilogue from which each value comes: the first of the largest
            let mut sources = Vec::new();
            for image in 0..conv.images {
                for (y, x) in (0..lines / step).flat_map(|y| (0..columns / step).map(move |x| (y, x))) {
                    for channel in 0..channels {
                        let window = (0..step).flat_map(|dy| (0..step).map(move |dx| (y * step + dy, x * step + dx)));
                        let at = |(y, x)| ((image * lines + y) * columns + x) * channels + channel;
                        let better = |best: usize, next| if before[next] > before[best] { next } else { best };
                        sources.push(window.map(at).reduce(better).unwrap());
                    }
                }
            }
            assert_eq!(output.values, sources.iter().map(|s| before[*s].max(0.0)).collect::<Vec<_>>(), "{conv:?}");
            let grad = eighths("grad", output.values.len());
            let mut before_grad = vec![0.0; before.len()];
            for (source, grad) in sources.iter().zip(&grad).filter(|(source, _)| before[**source] > 0.0) {
                before_grad[*source] = *grad;
            }
            let found = conv.backward(&input, &weight, &output.values, &output.choice, &grad, true);
            let expected = plain.backward(&input, &weight, &before, &[], &before_grad, true);
            assert_eq!(found.input, expected.input, "{conv:?}");
            assert_eq!(found.weight, expected.weight, "{conv:?}");
            assert_eq!(found.bias, expected.bias, "{conv:?}");
        }
    }
}

#[test]
fn a_linear_layer_and_its_gradients_are_their_definitions() {
    for linear in [LinearShape { rows: 1, inputs: 3, outputs: 2 }, LinearShape { rows: 5, inputs: 300, outputs: 129 }] {
        let LinearShape { rows, inputs, outputs } = linear;
        let (input, weight) = (eighths("input", rows * inputs), eighths("weight", outputs * inputs));
        let (bias, grad) = (eighths("bias", outputs), eighths("grad", rows * outputs));
        let mut expected: Vec<f32> = (0..rows * outputs).map(|i| bias[i % outputs]).collect();
        let (mut input_grad, mut weight_grad) = (vec![0.0; rows * inputs], vec![0.0; outputs * inputs]);
        for (row, output, i) in
            (0..rows * outputs).flat_map(|e| (0..inputs).map(move |i| (e / outputs, e % outputs, i)))
        {
            let (to, from, place) = (row * outputs + output, row * inputs + i, output * inputs + i);
            expected[to] += input[from] * weight[place];
            input_grad[from] += grad[to] * weight[place];
            weight_grad[place] += grad[to] * input[from];
        }
        assert_eq!(linear.forward(&input, &weight, &bias), expected);
        assert_eq!(linear.input_gradient(&weight, &grad), input_grad);
        assert_eq!(linear.weight_gradient(&input, &grad), weight_grad);
        let bias_grad = |output| grad.iter().skip(output).step_by(outputs).sum::<f32>();
        assert_eq!(linear.bias_gradient(&grad), (0..outputs).map(bias_grad).collect::<Vec<_>>());
    }
}

/// Random numbers from -1 to 1.
pub fn uniform(name: &str, count: usize) -> Vec<f32> {
    let mut rng = rng::stream(3, name, 0, 0);
    (0..count).map(|_| (f64::from(rng.next_u32()) * 2f64.powi(-31) - 1.0) as f32).collect()
}

/// Channels-last values in candle's order.
fn channel_first(values: &[f32], shape: [usize; 4]) -> Tensor {
    Tensor::from_slice(values, &shape, &Device::Cpu).unwrap().permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

/// Asserts that candle's values equal ours up to the rounding errors of f32 in sums of `terms` terms.
fn same(what: &str, ours: &[f32], candles: &Tensor, terms: usize) {
    let last = if candles.rank() == 4 { candles.permute((0, 2, 3, 1)).unwrap() } else { candles.clone() };
    let theirs = last.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(ours.len(), theirs.len(), "{what}");
    assert!(!ours.is_empty(), "{what}: nothing to compare");
    let largest = theirs.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
    let allowed = terms as f32 * f32::EPSILON * largest;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!((ours - theirs).abs() <= allowed, "{what}: {ours}, candle {theirs}");
    }
}

#[test]
fn forward_passes_agree_with_candles_own() {
    let mut wide = shapes().collect::<Vec<_>>();
    for [images, height, width, kernel, padding] in
        [[2, 8, 12, 3, 1], [3, 5, 9, 3, 1], [1, 6, 10, 5, 0], [2, 7, 4, 5, 2], [40, 4, 4, 3, 1]]
    {
        let shape = wide[0];
        wide.push(ConvShape { images, height, width, kernel, padding, inputs: 16, outputs: 32, ..shape });
    }
    // more channels than a block of Winograd's transforms has
    wide.push(plain([2, 4, 8, 144, 272, 3, 1, 1]));
    for plain in wide {
        let ConvShape { images, height, width, inputs, outputs, kernel, stride, padding, .. } = plain;
        let input = uniform("input", images * height * width * inputs);
        let weight = uniform("weight", outputs * inputs * kernel * kernel);
        let bias = uniform("bias", outputs);
        let kernels = Tensor::from_slice(&weight, (outputs, inputs, kernel, kernel), &Device::Cpu).unwrap();
        let shift = Tensor::from_slice(&bias, (1, outputs, 1, 1), &Device::Cpu).unwrap();
        let candles = channel_first(&input, [images, height, width, inputs]);
        let candles = candles.conv2d(&kernels, padding, stride, 1, 1).unwrap().broadcast_add(&shift).unwrap();
        let terms = inputs * kernel * kernel + 1;
        for epilogue in [Epilogue::Identity, Epilogue::Relu, Epilogue::ReluPool] {
            let conv = ConvShape { epilogue, ..plain };
            if conv.shape().contains(&0) {
                continue;
            }
            let candles = match epilogue {
                Epilogue::Identity => candles.clone(),
                Epilogue::Relu => candles.relu().unwrap(),
                Epilogue::ReluPool => candles.relu().unwrap().max_pool2d(2).unwrap(),
            };
            same(&format!("{conv:?}"), &conv.forward(&input, &weight, Some(&bias)).values, &candles, terms);
        }
    }

    let linear = LinearShape { rows: 5, inputs: 300, outputs: 129 };
    let (input, weight, bias) = (uniform("input", 1500), uniform("weight", 129 * 300), uniform("bias", 129));
    let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
    let candles = candle_nn::Linear::new(tensor(&weight, &[129, 300]), Some(tensor(&bias, &[129])));
    let candles = candles.forward(&tensor(&input, &[5, 300])).unwrap();
    same("linear", &linear.forward(&input, &weight, &bias), &candles, 300);

    for (channels, images) in [(3, 1), (21, 9)] {
        let norm = NormShape { images, height: 5, width: 4, channels, epilogue: Epilogue::Relu };
        let (input, weight, bias) =
            (uniform("input", norm.count() * channels), uniform("weight", channels), uniform("bias", channels));
        let map = VarMap::new();
        let builder = VarBuilder::from_varmap(&map, candle_core::DType::F32, &Device::Cpu);
        let config = BatchNormConfig { eps: norm::EPSILON, ..Default::default() };
        let candles = candle_nn::batch_norm(channels, config, builder).unwrap();
        map.data().lock().unwrap()["weight"].set(&tensor(&weight, &[channels])).unwrap();
        map.data().lock().unwrap()["bias"].set(&tensor(&bias, &[channels])).unwrap();
        let candles = candles.forward_t(&channel_first(&input, [images, 5, 4, channels]), true).unwrap();
        let ours = norm.forward(&input, &weight, &bias).values;
        same("batch norm", &ours, &candles.relu().unwrap(), 5 * 4 * images);
    }

    for [images, height, width, channels] in [[3, 8, 8, 40], [1, 1, 1, 5], [2, 5, 7, 1]] {
        let pool = PoolShape { images, positions: height * width, channels };
        let input = uniform("features", images * height * width * channels);
        let candles = tensor(&input, &[images, height, width, channels]).mean((1, 2)).unwrap();
        // in the same order, and therefore the same bits
        assert_eq!(pool.mean(&input), candles.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }

    let logits = uniform("logits", 70);
    let targets: Vec<u8> = (0..7).map(|i| i * 3 % 10).collect();
    let ours: f64 = logits.chunks(10).zip(&targets).map(|(row, target)| loss::cross_entropy(row, *target)).sum();
    let classes = Tensor::from_slice(&targets, 7, &Device::Cpu).unwrap();
    let candles = candle_nn::loss::cross_entropy(&tensor(&logits, &[7, 10]), &classes).unwrap();
    same("cross entropy", &[(ours / 7.0) as f32], &candles, 10);
    let ours: Vec<f32> = logits.chunks(10).flat_map(loss::softmax).map(|p| p as f32).collect();
    same("softmax", &ours, &candle_nn::ops::softmax(&tensor(&logits, &[7, 10]), D::Minus1).unwrap(), 10);
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut all = Vec::new();
            for (inputs, outputs, kernel, size) in [(32, 48, 3, 12), (16, 16, 5, 14), (5, 7, 3, 13), (16, 16, 3, 7)] {
                let shape = [37, size, size, inputs];
                let [images, height, width, _] = shape;
                let epilogue = Epilogue::ReluPool;
                let conv =
                    ConvShape { images, height, width, inputs, outputs, kernel, stride: 1, padding: 1, epilogue };
                let input = uniform("input", shape.iter().product());
                let weight = uniform("weight", outputs * inputs * kernel * kernel);
                let output = conv.forward(&input, &weight, None);
                let grad = uniform("grad", output.values.len());
                let found = conv.backward(&input, &weight, &output.values, &output.choice, &grad, true);
                let norm = NormShape { images, height, width, channels: inputs, epilogue: Epilogue::ReluPool };
                let result = norm.forward(&input, &weight[..inputs], &weight[..inputs]);
                let grads = norm.backward(&input, &weight[..inputs], &result, &result.values, &grad_of(&result.values));
                all.extend([output.values, found.input.unwrap(), found.weight, found.bias]);
                all.extend([result.values, grads.input, grads.weight, grads.bias]);
            }
            all
        })
    };
    let one = on(1);
    assert!([2, 3, 7].into_iter().all(|threads| on(threads) == one));
}

fn grad_of(values: &[f32]) -> Vec<f32> {
    uniform("grad", values.len())
}
