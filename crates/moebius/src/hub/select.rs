//! Which files of a repository a model needs.
//!
//! Invariants: pure functions of names; weights are one kind: safetensors, or the parts of one GGUF file.

use std::collections::BTreeMap;

/// Files that say what a model is and how text becomes tokens.
const COMPANIONS: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tiktoken.model",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];
const TEMPLATES: &str = "additional_chat_templates/";
pub(super) const CONFIG: &str = "config.json";
pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// The quantisation that is taken when a repository has several and none was named.
const DEFAULT_QUANT: &str = "q4_k_m";

/// Whether a file says what the model is, without being weights.
pub(super) fn is_companion(name: &str) -> bool {
    let template =
        name.strip_prefix(TEMPLATES).is_some_and(|rest| rest.ends_with(".jinja") && !rest.contains('/'));
    let tiktoken = name.ends_with(".tiktoken") && !name.contains('/');
    COMPANIONS.contains(&name) || template || tiktoken
}

/// One GGUF model: the files that it is split into, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GgufSet {
    /// What a person calls it: `Q4_K_M`, or its whole name where that does not say.
    pub(super) quant: String,
    /// Its parts; some may be missing.
    pub(super) files: Vec<String>,
    /// How many parts the names promise.
    parts: usize,
}

impl GgufSet {
    /// Whether every part is among the files.
    pub(super) fn is_complete(&self) -> bool {
        self.files.len() == self.parts
    }
}

/// The GGUF models among the files of a repository. Projectors of images and data of calibration are none.
pub(super) fn gguf_sets<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<GgufSet> {
    let mut sets: BTreeMap<(String, usize), Vec<(usize, String)>> = BTreeMap::new();
    for name in names {
        let Some(stem) = strip_suffix_ignoring_case(name, ".gguf") else { continue };
        let file = stem.rsplit('/').next().unwrap_or(stem).to_ascii_lowercase();
        if file.contains("mmproj") || file.contains("imatrix") {
            continue;
        }
        let (stem, part, parts) = split_of(stem).unwrap_or((stem, 1, 1));
        sets.entry((stem.into(), parts)).or_default().push((part, name.into()));
    }
    let set = |((stem, parts), mut files): ((String, usize), Vec<(usize, String)>)| {
        files.sort();
        files.dedup_by_key(|(part, _)| *part);
        GgufSet { quant: quant_of(&stem), files: files.into_iter().map(|(_, name)| name).collect(), parts }
    };
    sets.into_iter().map(set).collect()
}

/// The set that `quant` names, ignoring case; the only set, or `q4_k_m`, if it names none.
///
/// # Errors
/// What there is, for people.
pub(super) fn choose_gguf(sets: &[GgufSet], quant: Option<&str>) -> Result<GgufSet, String> {
    let wanted = quant.unwrap_or(DEFAULT_QUANT);
    let found = sets.iter().filter(|set| set.quant.eq_ignore_ascii_case(wanted)).collect::<Vec<_>>();
    let chosen = match (found.as_slice(), sets) {
        ([set], _) => *set,
        ([], [only]) if quant.is_none() => only,
        _ => {
            let mut names: Vec<&str> = sets.iter().map(|set| &*set.quant).collect();
            names.dedup();
            let there = if names.is_empty() { "no GGUF file".into() } else { names.join(", ") };
            return Err(match found.len() {
                0 => format!("expected a GGUF file of `{wanted}`, got {there}"),
                n => format!("{n} GGUF files are `{wanted}`"),
            });
        }
    };
    if !chosen.is_complete() {
        let (parts, got) = (chosen.parts, chosen.files.len());
        return Err(format!("`{}` is split into {parts} files, of which {got} are there", chosen.quant));
    }
    Ok(chosen.clone())
}

/// `stem-00002-of-00003` as its name, part and parts.
fn split_of(stem: &str) -> Option<(&str, usize, usize)> {
    const DIGITS: usize = 5;
    let number = |text: &str| text.parse().ok().filter(|&n: &usize| text.len() == DIGITS && n > 0);
    let (rest, parts) = stem.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let (part, parts) = (number(part)?, number(parts)?);
    (part <= parts).then_some((stem, part, parts))
}

/// The quantisation at the end of a name, such as `Q4_K_M`, `UD-Q4_K_XL`, `IQ4_XS`, `MXFP4` or `BF16`; else the last part.
fn quant_of(stem: &str) -> String {
    let file = stem.rsplit('/').next().unwrap_or(stem);
    let lower = file.to_ascii_lowercase();
    let starts = lower.char_indices().filter(|(i, _)| *i == 0 || lower[..*i].ends_with(['-', '.', '_']));
    let known = |text: &str| {
        let rest = text.strip_prefix("ud-").unwrap_or(text);
        let rest = rest.strip_prefix('i').unwrap_or(rest);
        let digit = |n: usize| rest.chars().nth(n).is_some_and(|c| c.is_ascii_digit());
        let plain = rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let named = ["f32", "f16", "bf16"].contains(&rest) || rest.starts_with("mxfp4");
        plain && (named || (rest.starts_with(['q']) && digit(1)))
    };
    starts.map(|(i, _)| i).find(|&i| known(&lower[i..])).map_or(file, |i| &file[i..]).to_owned()
}

