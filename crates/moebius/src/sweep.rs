//! Quality against compute: the same texts with fewer experts, dropped experts or rounded weights.
//!
//! Maths: with `p` the reference's distribution of the next token and `q` that of a setting, the divergence of a position
//! is `KL(p || q) = sum p (ln p - ln q)`; means run over all positions that have a next token.
//!
//! Shapes: a row of logits `[vocab]` for each position of each sequence.
//! Invariants: a setting's perplexity is that of [`Model::score`](crate::Model::score) on the same sequences, to the bit;
//! what was not measured is `None`.

mod baseline;

use moebius_engine::SamplingParams;
use moebius_metering::{Energy, Phase, Reading};
use moebius_model::{HeldFormats, RoutingRules};

use crate::bench::Statistics;
use crate::{
    EnergyMeter, GenerateOptions, Model, OpenOptions, Prompt, Result, Score, ScoreOptions, perplexity,
};

pub use baseline::Baseline;

/// Tokens of the prompt before those whose generation is timed.
const PROMPT_TOKENS: usize = 16;

/// One way to run a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Setting {
    /// What weights are held in.
    pub format: HeldFormats,
    /// Experts per token in place of the configured number.
    pub experts: Option<usize>,
    /// What else routers do otherwise.
    pub rules: RoutingRules,
}

impl Setting {
    /// Whether the model runs as it was published.
    pub fn is_published(&self) -> bool {
        *self == Setting::default()
    }

    /// `options` with this setting.
    pub fn apply(&self, options: &OpenOptions) -> OpenOptions {
        OpenOptions {
            format: self.format,
            experts: self.experts,
            routing: self.rules.clone(),
            ..options.clone()
        }
    }
}

/// How far a setting is from the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Mean KL divergence from the reference in nats; infinite where the setting excludes what the reference does not.
    pub mean_kl_nats: f64,
    /// Share of positions whose most likely next token is the same.
    pub agreement: f64,
}

/// What a setting gave and took.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Perplexity over all sequences; `None` when nothing was scored.
    pub perplexity: Option<f64>,
    /// Tokens that were scored.
    pub scored: usize,
    /// Share of positions whose most likely next token was the right one.
    pub top1_accuracy: Option<f64>,
    /// Distance from the reference; `None` for the reference itself and when nothing was scored.
    pub divergence: Option<Divergence>,
    /// Reading the texts, with comparing them.
    pub reading: Reading,
    /// Generating tokens one by one.
    pub decode: Decoded,
}

/// What generating tokens one by one gave and took.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// A sample each.
    pub samples: Vec<Reading>,
    /// Energy of all samples together, if known.
    pub energy: Option<Energy>,
}

impl Decoded {
    /// Net joules of a generated token.
    pub fn joules_per_token(&self) -> Option<f64> {
        self.energy?.joules_per(self.tokens())
    }

    /// How far off [`Decoded::joules_per_token`] may be to either side; `None` for an estimate.
    pub fn joules_per_token_uncertainty(&self) -> Option<f64> {
        let tokens = self.tokens();
        (tokens > 0).then_some(self.energy?.uncertainty_joules? / tokens as f64)
    }

    fn tokens(&self) -> u64 {
        self.samples.iter().map(|reading| reading.counts.tokens_in(Phase::Decode)).sum()
    }

    /// Adds a sample. Energy that is unknown for one of them is unknown for all.
    fn add(&mut self, reading: Reading, energy: Option<Energy>) {
        self.energy = match self.samples.is_empty() {
            true => energy,
            false => self.energy.zip(energy).map(|(sum, one)| sum + one),
        };
        self.samples.push(reading);
    }
}

impl Outcome {
    /// Experts of a token and layer on average, in the texts.
    pub fn experts_per_token(&self) -> Option<f64> {
        self.reading.experts_per_token_layer()
    }

    /// Tokens generated in a second; `None` if that was not measured.
    pub fn tokens_per_second(&self) -> Option<Statistics> {
        let rates: Vec<f64> = self
            .decode
            .samples
            .iter()
            .filter_map(|reading| reading.tokens_per_second(Phase::Decode))
            .collect();
        (!rates.is_empty()).then(|| Statistics::of(&rates))
    }

    /// Bytes of weights and cache that generating a token reads.
    pub fn bytes_per_token(&self) -> Option<f64> {
        mean(self.decode.samples.iter().map(Reading::bytes_per_token))
    }

    /// Floating-point operations of a generated token.
    pub fn flops_per_token(&self) -> Option<f64> {
        let per_token = |reading: &Reading| {
            let tokens = reading.counts.tokens_in(Phase::Decode);
            (tokens > 0).then(|| reading.flops() as f64 / tokens as f64)
        };
        mean(self.decode.samples.iter().map(per_token))
    }
}

fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

impl Model {
    /// Scores `sequences` and remembers all logits, for [`Model::compare`].
    ///
    /// # Errors
    /// Those of [`Model::score`]; no room for the logits.
    pub fn baseline(&mut self, sequences: &[Vec<u32>]) -> Result<(Baseline, Outcome)> {
        let mut baseline = Baseline::new(sequences, self.info().vocab_size)?;
        let mut failure = None;
        let (scores, reading) = self.score_each(sequences, &ScoreOptions::default(), &mut |row| {
            failure = failure.take().or_else(|| baseline.put(row).err());
        })?;
        match failure {
            Some(failure) => Err(failure),
            None => Ok((baseline, outcome(&scores, reading, None))),
        }
    }

