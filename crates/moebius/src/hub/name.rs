//! Names: what a person calls a model, and what a hub calls its files.
//!
//! Invariants: whatever passes a check here can be joined to a directory of the cache without leaving it, on any system:
//! no empty or dotted parts, no separators but `/` where parts are allowed, no drive letters, no control characters.

use std::fmt;
use std::str::FromStr;

use super::HubError;

/// Longer than any name on a hub, shorter than what file systems allow.
const MAX_PART_BYTES: usize = 200;
/// The branch that is meant when none is named.
const DEFAULT_REVISION: &str = "main";

/// The name of a model on a hub: `owner/name`, `owner/name@revision`, `owner/name:quant`, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    repo: String,
    revision: Option<String>,
    quant: Option<String>,
}

impl HubName {
    /// `owner/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// A branch, a tag or a commit; `main` unless one was named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    /// Whether a revision was named.
    pub fn has_revision(&self) -> bool {
        self.revision.is_some()
    }

    /// Which of several GGUF files is meant, such as `q4_k_m`.
    pub fn quant(&self) -> Option<&str> {
        self.quant.as_deref()
    }
}

impl FromStr for HubName {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let invalid = |reason: &'static str| HubError::InvalidName { name: text.into(), reason };
        let (rest, quant) = match text.split_once(':') {
            Some((rest, quant)) => (rest, Some(quant)),
            None => (text, None),
        };
        let (repo, revision) = match rest.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (rest, None),
        };
        let (owner, name) = repo.split_once('/').ok_or(invalid("expected owner/name"))?;
        if ![owner, name].into_iter().all(is_plain_part) {
            return Err(invalid("owner and name are letters, digits, `-`, `_` and `.`"));
        }
        // The cache writes `/` as `--`, so two names must not become one directory.
        if owner.contains("--") || name.contains("--") {
            return Err(invalid("owner and name have no `--`"));
        }
        if revision.is_some_and(|revision| !revision.split('/').all(is_plain_part)) {
            return Err(invalid("a revision is a branch, a tag or a commit"));
        }
        if quant.is_some_and(|quant| !is_plain_part(quant)) {
            return Err(invalid("what follows `:` is a quantisation such as q4_k_m"));
        }
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(HubName { repo: repo.into(), revision: owned(revision), quant: owned(quant) })
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.quant {
            Some(quant) => write!(f, ":{quant}"),
            None => Ok(()),
        }
    }
}

/// Letters, digits and `-_.+`, not beginning with a dot or a hyphen and not ending in a dot.
fn is_plain_part(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    let edges = !part.starts_with(['.', '-']) && !part.ends_with('.');
    !part.is_empty() && part.len() <= MAX_PART_BYTES && edges && part.chars().all(allowed)
}

/// Whether `name` may be a file of a repository: parts between `/` that stay where they are put on every system.
pub(super) fn is_file_name(name: &str) -> bool {
    let part = |part: &str| {
        let safe = |c: char| !c.is_control() && !r#"\:*?"<>|"#.contains(c);
        let dots = part.chars().all(|c| c == '.') || part.ends_with(['.', ' ']);
        !part.is_empty() && part.len() <= MAX_PART_BYTES && !dots && part.chars().all(safe)
    };
    name.split('/').all(part)
}

/// A full commit: forty hexadecimal digits in lower case, as Git writes them.
pub(super) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// `digits` hexadecimal digits in lower case.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_an_owner_and_maybe_a_revision_and_a_quantisation() {
        let name: HubName = "allenai/OLMoE-1B-7B-0924@refs/pr/1:Q4_K_M".parse().unwrap();
        assert_eq!((name.repo(), name.revision()), ("allenai/OLMoE-1B-7B-0924", "refs/pr/1"));
        assert_eq!(
            (name.quant(), &*name.to_string()),
            (Some("Q4_K_M"), "allenai/OLMoE-1B-7B-0924@refs/pr/1:Q4_K_M")
        );
        let plain: HubName = "a/b".parse().unwrap();
        assert_eq!((plain.revision(), plain.has_revision(), plain.quant()), ("main", false, None));
    }

    #[test]
    fn a_name_that_could_leave_its_directory_is_refused() {
        let long = format!("a/{}", "b".repeat(201));
        let names = [
            "",
            "a",
            "/a",
            "a/",
            "../a",
            "a/..",
            "a/.b",
            "a/b/c",
            "C:/a",
            r"a\b/c",
            "a/b@",
            "a/b@../../x",
            "a/b@/x",
            "a/b@x//y",
            "a/b:",
            "a/b:../x",
            "a/b:x/y",
            "a/b\0",
            "a/b c",
            "a--b/c",
            "a/b--c",
            "ä/b",
            "a/b@-x",
            "a/b@..",
            &long,
        ];
        for name in names {
            assert!(name.parse::<HubName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_file_of_a_repository_stays_below_its_snapshot() {
        for name in
            ["config.json", "a/b.gguf", "Q4_K_M/x-00001-of-00002.gguf", "ein Wort.json", ".gitattributes"]
        {
            assert!(is_file_name(name), "{name:?}");
        }
        let long = "x".repeat(300);
        let names = [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "a//b",
            "./x",
            "a/",
            r"a\b",
            r"..\x",
            "C:x",
            "C:/x",
            "a\0b",
            "a\nb",
            "...",
            "x.",
            "x ",
            "a/.",
            "nul:",
            &long,
        ];
        for name in names {
            assert!(!is_file_name(name), "{name:?}");
        }
    }

    #[test]
    fn a_commit_is_forty_digits() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert!(is_commit(commit));
        for text in
            ["", "main", &commit[1..], &commit.to_uppercase(), "../../6789abcdef0123456789abcdef01234567"]
        {
            assert!(!is_commit(text), "{text}");
        }
    }
}
