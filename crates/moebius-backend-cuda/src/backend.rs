//! Opening the device and taking over weights.

use std::sync::Arc;

use moebius_backend::{
    Backend, BackendInfo, Error, ExpertBank, ExpertSource, ExpertSpec, HeadLinear, Linear, LinearSpec, Ops,
    Packer, Result, Unsupported, WeightFormat, WeightSpec, WeightView,
};
use moebius_expert_kernels::Pool;

use crate::experts::CudaExperts;
use crate::gpu::{Gpu, MAX_GRID};
use crate::inputs::{Activations, LastSplit};
use crate::journal::Journal;
use crate::linear::{CudaHeads, CudaLinear};
use crate::ops::CudaOps;
use crate::weights::{Engine, PANEL, pack, refused};

const NAME: &str = "cuda";

/// A GPU as a device family.
pub struct CudaBackend {
    info: BackendInfo,
    engine: Arc<Engine>,
    ops: CudaOps,
}

impl CudaBackend {
    /// Opens the GPU of this index.
    ///
    /// # Errors
    /// [`Error::Startup`] when there is no such GPU or it cannot be used.
    #[cfg(feature = "cuda")]
    pub fn new(device: usize, activations: Activations) -> Result<Self> {
        use crate::gpu::cuda::CudaGpu;

        let gpu = CudaGpu::open(device).map_err(startup)?;
        let memory = gpu.memory().map_err(startup)?;
        let detail = format!("device {device}, {}", memory.name);
        Self::on(Gpu::Cuda(gpu), (detail, Some(memory.free_bytes as u64)), activations)
    }

    /// The emulator in place of a GPU: for tests.
    ///
    /// # Errors
    /// [`Error::Startup`] when threads that pack weights cannot be started.
    #[cfg(feature = "emulated")]
    pub fn emulated(order: crate::Order, activations: Activations) -> Result<Self> {
        let detail = format!("emulated, {order:?}").to_lowercase();
        let most_shared_bytes = crate::gpu::emulated::MOST_SHARED_BYTES;
        let emulator = crate::gpu::emulated::Emulator { order, most_shared_bytes };
        Self::on(Gpu::Emulated(emulator), (detail, None), activations)
    }

    fn on(
        gpu: Gpu,
        (mut detail, free_bytes): (String, Option<u64>),
        activations: Activations,
    ) -> Result<Self> {
        let bf16_activations = activations == Activations::Bf16;
        if bf16_activations {
            detail += ", activations rounded to bf16";
        }
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        let pool = Pool::new(threads).map_err(|error| startup(error.to_string()))?;
        let info = BackendInfo { name: NAME, device: gpu.device(), detail, free_bytes, bf16_activations };
        let (journal, last_split) = (Journal::default(), LastSplit::default());
        let engine = Arc::new(Engine { gpu, pool, journal, activations, last_split });
        Ok(CudaBackend { info, ops: CudaOps { engine: engine.clone() }, engine })
    }
}

fn startup(reason: String) -> Error {
    Error::Startup { backend: NAME, reason }
}

impl Backend for CudaBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    /// There are kernels for every format, so only sizes can be wrong.
    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported> {
        let refuse = |reason| Unsupported { backend: NAME, what: spec.to_string(), reason };
        spec.checked_bytes().map_err(refuse)?;
        let rows = match spec {
            WeightSpec::Linear(spec) | WeightSpec::Heads(spec, _) => spec.outputs,
            WeightSpec::Experts(spec) => spec.hidden.max(spec.intermediate),
        };
        let most = PANEL * MAX_GRID[1];
        if rows > most { Err(refuse(format!("at most {most} rows, got {rows}"))) } else { Ok(()) }
    }

    fn load_linear(
        &self,
        spec: &LinearSpec,
        weight: WeightView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Box<dyn Linear>> {
        self.supports(&WeightSpec::Linear(spec))?;
        Ok(Box::new(CudaLinear::load(&self.engine, spec, weight, bias)?))
    }

    fn load_heads<'a>(
        &self,
        spec: &LinearSpec,
        heads: usize,
        source: &dyn Fn(usize) -> Result<WeightView<'a>>,
    ) -> Result<Box<dyn HeadLinear>> {
        self.supports(&WeightSpec::Heads(spec, heads))?;
        Ok(Box::new(CudaHeads::load(&self.engine, spec, heads, source)?))
    }

    fn load_experts(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Box<dyn ExpertBank>> {
        self.supports(&WeightSpec::Experts(spec))?;
        Ok(Box::new(CudaExperts::load(&self.engine, spec, source)?))
    }

    fn ops(&self) -> &dyn Ops {
        &self.ops
    }

    fn packer(&self) -> Option<&dyn Packer> {
        Some(self)
    }
}

impl Packer for CudaBackend {
    fn pack(&self, view: &WeightView<'_>, held: WeightFormat) -> Result<Vec<u8>> {
        let packed = pack(&self.engine.pool, view, held, (view.rows, view.cols))?;
        packed.as_bytes().map(<[u8]>::to_vec).map_err(|error| refused(view, error))
    }
}
