//! A model that is loaded with its twins, proves that outputs are equal, and measures.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moebius_backend::Backend;
use moebius_engine::{Engine, Request, RequestId};
use moebius_metering::Window;
use moebius_model::{Error as ModelError, ModelInfo};

use super::backend::{Switch, TwinBackend};
use super::{EXPERTS, Form, FormTimes, ROUTER, Sample, TwinRow};
use crate::backend::{self, Opened};
use crate::bench::{Progress, Random, Subject, subject_files};
use crate::model::{Loaded, load};
use crate::{EnergyMeter, Error, OpenOptions, Result};

/// Logits that are kept to be compared.
const MOST_COMPARED_BYTES: usize = 256 << 20;

/// The tokens that all forms read.
#[derive(Clone, Debug)]
pub struct TwinText {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// What the sparse model says after it, greedily: every form is given these.
    pub continuation: Vec<u32>,
}

/// How far sparse and iso-total are apart.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// Largest difference between logits at the same place.
    pub max_difference: f32,
    /// Largest logit, to compare it with.
    pub max_logit: f32,
    /// Positions whose logits were compared, the last ones of the text.
    pub positions: usize,
}

/// A model with its twins.
pub struct TwinSession {
    engine: Engine,
    info: ModelInfo,
    backend: Arc<TwinBackend>,
    switch: Arc<Switch>,
    chunk: usize,
}

