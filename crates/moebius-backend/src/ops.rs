//! The operations between projections, each with a candle default that a backend may override.

use std::ops::Range;

use candle_core::Tensor;

use crate::{Activation, Linear, Result, reference};

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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Factor on the dot products.
    pub scale: f32,
    /// A query sees at most this many keys, itself included; `None` is all of them.
    pub window: Option<usize>,
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
    /// Values `[kv_heads, capacity, value_dim]`.
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

    /// Rotates the first `2 * cos.dim(1)` elements of every head of `x: [tokens, heads, head_dim]`.
    fn rope(&self, x: &Tensor, table: &RopeTable) -> Result<Tensor> {
        reference::rope(x, table)
    }

    /// Causal attention of `q: [tokens, heads, head_dim]`, where heads share keys in equal groups
    /// (GQA, arXiv 2305.13245). Returns `[tokens, heads * value_dim]`.
    fn attention(&self, q: &Tensor, spans: &[AttentionSpan<'_>], spec: &AttentionSpec) -> Result<Tensor> {
        reference::attention(q, spans, spec)
    }

    /// `activation(gate) * up`, element by element.
    fn glu(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        reference::glu(activation, gate, up)
    }
}
