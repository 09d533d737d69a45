//! Compares every gradient with central differences, in f64, of the operator's definition written as plain loops.

use multidigit_nn::cpu::conv_shape::ConvShape;
use multidigit_nn::cpu::epilogue::{Epilogue, relu, relu_gradient};
use multidigit_nn::cpu::linear::LinearShape;
use multidigit_nn::cpu::norm::{EPSILON, NormShape};
use multidigit_nn::floats::{Floats, tensor};
use multidigit_nn::layers::Dropout;
use multidigit_nn::rng;
use multidigit_nn::tape::{At, Tape, Value};
use multidigit_nn::{Mode, Store, loss, ops};
use rand::Rng;

use crate::kernels::{products, uniform};

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Far above the rounding of f64, far below the distance to another choice of a ReLU or a maximum.
const STEP: f64 = 1e-6;

/// Asserts that `gradient` is the derivative of `definition` with respect to operand `number`,
/// up to the error `allowed`.
fn differentiate(
    what: &str,
    operands: &[Vec<f64>],
    number: usize,
    gradient: &[f32],
    definition: impl Fn(&[Vec<f64>]) -> f64,
    allowed: f64,
) {
    assert_eq!(gradient.len(), operands[number].len(), "{what}");
    let mut operands = operands.to_vec();
    for (i, gradient) in gradient.iter().enumerate() {
        let mut shifted = |by: f64| {
            let before = operands[number][i];
            operands[number][i] += by;
            let value = definition(&operands);
            operands[number][i] = before;
            value
        };
        let expected = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
        let error = (expected - f64::from(*gradient)).abs();
        assert!(error <= allowed, "{what}, operand {number}, {i}: {gradient}, expected {expected}, allowed {allowed}");
    }
}

/// The rounding error of f32 in a sum of `terms` terms of magnitude `size`, and of f64 in the differences of `sum`.
fn roundings(terms: usize, size: f64, sum: f64) -> f64 {
    terms as f64 * f64::from(f32::EPSILON) / 2.0 * size + 8.0 * f64::EPSILON * sum.abs().max(1.0) / STEP
}

/// The definition of `epilogue` on channels-last values, summed with factors.
fn finished(values: &[f64], [images, height, width, channels]: [usize; 4], epilogue: Epilogue, factors: &[f32]) -> f64 {
    let step = if epilogue == Epilogue::ReluPool { 2 } else { 1 };
    let (lines, columns) = (height / step, width / step);
    assert_eq!(factors.len(), images * lines * columns * channels);
    let mut sum = 0.0;
    for (i, factor) in factors.iter().enumerate() {
        let (channel, x, y) = (i % channels, i / channels % columns, i / channels / columns % lines);
        let image = i / channels / columns / lines;
        let window = (0..step * step).map(|k| (y * step + k / step, x * step + k % step));
        let at = |(y, x)| values[((image * height + y) * width + x) * channels + channel];
        let largest = window.map(at).fold(f64::NEG_INFINITY, f64::max);
        let value = if epilogue == Epilogue::Identity { largest } else { largest.max(0.0) };
        sum += value * f64::from(*factor);
    }
    sum
}

