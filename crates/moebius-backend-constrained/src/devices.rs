//! Experts spread over devices: who gets how many tokens, who waits for whom, and what crosses the links.
//!
//! ```text
//! straggler = Σ max_d n[b, d] / Σ mean_d n[b, d]      n[b, d]: pairs of batch b on device d
//! overflow  = Σ max(0, n[b, d] - ceil(c · mean_d n[b, d]))      c: the capacity factor
//! crossing  = Σ_t |devices of t's experts, but for t's own|      sent there once, and gathered back once
//! ```
//! Devices hold runs of neighbouring ids of equal length, but for rounding. The tokens of a batch are shared out likewise:
//! token `t` of `T` lies on device `t · D / T` before it is sent. Every batch ends when its last device is done.
//!
//! Shapes: pairs are `[devices]`.
//! Invariants: what is unknown, because nothing was routed, is `None`.

use moebius_router::{LoadStats, Routing};

/// Which device holds which experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    n_experts: usize,
    devices: usize,
}

impl Placement {
    /// `n_experts` in contiguous groups on `devices`; `None` without experts or devices, and for more devices than
    /// experts.
    pub fn contiguous(n_experts: usize, devices: usize) -> Option<Self> {
        (1..=n_experts).contains(&devices).then_some(Placement { n_experts, devices })
    }

    /// How many devices there are.
    pub fn devices(&self) -> usize {
        self.devices
    }

    /// How many experts they hold together.
    pub fn n_experts(&self) -> usize {
        self.n_experts
    }

    /// The device of an expert. Ids beyond the last count as the last.
    pub fn device_of(&self, expert: u32) -> usize {
        let expert = (expert as usize).min(self.n_experts - 1);
        expert * self.devices / self.n_experts
    }

    /// The device on which token `token` of `tokens` lies before it is sent.
    pub fn home_of(&self, token: usize, tokens: usize) -> usize {
        token * self.devices / tokens.max(1)
    }
}

/// What one batch asks of the devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchLoad {
    /// Token-expert pairs of each device.
    pub pairs: Vec<u64>,
    /// Pairs of a token and a device that is not its own.
    pub crossing: u64,
    /// Tokens.
    pub tokens: u64,
}

impl BatchLoad {
    /// Of the experts of each token, in the order of the tokens.
    pub fn new<'a>(placement: Placement, tokens: impl ExactSizeIterator<Item = &'a [u32]>) -> Self {
        let count = tokens.len();
        let mut load = BatchLoad { pairs: vec![0; placement.devices], crossing: 0, tokens: count as u64 };
        let mut visited = vec![usize::MAX; placement.devices];
        for (token, experts) in tokens.enumerate() {
            let home = placement.home_of(token, count);
            for &expert in experts {
                let device = placement.device_of(expert);
                load.pairs[device] += 1;
                if device != home && visited[device] != token {
                    load.crossing += 1;
                }
                visited[device] = token;
            }
        }
        load
    }

    /// Pairs that devices could not take if each had room for `capacity_factor` times an even share.
    pub fn overflow(&self, capacity_factor: f64) -> u64 {
        let mean = self.pairs.iter().sum::<u64>() as f64 / self.pairs.len().max(1) as f64;
        let room = (capacity_factor * mean).ceil() as u64;
        self.pairs.iter().map(|pairs| pairs.saturating_sub(room)).sum()
    }
}

/// What many batches asked of the devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    placement: Placement,
    capacity_factor: Option<f64>,
    pairs: Vec<u64>,
    busiest: u64,
    crossing: u64,
    overflow: u64,
    tokens: u64,
    batches: u64,
}

impl Balance {
    /// Without batches so far.
    pub fn new(placement: Placement, capacity_factor: Option<f64>) -> Self {
        Balance {
            placement,
            capacity_factor,
            pairs: vec![0; placement.devices],
            busiest: 0,
            crossing: 0,
            overflow: 0,
            tokens: 0,
            batches: 0,
        }
    }

