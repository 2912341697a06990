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
    /// How the weight is held, whatever it is stored in.
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
    /// How gate and up are held, whatever they are stored in.
    pub format: WeightFormat,
    /// How down is held. Its rows are `intermediate` wide, which another block may fit than `hidden`.
    pub down_format: WeightFormat,
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

    /// How one expert's `projection` is held.
    pub fn format_of(&self, projection: Projection) -> WeightFormat {
        match projection {
            Projection::Gate | Projection::Up => self.format,
            Projection::Down => self.down_format,
        }
    }

    /// Multiply-adds of one expert for one token.
    pub fn macs_per_token_expert(&self) -> u64 {
        3 * self.hidden as u64 * self.intermediate as u64
    }

    /// Bytes of one expert's three matrices.
    pub fn bytes_per_expert(&self) -> u64 {
        Projection::ALL.into_iter().fold(0, |sum: u64, projection| {
            let (rows, cols) = self.shape(projection);
            let bytes = self.format_of(projection).bytes_for(rows, cols).unwrap_or(usize::MAX);
            sum.saturating_add(bytes as u64)
        })
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
    /// How the weight is held: every format of a matrix in it, maybe one of them twice.
    pub fn formats(&self) -> Vec<WeightFormat> {
        self.matrices().iter().map(|&(format, ..)| format).collect()
    }

    /// Bytes of the whole weight as held. For [`crate::Backend::supports`].
    ///
    /// # Errors
    /// The reason why there can be no such weight: it has no elements, its rows are no multiple of a block of their
    /// format, or it exceeds the address space.
    pub fn checked_bytes(&self) -> Result<usize, String> {
        let matrices = self.matrices();
        if let Some((format, _, cols)) =
            matrices.iter().find(|(format, _, cols)| !cols.is_multiple_of(format.block_len()))
        {
            let block = format.block_len();
            return Err(format!("{format} needs rows of a multiple of {block} columns, got {cols}"));
        }
        let copies = match self {
            WeightSpec::Linear(_) => 1,
            WeightSpec::Experts(spec) => spec.n_experts,
        };
        let bytes = |&(format, rows, cols): &(WeightFormat, usize, usize)| {
            format.bytes_for(rows, cols)?.checked_mul(copies)
        };
        match matrices.iter().try_fold(0usize, |sum, matrix| sum.checked_add(bytes(matrix)?)) {
            None => Err("it exceeds the address space".into()),
            Some(0) => Err("it has no elements".into()),
            Some(bytes) => Ok(bytes),
        }
    }

    /// Format, rows and columns of its matrices, for experts of one of them.
    fn matrices(&self) -> Vec<(WeightFormat, usize, usize)> {
        match self {
            WeightSpec::Linear(spec) => vec![(spec.format, spec.outputs, spec.inputs)],
            WeightSpec::Experts(spec) => Projection::ALL
                .map(|projection| {
                    let (rows, cols) = spec.shape(projection);
                    (spec.format_of(projection), rows, cols)
                })
                .to_vec(),
        }
    }
}

impl fmt::Display for WeightSpec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightSpec::Linear(s) => {
                write!(f, "`{}` [{}, {}] in {}", s.name, s.outputs, s.inputs, s.format.name())
            }
            WeightSpec::Experts(s) => {
                let ExpertSpec { layer, n_experts, hidden, intermediate, format, down_format, .. } = s;
                write!(f, "{n_experts} experts of {hidden} x {intermediate} in layer {layer} in {format}")?;
                if down_format == format { Ok(()) } else { write!(f, ", down in {down_format}") }
            }
        }
    }
}
