//! The operators on bfloat16. Operands are multiples of 1/8 that bfloat16 holds, and sums of their products are exact in f32.
//! Results are therefore those of the definitions, rounded once.

use std::io::Write;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use multidigit_nn::cpu::bf16::{conv, linear, winograd};
use multidigit_nn::cpu::conv_shape::ConvShape;
use multidigit_nn::cpu::element::Element;
use multidigit_nn::cpu::epilogue::Epilogue;
use multidigit_nn::cpu::kernel::{Operands, Unit};
use multidigit_nn::cpu::linear::LinearShape;
use multidigit_nn::cpu::norm::NormShape;
use multidigit_nn::cpu::products::Factor as _;
use multidigit_nn::floats::{Elements, tensor};
use multidigit_nn::ops;
use multidigit_nn::tape::{At, Tape, Value};
use proptest::prelude::*;

use crate::kernels::{eighths, plain, products, shapes, uniform};

/// The largest relative error of rounding to bfloat16, which has 8 significant bits.
const ROUNDING: f64 = 1.0 / 256.0;

/// Whether this processor can run the test. A test that is skipped says so.
fn can_run(test: &str) -> bool {
    let mut said = std::io::stderr(); // not captured, so that the log of a test that passes says it
    match Unit::all().first() {
        Some(unit) => writeln!(said, "bfloat16, {test}: by {unit}").unwrap(),
        None => writeln!(said, "bfloat16, {test}: skipped, as this processor has no unit for it").unwrap(),
    }
    !Unit::all().is_empty()
}

/// Whether this processor can run a test of Winograd's method, whose products are f32. A test that is skipped says so.
fn can_multiply_f32(test: &str) -> bool {
    let can = Operands::<f32>::can_multiply();
    let mut said = std::io::stderr(); // not captured, so that the log of a test says why it was skipped
    if !can {
        writeln!(said, "bfloat16, {test}: skipped, as this processor does not have AVX-512").unwrap();
    }
    can
}

/// The values in bfloat16.
fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}

