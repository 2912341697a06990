//! `moebius twin`.

use clap::Args;
use moebius::OpenOptions;

use super::model::saturate;
use super::{BackendArgs, ExpertsArg, FormatArg, RowsArgs, ShapeArgs, WattsArg, values};

const NOTES: &str = "\
The same prompt and the same continuation go through the model in three forms. sparse runs the experts that the router \
chose. iso-total runs all of them by the same kernels, those that were not chosen with weight zero: the same output, which \
max |diff| of the logits proves. iso-active has in their place a dense layer as wide as k experts, made of the first k: \
other outputs, and the work of a dense model of the active size. A dense model has no router, so the routers' operations \
and time are left out of the numbers of iso-active.

Forms take turns, sample by sample; times are medians with half the distance of the quartiles, ratios are those of \
samples side by side. Sequences of a batch begin one token later in the text than the last one.";

/// Run a model beside its dense twins, and say what sparsity saves and where it loses
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub(crate) struct TwinArgs {
    /// Model: directory, owner/name, ollama:NAME; default: the bundled model
    #[arg(conflicts_with = "shape")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// The prompt; a shape without a tokenizer reads 16 random tokens
    #[arg(short, long, value_name = "TEXT", conflicts_with = "shape")]
    pub(crate) prompt: Option<String>,
    /// Tokens to generate, in every sequence
    #[arg(short = 'n', long, value_name = "N", default_value = "32", value_parser = values::some_tokens)]
    pub(crate) generate: usize,
    /// Sequences that generate together
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', default_value = "1,2,4,8,16,32", value_parser = values::batch)]
    pub(crate) batch: Vec<usize>,
    /// Samples of each form
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = values::repetitions)]
    pub(crate) repetitions: usize,
    #[command(flatten)]
    pub(crate) experts: ExpertsArg,
    #[command(flatten)]
    pub(crate) format: FormatArg,
    /// CPU threads; default: all cores
    #[arg(short, long, env = "MOEBIUS_THREADS", hide_env_values = true, value_name = "N", value_parser = values::threads)]
    pub(crate) threads: Option<u64>,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    #[command(flatten)]
    pub(crate) watts: WattsArg,
    #[command(flatten)]
    pub(crate) rows: RowsArgs,
}

impl TwinArgs {
    /// How to open the model.
    pub(crate) fn open_options(&self) -> OpenOptions {
        OpenOptions {
            backend: self.backend.options(self.threads.map(saturate)),
            experts: self.experts.experts,
            format: self.format.held(),
            ..OpenOptions::default()
        }
    }

    /// Numbers of sequences, ascending, each once.
    pub(crate) fn batches(&self) -> Vec<usize> {
        let mut batches = self.batch.clone();
        batches.sort_unstable();
        batches.dedup();
        batches
    }
}
