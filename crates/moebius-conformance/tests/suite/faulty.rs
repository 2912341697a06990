//! A sound backend with one fault of choice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Tensor};
use moebius_backend::{
    AttentionSpan, AttentionSpec, Backend, BackendInfo, DeltaRule, ExpertBank, ExpertSource, ExpertSpec,
    HeadLinear, Linear, LinearSpec, Ops, Pairing, Projection, Result, RopeTable, SelectiveScan, Unsupported,
    WeightFormat, WeightSpec, WeightView,
};
use moebius_conformance::ReferenceBackend;
use moebius_metering::Meter;
use moebius_router::{Routing, WeightTarget};

use crate::row_by_row::RowByRow;

/// What is wrong.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    None,
    DropsBias,
    RoundsActivations,
    CoarseActivations,
    /// It says that it rounds inputs of products with bf16 to bf16, and does: no fault.
    RoundsAsItSays,
    /// It says so, and drops one bit more.
    RoundsBeyondWhatItSays,
    IgnoresStrides,
    OneRoutingWeight,
    WeightsOnOutputsAlways,
    CountsTwice,
    PanicsOnWrongRouting,
    AsksTwice,
    KeepsPages,
    LoadsWhatItRefuses,
    PromisesEverything,
    PromisesCutBlocks,
    KeepsStoredFormat,
    LoadsNan,
    WindowOffByOne,
    TouchesUnfilledCache,
    ExchangesPairings,
    ForgetsEps,
    ForgetsMean,
    ForgetsFactor,
    WritesFromTheStart,
    ForgetsSinks,
    ForgetsChunks,
    OneMatrixForAllHeads,
    DropsExpertBiases,
    ForgetsStates,
    LastBitOfStates,
    LastBitOfBatches,
    LastBitOfEveryFifthCall,
    LastBitOfNeighbours,
}

pub(crate) struct Faulty {
    inner: Box<dyn Backend>,
    info: BackendInfo,
    fault: Fault,
    calls: Arc<AtomicUsize>,
}

impl Faulty {
    /// Over plain candle, which keeps all groups but the bitwise one.
    pub(crate) fn new(fault: Fault) -> Faulty {
        Faulty::over(Box::new(ReferenceBackend::new().expect("candle is always there")), fault)
    }

    /// Over candle row by row, which keeps the bitwise group too.
    pub(crate) fn row_by_row(fault: Fault) -> Faulty {
        Faulty::over(Box::new(RowByRow::new().expect("candle is always there")), fault)
    }

    fn over(inner: Box<dyn Backend>, fault: Fault) -> Faulty {
        let bf16_activations = matches!(fault, Fault::RoundsAsItSays | Fault::RoundsBeyondWhatItSays);
        let info = BackendInfo { name: "faulty", bf16_activations, ..inner.info().clone() };
        Faulty { inner, info, fault, calls: Arc::default() }
    }
}

impl Backend for Faulty {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported> {
        match self.fault {
            Fault::PromisesEverything => Ok(()),
            Fault::PromisesCutBlocks
                if self.inner.supports(spec).is_err_and(|no| no.reason.contains("columns")) =>
            {
                Ok(())
            }
            Fault::LoadsWhatItRefuses if spec.formats().contains(&WeightFormat::F16) => {
                Err(Unsupported { backend: "faulty", what: spec.to_string(), reason: "it is f16".into() })
            }
            _ => self.inner.supports(spec),
        }
    }

    fn load_linear(
        &self,
        spec: &LinearSpec,
        weight: WeightView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Box<dyn Linear>> {
        let bias = bias.filter(|_| self.fault != Fault::DropsBias);
        let shape = (weight.rows, weight.cols);
        let as_stored = LinearSpec { format: weight.format, ..spec.clone() };
        let spec = if self.fault == Fault::KeepsStoredFormat { &as_stored } else { spec };
        let linear = if self.fault == Fault::LoadsNan && weight.format == WeightFormat::F32 {
            let bytes = without_nan(&weight.bytes);
            let mended = WeightView::new(weight.name.clone(), weight.format, shape, &bytes);
            self.inner.load_linear(spec, mended, bias)?
        } else if self.fault == Fault::KeepsPages {
            let copy = WeightView::new(weight.name.clone(), weight.format, shape, weight.bytes.clone());
            std::mem::forget(weight);
            self.inner.load_linear(spec, copy, bias)?
        } else {
            self.inner.load_linear(spec, weight, bias)?
        };
        Ok(Box::new(FaultyLinear { inner: linear, fault: self.fault, calls: self.calls.clone() }))
    }

    fn load_heads<'a>(
        &self,
        spec: &LinearSpec,
        heads: usize,
        source: &dyn Fn(usize) -> Result<WeightView<'a>>,
    ) -> Result<Box<dyn HeadLinear>> {
        let one = self.fault == Fault::OneMatrixForAllHeads;
        self.inner.load_heads(spec, heads, &|head| source(if one { 0 } else { head }))
    }

