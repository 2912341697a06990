//! Hardware that is declared and not here: a model that it could not hold is refused, all else runs on this machine, and
//! the time and energy that it would take are modelled beside what was measured.
//!
//! Figures are those of [`crate::plan`]: devices with their sources, shares of bandwidth and arithmetic as fitted there. A
//! machine of several devices spreads the experts of every layer over them.
//!
//! Invariants: outputs are those of the CPU backend to the bit; what is modelled says how far off it may be, and what
//! cannot be modelled is `None`.

use std::collections::BTreeMap;
use std::sync::Arc;

use moebius_backend::Backend;
use moebius_backend_constrained::{DeclaredBackend, Launch, Ledger, Peaks, Reached};
use moebius_metering::Counts;
use moebius_model::{ModelInfo, Place};

use crate::plan::{Band, CacheFormat, Class, Demand, Device, Estimator, Fit, Load, Machine, Weights, fits};
use crate::{Error, Result, WeightFormat};

pub use moebius_backend_constrained::{
    Balance, BatchLoad, Modelled, Placement, Profile, ShapeRule, Tile, Watts, grouped_balance,
};

/// Positions that a sequence is planned with where nobody says how many.
const POSITIONS: usize = 4096;

/// A machine that is declared, and the account of what it would have done.
#[derive(Clone, Debug)]
pub struct Declared {
    ledger: Arc<Ledger>,
}

impl Declared {
    /// Declares `machine` on top of `inner`, which computes.
    ///
    /// # Errors
    /// Those of [`profile`].
    pub(crate) fn new(machine: &Machine, inner: Arc<dyn Backend>) -> Result<(Arc<dyn Backend>, Self)> {
        let ledger = Arc::new(Ledger::new(profile(machine)?));
        Ok((Arc::new(DeclaredBackend::new(inner, ledger.clone())), Declared { ledger }))
    }

    /// What it has, allows and reaches.
    pub fn profile(&self) -> &Profile {
        self.ledger.profile()
    }

    /// The account so far, for a model of so many layers.
    pub(crate) fn snapshot(&self, layers: usize) -> Modelled {
        self.ledger.snapshot(layers)
    }

    /// How even the load of the devices was so far, by decoder layer; empty for one device.
    pub fn balance(&self) -> BTreeMap<usize, Balance> {
        self.ledger.balance()
    }

    /// What was modelled of reading prompts, of which `counts` was measured.
    pub fn prefill(&self, modelled: Modelled, counts: &Counts) -> ModelledPhase {
        self.phase(modelled, counts, self.profile().reached.prefill_error)
    }

    /// What was modelled of generating.
    pub fn decode(&self, modelled: Modelled, counts: &Counts) -> ModelledPhase {
        self.phase(modelled, counts, self.profile().reached.decode_error)
    }

    fn phase(&self, mut modelled: Modelled, counts: &Counts, error: f64) -> ModelledPhase {
        let (profile, tokens) = (self.profile(), counts.all_tokens());
        if let Some(fetches) = counts.fetches() {
            modelled.fetch(fetches.fetched_bytes, profile.fetch);
        }
        let joules = modelled.joules(profile.watts, profile.devices);
        ModelledPhase { tokens, error, joules: joules.filter(|joules| joules.is_finite()), modelled }
    }
}

/// What declared hardware would have taken for one phase: a model, and not a measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelledPhase {
    /// The account.
    pub modelled: Modelled,
    /// Tokens that were read or generated.
    pub tokens: u64,
    /// How far off rates may be, relative: what the fit of the class is off by.
    pub error: f64,
    /// Energy of all devices; `None` where their power is not declared.
    pub joules: Option<f64>,
}

impl ModelledPhase {
    /// Seconds of the phase; `None` where a figure that they need is not declared, or nothing ran.
    pub fn seconds(&self) -> Option<f64> {
        Some(self.modelled.seconds()).filter(|seconds| seconds.is_finite() && *seconds > 0.0)
    }

    /// Seconds of a token.
    pub fn seconds_per_token(&self) -> Option<f64> {
        self.seconds().filter(|_| self.tokens > 0).map(|seconds| seconds / self.tokens as f64)
    }

    /// Tokens per second, with the band of the model's error.
    pub fn tokens_per_second(&self) -> Option<Band> {
        self.seconds_per_token().map(|seconds| Band::around(1.0 / seconds, self.error))
    }

    /// Joules of a token.
    pub fn joules_per_token(&self) -> Option<f64> {
        self.joules.filter(|_| self.tokens > 0).map(|joules| joules / self.tokens as f64)
    }
}

