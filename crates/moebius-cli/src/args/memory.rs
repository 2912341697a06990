//! Flags about a budget of memory.

use clap::Args;
use clap::builder::FalseyValueParser;
use moebius::{BackendOptions, CachePlaces, Constraint, ExpertPolicy, MemoryLimit, ReadLimit};

use super::{BackendArgs, values};

/// Where a model runs, and within which memory.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlaceArgs {
    #[command(flatten)]
    backend: BackendArgs,
    /// Memory of the whole program, such as 2GiB or 50%; experts that do not fit are fetched from disk. Results do not
    /// depend on it
    #[arg(long, env = "MOEBIUS_MEMORY", hide_env_values = true, value_name = "SIZE")]
    memory: Option<MemoryLimit>,
    /// Experts in memory at a time, such as 64 or 50%; with --memory at most so many
    #[arg(long, env = "MOEBIUS_RESIDENT_EXPERTS", hide_env_values = true, value_name = "N")]
    resident_experts: Option<CachePlaces>,
    /// Which expert leaves memory for another one: lru, lfu, lfru, layer, or hot:TRACE
    #[arg(long, env = "MOEBIUS_EXPERT_CACHE", hide_env_values = true, value_name = "POLICY")]
    expert_cache: Option<ExpertPolicy>,
    /// Fetch no experts before the router of their layer has chosen them
    #[arg(long, env = "MOEBIUS_NO_PREFETCH", hide_env_values = true, value_parser = FalseyValueParser::new())]
    no_prefetch: bool,
    /// Fetch no more than this a second, such as 500MB: as from a slower disk
    #[arg(long, env = "MOEBIUS_FETCH_LIMIT", hide_env_values = true, value_name = "SIZE", value_parser = values::fetch_limit)]
    fetch_limit: Option<ReadLimit>,
}

impl PlaceArgs {
    /// The same, as the library wants it, on so many threads.
    pub(crate) fn options(&self, threads: Option<usize>) -> BackendOptions {
        BackendOptions {
            constraint: Constraint {
                memory: self.memory,
                resident: self.resident_experts,
                policy: self.expert_cache.clone().unwrap_or_default(),
                no_prefetch: self.no_prefetch,
                limit: self.fetch_limit,
            },
            ..self.backend.options(threads)
        }
    }
}
