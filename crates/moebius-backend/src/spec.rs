//! Descriptions of weights and devices: what a backend is asked about before it is given anything.

use std::fmt;

use candle_core::Device;
use moebius_expert_kernels::WeightFormat;
use moebius_metering::ExpertWork;
use moebius_router::Routing;

/// What a backend is and where it computes.
#[derive(Clone, Debug)]
pub struct BackendInfo {
    /// The name that people write after `--backend`.
    pub name: &'static str,
    /// Where activations live.
    pub device: Device,
    /// The kernels and resources in use, in words: "avx512f, 2 threads".
    pub detail: String,
}

/// The non-linearity of a gated linear unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)` (arXiv 1702.03118), the gate of SwiGLU (arXiv 2002.05202).
    Silu,
    /// The tanh form of the Gaussian error linear unit (arXiv 1606.08415).
    GeluTanh,
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Activation::Silu => f.write_str("silu"),
            Activation::GeluTanh => f.write_str("gelu (tanh)"),
        }
    }
}

/// One of the three matrices of a gated expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Projection {
    /// `[intermediate, hidden]`, its output goes through the activation.
    Gate,
    /// `[intermediate, hidden]`, multiplied with the activated gate.
    Up,
    /// `[hidden, intermediate]`, back to the residual stream.
    Down,
}

impl Projection {
    /// Every projection, each at the index of its value.
    pub const ALL: [Projection; 3] = [Projection::Gate, Projection::Up, Projection::Down];
}

/// A dense projection `y = x Wᵀ + b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearSpec {
    /// The weight's name in the checkpoint.
    pub name: String,
    /// Width of the input rows.
    pub inputs: usize,
    /// Width of the output rows.
    pub outputs: usize,
    /// How the weight is stored.
    pub format: WeightFormat,
}

impl LinearSpec {
    /// Multiply-adds for one input row.
    pub fn macs_per_token(&self) -> u64 {
        self.inputs as u64 * self.outputs as u64
    }

    /// Bytes of the weight that one pass over it touches.
    pub fn weight_bytes(&self) -> u64 {
        self.format.bytes_for(self.outputs, self.inputs).unwrap_or(usize::MAX) as u64
    }
}

/// The experts of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertSpec {
    /// Index of the decoder layer, from 0.
    pub layer: usize,
    /// Experts in the bank.
    pub n_experts: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of one expert.
    pub intermediate: usize,
    /// How the weights are stored.
    pub format: WeightFormat,
    /// The gate's non-linearity.
    pub activation: Activation,
}

impl ExpertSpec {
    /// Rows and columns of one expert's `projection`.
    pub fn shape(&self, projection: Projection) -> (usize, usize) {
        match projection {
            Projection::Gate | Projection::Up => (self.intermediate, self.hidden),
            Projection::Down => (self.hidden, self.intermediate),
        }
    }

    /// Multiply-adds of one expert for one token.
    pub fn macs_per_token_expert(&self) -> u64 {
        3 * self.hidden as u64 * self.intermediate as u64
    }

    /// Bytes of one expert's three matrices.
    pub fn bytes_per_expert(&self) -> u64 {
        let matrix = self.format.bytes_for(self.intermediate, self.hidden).unwrap_or(usize::MAX) as u64;
        matrix.saturating_mul(3)
    }

    /// What running `routing` over these experts counts for, when `active_experts` of them got a token.
    pub fn work(&self, routing: &Routing, active_experts: usize) -> ExpertWork {
        ExpertWork {
            layer: self.layer,
            tokens: routing.tokens(),
            n_experts: self.n_experts,
            top_k: routing.top_k(),
            active_experts,
            macs_per_token_expert: self.macs_per_token_expert(),
            bytes_per_expert: self.bytes_per_expert(),
        }
    }
}

/// Any weight that a backend can be asked about.
#[derive(Clone, Copy, Debug)]
pub enum WeightSpec<'a> {
    /// A dense projection or an embedding.
    Linear(&'a LinearSpec),
    /// A bank of experts.
    Experts(&'a ExpertSpec),
}

impl WeightSpec<'_> {
    /// How the weight is stored.
    pub fn format(&self) -> WeightFormat {
        match self {
            WeightSpec::Linear(spec) => spec.format,
            WeightSpec::Experts(spec) => spec.format,
        }
    }
}

impl fmt::Display for WeightSpec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightSpec::Linear(s) => {
                write!(f, "`{}` [{}, {}] in {}", s.name, s.outputs, s.inputs, s.format.name())
            }
            WeightSpec::Experts(s) => write!(
                f,
                "{} experts of {} x {} in layer {} in {}",
                s.n_experts,
                s.hidden,
                s.intermediate,
                s.layer,
                s.format.name()
            ),
        }
    }
}
