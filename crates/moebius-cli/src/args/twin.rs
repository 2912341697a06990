//! `moebius twin`.

use clap::Args;
use clap::builder::{FalseyValueParser, PossibleValuesParser};
use moebius::{BACKENDS, BackendOptions, OpenOptions};

use super::model::saturate;
use super::{ExpertsArg, FormatArg, OutputFormat, WattsArg, values};

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
    /// Model directory; default: the bundled model
    #[arg(conflicts_with = "shape")]
    pub(crate) model: Option<String>,
    /// Random weights in this shape: one that `moebius families` lists, or the path of a config.json
    #[arg(long, value_name = "NAME")]
    pub(crate) shape: Option<String>,
    /// Decoder layers of the shape in place of its own number
    #[arg(long, value_name = "N", requires = "shape", value_parser = values::layers)]
    pub(crate) layers: Option<usize>,
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
    /// Where the model runs
    #[arg(long, env = "MOEBIUS_BACKEND", hide_env_values = true, value_name = "NAME")]
    #[arg(value_parser = PossibleValuesParser::new(BACKENDS))]
    pub(crate) backend: Option<String>,
    #[command(flatten)]
    pub(crate) watts: WattsArg,
    /// How to print the results
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    pub(crate) output: OutputFormat,
    /// Print one JSON array of rows, as -o json does
    #[arg(long, conflicts_with = "output", value_parser = FalseyValueParser::new())]
    pub(crate) json: bool,
}

impl TwinArgs {
    /// How to open the model.
    pub(crate) fn open_options(&self) -> OpenOptions {
        OpenOptions {
            backend: BackendOptions {
                name: self.backend.clone(),
                threads: self.threads.map(saturate),
                ..BackendOptions::default()
            },
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

    /// How results are printed.
    pub(crate) fn output_format(&self) -> OutputFormat {
        if self.json { OutputFormat::Json } else { self.output }
    }
}
