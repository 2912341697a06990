//! `moebius explain` as people and scripts meet it.

mod support;

use support::{fail, json, model, succeed};

#[test]
fn the_lesson_fits_eighty_columns_and_ends_with_what_was_saved() {
    let lesson = succeed(&["explain", "Once upon a time"]);
    assert!(lesson.lines().all(|line| line.chars().count() <= 80), "{lesson}");
    assert!(lesson.contains("87.5 % of the experts' work saved (1 - 4/32)"), "{lesson}");
    assert!(!lesson.contains('\u{1b}'), "no colour off a terminal");
}

#[test]
fn the_numbers_are_those_of_the_router_and_of_the_layer() {
    let said = json(&["explain", "A dog", "--token", "1", "--layer", "2", "--json"]);
    let floats = |name: &str| -> Vec<f64> {
        said[name].as_array().expect("numbers").iter().map(|n| n.as_f64().expect("a number")).collect()
    };
    let (logits, scores) = (floats("logits"), floats("scores"));
    let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
    for (logit, score) in logits.iter().zip(&scores) {
        assert!((logit.exp() / total - score).abs() < 1e-5);
    }
    let experts = said["experts"].as_array().expect("experts");
    let weights: f64 = experts.iter().map(|e| e["weight"].as_f64().expect("a weight")).sum();
    assert!((weights - 1.0).abs() < 1e-5 && experts.len() == 4, "{weights}");
    let norm = said["output_norm"].as_f64().expect("a norm");
    assert!(said["largest_difference"].as_f64().expect("a number") < 1e-5 * norm.max(1.0), "{said}");
    assert_eq!((&said["layer"], &said["token"]), (&2.into(), &1.into()));
    assert_eq!(said["expert_saved_share"], 0.875);
}

#[test]
fn every_router_is_explained_by_its_own_formula() {
    for name in
        ["olmoe", "deepseek_v3", "gpt_oss", "phimoe", "llama4", "nemotron_h", "pangu_pro_moe", "gemma4"]
    {
        let dir = model("goldens").join(name);
        if !dir.is_dir() {
            continue;
        }
        let dir = dir.display().to_string();
        let args = ["explain", "--model", &dir, "--ids", "1,5,9,3"];
        let said = json(&[&args[..], &["--json"]].concat());
        let norm = said["output_norm"].as_f64().expect("a norm");
        let difference = said["largest_difference"].as_f64().expect("a number");
        assert!(difference <= 1e-5 * norm.max(1.0), "{name}: {difference} of {norm}");
        let lesson = succeed(&args);
        let formula =
            said["formula"].as_str().expect("a formula").split(',').next().unwrap_or_default().to_owned();
        assert!(lesson.replace('\n', " ").contains(&formula), "{name}: {lesson}");
    }
}

#[test]
fn what_is_not_there_is_named() {
    fail(&["explain", "A dog", "--layer", "9"], 2, "one of 0, 1, 2, 3");
    fail(&["explain", "A dog", "--token", "999"], 2, "no such token");
    fail(&["explain", "A dog", "--ids", "1"], 2, "--ids");
}
