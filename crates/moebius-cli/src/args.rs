//! The command line: what can be said, and which variables of the environment say the same.
//!
//! Invariants: flags validate and do not act; every flag that a person may want to keep has a `MOEBIUS_*`
//! variable, over which the flag wins.

mod backend;
mod bench;
mod cache;
mod compare;
mod convert;
mod explain;
mod hub;
mod layer;
mod memory;
mod model;
mod plan;
mod run;
mod score;
mod sweep;
mod trace;
mod twin;
mod values;

use std::ffi::OsString;

use clap::builder::FalseyValueParser;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use backend::BackendArgs;
pub(crate) use bench::{BenchArgs, BenchCommand, OutputFormat, RowsArgs};
pub(crate) use cache::{CacheCommand, CacheListArgs, CacheSimArgs, ClearArgs};
pub(crate) use compare::{BackendName, CompareArgs};
pub(crate) use convert::ConvertArgs;
pub(crate) use explain::ExplainArgs;
pub(crate) use hub::{ListModelsArgs, PullArgs, RmArgs};
pub(crate) use layer::LayerArgs;
pub(crate) use memory::PlaceArgs;
pub(crate) use model::{
    CacheArgs, ExpertsArg, FormatArg, ModelArgs, RoutingArgs, RulesArgs, ShapeArgs, saturate,
};
pub(crate) use plan::{PlanArgs, TableFormat};
pub(crate) use run::{MeterMode, RunArgs, SamplingArgs};
pub(crate) use score::ScoreArgs;
pub(crate) use sweep::SweepArgs;
pub(crate) use trace::{
    DevicesArgs, ExportArgs, ImportArgs, PlotArgs, PlotWhat, ShowTraceArgs, StatsArgs, TraceArg, TraceArgs,
    TraceCommand,
};
pub(crate) use twin::TwinArgs;

use crate::version;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  moebius                                    tell a story with the bundled model
  moebius \"The little robot\"                 continue a text with it
  moebius run ./OLMoE-1B-7B \"Hello\" --route  show which experts each layer chooses
  moebius run allenai/OLMoE-1B-7B-0924-Instruct \"Hello\"
                                             a model from the hub, downloaded the first time
  moebius run ollama:olmoe \"Hello\"           a model from Ollama's store, read in place
  moebius show ./OLMoE-1B-7B                 what a model is, from config.json alone if need be
  moebius score ./OLMoE-1B-7B a.txt b.txt    perplexity of texts, --routing compares them
  moebius run ./OLMoE-1B-7B --format q4_k_m  hold it in about 4 bits a weight
  moebius run ./OLMoE-1B-7B --format q4_k_m --cache
                                             and keep it so, to start at once the next time
  moebius convert ./OLMoE-1B-7B ./small --format q4_k_m
                                             write it so that it starts at once
  moebius bench --shape olmoe-1b-7b          speed of a shape with random weights, nothing to download
  moebius twin                               the bundled model beside a dense one, executed
  moebius bench layer                        one layer: sparse against dense, by k and by batch
  moebius run --trace a.trace \"Hello\"        write down what every router chooses; moebius trace show a.trace
  moebius sweep --text a.txt --experts 1,2,4 what fewer experts per token cost and save
  moebius explain \"Once upon a time\"         one token through gate, softmax, top-k, experts
  moebius plan qwen3-30b-a3b --format q4_k_m --hardware rtx-4090,m4-pro,ddr5-5600
                                             what it would need and how fast it would be there
  moebius compare --backends cpu,constrained:8xascend-910b-64g
                                             the same bits here, and the time that such hardware would take
  moebius doctor                             what this machine can do
  moebius doctor router ./OLMoE-1B-7B        which router formula a model needs, and what contradicts it

Exit codes: 0 done, 1 failed while running, 2 wrong usage, 3 model not found, 4 invalid model,
5 not enough memory, 130 interrupted.";

