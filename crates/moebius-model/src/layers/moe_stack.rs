//! The feed-forwards of a whole decoder: some layers dense, the others with routed experts beside a shared one.
//!
//! Shapes: experts `gate, up: [intermediate, hidden]`, `down: [hidden, intermediate]`, the shared one and dense layers
//! likewise with widths of their own.

use moebius_backend::Activation;
use moebius_router::RouterConfig;

use super::{
    BaseConfig, FeedForward, Mlp, MlpConfig, MlpNames, MoeConfig, MoeExtras, MoeLayer, PerExpert,
    SharedExpert,
};
use crate::Result;
use crate::info::MoeInfo;
use crate::layout::{ExpertLayout, GateUp};
use crate::loader::Loader;

/// Feed-forwards in numbers and names. Names are those below a layer's feed-forward.
#[derive(Clone, Debug)]
pub(crate) struct MoeStack {
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// The non-linearity of dense layers and experts.
    pub(crate) activation: Activation,
    /// Which layers have experts.
    pub(crate) sparse: Vec<bool>,
    /// Width of the other layers.
    pub(crate) dense_intermediate: usize,
    /// Width of an expert.
    pub(crate) intermediate: usize,
    /// What every token goes through beside its experts.
    pub(crate) shared: Option<Shared>,
    /// The router's formula.
    pub(crate) router: RouterConfig,
    /// What the tensors are called.
    pub(crate) names: MoeNames,
    /// Whether dense layers and shared experts have biases; routed ones then have them if they are stored.
    pub(crate) bias: bool,
}

/// A shared expert in numbers and names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    /// Its width; that of all, where there are several.
    pub(crate) intermediate: usize,
    /// Its name.
    pub(crate) name: &'static str,
    /// The name of the projection to its gate, if it has one.
    pub(crate) gate: Option<&'static str>,
}

/// Names of a router and its experts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MoeNames {
    /// The router's projection.
    pub(crate) router: &'static str,
    /// What is added to the scores for selection.
    pub(crate) selection_bias: Option<Vector>,
    /// What is multiplied with the weights.
    pub(crate) expert_scale: Option<Vector>,
    /// Gate, up and down, of experts and of dense layers.
    pub(crate) matrices: [&'static str; 3],
    /// Whether experts in one tensor are transposed.
    pub(crate) transposed: bool,
}

/// A vector over experts: its name, and whether it is stored as one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vector {
    /// The tensor's name.
    pub(crate) name: &'static str,
    /// `[1, experts]` in place of `[experts]`.
    pub(crate) is_row: bool,
}

impl MoeNames {
    /// What most families call them: without a bias for selection and without scales.
    pub(crate) const USUAL: MoeNames = MoeNames {
        router: "gate",
        selection_bias: None,
        expert_scale: None,
        matrices: ["gate_proj", "up_proj", "down_proj"],
        transposed: false,
    };

    /// As in DeepSeek-V3.
    pub(crate) const WITH_CORRECTION_BIAS: MoeNames = MoeNames {
        selection_bias: Some(Vector { name: "gate.e_score_correction_bias", is_row: false }),
        ..MoeNames::USUAL
    };
}

impl MoeStack {
    /// Experts of `intermediate` in every layer and nothing beside them, with the usual names.
    pub(crate) fn experts_alone(base: &BaseConfig, intermediate: usize, router: RouterConfig) -> Self {
        MoeStack {
            hidden: base.hidden,
            activation: base.activation,
            sparse: vec![true; base.n_layers],
            dense_intermediate: intermediate,
            intermediate,
            shared: None,
            router,
            names: MoeNames::USUAL,
            bias: false,
        }
    }

    /// Loads the feed-forward of `layer`, its tensors below `prefix`.
    pub(crate) fn feed_forward(
        &self,
        loader: &Loader<'_>,
        layer: usize,
        prefix: &str,
    ) -> Result<FeedForward> {
        if !self.sparse[layer] {
            return Ok(FeedForward::Dense(Mlp::load(loader, prefix, self.mlp(self.dense_intermediate))?));
        }
        Ok(FeedForward::Moe(self.moe(loader, layer, prefix)?))
    }

    /// Loads the router and the experts of `layer`.
    pub(crate) fn moe(&self, loader: &Loader<'_>, layer: usize, prefix: &str) -> Result<MoeLayer> {
        let vector = |of: Option<Vector>| {
            of.map(|Vector { name, is_row }| PerExpert {
                name: format!("{prefix}.{name}"),
                shape: if is_row { vec![1, self.router.n_experts] } else { vec![self.router.n_experts] },
            })
        };
        let experts = format!("{prefix}.experts");
        let down_bias = format!("{experts}.0.{}.bias", self.names.matrices[2]);
        let biases = [down_bias, format!("{experts}.down_proj_bias")];
        let (gate_up, down) = (format!("{experts}.gate_up_proj"), format!("{experts}.down_proj"));
        let single = ExpertLayout::PerExpert { prefix: experts, names: self.names.matrices };
        let layouts = match self.names.transposed {
            true => {
                vec![ExpertLayout::FusedTransposed { gate_up, down, order: GateUp::Concatenated }, single]
            }
            false => vec![single, ExpertLayout::fused(gate_up, down)],
        };
        let config = MoeConfig {
            layer,
            hidden: self.hidden,
            intermediate: self.intermediate,
            activation: self.activation,
            router: self.router.clone(),
            gate: format!("{prefix}.{}", self.names.router),
            layouts,
            extras: MoeExtras {
                selection_bias: vector(self.names.selection_bias),
                expert_scale: vector(self.names.expert_scale),
                biases: self.bias && biases.iter().any(|name| loader.has(name)),
                ..MoeExtras::default()
            },
        };
        let shared = self.shared.map(|shared| {
            let (mlp, prefix_of) = (self.mlp(shared.intermediate), |name| format!("{prefix}.{name}"));
            match shared.gate {
                None => SharedExpert::load(loader, &prefix_of(shared.name), mlp),
                Some(gate) => {
                    SharedExpert::load_gated(loader, &prefix_of(shared.name), &prefix_of(gate), mlp)
                }
            }
        });
        MoeLayer::load(loader, config, shared.transpose()?)
    }

    fn mlp(&self, intermediate: usize) -> MlpConfig {
        let (names, bias) = (MlpNames::Gated(self.names.matrices), self.bias);
        MlpConfig { names, bias, ..MlpConfig::gated(self.hidden, intermediate, self.activation) }
    }

    /// The experts in numbers; `None` if no layer has any.
    pub(crate) fn info(&self) -> Option<MoeInfo> {
        let layers = self.sparse.iter().filter(|sparse| **sparse).count();
        let shared_intermediate = self.shared.map(|shared| shared.intermediate);
        let info = MoeInfo { shared_intermediate, ..MoeInfo::new(&self.router, layers, self.intermediate) };
        (layers > 0).then_some(info)
    }
}
