//! Reads config.json so that no key is parsed and forgotten.
//!
//! Every key is used, known not to matter for inference, or reported: [`Config::unused`] lists the rest.
//! Hub-style and transformers-v5-style spellings are both read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::checkpoint::{FP8_BLOCK, read_small};
use crate::info::{Setting, SettingRole};
use crate::{Error, Result, infinities};

const CONFIG_LIMIT_BYTES: u64 = 16 << 20;

/// Keys that say nothing about inference, in any family.
const IRRELEVANT: &[&str] = &[
    "_name_or_path",
    "_attn_implementation",
    "architectures",
    "attention_dropout",
    "auto_map",
    "dtype",
    "hidden_dropout",
    "initializer_range",
    "is_decoder",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "return_dict",
    "router_aux_loss_coef",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// A parsed config.json that remembers which keys were asked for.
#[derive(Debug)]
pub(crate) struct Config {
    values: Map<String, Value>,
    used: RefCell<BTreeSet<String>>,
    /// Keys of objects below it that nobody asked for, with the objects' keys.
    unused_below: RefCell<Vec<String>>,
    irrelevant: RefCell<BTreeSet<String>>,
    /// Keys that may say one thing only.
    fixed: RefCell<BTreeSet<String>>,
    top_k_override: Option<usize>,
    /// `model_type` of the multimodal model that this is the text part of.
    text_part_of: Option<String>,
}

impl Config {
    /// Reads `path`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], [`Error::Json`], or [`Error::InvalidFile`] when it is no object.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = read_small(path, "config.json", CONFIG_LIMIT_BYTES)?;
        match infinities::parse(&text).map_err(|source| Error::Json { path: path.into(), source })? {
            Value::Object(values) => Ok(Config::from_map(values)),
            other => Err(Error::InvalidFile {
                path: path.into(),
                reason: format!("expected a JSON object, got {}", kind(&other)),
            }),
        }
    }

    /// Reads the text of a config.json.
    ///
    /// # Errors
    /// [`Error::Json`], or [`Error::InvalidFile`] when it is no object.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let path = || PathBuf::from("config.json");
        match infinities::parse(text).map_err(|source| Error::Json { path: path(), source })? {
            Value::Object(values) => Ok(Config::from_map(values)),
            other => {
                let reason = format!("expected a JSON object, got {}", kind(&other));
                Err(Error::InvalidFile { path: path(), reason })
            }
        }
    }

    /// Says `size` under `key`, whatever the file says.
    pub(crate) fn with_size(mut self, key: &str, size: usize) -> Self {
        self.values.insert(key.into(), size.into());
        self
    }

    /// Says that a sequence may have at least `positions`, under the key that says it.
    pub(crate) fn with_context(self, positions: usize) -> Self {
        const KEYS: [&str; 2] = ["max_position_embeddings", "max_seq_len"];
        let own = KEYS.iter().find_map(|&key| Some((key, self.values.get(key)?.as_u64()?)));
        match own {
            Some((_, own)) if own >= positions as u64 => self,
            Some((key, _)) => self.with_size(key, positions),
            None => self.with_size(KEYS[0], positions),
        }
    }

    /// The same model with the first `layers` of its layers: what is said of each layer is said of these alone.
    pub(crate) fn with_layers(mut self, layers: usize) -> Self {
        const KEYS: [&str; 2] = ["num_hidden_layers", "n_layers"];
        let Some((key, had)) = KEYS.iter().find_map(|&key| Some((key, self.values.get(key)?.as_u64()?)))
        else {
            return self.with_size(KEYS[0], layers);
        };
        for value in self.values.values_mut() {
            match value {
                Value::Array(items) if items.len() as u64 == had => items.truncate(layers),
                Value::String(pattern) if pattern.len() as u64 == had => {
                    *pattern = pattern.chars().take(layers).collect();
                }
                _ => {}
            }
        }
        self.with_size(key, layers)
    }

    /// Wraps an object that is already parsed.
    pub(crate) fn from_map(values: Map<String, Value>) -> Self {
        let (used, irrelevant, fixed, unused_below) = Default::default();
        Config { values, used, irrelevant, fixed, unused_below, top_k_override: None, text_part_of: None }
    }

    /// The part of a multimodal model's configuration that is about text; any other configuration as it is.
    pub(crate) fn into_text_part(mut self) -> Self {
        /// Keys that the whole may say for the part.
        const SHARED: [&str; 4] =
            ["tie_word_embeddings", "eos_token_id", "bos_token_id", "quantization_config"];
        let is_part = self.values.get("text_config").is_some_and(Value::is_object);
        let part = is_part.then(|| self.values.remove("text_config")).flatten();
        let Some(Value::Object(mut text)) = part else { return self };
        for key in SHARED {
            if let (None | Some(Value::Null), Some(value)) = (text.get(key), self.values.remove(key)) {
                text.insert(key.into(), value);
            }
        }
        let whole = self.values.get("model_type").and_then(Value::as_str).unwrap_or("unnamed");
        let text_part_of = Some(whole.to_owned());
        Config { text_part_of, top_k_override: self.top_k_override, ..Config::from_map(text) }
    }

    /// `model_type` of the multimodal model that this is the text part of.
    pub(crate) fn text_part_of(&self) -> Option<&str> {
        self.text_part_of.as_deref()
    }

    /// Rows and columns that share a scale where weights are stored in FP8, of `quantization_config`.
    ///
    /// # Errors
    /// [`Error::Config`] for a way of storing weights that is not read.
    pub(crate) fn fp8_block(&self) -> Result<(usize, usize)> {
        const KEY: &str = "quantization_config";
        let Some(quantization) = self.opt_object(KEY)? else { return Ok(FP8_BLOCK) };
        match quantization.opt_text("quant_method")? {
            Some("mxfp4") => Ok(FP8_BLOCK),
            Some("fp8") => {
                let side = |value: &Value| value.as_u64().filter(|n| (1..=MAX_WIDTH as u64).contains(n));
                let sides = quantization.list("weight_block_size", "sizes", side)?;
                match sides.as_deref() {
                    None => Ok(FP8_BLOCK),
                    Some(&[rows, cols]) => Ok((rows as usize, cols as usize)),
                    Some(_) => Err(Error::config(KEY, "`weight_block_size`: expected two sizes")),
                }
            }
            other => {
                let got = other.unwrap_or("nothing");
                let reason = format!("`quant_method`: expected `fp8` or `mxfp4`, got `{got}`");
                Err(Error::config(KEY, reason))
            }
        }
    }

    /// Routes every token to `top_k` experts, whatever the file says.
    pub(crate) fn with_top_k(mut self, top_k: Option<usize>) -> Self {
        self.top_k_override = top_k;
        self
    }

    /// Experts that a token goes through: the override, or what stands under `key`.
    ///
    /// # Errors
    /// [`Error::TopK`] for an override that the layer cannot serve, [`Error::Config`] for such a file.
    pub(crate) fn top_k(&self, key: &str, n_experts: usize) -> Result<usize> {
        let configured = self.size_of(&[key], n_experts)?;
        self.overridden_top_k(configured, n_experts)
    }

    /// Experts that a token goes through: the override, or what the file says.
    ///
    /// # Errors
    /// [`Error::TopK`] for an override that the layer cannot serve.
    pub(crate) fn overridden_top_k(&self, configured: usize, n_experts: usize) -> Result<usize> {
        match self.top_k_override {
            Some(requested) if !(1..=n_experts).contains(&requested) => {
                Err(Error::TopK { requested, n_experts })
            }
            Some(requested) => Ok(requested),
            None => Ok(configured),
        }
    }

    /// All that it says.
    pub(crate) fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// The value of `key`; `null` counts as absent.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.used.borrow_mut().insert(key.to_owned());
        self.values.get(key).filter(|v| !v.is_null())
    }

    /// Whether `key` is there and says `null`, where that differs from being absent.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(Value::is_null)
    }

    /// Whether both have the same keys with the same values.
    pub(crate) fn says_the_same(&self, other: &Config) -> bool {
        self.values == other.values
    }

    /// Whether it says nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The first of several spellings that is present, with its name. Others must say the same.
    fn first<'k>(&self, keys: &[&'k str]) -> Result<Option<(&'k str, &Value)>> {
        let mut found: Option<(&str, &Value)> = None;
        for &key in keys {
            let Some(value) = self.value(key) else { continue };
            match found {
                None => found = Some((key, value)),
                Some((_, first)) if first == value => {}
                Some((name, first)) => {
                    let reason = format!("expected {} as in `{name}`, got {}", shown(first), shown(value));
                    return Err(Error::config(key, reason));
                }
            }
        }
        Ok(found)
    }

    /// A size of at least 1 and at most `limit`, under the first spelling that is present.
    pub(crate) fn size_of(&self, keys: &[&str], limit: usize) -> Result<usize> {
        self.opt_size_of(keys, limit)?.ok_or_else(|| Error::config(keys[0], "missing"))
    }

    /// As [`Config::size_of`], `None` when absent.
    pub(crate) fn opt_size_of(&self, keys: &[&str], limit: usize) -> Result<Option<usize>> {
        let Some((key, value)) = self.first(keys)? else { return Ok(None) };
        let size = value.as_u64().filter(|&n| n >= 1 && n <= limit as u64);
        match size {
            Some(size) => Ok(Some(size as usize)),
            None => {
                let reason = format!("expected a whole number from 1 to {limit}, got {}", shown(value));
                Err(Error::config(key, reason))
            }
        }
    }

    /// A width of activations, at most 2^20.
    pub(crate) fn width(&self, key: &str) -> Result<usize> {
        self.size_of(&[key], MAX_WIDTH)
    }

    /// A whole number of at least 0.
    pub(crate) fn opt_count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let count = value.as_u64().and_then(|n| usize::try_from(n).ok());
        count.map(Some).ok_or_else(|| unexpected(key, "a whole number", value))
    }

    /// A number of at most 1e12 in size.
    pub(crate) fn opt_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number = value.as_f64().filter(|n| n.abs() <= MAX_NUMBER);
        let expected = || format!("a number from -{MAX_NUMBER:e} to {MAX_NUMBER:e}");
        number.map(Some).ok_or_else(|| unexpected(key, &expected(), value))
    }

    /// A number from 1e-12 to 1e12.
    pub(crate) fn opt_positive(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let least = 1.0 / MAX_NUMBER;
        let number = value.as_f64().filter(|n| (least..=MAX_NUMBER).contains(n));
        let expected = || format!("a number from {least:e} to {MAX_NUMBER:e}");
        number.map(Some).ok_or_else(|| unexpected(key, &expected(), value))
    }

    /// A truth value.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| unexpected(key, "true or false", value)),
        }
    }

    /// A text.
    pub(crate) fn opt_text(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| unexpected(key, "a string", value)),
        }
    }

    /// Fails unless a text is absent or one of those that the family reads.
    pub(crate) fn expect_text(&self, key: &str, known: &[&str]) -> Result<()> {
        self.fixed.borrow_mut().insert(key.to_owned());
        match self.opt_text(key)? {
            Some(text) if !known.contains(&text) => {
                Err(Error::config(key, format!("expected `{}`, got `{text}`", known.join("` or `"))))
            }
            _ => Ok(()),
        }
    }

    /// For each layer which of `kinds` it is, by number.
    pub(crate) fn per_layer(&self, key: &str, n_layers: usize, kinds: &[&str]) -> Result<Option<Vec<usize>>> {
        let kind = |value: &Value| kinds.iter().position(|kind| Some(*kind) == value.as_str());
        match self.list(key, &format!("`{}`", kinds.join("` and `")), kind)? {
            Some(layers) if layers.len() != n_layers => {
                Err(Error::config(key, format!("expected {n_layers} entries, got {}", layers.len())))
            }
            layers => Ok(layers),
        }
    }

    /// A size of at least 1 and at most `limit` for each layer: a list, or one number for all of them.
    pub(crate) fn opt_sizes(&self, key: &str, n_layers: usize, limit: usize) -> Result<Option<Vec<usize>>> {
        let expected = format!("numbers from 1 to {limit}");
        let size =
            |value: &Value| value.as_u64().filter(|&n| n >= 1 && n <= limit as u64).map(|n| n as usize);
        match self.value(key) {
            Some(Value::Array(_)) => match self.list(key, &expected, size)? {
                Some(sizes) if sizes.len() != n_layers => {
                    Err(Error::config(key, format!("expected {n_layers} entries, got {}", sizes.len())))
                }
                sizes => Ok(sizes),
            },
            _ => Ok(self.opt_size_of(&[key], limit)?.map(|size| vec![size; n_layers])),
        }
    }

    /// Fails unless a key is absent or says `value`, the only one that the family can run.
    pub(crate) fn expect(&self, key: &str, value: &Value) -> Result<()> {
        self.fixed.borrow_mut().insert(key.to_owned());
        match self.value(key) {
            Some(got) if got != value => Err(unexpected(key, &shown(value), got)),
            _ => Ok(()),
        }
    }

    /// An object, as a configuration of its own.
    pub(crate) fn opt_object(&self, key: &str) -> Result<Option<Config>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Config::from_map(map.clone()))),
            Some(other) => Err(unexpected(key, "an object", other)),
        }
    }

    /// A list of what `what` names, each element read by `read`.
    pub(crate) fn list<T>(
        &self,
        key: &str,
        what: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let wrong = |got| unexpected(key, &format!("a list of {what}"), got);
        let items = value.as_array().ok_or_else(|| wrong(value))?;
        items.iter().map(|item| read(item).ok_or_else(|| wrong(item))).collect::<Result<_>>().map(Some)
    }

    /// Marks keys as known not to matter.
    pub(crate) fn irrelevant(&self, keys: &[&str]) {
        self.irrelevant.borrow_mut().extend(keys.iter().map(|k| (*k).to_owned()));
    }

    /// Every key that is there or was asked for, sorted.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let [used, irrelevant, fixed] = [&self.used, &self.irrelevant, &self.fixed].map(RefCell::borrow);
        let keys: BTreeSet<&String> = self.values.keys().chain(used.iter()).collect();
        let setting = |key: &String| Setting {
            key: key.clone(),
            value: self.values.get(key).filter(|value| !value.is_null()).map(shown),
            role: match key {
                key if fixed.contains(key) => SettingRole::Fixed,
                key if used.contains(key) => SettingRole::Used,
                key if irrelevant.contains(key) || IRRELEVANT.contains(&key.as_str()) => {
                    SettingRole::Irrelevant
                }
                _ => SettingRole::Unknown,
            },
        };
        keys.into_iter().map(setting).collect()
    }

    /// Keys with a value that nobody asked for.
    pub(crate) fn unused(&self) -> Vec<String> {
        let unknown = |setting: &Setting| setting.role == SettingRole::Unknown && setting.value.is_some();
        let own = self.settings().into_iter().filter(unknown).map(|setting| setting.key);
        own.chain(self.unused_below.borrow().iter().cloned()).collect()
    }

    /// Counts what nobody asked for in `part`, the object under `key`, as unused here.
    pub(crate) fn report_unused(&self, key: &str, part: &Config) {
        self.unused_below.borrow_mut().extend(part.unused().iter().map(|name| format!("{key}.{name}")));
    }
}

