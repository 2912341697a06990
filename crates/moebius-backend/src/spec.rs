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
    /// Bytes that the device had free for weights and activations when it was opened; `None` if they lie in the host's
    /// memory.
    pub free_bytes: Option<u64>,
    /// Whether inputs of products with weights in bf16, or of all, are rounded to bf16 first, as it was asked for. The
    /// contract allows such a backend to be as far off as that takes it.
    pub bf16_activations: bool,
}

/// The non-linearity of an expert or an MLP: `act(gate) * up` where there is a gate, `act(up)` where there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x * sigmoid(x)` (arXiv 1702.03118), the gate of SwiGLU (arXiv 2002.05202).
    Silu,
    /// The Gaussian error linear unit, `x * (1 + erf(x / sqrt 2)) / 2` (arXiv 1606.08415).
    Gelu,
    /// Its tanh form, from the same paper.
    GeluTanh,
    /// `max(x, 0)^2` (arXiv 2109.08668).
    ReluSquared,
    /// `(u + 1) * g * sigmoid(1.702 g)` with `g = min(gate, limit)` and `u = clamp(up, -limit, limit)`, as gpt-oss
    /// has it. There is no such unit without a gate.
    ClampedSwiglu {
        /// The largest gate, and the largest magnitude of up.
        limit: f32,
    },
}

impl Activation {
    /// Whether there is no such unit without a gate.
    pub fn needs_gate(self) -> bool {
        matches!(self, Activation::ClampedSwiglu { .. })
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Activation::Silu => f.write_str("silu"),
            Activation::Gelu => f.write_str("gelu"),
            Activation::GeluTanh => f.write_str("gelu (tanh)"),
            Activation::ReluSquared => f.write_str("squared relu"),
            Activation::ClampedSwiglu { limit } => write!(f, "swiglu clamped at {limit}"),
        }
    }
}

/// One of the matrices of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Projection {
    /// `[intermediate, hidden]`, its output goes through the activation. Some experts have none.
    Gate,
    /// `[intermediate, hidden]`, multiplied with the activated gate; without a gate it is activated itself.
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

    /// Bytes of one row of the weight: what looking up one token of an embedding table touches.
    pub fn row_bytes(&self) -> u64 {
        self.format.bytes_for(1, self.inputs).unwrap_or(usize::MAX) as u64
    }

    /// Fails unless `bias`, if any, has a value for every output row.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn check_bias(&self, bias: Option<&[f32]>) -> crate::Result<()> {
        match bias {
            Some(bias) if bias.len() != self.outputs => Err(crate::Error::Shape {
                what: format!("bias of `{}`", self.name),
                expected: format!("[{}]", self.outputs),
                got: format!("[{}]", bias.len()),
            }),
            _ => Ok(()),
        }
    }

    /// Bytes of the weight that one pass over it touches.
    pub fn weight_bytes(&self) -> u64 {
        self.format.bytes_for(self.outputs, self.inputs).unwrap_or(usize::MAX) as u64
    }
}

/// The experts of one layer.
#[derive(Clone, Debug, PartialEq)]
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
    /// The non-linearity.
    pub activation: Activation,
    /// Whether an expert is `down(act(gate x) * (up x))`; otherwise it is `down(act(up x))` and has two matrices.
    pub gated: bool,
    /// Whether each matrix of an expert has a bias, one value for each of its rows: those of gate and up are added
    /// before the activation, that of down before the weight of the router.
    pub biases: bool,
}

impl ExpertSpec {
    /// The matrices that an expert has.
    pub fn projections(&self) -> &'static [Projection] {
        if self.gated { &Projection::ALL } else { &Projection::ALL[1..] }
    }

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
        self.projections().len() as u64 * self.hidden as u64 * self.intermediate as u64
    }

    /// Bytes of one expert's matrices.
    pub fn bytes_per_expert(&self) -> u64 {
        self.projections().iter().fold(0, |sum: u64, &projection| {
            let (rows, cols) = self.shape(projection);
            let bytes = self.format_of(projection).bytes_for(rows, cols).unwrap_or(usize::MAX);
            sum.saturating_add(bytes as u64)
        })
    }

    /// What running `routing` over these experts counts for.
    pub fn work<'r>(&self, routing: &'r Routing) -> ExpertWork<'r> {
        ExpertWork {
            layer: self.layer,
            n_experts: self.n_experts,
            tokens: routing.tokens(),
            top_k: routing.top_k(),
            experts: routing.all_experts(),
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
    /// Matrices of one shape, one for each of so many heads.
    Heads(&'a LinearSpec, usize),
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
    /// format, it exceeds the address space, or experts without a gate have an activation that needs one.
    pub fn checked_bytes(&self) -> Result<usize, String> {
        if let WeightSpec::Experts(ExpertSpec { gated: false, activation, .. }) = self
            && activation.needs_gate()
        {
            return Err(format!("{activation} needs a gate"));
        }
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
            WeightSpec::Heads(_, heads) => *heads,
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

    /// Format, rows and columns of its matrices, for experts and heads of one of them.
    fn matrices(&self) -> Vec<(WeightFormat, usize, usize)> {
        match self {
            WeightSpec::Linear(spec) | WeightSpec::Heads(spec, _) => {
                vec![(spec.format, spec.outputs, spec.inputs)]
            }
            WeightSpec::Experts(spec) => (spec.projections().iter())
                .map(|&projection| {
                    let (rows, cols) = spec.shape(projection);
                    (spec.format_of(projection), rows, cols)
                })
                .collect(),
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
            WeightSpec::Heads(s, heads) => {
                write!(f, "`{}` of {heads} heads [{}, {}] in {}", s.name, s.outputs, s.inputs, s.format)
            }
        }
    }
}
