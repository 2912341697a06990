//! `moebius doctor router`.

use moebius::router::{GroupRank, Renormalize, Score, Selection, WeightTarget};
use moebius::{Needs, RouterLayers, RouterReport, RouterSetting, RouterTensor, SettingSource};
use serde::Serialize;

use super::{Found, advice, found};
use crate::args::{DoctorRouterArgs, OutputArgs};
use crate::commands::model_dir;
use crate::errors::Result;
use crate::json;
use crate::table::{Align, Table, facts};
use crate::terminal::{FAINT, print, printable};

#[derive(Serialize)]
struct Report<'a> {
    family: Option<&'static str>,
    text_part_of: Option<&'a str>,
    layers: Option<usize>,
    weights: bool,
    routers: Vec<Layers<'a>>,
    settings: Vec<Setting<'a>>,
    findings: Vec<Found<'a>>,
}

/// Layers with the same formula.
#[derive(Serialize)]
struct Layers<'a> {
    layers: &'a [usize],
    id: &'static str,
    name: &'static str,
    kit_file: &'static str,
    formula: String,
    n_experts: usize,
    experts_per_token: usize,
    score: &'static str,
    jitter: Option<f32>,
    n_groups: Option<usize>,
    kept_groups: Option<usize>,
    group_score: Option<&'static str>,
    renormalized: bool,
    scale: f32,
    weight_target: &'static str,
    weight: Tensor<'a>,
    logit_bias: Option<Tensor<'a>>,
    selection_bias: Option<Tensor<'a>>,
    expert_scale: Option<Tensor<'a>>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    dtypes: &'a [String],
    min: Option<f32>,
    max: Option<f32>,
}

#[derive(Serialize)]
struct Setting<'a> {
    key: &'a str,
    meaning: &'static str,
    value: Option<&'a str>,
    taken: Option<&'a str>,
    source: &'static str,
}

/// Looks at the routers of a model.
pub(crate) fn router(args: &DoctorRouterArgs, output: &OutputArgs) -> Result<()> {
    let dir = model_dir(args.model.as_deref(), Needs::Description, output)?;
    let report = moebius::doctor_router(&dir)?;
    if args.json.json {
        return json::print(&Report::new(&report));
    }
    print(&text(&report, &dir.display().to_string()))
}

impl<'a> Report<'a> {
    fn new(report: &'a RouterReport) -> Self {
        Report {
            family: report.family,
            text_part_of: report.text_part_of.as_deref(),
            layers: report.n_layers,
            weights: report.has_weights,
            routers: report.routers.iter().map(Layers::new).collect(),
            settings: report.settings.iter().map(Setting::new).collect(),
            findings: found(&report.findings),
        }
    }
}

impl<'a> Layers<'a> {
    fn new(router: &'a RouterLayers) -> Self {
        let config = &router.config;
        let (n_groups, kept_groups, group_score) = match config.selection {
            Selection::TopK => (None, None, None),
            Selection::OnePerGroup => (Some(config.top_k), Some(config.top_k), None),
            Selection::GroupLimited { n_groups, keep, rank } => {
                let score = if rank == GroupRank::Max { "max" } else { "top_two_sum" };
                (Some(n_groups), Some(keep), Some(score))
            }
        };
        let (score, jitter) = match config.score {
            Score::Softmax => ("softmax", None),
            Score::SoftmaxOverTopK => ("softmax_over_top_k", None),
            Score::Sigmoid => ("sigmoid", None),
            Score::SparseMixer { jitter_eps } => ("sparse_mixer", Some(jitter_eps)),
        };
        let published = router.published;
        Layers {
            layers: &router.layers,
            id: published.id,
            name: published.name,
            kit_file: published.kit_file,
            formula: config.formula(),
            n_experts: config.n_experts,
            experts_per_token: config.top_k,
            score,
            jitter,
            n_groups,
            kept_groups,
            group_score,
            renormalized: config.renormalize != Renormalize::No,
            scale: config.scale,
            weight_target: if config.applies_to == WeightTarget::Input { "input" } else { "output" },
            weight: Tensor::new(&router.weight),
            logit_bias: router.logit_bias.as_ref().map(Tensor::new),
            selection_bias: router.selection_bias.as_ref().map(Tensor::new),
            expert_scale: router.expert_scale.as_ref().map(Tensor::new),
        }
    }

