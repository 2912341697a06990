//! A backend whose banks of experts can be switched between sparse and dense, and that is another one in all else.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use moebius_backend::{
    Backend, BackendInfo, Error, ExpertBank, ExpertSource, ExpertSpec, HeadLinear, Linear, LinearSpec, Ops,
    Packer, Result, Unsupported, WeightSpec, WeightView,
};
use moebius_metering::Meter;
use moebius_router::{Router, Routing, WeightTarget};

use super::Form;
use crate::dense::{self, SideBySide};

/// What all banks of a model do now.
#[derive(Debug, Default)]
pub(super) struct Switch(AtomicU8);

impl Switch {
    /// From now on banks run as `form`.
    pub(super) fn set(&self, form: Form) {
        self.0.store(form as u8, Relaxed);
    }

    fn form(&self) -> Form {
        Form::ALL[usize::from(self.0.load(Relaxed)).min(Form::ALL.len() - 1)]
    }
}

/// The backend.
pub(super) struct TwinBackend {
    inner: Arc<dyn Backend>,
    switch: Arc<Switch>,
    /// Experts of a token.
    top_k: usize,
    /// Why there is no iso-active twin, once a bank could have none.
    refused: Mutex<Option<String>>,
}

impl TwinBackend {
    /// `inner`, whose banks follow `switch`.
    pub(super) fn new(inner: Arc<dyn Backend>, switch: Arc<Switch>, top_k: usize) -> Self {
        TwinBackend { inner, switch, top_k, refused: Mutex::default() }
    }

    /// Why there is no iso-active twin, if there is none.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn dense(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Option<Box<dyn ExpertBank>> {
        let k = self.top_k.min(spec.n_experts);
        let wide = dense::spec(spec, k);
        let supported = self.inner.supports(&WeightSpec::Experts(&wide)).map_err(Error::from);
        let joined = SideBySide { source, k };
        match supported.and_then(|()| self.inner.load_experts(&wide, &joined)) {
            Ok(bank) => Some(bank),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let reason = cause.unwrap_or_else(|| error.to_string());
                self.refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
                None
            }
        }
    }
}

impl Backend for TwinBackend {
    fn info(&self) -> &BackendInfo {
        self.inner.info()
    }

    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported> {
        self.inner.supports(spec)
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
        let dense = self.dense(spec, source);
        let inner = self.inner.load_experts(spec, source)?;
        Ok(Box::new(TwinBank { inner, dense, switch: self.switch.clone() }))
    }

    fn ops(&self) -> &dyn Ops {
        self.inner.ops()
    }

    fn packer(&self) -> Option<&dyn Packer> {
        self.inner.packer()
    }
}

/// A bank in its three forms.
struct TwinBank {
    inner: Box<dyn ExpertBank>,
    dense: Option<Box<dyn ExpertBank>>,
    switch: Arc<Switch>,
}

impl ExpertBank for TwinBank {
    fn spec(&self) -> &ExpertSpec {
        self.inner.spec()
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        match (self.switch.form(), &self.dense) {
            (Form::IsoTotal, _) => self.inner.forward(x, &routing.over_all_experts()?, meter),
            (Form::IsoActive, Some(dense)) => dense.forward(x, &through_one(routing)?, meter),
            (Form::Sparse | Form::IsoActive, _) => self.inner.forward(x, routing, meter),
        }
    }

    fn routed_by(&mut self, gate: &Arc<dyn Linear>, router: &Router) {
        self.inner.routed_by(gate, router);
    }
}

/// Every token through the one expert of a dense bank, with the mean of its weights: activations stay in their range.
fn through_one(routing: &Routing) -> Result<Routing> {
    let mean = |weights: &[f32]| weights.iter().sum::<f32>() / weights.len().max(1) as f32;
    let weights = routing.iter().map(|(_, weights)| mean(weights)).collect();
    Ok(Routing::from_parts(1, 1, vec![0; routing.tokens()], weights, WeightTarget::Output)?)
}
