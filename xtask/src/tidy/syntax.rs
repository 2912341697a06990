//! What the rules need of Rust's syntax, over masked code: tokens, flattened paths, `cfg`s and functions.

use std::ops::Range;

/// A word, `::`, `->`, `=>`, or one character.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

/// Splits masked code into tokens.
pub(crate) fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut out = Vec::new();
    let mut line = 1;
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let len = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if ["::", "->", "=>"].iter().any(|pair| rest.starts_with(pair)) {
            2
        } else {
            first.len_utf8()
        };
        if first == '\n' {
            line += 1;
        } else if !first.is_whitespace() {
            out.push(Token { text: &rest[..len], line });
        }
        rest = &rest[len..];
    }
    out
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn starts_word(text: &str) -> bool {
    text.starts_with(|c: char| c == '_' || c.is_alphabetic())
}

/// A path as it is written, `use` trees flattened. A macro's last segment ends with `!`, a method's only
/// segment starts with `.`.
#[derive(Debug, PartialEq)]
pub(crate) struct PathUse {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

impl PathUse {
    /// Whether consecutive segments match `pattern`, such as `std::fs` or `env::var*`.
    pub(crate) fn matches(&self, pattern: &str) -> bool {
        let wanted: Vec<&str> = pattern.split("::").collect();
        let same = |segment: &String, want: &&str| match want.strip_suffix('*') {
            Some(prefix) => segment.starts_with(prefix),
            None => segment == want,
        };
        self.segments.windows(wanted.len()).any(|window| window.iter().zip(&wanted).all(|(s, w)| same(s, w)))
    }
}

/// Every path of the code.
pub(crate) fn paths(tokens: &[Token<'_>]) -> Vec<PathUse> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let next = tokens.get(at + 1).map_or("", |token| token.text);
        if tokens[at].text == "use" && (starts_word(next) || next == "::" || next == "{") {
            at = use_tree(tokens, at + 1, &[], &mut out);
        } else if starts_word(tokens[at].text) {
            at = expression_path(tokens, at, &mut out);
        } else {
            at += 1;
        }
    }
    out
}

fn expression_path(tokens: &[Token<'_>], start: usize, out: &mut Vec<PathUse>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut segments = vec![text(start).to_owned()];
    let mut at = start + 1;
    while text(at) == "::" && starts_word(text(at + 1)) {
        segments.push(text(at + 1).to_owned());
        at += 2;
    }
    let last = segments.last_mut().expect("a path has a segment");
    if text(at) == "!" && text(at + 1) != "=" {
        last.push('!');
    } else if start > 0 && text(start - 1) == "." {
        last.insert(0, '.');
    }
    out.push(PathUse { segments, line: tokens[start].line });
    at
}

/// Flattens the tree at `at` below `prefix`; returns where it ends.
fn use_tree(tokens: &[Token<'_>], mut at: usize, prefix: &[String], out: &mut Vec<PathUse>) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = use_tree(tokens, at, &segments, out);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
                }
                return at + 1;
            }
            "as" => at += 2,
            "::" | "*" => at += 1,
            word if starts_word(word) => {
                segments.push(word.to_owned());
                at += 1;
            }
            _ => break,
        }
    }
    out.push(PathUse { segments, line });
    // Anything but a list's end closes the tree: skipping it keeps a malformed tree from stalling the caller.
    if tokens.get(at).is_some_and(|token| !matches!(token.text, "," | "}" | ";")) { at + 1 } else { at }
}

/// A `cfg(…)`, `cfg_attr(…)` or `cfg!(…)` that names a cargo feature.
#[derive(Debug, PartialEq)]
pub(crate) struct FeatureCfg {
    pub(crate) line: usize,
    /// `cfg!(…)`: the feature picks a path of one function.
    pub(crate) is_expression: bool,
    /// `not(feature…)`: the feature takes code away.
    pub(crate) is_negated: bool,
}

