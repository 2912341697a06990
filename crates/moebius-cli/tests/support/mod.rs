//! Starting the program and reading its answers.
#![allow(dead_code, unused_imports, reason = "each test file uses a part of this")]

mod made_up;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub(crate) use made_up::MadeUp;

/// A directory below the models of the project.
pub(crate) fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name)
}

/// The model that comes with the project.
pub(crate) fn tiny() -> String {
    model("moebius-tiny").display().to_string()
}

/// The program, out of reach of the caller's environment.
pub(crate) fn moebius(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moebius"));
    let foreign = |name: &str| {
        let prefixes = ["MOEBIUS_", "HF_", "OLLAMA_"];
        prefixes.iter().any(|prefix| name.starts_with(prefix))
            || ["NO_COLOR", "CLICOLOR_FORCE"].contains(&name)
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| foreign(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    // What this user keeps is not to be seen.
    command.env("MOEBIUS_CACHE_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-cache"));
    // Nor is any hub asked, unless a test has one of its own.
    command.env("HF_HUB_OFFLINE", "1");
    command.env("HF_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-hub"));
    command.args(args).stdin(Stdio::null());
    command
}

/// The same command, whose files may have at most this many blocks of 512 bytes: writing more fails as it does on a full
/// disk.
pub(crate) fn with_small_files(command: &Command, blocks: u32) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks} && exec \"$0\" \"$@\"")]);
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

/// What a command prints and how it ends.
pub(crate) fn output(args: &[&str]) -> Output {
    moebius(args).output().expect("the program starts")
}

/// What it printed.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8 on stdout")
}

/// What it said besides.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a command that must succeed prints.
pub(crate) fn succeed(args: &[&str]) -> String {
    let output = output(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// The object that a command that must succeed prints.
pub(crate) fn json(args: &[&str]) -> Value {
    let text = succeed(args);
    assert_eq!(text.lines().count(), 1, "one object on one line");
    serde_json::from_str(&text).expect("valid JSON")
}

/// A command that must fail with this code and say this.
pub(crate) fn fail(args: &[&str], code: i32, message: &str) {
    let output = output(args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(said.contains("error:") && said.contains(message), "{args:?}: {said}");
    assert!(said.contains("hint:"), "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{args:?}: {said}");
}

/// What the program answers to `input` on stdin.
pub(crate) fn piped(args: &[&str], input: &str) -> Output {
    let mut command = moebius(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A program that fails early does not read.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("the program ends")
}
