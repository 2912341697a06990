//! Reads config.json so that no key is parsed and forgotten.
//!
//! Every key is used, known not to matter for inference, or reported: [`Config::unused`] lists the rest.
//! Hub-style and transformers-v5-style spellings are both read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint::read_json;
use crate::{Error, Result};

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
pub struct Config {
    values: Map<String, Value>,
    used: RefCell<BTreeSet<String>>,
    top_k_override: Option<usize>,
}

impl Config {
    /// Reads `path`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], [`Error::Json`], or [`Error::InvalidFile`] when it is no object.
    pub fn read(path: &Path) -> Result<Self> {
        match read_json(path, "config.json", CONFIG_LIMIT_BYTES)? {
            Value::Object(values) => Ok(Config::from_map(values)),
            other => Err(Error::InvalidFile {
                path: path.into(),
                reason: format!("expected a JSON object, got {}", kind(&other)),
            }),
        }
    }

    /// Wraps an object that is already parsed.
    pub fn from_map(values: Map<String, Value>) -> Self {
        Config { values, used: RefCell::default(), top_k_override: None }
    }

    /// Routes every token to `top_k` experts, whatever the file says.
    pub fn with_top_k(mut self, top_k: Option<usize>) -> Self {
        self.top_k_override = top_k;
        self
    }

    /// Experts that a token goes through: the override, or what stands under `key`.
    ///
    /// # Errors
    /// [`Error::TopK`] for an override that the layer cannot serve, [`Error::Config`] for such a file.
    pub fn top_k(&self, key: &str, n_experts: usize) -> Result<usize> {
        let configured = self.size_of(&[key], n_experts)?;
        match self.top_k_override {
            Some(requested) if !(1..=n_experts).contains(&requested) => {
                Err(Error::TopK { requested, n_experts })
            }
            Some(requested) => Ok(requested),
            None => Ok(configured),
        }
    }

    /// The value of `key`; `null` counts as absent.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.used.borrow_mut().insert(key.to_owned());
        self.values.get(key).filter(|v| !v.is_null())
    }

    /// The first of several spellings that is present, with its name.
    fn first<'k>(&self, keys: &[&'k str]) -> Option<(&'k str, &Value)> {
        let mut found = None;
        for &key in keys {
            let value = self.value(key);
            found = found.or(value.map(|v| (key, v)));
        }
        found
    }

    /// A size of at least 1 and at most `limit`, under the first spelling that is present.
    pub fn size_of(&self, keys: &[&str], limit: usize) -> Result<usize> {
        self.opt_size_of(keys, limit)?.ok_or_else(|| Error::config(keys[0], "missing"))
    }

    /// As [`Config::size_of`], `None` when absent.
    pub fn opt_size_of(&self, keys: &[&str], limit: usize) -> Result<Option<usize>> {
        let Some((key, value)) = self.first(keys) else { return Ok(None) };
        let size = value.as_u64().filter(|&n| n >= 1 && n <= limit as u64);
        match size {
            Some(size) => Ok(Some(size as usize)),
            None => {
                Err(Error::config(key, format!("expected a whole number from 1 to {limit}, got {value}")))
            }
        }
    }

    /// A width of activations: see [`MAX_WIDTH`].
    pub fn width(&self, key: &str) -> Result<usize> {
        self.size_of(&[key], MAX_WIDTH)
    }

    /// A whole number of at least 0.
    pub fn opt_count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let count = value.as_u64().and_then(|n| usize::try_from(n).ok());
        count.map(Some).ok_or_else(|| Error::config(key, format!("expected a whole number, got {value}")))
    }

    /// A finite number.
    pub fn opt_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number = value.as_f64().filter(|n| n.is_finite());
        number.map(Some).ok_or_else(|| Error::config(key, format!("expected a finite number, got {value}")))
    }

    /// A finite number above 0.
    pub fn opt_positive(&self, key: &str) -> Result<Option<f64>> {
        match self.opt_number(key)? {
            Some(n) if n <= 0.0 => Err(Error::config(key, format!("expected a number above 0, got {n}"))),
            other => Ok(other),
        }
    }

    /// A finite number above 0 that must be there.
    pub fn positive(&self, key: &str) -> Result<f64> {
        self.opt_positive(key)?.ok_or_else(|| Error::config(key, "missing"))
    }

    /// A truth value.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| Error::config(key, format!("expected true or false, got {value}"))),
        }
    }

    /// A text.
    pub fn opt_text(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .map(Some)
                .ok_or_else(|| Error::config(key, format!("expected a string, got {value}"))),
        }
    }

    /// An object, as a configuration of its own.
    pub fn opt_object(&self, key: &str) -> Result<Option<Config>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Config::from_map(map.clone()))),
            Some(other) => Err(Error::config(key, format!("expected an object, got {}", kind(other)))),
        }
    }

    /// A list, each element read by `read`; absent is empty.
    pub fn list<T>(&self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let wrong = |got: &Value| Error::config(key, format!("unexpected list element {got}"));
        let items = value
            .as_array()
            .ok_or_else(|| Error::config(key, format!("expected a list, got {}", kind(value))))?;
        items.iter().map(|item| read(item).ok_or_else(|| wrong(item))).collect::<Result<_>>().map(Some)
    }

    /// Marks keys as known not to matter.
    pub fn irrelevant(&self, keys: &[&str]) {
        self.used.borrow_mut().extend(keys.iter().map(|k| (*k).to_owned()));
    }

    /// Keys with a value that nobody asked for.
    pub fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        let known = |key: &str| used.contains(key) || IRRELEVANT.contains(&key);
        self.values.iter().filter(|(k, v)| !v.is_null() && !known(k)).map(|(k, _)| k.clone()).collect()
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
