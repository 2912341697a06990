//! Time against the experts of a token, and against the batch, beside what operations and bytes allow.

use moebius::bench::{LayerRow, Quartiles, Timed, expected_distinct};

use super::Measured;
use super::rows::{ideal, label};
use crate::plot::{Axis, Chart, Figure, Mark, Point, Scale, Series};

/// Points of a curve that is known everywhere.
const CURVE_STEPS: u32 = 48;

/// Two charts for every layer.
pub(super) fn figure(all: &[Measured]) -> Figure {
    let title = match all.first() {
        Some(Measured { plan, .. }) => format!(
            "One layer of {} experts of {} x {}: sparse and dense",
            plan.n_experts, plan.hidden, plan.ffn
        ),
        None => "no layer was measured".into(),
    };
    let subtitle = all.first().map_or(String::new(), |Measured { setting, .. }| {
        let cpu = setting.cpu.as_deref().unwrap_or("an unnamed processor");
        format!(
            "moebius {}, {} kernels on {cpu}; medians with quartiles",
            env!("CARGO_PKG_VERSION"),
            setting.kernels
        )
    });
    let charts = all.iter().flat_map(|measured| [against_k(measured), against_batch(measured)]).collect();
    Figure { title, subtitle, charts, columns: 2 }
}

fn named(measured: &Measured, what: &str) -> String {
    let Measured { plan, setting, .. } = measured;
    format!("Time against {what}: {}, {}, -t {}", plan.format.name(), label(plan), setting.threads)
}

/// The time of each number of tokens, and k/E of that of all experts.
fn against_k(measured: &Measured) -> Chart {
    let mut series = Vec::new();
    for (color, row) in measured.rows.iter().enumerate() {
        let all = median(&row.iso_total);
        let ideals = row.cells.iter().map(|cell| (cell.top_k as f64, ideal(cell, row)));
        let ideals = ideals.chain([(row.n_experts as f64, 1.0)]);
        let ideals = ideals.filter_map(|(k, share)| Some(Point::new(k, share * all?))).collect();
        series.push(Series {
            name: if color == 0 { "k/E of all experts".into() } else { String::new() },
            color,
            mark: Mark::Theory,
            points: ideals,
        });
        let sparse = row.cells.iter().filter_map(|cell| point(cell.top_k as f64, &cell.sparse));
        let total = point(row.n_experts as f64, &row.iso_total);
        series.push(Series {
            name: count(row.tokens, "token"),
            color,
            mark: Mark::Measured,
            points: sparse.chain(total).collect(),
        });
    }
    Chart {
        title: named(measured, "experts of a token"),
        x: Axis::new("experts of a token, k (the last is all of them: iso-total)", Scale::Log2),
        y: Axis::new("milliseconds", Scale::Log10),
        series,
    }
}

/// The time of each k and of both twins. Bytes: what the experts that chance touches take of the time of all, as with
/// the fewest tokens.
fn against_batch(measured: &Measured) -> Chart {
    let rows = &measured.rows;
    let mut series = Vec::new();
    let cells = rows.first().map_or(0, |row| row.cells.len());
    for color in 0..cells {
        let at =
            |value: &dyn Fn(&LayerRow) -> Option<Point>| rows.iter().filter_map(value).collect::<Vec<_>>();
        let top_k = rows[0].cells[color].top_k;
        let expert = median(&rows[0].iso_total).map(|all| all / rows[0].n_experts as f64);
        let name = |name: &str| if color == 0 { name.to_owned() } else { String::new() };
        let ends = [rows.first(), rows.last()].map(|row| row.map_or(1.0, |row| row.tokens as f64));
        let by_chance = (0..=CURVE_STEPS).filter_map(|step| {
            let tokens = ends[0] * (ends[1] / ends[0]).powf(f64::from(step) / f64::from(CURVE_STEPS));
            Some(Point::new(tokens, expected_distinct(rows[0].n_experts, top_k, tokens) * expert?))
        });
        series.push(Series {
            name: name("N(1-(1-k/N)^B) experts"),
            color,
            mark: Mark::Theory,
            points: by_chance.collect(),
        });
        series.push(Series {
            name: format!("k {top_k}"),
            color,
            mark: Mark::Measured,
            points: at(&|row| point(row.tokens as f64, &row.cells[color].sparse)),
        });
        series.push(Series {
            name: format!("iso-active of k {top_k}"),
            color,
            mark: Mark::Points,
            points: at(&|row| point(row.tokens as f64, &row.cells[color].iso_active)),
        });
    }
    series.push(Series {
        name: "all experts (iso-total)".into(),
        color: cells.max(6),
        mark: Mark::Measured,
        points: rows.iter().filter_map(|row| point(row.tokens as f64, &row.iso_total)).collect(),
    });
    Chart {
        title: named(measured, "the batch"),
        x: Axis::new("tokens of the batch, B", Scale::Log2),
        y: Axis::new("milliseconds", Scale::Log10),
        series,
    }
}

fn median(timed: &Timed) -> Option<f64> {
    timed.millis().map(|quartiles| quartiles.median)
}

fn point(x: f64, timed: &Timed) -> Option<Point> {
    let Quartiles { low, median, high } = timed.millis()?;
    Some(Point { x, y: median, spread: Some((low, high)) })
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
