//! The one place that names concrete backends.

use std::sync::Arc;

use moebius_backend::Backend;
use moebius_backend_constrained::{ConstrainedBackend, Processor};
use moebius_backend_cpu::{CpuBackend, CpuOptions, Isa};

use crate::budget::Constraint;
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
    /// What the constrained backend keeps to. A budget of memory without a name means that backend.
    pub constraint: Constraint,
}

/// A backend that was started.
pub(crate) struct Opened {
    pub(crate) backend: Arc<dyn Backend>,
    /// The same, if it is the constrained one.
    pub(crate) constrained: Option<Arc<ConstrainedBackend>>,
}

/// Starts a backend.
///
/// # Errors
/// [`Error::UnknownName`] for a backend or instruction set that is not built in; a device that does not start.
pub fn open_backend(options: &BackendOptions) -> Result<Arc<dyn Backend>> {
    Ok(open(options)?.backend)
}

/// Starts a backend that may be constrained later.
///
/// # Errors
/// Those of [`open_backend`].
pub(crate) fn open(options: &BackendOptions) -> Result<Opened> {
    let cpu = || Ok::<_, Error>(CpuBackend::new(CpuOptions { threads: options.threads, isa: isa()? })?);
    let budget = options.constraint.memory.is_some() || options.constraint.resident.is_some();
    match options.name.as_deref().unwrap_or(if budget { "constrained" } else { BACKENDS[0] }) {
        "cpu" if budget => Err(Error::UnknownName {
            what: "backend with a budget of memory",
            got: "cpu".into(),
            expected: "constrained".into(),
        }),
        "cpu" => Ok(Opened { backend: Arc::new(cpu()?), constrained: None }),
        "constrained" => {
            let cpu = cpu()?;
            let processor = Processor { kernels: cpu.kernels(), pool: cpu.pool() };
            let constrained = Arc::new(ConstrainedBackend::new(Arc::new(cpu), processor)?);
            Ok(Opened { backend: constrained.clone(), constrained: Some(constrained) })
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
