//! `cargo xtask licenses`: every dependency may be used, by the allow list that `deny.toml` gives.
//!
//! `cargo deny` reads the same list and knows more, but is not part of the toolchain; this is what every
//! machine can check. An SPDX expression is satisfied when the allowed licences make it true: `OR` needs one
//! side, `AND` both, `A WITH E` an allowed `A WITH E`. The old `A/B` means `A OR B`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use toml::Table;

use crate::Failure;
use crate::ci::cargo_command;

const HINT: &str = "choose another dependency, or discuss the licence and add it to deny.toml";

/// Checks the whole lock file, or what this platform needs of it where the rest was never downloaded.
///
/// # Errors
/// A dependency whose licence or source deny.toml does not allow, or a lock file that is out of date.
pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    let text = fs::read_to_string(root.join("deny.toml"))
        .map_err(|err| Failure::new(format!("`deny.toml` cannot be read: {err}"), "restore the file"))?;
    let policy = Policy::parse(&text).map_err(|err| Failure::new(err, "correct `deny.toml`"))?;
    let metadata = match metadata(root, &[]) {
        Ok(all) => all,
        Err(_) => {
            println!("checking this platform's dependencies only: those of others are not on this machine");
            metadata(root, &["--filter-platform", &host()?])?
        }
    };
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let problems: Vec<String> = packages.iter().filter_map(|package| policy.problem(package)).collect();
    if problems.is_empty() {
        println!("licences and sources of {} packages are allowed", packages.len());
        return Ok(());
    }
    for problem in &problems {
        println!("{problem}");
    }
    Err(Failure::new(format!("{} dependencies are not allowed by deny.toml", problems.len()), HINT))
}

/// The part of deny.toml that needs no further tool.
struct Policy {
    licenses: BTreeSet<String>,
    registries: BTreeSet<String>,
}

impl Policy {
    fn parse(deny_toml: &str) -> Result<Self, String> {
        let table: Table = deny_toml.parse().map_err(|err| format!("`deny.toml` is not TOML: {err}"))?;
        let list = |section: &str, key: &str| -> Result<BTreeSet<String>, String> {
            let values = table.get(section).and_then(|s| s.get(key)).and_then(|v| v.as_array());
            let values = values.ok_or_else(|| format!("`deny.toml` lacks `{key}` in `[{section}]`"))?;
            Ok(values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect())
        };
        Ok(Self { licenses: list("licenses", "allow")?, registries: list("sources", "allow-registry")? })
    }

    /// Why `package` (of `cargo metadata`) may not be used. Our own packages have no source and always may.
    fn problem(&self, package: &Value) -> Option<String> {
        let source = package["source"].as_str()?;
        let label = format!(
            "`{}` {}",
            package["name"].as_str().unwrap_or("?"),
            package["version"].as_str().unwrap_or("?")
        );
        let registry = source.strip_prefix("registry+").unwrap_or(source);
        if !self.registries.contains(registry) {
            return Some(format!("{label}: source `{source}` is not in `allow-registry`"));
        }
        let Some(expression) = package["license"].as_str() else {
            return Some(format!("{label}: states no SPDX licence"));
        };
        match satisfied(expression, &self.licenses) {
            Ok(true) => None,
            Ok(false) => Some(format!("{label}: licence `{expression}` is not allowed")),
            Err(err) => Some(format!("{label}: licence `{expression}`: {err}")),
        }
    }
}

fn metadata(root: &Path, extra: &[&str]) -> Result<Value, Failure> {
    let mut command = cargo_command(root);
    command.args(["metadata", "--offline", "--locked", "--format-version", "1"]).args(extra);
    let json = stdout_of(&mut command)?;
    serde_json::from_str(&json).map_err(|err| {
        Failure::new(format!("`cargo metadata` printed no JSON: {err}"), "update the toolchain")
    })
}

/// The target triple of this machine, as rustc spells it.
fn host() -> Result<String, Failure> {
    let version = stdout_of(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| Failure::new("`rustc -vV` names no host", "update the toolchain"))
}

