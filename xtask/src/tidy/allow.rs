//! The allow-list of the tripwires, `xtask/tidy-allow.toml`: what may be larger, each with its reason.
//!
//! Invariants: an entry excuses one rule in one file, and one function where the rule measures functions; an
//! entry that excuses nothing, or gives no reason, is itself a finding.

use toml::{Table, Value};

use super::Finding;
use super::sizes::{self, Tripped};
use super::source::Tree;

const PATH: &str = "xtask/tidy-allow.toml";
const HINT: &str =
    "an entry is `[[allow]]` with `rule`, `path`, `reason`, and `function` where one is measured";

struct Entry<'a> {
    rule: &'a str,
    path: &'a str,
    function: Option<&'a str>,
    reason: &'a str,
    line: usize,
}

impl Entry<'_> {
    fn excuses(&self, tripped: &Tripped) -> bool {
        !self.reason.trim().is_empty()
            && self.rule == tripped.finding.rule
            && self.path == tripped.finding.path
            && self.function == tripped.function.as_deref()
    }

    /// What is wrong with the entry itself.
    fn problem(&self, tripped: &[Tripped]) -> Option<String> {
        if !sizes::RULES.contains(&self.rule) {
            return Some(format!("expected a rule of [{}], got `{}`", sizes::RULES.join(", "), self.rule));
        }
        if self.reason.trim().is_empty() {
            return Some(format!("the entry for `{}` gives no reason", self.path));
        }
        let used = tripped.iter().any(|tripped| self.excuses(tripped));
        (!used).then(|| format!("the entry for `{}` in `{}` excuses nothing", self.rule, self.path))
    }
}

/// The breaches that no entry excuses, and the entries that are wrong.
pub(crate) fn filter(tree: &Tree, tripped: Vec<Tripped>) -> Vec<Finding> {
    let text = tree.file(PATH).map_or("", |file| file.text.as_str());
    let finding =
        |line, what| Finding { path: PATH.to_owned(), line, rule: "allow-list", what, hint: HINT.to_owned() };
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(err) => return vec![finding(1, format!("not TOML: {err}"))],
    };
    let entries = entries(text, &table);
    let problems =
        entries.iter().filter_map(|entry| entry.problem(&tripped).map(|what| finding(entry.line, what)));
    let mut out: Vec<Finding> = problems.collect();
    let excused = |tripped: &Tripped| entries.iter().any(|entry| entry.excuses(tripped));
    out.extend(tripped.into_iter().filter(|tripped| !excused(tripped)).map(|tripped| tripped.finding));
    out
}

fn entries<'a>(text: &str, table: &'a Table) -> Vec<Entry<'a>> {
    let starts =
        text.lines().enumerate().filter(|(_, line)| line.trim() == "[[allow]]").map(|(at, _)| at + 1);
    let rows = table.get("allow").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    rows.iter()
        .zip(starts.chain(std::iter::repeat(1)))
        .map(|(row, line)| {
            let field = |key: &str| row.get(key).and_then(Value::as_str);
            let required = |key: &str| field(key).unwrap_or_default();
            Entry {
                rule: required("rule"),
                path: required("path"),
                function: field("function"),
                reason: required("reason"),
                line,
            }
        })
        .collect()
}
