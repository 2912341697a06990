//! `--trace` and `moebius trace` as people and scripts meet them.

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use support::{fail, json, output, stderr, stdout, succeed, tiny};

/// What Python makes of responses of both engines, and a reader of traces by the format's description alone.
const SNIPPET: &str = include_str!("data/routed_experts.py");

fn place(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

/// A trace of a few generated tokens.
fn traced(dir: &Path, more: &[&str]) -> (String, Value) {
    let path = place(dir, "run.trace");
    let args =
        ["run", &tiny(), "--seed", "5", "-n", "6", "--route", "--json", "--trace", &path, "Once upon a time"];
    let report = json(&[&args[..], more].concat());
    (path, report)
}

/// Runs the snippet, unless this machine has no Python.
fn python(args: &[&str]) -> Option<String> {
    let ran = Command::new("python3").arg("-c").arg(SNIPPET).args(args).output().ok()?;
    assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Some(String::from_utf8(ran.stdout).expect("UTF-8"))
}

#[test]
fn a_run_traces_its_prompt_and_what_it_generates() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, report) = traced(dir.path(), &[]);
    let rows = succeed(&["trace", "export", &path, "--jsonl"]);
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ids = |key: &str| report[key].as_array().expect("ids").clone();
    let (prompt, generated) = (ids("prompt_ids"), ids("ids"));
    let seen: Vec<Value> = rows.iter().map(|row| row["token"].clone()).collect();
    assert_eq!(seen, [&prompt[..], &generated[..generated.len() - 1]].concat());
    let routes: Vec<Value> = rows[prompt.len() - 1..].iter().map(|row| row["routes"].clone()).collect();
    assert_eq!(Value::from(routes), report["routes"]);

    let csv = succeed(&["trace", "export", &path, "--csv"]);
    assert!(csv.starts_with("step,sequence,position,token,layer,expert,weight\n0,0,0,"), "{csv}");
    assert_eq!(csv.lines().count(), 1 + rows.len() * 4 * 4);
    let file = place(dir.path(), "rows.csv");
    succeed(&["trace", "export", &path, "-o", &file]);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), csv);
    let written = json(&["trace", "export", &path, "-o", &file, "--json"]);
    assert_eq!((&written["rows"], &written["bytes"]), (&(csv.lines().count() - 1).into(), &csv.len().into()));
    assert_eq!((&written["file"], &written["format"]), (&file.clone().into(), &"csv".into()));
    fail(&["trace", "export", &path, "--json"], 2, "--output");
}

#[test]
fn show_draws_loads_pairs_and_routes_without_colour_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, _) = traced(dir.path(), &[]);
    let shown = succeed(&["trace", "show", &path, "--layer", "2", "-n", "3"]);
    for part in ["qwen3_moe", "go together", "load of each expert", "pairs of experts in layer 2", "␣upon"]
    {
        assert!(shown.contains(part), "`{part}` is not in:\n{shown}");
    }
    assert!(!shown.contains('\x1b'), "{shown}");
    let colored = succeed(&["trace", "show", &path, "--color", "always"]);
    assert!(colored.contains("\x1b["), "{colored}");
    // Without a tokenizer that is known to be right, ids stand for texts.
    fail(
        &["trace", "show", &path, "--layer", "9"],
        2,
        "the trace has no layer 9: expected one of 0, 1, 2, 3",
    );
}

#[test]
fn figures_for_programs_agree_with_the_rows() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, _) = traced(dir.path(), &[]);
    let report = json(&["trace", "stats", &path, "--json"]);
    assert_eq!(report, json(&["trace", "show", &path, "--json"]));
    let trace = &report["traces"][0];
    let tokens = trace["tokens"].as_u64().expect("a number");
    for layer in trace["layers"].as_array().expect("layers") {
        let counts: u64 = layer["counts"].as_array().expect("counts").iter().filter_map(Value::as_u64).sum();
        assert_eq!((counts, &layer["experts_per_token"]), (4 * tokens, &Value::from(4.0)));
        assert!(layer["reuse"].as_f64().is_some_and(|reuse| (0.0..=1.0).contains(&reuse)));
    }
    assert!(report["comparison"].is_null());
}

#[test]
fn several_traces_are_compared_as_score_compares_texts() {
    let dir = tempfile::tempdir().expect("a directory");
    let texts = [
        ("a", "Once upon a time there was a little dog. It ran to the park."),
        ("b", "12 + 7 = 19\n8 * 6 = 48\n"),
    ];
    let [a, b] = texts.map(|(name, text)| {
        let (file, trace) = (place(dir.path(), name), place(dir.path(), &format!("{name}.trace")));
        std::fs::write(&file, text).expect("a file");
        succeed(&["score", &tiny(), &file, "--trace", &trace]);
        (file, trace)
    });
    let of_texts = json(&["score", &tiny(), &a.0, &b.0, "--routing", "--json"]);
    let of_traces = json(&["trace", "stats", &a.1, &b.1, "--json"]);
    assert_eq!(of_traces["comparison"]["layers"], of_texts["routing"]["layers"]);
    let shown = succeed(&["trace", "show", &a.1, &b.1]);
    assert!(shown.contains("prefers experts") && shown.contains("MI (nats)"), "{shown}");
    let svg = place(dir.path(), "ratio.svg");
    succeed(&["trace", "plot", &a.1, &b.1, "-o", &svg]);
    assert!(std::fs::read_to_string(&svg).expect("a picture").contains("Load of b.trace over a.trace"));
}

