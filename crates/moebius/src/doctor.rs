//! What this machine can run, and what would make it faster.

mod router;

use std::time::Duration;

use moebius_backend_cpu::{Isa, Kernels, Peaks, Pool};

use crate::cache::{Cache, CacheEntry, EntryState};
use crate::energy::{CounterState, EnergyMeter};
use crate::{Result, cpu, locate, memory};

pub use router::{RouterLayers, RouterReport, RouterSetting, RouterTensor, SettingSource, doctor_router};

/// Bytes that the bandwidth measurement reads in one pass: well above common caches.
const BANDWIDTH_BYTES: usize = 512 << 20;
const BANDWIDTH_REPETITIONS: usize = 5;
/// Long enough for a processor to find its clock.
const PEAK_TIME: Duration = Duration::from_millis(150);

/// Something that a person may want to act on.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// What is known about GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuState {
    /// This program was built without the feature `cuda`.
    NotBuiltIn,
    /// None can be used, for this reason.
    Unusable(String),
    /// Those that can be used, in words.
    Found(Vec<String>),
}

/// The state of this machine.
#[derive(Clone, Debug)]
pub struct Health {
    /// Instruction sets that kernels exist for here, best first.
    pub isas: Vec<Isa>,
    /// The kernels that will be used.
    pub kernels: &'static str,
    /// Threads that this process may use.
    pub threads: usize,
    /// Memory that can be used; `None` when it is not known.
    pub available_bytes: Option<u64>,
    /// Bytes per second that all threads together read from memory; `None` when there is no room to measure.
    pub read_bytes_per_second: Option<f64>,
    /// GPUs, if this program can use them.
    pub gpus: GpuState,
    /// Operations per second that all threads together reach from registers.
    pub peaks: Peaks,
    /// Whether the energy that this machine takes can be counted.
    pub energy: CounterState,
    /// The default model, if it is there.
    pub default_model: Option<std::path::PathBuf>,
    /// The cache of packed models and its entries, if there is a place for it that can be read.
    pub cache: Option<(Cache, Vec<CacheEntry>)>,
    /// What could be better.
    pub findings: Vec<Finding>,
}

/// Bytes per second that `threads` threads together read from memory; `None` when there is no room to measure.
/// Takes a second or two.
///
/// # Errors
/// Those of [`doctor`].
pub fn read_bandwidth(threads: usize) -> Result<Option<f64>> {
    let kernels = cpu::kernels()?;
    let pool = Pool::new(threads).map_err(cpu::startup)?;
    let room = memory::available_bytes().is_none_or(|bytes| bytes > 2 * BANDWIDTH_BYTES as u64);
    Ok(room.then(|| kernels.measure_read_bandwidth(&pool, BANDWIDTH_BYTES, BANDWIDTH_REPETITIONS)))
}

/// Operations per second that `threads` threads together reach from registers. Takes a third of a second.
///
/// # Errors
/// Those of [`doctor`].
pub fn peaks(threads: usize) -> Result<Peaks> {
    let pool = Pool::new(threads).map_err(cpu::startup)?;
    Ok(cpu::kernels()?.measure_peaks(&pool, PEAK_TIME))
}

/// Looks at this machine. Takes a second or two to measure it.
///
/// # Errors
/// An instruction set in the environment that is unknown or not there.
pub fn doctor(threads: Option<usize>) -> Result<Health> {
    let kernels = cpu::kernels()?;
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = threads.unwrap_or(cores);
    let available_bytes = memory::available_bytes();
    let (read_bytes_per_second, peaks) = (read_bandwidth(threads)?, peaks(threads)?);
    let named = locate::bundled_model().ok();
    let default_model = named.clone().filter(|dir| dir.exists());
    let cache = Cache::standard().and_then(|cache| Ok((cache.clone(), cache.entries()?))).ok();
    let mut findings = Vec::new();
    let outdated = cache.iter().flat_map(|(_, entries)| entries).filter(|e| e.state != EntryState::Current);
    let outdated = outdated.count();
    if outdated > 0 {
        findings.push(Finding {
            what: format!("{outdated} packed models in the cache do not serve any more"),
            hint: "`moebius cache clear --outdated` removes them".into(),
        });
    }
    if kernels.isa() == Isa::Scalar {
        findings.push(Finding {
            what: "only the scalar kernels are used: they are several times slower".into(),
            hint: "unset MOEBIUS_ISA, or use a processor with AVX2, AVX-512 or NEON".into(),
        });
    }
    if threads > cores {
        findings.push(Finding {
            what: format!("{threads} threads were asked for on {cores} cores"),
            hint: format!("use -t {cores}"),
        });
    }
    let gpus = gpus();
    if let GpuState::Unusable(reason) = &gpus {
        findings.push(Finding {
            what: format!("no GPU can be used: {reason}"),
            hint: "install NVIDIA's driver; `nvidia-smi` should list the GPUs".into(),
        });
    }
    let energy = EnergyMeter::open(None).state().clone();
    if let (CounterState::Unreadable { counter, reason, .. }, Some(hint)) = (&energy, energy.hint()) {
        let what = format!("energy is not counted: `{counter}`: {reason}");
        findings.push(Finding { what, hint });
    }
    if default_model.is_none() {
        findings.push(Finding {
            what: match named {
                Some(dir) => format!("the default model is not at `{}`", dir.display()),
                None => "the default model was not found".into(),
            },
            hint: "set MOEBIUS_MODEL to a model directory".into(),
        });
    }
    Ok(Health {
        isas: Kernels::available().into_iter().rev().collect(),
        kernels: kernels.name(),
        threads,
        available_bytes,
        read_bytes_per_second,
        gpus,
        peaks,
        energy,
        default_model,
        cache,
        findings,
    })
}

fn gpus() -> GpuState {
    let states = [
        #[cfg(feature = "cuda")]
        cuda_state(),
        GpuState::NotBuiltIn,
    ];
    let [state, ..] = states;
    state
}

#[cfg(feature = "cuda")]
fn cuda_state() -> GpuState {
    match moebius_backend_cuda::devices() {
        Err(reason) => GpuState::Unusable(reason),
        Ok(devices) if devices.is_empty() => GpuState::Unusable("the driver shows none".into()),
        Ok(devices) => GpuState::Found(devices.iter().map(ToString::to_string).collect()),
    }
}
