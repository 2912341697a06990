//! `moebius score` as people and scripts meet it.

mod support;

use std::path::Path;

use serde_json::Value;

use support::{fail, json, model, output, piped, stderr, stdout, succeed, tiny};

const STORY: &str = "Once upon a time there was a little dog. The dog ran to the park and played with a red ball. \
                     Then it was wet and happy, and it went home to eat.\n";
const SUMS: &str =
    "12 + 7 = 19\n34 - 15 = 19\n8 * 6 = 48\n105 + 27 = 132\n90 - 41 = 49\n7 * 9 = 63\n56 + 38 = 94\n";

/// Writes a text and says where.
fn text(dir: &Path, name: &str, content: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, content).expect("a file");
    path.display().to_string()
}

/// The routing that `--json` prints.
fn routing(args: &[&str]) -> Value {
    json(&[&["score", "--routing", "--json"], args].concat())["routing"].take()
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().expect("a list").iter().map(|value| value.as_f64().expect("a number")).collect()
}

#[test]
fn scores_of_a_text_and_of_its_ids_agree() {
    let text = "Once upon a time there was a dog.";
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("text.txt");
    std::fs::write(&file, text).expect("a file");
    let of_text = json(&["score", &tiny(), "--text", &file.display().to_string(), "--json"]);
    let ids: Vec<String> =
        of_text["sequences"][0]["ids"].as_array().expect("ids").iter().map(Value::to_string).collect();
    let of_ids = json(&["score", &tiny(), "--ids", &ids.join(","), "--json"]);
    assert_eq!(of_text["sequences"][0]["logprobs"], of_ids["sequences"][0]["logprobs"]);
    let perplexity = of_ids["total"]["perplexity"].as_f64().expect("a number");
    assert!((1.0..100.0).contains(&perplexity), "{perplexity}");
    let table = succeed(&["score", &tiny(), "--ids", "5", "--ids", &ids.join(",")]);
    assert!(table.contains("n/a") && table.contains(&format!("{perplexity:.4}")), "{table}");
}

#[test]
fn a_dump_holds_what_every_position_went_through() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("dump.safetensors");
    let golden = model("goldens/olmoe").display().to_string();
    let path = file.display().to_string();
    succeed(&["score", &golden, "--ids", "1,2,3", "--ids", "4,5", "--dump", &path]);
    let bytes = std::fs::read(&file).expect("the dump");
    let dump = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    for (name, rows) in [("p0.logits", 3), ("p1.logits", 2), ("p1.h0", 2), ("p0.router0.experts", 3)] {
        assert_eq!(dump.tensor(name).expect(name).shape()[0], rows, "{name}");
    }
}

#[test]
fn texts_may_follow_the_model_or_stand_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (story, sums) = (text(dir.path(), "story.txt", STORY), text(dir.path(), "sums.txt", SUMS));
    let expected = succeed(&["score", &tiny(), "--text", &story, "--text", &sums]);
    assert!(expected.contains("story.txt") && expected.contains("\nall"), "{expected}");
    let config = model("moebius-tiny").join("config.json").display().to_string();
    for args in [
        &[&story[..], &sums][..],
        &[&tiny(), &story, &sums],
        &[&config, &story, &sums],
        &[&story, "--text", &sums],
        &[&tiny(), &story, "--text", &sums],
        &["--text", &story, "--text", &sums],
    ] {
        assert_eq!(succeed(&[&["score"], args].concat()), expected, "{args:?}");
    }
}

#[test]
fn a_text_may_come_from_stdin() {
    let dir = tempfile::tempdir().expect("a directory");
    let of_file = json(&["score", &text(dir.path(), "story.txt", STORY), "--json"]);
    for args in [
        &["score", "-", "--json"][..],
        &["score", &tiny(), "-", "--json"],
        &["score", "--text", "-", "--json"],
    ] {
        let output = piped(args, STORY);
        let answer: Value = serde_json::from_str(&stdout(&output)).expect("valid JSON");
        assert_eq!(
            (&answer["total"], &answer["sequences"][0]["source"]),
            (&of_file["total"], &"stdin".into())
        );
    }
}