/// Compares the gradients of convolutions with finite differences. `compute` receives a convolution, its input,
/// weight and bias, and the factors by which its output is summed; it returns the gradients of the sum with
/// respect to the first three.
pub fn check_convolutions(compute: impl Fn(&ConvShape, [&[f32]; 3], &[f32]) -> [Vec<f32>; 3]) {
    use Epilogue::{Identity, Relu, ReluPool};
    // images, height, width, inputs, outputs, kernel, stride, padding; Winograd's method is used
    // for those with 16 channels
    let shapes = [
        ([1, 7, 6, 1, 3, 5, 1, 0], ReluPool),
        ([3, 5, 8, 3, 2, 3, 2, 1], Identity),
        ([2, 6, 9, 2, 5, 3, 2, 1], Relu),
        ([2, 7, 5, 4, 3, 1, 2, 0], Identity),
        ([1, 9, 4, 2, 3, 3, 1, 2], ReluPool),
        ([1, 4, 8, 16, 16, 3, 1, 1], Relu),
        ([2, 5, 4, 16, 16, 3, 1, 1], ReluPool),
        ([1, 3, 5, 16, 16, 3, 1, 2], Identity),
        ([1, 6, 8, 16, 16, 5, 1, 0], ReluPool),
        ([1, 3, 4, 16, 16, 5, 1, 2], Relu),
    ];
    for ([images, height, width, inputs, outputs, kernel, stride, padding], epilogue) in shapes {
        let conv = ConvShape { images, height, width, inputs, outputs, kernel, stride, padding, epilogue };
        let before = [images, conv.lines(), conv.columns(), outputs];
        let input = uniform("input", images * height * width * inputs);
        let weight = uniform("weight", outputs * inputs * kernel * kernel);
        let bias = uniform("bias", outputs);
        let factors = uniform("factors", finished_shape(&conv).iter().product());
        let found = compute(&conv, [&input, &weight, &bias], &factors);

        let mut places = Vec::new();
        products(&conv, |to, from, place| places.push((to, from, place)));
        let definition = |operands: &[Vec<f64>]| {
            let mut values: Vec<f64> = (0..before.iter().product()).map(|i| operands[2][i % outputs]).collect();
            places.iter().for_each(|&(to, from, place)| values[to] += operands[0][from] * operands[1][place]);
            finished(&values, before, epilogue, &factors)
        };
        // each gradient is a sum of at most `terms` products of numbers below 1, so its magnitude is at most `terms`
        let positions = images * conv.lines() * conv.columns();
        let operands = [wide(&input), wide(&weight), wide(&bias)];
        let sum = positions as f64 * outputs as f64 * (inputs * kernel * kernel) as f64 / 4.0;
        let terms = [outputs * kernel * kernel, positions, positions];
        for (number, (gradient, terms)) in found.iter().zip(terms).enumerate() {
            let size = (terms as f64 / 4.0).max(1.0); // the mean of a product of absolute values is 1/4
            let allowed = roundings(terms, size, sum);
            differentiate(&format!("{conv:?}"), &operands, number, gradient, definition, allowed);
        }
    }
}

/// The shape of the output of a convolution with its epilogue.
pub fn finished_shape(conv: &ConvShape) -> [usize; 4] {
    let step = if conv.epilogue == Epilogue::ReluPool { 2 } else { 1 };
    [conv.images, conv.lines() / step, conv.columns() / step, conv.outputs]
}

#[test]
fn the_gradients_of_convolutions_are_finite_differences() {
    check_convolutions(|conv, [input, weight, bias], factors| {
        let output = conv.forward(input, weight, Some(bias));
        let found = conv.backward(input, weight, &output.values, &output.choice, factors, true);
        [found.input.unwrap(), found.weight, found.bias]
    });
}

/// A convolution without bias is linear in its input and in its weight. The gradients of its output's product with some factors are
/// therefore the transposes of that map. Finite differences would take minutes for so many channels.
#[test]
fn the_gradients_of_more_channels_than_are_transformed_at_once_are_the_transposes_of_the_forward_pass() {
    for [images, height, width, inputs, outputs, kernel, stride, padding] in
        [[2, 4, 8, 144, 272, 3, 1, 1], [2, 8, 6, 272, 144, 5, 1, 2]]
    {
        let epilogue = Epilogue::Identity;
        let conv = ConvShape { images, height, width, inputs, outputs, kernel, stride, padding, epilogue };
        let (sizes, count) = ([images * height * width * inputs, outputs * inputs * kernel * kernel], 4);
        let [input, weight] = [("input", sizes[0]), ("weight", sizes[1])].map(|(name, size)| uniform(name, size));
        let output = conv.forward(&input, &weight, None).values;
        let factors = uniform("factors", output.len());
        let found = conv.backward(&input, &weight, &output, &[], &factors, true);
        let dot = |a: &[f32], b: &[f32]| -> (f64, f64) {
            let terms = || a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            (terms().sum(), terms().map(f64::abs).sum())
        };
        for direction in 0..count {
            let [other_input, other_weight] = [0, 1].map(|i| uniform(&format!("direction {direction}"), sizes[i]));
            let (by_input, _) = dot(&factors, &conv.forward(&other_input, &weight, None).values);
            let (by_weight, _) = dot(&factors, &conv.forward(&input, &other_weight, None).values);
            for (expected, (sum, size)) in [
                (by_input, dot(&found.input.clone().unwrap(), &other_input)),
                (by_weight, dot(&found.weight, &other_weight)),
            ] {
                assert!(
                    (sum - expected).abs() <= 1e-6 * size,
                    "{conv:?}: {sum}, expected {expected}, of terms of {size}"
                );
            }
        }
    }
}

