//! The operations between projections, each with a candle default that a backend may override.

use std::ops::Range;

use candle_core::Tensor;

use crate::{Activation, DeltaRule, Linear, Result, SelectiveScan, reference};

/// Which elements of a head RoPE (arXiv 2104.09864) turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Element `i` with element `i + rotary/2`, as in Llama, Qwen and Mixtral checkpoints.
    HalfSplit,
    /// Element `2i` with element `2i + 1`, as in the paper.
    Interleaved,
}

/// Angles for the tokens of one batch.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// Cosines `[tokens, rotary/2]`, f32.
    pub cos: Tensor,
    /// Sines, same shape.
    pub sin: Tensor,
    /// Which elements turn together.
    pub pairing: Pairing,
}

/// What is the same for all sequences of an attention call.
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// Factor on the dot products.
    pub scale: f32,
    /// A query sees at most this many keys, itself included; `None` is all of them. Zero is an error.
    pub window: Option<usize>,
    /// A query sees no key of an earlier chunk of so many positions, as in Llama 4; `None` is a single chunk. Zero is
    /// an error.
    pub chunk: Option<usize>,
    /// One more logit for each head, `[heads]`, that takes part in the softmax and has no value (attention sinks,
    /// arXiv 2309.17453; learned, in gpt-oss).
    pub sinks: Option<Tensor>,
}

impl AttentionSpec {
    /// The first key that a query at `position` sees: the later of the bounds of window and chunk.
    pub fn first_visible(&self, position: usize) -> usize {
        let windowed = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let chunked = self.chunk.map_or(0, |chunk| position - position.checked_rem(chunk).unwrap_or(0));
        windowed.max(chunked)
    }
}

/// One sequence's part of an attention call.
#[derive(Clone, Debug)]
pub struct AttentionSpan<'a> {
    /// Rows of the batch that belong to this sequence.
    pub rows: Range<usize>,
    /// Position of the first of these rows in its sequence.
    pub first_position: usize,
    /// Keys `[kv_heads, capacity, head_dim]`; positions up to the last row's are filled.
    pub keys: &'a Tensor,
    /// Values `[kv_heads, capacity, value_dim]`. They may be the first columns of `keys`, as in latent attention
    /// (arXiv 2405.04434): a view, which a backend reads where it lies.
    pub values: &'a Tensor,
}

/// Operations on f32 activations.
pub trait Ops: Send + Sync {
    /// What each projection gives for the same `x: [tokens, inputs]`, in their order: the bits of
    /// [`Linear::forward`]. A backend that knows its own projections prepares `x` once for all of them.
    fn project(&self, linears: &[&dyn Linear], x: &Tensor) -> Result<Vec<Tensor>> {
        linears.iter().map(|linear| linear.forward(x)).collect()
    }

    /// `x / rms(x) * weight` over the last dimension (arXiv 1910.07467). `weight` is `[dim]`.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        reference::rms_norm(x, weight, eps)
    }

    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension, where the variance is the mean
    /// square of the differences (arXiv 1607.06450). `weight` and `bias` are `[dim]`.
    fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
        reference::layer_norm(x, weight, bias, eps)
    }

    /// `x + factor * y`, element by element.
    fn add(&self, x: &Tensor, y: &Tensor, factor: f32) -> Result<Tensor> {
        reference::add(x, y, factor)
    }

    /// Writes `rows`, `[tokens, heads, width]`, into `cache`, `[heads, capacity, width]`, from `position` on: the one
    /// operation that changes a tensor which others hold.
    fn write_rows(&self, cache: &Tensor, rows: &Tensor, position: usize) -> Result<()> {
        reference::write_rows(cache, rows, position)
    }

    /// Rotates the first `2 * cos.dim(1)` elements of every head of `x: [tokens, heads, head_dim]`.
    fn rope(&self, x: &Tensor, table: &RopeTable) -> Result<Tensor> {
        reference::rope(x, table)
    }

    /// Causal attention of `q: [tokens, heads, head_dim]`, where heads share keys in equal groups
    /// (GQA, arXiv 2305.13245). Returns `[tokens, heads * value_dim]`.
    fn attention(&self, q: &Tensor, spans: &[AttentionSpan<'_>], spec: &AttentionSpec) -> Result<Tensor> {
        reference::attention(q, spans, spec)
    }

    /// `activation(x)`, element by element.
    ///
    /// # Errors
    /// [`crate::Error::NeedsGate`] for [`Activation::ClampedSwiglu`].
    fn activate(&self, activation: Activation, x: &Tensor) -> Result<Tensor> {
        reference::activate(activation, x)
    }

    /// `activation(gate) * up`, element by element; see [`Activation::ClampedSwiglu`] for what that one makes of up.
    fn glu(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        reference::glu(activation, gate, up)
    }

    /// `ln(1 + exp(x))`, element by element.
    fn softplus(&self, x: &Tensor) -> Result<Tensor> {
        reference::softplus(x)
    }

    /// A convolution of each channel by itself over the tokens of one sequence: token `t` is
    /// `bias + Σ_j weight[j] * x[t + 1 - kernel + j]`, where rows before the first are those of `state`.
    ///
    /// `x` is `[tokens, channels]`, `weight` `[kernel, channels]`, `bias` `[channels]`, and `state`
    /// `[kernel - 1, channels]`, the last rows that were read before. Returns `[tokens, channels]` and the new state.
    fn causal_conv(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        state: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        reference::causal_conv(x, weight, bias, state)
    }

    /// The gated delta rule (arXiv 2412.06464) over the tokens of one sequence. For each value head, with state `S`
    /// `[key_dim, value_dim]`: `S *= exp(log_decay)`, `S += k (strength * (v - Sᵀ k))ᵀ`, and the output is `Sᵀ q`.
    ///
    /// `state` is `[value_heads, key_dim, value_dim]`. Returns `[tokens, value_heads * value_dim]` and the new state.
    fn delta_rule(&self, inputs: &DeltaRule<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
        reference::delta_rule(inputs, state)
    }

    /// A selective scan (arXiv 2312.00752, 2405.21060) over the tokens of one sequence. For each value `x` of a head,
    /// with state `h` `[state_dim]`: `h = exp(step * rate) * h + step * x * input`, and the output is
    /// `h · output + skip * x`.
    ///
    /// `state` is `[heads, head_dim, state_dim]`. Returns `[tokens, heads * head_dim]` and the new state.
    fn selective_scan(&self, inputs: &SelectiveScan<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
        reference::selective_scan(inputs, state)
    }
}
