//! `--trace`, and `moebius trace`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use moebius::balance::{Spread, Synthetic};
use moebius::plan::Machine;
use moebius::trace::TraceMode;

use super::{JsonArg, values};

/// Whether a trace is written, and what of.
#[derive(Args, Clone, Debug)]
pub(crate) struct TraceArg {
    /// Write what every router chooses to this file, for `moebius trace`; replaces a trace, and nothing else
    #[arg(long, env = "MOEBIUS_TRACE", hide_env_values = true, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// What of: tokens with their ids, or counts of experts alone, from which no text can be told
    #[arg(
        long,
        env = "MOEBIUS_TRACE_MODE",
        hide_env_values = true,
        value_name = "MODE",
        default_value = "tokens"
    )]
    #[arg(value_parser = trace_mode(), requires = "trace")]
    pub(crate) trace_mode: TraceMode,
}

fn trace_mode() -> impl TypedValueParser<Value = TraceMode> {
    PossibleValuesParser::new(TraceMode::NAMES).try_map(|name| name.parse::<TraceMode>())
}

/// Show, compare, export or import traces.
#[derive(Args, Debug)]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    pub(crate) command: TraceCommand,
}

/// What to do with a trace.
#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Draw the load of all experts, what goes together, and the routes of tokens; two files are compared
    Show(ShowTraceArgs),
    /// The figures by layer: evenness, reuse, pairs; several files are compared
    Stats(StatsArgs),
    /// Spread the experts over devices: who gets how many tokens, who waits, what crosses the links
    Devices(Box<DevicesArgs>),
    /// Write a trace as CSV or as lines of JSON
    Export(ExportArgs),
    /// Draw a trace as SVG: the load of all experts, the pairs of a layer, or two traces against each other
    Plot(PlotArgs),
    /// Make a trace of the routed experts that SGLang or vLLM returned
    Import(ImportArgs),
}

/// `moebius trace show`.
#[derive(Args, Debug)]
pub(crate) struct ShowTraceArgs {
    /// Traces; several are compared
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Draw the pairs of experts of this decoder layer
    #[arg(long, value_name = "N")]
    pub(crate) layer: Option<usize>,
    /// Tokens whose routes are shown
    #[arg(short = 'n', long, value_name = "N", default_value = "16", value_parser = values::count)]
    pub(crate) tokens: usize,
    /// First of these tokens
    #[arg(long, value_name = "N", default_value = "0", value_parser = values::count)]
    pub(crate) skip: usize,
    /// Model directory for the text of tokens; default: the bundled model, if it made the trace
    #[arg(short, long, value_name = "DIR")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// `moebius trace stats`.
#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    /// Traces; several are compared
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// `moebius trace devices`.
#[derive(Args, Debug)]
#[command(after_help = DEVICES_NOTES)]
pub(crate) struct DevicesArgs {
    /// The trace, of tokens
    #[arg(value_name = "FILE", conflicts_with = "synthetic")]
    pub(crate) file: Option<PathBuf>,
    /// Random tokens in place of a trace: the same logits through three routers
    #[arg(long)]
    pub(crate) synthetic: bool,
    /// Devices, each with a run of neighbouring experts [default: those of --profile, else 8]
    #[arg(long, value_name = "N", value_parser = values::batch)]
    pub(crate) devices: Option<usize>,
    /// Hardware whose number of devices and capacity are taken
    #[arg(long, visible_alias = "hardware", value_name = "NAME", value_parser = values::machine)]
    pub(crate) profile: Option<Machine>,
    /// Tokens that are routed together
    #[arg(short, long, value_name = "N", default_value = "64", value_parser = values::batch)]
    pub(crate) batch: usize,
    /// Room of a device, as a multiple of an even share [default: that of --profile, else 1.25]
    #[arg(long, value_name = "X", value_parser = values::positive)]
    pub(crate) capacity_factor: Option<f64>,
    /// Width of the residual stream, for bytes
    #[arg(long, value_name = "N", value_parser = values::some_tokens)]
    pub(crate) hidden: Option<usize>,
    /// Model directory or config.json that says it
    #[arg(short, long, value_name = "DIR")]
    pub(crate) model: Option<String>,
    /// Experts of the random layer
    #[arg(long, value_name = "N", default_value = "64", value_parser = values::some_tokens)]
    pub(crate) n_experts: usize,
    /// Experts of a random token
    #[arg(short, long, value_name = "N", default_value = "8", value_parser = values::some_tokens)]
    pub(crate) k: usize,
    /// Random tokens
    #[arg(short = 'n', long, value_name = "N", default_value = "4096", value_parser = values::batch)]
    pub(crate) tokens: usize,
    /// Seed of the random tokens
    #[arg(short, long, value_name = "N", default_value = "0", value_parser = values::seed)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

impl DevicesArgs {
    /// How experts are spread.
    pub(crate) fn spread(&self) -> Spread {
        let rules = self.profile.as_ref().map(|machine| &machine.device.rules);
        let several = self.profile.as_ref().map(|machine| machine.dies() as usize).filter(|&dies| dies > 1);
        let published = rules.and_then(|rules| rules.expert_devices);
        Spread {
            devices: self.devices.or(several).or(published).unwrap_or(DEVICES),
            batch: self.batch,
            capacity_factor: self
                .capacity_factor
                .or(rules.and_then(|rules| rules.capacity_factor))
                .or(Some(CAPACITY_FACTOR)),
        }
    }

