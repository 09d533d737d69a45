//! Plots of the training curves and of reliability, as SVG. They are drawn by kuva, a maintained crate without
//! dependencies that draws axes, legends and ticks. The plots are light or dark like their surroundings.

use kuva::plot::annotations::ReferenceLine;
use kuva::plot::legend::LegendPosition;
use kuva::plot::scatter::ScatterPlot;
use kuva::plot::{ForestPlot, LinePlot};
use kuva::prelude::{Layout, Plot};
use kuva::render_to_svg;

use crate::evaluate::statistics::Calibration;
use crate::runs::groups::Spread;
use crate::train::metrics::Epoch;

/// Colours that can be told apart on white and on black, also by people who cannot tell red from green.
const TRAIN: &str = "#8d97a3";
const VAL: &str = "#2f7de1";
const STEP: &str = "#d97706";

/// The size of a plot in pixels.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
/// The height of [`ranges`] in pixels: that of its axis, and that of each line.
const RANGE_MARGIN: f64 = 90.0;
const RANGE_LINE: f64 = 26.0;
/// The width that [`ranges`] adds for each character of its longest name in pixels, and the longest name that it shows.
const NAME_LETTER: f64 = 8.0;
const NAME_MOST: usize = 60;

/// The style that fits kuva's black-on-white plots to their surroundings.
const STYLE: &str = "<style>:root{color-scheme:light dark}rect[fill=\"white\"]{fill:none}text{fill:#3d434b}\
    [stroke=\"#cccccc\"]{stroke:#e4e5e6}[stroke=\"#000000\"]{stroke:#8a919b}\
    @media(prefers-color-scheme:dark){text{fill:#c3c9d0}[stroke=\"#cccccc\"]{stroke:#2c333b}\
    [stroke=\"#000000\"]{stroke:#6f7883}}</style>";

/// The curves of one quantity in training and validation; `value` returns both for an epoch. A dashed line precedes
/// each epoch whose learning rate differs from that of the epoch before. The axes begin at 0. The vertical axis ends at
/// `top`, or just above the data.
pub fn curves(quantity: &str, top: Option<f64>, epochs: &[Epoch], value: impl Fn(&Epoch) -> (f64, f64)) -> String {
    let points = |pick: fn((f64, f64)) -> f64| -> Vec<(f64, f64)> {
        epochs.iter().map(|epoch| (epoch.epoch as f64, pick(value(epoch)))).collect()
    };
    let mut plots: Vec<Plot> = Vec::new();
    for (name, colour, points) in [("train", TRAIN, points(|v| v.0)), ("val", VAL, points(|v| v.1))] {
        let line = LinePlot::new().with_data(points.clone()).with_color(colour).with_stroke_width(2.0);
        plots.push(line.with_legend(name).into());
        // a single epoch makes no line, so each epoch is also a dot
        let size = if epochs.len() > 12 { 2.0 } else { 3.0 };
        plots.push(ScatterPlot::new().with_data(points).with_color(colour).with_size(size).into());
    }
    let most = epochs.iter().map(&value).fold(0.0, |most: f64, (train, val)| most.max(train).max(val));
    let corner = if top.is_some() { LegendPosition::InsideBottomRight } else { LegendPosition::InsideTopRight };
    let mut layout = sized(Layout::auto_from_plots(&plots))
        .with_x_axis_min(0.0)
        .with_x_axis_max((epochs.len() + 1) as f64)
        .with_x_tick_step(epochs.len().div_ceil(8).max(1) as f64)
        .with_y_axis_min(0.0)
        .with_y_axis_max(top.unwrap_or(1.05 * most))
        .with_x_label("epoch")
        .with_y_label(quantity)
        .with_legend_position(corner)
        .with_legend_box(false);
    for (epoch, rate) in steps(epochs) {
        let line = ReferenceLine::vertical(epoch as f64 - 0.5).with_color(STEP).with_dasharray("4 4");
        layout = layout.with_reference_line(line.with_label(format!("lr {rate}")));
    }
    svg(plots, layout)
}

/// The epochs whose learning rate differs from that of the epoch before, with their learning rates. Empty if the
/// learning rate changes all the time, as with a cosine schedule, because a line for every epoch would say nothing.
pub fn steps(epochs: &[Epoch]) -> Vec<(usize, f64)> {
    let all: Vec<(usize, f64)> =
        epochs.iter().zip(epochs.iter().skip(1)).filter(|(a, b)| a.lr != b.lr).map(|(_, b)| (b.epoch, b.lr)).collect();
    if all.len() > 2 && all.len() + 2 >= epochs.len() { Vec::new() } else { all }
}

/// The share of right answers against confidence. The diagonal is perfect calibration.
pub fn reliability(calibration: &Calibration) -> String {
    let filled = || calibration.bins.iter().filter_map(|bin| Some((bin.confidence?, bin.accuracy?, bin.samples)));
    let points: Vec<(f64, f64)> = filled().map(|(confidence, accuracy, _)| (confidence, accuracy)).collect();
    let all: u64 = filled().map(|(.., samples)| samples).sum();
    let sizes: Vec<f64> = filled().map(|(.., n)| 3.0 + 9.0 * (n as f64 / all.max(1) as f64).sqrt()).collect();
    let diagonal = LinePlot::new().with_data(vec![(0.0, 0.0), (1.0, 1.0)]).with_color(TRAIN).with_dashed();
    let line = LinePlot::new().with_data(points.clone()).with_color(VAL).with_stroke_width(2.0);
    let dots = ScatterPlot::new().with_data(points).with_color(VAL).with_sizes(sizes);
    let plots: Vec<Plot> = vec![diagonal.into(), line.into(), dots.into()];
    let layout = sized(Layout::auto_from_plots(&plots))
        .with_x_axis_min(0.0)
        .with_x_axis_max(1.0)
        .with_y_axis_min(0.0)
        .with_y_axis_max(1.0)
        .with_x_label("mean confidence")
        .with_y_label("share of right answers");
    svg(plots, layout)
}