    /// Scores the sequences of `baseline` and says how far the model is from it.
    ///
    /// # Errors
    /// Those of [`Model::score`]; logits that cannot be read again.
    pub fn compare(&mut self, sequences: &[Vec<u32>], baseline: &mut Baseline) -> Result<Outcome> {
        let mut sums = Sums::default();
        let mut failure = None;
        let (scores, reading) = self.score_each(sequences, &ScoreOptions::default(), &mut |row| {
            if failure.is_some() || row.next_logprob.is_none() {
                return;
            }
            match baseline.at(row) {
                Ok(reference) => sums.add(reference, row.logits, row.predicted),
                Err(error) => failure = Some(error),
            }
        })?;
        match failure {
            Some(failure) => Err(failure),
            None => Ok(outcome(&scores, reading, sums.divergence())),
        }
    }

    /// Generates `tokens` tokens, always the most likely one, after the beginning of `sequence`; `samples` times after
    /// one that does not count. `energy` is read around them, and not around the prompt. Nothing is done where the
    /// context has no room for one.
    ///
    /// # Errors
    /// Those of [`Model::generate`].
    pub fn time_decode(
        &mut self,
        sequence: &[u32],
        tokens: usize,
        samples: usize,
        energy: &mut EnergyMeter,
    ) -> Result<Decoded> {
        let prompt = &sequence[..sequence.len().min(PROMPT_TOKENS).min(self.context().saturating_sub(1))];
        let mut decoded = Decoded::default();
        if prompt.is_empty() || tokens == 0 {
            return Ok(decoded);
        }
        let options = GenerateOptions {
            // The first token comes from reading the prompt.
            max_tokens: Some(tokens.saturating_add(1)),
            sampling: Some(SamplingParams { temperature: 0.0, ..SamplingParams::default() }),
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        for sample in 0..=samples {
            let mut generation = self.generate(Prompt::Ids(prompt), &options)?;
            generation.next().transpose()?;
            let mark = energy.mark();
            generation.by_ref().try_for_each(|piece| piece.map(drop))?;
            let energy = energy.since(&mark);
            let reading = generation.finish().decode;
            if sample > 0 {
                decoded.add(reading, energy);
            }
        }
        Ok(decoded)
    }
}

fn outcome(scores: &[Score], reading: Reading, divergence: Option<Divergence>) -> Outcome {
    let scored: usize = scores.iter().map(|score| score.logprobs.len()).sum();
    let correct: usize = scores.iter().map(|score| score.correct).sum();
    Outcome {
        perplexity: perplexity(scores),
        scored,
        top1_accuracy: (scored > 0).then(|| correct as f64 / scored as f64),
        divergence,
        reading,
        decode: Decoded::default(),
    }
}

/// A divergence under way.
#[derive(Default)]
struct Sums {
    kl: f64,
    agreed: u64,
    positions: u64,
}

impl Sums {
    fn add(&mut self, reference: &[f32], logits: &[f32], predicted: u32) {
        self.kl += kl_divergence(reference, logits);
        let likeliest = |best: usize, at: usize| if reference[at] > reference[best] { at } else { best };
        self.agreed += u64::from((0..reference.len()).fold(0, likeliest) == predicted as usize);
        self.positions += 1;
    }

    fn divergence(&self) -> Option<Divergence> {
        let positions = self.positions as f64;
        (self.positions > 0).then(|| Divergence {
            mean_kl_nats: self.kl / positions,
            agreement: self.agreed as f64 / positions,
        })
    }
}

/// `KL(softmax(reference) || softmax(logits))` in nats, at least 0.
fn kl_divergence(reference: &[f32], logits: &[f32]) -> f64 {
    let (p_norm, q_norm) = (log_sum_exp(reference), log_sum_exp(logits));
    let terms = reference.iter().zip(logits).map(|(&p, &q)| {
        let (log_p, log_q) = (f64::from(p) - p_norm, f64::from(q) - q_norm);
        let p = log_p.exp();
        // What the reference excludes adds nothing, whatever the other says.
        if p > 0.0 { p * (log_p - log_q) } else { 0.0 }
    });
    terms.sum::<f64>().max(0.0)
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let max = f64::from(max);
    max + logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_as_by_hand() {
        // p = 1/2, 1/4, 1/4 and q = 1/4, 1/4, 1/2, each with an offset that softmax takes away.
        let logits = |odds: [f32; 3], offset: f32| odds.map(|odd| odd.ln() + offset);
        let (p, q) = (logits([2.0, 1.0, 1.0], 5.0), logits([1.0, 1.0, 2.0], -3.0));
        let by_hand = 0.5 * 2.0_f64.ln() + 0.25 * 0.5_f64.ln();
        assert!((kl_divergence(&p, &q) - by_hand).abs() < 1e-6);
        assert_eq!(kl_divergence(&p, &p), 0.0);
    }

    #[test]
    fn what_only_one_side_excludes_counts_as_it_must() {
        let (open, closed) = ([0.0, 0.0], [0.0, f32::NEG_INFINITY]);
        assert_eq!(kl_divergence(&open, &closed), f64::INFINITY);
        assert!((kl_divergence(&closed, &open) - 2.0_f64.ln()).abs() < 1e-12);
    }
}
