//! A device of your own: the whole backend contract in plain loops, accepted by the conformance suite.
//!
//! ```text
//! linear: y = x Wᵀ + b        expert: y = down · (act(gate · x) * (up · x))        layer: sum of w * expert(x)
//! ```
//!
//! The backend takes fewer than 120 lines, blank ones aside. It is as slow as loops are.
//!
//! Shapes: activations `[tokens, width]` in f32; a matrix is `[rows, cols]`, row-major.
//! Invariants: each output is one sum in one order, so a row has the same bits in any batch.
//! You learn: what a backend must offer, how it says no, and that a model runs on it unchanged.
//! Run: `cargo run --release -p moebius-examples --example custom_backend`

use std::error::Error as StdError;
use std::fmt::Debug;
use std::io::{Write, stdout};
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use moebius_backend::{
    Backend, BackendInfo, Error, ExpertBank, ExpertSource, ExpertSpec, Linear, LinearSpec, Ops,
    Projection::{Down, Gate, Up},
    Result, Unsupported, WeightFormat, WeightSpec, WeightView, reference,
};
use moebius_conformance::{Group, accept_groups};
use moebius_engine::{Engine, EngineOptions, Request};
use moebius_metering::Meter;
use moebius_model::ModelFiles;
use moebius_router::{Routing, WeightTarget};

/// The backend. It keeps `Ops` as the contract brings them: attention, norms and rotations in candle.
struct Plain(BackendInfo);
type Loaded<T> = Result<Box<T>>;

impl Ops for Plain {}

impl Backend for Plain {
    fn info(&self) -> &BackendInfo {
        &self.0
    }

    /// Says no before a weight is read: to formats and experts without a loop, and to sizes that cannot be.
    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported> {
        let f32_only = spec.formats().iter().all(|&format| format == WeightFormat::F32);
        let other = matches!(spec, WeightSpec::Experts(spec) if spec.biases || !spec.gated);
        let reason = match spec.checked_bytes() {
            Ok(_) if other => "there is a loop for gated experts without biases".into(),
            Ok(_) if f32_only => return Ok(()),
            Ok(_) => "there is no loop for its format".into(),
            Err(reason) => reason,
        };
        Err(Unsupported { backend: self.0.name, what: spec.to_string(), reason })
    }

    fn load_linear(&self, spec: &LinearSpec, view: WeightView, bias: Option<Vec<f32>>) -> Loaded<dyn Linear> {
        self.supports(&WeightSpec::Linear(spec))?;
        let bias = bias.unwrap_or_else(|| vec![0.0; spec.outputs]);
        same("length of the bias", spec.outputs, bias.len())?;
        let weight = Matrix::read(&view, (spec.outputs, spec.inputs))?;
        Ok(Box::new(Projected { spec: spec.clone(), weight, bias }))
    }

    fn load_experts(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Loaded<dyn ExpertBank> {
        self.supports(&WeightSpec::Experts(spec))?;
        let read = |expert, part| Matrix::read(&source.get(expert, part)?, spec.shape(part));
        let expert = |e| Ok([read(e, Gate)?, read(e, Up)?, read(e, Down)?]);
        let matrices = (0..spec.n_experts).map(expert).collect::<Result<_>>()?;
        Ok(Box::new(Experts { spec: spec.clone(), matrices }))
    }

    fn ops(&self) -> &dyn Ops {
        self
    }
}

struct Matrix(Vec<Vec<f32>>); // rows of columns

impl Matrix {
    /// Whatever the matrix is stored in, it is held in f32.
    fn read(view: &WeightView<'_>, (rows, cols): (usize, usize)) -> Result<Matrix> {
        let mut values = vec![0.0; rows * cols];
        let fits = (view.rows, view.cols) == (rows, cols);
        let read = fits && view.format.decode(&view.bytes, &mut values).is_ok();
        let good = read && values.iter().all(|value| value.is_finite());
        let bad = || Error::Weight { name: view.name.clone(), source: "not the matrix of its spec".into() };
        good.then(|| Matrix(values.chunks(cols).map(<[f32]>::to_vec).collect())).ok_or_else(bad)
    }

