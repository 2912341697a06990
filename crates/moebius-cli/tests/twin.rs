//! `moebius twin`, `moebius bench layer` and the meter in full, as people and scripts meet them.

mod support;

use serde_json::Value;
use support::{fail, json, stderr, succeed};

/// Multiply-adds of the bundled model for a token, by hand from its config.json: 4 layers of grouped attention
/// (4 query and 2 key heads of 64), a router over 32 experts of 3 matrices 256 x 128, and a head of 4096 rows.
const ATTENTION: u64 = 256 * (2 * 256 + 2 * 128);
const ROUTER: u64 = 256 * 32;
const EXPERT: u64 = 3 * 256 * 128;
const HEAD: u64 = 4096 * 256;

fn rows(args: &[&str]) -> Vec<Value> {
    serde_json::from_str(&succeed(args)).expect("a JSON array")
}

fn find<'a>(rows: &'a [Value], phase: &str, form: &str) -> &'a Value {
    rows.iter().find(|row| row["phase"] == phase && row["form"] == form).expect("a row")
}

#[test]
fn twins_do_the_operations_that_the_configuration_says_and_give_the_same_output() {
    let args = ["twin", "-n", "3", "-b", "1", "-r", "2", "-t1", "--json", "--watts", "10"];
    let rows = rows(&args);
    assert_eq!(rows.len(), 6);
    let macs = |form: &str, name: &str| find(&rows, "decode", form)[name].as_f64().expect("a number");
    let steps = 3;
    for (form, experts, router) in [("sparse", 4, ROUTER), ("iso-total", 32, ROUTER), ("iso-active", 4, 0)] {
        let prompt = rows[0]["prompt_tokens"].as_u64().expect("a number");
        // Two products for each of 256 numbers of a query, for every position up to its own.
        let scores: u64 = (1..=steps).map(|step| 2 * 256 * (prompt + step)).sum();
        let token = 4 * (ATTENTION + router + experts * EXPERT) + HEAD;
        assert_eq!(macs(form, "macs"), (steps * token + 4 * scores) as f64, "{form}");
        assert_eq!(macs(form, "expert_macs"), (steps * 4 * experts * EXPERT) as f64, "{form}");
        assert!(macs(form, "ms") > 0.0 && macs(form, "experts_ms") > 0.0);
        let row = find(&rows, "decode", form);
        assert_eq!(row["all_samples_energy_source"], "estimate");
        assert!(row["all_samples_energy_joules"].as_f64() > Some(0.0));
    }
    let total = find(&rows, "prefill", "iso-total");
    assert_eq!(total["sparse_expert_macs_ratio"], 0.125);
    assert!(total["sparse_time_ratio"].is_f64() && total["sparse_time_ratio_low"].is_f64());
    assert!(rows.iter().all(|row| row["max_abs_difference"].as_f64() == Some(0.0)));
    assert_eq!(find(&rows, "decode", "sparse")["distinct_experts_per_layer"], 4.0);
}

#[test]
fn people_read_of_equal_outputs_savings_and_batches() {
    let text = succeed(&["twin", "-n", "2", "-b", "1,2,400", "-r", "1", "-t1", "-p", "A dog"]);
    for part in [
        "max |diff| of logits 0e0",
        "iso-total",
        "iso-active",
        "87.5 %",
        "0.125 counted, k/E = 4/32 = 0.125",
        "| 2 ",
        "energy is n/a",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

#[test]
fn a_shape_with_shared_experts_has_twins_too() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/goldens/qwen2_moe");
    let shape = ["--shape", golden, "--layers", "1", "-n", "1", "-b", "1", "-r", "1", "-t1"];
    let lines = succeed(&[&["twin"], &shape[..], &["-o", "csv"]].concat());
    assert_eq!(lines.lines().count(), 1 + 6, "{lines}");
    let names: Vec<&str> = lines.lines().next().unwrap_or_default().split(',').collect();
    assert!(names.contains(&"expert_macs") && names.contains(&"sparse_bytes_ratio"));
}

#[test]
fn a_layer_is_measured_beside_its_twins_and_drawn() {
    let dir = tempfile::tempdir().expect("a directory");
    let svg = dir.path().join("layer.svg").display().to_string();
    let small =
        ["--hidden", "64", "--ffn", "32", "--experts", "8", "-k", "1,4", "--tokens", "1,4", "-r", "2"];
    let small = [&["bench", "layer", "-t1"], &small[..]].concat();
    let rows = rows(&[&small[..], &["--json", "--plot", &svg, "--routing", "uniform,zipf:1.2"]].concat());
    assert_eq!(rows.len(), 2 * 2 * 2);
    for row in &rows {
        let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name} in {row}"));
        let (k, tokens) = (number("experts_per_token"), number("tokens"));
        assert_eq!(number("sparse_macs"), k * tokens * 3.0 * 64.0 * 32.0);
        assert_eq!(number("iso_total_macs"), 8.0 * tokens * 3.0 * 64.0 * 32.0);
        assert_eq!((number("ideal_share"), number("max_abs_difference")), (k / 8.0, 0.0));
        assert!(number("sparse_over_iso_total") > 0.0 && number("iso_active_ms") > 0.0);
        assert!(row["sparse_energy_joules"].is_null());
    }
    let drawn = std::fs::read_to_string(&svg).expect("a picture");
    assert!(drawn.starts_with("<svg") && drawn.contains("k/E of all experts"), "{drawn}");
    let text = succeed(&[&small[..], &["--watts", "20"]].concat());
    assert!(text.contains("of iso-total") && text.contains("(est.)"), "{text}");
}

