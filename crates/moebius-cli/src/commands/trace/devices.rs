//! `moebius trace devices`: what routing asks of devices that experts are spread over.
//!
//! Invariants: what a trace does not tell is `None`, prints as n/a and is null.

use moebius::balance::{
    LayerDevices, Rule, Spread, SyntheticRow, Taste, TraceDevices, synthetic, trace_devices,
};
use moebius::declared::Balance;
use moebius::metering::format::{UNKNOWN, percent, si};
use moebius::{Needs, OpenOptions};
use serde::Serialize;

use crate::args::{DevicesArgs, OutputArgs};
use crate::commands::model_dir;
use crate::errors::{CliError, Result};
use crate::json;
use crate::table::{Align, Table};
use crate::terminal::{FAINT, print, printable, remark};

/// Bytes of a number on its way to an expert and back: 16 bits.
const NUMBER_BYTES: (u64, u64) = (2, 2);

#[derive(Serialize)]
struct Report {
    devices: usize,
    batch_tokens: usize,
    capacity_factor: Option<f64>,
    hidden: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<LayerReport>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    synthetic: Option<Vec<SyntheticReport>>,
}

#[derive(Serialize)]
struct LayerReport {
    layer: usize,
    as_routed: Figures,
    grouped_by_rule: Option<Figures>,
}

#[derive(Serialize)]
struct SyntheticReport {
    taste: &'static str,
    router: &'static str,
    #[serde(flatten)]
    figures: Option<Figures>,
}

/// One balance in numbers.
#[derive(Serialize)]
struct Figures {
    tokens: u64,
    batches: u64,
    pairs_by_device: Vec<u64>,
    straggler: Option<f64>,
    jain_index: Option<f64>,
    over_capacity_share: Option<f64>,
    devices_sent_to_per_token: Option<f64>,
    exchanged_bytes_per_token: Option<f64>,
}

impl Figures {
    fn new(balance: &Balance, hidden: Option<usize>) -> Self {
        Figures {
            tokens: balance.tokens(),
            batches: balance.batches(),
            pairs_by_device: balance.pairs().to_vec(),
            straggler: balance.straggler(),
            jain_index: balance.jain_index(),
            over_capacity_share: balance.overflow_share(),
            devices_sent_to_per_token: balance.bytes_per_token(1, (1, 0)),
            exchanged_bytes_per_token: hidden
                .and_then(|hidden| balance.bytes_per_token(hidden, NUMBER_BYTES)),
        }
    }

    /// The cells of a row, after its names.
    fn cells(&self, tells_devices: bool) -> Vec<String> {
        let number = |value: Option<f64>| value.map_or(UNKNOWN.into(), |value| format!("{value:.2}"));
        let mut cells = vec![
            number(self.straggler),
            number(self.jain_index),
            percent(self.over_capacity_share),
            number(self.devices_sent_to_per_token),
            si(self.exchanged_bytes_per_token, "B"),
        ];
        if tells_devices {
            let total = self.pairs_by_device.iter().sum::<u64>() as f64;
            let share = |&pairs: &u64| match total > 0.0 {
                true => format!("{:.0}", 100.0 * pairs as f64 / total),
                false => UNKNOWN.into(),
            };
            cells.push(self.pairs_by_device.iter().map(share).collect::<Vec<_>>().join(" "));
        }
        cells
    }
}

/// Prints what a trace, or random tokens, ask of devices.
pub(crate) fn devices(args: &DevicesArgs, output: &OutputArgs) -> Result<()> {
    let spread = args.spread();
    let model = match &args.model {
        Some(model) => {
            let dir = model_dir(Some(model), Needs::Description, output)?;
            Some(moebius::inspect(dir, &OpenOptions::default())?.0)
        }
        None => None,
    };
    let hidden = args.hidden.or(model.as_ref().map(|info| info.hidden));
    match (&args.file, args.synthetic) {
        (Some(file), false) => {
            let traced = trace_devices(file, &spread)?;
            if let Some(info) = &model {
                let layers = info.routed_layers.iter().map(|layer| (layer.layer, layer.n_experts));
                traced.header.check_is_of(file, &layers.collect::<Vec<_>>())?;
            }
            if traced.incomplete_bytes > 0 {
                let name = file.display().to_string();
                let rest = format!("its last {} bytes are no whole record", traced.incomplete_bytes);
                remark(output, &format!("{} ends early: {rest}", printable(&name)));
            }
            of_trace(&traced, (&spread, hidden), args.json.json)
        }
        (None, true) => {
            let rows = synthetic(&args.task(), &spread)?;
            of_random_tokens(&rows, (&spread, hidden), args.json.json)
        }
        _ => {
            let hint = "give a FILE that `moebius run --trace FILE` wrote, or --synthetic for random tokens";
            Err(CliError::usage("there is nothing to spread over devices", hint))
        }
    }
}

