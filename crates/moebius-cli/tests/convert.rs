//! `moebius convert` as people and scripts meet it.

mod support;

use serde_json::Value;

use support::{fail, json, model, output, stderr, succeed, tiny};

/// A path that nothing is at, as text.
fn target(dir: &tempfile::TempDir) -> String {
    dir.path().join("packed").display().to_string()
}

#[test]
fn a_converted_model_says_what_the_original_says_in_that_format() {
    let dir = tempfile::tempdir().expect("a directory");
    let packed = target(&dir);
    let said = succeed(&["convert", &tiny(), &packed, "--format", "q4_k_m"]);
    assert!(said.contains(" became ") && said.contains("bits a weight") && said.contains(&packed), "{said}");
    let run = ["-p", "A dog", "-n", "12", "--seed", "7"];
    let original = succeed(&[&["run", &tiny(), "--format", "q4_k_m"][..], &run].concat());
    assert_eq!(succeed(&[&["run", &packed][..], &run].concat()), original);
    assert_eq!(succeed(&[&["run", &packed, "--format", "q4_k_m"][..], &run].concat()), original);

    let logprob = |args: &[&str]| {
        json(&[args, &["--ids", "200,300,400", "--json"]].concat())["total"]["logprob"].clone()
    };
    assert_eq!(logprob(&["score", &packed]), logprob(&["score", &tiny(), "--format", "q4_k_m"]));
    let bench = succeed(&["bench", &packed, "-p", "4", "-n", "1", "-r", "1"]);
    assert!(bench.contains("q4_k"), "{bench}");
}

#[test]
fn show_says_that_weights_are_packed_and_in_what() {
    let dir = tempfile::tempdir().expect("a directory");
    let packed = target(&dir);
    // Without a model it is the bundled one.
    succeed(&["convert", &packed, "--format", "q4_k_m"]);
    let text = succeed(&["show", &packed]);
    assert!(text.contains("packed, q4_k_m") && text.contains("q4_k + q8_0"), "{text}");
    assert!(!succeed(&["show", &tiny()]).contains("packed"));
    let report = |args: &[&str]| json(&[&["show", "--json"], args].concat());
    let (is, was) = (report(&[&packed]), report(&[&tiny(), "--format", "q4_k_m"]));
    assert_eq!((&is["packed"], &was["packed"]), (&Value::from("q4_k_m"), &Value::Null));
    assert_eq!((&is["parts"], &is["weight_bytes"]), (&was["parts"], &was["weight_bytes"]));
    fail(&["run", &packed, "hi", "--format", "q8_0"], 2, "packed as `q4_k_m`");
}

#[test]
fn json_has_bytes_before_and_after() {
    let dir = tempfile::tempdir().expect("a directory");
    let packed = target(&dir);
    let golden = model("goldens/mixtral").display().to_string();
    let report = json(&["convert", &golden, &packed, "--json"]);
    assert_eq!(
        (&report["path"], &report["format"]),
        (&Value::from(packed.as_str()), &Value::from("as stored"))
    );
    let number = |key: &str| report[key].as_f64().expect("a number");
    assert!(number("bytes") >= number("source_bytes") && number("bits_per_weight") >= 32.0, "{report}");
    let size = std::fs::metadata(dir.path().join("packed/model.safetensors")).expect("the weights").len();
    assert_eq!(report["bytes"].as_u64(), Some(size));
}

#[test]
fn what_cannot_be_converted_is_said_and_nothing_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = dir.path().display().to_string();
    fail(&["convert", &tiny(), &here], 2, "exists already");
    fail(&["convert", &here, &target(&dir)], 3, "config.json");
    fail(&["convert", "owner/name", &target(&dir)], 3, "is offline");
    assert_eq!(output(&["convert"]).status.code(), Some(2));
    assert!(stderr(&output(&["convert"])).contains("OUT"));
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0);
}
