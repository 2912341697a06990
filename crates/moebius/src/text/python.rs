//! Python's methods of strings, lists and dictionaries, as far as templates call them, and Python's slices.
//!
//! Positions count characters. What differs on purpose: letters are classed by Rust's tables (`isdigit` takes
//! every numeric letter, title case is upper case); `format` takes no conversions such as `!r`, no fields within
//! fields, and of presentations those of texts and plain numbers; `encode`, `translate` and `expandtabs` are unknown, and
//! so are methods that change what they are called on, which transformers forbids as well.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

use super::dialect::SLICE;
use super::lazy::View;

type Result<T> = std::result::Result<T, Error>;

/// What minijinja asks when a value has no method of the name.
pub(super) fn method(_: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    if name == SLICE {
        return slice(value, args);
    }
    match value.kind() {
        ValueKind::String => string(value.as_str().unwrap_or_default(), name, args),
        ValueKind::Map => map(value, name, args),
        ValueKind::Seq | ValueKind::Iterable => list(value, name, args),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

/// `text` as Python's `repr` spells it.
pub(super) fn write_quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter == quote || letter == '\\' => out.extend(['\\', letter]),
            letter if is_printable(letter) => out.push(letter),
            letter => out.push_str(&match u32::from(letter) {
                code @ ..0x100 => format!("\\x{code:02x}"),
                code @ ..0x1_0000 => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
}

/// Neither a control nor a separator other than the space, and assigned.
fn is_printable(letter: char) -> bool {
    // Rust leaves these alone in a text for the same reasons, as long as they are not the first letter.
    matches!(letter, '"' | '\'' | '\\') || format!("a{letter}").escape_debug().count() == 2
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// The arguments of a call by their names, given in order or by name.
pub(super) fn bind<const N: usize>(args: &[Value], names: [&str; N]) -> Result<[Option<Value>; N]> {
    let (positional, named) = from_args::<(&[Value], Kwargs)>(args)?;
    if positional.len() > N {
        return Err(invalid(format!("expected at most {N} arguments, got {}", positional.len())));
    }
    let mut bound = [const { None }; N];
    for (index, name) in names.iter().enumerate() {
        bound[index] = match positional.get(index) {
            Some(value) => Some(value.clone()),
            None => named.get::<Option<Value>>(name)?,
        };
    }
    named.assert_all_used()?;
    Ok(bound)
}

fn required(argument: &Option<Value>) -> Result<&Value> {
    argument.as_ref().ok_or_else(|| ErrorKind::MissingArgument.into())
}

fn text(argument: &Value) -> Result<&str> {
    argument.as_str().ok_or_else(|| invalid(format!("expected a string, got {}", argument.kind())))
}

/// A whole number, where none and nothing mean that there is none.
fn number(argument: &Option<Value>) -> Result<Option<i64>> {
    match argument {
        Some(value) if !value.is_none() => i64::try_from(value.clone()).map(Some),
        _ => Ok(None),
    }
}

fn is_space(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\u{1c}'..='\u{1f}')
}

fn is_cased(letter: char) -> bool {
    letter.is_lowercase() || letter.is_uppercase()
}

fn string(of: &str, name: &str, args: &[Value]) -> Result<Value> {
    Ok(match name {
        "upper" | "lower" | "title" | "capitalize" | "swapcase" | "casefold" => cased(of, name, args)?.into(),
        "strip" | "lstrip" | "rstrip" => stripped(of, name, args)?.into(),
        "removeprefix" | "removesuffix" => {
            let [affix] = bind(args, ["affix"])?;
            let affix = text(required(&affix)?)?;
            let short = if name == "removeprefix" { of.strip_prefix(affix) } else { of.strip_suffix(affix) };
            short.unwrap_or(of).into()
        }
        "split" | "rsplit" => split(of, name == "rsplit", args)?,
        "splitlines" => lines(of, args)?,
        "partition" | "rpartition" => partition(of, name == "rpartition", args)?,
        "replace" => {
            let [old, new, count] = bind(args, ["old", "new", "count"])?;
            let (old, new) = (text(required(&old)?)?, text(required(&new)?)?);
            replace(of, old, new, number(&count)?).into()
        }
        "find" | "rfind" | "index" | "rindex" | "count" | "startswith" | "endswith" => {
            search(of, name, args)?
        }
        "join" => {
            let [items] = bind(args, ["iterable"])?;
            let items = super::filters::iterate(required(&items)?)?;
            let items: Vec<&str> = items.iter().map(text).collect::<Result<_>>()?;
            items.join(of).into()
        }
        "format" => format(FormatStyle::StrFormat, of, args)?.into(),
        "center" | "ljust" | "rjust" | "zfill" => padded(of, name, args)?.into(),
        _ => is(of, name, args)?.into(),
    })
}

fn cased(of: &str, name: &str, args: &[Value]) -> Result<String> {
    let [] = bind(args, [])?;
    Ok(match name {
        "upper" => of.to_uppercase(),
        "lower" => of.to_lowercase(),
        "casefold" => of.to_lowercase().replace('ß', "ss").replace('ſ', "s"),
        "capitalize" => {
            let mut letters = of.chars();
            let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
            first + &letters.as_str().to_lowercase()
        }
        "swapcase" => {
            let swap = |letter: char| {
                let text = letter.to_string();
                if letter.is_uppercase() { text.to_lowercase() } else { text.to_uppercase() }
            };
            of.chars().map(swap).collect()
        }
        _ => {
            let mut inside = false;
            let mut title = String::with_capacity(of.len());
            for letter in of.chars() {
                if inside {
                    title.extend(letter.to_lowercase());
                } else {
                    title.extend(letter.to_uppercase());
                }
                inside = is_cased(letter);
            }
            title
        }
    })
}

fn stripped<'a>(of: &'a str, name: &str, args: &[Value]) -> Result<&'a str> {
    let [letters] = bind(args, ["chars"])?;
    let letters = match &letters {
        Some(letters) if !letters.is_none() => Some(text(letters)?),
        _ => None,
    };
    let goes = |letter: char| letters.map_or_else(|| is_space(letter), |letters| letters.contains(letter));
    let start = if name == "rstrip" { of } else { of.trim_start_matches(goes) };
    Ok(if name == "lstrip" { start } else { start.trim_end_matches(goes) })
}

fn strings<'a>(parts: impl IntoIterator<Item = &'a str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

fn split(of: &str, from_right: bool, args: &[Value]) -> Result<Value> {
    let [separator, most] = bind(args, ["sep", "maxsplit"])?;
    let most = number(&most)?.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let separator = match &separator {
        Some(separator) if !separator.is_none() => text(separator)?,
        _ => return Ok(strings(words(of, from_right, most))),
    };
    if separator.is_empty() {
        return Err(invalid("`split`: empty separator"));
    }
    Ok(if from_right {
        let mut parts: Vec<&str> = of.rsplitn(most.saturating_add(1), separator).collect();
        parts.reverse();
        strings(parts)
    } else {
        strings(of.splitn(most.saturating_add(1), separator))
    })
}

/// Splits where there is white space; what is left after the last split keeps its own.
fn words(of: &str, from_right: bool, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let trim = |text: &'_ str| -> (usize, usize) {
        let start = text.len() - text.trim_start_matches(is_space).len();
        (start, text.trim_end_matches(is_space).len())
    };
    let mut rest = of;
    loop {
        let (start, end) = trim(rest);
        rest = if from_right { &rest[..end] } else { &rest[start..] };
        if rest.is_empty() {
            break;
        }
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        match cut {
            Some(at) if parts.len() < most => {
                let width = rest[at..].chars().next().map_or(1, char::len_utf8);
                parts.push(if from_right { &rest[at + width..] } else { &rest[..at] });
                rest = if from_right { &rest[..at] } else { &rest[at + width..] };
            }
            _ => {
                parts.push(rest);
                break;
            }
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

fn lines(of: &str, args: &[Value]) -> Result<Value> {
    let [keep] = bind(args, ["keepends"])?;
    let keep = keep.is_some_and(|keep| keep.is_true());
    let mut parts = Vec::new();
    let mut rest = of;
    let is_break =
        |letter| matches!(letter, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    while let Some(at) = rest.find(is_break) {
        let width = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        parts.push(&rest[..if keep { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    Ok(strings(parts))
}

fn partition(of: &str, from_right: bool, args: &[Value]) -> Result<Value> {
    let [separator] = bind(args, ["sep"])?;
    let separator = text(required(&separator)?)?;
    if separator.is_empty() {
        return Err(invalid("`partition`: empty separator"));
    }
    let found = if from_right { of.rsplit_once(separator) } else { of.split_once(separator) };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", of],
        None => [of, "", ""],
    };
    Ok(Tuple::from(parts.map(Value::from)).into())
}

pub(super) fn replace(of: &str, old: &str, new: &str, count: Option<i64>) -> String {
    match count.and_then(|count| usize::try_from(count).ok()) {
        Some(count) => of.replacen(old, new, count),
        None => of.replace(old, new),
    }
}

/// Methods that look for text between two positions.
fn search(of: &str, name: &str, args: &[Value]) -> Result<Value> {
    let [what, start, end] = bind(args, ["sub", "start", "end"])?;
    let what = required(&what)?;
    let length = of.chars().count();
    let place = |index: i64| -> usize {
        let index = if index < 0 { index.saturating_add(length as i64) } else { index };
        usize::try_from(index).unwrap_or(0)
    };
    let start = number(&start)?.map_or(0, place);
    let end = number(&end)?.map_or(length, place).min(length);
    let byte = |index: usize| of.char_indices().nth(index).map_or(of.len(), |(at, _)| at);
    let window = if start <= end { Some(&of[byte(start)..byte(end)]) } else { None };
    if matches!(name, "startswith" | "endswith") {
        let affixes = if what.is_tuple() { what.try_iter()?.collect() } else { vec![what.clone()] };
        let mut found = false;
        for affix in &affixes {
            let affix = text(affix)?;
            let fits = |of: &str| {
                if name == "startswith" { of.starts_with(affix) } else { of.ends_with(affix) }
            };
            found |= window.is_some_and(fits);
        }
        return Ok(found.into());
    }
    let what = text(what)?;
    if name == "count" {
        return Ok(window.map_or(0, |of| of.matches(what).count()).into());
    }
    let at = window.and_then(|of| {
        let at = if name.starts_with('r') { of.rfind(what) } else { of.find(what) }?;
        Some(start + of[..at].chars().count())
    });
    match at {
        Some(at) => Ok(at.into()),
        None if name.ends_with("find") => Ok((-1).into()),
        None => Err(invalid(format!("`{name}`: `{what}` is not found"))),
    }
}

fn padded(of: &str, name: &str, args: &[Value]) -> Result<String> {
    /// Wider is no layout but a way to fill the memory.
    const WIDEST: i64 = 10_000;
    let [width, fill] = bind(args, ["width", "fillchar"])?;
    let width = number(&width)?.ok_or(ErrorKind::MissingArgument)?;
    if width > WIDEST {
        return Err(invalid(format!("`{name}`: expected a width of at most {WIDEST}, got {width}")));
    }
    let fill = fill.as_ref().map(text).transpose()?.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(invalid(format!("`{name}`: expected one letter to fill with, got `{fill}`")));
    }
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(of.chars().count());
    Ok(match name {
        "ljust" => of.to_owned() + &fill.repeat(missing),
        "rjust" => fill.repeat(missing) + of,
        "center" => {
            let left = missing / 2 + (missing & width & 1);
            fill.repeat(left) + of + &fill.repeat(missing - left)
        }
        _ => {
            let sign = usize::from(of.starts_with(['-', '+']));
            of[..sign].to_owned() + &"0".repeat(missing) + &of[sign..]
        }
    })
}

/// Questions about all letters of a text.
fn is(of: &str, name: &str, args: &[Value]) -> Result<bool> {
    let all = |test: fn(char) -> bool| !of.is_empty() && of.chars().all(test);
    let answer = match name {
        "isspace" => all(is_space),
        "isdigit" | "isnumeric" | "isdecimal" => all(char::is_numeric),
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => of.is_ascii(),
        "isprintable" => of.chars().all(is_printable),
        "islower" => of.chars().any(is_cased) && !of.chars().any(char::is_uppercase),
        "isupper" => of.chars().any(is_cased) && !of.chars().any(char::is_lowercase),
        "istitle" => of.chars().any(is_cased) && cased(of, "title", &[])? == of,
        "isidentifier" => {
            let word = |letter: char| letter.is_alphanumeric() || letter == '_';
            of.chars().all(word) && of.chars().next().is_some_and(|first| !first.is_numeric())
        }
        _ => return Err(ErrorKind::UnknownMethod.into()),
    };
    let [] = bind(args, [])?;
    Ok(answer)
}

fn map(of: &Value, name: &str, args: &[Value]) -> Result<Value> {
    let pairs = || -> Result<Vec<(Value, Value)>> {
        of.try_iter()?.map(|key| Ok((key.clone(), of.get_item(&key)?))).collect()
    };
    match name {
        "get" => {
            let [key, default] = bind(args, ["key", "default"])?;
            let found = of.get_item(required(&key)?)?;
            Ok(if found.is_undefined() { default.unwrap_or_else(|| ().into()) } else { found })
        }
        "keys" | "values" | "items" | "copy" => {
            let [] = bind(args, [])?;
            let pairs = pairs()?;
            Ok(match name {
                "keys" => View::value("dict_keys", pairs.into_iter().map(|(key, _)| key)),
                "values" => View::value("dict_values", pairs.into_iter().map(|(_, value)| value)),
                "items" => {
                    let pair = |(key, value)| Tuple::from([key, value]).into();
                    View::value("dict_items", pairs.into_iter().map(pair))
                }
                _ => Value::from_pairs(pairs),
            })
        }
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn list(of: &Value, name: &str, args: &[Value]) -> Result<Value> {
    match name {
        "count" | "index" => {
            let [what] = bind(args, ["value"])?;
            let what = required(&what)?;
            let mut items = of.try_iter()?;
            if name == "count" {
                return Ok(items.filter(|item| item == what).count().into());
            }
            let at = items.position(|item| item == *what);
            at.map(Value::from).ok_or_else(|| invalid(format!("`index`: {what} is not in the list")))
        }
        "copy" => {
            let [] = bind(args, [])?;
            Ok(of.try_iter()?.collect())
        }
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

/// `value[start:stop:step]`, where none stands for what is left out.
fn slice(value: &Value, args: &[Value]) -> Result<Value> {
    let [start, stop, step] = bind(args, ["start", "stop", "step"])?;
    let (start, stop, step) = (number(&start)?, number(&stop)?, number(&step)?.unwrap_or(1));
    let letters = value.as_str().map(|text| text.chars().map(Value::from).collect::<Vec<_>>());
    let items = match (value.kind(), letters) {
        (_, Some(letters)) => letters,
        (ValueKind::Seq | ValueKind::Iterable, _) => value.try_iter()?.collect(),
        (kind, _) => return Err(invalid(format!("{kind} cannot be sliced"))),
    };
    if step == 0 {
        return Err(invalid("the step of a slice cannot be 0"));
    }
    let length = items.len() as i64;
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place = |index: i64| {
        let index = if index < 0 { index.saturating_add(length) } else { index };
        index.clamp(lowest, highest)
    };
    let first = start.map_or(if step > 0 { lowest } else { highest }, place);
    let end = stop.map_or(if step > 0 { highest } else { lowest }, place);
    let mut picked = Vec::new();
    let mut at = first;
    while if step > 0 { at < end } else { at > end } {
        picked.push(items[usize::try_from(at).expect("indices are clamped to the list")].clone());
        at = at.saturating_add(step);
    }
    Ok(match value {
        _ if value.as_str().is_some() => picked.iter().filter_map(Value::as_str).collect::<String>().into(),
        _ if value.is_tuple() => Tuple::from(picked).into(),
        _ => picked.into(),
    })
}
