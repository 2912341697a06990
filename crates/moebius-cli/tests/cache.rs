//! `--cache` and `moebius cache` as people and scripts meet them.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use support::{model, moebius, stderr, stdout};

const RUN: [&str; 8] = ["-p", "A dog", "-n", "12", "--seed", "7", "--format", "q4_0"];
const SCORE: [&str; 4] = ["--ids", "200,300,400", "--format", "q8_0"];

/// A cache of its own, and a copy of the bundled model whose files nobody else links or changes.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Place { dir: tempfile::tempdir().expect("a directory") };
        std::fs::create_dir(place.dir.path().join("moebius-tiny")).expect("a directory");
        for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            let to = place.dir.path().join("moebius-tiny").join(name);
            std::fs::copy(model("moebius-tiny").join(name), to).expect("a copy");
        }
        place
    }

    fn model(&self) -> String {
        self.dir.path().join("moebius-tiny").display().to_string()
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = moebius(args);
        command.env("MOEBIUS_CACHE_DIR", self.path());
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program starts")
    }

    /// What a command that must succeed prints, and says besides.
    #[track_caller]
    fn succeed(&self, args: &[&str]) -> (String, String) {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        (stdout(&output), stderr(&output))
    }

    fn run(&self, args: &[&str]) -> (String, String) {
        self.succeed(&[&["run", &self.model()][..], &RUN, args].concat())
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.succeed(args).0).expect("valid JSON")
    }

    fn entries(&self) -> Vec<Value> {
        self.json(&["cache", "--json"])["entries"].as_array().expect("a list").clone()
    }
}

#[test]
fn what_is_kept_once_is_mapped_from_then_on_and_says_the_same() {
    let place = Place::new();
    let (plain, said) = place.run(&[]);
    assert!(
        !said.contains("kept") && !place.path().exists(),
        "nothing is kept unless it is asked for: {said}"
    );
    let (kept, said) = place.run(&["--cache"]);
    assert!(said.contains("kept the packed weights"), "{said}");
    assert_eq!(kept, plain);
    for args in [&["-v"][..], &["-v", "--cache"]] {
        let (mapped, said) = place.run(args);
        assert!(said.contains("cache") && said.contains("moebius-tiny-q4_0-"), "{said}");
        assert!(!said.contains("kept"), "{said}");
        assert_eq!(mapped, plain);
    }
    let (ignored, said) = place.run(&["-v", "--cache", "--no-cache"]);
    assert!(!said.contains("moebius-tiny-q4_0-"), "{said}");
    assert_eq!((ignored, place.entries().len()), (plain, 1));
}

#[test]
fn score_and_bench_keep_and_map_as_well() {
    let place = Place::new();
    let score = |args: &[&str]| place.succeed(&[&["score", &place.model()][..], &SCORE, args].concat()).0;
    let plain = score(&[]);
    assert_eq!(score(&["--cache"]), plain);
    assert_eq!((score(&[]), place.entries().len()), (plain, 1));
    let bench = ["bench", &place.model(), "-p", "4", "-n", "1", "-r", "1", "--format", "q8_0"];
    assert!(place.succeed(&bench).1.contains("weights are mapped from"));
    assert!(!place.succeed(&[&bench[..], &["--no-cache"]].concat()).1.contains("mapped"));
    let mut command =
        place.command(&["bench", &place.model(), "-p", "4", "-n", "0", "-r", "1", "--format", "q4_k_m"]);
    let output = command.env("MOEBIUS_CACHE", "1").output().expect("the program starts");
    assert!(stderr(&output).contains("kept the packed weights"), "{}", stderr(&output));
    assert_eq!(place.entries().len(), 2);
}

