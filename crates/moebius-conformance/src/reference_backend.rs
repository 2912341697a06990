//! A backend of plain candle tensors: the yardstick, and the shortest complete example of the contract.
//!
//! Shapes: weights are f32 tensors `[outputs, inputs]`.
//! Invariants: experts add up in ascending id. Rows may differ in the last bits with their batch, because a
//! tensor library picks its matrix product by shape; so [`crate::Group::Bitwise`] is not promised.

use candle_core::{DType, Device, Tensor};
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
    matrices: Vec<[Tensor; 3]>, // gate, up and down of each expert
}

impl ReferenceBackend {
    /// Opens the backend.
    ///
    /// # Errors
    /// None; a `Result` because that is what opening a device gives.
    pub fn new() -> Result<Self> {
        Ok(ReferenceBackend {
            info: BackendInfo { name: NAME, device: Device::Cpu, detail: "candle".into() },
        })
    }
}

impl Ops for ReferenceBackend {}

impl Backend for ReferenceBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported> {
        let (sizes, format) = match spec {
            WeightSpec::Linear(s) => ([1, s.outputs, s.inputs], s.format),
            WeightSpec::Experts(s) => ([s.n_experts, s.intermediate, s.hidden], s.format),
        };
        let bytes = sizes[0].checked_mul(sizes[1]).and_then(|rows| format.bytes_for(rows, sizes[2]));
        let refuse =
            |reason: &str| Err(Unsupported { backend: NAME, what: spec.to_string(), reason: reason.into() });
        match (dtype(format), bytes) {
            (None, _) => refuse("candle has no such type"),
            (_, None) => refuse("it exceeds the address space"),
            (_, Some(0)) => refuse("it has no elements"),
            _ => Ok(()),
        }
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
        let load = |expert, projection| {
            decode(&source.get(expert, projection)?, spec.format, spec.shape(projection))
        };
        let expert = |expert| {
            Ok([
                load(expert, Projection::Gate)?,
                load(expert, Projection::Up)?,
                load(expert, Projection::Down)?,
            ])
        };
        let matrices = (0..spec.n_experts).map(expert).collect::<Result<Vec<_>>>()?;
        Ok(Box::new(Experts { spec: spec.clone(), matrices }))
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
        let out = product(x, &self.weight)?; // [tokens, outputs]
        Ok(self.bias.as_ref().map_or(Ok(out.clone()), |bias| out.broadcast_add(bias))?)
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
            let [gate, up, down] = &self.matrices[expert];
            let mut x = x.index_select(&rows, 0)?; // [rows, hidden]
            if routing.applies_to() == WeightTarget::Input {
                x = x.broadcast_mul(&weights)?;
            }
            let inner = reference::glu(self.spec.activation, &product(&x, gate)?, &product(&x, up)?)?;
            let mut y = product(&inner, down)?; // [rows, hidden]
            if routing.applies_to() == WeightTarget::Output {
                y = y.broadcast_mul(&weights)?;
            }
            out = out.index_add(&rows, &y, 0)?;
        }
        meter.experts(self.spec.work(routing, dispatch.n_active()));
        Ok(out)
    }
}

/// `x Wᵀ`. Without rows there is nothing that candle could multiply.
fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (rows, inputs) = x.dims2()?;
    expect("input", [rows, weight.dim(1)?], [rows, inputs])?;
    if rows == 0 {
        return Ok(Tensor::zeros((0, weight.dim(0)?), x.dtype(), x.device())?);
    }
    Ok(x.contiguous()?.matmul(&weight.t()?)?)
}

/// A stored matrix as f32, once it is known to be what the spec says and finite.
fn decode(view: &WeightView<'_>, format: WeightFormat, shape: (usize, usize)) -> Result<Tensor> {
    let fail = |reason: String| Error::Weight { name: view.name.clone(), source: reason.into() };
    if (view.format, (view.rows, view.cols)) != (format, shape) {
        let got = (view.rows, view.cols);
        return Err(fail(format!("expected {shape:?} in {format}, got {got:?} in {}", view.format)));
    }
    let bytes = format.bytes_for(shape.0, shape.1);
    let dtype = dtype(format).filter(|_| bytes == Some(view.bytes.len()));
    let dtype = dtype.ok_or_else(|| fail(format!("expected {bytes:?} bytes, got {}", view.bytes.len())))?;
    let raw = Tensor::from_raw_buffer(view.bytes, dtype, &[shape.0, shape.1], &Device::Cpu)?;
    let weight = raw.to_dtype(DType::F32)?;
    // Zero times anything finite is zero.
    if (&weight * 0.0)?.sum_all()?.to_scalar::<f32>()? != 0.0 {
        return Err(fail("a weight is not finite".into()));
    }
    Ok(weight)
}

fn dtype(format: WeightFormat) -> Option<DType> {
    match format {
        WeightFormat::F32 => Some(DType::F32),
        WeightFormat::Bf16 => Some(DType::BF16),
        WeightFormat::F16 => Some(DType::F16),
        _ => None,
    }
}

fn expect(what: &str, expected: [usize; 2], got: [usize; 2]) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Shape { what: what.into(), expected: format!("{expected:?}"), got: format!("{got:?}") })
}
