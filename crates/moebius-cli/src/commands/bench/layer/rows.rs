//! What was measured of a layer, as a table for people and as rows for programs.

use moebius::bench::{LayerCell, LayerPlan, LayerRow, Quartiles, Timed};
use moebius::metering::format::{UNKNOWN, si};
use moebius::{BackendOptions, EnergyMeter};
use serde_json::{Value, json};

use super::Measured;
use crate::energy;
use crate::errors::Result;
use crate::markdown::Markdown;
use crate::rows::Record;
use crate::table::Align;
use crate::terminal::printable;
use crate::version;

/// Where a layer ran.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) backend: &'static str,
    pub(super) kernels: &'static str,
    pub(super) threads: usize,
    pub(super) cpu: Option<String>,
    /// Tokens of the trace that is replayed; `None` by chance.
    pub(super) replayed_tokens: Option<usize>,
}

/// The table for people.
pub(super) struct Table(Markdown);

impl Table {
    /// A table that layers of `plans` fit into.
    pub(super) fn new(plans: &[(LayerPlan, BackendOptions)]) -> Self {
        use Align::{Left, Right};
        let routing = plans.iter().map(|(plan, _)| label(plan).chars().count()).max().unwrap_or(0);
        Table(Markdown::new(&[
            ("format", Left, 4),
            ("routing", Left, routing),
            ("threads", Right, 0),
            ("tokens", Right, 0),
            ("k", Right, 2),
            ("sparse ms", Right, 15),
            ("iso-total ms", Right, 15),
            ("iso-active ms", Right, 15),
            ("of iso-total", Right, 14),
            ("k/E", Right, 6),
            ("experts", Right, 5),
            ("by chance", Right, 5),
            ("of iso-active", Right, 13),
            ("GB/s", Right, 5),
            ("GFLOP/s", Right, 5),
        ]))
    }

    /// What is measured, and the names of the columns.
    pub(super) fn header(&self, plans: &[(LayerPlan, BackendOptions)]) -> Result<String> {
        let Some((plan, _)) = plans.first() else { return Ok(String::new()) };
        let cpu = moebius::cpu_name();
        Ok(format!(
            "moebius {} ({}, {} kernels) on {}: {} experts of {} x {}\n\n{}",
            env!("CARGO_PKG_VERSION"),
            version::PROFILE,
            moebius::kernel_name()?,
            cpu.as_deref().unwrap_or("an unnamed processor"),
            plan.n_experts,
            plan.hidden,
            plan.ffn,
            self.0.header()
        ))
    }

    /// A line for each number of experts of a token.
    pub(super) fn rows(&self, plan: &LayerPlan, setting: &Setting, row: &LayerRow) -> String {
        let line = |cell: &LayerCell| {
            let rate = |rate: Option<f64>| decimal(rate.map(|rate| rate / 1e9), 1);
            self.0.row(&[
                plan.format.name().into(),
                label(plan),
                setting.threads.to_string(),
                row.tokens.to_string(),
                cell.top_k.to_string(),
                millis(&cell.sparse),
                millis(&row.iso_total),
                millis(&cell.iso_active),
                share(cell.sparse.over(&row.iso_total)),
                format!("{:.2}%", 100.0 * ideal(cell, row)),
                decimal(cell.distinct(), 1),
                decimal(Some(cell.expected_distinct(row.n_experts, row.tokens)), 1),
                share(cell.sparse.over(&cell.iso_active)),
                rate(cell.sparse.weight_bytes_per_second()),
                rate(cell.sparse.flops_per_second()),
            ])
        };
        row.cells.iter().map(line).collect()
    }
}

/// How tokens choose, in a word.
pub(super) fn label(plan: &LayerPlan) -> String {
    printable(&plan.routing.label()).into_owned()
}

/// The work of sparse as a share of that of all experts.
pub(super) fn ideal(cell: &LayerCell, row: &LayerRow) -> f64 {
    cell.top_k as f64 / row.n_experts.max(1) as f64
}

/// What is to be said of all rows: whether outputs agree, where sparse loses, and energy.
pub(super) fn notes(all: &[Measured], energy: &EnergyMeter) -> String {
    let rows = || all.iter().flat_map(|measured| &measured.rows);
    let cells = || rows().flat_map(|row| row.cells.iter().map(move |cell| (row, cell)));
    let off = cells().map(|(_, cell)| cell.max_difference).fold(0.0f32, f32::max);
    let mut text = format!("\nsparse and iso-total: max |diff| of outputs {off:e}\n");
    let whole = cells().filter(|(row, cell)| {
        cell.distinct().is_some_and(|distinct| distinct > 0.99 * row.n_experts as f64)
            && cell.top_k < row.n_experts
    });
    let whole: Vec<String> = whole.map(|(row, cell)| format!("B {} k {}", row.tokens, cell.top_k)).collect();
    if !whole.is_empty() {
        text += &format!(
            "the batch touches every expert, so that no bytes are saved, only operations: {}\n",
            whole.join(", ")
        );
    }
    let loses = cells().filter_map(|(row, cell)| {
        let ratio = cell.sparse.over(&cell.iso_active)?;
        (ratio.low > 1.0).then(|| format!("B {} k {} x{:.2}", row.tokens, cell.top_k, ratio.median))
    });
    let loses: Vec<String> = loses.collect();
    if !loses.is_empty() {
        text += &format!("slower than a dense layer of the active width: {}\n", loses.join(", "));
    }
    let dearer = cells().filter_map(|(row, cell)| {
        let (ratio, ideal) = (cell.sparse.over(&row.iso_total)?, ideal(cell, row));
        let extra = cell.sparse.millis()?.median - ideal * row.iso_total.millis()?.median;
        (row.tokens == 1 && ratio.low > ideal).then(|| {
            format!(
                "k {} {:+.0} us ({:+.1} %)",
                cell.top_k,
                1e3 * extra,
                100.0 * (ratio.median / ideal - 1.0)
            )
        })
    });
    let dearer: Vec<String> = dearer.collect();
    if !dearer.is_empty() {
        text += &format!("overhead beyond k/E at one token: {}\n", dearer.join(", "));
    }
    text += &all.iter().map(repeats).collect::<String>();
    text += &energy_note(all, energy);
    text
}

