//! `moebius sweep`.

use std::path::PathBuf;

use clap::Args;
use moebius::{HeldFormats, OpenOptions};

use super::model::{held_formats, saturate};
use super::{CacheArgs, JsonArg, PlaceArgs, RulesArgs, WattsArg, values};

const NOTES: &str = "\
Every combination of the lists is one row. The reference of KL divergence and agreement is the model as published: \
its own number of experts, no threshold, no mask, weights as stored. Lists that are not given stand for the model's \
own value. KL is the mean over all scored positions of KL(reference || row) of the next token, in nats; \"agree\" is \
the share of positions where both find the same token most likely. Perplexity is that of `moebius score`.

--threshold T drops of the chosen experts those that weigh less than T times the token's heaviest; the family's own \
rule of renormalisation then runs over the rest, as if they alone had been chosen. \"experts\" says how many are left \
on average.

t/s are tokens generated one by one, GB/token what they read of weights and cache, \"prompt t/s\" those of the scored \
texts. J/token is that of generated tokens by the machine's counters, idling subtracted; without counters, --watts W \
gives an estimate, marked as such.

The logits of the reference lie in a temporary file while the sweep runs: four bytes for each token of the texts and \
of the vocabulary. The model is loaded anew for each row; --cache makes that quick.";

/// Measure quality against compute.
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub(crate) struct SweepArgs {
    /// Model: directory, owner/name, ollama:NAME; default: the bundled model
    pub(crate) model: Option<String>,
    /// Text files to score, cut into pieces that fit the context; may be repeated
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) text: Vec<PathBuf>,
    /// Experts per token
    #[arg(long, visible_alias = "n-expert-used", value_name = "LIST", value_delimiter = ',', value_parser = values::count)]
    pub(crate) experts: Vec<usize>,
    /// Least weight of an expert as a share of the token's heaviest, 0 to 1
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = values::share)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) threshold: Vec<f32>,
    #[command(flatten)]
    pub(crate) rules: RulesArgs,
    /// What weights are held in
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = held_formats())]
    pub(crate) format: Vec<HeldFormats>,
    /// Tokens to generate for each sample of speed; 0 measures none
    #[arg(short = 'n', long, value_name = "N", default_value = "64", value_parser = values::tokens)]
    pub(crate) generate: usize,
    /// Samples of speed, after one that does not count
    #[arg(short, long, value_name = "N", default_value = "3", value_parser = values::repetitions)]
    pub(crate) repetitions: usize,
    #[command(flatten)]
    pub(crate) watts: WattsArg,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    /// Most tokens of a sequence; default: the model's own context
    #[arg(short, long, env = "MOEBIUS_CTX_SIZE", hide_env_values = true, value_name = "N", value_parser = values::at_least_one)]
    pub(crate) ctx_size: Option<u64>,
    /// CPU threads; default: all cores
    #[arg(short, long, env = "MOEBIUS_THREADS", hide_env_values = true, value_name = "N", value_parser = values::threads)]
    pub(crate) threads: Option<u64>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Write the curve of quality against compute to this SVG file
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Write the rows to this CSV file
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

impl SweepArgs {
    /// How the model is opened where no list says otherwise.
    pub(crate) fn open_options(&self) -> OpenOptions {
        OpenOptions {
            backend: self.place.options(self.threads.map(saturate)),
            cache: self.cache.place(),
            context: self.ctx_size.map(saturate),
            ..OpenOptions::default()
        }
    }
}
