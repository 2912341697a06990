//! A backend that stands for hardware which is not here: what that could not hold or multiply is refused, all else is
//! computed by another backend, and a ledger accounts for the time that the declared hardware would take.
//!
//! Invariants: the other backend's bits; nothing loads that the profile objects to.

use std::any::Any;
use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{
    Backend, BackendInfo, ExpertBank, ExpertSource, ExpertSpec, HeadLinear, Linear, LinearSpec, Ops, Packer,
    Result, Unsupported, WeightSpec, WeightView,
};
use moebius_metering::Meter;
use moebius_router::{Router, Routing};

use crate::account::Ledger;
use crate::declared_ops::DeclaredOps;

/// See the module.
pub struct DeclaredBackend {
    inner: Arc<dyn Backend>,
    info: BackendInfo,
    ops: DeclaredOps,
    ledger: Arc<Ledger>,
}

impl DeclaredBackend {
    /// Declares the hardware of `ledger`'s profile on top of `inner`, which computes.
    pub fn new(inner: Arc<dyn Backend>, ledger: Arc<Ledger>) -> Self {
        let profile = ledger.profile();
        let devices =
            if profile.devices == 1 { String::new() } else { format!("{} devices, ", profile.devices) };
        let detail = format!("declared {profile}, {devices}computed by {}", inner.info().detail);
        let info = BackendInfo { name: "constrained", detail, ..inner.info().clone() };
        let ops = DeclaredOps { inner: inner.clone(), ledger: ledger.clone() };
        DeclaredBackend { inner, info, ops, ledger }
    }
}

impl Backend for DeclaredBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported> {
        match self.ledger.profile().objection(spec) {
            Some(reason) => Err(Unsupported { backend: self.info.name, what: spec.to_string(), reason }),
            None => self.inner.supports(spec),
        }
    }

    fn load_linear(
        &self,
        spec: &LinearSpec,
        weight: WeightView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Box<dyn Linear>> {
        let inner = self.inner.load_linear(spec, weight, bias)?;
        Ok(Box::new(DeclaredLinear { inner, ledger: self.ledger.clone() }))
    }

    fn load_heads<'a>(
        &self,
        spec: &LinearSpec,
        heads: usize,
        source: &dyn Fn(usize) -> Result<WeightView<'a>>,
    ) -> Result<Box<dyn HeadLinear>> {
        let inner = self.inner.load_heads(spec, heads, source)?;
        Ok(Box::new(DeclaredHeads { inner, ledger: self.ledger.clone() }))
    }

    fn load_experts(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Box<dyn ExpertBank>> {
        let inner = self.inner.load_experts(spec, source)?;
        Ok(Box::new(DeclaredBank { inner, ledger: self.ledger.clone() }))
    }

    fn ops(&self) -> &dyn Ops {
        &self.ops
    }

    fn packer(&self) -> Option<&dyn Packer> {
        self.inner.packer()
    }
}

/// A projection that is accounted for.
pub(crate) struct DeclaredLinear {
    pub(crate) inner: Box<dyn Linear>,
    ledger: Arc<Ledger>,
}

impl DeclaredLinear {
    /// Accounts for `x` going through.
    pub(crate) fn book(&self, x: &Tensor) {
        let rows = x.elem_count() / self.inner.spec().inputs.max(1);
        self.ledger.product(rows, self.inner.spec(), 1);
    }
}

impl Linear for DeclaredLinear {
    fn spec(&self) -> &LinearSpec {
        self.inner.spec()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.book(x);
        self.inner.forward(x)
    }

    /// Looking up tokens is how a pass through a model begins.
    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        self.ledger.pass();
        self.ledger.vector(ids.len(), 2 * ids.len() * self.inner.spec().inputs);
        self.inner.rows(ids)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// Projections of heads that are accounted for.
struct DeclaredHeads {
    inner: Box<dyn HeadLinear>,
    ledger: Arc<Ledger>,
}

impl HeadLinear for DeclaredHeads {
    fn spec(&self) -> &LinearSpec {
        self.inner.spec()
    }

    fn heads(&self) -> usize {
        self.inner.heads()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.dims().first().copied().unwrap_or(0);
        self.ledger.product(rows, self.inner.spec(), self.inner.heads());
        self.inner.forward(x)
    }
}

/// Experts that are accounted for.
struct DeclaredBank {
    inner: Box<dyn ExpertBank>,
    ledger: Arc<Ledger>,
}

impl ExpertBank for DeclaredBank {
    fn spec(&self) -> &ExpertSpec {
        self.inner.spec()
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        if routing.n_experts() == self.inner.spec().n_experts {
            self.ledger.experts(self.inner.spec(), routing);
        }
        self.inner.forward(x, routing, meter)
    }

    fn routed_by(&mut self, gate: &Arc<dyn Linear>, router: &Router) {
        self.inner.routed_by(gate, router);
    }
}
