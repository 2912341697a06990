//! The files that tidy looks at, each with its comments, strings and tests told apart.
//!
//! Invariants: every masked view has the length and the line breaks of the text, so that a position in one is
//! a position in all.

use std::io;
use std::path::Path;
use std::{fs, str};

/// Folders that hold no source: build output, history and caches.
const SKIPPED_FOLDERS: [&str; 4] = ["target", ".git", "__pycache__", ".venv"];

/// Every text file of the workspace.
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
}

/// One text file.
pub(crate) struct File {
    /// Relative to the root, with `/` between folders.
    pub(crate) path: String,
    pub(crate) text: String,
    /// `None` unless the file is Rust.
    pub(crate) rust: Option<Rust>,
}

/// The masked views of a Rust file: what a view leaves out is blank.
pub(crate) struct Rust {
    /// The code, without comments and without the contents of strings.
    pub(crate) code: String,
    /// The comments alone.
    pub(crate) comments: String,
    /// The code that is not compiled for tests only.
    pub(crate) production: String,
}

impl Tree {
    /// Reads every UTF-8 file below `root`, in order of path. Links are not followed.
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                let path = entry.path();
                let skipped = entry.file_name().to_str().is_some_and(|name| SKIPPED_FOLDERS.contains(&name));
                if kind.is_dir() && !skipped {
                    folders.push(path);
                } else if kind.is_file() {
                    let relative = path.strip_prefix(root).expect("the path starts at the root");
                    let relative = relative.to_string_lossy().replace('\\', "/");
                    if let Ok(text) = String::from_utf8(fs::read(&path)?) {
                        files.push(File::new(relative, text));
                    }
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        blank_test_modules(&mut files);
        Ok(Self { files })
    }

    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The Rust files, with their views.
    pub(crate) fn rust(&self) -> impl Iterator<Item = (&File, &Rust)> {
        self.files.iter().filter_map(|file| file.rust.as_ref().map(|rust| (file, rust)))
    }
}

impl File {
    fn new(path: String, text: String) -> Self {
        let rust = path.ends_with(".rs").then(|| Rust::new(&text, is_test_path(&path)));
        Self { path, text, rust }
    }

    /// The paths, without `.rs`, of the modules that this file declares for tests only.
    fn test_modules(&self) -> Vec<String> {
        let Some(rust) = &self.rust else { return Vec::new() };
        let stem = self.path.trim_end_matches(".rs");
        let root = ["/lib", "/main", "/mod"].into_iter().find_map(|root| stem.strip_suffix(root));
        let after = rust.code.split("#[cfg(test)]").skip(1);
        let names = after.filter_map(|item| item.trim_start().strip_prefix("mod ")?.split_once([';', '{']));
        names.map(|(name, _)| format!("{}/{}", root.unwrap_or(stem), name.trim())).collect()
    }

    /// The crate below `crates/` that the file belongs to.
    pub(crate) fn crate_name(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split_once('/').map(|(name, _)| name)
    }

    /// Whether the file is compiled into its crate, rather than into a test, bench or example of it.
    pub(crate) fn in_src(&self) -> bool {
        self.crate_name().is_some_and(|name| self.path[7 + name.len()..].starts_with("/src/"))
    }
}

impl Rust {
    fn new(text: &str, is_test: bool) -> Self {
        let (code, comments) = mask(text);
        let production = if is_test { blank(&code, 0, code.len()) } else { without_tests(&code) };
        Self { code, comments, production }
    }
}

