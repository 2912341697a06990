//! Changed files of a model are refused or harmless: no panic, no hang, no memory beyond what they are worth.
//!
//! `MOEBIUS_MUTATIONS` says how many inputs each test tries; without it a few thousand, always the same.

#[path = "../support/gguf_bytes.rs"]
mod gguf_bytes;
mod mutate;
#[path = "../support/mod.rs"]
mod support;

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moebius::text::Tokenizer;
use moebius::{ConvertOptions, GenerateOptions, OpenOptions, Prompt, convert, inspect};
use peak_alloc::PeakAlloc;
use support::{Scratch, golden};

use gguf_bytes::Words;
use mutate::Mutator;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Tests measure the memory of the whole program, so they take turns, what they prepare included.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

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
const GGUF: &str = "model.gguf";

/// Tells how long the processor worked where the system says so, because a busy machine may hold up anybody. What waits
/// without working makes the test hang.
struct Stopwatch {
    start: Instant,
    worked: Option<Duration>,
}

impl Stopwatch {
    fn start() -> Self {
        Stopwatch { start: Instant::now(), worked: Stopwatch::worked() }
    }

    fn elapsed(&self) -> Duration {
        let worked = self.worked.zip(Stopwatch::worked()).map(|(before, now)| now.saturating_sub(before));
        worked.unwrap_or_else(|| self.start.elapsed())
    }

    /// The time of all threads so far, in Linux's ticks of 10 ms.
    fn worked() -> Option<Duration> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        Some(Duration::from_millis(10 * ticks))
    }
}

/// What is tried: a file in a directory, whose changes are to be noticed when a model is read.
struct Target<'a> {
    scratch: &'a Scratch,
    /// The file that is changed.
    file: &'a str,
    /// What it counts as at least, in bytes.
    worth: usize,
    /// The first bytes of it, which are changed most.
    head: usize,
    /// What is opened.
    model: PathBuf,
    /// Reads it; whether it was accepted.
    read: fn(&Path) -> bool,
}

impl<'a> Target<'a> {
    /// A file of a directory that is looked at without its weights.
    fn new(scratch: &'a Scratch, file: &'a str) -> Self {
        let (head, model) = (usize::MAX, scratch.path().to_owned());
        let read = |model: &Path| inspect(model, &OpenOptions::default()).is_ok();
        Target { scratch, file, worth: SMALL_BYTES, head, model, read }
    }

    /// Whether the model is accepted, and the most memory that took.
    fn open(&self) -> (bool, usize) {
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let accepted = (self.read)(&self.model);
        (accepted, MEMORY.peak_usage() - before)
    }

    /// Opens the model with changed forms of the file. `mend` may make a changed file look whole.
    fn check(&self, mend: impl Fn(&mut Mutator, &mut Vec<u8>)) {
        let Target { scratch, file, worth, head, .. } = *self;
        let whole = scratch.read(file);
        let (accepted, usual_bytes) = self.open();
        assert!(accepted, "the unchanged {file} is refused");
        let inputs = std::env::var("MOEBIUS_MUTATIONS").map_or(INPUTS, |n| n.parse().expect("a number"));
        let mut refused = 0;
        for seed in 0..inputs as u64 {
            let mut mutator = Mutator::new(seed);
            let mut bytes = whole.clone();
            mutator.change(&mut bytes, head);
            mend(&mut mutator, &mut bytes);
            scratch.write(file, &bytes);
            let started = Stopwatch::start();
            let (accepted, peak_bytes) = self.open();
            let in_time = started.elapsed() < LIMIT;
            assert!(in_time, "{file} with changes {seed} takes longer than {LIMIT:?}");
            let most = usual_bytes + TIMES_FILE * bytes.len().max(worth);
            assert!(
                peak_bytes <= most,
                "{file} with changes {seed}: {peak_bytes} bytes in memory, not {most}"
            );
            refused += usize::from(!accepted);
        }
        // Changes that nobody notices would prove nothing.
        assert!(refused > inputs / 4, "{refused} of {inputs} were refused");
    }
}

fn header_end(file: &[u8]) -> usize {
    8 + u64::from_le_bytes(*file.first_chunk().expect("a length")) as usize
}

