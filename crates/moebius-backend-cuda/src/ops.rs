//! The operations between projections, on our own kernels: candle's choose theirs by shape, and bits may not follow it.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{
    Activation, AttentionSpan, AttentionSpec, DeltaRule, Error, Linear, Ops, Pairing, Result, RopeTable,
    SelectiveScan,
};

use crate::gpu::{Buffer, Launch};
use crate::inputs::split_norm;
use crate::linear::CudaLinear;
use crate::product::activation_args;
use crate::recurrence;
use crate::slices::{Dense, Rows, blocks_for, computed, expect_dims, optional};
use crate::weights::Engine;

/// The widest head of queries and of values: what a block has room for.
const MAX_HEAD: usize = 1024;

/// Up to so many rows a norm is split where it is computed.
const FEW_ROWS: usize = 64;

pub(crate) struct CudaOps {
    pub(crate) engine: Arc<Engine>,
}

impl Ops for CudaOps {
    fn project(&self, linears: &[&dyn Linear], x: &Tensor) -> Result<Vec<Tensor>> {
        match CudaLinear::all_of(&self.engine, linears) {
            Some(own) => CudaLinear::forward_each(&self.engine, &own, x),
            None => linears.iter().map(|linear| linear.forward(x)).collect(),
        }
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let width = weight.dim(0)?;
        expect_dims("norm weight", &x.dims()[x.rank().saturating_sub(1)..], weight.dims())?;
        let grid = [x.elem_count().checked_div(width).unwrap_or(0), 1];
        // Rows of two dimensions are what projections are given, and while there are few, a launch is what takes time.
        if x.rank() == 2 && grid[0] <= FEW_ROWS {
            return split_norm(&self.engine, x, weight, eps);
        }
        let (values, weight) = (Dense::new(x)?, Dense::new(weight)?);
        let before = [values.arg()?, weight.arg()?];
        computed(&self.engine.gpu, x.dims(), ("rms_norm", grid), &before, &[width.into(), eps.into()])
    }

    fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
        let width = weight.dim(0)?;
        expect_dims("norm weight", &x.dims()[x.rank().saturating_sub(1)..], weight.dims())?;
        expect_dims("norm bias", weight.dims(), bias.unwrap_or(weight).dims())?;
        let grid = [x.elem_count().checked_div(width).unwrap_or(0), 1];
        let (values, weight) = (Dense::new(x)?, Dense::new(weight)?);
        let bias = bias.map(Dense::new).transpose()?;
        let before = [values.arg()?, weight.arg()?, optional(bias.as_ref())?, bias.is_some().into()];
        computed(&self.engine.gpu, x.dims(), ("layer_norm", grid), &before, &[width.into(), eps.into()])
    }

    fn rope(&self, x: &Tensor, table: &RopeTable) -> Result<Tensor> {
        let (tokens, heads, head_dim) = x.dims3()?;
        let pairs = table.cos.dim(1)?;
        expect_dims("cosines", &[tokens, pairs], table.cos.dims())?;
        expect_dims("sines", &[tokens, pairs], table.sin.dims())?;
        if 2 * pairs > head_dim {
            return Err(Error::Shape {
                what: "rope table".into(),
                expected: format!("[{tokens}, at most {}]", head_dim / 2),
                got: format!("{:?}", table.cos.dims()),
            });
        }
        let (values, cos, sin) = (Dense::new(x)?, Dense::new(&table.cos)?, Dense::new(&table.sin)?);
        let sizes = [tokens, heads, head_dim, pairs].map(Into::into);
        let after = [&sizes[..], &[(table.pairing == Pairing::Interleaved).into()]].concat();
        let grid = [blocks_for(x.elem_count()), 1];
        let before = [values.arg()?, cos.arg()?, sin.arg()?];
        computed(&self.engine.gpu, x.dims(), ("rope", grid), &before, &after)
    }

    fn attention(&self, q: &Tensor, spans: &[AttentionSpan<'_>], spec: &AttentionSpec) -> Result<Tensor> {
        let (tokens, heads, head_dim) = q.dims3()?;
        let value_dim = spans.first().map_or(Ok(head_dim), |span| span.values.dim(2))?;
        check_spec(spec, heads)?;
        for span in spans {
            check_span(span, [tokens, heads, head_dim], value_dim)?;
        }
        let gpu = &self.engine.gpu;
        let (q, sinks) = (Dense::new(q)?, spec.sinks.as_ref().map(Dense::new).transpose()?);
        let size = tokens * heads * value_dim;
        // Rows of no span are zeros.
        let mut out: Buffer<f32> =
            if covers(spans, tokens) { gpu.unwritten(size)? } else { gpu.upload(&vec![0.0; size])? };
        for span in spans {
            let (kv_heads, capacity, _) = span.keys.dims3()?;
            let (keys, values) = (Dense::new(span.keys)?, Rows::new(span.values)?);
            let [of_heads, of_rows] = values.strides;
            let (window, chunk) = (spec.window.unwrap_or(0), spec.chunk.unwrap_or(0));
            let sizes = [
                span.rows.start,
                span.first_position,
                kv_heads,
                head_dim,
                value_dim,
                capacity,
                of_heads,
                of_rows,
                window,
                chunk,
            ];
            let memory = [q.arg()?, keys.arg()?, values.arg()?, optional(sinks.as_ref())?, out.write()];
            let args =
                [&memory[..], &sizes.map(Into::into), &[spec.scale.into(), sinks.is_some().into()]].concat();
            let blocks = [span.rows.len(), heads].into();
            gpu.launch(&Launch { kernel: "attention", blocks, args: &args })?;
        }
        gpu.tensor(out, &[tokens, heads * value_dim])
    }

    fn activate(&self, activation: Activation, x: &Tensor) -> Result<Tensor> {
        if activation.needs_gate() {
            return Err(Error::NeedsGate(activation));
        }
        let (kind, _) = activation_args(activation);
        self.element_wise("activate", &[x], &[kind])
    }

    fn glu(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        expect_dims("gated input", gate.dims(), up.dims())?;
        let (kind, limit) = activation_args(activation);
        self.element_wise("glu", &[gate, up], &[kind, limit])
    }

    fn softplus(&self, x: &Tensor) -> Result<Tensor> {
        self.element_wise("softplus", &[x], &[])
    }

    fn causal_conv(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        state: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        recurrence::causal_conv(&self.engine.gpu, x, (weight, bias), state)
    }

    fn delta_rule(&self, inputs: &DeltaRule<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
        recurrence::delta_rule(&self.engine.gpu, inputs, state)
    }

    fn selective_scan(&self, inputs: &SelectiveScan<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
        recurrence::selective_scan(&self.engine.gpu, inputs, state)
    }
}

