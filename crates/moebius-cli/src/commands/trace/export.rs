//! Traces as text for other programs.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use moebius::Error;
use moebius::trace::{TokenRoutes, TraceKind, TraceReader, TraceRecord};
use serde::Serialize;

use crate::args::{ExportArgs, OutputArgs};
use crate::errors::{CliError, Result};
use crate::json;
use crate::terminal::{printable, remark};

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

/// What was written.
#[derive(Serialize)]
struct Report {
    file: String,
    format: &'static str,
    /// Without the heading.
    rows: u64,
    bytes: u64,
}

/// A writer that knows how much it wrote.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(part)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the trace.
pub(crate) fn export(args: &ExportArgs, output: &OutputArgs) -> Result<()> {
    let reader = TraceReader::open(&args.file)?;
    let (out, failed): (Box<dyn Write>, _) = match &args.output {
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
    let mut out = Counted { inner: out, bytes: 0 };
    let mut rows = 0;
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
        rows += written.map_err(failed)?;
    }
    out.flush().map_err(failed)?;
    if reader.incomplete_bytes() > 0 {
        remark(output, "the trace ends early: what follows its last whole record is left out");
    }
    match &args.output {
        Some(path) if args.json => {
            let file = printable(&path.display().to_string()).into_owned();
            let format = if args.jsonl { "jsonl" } else { "csv" };
            json::print(&Report { file, format, rows, bytes: out.bytes })
        }
        _ => Ok(()),
    }
}

/// Writes a row for each expert of each layer and says how many.
fn token_rows(out: &mut dyn Write, token: &TokenRoutes) -> io::Result<u64> {
    let id = token.token.map_or(String::new(), |id| id.to_string());
    for route in &token.routes {
        for (index, expert) in route.experts.iter().enumerate() {
            let weight = route.weights.get(index).map_or(String::new(), f32::to_string);
            let (step, sequence, position) = (token.step, token.sequence, token.position);
            writeln!(out, "{step},{sequence},{position},{id},{},{expert},{weight}", route.layer)?;
        }
    }
    Ok(token.routes.iter().map(|route| route.experts.len() as u64).sum())
}

/// Writes a row for each expert of each layer and says how many.
fn count_rows<'a>(
    out: &mut dyn Write,
    (block, tokens): (usize, u32),
    layers: impl Iterator<Item = (usize, &'a Vec<u32>)>,
) -> io::Result<u64> {
    let mut rows = 0;
    for (layer, counts) in layers {
        for (expert, count) in counts.iter().enumerate() {
            writeln!(out, "{block},{tokens},{layer},{expert},{count}")?;
        }
        rows += counts.len() as u64;
    }
    Ok(rows)
}

/// Writes one line.
fn line(out: &mut dyn Write, record: &TraceRecord, layers: &[usize]) -> io::Result<u64> {
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
    writeln!(out)?;
    Ok(1)
}
