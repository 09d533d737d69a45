//! Curves over epochs, as SVG by kuva: a kept crate without dependencies that draws axes, legends and ticks.

use kuva::plot::LinePlot;
use kuva::plot::scatter::ScatterPlot;
use kuva::prelude::{Layout, Plot};
use kuva::render_to_svg;

use crate::train::metrics::Epoch;

const TRAIN: &str = "#8a8a8a";
const VAL: &str = "#1f6fd6";

/// Training and validation curves of one quantity, `value` giving both of an epoch.
pub fn curves(quantity: &str, epochs: &[Epoch], value: impl Fn(&Epoch) -> (f64, f64)) -> String {
    let points = |pick: fn((f64, f64)) -> f64| -> Vec<(f64, f64)> {
        epochs.iter().map(|epoch| (epoch.epoch as f64, pick(value(epoch)))).collect()
    };
    let mut plots: Vec<Plot> = Vec::new();
    for (name, colour, points) in [("train", TRAIN, points(|v| v.0)), ("val", VAL, points(|v| v.1))] {
        plots.push(LinePlot::new().with_data(points.clone()).with_color(colour).with_legend(name).into());
        // a single epoch makes no line
        plots.push(ScatterPlot::new().with_data(points).with_color(colour).into());
    }
    let layout = Layout::auto_from_plots(&plots)
        .with_width(460.0)
        .with_height(300.0)
        .with_x_label("epoch")
        .with_y_label(quantity);
    render_to_svg(plots, layout)
}
