//! JSON as Python writes it: with bare infinities, such as the step limits of state spaces in published configurations.

use serde_json::Value;

/// What transformers 5 writes in place of a bare one.
const SPELLED: &str = r#"{"__float__": "Infinity"}"#;
const BARE: &str = "Infinity";

/// Parses a text whose values may be infinite; these become objects with a `__float__`.
///
/// # Errors
/// Those of the text as it stands.
pub(crate) fn parse(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text).or_else(|error| serde_json::from_str(&spelled(text)).map_err(|_| error))
}

/// The text with infinities outside of strings spelled out.
fn spelled(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let (mut within, mut rest) = (false, text);
    while let Some(next) = rest.chars().next() {
        let taken = match next {
            '\\' if within => rest.chars().take(2).map(char::len_utf8).sum(),
            'I' if !within && rest.starts_with(BARE) => {
                result.push_str(SPELLED);
                rest = &rest[BARE.len()..];
                continue;
            }
            _ => next.len_utf8(),
        };
        within ^= next == '"';
        result.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bare_infinity_is_one_that_is_spelled_out() {
        let read = parse(r#"{"limits": [0.0, Infinity], "name": "\"Infinity\", a word"}"#).unwrap();
        assert_eq!(read, json!({"limits": [0.0, {"__float__": "Infinity"}], "name": "\"Infinity\", a word"}));
    }

    #[test]
    fn errors_are_those_of_the_text_as_it_stands() {
        let text = r#"{"limits": [0.0, Infinity], "broken": }"#;
        let error = parse(text).unwrap_err();
        assert_eq!((error.line(), error.column()), (1, 18));
        assert!(parse(r#"{"limit": -Infinity}"#).is_err());
    }
}
