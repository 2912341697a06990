//! Traces as text for other programs.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use moebius::Error;
use moebius::trace::{TokenRoutes, TraceKind, TraceReader, TraceRecord};
use serde::Serialize;

use crate::args::{ExportArgs, OutputArgs};
use crate::errors::{CliError, Result};
use crate::terminal::remark;

/// A token as a line of JSON.
#[derive(Serialize)]
struct Token<'a> {
    step: u32,
    sequence: u32,
    position: u32,
    token: Option<u32>,
    routes: Vec<Route<'a>>,
}

#[derive(Serialize)]
struct Route<'a> {
    layer: usize,
    experts: &'a [u32],
    #[serde(skip_serializing_if = "<[f32]>::is_empty")]
    weights: &'a [f32],
}

#[derive(Serialize)]
struct Counts<'a> {
    tokens: u32,
    layers: Vec<LayerCounts<'a>>,
}

#[derive(Serialize)]
struct LayerCounts<'a> {
    layer: usize,
    counts: &'a [u32],
}

/// Writes the trace.
pub(crate) fn export(args: &ExportArgs, output: &OutputArgs) -> Result<()> {
    let reader = TraceReader::open(&args.file)?;
    let (mut out, failed): (Box<dyn Write>, _) = match &args.output {
        None => (Box::new(BufWriter::new(io::stdout().lock())), None),
        Some(path) => {
            let failed = |source: io::Error| Error::Write { path: path.clone(), source: source.into() };
            (Box::new(BufWriter::new(File::create(path).map_err(failed)?)), Some(path))
        }
    };
    let failed = |source: io::Error| match failed {
        None => CliError::Output(source),
        Some(path) => Error::Write { path: path.clone(), source: source.into() }.into(),
    };
    let layers: Vec<usize> = reader.header().layers.iter().map(|layer| layer.layer).collect();
    let of_tokens = reader.header().kind == TraceKind::Tokens;
    if !args.jsonl {
        let names = if of_tokens {
            "step,sequence,position,token,layer,expert,weight"
        } else {
            "block,tokens,layer,expert,count"
        };
        writeln!(out, "{names}").map_err(failed)?;
    }
    let mut reader = reader;
    for (block, record) in reader.by_ref().enumerate() {
        let record = record?;
        let written = match (&record, args.jsonl) {
            (TraceRecord::Token(token), false) => token_rows(&mut out, token),
            (TraceRecord::Counts(tokens, counts), false) => {
                count_rows(&mut out, (block, *tokens), layers.iter().copied().zip(counts))
            }
            (record, true) => line(&mut out, record, &layers),
        };
        written.map_err(failed)?;
    }
    out.flush().map_err(failed)?;
    if reader.incomplete_bytes() > 0 {
        remark(output, "the trace ends early: what follows its last whole record is left out");
    }
    Ok(())
}

fn token_rows(out: &mut dyn Write, token: &TokenRoutes) -> io::Result<()> {
    let id = token.token.map_or(String::new(), |id| id.to_string());
    for route in &token.routes {
        for (index, expert) in route.experts.iter().enumerate() {
            let weight = route.weights.get(index).map_or(String::new(), f32::to_string);
            let (step, sequence, position) = (token.step, token.sequence, token.position);
            writeln!(out, "{step},{sequence},{position},{id},{},{expert},{weight}", route.layer)?;
        }
    }
    Ok(())
}

fn count_rows<'a>(
    out: &mut dyn Write,
    (block, tokens): (usize, u32),
    layers: impl Iterator<Item = (usize, &'a Vec<u32>)>,
) -> io::Result<()> {
    for (layer, counts) in layers {
        for (expert, count) in counts.iter().enumerate() {
            writeln!(out, "{block},{tokens},{layer},{expert},{count}")?;
        }
    }
    Ok(())
}

fn line(out: &mut dyn Write, record: &TraceRecord, layers: &[usize]) -> io::Result<()> {
    match record {
        TraceRecord::Token(token) => {
            let routes = token.routes.iter();
            let routes =
                routes.map(|r| Route { layer: r.layer, experts: &r.experts, weights: &r.weights }).collect();
            let TokenRoutes { step, sequence, position, token: id, .. } = *token;
            serde_json::to_writer(&mut *out, &Token { step, sequence, position, token: id, routes })?;
        }
        TraceRecord::Counts(tokens, counts) => {
            let layers = layers.iter().zip(counts).map(|(&layer, counts)| LayerCounts { layer, counts });
            serde_json::to_writer(&mut *out, &Counts { tokens: *tokens, layers: layers.collect() })?;
        }
    }
    writeln!(out)
}
