//! How probable a text is, and what the model did while it read it.

use std::path::Path;

use moebius_engine::ScoredToken;
use moebius_metering::{Reading, Window};
use moebius_model::Probe;

use crate::observer::{Both, LayerLoads, Observer};
use crate::{Error, Model, Result};

/// What to do besides scoring.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScoreOptions<'a> {
    /// Writes logits, residual streams and routing of every position to this safetensors file.
    pub dump: Option<&'a Path>,
    /// Counts how each sequence used the experts of every layer: [`Score::loads`].
    pub routing: bool,
}

/// What the model thought of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Tokens of the sequence.
    pub tokens: usize,
    /// Log-probability (nats) of each token given those before it; the first has none.
    pub logprobs: Vec<f32>,
    /// Positions whose most likely next token was the right one.
    pub correct: usize,
    /// The most likely token after the last.
    pub predicted: u32,
    /// How the experts of each layer with a router were used, by all tokens; `None` unless
    /// [`ScoreOptions::routing`] asked for it.
    pub loads: Option<LayerLoads>,
}

impl Score {
    /// Sum of the log-probabilities.
    pub fn total_logprob(&self) -> f64 {
        self.logprobs.iter().map(|&p| f64::from(p)).sum()
    }
}

/// Perplexity over several sequences: `exp` of the mean negative log-probability of a token. `None` when
/// no token was scored.
pub fn perplexity(scores: &[Score]) -> Option<f64> {
    let count: usize = scores.iter().map(|s| s.logprobs.len()).sum();
    let total: f64 = scores.iter().map(Score::total_logprob).sum();
    (count > 0).then(|| (-total / count as f64).exp())
}

impl Model {
    /// Scores each sequence by itself; several run in one batch.
    ///
    /// # Errors
    /// An empty or over-long sequence, an id outside the vocabulary, a file that cannot be written.
    pub fn score(
        &mut self,
        sequences: &[Vec<u32>],
        options: &ScoreOptions<'_>,
    ) -> Result<(Vec<Score>, Reading)> {
        self.score_each(sequences, options, &mut |_| {})
    }

    /// As [`Model::score`]; `each` sees every position with its logits, in order within each sequence.
    ///
    /// # Errors
    /// Those of [`Model::score`].
    pub fn score_each(
        &mut self,
        sequences: &[Vec<u32>],
        options: &ScoreOptions<'_>,
        each: &mut dyn FnMut(&ScoredToken<'_>),
    ) -> Result<(Vec<Score>, Reading)> {
        let mut scores: Vec<Score> = sequences
            .iter()
            .map(|s| Score { tokens: s.len(), logprobs: Vec::new(), correct: 0, predicted: 0, loads: None })
            .collect();
        let mut observer = Observer::new(options.dump.is_some(), options.routing);
        let mut logits = options.dump.map(|_| vec![Vec::new(); sequences.len()]);
        let window = Window::open(self.engine.meter());
        let tracer = self.tracer.as_mut().map(|tracer| tracer as &mut dyn Probe);
        let mut probes = Both(observer.probe(), tracer);
        self.engine.score(sequences, probes.probe(), |row: ScoredToken<'_>| {
            let score = &mut scores[row.sequence];
            score.logprobs.extend(row.next_logprob);
            score.predicted = row.predicted;
            let next = sequences[row.sequence].get(row.position + 1);
            score.correct += usize::from(next == Some(&row.predicted));
            each(&row);
            if let Some(logits) = &mut logits {
                logits[row.sequence].extend_from_slice(row.logits);
            }
        })?;
        let reading = window.close(self.engine.meter());
        if let (Some(path), Some(dump), Some(logits)) = (options.dump, observer.dump, logits) {
            dump.write(path, sequences, logits)?;
        }
        for (score, loads) in scores.iter_mut().zip(observer.loads.into_iter().flatten()) {
            score.loads = Some(loads);
        }
        Ok((scores, reading))
    }

    /// Cuts a text into sequences that fit the context, to be scored one by one. The first token of each has
    /// nothing before it and is not scored.
    ///
    /// # Errors
    /// [`Error::NothingToScore`] for a text of fewer than two tokens; text without a tokenizer.
    pub fn windows(&self, text: &str) -> Result<Vec<Vec<u32>>> {
        let ids = self.tokenizer()?.encode(text, true)?;
        if ids.len() < 2 {
            return Err(Error::NothingToScore(ids.len()));
        }
        Ok(ids.chunks(self.context()).filter(|window| window.len() > 1).map(<[u32]>::to_vec).collect())
    }
}
