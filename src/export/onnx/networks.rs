//! The networks as graphs of ONNX operators, layer by layer as in PyTorch. They take normalised images of shape (batch, 1,
//! height, width) and return the logits of each digit, of shape (batch, 10).

use super::graph::Builder;
use super::proto::Attribute;
use crate::error::Result;
use crate::networks::{Model, Pool, Shape};
use crate::plan::slot;

/// Appends a network of this shape.
pub fn append(graph: &mut Builder, shape: &Shape, x: &str) -> Result<Vec<String>> {
    match shape.model {
        Model::AlexNet => alexnet(graph, shape, x),
        Model::ResNet => resnet(graph, shape, x),
        Model::Fcn => fcn(graph, shape, x),
        Model::Towers => towers(graph, shape, x),
        Model::Attention => attention(graph, shape, x),
    }
}

fn alexnet(graph: &mut Builder, shape: &Shape, x: &str) -> Result<Vec<String>> {
    let mut x = x.to_owned();
    for (layer, pools) in [(1, true), (2, true), (3, false), (4, false), (5, true)] {
        x = graph.conv(&x, &format!("conv{layer}"), 1, 0)?;
        x = graph.relu(&x);
        if pools {
            x = graph.pool(&x);
        }
    }
    x = graph.flatten(&x);
    for layer in ["fc1", "fc2"] {
        x = graph.linear(&x, layer)?;
        x = graph.relu(&x);
    }
    (0..shape.digits).map(|digit| graph.linear(&x, &format!("heads.{digit}"))).collect()
}

fn fcn(graph: &mut Builder, shape: &Shape, x: &str) -> Result<Vec<String>> {
    let mut x = x.to_owned();
    for layer in 1..=6 {
        x = graph.conv(&x, &format!("conv{layer}"), 1, 0)?;
        x = graph.norm(&x, &format!("bn{layer}"))?;
        x = graph.relu(&x);
        if [1, 2, 5].contains(&layer) {
            x = graph.pool(&x);
        }
    }
    let head = |digit| {
        let logits = graph.conv(&x, &format!("heads.{digit}"), 1, 0)?;
        Ok(graph.flatten(&logits))
    };
    (0..shape.digits).map(head).collect()
}

fn resnet(graph: &mut Builder, shape: &Shape, x: &str) -> Result<Vec<String>> {
    let x = graph.conv(x, "conv1", 1, 1)?;
    let x = graph.norm(&x, "bn1")?;
    let mut x = graph.relu(&x);
    for layer in 1..=4 {
        for block in 0..2 {
            let name = format!("layer{layer}.{block}");
            // the first block of every layer but the first halves the sides and has other channels
            let stride = if block == 0 && layer > 1 { 2 } else { 1 };
            let inner = graph.conv(&x, &format!("{name}.conv1"), stride, 1)?;
            let inner = graph.norm(&inner, &format!("{name}.bn1"))?;
            let inner = graph.relu(&inner);
            let inner = graph.conv(&inner, &format!("{name}.conv2"), 1, 1)?;
            let inner = graph.norm(&inner, &format!("{name}.bn2"))?;
            let skipped = if stride == 2 {
                let skipped = graph.conv(&x, &format!("{name}.downsample.0"), 2, 0)?;
                graph.norm(&skipped, &format!("{name}.downsample.1"))?
            } else {
                x
            };
            let sum = graph.node("Add", &[&inner, &skipped], Vec::new());
            x = graph.relu(&sum);
        }
    }
    let x = graph.node("GlobalAveragePool", &[&x], Vec::new());
    let x = graph.flatten(&x);
    (0..shape.digits).map(|digit| graph.linear(&x, &format!("heads.{digit}"))).collect()
}

fn trunk(graph: &mut Builder, x: &str) -> Result<String> {
    let mut x = x.to_owned();
    for layer in 1..=4 {
        x = graph.conv(&x, &format!("conv{layer}"), if layer == 1 { 2 } else { 1 }, 1)?;
        x = graph.norm(&x, &format!("bn{layer}"))?;
        x = graph.relu(&x);
        if [2, 3].contains(&layer) {
            x = graph.pool(&x);
        }
    }
    Ok(x)
}

fn towers(graph: &mut Builder, shape: &Shape, x: &str) -> Result<Vec<String>> {
    let trunk = shape.trunk();
    let margin = trunk.margin as i64;
    let mut padded = x.to_owned();
    if margin > 0 {
        let pads = graph.numbers(&[0, 0, 0, margin, 0, 0, 0, margin]);
        padded = graph.node("Pad", &[x, &pads], Vec::new());
    }
    // the windows of the first digit, then those of the second, as one batch
    let mut windows = Vec::new();
    for digit in 0..shape.digits {
        let columns = slot(digit, shape.digits, shape.width);
        let [from, to] = [columns.start as i64, columns.end as i64 + 2 * margin];
        let [starts, ends, axes] = [[from], [to], [3]].map(|values| graph.numbers(&values));
        windows.push(graph.node("Slice", &[&padded, &starts, &ends, &axes], Vec::new()));
    }
    let windows: Vec<&str> = windows.iter().map(String::as_str).collect();
    let x = graph.node("Concat", &windows, vec![Attribute::int("axis", 0)]);
    let x = self::trunk(graph, &x)?;
    let pool = match trunk.pool {
        Pool::Max => "GlobalMaxPool",
        Pool::Mean => "GlobalAveragePool",
    };
    let x = graph.node(pool, &[&x], Vec::new());
    let x = graph.flatten(&x);
    let x = graph.linear(&x, "head")?;
    Ok(graph.split(&x, 0, shape.digits))
}

fn attention(graph: &mut Builder, shape: &Shape, x: &str) -> Result<Vec<String>> {
    let features = trunk(graph, x)?;
    let scores = graph.conv(&features, "scores", 1, 1)?;
    // 0 keeps the size of a dimension: (batch, digits, positions) and (batch, channels, positions)
    let by_position = graph.numbers(&[0, 0, -1]);
    let scores = graph.node("Reshape", &[&scores, &by_position], Vec::new());
    let weights = graph.node("Softmax", &[&scores], vec![Attribute::int("axis", 2)]);
    let features = graph.node("Reshape", &[&features, &by_position], Vec::new());
    let features = graph.node("Transpose", &[&features], vec![Attribute::ints("perm", &[0, 2, 1])]);
    let x = graph.node("MatMul", &[&weights, &features], Vec::new());
    let parts = graph.split(&x, 1, shape.digits);
    let head = |part: &String| {
        let vector = graph.flatten(part);
        graph.linear(&vector, "head")
    };
    parts.iter().map(head).collect()
}
