//! Every figure names where it comes from: the rule for files of hardware and of measurements.
//!
//! A value is `[number, mark, key]`, or `[words, mark, key]` for a choice; the key stands under `[sources]` with a citation. Tables of measurements have one
//! `source` each. The build script includes this file too, so that a figure without a source does not compile.

use toml::{Table, Value};

/// How far a figure can be trusted.
const MARKS: [&str; 5] = ["P", "S", "K", "C", "A"];
/// Keys of a device whose values are words and not numbers.
const CHOICES: [&str; 2] = ["formats", "shapes"];

/// Checks a file.
///
/// # Errors
/// The first figure without a source, in words.
pub(crate) fn check(file: &Table) -> Result<(), String> {
    let empty = Table::new();
    let sources = match file.get("sources") {
        None => &empty,
        Some(Value::Table(sources)) => sources,
        Some(_) => return Err("expected `[sources]` to be a table of citations".into()),
    };
    for (key, citation) in sources {
        if citation.as_str().is_none_or(|text| text.trim().len() < 10) {
            return Err(format!("source `{key}` has no citation"));
        }
    }
    for (kind, entries) in file.iter().filter(|(kind, _)| *kind != "sources") {
        let entries = entries.as_array().ok_or_else(|| format!("expected `[[{kind}]]` entries"))?;
        for (index, entry) in entries.iter().enumerate() {
            let entry = entry.as_table().ok_or_else(|| format!("expected `[[{kind}]]` entries"))?;
            let name =
                ["name", "device", "what", "model", "class"].iter().find_map(|key| entry.get(*key)?.as_str());
            let name = name.map_or(format!("{kind} {index}"), |name| format!("{kind} `{name}`"));
            let checked = match kind == "device" {
                true => check_values("", entry, sources),
                false => check_source(entry.get("source"), sources),
            };
            checked.map_err(|reason| format!("{name}: {reason}"))?;
        }
    }
    Ok(())
}

/// Every number of a device, however deep, is a triple with a known source.
fn check_values(prefix: &str, table: &Table, sources: &Table) -> Result<(), String> {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        match value {
            Value::String(_) if !CHOICES.contains(&key.as_str()) => {}
            Value::Table(inner) => check_values(&format!("{name}."), inner, sources)?,
            Value::Array(triple) => {
                let [number, mark, source] = triple.as_slice() else {
                    return Err(format!("`{name}`: expected [number, mark, source]"));
                };
                match CHOICES.contains(&key.as_str()) {
                    true if !number.is_str() => {
                        return Err(format!("`{name}`: expected words first, got `{number}`"));
                    }
                    false if !number.is_integer() && !number.is_float() => {
                        return Err(format!("`{name}`: expected a number first, got `{number}`"));
                    }
                    _ => {}
                }
                if !mark.as_str().is_some_and(|mark| MARKS.contains(&mark)) {
                    return Err(format!("`{name}`: expected a mark of P, S, K, C or A, got `{mark}`"));
                }
                check_source(Some(source), sources).map_err(|reason| format!("`{name}`: {reason}"))?;
            }
            _ => return Err(format!("`{name}` has no source: expected [number, mark, source]")),
        }
    }
    Ok(())
}

fn check_source(source: Option<&Value>, sources: &Table) -> Result<(), String> {
    match source {
        None => Err("it names no source".into()),
        Some(Value::String(key)) if sources.contains_key(key) => Ok(()),
        Some(key) => Err(format!("no source {key} in this file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(), String> {
        check(&text.parse().expect("TOML"))
    }

    const SOURCES: &str = "sources.sheet = \"a datasheet of the maker\"\n";

    #[test]
    fn a_cited_device_passes() {
        let device = "[[device]]\nname = \"x\"\nmemory_gb = [8, \"K\", \"sheet\"]\ntflops.bf16 = [1.5, \"P\", \"sheet\"]\n";
        assert_eq!(checked(&format!("{SOURCES}{device}")), Ok(()));
    }

    #[test]
    fn a_figure_without_a_source_is_named() {
        let check = |device: &str, expected: &str| {
            let error = checked(&format!("{SOURCES}[[device]]\nname = \"x\"\n{device}\n")).unwrap_err();
            assert!(error.contains("device `x`") && error.contains(expected), "{error}");
        };
        check("memory_gb = 8", "`memory_gb` has no source");
        check("memory_gb = [8, \"K\"]", "expected [number, mark, source]");
        check("memory_gb = [8, \"K\", \"rumour\"]", "no source \"rumour\"");
        check("memory_gb = [8, \"X\", \"sheet\"]", "expected a mark");
        check("memory_gb = [\"8\", \"K\", \"sheet\"]", "expected a number first");
        check("tflops.fp8 = 3", "`tflops.fp8` has no source");
    }

    #[test]
    fn a_measurement_without_a_source_and_an_empty_citation_are_named() {
        let error = checked(&format!("{SOURCES}[[decode]]\ndevice = \"y\"\ndecode = 3\n")).unwrap_err();
        assert!(error.contains("decode `y`: it names no source"), "{error}");
        assert!(checked("sources.sheet = \"  \"\n").unwrap_err().contains("no citation"));
    }
}
