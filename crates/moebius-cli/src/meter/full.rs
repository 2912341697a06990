//! The meter by part and by layer: where operations and bytes went, and which experts were busy.

use moebius::metering::format::{UNKNOWN, percent, si};
use moebius::metering::{Counts, ExpertCounts, FetchCounts, LayerCounts, Part, Phase, Work};
use moebius::{LayerResidency, Summary};
use serde::Serialize;

use super::fetches::{self, Fetches};
use super::join;
use crate::table::{Align, Table};

/// Everything that was counted, for programs.
#[derive(Debug, Serialize)]
pub(crate) struct FullMeter {
    prompt: PhaseWork,
    decode: PhaseWork,
}

/// What was counted in one phase.
#[derive(Debug, Serialize)]
struct PhaseWork {
    tokens: u64,
    total: Amount,
    iso_total_twin: Amount,
    iso_active_twin: Amount,
    parts: Vec<PartAmount>,
    layers: Vec<LayerAmount>,
}

/// Operations and bytes.
#[derive(Debug, Serialize)]
struct Amount {
    macs: u64,
    weight_bytes: u64,
    cache_bytes: u64,
}

#[derive(Debug, Serialize)]
struct PartAmount {
    part: &'static str,
    #[serde(flatten)]
    amount: Amount,
}

/// One decoder layer.
#[derive(Debug, Serialize)]
struct LayerAmount {
    layer: usize,
    #[serde(flatten)]
    amount: Amount,
    parts: Vec<PartAmount>,
    /// Absent in a layer without routed experts.
    #[serde(skip_serializing_if = "Option::is_none")]
    experts: Option<ExpertAmount>,
    /// Absent where every expert is in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetches: Option<Fetches>,
}

/// The routed experts of one layer.
#[derive(Debug, Serialize)]
struct ExpertAmount {
    tokens: u64,
    pairs: u64,
    distinct: u64,
    iso_total_macs: u64,
    iso_total_weight_bytes: u64,
    iso_active_macs: u64,
    iso_active_weight_bytes: u64,
    saved_share: Option<f64>,
    saved_bytes_share: Option<f64>,
    tokens_per_expert: Vec<u64>,
}

impl From<Work> for Amount {
    fn from(work: Work) -> Self {
        let Work { macs, weight_bytes, cache_bytes } = work;
        Amount { macs, weight_bytes, cache_bytes }
    }
}

impl FullMeter {
    /// Of a generation.
    pub(crate) fn new(summary: &Summary) -> Self {
        FullMeter {
            prompt: PhaseWork::new(&summary.prefill.counts, Phase::Prefill),
            decode: PhaseWork::new(&summary.decode.counts, Phase::Decode),
        }
    }
}

impl PhaseWork {
    fn new(counts: &Counts, phase: Phase) -> Self {
        let layers = counts.layers.iter().map(|(&layer, counted)| LayerAmount {
            layer,
            amount: counted.total().into(),
            parts: parts(|part| counted.parts[part.index()]),
            experts: (counted.experts.tokens > 0).then(|| ExpertAmount::new(counted)),
            fetches: (counted.fetches != FetchCounts::default()).then(|| counted.fetches.into()),
        });
        PhaseWork {
            tokens: counts.tokens_in(phase),
            total: counts.total().into(),
            iso_total_twin: counts.iso_total().into(),
            iso_active_twin: counts.iso_active().into(),
            parts: parts(|part| counts.part(part)),
            layers: layers.collect(),
        }
    }
}

impl ExpertAmount {
    fn new(layer: &LayerCounts) -> Self {
        let experts = layer.experts;
        let ExpertCounts { tokens, pairs, distinct, iso_total_macs, iso_total_weight_bytes, .. } = experts;
        ExpertAmount {
            tokens,
            pairs,
            distinct,
            iso_total_macs,
            iso_total_weight_bytes,
            iso_active_macs: experts.executed_macs,
            iso_active_weight_bytes: experts.iso_active_weight_bytes,
            saved_share: experts.saved_share(),
            saved_bytes_share: experts.saved_bytes_share(),
            tokens_per_expert: layer.tokens_per_expert.clone(),
        }
    }
}

/// The parts that did something.
fn parts(work: impl Fn(Part) -> Work) -> Vec<PartAmount> {
    let parts = Part::ALL.into_iter().map(|part| (part, work(part)));
    let busy = parts.filter(|(_, work)| *work != Work::default());
    busy.map(|(part, work)| PartAmount { part: part.name(), amount: work.into() }).collect()
}

