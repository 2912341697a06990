//! What experts cost that are not all in memory.

use moebius::metering::format::{percent, si};
use moebius::metering::{Counts, FetchCounts, Reading};
use moebius::{LayerResidency, MemoryPlan};
use serde::Serialize;

use crate::table::{Align, Table};

/// Experts that were fetched, for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Fetches {
    hits: u64,
    misses: u64,
    hit_rate: Option<f64>,
    fetched_bytes: u64,
    stall_ms: f64,
    prefetched: u64,
    prefetch_used: u64,
    prefetch_hit_rate: Option<f64>,
}

impl From<FetchCounts> for Fetches {
    fn from(counts: FetchCounts) -> Self {
        let FetchCounts { hits, misses, fetched_bytes, stall_ns, prefetched, prefetch_used } = counts;
        let (hit_rate, prefetch_hit_rate) = (counts.hit_rate(), counts.prefetch_hit_rate());
        let stall_ms = stall_ns as f64 / 1e6;
        Fetches {
            hits,
            misses,
            hit_rate,
            fetched_bytes,
            stall_ms,
            prefetched,
            prefetch_used,
            prefetch_hit_rate,
        }
    }
}

/// One line about the experts that a reading fetched; `None` where all were in memory from the start.
pub(crate) fn line(reading: &Reading) -> Option<String> {
    let fetches = reading.counts.fetches()?;
    let tokens = reading.counts.all_tokens();
    let per_token = (tokens > 0).then(|| fetches.fetched_bytes as f64 / tokens as f64);
    let stalled = fetches.stall_ns as f64 / 1e9;
    let share = (reading.seconds() > 0.0).then(|| stalled / reading.seconds());
    let mut line = format!(
        "{} of experts in memory, {} a token, stalled {} of the time",
        percent(fetches.hit_rate()),
        si(per_token, "B"),
        percent(share)
    );
    if fetches.prefetched > 0 {
        line += &format!(
            "; fetched ahead {}, {} of it used",
            fetches.prefetched,
            percent(fetches.prefetch_hit_rate())
        );
    }
    Some(line)
}

/// Rows by layer; nothing where all experts were in memory from the start.
pub(super) fn table(counts: &Counts, residency: &[LayerResidency]) -> String {
    if counts.fetches().is_none() {
        return String::new();
    }
    let numbers = ["in memory", "hits", "misses", "hit rate", "fetched", "stalled", "ahead", "used"];
    let columns = numbers.map(|name| (name, Align::Right));
    let mut table = Table::new(&[&[("layer", Align::Right)][..], &columns].concat());
    for (&idx, layer) in counts.layers.iter().filter(|(_, layer)| layer.fetches != FetchCounts::default()) {
        let fetches = layer.fetches;
        let held = residency.iter().find(|of| of.layer == idx);
        table.row([
            idx.to_string(),
            held.map_or("n/a".into(), |of| format!("{} of {}", of.resident, of.n_experts)),
            fetches.hits.to_string(),
            fetches.misses.to_string(),
            percent(fetches.hit_rate()),
            si(Some(fetches.fetched_bytes as f64), "B"),
            format!("{:.1} ms", fetches.stall_ns as f64 / 1e6),
            fetches.prefetched.to_string(),
            percent(fetches.prefetch_hit_rate()),
        ]);
    }
    table.render()
}

/// How a budget of memory is divided.
pub(crate) fn plan(plan: &MemoryPlan) -> String {
    let bytes = |bytes: u64| si(Some(bytes as f64), "B");
    format!(
        "{} = program {} + dense {} + cache {} ({} tokens) + activations {} ({} a pass) + {} of {} experts {}",
        bytes(plan.budget_bytes),
        bytes(plan.program_bytes),
        bytes(plan.dense_bytes),
        bytes(plan.cache_bytes),
        plan.context,
        bytes(plan.activation_bytes),
        plan.chunk,
        plan.slots + plan.prefetch,
        plan.experts,
        bytes(plan.expert_bytes()),
    )
}
