//! `moebius sweep`, thresholds, masks and schedules as people and scripts meet them.

mod support;

use std::path::Path;

use serde_json::Value;

use support::{fail, json, model, succeed, tiny};

/// A text of the bundled model's own.
fn text(dir: &Path) -> String {
    start_of("stories", dir)
}

/// The first page of a text that the bundled model was not trained on.
fn start_of(name: &str, dir: &Path) -> String {
    let story = std::fs::read_to_string(model(&format!("moebius-tiny/eval/{name}.txt"))).expect("a text");
    let path = dir.join(name);
    let end = story.char_indices().nth(1000).map_or(story.len(), |(at, _)| at);
    std::fs::write(&path, &story[..end]).expect("a file");
    path.display().to_string()
}

fn sweep(text: &str, more: &[&str]) -> Value {
    json(&[&["sweep", &tiny(), "--text", text, "--json", "-n", "4", "-r", "1"], more].concat())
}

fn rows(report: &Value) -> &Vec<Value> {
    report["rows"].as_array().expect("rows")
}

#[test]
fn the_reference_has_the_perplexity_that_score_prints() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = text(dir.path());
    let tales = start_of("tales", dir.path());
    let scored = json(&["score", &tiny(), &text, &tales, "--json"]);
    let report = json(&["sweep", &tiny(), "--text", &text, &tales, "--experts", "4,2", "-n", "0", "--json"]);
    // The trained number of experts is the reference, and is not run twice.
    assert_eq!(rows(&report).len(), 2);
    let reference = &rows(&report)[0];
    assert_eq!(reference["perplexity"], scored["total"]["perplexity"]);
    assert_eq!(reference["top1_accuracy"], scored["total"]["top1_accuracy"]);
    assert_eq!((reference["k"].as_u64(), &reference["kl_nats"]), (Some(4), &Value::Null));
    // Nothing was generated, so nothing is known of speed.
    assert!(reference["decode_tokens_per_second"].is_null() && reference["bytes_per_token"].is_null());
    let two = json(&["score", &tiny(), &text, &tales, "--experts", "2", "--json"]);
    assert_eq!(rows(&report)[1]["perplexity"], two["total"]["perplexity"]);
    let table = succeed(&["sweep", &tiny(), "--text", &text, "--experts", "4", "-n", "0"]);
    let printed = succeed(&["score", &tiny(), &text]);
    let perplexity =
        printed.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)).expect("a number");
    assert!(table.contains(perplexity), "{perplexity} is not in:\n{table}");
}

#[test]
fn fewer_experts_are_further_from_the_reference_and_read_less() {
    let dir = tempfile::tempdir().expect("a directory");
    let report = sweep(&text(dir.path()), &["--experts", "1,2,4,8", "--watts", "50"]);
    let rows = rows(&report);
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} of {row}"));
    assert_eq!(
        rows.iter().map(|row| row["name"].as_str().expect("a name")).collect::<Vec<_>>(),
        ["k4", "k1", "k2", "k8"]
    );
    let [reference, one, two, eight] = &rows[..] else { panic!("four rows") };
    assert!(number(one, "kl_nats") > number(two, "kl_nats") && number(two, "kl_nats") > 0.0);
    assert!(number(one, "agreement") < number(two, "agreement") && number(two, "agreement") < 1.0);
    assert!(number(one, "perplexity_above") > number(two, "perplexity_above"));
    let bytes = |row| number(row, "bytes_per_token");
    assert!(bytes(one) < bytes(two) && bytes(two) < bytes(reference) && bytes(reference) < bytes(eight));
    assert_eq!(number(one, "experts_per_token"), 1.0);
    assert_eq!(reference["best"], Value::from(true));
    if reference["energy_source"] == "estimate" {
        // Of one sample: watts over speed, but for what lies between two clocks.
        let watts = number(one, "joules_per_token") * number(one, "decode_tokens_per_second");
        assert!((45.0..80.0).contains(&watts), "{watts}");
        assert!(reference["joules_per_token_uncertainty"].is_null());
    } else {
        assert_eq!(reference["energy_source"], "counter");
    }
}

