//! `moebius bench` as people and scripts meet it, on models small enough to say nothing about speed.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Two rows of the bundled model.
const QUICK: [&str; 7] = ["-p", "8", "-n", "4", "-r", "1", "-t1"];

fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moebius"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MOEBIUS_")) {
        command.env_remove(name);
    }
    let output = command.arg("bench").args(args).stdin(Stdio::null()).output();
    output.expect("the program starts")
}

fn tiny() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/moebius-tiny").display().to_string()
}

/// What a command that must succeed prints; nothing goes to stderr, which is no terminal.
fn succeed(args: &[&str]) -> String {
    let output = bench(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{args:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn fail(args: &[&str], code: i32, message: &str) {
    let output = bench(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(said.contains("error:") && said.contains(message) && said.contains("hint:"), "{args:?}: {said}");
}

#[test]
fn tables_are_markdown_with_a_row_for_each_test() {
    let args = [&QUICK[..], &["-b", "1,4", "-d", "0,16", "--profile"]].concat();
    let text = succeed(&args);
    for part in
        ["| model ", "pp8", "tg4 x b4 @ d16", "by chance", "ms a step", "| experts ", "of bw", "of peak"]
    {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let rows = text.lines().filter(|line| line.starts_with("| moebius-tiny"));
    assert_eq!(rows.count(), 6, "{text}");
}

#[test]
fn json_rows_carry_every_number_with_its_unit() {
    let args = [&QUICK[..], &["-b", "1,4", "-o", "json", "--profile"]].concat();
    let rows: Vec<Value> = serde_json::from_str(&succeed(&args)).expect("a JSON array");
    let tests: Vec<&str> = rows.iter().filter_map(|row| row["test"].as_str()).collect();
    assert_eq!(tests, ["pp8", "tg4", "tg4 x b4"]);
    for row in &rows {
        for name in ["tokens_per_second", "weight_bytes_per_second", "load_ms", "step_ms", "experts_step_ms"]
        {
            assert!(row[name].as_f64().is_some_and(|number| number > 0.0), "{name} in {row}");
        }
        assert_eq!((&row["threads"], &row["format"]), (&Value::from(1), &Value::from("bf16")));
        assert_eq!(row["random_weights"], false);
    }
    assert!(rows[1]["batching_speedup_bound"] == 1.0 && rows[0]["batching_speedup_bound"].is_null());
    let bound = rows[2]["batching_speedup_bound"].as_f64().expect("a bound");
    assert!((1.0..4.0).contains(&bound) && rows[2]["batching_speedup"].is_f64(), "{bound}");
    assert_eq!(rows[1]["distinct_experts_per_layer"], 4.0);
}

#[test]
fn formats_and_rules_are_columns_of_one_table() {
    let args = [&QUICK[..], &["-b", "1,2", "--format", "q8_0,q4_k_m,q8_0", "--threshold", "0.3"]].concat();
    let rows: Vec<Value> = serde_json::from_str(&succeed(&[&args[..], &["--json"]].concat())).expect("rows");
    let named = rows.iter().map(|row| (row["held"].as_str(), row["test"].as_str())).collect::<Vec<_>>();
    let of = |held| ["pp8", "tg4", "tg4 x b2"].map(|test| (Some(held), Some(test)));
    assert_eq!(named, [of("q8_0"), of("q4_k_m")].concat());
    for row in &rows {
        // Fewer than the four of a token, and at least one.
        assert!(
            (1.0..8.0).contains(&row["distinct_experts_per_layer"].as_f64().expect("a number"))
                || row["test"] == "pp8"
        );
        assert_eq!(row["arithmetic"], "int8");
        assert!(row["peak_share"].as_f64().is_some_and(|share| share > 0.0 && share < 1.0), "{row}");
        assert!(row["batching_speedup"].is_number() == (row["test"] == "tg4 x b2"), "{row}");
    }
    let decode = |row: &Value| row["distinct_experts_per_layer"].as_f64().expect("a number");
    assert!(decode(&rows[1]) < 4.0, "a threshold drops experts: {}", rows[1]);
    let table = succeed(&args);
    assert!(table.contains("| q4_k_m |") && table.matches("x b2").count() == 4, "{table}");
    let masked =
        succeed(&[&QUICK[..], &["--mask", "0:3", "--experts-by-layer", "4,4,2,1", "--json"]].concat());
    let masked: Vec<Value> = serde_json::from_str(&masked).expect("rows");
    assert_eq!((&masked[1]["masked_experts"], decode(&masked[1])), (&1.into(), 11.0 / 4.0));
}

#[test]
fn a_shape_with_random_weights_needs_no_files_and_its_lines_have_the_same_names() {
    let shape = ["--shape", "granite-1b-a400m", "--layers", "1", "-p", "0", "-n", "2", "-r", "1", "-t1"];
    let text = succeed(&[&shape[..], &["-o", "csv"]].concat());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("version,") && lines[1].contains("granite-1b-a400m:1L"), "{text}");
    let names: Vec<&str> = lines[0].split(',').collect();
    let row: Vec<&str> = lines[1].split(',').collect();
    assert_eq!(names.len(), row.len());
    let threads = names.iter().position(|name| *name == "threads").expect("a column");
    assert_eq!(row[threads], "1");
}

#[test]
fn what_cannot_be_measured_is_said_before_anything_is_loaded() {
    let tiny = tiny();
    for (args, message) in [
        (&["-p", "0", "-n", "0"][..], "nothing to measure"),
        (&["-p", "many"], "--prompt-tokens"),
        (&["-b", "0"], "--batch"),
        (&["-d", "1,,2"], "--depth"),
        (&["-t", "0"], "--threads"),
        (&["-r", "0"], "--repetitions"),
        (&["-o", "xml"], "--output"),
        (&["--layers", "2"], "--shape"),
        (&["--shape", "olmoe"], "olmoe-1b-7b"),
        (&[&tiny, "--shape", "olmoe-1b-7b"], "cannot be used with"),
        (&[&tiny, "-d", "100000", "-t1"], "past the context"),
    ] {
        fail(args, 2, message);
    }
    fail(&["--shape", "mixtral-8x7b", "-d", "16777216", "-b", "65536", "-t1"], 5, "bytes of memory");
    fail(&["/no/such/model"], 3, "no model at");
}
