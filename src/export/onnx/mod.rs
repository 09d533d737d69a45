//! A trained network as an ONNX file, which other programs run without PyTorch and without this one.
//!
//! The graph takes `images`, uint8 of shape (batch, 1, height, width) for any size of the batch, normalises them, and
//! returns `digit_1`, `digit_2` and so on: the logits of each digit, float32 of shape (batch, 10).

use std::path::PathBuf;

use candle_core::Device;
use prost::Message;

use super::write_of_network;
use crate::error::Result;
use crate::files;
use crate::networks::weights::{self, Description};
use crate::networks::{CLASSES, Network};
use crate::pipeline::Pipeline;
use crate::runs::WeightsFile;
use multidigit_nn::Precision;

mod graph;
mod networks;
#[allow(missing_docs, reason = "the fields are those of ONNX")]
pub(super) mod proto;

use graph::Builder;
use proto::{Attribute, Entry, FLOAT, Graph, OperatorSet, UINT8, Value};

/// The version of ONNX's operators, and of the format that came with it (ONNX 1.14).
const OPSET: i64 = 19;
const IR_VERSION: i64 = 9;

/// Writes the network in a file of weights as the ONNX file `out`, or as `NAME.onnx` in the folder of exports if `out` is
/// `None`, where NAME is that of the run. Returns the path.
///
/// # Errors
/// [`Error::Format`](crate::Error::Format) if the weights are damaged, or if `out` exists or lies in the folder of a stage.
pub fn export(pipeline: &Pipeline, file: &WeightsFile, out: Option<PathBuf>) -> Result<PathBuf> {
    write_of_network(pipeline, file, ".onnx", out, || Ok(model(file)?.encode_to_vec()))
}

/// The graph of the network in a file of weights, and the network itself.
pub(super) fn graph(file: &WeightsFile) -> Result<(Graph, Network, Description)> {
    // the network is also made to check that the file holds it
    let (network, description) = weights::load(file.path(), file.recorded(), &Device::Cpu, Precision::F32)?;
    let bytes = files::read(file.path())?;
    let tensors = weights::parse(file.path(), &bytes)?.tensors;
    let Description { shape, mean, std, .. } = description;

    let mut graph = Builder::new(&tensors);
    let x = graph.node("Cast", &["images"], vec![Attribute::int("to", FLOAT.into())]);
    let [white, mean_of, std_of] = [255.0, mean as f32, std as f32].map(|value| graph.float(value));
    let x = graph.node("Div", &[&x, &white], Vec::new());
    let x = graph.node("Sub", &[&x, &mean_of], Vec::new());
    let x = graph.node("Div", &[&x, &std_of], Vec::new());
    let logits = networks::append(&mut graph, &shape, &x)?;
    let names: Vec<String> = (1..=shape.digits).map(|digit| format!("digit_{digit}")).collect();
    logits.iter().zip(&names).for_each(|(x, name)| graph.output(x, name));

    let mut graph = graph.finish(&shape.model.to_string());
    graph.input = vec![Value::batch("images", UINT8, &[1, shape.height, shape.width])];
    graph.output = names.iter().map(|name| Value::batch(name, FLOAT, &[CLASSES])).collect();
    Ok((graph, network, description))
}

/// The network in a file of weights as a model.
fn model(file: &WeightsFile) -> Result<proto::Model> {
    let (graph, _, Description { shape, mean, std, epoch }) = graph(file)?;
    let about = [
        ("model", shape.model.to_string()),
        ("digits", shape.digits.to_string()),
        ("mean", mean.to_string()),
        ("std", std.to_string()),
        ("epoch", epoch.to_string()),
    ];
    Ok(proto::Model {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
        producer_name: "multidigit".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: "Input: uint8 images of light digits on black. Output: the logits of each digit, left to right."
            .to_owned(),
        graph: Some(graph),
        metadata_props: about.map(|(key, value)| Entry { key: key.to_owned(), value }).into(),
    })
}
