//! The one place that names concrete backends.

use std::sync::Arc;

use moebius_backend::Backend;
use moebius_backend_constrained::{ConstrainedBackend, Processor};
use moebius_backend_cpu::{CpuBackend, CpuOptions, Isa};
use moebius_metering::Meter;

use crate::budget::Constraint;
use crate::declared::Declared;
use crate::hybrid::{HybridBackend, Offload};
use crate::plan::Machine;
use crate::{Error, Result, knobs};

/// Names of the backends that are built in, the default first.
pub const BACKENDS: &[&str] = &[
    "cpu",
    CONSTRAINED,
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "emulated")]
    "emulated",
];

/// Names of the backends that are built in with a cargo feature of the same name.
pub const OPTIONAL_BACKENDS: &[&str] = &["cuda"];

const CONSTRAINED: &str = "constrained";

/// Which backend to use, and how.
#[derive(Clone, Debug, Default)]
pub struct BackendOptions {
    /// One of [`BACKENDS`]; `None` is the first.
    pub name: Option<String>,
    /// CPU threads; `None` is one for every core that this process may use.
    pub threads: Option<usize>,
    /// Which GPU, from 0, for a backend that runs on one; `None` is the first.
    pub device: Option<usize>,
    /// Whether activations are rounded to bf16 before they are multiplied, as transformers does in bf16: less to compute,
    /// and another result. A GPU does so whatever the weights' format, the processor where weights are held in bf16.
    pub bf16_activations: bool,
    /// What the processor takes from a GPU; nothing, unless told otherwise.
    pub offload: Offload,
    /// What the constrained backend keeps to. A budget of memory without a name means that backend.
    pub constraint: Constraint,
    /// Hardware that the constrained backend stands for; without a name it means that backend too.
    pub profile: Option<Machine>,
}

/// A backend that was started.
pub(crate) struct Opened {
    pub(crate) backend: Arc<dyn Backend>,
    /// The same, if it is the constrained one.
    pub(crate) constrained: Option<Arc<ConstrainedBackend>>,
    /// The same, if experts are divided between a GPU and the processor.
    pub(crate) hybrid: Option<Arc<HybridBackend>>,
    /// The hardware that it stands for, if any.
    pub(crate) declared: Option<Declared>,
}

/// Starts a backend.
///
/// # Errors
/// [`Error::NotBuiltIn`] for a backend that this program was built without, [`Error::UnknownName`] for one that does not
/// exist and for an instruction set, [`Error::NoDevices`] for a device of a backend that has none; a device that does not
/// start.
pub fn open_backend(options: &BackendOptions) -> Result<Arc<dyn Backend>> {
    Ok(open(options)?.backend)
}

/// Starts a backend that may be constrained later.
///
/// # Errors
/// Those of [`open_backend`].
pub(crate) fn open(options: &BackendOptions) -> Result<Opened> {
    let cpu = || {
        let (threads, bf16_activations) = (options.threads, options.bf16_activations);
        Ok::<_, Error>(CpuBackend::new(CpuOptions { threads, isa: isa()?, bf16_activations })?)
    };
    let budget = options.constraint.memory.is_some() || options.constraint.resident.is_some();
    let profile = &options.profile;
    let default = if budget || profile.is_some() { CONSTRAINED } else { BACKENDS[0] };
    let (backend, constrained): (Arc<dyn Backend>, _) = match options.name.as_deref().unwrap_or(default) {
        "cpu" if budget || profile.is_some() => {
            let what = if budget { "backend with a budget of memory" } else { "backend with a profile" };
            return Err(Error::UnknownName { what, got: "cpu".into(), expected: CONSTRAINED.into() });
        }
        "cpu" | CONSTRAINED if options.device.is_some() || !options.offload.is_nothing() => {
            return Err(Error::NoDevices("cpu"));
        }
        "cpu" => (Arc::new(cpu()?), None),
        // Without a budget nothing is fetched, and the CPU's banks do for declared hardware.
        CONSTRAINED if profile.is_some() && !budget => (Arc::new(cpu()?), None),
        CONSTRAINED => {
            let cpu = cpu()?;
            let processor = Processor { kernels: cpu.kernels(), pool: cpu.pool() };
            let constrained = Arc::new(ConstrainedBackend::new(Arc::new(cpu), processor)?);
            (constrained.clone(), Some(constrained))
        }
        #[cfg(feature = "cuda")]
        "cuda" => {
            use moebius_backend_cuda::CudaBackend;

            (Arc::new(CudaBackend::new(options.device.unwrap_or(0), activations(options))?), None)
        }
        #[cfg(feature = "emulated")]
        "emulated" => {
            use moebius_backend_cuda::{CudaBackend, Order};

            (Arc::new(CudaBackend::emulated(Order::Ascending, activations(options))?), None)
        }
        other if OPTIONAL_BACKENDS.contains(&other) => return Err(Error::NotBuiltIn(other.into())),
        other => {
            let expected = BACKENDS.join(", ");
            return Err(Error::UnknownName { what: "backend", got: other.into(), expected });
        }
    };
    let (backend, hybrid): (Arc<dyn Backend>, _) = match options.offload.is_nothing() {
        true => (backend, None),
        false => {
            let hybrid = Arc::new(HybridBackend::new(backend, Arc::new(cpu()?)));
            (hybrid.clone(), Some(hybrid))
        }
    };
    let Some(machine) = profile else { return Ok(Opened { backend, constrained, hybrid, declared: None }) };
    let (backend, declared) = Declared::new(machine, backend)?;
    Ok(Opened { backend, constrained, hybrid, declared: Some(declared) })
}

/// Whether the meter times stages from now on. Laps of a device that computes while the host goes on are the times of its
/// work then, not of handing it over.
pub(crate) fn time_stages(meter: &Meter, backend: &dyn Backend, on: bool) {
    meter.time_stages(on);
    let device = backend.info().device.clone();
    if !device.is_cpu() {
        // Where waiting fails, so does the step that was waited for, and says it.
        meter.wait_before_laps(move || drop(device.synchronize()));
    }
}

#[cfg(any(feature = "cuda", feature = "emulated"))]
fn activations(options: &BackendOptions) -> moebius_backend_cuda::Activations {
    match options.bf16_activations {
        true => moebius_backend_cuda::Activations::Bf16,
        false => moebius_backend_cuda::Activations::F32,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, device: Option<usize>) -> Option<Error> {
        open_backend(&BackendOptions {
            name: Some(name.into()),
            threads: Some(1),
            device,
            ..BackendOptions::default()
        })
        .err()
    }

    #[test]
    fn a_device_of_the_processor_and_an_unknown_backend_are_errors() {
        assert!(refusal("cpu", None).is_none());
        assert!(matches!(refusal("cpu", Some(0)), Some(Error::NoDevices("cpu"))));
        let offload = Offload { cpu_layers: Some(1), gpu_memory: None };
        let divided = open_backend(&BackendOptions { offload, ..BackendOptions::default() });
        assert!(matches!(divided.err(), Some(Error::NoDevices("cpu"))));
        assert!(matches!(refusal("abacus", None), Some(Error::UnknownName { what: "backend", .. })));
    }

    #[test]
    fn a_backend_that_is_not_built_in_says_how_to_build_it() {
        for name in OPTIONAL_BACKENDS.iter().filter(|name| !BACKENDS.contains(name)) {
            let error = refusal(name, None).expect("it is not there");
            assert_eq!(error.to_string(), format!("this program was built without the feature `{name}`"));
            let hint = error.hint().expect("there is something to do");
            assert!(hint.contains(&format!("--features {name}")), "{hint}");
        }
    }
}
