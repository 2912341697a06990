//! Traces as SVG.

use std::path::Path;

use moebius::metering::format::UNKNOWN;
use moebius::trace::LayerTraceStats;
use serde::Serialize;

use super::stats::{self, Read};
use crate::args::{OutputArgs, PlotArgs, PlotWhat};
use crate::commands::routing::short_names;
use crate::errors::{CliError, Result};
use crate::heat::{Grid, Words};
use crate::json;
use crate::terminal::{printable, remark};

/// What was written.
#[derive(Serialize)]
struct Report {
    file: String,
    /// Of the grid.
    rows: usize,
    columns: usize,
    bytes: u64,
}

/// Writes the picture.
pub(crate) fn plot(args: &PlotArgs, output: &OutputArgs) -> Result<()> {
    let traces = stats::read(&args.files, output)?;
    let (grid, words) = match (args.what, &traces[..]) {
        (PlotWhat::Load, [first, second]) => ratio(first, second),
        (PlotWhat::Load, [trace, ..]) => load(trace),
        (PlotWhat::Pairs, [trace]) => pairs(trace, args.layer)?,
        _ => {
            return Err(CliError::usage(
                "pairs are drawn of one trace",
                "give one file, or leave out --what",
            ));
        }
    };
    let bytes = grid.write_svg(&args.output, &words)?;
    let file = printable(&args.output.display().to_string()).into_owned();
    remark(output, &format!("wrote {file}"));
    if !args.json.json {
        return Ok(());
    }
    let columns = grid.rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
    json::print(&Report { file, rows: grid.rows.len(), columns, bytes })
}

fn load(trace: &Read) -> (Grid, Words) {
    let row = |layer: &LayerTraceStats| {
        let cells =
            shares(layer).into_iter().map(|share| share.map(|share| share * layer.layer.experts as f64));
        (format!("L{}", layer.layer.layer), cells.collect())
    };
    let words = Words {
        title: "Load of each expert by layer".into(),
        subtitle: subtitle(&[trace]),
        unit: "times an even load; columns are experts".into(),
    };
    (Grid { rows: trace.stats.layers.iter().map(row).collect() }, words)
}

/// The second trace's shares over the first one's.
fn ratio(first: &Read, second: &Read) -> (Grid, Words) {
    let row = |(a, b): (&LayerTraceStats, &LayerTraceStats)| {
        let cell = |(a, b): (Option<f64>, Option<f64>)| match (a?, b?) {
            (0.0, 0.0) => None,
            (a, b) => Some(b / a.max(f64::MIN_POSITIVE)).map(|ratio| ratio.min(1e9)),
        };
        (format!("L{}", a.layer.layer), shares(a).into_iter().zip(shares(b)).map(cell).collect())
    };
    let names = short_names(&[first.name.as_str(), second.name.as_str()]);
    let words = Words {
        title: format!("Load of {} over {}", names[1], names[0]),
        subtitle: subtitle(&[first, second]),
        unit: format!("share of an expert in {} over that in {}; columns are experts", names[1], names[0]),
    };
    (Grid { rows: first.stats.layers.iter().zip(&second.stats.layers).map(row).collect() }, words)
}

fn pairs(trace: &Read, layer: Option<usize>) -> Result<(Grid, Words)> {
    let wanted = |stats: &&LayerTraceStats| layer.is_none_or(|layer| layer == stats.layer.layer);
    let Some(stats) = trace.stats.layers.iter().find(wanted) else {
        let message = format!("the trace has no layer {}", layer.unwrap_or(0));
        return Err(CliError::usage(message, "`moebius trace stats` lists the layers"));
    };
    let Some(pairs) = &stats.coactivation else {
        let message = "the trace does not tell which experts go together";
        return Err(CliError::usage(message, "draw a trace of tokens, of at most 512 experts a layer"));
    };
    let n_experts = stats.layer.experts as usize;
    let cell = |a: usize, b: usize| if a == b { None } else { pairs.lift(a, b) };
    let row = |a: usize| (format!("e{a}"), (0..n_experts).map(|b| cell(a, b)).collect());
    let words = Words {
        title: format!("Pairs of experts in layer {}", stats.layer.layer),
        subtitle: subtitle(&[trace]),
        unit: "times as often together as by chance; rows and columns are experts".into(),
    };
    Ok((Grid { rows: (0..n_experts).map(row).collect() }, words))
}

/// `[experts]`: the share of each in the layer's load.
fn shares(layer: &LayerTraceStats) -> Vec<Option<f64>> {
    match layer.load.stats().shares {
        Some(shares) => shares.into_iter().map(Some).collect(),
        None => vec![None; layer.load.counts().len()],
    }
}

fn subtitle(traces: &[&Read]) -> String {
    let part = |trace: &&Read| {
        let name = Path::new(&trace.name)
            .file_name()
            .map_or(trace.name.clone(), |n| n.to_string_lossy().into_owned());
        format!("{name}: {} tokens", trace.stats.tokens)
    };
    let family = traces[0].stats.header.family.as_deref().unwrap_or(UNKNOWN);
    format!("{} · {}", printable(family), traces.iter().map(part).collect::<Vec<_>>().join(" · "))
}
