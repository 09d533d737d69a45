//! Plots of the training curves and of reliability, as SVG. They are drawn by kuva, a maintained crate without
//! dependencies that draws axes, legends and ticks. The plots are light or dark like their surroundings.

use std::sync::Arc;

use kuva::plot::annotations::ReferenceLine;
use kuva::plot::legend::{LegendEntry, LegendPosition, LegendShape};
use kuva::plot::scatter::ScatterPlot;
use kuva::plot::{ForestPlot, LinePlot};
use kuva::prelude::{Layout, Plot, TickFormat};
use kuva::render_to_svg;

use crate::evaluate::statistics::Calibration;
use crate::runs::groups::Spread;
use crate::train::metrics::Epoch;

/// Colours that can be told apart on white and on black, also by people who cannot tell red from green.
const TRAIN: &str = "#8d97a3";
const VAL: &str = "#2f7de1";
const STEP: &str = "#d97706";

/// The colours of several runs in one chart: each has a contrast of at least 3 to the light and to the dark ground of the
/// page. The lines of the second half are also dashed, as not everybody can tell eight colours apart.
pub const COLOURS: [&str; 8] = ["#2f7de1", "#d97706", "#12936c", "#c0479f", "#e0483e", "#0e93ad", "#8a6fe0", "#7d8894"];

/// The size of a plot in pixels.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
/// The height that a legend below a plot adds in pixels: a margin, and a line for each entry.
const LEGEND_MARGIN: f64 = 30.0;
const LEGEND_LINE: f64 = 20.0;
/// The maximum number of characters of an entry in that legend.
const LEGEND_MOST: usize = 54;
/// The maximum number of epochs that are marked by dots. A single epoch makes no line, so it needs its dot.
const MOST_DOTS: usize = 12;
/// The share of an axis beyond the last value, so that the dot there is drawn whole.
const MARGIN: f64 = 0.03;
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
/// each epoch whose learning rate differs from that of the epoch before. The axes begin at 0 and end just after the data, the
/// vertical one just after `top` if it is given.
pub fn curves(quantity: &str, top: Option<f64>, epochs: &[Epoch], value: impl Fn(&Epoch) -> (f64, f64)) -> String {
    let points = |pick: fn((f64, f64)) -> f64| -> Vec<(f64, f64)> {
        epochs.iter().map(|epoch| (epoch.epoch as f64, pick(value(epoch)))).collect()
    };
    let mut plots: Vec<Plot> = Vec::new();
    for (name, colour, points) in [("train", TRAIN, points(|v| v.0)), ("val", VAL, points(|v| v.1))] {
        let line = LinePlot::new().with_data(points.clone()).with_color(colour).with_stroke_width(2.0);
        plots.push(line.with_legend(name).into());
        // a single epoch makes no line, so each epoch is also a dot
        let size = if epochs.len() > MOST_DOTS { 2.0 } else { 3.0 };
        plots.push(ScatterPlot::new().with_data(points).with_color(colour).with_size(size).into());
    }
    let most = epochs.iter().map(&value).fold(0.0, |most: f64, (train, val)| most.max(train).max(val));
    let corner = if top.is_some() { LegendPosition::InsideBottomRight } else { LegendPosition::InsideTopRight };
    let mut layout = over_epochs(Layout::auto_from_plots(&plots), epochs.len())
        .with_y_axis_min(0.0)
        .with_y_axis_max((1.0 + MARGIN) * top.unwrap_or(most))
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

/// Runs that share a colour in a chart.
pub struct Line {
    /// Their name in the legend.
    pub name: String,
    /// A percentage after each epoch, for each of the runs.
    pub curves: Vec<Vec<f64>>,
}

/// The accuracies of several runs after each epoch.
pub fn accuracies(quantity: &str, lines: &[Line]) -> String {
    let (plots, layout) = overlaid(quantity, lines);
    svg(plots, layout.with_y_axis_min(0.0).with_y_axis_max((1.0 + MARGIN) * 100.0))
}

/// The errors of several runs after each epoch, on a logarithmic axis that ends just after the data. An error of 0, which such an
/// axis does not have, is drawn at its lower end, at half of the lowest other error.
pub fn errors(quantity: &str, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| &line.curves).flatten().copied();
    let least = all().filter(|error| *error > 0.0).fold(f64::INFINITY, f64::min);
    let most = all().fold(0.0, f64::max);
    let low = if least < most && all().all(|error| error > 0.0) { least } else { least / 2.0 };
    let raised = |curve: &Vec<f64>| curve.iter().map(|error| error.max(low)).collect();
    let raised: Vec<Line> = lines
        .iter()
        .map(|line| Line { name: line.name.clone(), curves: line.curves.iter().map(raised).collect() })
        .collect();
    let (plots, layout) = overlaid(quantity, &raised);
    let format = TickFormat::Custom(Arc::new(|percentage: f64| percentage.to_string()));
    // a share of a logarithmic axis is a factor
    let margin = (most / low).powf(MARGIN);
    svg(
        plots,
        layout.with_log_y().with_y_axis_min(low / margin).with_y_axis_max(most * margin).with_y_tick_format(format),
    )
}