impl TwinSession {
    /// Loads a model and the dense layers of its iso-active twin; sequences may have `context` positions. `progress` is
    /// told the bytes loaded so far and in all, from any thread.
    ///
    /// # Errors
    /// Those of [`crate::Model::open`]; [`Error::NoExperts`] for a model without routed experts.
    pub fn open(
        subject: &Subject,
        context: usize,
        options: &OpenOptions,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self> {
        let Opened { backend: inner, constrained, declared, hybrid } = backend::open(&options.backend)?;
        let mut files = subject_files(subject, options, (context, 0), &inner)?;
        let info = files.info(&inner)?;
        if context > info.context {
            return Err(ModelError::Context { position: context - 1, context: info.context }.into());
        }
        let Some(moe) = &info.moe else { return Err(Error::NoExperts) };
        let experts =
            info.tally.get(&moebius_model::Place::Experts).and_then(|tally| tally.bytes).unwrap_or(0);
        let dense = (experts as f64 * moe.top_k as f64 / moe.n_experts.max(1) as f64) as u64;
        let switch = Arc::new(Switch::default());
        let backend = Arc::new(TwinBackend::new(inner, switch.clone(), moe.top_k));
        let shared = Opened { backend: backend.clone(), constrained, hybrid, declared };
        let Loaded { engine, info, .. } = load(&mut files, &shared, options, (dense, progress))?;
        backend::time_stages(engine.meter(), backend.as_ref(), true);
        Ok(TwinSession { engine, info, backend, switch, chunk: options.chunk() })
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Where it runs.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Why there is no iso-active twin, if there is none.
    pub fn no_iso_active(&self) -> Option<String> {
        self.backend.refused()
    }

    /// A prompt for a model without a tokenizer.
    pub fn random_prompt(&self, tokens: usize, seed: u64) -> Vec<u32> {
        Random::new(seed).tokens(tokens, self.info.vocab_size)
    }

    /// Lets the sparse model continue `prompt` by `tokens` tokens, greedily.
    ///
    /// # Errors
    /// A prompt that is empty or too long.
    pub fn text(&mut self, prompt: Vec<u32>, tokens: usize) -> Result<TwinText> {
        self.switch.set(Form::Sparse);
        self.engine.submit(Request::greedy(prompt.clone(), tokens))?;
        let mut continuation = Vec::with_capacity(tokens);
        while !self.engine.is_idle() {
            continuation.extend(self.engine.step(None)?.iter().map(|event| event.token));
        }
        Ok(TwinText { prompt, continuation })
    }

    /// Runs the text through sparse and iso-total and compares the logits of its last positions.
    ///
    /// # Errors
    /// A text that is too long; a failure of the model.
    pub fn prove(&mut self, text: &TwinText) -> Result<Proof> {
        let all = [&text.prompt[..], &text.continuation].concat();
        let row_bytes = size_of::<f32>() * self.info.vocab_size.max(1);
        let positions = all.len().min((MOST_COMPARED_BYTES / row_bytes).max(1));
        let first = all.len() - positions;
        let mut expected: Vec<f32> = Vec::new();
        self.switch.set(Form::Sparse);
        self.engine.score(std::slice::from_ref(&all), None, |scored| {
            if scored.position >= first {
                expected.extend_from_slice(scored.logits);
            }
        })?;
        let (mut rows, mut max_difference) = (expected.chunks_exact(self.info.vocab_size.max(1)), 0.0f32);
        self.switch.set(Form::IsoTotal);
        self.engine.score(&[all], None, |scored| {
            if scored.position >= first {
                let row = rows.next().unwrap_or_default();
                let off = if row.len() == scored.logits.len() {
                    crate::bench::largest_difference(row, scored.logits)
                } else {
                    f32::INFINITY
                };
                max_difference = max_difference.max(off);
            }
        })?;
        let max_logit = expected.iter().fold(0.0f32, |most, logit| most.max(logit.abs()));
        Ok(Proof { max_difference, max_logit, positions })
    }

    /// Positions that a sequence needs in a batch of `batch`.
    pub fn positions(&self, text: &TwinText, batch: usize) -> usize {
        text.prompt.len() + self.waiting(text.prompt.len(), batch) + text.continuation.len()
    }

    /// Measures `batch` sequences of the text, each beginning one token later in it than the last, in every form,
    /// `repetitions` times after one that does not count. `watch` is asked before each; `None` when it said no.
    ///
    /// # Errors
    /// A batch that exceeds the context; a failure of the model.
    pub fn measure(
        &mut self,
        text: &TwinText,
        (batch, repetitions): (usize, usize),
        energy: &mut EnergyMeter,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Option<TwinRow>> {
        let needed = self.positions(text, batch);
        if needed > self.info.context {
            let context = self.info.context;
            return Err(ModelError::Context { position: needed - 1, context }.into());
        }
        let samples = repetitions.max(1);
        let there = Form::ALL.map(|form| form != Form::IsoActive || self.no_iso_active().is_none());
        let empty = || there.map(|there| there.then(FormTimes::default));
        let mut row = TwinRow { batch, prefill: empty(), decode: empty() };
        for sample in 0..=samples {
            for turn in 0..Form::ALL.len() {
                let index = (turn + sample) % Form::ALL.len();
                let form = Form::ALL[index];
                if !there[index] {
                    continue;
                }
                if watch(Progress { sample, samples }).is_break() {
                    return Ok(None);
                }
                let run = self.run(form, text, batch, energy)?;
                for ((measured, router), times) in run.into_iter().zip([&mut row.prefill, &mut row.decode]) {
                    if let (Some(times), true) = (&mut times[index], sample > 0) {
                        measured.add_to(times, form, router);
                    }
                }
            }
        }
        self.switch.set(Form::Sparse);
        Ok(Some(row))
    }

    /// Steps until the last prompt of a batch is read, beyond the first.
    fn waiting(&self, prompt: usize, batch: usize) -> usize {
        prompt.saturating_mul(batch).div_ceil(self.chunk)
    }

    /// One sample of both phases, each with the time that routers took.
    fn run(
        &mut self,
        form: Form,
        text: &TwinText,
        batch: usize,
        energy: &mut EnergyMeter,
    ) -> Result<[(Sample, Duration); 2]> {
        self.switch.set(form);
        let steps = text.continuation.len();
        let mut ids = Vec::new();
        let submitted = (0..batch).try_for_each(|shift| {
            ids.push(self.submit(text, shift, batch)?);
            Ok(())
        });
        let phases = submitted.and_then(|()| {
            let mut reading = ids.clone();
            let prefill = self.phase(energy, |engine| {
                let mut steps = 0;
                while !reading.is_empty() {
                    // A sequence that waits for others goes on meanwhile.
                    for event in engine.step(None)? {
                        reading.retain(|id| *id != event.request);
                    }
                    steps += 1;
                }
                Ok(steps)
            })?;
            let decode = self.phase(energy, |engine| {
                (0..steps).try_for_each(|_| engine.step(None).map(drop))?;
                Ok(steps as u64)
            })?;
            Ok([prefill, decode])
        });
        ids.into_iter().for_each(|id| self.engine.cancel(id));
        phases
    }

    fn submit(&mut self, text: &TwinText, shift: usize, batch: usize) -> Result<RequestId> {
        let TwinText { prompt, continuation } = text;
        let around = |tokens: &[u32], length: usize| -> Vec<u32> {
            tokens.iter().cycle().skip(shift % tokens.len().max(1)).take(length).copied().collect()
        };
        let length = continuation.len() + 1 + self.waiting(prompt.len(), batch);
        let forced = around(continuation, length);
        let request = Request { forced, ..Request::greedy(around(prompt, prompt.len()), length) };
        Ok(self.engine.submit(request)?)
    }

    fn phase(
        &mut self,
        energy: &mut EnergyMeter,
        work: impl FnOnce(&mut Engine) -> Result<u64>,
    ) -> Result<(Sample, Duration)> {
        let before = self.engine.meter().stage_times();
        let mark = energy.mark();
        let window = Window::open_at(self.engine.meter(), Instant::now());
        let steps = work(&mut self.engine)?;
        let reading = window.close(self.engine.meter());
        let energy = energy.since(&mark);
        let stages = self.engine.meter().stage_times() - before;
        Ok((Sample { reading, experts: stages.of(EXPERTS), energy, steps }, stages.of(ROUTER)))
    }
}
