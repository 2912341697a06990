//! The source of a template, prepared so that minijinja reads it as jinja2 with the extensions of transformers.
//!
//! | jinja2 | becomes | because |
//! |---|---|---|
//! | any line break | `\n` | jinja2 reads them as one kind |
//! | `{% generation %}` | `{% with %}` | the tag marks text for training; only its scope shows |
//! | `{% raw %}` | `{% raw +%}` | the line break behind it stays |
//! | `a[b:c:d]` | `a.__slice(b, c, d)` | Python's rules for empty lists, negative steps and none |
//! | `for x in a` | `for x in __iterate(a)` | none cannot be iterated, and text knows its last letter |
//! | `"\/"` | `"\\/"` | Python knows no such escape |
//! | `+a` | `a` | a sign that changes nothing |
//!
//! Invariants: lines keep their numbers; raw text, comments and strings keep their words; a tag that never ends
//! is left for the parser to complain about.

/// The method that slices, for [`prepare`]'s output only.
pub(super) const SLICE: &str = "__slice";
/// The function that prepares what a loop walks over, for [`prepare`]'s output only.
pub(super) const ITERATE: &str = "__iterate";

/// `source` as minijinja has to read it.
pub(super) fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut text = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find('{') {
        let (plain, from) = rest.split_at(start);
        text.push_str(plain);
        let length = match from.as_bytes().get(1) {
            Some(b'#') => from.find("#}").map(|end| {
                text.push_str(&from[..end + 2]);
                end + 2
            }),
            Some(b'%') => raw(from, &mut text).or_else(|| tag(from, "%}", &mut text)),
            Some(b'{') => tag(from, "}}", &mut text),
            _ => {
                text.push('{');
                Some(1)
            }
        };
        match length {
            Some(length) => rest = &from[length..],
            None => {
                rest = from;
                break;
            }
        }
    }
    text.push_str(rest);
    text
}

/// A whole raw block at the start of `from`: its length, if it is one.
fn raw(from: &str, text: &mut String) -> Option<usize> {
    let (open, after) = named_tag(from, "raw")?;
    let mut at = open;
    let end = loop {
        at += from[at..].find("{%")?;
        match named_tag(&from[at..], "endraw") {
            Some((length, _)) => break at + length,
            None => at += 2,
        }
    };
    text.push_str(&from[..open - 2]);
    if !after {
        text.push('+');
    }
    text.push_str(&from[open - 2..end]);
    Some(end)
}

/// The length of the block tag that `from` begins with if it is `name` alone, and whether it has a sign at its end.
fn named_tag(from: &str, name: &str) -> Option<(usize, bool)> {
    let inner = from.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
    let inner = inner.strip_prefix(name)?.trim_start();
    let signless = inner.strip_prefix(['-', '+']);
    let tail = signless.unwrap_or(inner).strip_prefix("%}")?;
    Some((from.len() - tail.len(), signless.is_some()))
}

/// Rewrites the tag or expression at the start of `from`, up to `close`: its length, if it ends.
fn tag(from: &str, close: &'static str, text: &mut String) -> Option<usize> {
    for (name, with) in [("generation", "with"), ("endgeneration", "endwith")] {
        if close == "%}"
            && let Some((length, _)) = named_tag(from, name)
        {
            text.push_str(&from[..length].replacen(name, with, 1));
            return Some(length);
        }
    }
    let mut writer = Writer { out: from[..2].to_owned(), frames: Vec::new(), words: 0, looping: Looping::No };
    let mut at = 2;
    loop {
        let rest = &from[at..];
        let signed = rest.strip_prefix(['-', '+']).is_some_and(|rest| rest.starts_with(close));
        if writer.frames.is_empty() && (signed || rest.starts_with(close)) {
            writer.end_loop();
            let end = usize::from(signed) + close.len();
            text.push_str(&writer.out);
            text.push_str(&rest[..end]);
            return Some(at + end);
        }
        at += writer.token(rest, close == "%}")?;
    }
}

/// Whether a tag is a loop, and how much of it has been read.
#[derive(PartialEq)]
enum Looping {
    No,
    /// Behind `for`, where names are.
    Names,
    /// Behind `in`, inside the brackets that were opened there.
    Items,
}

/// A bracket that is open: where it stands in the output, and the colons directly inside.
struct Frame {
    open: char,
    at: usize,
    colons: Vec<usize>,
}

struct Writer {
    out: String,
    frames: Vec<Frame>,
    words: usize,
    looping: Looping,
}

