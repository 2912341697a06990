//! What was built, and what it finds here.

use std::sync::OnceLock;

/// For which target the program was built.
pub(crate) const TARGET: &str = env!("MOEBIUS_BUILD_TARGET");
/// In which profile: `debug` or `release`.
pub(crate) const PROFILE: &str = env!("MOEBIUS_BUILD_PROFILE");

/// The answer to `--version`: version, build, kernels and processor.
pub(crate) fn long() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let version = env!("CARGO_PKG_VERSION");
        let kernels = moebius::kernel_name().unwrap_or("n/a");
        let features = features();
        format!("{version}\nbuild:    {PROFILE}, {TARGET}\nkernels:  {kernels}\nCPU:      {features}")
    })
}

/// The processor's features that matter here, in words.
pub(crate) fn features() -> String {
    match moebius::cpu_features() {
        features if features.is_empty() => "no features that matter here".into(),
        features => features.join(" "),
    }
}
