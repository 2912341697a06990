//! Whether a model fits a machine, and how fast it would be there.
//!
//! A step of `B` sequences: `bytes / (share * bandwidth) + operations / (share * peak) + exchanged / link + layers *
//! layer_seconds`, where the operations of one token are in the first term, which was fitted to single tokens. On several
//! dies the experts are spread evenly, everything else lies on each, and sequences are shared out (expert parallelism
//! with data-parallel attention, as in arXiv 2412.19437). What the band's slow end adds: fixed costs that grow with the
//! bytes; what its fast end leaves out: all terms but the longest.
//!
//! Invariants: what needs an unknown figure is `None`; a model that does not fit has no speed.

use std::collections::BTreeMap;

use super::demand::{CHUNK, CacheFormat, Demand};
use super::hardware::{Class, Device, Machine};
use super::speed::Speed;
use super::weights::Arithmetic;

/// Bytes of a number that tokens are gathered with after their experts.
const COMBINE_BYTES: f64 = 2.0;

/// What a machine is asked to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Sequences that generate together, over all devices.
    pub batch: u64,
    /// Tokens in each of them.
    pub context: u64,
    /// Tokens of a prompt.
    pub prompt: u64,
    /// How the cache is kept.
    pub cache: CacheFormat,
    /// Tokens of each sequence that go through the model in a step: more than one with speculative decoding.
    pub rows_per_sequence: u64,
    /// Tokens that a sequence gains by a step.
    pub tokens_per_step: f64,
}

impl Load {
    /// One token a step for `batch` sequences of `context` tokens, after prompts of that length.
    pub fn new(batch: u64, context: u64, cache: CacheFormat) -> Self {
        Load { batch, context, prompt: context, cache, rows_per_sequence: 1, tokens_per_step: 1.0 }
    }

    /// The cache as it is kept on a device of this class.
    fn cache_on(&self, device: &Device) -> CacheFormat {
        if device.class == Class::Cpu { CacheFormat::Own } else { self.cache }
    }
}

/// Bytes on one die.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Weights.
    pub weight_bytes: u64,
    /// Caches of its sequences.
    pub cache_bytes: u64,
    /// Activations, about.
    pub activation_bytes: u64,
}

impl Memory {
    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes.saturating_add(self.cache_bytes).saturating_add(self.activation_bytes)
    }
}

/// Whether and how a model fits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fit {
    /// On the devices alone, with so many bytes of each die free.
    Whole {
        /// Free bytes.
        free_bytes: u64,
    },
    /// With the experts of some layers in the host's memory.
    Offloaded {
        /// Layers whose experts are there.
        layers: u64,
        /// Layers with experts.
        of: u64,
    },
    /// Not at all; this many devices of the kind would do, if any number does.
    TooLarge {
        /// Devices that would be enough.
        devices: Option<u64>,
    },
    /// The machine's memory is not known.
    Unknown,
}

/// A number with a band around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// The slow end.
    pub low: f64,
    /// What to expect.
    pub expected: f64,
    /// The fast end.
    pub high: f64,
}

impl Band {
    /// `expected` with a relative error.
    pub(crate) fn around(expected: f64, error: f64) -> Self {
        Band { low: expected / (1.0 + error), expected, high: expected * (1.0 + error) }
    }
}

/// Seconds of one step, by what they are spent on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTime {
    /// Reading weights and caches.
    pub memory: f64,
    /// Operations beyond those of a token alone.
    pub compute: f64,
    /// Sending tokens to experts and back.
    pub exchange: f64,
    /// What layers cost whatever they read.
    pub fixed: f64,
}

impl StepTime {
    /// One after the other.
    pub fn total(&self) -> f64 {
        self.memory + self.compute + self.exchange + self.fixed
    }
}

/// What to expect of one machine.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// The machine.
    pub machine: Machine,
    /// Bytes on each die.
    pub memory: Memory,
    /// Whether they fit.
    pub fit: Fit,
    /// Bytes that a step reads, on all dies together.
    pub step_bytes: f64,
    /// A step's time; `None` where it cannot be known.
    pub step: Option<StepTime>,
    /// Generated tokens per second of all sequences.
    pub decode: Option<Band>,
    /// The same at the full bandwidth and nothing else in the way.
    pub decode_roof: Option<f64>,
    /// Tokens of prompts per second.
    pub prefill: Option<Band>,
    /// Arithmetic while generating, as a share of the dense peak.
    pub compute_utilisation: Option<f64>,
}

/// Estimates with the speeds of all classes.
#[derive(Clone, Debug)]
pub struct Estimator {
    pub(super) speeds: BTreeMap<Class, Speed>,
}

impl Estimator {
    /// How fast a class is.
    pub fn speed(&self, class: Class) -> Option<&Speed> {
        self.speeds.get(&class)
    }

