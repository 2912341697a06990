//! A device of your own: the whole backend contract in plain loops, accepted by the conformance suite.
//!
//! ```text
//! linear: y = x Wᵀ + b        expert: y = down · (act(gate · x) * (up · x))        layer: sum of w * expert(x)
//! ```
//!
//! Shapes: activations `[tokens, width]` in f32; a matrix is `[rows, cols]`, row-major.
//! Invariants: each output is one sum in one order, so a row has the same bits in any batch.
//! You learn: what a backend must offer, how it says no, and that a model runs on it unchanged.
//! Run: `cargo run --release -p moebius-examples --example custom_backend`

use std::error::Error as StdError;
use std::io::{Write, stdout};
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use moebius_backend::{
    Activation, Backend, BackendInfo, Error, ExpertBank, ExpertSource, ExpertSpec, Linear, LinearSpec, Ops,
    Projection, Result, Unsupported, WeightFormat, WeightSpec, WeightView,
};
use moebius_conformance::{Group, accept_groups};
use moebius_engine::{Engine, EngineOptions, Request};
use moebius_metering::{ExpertWork, Meter};
use moebius_model::ModelFiles;
use moebius_router::{Routing, WeightTarget};

/// The backend. It keeps `Ops` as the contract brings them: attention, norms and rotations in candle.
struct Plain(BackendInfo);

impl Ops for Plain {}

impl Backend for Plain {
    fn info(&self) -> &BackendInfo {
        &self.0
    }

    /// Says no before a weight is read: to formats without a loop, and to sizes that cannot be.
    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported> {
        let [matrices, rows, cols] = match spec {
            WeightSpec::Linear(spec) => [1, spec.outputs, spec.inputs],
            WeightSpec::Experts(spec) => [spec.n_experts, spec.intermediate, spec.hidden],
        };
        let bytes = matrices.checked_mul(rows).and_then(|rows| spec.format().bytes_for(rows, cols));
        let reason = match (spec.format(), bytes) {
            (WeightFormat::F32, Some(1..)) => return Ok(()),
            (WeightFormat::F32, _) => "it is empty or larger than the address space",
            _ => "there is no loop for its format",
        };
        Err(Unsupported { backend: self.0.name, what: spec.to_string(), reason: reason.into() })
    }

    fn load_linear(
        &self,
        spec: &LinearSpec,
        weight: WeightView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Box<dyn Linear>> {
        self.supports(&WeightSpec::Linear(spec))?;
        let bias = bias.unwrap_or_else(|| vec![0.0; spec.outputs]);
        same("bias", spec.outputs, bias.len())?;
        Ok(Box::new(Projected(spec.clone(), Matrix::read(&weight, (spec.outputs, spec.inputs))?, bias)))
    }

    fn load_experts(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Box<dyn ExpertBank>> {
        self.supports(&WeightSpec::Experts(spec))?;
        let read = |expert, part| Matrix::read(&source.get(expert, part)?, spec.shape(part));
        let expert =
            |e| Ok([read(e, Projection::Gate)?, read(e, Projection::Up)?, read(e, Projection::Down)?]);
        Ok(Box::new(Experts(spec.clone(), (0..spec.n_experts).map(expert).collect::<Result<_>>()?)))
    }

    fn ops(&self) -> &dyn Ops {
        self
    }
}

struct Matrix(Vec<Vec<f32>>); // rows of columns

impl Matrix {
    fn read(view: &WeightView<'_>, (rows, cols): (usize, usize)) -> Result<Matrix> {
        let values: Vec<f32> = view.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let sizes = (view.format, view.rows, view.cols, view.bytes.len());
        let good =
            sizes == (WeightFormat::F32, rows, cols, 4 * rows * cols) && values.iter().all(|v| v.is_finite());
        let fail = || Error::Weight {
            name: view.name.clone(),
            source: "not the finite f32 matrix it should be".into(),
        };
        if good { Ok(Matrix(values.chunks(cols).map(<[f32]>::to_vec).collect())) } else { Err(fail()) }
    }

    fn times(&self, x: &[f32]) -> impl Iterator<Item = f32> {
        self.0.iter().map(move |row| row.iter().zip(x).fold(0.0, |sum, (w, x)| sum + w * x))
    }
}

struct Projected(LinearSpec, Matrix, Vec<f32>); // weight, bias

impl Linear for Projected {
    fn spec(&self) -> &LinearSpec {
        &self.0
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        same("width of the input", self.0.inputs, x.dims2()?.1)?;
        let x = x.to_vec2::<f32>()?;
        let rows = x.iter().flat_map(|x| self.1.times(x).zip(&self.2).map(|(y, bias)| y + bias)).collect();
        Ok(Tensor::from_vec(rows, (x.len(), self.0.outputs), &Device::Cpu)?)
    }

    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let row =
            |&id: &u32| self.1.0.get(id as usize).ok_or_else(|| shape("row", self.0.outputs, id as usize));
        let rows: Vec<&Vec<f32>> = ids.iter().map(row).collect::<Result<_>>()?;
        Ok(Tensor::from_vec(
            rows.into_iter().flatten().copied().collect(),
            (ids.len(), self.0.inputs),
            &Device::Cpu,
        )?)
    }
}

struct Experts(ExpertSpec, Vec<[Matrix; 3]>); // gate, up and down of each expert

impl ExpertBank for Experts {
    fn spec(&self) -> &ExpertSpec {
        &self.0
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        let Experts(spec, matrices) = self;
        let (tokens, width) = x.dims2()?;
        same("width of the input", spec.hidden, width)?;
        same("routed tokens", tokens, routing.tokens())?;
        same("routed experts", spec.n_experts, routing.n_experts())?;
        let x = x.to_vec2::<f32>()?;
        let (dispatch, on_input) = (routing.dispatch(), routing.applies_to() == WeightTarget::Input);
        let mut out = vec![vec![0.0; spec.hidden]; tokens];
        for expert in dispatch.active() {
            let [gate, up, down] = &matrices[expert];
            let (rows, weights) = dispatch.expert(expert);
            for (&token, &weight) in rows.iter().zip(weights) {
                let (before, after) = if on_input { (weight, 1.0) } else { (1.0, weight) };
                let x: Vec<f32> = x[token as usize].iter().map(|x| before * x).collect();
                let inner: Vec<f32> =
                    gate.times(&x).zip(up.times(&x)).map(|(g, u)| act(spec.activation, g) * u).collect();
                out[token as usize].iter_mut().zip(down.times(&inner)).for_each(|(out, y)| *out += after * y);
            }
        }
        meter.experts(ExpertWork {
            layer: spec.layer,
            tokens,
            n_experts: spec.n_experts,
            top_k: routing.top_k(),
            active_experts: dispatch.n_active(),
            macs_per_token_expert: spec.macs_per_token_expert(),
            bytes_per_expert: spec.bytes_per_expert(),
        });
        Ok(Tensor::from_vec(out.concat(), (tokens, spec.hidden), &Device::Cpu)?)
    }
}

fn act(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
    }
}

