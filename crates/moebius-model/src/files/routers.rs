//! The routers of a model: what its family asks for, and what its checkpoint has of it.
//!
//! Invariants: what does not fit is told, not refused: a checkpoint at odds with its configuration is what one looks at
//! this for. No weights are read but the vectors over experts.

use std::sync::Arc;

use moebius_backend::Backend;
use moebius_router::{RouterConfig, RouterError};

use super::ModelFiles;
use crate::error::TensorProblem;
use crate::info::Setting;
use crate::loader::Loader;
use crate::planned::PlannedRouter;
use crate::{Error, Result};

/// What there is to know about a model's routers without running it.
#[derive(Clone, Debug)]
pub struct Routers {
    /// `model_type` of the family.
    pub family: &'static str,
    /// `model_type` of the multimodal model that this is the text part of.
    pub text_part_of: Option<String>,
    /// Decoder layers, with a router or without.
    pub n_layers: usize,
    /// Layers with a router, ascending; up to the first that is `unsound`.
    pub layers: Vec<LayerRouter>,
    /// Why the settings make no router.
    pub unsound: Option<RouterError>,
    /// Keys of config.json that are there or were asked for, sorted.
    pub settings: Vec<Setting>,
    /// Whether there are weights.
    pub has_weights: bool,
    /// Tensors of the whole model that are missing or misshapen.
    pub problems: Vec<TensorProblem>,
    /// Tensors that nothing asked for and that are not known to be of no matter.
    pub unknown_tensors: Vec<String>,
}

/// A layer's router.
#[derive(Clone, Debug)]
pub struct LayerRouter {
    /// The decoder layer.
    pub layer: usize,
    /// The formula with the checkpoint's vectors; a vector that is asked for and not there is neutral: 0 for a bias, 1
    /// for scales.
    pub config: RouterConfig,
    /// The projection, `[experts, width]`.
    pub gate: NamedTensor,
    /// The projection's bias, if it has one.
    pub gate_bias: Option<NamedTensor>,
    /// Added to the scores for selection.
    pub selection_bias: Option<NamedTensor>,
    /// Multiplied with the weights.
    pub expert_scale: Option<NamedTensor>,
    /// Experts that the checkpoint has, where they can be counted.
    pub stored_experts: Option<usize>,
}

/// A tensor that is asked for.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// Its name.
    pub name: String,
    /// The shape that it should have.
    pub shape: Vec<usize>,
    /// What the checkpoint has under this name.
    pub stored: Option<StoredTensor>,
}

/// A tensor that is there.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// Its element type as in the file, or the format that it is packed in.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, where they are a vector over experts.
    pub values: Vec<f32>,
}

impl ModelFiles {
    /// What routers the model has. `backend` is asked what it can hold.
    ///
    /// # Errors
    /// Those of [`ModelFiles::info`], except for tensors that are missing or misshapen and for settings that make no
    /// router.
    pub fn routers(&self, backend: &Arc<dyn Backend>) -> Result<Routers> {
        let plan = Loader::plan(backend, self.weights(), self.held()?);
        let unsound = match self.architecture.load(&plan) {
            Ok(_) => None,
            Err(Error::Backend(moebius_backend::Error::Router(error))) => Some(error),
            Err(error) => return Err(error),
        };
        let (planned, problems) = (plan.routers(), plan.problems());
        Ok(Routers {
            family: self.family.model_type,
            text_part_of: self.text_part_of.clone(),
            n_layers: self.architecture.outline().base.n_layers,
            layers: planned.into_iter().map(|router| self.layer_router(router)).collect(),
            settings: self.settings.clone(),
            has_weights: self.weights().is_some(),
            // Of a plan that broke off, neither list is whole.
            problems: if unsound.is_none() { problems } else { Vec::new() },
            unknown_tensors: match &unsound {
                None => self.leftovers(&plan.into_asked()).1,
                Some(_) => Vec::new(),
            },
            unsound,
        })
    }

    fn layer_router(&self, planned: PlannedRouter) -> LayerRouter {
        let PlannedRouter { layer, config, gate, gate_bias, selection_bias, expert_scale, stored_experts } =
            planned;
        let vector = |named: Option<(String, Vec<usize>)>| named.map(|named| self.named(named, true));
        let (selection_bias, expert_scale) = (vector(selection_bias), vector(expert_scale));
        let n_experts = config.n_experts;
        let filled = |tensor: &NamedTensor, neutral: f32| match &tensor.stored {
            Some(stored) if stored.values.len() == n_experts => stored.values.clone(),
            _ => vec![neutral; n_experts],
        };
        let config = RouterConfig {
            selection_bias: selection_bias.as_ref().map(|bias| filled(bias, 0.0)).or(config.selection_bias),
            expert_scale: expert_scale.as_ref().map(|scale| filled(scale, 1.0)).or(config.expert_scale),
            ..config
        };
        LayerRouter {
            layer,
            config,
            gate: self.named(gate, false),
            gate_bias: vector(gate_bias),
            selection_bias,
            expert_scale,
            stored_experts,
        }
    }

    fn named(&self, (name, shape): (String, Vec<usize>), with_values: bool) -> NamedTensor {
        let stored = self.weights().and_then(|checkpoint| {
            let entry = checkpoint.get(&name)?;
            let dtype = match &entry.packed {
                Some(packed) => packed.format.name().to_owned(),
                None => format!("{:?}", entry.dtype),
            };
            let is_vector = entry.shape.iter().product::<usize>() == shape.iter().product::<usize>();
            let values = (with_values && is_vector).then(|| checkpoint.floats(&name)).flatten();
            Some(StoredTensor { dtype, shape: entry.shape.clone(), values: values.unwrap_or_default() })
        });
        NamedTensor { name, shape, stored }
    }
}
