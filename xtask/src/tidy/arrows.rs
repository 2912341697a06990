//! The crate arrows: who may depend on whom, as a table, and the manifests held against it.
//!
//! Invariants: every package below the root has one row; a row may name crates that are not written yet; a
//! renamed dependency counts as the package it stands for.

use toml::{Table, Value};

use super::Finding;
use super::source::{File, Tree, line_at};

/// What a package may depend on.
struct Row {
    name: &'static str,
    /// Our own crates, in `[dependencies]` and `[build-dependencies]`.
    may_import: &'static [&'static str],
    /// Our own crates that its tests may use besides.
    tests_may_import: &'static [&'static str],
    /// Everybody else's crates.
    others: Others,
}

enum Others {
    /// A leaf: these and no others; its tests may use more, but not candle.
    Only(&'static [&'static str]),
    /// Anything but these.
    Never(&'static [&'static str]),
}

const ROUTER: &str = "moebius-router";
const KERNELS: &str = "moebius-expert-kernels";
const METERING: &str = "moebius-metering";
const BACKEND: &str = "moebius-backend";
const CPU: &str = "moebius-backend-cpu";
const CUDA: &str = "moebius-backend-cuda";
const CONSTRAINED: &str = "moebius-backend-constrained";
const MODEL: &str = "moebius-model";
const ENGINE: &str = "moebius-engine";
const FACADE: &str = "moebius";
const SERVER: &str = "moebius-server";
const CONFORMANCE: &str = "moebius-conformance";

/// Text, templates, command lines and HTTP belong to the facade and the edges above it.
const NO_EDGES: Others = Others::Never(&[
    "axum",
    "clap",
    "hyper",
    "minijinja",
    "minijinja-contrib",
    "reqwest",
    "tokenizers",
    "tokio",
    "ureq",
]);
/// What the engine may not know: the edges, and files.
const NO_EDGES_NO_FILES: Others = Others::Never(&[
    "axum",
    "clap",
    "hyper",
    "memmap2",
    "minijinja",
    "minijinja-contrib",
    "reqwest",
    "safetensors",
    "tokenizers",
    "tokio",
    "ureq",
]);
/// The edges see the facade and no tensors.
const NO_TENSORS: Others = Others::Never(&["candle-core", "candle-nn", "tokenizers"]);
const ANY: Others = Others::Never(&[]);

#[rustfmt::skip]
const ROWS: [Row; 17] = [
    Row { name: ROUTER, may_import: &[], tests_may_import: &[], others: Others::Only(&[]) },
    Row { name: KERNELS, may_import: &[], tests_may_import: &[], others: Others::Only(&["half", "rayon"]) },
    Row { name: METERING, may_import: &[], tests_may_import: &[], others: Others::Only(&["nvml-wrapper"]) },
    Row { name: BACKEND, may_import: &[ROUTER, METERING, KERNELS], tests_may_import: &[], others: NO_EDGES },
    Row { name: CPU, may_import: &[BACKEND, ROUTER, KERNELS, METERING], tests_may_import: &[CONFORMANCE], others: NO_EDGES },
    Row { name: CUDA, may_import: &[BACKEND, ROUTER, KERNELS, METERING], tests_may_import: &[CONFORMANCE], others: NO_EDGES },
    Row { name: CONSTRAINED, may_import: &[BACKEND, ROUTER, KERNELS, METERING], tests_may_import: &[CONFORMANCE, CPU], others: NO_EDGES },
    Row { name: MODEL, may_import: &[BACKEND, ROUTER, METERING], tests_may_import: &[], others: NO_EDGES },
    Row { name: ENGINE, may_import: &[MODEL, BACKEND, METERING], tests_may_import: &[], others: NO_EDGES_NO_FILES },
    Row { name: FACADE, may_import: &[ENGINE, MODEL, BACKEND, CPU, CUDA, CONSTRAINED, ROUTER, KERNELS, METERING], tests_may_import: &[], others: Others::Never(&["clap", "axum"]) },
    Row { name: SERVER, may_import: &[FACADE, METERING], tests_may_import: &[], others: NO_TENSORS },
    Row { name: "moebius-cli", may_import: &[FACADE, SERVER], tests_may_import: &[], others: NO_TENSORS },
    Row { name: CONFORMANCE, may_import: &[BACKEND, ROUTER, METERING], tests_may_import: &[], others: NO_EDGES },
    Row { name: "moebius-examples", may_import: &[FACADE, BACKEND, ROUTER, METERING, KERNELS], tests_may_import: &[CONFORMANCE, MODEL, ENGINE], others: ANY },
    Row { name: "moebius-benches", may_import: &[FACADE, BACKEND, ROUTER, METERING, KERNELS], tests_may_import: &[], others: ANY },
    Row { name: "moebius-fuzz", may_import: &[FACADE], tests_may_import: &[], others: ANY },
    Row { name: "xtask", may_import: &[], tests_may_import: &[], others: NO_TENSORS },
];