/// A machine of the planner as a profile to run under.
///
/// # Errors
/// [`Error::Undeclared`] for a machine of which too little is known, or that has a host.
pub fn profile(machine: &Machine) -> Result<Profile> {
    let name = machine.name();
    let refuse = |reason: &str| Error::Undeclared { profile: name.clone(), reason: reason.into() };
    if machine.host.is_some() {
        return Err(refuse("it has a host, and a profile is devices of one kind"));
    }
    let device = &machine.device;
    let estimator = Estimator::new()?;
    let speed = estimator.speed(device.class);
    let speed = speed.ok_or_else(|| refuse("nothing is known of how fast its kind of device is"))?;
    let launch = match device.rules.launch {
        Some([product, vector, exchange]) => Launch { product, vector, exchange, layer: 0.0 },
        None => Launch { layer: speed.layer_seconds, ..Launch::default() },
    };
    let profile = Profile {
        devices: usize::try_from(machine.dies()).unwrap_or(usize::MAX),
        memory_bytes: device.memory_bytes,
        bandwidth: device.bandwidth,
        link: link(machine),
        fetch: device.rules.fetch,
        launch,
        peaks: peaks(device),
        reached: Reached {
            bandwidth_share: speed.bandwidth_share,
            compute_share: speed.compute_share.unwrap_or(f64::NAN),
            decode_error: speed.decode_error,
            prefill_error: speed.prefill_error,
            fitted_to: speed.fitted_to,
        },
        formats: device.rules.formats.clone(),
        tile: device.rules.tile,
        cache_number_bytes: if device.class == Class::Cpu { 4 } else { 2 },
        capacity_factor: device.rules.capacity_factor,
        watts: watts(device),
        name: name.clone(),
    };
    match profile.gap() {
        Some(gap) => Err(refuse(gap)),
        None => Ok(profile),
    }
}

/// Bytes per second between two devices: the slower one where they are of several nodes.
fn link(machine: &Machine) -> Option<f64> {
    let device = &machine.device;
    let one_node = device.node.is_none_or(|node| machine.count <= node);
    if one_node { device.link } else { device.net.or(device.link) }
}

fn peaks(device: &Device) -> Peaks {
    let crate::plan::Peaks { fp32, fp16, bf16, int8, fp4, .. } = device.peaks;
    Peaks { fp32, fp16, bf16, int8, fp4 }
}

/// Power of one die.
fn watts(device: &Device) -> Option<Watts> {
    let dies = f64::from(device.dies);
    let load = device.watts? / dies;
    Some(Watts { load, idle: device.idle_watts.map(|watts| watts / dies) })
}

/// Fails when the weights of a model and the cache of one sequence of `context` positions do not fit each device of
/// `machine`, whose experts are spread over them. A budget into which experts are fetched counts in their place.
///
/// # Errors
/// [`Error::BeyondProfile`], with what would fit.
pub(crate) fn check_fits(
    machine: &Machine,
    info: &ModelInfo,
    context: Option<usize>,
    budget: Option<u64>,
) -> Result<()> {
    let (profile_name, device) = (machine.name(), machine.device.name.clone());
    if let (Some(needed_bytes), Some(memory_bytes)) = (budget, machine.device.memory_bytes) {
        let (format, devices) = (None, None);
        return match needed_bytes <= memory_bytes {
            true => Ok(()),
            false => Err(Error::BeyondProfile {
                profile: profile_name,
                device,
                needed_bytes,
                memory_bytes,
                format,
                devices,
            }),
        };
    }
    let positions = context.unwrap_or(POSITIONS).min(info.context) as u64;
    let demand = Demand::from_info(String::new(), info.clone(), Weights::default());
    let load = Load::new(1, positions, CacheFormat::F16);
    let (memory, fit) = fits(&demand, machine, &load);
    let (Fit::TooLarge { devices }, Some(memory_bytes)) = (fit, machine.device.memory_bytes) else {
        return Ok(());
    };
    let profile = profile(machine)?;
    let rest = memory.total_bytes() - memory.weight_bytes;
    let smaller = profile.allowed().map(|format| {
        let spread = spread(info, format, machine.dies());
        (format, spread.saturating_add(rest))
    });
    let mut smaller: Vec<(WeightFormat, u64)> = smaller.filter(|(_, bytes)| *bytes <= memory_bytes).collect();
    smaller.sort_by(|(a, _), (b, _)| b.bits_per_weight().total_cmp(&a.bits_per_weight()));
    let format = smaller.first().map(|&(format, bytes)| Box::new((format.name(), bytes)));
    Err(Error::BeyondProfile {
        profile: profile_name,
        device,
        needed_bytes: memory.total_bytes(),
        memory_bytes,
        format,
        devices,
    })
}

