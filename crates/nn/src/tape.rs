//! The record of a forward pass, and the backward pass that runs it in reverse.
//!
//! Candle's own differentiation starts every gradient as zeros and adds to it for every edge, on one thread. Here a
//! gradient is moved to its destination, and gradients are added only where two of them meet. What an operator keeps
//! for its backward pass is owned by its closure and freed as soon as the closure has run.

use std::cell::RefCell;
use std::ops::Deref;
use std::time::{Duration, Instant};

use candle_core::Tensor;

use crate::error::{Error, Result};

/// A tensor in a forward pass. It dereferences to the tensor.
#[derive(Debug, Clone)]
pub struct Value {
    tensor: Tensor,
    /// The index of its gradient on the tape; `None` if no gradient is wanted.
    place: Option<usize>,
}

impl Value {
    /// A tensor without gradient: an input, or any tensor in evaluation.
    pub fn constant(tensor: Tensor) -> Value {
        Value { tensor, place: None }
    }

    /// The parameter at index `place` of the store.
    pub fn parameter(tensor: Tensor, place: usize) -> Value {
        Value { tensor, place: Some(place) }
    }

    /// Whether the gradient of this value is wanted.
    pub fn wants_gradient(&self) -> bool {
        self.place.is_some()
    }
}

impl Deref for Value {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

/// The backward pass of an operator. It maps the gradient of the output, in the output's shape, to the gradients of the
/// operands; the entry of an operand that wants no gradient is `None`.
pub type Backward = Box<dyn FnOnce(Tensor) -> Result<Vec<Option<Tensor>>>>;

struct Node {
    name: String,
    operands: Vec<Option<usize>>,
    backward: Backward,
    forward_time: Duration,
}

/// The time that an operator took.
#[derive(Debug, Clone, PartialEq)]
pub struct Time {
    /// The names of the layer and the operator.
    pub name: String,
    /// The time of the forward pass.
    pub forward: Duration,
    /// The time of the backward pass.
    pub backward: Duration,
}

/// The record of the operators of one forward pass, in order.
pub struct Tape {
    /// The number of parameters, whose gradients come before those of the nodes.
    parameters: usize,
    nodes: RefCell<Vec<Node>>,
}

/// The result of a backward pass.
pub struct Gradients {
    /// The gradient of each parameter, in the order of the store; `None` if the loss does not depend on it.
    pub parameters: Vec<Option<Tensor>>,
    /// The time of each operator, in the order of the forward pass.
    pub times: Vec<Time>,
}

impl Tape {
    /// An empty tape for a network with `parameters` parameters, counted in tensors.
    pub fn new(parameters: usize) -> Tape {
        Tape { parameters, nodes: RefCell::default() }
    }

    /// The gradients of the parameters, given the gradients of some outputs. `sum` adds two
    /// gradients of the same value.
    pub(crate) fn backward_by(self, sum: Sum, outputs: &[Value], gradients: Vec<Tensor>) -> Result<Gradients> {
        if outputs.len() != gradients.len() {
            return Err(Error::tensor(format!("{} gradients for {} outputs", gradients.len(), outputs.len())));
        }
        let nodes = self.nodes.into_inner();
        let mut places: Vec<Option<Tensor>> = vec![None; self.parameters + nodes.len()];
        for (output, gradient) in outputs.iter().zip(gradients) {
            accumulate(sum, &mut places, output.place, Some(gradient))?;
        }
        let mut times = Vec::with_capacity(nodes.len());
        for node in nodes.into_iter().rev() {
            let begun = Instant::now();
            if let Some(gradient) = places.pop().flatten() {
                for (operand, gradient) in node.operands.iter().zip((node.backward)(gradient)?) {
                    accumulate(sum, &mut places, *operand, gradient)?;
                }
            }
            times.push(Time { name: node.name, forward: node.forward_time, backward: begun.elapsed() });
        }
        times.reverse();
        Ok(Gradients { parameters: places, times })
    }
}

/// A function that adds two tensors of the same shape.
type Sum = fn(&Tensor, &Tensor) -> Result<Tensor>;

fn accumulate(sum: Sum, places: &mut [Option<Tensor>], place: Option<usize>, gradient: Option<Tensor>) -> Result<()> {
    let (Some(place), Some(gradient)) = (place, gradient) else { return Ok(()) };
    let slot = places.get_mut(place).ok_or_else(|| Error::tensor("a value of another tape"))?;
    *slot = Some(match slot.take() {
        None => gradient,
        Some(other) => sum(&other, &gradient)?,
    });
    Ok(())
}

/// Where an operator is recorded: the tape, if gradients are wanted, and the name of the operator's layer.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The tape that records the operator, or none if no gradients are wanted.
    pub tape: Option<&'a Tape>,
    /// The name for the operator's times.
    pub name: &'a str,
}

/// Runs an operator. `forward` returns the output and the backward pass. The backward pass is recorded if there is a
/// tape and an operand wants a gradient; otherwise it is dropped.
pub fn apply(at: At, operands: &[&Value], forward: impl FnOnce() -> Result<(Tensor, Backward)>) -> Result<Value> {
    let begun = Instant::now();
    let (tensor, backward) = forward()?;
    let Some(tape) = at.tape.filter(|_| operands.iter().any(|operand| operand.wants_gradient())) else {
        return Ok(Value::constant(tensor));
    };
    let mut nodes = tape.nodes.borrow_mut();
    let place = tape.parameters + nodes.len();
    let operands = operands.iter().map(|operand| operand.place).collect();
    nodes.push(Node { name: at.name.to_owned(), operands, backward, forward_time: begun.elapsed() });
    Ok(Value { tensor, place: Some(place) })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn scalar(value: f32) -> Tensor {
        Tensor::new(&[value], &Device::Cpu).unwrap()
    }

    /// The product of `factor` and a value, with its gradient.
    fn times(tape: &Tape, factor: f64, x: &Value) -> Value {
        let scale = move |t: &Tensor| t.affine(factor, 0.0);
        apply(At { tape: Some(tape), name: "times" }, &[x], || {
            Ok((scale(x)?, Box::new(move |gradient| Ok(vec![Some(scale(&gradient)?)]))))
        })
        .unwrap()
    }

    #[test]
    fn gradients_meet_where_a_value_is_used_twice() {
        let tape = Tape::new(2);
        let parameter = Value::parameter(scalar(2.0), 1);
        let [a, b] = [3.0, 5.0].map(|factor| times(&tape, factor, &parameter));
        let c = times(&tape, 7.0, &a);
        let gradients = tape.backward(&[c, b], vec![scalar(1.0), scalar(10.0)]).unwrap();
        assert!(gradients.parameters[0].is_none());
        let found: Vec<f32> = gradients.parameters[1].as_ref().unwrap().to_vec1().unwrap();
        assert_eq!((found, gradients.times.len()), (vec![3.0 * 7.0 + 5.0 * 10.0], 3));
    }

    #[test]
    fn nothing_is_kept_of_what_wants_no_gradient() {
        let tape = Tape::new(0);
        let x = Value::constant(scalar(1.0));
        assert!(!times(&tape, 2.0, &x).wants_gradient());
        assert!(tape.nodes.borrow().is_empty());
        let outside = Value::parameter(scalar(1.0), 3);
        assert!(Tape::new(0).backward(&[outside], vec![scalar(1.0)]).is_err());
    }
}
