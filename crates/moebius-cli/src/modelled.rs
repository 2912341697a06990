//! What declared hardware would have taken, for people and for programs: always said to be a model.
//!
//! Invariants: what cannot be modelled is `None`, prints as n/a and is null.

use std::collections::BTreeMap;

use moebius::ModelledRun;
use moebius::declared::{Balance, Declared, Modelled as Account, ModelledPhase, Profile};
use moebius::metering::format::{UNKNOWN, percent, si};
use serde::Serialize;

use crate::meter::rate;

/// Bytes of a number on its way between devices: 16 bits.
const NUMBER_BYTES: u64 = 2;

/// What `--json` prints of it.
#[derive(Debug, Serialize)]
pub(crate) struct Modelled {
    /// So that nobody takes it for a measurement.
    kind: &'static str,
    profile: String,
    devices: usize,
    fitted_to_measurements: usize,
    prompt: Phase,
    #[serde(skip_serializing_if = "Option::is_none")]
    decode: Option<Phase>,
    device_loads: Vec<DeviceLoad>,
}

/// One phase.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    tokens: u64,
    seconds: Option<f64>,
    ms_per_token: Option<f64>,
    tokens_per_second: Option<f64>,
    tokens_per_second_low: Option<f64>,
    tokens_per_second_high: Option<f64>,
    relative_error: f64,
    joules: Option<f64>,
    joules_per_token: Option<f64>,
    operations: u64,
    memory_seconds: f64,
    compute_seconds: f64,
    launch_seconds: f64,
    exchange_seconds: f64,
    fetch_seconds: Option<f64>,
    exchanged_bytes: u64,
    fetched_bytes: u64,
    padding_share: Option<f64>,
}

/// How even the devices of one layer were loaded.
#[derive(Debug, Serialize)]
pub(crate) struct DeviceLoad {
    layer: usize,
    pairs: Vec<u64>,
    straggler: Option<f64>,
    jain_index: Option<f64>,
    over_capacity_share: Option<f64>,
    exchanged_bytes_per_token: Option<f64>,
}

impl Phase {
    pub(crate) fn new(phase: &ModelledPhase) -> Self {
        let (band, account) = (phase.tokens_per_second(), &phase.modelled);
        Phase {
            tokens: phase.tokens,
            seconds: phase.seconds(),
            ms_per_token: phase.seconds_per_token().map(|seconds| 1e3 * seconds),
            tokens_per_second: band.map(|band| band.expected),
            tokens_per_second_low: band.map(|band| band.low),
            tokens_per_second_high: band.map(|band| band.high),
            relative_error: phase.error,
            joules: phase.joules,
            joules_per_token: phase.joules_per_token(),
            operations: account.operations,
            memory_seconds: account.memory_seconds,
            compute_seconds: account.compute_seconds,
            launch_seconds: account.launch_seconds,
            exchange_seconds: account.exchange_seconds,
            fetch_seconds: Some(account.fetch_seconds).filter(|seconds| seconds.is_finite()),
            exchanged_bytes: account.exchanged_bytes,
            fetched_bytes: account.fetched_bytes,
            padding_share: account.padding_share(),
        }
    }
}

impl Modelled {
    /// Of a generation; `hidden` is the width of the residual stream.
    pub(crate) fn of_run(run: &ModelledRun, declared: &Declared, hidden: usize) -> Self {
        let (profile, balance) = (declared.profile(), declared.balance());
        Modelled::new((&run.prefill, Some(&run.decode)), profile, &balance, hidden)
    }

    /// Of a prompt alone.
    pub(crate) fn of_prompt(phase: &ModelledPhase, declared: &Declared, hidden: usize) -> Self {
        Modelled::new((phase, None), declared.profile(), &declared.balance(), hidden)
    }

