//! What a run took and what sparsity saved, for people and for programs.
//!
//! Two dense twins: iso-total has the same parameters and runs every expert for every token; iso-active is a dense layer
//! as wide as the experts of one token.
//!
//! Invariants: what was not counted is `None`, prints as n/a and is null; never 0.

mod fetches;
mod full;

use std::time::Duration;

use moebius::declared::ModelledPhase;
use moebius::metering::format::{UNKNOWN, percent, si};
use moebius::metering::{Energy, Phase, Reading};
use moebius::{Model, ModelInfo, Summary};
use serde::Serialize;

use crate::energy;
use crate::modelled;
use crate::table::facts;
use crate::terminal::GOOD;

pub(crate) use fetches::{Fetches, line as fetch_line, plan};
pub(crate) use full::{FullMeter, tables};

/// The speed of both phases, under the names that llama.cpp's server uses.
#[derive(Debug, Serialize)]
pub(crate) struct Timings {
    load_ms: f64,
    prompt_n: u64,
    prompt_ms: f64,
    prompt_per_second: Option<f64>,
    predicted_n: usize,
    predicted_ms: f64,
    predicted_per_second: Option<f64>,
}

/// What was read, computed and saved.
#[derive(Debug, Serialize)]
pub(crate) struct Meter {
    total_parameters: u64,
    active_parameters: u64,
    prompt_bytes_per_second: Option<f64>,
    decode_bytes_per_second: Option<f64>,
    bytes_per_token: Option<f64>,
    flops: Option<u64>,
    expert_flops: Option<u64>,
    iso_total_expert_flops: Option<u64>,
    iso_active_expert_flops: Option<u64>,
    expert_saved_share: Option<f64>,
    model_saved_share: Option<f64>,
    experts_per_token_layer: Option<f64>,
    prompt_distinct_experts_per_token_layer: Option<f64>,
    decode_distinct_experts_per_token_layer: Option<f64>,
    /// Absent where every expert is in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetches: Option<Fetches>,
}

impl Timings {
    /// Of a generation with a model that took `load` to open.
    pub(crate) fn new(load: Duration, summary: &Summary) -> Self {
        let (prefill, decode) = (&summary.prefill, &summary.decode);
        Timings {
            load_ms: 1e3 * load.as_secs_f64(),
            prompt_n: prefill.counts.tokens_in(Phase::Prefill),
            prompt_ms: 1e3 * prefill.seconds(),
            prompt_per_second: prefill.tokens_per_second(Phase::Prefill),
            predicted_n: summary.tokens.len(),
            predicted_ms: 1e3 * decode.seconds(),
            predicted_per_second: decode.tokens_per_second(Phase::Decode),
        }
    }
}

impl Meter {
    /// Of a prompt that was read and of tokens that were generated after it, if any.
    pub(crate) fn new(info: &ModelInfo, prefill: &Reading, decode: Option<&Reading>) -> Self {
        let whole = decode.map_or_else(|| prefill.clone(), |decode| join(prefill, decode));
        let counted = |amount: u64| (amount > 0).then_some(amount);
        Meter {
            total_parameters: info.total_parameters(),
            active_parameters: info.active_parameters(),
            prompt_bytes_per_second: prefill.bytes_per_second(),
            decode_bytes_per_second: decode.and_then(Reading::bytes_per_second),
            bytes_per_token: whole.bytes_per_token(),
            flops: counted(whole.flops()),
            expert_flops: counted(whole.expert_flops()),
            iso_total_expert_flops: counted(whole.iso_total_expert_flops()),
            iso_active_expert_flops: counted(whole.iso_active_expert_flops()),
            expert_saved_share: whole.expert_saved_share(),
            model_saved_share: whole.model_saved_share().filter(|_| whole.flops() > 0),
            experts_per_token_layer: whole.experts_per_token_layer(),
            prompt_distinct_experts_per_token_layer: prefill.distinct_experts_per_token_layer(),
            decode_distinct_experts_per_token_layer: decode
                .and_then(Reading::distinct_experts_per_token_layer),
            fetches: whole.counts.fetches().map(Fetches::from),
        }
    }
}

/// The block that ends a generation.
/// `energy` is `None` where nobody looked.
pub(crate) fn block(model: &Model, summary: &Summary, energy: Option<Option<Energy>>) -> String {
    let info = model.info();
    let decoded = summary.decode.counts.tokens_in(Phase::Decode);
    let mut rows = speed_rows(&summary.prefill, Some((&summary.decode, decoded)));
    let meter = Meter::new(info, &summary.prefill, Some(&summary.decode));
    rows.extend(work_rows(info, &meter));
    rows.extend(fetch_line(&join(&summary.prefill, &summary.decode)).map(|line| ("fetched", line)));
    if let Some(energy) = energy {
        let tokens = (summary.prompt.len() + summary.tokens.len()) as u64;
        rows.push(("energy", energy::text(energy, tokens, "token read or generated")));
    }
    if let (Some(run), Some(declared)) = (&summary.modelled, model.declared()) {
        rows.extend(modelled::rows((&run.prefill, Some(&run.decode)), declared));
    }
    if summary.finish == "context" {
        rows.push(("ended", "the context is full".into()));
    }
    facts(&rows)
}

