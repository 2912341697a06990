//! The one place that names concrete backends.

use std::sync::Arc;

use moebius_backend::Backend;
use moebius_backend_cpu::{CpuBackend, CpuOptions, Isa};

use crate::{Error, Result, knobs};

/// Names of the backends that are built in, the default first.
pub const BACKENDS: &[&str] = &[
    "cpu",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "emulated")]
    "emulated",
];

/// Names of the backends that are built in with a cargo feature of the same name.
pub const OPTIONAL_BACKENDS: &[&str] = &["cuda"];

/// Which backend to use, and how.
#[derive(Clone, Debug, Default)]
pub struct BackendOptions {
    /// One of [`BACKENDS`]; `None` is the first.
    pub name: Option<String>,
    /// CPU threads; `None` is one for every core that this process may use.
    pub threads: Option<usize>,
    /// Which GPU, from 0, for a backend that runs on one; `None` is the first.
    pub device: Option<usize>,
}

/// Starts a backend.
///
/// # Errors
/// [`Error::NotBuiltIn`] for a backend that this program was built without, [`Error::UnknownName`] for one that does not
/// exist and for an instruction set, [`Error::NoDevices`] for a device of a backend that has none; a device that does not
/// start.
pub fn open_backend(options: &BackendOptions) -> Result<Arc<dyn Backend>> {
    match options.name.as_deref().unwrap_or(BACKENDS[0]) {
        "cpu" if options.device.is_some() => Err(Error::NoDevices("cpu")),
        "cpu" => {
            let options = CpuOptions { threads: options.threads, isa: isa()? };
            Ok(Arc::new(CpuBackend::new(options)?))
        }
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Arc::new(moebius_backend_cuda::CudaBackend::new(options.device.unwrap_or(0))?)),
        #[cfg(feature = "emulated")]
        "emulated" => {
            use moebius_backend_cuda::{CudaBackend, Order};

            Ok(Arc::new(CudaBackend::emulated(Order::Ascending)?))
        }
        other if OPTIONAL_BACKENDS.contains(&other) => Err(Error::NotBuiltIn(other.into())),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, device: Option<usize>) -> Option<Error> {
        open_backend(&BackendOptions { name: Some(name.into()), threads: Some(1), device }).err()
    }

    #[test]
    fn a_device_of_the_processor_and_an_unknown_backend_are_errors() {
        assert!(refusal("cpu", None).is_none());
        assert!(matches!(refusal("cpu", Some(0)), Some(Error::NoDevices("cpu"))));
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