/// The curves of several runs, and the layout with their legend below them. The first line is drawn last, over the others.
fn overlaid(quantity: &str, lines: &[Line]) -> (Vec<Plot>, Layout) {
    let epochs = lines.iter().flat_map(|line| &line.curves).map(Vec::len).max().unwrap_or_default();
    let mut plots: Vec<Plot> = Vec::new();
    let mut legend = Vec::new();
    for (number, (line, colour)) in lines.iter().zip(COLOURS).enumerate() {
        let is_dashed = 2 * number >= COLOURS.len();
        let mut own: Vec<Plot> = Vec::new();
        for curve in &line.curves {
            let points: Vec<(f64, f64)> = (1..).zip(curve).map(|(epoch, value)| (f64::from(epoch), *value)).collect();
            if epochs <= MOST_DOTS || points.len() == 1 {
                own.push(ScatterPlot::new().with_data(points.clone()).with_color(colour).with_size(2.5).into());
            }
            let curve = LinePlot::new().with_data(points).with_color(colour).with_stroke_width(1.75);
            own.push(if is_dashed { curve.with_dashed() } else { curve }.into());
        }
        plots.splice(0..0, own);
        legend.push(LegendEntry {
            label: shortened(&line.name, LEGEND_MOST),
            color: colour.to_owned(),
            shape: LegendShape::Line,
            dasharray: is_dashed.then(|| "8 4".to_owned()),
        });
    }
    let layout = over_epochs(Layout::auto_from_plots(&plots), epochs)
        .with_height(HEIGHT + LEGEND_MARGIN + LEGEND_LINE * lines.len() as f64)
        .with_y_label(quantity)
        .with_legend_entries(legend)
        .with_legend_position(LegendPosition::OutsideBottomColumns)
        .with_legend_col_limit(1)
        .with_legend_box(false);
    (plots, layout)
}

/// A layout of the usual size whose horizontal axis is that of the epochs, from 0 to just after the last one.
fn over_epochs(layout: Layout, epochs: usize) -> Layout {
    sized(layout)
        .with_x_axis_min(0.0)
        .with_x_axis_max((1.0 + MARGIN) * epochs as f64)
        .with_x_tick_step(epochs.div_ceil(8).max(1) as f64)
        .with_x_label("epoch")
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
        let name = shortened(name, NAME_MOST);
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

/// A name of at most `most` characters, an even number: of a longer one, its beginning and its end.
fn shortened(name: &str, most: usize) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= most {
        return name.to_owned();
    }
    let half = most / 2;
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
        assert_eq!(shortened(name, NAME_MOST).chars().count(), NAME_MOST);
    }

    /// The labels of an axis: the texts of a plot that are numbers.
    fn numbers(svg: &str) -> Vec<f64> {
        let texts = svg.split("</text>").filter_map(|part| part.rsplit_once('>')).map(|(_, text)| text);
        texts.filter_map(|text| text.parse().ok()).collect()
    }

    #[test]
    fn a_chart_of_errors_ends_just_after_the_data_and_draws_no_error_at_its_lower_end() {
        let line = |name: &str, curves: &[&[f64]]| Line {
            name: name.to_owned(),
            curves: curves.iter().map(|curve| curve.to_vec()).collect(),
        };
        let lines = [line("two seeds", &[&[60.0, 4.0, 0.8], &[50.0, 3.0]]), line("<one>", &[&[20.0, 0.0]])];
        let svg = errors("error, %", &lines);
        assert!(svg.contains(">two seeds<") && svg.contains(">&lt;one&gt;<") && svg.contains(">error, %<"), "{svg}");
        assert_eq!(numbers(&svg), [0.0, 1.0, 2.0, 3.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0], "{svg}");
        assert_eq!(svg.matches(COLOURS[0]).count() - svg.matches(COLOURS[1]).count(), 4, "a line and dots more, {svg}");
        assert!(!errors("error", &[line("perfect", &[&[0.0, 5.0]])]).contains("NaN"));
    }

    /// The numbers that follow a text wherever it occurs in a plot.
    fn after(svg: &str, text: &str) -> Vec<f64> {
        svg.split(text).skip(1).filter_map(|rest| rest.split('"').next()?.parse().ok()).collect()
    }

    #[test]
    fn the_dot_of_the_only_epoch_is_drawn_whole() {
        let lines = [100.0, 2.0].map(|value| Line { name: "run".to_owned(), curves: vec![vec![value]] });
        let one = [epoch(1, 1e-3)];
        let curves = curves("loss", None, &one, |epoch| (epoch.train_loss, epoch.val_loss));
        for svg in [errors("error, %", &lines), accuracies("accuracy, %", &lines), curves] {
            let [x, y, width, height] = ["x", "y", "width", "height"].map(|name| {
                let area = svg.split("<clipPath").nth(1).unwrap();
                after(area, &format!(" {name}=\""))[0]
            });
            let dots: Vec<[f64; 3]> = svg
                .split("<circle ")
                .skip(1)
                .map(|dot| ["cx", "cy", "r"].map(|name| after(dot, &format!("{name}=\""))[0]))
                .collect();
            assert_eq!(dots.len(), 2, "{svg}");
            for [cx, cy, r] in dots {
                assert!(x <= cx - r && cx + r <= x + width && y <= cy - r && cy + r <= y + height, "{svg}");
            }
        }
    }

    #[test]
    fn a_chart_of_accuracies_has_as_many_lines_as_colours_and_dashes_the_second_half() {
        let lines: Vec<Line> =
            (0..8).map(|n| Line { name: format!("run {n}"), curves: vec![vec![10.0; 30]] }).collect();
        let svg = accuracies("accuracy, %", &lines);
        assert_eq!(numbers(&svg).into_iter().fold(0.0, f64::max), 100.0);
        assert!(numbers(&svg).contains(&28.0) && svg.contains(">run 7<"));
        // each in the plot and in the legend
        assert_eq!(svg.matches("stroke-dasharray").count(), 8, "{svg}");
        assert!(svg.contains("viewBox=\"0 0 480 490\""), "{svg}");
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
