//! Figures on plotters' SVG canvas.
//!
//! Coordinates are those of [`Scale`](super::Scale): the canvas only knows linear axes, and ticks are labelled here.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Axis, Chart, Figure, Mark, Note, Point, Series};

/// Of one chart with its legend, in pixels.
const CHART: (u32, u32) = (660, 430);
/// Of the legend beside it.
const LEGEND_WIDTH: u32 = 190;
const HEAD_HEIGHT: u32 = 62;
const LINE_HEIGHT: i32 = 18;
/// Of the words beside a point.
const NOTE_HEIGHT: i32 = 11;

/// Colours that people with any colour vision can tell apart (Okabe and Ito), and a grey for what comes after.
const PALETTE: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
];

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Failure<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

/// The text of an SVG file.
pub(super) fn svg(figure: &Figure, notes: &[Vec<Note>]) -> Result<String, Box<dyn std::error::Error>> {
    let columns = figure.columns.clamp(1, figure.charts.len().max(1));
    let rows = figure.charts.len().div_ceil(columns).max(1);
    let size = (CHART.0 * columns as u32, HEAD_HEIGHT + CHART.1 * rows as u32);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(HEAD_HEIGHT);
        let fit = |text: &str, height: f64| shortened(text, size.0 as f64 - 40.0, height);
        head.draw(&Text::new(fit(&figure.title, 20.0), (20, 14), font(20)))?;
        let grey = font(13).color(&RGBColor(90, 90, 90));
        head.draw(&Text::new(fit(&figure.subtitle, 13.0), (20, 40), grey))?;
        for (index, (chart, area)) in figure.charts.iter().zip(body.split_evenly((rows, columns))).enumerate()
        {
            draw_chart(chart, notes.get(index).map_or(&[], Vec::as_slice), &area)?;
        }
        root.present()?;
    }
    Ok(text)
}

fn font(height: i32) -> TextStyle<'static> {
    ("sans-serif", height).into_font().color(&BLACK)
}

/// About how wide a letter is: a viewer's font is unknown, and a sans-serif letter is half as wide as high.
fn letter_width(height: f64) -> f64 {
    0.52 * height
}

/// A text cut to about `width` pixels.
fn shortened(text: &str, width: f64, height: f64) -> String {
    let fits = (width / letter_width(height)) as usize;
    match text.chars().count() > fits {
        true => text.chars().take(fits.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

fn draw_chart<'a>(chart: &Chart, notes: &[Note], area: &Canvas<'a>) -> Result<(), Failure<'a>> {
    let (body, legend) = area.split_horizontally(CHART.0 - LEGEND_WIDTH);
    let points = || chart.series.iter().flat_map(|series| &series.points);
    let ends = |point: &Point| point.spread.map_or([point.y; 2], |(low, high)| [low, high]);
    let x_range = chart.x.scale.range(points().map(|point| point.x));
    let y_range = chart.y.scale.range(points().flat_map(|p| ends(p).into_iter().chain([p.y])));
    let (Some(x_range), Some(y_range)) = (x_range, y_range) else {
        area.draw(&Text::new(chart.title.clone(), (20, 10), font(15)))?;
        return area.draw(&Text::new("nothing to show", (20, 40), font(13)));
    };
    let mut context = ChartBuilder::on(&body)
        .caption(shortened(&chart.title, (CHART.0 - LEGEND_WIDTH) as f64, 15.0), font(15))
        .margin(10)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(Ticked::new(&chart.x, x_range), Ticked::new(&chart.y, y_range))?;
    context
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(RGBColor(90, 90, 90))
        .x_desc(&chart.x.label)
        .y_desc(&chart.y.label)
        .axis_desc_style(font(13))
        .label_style(font(12))
        .x_label_formatter(&|at| chart.x.scale.label(*at))
        .y_label_formatter(&|at| chart.y.scale.label(*at))
        .draw()?;
    for series in &chart.series {
        let at = |x: f64, y: f64| Some((chart.x.scale.coordinate(x)?, chart.y.scale.coordinate(y)?));
        let color = color(series);
        let placed: Vec<(f64, f64)> = series.points.iter().filter_map(|p| at(p.x, p.y)).collect();
        match series.mark {
            Mark::Theory => {
                context.draw_series(DashedLineSeries::new(placed, 6, 4, color.stroke_width(1)))?;
            }
            Mark::Measured => {
                context.draw_series(LineSeries::new(placed.iter().copied(), color.stroke_width(2)))?;
                let spreads = series.points.iter().filter_map(|point| {
                    let (low, high) = point.spread?;
                    Some(PathElement::new(vec![at(point.x, low)?, at(point.x, high)?], color.stroke_width(1)))
                });
                context.draw_series(spreads)?;
                context.draw_series(placed.iter().map(|&at| Circle::new(at, 3, color.filled())))?;
            }
            Mark::Points => {
                context.draw_series(placed.iter().map(|&at| Circle::new(at, 3, color.filled())))?;
            }
        }
    }
    let places = notes.iter().filter_map(|Note { at, text }| {
        Some(((chart.x.scale.coordinate(at.x)?, chart.y.scale.coordinate(at.y)?), text))
    });
    let mut taken: Vec<Label> = Vec::new();
    for (place, text) in places {
        let pixel = context.plotting_area().map_coordinate(&place);
        let Some(label) = Label::beside(pixel, text, &taken) else { continue };
        let at = (label.left - pixel.0, label.top - pixel.1);
        let words = Text::new(text.clone(), at, font(NOTE_HEIGHT).color(&RGBColor(90, 90, 90)));
        context.plotting_area().draw(&(EmptyElement::at(place) + words))?;
        taken.push(label);
    }
    draw_legend(&chart.series, &legend)
}

/// Where the words of a note stand, in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label {
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) width: i32,
}

