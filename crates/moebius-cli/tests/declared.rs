//! Declared hardware as people and scripts meet it: `--profile`, `moebius compare`, `moebius trace devices`.

mod support;

use support::{fail, json, stderr, succeed, tiny};

const TEXT: &str = "Once upon a time";

fn run(more: &[&str]) -> serde_json::Value {
    let tiny = tiny();
    let args = ["run", &tiny, TEXT, "--temp", "0", "-n", "8", "--json"];
    json(&[&args[..], more].concat())
}

#[test]
fn a_declared_machine_says_the_same_and_what_it_would_have_taken() {
    let (here, declared) = (run(&[]), run(&["--profile", "ascend-910b-64g"]));
    assert_eq!((&here["ids"], &here["logprobs"]), (&declared["ids"], &declared["logprobs"]));
    assert!(here.get("modelled").is_none());
    let modelled = &declared["modelled"];
    assert_eq!(modelled["kind"], "modelled, not measured");
    assert_eq!((&modelled["profile"], &modelled["devices"]), (&"ascend-910b-64g".into(), &1.into()));
    for phase in ["prompt", "decode"] {
        let number = |name: &str| modelled[phase][name].as_f64().expect(name);
        assert!(number("tokens_per_second_low") < number("tokens_per_second"), "{modelled}");
        assert!(number("tokens_per_second") < number("tokens_per_second_high"), "{modelled}");
        // A small model waits for launches on such hardware, and its few rows are padded to sixteen.
        assert!(
            number("launch_seconds") > number("memory_seconds") + number("compute_seconds"),
            "{modelled}"
        );
        assert!(number("padding_share") > 0.0 && number("joules_per_token") > 0.0, "{modelled}");
    }
    // One token after the first seven: launches alone are at least 5 us for each of 4 x 8 products.
    assert!(modelled["decode"]["ms_per_token"].as_f64() > Some(0.16), "{modelled}");
}

#[test]
fn eight_devices_have_loads_and_links() {
    let modelled = run(&["--profile", "8xascend-910b-64g"])["modelled"].clone();
    let loads = modelled["device_loads"].as_array().expect("a list");
    assert_eq!(loads.len(), 4);
    for load in loads {
        assert_eq!(load["pairs"].as_array().map(Vec::len), Some(8));
        assert!(load["straggler"].as_f64() >= Some(1.0), "{load}");
    }
    assert!(modelled["prompt"]["exchanged_bytes"].as_u64() > Some(0));
}

#[test]
fn what_the_hardware_could_not_do_is_refused_with_what_it_could() {
    let tiny = tiny();
    let args = ["run", &tiny, TEXT, "-n", "2", "--profile", "ascend-910b-64g", "--format", "q4_0"];
    fail(&args, 1, "has no arithmetic for q4_0, only for f32, bf16, f16, q8_0");
    fail(&["run", &tiny, TEXT, "--profile", "ascend-910b-64g", "--backend", "cpu"], 2, "profile");
}

