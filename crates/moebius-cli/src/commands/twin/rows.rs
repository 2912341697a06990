//! A model and its twins in numbers: tables for people, rows for programs.

use moebius::bench::{Quartiles, Subject, expected_distinct};
use moebius::metering::format::{UNKNOWN, percent, si};
use moebius::{EnergyMeter, Form, FormTimes, Proof, TwinRow, TwinSession, TwinText};
use serde_json::json;

use crate::energy;
use crate::errors::Result;
use crate::markdown::aligned;
use crate::rows::Record;
use crate::terminal::printable;

/// What all rows share.
pub(super) struct Setting {
    model: String,
    family: &'static str,
    layers: usize,
    n_experts: usize,
    top_k: usize,
    format: Option<&'static str>,
    kernels: &'static str,
    threads: usize,
    prompt_tokens: usize,
    generated_tokens: usize,
    proof: Proof,
    no_iso_active: Option<String>,
}

const PHASES: [&str; 2] = ["prefill", "decode"];

impl Setting {
    /// Of a session that has proved what it had to.
    pub(super) fn new(
        subject: &Subject,
        session: &TwinSession,
        text: &TwinText,
        (proof, threads): (Proof, Option<usize>),
    ) -> Result<Self> {
        let info = session.info();
        let (n_experts, top_k) = info.moe.as_ref().map_or((0, 0), |moe| (moe.n_experts, moe.top_k));
        Ok(Setting {
            model: printable(&subject.name()).into_owned(),
            family: info.family,
            layers: info.n_layers,
            n_experts,
            top_k,
            format: info.weight_format().map(|format| format.name()),
            kernels: moebius::kernel_name()?,
            threads: threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get())),
            prompt_tokens: text.prompt.len(),
            generated_tokens: text.continuation.len(),
            proof,
            no_iso_active: session.no_iso_active(),
        })
    }
}

/// What runs, and that outputs are equal.
pub(super) fn heading(setting: &Setting) -> String {
    let Setting { model, layers, n_experts, top_k, proof, prompt_tokens, generated_tokens, .. } = setting;
    format!(
        "{model}: {layers} layers, {top_k} of {n_experts} experts, {} on {} with {} threads; a prompt of \
         {prompt_tokens} tokens, {generated_tokens} generated\n\
         sparse and iso-total: max |diff| of logits {:e} over {} positions (largest logit {})\n\n",
        setting.format.unwrap_or(UNKNOWN),
        setting.kernels,
        setting.threads,
        proof.max_difference,
        proof.positions,
        si(Some(f64::from(proof.max_logit)), ""),
    )
}

/// Tables for people.
pub(super) struct Table;

impl Table {
    /// What each form did and took.
    pub(super) fn forms(row: &TwinRow) -> String {
        let names = [
            "one sequence",
            "form",
            "FLOP",
            "experts' FLOP",
            "bytes",
            "ms",
            "experts' ms",
            "tok/s",
            "energy",
        ];
        let mut lines = vec![names.map(String::from).to_vec()];
        for (phase, forms) in phases(row) {
            for (form, times) in each(forms) {
                let (samples, total) = (times.whole.samples.len() as u64, times.whole.counts.total());
                let flop = |macs: u64| si(times.whole.per_sample(2 * macs), "FLOP");
                lines.push(vec![
                    phase.into(),
                    form.name().into(),
                    flop(total.macs),
                    flop(times.whole.counts.experts().executed_macs),
                    si(times.whole.per_sample(total.bytes()), "B"),
                    millis(times.whole.millis()),
                    millis(times.experts_millis()),
                    si(times.tokens_per_second(), ""),
                    energy::text(times.whole.energy, samples, "run"),
                ]);
            }
        }
        aligned(&lines, 2)
    }

    /// What sparse saves against each twin.
    pub(super) fn savings(row: &TwinRow) -> String {
        let names = [
            "saved by sparse",
            "against",
            "FLOP",
            "experts' FLOP",
            "bytes",
            "time",
            "experts' time",
            "energy",
        ];
        let mut lines = vec![names.map(String::from).to_vec()];
        for (phase, forms) in phases(row) {
            let Some(sparse) = &forms[0] else { continue };
            for (form, twin) in each(forms).skip(1) {
                let saved = |of: &dyn Fn(&FormTimes) -> u64| {
                    let (mine, theirs) = (of(sparse) as f64, of(twin) as f64);
                    percent((theirs > 0.0).then(|| 1.0 - mine / theirs))
                };
                let joules = sparse.whole.energy.zip(twin.whole.energy);
                lines.push(vec![
                    phase.into(),
                    form.name().into(),
                    saved(&|times| times.whole.counts.total().macs),
                    saved(&|times| times.whole.counts.experts().executed_macs),
                    saved(&|times| times.whole.counts.total().bytes()),
                    saved_time(sparse.over(twin)),
                    saved_time(sparse.experts_over(twin)),
                    percent(joules.map(|(mine, theirs)| 1.0 - mine.joules() / theirs.joules())),
                ]);
            }
        }
        format!("\n{}", aligned(&lines, 2))
    }

