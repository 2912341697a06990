//! The time and energy that declared hardware would take: a model, beside what was measured here.
//!
//! ```text
//! an operation:  max(bytes / (share · bandwidth), 2 · padded multiply-adds / (share · peak)) + launch
//! experts:       the slowest device's sum of that over its experts, + tokens sent and gathered / link
//! energy:        watts · time, of devices that work and of those that wait
//! ```
//! The rows of other products are shared out over the devices, as plans do (arXiv 2412.19437). Nothing overlaps.
//!
//! Invariants: counts and times only grow; an operation on no rows takes no time.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};
use std::sync::{Mutex, MutexGuard, PoisonError};

use moebius_backend::{AttentionSpan, AttentionSpec, ExpertSpec, LinearSpec};
use moebius_expert_kernels::WeightFormat;
use moebius_router::Routing;

use crate::devices::{Balance, BatchLoad, Placement};
use crate::profile::{Profile, Watts};

/// Bytes of a number of activations, which such devices keep in 16 bits.
const ACTIVATION_BYTES: u64 = 2;

/// What was accounted for so far, or between two moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Modelled {
    /// Forward passes.
    pub passes: u64,
    /// Operations that were launched.
    pub operations: u64,
    /// Seconds of operations that wait for memory.
    pub memory_seconds: f64,
    /// Seconds of operations that wait for arithmetic.
    pub compute_seconds: f64,
    /// Seconds of launches.
    pub launch_seconds: f64,
    /// Seconds of sending tokens to other devices and back.
    pub exchange_seconds: f64,
    /// Seconds of fetching experts from the host or the disk.
    pub fetch_seconds: f64,
    /// Seconds that devices worked, added up over them; waiting for others is not in it.
    pub busy_seconds: f64,
    /// Multiply-adds of products with weights.
    pub macs: u64,
    /// The same with what tiles pad.
    pub padded_macs: u64,
    /// Bytes that crossed links between devices.
    pub exchanged_bytes: u64,
    /// Bytes of experts that were fetched.
    pub fetched_bytes: u64,
}

impl Modelled {
    /// Seconds in all.
    pub fn seconds(&self) -> f64 {
        self.memory_seconds
            + self.compute_seconds
            + self.launch_seconds
            + self.exchange_seconds
            + self.fetch_seconds
    }

    /// Adds `bytes` of experts that were not there and had to come from the host or the disk at `rate` bytes a second.
    pub fn fetch(&mut self, bytes: u64, rate: Option<f64>) {
        self.fetched_bytes = self.fetched_bytes.saturating_add(bytes);
        if bytes > 0 {
            // At no declared rate it takes a time that is not known, and not none.
            self.fetch_seconds += rate.map_or(f64::NAN, |rate| bytes as f64 / rate);
        }
    }

    /// Multiply-adds that tiles add, as a share of what was asked for; `None` without products.
    pub fn padding_share(&self) -> Option<f64> {
        (self.macs > 0).then(|| self.padded_macs as f64 / self.macs as f64 - 1.0)
    }

    /// Joules of `devices` devices; `None` where their power is not declared.
    pub fn joules(&self, watts: Option<Watts>, devices: usize) -> Option<f64> {
        let Watts { load, idle } = watts?;
        let all = self.seconds() * devices as f64;
        let busy = self.busy_seconds.min(all);
        Some(load * busy + idle.unwrap_or(load) * (all - busy))
    }

    fn zip(&self, other: &Modelled, count: fn(u64, u64) -> u64, seconds: fn(f64, f64) -> f64) -> Modelled {
        Modelled {
            passes: count(self.passes, other.passes),
            operations: count(self.operations, other.operations),
            memory_seconds: seconds(self.memory_seconds, other.memory_seconds),
            compute_seconds: seconds(self.compute_seconds, other.compute_seconds),
            launch_seconds: seconds(self.launch_seconds, other.launch_seconds),
            exchange_seconds: seconds(self.exchange_seconds, other.exchange_seconds),
            fetch_seconds: seconds(self.fetch_seconds, other.fetch_seconds),
            busy_seconds: seconds(self.busy_seconds, other.busy_seconds),
            macs: count(self.macs, other.macs),
            padded_macs: count(self.padded_macs, other.padded_macs),
            exchanged_bytes: count(self.exchanged_bytes, other.exchanged_bytes),
            fetched_bytes: count(self.fetched_bytes, other.fetched_bytes),
        }
    }
}

/// Joins the accounts of two stretches.
impl Add for &Modelled {
    type Output = Modelled;

    fn add(self, other: &Modelled) -> Modelled {
        self.zip(other, u64::saturating_add, f64::add)
    }
}

/// What was accounted for from an earlier moment to this one.
impl Sub for &Modelled {
    type Output = Modelled;

