//! The rows of a sweep, for people and for programs.
//!
//! Invariants: what was not measured is `None`, prints as n/a, is null and an empty cell; energy that is estimated says so.

use moebius::HeldFormats;
use moebius::metering::format::{UNKNOWN, percent, si};
use moebius::metering::{EnergySource, Phase};
use moebius::sweep::{Outcome, Setting};
use serde::Serialize;

use crate::errors::Result;
use crate::table::{Align, Table};
use crate::terminal::FAINT;
use crate::{energy, json};

/// Everything that was measured.
#[derive(Serialize)]
pub(super) struct Sweep {
    pub(super) model: String,
    pub(super) family: &'static str,
    pub(super) texts: Vec<String>,
    /// What the machine takes, as was said; without counters, energy is estimated from it.
    pub(super) watts: Option<f64>,
    /// Why nothing is known of energy, in brackets; empty if something is.
    #[serde(skip)]
    pub(super) unknown_energy: String,
    /// The reference first.
    pub(super) rows: Vec<Row>,
}

/// One setting.
#[derive(Serialize)]
pub(super) struct Row {
    /// A name that tells it from the others.
    pub(super) name: String,
    pub(super) format: String,
    /// Experts per token, the most that any layer allows.
    pub(super) k: Option<usize>,
    pub(super) threshold: f32,
    experts_by_layer: Vec<usize>,
    /// Layer and expert.
    masked: Vec<(usize, u32)>,
    /// Experts of a token and layer on average.
    pub(super) experts_per_token: Option<f64>,
    scored: usize,
    pub(super) perplexity: Option<f64>,
    /// Share by which perplexity is above the reference's.
    pub(super) perplexity_above: Option<f64>,
    top1_accuracy: Option<f64>,
    pub(super) kl_nats: Option<f64>,
    agreement: Option<f64>,
    pub(super) decode_tokens_per_second: Option<f64>,
    decode_deviation: Option<f64>,
    pub(super) bytes_per_token: Option<f64>,
    bytes_of_reference: Option<f64>,
    flops_per_token: Option<f64>,
    prompt_tokens_per_second: Option<f64>,
    joules_per_token: Option<f64>,
    joules_per_token_uncertainty: Option<f64>,
    /// Counter or estimate.
    energy_source: Option<&'static str>,
    /// Whether no other row has both a lower perplexity and fewer bytes a token.
    pub(super) best: bool,
}

impl Row {
    /// Of a setting whose layers go through at most `k` experts, beside the reference; `None` for the reference itself.
    pub(super) fn new(
        setting: Setting,
        (k, reference): (Option<usize>, Option<&Row>),
        outcome: Outcome,
    ) -> Self {
        let speed = outcome.tokens_per_second();
        let rate = speed.map(|speed| speed.mean);
        let bytes = outcome.bytes_per_token();
        let over = |value: Option<f64>, of: fn(&Row) -> Option<f64>| Some(value? / of(reference?)?);
        Row {
            name: name(&setting, k),
            format: setting.format.to_string(),
            k,
            threshold: setting.rules.drop_below,
            experts_by_layer: setting.rules.experts_by_layer.clone(),
            masked: setting.rules.masked.iter().copied().collect(),
            experts_per_token: outcome.experts_per_token(),
            scored: outcome.scored,
            perplexity: outcome.perplexity,
            perplexity_above: over(outcome.perplexity, |row| row.perplexity).map(|ratio| ratio - 1.0),
            top1_accuracy: outcome.top1_accuracy,
            kl_nats: outcome.divergence.map(|divergence| divergence.mean_kl_nats),
            agreement: outcome.divergence.map(|divergence| divergence.agreement),
            decode_tokens_per_second: rate,
            decode_deviation: speed.and_then(|speed| speed.deviation),
            bytes_per_token: bytes,
            bytes_of_reference: over(bytes, |row| row.bytes_per_token),
            flops_per_token: outcome.flops_per_token(),
            prompt_tokens_per_second: outcome.reading.tokens_per_second(Phase::Prefill),
            joules_per_token: outcome.decode.joules_per_token(),
            joules_per_token_uncertainty: outcome.decode.joules_per_token_uncertainty(),
            energy_source: outcome.decode.energy.map(|energy| energy.source.name()),
            best: false,
        }
    }
}

/// A setting in a word or two, such as `q8_0 k2` or `k8 t0.1`.
pub(super) fn name(setting: &Setting, k: Option<usize>) -> String {
    let mut words = Vec::new();
    if setting.format != HeldFormats::AsStored {
        words.push(setting.format.to_string());
    }
    let by_layer = &setting.rules.experts_by_layer;
    match k {
        _ if !by_layer.is_empty() => {
            words.push(format!("k{}", by_layer.iter().map(usize::to_string).collect::<Vec<_>>().join("/")));
        }
        Some(k) => words.push(format!("k{k}")),
        None => {}
    }
    if setting.rules.drop_below > 0.0 {
        words.push(format!("t{}", setting.rules.drop_below));
    }
    if !setting.rules.masked.is_empty() {
        words.push(format!("-{}e", setting.rules.masked.len()));
    }
    words.join(" ")
}