/// Every `cfg` that names a cargo feature.
pub(crate) fn feature_cfgs(tokens: &[Token<'_>]) -> Vec<FeatureCfg> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut out = Vec::new();
    for at in 0..tokens.len() {
        let is_expression = text(at) == "cfg" && text(at + 1) == "!";
        let open = at + 1 + usize::from(is_expression);
        if !matches!(text(at), "cfg" | "cfg_attr") || text(open) != "(" {
            continue;
        }
        let inside = open + 1..closing(tokens, open);
        if names_feature(tokens, inside.clone()) {
            let mut nots = inside.clone().filter(|&i| text(i) == "not" && text(i + 1) == "(");
            let is_negated = nots.any(|i| names_feature(tokens, i..closing(tokens, i + 1)));
            out.push(FeatureCfg { line: tokens[at].line, is_expression, is_negated });
        }
    }
    out
}

fn names_feature(tokens: &[Token<'_>], range: Range<usize>) -> bool {
    tokens[range].windows(2).any(|pair| pair[0].text == "feature" && pair[1].text == "=")
}

/// The index of the bracket that closes the one at `open`, or the end of the code.
fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// A named function and its size.
#[derive(Debug, PartialEq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// From `fn` to the closing brace; 0 without a body.
    pub(crate) n_lines: usize,
    /// Without the receiver.
    pub(crate) n_params: usize,
    /// In an `impl Trait for Type`, where the trait chose the parameters.
    pub(crate) implements_trait: bool,
}

/// Every named function, those of macros (`fn $name`) included.
pub(crate) fn functions(tokens: &[Token<'_>]) -> Vec<Function> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let impls = trait_impls(tokens);
    let mut out = Vec::new();
    for at in (0..tokens.len()).filter(|&at| text(at) == "fn") {
        let name_at = at + 1 + usize::from(text(at + 1) == "$");
        if !starts_word(text(name_at)) {
            continue;
        }
        let Some(open) = (name_at + 1..tokens.len())
            .scan(0, |depth, i| Some((i, angle(depth, text(i)))))
            .find_map(|(i, depth)| (depth == 0 && text(i) == "(").then_some(i))
        else {
            continue;
        };
        let close = closing(tokens, open);
        let inside = &tokens[open + 1..close.max(open + 1)];
        let n_params = count_list(inside) - usize::from(has_receiver(inside));
        let body = (close..tokens.len()).find(|&i| matches!(text(i), "{" | ";"));
        let end = body.filter(|&i| text(i) == "{").map(|i| closing(tokens, i).min(tokens.len() - 1));
        let n_lines = end.map_or(0, |end| tokens[end].line - tokens[at].line + 1);
        let implements_trait = impls.iter().any(|span| span.contains(&at));
        out.push(Function {
            name: text(name_at).to_owned(),
            line: tokens[at].line,
            n_lines,
            n_params,
            implements_trait,
        });
    }
    out
}

/// Follows the depth of angle brackets; `->` and `=>` are tokens of their own and do not close one.
fn angle(depth: &mut i32, text: &str) -> i32 {
    match text {
        "<" => *depth += 1,
        ">" => *depth -= 1,
        _ => {}
    }
    *depth
}

/// Whether the first parameter is `self`, by value or by reference.
fn has_receiver(inside: &[Token<'_>]) -> bool {
    let words = inside.iter().map(|token| token.text).filter(|text| *text != "&" && *text != "mut");
    // A lifetime's name may stand between `&` and `self`.
    words.take_while(|text| *text != "," && *text != ":").any(|text| text == "self")
}

/// The number of entries of a comma-separated list.
fn count_list(inside: &[Token<'_>]) -> usize {
    let mut depth = 0;
    let mut count = 0;
    let mut filled = false;
    for token in inside {
        match token.text {
            "(" | "[" | "{" | "<" => depth += 1,
            ")" | "]" | "}" | ">" => depth -= 1,
            "," if depth == 0 => {
                count += usize::from(filled);
                filled = false;
                continue;
            }
            _ => {}
        }
        filled = true;
    }
    count + usize::from(filled)
}

/// The token ranges of `impl Trait for Type { … }`.
fn trait_impls(tokens: &[Token<'_>]) -> Vec<Range<usize>> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut out = Vec::new();
    for at in (0..tokens.len()).filter(|&at| text(at) == "impl") {
        let is_item = at == 0 || matches!(text(at - 1), "}" | ";" | "{" | "]" | "unsafe");
        let Some(open) = (at..tokens.len()).find(|&i| text(i) == "{").filter(|_| is_item) else { continue };
        if (at..open).any(|i| text(i) == "for" && text(i + 1) != "<") {
            out.push(open..closing(tokens, open));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(code: &str) -> Vec<String> {
        paths(&tokens(code)).into_iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn use_trees_are_flattened() {
        assert_eq!(
            flat("use std::{env::{self, var as v}, fs as files}; use a::*; f()"),
            ["std::env::self", "std::env::var", "std::fs", "a", "f"]
        );
    }

    #[test]
    fn macros_and_methods_are_told_from_plain_paths() {
        assert_eq!(flat("std::println!(x.unwrap()); a != b"), ["std::println!", "x", ".unwrap", "a", "b"]);
    }

    #[test]
    fn patterns_match_whole_segments_and_prefixes() {
        let code = tokens("std::env::var_os");
        let path = &paths(&code)[0];
        assert!(path.matches("std::env") && path.matches("env::var*"));
        assert!(!path.matches("env::var") && !path.matches("td::env"));
    }

    #[test]
    fn only_cfgs_that_name_a_feature_are_listed() {
        let code = "#[cfg(feature = )] a; #[cfg(target_feature = )] b; if cfg!(any(x, feature = )) {}
                    #[cfg(not(feature = ))] c; #[cfg(all(feature = , not(test)))] d; cfg(feature)";
        let found: Vec<_> =
            feature_cfgs(&tokens(code)).into_iter().map(|cfg| (cfg.is_expression, cfg.is_negated)).collect();
        assert_eq!(found, [(false, false), (true, false), (false, true), (false, false)]);
    }

    #[test]
    fn functions_are_measured() {
        let code = "fn a<F: Fn(u8, u8) -> u8>(f: F, (b, c): (u8, u8), v: Vec<(u8, u8)>,) -> u8 {\n if x {\n }\n}
                    trait T { fn b(&self); } impl T for U { fn b(&self) {} } impl U { fn c() {} } let p: fn(u8);";
        let found: Vec<_> = functions(&tokens(code))
            .into_iter()
            .map(|f| (f.name, f.n_lines, f.n_params, f.implements_trait))
            .collect();
        let row =
            |name: &str, n_lines, n_params, implements| (name.to_owned(), n_lines, n_params, implements);
        assert_eq!(
            found,
            [row("a", 4, 3, false), row("b", 0, 0, false), row("b", 1, 0, true), row("c", 1, 0, false)]
        );
    }
}
