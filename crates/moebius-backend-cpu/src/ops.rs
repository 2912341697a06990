//! The operations between projections, on the kernels' vector code.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{
    Activation, AttentionSpan, AttentionSpec, DeltaRule, Error, Linear, Ops, Pairing, Result, RopeTable,
    SelectiveScan,
};
use moebius_expert_kernels::{AttentionCall, AttentionInputs, AttentionShape, RotaryLayout, RotaryTables};

use crate::backend::Engine;
use crate::experts::kernel_activation;
use crate::linear::CpuLinear;
use crate::recurrence;
use crate::slices::{Cached, WriteRows, expect_dims, kernel, with_caches, with_f32};

pub(crate) struct CpuOps {
    pub(crate) engine: Arc<Engine>,
}

impl Ops for CpuOps {
    fn project(&self, linears: &[&dyn Linear], x: &Tensor) -> Result<Vec<Tensor>> {
        match CpuLinear::all_of(&self.engine, linears) {
            Some(own) => CpuLinear::forward_each(&self.engine, &own, x),
            None => linears.iter().map(|linear| linear.forward(x)).collect(),
        }
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let row_len = weight.dim(0)?;
        expect_dims("norm weight", &x.dims()[x.rank().saturating_sub(1)..], weight.dims())?;
        with_f32(x, |values| {
            with_f32(weight, |weight| {
                self.engine.by_rows(x.dims(), row_len, |rows, out| {
                    let values = &values[rows.start * row_len..rows.end * row_len];
                    self.engine.kernels.rms_norm(values, weight, eps, row_len, out)
                })
            })
        })
    }

    fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
        let row_len = weight.dim(0)?;
        expect_dims("norm weight", &x.dims()[x.rank().saturating_sub(1)..], weight.dims())?;
        expect_dims("norm bias", weight.dims(), bias.unwrap_or(weight).dims())?;
        let norm = |values: &[f32], weight: &[f32], bias: Option<&[f32]>| {
            self.engine.by_rows(x.dims(), row_len, |rows, out| {
                let values = &values[rows.start * row_len..rows.end * row_len];
                self.engine.kernels.layer_norm(values, weight, bias, eps, out)
            })
        };
        with_f32(x, |values| {
            with_f32(weight, |weight| match bias {
                None => norm(values, weight, None),
                Some(bias) => with_f32(bias, |bias| norm(values, weight, Some(bias))),
            })
        })
    }

    fn add(&self, x: &Tensor, y: &Tensor, factor: f32) -> Result<Tensor> {
        expect_dims("summand", x.dims(), y.dims())?;
        with_f32(x, |x_values| {
            with_f32(y, |y_values| {
                self.engine.by_rows(x.dims(), 1, |places, out| {
                    let (x, y) = (&x_values[places.clone()], &y_values[places]);
                    self.engine.kernels.add_scaled(x, y, factor, out)
                })
            })
        })
    }

    fn write_rows(&self, cache: &Tensor, rows: &Tensor, position: usize) -> Result<()> {
        WriteRows { pool: &self.engine.pool, position }.run(cache, rows)
    }

    fn rope(&self, x: &Tensor, table: &RopeTable) -> Result<Tensor> {
        let (tokens, heads, head_dim) = x.dims3()?;
        let layout = match table.pairing {
            Pairing::HalfSplit => RotaryLayout::HalfSplit,
            Pairing::Interleaved => RotaryLayout::Interleaved,
        };
        let pairs = table.cos.dim(1)?;
        with_f32(&table.cos, |cos| {
            with_f32(&table.sin, |sin| {
                let row_len = heads * head_dim;
                expect_dims("angles", &[tokens * pairs; 2], &[cos.len(), sin.len()])?;
                with_f32(x, |values| {
                    self.engine.by_rows(x.dims(), row_len, |rows, out| {
                        let values = &values[rows.start * row_len..rows.end * row_len];
                        let angles = rows.start * pairs..rows.end * pairs;
                        let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                        let tables = RotaryTables { cos, sin, pairs, layout };
                        self.engine.kernels.rotate(values, (heads, head_dim), &tables, out)
                    })
                })
            })
        })
    }

    fn attention(&self, q: &Tensor, spans: &[AttentionSpan<'_>], spec: &AttentionSpec) -> Result<Tensor> {
        let (_, heads, head_dim) = q.dims3()?;
        let value_dim = spans.first().map_or(Ok(head_dim), |span| span.values.dim(2))?;
        let mut spans: Vec<_> = spans.iter().collect();
        spans.sort_by_key(|span| (span.rows.start, span.rows.end));
        check_spans(q, &spans, value_dim)?;
        spans.retain(|span| !span.rows.is_empty());
        let attend = |queries: &[f32], caches: &[Cached<'_>], sinks: Option<&[f32]>, out: &mut [f32]| {
            let (row_len, mut rest, mut end) = (heads * value_dim, out, 0);
            let mut calls = Vec::with_capacity(spans.len());
            for (span, cache) in spans.iter().zip(caches) {
                let Range { start, end: next } = span.rows;
                let (_, tail) = std::mem::take(&mut rest).split_at_mut((start - end) * row_len);
                let (out, tail) = tail.split_at_mut((next - start) * row_len);
                (rest, end) = (tail, next);
                let queries = &queries[start * heads * head_dim..next * heads * head_dim];
                let inputs = AttentionInputs { queries, keys: cache.keys, values: cache.values, sinks };
                calls.push(AttentionCall { inputs, shape: shape_of(span, spec, (heads, *cache))?, out });
            }
            self.engine.kernels.attention_each(&self.engine.pool, calls).map_err(kernel)
        };
        with_f32(q, |queries| {
            with_caches(&spans, |caches| {
                self.engine.filled(&[q.dim(0)?, heads * value_dim], |out| match &spec.sinks {
                    None => attend(queries, caches, None, out),
                    Some(sinks) => with_f32(sinks, |sinks| attend(queries, caches, Some(sinks), out)),
                })
            })
        })
    }

    fn activate(&self, activation: Activation, x: &Tensor) -> Result<Tensor> {
        if activation.needs_gate() {
            return Err(Error::NeedsGate(activation));
        }
        with_f32(x, |values| {
            self.engine.by_rows(x.dims(), 1, |places, out| {
                out.copy_from_slice(&values[places]);
                self.engine.kernels.activate(kernel_activation(activation), out)
            })
        })
    }

    fn glu(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        expect_dims("gated input", gate.dims(), up.dims())?;
        with_f32(gate, |gate_values| {
            with_f32(up, |up| {
                let activation = kernel_activation(activation);
                self.engine.by_rows(gate.dims(), 1, |places, out| {
                    let (gate, up) = (&gate_values[places.clone()], &up[places]);
                    self.engine.kernels.glu(activation, gate, up, out)
                })
            })
        })
    }

    fn softplus(&self, x: &Tensor) -> Result<Tensor> {
        recurrence::softplus(&self.engine, x)
    }

    fn causal_conv(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        state: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        recurrence::causal_conv(&self.engine, x, weight, bias, state)
    }

    fn delta_rule(&self, inputs: &DeltaRule<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
        recurrence::delta_rule(&self.engine, inputs, state)
    }

    fn selective_scan(&self, inputs: &SelectiveScan<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
        recurrence::selective_scan(&self.engine, inputs, state)
    }
}

/// Fails unless the spans, in the order of their rows, share none and have keys and values of the right widths.
fn check_spans(q: &Tensor, spans: &[&AttentionSpan<'_>], value_dim: usize) -> Result<()> {
    let (tokens, _, head_dim) = q.dims3()?;
    let mut end = 0;
    for span in spans {
        let (kv_heads, capacity, width) = span.keys.dims3()?;
        let Range { start, end: next } = span.rows;
        if start < end || start > next || next > tokens || width != head_dim {
            return Err(Error::Shape {
                what: "attention span".into(),
                expected: format!("rows in {end}..{tokens} and keys of width {head_dim}"),
                got: format!("rows {:?} and keys of width {width}", span.rows),
            });
        }
        expect_dims("attention values", &[kv_heads, capacity, value_dim], span.values.dims())?;
        end = next;
    }
    Ok(())
}

/// The kernels' words for a span.
fn shape_of(
    span: &AttentionSpan<'_>,
    spec: &AttentionSpec,
    (heads, cache): (usize, Cached<'_>),
) -> Result<AttentionShape> {
    let (kv_heads, capacity, head_dim) = span.keys.dims3()?;
    Ok(AttentionShape {
        heads,
        kv_heads,
        head_dim,
        value_dim: span.values.dim(2)?,
        capacity,
        first_position: span.first_position,
        scale: spec.scale,
        window: spec.window,
        chunk: spec.chunk,
        value_stride: cache.value_stride,
    })
}
