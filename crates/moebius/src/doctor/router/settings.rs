//! Keys of config.json about routers: what they say, and what the family makes of their absence.

use moebius_model::{LayerRouter, Routers, Setting, SettingRole};
use moebius_router::{Renormalize, RouterConfig, Score, Selection};

/// A key of config.json about routers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterSetting {
    /// Its name.
    pub key: String,
    /// What it decides.
    pub meaning: &'static str,
    /// Its value as JSON; `None` where it is absent.
    pub value: Option<String>,
    /// What the router does; `None` where settings make no router.
    pub taken: Option<String>,
    /// Where that comes from.
    pub source: SettingSource,
    pub(super) topic: Topic,
}

/// Where what a router does comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingSource {
    /// The key says it.
    Config,
    /// The key is missing, so it is the default of the family's class.
    Default,
    /// The family never looks at the key.
    Ignored,
}

/// What a key decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Experts,
    TopK,
    Score,
    Groups,
    KeptGroups,
    SelectionBias,
    Renormalize,
    LeastSum,
    Scale,
    Jitter,
}

/// The keys of all families, the usual spelling of each first.
const KEYS: &[(&str, Topic)] = &[
    ("num_experts", Topic::Experts),
    ("num_local_experts", Topic::Experts),
    ("n_routed_experts", Topic::Experts),
    ("moe_num_experts", Topic::Experts),
    ("num_experts_per_tok", Topic::TopK),
    ("num_experts_per_token", Topic::TopK),
    ("experts_per_token", Topic::TopK),
    ("top_k_experts", Topic::TopK),
    ("moe_topk", Topic::TopK),
    ("moe_top_k", Topic::TopK),
    ("moe_k", Topic::TopK),
    ("scoring_func", Topic::Score),
    ("score_func", Topic::Score),
    ("score_function", Topic::Score),
    ("topk_method", Topic::Score),
    ("n_group", Topic::Groups),
    ("num_expert_groups", Topic::Groups),
    ("topk_group", Topic::KeptGroups),
    ("num_limited_groups", Topic::KeptGroups),
    ("use_expert_bias", Topic::SelectionBias),
    ("use_routing_bias", Topic::SelectionBias),
    ("moe_router_enable_expert_bias", Topic::SelectionBias),
    ("moe_use_aux_free", Topic::SelectionBias),
    ("norm_topk_prob", Topic::Renormalize),
    ("route_norm", Topic::Renormalize),
    ("moe_norm_min", Topic::LeastSum),
    ("routed_scaling_factor", Topic::Scale),
    ("route_scale", Topic::Scale),
    ("router_scaling_factor", Topic::Scale),
    ("router_jitter_noise", Topic::Jitter),
];

impl Topic {
    fn of(key: &str) -> Option<Self> {
        KEYS.iter().find(|(known, _)| *known == key).map(|(_, topic)| *topic)
    }

    fn meaning(self) -> &'static str {
        match self {
            Topic::Experts => "experts",
            Topic::TopK => "experts per token",
            Topic::Score => "score",
            Topic::Groups => "groups of experts",
            Topic::KeptGroups => "groups that stay",
            Topic::SelectionBias => "selection bias",
            Topic::Renormalize => "weights renormalised",
            Topic::LeastSum => "least divisor",
            Topic::Scale => "factor on weights",
            Topic::Jitter => "jitter",
        }
    }

    /// What a router does about it, spelled like a value of config.json.
    pub(super) fn taken(self, config: &RouterConfig) -> Option<String> {
        Some(match self {
            Topic::Experts => config.n_experts.to_string(),
            Topic::TopK => config.top_k.to_string(),
            Topic::Score => match config.score {
                Score::Softmax | Score::SoftmaxOverTopK => "\"softmax\"".into(),
                Score::Sigmoid => "\"sigmoid\"".into(),
                Score::SparseMixer { .. } => return None,
            },
            Topic::Groups => groups(config)?.0.to_string(),
            Topic::KeptGroups => groups(config)?.1.to_string(),
            Topic::SelectionBias => config.selection_bias.is_some().to_string(),
            Topic::Renormalize => renormalizes(config).to_string(),
            Topic::LeastSum => match config.renormalize {
                Renormalize::SumAtLeast { min } => min.to_string(),
                _ => return None,
            },
            Topic::Scale => config.scale.to_string(),
            Topic::Jitter => match config.score {
                Score::SparseMixer { jitter_eps } => jitter_eps.to_string(),
                _ => return None,
            },
        })
    }

    /// Whether a router does something else than `value` says. A value that decides nothing here says nothing.
    pub(super) fn contradicts(self, value: &str, config: &RouterConfig) -> bool {
        let Some(taken) = self.taken(config) else { return false };
        match self {
            // Names of methods say more than the score, and no family spells all of them alike.
            Topic::Score => {
                let other = if taken.contains("sigmoid") { "softmax" } else { "sigmoid" };
                value.contains(other)
            }
            _ => match (value.parse::<f32>(), taken.parse::<f32>()) {
                (Ok(value), Ok(taken)) => value != taken,
                _ => value != taken,
            },
        }
    }
}

/// How many groups there are and how many stay; `None` where each group has its own expert.
fn groups(config: &RouterConfig) -> Option<(usize, usize)> {
    match config.selection {
        Selection::TopK => Some((1, 1)),
        Selection::GroupLimited { n_groups, keep, .. } => Some((n_groups, keep)),
        Selection::OnePerGroup => None,
    }
}

/// Whether weights have the sum 1 before they are scaled.
pub(super) fn renormalizes(config: &RouterConfig) -> bool {
    config.renormalize != Renormalize::No || config.score == Score::SoftmaxOverTopK
}

/// Whether a key of config.json is about routers.
pub(super) fn is_about_routers(key: &str) -> bool {
    Topic::of(key).is_some()
}

/// Whether the family reads how many groups there are, be it one.
pub(super) fn knows_groups(routers: &Routers) -> bool {
    let is_read = |setting: &Setting| setting.role == SettingRole::Used;
    routers.settings.iter().any(|setting| is_read(setting) && Topic::of(&setting.key) == Some(Topic::Groups))
}

/// The settings of a model's routers.
pub(super) fn of(routers: &Routers) -> Vec<RouterSetting> {
    let config = routers.layers.first().map(|LayerRouter { config, .. }| config);
    let named = |key: &str| routers.settings.iter().find(|setting| setting.key == key);
    let is_said = |topic: Topic| {
        let says = |setting: &Setting| setting.role == SettingRole::Used && setting.value.is_some();
        KEYS.iter().any(|(key, other)| *other == topic && named(key).is_some_and(says))
    };
    let mut settings: Vec<RouterSetting> = Vec::new();
    for (setting, topic) in KEYS.iter().filter_map(|(key, topic)| Some((named(key)?, *topic))) {
        let Setting { key, value, role } = setting;
        let taken = config.and_then(|config| topic.taken(config));
        let listed = settings.iter().any(|known| known.topic == topic);
        let source = match (role, value) {
            (SettingRole::Used | SettingRole::Fixed, Some(_)) => SettingSource::Config,
            // Another spelling says it, or was named as missing, or the router has no use for it.
            (SettingRole::Used, None) if is_said(topic) || listed || taken.is_none() => continue,
            (SettingRole::Used, None) => SettingSource::Default,
            (_, Some(_)) => SettingSource::Ignored,
            (_, None) => continue,
        };
        let (key, value, meaning) = (key.clone(), value.clone(), topic.meaning());
        settings.push(RouterSetting { key, meaning, value, taken, source, topic });
    }
    settings
}