/// The values in f32.
fn widen(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

/// Asserts that values are the expected ones.
fn equal<T: PartialEq + std::fmt::Display>(what: &str, conv: &ConvShape, found: &[T], expected: &[T]) {
    assert_eq!(found.len(), expected.len(), "{what} of {conv:?}");
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    if let Some(at) = differs {
        panic!("{what} of {conv:?}: element {at} is {}, expected {}", found[at], expected[at]);
    }
}

/// Compares a convolution and its gradients with the definition.
fn check(conv: &ConvShape) {
    let plain = ConvShape { epilogue: Epilogue::Identity, ..*conv };
    let input = eighths("input", conv.images * conv.height * conv.width * conv.inputs);
    let weight = eighths("weight", conv.outputs * conv.inputs * conv.kernel * conv.kernel);
    let bias = eighths("bias", conv.outputs);
    let mut before: Vec<f32> = (0..plain.shape().iter().product::<usize>()).map(|i| bias[i % conv.outputs]).collect();
    products(conv, |to, from, place| before[to] += input[from] * weight[place]);
    // the choice of the maximum and its gradient are those of the same operator on f32, which has its own tests
    let exact = conv.forward(&input, &weight, Some(&bias));
    let found = conv::forward(conv, &narrow(&input), &weight, Some(&bias));
    equal("output", conv, &found.values, &narrow(&exact.values));
    equal("choice", conv, &found.choice, &exact.choice);
    if conv.epilogue == Epilogue::Identity {
        equal("output", conv, &found.values, &narrow(&before));
    }

    let grad = eighths("grad", found.values.len());
    let expected = conv.backward(&input, &weight, &exact.values, &exact.choice, &grad, true);
    let (input, grad) = (narrow(&input), narrow(&grad));
    let gradients = conv::backward(conv, &input, &weight, &found.values, &found.choice, &grad, true);
    equal("input gradient", conv, &gradients.input.unwrap(), &narrow(&expected.input.unwrap()));
    equal("weight gradient", conv, &gradients.weight, &expected.weight);
    equal("bias gradient", conv, &gradients.bias, &expected.bias);
    let without = conv::backward(conv, &input, &weight, &found.values, &found.choice, &grad, false);
    assert!(without.input.is_none());
    equal("weight gradient", conv, &without.weight, &gradients.weight);
}

#[test]
fn convolutions_of_bfloat16_and_their_gradients_are_the_definitions_rounded_once() {
    if !can_run("convolutions") {
        return;
    }
    let more = [
        // images, height, width, inputs, outputs, kernel, stride, padding: rows, columns and depth around those of a block
        [1, 12, 13, 1, 32, 5, 1, 0],
        [3, 5, 7, 1, 33, 3, 2, 1],
        [2, 6, 6, 16, 17, 3, 1, 1],
        [2, 7, 5, 33, 31, 3, 1, 0],
        [5, 3, 3, 15, 48, 3, 1, 2],
        [1, 18, 18, 6, 16, 5, 1, 2],
        [9, 4, 5, 20, 64, 1, 1, 0],
        [2, 8, 9, 24, 40, 3, 2, 1],
        [2, 5, 5, 8, 8, 1, 2, 0],
        // fewer positions in the input than the stride
        [1, 1, 1, 2, 1, 1, 2, 0],
        [1, 1, 2, 6, 5, 1, 3, 0],
    ];
    for shape in shapes().chain(more.map(plain)) {
        for epilogue in [Epilogue::Identity, Epilogue::Relu, Epilogue::ReluPool] {
            let conv = ConvShape { epilogue, ..shape };
            if !conv.shape().contains(&0) {
                check(&conv);
            }
        }
    }
    // a gradient of the weight that exceeds the cache: of few positions, in tiles of several images and of one, of which the last
    // may be smaller; of many positions, for several images and for lines of one at a time
    let large = [
        [50, 7, 6, 121, 122, 3, 1, 1],
        [2, 33, 33, 73, 72, 5, 1, 2],
        [196, 7, 6, 121, 122, 3, 1, 1],
        [3, 53, 53, 121, 122, 3, 1, 1],
    ];
    // the same with an epilogue, of an input that is read where it is
    check(&ConvShape { epilogue: Epilogue::ReluPool, ..plain([30, 11, 11, 122, 122, 3, 1, 0]) });
    large.map(plain).iter().for_each(check);
}

/// The values of a definition in f64, and for each of them the sum of the absolute terms.
struct Definition {
    values: Vec<f64>,
    sizes: Vec<f64>,
}

impl Definition {
    fn new(count: usize) -> Definition {
        Definition { values: vec![0.0; count], sizes: vec![0.0; count] }
    }

    fn add(&mut self, at: usize, a: f32, b: f32) {
        let term = f64::from(a) * f64::from(b);
        self.values[at] += term;
        self.sizes[at] += term.abs();
    }

    /// Asserts that values computed in f32, and then rounded by at most `rounding`, are those of the definition. `errors` is an
    /// estimate of the errors in f32, in units of 2^-24 of the sum of absolute terms.
    fn check(&self, what: &str, conv: &ConvShape, found: &[f32], rounding: f64, errors: f64) {
        assert_eq!(found.len(), self.values.len(), "{what} of {conv:?}");
        for (i, (found, (exact, size))) in found.iter().zip(self.values.iter().zip(&self.sizes)).enumerate() {
            let allowed = rounding * exact.abs() + errors * 2f64.powi(-24) * size;
            let found = f64::from(*found);
            assert!((found - exact).abs() <= allowed, "{what} {i} of {conv:?}: {found}, expected {exact}");
        }
    }
}

/// An estimate of the errors of Winograd's method, for [`Definition::check`]. For operands of ones, the absolute terms that the
/// method sums in the interior of an image are up to 63 times as large in sum as those of the definition on squares of 6x6 inputs,
/// and up to 373 times on squares of 8x8, for outputs and both gradients. A term passes through three maps on two sides, each of
/// about five roundings. Rounding errors differ in sign, so the sum of all of them is far below this estimate.
fn winograd_errors(conv: &ConvShape) -> f64 {
    30.0 * if conv.kernel == 3 { 63.0 } else { 373.0 }
}

/// The convolutions that Winograd's method computes in the tests: images, height, width, inputs, outputs, kernel, stride, padding.
/// Their tiles have many images, one, and some lines; some have squares beyond the output and in the padding.
fn for_winograd() -> impl Iterator<Item = ConvShape> {
    let shapes = [
        [1, 4, 8, 16, 16, 3, 1, 1],
        [67, 8, 8, 32, 48, 3, 1, 1],
        [3, 64, 64, 16, 32, 3, 1, 1],
        [2, 35, 47, 16, 16, 3, 1, 1],
        [2, 8, 8, 144, 272, 3, 1, 1],
        [19, 13, 13, 16, 32, 3, 1, 0],
        [1, 8, 8, 16, 16, 5, 1, 0],
        [3, 30, 30, 32, 64, 5, 1, 0],
        [21, 12, 16, 16, 48, 5, 1, 2],
        [2, 62, 41, 16, 16, 5, 1, 1],
        [1, 8, 8, 144, 16, 5, 1, 2],
    ];
    shapes.into_iter().map(plain)
}

#[test]
fn winograd_on_bfloat16_is_the_definition_on_the_rounded_factors() {
    if !can_multiply_f32("Winograd") {
        return;
    }
    for conv in for_winograd() {
        let input = narrow(&uniform("input", conv.images * conv.height * conv.width * conv.inputs));
        let weight = uniform("weight", conv.outputs * conv.inputs * conv.kernel * conv.kernel);
        let bias = uniform("bias", conv.outputs);
        let (wide_input, wide_weight) = (widen(&input), widen(&narrow(&weight)));
        let found = winograd::forward(&conv, &input, &weight, Some(&bias));
        let grad = narrow(&uniform("grad", found.values.len()));
        let wide_grad = widen(&grad);
        let gradients = winograd::backward(&conv, &input, &weight, &found.values, &[], &grad, true);

        let mut output = Definition::new(found.values.len());
        let mut input_grad = Definition::new(input.len());
        let mut weight_grad = Definition::new(weight.len());
        let mut bias_grad = Definition::new(bias.len());
        for at in 0..output.values.len() {
            output.add(at, bias[at % conv.outputs], 1.0);
            bias_grad.add(at % conv.outputs, wide_grad[at], 1.0);
        }
        products(&conv, |to, from, place| {
            output.add(to, wide_input[from], wide_weight[place]);
            input_grad.add(from, wide_grad[to], wide_weight[place]);
            weight_grad.add(place, wide_grad[to], wide_input[from]);
        });
        let errors = winograd_errors(&conv);
        output.check("output", &conv, &widen(&found.values), ROUNDING, errors);
        input_grad.check("input gradient", &conv, &widen(&gradients.input.unwrap()), ROUNDING, errors);
        weight_grad.check("weight gradient", &conv, &gradients.weight, 0.0, errors);
        // 32 rows are summed in f32, and their sums in f64
        bias_grad.check("bias gradient", &conv, &gradients.bias, 0.0, 33.0);
        let without = winograd::backward(&conv, &input, &weight, &found.values, &[], &grad, false);
        assert!(without.input.is_none());
        equal("weight gradient", &conv, &without.weight, &gradients.weight);
        // in f32, these shapes are computed on the same squares, and both kernels add in the order of the depth
        if conv.kernel == 3 && conv.padding == 1 {
            let exact = conv.forward(&wide_input, &wide_weight, Some(&bias));
            equal("output", &conv, &found.values, &narrow(&exact.values));
        }
    }
}

#[test]
fn winograd_on_bfloat16_takes_convolutions_of_which_it_saves_seven_tenths_of_the_products() {
    for conv in for_winograd() {
        assert!(winograd::suits(&conv), "{conv:?}");
    }
    for no in [
        [1, 4, 8, 15, 16, 3, 1, 1],
        [1, 4, 8, 16, 16, 3, 2, 1],
        [1, 8, 8, 16, 16, 7, 1, 3],
        [1, 5, 5, 16, 16, 3, 1, 1],
        [1, 6, 6, 16, 16, 5, 1, 0],
    ] {
        assert!(!winograd::suits(&plain(no)), "{no:?}");
    }
}

#[test]
fn winograd_on_bfloat16_applies_the_epilogue_and_passes_gradients_through_it() {
    if !can_multiply_f32("epilogues after Winograd") {
        return;
    }
    for conv in for_winograd() {
        let input = narrow(&uniform("input", conv.images * conv.height * conv.width * conv.inputs));
        let weight = uniform("weight", conv.outputs * conv.inputs * conv.kernel * conv.kernel);
        let bias = uniform("bias", conv.outputs);
        let before = winograd::forward(&conv, &input, &weight, Some(&bias)).values;
        let (lines, columns) = (conv.lines(), conv.columns());
        for epilogue in [Epilogue::Relu, Epilogue::ReluPool] {
            let finished = ConvShape { epilogue, ..conv };
            let found = winograd::forward(&finished, &input, &weight, Some(&bias));
            let grad = narrow(&uniform("grad", found.values.len()));
            let mut grad_before = vec![bf16::ZERO; before.len()];
            let [_, after_lines, after_columns, outputs] = finished.shape();
            for (i, (value, grad)) in found.values.iter().zip(&grad).enumerate() {
                let (channel, place) = (i % outputs, i / outputs);
                let (column, line) = (place % after_columns, place / after_columns % after_lines);
                let image = place / after_columns / after_lines;
                let at = |line: usize, column: usize| ((image * lines + line) * columns + column) * outputs + channel;
                let window: Vec<usize> = match epilogue {
                    Epilogue::ReluPool => {
                        [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(y, x)| at(2 * line + y, 2 * column + x)).to_vec()
                    }
                    _ => vec![at(line, column)],
                };
                // the choice compares the sums before they are rounded
                let largest = window.iter().map(|at| before[*at]).fold(bf16::ZERO, bf16::max);
                assert_eq!(*value, largest, "value {i} of {finished:?}");
                let chosen = window[found.choice.get(i).map_or(0, |choice| usize::from(*choice))];
                assert!(before[chosen].max(bf16::ZERO) == largest, "choice {i} of {finished:?}");
                if *value > bf16::ZERO {
                    grad_before[chosen] = *grad;
                }
            }
            let through = winograd::backward(&finished, &input, &weight, &found.values, &found.choice, &grad, true);
            let plain = winograd::backward(&conv, &input, &weight, &before, &[], &grad_before, true);
            equal("weight gradient", &finished, &through.weight, &plain.weight);
            equal("bias gradient", &finished, &through.bias, &plain.bias);
            equal("input gradient", &finished, &through.input.unwrap(), &plain.input.unwrap());
        }
    }
}

#[test]
fn the_unit_of_the_processor_decides_how_a_convolution_of_bfloat16_is_computed() {
    if !can_run("choice of a method") {
        return;
    }
    let conv = plain([3, 8, 8, 32, 48, 3, 1, 1]);
    let input = narrow(&uniform("input", 3 * 8 * 8 * 32));
    let weight = uniform("weight", 48 * 32 * 9);
    let [direct, winograd] =
        [conv::forward, winograd::forward].map(|compute| compute(&conv, &input, &weight, None).values);
    assert_ne!(direct, winograd, "operands that tell the methods apart");
    let output = bf16::conv(&conv, &input, &weight, None);
    assert_eq!(output.values, if Unit::all()[0] == Unit::Amx { direct } else { winograd });
    let found = bf16::conv_gradients(&conv, (&input, &weight), (&output.values, &[]), &output.values, true);
    let expected = match Unit::all()[0] {
        Unit::Amx => conv::backward(&conv, &input, &weight, &output.values, &[], &output.values, true),
        Unit::Avx512 => winograd::backward(&conv, &input, &weight, &output.values, &[], &output.values, true),
    };
    assert_eq!((found.weight, found.bias, found.input), (expected.weight, expected.bias, expected.input));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn convolutions_of_bfloat16_of_any_shape_are_the_definitions(
        (images, height, width) in (1usize..=5, 1usize..=20, 1usize..=9),
        (inputs, outputs) in (1usize..=9, 1usize..=35),
        (kernel, stride, padding) in (1usize..=5, 1usize..=3, 0usize..=3),
    ) {
        prop_assume!(!Unit::all().is_empty());
        prop_assume!(height.min(width) + 2 * padding >= kernel);
        check(&ConvShape { images, height, width, inputs, outputs, kernel, stride, padding, epilogue: Epilogue::Identity });
    }
}

#[test]
fn linear_layers_of_bfloat16_and_their_gradients_are_the_definitions() {
    if !can_run("linear layers") {
        return;
    }
    for (rows, inputs, outputs) in [(1, 3, 2), (5, 300, 129), (64, 31, 10), (13, 32, 16), (12, 64, 256), (2, 1, 1)] {
        let shape = LinearShape { rows, inputs, outputs };
        let (input, weight) = (eighths("input", rows * inputs), eighths("weight", outputs * inputs));
        let (bias, grad) = (eighths("bias", outputs), eighths("grad", rows * outputs));
        assert_eq!(linear::forward(&shape, &input, &weight, &bias), shape.forward(&input, &weight, &bias));
        assert_eq!(linear::input_gradient(&shape, &weight, &grad), shape.input_gradient(&weight, &grad));
        assert_eq!(linear::weight_gradient(&shape, &input, &grad), shape.weight_gradient(&input, &grad));
    }
}

#[test]
fn factors_that_bfloat16_does_not_hold_are_rounded_and_summed_in_f32() {
    if !can_run("rounded factors") {
        return;
    }
    let shape = LinearShape { rows: 9, inputs: 2305, outputs: 33 };
    let (input, weight) = (uniform("input", 9 * 2305), uniform("weight", 33 * 2305));
    let bias = vec![0.0; 33];
    let found = linear::forward(&shape, &input, &weight, &bias);
    for (i, found) in found.iter().enumerate() {
        let (row, output) = (i / 33, i % 33);
        let terms = |round: bool| {
            let value = move |value: f32| if round { f64::from(bf16::narrow(value).widen()) } else { f64::from(value) };
            let (input, weight) = (&input[row * 2305..][..2305], &weight[output * 2305..][..2305]);
            input.iter().zip(weight).map(move |(a, b)| value(*a) * value(*b))
        };
        let (exact, size): (f64, f64) = (terms(true).sum(), terms(true).map(f64::abs).sum());
        // each addition rounds once, and a pair has one more; f32 has 24 significant bits
        let summed = 2305.0 * 2f64.powi(-24) * size;
        assert!((f64::from(*found) - exact).abs() <= summed, "{i}: {found}, expected {exact}");
        let (unrounded, size): (f64, f64) = (terms(false).sum(), terms(false).map(f64::abs).sum());
        let rounded = (2.0 * ROUNDING / 2.0 + (ROUNDING / 2.0).powi(2)) * size + summed;
        assert!((f64::from(*found) - unrounded).abs() <= rounded, "{i}: {found}, expected {unrounded}");
    }
}

#[test]
fn batch_norm_of_bfloat16_is_that_of_the_same_values_in_f32_rounded_once() {
    // those with many values are computed in several blocks, of several pixels and of one
    for (channels, images, epilogue) in [
        (3, 1, Epilogue::Identity),
        (21, 9, Epilogue::Relu),
        (32, 5, Epilogue::ReluPool),
        (5, 3, Epilogue::ReluPool),
        (48, 21, Epilogue::Identity),
        (48, 21, Epilogue::Relu),
        (4100, 1, Epilogue::Relu),
    ] {
        let norm = NormShape { images, height: 5, width: 4, channels, epilogue };
        let input = narrow(&uniform("input", norm.count() * channels));
        let (weight, bias) = (uniform("weight", channels), uniform("bias", channels));
        let wide = widen(&input);
        let (found, expected) = (norm.forward(&input, &weight, &bias), norm.forward(&wide, &weight, &bias));
        assert_eq!(found.statistics, expected.statistics);
        assert_eq!(found.values, narrow(&expected.values));
        assert_eq!(found.choice, expected.choice);
        let grad = narrow(&uniform("grad", found.values.len()));
        let wide_grad = widen(&grad);
        let ours = norm.backward(&input, &weight, &found, &found.values, &grad);
        let theirs = norm.backward(&wide, &weight, &expected, &expected.values, &wide_grad);
        assert_eq!((ours.weight, ours.bias), (theirs.weight, theirs.bias));
        assert_eq!(ours.input, narrow(&theirs.input));
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits_in_bfloat16() {
    if !can_run("threads") {
        return;
    }
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut all = Vec::new();
            let shapes = [(32, 48, 3, 12), (16, 16, 5, 14), (5, 7, 3, 13), (1, 16, 3, 40), (128, 128, 3, 9)];
            for (inputs, outputs, kernel, size) in shapes {
                let epilogue = Epilogue::ReluPool;
                let (height, width) = (size, size);
                let conv =
                    ConvShape { images: 37, height, width, inputs, outputs, kernel, stride: 1, padding: 1, epilogue };
                let input = narrow(&uniform("input", 37 * size * size * inputs));
                let weight = uniform("weight", outputs * inputs * kernel * kernel);
                let output = conv::forward(&conv, &input, &weight, None);
                let grad = narrow(&uniform("grad", output.values.len()));
                let found = conv::backward(&conv, &input, &weight, &output.values, &output.choice, &grad, true);
                all.extend([widen(&output.values), widen(&found.input.unwrap()), found.weight, found.bias]);
            }
            for kernel in [3, 5] {
                let conv = plain([37, 12, 12, 32, 48, kernel, 1, kernel / 2]);
                let input = narrow(&uniform("input", 37 * 12 * 12 * 32));
                let weight = uniform("weight", 48 * 32 * kernel * kernel);
                let output = winograd::forward(&conv, &input, &weight, None).values;
                let found = winograd::backward(&conv, &input, &weight, &output, &[], &output, true);
                all.extend([widen(&output), widen(&found.input.unwrap()), found.weight, found.bias]);
            }
            let shape = LinearShape { rows: 37, inputs: 300, outputs: 129 };
            let (input, weight, grad) =
                (uniform("input", 37 * 300), uniform("weight", 129 * 300), uniform("grad", 37 * 129));
            all.push(linear::forward(&shape, &input, &weight, &weight[..129]));
            all.push(linear::input_gradient(&shape, &weight, &grad));
            all.push(linear::weight_gradient(&shape, &input, &grad));
            all
        })
    };
    let one = on(1);
    assert!([2, 3, 7].into_iter().all(|threads| on(threads) == one));
}

