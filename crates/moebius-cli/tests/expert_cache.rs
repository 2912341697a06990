//! Flags about a budget of memory, and `moebius cache sim`, as people and scripts meet them.

mod support;

use support::{fail, json, model, output, stderr, succeed, tiny};

const RUN: [&str; 6] = ["-p", "A dog", "-n", "6", "--temp", "0"];

fn run<'a>(tiny: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", tiny][..], &RUN, more].concat()
}

/// A trace of the bundled model, and of another one.
fn traces(dir: &tempfile::TempDir) -> [String; 2] {
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (own, foreign) = (path("own.trace"), path("foreign.trace"));
    let (tiny, other) = (tiny(), model("goldens/olmoe").display().to_string());
    succeed(&["run", &tiny, "-p", "Once upon a time", "-n", "24", "--temp", "0", "--trace", &own]);
    succeed(&["run", &other, "--ids", "5,6,7", "-n", "4", "--trace", &foreign]);
    [own, foreign]
}

#[test]
fn values_that_make_no_sense_are_refused_with_what_would() {
    let tiny = tiny();
    let check = |more: &[&str], code, expected: &str| fail(&run(&tiny, more), code, expected);
    check(&["--memory", "0"], 2, "expected a size such as 2GiB or 500MB, or a share such as 50%");
    check(&["--memory", "0%"], 2, "got `0%`");
    check(&["--memory", "1KiB"], 5, "a budget of 1024 bytes is too small");
    check(&["--resident-experts", "0"], 2, "expected a number of experts");
    check(&["--fetch-limit", "0"], 2, "expected a size such as 500MB, at least 1B, got `0`");
    check(&["--fetch-limit", "50%"], 2, "expected a size such as 500MB");
    check(&["--expert-cache", "mru"], 2, "expected lru, lfu, lfru, layer or hot:TRACE");
    check(&["--expert-cache", "hot:/not/there", "--resident-experts", "8"], 1, "/not/there");
    check(&["--memory", "1GiB", "--backend", "cpu"], 2, "constrained");
}

#[test]
fn a_budget_that_holds_everything_needs_no_more_than_that() {
    // More than any machine has: the model takes a part of it.
    succeed(&run(&tiny(), &["--memory", "900000GiB"]));
}

#[test]
fn flags_about_fetching_where_nothing_is_fetched_cost_a_warning() {
    let tiny = tiny();
    for flag in [&["--fetch-limit", "1GB"][..], &["--no-prefetch"], &["--expert-cache", "lfu"]] {
        let said = stderr(&output(&run(&tiny, flag)));
        assert!(said.contains("warning:") && said.contains("change nothing without --memory"), "{said}");
        let said = stderr(&output(&run(&tiny, &[flag, &["--resident-experts", "9"]].concat())));
        assert!(!said.contains("warning:"), "{said}");
    }
}

#[test]
fn a_trace_says_what_is_hot_if_it_is_of_this_model() {
    let dir = tempfile::tempdir().expect("a directory");
    let tiny = tiny();
    let [own, foreign] = traces(&dir).map(|path| format!("hot:{path}"));
    let few = ["--resident-experts", "9", "--expert-cache"];
    let text = succeed(&run(&tiny, &[&few[..], &[&own]].concat()));
    assert_eq!(text, succeed(&run(&tiny, &[])));
    let expected = "is of another model: expected layer 0 with 32 experts, got layer 0 with 16 experts";
    fail(&run(&tiny, &[&few[..], &[&foreign]].concat()), 2, expected);
    let path = &foreign["hot:".len()..];
    fail(&["trace", "devices", path, "-m", &tiny, "--devices", "4"], 2, "is of another model");
}

#[test]
fn the_full_meter_says_what_is_in_memory_layer_by_layer() {
    let said = stderr(&output(&run(&tiny(), &["--resident-experts", "40", "--meter=full"])));
    let resident = said.lines().filter(|line| line.contains(" of 32 ") && line.contains(" ms ")).count();
    assert_eq!(resident, 4, "{said}");
    for part in ["hit rate", "stalled", "fetched ahead"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn policies_are_tried_on_a_trace_and_drawn() {
    let dir = tempfile::tempdir().expect("a directory");
    let [own, _] = traces(&dir);
    let plot = dir.path().join("curves.svg").display().to_string();
    let args = [
        "cache",
        "sim",
        &own,
        "--sizes",
        "12%,50%,9999",
        "--policies",
        "lru,layer",
        "--expert-bytes",
        "1000",
    ];
    let report = json(&[&args[..], &["--plot", &plot, "--json"]].concat());
    let trials = report["trials"].as_array().expect("trials");
    assert_eq!((trials.len(), report["experts"].as_u64()), (9, Some(128)));
    for of in trials.chunks(3) {
        let misses = |trial: usize| of[trial]["misses"].as_u64().expect("misses");
        assert!(of[2]["policy"] == "belady" && misses(2) <= misses(0).min(misses(1)), "{of:?}");
        assert_eq!(of[0]["bytes_per_token"].as_f64(), of[0]["misses_per_token"].as_f64().map(|n| 1000.0 * n));
    }
    // With places for all, what misses is asked for the first time.
    assert_eq!((&trials[6]["places"], &trials[6]["verdict"]), (&128.into(), &"fits".into()));
    assert_eq!(trials[6]["misses"], trials[8]["misses"]);
    let svg = std::fs::read_to_string(&plot).expect("a picture");
    for part in ["<svg", "belady", "layer", "places, % of all experts"] {
        assert!(svg.contains(part), "{part}");
    }
    fail(&["cache", "sim", &own, "--sizes", "0"], 2, "expected a number of experts");
    fail(&["cache", "sim", &tiny()], 1, "");
}
