//! A GPU and the processor beside it: experts of the first layers stay in the host's memory, and the processor computes
//! them where they lie; everything else is the GPU's. What crosses the bus is a row of activations for each token and layer.
//!
//! ```text
//! GPU = dense weights + experts of layers N.. + keys and values + activations      processor = experts of layers ..N
//! ```
//!
//! Invariants: which layers are whose is decided before a weight is read; experts on the processor have the bits that the
//! CPU backend gives them for the same inputs.

use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};
use moebius_backend::{
    Backend, BackendInfo, Error as BackendError, ExpertBank, ExpertSource, ExpertSpec, HeadLinear, Linear,
    LinearSpec, Ops, Packer, Unsupported, WeightSpec, WeightView,
};
use moebius_metering::Meter;
use moebius_model::{ModelInfo, Place};
use moebius_router::Routing;

use crate::{Error, Result};

type BackendResult<T> = moebius_backend::Result<T>;

/// What of a model the processor is to take from a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Offload {
    /// Experts of so many layers, from the first on, stay with the processor.
    pub cpu_layers: Option<usize>,
    /// Bytes of the GPU's memory that may be used; experts of as many layers as that takes stay with the processor.
    pub gpu_memory: Option<u64>,
}

impl Offload {
    /// Whether all is the GPU's.
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Offload::default()
    }
}

/// Who holds what of a model, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HybridPlan {
    /// Experts of layers below this one are the processor's.
    pub(crate) cpu_layers: usize,
    /// Weights in the GPU's memory.
    pub(crate) gpu_weight_bytes: u64,
    /// What is planned beside them there: keys and values, activations.
    pub(crate) gpu_working_bytes: u64,
    /// Weights in the host's memory.
    pub(crate) cpu_weight_bytes: u64,
}

impl HybridPlan {
    /// Decides for a model with these banks of experts.
    ///
    /// # Errors
    /// [`Error::GpuMemory`] when it cannot hold what is not experts.
    pub(crate) fn new(
        offload: &Offload,
        (info, banks): (&ModelInfo, &[ExpertSpec]),
        gpu_working_bytes: u64,
    ) -> Result<Self> {
        let of_experts = info.tally.get(&Place::Experts).and_then(|tally| tally.bytes).unwrap_or(0);
        let dense = info.weight_bytes().unwrap_or(0).saturating_sub(of_experts);
        let limit = offload.gpu_memory;
        let least = offload.cpu_layers.unwrap_or(0);
        let plan = |cpu_layers: usize| {
            let (cpu, gpu): (Vec<_>, Vec<_>) = banks.iter().partition(|bank| bank.layer < cpu_layers);
            let bytes = |banks: &[&ExpertSpec]| banks.iter().map(|bank| bank_bytes(bank)).sum::<u64>();
            HybridPlan {
                cpu_layers,
                gpu_weight_bytes: dense.saturating_add(bytes(&gpu)),
                gpu_working_bytes,
                cpu_weight_bytes: bytes(&cpu),
            }
        };
        let fits = |plan: &HybridPlan| limit.is_none_or(|limit| plan.gpu_bytes() <= limit);
        let more = banks.iter().map(|bank| bank.layer + 1).filter(|&layers| layers > least);
        let found = std::iter::once(least).chain(more).map(plan).find(fits);
        found.ok_or_else(|| Error::GpuMemory {
            needed_bytes: dense.saturating_add(gpu_working_bytes),
            limit_bytes: limit.unwrap_or(u64::MAX),
        })
    }

    /// All that the GPU is planned to hold.
    pub(crate) fn gpu_bytes(&self) -> u64 {
        self.gpu_weight_bytes.saturating_add(self.gpu_working_bytes)
    }
}

/// Packed bytes of a bank.
fn bank_bytes(bank: &ExpertSpec) -> u64 {
    let matrix = |&projection| {
        let (rows, cols) = bank.shape(projection);
        bank.format_of(projection).packed_bytes_for(rows, cols).unwrap_or(usize::MAX) as u64
    };
    let expert = bank.projections().iter().map(matrix).fold(0, u64::saturating_add);
    expert.saturating_mul(bank.n_experts as u64)
}

/// Two backends as one.
pub(crate) struct HybridBackend {
    gpu: Arc<dyn Backend>,
    cpu: Arc<dyn Backend>,
    /// How experts are divided, once that is decided; until then all are the GPU's.
    divided: OnceLock<(HybridPlan, BackendInfo)>,
}

impl HybridBackend {
    pub(crate) fn new(gpu: Arc<dyn Backend>, cpu: Arc<dyn Backend>) -> Self {
        HybridBackend { gpu, cpu, divided: OnceLock::new() }
    }

    /// Divides the experts of the model that is loaded next. The first division stays.
    pub(crate) fn divide(&self, plan: HybridPlan) {
        self.divided.get_or_init(|| {
            let gpu = self.gpu.info();
            let (layers, cpu) = (plan.cpu_layers, &self.cpu.info().detail);
            let detail = format!("{}; experts of {layers} layers on cpu: {cpu}", gpu.detail);
            (plan, BackendInfo { detail, ..gpu.clone() })
        });
    }