/// Runs Mixture-of-Experts models, shows their routing and measures what sparsity saves.
///
/// Without arguments it tells a story with the bundled model.
#[derive(Debug, Parser)]
#[command(name = "moebius", version, long_version = version::long(), styles = STYLES)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// What to do; nothing is a story.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What every command is told: what goes to the terminal besides results, and whether the network may be asked.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct OutputArgs {
    /// Print results and errors only
    #[arg(short, long, global = true, env = "MOEBIUS_QUIET", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) quiet: bool,
    /// Say more on stderr: model, kernels, sampling, seed
    #[arg(short, long, global = true, env = "MOEBIUS_VERBOSE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) verbose: bool,
    /// Show no progress bar
    #[arg(long, global = true, env = "MOEBIUS_NO_PROGRESS", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) no_progress: bool,
    /// When to use colours; NO_COLOR and CLICOLOR_FORCE are honoured too
    #[arg(
        long,
        global = true,
        env = "MOEBIUS_COLOR",
        hide_env_values = true,
        value_name = "WHEN",
        default_value = "auto"
    )]
    pub(crate) color: Color,
    /// Ask no hub: what is not in the cache is an error; HF_HUB_OFFLINE=1 does the same
    #[arg(long, global = true, env = "MOEBIUS_OFFLINE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) offline: bool,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal that shows them
    Auto,
    /// Even into files and pipes
    Always,
    /// Not at all
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a text, answer a prompt, or chat
    Run(Box<RunArgs>),
    /// Say what a model is: layers, router, experts, parameters, bytes
    Show(ShowArgs),
    /// Log-probability and perplexity of texts or token ids
    Score(ScoreArgs),
    /// Show, compare, export or import traces: what the routers of a model chose, token by token
    Trace(TraceArgs),
    /// Measure quality against compute: perplexity and speed by experts per token and by weight format
    Sweep(Box<SweepArgs>),
    /// Download a model from the hub, or check and complete what is there
    Pull(PullArgs),
    /// List the models from the hub that are here, or Ollama's
    #[command(visible_alias = "ls")]
    List(ListModelsArgs),
    /// Remove a model from the cache of the hub
    Rm(RmArgs),
    /// Write a model with its weights rounded and packed, to start at once
    Convert(ConvertArgs),
    /// List the packed models that --cache keeps, or remove them
    Cache(CacheListArgs),
    /// Measure speed: prompts, generation, batches, depth
    Bench(Box<BenchArgs>),
    /// Run a model beside its dense twins, and say what sparsity saves and where it loses
    Twin(Box<TwinArgs>),
    /// Run one prompt on several backends: equal bits, speed, memory, and what declared hardware would take
    Compare(Box<CompareArgs>),
    /// Walk one real token through a router and its experts, number by number
    Explain(ExplainArgs),
    /// Memory, speed and cost of a model on machines that are not here
    Plan(Box<PlanArgs>),
    /// List the model families that can be run, and published models with their sizes
    Families(FamiliesArgs),
    /// Look at this machine: processor, kernels, memory, default model
    Doctor(DoctorArgs),
    /// List the environment variables that are read
    Knobs(ListArgs),
    /// Print a completion script for a shell
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// `moebius show`.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Model directory, config.json, owner/name on the hub, or ollama:NAME; default: the bundled model
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) experts: ExpertsArg,
    #[command(flatten)]
    pub(crate) format: FormatArg,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// Look at this machine: processor, kernels, memory, default model
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DoctorArgs {
    /// What to look at; nothing is this machine.
    #[command(subcommand)]
    pub(crate) command: Option<DoctorCommand>,
    /// CPU threads; default: all cores
    #[arg(short, long, env = "MOEBIUS_THREADS", hide_env_values = true, value_name = "N", value_parser = values::threads)]
    pub(crate) threads: Option<u64>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// What to list of the families.
#[derive(Debug, Args)]
pub(crate) struct FamiliesArgs {
    /// This one alone, by its model_type
    pub(crate) family: Option<String>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// What to look at.
#[derive(Debug, Subcommand)]
pub(crate) enum DoctorCommand {
    /// Name the router formula that a model needs, and where its config and weights disagree
    Router(DoctorRouterArgs),
}

/// `moebius doctor router`.
#[derive(Args, Debug)]
pub(crate) struct DoctorRouterArgs {
    /// Model directory, config.json, owner/name on the hub, or ollama:NAME; default: the bundled model
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// Commands that only list something.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// The power that energy is estimated from.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WattsArg {
    /// Where no energy counter can be read, estimate energy from this power in watts
    #[arg(long, env = "MOEBIUS_WATTS", hide_env_values = true, value_name = "W", value_parser = values::watts)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) watts: Option<f64>,
}

/// Results for programs.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct JsonArg {
    /// Print one JSON object instead of text
    #[arg(long, env = "MOEBIUS_JSON", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,
}

/// Turns `moebius "Some words" ...` into `moebius run --prompt="Some words" ...`: no command has a name with
/// white space in it.
pub(crate) fn with_prompt_as_run(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    if let Some(first) = args.get(1) {
        let text = first.to_string_lossy();
        if text.contains(char::is_whitespace) && !text.starts_with('-') {
            let mut prompt = OsString::from("--prompt=");
            prompt.push(first);
            args.splice(1..2, ["run".into(), prompt]);
        }
    }
    args
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_a_first_argument_with_white_space_is_a_prompt() {
        let check = |args: &[&str], expected: &[&str]| {
            let got = with_prompt_as_run(args.iter().map(OsString::from));
            assert_eq!(got, expected.iter().map(OsString::from).collect::<Vec<_>>());
        };
        check(&["moebius"], &["moebius"]);
        check(&["moebius", "A dog", "-n", "3"], &["moebius", "run", "--prompt=A dog", "-n", "3"]);
        check(&["moebius", "show", "a b"], &["moebius", "show", "a b"]);
        check(&["moebius", "--a b"], &["moebius", "--a b"]);
    }
}
