//! Experts spread over virtual devices: what a trace, or random logits, would ask of each.
//!
//! Plain top-k sends a batch wherever its tokens want to go, and the busiest device is the one that all wait for. Grouped
//! routing (MoGE, arXiv 2505.21411) lets every token choose as many experts on each device, so that none waits. Limits on
//! groups (arXiv 2412.19437) bound how many devices a token is sent to, and not how even they are.
//!
//! Invariants: what a trace does not tell is not guessed: its tokens had no other logits than those that it has no record
//! of, so that grouped routing of a trace is known by its rule alone.

use std::path::Path;

use moebius_backend_constrained::{Balance, BatchLoad, Placement, grouped_balance};
use moebius_router::{GroupRank, Router, RouterConfig, Selection};

use crate::bench::Random;
use crate::trace::{TraceHeader, TraceKind, TraceReader, TraceRecord};
use crate::{Error, Result};

/// How experts are spread and tokens come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Devices, each with a run of neighbouring experts.
    pub devices: usize,
    /// Tokens that are routed together, over all devices.
    pub batch: usize,
    /// Room of a device, as a multiple of an even share; `None` is room for all.
    pub capacity_factor: Option<f64>,
}

impl Spread {
    fn placement(&self, n_experts: usize) -> Result<Placement> {
        Placement::contiguous(n_experts, self.devices).ok_or(Error::InvalidOption {
            name: "number of devices",
            expected: "at least 1 and at most the experts of a layer",
            got: self.devices,
        })
    }
}

/// What the layers of a trace ask of devices.
#[derive(Clone, Debug)]
pub struct TraceDevices {
    /// The trace's header.
    pub header: TraceHeader,
    /// By layer, in the header's order.
    pub layers: Vec<LayerDevices>,
    /// Bytes after the last whole record: what a program that was killed left.
    pub incomplete_bytes: usize,
}

/// One layer.
#[derive(Clone, Debug)]
pub struct LayerDevices {
    /// The decoder layer.
    pub layer: usize,
    /// As its tokens were routed.
    pub routed: Balance,
    /// As grouped routing would have spread as many tokens; `None` where experts per token are no multiple of devices.
    pub grouped: Option<Balance>,
}

/// Reads a trace, its tokens in batches in the order of their records.
///
/// # Errors
/// Those of [`TraceReader`]; [`Error::Trace`] for one of counts alone, [`Error::InvalidOption`] for more devices than
/// experts.
pub fn trace_devices(path: &Path, spread: &Spread) -> Result<TraceDevices> {
    let mut reader = TraceReader::open(path)?;
    let header = reader.header().clone();
    if header.kind == TraceKind::Counts {
        let reason =
            "expected the routes of tokens, got counts of experts alone, from which no batch can be told";
        return Err(Error::Trace { path: path.into(), reason: reason.into() });
    }
    let placements: Vec<Placement> =
        header.layers.iter().map(|layer| spread.placement(layer.experts as usize)).collect::<Result<_>>()?;
    let mut balances: Vec<Balance> =
        placements.iter().map(|&placement| Balance::new(placement, spread.capacity_factor)).collect();
    let mut batch: Vec<Vec<Vec<u32>>> = vec![Vec::new(); placements.len()];
    let mut flush = |batch: &mut Vec<Vec<Vec<u32>>>| {
        for ((tokens, balance), &placement) in batch.iter_mut().zip(&mut balances).zip(&placements) {
            if !tokens.is_empty() {
                balance.add(&BatchLoad::new(placement, tokens.iter().map(Vec::as_slice)));
            }
            tokens.clear();
        }
    };
    for record in reader.by_ref() {
        let TraceRecord::Token(token) = record? else { continue };
        batch.iter_mut().zip(token.routes).for_each(|(tokens, route)| tokens.push(route.experts));
        if batch.first().is_some_and(|tokens| tokens.len() >= spread.batch.max(1)) {
            flush(&mut batch);
        }
    }
    flush(&mut batch);
    let incomplete_bytes = reader.incomplete_bytes();
    let layers = header.layers.iter().zip(balances).zip(placements);
    let layers = layers.map(|((layer, routed), placement)| {
        let tokens = (routed.tokens(), spread.batch as u64);
        let grouped = grouped_balance(placement, layer.k as usize, tokens, spread.capacity_factor);
        LayerDevices { layer: layer.layer, routed, grouped }
    });
    let layers = layers.collect();
    Ok(TraceDevices { header, layers, incomplete_bytes })
}

/// Which experts random tokens like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taste {
    /// All alike.
    Uniform,
    /// The `i`-th of a random order in proportion to `1 / i`.
    Zipf,
}