/// The tables that follow the block of a generation.
pub(crate) fn tables(summary: &Summary, residency: &[LayerResidency]) -> String {
    let (prompt, decode) = (&summary.prefill.counts, &summary.decode.counts);
    let whole = join(&summary.prefill, &summary.decode).counts;
    let fetches = fetches::table(&whole, residency);
    format!("{}\n{}\n{fetches}", part_table(prompt, decode), layer_table(&whole))
}

/// Rows by part, prompt and decode side by side, and the two twins.
fn part_table(prompt: &Counts, decode: &Counts) -> String {
    let numbers = ["prompt FLOP", "weights", "cache", "decode FLOP", "weights", "cache"];
    let columns = numbers.map(|name| (name, Align::Right));
    let mut table = Table::new(&[&[("by part", Align::Left)][..], &columns].concat());
    let mut row = |name: String, of: &dyn Fn(&Counts) -> Work| {
        let cells = [prompt, decode].into_iter().flat_map(|counts| {
            let Work { macs, weight_bytes, cache_bytes } = of(counts);
            [(2 * macs, "FLOP"), (weight_bytes, "B"), (cache_bytes, "B")].map(|(n, unit)| amount(n, unit))
        });
        table.row(std::iter::once(name).chain(cells));
    };
    for part in Part::ALL {
        if prompt.part(part) != Work::default() || decode.part(part) != Work::default() {
            row(part.name().replace('_', " "), &|counts| counts.part(part));
        }
    }
    row("all".into(), &Counts::total);
    if prompt.routed_layers().chain(decode.routed_layers()).next().is_some() {
        row("iso-total twin".into(), &Counts::iso_total);
        row("iso-active twin".into(), &Counts::iso_active);
    }
    table.render()
}

/// Rows by layer.
fn layer_table(counts: &Counts) -> String {
    let numbers =
        ["FLOP", "weights", "cache", "saved", "bytes saved", "distinct a token", "tokens an expert"];
    let columns = numbers.map(|name| (name, Align::Right));
    let columns = [&[("layer", Align::Right)][..], &columns, &[("busiest", Align::Left)]].concat();
    let mut table = Table::new(&columns);
    for (idx, layer) in &counts.layers {
        let (work, experts) = (layer.total(), layer.experts);
        let routed = experts.tokens > 0;
        let distinct = routed.then(|| experts.distinct as f64 / experts.tokens as f64);
        table.row([
            idx.to_string(),
            amount(2 * work.macs, "FLOP"),
            amount(work.weight_bytes, "B"),
            amount(work.cache_bytes, "B"),
            percent(experts.saved_share()),
            percent(experts.saved_bytes_share()),
            si(distinct, ""),
            if routed { load(&layer.tokens_per_expert) } else { UNKNOWN.into() },
            busiest(&layer.tokens_per_expert),
        ]);
    }
    table.render()
}

/// Least, mean and most tokens that an expert saw.
fn load(tokens: &[u64]) -> String {
    let sum = tokens.iter().sum::<u64>() as f64;
    let (least, most) = (tokens.iter().min(), tokens.iter().max());
    let number = |tokens: Option<&u64>| si(tokens.map(|&tokens| tokens as f64), "");
    format!("{} · {} · {}", number(least), si(Some(sum / tokens.len().max(1) as f64), ""), number(most))
}

/// The three experts that saw most tokens, lower ids first among equals.
fn busiest(tokens: &[u64]) -> String {
    let mut ids: Vec<usize> = (0..tokens.len()).collect();
    ids.sort_by_key(|&id| std::cmp::Reverse(tokens[id]));
    let named = ids.iter().take(3).filter(|&&id| tokens[id] > 0);
    named.map(|&id| format!("e{id:02} {}", tokens[id])).collect::<Vec<_>>().join(", ")
}

fn amount(number: u64, unit: &str) -> String {
    si(Some(number as f64), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_experts_are_named_in_order() {
        assert_eq!(busiest(&[3, 0, 7, 3, 1]), "e02 7, e00 3, e03 3");
        assert_eq!(busiest(&[0, 0, 2]), "e02 2");
        assert_eq!(busiest(&[]), "");
        assert_eq!(load(&[3, 0, 7, 2]), "0 · 3 · 7");
    }
}
