//! The operations between projections, computed elsewhere and accounted for.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{
    Activation, AttentionSpan, AttentionSpec, Backend, DeltaRule, Linear, Ops, Result, RopeTable,
    SelectiveScan,
};

use crate::account::Ledger;
use crate::declared::DeclaredLinear;

/// Accounts for each operation and lets the other backend compute it.
pub(crate) struct DeclaredOps {
    pub(crate) inner: Arc<dyn Backend>,
    pub(crate) ledger: Arc<Ledger>,
}

impl DeclaredOps {
    /// An operation that reads `x` and writes as many numbers.
    fn vector(&self, x: &Tensor, inputs: usize) {
        let rows = x.dims().first().copied().unwrap_or(0);
        self.ledger.vector(rows, (inputs + 1) * x.elem_count());
    }

    /// A recurrence: its state is read and written for each sequence, beside what comes in and goes out.
    fn recurrence(&self, x: &Tensor, state: &Tensor) {
        let rows = x.dims().first().copied().unwrap_or(0);
        self.ledger.vector(rows, 2 * (x.elem_count() + state.elem_count()));
    }
}

impl Ops for DeclaredOps {
    fn project(&self, linears: &[&dyn Linear], x: &Tensor) -> Result<Vec<Tensor>> {
        let own: Option<Vec<&DeclaredLinear>> =
            linears.iter().map(|linear| linear.as_any()?.downcast_ref()).collect();
        let Some(own) = own else { return linears.iter().map(|linear| linear.forward(x)).collect() };
        own.iter().for_each(|linear| linear.book(x));
        let inner: Vec<&dyn Linear> = own.iter().map(|linear| linear.inner.as_ref()).collect();
        self.inner.ops().project(&inner, x)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        self.vector(x, 1);
        self.inner.ops().rms_norm(x, weight, eps)
    }

    fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
        self.vector(x, 1);
        self.inner.ops().layer_norm(x, weight, bias, eps)
    }

    /// Not accounted for: a device adds while it writes what it adds to.
    fn add(&self, x: &Tensor, y: &Tensor, factor: f32) -> Result<Tensor> {
        self.inner.ops().add(x, y, factor)
    }

    /// Not accounted for: the rows are counted where they are read.
    fn write_rows(&self, cache: &Tensor, rows: &Tensor, position: usize) -> Result<()> {
        self.inner.ops().write_rows(cache, rows, position)
    }

    fn rope(&self, x: &Tensor, table: &RopeTable) -> Result<Tensor> {
        self.vector(x, 1);
        self.inner.ops().rope(x, table)
    }

    fn attention(&self, q: &Tensor, spans: &[AttentionSpan<'_>], spec: &AttentionSpec) -> Result<Tensor> {
        if let (Ok((_, heads, _)), Some(span)) = (q.dims3(), spans.first())
            && let (Ok((kv_heads, _, key_width)), Ok((_, _, value_width))) =
                (span.keys.dims3(), span.values.dims3())
        {
            // Values that are columns of the keys are read with them.
            let read = key_width + if span.values.is_contiguous() { value_width } else { 0 };
            self.ledger.attention(spans, spec, (kv_heads * read, heads * (key_width + value_width)));
        }
        self.inner.ops().attention(q, spans, spec)
    }

    fn activate(&self, activation: Activation, x: &Tensor) -> Result<Tensor> {
        self.vector(x, 1);
        self.inner.ops().activate(activation, x)
    }

    fn glu(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        self.vector(gate, 2);
        self.inner.ops().glu(activation, gate, up)
    }

    fn softplus(&self, x: &Tensor) -> Result<Tensor> {
        self.vector(x, 1);
        self.inner.ops().softplus(x)
    }

    fn causal_conv(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        state: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        self.recurrence(x, state);
        self.inner.ops().causal_conv(x, weight, bias, state)
    }

    fn delta_rule(&self, inputs: &DeltaRule<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
        self.recurrence(inputs.value, state);
        self.inner.ops().delta_rule(inputs, state)
    }

    fn selective_scan(&self, inputs: &SelectiveScan<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
        self.recurrence(inputs.x, state);
        self.inner.ops().selective_scan(inputs, state)
    }
}