/// Compares the gradients of linear layers with finite differences, like [`check_convolutions`].
pub fn check_linear_layers(compute: impl Fn(&LinearShape, [&[f32]; 3], &[f32]) -> [Vec<f32>; 3]) {
    for (rows, inputs, outputs) in [(1, 5, 3), (7, 40, 9)] {
        let linear = LinearShape { rows, inputs, outputs };
        let (input, weight) = (uniform("input", rows * inputs), uniform("weight", outputs * inputs));
        let (bias, factors) = (uniform("bias", outputs), uniform("factors", rows * outputs));
        let definition = |operands: &[Vec<f64>]| {
            let mut sum = 0.0;
            for (i, factor) in factors.iter().enumerate() {
                let (row, output) = (i / outputs, i % outputs);
                let dot: f64 =
                    (0..inputs).map(|k| operands[0][row * inputs + k] * operands[1][output * inputs + k]).sum();
                sum += (dot + operands[2][output]) * f64::from(*factor);
            }
            sum
        };
        let operands = [wide(&input), wide(&weight), wide(&bias)];
        let found = compute(&linear, [&input, &weight, &bias], &factors);
        for (number, (gradient, terms)) in found.iter().zip([outputs, rows, rows]).enumerate() {
            let allowed = roundings(terms, terms as f64, (rows * outputs * inputs) as f64 / 4.0);
            differentiate(&format!("{linear:?}"), &operands, number, gradient, definition, allowed);
        }
    }
}

#[test]
fn the_gradients_of_a_linear_layer_are_finite_differences() {
    check_linear_layers(|linear, [input, weight, _], factors| {
        [linear.input_gradient(weight, factors), linear.weight_gradient(input, factors), linear.bias_gradient(factors)]
    });
}

#[test]
fn the_gradient_of_relu_is_its_finite_difference() {
    let (input, factors) = (uniform("input", 50), uniform("factors", 50));
    let (mut output, mut found) = (input.clone(), vec![7.0; 50]);
    relu(&mut output);
    relu_gradient(&output, &factors, &mut found);
    let definition = |operands: &[Vec<f64>]| -> f64 {
        operands[0].iter().zip(&factors).map(|(value, factor)| value.max(0.0) * f64::from(*factor)).sum()
    };
    differentiate("relu", &[wide(&input)], 0, &found, definition, roundings(1, 1.0, 50.0));
}

#[test]
fn the_gradient_of_cross_entropy_is_its_finite_difference() {
    let logits: Vec<f32> = uniform("logits", 10).iter().map(|v| 5.0 * v).collect();
    for target in [0, 3, 9] {
        let definition = |operands: &[Vec<f64>]| -> f64 {
            let sum: f64 = operands[0].iter().map(|v| v.exp()).sum();
            -(operands[0][usize::from(target)].exp() / sum).ln()
        };
        let value = definition(&[wide(&logits)]);
        assert!((value - loss::cross_entropy(&logits, target)).abs() < 1e-14 * value.max(1.0));
        // the gradient equals the probabilities, minus 1 for the right class
        let right = |class: usize| f64::from(u8::from(class == usize::from(target)));
        let found: Vec<f32> = loss::softmax(&logits).enumerate().map(|(i, p)| (p - right(i)) as f32).collect();
        differentiate("cross entropy", &[wide(&logits)], 0, &found, definition, roundings(1, 1.0, value));
    }
}

/// The definitions of batch norm and epilogue, summed with factors.
fn norm_sum(norm: &NormShape, operands: &[Vec<f64>], factors: &[f32]) -> f64 {
    let [input, weight, bias] = operands else { panic!("three operands") };
    let (channels, count) = (norm.channels, norm.count() as f64);
    let values = |channel: usize| input.iter().skip(channel).step_by(channels);
    let mut after = vec![0.0; input.len()];
    for channel in 0..channels {
        let mean = values(channel).sum::<f64>() / count;
        let variance = values(channel).map(|v| (v - mean).powi(2)).sum::<f64>() / count;
        for (i, value) in values(channel).enumerate() {
            let normal = (value - mean) / (variance + EPSILON).sqrt();
            after[i * channels + channel] = normal * weight[channel] + bias[channel];
        }
    }
    finished(&after, [norm.images, norm.height, norm.width, channels], norm.epilogue, factors)
}

