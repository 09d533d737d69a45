//! A graph of ONNX operators under construction: <https://onnx.ai/onnx/operators/>. A method appends an operator and
//! returns the name of its output.

use safetensors::SafeTensors;

use super::proto::{Attribute, FLOAT, Graph, INT64, Node, Tensor};
use crate::error::Result;

/// The epsilon of batch norm, PyTorch's default.
const EPSILON: f32 = 1e-5;

/// The graph, and the weights that its operators take.
pub struct Builder<'a> {
    weights: &'a SafeTensors<'a>,
    nodes: Vec<Node>,
    tensors: Vec<Tensor>,
}

impl<'a> Builder<'a> {
    /// An empty graph. `weights` have the names and the shapes of the PyTorch networks.
    pub fn new(weights: &'a SafeTensors<'a>) -> Builder<'a> {
        Builder { weights, nodes: Vec::new(), tensors: Vec::new() }
    }

    /// Appends an operator with one output.
    pub fn node(&mut self, operator: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        let name = format!("{}_{}", operator.to_lowercase(), self.nodes.len());
        self.append(operator, inputs, vec![name.clone()], attributes);
        name
    }

    fn append(&mut self, operator: &str, inputs: &[&str], output: Vec<String>, attribute: Vec<Attribute>) {
        self.nodes.push(Node {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            name: format!("{}_{}", operator.to_lowercase(), self.nodes.len()),
            output,
            op_type: operator.to_owned(),
            attribute,
        });
    }

    /// Gives a tensor the name of an output of the graph.
    pub fn output(&mut self, x: &str, name: &str) {
        self.append("Identity", &[x], vec![name.to_owned()], Vec::new());
    }

    /// A tensor of the weights. Returns its name.
    pub fn weight(&mut self, name: &str) -> Result<String> {
        if !self.tensors.iter().any(|tensor| tensor.name == name) {
            let view = self
                .weights
                .tensor(name)
                .map_err(|error| multidigit_nn::Error::tensor(format!("`{name}`: {error}")))?;
            self.tensors.push(Tensor {
                dims: view.shape().iter().map(|size| *size as i64).collect(),
                data_type: FLOAT,
                name: name.to_owned(),
                raw_data: view.data().to_vec(),
            });
        }
        Ok(name.to_owned())
    }

    /// A vector of whole numbers as a constant.
    pub fn numbers(&mut self, values: &[i64]) -> String {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(INT64, &[values.len() as i64], raw_data)
    }

    /// A number as a constant.
    pub fn float(&mut self, value: f32) -> String {
        self.constant(FLOAT, &[], value.to_le_bytes().to_vec())
    }

    fn constant(&mut self, data_type: i32, dims: &[i64], raw_data: Vec<u8>) -> String {
        let name = format!("constant_{}", self.tensors.len());
        self.tensors.push(Tensor { dims: dims.to_vec(), data_type, name: name.clone(), raw_data });
        name
    }

    /// A convolution, with a bias if the weights have one.
    pub fn conv(&mut self, x: &str, name: &str, stride: i64, padding: i64) -> Result<String> {
        let weight = self.weight(&format!("{name}.weight"))?;
        let bias = format!("{name}.bias");
        let bias = if self.weights.tensor(&bias).is_ok() { Some(self.weight(&bias)?) } else { None };
        let inputs: Vec<&str> = [x, &weight].into_iter().chain(bias.as_deref()).collect();
        let attributes = vec![Attribute::ints("strides", &[stride; 2]), Attribute::ints("pads", &[padding; 4])];
        Ok(self.node("Conv", &inputs, attributes))
    }

    /// Batch norm by the running statistics.
    pub fn norm(&mut self, x: &str, name: &str) -> Result<String> {
        let [scale, bias, mean, variance] =
            ["weight", "bias", "running_mean", "running_var"].map(|part| self.weight(&format!("{name}.{part}")));
        let inputs = [x, &scale?, &bias?, &mean?, &variance?];
        Ok(self.node("BatchNormalization", &inputs, vec![Attribute::float("epsilon", EPSILON)]))
    }

    /// ReLU.
    pub fn relu(&mut self, x: &str) -> String {
        self.node("Relu", &[x], Vec::new())
    }

    /// The maximum over 2x2 positions; an odd last row or column is left out.
    pub fn pool(&mut self, x: &str) -> String {
        self.node("MaxPool", &[x], vec![Attribute::ints("kernel_shape", &[2; 2]), Attribute::ints("strides", &[2; 2])])
    }

    /// One vector for each item of the batch.
    pub fn flatten(&mut self, x: &str) -> String {
        self.node("Flatten", &[x], vec![Attribute::int("axis", 1)])
    }

    /// A linear layer on vectors.
    pub fn linear(&mut self, x: &str, name: &str) -> Result<String> {
        let [weight, bias] = ["weight", "bias"].map(|part| self.weight(&format!("{name}.{part}")));
        Ok(self.node("Gemm", &[x, &weight?, &bias?], vec![Attribute::int("transB", 1)]))
    }

    /// Splits a tensor along an axis into equal parts. Returns their names.
    pub fn split(&mut self, x: &str, axis: i64, parts: usize) -> Vec<String> {
        let names: Vec<String> = (0..parts).map(|part| format!("split_{}_{part}", self.nodes.len())).collect();
        let attributes = vec![Attribute::int("axis", axis), Attribute::int("num_outputs", parts as i64)];
        self.append("Split", &[x], names.clone(), attributes);
        names
    }

    /// The finished graph, without its inputs and outputs.
    pub fn finish(self, name: &str) -> Graph {
        Graph { node: self.nodes, name: name.to_owned(), initializer: self.tensors, ..Graph::default() }
    }
}