    fn facts(&self, report: &RouterReport) -> String {
        let count = self.layers.len();
        let which = match report.n_layers {
            Some(all) if all == count => format!("all {all}"),
            Some(all) => format!("{count} of {all}: {}", listed(self.layers)),
            None => listed(self.layers),
        };
        let tensor = |tensor: &Option<Tensor<'_>>| tensor.as_ref().map_or("none".into(), Tensor::describe);
        facts(&[
            ("router", self.formula.clone()),
            (
                "formula",
                format!("{} {}, golden vectors in models/router-kit/{}", self.id, self.name, self.kit_file),
            ),
            ("layers", which),
            ("router weight", self.weight.describe()),
            ("router bias", tensor(&self.logit_bias)),
            ("selection bias", tensor(&self.selection_bias)),
            ("expert scale", tensor(&self.expert_scale)),
        ])
    }
}

impl<'a> Tensor<'a> {
    fn new(tensor: &'a RouterTensor) -> Self {
        let (min, max) = tensor.range.unzip();
        Tensor { name: &tensor.name, dtypes: &tensor.dtypes, min, max }
    }

    fn describe(&self) -> String {
        let mut text = printable(self.name).into_owned();
        if !self.dtypes.is_empty() {
            text += &format!(", {}", self.dtypes.join(" and "));
        }
        if let (Some(min), Some(max)) = (self.min, self.max) {
            text += &format!(", {min:.4} to {max:.4}");
        }
        text
    }
}

impl<'a> Setting<'a> {
    fn new(setting: &'a RouterSetting) -> Self {
        Setting {
            key: &setting.key,
            meaning: setting.meaning,
            value: setting.value.as_deref(),
            taken: setting.taken.as_deref(),
            source: match setting.source {
                SettingSource::Config => "config",
                SettingSource::Default => "default",
                SettingSource::Ignored => "ignored",
            },
        }
    }
}

fn text(report: &RouterReport, path: &str) -> String {
    let Report { family, text_part_of, routers, settings, findings, .. } = Report::new(report);
    let mut about = vec![("model", printable(path).into_owned())];
    about.extend(family.map(|family| ("family", family.to_owned())));
    about.extend(text_part_of.map(|whole| ("text part of", printable(whole).into_owned())));
    if family.is_some() && routers.is_empty() {
        about.push(("router", "none: all layers are dense".into()));
    }
    let mut text = facts(&about);
    for router in &routers {
        text += &format!("\n{}", router.facts(report));
    }
    if !settings.is_empty() {
        text += &format!("\n{}", table(&settings));
    }
    if family.is_some() && !report.has_weights {
        text += &format!("\n{FAINT}No weights here: only config.json was looked at.{FAINT:#}\n");
    }
    let well =
        if report.has_weights { "Config and weights agree." } else { "Nothing in it contradicts itself." };
    text + "\n" + &advice(&findings, well)
}

fn table(settings: &[Setting<'_>]) -> String {
    let mut table = Table::new(&["config.json", "decides", "says", "taken"].map(|name| (name, Align::Left)));
    for setting in settings {
        let taken = setting.taken.unwrap_or("n/a");
        table.row([
            setting.key.into(),
            setting.meaning.into(),
            setting.value.map_or("nothing".into(), |value| printable(value).into_owned()),
            match setting.source {
                "default" => format!("{taken}, the default"),
                "ignored" => format!("{taken}, the key is not read"),
                _ => taken.to_owned(),
            },
        ]);
    }
    table.render()
}

/// The first and the last of many layers.
fn listed(layers: &[usize]) -> String {
    const MOST: usize = 8;
    let names: Vec<_> = layers.iter().map(ToString::to_string).collect();
    if names.len() <= MOST {
        return names.join(", ");
    }
    format!("{}, ..., {}", names[..MOST - 1].join(", "), names[names.len() - 1])
}