    /// What to expect of `machine` under `load`.
    pub fn estimate(&self, demand: &Demand, machine: &Machine, load: &Load) -> Estimate {
        let (memory, fit) = fits(demand, machine, load);
        let runs = !matches!(fit, Fit::TooLarge { .. });
        let task = Task { demand, machine, load, host_share: host_share(fit), estimator: self };
        let step = task.step().filter(|_| runs);
        let tokens = load.batch as f64 * load.tokens_per_step;
        let decode = step.and_then(|step| task.decode(&step, tokens));
        let utilisation = |decode: Band| {
            let peak = peak(&machine.device, demand.weights.arithmetic())? * machine.dies() as f64;
            let rows = decode.expected / load.tokens_per_step * load.rows_per_sequence as f64;
            Some(rows * task.token_flops() / peak)
        };
        Estimate {
            memory,
            fit,
            step_bytes: task.read_bytes() * task.dies(),
            decode_roof: runs.then(|| tokens * machine.device.bandwidth / task.read_bytes()),
            prefill: if runs { task.prefill() } else { None },
            compute_utilisation: decode.and_then(utilisation),
            step,
            decode,
            machine: machine.clone(),
        }
    }
}

/// Bytes on each die of `machine`, and whether they fit.
pub(crate) fn fits(demand: &Demand, machine: &Machine, load: &Load) -> (Memory, Fit) {
    let memory = memory(demand, machine.dies(), load, &machine.device);
    (memory, fit(demand, machine, load, memory))
}

/// Bytes on each of `dies`.
fn memory(demand: &Demand, dies: u64, load: &Load, device: &Device) -> Memory {
    let experts = demand.expert_bytes();
    let sequences = load.batch.div_ceil(dies);
    let cache = demand.cache_bytes(load.context, load.cache_on(device));
    let rows = CHUNK.min(load.prompt.max(1)).saturating_add(sequences);
    Memory {
        weight_bytes: (demand.weight_bytes() - experts).saturating_add(experts.div_ceil(dies)),
        cache_bytes: cache.saturating_mul(sequences),
        activation_bytes: demand.activation_bytes(rows, sequences),
    }
}

fn fit(demand: &Demand, machine: &Machine, load: &Load, memory: Memory) -> Fit {
    let Some(room) = machine.device.memory_bytes else { return Fit::Unknown };
    let needed = memory.total_bytes();
    if needed <= room {
        return Fit::Whole { free_bytes: room - needed };
    }
    let of = demand.info.moe.as_ref().map_or(0, |moe| moe.layers as u64);
    let layer_bytes = demand.expert_bytes().div_ceil(of.max(1)).max(1);
    let layers = (needed - room).div_ceil(layer_bytes);
    if let Some(host) = &machine.host
        && layers <= of
        && host.memory_bytes.is_none_or(|bytes| layers.saturating_mul(layer_bytes) <= bytes)
    {
        return Fit::Offloaded { layers, of };
    }
    Fit::TooLarge { devices: devices_needed(demand, machine, load, room) }
}

/// The fewest devices on which everything fits; `None` when what lies on each is too large already.
fn devices_needed(demand: &Demand, machine: &Machine, load: &Load, room: u64) -> Option<u64> {
    /// More than experts and sequences to spread.
    const MOST: u64 = 4096;
    let per_device = u64::from(machine.device.dies);
    (1..=MOST).find(|count| memory(demand, count * per_device, load, &machine.device).total_bytes() <= room)
}

/// The share of the experts that lie with the host.
fn host_share(fit: Fit) -> f64 {
    match fit {
        Fit::Offloaded { layers, of } => layers as f64 / of.max(1) as f64,
        _ => 0.0,
    }
}

/// The dense peak that matrix products run at.
fn peak(device: &Device, arithmetic: Arithmetic) -> Option<f64> {
    let peaks = device.peaks;
    let half = peaks.bf16.or(peaks.fp16);
    match arithmetic {
        Arithmetic::Half => half,
        Arithmetic::Fp8 => peaks.fp8.or(half),
        Arithmetic::Int8 => peaks.int8.or(half),
    }
}

/// One model on one machine under one load.
struct Task<'a> {
    demand: &'a Demand,
    machine: &'a Machine,
    load: &'a Load,
    host_share: f64,
    estimator: &'a Estimator,
}

