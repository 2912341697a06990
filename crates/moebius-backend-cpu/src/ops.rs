//! The operations between projections, on the kernels' vector code.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{
    Activation, AttentionSpan, AttentionSpec, Error, Linear, Ops, Pairing, Result, RopeTable,
};
use moebius_expert_kernels::{AttentionInputs, AttentionShape, RotaryLayout, RotaryTables};

use crate::backend::Engine;
use crate::experts::kernel_activation;
use crate::linear::CpuLinear;
use crate::slices::{filled, kernel, with_f32};

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
                filled(x.dims(), x, |out| {
                    self.engine.by_rows(out, row_len, |rows, out| {
                        let values = &values[rows.start * row_len..rows.end * row_len];
                        self.engine.kernels.rms_norm(values, weight, eps, row_len, out)
                    })
                })
            })
        })
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
                    filled(x.dims(), x, |out| {
                        self.engine.by_rows(out, row_len, |rows, out| {
                            out.copy_from_slice(&values[rows.start * row_len..rows.end * row_len]);
                            let angles = rows.start * pairs..rows.end * pairs;
                            let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                            let tables = RotaryTables { cos, sin, pairs, layout };
                            self.engine.kernels.rotate(out, heads, head_dim, &tables)
                        })
                    })
                })
            })
        })
    }

    fn attention(&self, q: &Tensor, spans: &[AttentionSpan<'_>], spec: &AttentionSpec) -> Result<Tensor> {
        let (tokens, heads, head_dim) = q.dims3()?;
        let value_dim = spans.first().map_or(Ok(head_dim), |span| span.values.dim(2))?;
        with_f32(q, |queries| {
            filled(&[tokens, heads * value_dim], q, |out| {
                for span in spans {
                    let width = span.keys.dim(2)?;
                    if span.rows.start > span.rows.end || span.rows.end > tokens || width != head_dim {
                        return Err(Error::Shape {
                            what: "attention span".into(),
                            expected: format!("rows in 0..{tokens} and keys of width {head_dim}"),
                            got: format!("rows {:?} and keys of width {width}", span.rows),
                        });
                    }
                    let queries =
                        &queries[span.rows.start * heads * head_dim..span.rows.end * heads * head_dim];
                    let out =
                        &mut out[span.rows.start * heads * value_dim..span.rows.end * heads * value_dim];
                    self.attend(queries, span, spec, out)?;
                }
                Ok(())
            })
        })
    }

    fn glu(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        expect_dims("gated input", gate.dims(), up.dims())?;
        with_f32(gate, |gate_values| {
            with_f32(up, |up| {
                filled(gate.dims(), gate, |out| {
                    let activation = kernel_activation(activation);
                    self.engine.kernels.glu(activation, gate_values, up, out).map_err(kernel)
                })
            })
        })
    }
}

/// Fails unless a tensor has the dimensions that another one asks for.
fn expect_dims(what: &str, expected: &[usize], got: &[usize]) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Shape { what: what.into(), expected: format!("{expected:?}"), got: format!("{got:?}") })
}

impl CpuOps {
    /// One sequence: `queries` and `out` are its rows.
    fn attend(
        &self,
        queries: &[f32],
        span: &AttentionSpan<'_>,
        spec: &AttentionSpec,
        out: &mut [f32],
    ) -> Result<()> {
        let (kv_heads, capacity, head_dim) = span.keys.dims3()?;
        let value_dim = span.values.dim(2)?;
        let rows = span.rows.len().max(1);
        let shape = AttentionShape {
            heads: queries.len() / (rows * head_dim),
            kv_heads,
            head_dim,
            value_dim,
            capacity,
            first_position: span.first_position,
            scale: spec.scale,
            window: spec.window,
        };
        if span.rows.is_empty() {
            return Ok(());
        }
        with_f32(span.keys, |keys| {
            with_f32(span.values, |values| {
                let inputs = AttentionInputs { queries, keys, values };
                self.engine.kernels.attention(&self.engine.pool, &inputs, &shape, out).map_err(kernel)
            })
        })
    }
}