/// Bounds on sizes that a configuration may ask for: far above any real model, and low enough that no
/// product of two overflows.
pub(crate) const MAX_WIDTH: usize = 1 << 20;
/// Rows of the largest embedding table.
pub(crate) const MAX_VOCAB: usize = 1 << 24;
/// Decoder layers.
pub(crate) const MAX_LAYERS: usize = 512;
/// Experts of a layer.
pub(crate) const MAX_EXPERTS: usize = 1024;
/// Positions of a context.
pub(crate) const MAX_CONTEXT: usize = 1 << 28;
/// Size of factors, thresholds and bases, and of their reciprocals: low enough that no product of a few
/// leaves the range of f32.
pub(crate) const MAX_NUMBER: f64 = 1e12;

fn unexpected(key: &str, expected: &str, got: &Value) -> Error {
    Error::config(key, format!("expected {expected}, got {}", shown(got)))
}

/// A value for an error message: as JSON, or only its kind where that would be long.
pub(crate) fn shown(value: &Value) -> String {
    const LIMIT: usize = 80;
    let short = match value {
        Value::Array(items) => {
            items.len() <= 8 && items.iter().all(|item| !item.is_array() && !item.is_object())
        }
        Value::Object(_) => false,
        _ => true,
    };
    let text = if short { value.to_string() } else { String::new() };
    if text.is_empty() || text.len() > LIMIT { kind(value).into() } else { text }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_fewer_layers_lists_of_layers_are_shorter() {
        let text = r#"{"num_hidden_layers": 3, "layer_types": ["a", "b", "a"], "eos_token_id": [1, 2]}"#;
        let config = Config::parse(text).unwrap().with_layers(2);
        assert_eq!(config.size_of(&["num_hidden_layers"], 9).unwrap(), 2);
        assert_eq!(config.per_layer("layer_types", 2, &["a", "b"]).unwrap(), Some(vec![0, 1]));
        assert_eq!(config.value("eos_token_id").unwrap().as_array().unwrap().len(), 2);
    }
}
