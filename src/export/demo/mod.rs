//! A trained network as one HTML page. A visitor draws digits, and the network reads them in the visitor's browser.
//!
//! The page holds everything that it uses: the network's graph of ONNX operators ([`onnx`]), its weights, a script that runs
//! them (`network.js`), the drawing board (`page.js`) and images of the test split. It can be opened as a file, and a policy
//! in it makes the browser refuse every request.

use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::onnx::proto::{ATTRIBUTE_FLOAT, ATTRIBUTE_INT, Attribute, FLOAT, Graph, Node};
use super::{onnx, write_of_network};
use crate::dataset::is_shard_of;
use crate::digest::Digest;
use crate::documents;
use crate::error::Result;
use crate::labels;
use crate::networks::Shape;
use crate::pipeline::{Pipeline, Stage};
use crate::plan::{self, slot};
use crate::raw::Origin;
use crate::record::Record;
use crate::runs::format::{grouped, percent};
use crate::runs::{Run, Runs, WeightsFile};
use crate::shards::{DATA, Shards};

/// The split whose images the page shows, and the number of these images.
const SPLIT: &str = "test";
const EXAMPLES: u64 = 12;

/// Writes the page about the network in a file of weights as `out`, or as `NAME-demo.html` in the folder of exports if `out` is
/// `None`, where NAME is that of the run. Returns the path.
///
/// The page tells the accuracy of the run if it has been evaluated, and shows test images if the data set of the run stands in
/// the folder of artifacts. The same files give the same bytes.
///
/// # Errors
/// [`Error::Format`](crate::Error::Format) if the weights or the images are damaged, or if `out` exists or lies in the folder
/// of a stage.
pub fn export(pipeline: &Pipeline, file: &WeightsFile, out: Option<PathBuf>) -> Result<PathBuf> {
    write_of_network(pipeline, file, "-demo.html", out, || Ok(page(pipeline, file)?.into_bytes()))
}

/// The values of the template `page.html`.
#[derive(Serialize)]
struct Page<'a> {
    /// The name of the run.
    name: &'a str,
    model: String,
    parameters: String,
    digits: usize,
    height: usize,
    width: usize,
    accuracy: Option<Accuracy>,
    data: Option<Data>,
    version: &'static str,
    report_style: &'static str,
    style: &'static str,
    /// The settings of the script, as JSON.
    settings: String,
    /// All weights as little-endian float32, in base64.
    weights: String,
    network: &'static str,
    script: &'static str,
}

/// The accuracy on the test split.
#[derive(Serialize)]
struct Accuracy {
    value: String,
    low: String,
    high: String,
    images: String,
}

/// What the page says of the data set that the network was trained on.
#[derive(Serialize)]
struct Data {
    title: String,
    origin: Origin,
    /// A sentence about the licence of the images.
    licence: String,
    #[serde(skip)]
    examples: Vec<Example>,
}

/// An image of the test split.
#[derive(Serialize)]
struct Example {
    digits: String,
    /// The grey values, row by row, in base64.
    pixels: String,
}

/// Renders the page.
fn page(pipeline: &Pipeline, file: &WeightsFile) -> Result<String> {
    let (graph, network, _) = onnx::graph(file)?;
    let (accuracy, data) = about_run(pipeline, file)?;
    let (graph, weights) = parts(&graph, network.shape());
    let Shape { model, digits, height, width, .. } = network.shape();
    let slots: Vec<Value> = (0..digits)
        .map(|place| slot(place, digits, width))
        .map(|columns| json!({ "start": columns.start, "end": columns.end }))
        .collect();
    let examples = data.as_ref().map_or(&[][..], |data| &data.examples);
    let settings = json!({ "height": height, "width": width, "slots": slots, "examples": examples, "graph": graph });
    Ok(documents::page(
        include_str!("page.html"),
        &Page {
            name: file.name(),
            model: model.to_string(),
            parameters: grouped(network.store().count() as u64),
            digits,
            height,
            width,
            accuracy,
            data,
            version: env!("CARGO_PKG_VERSION"),
            report_style: include_str!("../../report/style.css"),
            style: include_str!("style.css"),
            // a tag that a name or a text spelled would end the script
            settings: settings.to_string().replace('<', "\\u003c"),
            weights: BASE64_STANDARD.encode(weights),
            network: include_str!("network.js"),
            script: include_str!("page.js"),
        },
    ))
}