fn profile(dir: &tempfile::TempDir, lines: &str) -> String {
    let path = dir.path().join("mine.toml");
    let text = format!(
        "[sources]\nsheet = \"a datasheet of the maker\"\n[[device]]\nname = \"mine\"\ntitle = \"Mine\"\nclass = \"cpu\"\n\
         bandwidth_gb_s = [20, \"A\", \"sheet\"]\ntflops.bf16 = [1, \"A\", \"sheet\"]\n{lines}\n"
    );
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_bytes_and_with_what_would() {
    let (dir, tiny) = (tempfile::tempdir().expect("a directory"), tiny());
    let small = profile(&dir, "memory_gb = [0.025, \"A\", \"sheet\"]");
    let output = support::output(&["run", &tiny, TEXT, "-n", "2", "--profile", &small]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("bytes on each device, which has 25000000"), "{said}");
    assert!(said.contains("--format q8_0") || said.contains("--format q6_k"), "{said}");
}

#[test]
fn a_file_of_ones_own_is_checked_with_clear_words() {
    let dir = tempfile::tempdir().expect("a directory");
    let tiny = tiny();
    let check = |lines: &str, expected: &str| {
        let path = profile(&dir, lines);
        fail(&["run", &tiny, TEXT, "--profile", &path], 2, expected);
    };
    check("memory = [4, \"A\", \"sheet\"]", "`memory` has no unit");
    check("colour = [4, \"A\", \"sheet\"]", "unknown key `colour`");
    check("memory_gb = [-4, \"A\", \"sheet\"]", "expected a number above 0, got -4");
    check("memory_gb = 4", "has no source");
    fail(&["run", &tiny, TEXT, "--profile", "m4-pro"], 2, "arithmetic");
}

#[test]
fn backends_stand_side_by_side_with_equal_bits() {
    let list = "cpu,constrained:8xascend-910b-64g,constrained:laptop-4g";
    let report = json(&["compare", &tiny(), "--backends", list, "-n", "6", "--json"]);
    let backends = report["backends"].as_array().expect("a list");
    assert_eq!(backends.len(), 3);
    assert!(backends.iter().all(|backend| backend["same_bits"] == true), "{report}");
    assert!(backends[0].get("modelled_decode").is_none());
    assert!(backends[1]["straggler"].as_f64() >= Some(1.0) && backends[2]["straggler"].is_null());
    for backend in &backends[1..] {
        assert!(backend["modelled_decode"]["tokens_per_second"].as_f64() > Some(0.0), "{backend}");
    }
    let bytes = |name: &str| report["sparsity"][name].as_f64().expect(name);
    assert!(bytes("decode_bytes_per_token") < bytes("iso_total_bytes_per_token"));
}

#[test]
fn a_budget_is_compared_with_its_hits_and_what_it_fetched() {
    let args = [
        "compare",
        &tiny(),
        "--backends",
        "cpu,constrained",
        "--memory",
        "150MB",
        "--ids",
        "5,6,7,8",
        "-n",
        "8",
    ];
    let report = json(&[&args[..], &["--format", "f32", "--json"]].concat());
    let backends = report["backends"].as_array().expect("a list");
    assert!(backends.iter().all(|backend| backend["same_bits"] == true), "{report}");
    assert_eq!(report["prompt_tokens"], 4);
    assert!(backends[0].get("expert_hit_rate").is_none());
    let number = |name: &str| backends[1][name].as_f64().expect(name);
    assert!((0.0..1.0).contains(&number("expert_hit_rate")) && number("fetched_bytes_per_token") > 0.0);
    let text = succeed(&[&args[..], &["--format", "f32"]].concat());
    assert!(text.contains("in memory") && text.contains("fetched a token") && text.contains("n/a"), "{text}");
}

#[test]
fn declaring_hardware_costs_no_memory_to_speak_of() {
    let report = json(&["compare", &tiny(), "--backends", "cpu,constrained:laptop-4g", "-n", "2", "--json"]);
    let peak = |at: usize| report["backends"][at]["peak_memory_bytes"].as_f64();
    if let (Some(cpu), Some(declared)) = (peak(0), peak(1)) {
        assert!(declared < cpu + 64e6, "{declared} against {cpu}");
    }
}

#[test]
fn a_refusal_is_a_row_of_the_comparison() {
    let args =
        ["compare", &tiny(), "--backends", "cpu,constrained:ascend-910b-32g", "-n", "2", "--format", "q4_0"];
    let text = succeed(&args);
    assert!(text.contains("refused") && text.contains("no arithmetic for q4_0"), "{text}");
    assert!(text.contains("saved"), "{text}");
    fail(&["compare", &tiny(), "--backends", "gpu"], 2, "expected cpu, constrained or constrained:NAME");
}

#[test]
fn grouped_routing_is_even_in_the_table_of_random_tokens() {
    let report = json(&["trace", "devices", "--synthetic", "--hidden", "10", "-n", "512", "--json"]);
    let rows = report["synthetic"].as_array().expect("rows");
    assert_eq!(rows.len(), 6);
    for row in rows {
        let straggler = row["straggler"].as_f64().expect("a number");
        assert_eq!(row["router"] == "grouped (MoGE)", straggler == 1.0, "{row}");
    }
    // Each token is sent to seven other devices: 7 x 10 numbers of two bytes, there and back.
    let grouped = rows.iter().find(|row| row["router"] == "grouped (MoGE)").expect("a row");
    assert_eq!(grouped["exchanged_bytes_per_token"], 280.0);
}

#[test]
fn a_trace_is_spread_over_devices_layer_by_layer() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.trace").display().to_string();
    let tiny = tiny();
    succeed(&["run", &tiny, TEXT, "-n", "20", "--trace", &path, "--no-meter"]);
    let report = json(&["trace", "devices", &path, "--devices", "4", "--batch", "8", "-m", &tiny, "--json"]);
    let layers = report["layers"].as_array().expect("layers");
    assert_eq!((layers.len(), report["hidden"].as_u64()), (4, Some(256)));
    for layer in layers {
        assert!(layer["as_routed"]["straggler"].as_f64() >= Some(1.0), "{layer}");
        assert_eq!(layer["grouped_by_rule"]["straggler"], 1.0);
        assert_eq!(layer["as_routed"]["tokens"], layer["grouped_by_rule"]["tokens"]);
    }
    let text = succeed(&["trace", "devices", &path, "--profile", "ascend-910b-64g"]);
    assert!(text.contains("8 devices") && text.contains("grouped (MoGE) is n/a"), "{text}");
    fail(&["trace", "devices", &path, "--devices", "33"], 2, "at most the experts of a layer");
    fail(&["trace", "devices"], 2, "nothing to spread");
}