impl Writer {
    /// Takes one token from the front of `rest`: its length, or `None` at the end of the text.
    fn token(&mut self, rest: &str, block: bool) -> Option<usize> {
        let letter = rest.chars().next()?;
        match letter {
            '"' | '\'' => self.string(rest, letter),
            '(' | '[' | '{' => {
                self.frames.push(Frame { open: letter, at: self.out.len(), colons: Vec::new() });
                self.out.push(letter);
                Some(1)
            }
            ')' | ']' | '}' => {
                self.out.push(letter);
                match self.frames.pop() {
                    Some(frame) if frame.open == '[' && !frame.colons.is_empty() => self.slice(&frame),
                    _ => {}
                }
                Some(1)
            }
            ':' => {
                let at = self.out.len();
                if let Some(frame) = self.frames.last_mut() {
                    frame.colons.push(at);
                }
                self.out.push(':');
                Some(1)
            }
            _ if letter.is_alphanumeric() || letter == '_' => {
                let end = rest.find(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
                let word = &rest[..end.unwrap_or(rest.len())];
                self.word(word, block);
                Some(word.len())
            }
            '+' if self.is_sign() => Some(1),
            _ => {
                self.out.push(letter);
                Some(letter.len_utf8())
            }
        }
    }

    /// Whether a plus here has nothing in front of it to add to.
    fn is_sign(&self) -> bool {
        const WORDS: [&str; 7] = ["and", "else", "if", "in", "is", "not", "or"];
        let before = self.out.trim_end();
        let word = before.rsplit(|letter: char| !(letter.is_alphanumeric() || letter == '_')).next();
        let opens = matches!(before, "{{" | "{{-" | "{{+" | "{%");
        // Right behind the opening of a tag it says what becomes of the space before it.
        self.out.len() > 2
            && (opens
                || before.ends_with(['(', '[', ',', ':', '+', '-', '*', '/', '%', '~', '=', '<', '>'])
                || word.is_some_and(|word| WORDS.contains(&word)))
    }

    fn string(&mut self, rest: &str, quote: char) -> Option<usize> {
        self.out.push(quote);
        let mut letters = rest.char_indices().skip(1);
        while let Some((at, letter)) = letters.next() {
            self.out.push(letter);
            if letter == quote {
                return Some(at + 1);
            }
            if letter == '\\' {
                let (_, escaped) = letters.next()?;
                if escaped == '/' {
                    self.out.push('\\');
                }
                self.out.push(escaped);
            }
        }
        None
    }

    fn word(&mut self, word: &str, block: bool) {
        let first = block && self.words == 0;
        self.words += 1;
        let outside = self.frames.is_empty();
        if self.looping == Looping::Items && outside && matches!(word, "if" | "recursive") {
            self.end_loop();
            self.out.push(' ');
        }
        self.out.push_str(word);
        if first && word == "for" {
            self.looping = Looping::Names;
        } else if self.looping == Looping::Names && outside && word == "in" {
            self.looping = Looping::Items;
            self.out.push(' ');
            self.out.push_str(ITERATE);
            self.out.push('(');
        }
    }

    fn end_loop(&mut self) {
        if self.looping == Looping::Items {
            self.out.push(')');
            self.looping = Looping::No;
        }
    }

    /// Turns the brackets that have just been closed into a call.
    fn slice(&mut self, frame: &Frame) {
        let inner = self.out.split_off(frame.at);
        self.out.push_str(&format!(".{SLICE}("));
        let mut start = 1;
        let ends = frame.colons.iter().map(|colon| colon - frame.at).chain([inner.len() - 1]);
        for end in ends {
            if start > 1 {
                self.out.push_str(", ");
            }
            let part = &inner[start..end];
            self.out.push_str(if part.trim().is_empty() { "none" } else { part });
            start = end + 1;
        }
        self.out.push(')');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        assert_eq!(prepare(source), expected);
    }

    #[test]
    fn generation_tags_are_found_wherever_blocks_may_stand() {
        check("{%- generation -%}a{%+endgeneration%}", "{%- with -%}a{%+endwith%}");
        check(
            "{% generation %}{% if x %}é{% endif %}{% endgeneration %}",
            "{% with %}{% if x %}é{% endif %}{% endwith %}",
        );
        check(
            "{% set generation = 1 %}{{ generation }}{% generation_x %}",
            "{% set generation = 1 %}{{ generation }}{% generation_x %}",
        );
        check("generation {% generation", "generation {% generation");
        check("plain", "plain");
    }

    #[test]
    fn raw_text_comments_and_strings_keep_their_words() {
        check("{%- raw %}\n{% generation %}{{ a[1:] }}{% endraw %}{{ b[1:] }}", {
            "{%- raw +%}\n{% generation %}{{ a[1:] }}{% endraw %}{{ b.__slice(1, none) }}"
        });
        check("{% raw -%} x {%- endraw -%}", "{% raw -%} x {%- endraw -%}");
        check("{# a[1:] #}{{ '{% generation %} a[1:]' }}", "{# a[1:] #}{{ '{% generation %} a[1:]' }}");
    }

    #[test]
    fn slices_and_loops_become_calls() {
        check("{{ a[::-1][0] }}", "{{ a.__slice(none, none, -1)[0] }}");
        check("{{ a[b[1:]|length:{'x': 1}.x] }}", "{{ a.__slice(b.__slice(1, none)|length, {'x': 1}.x) }}");
        check("{%- for m in ms[1:] if m -%}", "{%- for m in __iterate( ms.__slice(1, none) ) if m -%}");
        check("{% for k, v in d.items()%}", "{% for k, v in __iterate( d.items())%}");
        check(
            "{% set x = [1, 2] if 1 in y else {'a': [3]} %}",
            "{% set x = [1, 2] if 1 in y else {'a': [3]} %}",
        );
    }

    #[test]
    fn a_plus_that_adds_nothing_is_left_out() {
        check("{{ +1 }}{{- +a }}{{+ +a }}", "{{ 1 }}{{- a }}{{+ a }}");
        check("{{ a + +b }}{{ [+1, +a] }}{{ a == +1 }}", "{{ a + b }}{{ [1, a] }}{{ a == 1 }}");
        check("{% if +a in +b %}{%+ if a + b +%}", "{% if a in b %}{%+ if a + b +%}");
        check("{{ a + b }}{{ a[0] + (b) + 'c' }}{{+ a +}}", "{{ a + b }}{{ a[0] + (b) + 'c' }}{{+ a +}}");
    }

    #[test]
    fn what_never_ends_is_left_as_it_is() {
        for source in ["{{ a[1:]", "{{ 'a }}", "{# a", "{% raw %}{{ a", "a {", "{{ a[1: }}", "{% for x in"] {
            check(source, source);
        }
    }
}