impl Task<'_> {
    fn dies(&self) -> f64 {
        self.machine.dies() as f64
    }

    /// Rows of a step on one die.
    fn rows(&self) -> f64 {
        self.load.batch.div_ceil(self.machine.dies()) as f64 * self.load.rows_per_sequence as f64
    }

    /// Experts' bytes that one die reads in a step of all sequences.
    fn expert_bytes(&self, batch: u64) -> f64 {
        self.demand.touched_expert_bytes(batch as f64 * self.load.rows_per_sequence as f64) / self.dies()
    }

    /// Bytes that one die reads in a step, the host's part included.
    fn read_bytes(&self) -> f64 {
        self.bytes_of(self.load.batch)
    }

    fn bytes_of(&self, batch: u64) -> f64 {
        let sequences = batch.div_ceil(self.machine.dies()) as f64;
        let cache = self.demand.cache_read_bytes(self.load.context, self.load.cache_on(&self.machine.device));
        self.demand.common_bytes() as f64 + self.expert_bytes(batch) + sequences * cache as f64
    }

    /// Operations of one row while generating.
    fn token_flops(&self) -> f64 {
        self.demand.weight_flops() + self.demand.attention_flops(self.load.context as f64, true)
    }

    /// Seconds of a row's operations on one die, in a prompt or not.
    fn row_seconds(&self, speed: &Speed, weights: f64, attention: f64) -> Option<f64> {
        let share = speed.compute_share?;
        let of = |arithmetic| Some(share * peak(&self.machine.device, arithmetic)?);
        Some(weights / of(self.demand.weights.arithmetic())? + attention / of(Arithmetic::Half)?)
    }

    /// Seconds that sending one row to its experts and back takes.
    fn exchange_seconds(&self) -> Option<f64> {
        let (device, dies) = (&self.machine.device, self.dies());
        let Some(moe) = self.demand.info.moe.as_ref().filter(|_| dies > 1.0) else { return Some(0.0) };
        let one_node = device.node.is_none_or(|node| self.machine.count <= node);
        let link = if one_node { device.link } else { device.net.or(device.link) }?;
        let dispatch = if self.demand.weights.arithmetic() == Arithmetic::Half { 2.0 } else { 1.0 };
        let numbers = (self.demand.info.hidden * moe.top_k * moe.layers) as f64;
        Some(numbers * (dispatch + COMBINE_BYTES) * (1.0 - 1.0 / dies) / link)
    }

    fn step(&self) -> Option<StepTime> {
        let device = &self.machine.device;
        let speed = self.estimator.speed(device.class)?;
        let on_host = self.host_share * self.expert_bytes(self.load.batch);
        let host = match &self.machine.host {
            Some(host) if on_host > 0.0 => {
                let speed = self.estimator.speed(host.class)?;
                let layers = self.host_share * self.demand.info.n_layers as f64;
                on_host / (speed.bandwidth_share * host.bandwidth) + layers * speed.layer_seconds
            }
            _ => 0.0,
        };
        let extra_rows = self.rows() - 1.0;
        let compute = if extra_rows > 0.0 {
            let attention = self.demand.attention_flops(self.load.context as f64, true);
            extra_rows * self.row_seconds(speed, self.demand.weight_flops(), attention)?
        } else {
            0.0
        };
        Some(StepTime {
            memory: (self.read_bytes() - on_host) / (speed.bandwidth_share * device.bandwidth) + host,
            compute,
            exchange: self.rows() * self.exchange_seconds()?,
            fixed: self.demand.info.n_layers as f64 * speed.layer_seconds,
        })
    }

    fn decode(&self, step: &StepTime, tokens: f64) -> Option<Band> {
        let error = self.estimator.speed(self.machine.device.class)?.decode_error;
        let growth = (self.read_bytes() / self.bytes_of(1)).max(1.0);
        let slow = StepTime { fixed: step.fixed * growth, ..*step }.total();
        // One token alone is what was fitted; nothing is known to overlap there.
        let fast = match (self.load.batch, self.load.rows_per_sequence) {
            (1, 1) => step.total(),
            _ => step.memory.max(step.compute).max(step.exchange) + step.fixed,
        };
        Some(Band {
            low: tokens / slow / (1.0 + error),
            expected: tokens / step.total(),
            high: tokens / fast * (1.0 + error),
        })
    }

    /// Every die reads prompts of its own, in chunks.
    fn prefill(&self) -> Option<Band> {
        let (device, prompt) = (&self.machine.device, self.load.prompt.max(1));
        let speed = self.estimator.speed(device.class)?;
        let absorbed = device.class == Class::Cpu;
        let attention = self.demand.attention_flops(prompt as f64 / 2.0, absorbed);
        let compute =
            prompt as f64 * self.row_seconds(speed, self.demand.prompt_weight_flops(), attention)?;
        let chunks = prompt.div_ceil(CHUNK) as f64;
        let rows = CHUNK.min(prompt) as f64 * self.dies();
        let experts = self.demand.touched_expert_bytes(rows) / self.dies();
        // Experts that lie with the host are read from there.
        let away = match &self.machine.host {
            Some(host) => self.host_share * experts * (device.bandwidth / host.bandwidth - 1.0).max(0.0),
            None => 0.0,
        };
        let read = chunks * (self.demand.common_bytes() as f64 + experts + away);
        let memory = read / (speed.bandwidth_share * device.bandwidth);
        let exchange = prompt as f64 * self.exchange_seconds()?;
        let seconds = compute.max(memory) + exchange;
        Some(Band::around(prompt as f64 * self.dies() / seconds, speed.prefill_error))
    }
}
