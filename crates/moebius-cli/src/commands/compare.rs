//! `moebius compare`: the same prompt on several backends.
//!
//! Invariants: measured and modelled figures stand in columns of their own; a backend that refuses is a row that says why.

use moebius::declared::ModelledPhase;
use moebius::metering::format::{UNKNOWN, percent, si};
use moebius::metering::{Phase, Reading, Work};
use moebius::{ComparedRun, Needs, run_to_compare};
use serde::Serialize;

use crate::args::{BackendName, CompareArgs, OutputArgs};
use crate::commands::model_dir;
use crate::errors::{CliError, Result};
use crate::meter::rate;
use crate::modelled::{self, Phase as ModelledReport};
use crate::table::{Align, Table, facts};
use crate::terminal::{print, printable};
use crate::{json, progress};

/// One backend's row.
struct Row {
    name: String,
    run: std::result::Result<ComparedRun, Refusal>,
}

/// Why a backend did not run the model.
struct Refusal {
    reason: String,
    hint: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    prompt_tokens: usize,
    generated_tokens: usize,
    backends: Vec<BackendReport<'a>>,
    sparsity: Option<Sparsity>,
}

#[derive(Serialize)]
struct BackendReport<'a> {
    backend: &'a str,
    detail: Option<&'a str>,
    refused: Option<&'a str>,
    hint: Option<&'a str>,
    same_bits: Option<bool>,
    prompt_tokens_per_second: Option<f64>,
    decode_tokens_per_second: Option<f64>,
    decode_speed_ratio: Option<f64>,
    peak_memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expert_hit_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched_bytes_per_token: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modelled_prompt: Option<ModelledReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modelled_decode: Option<ModelledReport>,
    straggler: Option<f64>,
}

/// What a generated token takes, and what it would take in the iso-total dense twin.
#[derive(Serialize)]
struct Sparsity {
    decode_bytes_per_token: f64,
    iso_total_bytes_per_token: f64,
    decode_flops_per_token: f64,
    iso_total_flops_per_token: f64,
}

/// Runs the prompt on each backend and prints them side by side.
pub(crate) fn compare(args: &CompareArgs, output: &OutputArgs) -> Result<()> {
    let dir = model_dir(args.model.as_deref(), Needs::Everything, output)?;
    let mut rows = Vec::new();
    for name in &args.backends {
        let options = args.open_options(name);
        let task = (args.prompt(), args.n_predict);
        let run = progress::with_bar(output, "loading", |bar| run_to_compare(&dir, &options, task, bar));
        rows.push(Row { name: printable(&name.to_string()).into_owned(), run: refused(name, run)? });
    }
    let Some(first) = rows.iter().find_map(|row| row.run.as_ref().ok()) else {
        let message = "no backend of the list could run the model";
        return Err(CliError::usage(
            message,
            "put cpu first, or use --format to hold the weights in fewer bits",
        ));
    };
    if args.json.json {
        return json::print(&Report::new(&rows, first));
    }
    print(&render(&rows, first))
}

/// A refusal of declared hardware is a result; all else is an error.
fn refused(
    name: &BackendName,
    run: moebius::Result<ComparedRun>,
) -> Result<std::result::Result<ComparedRun, Refusal>> {
    match run {
        Ok(run) => Ok(Ok(run)),
        Err(error) if name.declares() && error.is_refusal() => {
            let reason = printable(&error.to_string()).into_owned();
            Ok(Err(Refusal { reason, hint: error.hint() }))
        }
        Err(error) => Err(error.into()),
    }
}

impl Row {
    fn straggler(&self) -> Option<f64> {
        let balance = &self.run.as_ref().ok()?.balance;
        let factors: Vec<f64> = balance.iter().filter_map(|(_, balance)| balance.straggler()).collect();
        (!factors.is_empty()).then(|| factors.iter().sum::<f64>() / factors.len() as f64)
    }
}

fn prompt_rate(run: &ComparedRun) -> Option<f64> {
    run.summary.prefill.tokens_per_second(Phase::Prefill)
}

fn decode_rate(run: &ComparedRun) -> Option<f64> {
    run.summary.decode.tokens_per_second(Phase::Decode)
}

/// Experts of generated tokens that were in memory, of all; `None` where all of them always are.
fn hit_rate(run: &ComparedRun) -> Option<f64> {
    run.summary.decode.counts.fetches()?.hit_rate()
}

/// What a generated token fetched; `None` likewise.
fn fetched_bytes_per_token(run: &ComparedRun) -> Option<f64> {
    let Reading { counts, .. } = &run.summary.decode;
    let (fetches, tokens) = (counts.fetches()?, counts.tokens_in(Phase::Decode));
    (tokens > 0).then(|| fetches.fetched_bytes as f64 / tokens as f64)
}

/// Speed of generating, as a share of the first backend's.
fn speed_ratio(run: &ComparedRun, first: &ComparedRun) -> Option<f64> {
    Some(decode_rate(run)? / decode_rate(first)?)
}