/// The block that ends a scoring.
pub(crate) fn score_block(model: &Model, reading: &Reading, modelled: Option<&ModelledPhase>) -> String {
    let mut rows = speed_rows(reading, None);
    rows.extend(work_rows(model.info(), &Meter::new(model.info(), reading, None)));
    rows.extend(fetch_line(reading).map(|line| ("fetched", line)));
    if let (Some(phase), Some(declared)) = (modelled, model.declared()) {
        rows.extend(modelled::rows((phase, None), declared));
    }
    facts(&rows)
}

/// One line for a reply of a chat.
pub(crate) fn line(summary: &Summary) -> String {
    let speed = rate(summary.decode.tokens_per_second(Phase::Decode));
    let whole = join(&summary.prefill, &summary.decode);
    let saved = percent(whole.expert_saved_share());
    let used = summary.prompt.len() + summary.tokens.len();
    let tokens = count(summary.tokens.len() as u64);
    format!("[{tokens}, {speed} · {saved} of expert work saved · context {used}]")
}

fn count(tokens: u64) -> String {
    format!("{tokens} {}", if tokens == 1 { "token" } else { "tokens" })
}

/// Milliseconds up to a second, then seconds.
fn duration(seconds: f64) -> String {
    let (value, unit) = if seconds < 1.0 { (1e3 * seconds, "ms") } else { (seconds, "s") };
    let decimals = match value {
        10.0.. => 0,
        1.0.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

/// Tokens per second: three digits, no prefix.
pub(crate) fn rate(tokens_per_second: Option<f64>) -> String {
    let Some(rate) = tokens_per_second else { return format!("{UNKNOWN} tok/s") };
    let decimals = match rate {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{rate:.decimals$} tok/s")
}

fn speed_rows(prefill: &Reading, decode: Option<(&Reading, u64)>) -> Vec<(&'static str, String)> {
    let speed = |reading: &Reading, phase: Phase, tokens: u64| {
        let (rate, bytes) = (rate(reading.tokens_per_second(phase)), si(reading.bytes_per_second(), "B/s"));
        let seconds = if tokens > 0 { duration(reading.seconds()) } else { UNKNOWN.into() };
        let amount = format!("({} in {seconds})", count(tokens));
        format!("{rate:>12}  {:>14}  {amount}", format!("{bytes} read"))
    };
    let prompt_tokens = prefill.counts.tokens_in(Phase::Prefill);
    let mut rows = vec![("prompt", speed(prefill, Phase::Prefill, prompt_tokens))];
    if let Some((decode, tokens)) = decode {
        rows.push(("decode", speed(decode, Phase::Decode, tokens)));
    }
    rows
}

fn work_rows(info: &ModelInfo, meter: &Meter) -> Vec<(&'static str, String)> {
    let (total, active) = (meter.total_parameters as f64, meter.active_parameters as f64);
    let share = percent((total > 0.0).then(|| active / total));
    let parameters =
        format!("{} in all, {} active per token ({share})", si(Some(total), ""), si(Some(active), ""));
    let mut rows = vec![("parameters", parameters)];
    let Some(moe) = &info.moe else { return rows };
    let flop = |flops: Option<u64>| si(flops.map(|flops| flops as f64), "FLOP");
    let average = |experts: Option<f64>| si(experts, "");
    let distinct = match meter.decode_distinct_experts_per_token_layer {
        Some(decode) => format!(
            "prompt {}, decode {}",
            average(meter.prompt_distinct_experts_per_token_layer),
            average(Some(decode))
        ),
        None => average(meter.prompt_distinct_experts_per_token_layer),
    };
    let per_token = average(meter.experts_per_token_layer);
    rows.push((
        "experts",
        format!("{per_token} of {} per token and layer (distinct: {distinct})", moe.n_experts),
    ));
    let (done, total) = (flop(meter.expert_flops), flop(meter.iso_total_expert_flops));
    let active = flop(meter.iso_active_expert_flops);
    let twins = format!("{total} with all experts (iso-total), {active} with the active width (iso-active)");
    rows.push(("expert work", format!("{done} done; dense twins: {twins}")));
    let (experts, model) = (percent(meter.expert_saved_share), percent(meter.model_saved_share));
    rows.push((
        "saved",
        format!("{GOOD}{experts}{GOOD:#} of the experts' work, {GOOD}{model}{GOOD:#} of the whole model's"),
    ));
    rows
}

fn join(one: &Reading, other: &Reading) -> Reading {
    Reading { counts: &one.counts + &other.counts, elapsed: one.elapsed + other.elapsed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_three_digits_and_unknown_ones_say_so() {
        let texts = [Some(1234.5), Some(99.94), Some(9.876), None].map(rate);
        assert_eq!(texts, ["1234 tok/s", "99.9 tok/s", "9.88 tok/s", "n/a tok/s"]);
    }

    #[test]
    fn short_times_are_not_rounded_to_nothing() {
        let texts = [0.00038, 0.0021, 0.071, 2.34, 1234.5].map(duration);
        assert_eq!(texts, ["0.38 ms", "2.1 ms", "71 ms", "2.3 s", "1234 s"]);
    }
}
