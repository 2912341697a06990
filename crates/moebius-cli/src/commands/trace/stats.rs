//! The figures of traces, by layer, for people and for programs.
//!
//! Invariants: what a trace does not tell is `None`, prints as n/a and is null.

use std::path::{Path, PathBuf};

use moebius::metering::format::{UNKNOWN, percent};
use moebius::trace::{LayerTraceStats, TraceKind, TraceStats};
use moebius::{Error, LayerLoads};
use serde::Serialize;

use crate::args::{OutputArgs, StatsArgs};
use crate::commands::routing::{self, Routing};
use crate::errors::{CliError, Result};
use crate::json;
use crate::table::{Align, Table, facts};
use crate::terminal::{FAINT, print, printable, remark};

/// Pairs of experts that are named for a layer.
const NAMED_PAIRS: usize = 3;

/// A trace that was read.
pub(super) struct Read {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) stats: TraceStats,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    traces: Vec<TraceReport<'a>>,
    /// With several traces: what tells them apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<routing::Report<'a>>,
}

#[derive(Serialize)]
struct TraceReport<'a> {
    file: &'a str,
    kind: &'static str,
    family: Option<&'a str>,
    model: Option<&'a str>,
    program: &'a str,
    token_ids: bool,
    weights: bool,
    tokens: u64,
    sequences: Option<u64>,
    steps: Option<u64>,
    incomplete_bytes: usize,
    layers: Vec<LayerReport<'a>>,
}

#[derive(Serialize)]
struct LayerReport<'a> {
    layer: usize,
    experts: u32,
    k: u32,
    experts_per_token: Option<f64>,
    normalized_entropy: Option<f64>,
    jain_index: Option<f64>,
    max_over_mean: Option<f64>,
    unused: Option<usize>,
    weight_entropy: Option<f64>,
    largest_weight_share: Option<f64>,
    reuse: Option<f64>,
    /// `[experts]`: tokens that chose each.
    counts: &'a [u64],
    pairs: Option<Vec<PairReport>>,
}

#[derive(Serialize)]
struct PairReport {
    experts: [u32; 2],
    tokens: u64,
    lift: f64,
}

/// Prints the figures.
pub(crate) fn stats(args: &StatsArgs, output: &OutputArgs) -> Result<()> {
    let traces = read(&args.files, output)?;
    if args.json.json {
        return print_json(&traces);
    }
    print(&(render(&traces) + &comparison(&traces).map_or(String::new(), |routing| routing.render())))
}

/// Reads the traces, and says of which a part is missing. Several must be of the same layers.
pub(super) fn read(files: &[PathBuf], output: &OutputArgs) -> Result<Vec<Read>> {
    let mut traces: Vec<Read> = Vec::new();
    for path in files {
        let stats = TraceStats::read(path)?;
        let name = printable(&path.display().to_string()).into_owned();
        if stats.incomplete_bytes > 0 {
            let rest = format!("its last {} bytes are no whole record", stats.incomplete_bytes);
            remark(output, &format!("{name} ends early: {rest}"));
        }
        if let Some(first) = traces.first() {
            comparable(&first.stats, (path, &stats))?;
        }
        traces.push(Read { path: path.clone(), name, stats });
    }
    Ok(traces)
}

/// Fails unless a trace can be compared with the first one.
fn comparable(first: &TraceStats, (path, stats): (&Path, &TraceStats)) -> Result<()> {
    let refuse = |reason: String| {
        let hint = "compare traces of one model";
        Err(CliError::Hinted(Error::Trace { path: path.into(), reason }, hint.into()))
    };
    let shape = |stats: &TraceStats| -> Vec<(usize, u32)> {
        stats.header.layers.iter().map(|layer| (layer.layer, layer.experts)).collect()
    };
    if shape(first) != shape(stats) {
        return refuse("expected the layers and experts of the first trace, got others".into());
    }
    if first.tokens == 0 || stats.tokens == 0 {
        return refuse("expected at least one token in each trace to compare".into());
    }
    Ok(())
}

/// What tells several traces apart; `None` for a single one.
pub(super) fn comparison(traces: &[Read]) -> Option<Routing<'_>> {
    let loads = |trace: &Read| -> LayerLoads {
        trace.stats.layers.iter().map(|layer| (layer.layer.layer, layer.load.clone())).collect()
    };
    let loads: Vec<LayerLoads> = traces.iter().map(loads).collect();
    (traces.len() > 1).then(|| Routing::new(traces.iter().map(|trace| trace.name.as_str()).collect(), &loads))
}

/// One object for programs.
pub(super) fn print_json(traces: &[Read]) -> Result<()> {
    let comparison = comparison(traces);
    json::print(&Report {
        traces: traces.iter().map(TraceReport::new).collect(),
        comparison: comparison.as_ref().map(Routing::report),
    })
}

/// Facts and tables, one after the other.
pub(super) fn render(traces: &[Read]) -> String {
    let parts: Vec<String> =
        traces.iter().map(|trace| head(trace) + "\n" + &table(&trace.stats.layers)).collect();
    parts.join("\n")
}