/// About the bytes on each of `dies` if weights were held in `format`.
fn spread(info: &ModelInfo, format: WeightFormat, dies: u64) -> u64 {
    let part = |(place, tally): (&Place, &moebius_model::Tally)| {
        let bytes = match place {
            Place::Norm | Place::Router => tally.bytes.unwrap_or(0),
            _ => (tally.total as f64 * format.bits_per_weight() / 8.0) as u64,
        };
        if *place == Place::Experts { bytes.div_ceil(dies.max(1)) } else { bytes }
    };
    info.tally.iter().map(part).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Result<Profile> {
        profile(&Machine::find(name)?)
    }

    #[test]
    fn every_shipped_profile_can_be_declared() {
        for name in
            ["ascend-910b-32g", "ascend-910b-64g", "ascend-910c-die", "h800", "h20", "laptop-4g", "phone-12g"]
        {
            let profile = named(name).unwrap();
            assert!(profile.memory_bytes.is_some() && profile.watts.is_some(), "{name}");
            assert!(profile.fetch.is_some() && profile.gap().is_none(), "{name}");
        }
    }

    #[test]
    fn a_short_name_is_the_bin_whose_memory_it_says() {
        let (short, long) = (named("ascend-910b-64g").unwrap(), named("ascend-910b-280").unwrap());
        assert_eq!((short.name.as_str(), long.name.as_str()), ("ascend-910b-64g", "ascend-910b-280"));
        assert_eq!(short, Profile { name: short.name.clone(), ..long });
        assert_eq!(named("ascend-910b-32g").unwrap().memory_bytes, Some(32 << 30));
    }

    #[test]
    fn an_ascend_multiplies_eight_bits_in_integers_and_nothing_of_four() {
        let profile = named("ascend-910b-64g").unwrap();
        assert_eq!(profile.peak(WeightFormat::Q8_0), Some(560e12));
        assert_eq!(profile.peak(WeightFormat::Bf16), Some(245.8e12));
        let allowed: Vec<_> = profile.allowed().collect();
        assert!(
            !allowed.contains(&WeightFormat::Q4_0) && allowed.contains(&WeightFormat::F32),
            "{allowed:?}"
        );
        assert!((profile.launch.product - 5e-6).abs() < 1e-12, "{}", profile.launch.product);
        assert_eq!(profile.launch.layer, 0.0);
    }

    #[test]
    fn a_package_is_its_dies() {
        let package = named("ascend-910c").unwrap();
        assert_eq!((package.devices, package.memory_bytes), (2, Some(64 << 30)));
        assert_eq!(package.watts.map(|watts| watts.load), Some(350.0));
        assert_eq!(named("8xascend-910c").unwrap().devices, 16);
    }

    #[test]
    fn fitted_classes_cost_a_layer_and_not_a_launch() {
        let profile = named("h800").unwrap();
        assert!(profile.launch.layer > 0.0 && profile.launch.product == 0.0 && profile.reached.fitted_to > 0);
    }

    #[test]
    fn a_machine_of_which_too_little_is_known_is_named_with_what_is_missing() {
        let check = |name: &str, expected: &str| {
            let error = named(name).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(name), "{error}");
        };
        check("m4-pro", "arithmetic");
        check("rtx-4090+ddr5-5600", "host");
        check("2xddr5-5600", "links");
    }

    #[test]
    fn phases_that_cannot_be_known_have_no_rate() {
        let inner = crate::open_backend(&crate::BackendOptions::default()).unwrap();
        let (_, declared) = Declared::new(&Machine::find("h20").unwrap(), inner).unwrap();
        let counts = |tokens| Counts { tokens: [0, tokens], ..Counts::default() };
        let nothing = declared.decode(Modelled::default(), &counts(0));
        assert_eq!((nothing.seconds(), nothing.tokens_per_second().is_none()), (None, true));
        let some = Modelled { memory_seconds: 0.5, busy_seconds: 0.5, ..Modelled::default() };
        let phase = declared.decode(some, &counts(10));
        assert_eq!((phase.seconds_per_token(), phase.joules_per_token()), (Some(0.05), Some(20.0)));
        let band = phase.tokens_per_second().unwrap();
        assert!(band.low < 20.0 && (band.expected - 20.0).abs() < 1e-9 && band.high > 20.0);
        let unknown = Modelled { fetch_seconds: f64::NAN, ..Modelled::default() };
        assert_eq!(declared.decode(unknown, &counts(10)).seconds(), None);
    }
}