fn stdout_of(command: &mut Command) -> Result<String, Failure> {
    let label = format!("{command:?}").replace('"', "");
    let hint = "`cargo fetch` brings the lock file up to date and downloads what it names";
    let output =
        command.output().map_err(|err| Failure::new(format!("`{label}` does not start: {err}"), hint))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("`{label}` failed: {}", stderr.trim()), hint));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the allowed licences make the SPDX `expression` true.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, allowed };
    let value = parser.any_of()?;
    match parser.words {
        [] => Ok(value),
        [rest, ..] => Err(format!("unexpected `{rest}`")),
    }
}

/// Recursive descent over `any_of := all_of (OR all_of)*`, `all_of := one (AND one)*`.
struct Parser<'a> {
    words: &'a [&'a str],
    allowed: &'a BTreeSet<String>,
}

impl Parser<'_> {
    fn any_of(&mut self) -> Result<bool, String> {
        let mut value = self.all_of()?;
        while self.take("OR") {
            value |= self.all_of()?;
        }
        Ok(value)
    }

    fn all_of(&mut self) -> Result<bool, String> {
        let mut value = self.one()?;
        while self.take("AND") {
            value &= self.one()?;
        }
        Ok(value)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.take("(") {
            let value = self.any_of()?;
            return if self.take(")") { Ok(value) } else { Err("expected `)`".to_owned()) };
        }
        let mut name = self.word()?.to_owned();
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.word()?);
        }
        Ok(self.allowed.contains(&name))
    }

    fn word(&mut self) -> Result<&str, String> {
        match self.words {
            [word, rest @ ..] if !["OR", "AND", "WITH", "(", ")"].contains(word) => {
                self.words = rest;
                Ok(word)
            }
            [word, ..] => Err(format!("expected a licence, got `{word}`")),
            [] => Err("expected a licence, got the end".to_owned()),
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DENY: &str = r#"
        licenses.allow = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]
        sources.allow-registry = ["https://github.com/rust-lang/crates.io-index"]
    "#;

    fn problem(source: Value, license: Value) -> Option<String> {
        let policy = Policy::parse(DENY).expect("the sample is valid");
        policy.problem(&json!({ "name": "dep", "version": "1.2.3", "source": source, "license": license }))
    }

    fn from_registry(license: &str) -> Option<String> {
        problem(json!("registry+https://github.com/rust-lang/crates.io-index"), json!(license))
    }

    #[test]
    fn expressions_are_true_exactly_when_the_allow_list_satisfies_them() {
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT", true),
            ("GPL-3.0-only/MIT", true),
            ("MIT AND GPL-3.0-only", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("GPL-3.0-only OR MIT AND Zlib", false),
            ("(GPL-3.0-only OR MIT) AND (Zlib OR Unicode-3.0)", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0", false),
        ] {
            assert_eq!(from_registry(expression).is_none(), expected, "{expression}");
        }
    }

    #[test]
    fn broken_expressions_are_problems() {
        for expression in ["", "MIT OR", "(MIT", "MIT Zlib", "AND MIT"] {
            assert!(from_registry(expression).is_some(), "{expression}");
        }
    }

    #[test]
    fn a_package_without_a_licence_is_a_problem() {
        let problem = problem(json!("registry+https://github.com/rust-lang/crates.io-index"), Value::Null);
        assert_eq!(problem.as_deref(), Some("`dep` 1.2.3: states no SPDX licence"));
    }

    #[test]
    fn only_the_registry_that_is_listed_is_a_source() {
        assert!(problem(json!("git+https://example.com/dep#0123"), json!("MIT")).is_some());
        assert!(problem(json!("registry+https://example.com/index"), json!("MIT")).is_some());
    }

    #[test]
    fn packages_of_the_workspace_are_not_dependencies() {
        assert_eq!(problem(Value::Null, Value::Null), None);
    }

    #[test]
    fn a_policy_without_its_lists_is_an_error() {
        assert!(Policy::parse("[licenses]").is_err());
        assert!(Policy::parse("licenses.allow = []").is_err());
    }
}
