//! The operations of [`crate::Ops`] in plain candle: defaults for new backends and the yardstick of the
//! conformance suite. Clear before fast.
//!
//! Shapes: as in [`crate::Ops`].
//! Invariants: none on bits; candle picks its matrix product by shape.

mod recurrence;

pub use recurrence::{causal_conv, delta_rule, selective_scan, softplus};

use candle_core::{D, DType, Device, Tensor};

use crate::{Activation, AttentionSpan, AttentionSpec, Error, Pairing, Result, RopeTable};

/// See [`crate::Ops::rms_norm`].
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = x.broadcast_div(&(mean_square + f64::from(eps))?.sqrt()?)?;
    Ok(normed.broadcast_mul(weight)?)
}

/// See [`crate::Ops::layer_norm`].
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let normed = rms_norm(&centred, weight, eps)?;
    Ok(bias.map_or(Ok(normed.clone()), |bias| normed.broadcast_add(bias))?)
}

/// See [`crate::Ops::add`].
pub fn add(x: &Tensor, y: &Tensor, factor: f32) -> Result<Tensor> {
    if factor == 1.0 {
        return Ok((x + y)?);
    }
    Ok((x + (y * f64::from(factor))?)?)
}

/// See [`crate::Ops::write_rows`].
pub fn write_rows(cache: &Tensor, rows: &Tensor, position: usize) -> Result<()> {
    if rows.elem_count() == 0 {
        return Ok(());
    }
    Ok(cache.slice_set(&rows.transpose(0, 1)?.contiguous()?, 1, position)?)
}

/// See [`crate::Ops::rope`].
pub fn rope(x: &Tensor, table: &RopeTable) -> Result<Tensor> {
    let (tokens, heads, head_dim) = x.dims3()?;
    let half = table.cos.dim(1)?;
    let rotary = 2 * half;
    if table.cos.dim(0)? != tokens || rotary > head_dim {
        return Err(Error::Shape {
            what: "rope table".into(),
            expected: format!("[{tokens}, at most {}]", head_dim / 2),
            got: format!("{:?}", table.cos.dims()),
        });
    }
    let cos = table.cos.unsqueeze(1)?; // [tokens, 1, half]
    let sin = table.sin.unsqueeze(1)?;
    let turned = x.narrow(2, 0, rotary)?;
    let (a, b) = match table.pairing {
        Pairing::HalfSplit => (turned.narrow(2, 0, half)?, turned.narrow(2, half, half)?),
        Pairing::Interleaved => {
            let pairs = turned.reshape((tokens, heads, half, 2))?;
            (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?)
        }
    };
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let turned = match table.pairing {
        Pairing::HalfSplit => Tensor::cat(&[first, second], 2)?,
        Pairing::Interleaved => Tensor::stack(&[first, second], 3)?.reshape((tokens, heads, rotary))?,
    };
    if rotary == head_dim {
        return Ok(turned);
    }
    Ok(Tensor::cat(&[turned, x.narrow(2, rotary, head_dim - rotary)?], 2)?)
}

/// See [`crate::Ops::attention`].
pub fn attention(q: &Tensor, spans: &[AttentionSpan<'_>], spec: &AttentionSpec) -> Result<Tensor> {
    let (_, heads, _) = q.dims3()?;
    check(spec, heads)?;
    let mut outputs = Vec::with_capacity(spans.len());
    let mut spans: Vec<_> = spans.iter().collect();
    spans.sort_by_key(|span| span.rows.start);
    for span in spans {
        let rows = span.rows.len();
        let seen = span.first_position + rows;
        let kv_heads = span.keys.dim(0)?;
        let share = |t: &Tensor| -> Result<Tensor> {
            let width = t.dim(2)?;
            let t = t.narrow(1, 0, seen)?.unsqueeze(1)?;
            let t = t.broadcast_as((kv_heads, heads / kv_heads, seen, width))?.contiguous()?;
            Ok(t.reshape((heads, seen, width))?)
        };
        let q = q.narrow(0, span.rows.start, rows)?.transpose(0, 1)?.contiguous()?; // [heads, rows, head_dim]
        let scores = (q.matmul(&share(span.keys)?.t()?)? * f64::from(spec.scale))?; // [heads, rows, seen]
        let scores = scores.broadcast_add(&causal_mask(span, seen, spec, q.device())?)?;
        let shares = match &spec.sinks {
            None => candle_nn::ops::softmax_last_dim(&scores)?,
            Some(sinks) => {
                let sinks = sinks.reshape((heads, 1, 1))?.broadcast_as((heads, rows, 1))?.contiguous()?;
                let with_sinks = Tensor::cat(&[scores, sinks], 2)?; // [heads, rows, seen + 1]
                candle_nn::ops::softmax_last_dim(&with_sinks)?.narrow(2, 0, seen)?.contiguous()?
            }
        };
        let out = shares.matmul(&share(span.values)?)?;
        outputs.push(out.transpose(0, 1)?.flatten_from(1)?);
    }
    Ok(Tensor::cat(&outputs, 0)?)
}

/// See [`crate::Ops::activate`].
pub fn activate(activation: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match activation {
        Activation::Silu => x.silu()?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
        Activation::ReluSquared => x.relu()?.sqr()?,
        Activation::ClampedSwiglu { .. } => return Err(Error::NeedsGate(activation)),
    })
}

/// See [`crate::Ops::glu`].
pub fn glu(activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if let Activation::ClampedSwiglu { limit } = activation {
        let gate = gate.minimum(limit)?;
        let up = (up.clamp(-limit, limit)? + 1.0)?;
        let sigmoid = candle_nn::ops::sigmoid(&(&gate * 1.702)?)?;
        return Ok(((gate * sigmoid)? * up)?);
    }
    Ok((activate(activation, gate)? * up)?)
}

/// Fails unless each head has its sink and every query sees a key.
fn check(spec: &AttentionSpec, heads: usize) -> Result<()> {
    let wrong = |what: &str, expected: String, got: String| {
        Err(Error::Shape { what: format!("attention {what}"), expected, got })
    };
    match &spec.sinks {
        Some(sinks) if sinks.dims() != [heads] => {
            wrong("sinks", format!("[{heads}]"), format!("{:?}", sinks.dims()))
        }
        _ if spec.window == Some(0) => wrong("window", "at least 1".into(), "0".into()),
        _ if spec.chunk == Some(0) => wrong("chunk", "at least 1".into(), "0".into()),
        _ => Ok(()),
    }
}

/// `[rows, seen]`: 0 where the key may be seen, minus infinity elsewhere.
fn causal_mask(
    span: &AttentionSpan<'_>,
    seen: usize,
    spec: &AttentionSpec,
    device: &Device,
) -> Result<Tensor> {
    let rows = span.rows.len();
    let mask: Vec<f32> = (0..rows)
        .flat_map(|row| {
            let position = span.first_position + row;
            let oldest = spec.first_visible(position);
            (0..seen).map(move |key| if key <= position && key >= oldest { 0.0 } else { f32::NEG_INFINITY })
        })
        .collect();
    Ok(Tensor::from_vec(mask, (rows, seen), device)?.to_dtype(DType::F32)?)
}
