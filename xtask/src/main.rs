//! `cargo xtask TASK`: the project's chores, with nothing to install beyond the Rust toolchain.
#![forbid(unsafe_code)]

mod ci;
mod fuzz;
mod gpu;
mod licenses;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

const HELP: &str = "\
The chores of the project.

Usage: cargo xtask TASK

Tasks:
  ci         Everything that a change must pass, in order; stops at the first failure
             --only STEP  run that step alone, --skip STEP  leave one out (repeatable)
             Steps: fmt, tidy, clippy, licenses, deny, doc, emulated, test
             Steps: fmt, tidy, clippy, licenses, deny, doc, fuzz, test
  tidy       Prove the crate arrows and the invariants of ARCHITECTURE.md, list every finding
  licenses   Check licence and source of every dependency against deny.toml
  gpu        Compile the CUDA kernels; with a GPU, run the CUDA backend on it; write docs/gpu.md
  help       Print this list";

/// What went wrong, and what to try next.
#[derive(Debug)]
struct Failure {
    error: String,
    hint: String,
}

impl Failure {
    fn new(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { error: error.into(), hint: hint.into() }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}\n\nhint: {}", failure.error, failure.hint);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<(), Failure> {
    let root = workspace_root();
    let (task, rest) = match args.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("help", args),
    };
    match (task, rest) {
        ("ci", options) => ci::run(root, options),
        ("tidy", []) => tidy::run(root),
        ("gpu", []) => gpu::run(root),
        ("licenses", []) => licenses::run(root),
        ("help" | "--help" | "-h", _) => {
            println!("{HELP}");
            Ok(())
        }
        _ => Err(Failure::new(
            format!("unknown task or option in `cargo xtask {}`", args.join(" ")),
            "`cargo xtask --help` lists the tasks",
        )),
    }
}

/// The folder of the workspace's `Cargo.toml`: the parent of this package.
fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace root")
}