    /// The random layer.
    pub(crate) fn task(&self) -> Synthetic {
        let (n_experts, top_k) = (self.n_experts.min(MOST_EXPERTS), self.k);
        Synthetic { n_experts, top_k, tokens: self.tokens, seed: self.seed }
    }
}

/// Where neither a flag nor a profile says it.
const DEVICES: usize = 8;
const CAPACITY_FACTOR: f64 = 1.25;

/// More than any layer has, so that random logits fit memory.
const MOST_EXPERTS: usize = 4096;

const DEVICES_NOTES: &str = "\
Batches are runs of tokens in the order of the trace; a batch ends when its busiest device is done, so its straggler \
factor is what uneven routing costs. Tokens of a batch lie evenly on the devices before they are sent, and a token is sent \
once to each device that has an expert of it. Pairs without room would be dropped or sent elsewhere; nothing is dropped \
here. Grouped routing (MoGE, arXiv 2505.21411) of a trace follows from its rule, with --synthetic it is executed.";

/// `moebius trace export`.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// The trace
    pub(crate) file: PathBuf,
    /// A row for each token, layer and expert (this is the default)
    #[arg(long)]
    pub(crate) csv: bool,
    /// A line of JSON for each token
    #[arg(long, conflicts_with = "csv")]
    pub(crate) jsonl: bool,
    /// File to write; default: stdout
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print one JSON object that says what was written to the file
    #[arg(long, requires = "output")]
    pub(crate) json: bool,
}

/// `moebius trace plot`.
#[derive(Args, Debug)]
pub(crate) struct PlotArgs {
    /// The trace; a second one is compared with it
    #[arg(required = true, num_args = 1..=2, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// SVG file to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// What to draw
    #[arg(long, value_name = "WHAT", default_value = "load")]
    pub(crate) what: PlotWhat,
    /// The decoder layer whose pairs are drawn; default: the first with a router
    #[arg(long, value_name = "N")]
    pub(crate) layer: Option<usize>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// What a plot shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlotWhat {
    /// Each layer's load of each expert, of two files their ratio
    Load,
    /// How much more often than by chance two experts of a layer are chosen together
    Pairs,
}

/// `moebius trace import`.
#[derive(Args, Debug)]
#[command(after_help = IMPORT_NOTES)]
pub(crate) struct ImportArgs {
    /// Response as JSON (one, a list, or one a line), nested lists, or a NumPy file
    pub(crate) input: PathBuf,
    /// The trace to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Model directory or config.json, which says how many layers and experts there are
    #[arg(short, long, value_name = "DIR")]
    pub(crate) model: Option<String>,
    /// Experts of a layer, without a model
    #[arg(long, value_name = "N", value_parser = values::at_least_one)]
    pub(crate) n_experts: Option<u64>,
    /// Layers of the returned array, where it comes without its shape
    #[arg(long, value_name = "N", value_parser = values::layers)]
    pub(crate) layers: Option<usize>,
    /// Experts of a token, where the returned array comes without its shape
    #[arg(long, value_name = "N", value_parser = values::at_least_one)]
    pub(crate) k: Option<u64>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

const IMPORT_NOTES: &str = "\
SGLang: meta_info.routed_experts or sglext.routed_experts, base64 of int32 [tokens, layers, k]; give --model, or \
--layers, --k and --n-experts. vLLM: choices[].routed_experts behind prompt_routed_experts, nested lists or base64 \
of a NumPy file; give --model or --n-experts. A choice is a sequence. The trace has no weights.";
