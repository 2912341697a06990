//! `cargo xtask ci`: every check of a change, cheapest first, stopping at the first failure.
//!
//! Invariants: documentation follows clippy because both need the dependencies' metadata only; the tests,
//! which alone compile the dependencies to machine code, come last; no step sets `RUSTFLAGS`, which would
//! compile everything anew.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{Failure, fuzz, licenses, tidy};

/// What a user types to run the tests: the README's words, `.ci/run`'s words and the `test` step.
pub(crate) const TEST_COMMAND: &str = "cargo test --workspace";

/// Runs the kernels of the CUDA backend thread by thread.
const EMULATED_COMMAND: &str =
    "test --workspace --features moebius/emulated,moebius/nvml --test emulated --test routing --test wide";

type Run = fn(&Path) -> Result<(), Failure>;

const STEPS: [(&str, Run); 9] = [
    ("fmt", |root| cargo(root, "fmt --all --check", &[])),
    ("tidy", tidy::run),
    ("clippy", |root| cargo(root, "clippy --workspace --all-targets --locked -- -D warnings", &[])),
    ("licenses", licenses::run),
    ("deny", deny),
    ("doc", |root| cargo(root, "doc --workspace --no-deps --locked", &[("RUSTDOCFLAGS", "-D warnings")])),
    ("emulated", emulated),
    ("fuzz", fuzz::run),
    ("test", |root| cargo(root, TEST_COMMAND.trim_start_matches("cargo "), &[])),
];

/// Runs the steps that `options` (`--only STEP`, `--skip STEP`) select.
///
/// # Errors
/// An option that is not understood, or the first step that fails.
pub(crate) fn run(root: &Path, options: &[String]) -> Result<(), Failure> {
    let whole = Instant::now();
    for (name, step) in select(options)? {
        println!("==> {name}");
        let start = Instant::now();
        step(root).map_err(|failure| {
            Failure::new(
                format!("step `{name}` failed: {}", failure.error),
                format!("{}; `cargo xtask ci --only {name}` runs this step again", failure.hint),
            )
        })?;
        println!("<== {name} {:.1} s", start.elapsed().as_secs_f64());
    }
    println!("all green in {:.1} s", whole.elapsed().as_secs_f64());
    Ok(())
}

/// The steps to run, in their fixed order.
fn select(options: &[String]) -> Result<Vec<(&'static str, Run)>, Failure> {
    let usage = "expected `--only STEP` or `--skip STEP`; `cargo xtask --help` lists the steps";
    let mut only = Vec::new();
    let mut skip = Vec::new();
    for pair in options.chunks(2) {
        let [flag, step] = pair else {
            return Err(Failure::new(format!("`{}` needs a step", pair[0]), usage));
        };
        if !STEPS.iter().any(|(name, _)| name == step) {
            return Err(Failure::new(format!("unknown step `{step}`"), usage));
        }
        match flag.as_str() {
            "--only" => only.push(step),
            "--skip" => skip.push(step),
            _ => return Err(Failure::new(format!("unknown option `{flag}`"), usage)),
        }
    }
    let chosen =
        |name: &str| (only.is_empty() || only.iter().any(|s| *s == name)) && !skip.iter().any(|s| *s == name);
    Ok(STEPS.into_iter().filter(|(name, _)| chosen(name)).collect())
}

/// A `cargo` command in the workspace, with the toolchain that runs this program.
pub(crate) fn cargo_command(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

pub(crate) fn cargo(root: &Path, line: &str, vars: &[(&str, &str)]) -> Result<(), Failure> {
    let prefix: String = vars.iter().map(|(key, value)| format!("{key}=\"{value}\" ")).collect();
    println!("$ {prefix}cargo {line}");
    let mut command = cargo_command(root);
    command.args(line.split(' ')).envs(vars.iter().copied());
    let status = command.status().map_err(|err| {
        Failure::new(format!("`cargo` does not start: {err}"), "is the Rust toolchain installed?")
    })?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("`cargo {line}` ended with {status}"), format!("rerun `{prefix}cargo {line}`")))
}

/// The CUDA backend on its emulator, where there is a C++ compiler. All of the workspace is named so that the
/// dependencies are those of the `test` step.
fn emulated(root: &Path) -> Result<(), Failure> {
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let mut probe = Command::new(&compiler);
    probe.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        println!("skipped: there is no C++ compiler (`{}`)", compiler.display());
        return Ok(());
    }
    cargo(root, EMULATED_COMMAND, &[])
}

/// `cargo deny` where it is installed: it adds advisories and duplicate bans to the `licenses` step.
fn deny(root: &Path) -> Result<(), Failure> {
    let mut probe = cargo_command(root);
    probe.args(["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        println!("skipped: `cargo-deny` is not installed (`cargo install cargo-deny --locked`)");
        return Ok(());
    }
    if advisory_database().is_some_and(|path| path.is_dir()) {
        return cargo(root, "deny --offline check advisories licenses bans sources", &[]);
    }
    println!("advisories skipped: no database on this machine (`cargo deny fetch db` gets it)");
    cargo(root, "deny --offline check licenses bans sources", &[])
}

/// Where `cargo deny` keeps its advisory databases unless deny.toml says otherwise.
fn advisory_database() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")))?;
    Some(home.join("advisory-dbs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(options: &[&str]) -> Result<Vec<&'static str>, String> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let steps = select(&options).map_err(|failure| failure.error)?;
        Ok(steps.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn without_options_every_step_runs_and_the_tests_come_last() {
        let all = names(&[]).expect("no option is valid");
        assert_eq!(all.len(), STEPS.len());
        assert_eq!(all.last(), Some(&"test"));
    }

    #[test]
    fn only_and_skip_choose_steps_in_the_fixed_order() {
        assert_eq!(names(&["--only", "tidy", "--only", "fmt"]), Ok(vec!["fmt", "tidy"]));
        let skipped = names(&["--skip", "test"]).expect("`test` is a step");
        assert!(!skipped.contains(&"test") && skipped.len() == STEPS.len() - 1);
    }

    #[test]
    fn options_that_are_not_understood_are_named() {
        assert_eq!(names(&["--only"]), Err("`--only` needs a step".to_owned()));
        assert_eq!(names(&["--only", "lint"]), Err("unknown step `lint`".to_owned()));
        assert_eq!(names(&["--fast", "fmt"]), Err("unknown option `--fast`".to_owned()));
    }
}
