//! Files that are split: which parts there are, and whether they belong together.

use std::path::{Path, PathBuf};

use super::metadata::GgufMetadata;
use crate::{Error, Result};

/// More parts than any model has.
const MAX_PARTS: usize = 4096;
/// The key that says how many tensors all parts have together.
const TENSORS: &str = "split.tensors.count";

/// The parts of a file, in their order.
pub(super) struct Parts {
    pub(super) paths: Vec<PathBuf>,
}

/// Finds the parts that belong to `path`, by their names: `{stem}-00001-of-00003.gguf`.
pub(super) fn parts(path: &Path) -> Result<Parts> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let Some((stem, number, count)) = numbered(name) else { return Ok(Parts { paths: vec![path.into()] }) };
    if !(1..=count.min(MAX_PARTS)).contains(&number) || count > MAX_PARTS {
        let reason = format!("expected part 1 to {}, got {number} of {count}", count.min(MAX_PARTS));
        return Err(Error::InvalidFile { path: path.into(), reason });
    }
    let part = |number| path.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"));
    let paths: Vec<PathBuf> = (1..=count).map(part).collect();
    match paths.iter().find(|path| !path.is_file()) {
        Some(missing) => Err(Error::NotFound { what: "part of the GGUF file", path: missing.clone() }),
        None => Ok(Parts { paths }),
    }
}

/// Stem, number and count of the name of a part.
fn numbered(name: &str) -> Option<(&str, usize, usize)> {
    const DIGITS: usize = 5;
    let number = |digits: &str| {
        let plain = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    Some((stem, number(part)?, number(count)?))
}

impl Parts {
    /// Fails unless a part says that it is number `number` of as many as there are, and holds as many tensors together with
    /// the others as the first one says.
    pub(super) fn check(
        &self,
        number: usize,
        metadata: &GgufMetadata,
        first: Option<&GgufMetadata>,
    ) -> Result<()> {
        let expected = [("split.no", number), ("split.count", self.paths.len())];
        for (key, expected) in expected {
            match metadata.count(key)? {
                Some(got) if got == expected as u64 => {}
                // A file that is not split need not say so, nor that it is none of none.
                None | Some(0) if self.paths.len() == 1 => {}
                got => {
                    let got = got.map_or("nothing".into(), |got| got.to_string());
                    return Err(metadata.invalid(format!("metadata `{key}`: expected {expected}, got {got}")));
                }
            }
        }
        let all = first.map(|first| first.count(TENSORS)).transpose()?.flatten();
        match (all, metadata.count(TENSORS)?) {
            (Some(expected), Some(got)) if expected != got => Err(metadata.invalid(format!(
                "metadata `{TENSORS}`: expected {expected} as in the first part, got {got}"
            ))),
            _ => Ok(()),
        }
    }

    /// Fails unless all parts together have as many tensors as the first one says.
    pub(super) fn check_tensors(&self, first: &GgufMetadata, got: usize) -> Result<()> {
        match first.count(TENSORS)? {
            Some(said) if said != got as u64 => {
                Err(first.invalid(format!("metadata `{TENSORS}`: expected {got}, got {said}")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::numbered;

    #[test]
    fn a_part_is_named_by_two_numbers_of_five_digits() {
        assert_eq!(numbered("a-b-00002-of-00003.gguf"), Some(("a-b", 2, 3)));
        for name in ["a.gguf", "a-2-of-3.gguf", "a-00002-of-00003.bin", "a-000+2-of-00003.gguf"] {
            assert_eq!(numbered(name), None, "{name}");
        }
    }
}
