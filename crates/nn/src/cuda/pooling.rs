//! Windows of images, and pooling over all positions of an image: see the operators of the same names in
//! [`crate::ops`].

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::kernels::{Argument, Form, each};
use super::session::{Session, address};
use crate::error::Result;
use crate::tape::{At, Value, apply};

/// Launches a kernel with a thread for each of `count` elements. The arguments are the addresses of tensors, then
/// numbers.
fn launch(session: &Session, name: &'static str, count: usize, tensors: &[&Tensor], numbers: &[usize]) -> Result<()> {
    let mut arguments: Vec<Argument> = Vec::with_capacity(tensors.len() + numbers.len());
    for tensor in tensors {
        arguments.push(address(tensor)?.into());
    }
    arguments.extend(numbers.iter().map(|number| Argument::from(*number)));
    // SAFETY: every caller passes the arguments of the kernel, whose numbers are the sizes of the tensors.
    unsafe { session.launch(Form::Single, name, each(count), &arguments) }
}

/// Cuts windows out of images.
pub fn windows(input: &Tensor, count: usize, margin: usize) -> Result<Value> {
    let session = Session::of(input)?;
    let (images, height, width, _) = input.dims4()?;
    let out = session.activations(&[images * count, height, width / count + 2 * margin, 1])?;
    let numbers = [images, height, width, count, margin];
    launch(&session, "windows", out.elem_count(), &[input, &out], &numbers)?;
    Ok(Value::constant(out))
}

/// The maximum over all positions.
pub fn max(at: At, input: &Value) -> Result<Value> {
    let session = Session::of(input)?;
    let (images, height, width, channels) = input.dims4()?;
    let sizes = [images, height * width, channels];
    apply(at, &[input], || {
        let (values, places) =
            (session.activations(&[images, channels])?, session.empty(&[images, channels], DType::U32)?);
        launch(&session, "max_forward", images * channels, &[input, &values, &places], &sizes)?;
        let backward = move |grad: Tensor| {
            let into = session.activations(&[images, height, width, channels])?;
            launch(&session, "max_gradient", into.elem_count(), &[&grad, &places, &into], &sizes)?;
            Ok(vec![Some(into)])
        };
        Ok((values, Box::new(backward)))
    })
}

/// Pools features by attention.
pub fn attend(at: At, scores: &Value, features: &Value) -> Result<Value> {
    let session = Session::of(features)?;
    let (images, height, width, channels) = features.dims4()?;
    let (positions, heads) = (height * width, scores.dims4()?.3);
    apply(at, &[scores, features], || {
        let weights = session.empty(&[images, heads, positions], DType::F32)?;
        launch(&session, "attention", images * heads, &[scores, &weights], &[images, positions, heads])?;
        let values = session.activations(&[images * heads, channels])?;
        let sizes = [images, positions, channels, heads];
        launch(&session, "weighted", values.elem_count(), &[&weights, features, &values], &sizes)?;
        let (session, features) = (Arc::clone(&session), features.clone());
        let backward = move |grad: Tensor| {
            let products = session.empty(&[images, heads, positions], DType::F32)?;
            launch(&session, "attention_products", products.elem_count(), &[&grad, &features, &products], &sizes)?;
            let scores = session.activations(&[images, height, width, heads])?;
            let numbers = [images, positions, heads];
            launch(&session, "scores_gradient", images * heads, &[&weights, &products, &scores], &numbers)?;
            let into = session.activations(features.dims())?;
            launch(&session, "features_gradient", into.elem_count(), &[&weights, &grad, &into], &sizes)?;
            Ok(vec![Some(scores), Some(into)])
        };
        Ok((values, Box::new(backward)))
    })
}

/// Every `step`-th row, from row `first` on.
pub fn every(at: At, input: &Value, first: usize, step: usize) -> Result<Value> {
    let session = Session::of(input)?;
    let (rows, columns) = input.dims2()?;
    apply(at, &[input], || {
        let values = session.activations(&[rows / step, columns])?;
        launch(&session, "every", values.elem_count(), &[input, &values], &[rows, columns, first, step, 0])?;
        let backward = move |grad: Tensor| {
            let into = session.activations(&[rows, columns])?;
            launch(&session, "every", into.elem_count(), &[&grad, &into], &[rows, columns, first, step, 1])?;
            Ok(vec![Some(into)])
        };
        Ok((values, Box::new(backward)))
    })
}