    /// Generating in batches: what is touched, and sparse beside both twins.
    pub(super) fn batches(setting: &Setting, measured: &[TwinRow]) -> String {
        let names = [
            "decode, batch",
            "experts touched",
            "by chance",
            "bytes of iso-total",
            "time of iso-total",
            "bytes of iso-active",
            "time of iso-active",
            "tok/s sparse",
        ];
        let mut lines = vec![names.map(String::from).to_vec()];
        for row in measured {
            let [Some(sparse), total, active] = &row.decode else { continue };
            let bytes = |twin: &Option<FormTimes>| {
                let bytes = |times: &FormTimes| times.whole.counts.total().bytes() as f64;
                percent(
                    twin.as_ref().filter(|twin| bytes(twin) > 0.0).map(|twin| bytes(sparse) / bytes(twin)),
                )
            };
            let time = |twin: &Option<FormTimes>| ratio(twin.as_ref().and_then(|twin| sparse.over(twin)));
            let chance = expected_distinct(setting.n_experts, setting.top_k, row.batch as f64);
            lines.push(vec![
                row.batch.to_string(),
                format!("{} of {}", decimal(sparse.distinct_experts()), setting.n_experts),
                decimal(Some(chance)),
                bytes(total),
                time(total),
                bytes(active),
                time(active),
                si(sparse.tokens_per_second(), ""),
            ]);
        }
        format!("\n{}", aligned(&lines, 1))
    }
}

/// Operations by hand, where sparse loses, and what is unknown.
pub(super) fn notes(
    setting: &Setting,
    measured: &[TwinRow],
    (too_many, energy): (&[usize], &EnergyMeter),
) -> String {
    let mut lines = Vec::new();
    if let Some(row) = measured.first() {
        lines.extend(one_sequence(setting, row));
    }
    lines.extend(losing_batches(setting, measured));
    if let Some(reason) = &setting.no_iso_active {
        lines.push(format!("iso-active is n/a: {}", printable(reason)));
    }
    if !too_many.is_empty() {
        let batches = too_many.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        lines.push(format!("left out, beyond the context: batches of {batches}"));
    }
    let why = energy::why_unknown(energy);
    if !why.is_empty() {
        lines.push(format!("energy is n/a{why}"));
    }
    format!("\n{}\n", lines.join("\n"))
}

/// Operations as counted beside k/E, and what a step takes beyond them.
fn one_sequence(setting: &Setting, row: &TwinRow) -> Vec<String> {
    let [Some(sparse), Some(total), active] = &row.decode else { return Vec::new() };
    let (k, n) = (setting.top_k, setting.n_experts);
    let (ideal, macs) =
        (k as f64 / n as f64, |times: &FormTimes| times.whole.counts.experts().executed_macs as f64);
    let counted = macs(sparse) / macs(total);
    let mut lines = vec![format!(
        "experts' operations, sparse over iso-total: {counted} counted, k/E = {k}/{n} = {ideal}"
    )];
    let steps = (sparse.steps as f64 / sparse.whole.samples.len().max(1) as f64).max(1.0);
    let median = |quartiles: Option<Quartiles>| quartiles.map(|q| q.median);
    if let Some((mine, all)) = median(sparse.experts_millis()).zip(median(total.experts_millis())) {
        let extra = mine - ideal * all;
        let (more, why) = match extra > 0.0 {
            true => ("more", "what every call costs shows in small experts"),
            false => ("less", "what they touch stays in caches, all experts together do not"),
        };
        let (step_us, share) = (1e3 * extra.abs() / steps, percent(Some(extra.abs() / mine)));
        lines.push(format!(
            "overhead: the experts of a decode step take {step_us:.1} us {more} than k/E of iso-total's, {share} of their \
             time: {why}"
        ));
    }
    let whole = |times: &FormTimes| median(times.whole.millis());
    if let Some((mine, dense)) = whole(sparse).zip(active.as_ref().and_then(whole)) {
        let step_us = 1e3 * (mine - dense) / steps;
        lines.push(format!(
            "routing: a sparse decode step takes {step_us:+.1} us beside a dense model of the active width"
        ));
    }
    lines
}

/// Batches that save no bytes, and those that are slower than a dense model of the active width.
fn losing_batches(setting: &Setting, measured: &[TwinRow]) -> Vec<String> {
    let (n, mut lines) = (setting.n_experts, Vec::new());
    let touched = |row: &&TwinRow| row.decode[0].as_ref().and_then(FormTimes::distinct_experts);
    let whole = measured.iter().filter(|row| touched(row) >= Some(0.99 * n as f64));
    let whole: Vec<String> = whole.map(|row| row.batch.to_string()).collect();
    if !whole.is_empty() && setting.top_k < n {
        let batches = whole.join(", ");
        lines.push(format!("no bytes of experts are saved in batches of {batches}: all {n} are touched"));
    }
    let slower = measured.iter().filter_map(|row| {
        let [Some(sparse), _, Some(active)] = &row.decode else { return None };
        let ratio = sparse.over(active).filter(|ratio| ratio.low > 1.0)?;
        Some(format!("{} (x{:.2})", row.batch, ratio.median))
    });
    let slower = slower.collect::<Vec<_>>().join(", ");
    if !slower.is_empty() {
        lines.push(format!("slower than iso-active in batches of {slower}"));
    }
    lines
}

