//! Filters, tests and spellings in which minijinja differs from jinja2, as jinja2 has them.
//!
//! What differs on purpose: `random` and `lipsum` are unknown, so that the same conversation gives the same text;
//! `wordcount`, `wordwrap`, `center`, `urlencode`, `xmlattr`, `pprint` and `filesizeformat` are unknown too. `sort` and
//! `dictsort` put kinds of values one after the other where Python raises, `attr` also finds keys, `unique` tells true
//! from 1, and `format` knows neither `%r` nor `%c` nor too many arguments.

use minijinja::filters as builtin;
use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::{filters as contrib, globals};

use super::dialect::ITERATE;
use super::json::{python_float, tojson};
use super::lazy::{Cycler, Generator, is_lazy};
use super::python::{bind, invalid, replace as replaced, write_quoted};

type Result<T> = std::result::Result<T, Error>;
type Args = Rest<ValueOrKwargs>;

/// Puts them into `environment`, and takes out what jinja2 has no name for.
pub(super) fn install(environment: &mut Environment<'_>) {
    for name in ["split", "lines", "bool", "zip", "chain"] {
        environment.remove_filter(name);
    }
    environment.add_filter("tojson", tojson);
    for name in ["length", "count"] {
        environment.add_filter(name, length);
    }
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, escape);
    }
    environment.add_filter("string", |value: &Value| spelt(value));
    environment.add_filter("list", |value: &Value| iterate(value));
    environment.add_filter("first", |value: &Value| -> Result<_> { Ok(end(iterate(value)?.first())) });
    environment.add_filter("last", |value: &Value| -> Result<_> { Ok(end(iterate(value)?.last())) });
    environment.add_filter("items", items);
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("reverse", reverse);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("replace", replace);
    environment.add_filter("indent", indent);
    environment.add_filter("join", join);
    for name in ["default", "d"] {
        environment.add_filter(name, default);
    }
    environment.add_filter("sort", |state: &State<'_, '_>, value: Value, args: Args| {
        builtin::sort(state, value, by_name(args, ["reverse", "case_sensitive", "attribute"])?)
    });
    environment.add_filter("truncate", |state: &mut State<'_, '_>, value: &Value, args: Args| {
        contrib::truncate(state, value, by_name(args, ["length", "killwords", "end", "leeway"])?)
    });
    environment.add_filter("striptags", contrib::striptags);
    install_generators(environment);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("callable", |value: &Value| {
        matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined)
    });
    environment.add_function("cycler", Cycler::value);
    environment.add_function("joiner", globals::joiner);
    environment.add_function(ITERATE, loop_items);
    environment.set_formatter(|out, _, value| {
        out.write_str(&spelt(value)).map_err(|_| invalid("the text cannot be written"))
    });
}

/// Filters that give generators in Python, on top of minijinja's own.
fn install_generators(environment: &mut Environment<'_>) {
    fn listed(value: Value) -> Result<Value> {
        iterate(&value).map(Value::from)
    }
    /// As in jinja2, these filters find nothing in what is false, be it none.
    fn listed_if_true(value: Value) -> Result<Value> {
        if value.is_true() { listed(value) } else { Ok(Value::from(Vec::<Value>::new())) }
    }
    type Name<'a> = Option<std::borrow::Cow<'a, str>>;
    environment.add_filter("map", |state: &mut State<'_, '_>, value: Value, args: Args| {
        builtin::map(state, listed_if_true(value)?, args).map(Generator::value)
    });
    environment.add_filter(
        "select",
        |state: &mut State<'_, '_>, value: Value, test: Name<'_>, args: Args| {
            builtin::select(state, listed_if_true(value)?, test, args).map(Generator::value)
        },
    );
    environment.add_filter(
        "reject",
        |state: &mut State<'_, '_>, value: Value, test: Name<'_>, args: Args| {
            builtin::reject(state, listed_if_true(value)?, test, args).map(Generator::value)
        },
    );
    environment.add_filter(
        "selectattr",
        |state: &mut State<'_, '_>, value: Value, attribute: String, test: Name<'_>, args: Args| {
            builtin::selectattr(state, listed_if_true(value)?, attribute.into(), test, args)
                .map(Generator::value)
        },
    );
    environment.add_filter(
        "rejectattr",
        |state: &mut State<'_, '_>, value: Value, attribute: String, test: Name<'_>, args: Args| {
            builtin::rejectattr(state, listed_if_true(value)?, attribute.into(), test, args)
                .map(Generator::value)
        },
    );
    environment.add_filter("unique", |state: &State<'_, '_>, value: Value, named: Kwargs| {
        iterate(&builtin::unique(state, listed(value)?, named)?).map(Generator::value)
    });
    environment.add_filter(
        "batch",
        |state: &State<'_, '_>, value: Value, count: usize, fill: Option<Value>| {
            iterate(&builtin::batch(state, listed(value)?, count, fill)?).map(Generator::value)
        },
    );
}

