//! A model beside its two dense twins, executed and not only counted.
//!
//! Every form is the same loaded model; what differs is what its banks of experts do. *Sparse* runs the chosen experts.
//! *Iso-total* runs every expert by the same kernels, those that were not chosen with weight zero: the same output.
//! *Iso-active* runs a dense layer as wide as k experts in their place, made of the first k: other outputs, and the work
//! of a dense model with as many active parameters. Such a model has no router, so operations and time of the routers,
//! which run here nevertheless, are left out of its numbers.
//!
//! Invariants: all forms read the same tokens and are given the same continuation; they take turns sample by sample.

mod backend;
mod session;

use std::time::Duration;

use moebius_metering::{Part, Reading, Stage};

use crate::bench::{Quartiles, Timed};

pub use session::{Proof, TwinSession, TwinText};

/// What banks of experts do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The chosen experts.
    Sparse,
    /// All experts, those that were not chosen with weight zero.
    IsoTotal,
    /// A dense layer as wide as the experts of a token.
    IsoActive,
}

impl Form {
    /// Every form.
    pub const ALL: [Form; 3] = [Form::Sparse, Form::IsoTotal, Form::IsoActive];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Form::Sparse => "sparse",
            Form::IsoTotal => "iso-total",
            Form::IsoActive => "iso-active",
        }
    }
}

/// The samples of one form in one phase.
#[derive(Clone, Debug, Default)]
pub struct FormTimes {
    /// The whole model.
    pub whole: Timed,
    /// Time of the experts alone, sample by sample.
    pub experts: Vec<Duration>,
    /// Forward passes of all samples.
    pub steps: u64,
    /// Tokens of all samples.
    pub tokens: u64,
}

impl FormTimes {
    /// Tokens per second.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds: f64 = self.whole.samples.iter().map(Duration::as_secs_f64).sum();
        (seconds > 0.0 && self.tokens > 0).then(|| self.tokens as f64 / seconds)
    }

    /// Milliseconds that the experts of a sample took.
    pub fn experts_millis(&self) -> Option<Quartiles> {
        self.experts_alone().millis()
    }

    /// Time of this form over that of `other`, for the whole model.
    pub fn over(&self, other: &FormTimes) -> Option<Quartiles> {
        self.whole.over(&other.whole)
    }

    /// Time of the experts over that of `other`'s.
    pub fn experts_over(&self, other: &FormTimes) -> Option<Quartiles> {
        self.experts_alone().over(&other.experts_alone())
    }

    /// Distinct experts that a step read in each layer with experts, on average.
    pub fn distinct_experts(&self) -> Option<f64> {
        let layer_steps = self.whole.counts.routed_layers().count() as u64 * self.steps;
        (layer_steps > 0).then(|| self.whole.counts.experts().distinct as f64 / layer_steps as f64)
    }

    fn experts_alone(&self) -> Timed {
        Timed { samples: self.experts.clone(), ..Timed::default() }
    }
}

/// What one number of sequences gave.
#[derive(Clone, Debug)]
pub struct TwinRow {
    /// Sequences that ran together.
    pub batch: usize,
    /// Reading the prompts, in the order of [`Form::ALL`]; a form that the model cannot take is `None`.
    pub prefill: [Option<FormTimes>; 3],
    /// Generating after them.
    pub decode: [Option<FormTimes>; 3],
}

/// One sample of one phase.
struct Sample {
    reading: Reading,
    experts: Duration,
    energy: Option<moebius_metering::Energy>,
    steps: u64,
}

impl Sample {
    /// Adds this sample of `form`, which took `router` for routing.
    fn add_to(self, times: &mut FormTimes, form: Form, router: Duration) {
        let (mut counts, mut elapsed) = (self.reading.counts, self.reading.elapsed);
        if form == Form::IsoActive {
            counts = counts.without(Part::Router);
            elapsed = elapsed.saturating_sub(router);
        }
        times.tokens += counts.all_tokens();
        times.whole.add(elapsed, &counts, self.energy);
        times.experts.push(self.experts);
        times.steps += self.steps;
    }
}

/// The stages that are asked about.
const EXPERTS: Stage = Stage::Experts;
const ROUTER: Stage = Stage::Router;
