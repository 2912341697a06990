//! `moebius plan` as people and scripts meet it.

mod support;

use support::{fail, json, model, succeed, tiny};

#[test]
fn a_plan_has_every_number_and_leaves_unknown_ones_open() {
    let args = ["plan", "qwen3-30b-a3b", "--format", "bf16", "-c", "8192", "-b", "4", "--json", "--hardware"];
    let plan = json(&[&args[..], &["h100,m2-ultra"]].concat());
    assert_eq!(
        (plan["kv_bytes_per_token"].as_u64(), plan["kv_bytes"].as_u64()),
        (Some(98_304), Some(98_304 * 8192 * 4))
    );
    assert!(
        plan["distinct_experts_per_layer"].as_f64().is_some_and(|distinct| (29.0..29.3).contains(&distinct))
    );
    let parts = plan["parts"].as_array().expect("parts");
    let bytes: u64 = parts.iter().filter_map(|part| part["bytes"].as_u64()).sum();
    assert_eq!(plan["weight_bytes"].as_u64(), Some(bytes));
    let [h100, apple] = plan["hardware"].as_array().expect("two machines").as_slice() else { panic!() };
    let number = |name: &str| h100[name].as_f64().expect("a number");
    assert_eq!(h100["fits"], "whole");
    assert!(number("decode_low") < number("decode_tokens_per_second"));
    assert!(number("decode_tokens_per_second") < number("decode_high"));
    assert!(number("decode_tokens_per_second") < number("decode_roof"));
    for name in ["joules_per_token", "cost_per_million_tokens"] {
        assert!(h100[name].is_null(), "{name} was not stated");
    }
    assert!(apple["decode_tokens_per_second"].is_null() && apple["memory_bytes_per_die"].is_null());
    assert_eq!(apple["fits"], "unknown");
}

#[test]
fn watts_and_prices_give_energy_and_cost() {
    let args =
        ["plan", "olmoe-1b-7b", "--hardware", "rtx-4090", "--json", "--watts", "450", "--device-hour", "1.5"];
    let row = json(&args)["hardware"][0].clone();
    let number = |name: &str| row[name].as_f64().expect("a number");
    let rate = number("decode_tokens_per_second");
    assert!((number("joules_per_token") - 450.0 / rate).abs() < 1e-9);
    assert!((number("cost_per_million_tokens") - 1.5 / 3600.0 / rate * 1e6).abs() < 1e-9);
    assert_eq!(
        json(&[&args[..5], &["--watts", "tdp"]].concat())["hardware"][0]["joules_per_token"],
        row["joules_per_token"]
    );
}

#[test]
fn a_directory_is_planned_as_it_is_stored_and_a_bare_configuration_in_bf16() {
    let plan = json(&["plan", &tiny(), "--hardware", "ddr5-5600", "--memory-gb", "16", "--json"]);
    assert_eq!((&plan["format"], &plan["format_assumed"]), (&"as stored".into(), &false.into()));
    assert_eq!(plan["hardware"][0]["fits"], "whole");
    let config = model("goldens/olmoe/config.json");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.json");
    std::fs::copy(config, &path).expect("a copy");
    let plan = json(&["plan", path.to_str().expect("UTF-8"), "--hardware", "h200", "--json"]);
    assert_eq!((&plan["format"], &plan["format_assumed"]), (&"bf16".into(), &true.into()));
}

#[test]
fn tables_come_for_people_for_documents_and_for_sheets() {
    let args = ["plan", "mixtral-8x7b", "--hardware", "rtx-4090,2xh100,rtx-4090+ddr5-5600"];
    let text = succeed(&args);
    assert!(text.contains("rtx-4090+ddr5-5600") && text.contains("layers with the host"), "{text}");
    let markdown = succeed(&[&args[..], &["-o", "md"]].concat());
    assert!(markdown.contains("| hardware | needs |") && markdown.contains("| --- | --: |"), "{markdown}");
    let csv = succeed(&[&args[..], &["-o", "csv"]].concat());
    let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert_eq!(columns.len(), 4, "{csv}");
    assert!(columns.iter().all(|&count| count == columns[0]), "{csv}");
    // Every device by default.
    assert!(succeed(&["plan", "mixtral-8x7b", "-o", "csv"]).lines().count() > 30);
}

#[test]
fn what_is_asked_wrongly_is_named() {
    fail(&["plan", "no-such-shape"], 2, "no-such-shape");
    fail(&["plan", "./no/such/dir"], 3, "no/such/dir");
    fail(&["plan", "olmoe-1b-7b", "--hardware", "ascend-920"], 2, "ascend-910c");
    fail(&["plan", "olmoe-1b-7b", "--hardware", "0xh100"], 2, "1 to 100000 devices");
    fail(&["plan", "olmoe-1b-7b", "--hardware", "/no/such.toml"], 2, "no description of hardware");
    for bad in [["-c", "0"], ["-b", "0"], ["--watts", "0"], ["--format", "q9_k"], ["--memory-gb", "nan"]] {
        fail(&[&["plan", "olmoe-1b-7b"][..], &bad[..]].concat(), 2, bad[0]);
    }
    fail(&["plan", "olmoe-1b-7b", "--experts", "65"], 2, "65");
    fail(&["plan", "--validate", "olmoe-1b-7b"], 2, "--validate");
}

#[test]
fn absurd_sizes_end_in_numbers_or_errors() {
    fail(&["plan", "olmoe-1b-7b", "-b", &u64::MAX.to_string()], 2, "-b");
    let most = (1u64 << 24).to_string();
    let plan = json(&["plan", "olmoe-1b-7b", "-b", &most, "-c", "16777216", "--hardware", "h100", "--json"]);
    assert_eq!(plan["hardware"][0]["fits"], "no");
}