impl Label {
    /// A place for `text` beside a point, above or below it, that no other one takes; `None` if there is none: the point
    /// is then left without words, which nobody could read.
    pub(super) fn beside((x, y): (i32, i32), text: &str, taken: &[Label]) -> Option<Label> {
        let width = (letter_width(f64::from(NOTE_HEIGHT)) * text.chars().count() as f64).ceil() as i32;
        let (right, left) = (x + 6, x - 6 - width);
        let (above, below) = (y - 14, y + 4);
        let places = [(right, above), (right, below), (left, above), (left, below)];
        let places = places.map(|(left, top)| Label { left, top, width });
        places.into_iter().find(|place| !taken.iter().any(|other| place.overlaps(other)))
    }

    pub(super) fn overlaps(&self, other: &Label) -> bool {
        let across = self.left < other.left + other.width && other.left < self.left + self.width;
        across && (self.top - other.top).abs() < NOTE_HEIGHT
    }
}

fn draw_legend<'a>(series: &[Series], area: &Canvas<'a>) -> Result<(), Failure<'a>> {
    let named = series.iter().filter(|series| !series.name.is_empty());
    for (line, series) in (0..).zip(named) {
        let (y, color) = (36 + LINE_HEIGHT * line, color(series));
        match series.mark {
            Mark::Theory => {
                for start in [0, 10, 20] {
                    let dash = vec![(start, y), (start + 6, y)];
                    area.draw(&PathElement::new(dash, color.stroke_width(1)))?;
                }
            }
            Mark::Measured => {
                area.draw(&PathElement::new(vec![(0, y), (26, y)], color.stroke_width(2)))?;
                area.draw(&Circle::new((13, y), 3, color.filled()))?;
            }
            Mark::Points => area.draw(&Circle::new((13, y), 3, color.filled()))?,
        }
        let style = font(12).pos(Pos::new(HPos::Left, VPos::Center));
        let name = shortened(&series.name, f64::from(LEGEND_WIDTH) - 36.0, 12.0);
        area.draw(&Text::new(name, (32, y), style))?;
    }
    Ok(())
}

fn color(series: &Series) -> RGBColor {
    PALETTE[series.color.min(PALETTE.len() - 1)]
}

/// An axis for plotters: linear, with ticks where our scale wants them.
#[derive(Clone)]
struct Ticked {
    range: (f64, f64),
    ticks: Vec<f64>,
}

impl Ticked {
    fn new(axis: &Axis, range: (f64, f64)) -> Self {
        Ticked { range, ticks: axis.scale.ticks(range) }
    }
}

impl Ranged for Ticked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.0) / (self.range.1 - self.range.0).max(f64::MIN_POSITIVE);
        from + (share * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.range.0..self.range.1
    }
}
