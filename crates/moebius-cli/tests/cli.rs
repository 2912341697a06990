//! The program as people and scripts meet it.

mod support;

use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::Value;

use support::{fail, json, model, moebius, output, piped, stderr, stdout, succeed, tiny};

#[test]
fn without_arguments_it_tells_a_story_and_says_how_to_go_on() {
    let output = output(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let story = stdout(&output);
    assert!(story.starts_with("Once upon a time") && story.len() > 40, "{story}");
    assert!(stderr(&output).contains("moebius --help"));
}

#[test]
fn a_first_argument_with_spaces_is_a_prompt() {
    let story = succeed(&["The little dog", "-n", "4", "--temp", "0"]);
    assert!(story.starts_with("The little dog") && story.len() > 16, "{story}");
    let alone = succeed(&["The little dog", "-n", "4", "--temp", "0", "--no-display-prompt"]);
    assert_eq!(format!("The little dog{alone}"), story);
}

#[test]
fn an_unknown_word_is_wrong_usage() {
    fail(&["shwo"], 2, "'show'");
}

#[test]
fn json_has_ids_text_logprobs_timings_and_meter() {
    let args = ["run", &tiny(), "A dog", "-n", "3", "--temp", "0", "--seed", "7", "--json", "--route"];
    let answer = json(&args);
    assert_eq!(answer["ids"].as_array().map(Vec::len), Some(3));
    assert_eq!(answer["logprobs"].as_array().map(Vec::len), Some(3));
    assert!(answer["logprobs"][0].as_f64().is_some_and(|p| p <= 0.0));
    assert_eq!((&answer["finish"], &answer["seed"]), (&Value::from("length"), &Value::from(7)));
    assert!(!answer["text"].as_str().expect("text").is_empty());
    assert_eq!(answer["timings"]["predicted_n"], 3);
    assert_eq!(answer["timings"]["prompt_n"], answer["prompt_ids"].as_array().map_or(0, Vec::len));
    assert_eq!(answer["meter"]["expert_saved_share"], 0.875);
    let layers = answer["routes"][0].as_array().expect("routes of the first token");
    assert_eq!((layers.len(), layers[3]["experts"].as_array().map(Vec::len)), (4, Some(4)));
    assert_eq!(json(&args)["ids"], answer["ids"]);
}

#[test]
fn no_token_at_all_leaves_the_figures_unknown() {
    let answer = json(&["run", &tiny(), "A dog", "-n", "0", "--json"]);
    assert_eq!(answer["ids"].as_array().map(Vec::len), Some(0));
    assert!(answer["timings"]["predicted_per_second"].is_null() && answer["meter"]["flops"].is_null());
    assert!(answer.get("routes").is_none());
}

#[test]
fn fewer_experts_save_more() {
    let saved = |experts: &str| {
        let args = ["run", &tiny(), "--ids", "5,6", "-n", "2", "--json", "--experts", experts];
        json(&args)["meter"]["expert_saved_share"].as_f64().expect("a share")
    };
    assert_eq!((saved("1"), saved("32")), (0.96875, 0.0));
}

#[test]
fn the_prompt_may_come_from_stdin_or_a_file() {
    let expected = succeed(&["run", "-p", "A dog", "-n", "4", "--temp", "0"]);
    for args in [&["run", "-n", "4", "--temp", "0"][..], &["run", "-", "-n", "4", "--temp", "0"]] {
        assert_eq!(stdout(&piped(args, "A dog\n")), expected, "{args:?}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, "A dog\r\n").expect("a file");
    let args = ["run", "-f", &file.display().to_string(), "-n", "4", "--temp", "0"];
    assert_eq!(succeed(&args), expected);
}

#[test]
fn wrong_usage_is_code_2() {
    let golden = model("goldens/mixtral").display().to_string();
    for (args, message) in [
        (&["run", "--ids", "1,,x"][..], "--ids"),
        (&["run", "--ids", "999999999999"], "--ids"),
        (&["run", "--ids", "4096"], "outside the vocabulary"),
        (&["run", ""], "empty"),
        (&["run"], "the prompt is empty"),
        (&["run", "hi", "-t", "0"], "expected a whole number from 1 to 1024"),
        (&["run", "hi", "--experts", "few"], "expected a whole number"),
        (&["run", "hi", "-n", "99999999999999999999999"], "--n-predict"),
        (&["run", "hi", "--temp", "nan"], "--temp"),
        (&["run", "hi", "--top-p", "2"], "--top-p"),
        (&["run", "hi", "--repeat-penalty", "0"], "--repeat-penalty"),
        (&["run", "hi", "--stop", ""], "--stop"),
        (&["run", "hi", "--backend", "abacus"], "--backend"),
        (
            &["run", "hi", "--format", "q3_k"],
            "f16, q8_0, q5_1, q4_0, q4_k, q5_k, q6_k, mxfp4, iq4_xs, q2_k, q4_k_m",
        ),
        (&["bench", "--format", "Q4_0"], "--format"),
        (&["run", "hi", "--experts", "0"], "expected 1 to 32, got 0"),
        (&["run", "hi", "--experts", "33"], "got 33"),
        (&["run", "hi", "--system", "be nice"], "chat template"),
        (&["run", "one two three four", "-c", "2"], "too long"),
        (&["run", "a", "b", "-p", "c"], "two prompts"),
        (&["run", &golden, "text"], "no tokenizer"),
        (&["score"], "--text"),
        (&["score", "--ids", "1", "--text", "a"], "cannot be used with"),
    ] {
        fail(args, 2, message);
    }
}

#[test]
fn a_huge_number_of_tokens_ends_with_the_context() {
    let answer = json(&["run", "A dog", "-n", "9000000000000000000", "-c", "8", "--ignore-eos", "--json"]);
    assert_eq!(answer["finish"], "context");
}

#[test]
fn a_model_that_is_not_there_is_code_3() {
    fail(&["run", "/no/such/model", "hi"], 3, "no model at");
    fail(&["run", "./missing"], 3, "--prompt");
    fail(&["run", "owner/name", "hi"], 3, "is offline");
    let empty = tempfile::tempdir().expect("a directory");
    fail(&["show", &empty.path().display().to_string()], 3, "config.json");
}

#[test]
fn files_that_cannot_be_read_are_code_1_and_broken_models_code_4() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().display().to_string();
    fail(&["run", "-f", &path], 1, "caused by:");
    fail(&["score", "--text", &path], 1, "caused by:");
    let latin1 = dir.path().join("latin1.txt");
    std::fs::write(&latin1, b"caf\xe9").expect("a file");
    fail(&["run", "-f", &latin1.display().to_string()], 1, "UTF-8");
    std::fs::write(dir.path().join("config.json"), "{").expect("a file");
    fail(&["show", &path], 4, "not valid JSON");
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "abacus"}"#).expect("a file");
    fail(&["run", &path, "hi"], 4, "moebius families");
}

#[cfg(unix)]
#[test]
fn arguments_that_are_no_text_are_wrong_usage() {
    use std::os::unix::ffi::OsStrExt;

    for first in [&b"\xff\xfe"[..], b"two \xff words"] {
        let output = moebius(&[]).arg(std::ffi::OsStr::from_bytes(first)).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut command = moebius(&["run", "A dog", "-n", "400", "--ignore-eos"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut pipe = child.stdout.take().expect("a pipe");
    pipe.read_exact(&mut [0]).expect("text");
    drop(pipe);
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn colours_follow_the_flag_and_the_environment() {
    let colored = |command: &mut Command| {
        let output = command.output().expect("the program starts");
        stdout(&output).contains('\x1b')
    };
    assert!(!colored(&mut moebius(&["families"])));
    assert!(colored(&mut moebius(&["families", "--color", "always"])));
    assert!(colored(moebius(&["families"]).env("CLICOLOR_FORCE", "1")));
    assert!(!colored(moebius(&["families"]).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1")));
    assert!(!colored(moebius(&["families", "--color", "never"]).env("CLICOLOR_FORCE", "1")));
}

#[test]
fn the_environment_sets_what_flags_do_not() {
    let run = |args: &[&str]| {
        let mut command = moebius(&["run", "A dog", "--json"]);
        let output = command.args(args).env("MOEBIUS_N_PREDICT", "2").env("MOEBIUS_SEED", "5").output();
        let answer: Value = serde_json::from_str(&stdout(&output.expect("it starts"))).expect("valid JSON");
        (answer["ids"].as_array().map_or(0, Vec::len), answer["seed"].as_u64())
    };
    assert_eq!(run(&[]), (2, Some(5)));
    assert_eq!(run(&["-n", "1", "-s", "6"]), (1, Some(6)));
}

#[test]
fn the_meter_and_the_routes_go_to_stderr() {
    let output = output(&["run", "A dog", "-n", "3", "--temp", "0", "--meter", "--route"]);
    let said = stderr(&output);
    for part in
        ["expert·weight", "L3", "prompt", "decode", "parameters", "FLOP", "87.5 % of the experts' work"]
    {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    assert_eq!(stdout(&output), succeed(&["run", "A dog", "-n", "3", "--temp", "0", "--no-meter"]));
}

#[test]
fn show_works_from_the_configuration_alone_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::copy(model("moebius-tiny").join("config.json"), dir.path().join("config.json")).expect("a copy");
    let path = dir.path().display().to_string();
    let text = succeed(&["show", &path]);
    assert!(text.contains("No weights here") && text.contains("n/a") && text.contains("softmax"), "{text}");
    let (bare, full) = (json(&["show", &path, "--json"]), json(&["show", &tiny(), "--json"]));
    assert!(bare["weight_bytes"].is_null() && full["weight_bytes"].is_u64());
    assert_eq!((&bare["total_parameters"], &bare["moe"]), (&full["total_parameters"], &full["moe"]));
    fail(&["run", &path, "hi"], 3, "no weights");
    assert_eq!(json(&["show", &path, "--json", "--experts", "5"])["moe"]["experts_per_token"], 5);
}

/// What each part of a model is held in.
fn formats(args: &[&str]) -> Vec<(String, Value)> {
    let parts = json(args)["parts"].as_array().expect("parts").clone();
    parts
        .iter()
        .map(|part| (part["name"].as_str().expect("a name").into(), part["formats"].clone()))
        .collect()
}

#[test]
fn show_says_what_would_be_held() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::copy(model("moebius-tiny").join("config.json"), dir.path().join("config.json")).expect("a copy");
    let bare = dir.path().display().to_string();
    let held = formats(&["show", &bare, "--format", "q4_0", "--json"]);
    assert_eq!(held, formats(&["show", &tiny(), "--format", "q4_0", "--json"]));
    for (part, format) in [("experts", "q4_0"), ("embedding", "q6_k"), ("router", "bf16"), ("norms", "f32")] {
        assert!(held.contains(&(part.into(), Value::from(vec![format]))), "{part}: {held:?}");
    }
    let bytes = |args: &[&str]| json(args)["weight_bytes"].as_u64().expect("known");
    let (small, stored) =
        (bytes(&["show", &bare, "--json", "--format", "q4_0"]), bytes(&["show", &tiny(), "--json"]));
    assert!(small * 2 < stored, "{small} of {stored}");
    let text = succeed(&["show", &bare, "--format", "q4_k_m"]);
    assert!(text.contains("q4_k") && !text.contains("n/a"), "{text}");
    assert!(
        formats(&["show", &bare, "--json"]).iter().all(|(_, formats)| formats == &Value::Array(Vec::new()))
    );
}

#[test]
fn a_model_runs_and_scores_in_the_format_that_is_named() {
    let ids = ["--ids", "200,300,400,500"];
    let score =
        |more: &[&str]| json(&[&["score", "--json"][..], &ids, more].concat())["total"]["logprob"].clone();
    let (stored, held) = (score(&[]), score(&["--format", "q4_0"]));
    assert_ne!(stored, held);
    assert_eq!(score(&["--format", "bf16"]), stored);
    let output = output(&["run", "-p", "A dog", "-n", "3", "-v", "--format", "q4_0"]);
    assert!(output.status.success() && stderr(&output).contains(" in q4_0 + q6_k"), "{}", stderr(&output));
    let from_variable =
        moebius(&["run", "-p", "A dog", "-n", "1", "-v"]).env("MOEBIUS_FORMAT", "q8_0").output();
    let said = stderr(&from_variable.expect("the program starts"));
    assert!(said.contains(" in q8_0"), "{said}");
    assert!(succeed(&["run", "--help"]).contains("q5_k_m]"));
}

#[test]
fn a_chat_template_lays_the_prompt_out_unless_it_is_to_stay_raw() {
    let dir = tempfile::tempdir().expect("a directory");
    let entries = std::fs::read_dir(model("moebius-tiny")).expect("the model");
    for entry in entries.map(|entry| entry.expect("an entry")).filter(|entry| entry.path().is_file()) {
        let to = dir.path().join(entry.file_name());
        std::fs::hard_link(entry.path(), &to)
            .or_else(|_| std::fs::copy(entry.path(), &to).map(drop))
            .expect("a copy");
    }
    let template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}";
    std::fs::write(dir.path().join("chat_template.jinja"), template).expect("a template");
    let path = dir.path().display().to_string();
    let prompt = |args: &[&str]| {
        json(&[&["run", &path, "A dog", "-n", "1", "--json"], args].concat())["prompt_ids"]
            .as_array()
            .map_or(0, Vec::len)
    };
    let (raw, chat, system) = (prompt(&["--raw"]), prompt(&[]), prompt(&["--system", "Be kind."]));
    assert!(raw < chat && chat < system, "{raw} {chat} {system}");
}

#[test]
fn lists_and_versions_are_for_people_and_programs() {
    assert!(succeed(&["families"]).contains("qwen3_moe"));
    assert!(json(&["families", "--json"])["families"].as_array().is_some_and(|list| list.len() > 4));
    let knobs = succeed(&["knobs"]);
    for name in ["MOEBIUS_MODEL", "MOEBIUS_ISA", "MOEBIUS_THREADS", "MOEBIUS_TEMP"] {
        assert_eq!(knobs.matches(&format!("{name} ")).count(), 1, "{name}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(succeed(&["completions", shell]).contains("moebius"), "{shell}");
    }
    assert_eq!(succeed(&["-V"]).trim(), concat!("moebius ", env!("CARGO_PKG_VERSION")));
    let long = succeed(&["--version"]);
    assert!(long.contains("build:") && long.contains("kernels:") && long.contains("CPU:"), "{long}");
}

#[test]
fn what_nothing_used_is_warned_of_unless_quiet() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(model("goldens/mixtral").join(name), dir.path().join(name)).expect("a copy");
    }
    let config = dir.path().join("config.json");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    std::fs::write(&config, text.replacen('{', "{\"strange_key\": 3,", 1)).expect("a changed copy");
    let dir = dir.path().display().to_string();
    let run = ["run", &dir, "--ids", "5,6", "-n", "2"];
    assert!(stderr(&output(&run)).contains("warning: unknown key of config.json: `strange_key`"));
    assert_eq!(stderr(&output(&[&run[..], &["-q"]].concat())), "");
}

#[test]
fn more_context_than_the_model_has_is_warned_of() {
    let run = |context: &str| stderr(&output(&["run", "A dog", "-n", "1", "-c", context]));
    assert!(run("513").contains("warning: the context is 512 tokens"));
    assert_eq!(run("512"), "");
}

#[test]
fn doctor_router_names_the_formula_and_the_key_that_is_missing() {
    let golden = model("goldens/qwen3_moe");
    let said = succeed(&["doctor", "router", &golden.display().to_string()]);
    for part in
        ["softmax over 8 experts, keep the 3 largest", "R1 softmax_top_k", "Config and weights agree."]
    {
        assert!(said.contains(part), "{said}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let text = std::fs::read_to_string(golden.join("config.json")).expect("a file");
    let mut config: Value = serde_json::from_str(&text).expect("valid JSON");
    config.as_object_mut().expect("an object").remove("norm_topk_prob");
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("a file");
    let path = dir.path().display().to_string();
    let said = succeed(&["doctor", "router", &path]);
    for part in
        ["R2", "No weights here", "! `norm_topk_prob` is missing", "  hint: qwen3-30b-a3b says `true`"]
    {
        assert!(said.contains(part), "{said}");
    }
    let report = json(&["doctor", "router", &path, "--json"]);
    assert_eq!((&report["family"], &report["weights"]), (&Value::from("qwen3_moe"), &Value::from(false)));
    let router = &report["routers"][0];
    assert_eq!(
        (&router["id"], &router["kit_file"]),
        (&Value::from("R2"), &Value::from("r02_softmax_probabilities.json"))
    );
    assert_eq!(
        (&router["renormalized"], &router["experts_per_token"]),
        (&Value::from(false), &Value::from(3))
    );
    let is_default = |setting: &Value| setting["key"] == "norm_topk_prob" && setting["source"] == "default";
    assert!(report["settings"].as_array().expect("settings").iter().any(is_default));
    assert_eq!(report["findings"].as_array().map(Vec::len), Some(1));
    fail(&["doctor", "router", "/no/such/model"], 3, "no model at");
}
