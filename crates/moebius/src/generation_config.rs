//! What generation_config.json adds to a model: where it stops, and how its authors sample.

use std::path::Path;

use moebius_engine::SamplingParams;
use serde::Deserialize;

use crate::text::TextError;

/// The part of generation_config.json that is used here.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct GenerationConfig {
    #[serde(default)]
    eos_token_id: Option<OneOrMany>,
    #[serde(default)]
    do_sample: Option<bool>,
    #[serde(default)]
    temperature: Option<f32>,
    #[serde(default)]
    top_p: Option<f32>,
    #[serde(default)]
    top_k: Option<usize>,
    #[serde(default)]
    min_p: Option<f32>,
    #[serde(default)]
    repetition_penalty: Option<f32>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl GenerationConfig {
    /// Reads the file if it is there.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, TextError> {
        let path = dir.join("generation_config.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(TextError::Io { path, source }),
        };
        match serde_json::from_str(&text) {
            Ok(config) => Ok(Some(config)),
            Err(error) => Err(TextError::BrokenFile { path, reason: error.to_string() }),
        }
    }

    /// Ids that end a sequence.
    pub(crate) fn stop_tokens(&self) -> Vec<u32> {
        match &self.eos_token_id {
            None => Vec::new(),
            Some(OneOrMany::One(id)) => vec![*id],
            Some(OneOrMany::Many(ids)) => ids.clone(),
        }
    }

    /// How the model's authors sample, if they say so.
    pub(crate) fn sampling(&self) -> Option<SamplingParams> {
        if self.do_sample == Some(false) {
            return None;
        }
        let temperature = self.temperature?;
        Some(SamplingParams {
            temperature,
            top_k: self.top_k.filter(|k| *k > 0),
            top_p: self.top_p.unwrap_or(1.0),
            min_p: self.min_p.unwrap_or(0.0),
            repeat_penalty: self.repetition_penalty.unwrap_or(1.0),
            ..SamplingParams::default()
        })
    }
}
