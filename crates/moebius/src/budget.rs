//! A budget of memory: what a model may take, and what its parts get of it.
//!
//! ```text
//! budget = program + dense weights + keys and values + activations + places for experts
//! ```
//!
//! Invariants: the division is made before a weight is read, and a budget that cannot hold one expert besides all else is
//! refused with what it would need.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use moebius_backend::ExpertSpec;
use moebius_backend_constrained::{CachePolicy, ConstrainedOptions, ReadLimit, slot_bytes};
use moebius_model::{ModelInfo, Place};

use crate::trace::TraceReader;
use crate::{Error, OpenOptions, Result, memory, spill};

/// What threads, tables and small buffers take besides what the program has when it plans.
const PROGRAM_BYTES: u64 = 24 << 20;
/// Most prompt tokens of a pass within a budget, unless told otherwise.
const MOST_CHUNK: u64 = 512;
/// Positions that are always planned for.
const LEAST_CONTEXT: u64 = 256;
/// Positions that a GPU is planned with where nobody says how many.
const GPU_CONTEXT: usize = 4096;
/// The cache's first size in positions, from which it grows by doubling.
const FIRST_CAPACITY: u64 = 64;

/// How much memory a model may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryLimit {
    /// So many bytes.
    Bytes(u64),
    /// A share of what the machine has, 0 to 1.
    Share(f64),
}

impl FromStr for MemoryLimit {
    type Err = String;

    /// Reads `2GiB`, `500MB` or `50%`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        const UNITS: [(&str, f64); 9] = [
            ("KiB", 1024.0),
            ("MiB", 1_048_576.0),
            ("GiB", 1_073_741_824.0),
            ("kB", 1e3),
            ("KB", 1e3),
            ("MB", 1e6),
            ("GB", 1e9),
            ("B", 1.0),
            ("%", 0.01),
        ];
        let expected =
            || format!("expected a size such as 2GiB or 500MB, or a share such as 50%, got `{text}`");
        let (unit, factor) = UNITS.into_iter().find(|(unit, _)| text.ends_with(unit)).ok_or_else(expected)?;
        let number: f64 = text.trim_end_matches(unit).trim().parse().map_err(|_| expected())?;
        let amount = number * factor;
        match unit {
            "%" if amount > 0.0 && amount <= 1.0 => Ok(MemoryLimit::Share(amount)),
            "%" => Err(expected()),
            _ if (1.0..1e18).contains(&amount) => Ok(MemoryLimit::Bytes(amount as u64)),
            _ => Err(expected()),
        }
    }
}

impl MemoryLimit {
    /// The same in bytes.
    ///
    /// # Errors
    /// [`Error::UnknownMemory`] for a share where the system does not say of how much.
    pub fn bytes(self) -> Result<u64> {
        match self {
            MemoryLimit::Bytes(bytes) => Ok(bytes),
            MemoryLimit::Share(share) => {
                memory::total_bytes().map(|total| (total as f64 * share) as u64).ok_or(Error::UnknownMemory)
            }
        }
    }
}

/// How many experts may be in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CachePlaces {
    /// So many.
    Experts(usize),
    /// A share of all, 0 to 1.
    Share(f64),
}

impl CachePlaces {
    /// The same as a number, of so many experts; at least one.
    #[must_use]
    pub fn of(self, experts: usize) -> usize {
        match self {
            CachePlaces::Experts(places) => places.max(1),
            CachePlaces::Share(share) => ((experts as f64 * share).round() as usize).max(1),
        }
    }
}

impl FromStr for CachePlaces {
    type Err = String;

    /// Reads `64` or `25%`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = || format!("expected a number of experts, or a share such as 25%, got `{text}`");
        let Some(percent) = text.strip_suffix('%') else {
            let experts = text.parse().ok().filter(|&experts: &usize| experts > 0);
            return experts.map(CachePlaces::Experts).ok_or_else(expected);
        };
        let share = percent.parse::<f64>().map_err(|_| expected())? / 100.0;
        if share > 0.0 && share <= 1.0 { Ok(CachePlaces::Share(share)) } else { Err(expected()) }
    }
}