#[test]
fn the_gradients_of_batch_norm_are_finite_differences() {
    use Epilogue::{Identity, Relu, ReluPool};
    let shapes = [
        (Identity, 11, 3, 2, 3),
        (Relu, 11, 2, 3, 3),
        (ReluPool, 11, 5, 4, 3),
        (Identity, 3, 2, 3, 19),
        (Relu, 1, 5, 7, 16),
        (ReluPool, 2, 5, 4, 35),
        // more values than are computed at a time
        (Identity, 9, 8, 9, 7),
        (Relu, 9, 8, 9, 7),
    ];
    for (epilogue, images, height, width, channels) in shapes {
        let norm = NormShape { images, height, width, channels, epilogue };
        let mut rng = rng::stream(2, "norm", 0, 0);
        let mut draw = |count: usize, centre: f64| -> Vec<f32> {
            (0..count).map(|_| (f64::from(rng.next_u32()) * 2f64.powi(-31) - 1.0 + centre) as f32).collect()
        };
        let (input, weight, bias) = (draw(norm.count() * channels, 3.0), draw(channels, 0.2), draw(channels, 0.0));
        let factors = draw(norm.shape().iter().product(), 0.0);
        let output = norm.forward(&input, &weight, &bias);
        let found = norm.backward(&input, &weight, &output, &output.values, &factors);
        let operands = [wide(&input), wide(&weight), wide(&bias)];
        let sum = |operands: &[Vec<f64>]| norm_sum(&norm, operands, &factors);
        let value: f64 = output.values.iter().zip(&factors).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let terms = norm.count();
        // inputs of 2 to 4 are normalised to about 2: their rounding error equals that of a few terms
        let allowed = roundings(4 * terms, 2.0, (terms * channels) as f64);
        assert!((value - sum(&operands)).abs() < allowed * (channels as f64), "{norm:?}: {value}");
        for (number, gradient) in [&found.input, &found.weight, &found.bias].into_iter().enumerate() {
            differentiate(&format!("{norm:?}"), &operands, number, gradient, sum, allowed);
        }
    }
}

/// The gradient of the operand of an operator on the tape, for the sum of the output with factors.
fn on_the_tape(input: &[f32], shape: &[usize], factors: &[f32], operator: impl Fn(&Tape, &Value) -> Value) -> Vec<f32> {
    let tape = Tape::new(1);
    let operand = Value::parameter(tensor(input.to_vec(), shape).unwrap(), 0);
    let output = operator(&tape, &operand);
    let seed = tensor(factors.to_vec(), output.dims()).unwrap();
    let gradients = tape.backward(&[output], vec![seed]).unwrap();
    Floats::of(gradients.parameters[0].as_ref().unwrap()).unwrap().to_vec()
}

#[test]
fn the_gradient_of_dropout_is_its_finite_difference() {
    let (rows, columns) = (3, 7);
    let (input, factors) = (uniform("input", rows * columns), uniform("factors", rows * columns));
    let layer = Dropout::new(&mut Store::new(0), "fc", 0.5);
    let drop = |tape: &Tape, x: &Value| layer.forward(x, Mode::Train { seed: 3, step: 5, tape }).unwrap();
    // an input of ones shows which elements are dropped, which does not depend on the input
    let ones = Value::constant(tensor(vec![1.0f32; rows * columns], &[rows, columns]).unwrap());
    let kept = wide(&Floats::of(&drop(&Tape::new(0), &ones)).unwrap());
    assert!(kept.contains(&0.0) && kept.contains(&2.0));
    let gradient = on_the_tape(&input, &[rows, columns], &factors, drop);
    let definition = |operands: &[Vec<f64>]| -> f64 {
        operands[0].iter().zip(&kept).zip(&factors).map(|((x, kept), factor)| x * kept * f64::from(*factor)).sum()
    };
    differentiate("dropout", &[wide(&input)], 0, &gradient, definition, roundings(2, 2.0, rows as f64));
}

fn at(tape: &Tape) -> At<'_> {
    At { tape: Some(tape), name: "x" }
}