#[test]
fn a_layer_replays_what_a_trace_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let trace = dir.path().join("ab.trace").display().to_string();
    let answer = json(&["run", "A dog", "-n", "5", "--temp", "0", "--trace", &trace, "--json"]);
    // The last token that is generated goes through no layer.
    let passed = answer["prompt_ids"].as_array().expect("ids").len() as u64 + 4;
    let small =
        ["--hidden", "32", "--ffn", "32", "--experts", "32", "-k", "1,4", "--tokens", "2,64", "-r", "1"];
    let small = [&["bench", "layer", "-t1"], &small[..]].concat();
    let routing = format!("trace:{trace}@3");
    let rows = json(&[&small[..], &["--routing", &routing, "--json"]].concat());
    let rows = rows.as_array().expect("rows");
    assert_eq!(rows.len(), 4);
    for row in rows {
        assert_eq!((&row["routing"], &row["replayed_tokens"]), (&routing.clone().into(), &passed.into()));
        // 64 tokens over and over the few of the trace touch what these touch.
        let most = row["experts_per_token"].as_u64().expect("a number")
            * passed.min(row["tokens"].as_u64().expect("a number"));
        assert!(row["distinct_experts"].as_f64().is_some_and(|distinct| distinct <= most as f64), "{row}");
    }
    let text = succeed(&[&small[..], &["--routing", &format!("trace:{trace}")]].concat());
    assert!(text.contains("trace:ab.trace@2") && text.contains("these batches repeat: B 64"), "{text}");
    fail(&[&small[..], &["--routing", &format!("trace:{trace}@9")]].concat(), 2, "one of layers 0, 1, 2, 3");
    fail(&["bench", "layer", "--routing", &format!("trace:{trace}")], 2, "expected 64 experts, got 32");
    fail(&["bench", "layer", "--routing", "trace:/no/such.trace"], 1, "/no/such.trace");
}

#[test]
fn what_makes_no_layer_and_no_twin_is_said_at_once() {
    fail(&["bench", "layer", "--experts", "4", "-k", "8"], 2, "experts per token");
    fail(&["bench", "layer", "--hidden", "33", "--format", "q8_0"], 2, "multiple of 32");
    fail(&["bench", "layer", "--routing", "even"], 2, "zipf:S");
    fail(&["bench", "layer", "--tokens", "0"], 2, "--tokens");
    fail(&["bench", "layer", "--watts", "-3"], 2, "--watts");
    fail(&["twin", "-n", "0"], 2, "--generate");
    fail(&["twin", "-p", ""], 2, "the prompt is empty");
    fail(&["twin", "/no/such/model"], 3, "no model at");
    fail(&["twin", "-n", "100000"], 2, "past the context");
}

#[test]
fn the_full_meter_tells_parts_layers_and_experts() {
    let args = ["run", "A dog", "-n", "3", "--temp", "0", "--meter=full", "--no-display-prompt"];
    let said = stderr(&support::output(&args));
    for part in ["by part", "lm head", "iso-total twin", "iso-active twin", "busiest", "energy"] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    let answer = json(&[&args[..], &["--json"]].concat());
    let decode = &answer["work"]["decode"];
    // Three tokens take two passes after the prompt's.
    assert_eq!(decode["tokens"], 2);
    let layers = decode["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 4);
    for layer in layers {
        let experts = &layer["experts"];
        assert_eq!((&experts["pairs"], &experts["iso_total_macs"]), (&8.into(), &(2 * 32 * EXPERT).into()));
        let tokens = experts["tokens_per_expert"].as_array().expect("a list");
        assert_eq!(tokens.len(), 32);
        assert_eq!(tokens.iter().filter_map(Value::as_u64).sum::<u64>(), 8);
    }
    assert!(json(&["run", "A dog", "-n", "1", "--json"]).get("work").is_none());
}