fn strip_suffix_ignoring_case<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let at = text.len().checked_sub(suffix.len()).filter(|&at| text.is_char_boundary(at))?;
    text[at..].eq_ignore_ascii_case(suffix).then(|| &text[..at])
}

/// The shards that an index names.
///
/// # Errors
/// An index that is none, or that names something that cannot be a shard beside it.
pub(super) fn shards_of(index: &[u8]) -> Result<Vec<String>, String> {
    let json: serde_json::Value =
        serde_json::from_slice(index).map_err(|error| format!("`{INDEX}`: {error}"))?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| format!("`{INDEX}`: expected an object `weight_map`"))?;
    let mut names = Vec::new();
    for value in map.values() {
        let name = value.as_str().unwrap_or_default();
        if !name.ends_with(".safetensors") || name.contains('/') || !super::name::is_file_name(name) {
            return Err(format!("`{INDEX}`: expected plain .safetensors file names, got {value}"));
        }
        names.push(name.to_owned());
    }
    names.sort();
    names.dedup();
    if names.is_empty() { Err(format!("`{INDEX}`: `weight_map` names no tensor")) } else { Ok(names) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 8] = [
        "olmoe-Q4_K_M.gguf",
        "olmoe.Q8_0.GGUF",
        "UD/olmoe-UD-Q4_K_XL.gguf",
        "BF16/olmoe-BF16-00002-of-00002.gguf",
        "BF16/olmoe-BF16-00001-of-00002.gguf",
        "mmproj-F16.gguf",
        "olmoe.imatrix.gguf",
        "README.md",
    ];

    fn quants() -> Vec<String> {
        gguf_sets(NAMES).into_iter().map(|set| set.quant).collect()
    }

    #[test]
    fn quantisations_are_read_from_names_and_parts_stay_together() {
        assert_eq!(quants(), ["BF16", "UD-Q4_K_XL", "Q4_K_M", "Q8_0"]);
        let bf16 = choose_gguf(&gguf_sets(NAMES), Some("bf16")).unwrap();
        assert_eq!(
            bf16.files,
            ["BF16/olmoe-BF16-00001-of-00002.gguf", "BF16/olmoe-BF16-00002-of-00002.gguf"]
        );
        for (name, quant) in
            [("a-IQ4_XS.gguf", "IQ4_XS"), ("gpt-oss-20b-mxfp4.gguf", "mxfp4"), ("story.gguf", "story")]
        {
            assert_eq!(gguf_sets([name])[0].quant, quant);
        }
    }

    #[test]
    fn without_a_choice_it_is_q4_k_m_or_the_only_one() {
        assert_eq!(choose_gguf(&gguf_sets(NAMES), None).unwrap().quant, "Q4_K_M");
        assert_eq!(choose_gguf(&gguf_sets(["x-Q2_K.gguf"]), None).unwrap().quant, "Q2_K");
        let refused = choose_gguf(&gguf_sets(["x-Q2_K.gguf", "x-Q8_0.gguf"]), None).unwrap_err();
        assert!(refused.contains("q4_k_m") && refused.contains("Q2_K, Q8_0"), "{refused}");
        assert!(choose_gguf(&gguf_sets(["x-Q2_K.gguf"]), Some("q8_0")).is_err());
    }

    #[test]
    fn a_set_with_a_missing_part_is_refused() {
        let sets = gguf_sets(["x-Q8_0-00001-of-00003.gguf", "x-Q8_0-00003-of-00003.gguf"]);
        assert!(choose_gguf(&sets, Some("q8_0")).unwrap_err().contains("3 files, of which 2"));
    }

    #[test]
    fn companions_are_named_and_nothing_else_is_one() {
        for name in
            ["config.json", "chat_template.jinja", "additional_chat_templates/rag.jinja", "qwen.tiktoken"]
        {
            assert!(is_companion(name), "{name}");
        }
        for name in [
            "pytorch_model.bin",
            "modeling.py",
            "a/config.json",
            "additional_chat_templates/a/b.jinja",
            "vocab.txt",
        ] {
            assert!(!is_companion(name), "{name}");
        }
    }

    #[test]
    fn an_index_names_plain_shards_only() {
        let index = |shard: &str| format!(r#"{{"weight_map": {{"a": "x.safetensors", "b": {shard}}}}}"#);
        assert_eq!(
            shards_of(index("\"y.safetensors\"").as_bytes()).unwrap(),
            ["x.safetensors", "y.safetensors"]
        );
        for shard in [
            "\"../y.safetensors\"",
            "\"/y.safetensors\"",
            r#""a\\y.safetensors""#,
            "7",
            "\"y.bin\"",
            "\"a/y.safetensors\"",
        ] {
            assert!(shards_of(index(shard).as_bytes()).is_err(), "{shard}");
        }
        for text in ["", "{}", r#"{"weight_map": {}}"#, "[[[["] {
            assert!(shards_of(text.as_bytes()).is_err(), "{text}");
        }
    }
}