    fn load_experts(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Box<dyn ExpertBank>> {
        let source = FaultySource { inner: source, fault: self.fault };
        let inner = self.inner.load_experts(spec, &source)?;
        Ok(Box::new(FaultyExperts { inner, fault: self.fault }))
    }

    fn ops(&self) -> &dyn Ops {
        self
    }
}

/// The same f32 weights with every NaN replaced by zero.
fn without_nan(bytes: &[u8]) -> Vec<u8> {
    let (weights, rest) = bytes.as_chunks::<4>();
    let mend = |weight: &[u8; 4]| if f32::from_le_bytes(*weight).is_nan() { [0; 4] } else { *weight };
    weights.iter().flat_map(mend).chain(rest.iter().copied()).collect()
}

/// Values from -1 to 1, rounded to five bits and a sign.
fn coarse(x: &Tensor) -> Result<Tensor> {
    Ok(((x * 31.0)?.round()? / 31.0)?)
}

/// Values rounded to bf16.
fn rounded(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_dtype(DType::BF16)?.to_dtype(DType::F32)?)
}

/// Values rounded to one bit less than bf16 has: so much is added and taken away that the others are lost.
fn rounded_more(x: &Tensor) -> Result<Tensor> {
    let much = (x * f64::from((1 << 17) + 1))?;
    Ok((&much - (&much - x)?)?)
}

/// Each value moved by about one unit in the last place.
fn nudged(x: &Tensor) -> Result<Tensor> {
    Ok((x * (1.0 + f64::from(f32::EPSILON)))?)
}

struct FaultySource<'a> {
    inner: &'a dyn ExpertSource,
    fault: Fault,
}

impl ExpertSource for FaultySource<'_> {
    fn get(&self, expert: usize, projection: Projection) -> Result<WeightView<'_>> {
        if self.fault == Fault::AsksTwice {
            drop(self.inner.get(expert, projection)?);
        }
        self.inner.get(expert, projection)
    }

    fn bias(&self, expert: usize, projection: Projection) -> Result<Vec<f32>> {
        let mut bias = self.inner.bias(expert, projection)?;
        if self.fault == Fault::DropsExpertBiases {
            bias.fill(0.0);
        }
        Ok(bias)
    }
}

struct FaultyLinear {
    inner: Box<dyn Linear>,
    fault: Fault,
    calls: Arc<AtomicUsize>,
}

impl Linear for FaultyLinear {
    fn spec(&self) -> &LinearSpec {
        self.inner.spec()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::RoundsActivations if x.dtype() == DType::F32 => self.inner.forward(&rounded(x)?),
            Fault::RoundsAsItSays if self.spec().format == WeightFormat::Bf16 && x.dtype() == DType::F32 => {
                self.inner.forward(&rounded(x)?)
            }
            Fault::RoundsBeyondWhatItSays if self.spec().format == WeightFormat::Bf16 => {
                self.inner.forward(&rounded_more(x)?)
            }
            Fault::CoarseActivations if self.spec().format.block_len() > 1 => self.inner.forward(&coarse(x)?),
            Fault::IgnoresStrides if !x.is_contiguous() => self.inner.forward(&x.zeros_like()?),
            Fault::LastBitOfBatches if x.dim(0)? > 1 => nudged(&self.inner.forward(x)?),
            Fault::LastBitOfEveryFifthCall if call % 5 == 1 => nudged(&self.inner.forward(x)?),
            _ => self.inner.forward(x),
        }
    }

    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        self.inner.rows(ids)
    }
}

struct FaultyExperts {
    inner: Box<dyn ExpertBank>,
    fault: Fault,
}

impl ExpertBank for FaultyExperts {
    fn spec(&self) -> &ExpertSpec {
        self.inner.spec()
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        match self.fault {
            Fault::OneRoutingWeight if routing.tokens() > 0 => {
                let mut weights = routing.all_weights().to_vec();
                weights[0] *= 1.001;
                self.inner.forward(x, &rewritten(routing, weights, routing.applies_to())?, meter)
            }
            Fault::WeightsOnOutputsAlways => {
                let weights = routing.all_weights().to_vec();
                self.inner.forward(x, &rewritten(routing, weights, WeightTarget::Output)?, meter)
            }
            Fault::CountsTwice => {
                self.inner.forward(x, routing, meter)?;
                self.inner.forward(x, routing, meter)
            }
            Fault::PanicsOnWrongRouting => {
                assert_eq!(routing.n_experts(), self.spec().n_experts, "the routing of another bank");
                self.inner.forward(x, routing, meter)
            }
            Fault::LastBitOfBatches if x.dim(0)? > 1 => nudged(&self.inner.forward(x, routing, meter)?),
            _ => self.inner.forward(x, routing, meter),
        }
    }
}

