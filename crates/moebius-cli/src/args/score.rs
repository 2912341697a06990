//! `moebius score`.

use std::path::PathBuf;

use clap::Args;

use super::values::Ids;
use super::{JsonArg, ModelArgs, TraceArg};

const NOTES: &str = "\
The first path is the model if it is a directory or a .json file; otherwise it is a text, and the default model \
(the bundled one, or MOEBIUS_MODEL) scores it. With --ids it is always the model.

--routing adds two tables. The first says for each layer how evenly its experts were used, and how much the \
expert tells about the input (mutual information, each input weighted alike, at most the logarithm of their \
number). The second names the experts that an input prefers: x3.4 is 3.4 times the mean over the inputs.";

/// Log-probability and perplexity of texts or token ids.
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub(crate) struct ScoreArgs {
    /// Model directory or owner/name, or a text file for the default model
    #[arg(value_name = "MODEL")]
    pub(crate) first: Option<PathBuf>,
    /// Text files to score, cut into pieces that fit the context; - is stdin
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// One more text file to score; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Vec<PathBuf>,
    /// Token ids to score, such as 1,2,3; may be repeated
    #[arg(long, value_name = "IDS", conflicts_with_all = ["text", "files"])]
    pub(crate) ids: Vec<Ids>,
    /// Show how evenly the experts were used, and which inputs they prefer
    #[arg(long)]
    pub(crate) routing: bool,
    /// Write logits, hidden states and routing of every position to this safetensors file
    #[arg(long, value_name = "FILE")]
    pub(crate) dump: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trace: TraceArg,
    #[command(flatten)]
    pub(crate) model_args: ModelArgs,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}
