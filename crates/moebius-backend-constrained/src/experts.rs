//! The experts of one layer, computed run by run in ascending id.
//!
//! Shapes: x and out `[tokens, hidden]`; gate, if any, and up `[intermediate, hidden]`, down `[hidden, intermediate]`.
//! Invariants: however experts are cut into runs, an output element is summed in ascending expert id.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{
    Activation, BankBiases, Error, ExpertBank, ExpertSource, ExpertSpec, Packer, Projection, Result,
    WeightView,
};
use moebius_expert_kernels::{
    Activation as KernelActivation, ExpertBiases, ExpertRows, KernelError, PackedExperts, PackedMatrix,
    SharedBytes,
};
use moebius_metering::Meter;
use moebius_router::{Dispatch, Routing, WeightTarget};

use crate::Processor;
use crate::buffer::Buffer;
use crate::slices::{kernel, with_f32};

/// The matrices of one expert, in the order of [`ExpertSpec::projections`].
type Unit = Vec<PackedMatrix>;

pub(crate) struct ConstrainedExperts {
    spec: ExpertSpec,
    biases: BankBiases,
    units: Vec<Unit>,
    processor: Processor,
}

impl ConstrainedExperts {
    pub(crate) fn load(
        processor: &Processor,
        packer: &dyn Packer,
        spec: &ExpertSpec,
        source: &dyn ExpertSource,
    ) -> Result<Self> {
        let unit = |expert| -> Result<Unit> {
            let matrices = spec
                .projections()
                .iter()
                .map(|&projection| matrix(packer, &source.get(expert, projection)?, (spec, projection)));
            matrices.collect()
        };
        let units = (0..spec.n_experts).map(unit).collect::<Result<_>>()?;
        let biases = spec.read_biases(source)?;
        Ok(ConstrainedExperts { spec: spec.clone(), biases, units, processor: processor.clone() })
    }

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

    /// Adds what a run of experts gives, each with its matrices in `units`.
    fn add(&self, x: &[f32], step: &Step<'_>, experts: &[usize], out: &mut [f32]) -> Result<()> {
        let units: Vec<&Unit> = experts.iter().map(|&expert| &self.units[expert]).collect();
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
        if !busy.is_empty() {
            with_f32(x, |x| self.add(x, &step, &busy, &mut out))?;
        }
        meter.experts(self.spec.work(routing));
        Ok(Tensor::from_vec(out, (tokens, hidden), x.device())?)
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

/// Packs a matrix, which must fit its expert, as the kernels read it.
fn matrix(
    packer: &dyn Packer,
    view: &WeightView<'_>,
    (spec, projection): (&ExpertSpec, Projection),
) -> Result<PackedMatrix> {
    let ((rows, cols), held) = (spec.shape(projection), spec.format_of(projection));
    if (view.rows, view.cols) != (rows, cols) {
        return Err(Error::Shape {
            what: format!("`{}`", view.name),
            expected: format!("[{rows}, {cols}]"),
            got: format!("[{}, {}]", view.rows, view.cols),
        });
    }
    let bytes = packer.pack(view, held)?;
    let mut buffer = Buffer::new(bytes.len());
    buffer.bytes_mut().copy_from_slice(&bytes);
    let memory = SharedBytes::new(Arc::new(buffer), 0..bytes.len());
    let packed = memory.and_then(|memory| PackedMatrix::from_packed(held, rows, cols, memory));
    packed.map_err(|error: KernelError| Error::Weight { name: view.name.clone(), source: Box::new(error) })
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
