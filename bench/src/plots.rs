//! Results as pictures.

use std::path::Path as FilePath;

use anyhow::anyhow;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::path::Way;
use crate::planes::{self, Runs};
use crate::results::Results;

/// Size of a picture.
const SIZE: (u32, u32) = (720, 420);
/// Colours that people with every kind of sight tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

/// A line: its name and its points.
type Line = (String, Vec<(f64, f64)>);

/// Draws all pictures into a directory.
pub(crate) fn draw(
    directory: &FilePath,
    results: &Results,
    imitated: Option<&Results>,
) -> anyhow::Result<()> {
    let by_proxy = |value: fn(&crate::control::Control) -> f64| {
        lines(results.control.iter().map(|c| (c.proxy.clone(), c.services, value(c))))
    };
    let picture = |name: &str, title: &str, unit: &str, lines: Vec<Line>| {
        plot(&directory.join(name), title, unit, Scale::Linear, &lines)
    };
    picture("start.svg", "Start to complete state", "seconds", by_proxy(|c| c.start_seconds))?;
    picture(
        "change.svg",
        "One endpoint's change, p99",
        "milliseconds",
        by_proxy(|c| c.endpoint.p99_ms),
    )?;
    picture(
        "memory.svg",
        "Resident memory once idle",
        "MiB",
        by_proxy(|c| c.settled_bytes as f64 / f64::from(1 << 20)),
    )?;
    let cluster_ip = results.paths.iter().filter(|path| path.way == Way::ClusterIp);
    picture(
        "connections.svg",
        "New connections through a ClusterIP",
        "of the direct way without rules",
        lines(cluster_ip.map(|p| (p.rules.clone(), p.services, p.of_no_rules.median))),
    )?;
    plot(
        &directory.join("dataplanes.svg"),
        "One endpoint's change by data plane, p50",
        "milliseconds",
        Scale::Logarithmic,
        &changes_by_plane(Runs { here: results, imitated }),
    )
}

/// The time of one endpoint's change on each data plane.
fn changes_by_plane(runs: Runs<'_>) -> Vec<Line> {
    let figures = planes::ALL.into_iter().flat_map(|(proxy, name)| {
        planes::SERVICES.into_iter().filter_map(move |services| {
            let change = runs.control(proxy, services, |control| control.endpoint.p50_ms)?;
            let name = match change.is_estimated {
                true => format!("{name} (nftables times their ratio in an imitated machine)"),
                false => name.to_owned(),
            };
            Some((name, services, change.value))
        })
    });
    lines(figures)
}

/// Values by name and number of Services as lines.
fn lines(values: impl Iterator<Item = (String, u32, f64)>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (name, services, value) in values {
        let point = (f64::from(services), value);
        match lines.iter_mut().find(|(known, _)| *known == name) {
            Some((_, points)) => points.push(point),
            None => lines.push((name, vec![point])),
        }
    }
    lines
}

/// How heights are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// From zero on.
    Linear,
    /// By powers of ten.
    Logarithmic,
}

fn plot(
    path: &FilePath,
    title: &str,
    unit: &str,
    scale: Scale,
    lines: &[Line],
) -> anyhow::Result<()> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let highest = points().map(|point| point.1).fold(1e-3, f64::max);
    match scale {
        Scale::Linear => {
            let names = SeriesLabelPosition::MiddleRight;
            plot_on(path, title, unit, 0.0..highest * 1.15, names, lines)
        }
        Scale::Logarithmic => {
            let lowest = points().map(|point| point.1).fold(highest, f64::min).max(1e-3);
            // With room for the names above.
            let heights = (lowest / 2.0..highest * 10.0).log_scale();
            plot_on(path, title, unit, heights, SeriesLabelPosition::UpperLeft, lines)
        }
    }
}

fn plot_on<Y>(
    path: &FilePath,
    title: &str,
    unit: &str,
    heights: Y,
    names: SeriesLabelPosition,
    lines: &[Line],
) -> anyhow::Result<()>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let failed = |error: &dyn std::fmt::Display| anyhow!("draw {}: {error}", path.display());
    let points = lines.iter().flat_map(|(_, points)| points);
    let last = points.map(|point| point.0).fold(1_000.0, f64::max);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((800.0..last * 1.2).log_scale(), heights)
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("Services")
        .y_desc(unit)
        .x_label_formatter(&label)
        // Without the last digits, which only binary fractions have.
        .y_label_formatter(&|height| format!("{:?}", (height * 1000.0).round() / 1000.0))
        .draw()
        .map_err(|e| failed(&e))?;
    for (place, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let style = colour.stroke_width(2);
        let line = LineSeries::new(points.iter().copied(), style).point_size(4);
        chart
            .draw_series(line)
            .map_err(|e| failed(&e))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(names)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(|e| failed(&e))?;
    root.present().map_err(|e| failed(&e))
}

/// Numbers on the axis of Services: those that have room.
fn label(services: &f64) -> String {
    let digits = format!("{services:.0}");
    match digits.as_bytes() {
        [b'1' | b'2' | b'5', rest @ ..] if rest.iter().all(|digit| *digit == b'0') => digits,
        _ => String::new(),
    }
}