fn of_trace(traced: &TraceDevices, (spread, hidden): (&Spread, Option<usize>), as_json: bool) -> Result<()> {
    let layers = traced.layers.iter().map(|layer: &LayerDevices| LayerReport {
        layer: layer.layer,
        as_routed: Figures::new(&layer.routed, hidden),
        grouped_by_rule: layer.grouped.as_ref().map(|grouped| Figures::new(grouped, hidden)),
    });
    let layers: Vec<LayerReport> = layers.collect();
    if as_json {
        return json::print(&Report { layers: Some(layers), ..Report::new(spread, hidden) });
    }
    let mut table = Table::new(&columns(&[("layer", Align::Right), ("routing", Align::Left)], true));
    for layer in &layers {
        let as_routed = [layer.layer.to_string(), "as routed".into()];
        table.row(as_routed.into_iter().chain(layer.as_routed.cells(true)));
        if let Some(grouped) = &layer.grouped_by_rule {
            table.row([String::new(), "grouped".into()].into_iter().chain(grouped.cells(true)));
        }
    }
    let grouped = match layers.iter().any(|layer| layer.grouped_by_rule.is_some()) {
        true => "grouped: MoGE by its rule; the trace has no logits to route anew",
        false => "grouped (MoGE) is n/a: it needs experts per token to be a multiple of the devices",
    };
    print(&format!("{}{FAINT}{}\n{grouped}{FAINT:#}\n", table.render(), legend(spread)))
}

fn of_random_tokens(
    rows: &[SyntheticRow],
    (spread, hidden): (&Spread, Option<usize>),
    as_json: bool,
) -> Result<()> {
    let named = |row: &SyntheticRow| SyntheticReport {
        taste: name(&Taste::ALL, row.taste),
        router: name(&Rule::ALL, row.rule),
        figures: row.balance.as_ref().map(|balance| Figures::new(balance, hidden)),
    };
    let rows: Vec<SyntheticReport> = rows.iter().map(named).collect();
    if as_json {
        return json::print(&Report { synthetic: Some(rows), ..Report::new(spread, hidden) });
    }
    let mut table = Table::new(&columns(&[("logits", Align::Left), ("router", Align::Left)], false));
    for row in &rows {
        let cells = row.figures.as_ref().map_or(vec![UNKNOWN.into(); 5], |figures| figures.cells(false));
        table.row([row.taste.to_owned(), row.router.to_owned()].into_iter().chain(cells));
    }
    print(&format!("{}{FAINT}{}{FAINT:#}\n", table.render(), legend(spread)))
}

impl Report {
    fn new(spread: &Spread, hidden: Option<usize>) -> Self {
        let Spread { devices, batch: batch_tokens, capacity_factor } = *spread;
        Report { devices, batch_tokens, capacity_factor, hidden, layers: None, synthetic: None }
    }
}

fn columns<'a>(first: &[(&'a str, Align)], tells_devices: bool) -> Vec<(&'a str, Align)> {
    let numbers = ["straggler", "Jain", "no room", "sent to", "all-to-all"];
    let mut columns = first.to_vec();
    columns.extend(numbers.map(|name| (name, Align::Right)));
    if tells_devices {
        columns.push(("% of pairs by device", Align::Left));
    }
    columns
}

fn legend(spread: &Spread) -> String {
    let Spread { devices, batch, capacity_factor } = spread;
    let room = match capacity_factor {
        Some(factor) => format!("no room: pairs beyond {factor} x an even share of a batch"),
        None => "no room is n/a without a capacity".into(),
    };
    format!(
        "{devices} devices, batches of {batch} tokens; straggler: busiest device over the mean, batch by batch; {room}\n\
         sent to: devices of a token besides its own; all-to-all: bytes a token in 16 bits, there and back"
    )
}

fn name<T: Copy + PartialEq>(all: &[(T, &'static str)], wanted: T) -> &'static str {
    all.iter().find(|(one, _)| *one == wanted).map_or("", |(_, name)| name)
}
