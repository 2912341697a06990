//! `cargo xtask ci --only fuzz`: every target of `fuzz/` for a few seconds, where `cargo-fuzz` is installed.
//!
//! Invariants: targets are the files of `fuzz/fuzz_targets`, each with a folder of seeds; the stable toolchain will do,
//! because no sanitizer is asked for.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::Failure;
use crate::ci::{cargo, cargo_command};

/// How long each target runs, once it is built.
const SECONDS: u32 = 5;
/// An input that takes longer hangs.
const TIMEOUT_SECONDS: u32 = 5;

/// Runs the targets one after another.
///
/// # Errors
/// A target that does not build, or an input that makes one fail.
pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    let mut probe = cargo_command(root);
    probe.args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        println!("skipped: `cargo-fuzz` is not installed (`cargo install cargo-fuzz --locked`)");
        return Ok(());
    }
    for target in targets(root)? {
        let (corpus, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
        fs::create_dir_all(root.join(&corpus)).map_err(|error| {
            Failure::new(format!("cannot make `{corpus}`: {error}"), "is the folder writable?")
        })?;
        let limits = format!("-max_total_time={SECONDS} -timeout={TIMEOUT_SECONDS} -verbosity=0");
        cargo(root, &format!("fuzz run -s none {target} {corpus} {seeds} -- {limits}"), &[])?;
    }
    Ok(())
}

/// The names of the targets, sorted.
fn targets(root: &Path) -> Result<Vec<String>, Failure> {
    let folder = root.join("fuzz/fuzz_targets");
    let unreadable =
        |error| Failure::new(format!("cannot read `{}`: {error}", folder.display()), "is it there?");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(String::from));
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace_root;

    #[test]
    fn every_target_is_a_program_of_the_package_and_has_seeds() {
        let root = workspace_root();
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).expect("it is there");
        let targets = targets(root).expect("they are there");
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
        for target in targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
            let seeds = root.join("fuzz/seeds").join(&target);
            assert!(fs::read_dir(seeds).is_ok_and(|mut seeds| seeds.next().is_some()), "{target}");
        }
    }
}
