//! What was measured, and what follows from it.
//!
//! Bound on batching: one step reads the weights that every token needs, and of each layer's experts those that
//! some token chose. With `D` bytes of the former, `e` bytes an expert, `L` layers and `E(B)` distinct experts of a
//! layer by chance, a step of `B` sequences reads `R(B) = D + L · E(B) · e`, so that a machine that is bound by
//! reading weights generates at most `B · R(1) / R(B)` times as many tokens a second as for one sequence.

use std::time::Duration;

use moebius_metering::{Energy, Part, Reading, Stage, StageTimes};

use super::statistics::{Statistics, expected_distinct};
use super::{Kind, Test};
use crate::declared::ModelledPhase;

/// The samples of one test, and what was counted in them.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// What was measured.
    pub test: Test,
    /// The time of each sample.
    pub samples: Vec<Duration>,
    /// What all samples together counted and took.
    pub reading: Reading,
    /// Forward passes of all samples.
    pub steps: u64,
    /// Time by stage over all samples, if asked for.
    pub stages: Option<StageTimes>,
    /// The most memory that the process held since the model was opened, if the system tells.
    pub peak_bytes: Option<u64>,
    /// Energy of all samples, if it is counted or estimated.
    pub energy: Option<Energy>,
    /// What declared hardware would have taken for all samples, if some is declared.
    pub modelled: Option<ModelledPhase>,
    /// Experts of a layer, and how many of them a token goes through; `None` for a dense model.
    pub routing: Option<(usize, usize)>,
}

/// The time of one stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageShare {
    /// Which.
    pub stage: Stage,
    /// Milliseconds of an average step.
    pub step_ms: f64,
    /// Share of the step.
    pub share: f64,
}

impl Measurement {
    /// Tokens per second of each sample.
    pub fn rates(&self) -> Vec<f64> {
        let tokens = self.test.tokens() as f64;
        self.samples.iter().map(|time| tokens / time.as_secs_f64().max(f64::MIN_POSITIVE)).collect()
    }

    /// Tokens per second, of all sequences together.
    pub fn tokens_per_second(&self) -> Statistics {
        Statistics::of(&self.rates())
    }

    /// Bytes of weights read per second; `None` when nothing was counted.
    pub fn weight_bytes_per_second(&self) -> Option<f64> {
        self.per_second(self.reading.counts.total().weight_bytes)
    }

    /// Bytes of keys and values read and written per second.
    pub fn cache_bytes_per_second(&self) -> Option<f64> {
        self.per_second(self.reading.counts.total().cache_bytes)
    }

    /// Bytes of weights of one step.
    pub fn weight_bytes_per_step(&self) -> Option<f64> {
        let bytes = self.reading.counts.total().weight_bytes;
        (self.steps > 0 && bytes > 0).then(|| bytes as f64 / self.steps as f64)
    }

    /// Weights and cache read, as a share of what the machine reads per second.
    pub fn bandwidth_share(&self, read_bytes_per_second: f64) -> Option<f64> {
        self.reading.bytes_per_second().map(|rate| rate / read_bytes_per_second)
    }

    /// Operations, as a share of what the machine does per second.
    pub fn peak_share(&self, ops_per_second: f64) -> Option<f64> {
        self.reading.flops_per_second().map(|rate| rate / ops_per_second)
    }

    /// Net joules of a token, if known.
    pub fn joules_per_token(&self) -> Option<f64> {
        self.energy?.joules_per(self.test.tokens() as u64 * self.samples.len() as u64)
    }

    /// Tokens of an average step.
    pub fn rows_per_step(&self) -> Option<f64> {
        let tokens = self.test.tokens() as f64 * self.samples.len() as f64;
        (self.steps > 0).then(|| tokens / self.steps as f64)
    }

    /// Distinct experts of a layer whose weights a step read, on average.
    pub fn distinct_experts(&self) -> Option<f64> {
        let layers = self.reading.counts.routed_layers().count() as u64;
        let layer_steps = layers.saturating_mul(self.steps);
        (layer_steps > 0).then(|| self.reading.experts().distinct as f64 / layer_steps as f64)
    }

    /// What [`Measurement::distinct_experts`] is by chance.
    pub fn expected_distinct_experts(&self) -> Option<f64> {
        let (n_experts, top_k) = self.routing?;
        Some(expected_distinct(n_experts, top_k, self.rows_per_step()?))
    }

    /// How many times as fast as one sequence a batch can generate at most while reading weights is the bound.
    /// `None` for prompts and for dense models.
    pub fn batching_bound(&self) -> Option<f64> {
        let (n_experts, top_k) = self.routing.filter(|_| matches!(self.test.kind, Kind::Generate(_)))?;
        let counts = &self.reading.counts;
        let experts = counts.experts();
        if experts.distinct == 0 || self.steps == 0 {
            return None;
        }
        let routed = counts.part(Part::Experts).weight_bytes;
        let others = counts.total().weight_bytes.saturating_sub(routed) as f64 / self.steps as f64;
        let expert_bytes = experts.weight_bytes as f64 / experts.distinct as f64;
        let layers = counts.routed_layers().count() as f64;
        let read = |rows: f64| others + layers * expert_bytes * expected_distinct(n_experts, top_k, rows);
        let batch = self.test.batch as f64;
        Some(batch * read(1.0) / read(batch))
    }

