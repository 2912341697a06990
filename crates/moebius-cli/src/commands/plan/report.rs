//! A plan as people and programs read it.
//!
//! Invariants: every row has the same names; what is unknown is null, n/a, or an empty field of CSV.

use moebius::metering::format::{UNKNOWN, percent, si};
use moebius::plan::{Band, CacheFormat, Demand, Estimate, Fit, Load};
use serde::Serialize;

use crate::args::PlanArgs;
use crate::table::{Align, Table, facts};
use crate::terminal::{FAINT, printable};

/// A whole plan.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    model: &'a str,
    family: &'static str,
    format: String,
    format_assumed: bool,
    total_parameters: u64,
    active_parameters: u64,
    active_parameters_without_embedding: u64,
    context_tokens: u64,
    model_context_tokens: usize,
    batch_sequences: u64,
    weight_bytes: u64,
    parts: Vec<Part<'a>>,
    kv_format: &'static str,
    kv_bytes_per_token: u64,
    kv_bytes_per_sequence: u64,
    kv_bytes: u64,
    kv_bytes_as_this_program_keeps_it: u64,
    activation_bytes: u64,
    n_experts: Option<usize>,
    experts_per_token: Option<usize>,
    distinct_experts_per_layer: Option<f64>,
    step_weight_bytes: f64,
    flops_per_token: f64,
    attention_flops_per_token: f64,
    hardware: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Part<'a> {
    name: &'static str,
    parameters: u64,
    active_parameters: u64,
    bytes: u64,
    formats: &'a [String],
}

/// One machine.
#[derive(Serialize)]
struct Row<'a> {
    hardware: String,
    title: &'a str,
    class: &'static str,
    devices: u32,
    dies: u64,
    memory_bytes_per_die: Option<u64>,
    needed_bytes_per_die: u64,
    fits: &'static str,
    expert_layers_on_host: Option<u64>,
    devices_needed: Option<u64>,
    step_bytes: f64,
    step_ms: Option<f64>,
    decode_tokens_per_second: Option<f64>,
    decode_low: Option<f64>,
    decode_high: Option<f64>,
    decode_roof: Option<f64>,
    prefill_tokens_per_second: Option<f64>,
    prefill_low: Option<f64>,
    prefill_high: Option<f64>,
    compute_utilisation: Option<f64>,
    joules_per_token: Option<f64>,
    cost_per_million_tokens: Option<f64>,
    cost_per_million_prompt_tokens: Option<f64>,
    sources: Vec<String>,
    #[serde(skip)]
    fit: Fit,
}

