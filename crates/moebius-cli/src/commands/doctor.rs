//! `moebius doctor`.

mod router;

use moebius::metering::format::{UNKNOWN, si};
use moebius::{CounterState, Finding, GpuState, Health};
use serde::Serialize;

use crate::args::{DoctorArgs, DoctorCommand, OutputArgs};
use crate::errors::Result;
use crate::table::facts;
use crate::terminal::{GOOD, WARNING, print, printable, remark};
use crate::{json, version};

#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    target: &'static str,
    profile: &'static str,
    cpu_features: Vec<&'static str>,
    instruction_sets: Vec<String>,
    kernels: &'static str,
    backends: &'static [&'static str],
    threads: usize,
    available_bytes: Option<u64>,
    read_bytes_per_second: Option<f64>,
    gpus: Option<&'a [String]>,
    int8_ops_per_second: f64,
    f32_ops_per_second: f64,
    bf16_ops_per_second: Option<f64>,
    energy_counters: Option<&'a [String]>,
    default_model: Option<String>,
    cache_dir: Option<String>,
    cache_entries: Option<usize>,
    cache_bytes: Option<u64>,
    findings: Vec<Found<'a>>,
}

#[derive(Serialize)]
struct Found<'a> {
    what: &'a str,
    hint: &'a str,
}

/// Looks at this machine, or at what the command names.
pub(crate) fn doctor(args: &DoctorArgs, output: &OutputArgs) -> Result<()> {
    if let Some(DoctorCommand::Router(args)) = &args.command {
        return router::router(args, output);
    }
    if !args.json.json {
        remark(output, "measuring memory and arithmetic ...");
    }
    let threads = args.threads.and_then(|threads| usize::try_from(threads).ok());
    let health = moebius::doctor(threads)?;
    if args.json.json { json::print(&report(&health)) } else { print(&text(&health)) }
}

fn report(health: &Health) -> Report<'_> {
    let cache = health.cache.as_ref();
    Report {
        version: env!("CARGO_PKG_VERSION"),
        target: version::TARGET,
        profile: version::PROFILE,
        cpu_features: moebius::cpu_features(),
        instruction_sets: health.isas.iter().map(ToString::to_string).collect(),
        kernels: health.kernels,
        backends: moebius::BACKENDS,
        threads: health.threads,
        available_bytes: health.available_bytes,
        read_bytes_per_second: health.read_bytes_per_second,
        gpus: match &health.gpus {
            GpuState::Found(gpus) => Some(gpus),
            GpuState::NotBuiltIn | GpuState::Unusable(_) => None,
        },
        int8_ops_per_second: health.peaks.int8_ops_per_second,
        f32_ops_per_second: health.peaks.f32_ops_per_second,
        bf16_ops_per_second: health.peaks.bf16_ops_per_second,
        energy_counters: match &health.energy {
            CounterState::Readable(zones) => Some(zones),
            CounterState::Unreadable { .. } | CounterState::Absent => None,
        },
        default_model: health.default_model.as_ref().map(|dir| dir.display().to_string()),
        cache_dir: cache.map(|(cache, _)| cache.dir().display().to_string()),
        cache_entries: cache.map(|(_, entries)| entries.len()),
        cache_bytes: cache.map(|(_, entries)| entries.iter().map(|entry| entry.bytes).sum()),
        findings: found(&health.findings),
    }
}

fn found(findings: &[Finding]) -> Vec<Found<'_>> {
    findings.iter().map(|Finding { what, hint }| Found { what, hint }).collect()
}

/// Findings with their hints; `well` where there are none.
fn advice(findings: &[Found<'_>], well: &str) -> String {
    let mut text = String::new();
    for finding in findings {
        let (what, hint) = (printable(finding.what), printable(finding.hint));
        text += &format!("{WARNING}!{WARNING:#} {what}\n  hint: {hint}\n");
    }
    if findings.is_empty() {
        text += &format!("{GOOD}{well}{GOOD:#}\n");
    }
    text
}

fn gpus(state: &GpuState) -> String {
    match state {
        GpuState::NotBuiltIn => "not used: built without the feature `cuda`".into(),
        GpuState::Unusable(_) => "none".into(),
        GpuState::Found(gpus) => gpus.join("; "),
    }
}

fn text(health: &Health) -> String {
    let report = report(health);
    let bytes = report.available_bytes.map(|bytes| bytes as f64);
    let kept_bytes = si(report.cache_bytes.map(|bytes| bytes as f64), "B");
    let kept = match report.cache_entries {
        None | Some(0) => "empty".into(),
        Some(1) => format!("1 packed model, {kept_bytes}"),
        Some(count) => format!("{count} packed models, {kept_bytes}"),
    };
    let mut text = facts(&[
        ("moebius", format!("{} ({}, {})", report.version, report.profile, report.target)),
        ("CPU", version::features()),
        ("kernels", format!("{} (can run: {})", report.kernels, report.instruction_sets.join(", "))),
        ("backends", report.backends.join(", ")),
        ("threads", report.threads.to_string()),
        ("memory", format!("{} available", si(bytes, "B"))),
        ("bandwidth", format!("{} read by all threads together", si(report.read_bytes_per_second, "B/s"))),
        (
            "peak",
            format!(
                "{} in int8, {} in f32{}, by all threads together",
                si(Some(report.int8_ops_per_second), "OP/s"),
                si(Some(report.f32_ops_per_second), "FLOP/s"),
                report.bf16_ops_per_second.map_or(String::new(), |bf16| {
                    format!(", {} in pairs of bf16 (--bf16-activations)", si(Some(bf16), "FLOP/s"))
                })
            ),
        ),
        ("GPUs", gpus(&health.gpus)),
        ("energy", report.energy_counters.map_or(UNKNOWN.into(), |zones| zones.join(" + "))),
        ("model", report.default_model.unwrap_or_else(|| "none".into())),
        ("cache", report.cache_dir.map_or("none".into(), |dir| format!("{dir} ({kept})"))),
    ]);
    text.push('\n');
    text + &advice(&report.findings, "All is well.")
}