#[test]
fn formats_thresholds_masks_and_schedules_stand_in_one_frame() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = text(dir.path());
    let (csv, svg) = (dir.path().join("rows.csv"), dir.path().join("curve.svg"));
    let report = sweep(
        &text,
        &[
            "--format",
            "q8_0,q4_k",
            "--threshold",
            "0,0.2",
            "--csv",
            &csv.display().to_string(),
            "--plot",
            &svg.display().to_string(),
        ],
    );
    let all = rows(&report);
    let names: Vec<&str> = all.iter().map(|row| row["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["k4", "q8_0 k4", "q8_0 k4 t0.2", "q4_k k4", "q4_k k4 t0.2"]);
    assert!(all[2]["experts_per_token"].as_f64().expect("a number") < 4.0);
    for row in all {
        // Without watts, energy is counted or unknown, and never guessed.
        let known = row["joules_per_token"].is_number();
        assert_eq!(row["energy_source"], if known { "counter".into() } else { Value::Null }, "{row}");
    }
    let csv = std::fs::read_to_string(csv).expect("the rows");
    let columns = csv.lines().next().expect("a heading").split(',').count();
    assert!(csv.lines().count() == 6 && csv.lines().all(|line| line.split(',').count() == columns), "{csv}");
    let svg = std::fs::read_to_string(svg).expect("the picture");
    assert!(
        svg.contains("Quality against compute") && svg.contains("q4_k, t 0.2") && svg.contains("KL from")
    );

    let ruled = sweep(&text, &["--experts-by-layer", "4,4,2,1", "--mask", "0:3,2:17"]);
    let row = &rows(&ruled)[1];
    assert_eq!(
        (row["name"].as_str(), row["masked"][1].clone()),
        (Some("k4/4/2/1 -2e"), Value::from(vec![2, 17]))
    );
    assert!((row["experts_per_token"].as_f64().expect("a number") - 2.75).abs() < 0.01);
}

#[test]
fn masked_experts_are_never_chosen_and_schedules_hold() {
    let dir = tempfile::tempdir().expect("a directory");
    let (text, trace) = (text(dir.path()), dir.path().join("a.trace").display().to_string());
    let masked: Vec<String> = (0..32).filter(|e| e % 3 == 0).map(|e| format!("1:{e}")).collect();
    succeed(&[
        "score",
        &tiny(),
        &text,
        "--mask",
        &masked.join(","),
        "--experts-by-layer",
        "4x2,3,1",
        "--trace",
        &trace,
    ]);
    let stats = json(&["trace", "stats", &trace, "--json"]);
    let layers = &stats["traces"][0]["layers"];
    let counts = |layer: usize| layers[layer]["counts"].as_array().expect("counts").clone();
    assert!(counts(1).iter().step_by(3).all(|count| count == 0), "{:?}", counts(1));
    assert!(counts(0).iter().step_by(3).any(|count| count != 0));
    let used: Vec<f64> = layers
        .as_array()
        .expect("layers")
        .iter()
        .filter_map(|layer| layer["experts_per_token"].as_f64())
        .collect();
    assert_eq!(used, [4.0, 4.0, 3.0, 1.0]);
}

#[test]
fn a_threshold_gives_the_same_whatever_the_chunks_and_none_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = text(dir.path());
    let logprobs =
        |more: &[&str]| json(&[&["score", &tiny(), &text, "--json"], more].concat())["sequences"].take();
    assert_eq!(logprobs(&[]), logprobs(&["--threshold", "0"]));
    let whole = logprobs(&["--threshold", "0.3"]);
    assert_ne!(whole, logprobs(&[]));
    assert_eq!(whole, logprobs(&["--threshold", "0.3", "--ubatch-size", "7", "--threads", "1"]));
}

#[test]
fn what_no_layer_can_follow_is_refused_with_its_reason() {
    let score = |more: &[&'static str], message: &str| {
        fail(&[&["score", &tiny(), "--ids", "1,2,3"], more].concat(), 2, message);
    };
    score(&["--experts-by-layer", "4,4"], "expected 4 numbers, one for each layer with a router, got 2");
    score(&["--experts-by-layer", "4,4,4,40"], "expected 1 to 32, got 40");
    score(&["--experts-by-layer", "4,x"], "4,4,2,2");
    score(&["--mask", "4:0"], "layer 4 has no router");
    score(&["--mask", "0:32"], "expected an expert below 32 in layer 0, got 32");
    score(&["--mask", "zero"], "LAYER:EXPERT");
    score(&["--threshold", "1.5"], "a number from 0 to 1");
    let most: Vec<String> = (0..30).map(|expert| format!("3:{expert}")).collect();
    fail(
        &["score", &tiny(), "--ids", "1,2,3", "--mask", &most.join(",")],
        2,
        "at most the 2 experts that are not masked",
    );
    let dir = tempfile::tempdir().expect("a directory");
    let text = text(dir.path());
    fail(&["sweep", &tiny(), "--text", &text, "--experts", "33"], 2, "expected 1 to 32, got 33");
    fail(&["sweep", &tiny(), "--text", "missing.txt"], 1, "cannot read");
    fail(&["sweep", &tiny()], 2, "--text");
}