impl<'a> Report<'a> {
    pub(super) fn new(demand: &'a Demand, load: &Load, estimates: &'a [Estimate], args: &PlanArgs) -> Self {
        let info = &demand.info;
        let part = |part: &'a moebius::plan::PartDemand| Part {
            name: part.place.name(),
            parameters: part.parameters,
            active_parameters: part.active,
            bytes: part.bytes,
            formats: &part.formats,
        };
        let sequence = demand.cache_bytes(load.context, load.cache);
        let own = demand.cache_bytes(load.context, CacheFormat::Own);
        Report {
            model: &demand.name,
            family: info.family,
            format: demand.weights.to_string(),
            format_assumed: demand.is_assumed,
            total_parameters: info.total_parameters(),
            active_parameters: info.active_parameters(),
            active_parameters_without_embedding: info.active_without_embedding(),
            context_tokens: load.context,
            model_context_tokens: info.context,
            batch_sequences: load.batch,
            weight_bytes: demand.weight_bytes(),
            parts: demand.parts.iter().map(part).collect(),
            kv_format: load.cache.name(),
            kv_bytes_per_token: demand.cache_bytes_per_token(load.cache),
            kv_bytes_per_sequence: sequence,
            kv_bytes: sequence.saturating_mul(load.batch),
            kv_bytes_as_this_program_keeps_it: own.saturating_mul(load.batch),
            activation_bytes: demand
                .activation_bytes(load.prompt.min(512).saturating_add(load.batch), load.batch),
            n_experts: info.moe.as_ref().map(|moe| moe.n_experts),
            experts_per_token: info.moe.as_ref().map(|moe| moe.top_k),
            distinct_experts_per_layer: demand.distinct_experts(load.batch as f64),
            step_weight_bytes: demand.step_weight_bytes(load.batch as f64),
            flops_per_token: demand.weight_flops(),
            attention_flops_per_token: demand.attention_flops(load.context as f64, true),
            hardware: estimates.iter().map(|estimate| Row::new(estimate, args)).collect(),
        }
    }

    fn facts(&self) -> String {
        let bytes = |bytes: u64| si(Some(bytes as f64), "B");
        let (total, active) = (self.total_parameters as f64, self.active_parameters as f64);
        let mut rows = vec![
            ("model", format!("{} ({})", printable(self.model), self.family)),
            (
                "parameters",
                format!("{} in all, {} active per token", si(Some(total), ""), si(Some(active), "")),
            ),
            ("weights", format!("{} in {}{}", bytes(self.weight_bytes), self.format, self.assumed())),
            ("KV cache", format!("{} = {} bytes, {}", bytes(self.kv_bytes), self.kv_bytes, self.cache())),
            ("activations", format!("about {}", bytes(self.activation_bytes))),
            ("a step", self.step()),
        ];
        if self.context_tokens > self.model_context_tokens as u64 {
            rows.push(("note", format!("the model's own context is {} tokens", self.model_context_tokens)));
        }
        facts(&rows)
    }

    fn assumed(&self) -> &'static str {
        if self.format_assumed { ", assumed: nothing says what they are stored in" } else { "" }
    }

    fn cache(&self) -> String {
        let (context, format) = (self.context_tokens, self.kv_format);
        let sequences = if self.batch_sequences == 1 { "sequence" } else { "sequences" };
        format!(
            "{} {sequences} of {context} tokens in {format},\n{} bytes a further token; {} as this program keeps it",
            self.batch_sequences,
            self.kv_bytes_per_token,
            si(Some(self.kv_bytes_as_this_program_keeps_it as f64), "B"),
        )
    }

    fn step(&self) -> String {
        let experts = match (self.distinct_experts_per_layer, self.n_experts) {
            (Some(distinct), Some(n_experts)) => {
                format!(", {distinct:.1} of {n_experts} experts a layer by chance")
            }
            _ => String::new(),
        };
        let (weights, attention) = (self.flops_per_token, self.attention_flops_per_token);
        format!(
            "{} of weights{experts};\na token {} with weights, {} in attention",
            si(Some(self.step_weight_bytes), "B"),
            si(Some(weights), "FLOP"),
            si(Some(attention), "FLOP"),
        )
    }

    fn parts(&self) -> Table {
        use Align::{Left, Right};
        let columns =
            [("part", Left), ("parameters", Right), ("active", Right), ("bytes", Right), ("format", Left)];
        let mut table = Table::new(&columns);
        let number = |number: u64, unit| si(Some(number as f64), unit);
        for part in &self.parts {
            let Part { name, parameters, active_parameters, bytes, formats } = *part;
            let format = formats.first().map_or(UNKNOWN.into(), Clone::clone);
            table.row([
                name.into(),
                number(parameters, ""),
                number(active_parameters, ""),
                number(bytes, "B"),
                format,
            ]);
        }
        table
    }

    fn machines(&self) -> Table {
        use Align::{Left, Right};
        let money = self.hardware.iter().any(|row| row.cost_per_million_tokens.is_some());
        let energy = self.hardware.iter().any(|row| row.joules_per_token.is_some());
        let mut columns = vec![("hardware", Left), ("needs", Right), ("has", Right), ("fits", Left)];
        columns.extend([("decode t/s", Right), ("band", Right), ("roof", Right), ("prefill t/s", Right)]);
        if energy {
            columns.push(("J/token", Right));
        }
        if money {
            columns.push(("price/M", Right));
        }
        let mut table = Table::new(&columns);
        for row in &self.hardware {
            let mut cells = vec![
                printable(&row.hardware).into_owned(),
                si(Some(row.needed_bytes_per_die as f64), "B"),
                si(row.memory_bytes_per_die.map(|bytes| bytes as f64), "B"),
                row.fits_in_words(),
                rate(row.decode_tokens_per_second),
                band(row.decode_low, row.decode_high),
                rate(row.decode_roof),
                rate(row.prefill_tokens_per_second),
            ];
            if energy {
                cells.push(si(row.joules_per_token, ""));
            }
            if money {
                cells.push(row.cost_per_million_tokens.map_or(UNKNOWN.into(), |price| format!("{price:.3}")));
            }
            table.row(cells);
        }
        table
    }

    pub(super) fn text(&self) -> String {
        let dies = self.hardware.iter().any(|row| row.dies > 1);
        let note = if dies {
            "\"needs\" and \"has\" are those of one die; speeds are of all together.\n"
        } else {
            ""
        };
        let utilised = self.hardware.iter().filter_map(|row| Some((&row.hardware, row.compute_utilisation?)));
        let busy: String = utilised
            .filter(|(_, share)| self.batch_sequences > 1 && *share >= 0.01)
            .map(|(name, share)| format!("{name} would use {} of its arithmetic.\n", percent(Some(share))))
            .collect();
        let (parts, machines) = (self.parts().render(), self.machines().render());
        format!("{}\n{parts}\n{machines}\n{FAINT}{note}{busy}{}{FAINT:#}", self.facts(), ESTIMATES)
    }

    pub(super) fn markdown(&self) -> String {
        let title = printable(self.model);
        let (parts, machines) = (self.parts().markdown(), self.machines().markdown());
        format!(
            "{title}, {} in {}, {} of KV cache ({} x {} tokens, {}):\n\n{parts}\n{machines}",
            si(Some(self.weight_bytes as f64), "B"),
            self.format,
            si(Some(self.kv_bytes as f64), "B"),
            self.batch_sequences,
            self.context_tokens,
            self.kv_format,
        )
    }

    /// One line for each machine, under the names that JSON has.
    pub(super) fn csv(&self) -> String {
        super::csv(self.hardware.iter())
    }
}

