//! What can go wrong between a request and its tokens.

use thiserror::Error;

use crate::sampler::SamplerError;

/// Errors of the engine.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A prompt without a token.
    #[error("the prompt is empty: expected at least one token")]
    EmptyPrompt,
    /// A prompt that leaves no room.
    #[error("the prompt is too long: expected at most {context} tokens, got {len}")]
    PromptTooLong {
        /// Tokens of the prompt.
        len: usize,
        /// Most positions of a sequence.
        context: usize,
    },
    /// The model or the device failed.
    #[error(transparent)]
    Model(#[from] moebius_model::Error),
    /// No token could be chosen.
    #[error("cannot choose the next token")]
    Sampler(#[from] SamplerError),
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        EngineError::Model(error.into())
    }
}