impl Sparsity {
    /// Of what was generated; `None` for a model without routed experts.
    fn new(decode: &Reading) -> Option<Self> {
        let tokens = decode.counts.tokens_in(Phase::Decode);
        if tokens == 0 || decode.counts.experts().tokens == 0 {
            return None;
        }
        let each = |amount: u64| amount as f64 / tokens as f64;
        let (own, twin): (Work, Work) = (decode.counts.total(), decode.counts.iso_total());
        Some(Sparsity {
            decode_bytes_per_token: each(own.bytes()),
            iso_total_bytes_per_token: each(twin.bytes()),
            decode_flops_per_token: 2.0 * each(own.macs),
            iso_total_flops_per_token: 2.0 * each(twin.macs),
        })
    }

    fn line(&self) -> String {
        let Sparsity { decode_bytes_per_token: bytes, iso_total_bytes_per_token: all_bytes, .. } = self;
        let (flops, all_flops) = (self.decode_flops_per_token, self.iso_total_flops_per_token);
        format!(
            "a generated token reads {} and takes {}; with all experts (iso-total) {} and {}: {} and {} saved",
            si(Some(*bytes), "B"),
            si(Some(flops), "FLOP"),
            si(Some(*all_bytes), "B"),
            si(Some(all_flops), "FLOP"),
            percent(Some(1.0 - bytes / all_bytes)),
            percent(Some(1.0 - flops / all_flops)),
        )
    }
}

impl<'a> Report<'a> {
    fn new(rows: &'a [Row], first: &ComparedRun) -> Self {
        Report {
            prompt_tokens: first.summary.prompt.len(),
            generated_tokens: first.summary.tokens.len(),
            backends: rows.iter().map(|row| BackendReport::new(row, first)).collect(),
            sparsity: Sparsity::new(&first.summary.decode),
        }
    }
}

impl<'a> BackendReport<'a> {
    fn new(row: &'a Row, first: &ComparedRun) -> Self {
        let (run, refusal) = (row.run.as_ref().ok(), row.run.as_ref().err());
        let modelled = run.and_then(|run| run.summary.modelled.as_ref());
        BackendReport {
            backend: &row.name,
            detail: run.map(|run| run.detail.as_str()),
            refused: refusal.map(|refusal| refusal.reason.as_str()),
            hint: refusal.and_then(|refusal| refusal.hint.as_deref()),
            same_bits: run.map(|run| run.digest == first.digest),
            prompt_tokens_per_second: run.and_then(prompt_rate),
            decode_tokens_per_second: run.and_then(decode_rate),
            decode_speed_ratio: run.and_then(|run| speed_ratio(run, first)),
            peak_memory_bytes: run.and_then(|run| run.peak_bytes),
            expert_hit_rate: run.and_then(hit_rate),
            fetched_bytes_per_token: run.and_then(fetched_bytes_per_token),
            modelled_prompt: modelled.map(|modelled| ModelledReport::new(&modelled.prefill)),
            modelled_decode: modelled.map(|modelled| ModelledReport::new(&modelled.decode)),
            straggler: row.straggler(),
        }
    }
}

fn render(rows: &[Row], first: &ComparedRun) -> String {
    let columns = [
        ("measured here", Align::Left),
        ("same bits", Align::Left),
        ("prompt", Align::Right),
        ("decode", Align::Right),
        ("of first", Align::Right),
        ("peak memory", Align::Right),
        ("in memory", Align::Right),
        ("fetched a token", Align::Right),
    ];
    let mut measured = Table::new(&columns);
    let columns = [
        ("modelled, not measured", Align::Left),
        ("prompt", Align::Right),
        ("decode", Align::Right),
        ("J/token", Align::Right),
        ("straggler", Align::Right),
    ];
    let mut declared = Table::new(&columns);
    let (mut any, mut refusals) = (false, Vec::new());
    for row in rows {
        let run = match &row.run {
            Ok(run) => run,
            Err(refusal) => {
                refusals.push(("refused", format!("{}: {}", row.name, refusal.reason)));
                refusals.extend(refusal.hint.as_ref().map(|hint| ("", hint.clone())));
                continue;
            }
        };
        let same = if run.digest == first.digest { "yes" } else { "NO" };
        measured.row([
            row.name.clone(),
            same.into(),
            rate(prompt_rate(run)),
            rate(decode_rate(run)),
            percent(speed_ratio(run, first)),
            si(run.peak_bytes.map(|bytes| bytes as f64), "B"),
            percent(hit_rate(run)),
            si(fetched_bytes_per_token(run), "B"),
        ]);
        let Some(modelled) = &run.summary.modelled else { continue };
        any = true;
        declared.row([
            row.name.clone(),
            modelled::speed(&modelled.prefill),
            modelled::speed(&modelled.decode),
            si(ModelledPhase::joules_per_token(&modelled.decode), "J"),
            row.straggler().map_or(UNKNOWN.into(), |factor| format!("{factor:.2}")),
        ]);
    }
    let mut text = measured.render();
    if any {
        text += &format!("\n{}", declared.render());
    }
    let mut lines = refusals;
    lines.extend(Sparsity::new(&first.summary.decode).map(|sparsity| ("sparsity", sparsity.line())));
    format!("{text}\n{}", facts(&lines))
}
