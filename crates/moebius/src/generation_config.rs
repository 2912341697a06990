//! What generation_config.json adds to a model: where it stops, and how its authors sample.

use std::path::Path;

use moebius_engine::SamplingParams;
use serde_json::{Map, Value};

use crate::text::{TextError, read_object};

/// The part of generation_config.json that is used here.
#[derive(Debug)]
pub(crate) struct GenerationConfig {
    /// Ids that end a sequence.
    pub(crate) stop_tokens: Vec<u32>,
    /// How the model's authors sample, if they say so.
    pub(crate) sampling: Option<SamplingParams>,
}

impl GenerationConfig {
    /// Reads the file if it is there.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, TextError> {
        let path = dir.join("generation_config.json");
        let Some(values) = read_object(&path)? else { return Ok(None) };
        parse(&values).map(Some).map_err(|reason| TextError::BrokenFile { path, reason })
    }
}

fn parse(values: &Map<String, Value>) -> Result<GenerationConfig, String> {
    let stop_tokens = match present(values, "eos_token_id") {
        None => Vec::new(),
        Some(Value::Array(ids)) => ids.iter().map(token_id).collect::<Result<_, _>>()?,
        Some(id) => vec![token_id(id)?],
    };
    Ok(GenerationConfig { stop_tokens, sampling: sampling(values)? })
}

fn sampling(values: &Map<String, Value>) -> Result<Option<SamplingParams>, String> {
    let number = |key| read(values, key, "a number", |value| Some(value.as_f64()? as f32));
    let off = read(values, "do_sample", "true or false", Value::as_bool)? == Some(false);
    let top_k = read(values, "top_k", "a whole number", |value| usize::try_from(value.as_u64()?).ok())?;
    let (top_p, min_p, penalty) = (number("top_p")?, number("min_p")?, number("repetition_penalty")?);
    let Some(temperature) = number("temperature")? else { return Ok(None) };
    if off {
        return Ok(None);
    }
    let params = SamplingParams {
        temperature,
        top_k: top_k.filter(|k| *k > 0),
        top_p: top_p.unwrap_or(1.0),
        min_p: min_p.unwrap_or(0.0),
        repeat_penalty: penalty.unwrap_or(1.0),
        ..SamplingParams::default()
    };
    params.validate().map_err(|error| error.to_string())?;
    Ok(Some(params))
}

/// The value of `key`; `null` counts as absent.
fn present<'v>(values: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    values.get(key).filter(|value| !value.is_null())
}

fn read<T>(
    values: &Map<String, Value>,
    key: &str,
    expected: &str,
    convert: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, String> {
    let Some(value) = present(values, key) else { return Ok(None) };
    convert(value).map(Some).ok_or_else(|| unexpected(key, expected, value))
}

fn unexpected(key: &str, expected: &str, value: &Value) -> String {
    let got: String = value.to_string().chars().take(80).collect();
    format!("`{key}`: expected {expected}, got {got}")
}

fn token_id(value: &Value) -> Result<u32, String> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| unexpected("eos_token_id", "a token id or a list of them", value))
}
