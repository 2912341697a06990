//! What does not fit together around a router.

use std::collections::BTreeMap;

use moebius_model::{LayerRouter, NamedTensor, Routers, StoredTensor, TensorProblem};
use moebius_router::RouterError;

use super::settings::{RouterSetting, SettingSource, Topic};
use super::{Finding, releases};

/// Parts of names that only tensors of routers have.
const ROUTER_NAMES: [&str; 7] =
    ["router", "e_score", "correction_bias", "expert_bias", "expert_scale", "tid2eid", "moe_statics"];

/// A kind of tensor in words, and which of a router's it is.
type Kind = (&'static str, fn(&LayerRouter) -> Option<&NamedTensor>);

/// Everything that was found, the settings first.
pub(super) fn of(routers: &Routers, settings: &[RouterSetting]) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(routers.unsound.as_ref().map(unsound));
    if let Some(first) = routers.layers.first() {
        findings.extend(settings.iter().filter_map(|setting| of_setting(routers.family, setting, first)));
    }
    if routers.has_weights {
        findings.extend(expert_counts(routers));
        findings.extend(missing_tensors(routers, settings));
        findings.extend(left_over(routers, settings));
        findings.extend(vectors(routers));
        findings.extend(dtypes(routers));
        findings.extend(other_problems(routers));
    }
    findings
}

fn finding(what: String, hint: impl Into<String>) -> Finding {
    Finding { what, hint: hint.into() }
}

fn unsound(error: &RouterError) -> Finding {
    let hint =
        "compare the numbers of experts, of experts per token and of groups with the published config.json";
    finding(format!("the settings make no router: {error}"), hint)
}

/// What is wrong with a key of config.json.
fn of_setting(family: &str, setting: &RouterSetting, router: &LayerRouter) -> Option<Finding> {
    let RouterSetting { key, value, taken, source, topic, .. } = setting;
    let published = releases::values(family, key);
    let others: Vec<_> =
        published.iter().filter(|(_, said)| topic.contradicts(said, &router.config)).cloned().collect();
    let decides_weights = matches!(topic, Topic::Renormalize | Topic::Scale);
    match (source, value) {
        (SettingSource::Default, _) if decides_weights || !others.is_empty() => {
            let what = format!(
                "`{key}` is missing: the default of the family's class, `{}`, is taken",
                taken.as_ref()?
            );
            Some(finding(what + consequence(*topic, router), missing_hint(key, &published, &others)))
        }
        (SettingSource::Config, Some(value))
            if *topic == Topic::Renormalize && !published.is_empty() && others.len() == published.len() =>
        {
            let hint = format!("{}; was this model trained otherwise?", releases::in_words(&published));
            Some(finding(format!("`{key}` is `{value}`, unlike every published {family}"), hint))
        }
        (SettingSource::Ignored, Some(value)) if topic.contradicts(value, &router.config) => {
            let what =
                format!("`{key}` is `{value}`, but {family} never reads it{}", consequence(*topic, router));
            Some(finding(
                what,
                "this is what the reference implementation does; remove the key, or check the family",
            ))
        }
        _ => None,
    }
}

/// What a router does about it, after a comma.
fn consequence(topic: Topic, router: &LayerRouter) -> &'static str {
    match topic {
        Topic::Renormalize if super::settings::renormalizes(&router.config) => {
            ", so weights are renormalised"
        }
        Topic::Renormalize => ", so weights are not renormalised",
        _ => "",
    }
}

fn missing_hint(key: &str, published: &[(&str, String)], others: &[(&str, String)]) -> String {
    match (published, others) {
        ([], _) => format!("add `{key}` with the value that the model was trained with"),
        (_, []) => {
            format!("{}, as is taken; add it, so that other programs agree", releases::in_words(published))
        }
        _ => format!("{}; add the value that the model was trained with", releases::in_words(published)),
    }
}

/// Layers whose weights have another number of experts than config.json.
fn expert_counts(routers: &Routers) -> Vec<Finding> {
    let mut by_count: BTreeMap<(usize, usize, Option<usize>), Vec<usize>> = BTreeMap::new();
    for router in &routers.layers {
        let rows = router.gate.stored.as_ref().and_then(|stored| stored.shape.first().copied());
        let (expected, stored) =
            (router.config.n_experts, router.stored_experts.unwrap_or(router.config.n_experts));
        if stored != expected || rows.is_some_and(|rows| rows != expected) {
            by_count.entry((expected, stored, rows)).or_default().push(router.layer);
        }
    }
    let described = |((expected, stored, rows), layers): ((usize, usize, Option<usize>), Vec<usize>)| {
        let rows = rows.map_or("no router weight".into(), |rows| format!("a router weight of {rows} rows"));
        let layers = layer_list(&layers);
        let what =
            format!("config.json says {expected} experts, the weights have {stored} and {rows} in {layers}");
        let hint = match stored < expected {
            true => {
                "if experts were pruned, config.json and the router's rows must be cut alike; else files are missing"
            }
            false => "config.json is another model's, or the number of experts in it was changed",
        };
        finding(what, hint)
    };
    by_count.into_iter().map(described).collect()
}

