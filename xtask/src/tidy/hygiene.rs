//! Rules of text: headers, leftovers, machine paths, and the test command that three places must share.

use super::Finding;
use super::source::{File, Tree};
use crate::ci::TEST_COMMAND;

/// Words that promise work instead of doing it.
const LEFTOVERS: [&str; 3] = ["FIXME", "TODO", "XXX"];

/// Folders that exist on one machine only. Split, so that this file passes its own check.
const MACHINE_FOLDERS: [&str; 5] = [
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("../sha", "red/"),
];

/// Data whose words are not ours.
const VOCABULARIES: [&str; 4] = ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"];

/// Applies every rule of text.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut out = Vec::new();
    for file in &tree.files {
        header(file, &mut out);
        leftovers(file, &mut out);
        machine_paths(file, &mut out);
    }
    out.extend(["README.md", ".ci/run"].into_iter().filter_map(|path| test_command(tree, path)));
    out
}

fn finding(path: &str, line: usize, rule: &'static str, what: String, hint: &str) -> Finding {
    Finding { path: path.to_owned(), line, rule, what, hint: hint.to_owned() }
}

fn header(file: &File, out: &mut Vec<Finding>) {
    let ours = file.in_src() || file.path.starts_with("xtask/src/") || file.path.starts_with("examples/");
    if file.rust.is_some() && ours && !file.text.starts_with("//!") {
        let hint = "start with what it is, the maths, `Shapes:` and `Invariants:`";
        out.push(finding(&file.path, 1, "header", "the file has no `//!` header".to_owned(), hint));
    }
}

fn leftovers(file: &File, out: &mut Vec<Finding>) {
    let Some(rust) = &file.rust else { return };
    for (at, line) in rust.comments.lines().enumerate() {
        let words = || line.split(|c: char| !c.is_alphanumeric() && c != '_');
        for word in LEFTOVERS.into_iter().filter(|leftover| words().any(|word| word == *leftover)) {
            let hint = "do it now or open an issue; a comment explains the code as it stands";
            out.push(finding(&file.path, at + 1, "leftover", format!("a comment says `{word}`"), hint));
        }
    }
}

fn machine_paths(file: &File, out: &mut Vec<Finding>) {
    if VOCABULARIES.iter().any(|name| file.path.ends_with(name)) {
        return;
    }
    for (at, line) in file.text.lines().enumerate() {
        for folder in MACHINE_FOLDERS.into_iter().filter(|folder| names_folder(line, folder)) {
            let hint = "write a path relative to the repository, or let the user give it";
            out.push(finding(&file.path, at + 1, "machine-path", format!("the text names `{folder}`"), hint));
        }
    }
}

/// Whether `folder` starts a path here, rather than continuing one.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | '-' | '.' | '~' | '}' | '>' | '$'))
    })
}

/// The README and `.ci/run` give the command that `cargo xtask ci` runs: on a line of its own, or in prose.
fn test_command(tree: &Tree, path: &str) -> Option<Finding> {
    let hint = format!("say `{TEST_COMMAND}`, as `xtask/src/ci.rs` does");
    let Some(file) = tree.file(path) else {
        return Some(finding(path, 1, "test-command", format!("`{path}` does not exist"), &hint));
    };
    let in_prose = path.ends_with(".md") && file.text.contains(&format!("`{TEST_COMMAND}`"));
    let says = |line: &str| {
        let line = line.split('#').next().unwrap_or_default().trim();
        line == TEST_COMMAND || line.strip_prefix("$ ") == Some(TEST_COMMAND)
    };
    if in_prose || file.text.lines().any(says) {
        return None;
    }
    Some(finding(path, 1, "test-command", format!("`{path}` does not give the test command"), &hint))
}