impl Sweep {
    /// Marks the rows that no other one beats.
    pub(super) fn mark_best(&mut self) {
        let beats = |a: &Row, b: &Row| {
            let ((Some(a_ppl), Some(b_ppl)), (Some(a_bytes), Some(b_bytes))) =
                ((a.perplexity, b.perplexity), (a.bytes_per_token, b.bytes_per_token))
            else {
                return false;
            };
            a_ppl <= b_ppl && a_bytes <= b_bytes && (a_ppl < b_ppl || a_bytes < b_bytes)
        };
        let known = |row: &Row| row.perplexity.is_some() && row.bytes_per_token.is_some();
        let best: Vec<bool> = self
            .rows
            .iter()
            .map(|row| known(row) && !self.rows.iter().any(|other| beats(other, row)))
            .collect();
        self.rows.iter_mut().zip(best).for_each(|(row, best)| row.best = best);
    }

    /// One object for programs.
    pub(super) fn print_json(&self) -> Result<()> {
        json::print(self)
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let estimated = self.rows.iter().any(|row| row.energy_source == Some(EnergySource::Estimate.name()));
        let energy = if estimated { "J/token (est.)" } else { "J/token" };
        let names = [
            "experts",
            "perplexity",
            "above",
            "KL (nats)",
            "agree",
            "t/s",
            "B/token",
            "of ref.",
            energy,
            "prompt t/s",
        ];
        let columns: Vec<(&str, Align)> = names.iter().map(|&name| (name, Align::Right)).collect();
        let mut table = Table::new(
            &[&[("format", Align::Left), ("setting", Align::Left)][..], &columns, &[("", Align::Left)]]
                .concat(),
        );
        for (index, row) in self.rows.iter().enumerate() {
            let mark = match (index, row.best) {
                (0, true) => "reference, best",
                (0, false) => "reference",
                (_, true) => "best",
                (_, false) => "",
            };
            table.row(row.cells().into_iter().chain([mark.to_owned()]));
        }
        let caption = "best: no other row has both a lower perplexity and fewer bytes a token";
        let why = match self.unknown_energy.as_str() {
            "" => String::new(),
            why => format!("{FAINT}J/token is n/a{why}{FAINT:#}\n"),
        };
        format!("{}{FAINT}{caption}{FAINT:#}\n{why}", table.render())
    }

    /// The rows with a heading.
    pub(super) fn csv(&self) -> String {
        let heading = "name,format,k,threshold,experts_per_token,scored,perplexity,perplexity_above,top1_accuracy,\
                       kl_nats,agreement,decode_tokens_per_second,decode_deviation,bytes_per_token,\
                       bytes_of_reference,flops_per_token,prompt_tokens_per_second,joules_per_token,\
                       joules_per_token_uncertainty,energy_source,best";
        let mut text = format!("{heading}\n");
        let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        for row in &self.rows {
            let cells = [
                row.name.clone(),
                row.format.clone(),
                row.k.map_or(String::new(), |k| k.to_string()),
                row.threshold.to_string(),
                number(row.experts_per_token),
                row.scored.to_string(),
                number(row.perplexity),
                number(row.perplexity_above),
                number(row.top1_accuracy),
                number(row.kl_nats),
                number(row.agreement),
                number(row.decode_tokens_per_second),
                number(row.decode_deviation),
                number(row.bytes_per_token),
                number(row.bytes_of_reference),
                number(row.flops_per_token),
                number(row.prompt_tokens_per_second),
                number(row.joules_per_token),
                number(row.joules_per_token_uncertainty),
                row.energy_source.unwrap_or_default().to_owned(),
                row.best.to_string(),
            ];
            text += &cells.join(",");
            text.push('\n');
        }
        text
    }
}

impl Row {
    /// Tokens that were scored.
    pub(super) fn scored(&self) -> usize {
        self.scored
    }

    /// What it is a point of: its format and its threshold.
    pub(super) fn line(&self) -> String {
        let threshold = if self.threshold > 0.0 { format!(", t {}", self.threshold) } else { String::new() };
        format!("{}{threshold}", self.format)
    }

    /// What tells it from the others of its line.
    pub(super) fn point(&self) -> String {
        self.short_name().replace(&format!(" t{}", self.threshold), "")
    }

    /// The setting without its format.
    pub(super) fn short_name(&self) -> String {
        self.name.strip_prefix(&self.format).unwrap_or(&self.name).trim_start().to_owned()
    }

    fn cells(&self) -> Vec<String> {
        let number = |value: Option<f64>, decimals: usize| {
            value.map_or(UNKNOWN.into(), |value| format!("{value:.decimals$}"))
        };
        let spread = self.decode_deviation.map_or(String::new(), |deviation| format!(" ± {deviation:.1}"));
        let speed = self.decode_tokens_per_second.map_or(UNKNOWN.into(), |rate| format!("{rate:.1}{spread}"));
        vec![
            self.format.clone(),
            self.short_name(),
            number(self.experts_per_token, 2),
            number(self.perplexity, 4),
            self.perplexity_above.map_or(UNKNOWN.into(), |share| format!("{:+.2} %", 100.0 * share)),
            number(self.kl_nats, 5),
            percent(self.agreement),
            speed,
            si(self.bytes_per_token, "B"),
            percent(self.bytes_of_reference),
            energy::joules(self.joules_per_token, self.joules_per_token_uncertainty),
            number(self.prompt_tokens_per_second, 0),
        ]
    }
}
