//! Flags about how a model runs, shared by the commands that load one.

use clap::Args;
use clap::builder::{FalseyValueParser, PossibleValuesParser, TypedValueParser};
use moebius::plan::Machine;
use moebius::{BackendOptions, Cache, HeldFormats, OpenOptions, RoutingRules};

use super::{PlaceArgs, values};

/// A published shape in place of a model.
#[derive(Args, Clone, Debug)]
pub(crate) struct ShapeArgs {
    /// Random weights in this shape: one that `moebius families` lists, or the path of a config.json
    #[arg(long = "shape", id = "shape", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Decoder layers of the shape in place of its own number
    #[arg(long, value_name = "N", requires = "shape", value_parser = values::layers)]
    pub(crate) layers: Option<usize>,
}

/// How many experts a token goes through.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ExpertsArg {
    /// Experts per token in place of the configured number
    #[arg(
        long,
        visible_alias = "n-expert-used",
        env = "MOEBIUS_EXPERTS",
        hide_env_values = true,
        value_name = "N",
        value_parser = values::count
    )]
    pub(crate) experts: Option<usize>,
}

/// What routers do otherwise than configured.
#[derive(Args, Clone, Debug)]
pub(crate) struct RulesArgs {
    /// Experts per token of each layer with a router, such as 4,4,2,2 or 8x12,4x12
    #[arg(
        long,
        env = "MOEBIUS_EXPERTS_BY_LAYER",
        hide_env_values = true,
        value_name = "LIST",
        value_parser = values::by_layer
    )]
    experts_by_layer: Option<values::ByLayer>,
    /// Experts that are never chosen, such as 0:3,2:17 for expert 3 of layer 0 and 17 of layer 2
    #[arg(
        long,
        env = "MOEBIUS_MASK",
        hide_env_values = true,
        value_name = "LAYER:EXPERT,...",
        value_delimiter = ','
    )]
    #[arg(value_parser = values::layer_expert)]
    mask: Vec<(usize, u32)>,
}

impl RulesArgs {
    /// The same, as the library wants it, with `threshold`.
    pub(crate) fn rules(&self, threshold: f32) -> RoutingRules {
        RoutingRules {
            experts_by_layer: self.experts_by_layer.clone().unwrap_or_default().0,
            drop_below: threshold,
            masked: self.mask.iter().copied().collect(),
        }
    }
}

/// What routers do otherwise than configured, where there is one threshold.
#[derive(Args, Clone, Debug)]
pub(crate) struct RoutingArgs {
    #[command(flatten)]
    rules: RulesArgs,
    /// Drop the experts of a token that weigh less than T times its heaviest, 0 to 1; the rest is weighted as if chosen
    /// alone
    #[arg(long, env = "MOEBIUS_THRESHOLD", hide_env_values = true, value_name = "T", value_parser = values::share)]
    #[arg(allow_negative_numbers = true)]
    threshold: Option<f32>,
}

impl RoutingArgs {
    /// The same, as the library wants it.
    pub(crate) fn rules(&self) -> RoutingRules {
        self.rules.rules(self.threshold.unwrap_or(0.0))
    }
}

/// What weights are held in.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct FormatArg {
    /// What weights are held in; default: as stored. Rounds while loading; q4_k_m is a mix of q4_k and q6_k, q5_k_m of q5_k and q6_k
    #[arg(long, env = "MOEBIUS_FORMAT", hide_env_values = true, value_name = "NAME", value_parser = held_formats())]
    format: Option<HeldFormats>,
}

impl FormatArg {
    /// The same, as the library wants it.
    pub(crate) fn held(self) -> HeldFormats {
        self.format.unwrap_or_default()
    }
}

/// Reads a name, of which the help lists all.
pub(super) fn held_formats() -> impl TypedValueParser<Value = HeldFormats> {
    PossibleValuesParser::new(HeldFormats::names()).try_map(|name| name.parse::<HeldFormats>())
}

/// Whether packed copies are used, and kept.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct CacheArgs {
    /// Keep the packed weights on disk, from where later starts map them; `moebius cache` lists what is kept
    #[arg(long, env = "MOEBIUS_CACHE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    cache: bool,
    /// Use no packed copy that is kept, and keep none
    #[arg(long, overrides_with = "cache")]
    no_cache: bool,
}

impl CacheArgs {
    /// Whether a packed copy is to be kept.
    pub(crate) fn keeps(self) -> bool {
        self.cache && !self.no_cache
    }

    /// Where packed copies are looked for. A system that names no place has none.
    pub(crate) fn place(self) -> Option<Cache> {
        Cache::standard().ok().filter(|_| !self.no_cache)
    }
}

/// How a model runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Model options")]
pub(crate) struct ModelArgs {
    #[command(flatten)]
    pub(crate) experts: ExpertsArg,
    #[command(flatten)]
    pub(crate) routing: RoutingArgs,
    #[command(flatten)]
    pub(crate) format: FormatArg,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    /// Most tokens of a sequence; default: the model's own context
    #[arg(short, long, env = "MOEBIUS_CTX_SIZE", hide_env_values = true, value_name = "N", value_parser = values::at_least_one)]
    pub(crate) ctx_size: Option<u64>,
    /// CPU threads; default: all cores
    #[arg(short, long, env = "MOEBIUS_THREADS", hide_env_values = true, value_name = "N", value_parser = values::threads)]
    pub(crate) threads: Option<u64>,
    /// Most prompt tokens of one pass; results do not depend on it
    #[arg(long, env = "MOEBIUS_UBATCH_SIZE", hide_env_values = true, value_name = "N", value_parser = values::at_least_one)]
    pub(crate) ubatch_size: Option<u64>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Hardware to stand for, by a name that `moebius plan` knows (8xNAME for eight) or as FILE.toml: what it could not
    /// hold or multiply is refused, and the time that it would take is modelled
    #[arg(
        long,
        visible_alias = "hardware",
        env = "MOEBIUS_PROFILE",
        hide_env_values = true,
        value_name = "NAME"
    )]
    #[arg(value_parser = values::machine)]
    pub(crate) profile: Option<Machine>,
}

impl ModelArgs {
    /// The same, as the library wants it.
    pub(crate) fn open_options(&self) -> OpenOptions {
        OpenOptions {
            backend: BackendOptions {
                profile: self.profile.clone(),
                ..self.place.options(self.threads.map(saturate))
            },
            experts: self.experts.experts,
            routing: self.routing.rules(),
            format: self.format.held(),
            cache: self.cache.place(),
            context: self.ctx_size.map(saturate),
            chunk: self.ubatch_size.map(saturate),
        }
    }
}

/// A count that is larger than any that can occur stays so.
pub(crate) fn saturate(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