/// Checks a model whose weights are in one file. Half of the inputs get a length that fits the changed header, so that
/// what follows is read too.
fn check_safetensors(scratch: &Scratch) {
    let whole = scratch.read(SAFETENSORS);
    let (head, len) = (header_end(&whole), whole.len());
    Target { head, ..Target::new(scratch, SAFETENSORS) }.check(|mutator, bytes| {
        let grown = bytes.len() as i64 - len as i64;
        let length = (head as i64 - 8 + grown).max(0) as u64;
        if mutator.below(2) == 0 && bytes.len() > 8 {
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
    });
}

#[test]
fn changed_safetensors_are_refused_or_harmless() {
    let _turn = turn();
    check_safetensors(&Scratch::of("qwen3_moe_v5_window"));
}

#[test]
fn changed_safetensors_with_scales_are_refused_or_harmless() {
    let _turn = turn();
    check_safetensors(&Scratch::of("gpt_oss_mxfp4"));
}

#[test]
fn changed_packed_weights_are_refused_or_harmless() {
    let _turn = turn();
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
    let _turn = turn();
    let scratch = Scratch::of("granitemoe_v5_llama3_shards");
    Target::new(&scratch, "model.safetensors.index.json").check(|_, _| {});
}

#[test]
fn changed_configurations_are_refused_or_harmless() {
    let _turn = turn();
    for name in ["qwen3_moe_v5_window", "gpt_oss_mxfp4"] {
        let scratch = Scratch::of(name);
        Target { worth: CONFIG_BYTES, ..Target::new(&scratch, "config.json") }.check(|_, _| {});
    }
}

/// Changes one to three of the numbers in a header.
fn change_numbers(mutator: &mut Mutator, bytes: &mut [u8], numbers: &[Range<usize>]) {
    for _ in 0..=mutator.below(3) {
        let range = numbers[mutator.below(numbers.len())].clone();
        mutator.put_extreme(&mut bytes[range]);
    }
}

/// Looks at a GGUF file without its weights, at its vocabulary too.
fn look(path: &Path) -> bool {
    inspect(path, &OpenOptions::default()).is_ok() && Tokenizer::from_dir(path).is_ok()
}

/// Checks a GGUF file. Half of the inputs are whole but for some numbers of the header.
fn check_gguf(target: &Target<'_>) {
    let whole = target.scratch.read(target.file);
    let (numbers, head) = gguf_bytes::numbers(&whole);
    Target { head: target.head.min(head), model: target.model.clone(), ..*target }.check(|mutator, bytes| {
        if mutator.below(2) == 0 {
            bytes.clone_from(&whole);
            change_numbers(mutator, bytes, &numbers);
        }
    });
}

fn scratch_with(files: &[(&str, Vec<u8>)]) -> Scratch {
    let scratch = Scratch::empty();
    files.iter().for_each(|(name, bytes)| scratch.write(name, bytes));
    scratch
}

#[test]
fn changed_headers_of_gguf_are_refused_or_harmless() {
    let _turn = turn();
    for words in [Words::Merges, Words::Scores] {
        let scratch = scratch_with(&[(GGUF, gguf_bytes::model(words))]);
        check_gguf(&Target { model: scratch.file(GGUF), read: look, ..Target::new(&scratch, GGUF) });
    }
}

#[test]
fn changed_parts_of_gguf_are_refused_or_harmless() {
    let _turn = turn();
    const NAMES: [&str; 2] = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"];
    let [first, second] = gguf_bytes::parts();
    for name in NAMES {
        let scratch = scratch_with(&[(NAMES[0], first.clone()), (NAMES[1], second.clone())]);
        check_gguf(&Target { model: scratch.file(NAMES[0]), read: look, ..Target::new(&scratch, name) });
    }
}

#[test]
fn changed_weights_of_gguf_are_refused_or_run() {
    let _turn = turn();
    /// Loads the model, and lets it say something.
    fn run(path: &Path) -> bool {
        let Ok(mut model) = support::open(path, &OpenOptions::default()) else { return false };
        let options = GenerateOptions { max_tokens: Some(1), ..GenerateOptions::default() };
        let pieces = model.generate(Prompt::Ids(&[1, 5, 3]), &options);
        // Weights may be so large that a step fails.
        pieces.is_ok_and(|pieces| pieces.into_iter().all(|piece| piece.is_ok()))
    }
    let scratch = scratch_with(&[(GGUF, gguf_bytes::model(Words::Merges))]);
    let (numbers, head) = gguf_bytes::numbers(&scratch.read(GGUF));
    let target = Target { model: scratch.file(GGUF), read: run, ..Target::new(&scratch, GGUF) };
    let whole = scratch.read(GGUF);
    target.check(|mutator, bytes| match mutator.below(4) {
        0 => {}
        1 => {
            bytes.clone_from(&whole);
            change_numbers(mutator, bytes, &numbers);
        }
        _ => {
            bytes.clone_from(&whole);
            for _ in 0..=mutator.below(8) {
                let at = head + mutator.below(whole.len() - head);
                mutator.put_extreme(&mut bytes[at..whole.len().min(at + 4)]);
            }
        }
    });
}
