//! A backend of plain candle tensors: the yardstick, and the shortest complete example of the contract.
//!
//! Shapes: weights are f32 tensors `[outputs, inputs]`, rounded to the format that they are said to be held in.
//! Invariants: experts add up in ascending id. Rows may differ in the last bits with their batch, because a
//! tensor library picks its matrix product by shape; so [`crate::Group::Bitwise`] is not promised.

use candle_core::{Device, Tensor};
use moebius_backend::{
    Backend, BackendInfo, Error, ExpertBank, ExpertSource, ExpertSpec, Linear, LinearSpec, Ops, Projection,
    Result, Unsupported, WeightFormat, WeightSpec, WeightView, reference,
};
use moebius_metering::Meter;
use moebius_router::{Routing, WeightTarget};

const NAME: &str = "reference";

/// The whole contract in plain candle on the CPU: clear before fast.
pub struct ReferenceBackend {
    info: BackendInfo,
}

struct Projected {
    spec: LinearSpec,
    weight: Tensor,
    bias: Option<Tensor>,
}

struct Experts {
    spec: ExpertSpec,
    experts: Vec<Expert>,
}

/// One expert's matrices, in the order of [`ExpertSpec::projections`], each with its bias if it has one.
type Expert = Vec<(Tensor, Option<Tensor>)>;

impl ReferenceBackend {
    /// Opens the backend.
    ///
    /// # Errors
    /// None; a `Result` because that is what opening a device gives.
    pub fn new() -> Result<Self> {
        Ok(ReferenceBackend {
            info: BackendInfo {
                name: NAME,
                device: Device::Cpu,
                detail: "candle".into(),
                free_bytes: None,
                bf16_activations: false,
            },
        })
    }
}

impl Ops for ReferenceBackend {}

impl Backend for ReferenceBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported> {
        let refuse = |reason| Unsupported { backend: NAME, what: spec.to_string(), reason };
        spec.checked_bytes().map(drop).map_err(refuse)
    }

    fn load_linear(
        &self,
        spec: &LinearSpec,
        weight: WeightView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Box<dyn Linear>> {
        self.supports(&WeightSpec::Linear(spec))?;
        let weight = decode(&weight, spec.format, (spec.outputs, spec.inputs))?;
        let bias = bias.map(|bias| Tensor::from_vec(bias, spec.outputs, &Device::Cpu)).transpose()?;
        Ok(Box::new(Projected { spec: spec.clone(), weight, bias }))
    }

    fn load_experts(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Box<dyn ExpertBank>> {
        self.supports(&WeightSpec::Experts(spec))?;
        let load = |expert, projection: Projection| {
            let shape = spec.shape(projection);
            let matrix = decode(&source.get(expert, projection)?, spec.format_of(projection), shape)?;
            let bias = spec.biases.then(|| -> Result<_> {
                let bias = source.bias(expert, projection)?;
                expect("bias of an expert", [1, shape.0], [1, bias.len()])?;
                Ok(Tensor::from_vec(bias, shape.0, &Device::Cpu)?)
            });
            Ok((matrix, bias.transpose()?))
        };
        let expert = |expert| spec.projections().iter().map(|&part| load(expert, part)).collect();
        let experts = (0..spec.n_experts).map(expert).collect::<Result<Vec<Expert>>>()?;
        Ok(Box::new(Experts { spec: spec.clone(), experts }))
    }

    fn ops(&self) -> &dyn Ops {
        self
    }
}

impl Linear for Projected {
    fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        affine(x, &self.weight, self.bias.as_ref()) // [tokens, outputs]
    }

    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        // candle reads the largest id as a row of zeros.
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.spec.outputs) {
            let expected = format!("below {}", self.spec.outputs);
            return Err(Error::Shape { what: "row id".into(), expected, got: id.to_string() });
        }
        Ok(self.weight.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?) // [ids, inputs]
    }
}