fn same(what: &str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(shape(what, expected, got)) }
}

fn shape(what: &str, expected: usize, got: usize) -> Error {
    Error::Shape { what: what.into(), expected: expected.to_string(), got: got.to_string() }
}
// The backend ends here; what follows puts it to work.

fn main() -> Result<(), Box<dyn StdError>> {
    lesson(&mut stdout().lock())
}

fn open() -> Arc<dyn Backend> {
    Arc::new(Plain(BackendInfo { name: "plain", device: Device::Cpu, detail: "loops over f32".into() }))
}

fn lesson(out: &mut impl Write) -> Result<(), Box<dyn StdError>> {
    let (plain, cpu) = (open(), moebius::open_backend(&moebius::BackendOptions::default())?);
    writeln!(out, "1. Acceptance\n\n   {}\n", accept_groups(&*plain, &Group::VALUES)?)?;

    writeln!(out, "2. Saying no before a weight is read\n")?;
    let spec =
        LinearSpec { name: "lm_head.weight".into(), inputs: 64, outputs: 128, format: WeightFormat::Bf16 };
    match plain.supports(&WeightSpec::Linear(&spec)) {
        Ok(()) => writeln!(out, "   it takes bf16 after all\n")?,
        Err(no) => writeln!(out, "   {no}\n")?,
    }

    writeln!(out, "3. A Mixtral on both backends: the greedy continuation of 63 7 31 76 23 87\n")?;
    let prompt = [63, 7, 31, 76, 23, 87];
    let (ours, theirs) = (greedy(&plain, &prompt)?, greedy(&cpu, &prompt)?);
    for (backend, tokens) in [(&plain, &ours), (&cpu, &theirs)] {
        let tokens: Vec<String> = tokens.iter().map(u32::to_string).collect();
        writeln!(out, "   {:<6} {}", backend.info().name, tokens.join(" "))?;
    }
    writeln!(out, "\n   {}", if ours == theirs { "equal" } else { "different: one of them is wrong" })?;
    Ok(())
}

/// Sixteen tokens after `prompt`, from the small Mixtral that the tests use.
fn greedy(backend: &Arc<dyn Backend>, prompt: &[u32]) -> Result<Vec<u32>, Box<dyn StdError>> {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/goldens/mixtral"));
    let model = ModelFiles::open(dir, None)?.load(backend, &|_| {})?;
    let options = EngineOptions { context: usize::MAX, chunk: 512 };
    let mut engine = Engine::new(model, &backend.info().device, options);
    engine.submit(Request::greedy(prompt.to_vec(), 16))?;
    let mut tokens = Vec::new();
    while !engine.is_idle() {
        tokens.extend(engine.step(None)?.iter().map(|event| event.token));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backend_is_accepted_and_agrees_with_the_cpu() {
        let mut out = Vec::new();
        lesson(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("`plain` cannot hold `lm_head.weight`")
                || text.contains("backend `plain` cannot hold")
        );
        assert!(text.ends_with("   equal\n"), "{text}");
    }
}