/// What is in `value`: in none there is an error, in what is undefined there is nothing.
pub(super) fn iterate(value: &Value) -> Result<Vec<Value>> {
    if value.is_none() {
        return Err(invalid("none is not iterable"));
    }
    Ok(match value.as_str() {
        Some(text) => text.chars().map(Value::from).collect(),
        None => value.try_iter()?.collect(),
    })
}

/// What a loop walks over: lists and the like as they are, text as a list of its letters.
fn loop_items(mut values: Rest<Value>) -> Result<Value> {
    let Some(value) = values.pop() else { return Err(invalid("a loop has nothing to walk over")) };
    if !values.is_empty() {
        values.push(value);
        return Ok(Tuple::from(std::mem::take(&mut values.0)).into());
    }
    if value.is_none() || value.as_str().is_some() { iterate(&value).map(Value::from) } else { Ok(value) }
}

fn end(item: Option<&Value>) -> Value {
    item.cloned().unwrap_or(Value::UNDEFINED)
}

/// As in Python, nothing at all is in what is undefined, and generators do not know.
fn length(value: &Value) -> Result<usize> {
    let known = if value.is_undefined() { Some(0) } else { value.len() };
    known.ok_or_else(|| invalid(format!("cannot calculate length of value of type {}", value.kind())))
}

/// As in Python, none is not, while what is undefined and strings are.
fn is_iterable(value: &Value) -> bool {
    let kind = value.kind();
    matches!(kind, ValueKind::Undefined | ValueKind::String | ValueKind::Map)
        || matches!(kind, ValueKind::Seq | ValueKind::Iterable)
}

/// As in Python, whatever has a length and elements by a key.
fn is_sequence(value: &Value) -> bool {
    is_iterable(value) && !is_lazy(value)
}

/// `value` as Python's `str` spells it.
fn spelt(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        _ => {
            let mut text = String::new();
            write_repr(value, &mut text);
            text
        }
    }
}

fn write_repr(value: &Value, out: &mut String) {
    let mut list = |open: &str, items: &[Value], close: &str| {
        out.push_str(open);
        for (index, item) in items.iter().enumerate() {
            out.push_str(if index > 0 { ", " } else { "" });
            write_repr(item, out);
        }
        out.push_str(close);
    };
    let items = || value.try_iter().into_iter().flatten().collect::<Vec<_>>();
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number if !value.is_integer() => {
            let number = f64::try_from(value.clone()).unwrap_or(f64::NAN);
            out.push_str(&match number {
                number if number.is_nan() => "nan".to_owned(),
                number if number.is_infinite() => if number > 0.0 { "inf" } else { "-inf" }.to_owned(),
                number => python_float(number),
            });
        }
        ValueKind::Seq | ValueKind::Iterable if !is_lazy(value) => {
            let items = items();
            match (value.is_tuple(), items.len()) {
                (true, 1) => list("(", &items, ",)"),
                (true, _) => list("(", &items, ")"),
                _ => list("[", &items, "]"),
            }
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in items().iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(key, out);
                out.push_str(": ");
                write_repr(&value.get_item(key).unwrap_or_default(), out);
            }
            out.push('}');
        }
        ValueKind::String => write_quoted(value.as_str().unwrap_or_default(), out),
        _ => out.push_str(&value.to_string()),
    }
}

