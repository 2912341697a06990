//! Changed files of a model are refused or harmless: no panic, no hang, no memory beyond what they are worth.
//!
//! `MOEBIUS_MUTATIONS` says how many inputs each test tries; without it a few thousand, always the same.

mod mutate;
#[path = "../support/mod.rs"]
mod support;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use moebius::{ConvertOptions, OpenOptions, convert, inspect};
use peak_alloc::PeakAlloc;
use support::{Scratch, golden};

use mutate::Mutator;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Tests measure the memory of the whole program, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Inputs of a test, unless told otherwise.
const INPUTS: usize = 2500;
/// Longest time for one input.
const LIMIT: Duration = Duration::from_secs(1);
/// Memory beyond what the whole file takes, as a multiple of the changed file's bytes.
const TIMES_FILE: usize = 4;
/// What smaller files count as.
const SMALL_BYTES: usize = 64 << 10;
/// What configurations count as: a number in them may ask for many thousand layers or experts, each of which is planned.
const CONFIG_BYTES: usize = 16 << 20;

const SAFETENSORS: &str = "model.safetensors";

/// Opens a directory; whether it was accepted, and the most memory that took.
fn open(scratch: &Scratch) -> (bool, usize) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let accepted = inspect(scratch.path(), &OpenOptions::default()).is_ok();
    (accepted, MEMORY.peak_usage() - before)
}

/// Opens changed forms of `file`, which counts as `worth` bytes at least; the first `head` bytes of it are changed most.
/// `mend` may make a changed file look whole.
fn check(
    scratch: &Scratch,
    (file, worth): (&str, usize),
    head: usize,
    mend: impl Fn(&mut Mutator, &mut Vec<u8>),
) {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let whole = scratch.read(file);
    let (accepted, usual_bytes) = open(scratch);
    assert!(accepted, "the unchanged {file} is refused");
    let inputs = std::env::var("MOEBIUS_MUTATIONS").map_or(INPUTS, |count| count.parse().expect("a number"));
    let mut refused = 0;
    for seed in 0..inputs as u64 {
        let mut mutator = Mutator::new(seed);
        let mut bytes = whole.clone();
        mutator.change(&mut bytes, head);
        mend(&mut mutator, &mut bytes);
        scratch.write(file, &bytes);
        let (mut accepted, mut peak_bytes) = (true, 0);
        // A busy machine may hold up one attempt; an input that hangs does so every time.
        let in_time = (0..3).any(|_| {
            let start = Instant::now();
            (accepted, peak_bytes) = open(scratch);
            start.elapsed() < LIMIT
        });
        assert!(in_time, "{file} with changes {seed} takes longer than {LIMIT:?}");
        let most = usual_bytes + TIMES_FILE * bytes.len().max(worth);
        assert!(peak_bytes <= most, "{file} with changes {seed}: {peak_bytes} bytes in memory, not {most}");
        refused += usize::from(!accepted);
    }
    // Changes that nobody notices would prove nothing.
    assert!(refused > inputs / 4, "{refused} of {inputs} were refused");
}

fn header_end(file: &[u8]) -> usize {
    8 + u64::from_le_bytes(*file.first_chunk().expect("a length")) as usize
}

/// Checks a model whose weights are in one file. Half of the inputs get a length that fits the changed header, so that
/// what follows is read too.
fn check_safetensors(scratch: &Scratch) {
    let whole = scratch.read(SAFETENSORS);
    let (head, len) = (header_end(&whole), whole.len());
    check(scratch, (SAFETENSORS, SMALL_BYTES), head, |mutator, bytes| {
        let grown = bytes.len() as i64 - len as i64;
        let length = (head as i64 - 8 + grown).max(0) as u64;
        if mutator.below(2) == 0 && bytes.len() > 8 {
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
    });
}

#[test]
fn changed_safetensors_are_refused_or_harmless() {
    check_safetensors(&Scratch::of("qwen3_moe_v5_window"));
}

#[test]
fn changed_safetensors_with_scales_are_refused_or_harmless() {
    check_safetensors(&Scratch::of("gpt_oss_mxfp4"));
}

#[test]
fn changed_packed_weights_are_refused_or_harmless() {
    let parent = tempfile::tempdir().expect("a directory");
    let target: PathBuf = parent.path().join("packed");
    let options = ConvertOptions { format: "q4_0".parse().expect("a format"), ..ConvertOptions::default() };
    let converted =
        convert(golden("qwen3_moe_v5_window"), &target, &options, &mut |_, _| ControlFlow::Continue(()));
    converted.expect("converts").expect("nobody stopped it");
    let scratch = Scratch::of("qwen3_moe_v5_window");
    scratch.write(SAFETENSORS, std::fs::read(target.join(SAFETENSORS)).expect("it was written"));
    check_safetensors(&scratch);
}

#[test]
fn changed_indices_are_refused_or_harmless() {
    let scratch = Scratch::of("granitemoe_v5_llama3_shards");
    check(&scratch, ("model.safetensors.index.json", SMALL_BYTES), usize::MAX, |_, _| {});
}

#[test]
fn changed_configurations_are_refused_or_harmless() {
    for name in ["qwen3_moe_v5_window", "gpt_oss_mxfp4"] {
        check(&Scratch::of(name), ("config.json", CONFIG_BYTES), usize::MAX, |_, _| {});
    }
}