/// Which expert leaves memory when another one needs its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpertPolicy {
    /// A policy that needs nothing else.
    Named(CachePolicy),
    /// The experts stay that were used most in a trace.
    HotIn(PathBuf),
}

impl Default for ExpertPolicy {
    fn default() -> Self {
        ExpertPolicy::Named(CachePolicy::default())
    }
}

impl FromStr for ExpertPolicy {
    type Err = String;

    /// Reads `lru`, `lfu`, `lfru`, `layer` or `hot:TRACE`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if let Some(path) = text.strip_prefix("hot:").filter(|path| !path.is_empty()) {
            return Ok(ExpertPolicy::HotIn(path.into()));
        }
        let policy = CachePolicy::named(text).map(ExpertPolicy::Named);
        policy.ok_or_else(|| format!("expected lru, lfu, lfru, layer or hot:TRACE, got `{text}`"))
    }
}

impl ExpertPolicy {
    /// The policy for a model with these experts, its trace read.
    ///
    /// # Errors
    /// Those of reading a trace; [`Error::ForeignTrace`] for one of another model.
    pub(crate) fn policy(&self, banks: &[ExpertSpec]) -> Result<CachePolicy> {
        let path = match self {
            ExpertPolicy::Named(policy) => return Ok(policy.clone()),
            ExpertPolicy::HotIn(path) => path,
        };
        let mut reader = TraceReader::open(path)?;
        let layers: Vec<(usize, usize)> = banks.iter().map(|bank| (bank.layer, bank.n_experts)).collect();
        reader.header().check_is_of(path, &layers)?;
        let loads = reader.loads()?;
        let layers = reader.header().layers.iter();
        let heat = layers.zip(loads).map(|(layer, load)| (layer.layer, load.counts().to_vec()));
        Ok(CachePolicy::Hot(Arc::new(heat.collect())))
    }
}

/// What the constrained backend keeps to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Constraint {
    /// Memory of the whole program; `None` holds every expert.
    pub memory: Option<MemoryLimit>,
    /// Experts in memory at a time; `None` is as many as the budget allows.
    pub resident: Option<CachePlaces>,
    /// Which expert leaves.
    pub policy: ExpertPolicy,
    /// Whether experts of the next layer are left alone until its router has chosen.
    pub no_prefetch: bool,
    /// How fast experts may be fetched; `None` is as fast as they come.
    pub limit: Option<ReadLimit>,
}

/// What the parts of a model get of a budget, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// The budget.
    pub budget_bytes: u64,
    /// The program itself.
    pub program_bytes: u64,
    /// Weights that are always in memory.
    pub dense_bytes: u64,
    /// Positions of a sequence that are planned for.
    pub context: usize,
    /// Their keys and values.
    pub cache_bytes: u64,
    /// Prompt tokens of a pass.
    pub chunk: usize,
    /// Activations of such a pass.
    pub activation_bytes: u64,
    /// Memory of one expert.
    pub slot_bytes: u64,
    /// Experts that may be in memory.
    pub slots: usize,
    /// Experts that may be fetched ahead besides.
    pub prefetch: usize,
    /// Experts of all layers.
    pub experts: usize,
}

/// What is asked of a plan.
pub(crate) struct Asked<'a> {
    pub(crate) info: &'a ModelInfo,
    pub(crate) banks: &'a [ExpertSpec],
    pub(crate) context: Option<usize>,
    pub(crate) chunk: Option<usize>,
    /// Positions of all sequences together, where more than one is planned for.
    pub(crate) positions: u64,
    /// Experts that may be in memory, however much there is.
    pub(crate) resident: Option<CachePlaces>,
}

