//! One message of a conversation, as a template sees it.
//!
//! Invariants: fields keep the order in which they were given, and each name comes once.

use minijinja::value::{Value, ValueKind};

use super::json::Json;
use super::{Result, TextError};

/// The names under which reasoning has gone; the first is the standard one.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// One message of a conversation: who speaks, what was said, and whatever else a template may read.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    fields: Vec<(String, Json)>,
}

impl Message {
    /// A message of `role` (usually `system`, `user`, `assistant` or `tool`) without further fields.
    pub fn new(role: impl AsRef<str>, content: impl AsRef<str>) -> Self {
        let fields = [("role", Json::from(role.as_ref())), ("content", Json::from(content.as_ref()))];
        Self { fields: fields.map(|(name, value)| (name.to_owned(), value)).into() }
    }

    /// A message as applications write it: an object whose content may be text, a list of parts, null or absent,
    /// with further fields such as `tool_calls`.
    ///
    /// # Errors
    /// [`TextError::NotAMessage`] if `json` is no object.
    pub fn from_json(json: &Json) -> Result<Self> {
        let Json(object) = json;
        if object.kind() != ValueKind::Map {
            return Err(TextError::NotAMessage { got: object.kind().to_string() });
        }
        let keys = object.try_iter().into_iter().flatten();
        let fields = keys.filter_map(|key| Some((key.to_string(), Json(object.get_item(&key).ok()?))));
        Ok(Self { fields: fields.collect() })
    }

    /// The message with one more field, such as `tool_calls`, or with another value of one that it has.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Json>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.fields.push((name, value)),
        }
        self
    }

    /// The message as transformers hands it to a template: fields that are null are left out, and reasoning is found
    /// under each name that templates know.
    pub(super) fn to_value(&self) -> Value {
        let given = || self.fields.iter().filter(|(_, Json(value))| !value.is_none());
        let present = |name: &&str| given().find(|(key, _)| key == name);
        let reasoning = REASONING.iter().find_map(present).map(|(_, Json(value))| value.clone());
        let own = given().map(|(name, Json(value))| (name.clone(), value.clone()));
        let front = reasoning.clone().map(|value| ("thinking".to_owned(), value));
        let back = reasoning.map(|value| ("reasoning_content".to_owned(), value));
        // Of two with one name the later gives the value and the earlier the place.
        Value::from_pairs(front.into_iter().chain(own).chain(back))
    }
}