/// Tensors of routers that are asked for and not there, or of another shape.
fn missing_tensors(routers: &Routers, settings: &[RouterSetting]) -> Vec<Finding> {
    let kinds: [Kind; 4] = [
        ("router weight", |router| Some(&router.gate)),
        ("router bias", |router| router.gate_bias.as_ref()),
        ("selection bias", |router| router.selection_bias.as_ref()),
        ("scale of experts", |router| router.expert_scale.as_ref()),
    ];
    let mut findings = Vec::new();
    for (kind, of) in kinds {
        let asked = || routers.layers.iter().filter_map(of);
        let missing: Vec<_> =
            asked().filter(|tensor| tensor.stored.is_none()).map(|tensor| &*tensor.name).collect();
        if !missing.is_empty() {
            let said = switch(settings).filter(|_| kind == "selection bias");
            let said = said.map_or("the family has one".into(), |(key, value)| format!("`{key}` is {value}"));
            let what = format!("{said}, but the weights have no {kind} {}", places(missing));
            findings.push(finding(
                what,
                "it may have been lost in a conversion; without it other experts are chosen",
            ));
        }
        let misshapen =
            |tensor: &&NamedTensor| tensor.stored.as_ref().is_some_and(|s| s.shape != tensor.shape);
        if let Some(NamedTensor { name, shape, stored: Some(stored) }) = asked().find(misshapen) {
            let what = format!("the {kind} `{name}` is {:?}, expected {shape:?}", stored.shape);
            findings.push(finding(what, "config.json and the weights must come from the same model"));
        }
    }
    findings
}

/// The key that switches the selection bias, with what it says or stands for.
fn switch(settings: &[RouterSetting]) -> Option<(&str, String)> {
    let switch = settings.iter().find(|setting| setting.topic == Topic::SelectionBias)?;
    let value = match &switch.value {
        Some(value) => format!("`{value}`"),
        None => "missing, which stands for `true`".into(),
    };
    Some((&switch.key, value))
}

