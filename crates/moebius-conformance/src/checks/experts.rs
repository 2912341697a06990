//! Banks of experts against f64, and what they tell the meter.

mod kinds;

pub use kinds::{
    biases_are_added_before_activation_and_weight, every_activation_agrees_with_f64,
    experts_without_a_gate_agree_with_f64,
};

use std::collections::BTreeSet;

use candle_core::Tensor;
use moebius_backend::{Activation, Backend, BackendInfo, ExpertBank, ExpertSpec, WeightFormat, WeightSpec};
use moebius_metering::{Counts, ExpertCounts, FetchCounts, LayerCounts, Meter, Part, Work};
use moebius_router::{Routing, WeightTarget};

use super::linear::for_each_format;
use crate::Failure;
use crate::failure::{ensure, ensure_refused};
use crate::fixtures::{Bank, Samples, expert_spec, fitted, strided, tensor, values_of};
use crate::oracle;
use crate::tolerance::tolerance;

/// In whole blocks for formats that have them.
const SIZES: [(usize, usize); 6] = [(1, 1), (15, 17), (16, 16), (33, 31), (3, 100), (100, 65)];
const TOKENS: [usize; 5] = [0, 1, 2, 7, 33];

/// Experts, how many of them each token visits, and how they are gated.
const CHOICES: [((usize, usize), Activation); 4] = [
    ((1, 1), Activation::Silu),
    ((4, 2), Activation::Silu),
    ((9, 1), Activation::GeluTanh),
    ((3, 3), Activation::GeluTanh),
];

pub fn awkward_sizes_agree_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    agree_with_f64(backend, WeightTarget::Output)
}

pub fn weights_on_inputs_agree_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    agree_with_f64(backend, WeightTarget::Input)
}

fn agree_with_f64(backend: &dyn Backend, target: WeightTarget) -> Result<(), Failure> {
    for_each_format(|format| {
        let mut samples = Samples::new(21);
        let mut sizes = SIZES.map(|(hidden, inner)| (fitted(hidden, format), fitted(inner, format))).to_vec();
        sizes.dedup();
        for (sizes, (choice, activation)) in sizes.iter().flat_map(|&s| CHOICES.map(|choice| (s, choice))) {
            let spec = ExpertSpec { activation, ..expert_spec(format, choice.0, sizes) };
            let Some(loaded) = Loaded::new(backend, &mut samples, spec)? else { continue };
            for tokens in TOKENS {
                let routing = samples.routing(tokens, choice, target);
                loaded.agrees(&samples.vector(tokens * sizes.0), &routing).map_err(|failure| {
                    let (n_experts, top_k) = choice;
                    let bank = format!("{sizes:?}, {activation}, {top_k} of {n_experts} experts");
                    failure.at(format!("{bank}, {tokens} tokens"))
                })?;
            }
        }
        Ok(())
    })
}

pub fn down_may_have_a_format_of_its_own(backend: &dyn Backend) -> Result<(), Failure> {
    for (format, down_format) in
        WeightFormat::ALL.into_iter().zip(WeightFormat::ALL.into_iter().skip(1).rev())
    {
        let mut samples = Samples::new(23);
        let (hidden, intermediate) = (fitted(33, format), fitted(17, down_format));
        let spec = expert_spec(format, 6, (hidden, intermediate));
        let spec = ExpertSpec { intermediate, down_format, ..spec };
        let Some(loaded) = Loaded::new(backend, &mut samples, spec)? else { continue };
        let routing = samples.routing(7, (6, 2), WeightTarget::Output);
        let agreed = loaded.agrees(&loaded.inputs(&mut samples, 7), &routing);
        agreed.map_err(|failure| failure.at(format!("{format}, down in {down_format}")))?;
        let meter = Meter::new();
        loaded.experts.forward(&loaded.tensor(&loaded.inputs(&mut samples, 7))?, &routing, &meter)?;
        let (expected, got) = (count(&loaded.bank, &routing), meter.snapshot().experts());
        ensure(got == expected, || {
            format!("{format}, down in {down_format}: expected {expected:?}, got {got:?}")
        })?;
    }
    Ok(())
}

pub fn strided_inputs_agree_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_bank(backend, (6, (33, 17)), |loaded, samples| {
        let routing = samples.routing(7, (6, 2), WeightTarget::Output);
        let x = loaded.inputs(samples, 7);
        let input = strided(&loaded.tensor(&x)?)?;
        loaded.result_agrees(&input, &x, &routing)
    })
}

