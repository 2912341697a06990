//! The invariants of the code itself: which crate may name what, as a table, and where `unsafe` may stand.

use super::Finding;
use super::source::{File, Rust, Tree};
use super::syntax::{self, PathUse, Token};

/// Names that some crates may not use in code that ships.
struct Rule {
    name: &'static str,
    crates: Crates,
    /// Matched against consecutive path segments; `*` ends a prefix, `!` a macro, a leading `.` a method.
    names: &'static [&'static str],
    hint: &'static str,
}

enum Crates {
    Only(&'static [&'static str]),
    Except(&'static [&'static str]),
}

const LEAVES: &[&str] = &["moebius-router", "moebius-expert-kernels", "moebius-metering"];
const BACKENDS: &[&str] = &["moebius-backend-cpu", "moebius-backend-cuda", "moebius-backend-constrained"];

const RULES: [Rule; 10] = [
    Rule {
        name: "leaf-candle",
        crates: Crates::Only(LEAVES),
        names: &["candle*"],
        hint: "a leaf works on slices; let a backend convert tensors",
    },
    Rule {
        name: "leaf-io",
        crates: Crates::Only(LEAVES),
        names: &["std::fs", "std::env", "std::net", "std::io", "std::process"],
        hint: "a leaf is a pure function of its arguments; let the caller read and pass the value",
    },
    Rule {
        name: "print",
        crates: Crates::Except(&["moebius-cli", "moebius-server"]),
        names: &["println!", "print!", "eprintln!", "eprint!"],
        hint: "return the value or an error; the command line alone prints",
    },
    Rule {
        name: "model-device",
        crates: Crates::Only(&["moebius-model"]),
        names: &[
            "Device::Cpu",
            "Device::Cuda",
            "Device::Metal",
            "Device::new_cuda*",
            "Device::new_metal*",
            "Device::cuda_if_available",
            ".is_cuda",
            ".is_metal",
            "DeviceLocation",
        ],
        hint: "ask the backend: `Backend::info` has the device, `Ops` hides which one it is",
    },
    Rule {
        name: "backend-name",
        crates: Crates::Except(&["moebius"]),
        names: &["moebius_backend_*"],
        hint: "take a `&dyn Backend`; only the facade chooses one",
    },
    Rule {
        name: "backend-layers",
        crates: Crates::Only(BACKENDS),
        names: &["moebius_model", "moebius_engine"],
        hint: "a backend knows the contract of `moebius-backend` and nothing above it",
    },
    Rule {
        name: "engine-ids-only",
        crates: Crates::Only(&["moebius-engine"]),
        names: &["std::fs", "std::net", "std::io", "tokenizers", "minijinja", "memmap2", "safetensors"],
        hint: "the engine sees token ids; text, files and HTTP belong to the facade and above",
    },
    Rule {
        name: "environment",
        crates: Crates::Except(&["moebius"]),
        names: &["env::var*", "env::set_var", "env::remove_var", "option_env!"],
        hint: "the facade reads the environment and passes a value; a flag declares its variable to clap",
    },
    Rule {
        name: "unwrap",
        crates: Crates::Except(&[]),
        names: &[".unwrap", "Option::unwrap", "Result::unwrap"],
        hint: "return an error, or state the invariant with `expect(\"…\")`",
    },
    Rule {
        name: "unfinished",
        crates: Crates::Except(&[]),
        names: &["todo!", "unimplemented!", "dbg!"],
        hint: "finish it or leave it out",
    },
];

/// The one file outside the kernels and CUDA that maps memory.
const MMAP: &str = "crates/moebius-model/src/checkpoint/mmap.rs";
/// Below these `unsafe` may stand.
const UNSAFE_PLACES: [&str; 3] =
    ["crates/moebius-expert-kernels/src/arch/", "crates/moebius-backend-cuda/", MMAP];
/// Their roots deny `unsafe` and allow it in one place; all others forbid it.
const DENYING: [&str; 3] = ["moebius-expert-kernels", "moebius-model", "moebius-backend-cuda"];

/// Applies every rule to every Rust file.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut out = Vec::new();
    for (file, rust) in tree.rust() {
        let code = syntax::tokens(&rust.code);
        if file.in_src() {
            let production = syntax::tokens(&rust.production);
            names(file, &production, &mut out);
        }
        features(file, &code, &mut out);
        unsafety(file, &code, &mut out);
        crate_root(file, rust, &mut out);
        tests(file, rust, &code, &mut out);
    }
    out.extend(allowed_twice(tree));
    out
}

fn finding(file: &File, line: usize, rule: &'static str, what: String, hint: &str) -> Finding {
    Finding { path: file.path.clone(), line, rule, what, hint: hint.to_owned() }
}