#[test]
fn the_gradients_of_sums_means_and_orders_are_finite_differences() {
    let shape = [2, 3, 2, 5];
    let [images, height, width, channels] = shape;
    let count = shape.iter().product();
    let (input, other) = (uniform("input", count), uniform("other", count));

    let factors = uniform("factors", count);
    let beside = Value::constant(tensor(other.clone(), &shape).unwrap());
    let gradient = on_the_tape(&input, &shape, &factors, |tape, x| ops::add_relu(at(tape), x, &beside).unwrap());
    let (wide_other, weights) = (wide(&other), wide(&factors));
    let sum = |operands: &[Vec<f64>]| -> f64 {
        let each = operands[0].iter().zip(&wide_other).zip(&weights);
        each.map(|((a, b), factor)| (a + b).max(0.0) * factor).sum()
    };
    differentiate("add, relu", &[wide(&input)], 0, &gradient, sum, roundings(1, 1.0, 10.0));

    // both operands are the same value, so its gradients are added
    let gradient = on_the_tape(&input, &shape, &factors, |tape, x| ops::add_relu(at(tape), x, x).unwrap());
    let twice = |operands: &[Vec<f64>]| -> f64 {
        operands[0].iter().zip(&weights).map(|(x, factor)| (x + x).max(0.0) * factor).sum()
    };
    differentiate("twice, relu", &[wide(&input)], 0, &gradient, twice, roundings(2, 2.0, 10.0));

    let gradient = on_the_tape(&input, &shape, &factors, |tape, x| ops::flatten(at(tape), x).unwrap());
    let flat = |operands: &[Vec<f64>]| -> f64 {
        let place = |i: usize| {
            let (x, y) = (i % width, i / width % height);
            let (channel, image) = (i / width / height % channels, i / width / height / channels);
            ((image * height + y) * width + x) * channels + channel
        };
        weights.iter().enumerate().map(|(i, factor)| operands[0][place(i)] * factor).sum()
    };
    differentiate("flatten", &[wide(&input)], 0, &gradient, flat, roundings(1, 1.0, 10.0));

    let factors = uniform("factors", images * channels);
    let gradient = on_the_tape(&input, &shape, &factors, |tape, x| ops::mean(at(tape), x).unwrap());
    let mean = |operands: &[Vec<f64>]| -> f64 {
        let all = operands[0].iter().enumerate();
        let weight = |i: usize| f64::from(factors[i / (height * width * channels) * channels + i % channels]);
        all.map(|(i, x)| x * weight(i) / (height * width) as f64).sum()
    };
    differentiate("mean", &[wide(&input)], 0, &gradient, mean, roundings(2, 1.0, 10.0));
}

/// The gradients of two operands on the tape, like [`on_the_tape`].
fn both_on_the_tape(
    operands: [(&[f32], &[usize]); 2],
    factors: &[f32],
    operator: impl Fn(&Tape, [&Value; 2]) -> Value,
) -> [Vec<f32>; 2] {
    let tape = Tape::new(2);
    let [a, b] = [0, 1].map(|i| Value::parameter(tensor(operands[i].0.to_vec(), operands[i].1).unwrap(), i));
    let output = operator(&tape, [&a, &b]);
    let seed = tensor(factors.to_vec(), output.dims()).unwrap();
    let gradients = tape.backward(&[output], vec![seed]).unwrap().parameters;
    [0, 1].map(|i| Floats::of(gradients[i].as_ref().unwrap()).unwrap().to_vec())
}

