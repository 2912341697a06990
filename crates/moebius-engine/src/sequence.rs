//! One request on its way from prompt to last token.

use moebius_model::SequenceId;

use crate::EngineError;
use crate::sampler::{Sampler, SamplingParams, log_softmax_at};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids to continue.
    pub prompt: Vec<u32>,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Tokens that end the sequence; the one that did is reported.
    pub stop_tokens: Vec<u32>,
    /// Tokens that the sequence goes on with in place of its first choices; events still tell the choice.
    pub forced: Vec<u32>,
    /// Ids from here on are padding rows of the output projection and are never chosen.
    pub vocab_limit: Option<usize>,
    /// Whether events tell log-probabilities, which takes a pass of exponentials over all logits.
    pub logprobs: bool,
}

impl Request {
    /// Continues `prompt` greedily for up to `max_tokens` tokens.
    pub fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Self {
        let sampling = SamplingParams::default();
        Request {
            prompt,
            max_tokens,
            sampling,
            stop_tokens: Vec::new(),
            forced: Vec::new(),
            vocab_limit: None,
            logprobs: false,
        }
    }
}

/// Names a request within its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(crate) u64);

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// It generated one of its stop tokens.
    Stop,
    /// It reached the number of tokens that was asked for.
    Length,
    /// It filled the context.
    Context,
}

impl FinishReason {
    /// A name for reports.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Context => "context",
        }
    }
}

/// One generated token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// Whose token it is.
    pub request: RequestId,
    /// The token id.
    pub token: u32,
    /// Its log-probability (nats) under the model, before any penalty, filter or temperature; if asked for.
    pub logprob: Option<f32>,
    /// Set on the last token of a sequence.
    pub finish: Option<FinishReason>,
}

/// A request under way.
pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    pub(crate) cache: SequenceId,
    request: Request,
    sampler: Sampler,
    /// Prompt and generated tokens.
    tokens: Vec<u32>,
    /// Of these, tokens that the model has seen.
    pub(crate) seen: usize,
}

impl Sequence {
    pub(crate) fn new(id: RequestId, cache: SequenceId, request: Request) -> Result<Self, EngineError> {
        let sampler = Sampler::new(request.sampling.clone())?;
        let tokens = request.prompt.clone();
        Ok(Sequence { id, cache, request, sampler, tokens, seen: 0 })
    }

    /// Tokens that the model has not seen yet.
    pub(crate) fn pending(&self) -> &[u32] {
        &self.tokens[self.seen..]
    }

    /// Whether the prompt is not yet read whole.
    pub(crate) fn in_prefill(&self) -> bool {
        self.seen < self.request.prompt.len()
    }

    /// Chooses the token after those seen.
    pub(crate) fn choose(&mut self, logits: &mut [f32], context: usize) -> Result<Event, EngineError> {
        if let Some(padding) = self.request.vocab_limit.and_then(|limit| logits.get_mut(limit..)) {
            padding.fill(f32::NEG_INFINITY);
        }
        let token = self.sampler.sample(logits, &self.tokens)?;
        let logprob = self.request.logprobs.then(|| log_softmax_at(logits, token));
        let before = self.tokens.len() - self.request.prompt.len();
        let next = self.request.forced.get(before).copied().unwrap_or(token);
        self.tokens.push(next);
        let generated = before + 1;
        let finish = if self.request.stop_tokens.contains(&next) {
            Some(FinishReason::Stop)
        } else if generated >= self.request.max_tokens {
            Some(FinishReason::Length)
        } else if self.tokens.len() > context {
            Some(FinishReason::Context)
        } else {
            None
        };
        Ok(Event { request: self.id, token, logprob, finish })
    }
}