impl Taste {
    /// Every taste with its name.
    pub const ALL: [(Taste, &'static str); 2] = [(Taste::Uniform, "uniform"), (Taste::Zipf, "zipf")];
}

/// A router by how it selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The best `k` of all experts.
    TopK,
    /// The best `k` within the better half of the devices.
    DeviceLimited,
    /// As many experts on each device (MoGE).
    Grouped,
}

impl Rule {
    /// Every rule with its name.
    pub const ALL: [(Rule, &'static str); 3] = [
        (Rule::TopK, "plain top-k"),
        (Rule::DeviceLimited, "half of the devices"),
        (Rule::Grouped, "grouped (MoGE)"),
    ];

    /// The router, for as many groups as devices; `None` where the numbers do not divide.
    fn config(self, n_experts: usize, top_k: usize, devices: usize) -> Option<RouterConfig> {
        let plain = RouterConfig::softmax_top_k(n_experts, top_k);
        match self {
            Rule::TopK => Some(plain),
            Rule::DeviceLimited => {
                let keep = devices / 2;
                let fits = devices >= 2
                    && n_experts.is_multiple_of(devices)
                    && n_experts / devices >= 2
                    && n_experts / devices * keep >= top_k;
                let selection = Selection::group_limited(devices, keep, GroupRank::TopTwoSum);
                fits.then_some(RouterConfig { selection, ..plain })
            }
            Rule::Grouped => (n_experts.is_multiple_of(top_k) && top_k.is_multiple_of(devices))
                .then(|| RouterConfig::one_per_group(n_experts, top_k, vec![1.0; n_experts])),
        }
    }
}

/// Random tokens and the layer that they go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synthetic {
    /// Experts.
    pub n_experts: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// Tokens.
    pub tokens: usize,
    /// Of the random numbers.
    pub seed: u64,
}

/// One taste through one router.
#[derive(Clone, Debug)]
pub struct SyntheticRow {
    /// What tokens like.
    pub taste: Taste,
    /// How they are routed.
    pub rule: Rule,
    /// What that asks of devices; `None` where the rule does not divide experts and devices.
    pub balance: Option<Balance>,
}

/// Sends the same random logits through every router, for every taste.
///
/// # Errors
/// [`Error::InvalidOption`] for numbers that no router has.
pub fn synthetic(task: &Synthetic, spread: &Spread) -> Result<Vec<SyntheticRow>> {
    let Synthetic { n_experts, top_k, tokens, seed } = *task;
    let placement = spread.placement(n_experts)?;
    if !(1..=n_experts).contains(&top_k) {
        let expected = "at least 1 and at most all experts";
        return Err(Error::InvalidOption { name: "experts per token", expected, got: top_k });
    }
    let mut rows = Vec::new();
    for (taste, _) in Taste::ALL {
        let logits = logits(taste, (tokens, n_experts), seed);
        for (rule, _) in Rule::ALL {
            let balance = rule.config(n_experts, top_k, spread.devices).map(|config| {
                let router = Router::new(0, config).map_err(moebius_backend::Error::from)?;
                let routing = router.route(&logits).map_err(moebius_backend::Error::from)?;
                let mut balance = Balance::new(placement, spread.capacity_factor);
                balance.add_routing(&routing, spread.batch);
                Ok::<_, Error>(balance)
            });
            rows.push(SyntheticRow { taste, rule, balance: balance.transpose()? });
        }
    }
    Ok(rows)
}

/// `[tokens, n_experts]`: the logarithm of how much an expert is liked, plus Gumbel noise, whose largest values are drawn
/// as if experts were drawn one after another without being put back.
fn logits(taste: Taste, (tokens, n_experts): (usize, usize), seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let mut order: Vec<usize> = (0..n_experts).collect();
    for last in (1..n_experts).rev() {
        let other = (random.unit() * (last + 1) as f64) as usize;
        order.swap(last, other.min(last));
    }
    let liked = |expert: usize| match taste {
        Taste::Uniform => 0.0,
        Taste::Zipf => -((order[expert] + 1) as f64).ln(),
    };
    let noise = |random: &mut Random| -(-random.unit().ln()).ln();
    let each = (0..tokens).flat_map(|_| 0..n_experts);
    each.map(|expert| (liked(expert) + noise(&mut random)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: Synthetic = Synthetic { n_experts: 64, top_k: 8, tokens: 512, seed: 7 };
    const SPREAD: Spread = Spread { devices: 8, batch: 64, capacity_factor: Some(1.25) };

    fn of(rows: &[SyntheticRow], taste: Taste, rule: Rule) -> &Balance {
        let row = rows.iter().find(|row| (row.taste, row.rule) == (taste, rule)).expect("a row");
        row.balance.as_ref().expect("the numbers divide")
    }

    #[test]
    fn grouped_routing_is_even_whatever_tokens_like_and_top_k_is_not() {
        let rows = synthetic(&TASK, &SPREAD).unwrap();
        for (taste, _) in Taste::ALL {
            let grouped = of(&rows, taste, Rule::Grouped);
            assert_eq!((grouped.straggler(), grouped.jain_index()), (Some(1.0), Some(1.0)), "{taste:?}");
            assert_eq!(grouped.overflow_share(), Some(0.0));
            assert!(of(&rows, taste, Rule::TopK).straggler() > Some(1.05), "{taste:?}");
        }
        let plain = |taste| of(&rows, taste, Rule::TopK).straggler();
        assert!(plain(Taste::Zipf) > plain(Taste::Uniform));
        assert!(of(&rows, Taste::Zipf, Rule::TopK).overflow_share() > Some(0.0));
    }

    #[test]
    fn a_limit_on_devices_bounds_what_is_sent() {
        let rows = synthetic(&TASK, &SPREAD).unwrap();
        let crossing = |rule| of(&rows, Taste::Uniform, rule).crossing();
        assert!(crossing(Rule::DeviceLimited) < crossing(Rule::TopK));
        assert!(crossing(Rule::DeviceLimited) <= 4 * 512 && crossing(Rule::Grouped) == 7 * 512);
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens() {
        let draw = |seed| logits(Taste::Zipf, (16, 8), seed);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(1).iter().all(|logit| logit.is_finite()));
    }

    #[test]
    fn numbers_that_do_not_divide_have_no_rule_and_nonsense_is_an_error() {
        let rows = synthetic(&Synthetic { top_k: 6, ..TASK }, &SPREAD).unwrap();
        assert!(rows.iter().filter(|row| row.rule == Rule::Grouped).all(|row| row.balance.is_none()));
        assert!(synthetic(&TASK, &Spread { devices: 65, ..SPREAD }).is_err());
        assert!(synthetic(&TASK, &Spread { devices: 0, ..SPREAD }).is_err());
        assert!(synthetic(&Synthetic { top_k: 0, ..TASK }, &SPREAD).is_err());
    }
}