#[test]
fn the_gradients_of_pooling_over_all_positions_are_finite_differences() {
    for [images, height, width, channels, heads] in [[2, 3, 2, 5, 2], [1, 1, 1, 3, 1], [3, 4, 5, 17, 3]] {
        let shape = [images, height, width, channels];
        let positions = height * width;
        let features = uniform("features", images * positions * channels);
        let factors = uniform("factors", images * heads * channels);

        let own = &factors[..images * channels];
        let gradient = on_the_tape(&features, &shape, own, |tape, x| ops::max(at(tape), x).unwrap());
        let max = |operands: &[Vec<f64>]| -> f64 {
            let value = |image: usize, channel: usize| {
                let all = (0..positions).map(|p| operands[0][(image * positions + p) * channels + channel]);
                all.fold(f64::NEG_INFINITY, f64::max)
            };
            own.iter().enumerate().map(|(i, factor)| value(i / channels, i % channels) * f64::from(*factor)).sum()
        };
        differentiate("max", &[wide(&features)], 0, &gradient, max, roundings(1, 1.0, own.len() as f64));

        let scores: Vec<f32> = uniform("scores", images * positions * heads).iter().map(|v| 4.0 * v).collect();
        let scores_shape = [images, height, width, heads];
        let found = both_on_the_tape([(&scores, &scores_shape), (&features, &shape)], &factors, |tape, [a, b]| {
            ops::attend(at(tape), a, b).unwrap()
        });
        let attended = |operands: &[Vec<f64>]| -> f64 {
            let [scores, features] = operands else { panic!("two operands") };
            let mut sum = 0.0;
            for (row, factors) in factors.chunks_exact(channels).enumerate() {
                let (image, head) = (row / heads, row % heads);
                let odds: Vec<f64> =
                    (0..positions).map(|p| scores[(image * positions + p) * heads + head].exp()).collect();
                let all: f64 = odds.iter().sum();
                for (p, odds) in odds.iter().enumerate() {
                    let features = &features[(image * positions + p) * channels..][..channels];
                    let dot: f64 = features.iter().zip(factors).map(|(x, factor)| x * f64::from(*factor)).sum();
                    sum += odds / all * dot;
                }
            }
            sum
        };
        // a score's gradient is the difference of two sums of `channels` products, each of magnitude 1 at most
        for (number, (gradient, terms)) in found.iter().zip([2 * channels, heads]).enumerate() {
            let allowed = roundings(terms + positions, terms as f64, factors.len() as f64);
            differentiate("attend", &[wide(&scores), wide(&features)], number, gradient, attended, allowed);
        }
    }
}

#[test]
fn the_gradient_of_every_third_row_is_its_finite_difference() {
    let (input, factors) = (uniform("input", 6 * 4), uniform("factors", 2 * 4));
    for first in 0..3 {
        let gradient = on_the_tape(&input, &[6, 4], &factors, |tape, x| ops::every(at(tape), x, first, 3).unwrap());
        let chosen = |operands: &[Vec<f64>]| -> f64 {
            let value = |i: usize| operands[0][(first + i / 4 * 3) * 4 + i % 4];
            factors.iter().enumerate().map(|(i, factor)| value(i) * f64::from(*factor)).sum()
        };
        differentiate("every", &[wide(&input)], 0, &gradient, chosen, roundings(1, 1.0, 8.0));
    }
    let rows = Value::constant(tensor(input, &[6, 4]).unwrap());
    for (first, step) in [(3, 3), (0, 4), (0, 0)] {
        assert!(ops::every(At { tape: None, name: "x" }, &rows, first, step).is_err());
    }
}

#[test]
fn windows_hold_the_columns_around_each_slot_and_zeros_beyond_the_image() {
    // 2 images of 2x7, whose pixel at (image, line, column) is 100 image + 10 line + column + 1
    let pixel = |i: usize| (100 * (i / 14) + 10 * (i / 7 % 2) + i % 7 + 1) as f32;
    let input = tensor((0..28).map(pixel).collect(), &[2, 2, 7, 1]).unwrap();
    let starts = |count| [&[0][..], &[0, 3], &[0, 2, 4], &[0, 1, 3, 5]][count - 1];
    for (count, margin) in [(1, 0), (2, 0), (2, 1), (3, 4), (4, 0), (4, 2), (2, 9)] {
        let windows = ops::windows(&input, count, margin).unwrap();
        let across = 7 / count + 2 * margin;
        assert_eq!(windows.dims(), [2 * count, 2, across, 1]);
        for (i, value) in Floats::of(&windows).unwrap().iter().enumerate() {
            let (x, y, window, image) = (i % across, i / across % 2, i / across / 2 % count, i / across / 2 / count);
            let column = (starts(count)[window] + x) as i64 - margin as i64;
            let inside = (0..7).contains(&column);
            let expected = if inside { 100 * image as i64 + 10 * y as i64 + column + 1 } else { 0 };
            assert_eq!(*value, expected as f32, "{count} windows, margin {margin}, {image} {window} {y} {x}");
        }
    }
    assert!(ops::windows(&input, 8, 0).is_err() && ops::windows(&input, 0, 0).is_err());
}
