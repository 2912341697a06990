//! `moebius explain`.

use clap::Args;

use super::values::{self, Ids};
use super::{JsonArg, ModelArgs};

/// Walk one real token through a router and its experts, number by number
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// The text; default: "Once upon a time"
    #[arg(conflicts_with = "ids")]
    pub(crate) prompt: Option<String>,
    /// Model: directory, owner/name, ollama:NAME; default: the bundled model
    #[arg(short, long, value_name = "DIR")]
    pub(crate) model: Option<String>,
    /// Token ids in place of a text, such as 1,2,3
    #[arg(long, value_name = "IDS")]
    pub(crate) ids: Option<Ids>,
    /// Which token of the prompt, from 0; default: the last
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(crate) token: Option<usize>,
    /// Which decoder layer, from 0; default: the first with a router
    #[arg(long, value_name = "L", value_parser = values::count)]
    pub(crate) layer: Option<usize>,
    #[command(flatten)]
    pub(crate) model_args: ModelArgs,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}
