//! The experts of one layer, computed run by run in ascending id.
//!
//! Shapes: x and out `[tokens, hidden]`; gate, if any, and up `[intermediate, hidden]`, down `[hidden, intermediate]`.
//! Invariants: however experts are cut into runs, an output element is summed in ascending expert id.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Activation, BankBiases, ExpertBank, ExpertSpec, Linear, Projection, Result};
use moebius_expert_kernels::{
    Activation as KernelActivation, ExpertBiases, ExpertRows, PackedExperts, PackedMatrix, SharedBytes,
};
use moebius_metering::Meter;
use moebius_router::{Dispatch, Router, Routing, WeightTarget};

use crate::Processor;
use crate::buffer::Buffer;
use crate::files::UnitSpans;
use crate::residency::WINDOW;
use crate::slices::{kernel, with_f32};
use crate::store::{Hint, Store};

pub(crate) struct ConstrainedExperts {
    pub(crate) spec: ExpertSpec,
    pub(crate) biases: BankBiases,
    /// Their number in the store.
    pub(crate) bank: usize,
    pub(crate) store: Arc<Store>,
    pub(crate) processor: Processor,
}

/// The memory of an expert, and where its matrices lie.
type Unit = (Arc<Buffer>, Arc<UnitSpans>);

impl ConstrainedExperts {
    /// The biases of a run of experts.
    fn biases_of(&self, experts: &[usize]) -> ExpertBiases {
        let of = |bias: &Option<Vec<f32>>, projection| {
            let (rows, _) = self.spec.shape(projection);
            let values = |bias: &Vec<f32>| {
                experts.iter().flat_map(|&expert| &bias[expert * rows..][..rows]).copied().collect()
            };
            bias.as_ref().map(values)
        };
        ExpertBiases {
            gate: of(&self.biases.gate, Projection::Gate),
            up: of(&self.biases.up, Projection::Up),
            down: of(&self.biases.down, Projection::Down),
        }
    }

    /// The matrices of an expert, in the order of its projections.
    fn matrices(&self, (buffer, spans): &Unit) -> Result<Vec<PackedMatrix>> {
        let places = self.spec.projections().iter().zip(spans.places());
        let matrices = places.map(|(&projection, place)| {
            let ((rows, cols), format) = (self.spec.shape(projection), self.spec.format_of(projection));
            let memory = SharedBytes::new(buffer.clone(), place)?;
            PackedMatrix::from_packed(format, rows, cols, memory)
        });
        matrices.collect::<std::result::Result<_, _>>().map_err(kernel)
    }

    /// Adds what a run of experts gives, whose memory is `units`.
    fn add(&self, x: &[f32], step: &Step<'_>, run: (&[usize], &[Unit]), out: &mut [f32]) -> Result<()> {
        let (experts, units) = run;
        let units = units.iter().map(|unit| self.matrices(unit)).collect::<Result<Vec<_>>>()?;
        let bank = |index: usize| units.iter().map(|unit| unit[index].clone()).collect::<Vec<_>>();
        let first = usize::from(self.spec.gated);
        let gate = self.spec.gated.then(|| bank(0));
        let packed = PackedExperts::new(gate, bank(first), bank(first + 1), activation(self.spec.activation))
            .and_then(|packed| packed.with_biases(self.biases_of(experts)))
            .map_err(kernel)?;
        let (offsets, pairs) = step.pairs_of(experts);
        let rows = ExpertRows {
            offsets: &offsets,
            rows: &step.dispatch.rows()[pairs.clone()],
            weights: &step.dispatch.weights()[pairs],
            weight_on_input: step.weight_on_input,
        };
        let Processor { kernels, pool } = &self.processor;
        kernels.add_experts(pool, x, &packed, &rows, out).map_err(kernel)
    }
}

