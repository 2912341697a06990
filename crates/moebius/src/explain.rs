//! One token at one layer, step by step, with the numbers of a real forward pass.
//!
//! `logits = gate(x)`, scores and choice as the router's formula says, `y = Σ w_e expert_e(x)`. The experts are computed
//! once more one by one, and their weighted sum is held against what the layer gave.
//!
//! Shapes: logits and scores `[experts]`; norms are Euclidean, of vectors of the experts' width.

use candle_core::Tensor;
use moebius_metering::{Reading, Window};
use moebius_model::{Mixture, Probe, TokenBatch};
use moebius_router::{RouterConfig, Routing, WeightTarget};

use crate::{Error, Model, Result};

/// A chosen expert.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedExpert {
    /// Its index.
    pub expert: u32,
    /// Its logit.
    pub logit: f32,
    /// Its score.
    pub score: f32,
    /// Its weight.
    pub weight: f32,
    /// Length of what it computes by itself.
    pub output_norm: f64,
    /// Length of what it adds to the sum: the same times its weight, unless the weight multiplies its input.
    pub added_norm: f64,
    /// The first numbers of what it adds.
    pub added: Vec<f32>,
}

/// One token at one layer.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The token's position.
    pub position: usize,
    /// The decoder layer.
    pub layer: usize,
    /// The layers that have a router.
    pub layers_with_router: Vec<usize>,
    /// The formula.
    pub router: RouterConfig,
    /// What the gate says of each expert.
    pub logits: Vec<f32>,
    /// What scores the formula makes of that.
    pub scores: Vec<f32>,
    /// Scores with the selection bias, where there is one.
    pub ranks: Option<Vec<f32>>,
    /// The chosen experts, ascending.
    pub experts: Vec<ExplainedExpert>,
    /// Length of what the experts were given.
    pub input_norm: f64,
    /// Width of what they were given, and of an expert.
    pub widths: (usize, usize),
    /// Length of what the layer gave.
    pub output_norm: f64,
    /// The first numbers of what the layer gave.
    pub output: Vec<f32>,
    /// The largest difference between any number that the layer gave and the sum of the experts one by one.
    pub largest_difference: f64,
    /// Multiply-adds of one expert for one token.
    pub macs_per_expert: u64,
    /// Bytes of one expert.
    pub bytes_per_expert: u64,
    /// What the whole pass counted: every token, every layer.
    pub reading: Reading,
}

/// How many numbers of a vector are shown.
const SHOWN: usize = 4;

/// Looks at one row of one layer.
struct Looker {
    position: usize,
    /// `None` is the first layer with a router.
    layer: Option<usize>,
    row: Option<usize>,
    layers: Vec<usize>,
    seen: Option<Explanation>,
}

impl Probe for Looker {
    fn batch(&mut self, batch: &TokenBatch) {
        let span = batch.spans().first();
        self.row = span.and_then(|span| {
            let row = self.position.checked_sub(span.first_position)?;
            (row < span.rows.len()).then_some(span.rows.start + row)
        });
    }

    fn hidden(&mut self, _: usize, _: &Tensor) -> moebius_model::Result<()> {
        Ok(())
    }

    fn routing(&mut self, layer: usize, _: &Routing) -> moebius_model::Result<()> {
        if !self.layers.contains(&layer) {
            self.layers.push(layer);
        }
        Ok(())
    }

    fn mixture(&mut self, mixture: &Mixture<'_>) -> moebius_model::Result<()> {
        let Some(row) = self.row else { return Ok(()) };
        if self.seen.is_none() && self.layer.is_none_or(|layer| layer == mixture.layer) {
            self.seen = Some(look(mixture, row, self.position)?);
        }
        Ok(())
    }
}

fn look(mixture: &Mixture<'_>, row: usize, position: usize) -> moebius_model::Result<Explanation> {
    let (routing, router) = (mixture.routing, mixture.router);
    let n_experts = routing.n_experts();
    let logits = &mixture.logits[row * n_experts..][..n_experts];
    let judgement = router.judge(logits).map_err(moebius_backend::Error::from)?;
    let vector = |tensor: &Tensor| -> moebius_model::Result<Vec<f32>> {
        Ok(tensor.narrow(0, row, 1)?.flatten_all()?.to_vec1()?)
    };
    let (input, output) = (vector(mixture.input)?, vector(mixture.output)?);
    let mut sum = vec![0.0f64; output.len()];
    let mut experts = Vec::new();
    for (&expert, &weight) in routing.experts(row).iter().zip(routing.weights(row)) {
        let alone = mixture.expert(row, expert, 1.0)?;
        let added = match routing.applies_to() {
            WeightTarget::Output => alone.iter().map(|value| value * weight).collect(),
            WeightTarget::Input => mixture.expert(row, expert, weight)?,
        };
        sum.iter_mut().zip(&added).for_each(|(sum, &value)| *sum += f64::from(value));
        experts.push(ExplainedExpert {
            expert,
            logit: logits[expert as usize],
            score: judgement.scores[expert as usize],
            weight,
            output_norm: norm(&alone),
            added_norm: norm(&added),
            added: added.into_iter().take(SHOWN).collect(),
        });
    }
    let differences = sum.iter().zip(&output).map(|(sum, &value)| (sum - f64::from(value)).abs());
    let spec = mixture.spec();
    Ok(Explanation {
        position,
        layer: mixture.layer,
        layers_with_router: Vec::new(),
        router: router.config().clone(),
        logits: logits.to_vec(),
        scores: judgement.scores,
        ranks: judgement.ranks,
        experts,
        input_norm: norm(&input),
        widths: (spec.hidden, spec.intermediate),
        output_norm: norm(&output),
        largest_difference: differences.fold(0.0, f64::max),
        output: output.into_iter().take(SHOWN).collect(),
        macs_per_expert: spec.macs_per_token_expert(),
        bytes_per_expert: spec.bytes_per_expert(),
        reading: Reading::default(),
    })
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

impl Model {
    /// Runs `tokens` and looks at the one at `position`, in decoder layer `layer` or the first one with a router.
    ///
    /// # Errors
    /// [`Error::NothingToExplain`] when the token, the layer or a router there does not exist; those of [`Model::score`].
    pub fn explain(&mut self, tokens: &[u32], position: usize, layer: Option<usize>) -> Result<Explanation> {
        let nothing = |what: &'static str, expected: String, got: String| Error::NothingToExplain {
            what,
            expected,
            got,
        };
        if position >= tokens.len() {
            let expected = format!("0 to {}", tokens.len().saturating_sub(1));
            return Err(nothing("token", expected, position.to_string()));
        }
        let mut looker = Looker { position, layer, row: None, layers: Vec::new(), seen: None };
        let window = Window::open(self.engine.meter());
        self.engine.score(&[tokens.to_vec()], Some(&mut looker), |_| {})?;
        let reading = window.close(self.engine.meter());
        let layers = looker.layers;
        let Some(explanation) = looker.seen else {
            let expected = match layers.as_slice() {
                [] => "a model with experts".to_owned(),
                layers => format!(
                    "one of {}",
                    layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ),
            };
            let got = layer.map_or("none".into(), |layer| layer.to_string());
            return Err(nothing("layer with a router", expected, got));
        };
        Ok(Explanation { layers_with_router: layers, reading, ..explanation })
    }
}
