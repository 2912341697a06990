//! The tripwires: sizes beyond which a piece of code holds more than one idea.

use super::Finding;
use super::source::{File, Tree};
use super::syntax;

const FILE_LINES: usize = 500;
const FAMILY_LINES: usize = 350;
const FUNCTION_LINES: usize = 70;
const PARAMETERS: usize = 5;

/// A breach that the allow-list may excuse, by function name where the rule measures functions.
pub(crate) struct Tripped {
    pub(crate) finding: Finding,
    pub(crate) function: Option<String>,
}

/// The rules that the allow-list may name.
pub(crate) const RULES: [&str; 4] = ["file-lines", "family-lines", "function-lines", "parameters"];

/// Measures every Rust file and function.
pub(crate) fn check(tree: &Tree) -> Vec<Tripped> {
    let mut out = Vec::new();
    for (file, rust) in tree.rust() {
        file_lines(file, &mut out);
        for function in syntax::functions(&syntax::tokens(&rust.code)) {
            let mut trip = |rule, measure: String, hint: &str| {
                let what = format!("`{}` has {measure}", function.name);
                let finding = Finding {
                    path: file.path.clone(),
                    line: function.line,
                    rule,
                    what,
                    hint: hint.to_owned(),
                };
                out.push(Tripped { finding, function: Some(function.name.clone()) });
            };
            if function.n_lines > FUNCTION_LINES {
                let measure = format!("{} lines, {FUNCTION_LINES} are allowed", function.n_lines);
                trip("function-lines", measure, "split it by concept");
            }
            if function.n_params > PARAMETERS && !function.implements_trait {
                let measure = format!("{} parameters, {PARAMETERS} are allowed", function.n_params);
                trip("parameters", measure, "name the struct that some of them form");
            }
        }
    }
    out
}

fn file_lines(file: &File, out: &mut Vec<Tripped>) {
    let is_family = file.path.starts_with("crates/moebius-model/src/families/");
    let (rule, limit, hint) = if is_family {
        ("family-lines", FAMILY_LINES, "move what is not the family's own into a layer")
    } else {
        ("file-lines", FILE_LINES, "split it by concept")
    };
    let n_lines = file.text.lines().count();
    if n_lines > limit {
        let what = format!("the file has {n_lines} lines, {limit} are allowed");
        let finding = Finding { path: file.path.clone(), line: limit + 1, rule, what, hint: hint.to_owned() };
        out.push(Tripped { finding, function: None });
    }
}