/// A row for each phase and form.
pub(super) fn records(setting: &Setting, row: &TwinRow) -> Vec<Record> {
    let mut records = Vec::new();
    for (phase, forms) in phases(row) {
        for (form, times) in each(forms) {
            let mut record = Record::default();
            add_setting(&mut record, setting);
            record.add("batch_sequences", row.batch);
            record.add("phase", phase);
            record.add("form", form.name());
            add_times(&mut record, times);
            let sparse = forms[0].as_ref();
            let over = sparse.and_then(|sparse| sparse.over(times));
            let experts_over = sparse.and_then(|sparse| sparse.experts_over(times));
            for (name, quartiles) in
                [("sparse_time_ratio", over), ("sparse_experts_time_ratio", experts_over)]
            {
                record.add(name, quartiles.map(|q| q.median));
                record.add(&format!("{name}_low"), quartiles.map(|q| q.low));
                record.add(&format!("{name}_high"), quartiles.map(|q| q.high));
            }
            let share = |of: &dyn Fn(&FormTimes) -> u64| {
                let (mine, theirs) = (sparse.map(of)? as f64, of(times) as f64);
                (theirs > 0.0).then(|| mine / theirs)
            };
            record.add("sparse_macs_ratio", share(&|times| times.whole.counts.total().macs));
            record
                .add("sparse_expert_macs_ratio", share(&|times| times.whole.counts.experts().executed_macs));
            record.add("sparse_bytes_ratio", share(&|times| times.whole.counts.total().bytes()));
            records.push(record);
        }
    }
    records
}

fn add_setting(record: &mut Record, setting: &Setting) {
    record.add_program(moebius::cpu_name(), setting.kernels);
    record.add("threads", setting.threads);
    record.add("model", setting.model.clone());
    record.add("family", setting.family);
    record.add("layers", setting.layers);
    record.add("n_experts", setting.n_experts);
    record.add("experts_per_token", setting.top_k);
    record.add("format", setting.format);
    record.add("prompt_tokens", setting.prompt_tokens);
    record.add("generated_tokens", setting.generated_tokens);
    record.add("max_abs_difference", json!(f64::from(setting.proof.max_difference)));
    record.add("compared_positions", setting.proof.positions);
}

fn add_times(record: &mut Record, times: &FormTimes) {
    let (whole, total) = (&times.whole, times.whole.counts.total());
    let millis = |quartiles: Option<Quartiles>| quartiles.map(|q| q.median);
    let samples: Vec<f64> = whole.samples.iter().map(|time| 1e3 * time.as_secs_f64()).collect();
    record.add("repetitions", samples.len());
    record.add("steps", whole.per_sample(times.steps));
    record.add("tokens", whole.per_sample(times.tokens));
    record.add("macs", whole.per_sample(total.macs));
    record.add("expert_macs", whole.per_sample(whole.counts.experts().executed_macs));
    record.add("weight_bytes", whole.per_sample(total.weight_bytes));
    record.add("cache_bytes", whole.per_sample(total.cache_bytes));
    record.add("distinct_experts_per_layer", times.distinct_experts());
    record.add("ms", millis(whole.millis()));
    record.add("ms_low", whole.millis().map(|q| q.low));
    record.add("ms_high", whole.millis().map(|q| q.high));
    record.add("samples_ms", samples);
    record.add("experts_ms", millis(times.experts_millis()));
    record.add("tokens_per_second", times.tokens_per_second());
    energy::add(record, "all_samples", whole.energy);
}

type Forms = [Option<FormTimes>; 3];

fn phases(row: &TwinRow) -> impl Iterator<Item = (&'static str, &Forms)> {
    PHASES.into_iter().zip([&row.prefill, &row.decode])
}

/// The forms that there are.
fn each(forms: &Forms) -> impl Iterator<Item = (Form, &FormTimes)> {
    Form::ALL.into_iter().zip(forms).filter_map(|(form, times)| Some((form, times.as_ref()?)))
}

fn millis(quartiles: Option<Quartiles>) -> String {
    let Some(Quartiles { low, median, high }) = quartiles else { return UNKNOWN.into() };
    format!("{} ± {}", si(Some(median), ""), si(Some((high - low) / 2.0), ""))
}

fn ratio(quartiles: Option<Quartiles>) -> String {
    let Some(Quartiles { low, median, high }) = quartiles else { return UNKNOWN.into() };
    format!("{:.1} ± {:.1} %", 100.0 * median, 50.0 * (high - low))
}

fn saved_time(quartiles: Option<Quartiles>) -> String {
    let turned = |q: Quartiles| Quartiles { low: 1.0 - q.high, median: 1.0 - q.median, high: 1.0 - q.low };
    ratio(quartiles.map(turned))
}

fn decimal(value: Option<f64>) -> String {
    value.map_or(UNKNOWN.into(), |value| format!("{value:.1}"))
}
