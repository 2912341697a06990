//! The curve of quality against compute as a picture.

use std::path::Path;

use super::rows::{Row, Sweep};
use crate::errors::Result;
use crate::plot::{Axis, Chart, Figure, Mark, Note, Point, Scale, Series};

/// The last colour of the palette.
const GREY: usize = 7;

/// A number of a row, where it was measured.
type Value = fn(&Row) -> Option<f64>;

/// Writes three charts: perplexity and divergence against bytes, and speed against experts. A broken line joins the
/// settings that no other one beats in perplexity and bytes.
pub(super) fn write(sweep: &Sweep, path: &Path) -> Result<()> {
    const MEGA: f64 = 1e-6;
    let megabytes: Value = |row| row.bytes_per_token.map(|bytes| MEGA * bytes);
    let bytes = || Axis::new("megabytes read for a generated token", Scale::Linear);
    let above: Value =
        |row| Some(100.0 * row.perplexity_above.unwrap_or(0.0)).filter(|_| row.perplexity.is_some());
    let charts = [
        ("Perplexity", bytes(), Axis::new("above the reference, %", Scale::Linear), (megabytes, above)),
        (
            "Divergence",
            bytes(),
            Axis::new("KL from the reference, nats", Scale::Log10),
            (megabytes, (|row| row.kl_nats) as Value),
        ),
        (
            "Speed",
            Axis::new("experts of a token and layer", Scale::Linear),
            Axis::new("generated tokens a second", Scale::Linear),
            ((|row| row.experts_per_token) as Value, (|row| row.decode_tokens_per_second) as Value),
        ),
    ];
    let mut notes = Vec::new();
    let mut drawn = Vec::new();
    for (title, x, y, values) in charts {
        let (series, labels) = series(sweep, values);
        drawn.push(Chart { title: title.into(), x, y, series });
        notes.push(labels);
    }
    let best = sweep.rows.iter().filter(|row| row.best);
    let mut points: Vec<Point> =
        best.filter_map(|row| Some(Point::new(megabytes(row)?, above(row)?))).collect();
    points.sort_by(|a, b| a.x.total_cmp(&b.x));
    drawn[0].series.insert(0, Series { name: "best".into(), color: GREY, mark: Mark::Theory, points });
    let scored = sweep.rows.first().map_or(0, Row::scored);
    let names: Vec<String> = sweep.texts.iter().map(|text| file_name(text)).collect();
    let figure = Figure {
        title: format!("Quality against compute: {} ({})", file_name(&sweep.model), sweep.family),
        subtitle: format!("{scored} tokens of {}; k: experts a token, t: threshold", names.join(", ")),
        charts: drawn,
        columns: 2,
    };
    figure.write_noted(path, &notes)
}

/// A path without its directories.
fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or(path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// A line through the numbers of experts for each format and threshold, and the names of its points.
fn series(sweep: &Sweep, (x, y): (Value, Value)) -> (Vec<Series>, Vec<Note>) {
    let mut names: Vec<String> = Vec::new();
    for row in &sweep.rows {
        if !names.contains(&row.line()) {
            names.push(row.line());
        }
    }
    let in_order = |rows: Vec<&Row>| {
        let point = |row: &Row| Some(Point::new(x(row)?, y(row)?));
        let mut points: Vec<(Point, String)> =
            rows.into_iter().filter_map(|row| Some((point(row)?, row.point()))).collect();
        points.sort_by(|a, b| a.0.x.total_cmp(&b.0.x));
        points
    };
    let mut notes: Vec<Note> = Vec::new();
    let mut all = Vec::new();
    for (color, name) in names.into_iter().enumerate() {
        let points = in_order(sweep.rows.iter().filter(|row| row.line() == name).collect());
        for (at, text) in &points {
            // Where points coincide, such as thresholds of a single expert, one name is enough.
            if !notes.iter().any(|note| note.at == *at && note.text == *text) {
                notes.push(Note { at: *at, text: text.clone() });
            }
        }
        let points = points.into_iter().map(|(point, _)| point).collect();
        all.push(Series { name, color, mark: Mark::Measured, points });
    }
    (all, notes)
}