#[test]
fn two_programs_that_pack_the_same_at_once_both_answer_and_keep_one() {
    let place = Place::new();
    let plain = place.run(&[]).0;
    let start = || {
        let mut command = place.command(&[&["run", &place.model()][..], &RUN, &["--cache"]].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
    };
    for child in [start(), start()] {
        let output = child.wait_with_output().expect("the program ends");
        assert!(output.status.success() && !stderr(&output).contains("warning"), "{}", stderr(&output));
        assert_eq!(stdout(&output), plain);
    }
    let names = std::fs::read_dir(place.path()).expect("the cache").flatten().map(|entry| entry.file_name());
    let names: Vec<_> = names.filter(|name| name.to_string_lossy().contains("q4_0")).collect();
    assert_eq!((names.len(), place.entries().len()), (1, 1), "{names:?}");
}

#[test]
fn a_cache_that_cannot_be_written_costs_a_warning_and_not_the_answer() {
    let place = Place::new();
    let plain = place.run(&[]).0;
    std::fs::write(place.path(), "a file").expect("a file");
    let (told, said) = place.run(&["--cache"]);
    assert_eq!(told, plain);
    for part in ["warning: the packed weights are not kept", "caused by: cannot write", "hint:"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(place.run(&["--cache", "-q"]).1.is_empty());
}

#[test]
fn a_damaged_copy_costs_a_warning_and_is_replaced() {
    let place = Place::new();
    let plain = place.run(&["--cache"]).0;
    let path = place.entries()[0]["path"].as_str().expect("a path").to_owned();
    let weights = Path::new(&path).join("model.safetensors");
    std::fs::OpenOptions::new()
        .write(true)
        .open(weights)
        .and_then(|f| f.set_len(5000))
        .expect("a shorter file");
    let (told, said) = place.run(&[]);
    assert_eq!(told, plain);
    assert!(said.contains("warning: a packed copy of the model is left aside"), "{said}");
    assert!(said.contains("bytes, got 5000") && said.contains("hint: `moebius cache clear`"), "{said}");
    assert_eq!(place.entries()[0]["state"], "damaged");
    let (told, said) = place.run(&["--cache"]);
    assert!(said.contains("kept") && !said.contains("warning"), "{said}");
    assert_eq!((told, place.entries()[0]["state"].as_str()), (plain, Some("current")));
}

#[test]
fn a_model_that_has_changed_is_not_answered_for_by_its_old_copy() {
    let place = Place::new();
    place.run(&["--cache"]);
    let config = Path::new(&place.model()).join("config.json");
    let text = std::fs::read_to_string(&config).expect("text");
    std::fs::write(&config, text + "\n").expect("a file");
    let (plain, said) = place.run(&[]);
    assert!(said.contains("has changed since its packed copy was made"), "{said}");
    assert_eq!(place.entries()[0]["state"], "outdated");
    let (kept, said) = place.run(&["--cache"]);
    assert!(said.contains("kept") && !said.contains("changed"), "{said}");
    assert_eq!((kept, place.entries().len()), (plain, 1));
}

#[test]
fn the_list_and_clearing_tell_models_formats_and_sizes() {
    let place = Place::new();
    let dir = place.path().display().to_string();
    assert_eq!(place.succeed(&["cache", "dir"]).0, format!("{dir}\n"));
    assert_eq!(place.succeed(&["cache"]).0, format!("nothing is kept in {dir}\n"));
    assert_eq!(place.succeed(&["cache", "clear"]).0, "nothing to remove\n");
    place.run(&["--cache"]);
    place.succeed(&[&["score", &place.model(), "--cache"][..], &SCORE].concat());

    let text = place.succeed(&["cache"]).0;
    for part in ["model", "format", "moebius-tiny", "q4_0", "q8_0", "MB", "current", &dir] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(place.succeed(&["cache", "list"]).0.lines().count(), text.lines().count());
    let list = place.json(&["cache", "list", "--json"]);
    let bytes = |entry: &Value| entry["bytes"].as_u64().expect("bytes");
    let sum: u64 = list["entries"].as_array().expect("a list").iter().map(bytes).sum();
    assert_eq!((bytes(&list), list["dir"].as_str()), (sum, Some(&*dir)));
    let doctor = place.json(&["doctor", "--json"]);
    assert_eq!((&doctor["cache_bytes"], &doctor["cache_entries"]), (&sum.into(), &2.into()));

    let mut command = place.command(&["cache", "clear", "--format", "q4_0"]);
    let output = command.env("MOEBIUS_FORMAT", "q8_0").output().expect("the program starts");
    let said = stdout(&output);
    assert!(said.contains("removed") && said.contains("(q4_0, ") && said.contains("freed"), "{said}");
    assert_eq!(place.json(&["cache", "clear", "/not/there", "--json"])["bytes"], 0);
    let cleared = place.json(&["cache", "clear", &place.model(), "--json"]);
    assert_eq!((&cleared["removed"][0]["format"], &cleared["leftover_bytes"]), (&"q8_0".into(), &0.into()));
    assert!(cleared["bytes"].as_u64() > Some(10_000_000), "{cleared}");
    assert!(place.entries().is_empty());
}

#[test]
fn a_system_that_names_no_place_is_told_so() {
    let place = Place::new();
    let without = |args: &[&str]| {
        let mut command = moebius(args);
        for name in ["MOEBIUS_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"] {
            command.env_remove(name);
        }
        command.output().expect("the program starts")
    };
    let output = without(&["cache"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("no place for a cache") && stderr(&output).contains("MOEBIUS_CACHE_DIR")
    );
    let output = without(&[&["run", &place.model()][..], &RUN, &["--cache"]].concat());
    assert!(output.status.success() && stderr(&output).contains("not kept"), "{}", stderr(&output));
}
