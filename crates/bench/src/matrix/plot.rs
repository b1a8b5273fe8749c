//! The plot: rates and ratios over the depth, and peers side by side.

use super::{
    plan::{Contestant, Mode},
    row::Row,
};
use crate::{
    Result,
    workload::{Shape, Workload},
};
use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
};
use std::path::Path;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const NULL: Contestant = Contestant::Null(Mode::Polling);
/// Left to right on the axis, which counts powers of two.
const DEPTHS: std::ops::Range<f64> = -0.3..7.3;
/// A colour for each line of a chart.
const COLOURS: [RGBColor; 4] =
    [RGBColor(90, 90, 90), RGBColor(200, 80, 30), RGBColor(30, 90, 170), RGBColor(40, 140, 60)];

/// Draws what the rows hold; charts without rows stay empty.
pub(super) fn draw(rows: &[Row], file: &Path) -> Result<()> {
    let root = SVGBackend::new(file, (1000, 760)).into_drawing_area();
    root.fill(&WHITE).map_err(drawing)?;
    let areas = root.split_evenly((2, 2));
    let mut charts = areas.iter();
    for shape in [Shape::Read, Shape::Write] {
        if let (Some(rates), Some(ratios)) = (charts.next(), charts.next()) {
            draw_rates(rates, rows, shape)?;
            draw_ratios(ratios, rows, shape)?;
        }
    }
    root.present().map_err(drawing)
}

fn drawing(error: impl std::fmt::Display) -> Box<dyn std::error::Error> {
    format!("drawing the plot: {error}").into()
}

fn word(shape: Shape) -> &'static str {
    if shape == Shape::Read { "read" } else { "write" }
}

/// (depth as a power of two, figure) of one contestant with so many connections.
fn points(
    rows: &[Row],
    shape: Shape,
    connections: u16,
    part: &str,
    figure: impl Fn(&Row) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let wanted = |row: &&Row| {
        let Workload { shape: s, connections: c, bytes, .. } = row.workload;
        row.part == part && s == shape && c == connections && bytes == 4096
    };
    let point = |row: &Row| Some((f64::from(row.workload.depth).log2(), figure(row)?));
    rows.iter().filter(wanted).filter_map(point).collect()
}

fn rate_of(row: &Row, who: Contestant) -> Option<f64> {
    row.figure(who, |s| Some(s.per_second / 1e3)).map(|s| s.median)
}

/// Floor, ours and peers over the depth, one connection.
fn draw_rates(area: &Area, rows: &[Row], shape: Shape) -> Result<()> {
    let mut lines = Vec::new();
    for (who, name) in
        [(Contestant::Floor, "floor"), (NULL, "null volume"), (Contestant::Memory, "memory volume")]
    {
        lines.push((name.to_string(), points(rows, shape, 1, "loads", |row| rate_of(row, who))));
    }
    for peer in crate::peers::Peer::ALL {
        let who = Contestant::Peer(peer);
        lines.push((peer.name().to_string(), points(rows, shape, 1, "peers", |row| rate_of(row, who))));
    }
    let most = lines.iter().flat_map(|(_, points)| points).map(|(_, y)| *y).fold(1.0, f64::max);
    let title = format!("4K random {}, 1 connection, thousands per second", word(shape));
    let mut chart = chart(area, &title, 0.0..most * 1.15)?;
    draw_lines(&mut chart, lines)
}

/// The null volume over the floor with as many connections.
fn draw_ratios(area: &Area, rows: &[Row], shape: Shape) -> Result<()> {
    let ratio = |row: &Row| Some(rate_of(row, NULL)? / rate_of(row, Contestant::Floor)?);
    let line =
        |connections: u16| (format!("{connections} conn"), points(rows, shape, connections, "loads", ratio));
    let title = format!("4K random {}, null volume / floor", word(shape));
    let mut chart = chart(area, &title, 0.0..1.2)?;
    let budget = LineSeries::new([(DEPTHS.start, 0.85), (DEPTHS.end, 0.85)], &BLACK.mix(0.3));
    chart.draw_series(budget).map_err(drawing)?;
    draw_lines(&mut chart, [1, 4, 16, 64].map(line).to_vec())
}

fn chart<'a, 'b>(area: &'a Area<'b>, title: &str, height: std::ops::Range<f64>) -> Result<Chart<'a, 'b>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(50)
        .build_cartesian_2d(DEPTHS, height)
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .x_desc("depth of each connection")
        .x_labels(8)
        .x_label_formatter(&|x| format!("{:.0}", x.exp2()))
        .light_line_style(WHITE)
        .draw()
        .map_err(drawing)?;
    Ok(chart)
}

fn draw_lines<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, lines: Vec<(String, Vec<(f64, f64)>)>) -> Result<()> {
    let mut any = false;
    for ((name, points), index) in lines.into_iter().filter(|(_, points)| !points.is_empty()).zip(0..) {
        any = true;
        let colour = COLOURS.get(index).copied().unwrap_or(RGBColor(150, 60, 150));
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))
            .map_err(drawing)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        let dots = points.iter().map(|&at| Circle::new(at, 3, colour.filled()));
        chart.draw_series(dots).map_err(drawing)?;
    }
    if any {
        let mut labels = chart.configure_series_labels();
        labels.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.2)).draw().map_err(drawing)?;
    }
    Ok(())
}
