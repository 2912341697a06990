//! `cargo xtask tidy`: proves the crate arrows and the invariants of ARCHITECTURE.md over a folder.
//!
//! [`check`] reads files and nothing else, so a test can build a small workspace, break one rule and look for
//! the finding. The measures are textual: comments and strings are masked, `use` trees are flattened, braces
//! are matched. That is exact enough for rustfmt's output and needs no parser of Rust.
//!
//! Invariants: every rule reports every breach; a breach that is meant is a row of `xtask/tidy-allow.toml`.

mod allow;
mod arrows;
mod hygiene;
mod rules;
mod sizes;
mod source;
mod syntax;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use crate::Failure;

/// One breach: where it is, what it is, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Relative to the workspace root, with `/` between folders.
    pub(crate) path: String,
    /// Counted from 1.
    pub(crate) line: usize,
    /// The rule's short name, by which the allow-list names it.
    pub(crate) rule: &'static str,
    pub(crate) what: String,
    pub(crate) hint: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} ({}); hint: {}", self.path, self.line, self.what, self.rule, self.hint)
    }
}

/// Lists every finding on stdout.
///
/// # Errors
/// There was a finding, or the workspace could not be read.
pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    let findings = check(root)?;
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        format!("tidy is not clean, findings: {}", findings.len()),
        "each line above ends with its own",
    ))
}

/// Every breach of the rules in the workspace at `root`, in order of path and line.
///
/// # Errors
/// A file or folder cannot be read.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>, Failure> {
    let tree = source::Tree::read(root).map_err(|err| {
        Failure::new(
            format!("`{}` cannot be read: {err}", root.display()),
            "run inside a checkout of the project",
        )
    })?;
    let mut findings = arrows::check(&tree);
    findings.extend(rules::check(&tree));
    findings.extend(hygiene::check(&tree));
    findings.extend(allow::filter(&tree, sizes::check(&tree)));
    findings.sort();
    Ok(findings)
}