/// The same choices with other weights.
fn rewritten(routing: &Routing, weights: Vec<f32>, target: WeightTarget) -> Result<Routing> {
    let ids = routing.all_experts().to_vec();
    Ok(Routing::from_parts(routing.n_experts(), routing.top_k(), ids, weights, target)?)
}

impl Ops for Faulty {
    fn project(&self, linears: &[&dyn Linear], x: &Tensor) -> Result<Vec<Tensor>> {
        let mut outputs = self.inner.ops().project(linears, x)?;
        if let (Fault::LastBitOfNeighbours, [_, second, ..]) = (self.fault, outputs.as_mut_slice()) {
            *second = nudged(second)?;
        }
        Ok(outputs)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let eps = if self.fault == Fault::ForgetsEps { f32::MIN_POSITIVE } else { eps };
        self.inner.ops().rms_norm(x, weight, eps)
    }

    fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
        let out = self.inner.ops().layer_norm(x, weight, bias, eps)?;
        if self.fault != Fault::ForgetsMean {
            return Ok(out);
        }
        let out = self.inner.ops().rms_norm(x, weight, eps)?;
        Ok(bias.map_or(Ok(out.clone()), |bias| out.broadcast_add(bias))?)
    }

    fn add(&self, x: &Tensor, y: &Tensor, factor: f32) -> Result<Tensor> {
        self.inner.ops().add(x, y, if self.fault == Fault::ForgetsFactor { 1.0 } else { factor })
    }

    fn write_rows(&self, cache: &Tensor, rows: &Tensor, position: usize) -> Result<()> {
        let position = if self.fault == Fault::WritesFromTheStart { 0 } else { position };
        self.inner.ops().write_rows(cache, rows, position)
    }

    fn rope(&self, x: &Tensor, table: &RopeTable) -> Result<Tensor> {
        let mut table = table.clone();
        if self.fault == Fault::ExchangesPairings {
            table.pairing = match table.pairing {
                Pairing::HalfSplit => Pairing::Interleaved,
                Pairing::Interleaved => Pairing::HalfSplit,
            };
        }
        self.inner.ops().rope(x, &table)
    }

    fn attention(&self, q: &Tensor, spans: &[AttentionSpan<'_>], spec: &AttentionSpec) -> Result<Tensor> {
        let out = match self.fault {
            Fault::WindowOffByOne => {
                let window = spec.window.map(|window| window + 1);
                self.inner.ops().attention(q, spans, &AttentionSpec { window, ..spec.clone() })?
            }
            // What is refused stays refused.
            Fault::ForgetsSinks => {
                self.inner.ops().attention(q, spans, spec)?;
                self.inner.ops().attention(q, spans, &AttentionSpec { sinks: None, ..spec.clone() })?
            }
            Fault::ForgetsChunks => {
                self.inner.ops().attention(q, spans, spec)?;
                self.inner.ops().attention(q, spans, &AttentionSpec { chunk: None, ..spec.clone() })?
            }
            _ => self.inner.ops().attention(q, spans, spec)?,
        };
        if self.fault != Fault::TouchesUnfilledCache {
            return Ok(out);
        }
        // A masked product still reads what it multiplies with zero.
        let touched = (spans[0].values.sum_all()? * 0.0)?;
        Ok(out.broadcast_add(&touched)?)
    }

    fn causal_conv(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        state: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (out, next) = self.inner.ops().causal_conv(x, weight, bias, &self.remembered(state)?)?;
        Ok((out, self.left(next)?))
    }

    fn delta_rule(&self, inputs: &DeltaRule<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
        let (out, next) = self.inner.ops().delta_rule(inputs, &self.remembered(state)?)?;
        Ok((out, self.left(next)?))
    }

    fn selective_scan(&self, inputs: &SelectiveScan<'_>, state: &Tensor) -> Result<(Tensor, Tensor)> {
        let (out, next) = self.inner.ops().selective_scan(inputs, &self.remembered(state)?)?;
        Ok((out, self.left(next)?))
    }
}

impl Faulty {
    /// The state that a recurrence begins with.
    fn remembered(&self, state: &Tensor) -> Result<Tensor> {
        if self.fault == Fault::ForgetsStates { Ok(state.zeros_like()?) } else { Ok(state.clone()) }
    }

    /// The state that it leaves.
    fn left(&self, state: Tensor) -> Result<Tensor> {
        if self.fault == Fault::LastBitOfStates { nudged(&state) } else { Ok(state) }
    }
}