/// `tests/` folders and files such as `tests.rs` and `chat_tests.rs` hold tests only.
fn is_test_path(path: &str) -> bool {
    path.split('/').any(|part| part == "tests") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

/// Modules that are declared as `#[cfg(test)] mod name;` in another file ship nothing either.
fn blank_test_modules(files: &mut [File]) {
    let declared: Vec<String> = files.iter().flat_map(File::test_modules).collect();
    for file in files {
        let stem = file.path.trim_end_matches(".rs");
        let is_declared = |module: &String| stem == module || stem.starts_with(&format!("{module}/"));
        if let Some(rust) = file.rust.as_mut().filter(|_| declared.iter().any(is_declared)) {
            rust.production = blank(&rust.code, 0, rust.code.len());
        }
    }
}

/// The line, counted from 1, of a byte position.
pub(crate) fn line_at(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
}

/// `text` with the bytes of `from..to` blank, line breaks kept.
fn blank(text: &str, from: usize, to: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    bytes[from..to].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    String::from_utf8(bytes).expect("only whole characters were replaced")
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// The code without literals and comments, and the comments alone. Both are ASCII where they are blank.
fn mask(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let mut code = vec![b' '; bytes.len()];
    let mut comments = code.clone();
    let mut at = 0;
    while at < bytes.len() {
        let (kind, end) = next_piece(bytes, at);
        for (offset, &byte) in bytes[at..end].iter().enumerate() {
            if byte == b'\n' || kind == Kind::Code {
                code[at + offset] = byte;
            }
            if byte == b'\n' || kind == Kind::Comment {
                comments[at + offset] = byte;
            }
        }
        at = end;
    }
    let utf8 = |view| String::from_utf8(view).expect("pieces end between characters");
    (utf8(code), utf8(comments))
}

/// The kind and the end of the piece that starts at `at`.
fn next_piece(bytes: &[u8], at: usize) -> (Kind, usize) {
    let rest = &bytes[at..];
    let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return (Kind::Comment, at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return (Kind::Comment, at + block_comment(rest));
    }
    if let Some(len) = raw_string(rest).filter(|_| !after_word) {
        return (Kind::Literal, at + len);
    }
    match rest[0] {
        b'"' => (Kind::Literal, at + quoted(rest, b'"')),
        b'\'' => match char_literal(rest) {
            Some(len) => (Kind::Literal, at + len),
            None => (Kind::Code, at + 1),
        },
        first => (Kind::Code, at + utf8_len(first)),
    }
}

fn utf8_len(first: u8) -> usize {
    match first {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    }
}

/// The length of a block comment; they nest.
fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a raw string: `r"…"`, `br#"…"#`, `cr##"…"##`.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = rest.iter().position(|byte| *byte == b'r').filter(|at| *at <= 1)?;
    if prefix == 1 && !matches!(rest[0], b'b' | b'c') {
        return None;
    }
    let hashes = rest[prefix + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix + 1 + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let close = [&b"\""[..], &vec![b'#'; hashes]].concat();
    let body = &rest[open + 1..];
    let len = body.windows(close.len()).position(|window| window == close).map(|end| end + close.len());
    Some(open + 1 + len.unwrap_or(body.len()))
}

/// The length of a literal between two `quote`s, with backslash escapes.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a character literal, `None` for a lifetime.
fn char_literal(rest: &[u8]) -> Option<usize> {
    match rest.get(1)? {
        b'\\' => Some(quoted(rest, b'\'')),
        first => {
            let len = 1 + utf8_len(*first);
            (rest.get(len) == Some(&b'\'')).then_some(len + 1)
        }
    }
}

/// Blanks each item under `#[cfg(test)]` or `#[cfg(all(test, …))]`, up to its closing brace or semicolon.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test"] {
        while let Some(start) = out.find(attribute) {
            let end = item_end(&out, start + attribute.len());
            out = blank(&out, start, end);
        }
    }
    out
}

fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0;
    for (offset, byte) in code.as_bytes()[from..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth <= 1 => return from + offset + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return from + offset + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_masked_and_positions_kept() {
        for (text, code) in [
            ("let a = 1; // unsafe", "let a = 1;          "),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("fs::\"x") + 1"#, r#"f(         ) + 1"#),
            ("r#\"a\"b\"# + c", "         + c"),
            ("br\"\\\" + c", "      + c"),
            ("'\\'' + '\"' + 'é' + &'a T", "     +     +      + &'a T"),
            ("for x in y", "for x in y"),
        ] {
            assert_eq!(mask(text).0, code, "{text}");
        }
    }

    #[test]
    fn the_comment_view_holds_comments_alone() {
        assert_eq!(mask("a(\"// no\"); // yes\nb").1, "            // yes\n ");
    }

    #[test]
    fn items_for_tests_are_not_production() {
        let rust = Rust::new("fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\nfn c() {}", false);
        assert_eq!(
            rust.production.split_whitespace().collect::<Vec<_>>(),
            ["fn", "a()", "{}", "fn", "c()", "{}"]
        );
        assert_eq!(Rust::new("fn a() {}", true).production.trim(), "");
        assert_eq!(Rust::new("#[cfg(test)]\nmod tests;\nfn c() {}", false).production.trim(), "fn c() {}");
    }
}