    fn times(&self, x: &[f32]) -> impl Iterator<Item = f32> {
        self.0.iter().map(move |row| row.iter().zip(x).fold(0.0, |sum, (w, x)| sum + w * x))
    }
}

struct Projected {
    spec: LinearSpec,
    weight: Matrix,
    bias: Vec<f32>,
}

impl Linear for Projected {
    fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        same("width of the input", self.spec.inputs, x.dims2()?.1)?;
        let project = |x: &Vec<f32>| self.weight.times(x).zip(&self.bias).map(|(y, bias)| y + bias).collect();
        tensor(x.to_vec2()?.iter().map(project).collect(), self.spec.outputs)
    }

    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let rows: Vec<_> = ids.iter().map_while(|&id| self.weight.0.get(id as usize).cloned()).collect();
        same("ids that have a row", ids.len(), rows.len())?;
        tensor(rows, self.spec.inputs)
    }
}

struct Experts {
    spec: ExpertSpec,
    matrices: Vec<[Matrix; 3]>, // gate, up and down of each expert
}

impl ExpertBank for Experts {
    fn spec(&self) -> &ExpertSpec {
        &self.spec
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        let (tokens, hidden) = (x.dims2()?.0, self.spec.hidden);
        same("width of the input", hidden, x.dim(1)?)?;
        same("routing", (tokens, self.spec.n_experts), (routing.tokens(), routing.n_experts()))?;
        let (x, mut out) = (x.to_vec2::<f32>()?, vec![vec![0.0; hidden]; tokens]);
        let (dispatch, on_input) = (routing.dispatch(), routing.applies_to() == WeightTarget::Input);
        for expert in dispatch.active() {
            let [gate, up, down] = &self.matrices[expert];
            let (rows, weights) = dispatch.expert(expert);
            for (&token, &weight) in rows.iter().zip(weights) {
                let (before, after) = if on_input { (weight, 1.0) } else { (1.0, weight) };
                let x: Vec<f32> = x[token as usize].iter().map(|x| before * x).collect();
                let [gate, up] = [gate, up].map(|matrix| Tensor::from_iter(matrix.times(&x), &Device::Cpu));
                let inner = reference::glu(self.spec.activation, &gate?, &up?)?.to_vec1()?;
                out[token as usize].iter_mut().zip(down.times(&inner)).for_each(|(out, y)| *out += after * y);
            }
        }
        meter.experts(self.spec.work(routing));
        tensor(out, hidden)
    }
}

fn tensor(rows: Vec<Vec<f32>>, width: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(rows.concat(), (rows.len(), width), &Device::Cpu)?)
}

fn same<T: PartialEq + Debug>(what: &str, expected: T, got: T) -> Result<()> {
    let (same, expected, got) = (expected == got, format!("{expected:?}"), format!("{got:?}"));
    if same { Ok(()) } else { Err(Error::Shape { what: what.into(), expected, got }) }
}
// The backend ends here; what follows puts it to work.

fn main() -> Result<(), Box<dyn StdError>> {
    lesson(&mut stdout().lock())
}

fn open() -> Arc<dyn Backend> {
    let detail = "loops over f32".into();
    let (name, device) = ("plain", Device::Cpu);
    Arc::new(Plain(BackendInfo { name, device, detail, free_bytes: None, bf16_activations: false }))
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
        assert!(text.contains("backend `plain` cannot hold `lm_head.weight`"), "{text}");
        assert!(text.ends_with("   equal\n"), "{text}");
    }

    #[test]
    fn the_backend_is_as_short_as_it_says() {
        let (_, rest) = include_str!("custom_backend.rs").split_once("/// The backend.").unwrap();
        let (backend, _) = rest.split_once("// The backend ends here").unwrap();
        assert!(backend.lines().filter(|line| !line.trim().is_empty()).count() < 120);
    }
}