fn names(file: &File, tokens: &[Token<'_>], out: &mut Vec<Finding>) {
    let name = file.crate_name().expect("the caller looks at crates only");
    let paths = syntax::paths(tokens);
    for rule in &RULES {
        let applies = match rule.crates {
            Crates::Only(list) => list.contains(&name),
            Crates::Except(list) => !list.contains(&name),
        };
        for path in paths.iter().filter(|path| applies && rule.names.iter().any(|name| path.matches(name))) {
            let what = format!("`{name}` may not name `{}`", path.segments.join("::"));
            out.push(finding(file, path.line, rule.name, what, rule.hint));
        }
    }
    if name == "moebius-backend" {
        let only_format = |path: &&PathUse| {
            path.matches("moebius_expert_kernels")
                && !["WeightFormat", "ForeignFormat"].iter().any(|name| path.matches(name))
        };
        for path in paths.iter().filter(only_format) {
            let what = format!("`{name}` may not name `{}`", path.segments.join("::"));
            let hint =
                "the contract shares `WeightFormat` and `ForeignFormat` with the kernels and nothing else";
            out.push(finding(file, path.line, "kernels-format", what, hint));
        }
    }
}

/// Cargo features add items; they never choose between two ways, and the model knows none.
fn features(file: &File, tokens: &[Token<'_>], out: &mut Vec<Finding>) {
    for cfg in syntax::feature_cfgs(tokens) {
        let (what, hint) = if cfg.is_expression {
            ("`cfg!` with a cargo feature chooses a path", "decide by a value that is passed in")
        } else if cfg.is_negated {
            ("`not(feature)` takes code away", "a feature only adds; decide by a value that is passed in")
        } else if file.crate_name() == Some("moebius-model") {
            ("`moebius-model` may not name a cargo feature", "what a device needs belongs to its backend")
        } else {
            continue;
        };
        out.push(finding(file, cfg.line, "feature-path", what.to_owned(), hint));
    }
}

fn unsafety(file: &File, tokens: &[Token<'_>], out: &mut Vec<Finding>) {
    if UNSAFE_PLACES.iter().any(|place| file.path.starts_with(place)) {
        return;
    }
    for token in tokens.iter().filter(|token| token.text == "unsafe") {
        let hint =
            "write it in safe Rust; `unsafe` lives in the kernels' `arch/`, the CUDA crate and `mmap.rs`";
        out.push(finding(file, token.line, "unsafe", "`unsafe` may not stand here".to_owned(), hint));
    }
}

/// `lib.rs` and `main.rs` say at the top what the compiler must refuse.
fn crate_root(file: &File, rust: &Rust, out: &mut Vec<Finding>) {
    if !["/src/lib.rs", "/src/main.rs"].iter().any(|root| file.path.ends_with(root)) {
        return;
    }
    let denies = file.crate_name().is_some_and(|name| DENYING.contains(&name));
    let attribute = if denies { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
    if !rust.code.contains(attribute) {
        let what = format!("the crate's root lacks `{attribute}`");
        out.push(finding(file, 1, "unsafe", what, "add it below the header"));
    }
}

/// The model allows `unsafe` once: for the mapped file.
fn allowed_twice(tree: &Tree) -> Vec<Finding> {
    let in_model = tree.rust().filter(|(file, _)| file.path.starts_with("crates/moebius-model/src/"));
    let allows = in_model.flat_map(|(file, rust)| {
        let lines = rust.code.lines().enumerate();
        let allowed = |line: &str| line.contains("allow(unsafe_code") || line.contains("expect(unsafe_code");
        lines.filter(move |(_, line)| allowed(line)).map(move |(at, _)| (file, at + 1))
    });
    let what = "`moebius-model` allows `unsafe_code` a second time";
    let hint = "the module of `checkpoint/mmap.rs` is the one place";
    allows.skip(1).map(|(file, line)| finding(file, line, "unsafe", what.to_owned(), hint)).collect()
}

/// Tests always run, everywhere, and wait for nothing.
fn tests(file: &File, rust: &Rust, tokens: &[Token<'_>], out: &mut Vec<Finding>) {
    for three in tokens.windows(3) {
        if three[0].text == "#" && three[1].text == "[" && three[2].text == "ignore" {
            let hint = "make the test quick and self-contained, or delete it";
            out.push(finding(file, three[0].line, "ignored-test", "a test is ignored".to_owned(), hint));
        }
    }
    for (at, line) in rust.comments.lines().enumerate() {
        if line.contains("```ignore") {
            let hint = "make it compile, or write ```text";
            out.push(finding(
                file,
                at + 1,
                "ignored-test",
                "a documented example is ignored".to_owned(),
                hint,
            ));
        }
    }
    let production = syntax::tokens(&rust.production);
    let sleeps = |tokens: &[Token<'_>]| -> Vec<usize> {
        let paths = syntax::paths(tokens).into_iter();
        paths.filter(|path| path.matches("thread::sleep")).map(|path| path.line).collect()
    };
    let in_production = sleeps(&production);
    for line in sleeps(tokens).into_iter().filter(|line| !in_production.contains(line)) {
        let hint = "wait for the event itself";
        out.push(finding(file, line, "sleeping-test", "a test sleeps".to_owned(), hint));
    }
}
