//! What a model in Ollama's store says beside its weights: how it is sampled, where it stops, and who it is told to be.
//!
//! Layers: `params` is a JSON object of Ollama's options, `system` a text.
//!
//! Invariants: a value that is used is of its type and in its range; what has no counterpart here is named, not dropped.

use std::fmt;

use moebius_engine::SamplingParams;
use serde_json::{Map, Value};

/// What a model in Ollama's store says beside its weights. What it does not say is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OllamaSettings {
    /// `temperature`.
    pub temperature: Option<f32>,
    /// `top_k`; 0 is all tokens.
    pub top_k: Option<usize>,
    /// `top_p`.
    pub top_p: Option<f32>,
    /// `min_p`.
    pub min_p: Option<f32>,
    /// `repeat_penalty`.
    pub repeat_penalty: Option<f32>,
    /// `repeat_last_n`; -1, the whole context, is the largest number.
    pub repeat_last_n: Option<usize>,
    /// `seed`, unless it is negative, which asks for any.
    pub seed: Option<u64>,
    /// `num_predict`, unless it is negative, which sets no limit.
    pub max_tokens: Option<usize>,
    /// `num_ctx`.
    pub context: Option<usize>,
    /// `stop`.
    pub stop: Vec<String>,
    /// The system message.
    pub system: Option<String>,
    /// Options and layers that have no counterpart here.
    pub unused: Vec<String>,
}

impl OllamaSettings {
    /// Reads the text of a `params` layer; or what is wrong, with expected and got.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        let mut options: Map<String, Value> = serde_json::from_slice(text)
            .map_err(|error| format!("expected an object of options: {error}"))?;
        let mut settings = OllamaSettings {
            temperature: number(&mut options, "temperature")?,
            top_p: number(&mut options, "top_p")?,
            min_p: number(&mut options, "min_p")?,
            repeat_penalty: number(&mut options, "repeat_penalty")?,
            top_k: whole(&mut options, "top_k")?.map(|n| usize::try_from(n).unwrap_or(0)),
            repeat_last_n: whole(&mut options, "repeat_last_n")?.map(|n| n.try_into().unwrap_or(usize::MAX)),
            seed: whole(&mut options, "seed")?.and_then(|n| n.try_into().ok()),
            max_tokens: whole(&mut options, "num_predict")?.and_then(|n| n.try_into().ok()),
            context: whole(&mut options, "num_ctx")?.and_then(|n| n.try_into().ok()).filter(|&n| n > 0),
            stop: texts(&mut options, "stop")?,
            ..OllamaSettings::default()
        };
        let sampling = settings.sampling(SamplingParams::default());
        sampling.validate().map_err(|error| error.to_string())?;
        settings.unused = options.into_iter().map(|(name, _)| format!("`{name}`")).collect();
        Ok(settings)
    }

    /// How to sample: as it says, and else as `own`.
    pub fn sampling(&self, own: SamplingParams) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature.unwrap_or(own.temperature),
            top_k: self.top_k.or(own.top_k),
            top_p: self.top_p.unwrap_or(own.top_p),
            min_p: self.min_p.unwrap_or(own.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(own.repeat_penalty),
            repeat_last_n: self.repeat_last_n.unwrap_or(own.repeat_last_n),
            seed: self.seed.unwrap_or(own.seed),
        }
    }
}

/// What is said, in words; empty when nothing is.
impl fmt::Display for OllamaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        let mut say =
            |name: &str, value: Option<String>| words.extend(value.map(|value| format!("{name} {value}")));
        say("temperature", self.temperature.map(|x| x.to_string()));
        say("top-k", self.top_k.map(|n| n.to_string()));
        say("top-p", self.top_p.map(|x| x.to_string()));
        say("min-p", self.min_p.map(|x| x.to_string()));
        say("repeat penalty", self.repeat_penalty.map(|x| x.to_string()));
        say("seed", self.seed.map(|n| n.to_string()));
        say("tokens", self.max_tokens.map(|n| n.to_string()));
        say("context", self.context.map(|n| n.to_string()));
        say("stops at", (!self.stop.is_empty()).then(|| format!("{:?}", self.stop)));
        say("a system message of", self.system.as_ref().map(|text| format!("{} bytes", text.len())));
        say("not used:", (!self.unused.is_empty()).then(|| self.unused.join(" ")));
        f.write_str(&words.join(", "))
    }
}