#[test]
fn a_path_that_is_neither_model_nor_text_says_what_to_give() {
    let dir = tempfile::tempdir().expect("a directory");
    let (story, empty) = (text(dir.path(), "story.txt", STORY), text(dir.path(), "empty.txt", ""));
    fail(&["score", "./missing"], 3, "text files for the default model");
    fail(&["score", "owner/name", &story], 3, "no model at");
    fail(&["score", "./missing", "--ids", "1,2"], 3, "no model at");
    fail(&["score", &story, "--ids", "1,2"], 3, "no model directory");
    fail(&["score", &dir.path().display().to_string(), &story], 3, "config.json");
    fail(&["score", &tiny()], 2, "--text FILE or --ids");
    fail(&["score", &story, &empty], 2, "empty.txt");
    fail(&["score", &tiny(), &story, "--ids", "1"], 2, "cannot be used with");
    fail(&["score", &story, "./missing"], 1, "./missing");
    fail(&["score", &tiny(), &tiny()], 1, "caused by:");
}

#[test]
fn routing_compares_the_inputs_layer_by_layer() {
    let dir = tempfile::tempdir().expect("a directory");
    let (story, sums) = (text(dir.path(), "story.txt", STORY), text(dir.path(), "sums.txt", SUMS));
    let routing = routing(&[&story, &sums]);
    assert_eq!(routing["inputs"], Value::from(vec![story, sums]));
    for layer in routing["layers"].as_array().expect("layers") {
        let n_experts = layer["experts"].as_u64().expect("a number") as usize;
        let shares: Vec<Vec<f64>> = layer["shares"].as_array().expect("a list").iter().map(numbers).collect();
        assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [n_experts; 2]);
        let mean = |expert: usize| (shares[0][expert] + shares[1][expert]) / 2.0;
        let term = |(expert, share): (usize, &f64)| {
            if *share > 0.0 { share * (share / mean(expert)).ln() } else { 0.0 }
        };
        let nats = shares.iter().flat_map(|shares| shares.iter().enumerate().map(term)).sum::<f64>() / 2.0;
        let got = layer["mutual_information_nats"].as_f64().expect("a number");
        assert!((got - nats).abs() < 1e-12 && got > 0.05, "{layer}");
        let share = layer["share_of_maximum"].as_f64().expect("a number");
        assert!((share - nats / 2.0_f64.ln()).abs() < 1e-12, "{layer}");
        let unused = layer["unused"].as_array().expect("a list").len();
        let favourites = layer["favourite"].as_array().expect("a list");
        assert_eq!(favourites.len() + unused, n_experts);
        for favourite in favourites {
            let index = |name: &str| favourite[name].as_u64().expect("an index") as usize;
            let (expert, input) = (index("expert"), index("input"));
            let lift = favourite["lift"].as_f64().expect("a number");
            assert!(
                (lift - shares[input][expert] / mean(expert)).abs() < 1e-12 && lift >= 1.0,
                "{favourite}"
            );
        }
        let (min, max) = (layer["min_over_mean"].as_f64(), layer["max_over_mean"].as_f64());
        assert!(min < Some(1.0) && max > Some(1.0) && (unused == 0 || min == Some(0.0)), "{layer}");
        assert!(layer["normalized_entropy"].as_f64().is_some_and(|entropy| 0.0 < entropy && entropy < 1.0));
    }
}