/// The mean of each of some named accuracies, and a line from the lowest to the highest, in percent.
pub fn ranges(accuracies: &[(String, Spread)]) -> String {
    let mut plot =
        ForestPlot::new().with_color(VAL).with_show_null_line(false).with_cap_size(4.0).with_marker_size(4.0);
    let (mut least, mut most, mut longest) = (f64::INFINITY, f64::NEG_INFINITY, 0);
    for (name, Spread { mean, low, high, .. }) in accuracies {
        let name = shortened(name);
        longest = longest.max(name.chars().count());
        (least, most) = (least.min(100.0 * low), most.max(100.0 * high));
        plot = plot.with_row(name, 100.0 * mean, 100.0 * low, 100.0 * high);
    }
    let plots: Vec<Plot> = vec![plot.into()];
    // a margin on both sides, within what a share can be
    let margin = (0.1 * (most - least)).max(0.1);
    let layout = sized(Layout::auto_from_plots(&plots))
        .with_width(WIDTH + NAME_LETTER * longest as f64)
        .with_height(RANGE_MARGIN + RANGE_LINE * accuracies.len() as f64)
        .with_x_axis_min((least - margin).max(0.0))
        .with_x_axis_max((most + margin).min(100.0))
        .with_x_label("accuracy on test, %");
    svg(plots, layout)
}

/// A name of at most [`NAME_MOST`] characters: of a longer one, its beginning and its end.
fn shortened(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= NAME_MOST {
        return name.to_owned();
    }
    let half = NAME_MOST / 2;
    let ends = [letters.iter().take(half).collect::<String>(), letters.iter().skip(letters.len() - half + 1).collect()];
    ends.join("…")
}

fn sized(layout: Layout) -> Layout {
    layout
        .with_width(WIDTH)
        .with_height(HEIGHT)
        .with_font_family("system-ui, sans-serif")
        .with_label_size(13)
        .with_tick_size(12)
}

fn svg(plots: Vec<Plot>, layout: Layout) -> String {
    // kuva writes a size but no view box, without which a page cannot scale the plot
    let (width, height) = (layout.width.unwrap_or(WIDTH), layout.height.unwrap_or(HEIGHT));
    let view_box = format!("<svg viewBox=\"0 0 {width} {height}\" ");
    let svg = render_to_svg(plots, layout).replacen("<svg ", &view_box, 1);
    match svg.split_once('>') {
        Some((tag, rest)) => format!("{tag}>{STYLE}{rest}"),
        None => svg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: usize, lr: f64) -> Epoch {
        let zero = Epoch {
            epoch,
            lr,
            train_loss: 2.0,
            train_accuracy: 0.25,
            train_digits: vec![0.5; 2],
            val_loss: 1.5,
            val_accuracy: 0.5,
            val_digits: vec![0.75; 2],
            images_per_second: 1.0,
            seconds: 1.0,
        };
        Epoch { ..zero }
    }

    #[test]
    fn long_names_leave_room_for_the_accuracies_and_equal_ones_have_an_axis() {
        let spread = |mean: f64| Spread { mean, deviation: Some(0.0), low: mean, high: mean };
        let name = "towers-lr0.00025-raw.source-synthetic-plan.samples_per_class10-and-much-more-of-it-than-fits";
        let svg = ranges(&[(name.to_owned(), spread(0.0)), ("fast".to_owned(), spread(0.0))]);
        assert!(svg.contains("towers-lr0.00025-raw.source-sy…") && svg.contains(">fast<"), "{svg}");
        assert!(svg.contains("viewBox=\"0 0 960 142\"") && !svg.contains(">-"), "{svg}");
        assert_eq!(shortened(name).chars().count(), NAME_MOST);
    }

    #[test]
    fn a_curve_has_both_lines_and_marks_each_fall_of_the_learning_rate() {
        let epochs = [epoch(1, 1e-3), epoch(2, 1e-3), epoch(3, 1e-4), epoch(4, 1e-4), epoch(5, 1e-5)];
        assert_eq!(steps(&epochs), [(3, 1e-4), (5, 1e-5)]);
        let cosine: Vec<Epoch> = (1..=5).map(|n| epoch(n, 1e-3 / n as f64)).collect();
        assert_eq!(steps(&cosine), []);
        let svg = curves("accuracy", Some(1.0), &epochs, |epoch| (epoch.train_accuracy, epoch.val_accuracy));
        // the attributes that the style sheet selects
        for words in ["<rect width=\"100%\" height=\"100%\" fill=\"white\"", "stroke=\"#cccccc\"", "stroke=\"#000000\""]
        {
            assert!(svg.contains(words), "{words}");
        }
        for words in ["viewBox=", "<style>", ">train<", ">val<", ">lr 0.0001<", ">lr 0.00001<", ">epoch<"] {
            assert!(svg.contains(words), "{words}");
        }
        assert!(!curves("loss", None, &epochs[..1], |epoch| (epoch.train_loss, epoch.val_loss)).contains(">lr "));
    }
}