pub fn all_tokens_may_visit_one_expert(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_bank(backend, (6, (33, 17)), |loaded, samples| {
        for expert in [0, 3, 5] {
            let routing = fixed_routing(6, vec![expert; 33], samples);
            loaded.agrees(&loaded.inputs(samples, 33), &routing)?;
        }
        Ok(())
    })
}

pub fn tokens_may_visit_every_expert(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_bank(backend, (6, (33, 17)), |loaded, samples| {
        for target in [WeightTarget::Output, WeightTarget::Input] {
            let routing = samples.routing(7, (6, 6), target);
            loaded.agrees(&loaded.inputs(samples, 7), &routing)?;
        }
        Ok(())
    })
}

pub fn most_experts_may_be_empty(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_bank(backend, (40, (16, 16)), |loaded, samples| {
        let routing = fixed_routing(40, vec![39, 2, 2, 17, 39], samples);
        loaded.agrees(&loaded.inputs(samples, 5), &routing)
    })
}

pub fn the_meter_counts_exactly_what_was_routed(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_bank(backend, (9, (33, 17)), counts_exactly)?;
    for_each_format(|format| {
        let gateless = ExpertSpec { gated: false, biases: true, ..expert_spec(format, 9, (33, 17)) };
        let mut samples = Samples::new(25);
        let Some(loaded) = Loaded::new(backend, &mut samples, gateless)? else { return Ok(()) };
        counts_exactly(&loaded, &mut samples).map_err(|failure| failure.at("without a gate"))
    })
}

fn counts_exactly(loaded: &Loaded, samples: &mut Samples) -> Result<(), Failure> {
    let (meter, spec) = (Meter::new(), &loaded.bank.spec);
    let mut expected = LayerCounts { tokens_per_expert: vec![0; spec.n_experts], ..LayerCounts::default() };
    for (tokens, top_k) in [(1, 1), (7, 2), (33, 9)] {
        let routing = samples.routing(tokens, (9, top_k), WeightTarget::Output);
        let x = loaded.tensor(&loaded.inputs(samples, tokens))?;
        loaded.experts.forward(&x, &routing, &meter)?;
        expected.experts = expected.experts + count(&loaded.bank, &routing);
        routing.all_experts().iter().for_each(|&id| expected.tokens_per_expert[id as usize] += 1);
    }
    let (macs, weight_bytes) = (expected.experts.executed_macs, expected.experts.weight_bytes);
    expected.parts[Part::Experts.index()] = Work { macs, weight_bytes, cache_bytes: 0 };
    let counts = Counts { layers: [(spec.layer, expected)].into(), ..Counts::default() };
    let mut got = meter.snapshot();
    if let Some(layer) = got.layers.get_mut(&spec.layer) {
        // A backend that fetches experts says so for each that was touched, and one that does not says nothing.
        let FetchCounts { hits, misses, .. } = std::mem::take(&mut layer.fetches);
        let touched = layer.experts.distinct;
        ensure([0, touched].contains(&(hits + misses)), || {
            format!("expected {touched} hits and misses, got {hits} and {misses}")
        })?;
    }
    ensure(got == counts, || format!("expected {counts:?}, got {got:?}"))
}

/// What one call does, counted from the ids and the stored bytes.
fn count(bank: &Bank, routing: &Routing) -> ExpertCounts {
    let pairs = routing.all_experts().len() as u64;
    let distinct = routing.all_experts().iter().collect::<BTreeSet<_>>().len() as u64;
    let expert = &bank.matrices[..if bank.spec.gated { 3 } else { 2 }];
    let macs = expert.iter().map(|matrix| matrix.values.len() as u64).sum::<u64>();
    let bytes = expert.iter().map(|matrix| matrix.bytes.len() as u64).sum::<u64>();
    let (tokens, n_experts) = (routing.tokens() as u64, bank.spec.n_experts as u64);
    ExpertCounts {
        tokens,
        pairs,
        distinct,
        executed_macs: pairs * macs,
        iso_total_macs: tokens * n_experts * macs,
        weight_bytes: distinct * bytes,
        iso_total_weight_bytes: n_experts * bytes,
        iso_active_weight_bytes: routing.top_k() as u64 * bytes,
    }
}

pub fn a_call_without_tokens_counts_nothing(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_bank(backend, (6, (33, 17)), |loaded, samples| {
        let meter = Meter::new();
        let routing = samples.routing(0, (6, 2), WeightTarget::Output);
        let out = loaded.experts.forward(&loaded.tensor(&[])?, &routing, &meter)?;
        values_of(&out, &[0, loaded.bank.spec.hidden])?;
        counted_nothing(&meter)
    })
}