    /// Adds a batch of this placement.
    pub fn add(&mut self, batch: &BatchLoad) {
        self.pairs.iter_mut().zip(&batch.pairs).for_each(|(sum, pairs)| *sum += pairs);
        self.busiest += batch.pairs.iter().max().copied().unwrap_or(0);
        self.crossing += batch.crossing;
        self.overflow += self.capacity_factor.map_or(0, |factor| batch.overflow(factor));
        self.tokens += batch.tokens;
        self.batches += 1;
    }

    /// Adds a routing, in batches of at most `batch` tokens.
    pub fn add_routing(&mut self, routing: &Routing, batch: usize) {
        let tokens: Vec<&[u32]> = (0..routing.tokens()).map(|token| routing.experts(token)).collect();
        for tokens in tokens.chunks(batch.max(1)) {
            self.add(&BatchLoad::new(self.placement, tokens.iter().copied()));
        }
    }

    /// Which device holds what.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Token-expert pairs of each device.
    pub fn pairs(&self) -> &[u64] {
        &self.pairs
    }

    /// Tokens that were routed.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Batches that they came in.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Pairs of a token and a device that is not its own: activations that are sent, and as many that come back.
    pub fn crossing(&self) -> u64 {
        self.crossing
    }

    /// Time of the busiest device of each batch over that of an even spread; 1 is even.
    pub fn straggler(&self) -> Option<f64> {
        let pairs: u64 = self.pairs.iter().sum();
        (pairs > 0).then(|| self.busiest as f64 * self.pairs.len() as f64 / pairs as f64)
    }

    /// Jain's index of the devices over all batches together: from one over the number of devices to 1, which is even.
    pub fn jain_index(&self) -> Option<f64> {
        LoadStats::from_counts(&self.pairs).jain_index
    }

    /// Share of the pairs that found no room on their device: they would be dropped, or sent elsewhere. `None` without
    /// a capacity.
    pub fn overflow_share(&self) -> Option<f64> {
        self.capacity_factor?;
        let pairs: u64 = self.pairs.iter().sum();
        (pairs > 0).then(|| self.overflow as f64 / pairs as f64)
    }

    /// Bytes that cross links for a token on average: `hidden` numbers of `dispatch_bytes` to each other device, and of
    /// `combine_bytes` back.
    pub fn bytes_per_token(&self, hidden: usize, (dispatch_bytes, combine_bytes): (u64, u64)) -> Option<f64> {
        let bytes = self.crossing as f64 * hidden as f64 * (dispatch_bytes + combine_bytes) as f64;
        (self.tokens > 0).then(|| bytes / self.tokens as f64)
    }
}

/// What grouped routing (MoGE, arXiv 2505.21411) makes of `tokens` tokens in batches of `batch`: every token has as many
/// experts on each device, which follows from the rule alone. `None` where `top_k` is no multiple of the devices.
pub fn grouped_balance(
    placement: Placement,
    top_k: usize,
    (tokens, batch): (u64, u64),
    capacity_factor: Option<f64>,
) -> Option<Balance> {
    let devices = placement.devices;
    if top_k == 0 || !top_k.is_multiple_of(devices) || !placement.n_experts.is_multiple_of(top_k) {
        return None;
    }
    let mut balance = Balance::new(placement, capacity_factor);
    let mut left = tokens;
    while left > 0 {
        let now = left.min(batch.max(1));
        balance.add(&BatchLoad {
            pairs: vec![now * (top_k / devices) as u64; devices],
            crossing: now * (devices as u64 - 1),
            tokens: now,
        });
        left -= now;
    }
    Some(balance)
}

#[cfg(test)]
mod tests {
    use moebius_router::{Router, RouterConfig, WeightTarget};

    use super::*;

    fn routing(n_experts: usize, top_k: usize, experts: &[u32]) -> Routing {
        let weights = vec![1.0; experts.len()];
        Routing::from_parts(n_experts, top_k, experts.to_vec(), weights, WeightTarget::Output).unwrap()
    }

    fn balance(devices: usize, capacity: Option<f64>, routing: &Routing, batch: usize) -> Balance {
        let placement = Placement::contiguous(routing.n_experts(), devices).unwrap();
        let mut balance = Balance::new(placement, capacity);
        balance.add_routing(routing, batch);
        balance
    }

