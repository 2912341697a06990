//! Banks that choose their experts themselves choose as the router does.

use std::sync::Arc;

use moebius_backend::{Backend, Linear, WeightFormat};
use moebius_metering::Meter;
use moebius_router::{Router, RouterConfig};

use super::super::experts::Loaded;
use super::super::linear::load;
use super::same;
use crate::Failure;
use crate::failure::ensure;
use crate::fixtures::{Matrix, Samples, expert_spec, tensor, values_of};

const EXPERTS: usize = 12;

/// Formulas that differ in every step.
fn formulas(samples: &mut Samples) -> [RouterConfig; 7] {
    [
        RouterConfig::softmax_top_k(EXPERTS, 3),
        RouterConfig::softmax_probabilities(EXPERTS, 2).with_drop_below(0.5),
        RouterConfig::top_k_softmax(EXPERTS, 4).with_drop_below(0.5),
        RouterConfig::sigmoid_grouped(EXPERTS, 3, 4, 2)
            .with_selection_bias(samples.vector(EXPERTS))
            .with_scale(2.5),
        RouterConfig::softmax_grouped_max(EXPERTS, 2, 3, 1).with_masked(vec![0, 7]),
        RouterConfig::softmax_top_k(EXPERTS, 3).with_expert_scale(samples.vector(EXPERTS)),
        RouterConfig::sparse_mixer(EXPERTS, 0.1),
    ]
}

pub fn experts_that_a_bank_chooses_are_those_of_the_router(backend: &dyn Backend) -> Result<(), Failure> {
    let mut samples = Samples::new(57);
    for config in formulas(&mut samples) {
        let router = Router::new(5, config).expect("the formulas are valid");
        let spec = expert_spec(WeightFormat::F32, EXPERTS, (16, 16));
        let gate = Matrix::sampled(&mut samples, "gate", WeightFormat::F32, (EXPERTS, spec.hidden))?;
        let Some(mut loaded) = Loaded::new(backend, &mut samples, spec)? else { return Ok(()) };
        let Some(gate) = load(backend, &gate, None)? else { return Ok(()) };
        let gate: Arc<dyn Linear> = gate.into();
        loaded.experts.routed_by(&gate, &router);
        for tokens in [0, 1, 33] {
            agrees(&loaded, &router, &mut samples, tokens)
                .map_err(|failure| failure.at(format!("{}, {tokens} tokens", router.config().formula())))?;
        }
    }
    Ok(())
}

fn agrees(loaded: &Loaded, router: &Router, samples: &mut Samples, tokens: usize) -> Result<(), Failure> {
    let hidden = loaded.bank.spec.hidden;
    let (x, logits) = (loaded.tensor(&samples.vector(tokens * hidden))?, samples.vector(tokens * EXPERTS));
    let on_device = tensor(&logits, &[tokens, EXPERTS], x.device())?;
    let Some(routed) = loaded.experts.forward_routed(&x, &on_device)? else { return Ok(()) };
    let (expected, got) = (router.route(&logits).expect("samples are numbers"), (routed.routing)()?);
    ensure(got.all_experts() == expected.all_experts(), || {
        format!("expected {:?}, got {:?}", expected.all_experts(), got.all_experts())
    })?;
    same(expected.all_weights(), got.all_weights(), || "weights".into())?;
    let by_caller = loaded.experts.forward(&x, &expected, &Meter::new())?;
    let values = |x| values_of(x, &[tokens, hidden]);
    same(&values(&by_caller)?, &values(&routed.output)?, || "outputs".into())
}
