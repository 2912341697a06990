//! A backend that is another one in all but its banks of experts.

use std::sync::Arc;

use moebius_backend::{
    Backend, BackendInfo, Error, ExpertBank, ExpertSource, ExpertSpec, HeadLinear, Linear, LinearSpec, Ops,
    Packer, Result, Unsupported, WeightSpec, WeightView,
};
use moebius_expert_kernels::{Kernels, Pool};

use crate::ReadLimit;
use crate::experts::ConstrainedExperts;

pub(crate) const NAME: &str = "constrained";

/// The kernels and threads of the backend that computes all else.
#[derive(Clone)]
pub struct Processor {
    /// Its kernels.
    pub kernels: Kernels,
    /// Its threads.
    pub pool: Pool,
}

/// What experts are constrained to.
#[derive(Clone, Debug, Default)]
pub struct ConstrainedOptions {
    /// How fast experts may be fetched; `None` is as fast as they come.
    pub limit: Option<ReadLimit>,
}

/// The backend.
pub struct ConstrainedBackend {
    info: BackendInfo,
    inner: Arc<dyn Backend>,
    processor: Processor,
    options: ConstrainedOptions,
}

impl ConstrainedBackend {
    /// Lets `inner` hold what is dense, and computes experts on its `processor`.
    ///
    /// # Errors
    /// [`Error::Startup`] when `inner` does not hold weights in panels.
    pub fn new(inner: Arc<dyn Backend>, processor: Processor, options: ConstrainedOptions) -> Result<Self> {
        let BackendInfo { name, device, detail } = inner.info().clone();
        if inner.packer().is_none() {
            let reason = format!("backend `{name}` does not hold weights in panels");
            return Err(Error::Startup { backend: NAME, reason });
        }
        Ok(ConstrainedBackend { info: BackendInfo { name: NAME, device, detail }, inner, processor, options })
    }

    /// What its experts are constrained to.
    #[must_use]
    pub fn options(&self) -> &ConstrainedOptions {
        &self.options
    }

    fn packed_by(&self) -> &dyn Packer {
        self.inner.packer().expect("the constructor asked for it")
    }
}

impl Backend for ConstrainedBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported> {
        self.inner.supports(spec).map_err(|refused| Unsupported { backend: NAME, ..refused })
    }

    fn load_linear(
        &self,
        spec: &LinearSpec,
        weight: WeightView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Box<dyn Linear>> {
        self.inner.load_linear(spec, weight, bias)
    }

    fn load_heads<'a>(
        &self,
        spec: &LinearSpec,
        heads: usize,
        source: &dyn Fn(usize) -> Result<WeightView<'a>>,
    ) -> Result<Box<dyn HeadLinear>> {
        self.inner.load_heads(spec, heads, source)
    }

    fn load_experts(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Box<dyn ExpertBank>> {
        let bank = ConstrainedExperts::load(&self.processor, self.packed_by(), spec, source)?;
        Ok(Box::new(bank))
    }

    fn ops(&self) -> &dyn Ops {
        self.inner.ops()
    }

    fn packer(&self) -> Option<&dyn Packer> {
        self.inner.packer()
    }
}
