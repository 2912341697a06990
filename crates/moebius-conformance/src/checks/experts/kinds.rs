//! Experts without a gate, with biases, and with other activations, against f64.

use moebius_backend::{Activation, Backend, ExpertSpec};
use moebius_router::WeightTarget;

use super::{Loaded, TOKENS, for_each_format};
use crate::Failure;
use crate::fixtures::{Samples, expert_spec, fitted};

/// In whole blocks for formats that have them.
const SIZES: [(usize, usize); 3] = [(1, 1), (15, 17), (33, 100)];

pub fn experts_without_a_gate_agree_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    for (activation, biases) in [(Activation::ReluSquared, false), (Activation::Silu, true)] {
        agree_with_f64(backend, |spec| ExpertSpec { gated: false, activation, biases, ..spec })?;
    }
    Ok(())
}

pub fn biases_are_added_before_activation_and_weight(backend: &dyn Backend) -> Result<(), Failure> {
    agree_with_f64(backend, |spec| ExpertSpec { biases: true, ..spec })
}

pub fn every_activation_agrees_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    let clamped = |limit| Activation::ClampedSwiglu { limit };
    for activation in [Activation::Gelu, Activation::ReluSquared, clamped(0.7), clamped(7.0)] {
        agree_with_f64(backend, |spec| ExpertSpec { activation, biases: true, ..spec })?;
    }
    Ok(())
}

/// Banks of one kind, made from the usual one, in every format.
fn agree_with_f64(backend: &dyn Backend, kind: impl Fn(ExpertSpec) -> ExpertSpec) -> Result<(), Failure> {
    for_each_format(|format| {
        let mut samples = Samples::new(24);
        let mut sizes = SIZES.map(|(hidden, inner)| (fitted(hidden, format), fitted(inner, format))).to_vec();
        sizes.dedup();
        for sizes in sizes {
            let spec = kind(expert_spec(format, 4, sizes));
            let case =
                format!("{sizes:?}, {}, gated {}, biases {}", spec.activation, spec.gated, spec.biases);
            let Some(loaded) = Loaded::new(backend, &mut samples, spec)? else { continue };
            for (tokens, target) in
                TOKENS.into_iter().zip([WeightTarget::Output, WeightTarget::Input].into_iter().cycle())
            {
                let routing = samples.routing(tokens, (4, 2), target);
                let x = loaded.inputs(&mut samples, tokens);
                let agreed = loaded.agrees(&x, &routing);
                agreed.map_err(|failure| failure.at(format!("{case}, {tokens} tokens, {target:?}")))?;
            }
        }
        Ok(())
    })
}
