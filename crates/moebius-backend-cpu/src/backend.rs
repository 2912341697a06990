//! Opening the CPU and taking over weights.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use moebius_backend::{
    Backend, BackendInfo, Error, ExpertBank, ExpertSource, ExpertSpec, HeadLinear, Linear, LinearSpec, Ops,
    Packer, Result, Unsupported, WeightFormat, WeightSpec, WeightView,
};
use moebius_expert_kernels::{Isa, KernelError, Kernels, Pool};

use crate::experts::CpuExperts;
use crate::heads::CpuHeads;
use crate::linear::{CpuLinear, pack, refused};
use crate::ops::CpuOps;
use crate::slices::kernel;

const NAME: &str = "cpu";

/// Values of a small operation that are worth a task of their own.
pub(crate) const VALUES_PER_TASK: usize = 16 << 10;

/// How to use the CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Threads; `None` is one for every core that this process may use.
    pub threads: Option<usize>,
    /// Instruction set; `None` is the best that the processor has.
    pub isa: Option<Isa>,
    /// Whether inputs of products with weights in bf16 are rounded to bf16 first, as transformers does in bf16: faster
    /// where an instruction multiplies pairs of bf16, and another result.
    pub bf16_activations: bool,
}

/// The kernels and threads that everything on this backend shares.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) kernels: Kernels,
    pub(crate) pool: Pool,
}

impl Engine {
    /// A new tensor whose rows of `row_len` elements are filled in parallel: `fill` gets some rows' numbers and their
    /// elements, which are zero.
    pub(crate) fn by_rows(
        &self,
        shape: &[usize],
        row_len: usize,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), KernelError> + Sync,
    ) -> Result<Tensor> {
        let rows_per_task = (VALUES_PER_TASK / row_len.max(1)).max(1);
        let (len, task_len) = (shape.iter().product(), rows_per_task * row_len.max(1));
        let failed = Mutex::new(None);
        let out = self.pool.collect_chunks(len, task_len, |index, out| {
            let first = index * rows_per_task;
            if let Err(error) = fill(first..first + out.len() / row_len, out) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(kernel(error)),
            None => Ok(Tensor::from_vec(out.map_err(kernel)?, shape, &Device::Cpu)?),
        }
    }

    /// A new tensor from the elements that `fill` makes of zeros.
    pub(crate) fn filled(
        &self,
        shape: &[usize],
        fill: impl FnOnce(&mut [f32]) -> Result<()>,
    ) -> Result<Tensor> {
        let mut out = self.zeros(shape.iter().product())?;
        fill(&mut out)?;
        Ok(Tensor::from_vec(out, shape, &Device::Cpu)?)
    }

    /// Zeros, written in parallel.
    pub(crate) fn zeros(&self, len: usize) -> Result<Vec<f32>> {
        self.pool.collect_chunks(len, VALUES_PER_TASK, |_, _| {}).map_err(kernel)
    }
}

/// The CPU as a device family.
pub struct CpuBackend {
    info: BackendInfo,
    engine: Arc<Engine>,
    ops: CpuOps,
}

impl CpuBackend {
    /// Picks kernels and starts threads.
    ///
    /// # Errors
    /// [`Error::Startup`] when the processor lacks the instruction set or threads cannot be started.
    pub fn new(options: CpuOptions) -> Result<Self> {
        let startup = |error: moebius_expert_kernels::KernelError| Error::Startup {
            backend: NAME,
            reason: error.to_string(),
        };
        let kernels = match options.isa {
            Some(isa) => Kernels::with_isa(isa).map_err(startup)?,
            None => Kernels::detect(),
        };
        let kernels = if options.bf16_activations { kernels.with_bf16_inputs() } else { kernels };
        let available = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = options.threads.unwrap_or_else(available);
        let pool = Pool::new(threads).map_err(startup)?;
        let noun = if threads == 1 { "thread" } else { "threads" };
        let mut detail = format!("{}, {threads} {noun}", kernels.name());
        if options.bf16_activations {
            detail += ", activations rounded to bf16";
        }
        let engine = Arc::new(Engine { kernels, pool });
        Ok(CpuBackend {
            info: BackendInfo {
                name: NAME,
                device: Device::Cpu,
                detail,
                free_bytes: None,
                bf16_activations: options.bf16_activations,
            },
            ops: CpuOps { engine: engine.clone() },
            engine,
        })
    }

    /// The kernels that it runs, for others to run on the same processor.
    #[must_use]
    pub fn kernels(&self) -> Kernels {
        self.engine.kernels
    }

    /// Its threads, to share them rather than start more.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.engine.pool.clone()
    }
}

impl Backend for CpuBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    /// The kernels know every format, so only sizes can be wrong.
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
        Ok(Box::new(CpuLinear::load(&self.engine, spec, weight, bias)?))
    }

    fn load_heads<'a>(
        &self,
        spec: &LinearSpec,
        heads: usize,
        source: &dyn Fn(usize) -> Result<WeightView<'a>>,
    ) -> Result<Box<dyn HeadLinear>> {
        Ok(Box::new(CpuHeads::load(&self.engine, spec, heads, source)?))
    }

    fn load_experts(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Box<dyn ExpertBank>> {
        Ok(Box::new(CpuExperts::load(&self.engine, spec, source)?))
    }

    fn ops(&self) -> &dyn Ops {
        &self.ops
    }

    fn packer(&self) -> Option<&dyn Packer> {
        Some(self)
    }
}

impl Packer for CpuBackend {
    fn pack(&self, view: &WeightView<'_>, held: WeightFormat) -> Result<Vec<u8>> {
        let packed = pack(&self.engine.pool, view, held, (view.rows, view.cols))?;
        packed.as_bytes().map(<[u8]>::to_vec).map_err(|error| refused(view, error))
    }
}
