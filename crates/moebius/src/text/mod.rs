//! Text on both sides of a model: tokenizer, streaming decoder, stop strings and chat templates.
//!
//! A prompt becomes ids with [`Tokenizer::encode`], perhaps after a [`ChatTemplate`] has laid out a
//! conversation; the ids a model answers with become text piece by piece with a [`StreamDecoder`], and
//! [`StopStrings`] decides how much of that text may be shown. The engine itself sees ids only.
//!
//! Invariants: nothing here panics on a broken file or template, and none of it reads the network or the
//! environment.

pub(crate) mod base64;
mod chat;
mod clock;
mod config;
mod detokenize;
mod dialect;
mod error;
mod filters;
mod foreign;
mod gguf;
mod json;
mod lazy;
mod message;
mod python;
#[cfg(test)]
mod samples;
mod sentencepiece;
mod stop;
mod stream;
mod tiktoken;
mod tokenizer;
mod tokenizer_file;

pub use chat::{ChatInput, ChatTemplate};
pub(crate) use config::read_object;
pub use error::TextError;
pub(crate) use gguf::{
    copied as gguf_copied, files as gguf_files, pairs as gguf_pairs, stop_tokens as gguf_stop_tokens,
};
pub use json::Json;
pub use message::Message;
pub use stop::{StopStep, StopStrings};
pub use stream::StreamDecoder;
pub use tokenizer::Tokenizer;

/// What a function of this module returns.
pub(crate) type Result<T> = std::result::Result<T, TextError>;
