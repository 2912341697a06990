//! Where a model runs.

use clap::Args;
use clap::builder::{FalseyValueParser, PossibleValue, PossibleValuesParser};
use moebius::{BACKENDS, BackendOptions, OPTIONAL_BACKENDS, Offload};

use super::values;

/// The flags that pick a backend and its device.
#[derive(Args, Clone, Debug)]
pub(crate) struct BackendArgs {
    /// Where the model runs
    #[arg(long, env = "MOEBIUS_BACKEND", hide_env_values = true, value_name = "NAME")]
    #[arg(value_parser = names())]
    pub(crate) backend: Option<String>,
    /// Which GPU, from 0, for a backend that runs on one
    #[arg(long, env = "MOEBIUS_DEVICE", hide_env = without_devices(), hide_env_values = true, value_name = "N")]
    #[arg(hide = without_devices(), value_parser = values::count)]
    pub(crate) device: Option<usize>,
    /// Keep the experts of the first N layers in the host's memory, where the processor computes them
    #[arg(long, env = "MOEBIUS_N_CPU_MOE", hide_env = without_devices(), hide_env_values = true, value_name = "N")]
    #[arg(hide = without_devices(), value_parser = values::count)]
    n_cpu_moe: Option<usize>,
    /// Memory of the GPU that may be used, such as 8GiB: experts of as many layers as that takes stay with the processor
    #[arg(long, env = "MOEBIUS_GPU_MEMORY", hide_env = without_devices(), hide_env_values = true, value_name = "SIZE")]
    #[arg(hide = without_devices(), value_parser = values::size)]
    gpu_memory: Option<u64>,
    /// Round activations to bf16 before they are multiplied: less to compute, and another result. On a CPU: before
    /// products with weights in bf16
    #[arg(long, env = "MOEBIUS_BF16_ACTIVATIONS", hide_env_values = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    bf16_activations: bool,
}

impl BackendArgs {
    /// The same, as the library wants it, with so many threads.
    pub(crate) fn options(&self, threads: Option<usize>) -> BackendOptions {
        BackendOptions {
            name: self.backend.clone(),
            threads,
            device: self.device,
            bf16_activations: self.bf16_activations,
            offload: Offload { cpu_layers: self.n_cpu_moe, gpu_memory: self.gpu_memory },
            ..BackendOptions::default()
        }
    }
}

/// Names that are taken; those of backends that are not built in are not shown, and the library says how to get them.
pub(crate) fn names() -> PossibleValuesParser {
    let hidden = OPTIONAL_BACKENDS.iter().filter(|name| !BACKENDS.contains(name));
    let shown = BACKENDS.iter().map(PossibleValue::new);
    PossibleValuesParser::new(shown.chain(hidden.map(|name| PossibleValue::new(name).hide(true))))
}

/// Whether no backend of this program runs on a GPU.
pub(super) fn without_devices() -> bool {
    !BACKENDS.iter().any(|name| OPTIONAL_BACKENDS.contains(name))
}
