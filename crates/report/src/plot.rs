//! Plots as SVG with a text for those who do not see them, and their numbers as a table.
use std::ops::Range;

use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::Table;

/// The size of a plot; a page scales it to its own width.
const SIZE: (u32, u32) = (520, 280);
/// The most rows of a plot's table: beyond them every second, third, ... is shown.
const MOST_ROWS: usize = 400;

/// A plot.
#[derive(Debug, Clone, PartialEq)]
pub enum Plot {
    /// Lines over a common axis.
    Lines(Lines),
    /// Points in a plane, each with a name.
    Points(Points),
    /// How often values are in each of some ranges of equal length.
    Histogram(Histogram),
    /// A length for each of some names.
    Bars(Bars),
}

/// Lines over a common axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// What the plot shows.
    pub caption: String,
    /// The names of the axes, with their units.
    pub axes: [String; 2],
    /// The lines.
    pub series: Vec<Series>,
}

/// A line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its points, from left to right. Those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// Points in a plane, each with a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Points {
    /// What the plot shows.
    pub caption: String,
    /// The names of the axes, with their units.
    pub axes: [String; 2],
    /// The points: name and place. Those that are not finite are left out.
    pub points: Vec<(String, [f64; 2])>,
}

/// How often values are in each of some ranges of equal length.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// What the plot shows.
    pub caption: String,
    /// The name of the values, with their unit.
    pub axis: String,
    /// The first range's lower end and the last one's upper end.
    pub range: [f64; 2],
    /// The number of values in each range.
    pub counts: Vec<u64>,
}

/// A length for each of some names. Lengths begin at 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// What the plot shows, and in which unit.
    pub caption: String,
    /// Name, length, and the text at the bar's end.
    pub bars: Vec<(String, f64, String)>,
}

/// The colours that plotters writes stand for those of the page: `(what it draws with, what the page calls it)`.
const TEXT: (RGBColor, &str) = (RGBColor(1, 0, 0), "var(--text)");
const GRID: (RGBColor, &str) = (RGBColor(2, 0, 0), "var(--line)");
const SERIES: [(RGBColor, &str); 4] = [
    (RGBColor(3, 0, 0), "var(--s0)"),
    (RGBColor(4, 0, 0), "var(--s1)"),
    (RGBColor(5, 0, 0), "var(--s2)"),
    (RGBColor(6, 0, 0), "var(--s3)"),
];

/// The marks that [`mark`] draws, as text.
const MARKS: [&str; 4] = ["●", "▲", "✕", "○"];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

impl Plot {
    pub(crate) fn markup(&self) -> Markup {
        match self {
            Self::Lines(lines) => lines.markup(),
            Self::Points(points) => points.markup(),
            Self::Histogram(histogram) => histogram.markup(),
            Self::Bars(bars) => bars.markup(),
        }
    }
}

/// A drawing with its caption, the names of its lines and its numbers; without a drawing where there is nothing to draw.
fn figure(caption: &str, svg: Option<&str>, key: &[&str], numbers: &Table) -> Markup {
    html! {
        figure.plot {
            @match svg {
                Some(svg) => div role="img" aria-label=(caption) { (PreEscaped(svg)) },
                None => p { "nothing to draw" },
            }
            figcaption {
                (caption)
                @if key.len() > 1 {
                    ul.key { @for (i, name) in key.iter().enumerate() {
                        li { span style=(format!("color:{}", SERIES[i % SERIES.len()].1)) aria-hidden="true" { (MARKS[i % MARKS.len()]) " " } (name) }
                    } }
                }
            }
            @if !numbers.is_empty() { details { summary { "the numbers" } (numbers.markup()) } }
        }
    }
}

/// Draws, and gives the page's colours to what was drawn.
fn svg(draw: impl for<'b> FnOnce(&Area<'b>) -> Drawn) -> Option<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        draw(&area).and_then(|()| area.present()).ok()?;
    }
    for (RGBColor(r, g, b), name) in [TEXT, GRID].into_iter().chain(SERIES) {
        let attribute = |what: &str| format!("{what}=\"#{r:02X}{g:02X}{b:02X}\"");
        for what in ["stroke", "fill"] {
            text = text.replace(&attribute(what), &format!("{what}=\"{name}\""));
        }
    }
    // Its size is the page's affair.
    let (width, height) = SIZE;
    Some(text.replacen(&format!("width=\"{width}\" height=\"{height}\" "), "", 1))
}

