//! `moebius convert`.

use std::path::PathBuf;

use clap::Args;

use super::{FormatArg, JsonArg, values};

const NOTES: &str = "\
The new directory runs as the old one does with the same --format, bit for bit, and starts at once: its weights are \
mapped, not copied. It serves any little-endian machine. The source stays as it is, and a second format needs the source. \
To keep the packed weights without a directory of their own, give --cache to `moebius run`.

Where OUT ends in .gguf, it is one GGUF file with vocabulary and chat template, for llama.cpp and other programs. Its \
weights are rounded as above.

With --unpacked the directory is a checkpoint as the hub has them, for transformers and other programs: config.json, \
safetensors files of at most 5 GB with their index, and what concerns text. Scaled weights and blocks are multiplied out.

Examples:
  moebius convert ./OLMoE-1B-7B ./OLMoE-q4 --format q4_k_m
  moebius run ./OLMoE-q4 \"Hello\"
  moebius convert ./OLMoE-1B-7B --format q4_k_m -o olmoe.gguf
  moebius convert olmoe.gguf --unpacked --format bf16 -o ./OLMoE-bf16";

/// Write a model with its weights rounded and packed, to start at once; or as a GGUF file; or as a plain checkpoint.
#[derive(Args, Debug)]
#[command(after_help = NOTES, override_usage = "moebius convert [OPTIONS] [MODEL] <OUT>\n       moebius convert [OPTIONS] [MODEL] -o <OUT>")]
pub(crate) struct ConvertArgs {
    /// MODEL: directory, GGUF file, owner/name, ollama:NAME; default: the bundled model. OUT: the directory or .gguf file
    /// to write, which must not exist
    #[arg(num_args = 0..=2, value_names = ["MODEL", "OUT"])]
    pub(crate) paths: Vec<String>,
    /// The directory or .gguf file to write, which must not exist
    #[arg(short, long = "output", value_name = "OUT")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
    /// Write a checkpoint for other programs, in bf16, f16 or f32 as --format says
    #[arg(long)]
    pub(crate) unpacked: bool,
    /// CPU threads; default: all cores
    #[arg(short, long, env = "MOEBIUS_THREADS", hide_env_values = true, value_name = "N", value_parser = values::threads)]
    pub(crate) threads: Option<u64>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

impl ConvertArgs {
    /// The model, if one is named, and where it goes; or what is wrong.
    pub(crate) fn places(&self) -> Result<(Option<&str>, PathBuf), String> {
        match (self.paths.as_slice(), &self.out) {
            ([], Some(out)) => Ok((None, out.clone())),
            ([model], Some(out)) => Ok((Some(model), out.clone())),
            ([out], None) => Ok((None, out.into())),
            ([model, out], None) => Ok((Some(model), out.into())),
            ([], None) => Err("expected OUT, the directory or .gguf file to write".into()),
            (_, Some(_)) => Err("expected one OUT, got two".into()),
            _ => Err("expected MODEL and OUT".into()),
        }
    }
}
