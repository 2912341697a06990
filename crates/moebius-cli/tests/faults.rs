//! What becomes of runs within a budget when files, disks and people do their worst.
#![cfg(unix)]

mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use support::{model, moebius, stderr, stdout, succeed, with_small_files};

/// Longer than anything that happens to a run here.
const LONG: [&str; 9] =
    ["-p", "A dog", "-n", "400", "--ignore-eos", "--temp", "0", "--no-display-prompt", "--no-meter"];
/// Of which every token has to fetch some.
const FEW: [&str; 2] = ["--resident-experts", "4"];

/// Copies of the bundled model whose files nobody else links or changes.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Place { dir: tempfile::tempdir().expect("a directory") };
        std::fs::create_dir_all(place.path("spill")).expect("a directory");
        std::fs::create_dir_all(place.path("tiny")).expect("a directory");
        for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            let from = model("moebius-tiny").join(name);
            std::fs::copy(from, place.path("tiny").join(name)).expect("a copy");
        }
        place
    }

    /// The same with the model packed, in `packed`.
    fn packed() -> Self {
        let place = Place::new();
        let [from, to] = ["tiny", "packed"].map(|name| place.path(name).display().to_string());
        succeed(&["convert", &from, &to, "--format", "q8_0"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn weights(&self, name: &str) -> PathBuf {
        self.path(name).join("model.safetensors")
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let path = self.path(name).display().to_string();
        let mut command = moebius(&[&["run", &path], args].concat());
        command.env("MOEBIUS_SPILL_DIR", self.path("spill"));
        command.env("MOEBIUS_CACHE_DIR", self.path("cache"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What a run says that nothing happens to.
    fn undisturbed(&self, name: &str, args: &[&str]) -> String {
        let output = self.command(name, args).output().expect("the program starts");
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    }
}

/// Starts a run and waits for its first word.
fn started(mut command: Command) -> (Child, String) {
    let mut child = command.spawn().expect("the program starts");
    let mut first = [0];
    let said = child.stdout.as_mut().expect("a pipe").read_exact(&mut first);
    said.expect("a first word");
    (child, char::from(first[0]).to_string())
}

/// What a run says, and how it ends, to which something happens after its first word.
fn disturbed(command: Command, happens: impl FnOnce()) -> (Output, String) {
    let (child, first) = started(command);
    happens();
    let output = child.wait_with_output().expect("the program ends");
    let said = first + &stdout(&output);
    (output, said)
}

fn cut(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(len)).expect("a shorter file");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[track_caller]
fn fails(output: &Output, parts: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [&["error:", "hint:"], parts].concat() {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_packed_file_that_is_cut_or_written_to_under_the_run_is_an_error_of_that_step() {
    let place = Place::packed();
    let weights = place.weights("packed");
    let len = weights.metadata().expect("a file").len();
    let overwrite = || {
        let file = OpenOptions::new().write(true).open(&weights).expect("a file");
        file.write_all_at(&[0; 64], len / 2).expect("room");
    };
    let command = || place.command("packed", &[&LONG[..], &FEW].concat());
    let (output, _) = disturbed(command(), overwrite);
    fails(&output, &["cannot fetch expert", "was written to while the model ran", "open it again"]);
    let (output, _) = disturbed(command(), || cut(&weights, len / 2));
    fails(&output, &["cannot fetch expert", "of layer"]);
    let output = command().output().expect("the program starts");
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
}

#[test]
fn a_file_that_is_removed_or_replaced_under_the_run_is_still_the_one_that_was_opened() {
    let place = Place::packed();
    let (args, weights) = ([&LONG[..], &FEW].concat(), place.weights("packed"));
    let expected = place.undisturbed("packed", &args);
    let replace = || {
        let other = place.path("other");
        std::fs::write(&other, [1; 5000]).expect("a file");
        std::fs::rename(&other, &weights).expect("another file of that name");
    };
    let (output, said) = disturbed(place.command("packed", &args), replace);
    assert!(output.status.success() && said == expected, "{}", stderr(&output));

    let place = Place::packed();
    let remove = || std::fs::remove_dir_all(place.path("packed")).expect("it goes");
    let (output, said) = disturbed(place.command("packed", &args), remove);
    assert!(output.status.success() && said == expected, "{}", stderr(&output));
}

#[test]
fn a_file_that_is_not_packed_is_not_needed_once_it_is_loaded() {
    let place = Place::new();
    let args = [&LONG[..], &FEW].concat();
    let expected = place.undisturbed("tiny", &args);
    let (output, said) = disturbed(place.command("tiny", &args), || cut(&place.weights("tiny"), 100));
    assert!(output.status.success() && said == expected, "{}", stderr(&output));

    std::fs::copy(model("goldens-gguf/olmoe.gguf"), place.path("a.gguf")).expect("a copy");
    let args =
        ["--ids", "5,6,7", "-n", "150", "--ignore-eos", "--temp", "0", "--seed", "1", "-v", FEW[0], FEW[1]];
    let ids = |output: &Output| stdout(output).split_once("],").expect("ids").0.to_owned();
    let args = [&args[..], &["--json"]].concat();
    let expected = ids(&place.command("a.gguf", &args).output().expect("the program starts"));
    // It has no words, and says what it has loaded.
    let mut child = place.command("a.gguf", &args).spawn().expect("the program starts");
    child.stderr.as_mut().expect("a pipe").read_exact(&mut [0]).expect("what was loaded");
    cut(&place.path("a.gguf"), 100);
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(ids(&output), expected);
}

#[cfg(target_os = "linux")]
#[test]
fn a_mapped_file_that_is_cut_ends_the_program_with_words() {
    let place = Place::packed();
    let command = place.command("packed", &LONG);
    let (output, _) = disturbed(command, || cut(&place.weights("packed"), 100));
    fails(&output, &["cannot be read any more", "cut short"]);
}

#[test]
fn a_run_that_is_killed_leaves_nothing_behind_and_the_next_one_works() {
    let place = Place::new();
    let short = ["-p", "A dog", "-n", "20", "--temp", "0", "--no-meter"];
    let expected = place.undisturbed("tiny", &short);
    let (mut child, _) = started(place.command("tiny", &[&LONG[..], &FEW].concat()));
    assert_eq!(names(&place.path("spill")), [""; 0], "experts lie in a file without a name");
    child.kill().and_then(|()| child.wait()).expect("it ends");
    assert_eq!(names(&place.path("spill")), [""; 0]);
    assert_eq!(place.undisturbed("tiny", &[&short[..], &FEW].concat()), expected);

    // While it reads a packed copy, and before that while it writes one.
    let kept = ["--cache", "--format", "q8_0", FEW[0], FEW[1]];
    let mut child = place.command("tiny", &[&LONG[..], &kept].concat()).spawn().expect("the program starts");
    while names(&place.path("cache")).iter().all(|name| !name.contains(".partial-")) {
        assert!(child.try_wait().expect("a state").is_none(), "it ended before it wrote a copy");
        std::thread::yield_now();
    }
    child.kill().and_then(|()| child.wait()).expect("it ends");
    let expected = place.undisturbed("tiny", &[&short[..], &kept].concat());
    let (mut child, _) = started(place.command("tiny", &[&LONG[..], &kept].concat()));
    child.kill().and_then(|()| child.wait()).expect("it ends");
    assert_eq!(place.undisturbed("tiny", &[&short[..], &kept].concat()), expected);
    let left: Vec<String> =
        names(&place.path("cache")).into_iter().filter(|name| name.contains("q8_0")).collect();
    assert!(matches!(&left[..], [copy] if !copy.contains(".partial-")), "{left:?}");
}

#[test]
fn a_disk_without_room_for_the_experts_is_an_error_that_names_the_directory() {
    let place = Place::new();
    let command = place.command("tiny", &[&LONG[..], &FEW].concat());
    let mut limited = with_small_files(&command, 1000);
    let output = limited.output().expect("the program starts");
    let spill = place.path("spill").display().to_string();
    fails(&output, &["cannot put experts into a file", &spill, "MOEBIUS_SPILL_DIR"]);
    assert_eq!(names(&place.path("spill")), [""; 0]);

    let nowhere = place.path("file");
    File::create(&nowhere).and_then(|mut file| file.write_all(b"not a directory")).expect("a file");
    let mut command = place.command("tiny", &[&LONG[..], &FEW].concat());
    let output = command.env("MOEBIUS_SPILL_DIR", &nowhere).output().expect("the program starts");
    fails(&output, &["cannot put experts into a file", &nowhere.display().to_string()]);
}

#[test]
fn a_slow_disk_changes_how_long_it_takes_and_nothing_else() {
    let place = Place::new();
    let args = ["-p", "A dog", "-n", "4", "--temp", "0", "--json", FEW[0], FEW[1]];
    let run = |more: &[&str]| -> serde_json::Value {
        let text = place.undisturbed("tiny", &[&args[..], more].concat());
        serde_json::from_str(&text).expect("valid JSON")
    };
    let (fast, slow) = (run(&[]), run(&["--fetch-limit", "20MB", "--no-prefetch"]));
    assert_eq!((&fast["ids"], &fast["logprobs"]), (&slow["ids"], &slow["logprobs"]));
    let number = |name: &str| slow["meter"]["fetches"][name].as_f64().expect(name);
    assert!(number("fetched_bytes") > 1e6, "{slow}");
    // The last reads may still be awaited when the first have been computed.
    assert!(number("stall_ms") > 0.5 * 1e3 * number("fetched_bytes") / 20e6, "{slow}");
}