#[test]
fn counts_tell_nothing_of_tokens() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, report) = traced(dir.path(), &["--trace-mode", "counts"]);
    let stats = json(&["trace", "stats", &path, "--json"]);
    let trace = &stats["traces"][0];
    assert_eq!((trace["kind"].as_str(), trace["token_ids"].as_bool()), (Some("counts"), Some(false)));
    assert!(trace["layers"][0]["pairs"].is_null() && trace["sequences"].is_null());
    let bytes = std::fs::read(&path).expect("the trace");
    let ids: Vec<u32> = report["prompt_ids"]
        .as_array()
        .expect("ids")
        .iter()
        .map(|id| id.as_u64().expect("an id") as u32)
        .collect();
    assert!(
        !bytes.windows(4).any(|four| ids[1..].iter().any(|id| *four == id.to_le_bytes())),
        "an id is in it"
    );
    assert!(succeed(&["trace", "show", &path]).contains("counts of experts alone"));
    assert!(succeed(&["trace", "export", &path]).starts_with("block,tokens,layer,expert,count\n0,"));
    fail(
        &["trace", "plot", &path, "--what", "pairs", "-o", "x.svg"],
        2,
        "does not tell which experts go together",
    );
}

#[test]
fn plots_are_pictures() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, _) = traced(dir.path(), &[]);
    for (what, title, cells) in
        [("load", "Load of each expert", 4 * 32), ("pairs", "Pairs of experts in layer 0", 32 * 32)]
    {
        let svg = place(dir.path(), "x.svg");
        let written = json(&["trace", "plot", &path, "--what", what, "-o", &svg, "--json"]);
        let svg = std::fs::read_to_string(&svg).expect("a picture");
        let size = |key: &str| written[key].as_u64().expect("a number") as usize;
        assert_eq!((size("rows") * size("columns"), size("bytes")), (cells, svg.len()));
        assert!(svg.contains(title) && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<rect").count(), 1 + cells + 16);
    }
}

#[test]
fn nothing_but_a_trace_is_overwritten_and_a_cut_one_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let precious = place(dir.path(), "precious.txt");
    std::fs::write(&precious, "words").expect("a file");
    fail(&["run", &tiny(), "-n", "1", "--trace", &precious, "hi"], 2, "is there already and no trace");
    assert_eq!(std::fs::read_to_string(&precious).expect("the file"), "words");
    fail(&["trace", "stats", &precious], 1, "it is no trace");
    fail(&["trace", "stats", &place(dir.path(), "missing")], 1, "cannot read");
    fail(&["score", &tiny(), "--ids", "1,2", "--trace-mode", "tokens"], 2, "--trace <FILE>");

    let (path, _) = traced(dir.path(), &[]);
    let bytes = std::fs::read(&path).expect("the trace");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("a shorter one");
    let stats = output(&["trace", "stats", &path]);
    assert!(stats.status.success() && stderr(&stats).contains("ends early"), "{}", stderr(&stats));
    assert!(stdout(&stats).contains("tokens  8"), "{}", stdout(&stats));
}

#[test]
fn responses_of_both_engines_become_the_trace_that_they_were_made_of() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, _) = traced(dir.path(), &[]);
    let out = dir.path().display().to_string();
    // Python reads the trace by its description and writes what the engines would have returned.
    let Some(forms) = python(&["respond", &path, &out]) else { return };
    let rows = |trace: &str| -> Vec<(Value, Value)> {
        let text = succeed(&["trace", "export", trace, "--jsonl"]);
        let row = |line: &str| {
            let row: Value = serde_json::from_str(line).expect("JSON");
            let experts = row["routes"].as_array().expect("routes").iter().map(|r| r["experts"].clone());
            (row["token"].clone(), Value::from(experts.collect::<Vec<_>>()))
        };
        text.lines().map(row).collect()
    };
    let expected = rows(&path);
    for form in forms.lines() {
        let imported = place(dir.path(), "imported.trace");
        let done = json(&["trace", "import", form, "-o", &imported, "--model", &tiny(), "--json"]);
        assert_eq!(done["tokens"], 9, "{form}");
        let got = rows(&imported);
        let experts = |rows: &[(Value, Value)]| rows.iter().map(|row| row.1.clone()).collect::<Vec<_>>();
        assert_eq!(experts(&got), experts(&expected), "{form}");
        if form.contains("_ids") {
            assert_eq!(got, expected, "{form}");
        }
        let stats = json(&["trace", "stats", &imported, "--json"]);
        assert_eq!(stats["traces"][0]["weights"], Value::from(false));
        assert!(stats["traces"][0]["layers"][0]["weight_entropy"].is_null());
        // Python finds in it what it put in.
        assert_eq!(python(&["digest", &imported]), python(&["digest", &path]), "{form}");
        assert!(succeed(&["trace", "show", &imported]).contains("load of each expert"));
    }
    assert!(forms.lines().count() >= 6, "{forms}");
}

#[test]
fn imports_say_what_they_need() {
    let dir = tempfile::tempdir().expect("a directory");
    let input = place(dir.path(), "in.json");
    let out = place(dir.path(), "out.trace");
    std::fs::write(&input, r#"{"meta_info": {"routed_experts": "AAAAAAEAAAA="}}"#).expect("a file");
    fail(&["trace", "import", &input, "-o", &out], 2, "the number of experts");
    fail(&["trace", "import", &input, "-o", &out, "--n-experts", "4"], 1, "it has no shape");
    succeed(&["trace", "import", &input, "-o", &out, "--n-experts", "4", "--layers", "1", "--k", "2"]);
    let csv = succeed(&["trace", "export", &out]);
    assert_eq!(csv.lines().skip(1).collect::<Vec<_>>(), ["0,0,0,,0,0,", "0,0,0,,0,1,"]);
}
