//! How probable a text is, and what the model did while it read it.

use std::path::Path;

use moebius_engine::ScoredToken;
use moebius_metering::{Reading, Window};
use moebius_model::Probe;

use crate::dump::Dump;
use crate::{Error, Model, Result};

/// What to do besides scoring.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScoreOptions<'a> {
    /// Writes logits, residual streams and routing of every position to this safetensors file.
    pub dump: Option<&'a Path>,
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
        let mut scores: Vec<Score> = sequences
            .iter()
            .map(|s| Score { tokens: s.len(), logprobs: Vec::new(), correct: 0, predicted: 0 })
            .collect();
        let mut dump = options.dump.map(|_| Dump::default());
        let mut logits = dump.as_ref().map(|_| vec![Vec::new(); sequences.len()]);
        let window = Window::open(self.engine.meter());
        let probe = dump.as_mut().map(|dump| dump as &mut dyn Probe);
        self.engine.score(sequences, probe, |row: ScoredToken<'_>| {
            let score = &mut scores[row.sequence];
            score.logprobs.extend(row.next_logprob);
            score.predicted = row.predicted;
            let next = sequences[row.sequence].get(row.position + 1);
            score.correct += usize::from(next == Some(&row.predicted));
            if let Some(logits) = &mut logits {
                logits[row.sequence].extend_from_slice(row.logits);
            }
        })?;
        let reading = window.close(self.engine.meter());
        if let (Some(path), Some(dump), Some(logits)) = (options.dump, dump, logits) {
            dump.write(path, sequences, logits)?;
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
