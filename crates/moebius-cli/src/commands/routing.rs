//! How the experts were used, and which inputs they prefer.
//!
//! Each input, a text or a trace, is one group of `moebius::router::Specialisation`, however many sequences it has.
//!
//! Invariants: layers without a router are absent and the others keep their numbers; what a single input
//! cannot tell is `None`, prints as n/a and is null.

use std::path::Path;

use console::truncate_str;
use moebius::LayerLoads;
use moebius::metering::format::{UNKNOWN, percent};
use moebius::router::{ExpertLoad, LoadStats, Specialisation};
use serde::Serialize;

use crate::table::{Align, Table};
use crate::terminal::FAINT;

/// Experts that are named for an input and layer.
const NAMED_EXPERTS: usize = 5;
/// A smaller lift reads as x1.0, which is no preference.
const LEAST_LIFT: f64 = 1.05;
/// Columns for the name of an input.
const NAME_WIDTH: usize = 24;

/// The routing of all inputs.
pub(crate) struct Routing<'a> {
    inputs: Vec<&'a str>,
    layers: Vec<Layer>,
}

/// One layer with a router.
struct Layer {
    layer: usize,
    n_experts: usize,
    /// Of all inputs together.
    stats: LoadStats,
    split: Specialisation,
}

/// What `--json` prints.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    inputs: &'a [&'a str],
    layers: Vec<LayerReport<'a>>,
}

#[derive(Serialize)]
struct LayerReport<'a> {
    layer: usize,
    experts: usize,
    normalized_entropy: Option<f64>,
    min_over_mean: Option<f64>,
    max_over_mean: Option<f64>,
    unused: Option<&'a [u32]>,
    mutual_information_nats: Option<f64>,
    share_of_maximum: Option<f64>,
    favourite: Vec<FavouriteReport>,
    /// `[inputs][experts]`.
    shares: &'a [Vec<f64>],
}

/// Which input, counted from 0, an expert serves most.
#[derive(Serialize)]
struct FavouriteReport {
    expert: usize,
    input: usize,
    lift: f64,
}

impl<'a> Routing<'a> {
    /// Of named inputs, in all of which the same layers routed tokens.
    pub(crate) fn new(inputs: Vec<&'a str>, groups: &[LayerLoads]) -> Self {
        let numbers = groups.first().into_iter().flat_map(LayerLoads::keys);
        let layer = |&layer: &usize| {
            let loads: Vec<ExpertLoad> = groups.iter().map(|group| group[&layer].clone()).collect();
            Layer::new(layer, &loads)
        };
        Routing { layers: numbers.map(layer).collect(), inputs }
    }

    /// For programs.
    pub(crate) fn report(&self) -> Report<'_> {
        Report { inputs: &self.inputs, layers: self.layers.iter().map(Layer::report).collect() }
    }

    /// For people: a table of layers, and with several inputs one of the experts that each prefers.
    pub(crate) fn render(&self) -> String {
        if self.layers.is_empty() {
            return "\nNo layer routed a token.\n".into();
        }
        let several = self.inputs.len() > 1;
        let preferences = if several { self.preferences() } else { String::new() };
        self.loads() + &preferences
    }

    fn loads(&self) -> String {
        let ceiling = match self.inputs.len() {
            1 => "MI/max".into(),
            inputs => format!("MI/ln {inputs}"),
        };
        let columns =
            ["layer", "experts", "entropy", "min/mean", "max/mean", "unused", "MI (nats)", &ceiling];
        let mut table = Table::new(&columns.map(|name| (name, Align::Right)));
        let number = |value: Option<f64>| value.map_or(UNKNOWN.into(), |value| format!("{value:.3}"));
        for Layer { layer, n_experts, stats, split } in &self.layers {
            table.row([
                layer.to_string(),
                n_experts.to_string(),
                number(stats.normalized_entropy),
                number(stats.min_over_mean),
                number(stats.max_over_mean),
                stats.unused.as_ref().map_or(UNKNOWN.into(), |unused| unused.len().to_string()),
                number(split.mutual_information_nats),
                percent(split.share_of_maximum),
            ]);
        }
        let caption = "load of the experts over all inputs, and mutual information (MI) of expert and input";
        format!("\n{FAINT}{caption}{FAINT:#}\n{}", table.render())
    }

    fn preferences(&self) -> String {
        let names = short_names(&self.inputs);
        let mut table =
            Table::new(&[("layer", Align::Right), ("input", Align::Left), ("prefers experts", Align::Left)]);
        for layer in &self.layers {
            for (index, name) in names.iter().enumerate() {
                let number = if index == 0 { layer.layer.to_string() } else { String::new() };
                table.row([number, name.clone(), layer.preferred(index)]);
            }
        }
        let caption = "experts that an input prefers, x times their mean share over the inputs";
        format!("\n{FAINT}{caption}{FAINT:#}\n{}", table.render())
    }
}

impl Layer {
    fn new(layer: usize, loads: &[ExpertLoad]) -> Self {
        const SAME: &str = "the inputs went through one model and have tokens";
        let split = Specialisation::of(loads).expect(SAME);
        let mut all = ExpertLoad::new(split.mean_shares.len());
        loads.iter().for_each(|load| all.merge(load).expect(SAME));
        Layer { layer, n_experts: split.mean_shares.len(), stats: all.stats(), split }
    }

    fn report(&self) -> LayerReport<'_> {
        let favourite = |expert| {
            let favourite = self.split.favourite(expert)?;
            Some(FavouriteReport { expert, input: favourite.group, lift: favourite.lift })
        };
        LayerReport {
            layer: self.layer,
            experts: self.n_experts,
            normalized_entropy: self.stats.normalized_entropy,
            min_over_mean: self.stats.min_over_mean,
            max_over_mean: self.stats.max_over_mean,
            unused: self.stats.unused.as_deref(),
            mutual_information_nats: self.split.mutual_information_nats,
            share_of_maximum: self.split.share_of_maximum,
            favourite: (0..self.n_experts).filter_map(favourite).collect(),
            shares: &self.split.shares,
        }
    }

    /// The experts that say most about an input, such as `e07 x3.4`, by how much it prefers them.
    fn preferred(&self, input: usize) -> String {
        let width = self.n_experts.saturating_sub(1).to_string().len();
        let experts = self.split.preferred(input).into_iter().take(NAMED_EXPERTS);
        let mut lifts: Vec<(usize, f64)> =
            experts.filter_map(|expert| Some((expert, self.split.lift(input, expert)?))).collect();
        lifts.retain(|&(_, lift)| lift >= LEAST_LIFT);
        lifts.sort_by(|a, b| b.1.total_cmp(&a.1));
        let named = lifts.iter().map(|(expert, lift)| format!("e{expert:0width$} x{lift:.1}"));
        if lifts.is_empty() { "none".into() } else { named.collect::<Vec<_>>().join("  ") }
    }
}

/// The names without their directories where that tells them apart, and no wider than their column.
pub(crate) fn short_names(names: &[&str]) -> Vec<String> {
    let file_name = |name: &&str| {
        Path::new(name).file_name().map_or((*name).into(), |file| file.to_string_lossy().into_owned())
    };
    let files: Vec<String> = names.iter().map(file_name).collect();
    let distinct = files.iter().enumerate().all(|(index, file)| !files[..index].contains(file));
    let names = if distinct { files } else { names.iter().map(|name| (*name).to_owned()).collect() };
    names.iter().map(|name| truncate_str(name, NAME_WIDTH, "…").into_owned()).collect()
}
