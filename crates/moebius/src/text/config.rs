//! What lies beside a `tokenizer.json`: named special tokens, added tokens and chat templates.
//!
//! Read from `tokenizer_config.json`, `special_tokens_map.json` and the template files, with the
//! precedence that transformers gives them. The flags (`tokenizer_class`, `add_bos_token`, ...) matter where a
//! vocabulary of another format is converted; once a `tokenizer.json` exists they have no effect there either.
//! `clean_up_tokenization_spaces` concerns text for people only and is left alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::{Result, TextError};

/// The name of the template that is used unless tools are given and there is one for those.
pub(super) const DEFAULT_TEMPLATE: &str = "default";

/// Special tokens and templates of one model directory.
#[derive(Debug, Default)]
pub(super) struct TextConfig {
    /// `bos_token`, `eos_token`, ... by their names.
    pub(super) named: BTreeMap<String, AddedToken>,
    /// Special tokens without a name.
    pub(super) unnamed: Vec<AddedToken>,
    /// `added_tokens_decoder`: by their ids.
    pub(super) added: BTreeMap<u32, AddedToken>,
    /// What steers the conversion of other vocabularies.
    pub(super) flags: Flags,
    /// Chat templates by their names.
    pub(super) templates: BTreeMap<String, String>,
}

/// What a configuration says about vocabularies without a `tokenizer.json`; `None` is the format's own default.
#[derive(Debug, Default)]
pub(super) struct Flags {
    /// `tokenizer_class`
    pub(super) class: Option<String>,
    /// `add_bos_token`
    pub(super) add_bos: Option<bool>,
    /// `add_eos_token`
    pub(super) add_eos: Option<bool>,
    /// `add_prefix_space`
    pub(super) add_prefix_space: Option<bool>,
    /// `legacy`: whether a space is put in front after each special token, too.
    pub(super) legacy: Option<bool>,
}

impl TextConfig {
    /// Reads what there is in `dir`; a missing file is an empty one.
    ///
    /// # Errors
    /// [`TextError::Io`] and [`TextError::BrokenFile`], naming the file.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let mut config = Self::default();
        // `tokenizer_config.json` holds everything in newer models, so what it says comes last and wins.
        for name in ["special_tokens_map.json", "tokenizer_config.json"] {
            let path = dir.join(name);
            if let Some(object) = read_object(&path)? {
                config.merge(&object).map_err(|reason| TextError::BrokenFile { path, reason })?;
            }
        }
        config.read_template_files(dir)?;
        Ok(config)
    }

    fn merge(&mut self, object: &Map<String, Value>) -> std::result::Result<(), String> {
        for (key, value) in object {
            match key.as_str() {
                "added_tokens_decoder" => self.merge_added(value)?,
                "additional_special_tokens" | "extra_special_tokens" => self.merge_unnamed(key, value)?,
                "chat_template" => self.merge_templates(value)?,
                "tokenizer_class" => self.flags.class = value.as_str().map(str::to_owned),
                "add_bos_token" => self.flags.add_bos = value.as_bool(),
                "add_eos_token" => self.flags.add_eos = value.as_bool(),
                "add_prefix_space" => self.flags.add_prefix_space = value.as_bool(),
                "legacy" => self.flags.legacy = value.as_bool(),
                _ if key.ends_with("_token") && (value.is_string() || value.is_object()) => {
                    self.named.insert(key.clone(), added_token(key, value)?);
                }
                // Says that there is none, and so overrides a name from the other file.
                _ if key.ends_with("_token") && value.is_null() => {
                    self.named.remove(key);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn merge_added(&mut self, value: &Value) -> std::result::Result<(), String> {
        let key = "added_tokens_decoder";
        let object = value.as_object().ok_or_else(|| expected(key, "an object", value))?;
        let mut by_id = BTreeMap::new();
        for (id, token) in object {
            let id: u32 = id.parse().map_err(|_| format!("`{key}`: expected a token id, got `{id}`"))?;
            by_id.insert(id, added_token_with(key, token, false)?);
        }
        self.added = by_id;
        Ok(())
    }

    fn merge_unnamed(&mut self, key: &str, value: &Value) -> std::result::Result<(), String> {
        match value {
            Value::Null => {}
            Value::Array(tokens) => {
                self.unnamed = tokens
                    .iter()
                    .map(|token| added_token(key, token))
                    .collect::<std::result::Result<_, _>>()?;
            }
            Value::Object(tokens) => {
                for (name, token) in tokens {
                    self.named.insert(name.clone(), added_token(key, token)?);
                }
            }
            other => return Err(expected(key, "a list or an object", other)),
        }
        Ok(())
    }

    fn merge_templates(&mut self, value: &Value) -> std::result::Result<(), String> {
        let key = "chat_template";
        match value {
            Value::Null => {}
            Value::String(source) => {
                self.templates.insert(DEFAULT_TEMPLATE.to_owned(), source.clone());
            }
            Value::Array(entries) => {
                for entry in entries {
                    let field = |name: &str| entry.get(name).and_then(Value::as_str);
                    let (Some(name), Some(source)) = (field("name"), field("template")) else {
                        return Err(expected(key, "entries with the strings `name` and `template`", entry));
                    };
                    self.templates.insert(name.to_owned(), source.to_owned());
                }
            }
            other => return Err(expected(key, "a string or a list", other)),
        }
        Ok(())
    }

    /// Template files replace whatever templates the JSON files hold.
    fn read_template_files(&mut self, dir: &Path) -> Result<()> {
        let mut files: Vec<(String, PathBuf)> = Vec::new();
        let single = dir.join("chat_template.jinja");
        if single.is_file() {
            files.push((DEFAULT_TEMPLATE.to_owned(), single));
        }
        if let Ok(entries) = std::fs::read_dir(dir.join("additional_chat_templates")) {
            for path in entries.flatten().map(|entry| entry.path()) {
                if path.extension().is_some_and(|extension| extension == "jinja")
                    && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
                {
                    files.push((name.to_owned(), path));
                }
            }
        }
        if !files.is_empty() {
            self.templates.clear();
        }
        for (name, path) in files {
            let source =
                std::fs::read(&path).map_err(|source| TextError::Io { path: path.clone(), source })?;
            let source = String::from_utf8(source)
                .map_err(|error| TextError::BrokenFile { path, reason: format!("not UTF-8: {error}") })?;
            self.templates.insert(name, source);
        }
        Ok(())
    }
}

/// The JSON object in `path`, or `None` if there is no such file.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TextError::Io { path: path.to_owned(), source }),
    };
    let broken = |reason| TextError::BrokenFile { path: path.to_owned(), reason };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(other) => Err(broken(format!("expected a JSON object, got {}", kind(&other)))),
        Err(error) => Err(broken(error.to_string())),
    }
}

fn added_token(key: &str, value: &Value) -> std::result::Result<AddedToken, String> {
    added_token_with(key, value, true)
}

/// A token as a string or as an object with `content` and the flags that differ from the usual.
fn added_token_with(key: &str, value: &Value, special: bool) -> std::result::Result<AddedToken, String> {
    if let Value::String(content) = value {
        return Ok(AddedToken::from(content.clone(), special));
    }
    let content = value.get("content").and_then(Value::as_str);
    let content = content.ok_or_else(|| expected(key, "a string or an object with `content`", value))?;
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = special || flag("special").unwrap_or(false);
    Ok(AddedToken::from(content, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(!special)))
}

fn expected(key: &str, what: &str, got: &Value) -> String {
    format!("`{key}`: expected {what}, got {}", kind(got))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