    fn sub(self, earlier: &Modelled) -> Modelled {
        self.zip(earlier, u64::saturating_sub, f64::sub)
    }
}

/// Seconds of one or several operations on one device.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    memory: f64,
    compute: f64,
    macs: u64,
    padded_macs: u64,
}

impl Cost {
    fn seconds(&self) -> f64 {
        self.memory + self.compute
    }

    fn add(&mut self, other: Cost) {
        self.memory += other.memory;
        self.compute += other.compute;
        self.macs = self.macs.saturating_add(other.macs);
        self.padded_macs = self.padded_macs.saturating_add(other.padded_macs);
    }
}

/// Accounts for what runs, by the figures of a profile.
#[derive(Debug)]
pub struct Ledger {
    profile: Profile,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    modelled: Modelled,
    balance: BTreeMap<usize, Balance>,
}

impl Ledger {
    /// An empty ledger. The profile must have no [`Profile::gap`]: times of what is not known are not numbers.
    pub fn new(profile: Profile) -> Self {
        Ledger { profile, state: Mutex::default() }
    }

    /// What times are taken from.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The account so far, of a model with so many decoder layers.
    pub fn snapshot(&self, layers: usize) -> Modelled {
        let mut modelled = self.lock().modelled.clone();
        let seconds = self.profile.launch.layer * layers as f64 * modelled.passes as f64;
        modelled.launch_seconds += seconds;
        modelled.busy_seconds += seconds * self.profile.devices as f64;
        modelled
    }

    /// How even the devices' loads were, by decoder layer; empty for one device.
    pub fn balance(&self) -> BTreeMap<usize, Balance> {
        self.lock().balance.clone()
    }

    /// A forward pass begins.
    pub(crate) fn pass(&self) {
        self.lock().modelled.passes += 1;
    }

    /// `rows` rows through a matrix, or through one for each of `heads` heads.
    pub(crate) fn product(&self, rows: usize, spec: &LinearSpec, heads: usize) {
        let (shape, heads) = ((spec.inputs as u64, spec.outputs as u64), heads as u64);
        let shared = rows.div_ceil(self.profile.devices) as u64;
        let mut cost = self.matrix(shared, shape, spec.format, heads);
        // Time is that of one device, work is that of all.
        cost.macs = (rows as u64).saturating_mul(spec.macs_per_token()).saturating_mul(heads);
        cost.padded_macs = cost.padded_macs.saturating_mul((rows as u64).div_ceil(shared.max(1)));
        self.book(rows, cost, self.profile.launch.product);
    }

    /// An operation of `rows` rows that reads and writes `numbers` numbers in all.
    pub(crate) fn vector(&self, rows: usize, numbers: usize) {
        let shared = (numbers as u64).div_ceil(self.profile.devices as u64);
        let cost = Cost { memory: self.read_seconds(shared * ACTIVATION_BYTES), ..Cost::default() };
        self.book(rows, cost, self.profile.launch.vector);
    }

