//! Chat templates: a conversation laid out as the text that a model was trained on.
//!
//! Templates are written for jinja2 as transformers sets it up, and minijinja runs them in the same way:
//! blocks take their line with them (`trim_blocks`, `lstrip_blocks`), `break` and `continue` work, Python's
//! methods on strings and maps are there, and so are `raise_exception`, `strftime_now` and `tojson`. `dialect` prepares
//! the source, `python` holds the methods, `filters` what else is spelt otherwise in Python.
//!
//! What still differs is lenient where Python raises (comparisons, sorts and sums of things that have no order, `in`
//! with something else than text, chained tests, underscores in namespaces) or rare: methods are no attributes
//! (`d.get is defined`), `%` does not format, `~` spells floats from 1e16 on without an exponent, macros take no arguments
//! beyond their own and no default from an argument before, a range prints as a list, `safe` marks nothing and
//! `autoescape` does not escape, whole numbers end at 128 bits, and true is no number to add to.
//!
//! Shapes: messages, tools, documents -> text of the prompt.
//! Invariants: a template comes from a file that nobody has checked, so its instructions and its output
//! are bounded, and it reaches no file, no clock but the one given and no template but its own.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use moebius_model::GgufMetadata;

use super::clock::strftime;
use super::config::{DEFAULT_TEMPLATE, TextConfig};
use super::dialect::prepare;
use super::filters;
use super::json::Json;
use super::message::Message;
use super::python;
use super::{Result, TextError, gguf};

/// How many instructions a template may run: thousands of times what a long conversation takes.
const MAX_INSTRUCTIONS: u64 = 5_000_000;
/// How many bytes a template may write.
const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// The template that is preferred when tools are given.
const TOOL_TEMPLATE: &str = "tool_use";

/// What a template lays out.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChatInput<'a> {
    /// The conversation so far, oldest first.
    pub messages: &'a [Message],
    /// Descriptions of the tools that the model may call, as JSON schemas.
    pub tools: &'a [Json],
    /// Documents that the answer may rest on.
    pub documents: &'a [Json],
    /// Ends the text where the answer of the assistant begins.
    pub add_generation_prompt: bool,
    /// Further variables of the template, such as `enable_thinking`. They cannot replace those above.
    pub variables: &'a [(String, Json)],
}

