//! The layers that consist of products, for each type of activations.

use half::bf16;

use super::bf16::{conv as direct, winograd};
use super::conv::{Gradients, Output};
use super::conv_shape::ConvShape;
use super::element::Element;

/// A type of activations that convolutions take.
pub trait Factor: Element {
    /// The output of a convolution: see [`ConvShape::forward`].
    fn conv(shape: &ConvShape, input: &[Self], weight: &[f32], bias: Option<&[f32]>) -> Output<Self>;

    /// The gradients of a convolution: see [`ConvShape::backward`].
    fn conv_gradients(
        shape: &ConvShape,
        operands: (&[Self], &[f32]),
        output: (&[Self], &[u8]),
        grad: &[Self],
        want_input: bool,
    ) -> Gradients<Self>;
}

impl Factor for f32 {
    fn conv(shape: &ConvShape, input: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Output<f32> {
        shape.forward(input, weight, bias)
    }

    fn conv_gradients(
        shape: &ConvShape,
        (input, weight): (&[f32], &[f32]),
        (output, choice): (&[f32], &[u8]),
        grad: &[f32],
        want_input: bool,
    ) -> Gradients<f32> {
        shape.backward(input, weight, output, choice, grad, want_input)
    }
}

impl Factor for bf16 {
    fn conv(shape: &ConvShape, input: &[bf16], weight: &[f32], bias: Option<&[f32]>) -> Output<bf16> {
        match winograd::is_faster() && winograd::suits(shape) {
            true => winograd::forward(shape, input, weight, bias),
            false => direct::forward(shape, input, weight, bias),
        }
    }

    fn conv_gradients(
        shape: &ConvShape,
        (input, weight): (&[bf16], &[f32]),
        (output, choice): (&[bf16], &[u8]),
        grad: &[bf16],
        want_input: bool,
    ) -> Gradients<bf16> {
        match winograd::is_faster() && winograd::suits(shape) {
            true => winograd::backward(shape, input, weight, output, choice, grad, want_input),
            false => direct::backward(shape, input, weight, output, choice, grad, want_input),
        }
    }
}
