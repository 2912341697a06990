//! Which router formula a checkpoint needs, where that is written, and what does not fit together.
//!
//! A wrong router still writes fluent text, so nothing here waits for an error: settings are held against the formula
//! that the family makes of them, against the weights, and against what published models of the family say.
//! Shapes: vectors over experts are `[experts]`.
//! Invariants: reads no weights but those vectors; what contradicts itself is a finding and not an error.

mod findings;
mod releases;
mod settings;

use std::path::Path;

use moebius_model::{Error as ModelError, LayerRouter, ModelFiles, NamedTensor, Routers};
use moebius_router::{FORMULAS, PublishedFormula, RouterConfig, Selection};

use super::Finding;
use crate::{BackendOptions, Result, open_backend};
pub use settings::{RouterSetting, SettingSource};

/// What was found out about a model's routers.
#[derive(Clone, Debug)]
pub struct RouterReport {
    /// `model_type` of the family; `None` when config.json cannot be read as any.
    pub family: Option<&'static str>,
    /// `model_type` of the multimodal model that this is the text part of.
    pub text_part_of: Option<String>,
    /// Decoder layers, with a router or without.
    pub n_layers: Option<usize>,
    /// Whether there are weights beside the configuration.
    pub has_weights: bool,
    /// Layers with a router, those with the same formula together.
    pub routers: Vec<RouterLayers>,
    /// Keys of config.json about routers.
    pub settings: Vec<RouterSetting>,
    /// What does not fit, or may not be meant.
    pub findings: Vec<Finding>,
}

/// Layers whose routers differ in learned values only.
#[derive(Clone, Debug)]
pub struct RouterLayers {
    /// The layers, ascending.
    pub layers: Vec<usize>,
    /// The configuration, with the vectors of the first of them.
    pub config: RouterConfig,
    /// Which published formula it is.
    pub published: PublishedFormula,
    /// The router's projection.
    pub weight: RouterTensor,
    /// The projection's bias, part of the logits.
    pub logit_bias: Option<RouterTensor>,
    /// The bias that selects and does not weigh.
    pub selection_bias: Option<RouterTensor>,
    /// Learned factors of the weights.
    pub expert_scale: Option<RouterTensor>,
}

/// One tensor of every layer's router.
#[derive(Clone, Debug)]
pub struct RouterTensor {
    /// Its name, with `N` for the layer.
    pub name: String,
    /// The element types that it is stored in; empty if it is not there.
    pub dtypes: Vec<String>,
    /// Its least and greatest value, where it is a vector that is there.
    pub range: Option<(f32, f32)>,
}

/// Looks at the routers of a model directory or a config.json.
///
/// # Errors
/// Files that are missing or damaged, an unknown family, and settings that cannot be honoured and are not about routers.
pub fn doctor_router(path: impl AsRef<Path>) -> Result<RouterReport> {
    let files = match ModelFiles::open(path.as_ref(), None) {
        Ok(files) => files,
        Err(ModelError::Config { key, reason }) if settings::is_about_routers(&key) => {
            return Ok(unreadable(&key, &reason));
        }
        Err(error) => return Err(error.into()),
    };
    let backend = open_backend(&BackendOptions { threads: Some(1), ..BackendOptions::default() })?;
    let routers = files.routers(&backend)?;
    let settings = settings::of(&routers);
    Ok(RouterReport {
        family: Some(routers.family),
        text_part_of: routers.text_part_of.clone(),
        n_layers: Some(routers.n_layers),
        has_weights: routers.has_weights,
        findings: findings::of(&routers, &settings),
        routers: alike(&routers),
        settings,
    })
}

/// The report on a setting that makes no router of the family.
fn unreadable(key: &str, reason: &str) -> RouterReport {
    let finding = Finding {
        what: format!("`{key}` of config.json cannot be honoured: {reason}"),
        hint: "compare it with the config.json that the model was published with; a router of another kind needs a \
               family of its own"
            .into(),
    };
    RouterReport {
        family: None,
        text_part_of: None,
        n_layers: None,
        has_weights: false,
        routers: Vec::new(),
        settings: Vec::new(),
        findings: vec![finding],
    }
}

/// Layers with the same formula together, in the order of their first ones.
fn alike(routers: &Routers) -> Vec<RouterLayers> {
    let mut groups: Vec<(RouterConfig, Vec<&LayerRouter>)> = Vec::new();
    for router in &routers.layers {
        let formula = without_values(&router.config);
        match groups.iter_mut().find(|(known, _)| *known == formula) {
            Some((_, layers)) => layers.push(router),
            None => groups.push((formula, vec![router])),
        }
    }
    let knows_groups = settings::knows_groups(routers);
    groups.into_iter().map(|(_, layers)| describe(&layers, knows_groups)).collect()
}

/// What is left of a router when its learned values do not count.
fn without_values(config: &RouterConfig) -> RouterConfig {
    let empty = |vector: &Option<Vec<f32>>| vector.as_ref().map(|_| Vec::new());
    let (selection_bias, expert_scale) = (empty(&config.selection_bias), empty(&config.expert_scale));
    RouterConfig { selection_bias, expert_scale, ..config.clone() }
}

/// The published formula. With one group, R4 and R5 are the same but for what they add to a sum; then it is that of the
/// family: R4 if it reads how many groups there are.
fn published(config: &RouterConfig, knows_groups: bool) -> PublishedFormula {
    let formula = config.published();
    if config.selection != Selection::TopK || !["R4", "R5"].contains(&formula.id) {
        return formula;
    }
    if knows_groups { FORMULAS[3] } else { FORMULAS[4] }
}

fn describe(layers: &[&LayerRouter], knows_groups: bool) -> RouterLayers {
    let first = layers[0];
    let tensor = |of: fn(&LayerRouter) -> Option<&NamedTensor>| {
        let tensors: Vec<_> = layers.iter().filter_map(|router| of(router)).collect();
        let (name, _) = findings::pattern(&tensors.first()?.name);
        let stored = || tensors.iter().filter_map(|tensor| tensor.stored.as_ref());
        let mut dtypes: Vec<_> = stored().map(|stored| stored.dtype.clone()).collect();
        dtypes.sort();
        dtypes.dedup();
        let values = || stored().flat_map(|stored| stored.values.iter().copied());
        let range = values().reduce(f32::min).zip(values().reduce(f32::max));
        Some(RouterTensor { name, dtypes, range })
    };
    RouterLayers {
        layers: layers.iter().map(|router| router.layer).collect(),
        config: first.config.clone(),
        published: published(&first.config, knows_groups),
        weight: tensor(|router| Some(&router.gate)).expect("a group has a layer"),
        logit_bias: tensor(|router| router.gate_bias.as_ref()),
        selection_bias: tensor(|router| router.selection_bias.as_ref()),
        expert_scale: tensor(|router| router.expert_scale.as_ref()),
    }
}