/// Compares an operator on bfloat16 with the same operator on the same values in f32: the output, and the gradients of the
/// operands.
fn same_in_both(what: &str, shapes: &[&[usize]], op: impl Fn(At, &[Value]) -> Value) {
    let operands: Vec<Tensor> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            let values = narrow(&uniform(&format!("{what} {i}"), shape.iter().product()));
            tensor(values, shape).unwrap()
        })
        .collect();
    let run = |dtype: DType| {
        let tape = Tape::new(operands.len());
        let of = |(i, operand): (usize, &Tensor)| Value::parameter(operand.to_dtype(dtype).unwrap(), i);
        let operands: Vec<Value> = operands.iter().enumerate().map(of).collect();
        let output = op(At { tape: Some(&tape), name: what }, &operands);
        let count = output.elem_count();
        let grad = tensor(narrow(&uniform("grad", count)), output.dims()).unwrap();
        let grad = grad.to_dtype(output.dtype()).unwrap();
        let gradients = tape.backward(std::slice::from_ref(&output), vec![grad]).unwrap();
        let narrowed = |tensor: &Tensor| {
            let narrow = ops::in_type(tensor, DType::BF16).unwrap();
            Elements::<bf16>::of(&narrow).unwrap().to_vec()
        };
        let gradients: Vec<Tensor> = gradients.parameters.into_iter().flatten().collect();
        assert_eq!(gradients.len(), operands.len(), "{what}");
        if dtype == DType::BF16 {
            assert!(gradients.iter().all(|gradient| gradient.dtype() == DType::BF16), "{what}");
        }
        (narrowed(&output), gradients.iter().map(narrowed).collect::<Vec<_>>())
    };
    assert_eq!(run(DType::BF16), run(DType::F32), "{what}");
}