impl ConstrainedExperts {
    /// Computes the busy experts as they come.
    fn run(
        &self,
        x: &Tensor,
        values: &[f32],
        (step, busy): (&Step<'_>, &[usize]),
        (out, meter): (&mut [f32], &Meter),
    ) -> Result<()> {
        let next = self.store.next_hint(self.spec.layer);
        let mut visit = self.store.visit(self.bank, busy);
        visit.ask();
        if let Some(next) = next {
            let likely = likely(&next, x);
            let (layer, counts) = visit.ahead(next.bank, &likely);
            meter.fetched(layer, counts);
        }
        let mut left = busy;
        while !left.is_empty() {
            let units = visit.next_run()?;
            let (experts, after) = left.split_at(units.len());
            self.add(values, step, (experts, &units), out)?;
            left = after;
            drop(units);
            visit.ask();
        }
        meter.fetched(self.spec.layer, visit.counts());
        Ok(())
    }
}

/// The experts that the next layer's router would choose if it saw what this layer's experts see, the heaviest first. A
/// guess: what cannot be guessed gives none, and whoever is wrong about the router says so when it runs.
fn likely(next: &Hint, x: &Tensor) -> Vec<usize> {
    let fits = x.dims2().is_ok_and(|(tokens, width)| {
        next.gate.spec().inputs == width && tokens * next.router.config().top_k <= WINDOW
    });
    let logits = || next.gate.forward(x).ok()?.flatten_all().ok()?.to_vec1::<f32>().ok();
    let Some(routing) = fits.then(logits).flatten().and_then(|logits| next.router.route(&logits).ok()) else {
        return Vec::new();
    };
    let pairs = routing.iter().flat_map(|(experts, weights)| experts.iter().zip(weights));
    let mut pairs: Vec<(u32, f32)> = pairs.map(|(&expert, &weight)| (expert, weight)).collect();
    pairs.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    pairs.into_iter().map(|(expert, _)| expert as usize).collect()
}

impl ExpertBank for ConstrainedExperts {
    fn spec(&self) -> &ExpertSpec {
        &self.spec
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        let (tokens, hidden) = self.spec.check_call(x, routing)?;
        let dispatch = routing.dispatch();
        let weight_on_input = routing.applies_to() == WeightTarget::Input;
        let step = Step { dispatch: &dispatch, weight_on_input };
        let busy = step.busy();
        let mut out = vec![0.0; tokens * hidden];
        with_f32(x, |values| self.run(x, values, (&step, &busy), (&mut out, meter)))?;
        meter.experts(self.spec.work(routing));
        Ok(Tensor::from_vec(out, (tokens, hidden), x.device())?)
    }

    fn routed_by(&mut self, gate: &Arc<dyn Linear>, router: &Router) {
        let hint = Hint { gate: gate.clone(), router: router.clone(), bank: self.bank };
        self.store.hint(self.spec.layer, hint);
    }
}

/// One call's pairs of token and expert.
struct Step<'a> {
    dispatch: &'a Dispatch,
    weight_on_input: bool,
}

impl Step<'_> {
    /// The experts that some token chose, ascending.
    fn busy(&self) -> Vec<usize> {
        let offsets = self.dispatch.offsets();
        (0..self.dispatch.n_experts()).filter(|&e| offsets[e] < offsets[e + 1]).collect()
    }

    /// Where the pairs of each of a run of busy experts begin and end, and where those of all lie. Experts between them
    /// have none.
    fn pairs_of(&self, experts: &[usize]) -> (Vec<usize>, Range<usize>) {
        let all = self.dispatch.offsets();
        let first = experts.first().map_or(0, |&expert| all[expert]);
        let ends = experts.iter().map(|&expert| all[expert + 1] - first);
        let offsets: Vec<usize> = std::iter::once(0).chain(ends).collect();
        let pairs = first..first + offsets.last().copied().unwrap_or(0);
        (offsets, pairs)
    }
}

/// The kernels' name for an activation.
fn activation(activation: Activation) -> KernelActivation {
    match activation {
        Activation::Silu => KernelActivation::Silu,
        Activation::Gelu => KernelActivation::Gelu,
        Activation::GeluTanh => KernelActivation::GeluTanh,
        Activation::ReluSquared => KernelActivation::ReluSquared,
        Activation::ClampedSwiglu { limit } => KernelActivation::ClampedSwiglu { limit },
    }
}
