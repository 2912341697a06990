//! Flags of the commands about models from the hub.

use clap::Args;

use super::JsonArg;

const PULL_NOTES: &str = "\
What is needed comes and nothing else: configuration, tokenizer and templates, and the safetensors that the index names, \
or one GGUF file. It lies in the cache that Hugging Face's programs share, checked against the hub's checksums. A \
download that was cut short goes on where it ended. HF_TOKEN or the token file opens gated and private models.

Examples:
  moebius pull allenai/OLMoE-1B-7B-0924-Instruct
  moebius pull bartowski/OLMoE-1B-7B-0924-Instruct-GGUF:q4_k_m
  moebius pull owner/name@refs/pr/1";

/// Download a model from the hub, or check and complete what is there
#[derive(Args, Debug)]
#[command(after_help = PULL_NOTES)]
pub(crate) struct PullArgs {
    /// owner/name, owner/name@revision, owner/name:quant
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// List the models from the hub that are in the cache
#[derive(Args, Debug)]
pub(crate) struct ListModelsArgs {
    /// List Ollama's models instead
    #[arg(long)]
    pub(crate) ollama: bool,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// Remove a model from the cache of the hub
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// owner/name removes all of it; @revision and :quant remove what nothing else needs
    pub(crate) name: String,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}