#[test]
fn the_other_operators_on_bfloat16_are_those_on_f32_rounded_once() {
    let maps: &[usize] = &[3, 4, 5, 6];
    same_in_both("add and ReLU", &[maps, maps], |at, o| ops::add_relu(at, &o[0], &o[1]).unwrap());
    same_in_both("flatten", &[maps], |at, o| ops::flatten(at, &o[0]).unwrap());
    same_in_both("mean", &[maps], |at, o| ops::mean(at, &o[0]).unwrap());
    same_in_both("max", &[maps], |at, o| ops::max(at, &o[0]).unwrap());
    same_in_both("attend", &[&[3, 4, 5, 2], maps], |at, o| ops::attend(at, &o[0], &o[1]).unwrap());
    same_in_both("squeeze", &[&[7, 1, 1, 10]], |at, o| ops::squeeze(at, &o[0]).unwrap());
    let images = Tensor::from_vec(narrow(&uniform("windows", 2 * 3 * 8)), (2, 3, 8, 1), &Device::Cpu).unwrap();
    let windows = |images: &Tensor| ops::windows(images, 2, 1).unwrap();
    let wide = windows(&images.to_dtype(DType::F32).unwrap());
    assert_eq!(
        Elements::<bf16>::of(&windows(&images)).unwrap().to_vec(),
        narrow(&wide.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    );
}