/// Tensors that look like a router's and that nothing asked for.
fn left_over(routers: &Routers, settings: &[RouterSetting]) -> Vec<Finding> {
    let is_gate = |name: &str| name.split('.').any(|part| part == "gate" || part == "wg");
    let is_router = |name: &&str| {
        let known = ROUTER_NAMES.iter().any(|part| name.contains(part)) || is_gate(name);
        known && !name.contains(".experts.")
    };
    let names: Vec<&str> = routers.unknown_tensors.iter().map(String::as_str).filter(is_router).collect();
    let is_selection =
        |name: &&str| ["correction_bias", "expert_bias"].iter().any(|part| name.contains(part));
    let is_logit_bias = |name: &&str| name.ends_with(".bias");
    let (selection, rest): (Vec<_>, Vec<_>) = names.into_iter().partition(is_selection);
    let (logit, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(is_logit_bias);
    let mut findings = Vec::new();
    if !selection.is_empty() {
        let said = switch(settings).map(|(key, value)| format!("`{key}` is {value}"));
        let said = said.unwrap_or_else(|| format!("{} has no selection bias", routers.family));
        let what = format!("{said}, but the weights have one that is not used: {}", places(selection));
        findings.push(finding(
            what,
            "with it other experts are chosen: config.json or `model_type` is another model's",
        ));
    }
    if !logit.is_empty() {
        let what = format!("the weights have a router bias that is not used: {}", places(logit));
        let hint = format!(
            "{} adds none to its logits: config.json or `model_type` is another model's",
            routers.family
        );
        findings.push(finding(what, hint));
    }
    if !rest.is_empty() {
        let what = format!("tensors that look like a router's are not used: {}", places(rest));
        findings.push(finding(what, "the model may need another formula than the one that its family has"));
    }
    findings
}

/// Vectors over experts that do nothing, or are no numbers.
fn vectors(routers: &Routers) -> Vec<Finding> {
    let kinds: [Kind; 2] = [
        ("selection bias", |router| router.selection_bias.as_ref()),
        ("scale of experts", |router| router.expert_scale.as_ref()),
    ];
    let mut findings = Vec::new();
    for (kind, of) in kinds {
        let with = |is: fn(&StoredTensor) -> bool| -> Vec<&str> {
            let tensors = routers.layers.iter().filter_map(of);
            tensors.filter(|t| t.stored.as_ref().is_some_and(is)).map(|t| &*t.name).collect()
        };
        let zero =
            with(|stored| !stored.values.is_empty() && stored.values.iter().all(|value| *value == 0.0));
        if !zero.is_empty() {
            let hint = "it was never trained, or it was lost in a conversion that made it anew";
            findings.push(finding(format!("the {kind} is all zeros {}", places(zero)), hint));
        }
        let broken = with(|stored| stored.values.iter().any(|value| !value.is_finite()));
        if !broken.is_empty() {
            let what = format!("the {kind} has values that are not finite {}", places(broken));
            findings.push(finding(what, "the file is damaged or was badly converted"));
        }
        let rounded = with(|stored| matches!(stored.dtype.as_str(), "BF16" | "F16"));
        if kind == "selection bias" && !rounded.is_empty() {
            let what = format!("the {kind} is stored in 16 bits {}", places(rounded));
            let hint = "it is trained in steps of about 0.001 in F32, which 16 bits may round away; choices near a tie move";
            findings.push(finding(what, hint));
        }
    }
    findings
}

/// Router weights that are stored in several types, or in fewer bits than a router bears.
fn dtypes(routers: &Routers) -> Vec<Finding> {
    let mut by_dtype: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for router in &routers.layers {
        if let Some(stored) = &router.gate.stored {
            by_dtype.entry(&stored.dtype).or_default().push(router.layer);
        }
    }
    let is_plain = |dtype: &str| ["f32", "f16", "bf16"].contains(&dtype.to_lowercase().as_str());
    let mut findings = Vec::new();
    for (dtype, layers) in by_dtype.iter().filter(|(dtype, _)| !is_plain(dtype)) {
        let what = format!("the router weight is stored in {dtype} in {}", layer_list(layers));
        findings.push(finding(
            what,
            "a rounded router chooses other experts; convert it from the original again",
        ));
    }
    if by_dtype.len() > 1 {
        let each: Vec<_> =
            by_dtype.iter().map(|(dtype, layers)| format!("{dtype} in {}", layer_list(layers))).collect();
        let what = format!("the router weight is stored in several types: {}", each.join(", "));
        findings.push(finding(what, "some layers may have been rounded: compare with the original"));
    }
    findings
}

/// Tensors beside the router that are missing or misshapen.
fn other_problems(routers: &Routers) -> Option<Finding> {
    let counted = |name: &str| {
        let named = |router: &LayerRouter| {
            let vectors = [&router.gate_bias, &router.selection_bias, &router.expert_scale];
            router.gate.name == name || vectors.into_iter().flatten().any(|tensor| tensor.name == name)
        };
        name.contains("experts") || routers.layers.iter().any(named)
    };
    let name = |problem: &TensorProblem| match problem {
        TensorProblem::Missing { name, .. }
        | TensorProblem::Shape { name, .. }
        | TensorProblem::Dtype { name, .. } => name.clone(),
    };
    let names: Vec<_> = routers.problems.iter().map(name).filter(|name| !counted(name)).collect();
    let first = names.first()?;
    let what = format!("tensors beside the router do not fit: {}, the first is `{first}`", names.len());
    Some(finding(what, "`moebius show` lists them"))
}

/// A name with `N` for the layer, and the layer.
pub(super) fn pattern(name: &str) -> (String, Option<usize>) {
    let mut layer = None;
    let part = |part: &str| match (layer, part.parse::<usize>()) {
        (None, Ok(number)) => {
            layer = Some(number);
            "N".to_owned()
        }
        _ => part.to_owned(),
    };
    let parts: Vec<_> = name.split('.').map(part).collect();
    (parts.join("."), layer)
}

/// Names by pattern with the layers that they are in: "`a.N.b` in layers 0 to 3".
fn places<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let mut by_pattern: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for name in names {
        let (pattern, layer) = pattern(name);
        by_pattern.entry(pattern).or_default().extend(layer);
    }
    let place = |(pattern, layers): (String, Vec<usize>)| match layers.is_empty() {
        true => format!("`{pattern}`"),
        false => format!("`{pattern}` in {}", layer_list(&layers)),
    };
    by_pattern.into_iter().map(place).collect::<Vec<_>>().join(", ")
}

/// "layer 3", "layers 0 to 5, 7".
pub(crate) fn layer_list(layers: &[usize]) -> String {
    let mut sorted = layers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let runs: Vec<_> = sorted
        .chunk_by(|a, b| a + 1 == *b)
        .map(|run| match run {
            [one] => one.to_string(),
            [first, second] => format!("{first}, {second}"),
            run => format!("{} to {}", run[0], run[run.len() - 1]),
        })
        .collect();
    format!("layer{} {}", if sorted.len() == 1 { "" } else { "s" }, runs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_follow_each_other_are_told_as_runs() {
        for (layers, expected) in [
            (&[3][..], "layer 3"),
            (&[1, 0], "layers 0, 1"),
            (&[0, 1, 2, 5], "layers 0 to 2, 5"),
            (&[1, 1, 4], "layers 1, 4"),
        ] {
            assert_eq!(layer_list(layers), expected);
        }
    }

    #[test]
    fn names_are_told_once_with_their_layers() {
        let names = ["a.0.gate.bias", "a.1.gate.bias", "a.0.tid2eid", "b"];
        assert_eq!(places(names), "`a.N.gate.bias` in layers 0, 1, `a.N.tid2eid` in layer 0, `b`");
        assert_eq!(
            pattern("model.layers.12.mlp.experts.3.w1"),
            ("model.layers.N.mlp.experts.3.w1".into(), Some(12))
        );
    }
}
