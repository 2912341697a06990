//! The one place that names concrete backends.

use std::sync::Arc;

use moebius_backend::Backend;
use moebius_backend_constrained::{ConstrainedBackend, ConstrainedOptions, Processor};
use moebius_backend_cpu::{CpuBackend, CpuOptions, Isa};

use crate::{Error, Result, knobs};

/// Names of the backends that are built in, the default first.
pub const BACKENDS: &[&str] = &["cpu", "constrained"];

/// Which backend to use, and how.
#[derive(Clone, Debug, Default)]
pub struct BackendOptions {
    /// One of [`BACKENDS`]; `None` is the first.
    pub name: Option<String>,
    /// CPU threads; `None` is one for every core that this process may use.
    pub threads: Option<usize>,
}

/// Starts a backend.
///
/// # Errors
/// [`Error::UnknownName`] for a backend or instruction set that is not built in; a device that does not start.
pub fn open_backend(options: &BackendOptions) -> Result<Arc<dyn Backend>> {
    let cpu = || Ok::<_, Error>(CpuBackend::new(CpuOptions { threads: options.threads, isa: isa()? })?);
    match options.name.as_deref().unwrap_or(BACKENDS[0]) {
        "cpu" => Ok(Arc::new(cpu()?)),
        "constrained" => {
            let cpu = cpu()?;
            let processor = Processor { kernels: cpu.kernels(), pool: cpu.pool() };
            Ok(Arc::new(ConstrainedBackend::new(Arc::new(cpu), processor, ConstrainedOptions::default())?))
        }
        other => {
            Err(Error::UnknownName { what: "backend", got: other.into(), expected: BACKENDS.join(", ") })
        }
    }
}

/// The instruction set that [`knobs::ISA`] asks for.
pub(crate) fn isa() -> Result<Option<Isa>> {
    let Some(name) = knobs::ISA.value() else { return Ok(None) };
    match name.parse() {
        Ok(isa) => Ok(Some(isa)),
        Err(_) => Err(Error::UnknownName {
            what: "instruction set in MOEBIUS_ISA",
            got: name,
            expected: Isa::ALL.map(Isa::name).join(", "),
        }),
    }
}