fn head(Read { name, stats, .. }: &Read) -> String {
    let header = &stats.header;
    let held = match (header.kind, header.token_ids, header.weights) {
        (TraceKind::Counts, ..) => "counts of experts alone",
        (TraceKind::Tokens, true, true) => "tokens with ids and weights",
        (TraceKind::Tokens, true, false) => "tokens with ids, without weights",
        (TraceKind::Tokens, false, true) => "tokens without ids, with weights",
        (TraceKind::Tokens, false, false) => "tokens without ids and weights",
    };
    let several = |count: Option<u64>, what: &str| match count {
        None => String::new(),
        Some(1) => format!(", 1 {what}"),
        Some(count) => format!(", {count} {what}s"),
    };
    let family = header.family.as_deref().unwrap_or(UNKNOWN);
    let model =
        header.model.as_deref().map_or(UNKNOWN.into(), |hash| hash.chars().take(16).collect::<String>());
    let tokens =
        format!("{}{}{}", stats.tokens, several(stats.sequences, "sequence"), several(stats.steps, "step"));
    facts(&[
        ("trace", name.clone()),
        ("model", format!("{} ({})", printable(family), printable(&model))),
        ("holds", held.into()),
        ("tokens", tokens),
    ])
}

fn table(layers: &[LayerTraceStats]) -> String {
    let names =
        ["layer", "experts", "k", "used", "entropy", "max/mean", "unused", "weights", "largest", "reuse"];
    let columns: Vec<(&str, Align)> = names.map(|name| (name, Align::Right)).into_iter().collect();
    let mut table = Table::new(&columns);
    let pair_columns = [("layer", Align::Right), ("experts that go together, times chance", Align::Left)];
    let mut together = Table::new(&pair_columns);
    let number = |value: Option<f64>, decimals: usize| {
        value.map_or(UNKNOWN.into(), |value| format!("{value:.decimals$}"))
    };
    for layer in layers {
        let stats = layer.load.stats();
        table.row([
            layer.layer.layer.to_string(),
            layer.layer.experts.to_string(),
            layer.layer.k.to_string(),
            number(layer.experts_per_token, 2),
            number(stats.normalized_entropy, 3),
            number(stats.max_over_mean, 2),
            stats.unused.as_ref().map_or(UNKNOWN.into(), |unused| unused.len().to_string()),
            number(layer.weight_entropy, 3),
            percent(layer.largest_weight_share),
            percent(layer.reuse),
        ]);
        together.row([layer.layer.layer.to_string(), pairs(layer)]);
    }
    let caption =
        "entropy of load and of a token's weights, 1 is even\nreuse: experts that the token before had too";
    format!("{FAINT}{caption}{FAINT:#}\n{}\n{}", table.render(), together.render())
}

/// The strongest pairs, such as `3+17 x4.1`.
fn pairs(layer: &LayerTraceStats) -> String {
    let Some(coactivation) = &layer.coactivation else { return UNKNOWN.into() };
    let strongest = coactivation.strongest(NAMED_PAIRS);
    let named: Vec<String> =
        strongest.iter().map(|pair| format!("{}+{} x{:.1}", pair.first, pair.second, pair.lift)).collect();
    if named.is_empty() { "none".into() } else { named.join("  ") }
}

impl<'a> TraceReport<'a> {
    fn new(trace: &'a Read) -> Self {
        let (stats, header) = (&trace.stats, &trace.stats.header);
        TraceReport {
            file: &trace.name,
            kind: match header.kind {
                TraceKind::Tokens => "tokens",
                TraceKind::Counts => "counts",
            },
            family: header.family.as_deref(),
            model: header.model.as_deref(),
            program: &header.program,
            token_ids: header.token_ids,
            weights: header.weights,
            tokens: stats.tokens,
            sequences: stats.sequences,
            steps: stats.steps,
            incomplete_bytes: stats.incomplete_bytes,
            layers: stats.layers.iter().map(LayerReport::new).collect(),
        }
    }
}

impl<'a> LayerReport<'a> {
    fn new(layer: &'a LayerTraceStats) -> Self {
        const PAIRS: usize = 16;
        let stats = layer.load.stats();
        let pair = |pair: moebius::trace::PairLift| PairReport {
            experts: [pair.first, pair.second],
            tokens: pair.tokens,
            lift: pair.lift,
        };
        LayerReport {
            layer: layer.layer.layer,
            experts: layer.layer.experts,
            k: layer.layer.k,
            experts_per_token: layer.experts_per_token,
            normalized_entropy: stats.normalized_entropy,
            jain_index: stats.jain_index,
            max_over_mean: stats.max_over_mean,
            unused: stats.unused.map(|unused| unused.len()),
            weight_entropy: layer.weight_entropy,
            largest_weight_share: layer.largest_weight_share,
            reuse: layer.reuse,
            counts: layer.load.counts(),
            pairs: layer.coactivation.as_ref().map(|c| c.strongest(PAIRS).into_iter().map(pair).collect()),
        }
    }
}
