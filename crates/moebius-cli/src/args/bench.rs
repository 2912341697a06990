//! `moebius bench`.

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand, ValueEnum};
use moebius::bench::Plan;
use moebius::plan::Machine;
use moebius::{BackendOptions, HeldFormats, OpenOptions};

use super::model::{held_formats, saturate};
use super::values;
use super::{CacheArgs, ExpertsArg, LayerArgs, PlaceArgs, RoutingArgs, ShapeArgs, WattsArg};

const NOTES: &str = "\
Every combination of the lists is one row: pp512 reads a prompt of 512 tokens, tg128 generates 128 tokens, \
\"x b8\" does so in 8 sequences together (t/s counts all of them), \"@ d4096\" after 4096 tokens that are in the \
cache already. Token ids are random. A run of each test that does not count comes first. -b is for generation.

GB/s are weights read; \"of bw\" are weights and cache, as a share of what this machine reads per second; \"of peak\" \
are all operations, as a share of what it does per second in the arithmetic of the format. \
Batches are compared with N(1-(1-k/N)^B), the experts of a layer that B tokens choose by chance, and with the \
speed-up that reading those weights allows.

A shape is a published model's configuration with random weights that are made while loading: nothing is \
downloaded or written. The path of a config.json is a shape too.

Ctrl-C ends with the rows that are finished, a second one at once.";

/// Measure speed: prompts, generation, batches, depth
#[derive(Args, Debug)]
#[command(after_help = NOTES, args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    /// What to measure; nothing is a model.
    #[command(subcommand)]
    pub(crate) command: Option<BenchCommand>,
    /// Model: directory, owner/name, ollama:NAME; default: the bundled model
    #[arg(conflicts_with = "shape")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Lengths of prompts to read; 0 is none
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', default_value = "512", value_parser = values::tokens)]
    pub(crate) prompt_tokens: Vec<usize>,
    /// Tokens to generate; 0 is none
    #[arg(short = 'n', long, value_name = "LIST", value_delimiter = ',', default_value = "128", value_parser = values::tokens)]
    pub(crate) generate: Vec<usize>,
    /// Tokens that are in the cache before
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', default_value = "0", value_parser = values::tokens)]
    pub(crate) depth: Vec<usize>,
    /// Sequences that generate together
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', default_value = "1", value_parser = values::batch)]
    pub(crate) batch: Vec<usize>,
    /// CPU threads; default: all cores
    #[arg(
        short,
        long,
        env = "MOEBIUS_THREADS",
        hide_env_values = true,
        value_name = "LIST",
        value_delimiter = ','
    )]
    #[arg(value_parser = values::threads)]
    pub(crate) threads: Vec<u64>,
    /// Samples of each test
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = values::repetitions)]
    pub(crate) repetitions: usize,
    /// Time the parts of a step
    #[arg(long, value_parser = FalseyValueParser::new())]
    pub(crate) profile: bool,
    /// Seed of token ids and random weights
    #[arg(short, long, value_name = "N", default_value = "0", value_parser = values::seed)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) watts: WattsArg,
    #[command(flatten)]
    pub(crate) rows: RowsArgs,
    #[command(flatten)]
    pub(crate) experts: ExpertsArg,
    #[command(flatten)]
    pub(crate) routing: RoutingArgs,
    /// What weights are held in; default: as stored. Rounds while loading; q4_k_m is a mix of q4_k and q6_k
    #[arg(long, env = "MOEBIUS_FORMAT", hide_env_values = true, value_name = "LIST", value_delimiter = ',')]
    #[arg(value_parser = held_formats())]
    pub(crate) format: Vec<HeldFormats>,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    /// Most prompt tokens of one pass
    #[arg(long, env = "MOEBIUS_UBATCH_SIZE", hide_env_values = true, value_name = "N", value_parser = values::at_least_one)]
    pub(crate) ubatch_size: Option<u64>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Hardware to stand for, as `moebius run --profile` takes it: rows gain its modelled speed and energy
    #[arg(long, env = "MOEBIUS_PROFILE", hide_env_values = true, value_name = "NAME", value_parser = values::machine)]
    pub(crate) hardware: Option<Machine>,
}

/// What to measure other than a model.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure one layer of experts: sparse against its two dense twins
    Layer(LayerArgs),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Tables for people, in Markdown
    Md,
    /// A line for each row, below a line of names
    Csv,
    /// One JSON array of rows
    Json,
    /// A JSON object for each row
    Jsonl,
}

/// How rows are printed.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct RowsArgs {
    /// How to print the results
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    output: OutputFormat,
    /// Print one JSON array of rows, as -o json does
    #[arg(long, conflicts_with = "output", value_parser = FalseyValueParser::new())]
    json: bool,
}

impl RowsArgs {
    /// The same as one.
    pub(crate) fn format(self) -> OutputFormat {
        if self.json { OutputFormat::Json } else { self.output }
    }
}

impl BenchArgs {
    /// What to measure.
    pub(crate) fn plan(&self) -> Plan {
        Plan {
            prompt_tokens: self.prompt_tokens.clone(),
            generate: self.generate.clone(),
            depths: self.depth.clone(),
            batches: self.batch.clone(),
            repetitions: self.repetitions,
            profile: self.profile,
            seed: self.seed,
        }
    }

    /// How to open the model with a number of threads, `None` being all cores, and weights held in `format`.
    pub(crate) fn open_options(&self, threads: Option<usize>, format: HeldFormats) -> OpenOptions {
        OpenOptions {
            routing: self.routing.rules(),
            backend: BackendOptions { profile: self.hardware.clone(), ..self.place.options(threads) },
            experts: self.experts.experts,
            format,
            cache: self.cache.place(),
            chunk: self.ubatch_size.map(saturate),
            ..OpenOptions::default()
        }
    }
}
