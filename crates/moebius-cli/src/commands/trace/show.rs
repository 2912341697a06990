//! A trace on the terminal: heatmaps, figures by layer, and the routes of some tokens.

use moebius::text::Tokenizer;
use moebius::trace::{LayerTraceStats, TokenRoutes, TraceReader, TraceRecord, fingerprint};
use moebius::{Error, LayerRoute, Needs};

use super::stats::{self, Read};
use crate::args::{OutputArgs, ShowTraceArgs};
use crate::commands::model_dir;
use crate::errors::{CliError, Result};
use crate::heat::{Grid, Ramp};
use crate::route_strip::RouteStrip;
use crate::terminal::{FAINT, print};

/// Draws traces.
pub(crate) fn show(args: &ShowTraceArgs, output: &OutputArgs) -> Result<()> {
    let traces = stats::read(&args.files, output)?;
    if args.json.json {
        return stats::print_json(&traces);
    }
    let mut text = stats::render(&traces);
    for trace in &traces {
        text += &load_map(trace);
    }
    if let Some(layer) = args.layer {
        for trace in &traces {
            text += &pair_map(trace, layer)?;
        }
    }
    if let Some(comparison) = stats::comparison(&traces) {
        text += &comparison.render();
        return print(&text);
    }
    let trace = &traces[0];
    text += &strips(trace, args, output)?;
    print(&text)
}

/// Layers by experts: each load over what an even one would be.
fn load_map(trace: &Read) -> String {
    let row = |layer: &LayerTraceStats| {
        let counts = layer.load.counts();
        let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        let cells = counts.iter().map(|&count| (mean > 0.0).then(|| count as f64 / mean)).collect();
        (format!("L{}", layer.layer.layer), cells)
    };
    let caption = format!("load of each expert in {}, times an even one", trace.name);
    let grid = Grid { rows: trace.stats.layers.iter().map(row).collect() };
    format!("\n{FAINT}{caption}\n{}{FAINT:#}\n{}", Ramp::LEGEND, grid.render())
}

/// Experts by experts of a layer: how much more often than by chance they go together.
fn pair_map(trace: &Read, layer: usize) -> Result<String> {
    let found = trace.stats.layers.iter().find(|stats| stats.layer.layer == layer);
    let Some(stats) = found else {
        let layers: Vec<String> =
            trace.stats.layers.iter().map(|stats| stats.layer.layer.to_string()).collect();
        let message = format!("the trace has no layer {layer}");
        let reason = format!("{message}: expected one of {}", layers.join(", "));
        return Err(CliError::usage(reason, "`moebius trace stats` lists the layers"));
    };
    let Some(pairs) = &stats.coactivation else {
        return Ok("\nThe trace does not tell which experts go together.\n".into());
    };
    let n_experts = stats.layer.experts as usize;
    let cell = |a: usize, b: usize| if a == b { None } else { pairs.lift(a, b) };
    let row = |a: usize| (format!("e{a}"), (0..n_experts).map(|b| cell(a, b)).collect());
    let grid = Grid { rows: (0..n_experts).map(row).collect() };
    let caption = format!("pairs of experts in layer {layer} of {}, times chance", trace.name);
    Ok(format!("\n{FAINT}{caption}\n{}{FAINT:#}\n{}", Ramp::LEGEND, grid.render()))
}

/// The routes of some tokens.
fn strips(trace: &Read, args: &ShowTraceArgs, output: &OutputArgs) -> Result<String> {
    if args.tokens == 0 {
        return Ok(String::new());
    }
    let tokenizer = tokenizer(trace, args, output)?;
    let header = &trace.stats.header;
    let most = header.layers.iter().map(|layer| layer.k as usize).max().unwrap_or(1);
    let mut strip = RouteStrip::for_stdout(output.verbose).of_at_most(most);
    if !header.weights {
        strip = strip.without_weights();
    }
    let mut text = String::from("\n");
    for record in TraceReader::open(&trace.path)?.skip(args.skip).take(args.tokens) {
        let TraceRecord::Token(mut token) = record? else { return Ok(String::new()) };
        token.routes.iter_mut().filter(|_| !header.weights).for_each(weigh_alike);
        text += &strip.line(&name(&token, tokenizer.as_ref()), &token.routes);
        text.push('\n');
    }
    Ok(text)
}

/// A token by its text, its id or its place, whichever is known first.
fn name(token: &TokenRoutes, tokenizer: Option<&Tokenizer>) -> String {
    match (token.token, tokenizer) {
        (Some(id), Some(tokenizer)) => tokenizer.token(id).unwrap_or_else(|| format!("#{id}")),
        (Some(id), None) => format!("#{id}"),
        (None, _) => format!("{}:{}", token.sequence, token.position),
    }
}

fn weigh_alike(route: &mut LayerRoute) {
    route.weights = vec![1.0; route.experts.len()];
}

/// Of the model that was named, or of the bundled one if the trace is its.
fn tokenizer(trace: &Read, args: &ShowTraceArgs, output: &OutputArgs) -> Result<Option<Tokenizer>> {
    if let Some(name) = &args.model {
        return Ok(Some(
            Tokenizer::from_dir(&model_dir(Some(name), Needs::Description, output)?).map_err(Error::from)?,
        ));
    }
    let own = |dir: &std::path::PathBuf| {
        let hash = fingerprint(dir).ok();
        hash.is_some() && hash == trace.stats.header.model
    };
    let dir = model_dir(None, Needs::Description, output).ok().filter(own);
    Ok(dir.and_then(|dir| Tokenizer::from_dir(&dir).ok()))
}
