//! The kernels against their definitions, written as plain loops in f64, over odd sizes, strides and paddings.

use multidigit::nn::cpu::conv::Conv;
use multidigit::nn::cpu::finish::Finish;
use multidigit::nn::cpu::linear::Linear;
use multidigit::nn::cpu::norm::{EPSILON, Norm};
use multidigit::rng;
use rand::Rng;

/// Small multiples of 1/8: products and sums of some thousands of them are exact in f32, so that equality can be asked
/// for.
fn eighths(name: &str, count: usize) -> Vec<f32> {
    let mut rng = rng::stream(1, name, 0, 0);
    (0..count).map(|_| (rng.next_u32() % 17) as f32 / 8.0 - 1.0).collect()
}

/// Calls `f(output element, input element, weight element)` for every product of a convolution without finish.
fn products(conv: &Conv, mut f: impl FnMut(usize, usize, usize)) {
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

fn shapes() -> impl Iterator<Item = Conv> {
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
    ]
    .into_iter()
    .map(|[images, height, width, inputs, outputs, kernel, stride, padding]| Conv {
        images,
        height,
        width,
        inputs,
        outputs,
        kernel,
        stride,
        padding,
        finish: Finish::Plain,
    })
}

#[test]
fn a_convolution_and_its_gradients_are_their_definitions() {
    for conv in shapes() {
        let input = eighths("input", conv.images * conv.height * conv.width * conv.inputs);
        let weight = eighths("weight", conv.outputs * conv.inputs * conv.kernel * conv.kernel);
        let bias = eighths("bias", conv.outputs);
        let found = conv.forward(&input, &weight, Some(&bias)).values;
        let mut expected: Vec<f32> = (0..found.len()).map(|i| bias[i % conv.outputs]).collect();
        products(&conv, |to, from, place| expected[to] += input[from] * weight[place]);
        assert_eq!(found, expected, "{conv:?}");

        let grad = eighths("grad", found.len());
        let gradients = conv.backward(&input, &weight, &found, &[], &grad, true);
        let (mut input_grad, mut weight_grad) = (vec![0.0; input.len()], vec![0.0; weight.len()]);
        products(&conv, |to, from, place| {
            input_grad[from] += grad[to] * weight[place];
            weight_grad[place] += grad[to] * input[from];
        });
        assert_eq!(gradients.input.unwrap(), input_grad, "{conv:?}");
        assert_eq!(gradients.weight, weight_grad, "{conv:?}");
        let bias_grad = |output| grad.iter().skip(output).step_by(conv.outputs).sum::<f32>();
        assert_eq!(gradients.bias, (0..conv.outputs).map(bias_grad).collect::<Vec<_>>(), "{conv:?}");
        assert!(conv.backward(&input, &weight, &found, &[], &grad, false).input.is_none());
    }
}

#[test]
fn a_finished_convolution_is_the_plain_one_then_relu_then_the_maximum() {
    for plain in shapes().filter(|conv| conv.lines().min(conv.columns()) >= 2) {
        let input = eighths("input", plain.images * plain.height * plain.width * plain.inputs);
        let weight = eighths("weight", plain.outputs * plain.inputs * plain.kernel * plain.kernel);
        let before = plain.forward(&input, &weight, None).values;
        let (lines, columns, channels) = (plain.lines(), plain.columns(), plain.outputs);
        for finish in [Finish::Relu, Finish::ReluPool] {
            let conv = Conv { finish, ..plain };
            let output = conv.forward(&input, &weight, None);
            let step = if finish == Finish::ReluPool { 2 } else { 1 };
            // the element of the plain output that each value comes from: the first of the largest
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
    for linear in [Linear { rows: 1, inputs: 3, outputs: 2 }, Linear { rows: 5, inputs: 300, outputs: 129 }] {
        let Linear { rows, inputs, outputs } = linear;
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

/// Batch norm and finish by their definitions, in f64; the sum of the outputs times `factors`.
fn norm_sum(norm: &Norm, input: &[f64], weight: &[f64], bias: &[f64], factors: &[f32]) -> f64 {
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
    let [images, lines, columns, _] = norm.shape();
    let step = if norm.finish == Finish::ReluPool { 2 } else { 1 };
    let mut sum = 0.0;
    for (i, factor) in factors.iter().enumerate() {
        let (channel, x, y) = (i % channels, i / channels % columns, i / channels / columns % lines);
        let image = i / channels / columns / lines;
        assert!(image < images);
        let window = (0..step * step).map(|k| (y * step + k / step, x * step + k % step));
        let at = |(y, x)| after[((image * norm.height + y) * norm.width + x) * channels + channel];
        let largest = window.map(at).fold(f64::NEG_INFINITY, f64::max);
        let value = if norm.finish == Finish::Plain { largest } else { largest.max(0.0) };
        sum += value * f64::from(*factor);
    }
    sum
}

#[test]
fn the_gradients_of_batch_norm_are_finite_differences_of_its_definition() {
    for (finish, height, width) in [(Finish::Plain, 3, 2), (Finish::Relu, 2, 3), (Finish::ReluPool, 5, 4)] {
        let norm = Norm { images: 11, height, width, channels: 3, finish };
        let mut rng = rng::stream(2, "norm", 0, 0);
        let mut draw = |count: usize, centre: f64| -> Vec<f32> {
            (0..count).map(|_| (f64::from(rng.next_u32()) * 2f64.powi(-31) - 1.0 + centre) as f32).collect()
        };
        let (input, weight, bias) = (draw(norm.count() * 3, 3.0), draw(3, 0.2), draw(3, 0.0));
        let factors = draw(norm.shape().iter().product(), 0.0);
        let output = norm.forward(&input, &weight, &bias);
        let found = norm.backward(&input, &weight, &output, &output.values, &factors);
        let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let operands = [wide(&input), wide(&weight), wide(&bias)];
        let sum = |operands: &[Vec<f64>; 3]| norm_sum(&norm, &operands[0], &operands[1], &operands[2], &factors);
        let value: f64 = output.values.iter().zip(&factors).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!((value - sum(&operands)).abs() < 1e-4, "{finish:?}: {value}"); // some hundred f32 values of about 1
        for (operand, gradient) in [&found.input, &found.weight, &found.bias].into_iter().enumerate() {
            for (i, gradient) in gradient.iter().enumerate() {
                let shifted = |by: f64| {
                    let mut operands = operands.clone();
                    operands[operand][i] += by;
                    sum(&operands)
                };
                // far above the rounding of f64, far below the distance to another choice of ReLU or maximum
                let step = 1e-6;
                let expected = (shifted(step) - shifted(-step)) / (2.0 * step);
                let near = 1e-4 * expected.abs().max(0.1); // f32, with sums of some hundred terms
                assert!(
                    (expected - f64::from(*gradient)).abs() < near,
                    "{finish:?} {operand} {i}: {gradient} {expected}"
                );
            }
        }
    }
}