    /// Who takes a weight.
    fn holder(&self, spec: &WeightSpec<'_>) -> &dyn Backend {
        match (spec, self.divided.get()) {
            (WeightSpec::Experts(spec), Some((plan, _))) if spec.layer < plan.cpu_layers => self.cpu.as_ref(),
            _ => self.gpu.as_ref(),
        }
    }
}

impl Backend for HybridBackend {
    fn info(&self) -> &BackendInfo {
        self.divided.get().map_or_else(|| self.gpu.info(), |(_, info)| info)
    }

    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported> {
        self.holder(spec).supports(spec)
    }

    fn load_linear(
        &self,
        spec: &LinearSpec,
        weight: WeightView<'_>,
        bias: Option<Vec<f32>>,
    ) -> BackendResult<Box<dyn Linear>> {
        self.gpu.load_linear(spec, weight, bias)
    }

    fn load_heads<'a>(
        &self,
        spec: &LinearSpec,
        heads: usize,
        source: &dyn Fn(usize) -> BackendResult<WeightView<'a>>,
    ) -> BackendResult<Box<dyn HeadLinear>> {
        self.gpu.load_heads(spec, heads, source)
    }

    fn load_experts(
        &self,
        spec: &ExpertSpec,
        source: &dyn ExpertSource,
    ) -> BackendResult<Box<dyn ExpertBank>> {
        let holder = self.holder(&WeightSpec::Experts(spec));
        let bank = holder.load_experts(spec, source)?;
        if std::ptr::addr_eq(holder, self.gpu.as_ref()) {
            return Ok(bank);
        }
        Ok(Box::new(HostBank { bank }))
    }

    fn ops(&self) -> &dyn Ops {
        self.gpu.ops()
    }

    /// Both hold the same panels.
    fn packer(&self) -> Option<&dyn Packer> {
        self.gpu.packer()
    }
}

/// Experts in the host's memory, of a model whose activations are a GPU's.
struct HostBank {
    bank: Box<dyn ExpertBank>,
}

impl ExpertBank for HostBank {
    fn spec(&self) -> &ExpertSpec {
        self.bank.spec()
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> BackendResult<Tensor> {
        let y = self.bank.forward(&x.to_device(&Device::Cpu)?, routing, meter)?;
        y.to_device(x.device()).map_err(BackendError::from)
    }
}

#[cfg(test)]
mod tests {
    use moebius_backend::Activation;

    use super::*;
    use crate::{BackendOptions, WeightFormat, open_backend};

    /// Experts of 4 KiB in three of five layers.
    fn banks() -> Vec<ExpertSpec> {
        let bank = |layer| ExpertSpec {
            layer,
            n_experts: 4,
            hidden: 16,
            intermediate: 16,
            format: WeightFormat::F32,
            down_format: WeightFormat::F32,
            activation: Activation::Silu,
            gated: true,
            biases: false,
        };
        [1, 2, 4].map(bank).to_vec()
    }

    fn plan(cpu_layers: Option<usize>, limit: Option<u64>) -> Result<HybridPlan> {
        let backend = open_backend(&BackendOptions::default())?;
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/moebius-tiny");
        let mut info = moebius_model::ModelFiles::open(&dir, None)?.info(&backend)?;
        info.tally.retain(|place, _| *place == Place::Norm);
        HybridPlan::new(&Offload { cpu_layers, gpu_memory: limit }, (&info, &banks()), 100)
    }

    #[test]
    fn as_few_layers_as_possible_are_left_to_the_processor() {
        const BANK: u64 = 4 * 3 * 16 * 16 * 4;
        let dense = plan(None, None).unwrap().gpu_weight_bytes - 3 * BANK;
        for (banks, cpu_layers) in [(3, 0), (2, 2), (1, 3), (0, 5)] {
            let needed = dense + 100 + banks * BANK;
            let expected = HybridPlan {
                cpu_layers,
                gpu_weight_bytes: dense + banks * BANK,
                gpu_working_bytes: 100,
                cpu_weight_bytes: (3 - banks) * BANK,
            };
            assert_eq!(plan(None, Some(needed)).unwrap(), expected);
            if banks < 3 {
                assert_eq!(plan(None, Some(needed + BANK - 1)).unwrap(), expected);
            }
        }
        let refused = plan(None, Some(dense + 99)).unwrap_err();
        assert!(matches!(refused, Error::GpuMemory { needed_bytes, .. } if needed_bytes == dense + 100));
    }

    #[test]
    fn layers_that_were_asked_for_are_the_processors_whatever_fits() {
        let layers = |cpu_layers, limit| plan(Some(cpu_layers), limit).unwrap().cpu_layers;
        assert_eq!((layers(2, None), layers(0, None), layers(99, None)), (2, 0, 99));
        assert_eq!(layers(3, Some(u64::MAX)), 3);
    }
}