impl CudaOps {
    /// A kernel with a thread for each element of tensors of one shape.
    fn element_wise(
        &self,
        kernel: &str,
        tensors: &[&Tensor],
        more: &[crate::gpu::Arg<'_>],
    ) -> Result<Tensor> {
        let (shape, count) = (tensors[0].dims(), tensors[0].elem_count());
        let dense = tensors.iter().map(|x| Dense::new(x)).collect::<Result<Vec<_>>>()?;
        let before = dense.iter().map(Dense::arg).collect::<Result<Vec<_>>>()?;
        let after = [&[count.into()], more].concat();
        computed(&self.engine.gpu, shape, (kernel, [blocks_for(count), 1]), &before, &after)
    }
}

/// Whether every row is of a span.
fn covers(spans: &[AttentionSpan<'_>], tokens: usize) -> bool {
    let mut rows: Vec<_> = spans.iter().map(|span| span.rows.clone()).collect();
    rows.sort_by_key(|rows| rows.start);
    let end = rows.iter().fold(0, |end, rows| if rows.start <= end { end.max(rows.end) } else { end });
    end == tokens
}

/// Fails unless each head has its sink and every query sees a key.
fn check_spec(spec: &AttentionSpec, heads: usize) -> Result<()> {
    if let Some(sinks) = &spec.sinks {
        expect_dims("attention sinks", &[heads], sinks.dims())?;
    }
    for (what, keys) in [("window", spec.window), ("chunk", spec.chunk)] {
        if keys == Some(0) {
            let (expected, got) = ("at least 1".into(), "0".into());
            return Err(Error::Shape { what: format!("attention {what}"), expected, got });
        }
    }
    Ok(())
}

/// Fails unless a span lies within the batch and its cache, and a block has room for its heads.
fn check_span(
    span: &AttentionSpan<'_>,
    [tokens, heads, head_dim]: [usize; 3],
    value_dim: usize,
) -> Result<()> {
    let (kv_heads, capacity, width) = span.keys.dims3()?;
    expect_dims("attention values", &[kv_heads, capacity, value_dim], span.values.dims())?;
    let rows = &span.rows;
    let wrong =
        |expected: String, got: String| Err(Error::Shape { what: "attention span".into(), expected, got });
    if rows.start > rows.end || rows.end > tokens || width != head_dim {
        return wrong(
            format!("rows in 0..{tokens} and keys of width {head_dim}"),
            format!("rows {rows:?} and keys of width {width}"),
        );
    }
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return wrong(format!("{heads} heads in equal groups"), format!("{kv_heads} heads of keys"));
    }
    let last = span.first_position.saturating_add(rows.len());
    if last > capacity {
        return wrong(format!("at most {capacity} positions"), last.to_string());
    }
    if head_dim.max(value_dim) > MAX_HEAD {
        return wrong(format!("heads of at most {MAX_HEAD}"), format!("{head_dim} and {value_dim}"));
    }
    Ok(())
}