fn take<T>(
    options: &mut Map<String, Value>,
    name: &str,
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, String> {
    let Some(value) = options.remove(name).filter(|value| !value.is_null()) else { return Ok(None) };
    let got = || value.to_string().chars().take(80).collect::<String>();
    read(&value).map(Some).ok_or_else(|| format!("`{name}`: expected {expected}, got {}", got()))
}

fn number(options: &mut Map<String, Value>, name: &str) -> Result<Option<f32>, String> {
    take(options, name, "a number", |value| Some(value.as_f64()? as f32))
}

fn whole(options: &mut Map<String, Value>, name: &str) -> Result<Option<i64>, String> {
    take(options, name, "a whole number", Value::as_i64)
}

fn texts(options: &mut Map<String, Value>, name: &str) -> Result<Vec<String>, String> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let list = |value: &Value| match value {
        Value::Array(texts) => texts.iter().map(text).collect(),
        one => text(one).map(|text| vec![text]),
    };
    Ok(take(options, name, "a text or a list of texts", list)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_by_their_names_and_others_are_named() {
        let text = r#"{"temperature": 0.5, "top_k": 20, "top_p": 0.9, "min_p": 0, "repeat_penalty": 1.1, "num_ctx": 4096,
            "num_predict": -1, "repeat_last_n": -1, "seed": 7, "stop": ["<a>", "b"], "mirostat": 1, "num_gpu": 99}"#;
        let settings = OllamaSettings::read(text.as_bytes()).unwrap();
        let own = SamplingParams { min_p: 0.3, ..SamplingParams::default() };
        let expected = SamplingParams {
            temperature: 0.5,
            top_k: Some(20),
            top_p: 0.9,
            min_p: 0.0,
            repeat_penalty: 1.1,
            repeat_last_n: usize::MAX,
            seed: 7,
        };
        assert_eq!(settings.sampling(own), expected);
        assert_eq!((settings.context, settings.max_tokens), (Some(4096), None));
        assert_eq!(settings.stop, ["<a>", "b"]);
        assert_eq!(settings.unused, ["`mirostat`", "`num_gpu`"]);
        assert!(
            settings.to_string().contains("top-k 20")
                && settings.to_string().ends_with("`mirostat` `num_gpu`")
        );
    }

    #[test]
    fn what_is_not_said_stays_as_it_is() {
        let settings = OllamaSettings::read(b"{}").unwrap();
        let own = SamplingParams { temperature: 0.7, top_k: Some(3), ..SamplingParams::default() };
        assert_eq!(settings.sampling(own.clone()), own);
        assert_eq!(
            (settings, String::new()),
            (OllamaSettings::default(), OllamaSettings::default().to_string())
        );
    }

    #[test]
    fn values_of_another_kind_or_out_of_range_are_refused() {
        for (text, expected) in [
            ("[]", "expected an object of options"),
            (r#"{"temperature": "hot"}"#, "`temperature`: expected a number, got \"hot\""),
            (r#"{"top_k": 1.5}"#, "`top_k`: expected a whole number, got 1.5"),
            (r#"{"stop": [1]}"#, "`stop`: expected a text or a list of texts, got [1]"),
            (r#"{"stop": ""}"#, "`stop`: expected"),
            (r#"{"top_p": 2}"#, "invalid `top_p`"),
            (r#"{"temperature": 1e300}"#, "invalid `temperature`"),
        ] {
            let error = OllamaSettings::read(text.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