/// Holds every manifest below the root against its row.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let aliases = workspace_aliases(tree);
    let manifests = tree.files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    manifests.flat_map(|file| Manifest { file, aliases: &aliases }.check()).collect()
}

/// `[workspace.dependencies]`, where an alias may stand for another package.
fn workspace_aliases(tree: &Tree) -> Table {
    let root = tree.file("Cargo.toml").and_then(|file| file.text.parse::<Table>().ok());
    let dependencies =
        root.and_then(|mut root| root.get_mut("workspace")?.get("dependencies")?.as_table().cloned());
    dependencies.unwrap_or_default()
}

struct Manifest<'a> {
    file: &'a File,
    aliases: &'a Table,
}

impl Manifest<'_> {
    fn check(&self) -> Vec<Finding> {
        let manifest: Table = match self.file.text.parse() {
            Ok(table) => table,
            Err(err) => return vec![self.finding("", format!("not TOML: {err}"), "correct the manifest")],
        };
        let name = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
        let name = name.unwrap_or_default();
        let mut out = self.habits(&manifest, name);
        let Some(row) = ROWS.iter().find(|row| row.name == name) else {
            let hint = "decide what it may import and add a row to `xtask/src/tidy/arrows.rs`";
            out.push(self.finding("name", format!("package `{name}` has no row of arrows"), hint));
            return out;
        };
        for (section, alias, value) in dependencies(&manifest) {
            let package = self.package_of(alias, value);
            if let Some(reason) = row.objection(&package, section == "dev-dependencies") {
                let what = format!("`{name}` may not have `{package}` in `[{section}]`: {reason}");
                let hint =
                    "move the code to a crate that may, or move the wall in ARCHITECTURE.md and the table";
                out.push(self.finding(alias, what, hint));
            }
        }
        out
    }

    /// What every manifest has in common.
    fn habits(&self, manifest: &Table, name: &str) -> Vec<Finding> {
        let mut out = Vec::new();
        let inherits = |lints: &Value| lints.get("workspace").and_then(Value::as_bool) == Some(true);
        if !manifest.get("lints").is_some_and(inherits) {
            let what = format!("`{name}` does not inherit the workspace's lints");
            out.push(self.finding("", what, "add `[lints]` with `workspace = true`"));
        }
        if self.file.crate_name().is_some_and(|folder| folder != name) {
            let what = format!("package `{name}` does not have its folder's name");
            out.push(self.finding("name", what, "folder and crate share one name"));
        }
        if name == MODEL && manifest.contains_key("features") {
            let what = format!("`{name}` has cargo features");
            out.push(self.finding("[features]", what, "what a device needs belongs to its backend"));
        }
        out
    }

    /// The package that a dependency key stands for, here or in the workspace.
    fn package_of(&self, alias: &str, value: &Value) -> String {
        let renamed = |value: &Value| value.get("package").and_then(Value::as_str).map(str::to_owned);
        let inherited = || self.aliases.get(alias).and_then(renamed);
        renamed(value).or_else(inherited).unwrap_or_else(|| alias.to_owned())
    }

    /// A finding at the first line that starts with `key`.
    fn finding(&self, key: &str, what: String, hint: &str) -> Finding {
        let text = &self.file.text;
        let at = text.lines().position(|line| line.trim_start().starts_with(key));
        let line = if key.is_empty() { line_at(text, 0) } else { at.map_or(1, |at| at + 1) };
        Finding { path: self.file.path.clone(), line, rule: "arrows", what, hint: hint.to_owned() }
    }
}

impl Row {
    /// Why the package may not have this dependency.
    fn objection(&self, package: &str, for_tests: bool) -> Option<String> {
        if ROWS.iter().any(|row| row.name == package) || package.starts_with("moebius") {
            let allowed = self.may_import.contains(&package)
                || for_tests && (self.tests_may_import.contains(&package) || package == self.name);
            return (!allowed).then(|| format!("its arrows are [{}]", self.may_import.join(", ")));
        }
        match self.others {
            Others::Only(_) if for_tests => {
                package.starts_with("candle").then(|| "a leaf knows no tensors".to_owned())
            }
            Others::Only(list) => {
                (!list.contains(&package)).then(|| format!("a leaf depends on [{}] only", list.join(", ")))
            }
            Others::Never(list) => {
                (list.contains(&package) && !for_tests).then(|| "it is another layer's business".to_owned())
            }
        }
    }
}

/// Every dependency as (section, key, value), target-specific ones included.
fn dependencies(manifest: &Table) -> Vec<(&'static str, &str, &Value)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let tables = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    let mut out = Vec::new();
    for table in std::iter::once(manifest).chain(tables) {
        for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let entries = table.get(section).and_then(Value::as_table).into_iter().flatten();
            out.extend(entries.map(|(key, value)| (section, key.as_str(), value)));
        }
    }
    out
}
