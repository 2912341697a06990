//! `moebius run`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::FalseyValueParser;
use moebius::{OllamaSettings, SamplingParams};

use super::model::saturate;
use super::values::{self, Ids};
use super::{JsonArg, ModelArgs, TraceArg, WattsArg};

const NOTES: &str = "\
A single argument is the model if it is a directory or looks like a path or like owner/name; otherwise it is \
a prompt for the default model (the bundled one, or MOEBIUS_MODEL). --prompt and --model leave no doubt.

Without a prompt it is read from stdin if that is a pipe or a file, and on a terminal a chat begins. One line \
break at the end of stdin or FILE is dropped.

A model with a chat template gets the prompt as a message to answer; --raw continues it as plain text. A \
model without one always continues the text, and the text is shown before its continuation.

Ctrl-C stops the text, a second one quits.";

/// Continue a text, answer a prompt, or chat.
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub(crate) struct RunArgs {
    /// Model: directory, owner/name on the hub, ollama:NAME
    #[arg(value_name = "MODEL")]
    pub(crate) first: Option<String>,
    /// Text to continue or message to answer; - reads it from stdin
    #[arg(value_name = "PROMPT")]
    pub(crate) second: Option<String>,
    /// Model directory, so that a single argument is the prompt
    #[arg(short, long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// The prompt
    #[arg(short, long, value_name = "TEXT", conflicts_with_all = ["file", "ids"])]
    pub(crate) prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "ids")]
    pub(crate) file: Option<PathBuf>,
    /// Token ids in place of text, such as 5,6,7
    #[arg(long, value_name = "IDS")]
    pub(crate) ids: Option<Ids>,
    /// Message that sets the scene, for models with a chat template
    #[arg(long, env = "MOEBIUS_SYSTEM", hide_env_values = true, value_name = "TEXT", conflicts_with_all = ["raw", "ids"])]
    pub(crate) system: Option<String>,
    /// Continue the prompt as plain text even if the model has a chat template
    #[arg(long, env = "MOEBIUS_RAW", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) model_args: ModelArgs,
}

/// What is shown besides the text.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output options")]
pub(crate) struct ReportArgs {
    /// Show for each token which experts every layer chose; with -v all of them, with their weights
    #[arg(long, env = "MOEBIUS_ROUTE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) route: bool,
    #[command(flatten)]
    pub(crate) trace: TraceArg,
    /// End with speed, parameters used and work saved, on stderr [default: on a terminal]; =full adds every part and layer
    #[arg(long, env = "MOEBIUS_METER", hide_env_values = true, value_name = "BOOL|full", value_parser = values::meter)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) meter: Option<MeterMode>,
    /// Do not end with them
    #[arg(long, overrides_with = "meter")]
    pub(crate) no_meter: bool,
    /// Do not repeat the prompt before its continuation
    #[arg(long, env = "MOEBIUS_NO_DISPLAY_PROMPT", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) no_display_prompt: bool,
    #[command(flatten)]
    pub(crate) watts: WattsArg,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

impl ReportArgs {
    /// Whether the meter is shown, if that was said.
    pub(crate) fn meter(&self) -> Option<MeterMode> {
        if self.no_meter { Some(MeterMode::Off) } else { self.meter }
    }
}

/// How much the meter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MeterMode {
    /// Nothing
    Off,
    /// Speed and what was saved
    Short,
    /// That, and the work of every part and layer
    Full,
}

/// How tokens are chosen, and how many.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Sampling options")]
pub(crate) struct SamplingArgs {
    /// Most tokens to generate; default: -1, up to the end of the context
    #[arg(
        short,
        long,
        env = "MOEBIUS_N_PREDICT",
        hide_env_values = true,
        value_name = "N",
        allow_negative_numbers = true
    )]
    #[arg(value_parser = values::n_predict)]
    pub(crate) n_predict: Option<i64>,
    /// Temperature, from 0 (always the most likely token); default: the model's own, else 0.8
    #[arg(long, env = "MOEBIUS_TEMP", hide_env_values = true, value_name = "T", value_parser = values::temperature)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) temp: Option<f32>,
    /// Sample from the N most likely tokens; 0 is all of them
    #[arg(long, env = "MOEBIUS_TOP_K", hide_env_values = true, value_name = "N", value_parser = values::count)]
    pub(crate) top_k: Option<usize>,
    /// Sample from the most likely tokens that together have this probability, 0 to 1
    #[arg(long, env = "MOEBIUS_TOP_P", hide_env_values = true, value_name = "P", value_parser = values::share)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Leave out tokens less likely than P times the most likely one, 0 to 1
    #[arg(long, env = "MOEBIUS_MIN_P", hide_env_values = true, value_name = "P", value_parser = values::share)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Make tokens seen lately less likely if above 1
    #[arg(long, env = "MOEBIUS_REPEAT_PENALTY", hide_env_values = true, value_name = "X", value_parser = values::penalty)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) repeat_penalty: Option<f32>,
    /// How far the penalty looks back; 0 switches it off
    #[arg(long, env = "MOEBIUS_REPEAT_LAST_N", hide_env_values = true, value_name = "N", value_parser = values::count)]
    pub(crate) repeat_last_n: Option<usize>,
    /// Seed of the random choices; default: a new one each time, which -v and --json tell
    #[arg(short, long, env = "MOEBIUS_SEED", hide_env_values = true, value_name = "N", value_parser = values::seed)]
    pub(crate) seed: Option<u64>,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = values::stop_string)]
    pub(crate) stop: Vec<String>,
    /// Go on past the end-of-text token
    #[arg(long, env = "MOEBIUS_IGNORE_EOS", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub(crate) ignore_eos: bool,
}

impl SamplingArgs {
    /// Most tokens to generate; `None` is up to the end of the context.
    pub(crate) fn max_tokens(&self) -> Option<usize> {
        self.n_predict.and_then(|n| u64::try_from(n).ok()).map(saturate)
    }

    /// The same, with what is said of a model in Ollama's store where no flag says otherwise.
    pub(crate) fn or(self, own: &OllamaSettings) -> Self {
        SamplingArgs {
            n_predict: self.n_predict.or(own.max_tokens.and_then(|n| n.try_into().ok())),
            temp: self.temp.or(own.temperature),
            top_k: self.top_k.or(own.top_k),
            top_p: self.top_p.or(own.top_p),
            min_p: self.min_p.or(own.min_p),
            repeat_penalty: self.repeat_penalty.or(own.repeat_penalty),
            repeat_last_n: self.repeat_last_n.or(own.repeat_last_n),
            seed: self.seed.or(own.seed),
            stop: if self.stop.is_empty() { own.stop.clone() } else { self.stop },
            ignore_eos: self.ignore_eos,
        }
    }

    /// The model's own parameters where no flag says otherwise.
    pub(crate) fn apply(&self, own: SamplingParams, seed: u64) -> SamplingParams {
        SamplingParams {
            temperature: self.temp.unwrap_or(own.temperature),
            top_k: self.top_k.or(own.top_k),
            top_p: self.top_p.unwrap_or(own.top_p),
            min_p: self.min_p.unwrap_or(own.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(own.repeat_penalty),
            repeat_last_n: self.repeat_last_n.unwrap_or(own.repeat_last_n),
            seed,
        }
    }
}