fn escape(value: &Value) -> String {
    let mut out = String::new();
    for letter in spelt(value).chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            letter => out.push(letter),
        }
    }
    out
}

fn items(value: &Value) -> Result<Value> {
    if value.is_undefined() {
        return Ok(Generator::value(Vec::new()));
    }
    if value.kind() != ValueKind::Map {
        return Err(invalid("can only get item pairs from a mapping"));
    }
    Ok(Generator::value(
        pairs(value)?.into_iter().map(|(key, item)| Tuple::from([key, item]).into()).collect(),
    ))
}

fn pairs(value: &Value) -> Result<Vec<(Value, Value)>> {
    value.try_iter()?.map(|key| Ok((key.clone(), value.get_item(&key)?))).collect()
}

/// `dictsort(case_sensitive=false, by='key', reverse=false)`
fn dictsort(value: &Value, args: Args) -> Result<Value> {
    let args = args.into_values();
    let [case_sensitive, by, reverse] = bind(&args, ["case_sensitive", "by", "reverse"])?;
    let is_true = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let (case_sensitive, reverse) = (is_true(case_sensitive), is_true(reverse));
    let by_value = match by.as_ref().map(|by| by.as_str()) {
        None | Some(Some("key")) => false,
        Some(Some("value")) => true,
        Some(_) => return Err(invalid("`dictsort`: expected `key` or `value`")),
    };
    if value.kind() != ValueKind::Map {
        return Err(invalid(format!("`dictsort`: {} is no dictionary", value.kind())));
    }
    let mut pairs = pairs(value)?;
    pairs.sort_by_cached_key(|(key, item)| {
        let chosen = if by_value { item } else { key };
        match chosen.as_str() {
            Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
            _ => chosen.clone(),
        }
    });
    if reverse {
        pairs.reverse();
    }
    Ok(pairs.into_iter().map(|(key, item)| Value::from(Tuple::from([key, item]))).collect())
}

fn reverse(value: &Value) -> Result<Value> {
    let mut items = iterate(value)?;
    items.reverse();
    Ok(match value.as_str() {
        Some(_) => items.iter().filter_map(Value::as_str).collect::<String>().into(),
        None => Generator::value(items),
    })
}

/// `int(default=0, base=10)`: text that is no number gives the default.
fn int(value: &Value, args: Args) -> Result<Value> {
    let args = args.into_values();
    let [default, base] = bind(&args, ["default", "base"])?;
    let default = default.unwrap_or_else(|| 0.into());
    defined(value)?;
    let base = base.map(u32::try_from).transpose()?.unwrap_or(10);
    if !matches!(base, 0 | 2..=36) {
        return Err(invalid(format!("`int`: expected a base from 2 to 36, got {base}")));
    }
    Ok(match value.kind() {
        ValueKind::Bool => i64::from(value.is_true()).into(),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => truncated(f64::try_from(value.clone())?).unwrap_or(default),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default().trim().replace('_', "");
            whole(&text, base).or_else(|| text.parse().ok().and_then(truncated)).unwrap_or(default)
        }
        _ => default,
    })
}

/// Python makes no number of what is undefined.
fn defined(value: &Value) -> Result<()> {
    if value.is_undefined() { Err(invalid("what is undefined is no number")) } else { Ok(()) }
}

fn truncated(number: f64) -> Option<Value> {
    number.is_finite().then(|| Value::from(number.trunc() as i128)).map(|whole| match whole.as_i64() {
        Some(small) => small.into(),
        None => whole,
    })
}

