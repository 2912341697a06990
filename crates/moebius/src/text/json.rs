//! JSON for chat templates: in, with the order of keys kept, and out, spelt as Python's `json.dumps`.
//!
//! Templates print tool descriptions and arguments of calls, and models were trained on Python's spelling:
//! a space after `,` and `:`, floats as `repr` gives them, text unescaped.
//!
//! Invariants: keys come out in the order in which they came in.

use std::fmt::Write;

use minijinja::Error;
use minijinja::value::{Rest, Value, ValueKind, ValueOrKwargs};
use serde::Deserialize;

use super::lazy::is_lazy;
use super::python::{bind, invalid};

/// A JSON value whose objects keep the order of their keys.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Json(pub(super) Value);

impl Json {
    /// Reads JSON text.
    ///
    /// # Errors
    /// What is wrong with the text and where.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self(Value::from(text))
    }
}

impl From<bool> for Json {
    fn from(flag: bool) -> Self {
        Self(Value::from(flag))
    }
}

/// The filter `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn tojson(value: Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let args = args.into_values();
    let named = bind(&args, ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let [ensure_ascii, indent, separators, sort_keys] =
        named.map(|option| option.filter(|option| !option.is_none() && !option.is_undefined()));
    let is_true = |option: &Option<Value>| option.as_ref().is_some_and(Value::is_true);
    let indent = indent.as_ref().map(indent_unit).transpose()?;
    let (item, key) = match separators {
        Some(pair) => separator_pair(&pair)?,
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let mut writer = Writer {
        out: String::new(),
        ascii: is_true(&ensure_ascii),
        indent,
        item,
        key,
        sort: is_true(&sort_keys),
        depth: 0,
    };
    writer.value(&value)?;
    Ok(writer.out)
}

/// What one level of indentation looks like: Python takes a width or the text itself.
fn indent_unit(indent: &Value) -> Result<String, Error> {
    /// Wider is no layout but a way to fill the memory.
    const WIDEST: i64 = 100;
    if let Some(unit) = indent.as_str() {
        return Ok(unit.to_owned());
    }
    let width =
        if indent.kind() == ValueKind::Bool { Some(i64::from(indent.is_true())) } else { indent.as_i64() };
    match width {
        Some(width) if width <= WIDEST => Ok(" ".repeat(usize::try_from(width).unwrap_or(0))),
        _ => Err(invalid(format!("`tojson`: expected an indent of at most {WIDEST}, got `{indent}`"))),
    }
}

fn separator_pair(pair: &Value) -> Result<(String, String), Error> {
    let parts: Vec<Value> = pair.try_iter()?.collect();
    match parts.as_slice() {
        [item, key] => Ok((item.to_string(), key.to_string())),
        _ => Err(invalid(format!("`tojson`: expected two separators, got {}", parts.len()))),
    }
}

struct Writer {
    out: String,
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
    depth: usize,
}

impl Writer {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable if !is_lazy(value) => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list('[', ']', &items, |writer, item| writer.value(item))?;
            }
            ValueKind::Map => self.map(value)?,
            kind => return Err(invalid(format!("`tojson`: {kind} is not JSON"))),
        }
        Ok(())
    }

    fn map(&mut self, value: &Value) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort {
            keys.sort();
        }
        self.list('{', '}', &keys, |writer, key| {
            match key.kind() {
                ValueKind::String => writer.string(key.as_str().unwrap_or_default()),
                ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                    writer.out.push('"');
                    writer.value(key)?;
                    writer.out.push('"');
                }
                kind => return Err(invalid(format!("`tojson`: {kind} is not a key of JSON"))),
            }
            writer.out.push_str(&writer.key);
            writer.value(&value.get_item(key)?)
        })
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        self.depth += 1;
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push_str(&self.item);
            }
            self.new_line();
            write(self, item)?;
        }
        self.depth -= 1;
        if !items.is_empty() {
            self.new_line();
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self) {
        if let Some(unit) = &self.indent {
            self.out.push('\n');
            (0..self.depth).for_each(|_| self.out.push_str(unit));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\0'..='\u{1f}' => self.escape(letter),
                '\u{7f}'.. if self.ascii => self.escape(letter),
                _ => self.out.push(letter),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, letter: char) {
        for unit in letter.encode_utf16(&mut [0; 2]) {
            write!(self.out, "\\u{unit:04x}").expect("a string takes all that is written");
        }
    }
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    f64::try_from(value.clone()).map(python_float)
}

/// A float as Python's `repr`: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("this format has an exponent");
    match exponent.parse::<i32>().expect("the exponent is a small integer") {
        exponent @ -4..16 => {
            let plain = value.to_string();
            if exponent >= 0 && !plain.contains('.') { format!("{plain}.0") } else { plain }
        }
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_spelt_as_in_python() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (f64::INFINITY, "Infinity"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(python_float(value), expected);
        }
    }

    #[test]
    fn keys_keep_their_order_and_text_its_letters() {
        let Json(value) = Json::parse(r#"{"z": [1, 2.0, null, true], "a": {"é\n\"": {}, "b": []}}"#).unwrap();
        assert_eq!(
            tojson(value, Rest(Vec::new())).unwrap(),
            r#"{"z": [1, 2.0, null, true], "a": {"é\n\"": {}, "b": []}}"#
        );
    }
}