impl MemoryPlan {
    /// Divides `budget_bytes`.
    ///
    /// # Errors
    /// [`Error::Budget`] when it cannot hold one expert besides all else.
    pub(crate) fn new(budget_bytes: u64, asked: &Asked<'_>, prefetch: bool) -> Result<Self> {
        let Asked { info, banks, .. } = *asked;
        let experts_bytes = info.tally.get(&Place::Experts).and_then(|tally| tally.bytes).unwrap_or(0);
        let dense_bytes = info.weight_bytes().unwrap_or(0).saturating_sub(experts_bytes);
        let program_bytes = memory::resident_bytes().unwrap_or(0).saturating_add(PROGRAM_BYTES);
        let slot = banks.iter().map(slot_bytes).max().unwrap_or(0);
        let left = budget_bytes.saturating_sub(program_bytes).saturating_sub(dense_bytes);
        let context = planned_context(asked, left / 4);
        let cache_bytes = kept_bytes(info, context as u64).max(kept_bytes(info, asked.positions));
        let left = left.saturating_sub(cache_bytes);
        let chunk = planned_chunk(asked, banks, left / 8);
        let activation_bytes = activations(info, banks).saturating_mul(chunk as u64);
        let experts: usize = banks.iter().map(|bank| bank.n_experts).sum();
        let places = left.saturating_sub(activation_bytes).checked_div(slot).unwrap_or(0);
        let places = usize::try_from(places).unwrap_or(usize::MAX);
        if places == 0 && experts > 0 {
            let needed_bytes = program_bytes + dense_bytes + cache_bytes + activation_bytes + slot;
            return Err(Error::Budget { needed_bytes, budget_bytes });
        }
        let top_k = info.moe.as_ref().map_or(0, |moe| moe.top_k);
        let wanted = asked.resident.map_or(experts, |resident| resident.of(experts).min(experts));
        // Guesses are worth a place only where a step finds its own experts in memory with room to spare.
        let spare = places >= 4 * top_k || wanted + top_k <= places;
        let prefetch = if prefetch && wanted.min(places) < experts && spare { top_k } else { 0 };
        let slots = wanted.min(places - prefetch);
        Ok(MemoryPlan {
            budget_bytes,
            program_bytes,
            dense_bytes,
            context,
            cache_bytes,
            chunk,
            activation_bytes,
            slot_bytes: slot,
            slots,
            prefetch,
            experts,
        })
    }

    /// Bytes of the places for experts.
    #[must_use]
    pub fn expert_bytes(&self) -> u64 {
        self.slot_bytes.saturating_mul((self.slots + self.prefetch) as u64)
    }

    /// Bytes that will be held: less than the budget where all experts have places.
    pub(crate) fn held_bytes(&self) -> u64 {
        let parts = [self.program_bytes, self.dense_bytes, self.cache_bytes, self.activation_bytes];
        parts.into_iter().fold(self.expert_bytes(), u64::saturating_add).min(self.budget_bytes)
    }

    /// What the backend is told.
    pub(crate) fn options(
        &self,
        constraint: &Constraint,
        banks: &[ExpertSpec],
    ) -> Result<ConstrainedOptions> {
        let spill_dir = Some(spill::directory());
        let (policy, limit) = (constraint.policy.policy(banks)?, constraint.limit);
        Ok(ConstrainedOptions { slots: Some(self.slots), policy, prefetch: self.prefetch, limit, spill_dir })
    }
}

/// What a GPU is planned to hold besides weights: keys and values of one sequence, activations of one pass.
pub(crate) fn working_bytes(info: &ModelInfo, banks: &[ExpertSpec], options: &OpenOptions) -> u64 {
    let positions = options.context.unwrap_or(GPU_CONTEXT).min(info.context) as u64;
    let activations = activations(info, banks).saturating_mul(options.chunk() as u64);
    kept_bytes(info, positions).saturating_add(activations)
}

