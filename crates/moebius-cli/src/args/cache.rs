//! `moebius cache`.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use moebius::{CacheFilter, CachePlaces, CachePolicy, HeldFormats};

use super::JsonArg;
use super::model::held_formats;

const NOTES: &str = "\
run, score and bench with --cache keep the weights there as they pack them for --format; later starts map them and \
pack nothing. A copy serves as long as the model's files are as they were. MOEBIUS_CACHE_DIR moves the place.";

const SIM_NOTES: &str = "\
belady knows all that comes, and nobody misses less. A policy that misses more than twice as often is a failure of the \
policy; where even belady misses often, the working set does not fit. What is asked for the first time does not count in \
that. hot is given the counts of this very trace.";

/// List the packed models that --cache keeps, or remove them
#[derive(Args, Debug)]
#[command(after_help = NOTES, args_conflicts_with_subcommands = true)]
pub(crate) struct CacheListArgs {
    /// What to do; nothing lists.
    #[command(subcommand)]
    pub(crate) command: Option<CacheCommand>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// What to do with the cache.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List what is kept
    List {
        #[command(flatten)]
        json: JsonArg,
    },
    /// Remove what is kept: all of it, or what meets every condition
    Clear(ClearArgs),
    /// Print where it is kept
    Dir,
    /// Try caches of experts on a trace: what --memory with a policy would find in memory
    Sim(CacheSimArgs),
}

/// `moebius cache sim`.
#[derive(Args, Debug)]
#[command(after_help = SIM_NOTES)]
pub(crate) struct CacheSimArgs {
    /// A trace of tokens, as `moebius run --trace` writes it
    pub(crate) trace: PathBuf,
    /// Experts that have places, as numbers or as shares of all
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "10%,25%,50%,75%")]
    pub(crate) sizes: Vec<CachePlaces>,
    /// Policies to try
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "lru,lfu,lfru,layer,hot")]
    #[arg(value_parser = PossibleValuesParser::new(CachePolicy::NAMES))]
    pub(crate) policies: Vec<String>,
    /// Bytes of an expert, to tell what a token fetches
    #[arg(long, value_name = "N")]
    pub(crate) expert_bytes: Option<u64>,
    /// Draw the miss ratio of each policy by size, as an SVG file
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// `moebius cache clear`.
#[derive(Args, Debug)]
pub(crate) struct ClearArgs {
    /// Copies of this model only
    model: Option<PathBuf>,
    // A variable that chooses a format for running must not choose what is removed.
    /// Copies in this format only
    #[arg(long, value_name = "NAME", value_parser = held_formats())]
    format: Option<HeldFormats>,
    /// Copies only that do not serve any more
    #[arg(long)]
    outdated: bool,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

impl ClearArgs {
    /// The same, as the library wants it.
    pub(crate) fn filter(&self) -> CacheFilter {
        CacheFilter { model: self.model.clone(), format: self.format, outdated: self.outdated }
    }
}