    fn new(
        (prompt, decode): (&ModelledPhase, Option<&ModelledPhase>),
        profile: &Profile,
        balance: &BTreeMap<usize, Balance>,
        hidden: usize,
    ) -> Self {
        let load = |(&layer, balance): (&usize, &Balance)| DeviceLoad {
            layer,
            pairs: balance.pairs().to_vec(),
            straggler: balance.straggler(),
            jain_index: balance.jain_index(),
            over_capacity_share: balance.overflow_share(),
            exchanged_bytes_per_token: balance.bytes_per_token(hidden, (NUMBER_BYTES, NUMBER_BYTES)),
        };
        Modelled {
            kind: "modelled, not measured",
            profile: profile.name.clone(),
            devices: profile.devices,
            fitted_to_measurements: profile.reached.fitted_to,
            prompt: Phase::new(prompt),
            decode: decode.map(Phase::new),
            device_loads: balance.iter().map(load).collect(),
        }
    }
}

/// The lines that a meter ends with.
pub(crate) fn rows(
    (prompt, decode): (&ModelledPhase, Option<&ModelledPhase>),
    declared: &Declared,
) -> Vec<(&'static str, String)> {
    let profile = declared.profile();
    let mut speeds = vec![format!("prompt {}", speed(prompt))];
    speeds.extend(decode.map(|decode| format!("decode {}", speed(decode))));
    let basis = match profile.reached.fitted_to {
        0 => "assumed shares".into(),
        count => format!("shares fitted to {count} measurements"),
    };
    let whole = decode.map_or_else(|| prompt.modelled.clone(), |decode| &prompt.modelled + &decode.modelled);
    let mut rows = vec![
        ("modelled", format!("{}\non {}, not measured; {basis}", speeds.join(", "), profile.name)),
        ("", spent(&whole)),
    ];
    let joules = |phase: &ModelledPhase| si(phase.joules_per_token(), "J");
    let decoded = decode.map_or(String::new(), |decode| format!(", {} generated", joules(decode)));
    rows.push(("", format!("{} a token read{decoded}", joules(prompt))));
    if let Some(line) = devices(&declared.balance()) {
        rows.push(("devices", line));
    }
    rows
}

/// A rate with its band.
pub(crate) fn speed(phase: &ModelledPhase) -> String {
    match phase.tokens_per_second() {
        None => format!("{UNKNOWN} tok/s"),
        Some(band) => {
            let (low, high) = (rate(Some(band.low)), rate(Some(band.high)));
            let low = low.trim_end_matches(" tok/s");
            format!("{} ({low} to {})", rate(Some(band.expected)), high.trim_end_matches(" tok/s"))
        }
    }
}

/// What time goes to, as shares.
fn spent(account: &Account) -> String {
    let all = account.seconds();
    let share = |seconds: f64| percent(Some(seconds / all).filter(|share| share.is_finite()));
    let mut parts = vec![
        format!("memory {}", share(account.memory_seconds)),
        format!("arithmetic {}", share(account.compute_seconds)),
        format!("launches {}", share(account.launch_seconds)),
    ];
    if account.exchanged_bytes > 0 {
        parts.push(format!("exchange {}", share(account.exchange_seconds)));
    }
    if account.fetched_bytes > 0 {
        parts.push(format!("fetches {}", share(account.fetch_seconds)));
    }
    let padding = account.padding_share().filter(|share| *share > 0.0);
    let padding = padding.map_or(String::new(), |share| format!("; tiles pad {} more", percent(Some(share))));
    format!("its time: {}{padding}", parts.join(", "))
}

/// The worst and the mean layer.
fn devices(balance: &BTreeMap<usize, Balance>) -> Option<String> {
    let stragglers: Vec<(usize, f64)> =
        balance.iter().filter_map(|(&layer, balance)| Some((layer, balance.straggler()?))).collect();
    let &(layer, worst) = stragglers.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let mean = stragglers.iter().map(|(_, factor)| factor).sum::<f64>() / stragglers.len() as f64;
    let devices = balance.values().next()?.placement().devices();
    Some(format!(
        "the busiest of {devices} takes {mean:.2} x an even share on average, {worst:.2} x in layer {layer}"
    ))
}