    #[test]
    fn devices_hold_runs_of_neighbouring_experts() {
        let of = |n, devices| {
            let placement = Placement::contiguous(n, devices).unwrap();
            (0..n as u32).map(|expert| placement.device_of(expert)).collect::<Vec<_>>()
        };
        assert_eq!(of(8, 4), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(of(5, 2), [0, 0, 0, 1, 1]);
        assert_eq!((Placement::contiguous(4, 5), Placement::contiguous(4, 0)), (None, None));
        assert_eq!(Placement::contiguous(0, 0), None);
    }

    #[test]
    fn four_tokens_on_two_devices_are_as_counted_by_hand() {
        // Experts 0 and 1 on device 0, 2 and 3 on device 1; tokens 0 and 1 at home on device 0, 2 and 3 on device 1.
        let routing = routing(4, 2, &[0, 1, 0, 2, 0, 1, 2, 3]);
        let balance = balance(2, Some(1.0), &routing, 4);
        assert_eq!(balance.pairs(), [5, 3]);
        // Token 1 sends one row to device 1, token 2 one to device 0, though two experts of device 0 read it.
        assert_eq!(balance.crossing(), 2);
        assert_eq!(balance.straggler(), Some(5.0 / 4.0));
        assert_eq!(balance.jain_index(), Some(64.0 / (2.0 * 34.0)));
        assert_eq!(balance.overflow_share(), Some(1.0 / 8.0));
        // Two rows of 10 numbers, one byte there and two back, over four tokens.
        assert_eq!(balance.bytes_per_token(10, (1, 2)), Some(15.0));
    }

    #[test]
    fn a_straggler_is_one_of_its_batch_and_not_of_the_sum() {
        // One batch all on device 0, the next all on device 1: even in the sum, and twice as slow.
        let routing = routing(4, 2, &[0, 1, 2, 3]);
        let apart = balance(2, Some(1.0), &routing, 1);
        assert_eq!((apart.straggler(), apart.jain_index(), apart.batches()), (Some(2.0), Some(1.0), 2));
        assert_eq!(apart.overflow_share(), Some(0.5));
        let together = balance(2, Some(1.0), &routing, 2);
        assert_eq!((together.straggler(), together.overflow_share()), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn one_device_waits_for_nobody_and_sends_nothing() {
        let balance = balance(1, Some(1.0), &routing(4, 2, &[0, 1, 0, 1, 0, 3]), 8);
        assert_eq!((balance.straggler(), balance.crossing()), (Some(1.0), 0));
        assert_eq!(balance.overflow_share(), Some(0.0));
    }

    #[test]
    fn nothing_is_known_of_no_tokens_and_no_overflow_without_a_capacity() {
        let empty = balance(2, Some(1.5), &routing(4, 2, &[]), 4);
        assert_eq!(
            (empty.straggler(), empty.jain_index(), empty.overflow_share(), empty.bytes_per_token(8, (2, 2))),
            (None, None, None, None)
        );
        assert_eq!(balance(2, None, &routing(4, 2, &[0, 1]), 4).overflow_share(), None);
    }

    #[test]
    fn grouped_routing_is_as_even_as_its_rule_says() {
        let (n, devices, tokens) = (32, 8, 40);
        let router = Router::new(0, RouterConfig::one_per_group(n, 8, vec![1.0; n])).unwrap();
        let logits: Vec<f32> = (0..n * tokens).map(|i| ((i * i) % 97) as f32 / 10.0).collect();
        let routed = balance(devices, Some(1.0), &router.route(&logits).unwrap(), 16);
        let placement = Placement::contiguous(n, devices).unwrap();
        let by_rule = grouped_balance(placement, 8, (tokens as u64, 16), Some(1.0)).unwrap();
        assert_eq!(routed, by_rule);
        assert_eq!((by_rule.straggler(), by_rule.overflow_share()), (Some(1.0), Some(0.0)));
        assert_eq!(by_rule.crossing(), 7 * tokens as u64);
        assert_eq!(grouped_balance(placement, 6, (4, 4), None), None);
    }
}
