//! What can go wrong between text and ids.

use std::path::PathBuf;

/// An error of the tokenizer, the chat template or the stop strings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The directory holds no tokenizer at all. The model can still be used with token ids.
    #[error("no tokenizer in `{}`, expected a `tokenizer.json`", dir.display())]
    NoTokenizer {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// The directory holds a tokenizer, but of a kind that is not read here.
    #[error("`{}` is a {kind} file, expected a `tokenizer.json` beside it", path.display())]
    ForeignTokenizer {
        /// The file that was found.
        path: PathBuf,
        /// What kind of file it is.
        kind: &'static str,
    },
    /// The vocabulary needs something that cannot be carried over.
    #[error("`{}` cannot be used: {reason}", path.display())]
    UnsupportedTokenizer {
        /// The file.
        path: PathBuf,
        /// What it needs.
        reason: String,
    },
    /// A file cannot be read from disk.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not what its name promises.
    #[error("`{}` is broken: {reason}", path.display())]
    BrokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer's decoder needs the whole text at once, so no piece of it can be shown early.
    #[error("`{}`: decoder {decoder} cannot be streamed", path.display())]
    UnsupportedDecoder {
        /// The tokenizer's file.
        path: PathBuf,
        /// The decoder, and what it follows where that matters.
        decoder: String,
    },
    /// The tokenizer refused a text.
    #[error("cannot encode the text: {0}")]
    Encode(String),
    /// A stop string is empty, which would stop before the first character.
    #[error("stop string {index} is empty, expected at least one character")]
    EmptyStopString {
        /// Its position in the list.
        index: usize,
    },
    /// A message of a conversation is no JSON object.
    #[error("expected a chat message to be an object, got a {got}")]
    NotAMessage {
        /// What it is instead.
        got: String,
    },
    /// The chat template does not parse.
    #[error("the chat template does not parse: {0}")]
    TemplateSyntax(String),
    /// The chat template refused the conversation by its own `raise_exception`.
    #[error("the chat template refuses this conversation: {0}")]
    TemplateRefusal(String),
    /// The chat template ran for too long or wrote too much.
    #[error("the chat template exceeds its limit of {limit} {unit}")]
    TemplateLimit {
        /// The limit.
        limit: u64,
        /// What is counted: `instructions` or `bytes`.
        unit: &'static str,
    },
    /// The chat template failed while it ran.
    #[error("the chat template failed: {0}")]
    Template(String),
}

impl TextError {
    /// The next thing to try, where there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoTokenizer { .. } => Some(
                "pass token ids instead of text, or copy the model's `tokenizer.json` into its directory",
            ),
            Self::ForeignTokenizer { .. } | Self::UnsupportedTokenizer { .. } => Some(
                "convert it once with transformers: \
                 `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)` writes a `tokenizer.json`",
            ),
            Self::BrokenFile { .. } => Some("copy or download the file again"),
            Self::Io { .. } => Some("check the file's permissions"),
            Self::UnsupportedDecoder { .. } => {
                Some("pass token ids instead of text, in a directory without this `tokenizer.json`")
            }
            Self::Encode(_) => Some("leave out what the vocabulary cannot spell, or pass token ids"),
            Self::EmptyStopString { .. } => Some("leave the empty stop string out"),
            Self::TemplateSyntax(_) | Self::TemplateLimit { .. } | Self::Template(_) => {
                Some("give a prompt instead of a chat, or copy the model's chat template again")
            }
            Self::NotAMessage { .. } => Some("write it as `{\"role\": \"user\", \"content\": \"...\"}`"),
            Self::TemplateRefusal(_) => Some("roles usually have to alternate: user, assistant, user, ..."),
        }
    }
}