/// The accuracy of the run that a file of weights belongs to, and its data set, as far as they are known.
fn about_run(pipeline: &Pipeline, file: &WeightsFile) -> Result<(Option<Accuracy>, Option<Data>)> {
    let Some(folder) = file.folder() else { return Ok((None, None)) };
    let (place, dataset) = Runs::new(pipeline.artifacts()).place(folder)?;
    let metrics = Run::read(&place)?.metrics.filter(|metrics| file.path().ends_with(metrics.weights.file()));
    let accuracy = metrics.as_ref().and_then(|metrics| metrics.split(SPLIT)).map(|split| Accuracy {
        value: percent(split.accuracy.value),
        low: percent(split.accuracy.low),
        high: percent(split.accuracy.high),
        images: grouped(split.accuracy.samples),
    });
    Ok((accuracy, dataset.map(|content| data(pipeline, content)).transpose()?.flatten()))
}

/// The data set in the folder of artifacts, if it has this content.
fn data(pipeline: &Pipeline, content: Digest) -> Result<Option<Data>> {
    let folder = pipeline.folder(Stage::Dataset);
    if Record::read(&folder)?.is_none_or(|record| record.content != content) {
        return Ok(None);
    }
    pipeline.check_outputs(Stage::Dataset, |path| is_shard_of(path, SPLIT))?;
    let shards = Shards::open(&folder.join(DATA), SPLIT)?;
    let origin = plan::table::facts(shards.first())?.glyphs.origin();
    Ok(Some(Data {
        title: origin.title(shards.layout().digits),
        origin,
        licence: without_links(origin.licence().sentence),
        examples: examples(&shards)?,
    }))
}

/// Images that are evenly spaced over a split, from the first one on.
fn examples(shards: &Shards) -> Result<Vec<Example>> {
    let layout = shards.layout();
    let count = shards.rows().min(EXAMPLES);
    let wanted: Vec<usize> = (0..count).map(|number| (number * shards.rows() / count) as usize).collect();
    let mut examples = Vec::new();
    let mut first = 0;
    for (position, rows) in shards.positions().zip(shards.groups().concat()) {
        let here: Vec<usize> =
            wanted.iter().filter_map(|row| row.checked_sub(first)).filter(|row| *row < rows).collect();
        first += rows;
        if here.is_empty() {
            continue;
        }
        let samples = shards.read(position)?;
        let images: Vec<&[u8]> = samples.images.chunks_exact(layout.height * layout.width).collect();
        let rows = here.iter().filter_map(|&row| Some((samples.labels.get(row)?, images.get(row)?)));
        examples.extend(rows.map(|(label, pixels)| Example {
            digits: labels::class_name(*label, layout.digits),
            pixels: BASE64_STANDARD.encode(pixels),
        }));
    }
    Ok(examples)
}

/// A graph for the script, which `network.js` describes, and the weights that it takes, as little-endian float32.
fn parts(graph: &Graph, shape: Shape) -> (Value, Vec<u8>) {
    let mut weights = Vec::new();
    let mut tensors = Vec::new();
    for tensor in &graph.initializer {
        tensors.push(match tensor.data_type {
            FLOAT => json!({ "name": tensor.name, "shape": tensor.dims, "start": weights.len() / size_of::<f32>() }),
            _ => {
                let values = tensor.raw_data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
                json!({ "name": tensor.name, "shape": tensor.dims, "values": values.collect::<Vec<_>>() })
            }
        });
        if tensor.data_type == FLOAT {
            weights.extend_from_slice(&tensor.raw_data);
        }
    }
    let node = |node: &Node| {
        let attributes: Map<String, Value> = node.attribute.iter().map(|it| (it.name.clone(), value(it))).collect();
        json!({
            "operator": node.op_type, "inputs": node.input, "outputs": node.output, "attributes": attributes,
        })
    };
    let nodes: Vec<Value> = graph.node.iter().map(node).collect();
    let outputs: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
    let shape = [1, 1, shape.height, shape.width];
    (json!({ "shape": shape, "nodes": nodes, "tensors": tensors, "outputs": outputs }), weights)
}

fn value(attribute: &Attribute) -> Value {
    match attribute.r#type {
        ATTRIBUTE_FLOAT => json!(attribute.f),
        ATTRIBUTE_INT => json!(attribute.i),
        _ => json!(attribute.ints),
    }
}

/// A Markdown text whose links are replaced by their words.
fn without_links(text: &str) -> String {
    let link = text.split_once('[').and_then(|(before, rest)| {
        let (words, rest) = rest.split_once("](")?;
        let (_, after) = rest.split_once(')')?;
        Some((before, words, after))
    });
    match link {
        Some((before, words, after)) => format!("{before}{words}{}", without_links(after)),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_link_the_words_stay() {
        let text = "made under [CC BY-SA 3.0](https://a.b/c); see [this](d), or [that";
        assert_eq!(without_links(text), "made under CC BY-SA 3.0; see this, or [that");
    }
}
