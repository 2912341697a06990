//! `moebius bench layer`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{FalseyValueParser, PossibleValuesParser, TypedValueParser};
use moebius::bench::{LayerPlan, RoutingPattern};
use moebius::{BackendOptions, OPTIONAL_BACKENDS, WeightFormat};

use super::backend::without_devices;
use super::model::saturate;
use super::{RowsArgs, WattsArg, values};

const NOTES: &str = "\
Sparse runs k of the experts for each token. Two dense layers stand beside it: iso-total has the same weights and runs \
every expert for every token, those that were not chosen with weight zero, so its output is the same (max |diff| says how \
exactly); iso-active is one layer as wide as k experts. The forms take turns, each after the experts of another layer, \
whose weights then fill the caches; times are medians with quartiles, ratios are those of runs side by side.

Few tokens are bound by reading weights: sparse over iso-total then goes with the experts that the batch touches, \
N(1-(1-k/N)^B) by chance. Many tokens are bound by arithmetic: it goes with k/E.

A trace has the choices of real tokens, which are not by chance: `moebius run --trace FILE` writes one. Its tokens are \
replayed in their order, sample after sample, and from the first one again after the last. The layer must have as many \
--experts as that of the trace, which is the middle one of those with a router if none is named; with fewer experts per \
token than the trace has, the heaviest of each token run.

Ctrl-C ends with the rows that are finished, a second one at once.";

/// Measure one layer of experts: sparse against its two dense twins
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub(crate) struct LayerArgs {
    /// Width of the residual stream
    #[arg(long, value_name = "N", default_value = "2048", value_parser = values::count)]
    pub(crate) hidden: usize,
    /// Width of an expert
    #[arg(long, value_name = "N", default_value = "1024", value_parser = values::count)]
    pub(crate) ffn: usize,
    /// Experts of the layer
    #[arg(long, value_name = "N", default_value = "64", value_parser = values::count)]
    pub(crate) experts: usize,
    /// Experts of a token
    #[arg(short = 'k', long, value_name = "LIST", value_delimiter = ',', default_value = "1,2,4,8", value_parser = values::count)]
    pub(crate) experts_per_token: Vec<usize>,
    /// Tokens of a batch
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,8,64,512", value_parser = values::batch)]
    pub(crate) tokens: Vec<usize>,
    /// What weights are held in
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "bf16", value_parser = formats())]
    pub(crate) format: Vec<WeightFormat>,
    /// How tokens choose: uniform; zipf:S, where the share of the r-th expert goes with r^-S; trace:FILE or
    /// trace:FILE@LAYER, as a trace says
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "uniform")]
    pub(crate) routing: Vec<RoutingPattern>,
    /// CPU threads; default: all cores
    #[arg(
        short,
        long,
        env = "MOEBIUS_THREADS",
        hide_env_values = true,
        value_name = "LIST",
        value_delimiter = ','
    )]
    #[arg(value_parser = values::threads)]
    pub(crate) threads: Vec<u64>,
    /// Where the layer runs
    #[arg(long, env = "MOEBIUS_BACKEND", hide_env_values = true, value_name = "LIST", value_delimiter = ',')]
    #[arg(value_parser = super::backend::names())]
    pub(crate) backend: Vec<String>,
    /// Which GPU, from 0, for backends that run on one
    #[arg(long, env = "MOEBIUS_DEVICE", hide_env = without_devices(), hide_env_values = true, value_name = "N")]
    #[arg(hide = without_devices(), value_parser = values::count)]
    pub(crate) device: Option<usize>,
    /// Round activations to bf16 before they are multiplied; on a CPU, before products with weights in bf16
    #[arg(long, env = "MOEBIUS_BF16_ACTIVATIONS", hide_env_values = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub(crate) bf16_activations: bool,
    /// Samples of each form
    #[arg(short, long, value_name = "N", default_value = "9", value_parser = values::repetitions)]
    pub(crate) repetitions: usize,
    /// Seed of weights, inputs and choices
    #[arg(short, long, value_name = "N", default_value = "0", value_parser = values::seed)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) watts: WattsArg,
    /// Draw time against k and against the batch into this SVG file
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) rows: RowsArgs,
}

fn formats() -> impl TypedValueParser<Value = WeightFormat> {
    PossibleValuesParser::new(WeightFormat::ALL.map(WeightFormat::name))
        .try_map(|name| name.parse::<WeightFormat>())
}

impl LayerArgs {
    /// Every layer that was asked for, and where it runs.
    pub(crate) fn plans(&self) -> Vec<(LayerPlan, BackendOptions)> {
        let mut plans = Vec::new();
        for backend in each_or_default(&self.backend) {
            for threads in each_or_default(&self.threads) {
                for &format in &self.format {
                    for routing in &self.routing {
                        // A list may have the processor in it too.
                        let on_gpu = backend.is_some_and(|name| OPTIONAL_BACKENDS.contains(&name.as_str()));
                        let options = BackendOptions {
                            name: backend.cloned(),
                            device: self.device.filter(|_| on_gpu || self.backend.len() < 2),
                            bf16_activations: self.bf16_activations,
                            threads: threads.copied().map(saturate),
                            ..BackendOptions::default()
                        };
                        plans.push((self.plan(format, routing.clone()), options));
                    }
                }
            }
        }
        plans
    }

    fn plan(&self, format: WeightFormat, routing: RoutingPattern) -> LayerPlan {
        LayerPlan {
            hidden: self.hidden,
            ffn: self.ffn,
            n_experts: self.experts,
            experts_per_token: self.experts_per_token.clone(),
            format,
            routing,
            repetitions: self.repetitions,
            seed: self.seed,
        }
    }
}

/// Each of a list, or once nothing.
fn each_or_default<T>(list: &[T]) -> Vec<Option<&T>> {
    if list.is_empty() { vec![None] } else { list.iter().map(Some).collect() }
}