pub fn routing_of_the_wrong_size_is_an_error_and_counts_nothing(
    backend: &dyn Backend,
) -> Result<(), Failure> {
    for_each_bank(backend, (6, (33, 17)), |loaded, samples| {
        let meter = Meter::new();
        let x = loaded.tensor(&loaded.inputs(samples, 7))?;
        for (tokens, n_experts) in [(0, 6), (6, 6), (8, 6), (7, 5), (7, 7), (7, 60)] {
            let routing = samples.routing(tokens, (n_experts, 2), WeightTarget::Output);
            let what = format!("routing of {tokens} tokens over {n_experts} experts for 7 over 6");
            ensure_refused(&what, loaded.experts.forward(&x, &routing, &meter))?;
        }
        counted_nothing(&meter)
    })
}

pub fn inputs_of_the_wrong_width_are_errors_and_count_nothing(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_bank(backend, (6, (32, 16)), |loaded, samples| {
        let meter = Meter::new();
        let routing = samples.routing(2, (6, 2), WeightTarget::Output);
        let width = loaded.bank.spec.hidden;
        let wrong = [width - 1, width + 1, width / 2, 2 * width].map(|width| vec![2, width]);
        for shape in wrong.into_iter().chain([vec![2 * width], vec![2, 1, width]]) {
            let shape = &shape[..];
            let x = tensor(&vec![1.0; shape.iter().product()], shape, &loaded.info.device)?;
            let forward = loaded.experts.forward(&x, &routing, &meter);
            ensure_refused(&format!("an input of shape {shape:?} for a width of {width}"), forward)?;
        }
        counted_nothing(&meter)
    })
}

fn counted_nothing(meter: &Meter) -> Result<(), Failure> {
    let got = meter.snapshot();
    ensure(got == Counts::default(), || format!("expected a meter that counted nothing, got {got:?}"))
}

/// Each token visits the one expert that is given for it.
fn fixed_routing(n_experts: usize, ids: Vec<u32>, samples: &mut Samples) -> Routing {
    let weights = samples.vector(ids.len());
    Routing::from_parts(n_experts, 1, ids, weights, WeightTarget::Output).expect("ids are below n_experts")
}

/// A bank, beside what it was loaded from and where to.
pub(super) struct Loaded {
    pub(super) bank: Bank,
    pub(super) experts: Box<dyn ExpertBank>,
    info: BackendInfo,
}

impl Loaded {
    /// Nothing where the backend says that it does not take such experts.
    pub(super) fn new(
        backend: &dyn Backend,
        samples: &mut Samples,
        spec: ExpertSpec,
    ) -> Result<Option<Loaded>, Failure> {
        if backend.supports(&WeightSpec::Experts(&spec)).is_err() {
            return Ok(None);
        }
        let bank = Bank::sampled(samples, spec)?;
        let experts = backend.load_experts(&bank.spec, &bank)?;
        Ok(Some(Loaded { bank, experts, info: backend.info().clone() }))
    }

    /// Rows for some tokens.
    fn inputs(&self, samples: &mut Samples, tokens: usize) -> Vec<f32> {
        samples.vector(tokens * self.bank.spec.hidden)
    }

    /// Rows as a tensor.
    pub(super) fn tensor(&self, x: &[f32]) -> Result<Tensor, Failure> {
        let hidden = self.bank.spec.hidden;
        tensor(x, &[x.len() / hidden, hidden], &self.info.device)
    }

    fn agrees(&self, x: &[f32], routing: &Routing) -> Result<(), Failure> {
        self.result_agrees(&self.tensor(x)?, x, routing)
    }

    fn result_agrees(&self, input: &Tensor, x: &[f32], routing: &Routing) -> Result<(), Failure> {
        let out = self.experts.forward(input, routing, &Meter::new())?;
        let out = values_of(&out, &[routing.tokens(), self.bank.spec.hidden])?;
        let formats = [self.bank.spec.format, self.bank.spec.down_format];
        let [inner, outer] = formats.map(|format| tolerance(&self.info, format));
        let allowed = inner?.experts.max(outer?.experts);
        oracle::experts(x, &self.bank, routing).check(&out, allowed)
    }
}

/// A bank of `n_experts`, `hidden` by `intermediate`, in each supported format.
fn for_each_bank(
    backend: &dyn Backend,
    (n_experts, sizes): (usize, (usize, usize)),
    mut check: impl FnMut(&Loaded, &mut Samples) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for_each_format(|format| {
        let mut samples = Samples::new(22);
        match Loaded::new(backend, &mut samples, expert_spec(format, n_experts, sizes))? {
            Some(loaded) => check(&loaded, &mut samples),
            None => Ok(()),
        }
    })
}