/// Says so if a batch is longer than the trace that is replayed.
fn repeats(Measured { plan, setting, rows }: &Measured) -> String {
    let Some(replayed) = setting.replayed_tokens else { return String::new() };
    let longer = rows.iter().filter(|row| row.tokens > replayed).map(|row| format!("B {}", row.tokens));
    let longer: Vec<String> = longer.collect();
    if longer.is_empty() {
        return String::new();
    }
    let noun = if replayed == 1 { "token" } else { "tokens" };
    format!("{} has {replayed} {noun}, which these batches repeat: {}\n", label(plan), longer.join(", "))
}

fn energy_note(all: &[Measured], energy: &EnergyMeter) -> String {
    let Some(row) = all.iter().rev().find_map(|measured| measured.rows.last()) else { return String::new() };
    let each = |timed: &Timed| energy::text(timed.energy, timed.samples.len() as u64, "run");
    let Some(cell) = row.cells.last() else { return String::new() };
    let forms = [("sparse", &cell.sparse), ("iso-total", &row.iso_total), ("iso-active", &cell.iso_active)];
    let forms = forms.map(|(name, timed)| format!("{name} {}", each(timed)));
    format!(
        "energy at B {} k {}: {}{}\n",
        row.tokens,
        cell.top_k,
        forms.join(", "),
        energy::why_unknown(energy)
    )
}

/// The row of one number of experts of a token.
pub(super) fn record((plan, setting): (&LayerPlan, &Setting), row: &LayerRow, cell: &LayerCell) -> Record {
    let mut record = Record::default();
    record.add_program(setting.cpu.clone(), setting.kernels);
    record.add("backend", setting.backend);
    record.add("threads", setting.threads);
    record.add("hidden", plan.hidden);
    record.add("ffn", plan.ffn);
    record.add("n_experts", plan.n_experts);
    record.add("experts_per_token", cell.top_k);
    record.add("tokens", row.tokens);
    record.add("format", plan.format.name());
    record.add("routing", plan.routing.to_string());
    record.add("replayed_tokens", setting.replayed_tokens);
    record.add("repetitions", cell.sparse.samples.len());
    record.add("seed", plan.seed);
    for (name, timed) in
        [("sparse", &cell.sparse), ("iso_total", &row.iso_total), ("iso_active", &cell.iso_active)]
    {
        add_form(&mut record, name, timed);
    }
    add_quartiles(&mut record, "sparse_over_iso_total", cell.sparse.over(&row.iso_total));
    add_quartiles(&mut record, "sparse_over_iso_active", cell.sparse.over(&cell.iso_active));
    record.add("ideal_share", ideal(cell, row));
    record.add("distinct_experts", cell.distinct());
    record.add("expected_distinct_experts", cell.expected_distinct(row.n_experts, row.tokens));
    record.add("weight_bytes_over_iso_active", cell.bytes_over_iso_active());
    record.add("max_abs_difference", json!(f64::from(cell.max_difference)));
    record
}

fn add_form(record: &mut Record, form: &str, timed: &Timed) {
    let samples: Vec<f64> = timed.samples.iter().map(|time| 1e3 * time.as_secs_f64()).collect();
    let total = timed.counts.total();
    let mut add = |name: &str, value: Value| record.add(&format!("{form}_{name}"), value);
    let millis = timed.millis();
    add("ms", json!(millis.map(|q| q.median)));
    add("ms_low", json!(millis.map(|q| q.low)));
    add("ms_high", json!(millis.map(|q| q.high)));
    add("samples_ms", json!(samples));
    add("macs", json!(timed.per_sample(total.macs)));
    add("weight_bytes", json!(timed.per_sample(total.weight_bytes)));
    add("weight_bytes_per_second", json!(timed.weight_bytes_per_second()));
    add("flops_per_second", json!(timed.flops_per_second()));
    energy::add(record, form, timed.energy);
}

fn add_quartiles(record: &mut Record, name: &str, quartiles: Option<Quartiles>) {
    record.add(name, quartiles.map(|q| q.median));
    record.add(&format!("{name}_low"), quartiles.map(|q| q.low));
    record.add(&format!("{name}_high"), quartiles.map(|q| q.high));
}

/// The median, and half of what lies between the quartiles.
fn millis(timed: &Timed) -> String {
    let Some(Quartiles { low, median, high }) = timed.millis() else { return UNKNOWN.into() };
    format!("{} ± {}", si(Some(median), ""), si(Some((high - low) / 2.0), ""))
}

fn share(ratio: Option<Quartiles>) -> String {
    let Some(Quartiles { low, median, high }) = ratio else { return UNKNOWN.into() };
    format!("{:.2} ± {:.2}%", 100.0 * median, 50.0 * (high - low))
}

fn decimal(value: Option<f64>, digits: usize) -> String {
    value.map_or(UNKNOWN.into(), |value| format!("{value:.digits$}"))
}
