//! A budget of memory as the system counts it. One test, alone in its program: the count is of all programs that it has
//! started.
#![cfg(target_os = "linux")]

mod support;

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;

use support::{MadeUp, json, succeed};

const BUDGET_BYTES: u64 = 72 << 20;
const IDS: &str = "5,9,60,33,2,17,41,8,25,63,12,50";

/// The most memory that any program which was started and has ended held at once.
fn peak_bytes() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the system counts");
    1024 * u64::try_from(usage.max_rss()).expect("a size")
}

#[test]
fn a_model_larger_than_its_budget_stays_within_it_and_computes_the_same_bits() {
    let dir = tempfile::tempdir().expect("a directory");
    let weights = MadeUp { layers: 4, experts: 64, hidden: 128, intermediate: 256 }.write(dir.path());
    let file_bytes = weights.metadata().expect("a file").len();
    assert!(file_bytes > BUDGET_BYTES + (BUDGET_BYTES >> 2), "{file_bytes}");

    let model = dir.path().display().to_string();
    let dump = |name: &str| dir.path().join(name).display().to_string();
    let (budget, within, whole) = (BUDGET_BYTES / 1024, dump("within"), dump("whole"));
    let memory = format!("{budget}KiB");
    let run = ["run", &model, "--ids", IDS, "-n", "24", "--temp", "0", "--ignore-eos", "--json"];
    let score = ["score", &model, "--ids", IDS, "--dump"];

    let constrained = json(&[&run[..], &["--memory", &memory]].concat());
    let peak = peak_bytes();
    assert!(peak <= BUDGET_BYTES / 20 * 21, "planned {BUDGET_BYTES}, the system counted {peak}");
    let count = |name: &str| constrained["meter"]["fetches"][name].as_u64().expect(name);
    assert!(count("hits") > 0 && count("misses") > 0, "{constrained}");
    // Prompts take another way than generated tokens do.
    succeed(&[&score[..], &[&within, "--memory", &memory]].concat());
    let peak = peak_bytes();
    assert!(peak <= BUDGET_BYTES / 20 * 21, "planned {BUDGET_BYTES}, the system counted {peak}");

    let cpu = json(&run);
    let said = |of: &Value| (of["ids"].clone(), of["logprobs"].clone());
    assert_eq!(said(&constrained), said(&cpu));
    assert_eq!(cpu["ids"].as_array().map(Vec::len), Some(24));
    succeed(&[&score[..], &[&whole]].concat());
    let bytes = |path: &str| std::fs::read(path).expect("a dump");
    assert!(bytes(&within) == bytes(&whole), "logits, hidden states and routing differ");
    assert!(peak_bytes() > file_bytes, "without a budget all of it is in memory");
}