/// Draws axes, and what `draw` draws in the chart.
fn chart<'b>(
    area: &Area<'b>,
    [x, y]: [Range<f64>; 2],
    axes: [&str; 2],
    draw: impl FnOnce(&mut Chart<'_, 'b>) -> Drawn,
) -> Drawn {
    let digits = |range: &Range<f64>| {
        let length = (range.end - range.start).abs();
        let places = (2.0 - length.log10().floor()).clamp(0.0, 8.0) as usize;
        move |v: &f64| {
            let text = format!("{v:.places$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
    };
    let (x_text, y_text) = (digits(&x), digits(&y));
    let mut chart =
        ChartBuilder::on(area).margin(12).x_label_area_size(44).y_label_area_size(64).build_cartesian_2d(x, y)?;
    let style = ("sans-serif", 14).into_font().color(&TEXT.0);
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.0)
        .axis_style(TEXT.0)
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&x_text)
        .y_label_formatter(&y_text)
        .x_desc(axes[0])
        .y_desc(axes[1])
        .label_style(style.clone())
        .axis_desc_style(style)
        .draw()?;
    draw(&mut chart)
}

/// The range of some values, a little wider; `None` without a value.
fn around(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let margin = if high > low { 0.05 * (high - low) } else { 0.01 * high.abs().max(1.0) };
    (low <= high).then_some(low - margin..high + margin)
}

/// Draws a mark; series differ by its shape and not by colour alone.
fn mark(chart: &Chart<'_, '_>, series: usize, at: (f64, f64)) -> Drawn {
    let colour = SERIES[series % SERIES.len()].0;
    let plane = chart.plotting_area();
    match series % SERIES.len() {
        0 => plane.draw(&Circle::new(at, 3, colour.filled())),
        1 => plane.draw(&TriangleMarker::new(at, 5, colour.filled())),
        2 => plane.draw(&Cross::new(at, 4, colour.stroke_width(2))),
        _ => plane.draw(&Circle::new(at, 4, colour.stroke_width(2))),
    }
}

fn short(v: f64) -> String {
    let text = format!("{v:.4}");
    if v != 0.0 && (v.abs() < 1e-3 || v.abs() >= 1e7) { format!("{v:.3e}") } else { text }
}

impl Lines {
    fn markup(&self) -> Markup {
        let finite = |series: &Series| -> Vec<(f64, f64)> {
            series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
        };
        let lines: Vec<(&str, Vec<(f64, f64)>)> = self.series.iter().map(|s| (s.name.as_str(), finite(s))).collect();
        let all = || lines.iter().flat_map(|(_, points)| points.iter().copied());
        let ranges = around(all().map(|(x, _)| x)).zip(around(all().map(|(_, y)| y)));
        let drawn = ranges.and_then(|(x, y)| {
            svg(|area| {
                chart(area, [x, y], [&self.axes[0], &self.axes[1]], |chart| {
                    for (i, (_, points)) in lines.iter().enumerate() {
                        let colour = SERIES[i % SERIES.len()].0;
                        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
                        // Few marks: they name the line, and do not hide it.
                        let every = points.len().div_ceil(12).max(1);
                        for &at in points.iter().step_by(every) {
                            mark(chart, i, at)?;
                        }
                    }
                    Ok(())
                })
            })
        });
        let mut numbers = Table::new(["line", self.axes[0].as_str(), self.axes[1].as_str()]);
        for (name, points) in &lines {
            for &(x, y) in points.iter().step_by(points.len().div_ceil(MOST_ROWS).max(1)) {
                numbers.row([(*name).to_owned(), short(x), short(y)]);
            }
        }
        let key: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
        figure(&self.caption, drawn.as_deref(), &key, &numbers)
    }
}

impl Points {
    fn markup(&self) -> Markup {
        let points: Vec<(&str, [f64; 2])> = self
            .points
            .iter()
            .filter(|(_, at)| at.iter().all(|v| v.is_finite()))
            .map(|(name, at)| (name.as_str(), *at))
            .collect();
        let along = |axis: usize| around(points.iter().map(move |(_, at)| at[axis]));
        let drawn = along(0).zip(along(1)).and_then(|(x, y)| {
            // Room for the names, which stand to the right of their points.
            let x = x.start..x.end + 0.25 * (x.end - x.start);
            svg(|area| {
                chart(area, [x, y], [&self.axes[0], &self.axes[1]], |chart| {
                    for (name, at) in &points {
                        let at = (at[0], at[1]);
                        mark(chart, 0, at)?;
                        let style = ("sans-serif", 14).into_font().color(&TEXT.0);
                        let label = EmptyElement::at(at) + Text::new((*name).to_owned(), (7, -7), style);
                        chart.plotting_area().draw(&label)?;
                    }
                    Ok(())
                })
            })
        });
        let mut numbers = Table::new(["name", self.axes[0].as_str(), self.axes[1].as_str()]);
        points.iter().for_each(|(name, [x, y])| numbers.row([(*name).to_owned(), short(*x), short(*y)]));
        figure(&self.caption, drawn.as_deref(), &[], &numbers)
    }
}