#[test]
fn inputs_that_are_alike_share_their_experts_however_they_are_cut() {
    let dir = tempfile::tempdir().expect("a directory");
    let (one, other) = (text(dir.path(), "one.txt", STORY), text(dir.path(), "other.txt", STORY));
    let args = ["score", "--routing", "--json", "-c", "16", &one, &other];
    let answer = json(&args);
    assert!(answer["sequences"].as_array().is_some_and(|sequences| sequences.len() > 2));
    assert_eq!(answer["routing"]["inputs"].as_array().map(Vec::len), Some(2));
    for layer in answer["routing"]["layers"].as_array().expect("layers") {
        assert!(layer["mutual_information_nats"].as_f64().expect("a number") < 1e-12, "{layer}");
    }
    let table = succeed(&[&args[..2], &args[3..]].concat());
    assert!(table.contains("none"), "{table}");
}

#[test]
fn the_tables_of_the_routing_fit_the_terminal() {
    let dir = tempfile::tempdir().expect("a directory");
    let long = format!("{}.txt", "a".repeat(60));
    let (story, sums) = (text(dir.path(), &long, STORY), text(dir.path(), "sums.txt", SUMS));
    let printed = succeed(&["score", "--routing", &story, &sums]);
    let (perplexities, tables) = printed.split_once("\n\n").expect("several tables");
    assert_eq!(succeed(&["score", &story, &sums]), format!("{perplexities}\n"));
    for part in ["MI (nats)  MI/ln 2", "unused", "\n    0  aaaa", "\n       sums.txt", " x1."] {
        assert!(tables.contains(part), "`{part}` is not in:\n{tables}");
    }
    assert!(tables.lines().all(|line| line.chars().count() <= 100), "{tables}");
}

#[test]
fn a_single_input_has_nothing_to_be_compared_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let story = text(dir.path(), "story.txt", STORY);
    let output = output(&["score", "--routing", &story]);
    let printed = stdout(&output);
    assert!(
        printed.contains("MI/max") && printed.contains("n/a") && !printed.contains("prefers"),
        "{printed}"
    );
    assert!(stderr(&output).contains("Several texts"));
    let routing = routing(&[&story]);
    let layer = &routing["layers"][0];
    assert!(layer["mutual_information_nats"].is_null() && layer["share_of_maximum"].is_null());
    assert_eq!(
        (&layer["favourite"], layer["shares"].as_array().map(Vec::len)),
        (&Value::Array(vec![]), Some(1))
    );
    assert!(json(&["score", &story, "--json"]).get("routing").is_none());
}

#[test]
fn layers_without_a_router_are_left_out_and_a_dump_is_written_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("dump.safetensors").display().to_string();
    let golden = model("goldens/qwen2_moe_window_dense").display().to_string();
    let ids = ["--ids", "1,2,3,4,5", "--ids", "60,61"];
    let routing = routing(&[&[&golden[..], "--dump", &file, "--experts", "1"], &ids[..]].concat());
    assert_eq!(routing["inputs"], Value::from(vec!["ids 1", "ids 2"]));
    let layers = routing["layers"].as_array().expect("layers");
    assert_eq!(layers.iter().map(|layer| layer["layer"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(5)]);
    let bytes = std::fs::read(&file).expect("the dump");
    let dump = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    for layer in layers {
        for (input, shares) in layer["shares"].as_array().expect("a list").iter().enumerate() {
            let name = format!("p{input}.router{}.experts", layer["layer"]);
            let experts = dump.tensor(&name).expect("the routing").data().as_chunks::<4>().0;
            let mut expected = vec![0.0; 6];
            for expert in experts {
                expected[i32::from_le_bytes(*expert) as usize] += 1.0 / experts.len() as f64;
            }
            let off = numbers(shares).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(off < 1e-12, "{name}: {shares} and {expected:?}");
        }
    }
}

#[test]
fn without_a_token_there_is_no_routing() {
    let dir = tempfile::tempdir().expect("a directory");
    let story = text(dir.path(), "story.txt", STORY);
    assert!(succeed(&["score", "--routing", "-q", "-c", "1", &story]).contains("No layer routed a token."));
    assert_eq!(routing(&["-c", "1", &story])["layers"], Value::Array(vec![]));
}
