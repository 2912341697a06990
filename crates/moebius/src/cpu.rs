//! What the processor offers, and which kernels that means.

use moebius_backend_cpu::Kernels;

use crate::Result;
use crate::backend::isa;

/// Features of this processor that matter to kernels, by their usual names.
pub fn cpu_features() -> Vec<&'static str> {
    macro_rules! detected {
        ($detect:ident: $($name:tt),* $(,)?) => {
            [$(($name, std::arch::$detect!($name))),*].into_iter().filter(|(_, has)| *has)
        };
    }
    #[cfg(target_arch = "x86_64")]
    let features = detected!(is_x86_feature_detected:
        "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512bf16", "avx512fp16");
    #[cfg(target_arch = "aarch64")]
    let features = detected!(is_aarch64_feature_detected: "neon", "fp16", "dotprod", "bf16", "i8mm", "sve");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let features = std::iter::empty::<(&'static str, bool)>();
    features.map(|(name, _)| name).collect()
}

/// What the processor calls itself; `None` where the system does not tell.
pub fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// The CPU kernels that will be used, such as `avx512f`.
///
/// # Errors
/// An instruction set in the environment that is unknown or not there.
pub fn kernel_name() -> Result<&'static str> {
    kernels().map(|kernels| kernels.name())
}

/// The kernels that the environment asks for, else the best.
pub(crate) fn kernels() -> Result<Kernels> {
    match isa()? {
        Some(isa) => Kernels::with_isa(isa).map_err(startup),
        None => Ok(Kernels::detect()),
    }
}

pub(crate) fn startup(error: moebius_backend_cpu::KernelError) -> crate::Error {
    moebius_backend::Error::Startup { backend: "cpu", reason: error.to_string() }.into()
}