    /// How many times as fast as `single`, the same test of one sequence.
    pub fn speedup_over(&self, single: &Measurement) -> Option<f64> {
        let same = Test { batch: 1, ..self.test } == single.test;
        let (rate, base) = (self.tokens_per_second().mean, single.tokens_per_second().mean);
        (same && base > 0.0).then(|| rate / base)
    }

    /// Where an average step spent its time; what no stage claims counts as [`Stage::Other`]. Stages that take no
    /// time are left out.
    pub fn profile(&self) -> Option<Vec<StageShare>> {
        let stages = self.stages?;
        let whole = self.reading.elapsed.max(stages.total());
        let unclaimed = whole.saturating_sub(stages.total());
        let share = |stage: Stage| {
            let time = stages.of(stage) + if stage == Stage::Other { unclaimed } else { Duration::ZERO };
            StageShare {
                stage,
                step_ms: 1e3 * time.as_secs_f64() / self.steps.max(1) as f64,
                share: time.as_secs_f64() / whole.as_secs_f64().max(f64::MIN_POSITIVE),
            }
        };
        Some(Stage::ALL.map(share).into_iter().filter(|share| share.step_ms > 0.0).collect())
    }

    fn per_second(&self, amount: u64) -> Option<f64> {
        let seconds = self.reading.seconds();
        (amount > 0 && seconds > 0.0).then(|| amount as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use moebius_metering::{ExpertWork, Meter, Window, Work};

    use super::*;

    /// OLMoE's sizes in steps of `batch` sequences, each of which takes a second; `distinct` experts a layer.
    fn olmoe(batch: usize, distinct: usize) -> Measurement {
        let meter = Meter::new();
        let window = Window::open(&meter);
        let experts: Vec<u32> = (0..8 * batch).map(|pair| (pair % distinct) as u32).collect();
        for layer in 0..16 {
            meter.experts(ExpertWork {
                layer,
                n_experts: 64,
                tokens: batch,
                top_k: 8,
                experts: &experts,
                macs_per_token_expert: 3 * 2048 * 1024,
                bytes_per_expert: 3 * 2048 * 1024,
            });
        }
        let dense = 16 * 4 * 2048 * 2048 + 16 * 64 * 2048 + 50304 * 2048;
        meter.add(Part::Attention, Work { macs: 1, weight_bytes: dense, cache_bytes: 0 });
        let mut reading = window.close(&meter);
        reading.elapsed = Duration::from_secs(1);
        Measurement {
            test: Test { depth: 0, kind: Kind::Generate(1), batch },
            samples: vec![Duration::from_secs(1)],
            reading,
            steps: 1,
            stages: None,
            peak_bytes: None,
            energy: None,
            modelled: None,
            routing: Some((64, 8)),
        }
    }

    #[track_caller]
    fn near(got: Option<f64>, expected: f64) {
        let got = got.expect("a number");
        assert!((got / expected - 1.0).abs() < 0.01, "{got} against {expected}");
    }

    #[test]
    fn the_bound_on_batching_is_that_of_the_weights_that_a_step_reads() {
        near(olmoe(1, 8).batching_bound(), 1.0);
        // Independent of what was counted, and as by hand: 373 M shared, 100.7 M for the n-th expert of every layer.
        near(olmoe(8, 40).batching_bound(), 8.0 * (373.0 + 8.0 * 100.7) / (373.0 + 42.0 * 100.7));
        near(olmoe(32, 63).batching_bound(), 32.0 * (373.0 + 8.0 * 100.7) / (373.0 + 63.1 * 100.7));
        let prompt =
            Measurement { test: Test { kind: Kind::Prompt(8), ..olmoe(8, 40).test }, ..olmoe(8, 40) };
        assert_eq!(prompt.batching_bound(), None);
        assert_eq!(Measurement { routing: None, ..olmoe(8, 40) }.batching_bound(), None);
    }

    #[test]
    fn experts_are_counted_a_layer_and_a_step() {
        near(olmoe(8, 40).distinct_experts(), 40.0);
        near(olmoe(8, 40).expected_distinct_experts(), 42.0);
        near(olmoe(8, 40).weight_bytes_per_second(), 373e6 + 40.0 * 100.7e6);
        near(olmoe(8, 40).bandwidth_share(10e9), 0.44);
    }

    #[test]
    fn a_batch_is_compared_with_the_same_test_of_one_sequence() {
        near(olmoe(8, 40).speedup_over(&olmoe(1, 8)), 8.0);
        let deeper = Measurement { test: Test { depth: 1, ..olmoe(1, 8).test }, ..olmoe(1, 8) };
        assert_eq!(olmoe(8, 40).speedup_over(&deeper), None);
    }

    #[test]
    fn a_profile_adds_up_to_the_step() {
        assert_eq!(olmoe(1, 8).profile(), None);
        let meter = Meter::new();
        meter.time_stages(true);
        meter.begin_laps();
        meter.lap(Stage::Experts);
        let measured = Measurement { stages: Some(meter.stage_times()), steps: 2, ..olmoe(1, 8) };
        let profile = measured.profile().expect("stages were timed");
        let stages: Vec<Stage> = profile.iter().map(|share| share.stage).collect();
        assert_eq!(stages, [Stage::Experts, Stage::Other]);
        near(Some(profile.iter().map(|share| share.share).sum()), 1.0);
        near(Some(profile.iter().map(|share| share.step_ms).sum()), 500.0);
    }
}