impl Histogram {
    fn markup(&self) -> Markup {
        let [low, high] = self.range;
        let width = (high - low) / self.counts.len().max(1) as f64;
        let edges = |i: usize| [low + width * i as f64, low + width * (i + 1) as f64];
        let most = self.counts.iter().copied().max().unwrap_or(0);
        let drawn = (most > 0 && width > 0.0 && width.is_finite()).then(|| {
            svg(|area| {
                chart(area, [low..high, 0.0..most as f64 * 1.05], [&self.axis, "count"], |chart| {
                    let bars = self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(i, &count)| {
                        let [from, to] = edges(i);
                        Rectangle::new([(from, 0.0), (to, count as f64)], SERIES[0].0.filled())
                    });
                    chart.draw_series(bars).map(drop)
                })
            })
        });
        let mut numbers = Table::new(["from", "to", "count"]);
        for (i, &count) in self.counts.iter().enumerate() {
            let [from, to] = edges(i);
            numbers.row([short(from), short(to), count.to_string()]);
        }
        figure(&self.caption, drawn.flatten().as_deref(), &[], &numbers)
    }
}

impl Bars {
    /// Bars are text with a length beside it, which needs no drawing: it wraps on a telephone, and is read as it stands.
    fn markup(&self) -> Markup {
        let longest = self.bars.iter().map(|(_, length, _)| *length).filter(|v| v.is_finite()).fold(0.0, f64::max);
        let percent = |length: f64| match longest > 0.0 && length.is_finite() {
            true => (100.0 * length / longest).clamp(0.0, 100.0),
            false => 0.0,
        };
        html! {
            figure {
                figcaption { (self.caption) }
                dl.bars {
                    @for (name, length, text) in &self.bars {
                        dt { (name) }
                        dd {
                            span.track { span.bar style=(format!("display:block;width:{:.1}%", percent(*length))) {} }
                            span { (text) }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(points: Vec<(f64, f64)>) -> String {
        let series = ["one & two", "b"].map(|name| Series { name: name.to_owned(), points: points.clone() });
        let axes = ["step".to_owned(), "loss".to_owned()];
        Plot::Lines(Lines { caption: "the loss".to_owned(), axes, series: series.to_vec() }).markup().into_string()
    }

    #[test]
    fn a_plot_has_the_pages_colours_a_text_and_its_numbers() {
        let html = lines(vec![(0.0, 1.0), (1.0, 0.5), (2.0, f64::NAN)]);
        assert!(html.contains("role=\"img\" aria-label=\"the loss\""), "{html}");
        assert!(html.contains("stroke=\"var(--s0)\"") && html.contains("fill=\"var(--text)\""), "{html}");
        assert!(!html.contains("\"#0"), "no colour of its own: {html}");
        assert!(html.contains("one &amp; two") && !html.contains("NaN"), "{html}");
        assert_eq!(html.matches("<td class=\"number\">0.5000</td>").count(), 2, "{html}");
    }

    #[test]
    fn nothing_and_one_point_are_no_trouble() {
        assert!(lines(Vec::new()).contains("nothing to draw"));
        assert!(lines(vec![(3.0, 0.0)]).contains("<svg"));
        assert!(lines(vec![(f64::INFINITY, 0.0)]).contains("nothing to draw"));
        let axes = ["MB".to_owned(), "%".to_owned()];
        let points = vec![("<a>".to_owned(), [1.0, 2.0])];
        let html = Plot::Points(Points { caption: String::new(), axes, points }).markup().into_string();
        assert!(html.contains("&lt;a&gt;") && !html.contains("<a>"), "{html}");
    }

    #[test]
    fn a_histogram_has_a_bar_for_each_range_that_holds_values() {
        let of = |counts: Vec<u64>| {
            let (caption, axis) = ("codes".to_owned(), "code".to_owned());
            Plot::Histogram(Histogram { caption, axis, range: [-8.0, 8.0], counts }).markup().into_string()
        };
        let html = of(vec![0, 5, 9, 0]);
        assert_eq!(html.matches("<rect").count(), 2, "{html}");
        assert!(html.contains("<td class=\"number\">-4.0000</td>"), "{html}");
        assert!(of(vec![0, 0]).contains("nothing to draw"));
        assert!(of(Vec::new()).contains("nothing to draw"));
    }

    #[test]
    fn bars_are_parts_of_the_longest() {
        let bars = vec![("a".to_owned(), 4.0, "4 dB".to_owned()), ("b".to_owned(), 1.0, "1 dB".to_owned())];
        let html = Plot::Bars(Bars { caption: "SQNR".to_owned(), bars }).markup().into_string();
        assert!(html.contains("width:100.0%") && html.contains("width:25.0%"), "{html}");
        let none = Plot::Bars(Bars { caption: "x".to_owned(), bars: vec![("a".to_owned(), f64::NAN, "-".to_owned())] });
        assert!(none.markup().into_string().contains("width:0.0%"));
    }
}