/// The positions that were asked for, or as many as `bytes` hold.
fn planned_context(asked: &Asked<'_>, bytes: u64) -> usize {
    let most = asked.info.context;
    if let Some(context) = asked.context {
        return context.min(most);
    }
    // The cache holds its old half while it grows.
    let per_token = asked.info.cache_bytes_per_token.saturating_mul(3).div_ceil(2).max(1);
    let fits = (bytes / per_token).max(LEAST_CONTEXT);
    let doubled = if fits.is_power_of_two() { fits } else { fits.next_power_of_two() / 2 };
    usize::try_from(doubled).unwrap_or(usize::MAX).min(most)
}

/// Keys and values of so many positions, and of the half that is copied from when they grow.
fn kept_bytes(info: &ModelInfo, positions: u64) -> u64 {
    let capacity = positions.next_power_of_two().max(FIRST_CAPACITY).min(info.context.max(1) as u64);
    let held = capacity.max(positions);
    let growing = if held > FIRST_CAPACITY { held / 2 } else { 0 };
    let rows = info.cache_bytes_per_token.saturating_mul(held + growing);
    rows.saturating_add(info.cache_bytes_per_sequence)
}

/// The prompt tokens of a pass that were asked for, or as many as `bytes` hold.
fn planned_chunk(asked: &Asked<'_>, banks: &[ExpertSpec], bytes: u64) -> usize {
    if let Some(chunk) = asked.chunk {
        return chunk.max(1);
    }
    let fits = (bytes / activations(asked.info, banks).max(1)).clamp(1, MOST_CHUNK);
    usize::try_from(if fits.is_power_of_two() { fits } else { fits.next_power_of_two() / 2 }).unwrap_or(1)
}

/// Bytes that one token of a pass takes at the most: a dozen rows of the residual stream's width, queries, keys and values
/// in several copies, and for each of its experts an input and what is between its matrices.
fn activations(info: &ModelInfo, banks: &[ExpertSpec]) -> u64 {
    const ROWS: u64 = 24;
    let top_k = info.moe.as_ref().map_or(0, |moe| moe.top_k) as u64;
    let pair = banks.iter().map(|bank| (bank.hidden + 3 * bank.intermediate) as u64).max().unwrap_or(0);
    size_of::<f32>() as u64 * (ROWS * info.hidden as u64 + top_k * pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_are_read_and_nonsense_is_not() {
        let read = |text: &str| text.parse::<MemoryLimit>();
        assert_eq!(read("2GiB"), Ok(MemoryLimit::Bytes(2 << 30)));
        assert_eq!(read("1.5 GB"), Ok(MemoryLimit::Bytes(1_500_000_000)));
        assert_eq!(read("300MiB"), Ok(MemoryLimit::Bytes(300 << 20)));
        assert_eq!(read("50%"), Ok(MemoryLimit::Share(0.5)));
        for wrong in ["", "2", "GiB", "0%", "101%", "-1GiB", "nanGiB", "1e30GiB", "2 apples"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn places_are_numbers_or_shares_and_never_none() {
        let places = |text: &str| text.parse::<CachePlaces>().map(|places| places.of(64));
        assert_eq!([places("7"), places("25%"), places("0.1%")], [Ok(7), Ok(16), Ok(1)]);
        for wrong in ["0", "-1", "0%", "101%", "half", ""] {
            assert!(places(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn policies_are_read_by_name_and_a_hot_one_names_its_trace() {
        assert_eq!("lfu".parse(), Ok(ExpertPolicy::Named(CachePolicy::Lfu)));
        assert_eq!("hot:a.trace".parse(), Ok(ExpertPolicy::HotIn("a.trace".into())));
        for wrong in ["hot", "hot:", "mru", ""] {
            assert!(wrong.parse::<ExpertPolicy>().is_err(), "{wrong}");
        }
    }
}