impl ExpertBank for Experts {
    fn spec(&self) -> &ExpertSpec {
        &self.spec
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        let (tokens, _) = x.dims2()?;
        expect("routing", [tokens, self.spec.n_experts], [routing.tokens(), routing.n_experts()])?;
        expect("expert input", [tokens, self.spec.hidden], [tokens, x.dim(1)?])?;
        let (x, dispatch) = (x.contiguous()?, routing.dispatch());
        let mut out = x.zeros_like()?; // [tokens, hidden]
        for expert in dispatch.active() {
            let (rows, weights) = dispatch.expert(expert);
            let rows = Tensor::new(rows, x.device())?;
            let weights = Tensor::new(weights, x.device())?.unsqueeze(1)?; // [rows, 1]
            let mut x = x.index_select(&rows, 0)?; // [rows, hidden]
            if routing.applies_to() == WeightTarget::Input {
                x = x.broadcast_mul(&weights)?;
            }
            let project =
                |x: &Tensor, (weight, bias): &(Tensor, Option<Tensor>)| affine(x, weight, bias.as_ref());
            let activation = self.spec.activation;
            let (inner, down) = match &self.experts[expert][..] {
                [gate, up, down] => {
                    (reference::glu(activation, &project(&x, gate)?, &project(&x, up)?)?, down)
                }
                [up, down] => (reference::activate(activation, &project(&x, up)?)?, down),
                other => unreachable!("an expert has two or three matrices, not {}", other.len()),
            };
            let mut y = project(&inner, down)?; // [rows, hidden]
            if routing.applies_to() == WeightTarget::Output {
                y = y.broadcast_mul(&weights)?;
            }
            out = out.index_add(&rows, &y, 0)?;
        }
        meter.experts(self.spec.work(routing));
        Ok(out)
    }
}

/// `x Wᵀ + b`. Without rows there is nothing that candle could multiply.
fn affine(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (rows, inputs) = x.dims2()?;
    expect("input", [rows, weight.dim(1)?], [rows, inputs])?;
    if rows == 0 {
        return Ok(Tensor::zeros((0, weight.dim(0)?), x.dtype(), x.device())?);
    }
    let out = x.contiguous()?.matmul(&weight.t()?)?;
    Ok(bias.map_or(Ok(out.clone()), |bias| out.broadcast_add(bias))?)
}

/// A stored matrix as f32, rounded to the format in which it is held, once it is known to be what the spec says and
/// finite.
fn decode(view: &WeightView<'_>, held: WeightFormat, shape: (usize, usize)) -> Result<Tensor> {
    let fail = |reason: String| Error::Weight { name: view.name.clone(), source: reason.into() };
    if (view.rows, view.cols) != shape {
        return Err(fail(format!("expected {shape:?}, got {:?}", (view.rows, view.cols))));
    }
    let (rows, cols) = shape;
    let bytes = view.format.bytes_for(rows, cols);
    if bytes != Some(view.bytes.len()) {
        return Err(fail(format!("expected {bytes:?} bytes in {}, got {}", view.format, view.bytes.len())));
    }
    let mut values = vec![0.0; rows * cols];
    let mut rounded = vec![0; held.bytes_for(1, cols).unwrap_or(0)];
    for (row, stored) in values.chunks_exact_mut(cols).zip(view.bytes.chunks_exact(view.bytes.len() / rows)) {
        view.format.decode(stored, row).map_err(|error| fail(error.to_string()))?;
        if held != view.format && row.iter().all(|value| value.is_finite()) {
            held.encode(row, &mut rounded).map_err(|error| fail(error.to_string()))?;
            held.decode(&rounded, row).map_err(|error| fail(error.to_string()))?;
        }
    }
    if values.iter().any(|value| !value.is_finite()) {
        return Err(fail("a weight is not finite".into()));
    }
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn expect(what: &str, expected: [usize; 2], got: [usize; 2]) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Shape { what: what.into(), expected: format!("{expected:?}"), got: format!("{got:?}") })
}