    /// Attention of all spans: `position_numbers` numbers are read for each position that is seen, and a query and a key
    /// take `pair_macs` multiply-adds.
    pub(crate) fn attention(
        &self,
        spans: &[AttentionSpan<'_>],
        spec: &AttentionSpec,
        (position_numbers, pair_macs): (usize, usize),
    ) {
        let (mut pairs, mut keys, mut rows) = (0u64, 0u64, 0);
        for span in spans {
            let positions = span.first_position..span.first_position + span.rows.len();
            let seen = |position: usize| (position + 1 - spec.first_visible(position)) as u64;
            pairs += positions.clone().map(seen).sum::<u64>();
            keys += positions.end.saturating_sub(spec.first_visible(span.first_position)) as u64;
            rows += span.rows.len();
        }
        let devices = self.profile.devices as u64;
        let bytes = keys.saturating_mul(position_numbers as u64 * self.profile.cache_number_bytes);
        let macs = pairs.saturating_mul(pair_macs as u64).div_ceil(devices);
        let memory = self.read_seconds(bytes.div_ceil(devices));
        let compute = self.compute_seconds(macs, self.profile.half_peak());
        let cost = longer(memory, compute);
        self.book(rows, cost, self.profile.launch.product);
    }

    /// The experts of a layer for a batch.
    pub(crate) fn experts(&self, spec: &ExpertSpec, routing: &Routing) {
        if routing.pairs() == 0 {
            return;
        }
        let devices = self.profile.devices.min(spec.n_experts).max(1);
        let Some(placement) = Placement::contiguous(spec.n_experts, devices) else { return };
        let mut rows = vec![0u64; spec.n_experts];
        routing.all_experts().iter().for_each(|&expert| rows[expert as usize] += 1);
        let mut costs = vec![Cost::default(); devices];
        for (expert, &rows) in (0..).zip(&rows).filter(|(_, rows)| **rows > 0) {
            for &projection in spec.projections() {
                let (outputs, inputs) = spec.shape(projection);
                let shape = (inputs as u64, outputs as u64);
                let cost = self.matrix(rows, shape, spec.format_of(projection), 1);
                costs[placement.device_of(expert)].add(cost);
            }
        }
        let launch = &self.profile.launch;
        let launches = spec.projections().len() as f64 * launch.product + launch.vector;
        let batch = BatchLoad::new(placement, routing.iter().map(|(experts, _)| experts));
        let mut state = self.lock();
        self.exchange(&mut state, spec, &batch);
        if devices > 1 {
            let fresh = || Balance::new(placement, self.profile.capacity_factor);
            state.balance.entry(spec.layer).or_insert_with(fresh).add(&batch);
        }
        let slowest = costs.iter().copied().max_by(|a, b| a.seconds().total_cmp(&b.seconds()));
        let slowest = slowest.unwrap_or_default();
        let working = costs.iter().filter(|cost| cost.macs > 0).count() as f64;
        let busy: f64 = costs.iter().map(Cost::seconds).sum();
        let modelled = &mut state.modelled;
        modelled.operations += spec.projections().len() as u64 + 1;
        modelled.memory_seconds += slowest.memory;
        modelled.compute_seconds += slowest.compute;
        modelled.launch_seconds += launches;
        modelled.busy_seconds += busy + working * launches;
        modelled.macs += costs.iter().map(|cost| cost.macs).sum::<u64>();
        modelled.padded_macs += costs.iter().map(|cost| cost.padded_macs).sum::<u64>();
    }

    /// Dispatch and combine of a batch.
    fn exchange(&self, state: &mut State, spec: &ExpertSpec, batch: &BatchLoad) {
        let Some(link) = self.profile.link.filter(|_| batch.pairs.len() > 1) else { return };
        let bytes = 2 * batch.crossing * spec.hidden as u64 * ACTIVATION_BYTES;
        // Devices send side by side, each over its own link.
        let share = bytes as f64 / (batch.pairs.len() as u64).min(batch.tokens.max(1)) as f64;
        let seconds = share / link + 2.0 * self.profile.launch.exchange;
        state.modelled.operations += 2;
        state.modelled.exchange_seconds += seconds;
        state.modelled.exchanged_bytes += bytes;
        state.modelled.busy_seconds += seconds * batch.pairs.len() as f64;
    }

    /// `copies` matrices of `(inputs, outputs)`, each with `rows` rows.
    fn matrix(&self, rows: u64, shape: (u64, u64), format: WeightFormat, copies: u64) -> Cost {
        if rows == 0 {
            return Cost::default();
        }
        let (inputs, outputs) = shape;
        let macs = rows.saturating_mul(inputs).saturating_mul(outputs).saturating_mul(copies);
        let padded = self
            .profile
            .tile
            .as_ref()
            .map_or(macs, |tile| tile.padded_macs(rows, inputs, outputs).saturating_mul(copies));
        let bytes = format.bytes_for(outputs as usize, inputs as usize).unwrap_or(usize::MAX) as u64;
        let memory = self.read_seconds(bytes.saturating_mul(copies));
        let compute = self.compute_seconds(padded, self.profile.peak(format));
        Cost { macs, padded_macs: padded, ..longer(memory, compute) }
    }

    fn read_seconds(&self, bytes: u64) -> f64 {
        bytes as f64 / (self.profile.reached.bandwidth_share * self.profile.bandwidth)
    }

    fn compute_seconds(&self, macs: u64, peak: Option<f64>) -> f64 {
        2.0 * macs as f64 / (self.profile.reached.compute_share * peak.unwrap_or(f64::NAN))
    }

    /// Books an operation of `rows` rows that each device does its share of.
    fn book(&self, rows: usize, cost: Cost, launch: f64) {
        if rows == 0 {
            return;
        }
        let working = rows.min(self.profile.devices) as f64;
        let mut state = self.lock();
        let modelled = &mut state.modelled;
        modelled.operations += 1;
        modelled.memory_seconds += cost.memory;
        modelled.compute_seconds += cost.compute;
        modelled.launch_seconds += launch;
        modelled.busy_seconds += working * (cost.seconds() + launch);
        modelled.macs = modelled.macs.saturating_add(cost.macs);
        modelled.padded_macs = modelled.padded_macs.saturating_add(cost.padded_macs);
    }

    /// Sums stay whole whatever another thread did while it held the lock, so a poisoned one serves as well.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longer of the two, booked as what it waits for.
fn longer(memory: f64, compute: f64) -> Cost {
    if compute > memory { Cost { compute, ..Cost::default() } } else { Cost { memory, ..Cost::default() } }
}