/// The chat template of a model. A clone shares the parsed template.
///
/// ```
/// use moebius::text::{ChatInput, ChatTemplate, Message};
///
/// let template = ChatTemplate::new(
///     "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}\
///      {% if add_generation_prompt %}<|assistant|>\n{% endif %}",
/// )?;
/// let messages = [Message::new("user", "Hello")];
/// let input = ChatInput { messages: &messages, add_generation_prompt: true, ..Default::default() };
/// assert_eq!(template.render(&input)?, "<|user|>\nHello\n<|assistant|>\n");
/// # Ok::<(), moebius::text::TextError>(())
/// ```
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    /// `bos_token`, `eos_token`, ...
    special: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// The template of the model in `dir`, or `None` if it has none.
    ///
    /// # Errors
    /// A file that cannot be read or is broken, or a template that does not parse.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>> {
        Self::from_config(TextConfig::read(dir)?)
    }

    /// The template in the metadata of a GGUF file, or `None` if it has none.
    ///
    /// # Errors
    /// Metadata of a wrong type, or a template that does not parse.
    pub fn from_gguf(metadata: &GgufMetadata) -> Result<Option<Self>> {
        Self::from_config(gguf::config(metadata)?)
    }

    fn from_config(config: TextConfig) -> Result<Option<Self>> {
        if config.templates.is_empty() {
            return Ok(None);
        }
        let special = config.named.into_iter().map(|(name, token)| (name, token.content)).collect();
        Ok(Some(Self { special, ..Self::from_sources(config.templates)? }))
    }

    /// A template from its text, with no special tokens and the clock of the machine.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`] if it does not parse.
    pub fn new(source: &str) -> Result<Self> {
        Self::from_sources([(DEFAULT_TEMPLATE.to_owned(), source.to_owned())].into())
    }

    fn from_sources(sources: BTreeMap<String, String>) -> Result<Self> {
        let mut environment = environment();
        for (name, source) in sources {
            environment
                .add_template_owned(name, prepare(&source))
                .map_err(|error| TextError::TemplateSyntax(describe(&error)))?;
        }
        Ok(Self { environment: Arc::new(environment), special: BTreeMap::new() })
    }

    /// The template with a special token, such as `bos_token`, under the name by which templates use it.
    #[must_use]
    pub fn with_special_token(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.special.insert(name.into(), text.into());
        self
    }

    /// The template with another clock for `strftime_now`, which prints its time in UTC.
    #[must_use]
    pub fn with_clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let mut environment = (*self.environment).clone();
        environment.add_function("strftime_now", move |format: &str| strftime(now(), format));
        self.environment = Arc::new(environment);
        self
    }

    /// Lays out a conversation. Special tokens are in the text already, so encode it without adding more.
    ///
    /// # Errors
    /// [`TextError::TemplateRefusal`] if the template raises an exception of its own,
    /// [`TextError::TemplateLimit`] if it runs for too long or writes too much, and
    /// [`TextError::Template`] for anything else that fails in it.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String> {
        let preferred = if input.tools.is_empty() { DEFAULT_TEMPLATE } else { TOOL_TEMPLATE };
        let named = [preferred, DEFAULT_TEMPLATE]
            .into_iter()
            .find_map(|name| self.environment.get_template(name).ok());
        let template =
            named.ok_or_else(|| TextError::Template(format!("there is none named `{DEFAULT_TEMPLATE}`")))?;

        let mut output = Bounded::default();
        // A template is a program from a file, and the interpreter panics on some that Python can run.
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            template.render_captured_to(self.context(input), &mut output).map(drop)
        }));
        let rendered = attempt.map_err(|_| TextError::Template("its interpreter gave up".to_owned()))?;
        match rendered {
            Ok(()) => String::from_utf8(output.bytes).map_err(|error| TextError::Template(error.to_string())),
            Err(_) if output.full => {
                Err(TextError::TemplateLimit { limit: MAX_OUTPUT_BYTES as u64, unit: "bytes" })
            }
            Err(error) => Err(failure(&error)),
        }
    }

    fn context(&self, input: &ChatInput<'_>) -> Value {
        // As in Python, tools and documents that are not given are defined but none.
        let list = |items: &[Json]| match items {
            [] => Value::from(()),
            items => items.iter().map(|Json(value)| value.clone()).collect(),
        };
        let mut context: BTreeMap<String, Value> =
            self.special.iter().map(|(name, text)| (name.clone(), Value::from(text))).collect();
        context.extend(input.variables.iter().map(|(name, Json(value))| (name.clone(), value.clone())));
        context.extend([
            ("messages".to_owned(), input.messages.iter().map(Message::to_value).collect()),
            ("tools".to_owned(), list(input.tools)),
            ("documents".to_owned(), list(input.documents)),
            ("add_generation_prompt".to_owned(), Value::from(input.add_generation_prompt)),
        ]);
        Value::from_pairs(context)
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("special", &self.special).finish_non_exhaustive()
    }
}

/// An environment that behaves as the one that transformers makes for its templates.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(python::method);
    environment.set_fuel(Some(MAX_INSTRUCTIONS));
    filters::install(&mut environment);
    environment.add_function("raise_exception", |message: &Value| -> std::result::Result<Value, Error> {
        let message = message.to_string();
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refusal(message)))
    });
    environment.add_function("strftime_now", |format: &str| strftime(SystemTime::now(), format));
    environment
}

/// What a template said when it called `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// Where a template writes to: memory, up to a limit.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for &mut Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_OUTPUT_BYTES - self.bytes.len() {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failure(error: &Error) -> TextError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TextError::TemplateLimit { limit: MAX_INSTRUCTIONS, unit: "instructions" };
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(Refusal(message)) = inner.downcast_ref() {
            return TextError::TemplateRefusal(message.clone());
        }
        cause = inner.source();
    }
    TextError::Template(describe(error))
}

/// The message of minijinja with the line, without the name of the template, which says nothing here.
fn describe(error: &Error) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    match error.detail() {
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
