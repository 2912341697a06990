//! `moebius convert`.

use std::path::PathBuf;

use clap::Args;

use super::{FormatArg, JsonArg, values};

const NOTES: &str = "\
The new directory runs as the old one does with the same --format, bit for bit, and starts at once: its weights are \
mapped, not copied. It serves any little-endian machine. The source stays as it is, and a second format needs the source. \
To keep the packed weights without a directory of their own, give --cache to `moebius run`.

Examples:
  moebius convert ./OLMoE-1B-7B ./OLMoE-q4 --format q4_k_m
  moebius run ./OLMoE-q4 \"Hello\"";

/// Write a model with its weights rounded and packed, to start at once.
#[derive(Args, Debug)]
#[command(after_help = NOTES, allow_missing_positional = true)]
pub(crate) struct ConvertArgs {
    /// Model: directory, owner/name, ollama:NAME; default: the bundled model
    pub(crate) model: Option<String>,
    /// Directory to write, which must not exist
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) format: FormatArg,
    /// CPU threads; default: all cores
    #[arg(short, long, env = "MOEBIUS_THREADS", hide_env_values = true, value_name = "N", value_parser = values::threads)]
    pub(crate) threads: Option<u64>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}