fn whole(text: &str, base: u32) -> Option<Value> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_lowercase();
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find(|(prefix, of)| (base == 0 || base == *of) && lower.starts_with(prefix));
    let (digits, base) = match prefixed {
        Some((_, of)) => (&lower[2..], of),
        None => (lower.as_str(), if base == 0 { 10 } else { base }),
    };
    if digits.starts_with(['-', '+']) {
        return None;
    }
    let number = i128::from_str_radix(digits, base).ok()?;
    let number = if negative { -number } else { number };
    Some(i64::try_from(number).map_or_else(|_| Value::from(number), Value::from))
}

/// `float(default=0.0)`: text that is no number gives the default.
fn float(value: &Value, default: Option<Value>) -> Result<Value> {
    defined(value)?;
    let number = match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        ValueKind::String => value.as_str().unwrap_or_default().trim().replace('_', "").parse().ok(),
        _ => None,
    };
    Ok(number.map_or_else(|| default.unwrap_or_else(|| 0.0.into()), Value::from))
}

/// `default(default_value='', boolean=false)`
fn default(value: Value, args: Args) -> Result<Value> {
    let args = args.into_values();
    let [default, boolean] = bind(&args, ["default_value", "boolean"])?;
    let lacks = value.is_undefined() || (boolean.is_some_and(|flag| flag.is_true()) && !value.is_true());
    Ok(if lacks { default.unwrap_or_else(|| "".into()) } else { value })
}

/// The arguments of a call all by their names, for filters of minijinja's that want them so.
fn by_name<const N: usize>(args: Args, names: [&'static str; N]) -> Result<Kwargs> {
    let given = bind(&args.into_values(), names)?;
    Ok(names.into_iter().zip(given).filter_map(|(name, value)| Some((name, value?))).collect())
}

/// `replace(old, new, count=none)`
fn replace(value: &Value, args: Args) -> Result<String> {
    let args = args.into_values();
    let [old, new, count] = bind(&args, ["old", "new", "count"])?;
    let (Some(old), Some(new)) = (old, new) else { return Err(ErrorKind::MissingArgument.into()) };
    let count = count.filter(|count| !count.is_none()).map(i64::try_from).transpose()?;
    Ok(replaced(&spelt(value), &spelt(&old), &spelt(&new), count))
}

/// `indent(width=4, first=false, blank=false)`, where the width may be the text itself.
fn indent(value: &Value, args: Args) -> Result<String> {
    /// Wider is no layout but a way to fill the memory.
    const WIDEST: usize = 1000;
    let args = args.into_values();
    let [width, first, blank] = bind(&args, ["width", "first", "blank"])?;
    let is_true = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let (first, blank) = (is_true(first), is_true(blank));
    let unit = match width.as_ref().map(|width| (width.as_str(), width)) {
        None => " ".repeat(4),
        Some((Some(unit), _)) => unit.to_owned(),
        Some((None, width)) => match width.as_usize() {
            Some(width) if width <= WIDEST => " ".repeat(width),
            _ => return Err(invalid(format!("`indent`: expected a width of at most {WIDEST}, got {width}"))),
        },
    };
    let text = spelt(value);
    let lines = text.split('\n').enumerate().map(|(index, line)| {
        let indented = if index == 0 { first } else { blank || !line.is_empty() };
        if indented { format!("{unit}{line}") } else { line.to_owned() }
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// `join(d='', attribute=none)`
fn join(state: &mut State<'_, '_>, value: &Value, args: Args) -> Result<String> {
    let args = args.into_values();
    let [between, attribute] = bind(&args, ["d", "attribute"])?;
    let mut items = Value::from(iterate(value)?);
    if let Some(attribute) = attribute.filter(|attribute| !attribute.is_none()) {
        let named: Kwargs = [("attribute", attribute)].into_iter().collect();
        let args: (Rest<ValueOrKwargs>,) = from_args(&[named.into()])?;
        items = builtin::map(state, items, args.0)?.into();
    }
    let between = between.as_ref().map(spelt).unwrap_or_default();
    Ok(items.try_iter()?.map(|item| spelt(&item)).collect::<Vec<_>>().join(&between))
}