const ESTIMATES: &str = "Speeds are estimates; `moebius plan --validate` sets them beside measurements.\n";

impl<'a> Row<'a> {
    fn new(estimate: &'a Estimate, args: &PlanArgs) -> Self {
        let (machine, device) = (&estimate.machine, &estimate.machine.device);
        let rates = args.rates(device.watts);
        let cost = |band: Option<Band>| {
            band.map(|band| rates.cost(band.expected, machine.count)).unwrap_or_default()
        };
        let (decode, prefill) = (cost(estimate.decode), cost(estimate.prefill));
        let (fits, layers, devices_needed) = match estimate.fit {
            Fit::Whole { .. } => ("whole", None, Some(u64::from(machine.count))),
            Fit::Offloaded { layers, .. } => ("with_host", Some(layers), None),
            Fit::TooLarge { devices } => ("no", None, devices),
            Fit::Unknown => ("unknown", None, None),
        };
        let cited =
            |c: &moebius::plan::Cited| format!("{} = {} ({:?}): {}", c.what, c.value, c.trust, c.source);
        let host = machine.host.iter().flat_map(|host| &host.cited);
        Row {
            hardware: machine.name(),
            title: &device.title,
            class: device.class.name(),
            devices: machine.count,
            dies: machine.dies(),
            memory_bytes_per_die: device.memory_bytes,
            needed_bytes_per_die: estimate.memory.total_bytes(),
            fits,
            expert_layers_on_host: layers,
            devices_needed,
            step_bytes: estimate.step_bytes,
            step_ms: estimate.step.map(|step| 1e3 * step.total()).filter(|ms| ms.is_finite()),
            decode_tokens_per_second: estimate.decode.map(|band| band.expected),
            decode_low: estimate.decode.map(|band| band.low),
            decode_high: estimate.decode.map(|band| band.high),
            decode_roof: estimate.decode_roof,
            prefill_tokens_per_second: estimate.prefill.map(|band| band.expected),
            prefill_low: estimate.prefill.map(|band| band.low),
            prefill_high: estimate.prefill.map(|band| band.high),
            compute_utilisation: estimate.compute_utilisation,
            joules_per_token: decode.joules_per_token,
            cost_per_million_tokens: decode.million_tokens,
            cost_per_million_prompt_tokens: prefill.million_tokens,
            sources: device.cited.iter().chain(host).map(cited).collect(),
            fit: estimate.fit,
        }
    }

    fn fits_in_words(&self) -> String {
        match self.fit {
            Fit::Whole { .. } => "yes".into(),
            Fit::Offloaded { layers, of } => format!("experts of {layers}/{of} layers with the host"),
            Fit::TooLarge { devices: Some(devices) } => format!("no, {devices} would"),
            Fit::TooLarge { devices: None } => "no".into(),
            Fit::Unknown => UNKNOWN.into(),
        }
    }
}

/// Tokens per second.
fn rate(rate: Option<f64>) -> String {
    match rate.filter(|rate| rate.is_finite()) {
        Some(rate) if rate >= 100.0 => format!("{rate:.0}"),
        Some(rate) => format!("{rate:.1}"),
        None => UNKNOWN.into(),
    }
}

/// The two ends of a band.
fn band(low: Option<f64>, high: Option<f64>) -> String {
    match low.zip(high) {
        Some((low, high)) => format!("{} to {}", rate(Some(low)), rate(Some(high))),
        None => UNKNOWN.into(),
    }
}
