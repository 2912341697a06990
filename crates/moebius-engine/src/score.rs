//! How probable given tokens are.
//!
//! With `l` the logits after token `t` of a sequence: `log p(t + 1) = l[next] - log Σ exp(l)`.
//!
//! Shapes: one row of logits `[vocab]` for each position.

use moebius_metering::Phase;
use moebius_model::{Outputs, Probe, SequenceId, TokenBatch, Watch};

use crate::EngineError;
use crate::engine::Engine;
use crate::sampler::{argmax, log_softmax_at};

/// What the model thought of one position of a scored sequence.
#[derive(Clone, Copy, Debug)]
pub struct ScoredToken<'a> {
    /// Which of the given sequences.
    pub sequence: usize,
    /// The position, from 0.
    pub position: usize,
    /// Logits for the token after this position, `[vocab]`.
    pub logits: &'a [f32],
    /// Log-probability (nats) of the token that follows; `None` after the last.
    pub next_logprob: Option<f32>,
    /// The token that the model finds most likely to follow.
    pub predicted: u32,
}

impl Engine {
    /// Runs `sequences` through the model, several of them in one batch where they fit, and reports every
    /// position in order within each sequence.
    ///
    /// # Errors
    /// Those of [`Engine::submit`] and [`Engine::step`].
    pub fn score(
        &mut self,
        sequences: &[Vec<u32>],
        mut probe: Option<&mut dyn Probe>,
        mut report: impl FnMut(ScoredToken<'_>),
    ) -> Result<(), EngineError> {
        for tokens in sequences {
            self.check_prompt(tokens)?;
        }
        let slots: Vec<SequenceId> = sequences.iter().map(|_| self.cache.open()).collect();
        let mut seen = vec![0; sequences.len()];
        let mut outcome = Ok(());
        while outcome.is_ok() {
            let pieces = self.next_pieces(sequences, &seen);
            if pieces.is_empty() {
                break;
            }
            let mut batch = TokenBatch::new();
            for &(idx, take) in &pieces {
                let tokens = &sequences[idx][seen[idx]..seen[idx] + take];
                batch.push(slots[idx], tokens, seen[idx], Outputs::All);
                batch.expect_length(sequences[idx].len());
            }
            let rows = pieces
                .iter()
                .flat_map(|&(idx, take)| (seen[idx]..seen[idx] + take).map(move |position| (idx, position)));
            let rows: Vec<(usize, usize)> = rows.collect();
            let probe = probe.as_mut().map(|p| &mut **p as &mut dyn Probe);
            outcome = self.score_batch(&batch, probe, |row, logits| {
                let (sequence, position) = rows[row];
                let next = sequences[sequence].get(position + 1);
                let next_logprob = next.map(|&token| log_softmax_at(logits, token));
                let predicted = argmax(logits)?;
                report(ScoredToken { sequence, position, logits, next_logprob, predicted });
                Ok(())
            });
            pieces.iter().for_each(|&(idx, take)| seen[idx] += take);
        }
        slots.into_iter().for_each(|slot| self.cache.close(slot));
        outcome
    }

    /// The next sequences with the number of their tokens that fit into one batch.
    fn next_pieces(&self, sequences: &[Vec<u32>], seen: &[usize]) -> Vec<(usize, usize)> {
        let mut budget = self.options.chunk;
        let mut pieces = Vec::new();
        for (idx, tokens) in sequences.iter().enumerate() {
            let take = (tokens.len() - seen[idx]).min(budget);
            if take > 0 {
                pieces.push((idx, take));
                budget -= take;
            }
        }
        pieces
    }

    fn score_batch(
        &mut self,
        batch: &TokenBatch,
        probe: Option<&mut dyn Probe>,
        mut row: impl FnMut(usize, &[f32]) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut watch = Watch { meter: &self.meter, probe: probe.map(|p| p as &mut dyn Probe) };
        let logits = self.model.forward(batch, &mut self.cache, &mut watch)?;
        self.meter.tokens(Phase::Prefill, batch.len());
        // Row by row: with a large vocabulary a copy of all rows takes hundreds of megabytes.
        for idx in 0..logits.dim(0)? {
            row(idx, &logits.get(idx)?.to_vec1::<f32>()?)?;
        }
        Ok(())
    }
}
