//! Runs requests together, step by step.
//!
//! Invariants: a sequence stands in a batch once; prompts are read in the order in which they were submitted,
//! together at most `chunk` tokens a step; a batch that fails ends its sequences and no others.

use moebius_metering::{Meter, Phase, Stage};
use moebius_model::{KvCache, Model, Outputs, Probe, TokenBatch, Watch};

use crate::EngineError;
use crate::sequence::{Event, Request, RequestId, Sequence};

/// Bounds of an engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Most positions of a sequence; at most the model's own.
    pub context: usize,
    /// Most prompt tokens that one step reads.
    pub chunk: usize,
}

/// A model with its sequences.
pub struct Engine {
    pub(crate) model: Box<dyn Model>,
    pub(crate) cache: KvCache,
    pub(crate) options: EngineOptions,
    pub(crate) meter: Meter,
    sequences: Vec<Sequence>,
    next_id: u64,
}

impl Engine {
    /// Serves `model`, whose cache will live on `device`.
    pub fn new(model: Box<dyn Model>, device: &candle_core::Device, options: EngineOptions) -> Self {
        let spec = model.cache_spec().clone();
        let context = options.context.min(spec.context);
        let options = EngineOptions { context, chunk: options.chunk.max(1) };
        let cache = KvCache::new(spec, device);
        Engine { model, cache, options, meter: Meter::new(), sequences: Vec::new(), next_id: 0 }
    }

    /// Most positions of a sequence.
    pub fn context(&self) -> usize {
        self.options.context
    }

    /// Counts everything that this engine runs.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Bytes that keys and values take now.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.allocated_bytes()
    }

    /// Whether no request is under way.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Takes a request; its tokens come from the following [`Engine::step`]s.
    ///
    /// # Errors
    /// [`EngineError::EmptyPrompt`], [`EngineError::PromptTooLong`], or sampling parameters out of range.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, EngineError> {
        self.check_prompt(&request.prompt)?;
        let id = RequestId(self.next_id);
        self.next_id += 1;
        if request.max_tokens == 0 {
            request.sampling.validate()?;
            return Ok(id);
        }
        let cache = self.cache.open();
        match Sequence::new(id, cache, request) {
            Ok(sequence) => self.sequences.push(sequence),
            Err(error) => {
                self.cache.close(cache);
                return Err(error);
            }
        }
        Ok(id)
    }

    /// As [`Engine::submit`], with the first `filled` tokens of the prompt taken for read: their keys and values
    /// come from `value`. There is room for the whole sequence then, so that no step makes it grow. For
    /// measuring at depth.
    ///
    /// # Errors
    /// Those of [`Engine::submit`]; [`EngineError::EmptyPrompt`] when nothing of the prompt is left to read.
    pub fn submit_filled(
        &mut self,
        request: Request,
        filled: usize,
        value: impl FnMut() -> f32,
    ) -> Result<RequestId, EngineError> {
        if filled >= request.prompt.len() {
            return Err(EngineError::EmptyPrompt);
        }
        let unread_last = request.max_tokens.saturating_sub(1); // nothing follows the last token
        let positions = request.prompt.len().saturating_add(unread_last).min(self.options.context);
        let id = self.submit(request)?;
        let Some(sequence) = self.sequences.last_mut().filter(|sequence| sequence.id == id) else {
            return Ok(id);
        };
        sequence.seen = filled;
        let reserved = self.cache.reserve(sequence.cache, positions);
        match reserved.and_then(|()| self.cache.fill(sequence.cache, filled, value)) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.cancel(id);
                Err(error.into())
            }
        }
    }

    /// Ends a request early. One that has ended already is left alone.
    pub fn cancel(&mut self, id: RequestId) {
        self.retire(|sequence| sequence.id == id);
    }

    /// Runs one batch: a token for every sequence that generates, and the next pieces of prompts. `probe`
    /// looks on. An idle engine does nothing.
    ///
    /// # Errors
    /// When the model, the device or the sampler fails; every sequence that was in the batch is then ended.
    pub fn step(&mut self, probe: Option<&mut dyn Probe>) -> Result<Vec<Event>, EngineError> {
        self.meter.begin_laps();
        let batch = self.next_batch();
        self.meter.lap(Stage::Other);
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let result = self.run(&batch, probe);
        match &result {
            Ok(events) => {
                let ended: Vec<RequestId> =
                    events.iter().filter(|e| e.finish.is_some()).map(|e| e.request).collect();
                self.retire(|sequence| ended.contains(&sequence.id));
            }
            Err(_) => {
                let in_batch = |s: &Sequence| batch.spans().iter().any(|span| span.sequence == s.cache);
                self.retire(in_batch);
            }
        }
        result
    }

    pub(crate) fn check_prompt(&self, prompt: &[u32]) -> Result<(), EngineError> {
        let context = self.options.context;
        match prompt.len() {
            0 => Err(EngineError::EmptyPrompt),
            len if len > context => Err(EngineError::PromptTooLong { len, context }),
            _ => Ok(()),
        }
    }

    fn next_batch(&self) -> TokenBatch {
        let mut batch = TokenBatch::new();
        for sequence in self.sequences.iter().filter(|s| !s.in_prefill()) {
            batch.push(sequence.cache, sequence.pending(), sequence.seen, Outputs::Last);
        }
        let mut budget = self.options.chunk;
        for sequence in self.sequences.iter().filter(|s| s.in_prefill()) {
            let pending = sequence.pending();
            let take = pending.len().min(budget);
            if take == 0 {
                break;
            }
            budget -= take;
            let outputs = if take == pending.len() { Outputs::Last } else { Outputs::None };
            batch.push(sequence.cache, &pending[..take], sequence.seen, outputs);
            batch.expect_length(sequence.seen + pending.len());
        }
        batch
    }

    fn run(&mut self, batch: &TokenBatch, probe: Option<&mut dyn Probe>) -> Result<Vec<Event>, EngineError> {
        let mut watch = Watch { meter: &self.meter, probe: probe.map(|p| p as &mut dyn Probe) };
        let logits = self.model.forward(batch, &mut self.cache, &mut watch)?;
        let vocab_size = logits.dim(1)?;
        let mut logits = logits.flatten_all()?.to_vec1::<f32>()?;
        let mut rows = logits.chunks_exact_mut(vocab_size);
        let mut events = Vec::new();
        for span in batch.spans() {
            let sequence = self.sequences.iter_mut().find(|s| s.cache == span.sequence);
            let sequence = sequence.expect("the batch was made from the sequences");
            let phase = if sequence.in_prefill() { Phase::Prefill } else { Phase::Decode };
            self.meter.tokens(phase, span.rows.len());
            sequence.seen += span.rows.len();
            if span.outputs == Outputs::Last {
                let row = rows.next().expect("the model gives a row for every output");
                events.push(sequence.choose(row, self.options.context)?);
            }
        }
        self.meter.lap(Stage::Sampling);
        Ok(events)
    }

    fn retire(&mut self, ended: impl Fn(&Sequence) -> bool) {
        for sequence in self.sequences.iter().filter(|s| ended(s)) {
            self.cache.close(sequence.cache);
        }
        self.sequences.retain(|s| !ended(s));
    }
}
