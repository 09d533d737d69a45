//! Curves over epochs, as SVG by kuva: a kept crate without dependencies that draws axes, legends and ticks.

use kuva::plot::LinePlot;
use kuva::plot::scatter::ScatterPlot;
use kuva::prelude::{Layout, Plot};
use kuva::render_to_svg;

use crate::train::metrics::Epoch;

const TRAIN: &str = "#8a8a8a";
const VAL: &str = "#1f6fd6";

/// Size of a plot in pixels.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;

/// Training and validation curves of one quantity, `value` giving both of an epoch. The axes begin at 0; the upper one ends
/// at `top`, or a little above the data.
pub fn curves(quantity: &str, top: Option<f64>, epochs: &[Epoch], value: impl Fn(&Epoch) -> (f64, f64)) -> String {
    let points = |pick: fn((f64, f64)) -> f64| -> Vec<(f64, f64)> {
        epochs.iter().map(|epoch| (epoch.epoch as f64, pick(value(epoch)))).collect()
    };
    let mut plots: Vec<Plot> = Vec::new();
    for (name, colour, points) in [("train", TRAIN, points(|v| v.0)), ("val", VAL, points(|v| v.1))] {
        plots.push(LinePlot::new().with_data(points.clone()).with_color(colour).with_legend(name).into());
        // a single epoch makes no line
        plots.push(ScatterPlot::new().with_data(points).with_color(colour).into());
    }
    let most = epochs.iter().map(&value).fold(0.0, |most: f64, (train, val)| most.max(train).max(val));
    let layout = Layout::auto_from_plots(&plots)
        .with_width(WIDTH)
        .with_height(HEIGHT)
        .with_x_axis_min(0.0)
        .with_x_axis_max((epochs.len() + 1) as f64)
        .with_x_tick_step(epochs.len().div_ceil(8).max(1) as f64)
        .with_y_axis_min(0.0)
        .with_y_axis_max(top.unwrap_or(1.05 * most))
        .with_x_label("epoch")
        .with_y_label(quantity);
    // kuva gives a size and no view box, without which a page cannot scale the picture
    let view_box = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" ");
    render_to_svg(plots, layout).replacen("<svg ", &view_box, 1)
}
