//! The experts that are in memory, and those on their way.
//!
//! Decisions are those of [`Residency`]; here they become buffers and reads. What is fetched ahead waits in places of its
//! own until it is asked for, so that guesses change nothing of what stays and what leaves.
//!
//! Invariants: buffers are as many as there are places, those for guesses included; an expert that is computed is kept by
//! whoever computes it; a read that fails ends the visit that needs it and leaves the store as if it had never been asked
//! for.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use moebius_backend::{Error, Linear, Result};
use moebius_metering::FetchCounts;
use moebius_router::Router;

use crate::backend::{ConstrainedOptions, NAME};
use crate::buffer::Buffer;
use crate::files::UnitSpans;
use crate::readers::{Arrival, Job, Readers};
use crate::residency::{Request, Residency};

/// What chooses among the experts of a layer.
pub(crate) struct Hint {
    pub(crate) gate: Arc<dyn Linear>,
    pub(crate) router: Router,
    pub(crate) bank: usize,
}

/// How many experts of a layer are in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerResidency {
    /// Index of the decoder layer.
    pub layer: usize,
    /// Its experts.
    pub n_experts: usize,
    /// Those of them that are in memory.
    pub resident: usize,
}

/// The store of a backend.
pub(crate) struct Store {
    state: Mutex<State>,
    readers: Readers,
}

struct State {
    residency: Residency,
    banks: Vec<Bank>,
    hints: BTreeMap<usize, Arc<Hint>>,
    slots: BTreeMap<usize, Slot>,
    /// What was fetched ahead; `None` as long as it has not come.
    staged: BTreeMap<usize, Option<Buffer>>,
    staged_most: usize,
    free: Vec<Buffer>,
    /// Buffers that there are, and that there may be.
    buffers: usize,
    buffers_most: usize,
    slot_bytes: usize,
    failed: BTreeMap<usize, io::Error>,
    arrived: Receiver<Arrival>,
}

struct Bank {
    layer: usize,
    units: Range<usize>,
    spans: Vec<Arc<UnitSpans>>,
}

enum Slot {
    Coming,
    Here(Arc<Buffer>),
}

impl Store {
    pub(crate) fn new(options: &ConstrainedOptions) -> Result<Self> {
        let (readers, arrived) = Readers::start(options.limit)
            .map_err(|error| Error::Startup { backend: NAME, reason: error.to_string() })?;
        let capacity = options.slots.unwrap_or(usize::MAX).max(1);
        let state = State {
            residency: Residency::new(options.policy.clone(), capacity),
            banks: Vec::new(),
            hints: BTreeMap::new(),
            slots: BTreeMap::new(),
            staged: BTreeMap::new(),
            staged_most: options.prefetch,
            free: Vec::new(),
            buffers: 0,
            buffers_most: capacity.saturating_add(options.prefetch),
            slot_bytes: 0,
            failed: BTreeMap::new(),
            arrived,
        };
        Ok(Store { state: Mutex::new(state), readers })
    }

    /// Takes over the experts of a layer and says which bank they are.
    pub(crate) fn add(&self, layer: usize, spans: Vec<UnitSpans>) -> usize {
        let mut state = self.lock();
        let first = state.residency.add_layer(layer, spans.len());
        let slot = spans.iter().map(UnitSpans::slot_bytes).max().unwrap_or(0);
        state.slot_bytes = state.slot_bytes.max(slot);
        let units = first..first + spans.len();
        state.banks.push(Bank { layer, units, spans: spans.into_iter().map(Arc::new).collect() });
        state.banks.len() - 1
    }

    /// Remembers what chooses among the experts of a layer.
    pub(crate) fn hint(&self, layer: usize, hint: Hint) {
        self.lock().hints.insert(layer, Arc::new(hint));
    }

    /// What chooses among the experts of the next layer that has some, if anything is to be fetched ahead.
    pub(crate) fn next_hint(&self, layer: usize) -> Option<Arc<Hint>> {
        let state = self.lock();
        let (_, hint) = state.hints.range(layer + 1..).next().filter(|_| state.staged_most > 0)?;
        Some(hint.clone())
    }

    /// Begins a visit of some experts of a bank, ascending.
    pub(crate) fn visit(&self, bank: usize, experts: &[usize]) -> Visit<'_> {
        let mut state = self.lock();
        let first = state.banks[bank].units.start;
        let units: Vec<usize> = experts.iter().map(|expert| first + expert).collect();
        let window = state.residency.begin(&units);
        let counts = FetchCounts::default();
        Visit { readers: &self.readers, state, bank, units, window, asked: 0, done: 0, counts }
    }

    /// How many experts of each layer are in memory, by layer.
    pub(crate) fn resident(&self) -> Vec<LayerResidency> {
        let state = self.lock();
        let count = |bank: &Bank| LayerResidency {
            layer: bank.layer,
            n_experts: bank.units.len(),
            resident: state.residency.count(bank.units.clone()),
        };
        state.banks.iter().map(count).collect()
    }

    /// A visit that ended in a panic left its experts coming or here, as any other does.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn spans(&self, bank: usize, unit: usize) -> Arc<UnitSpans> {
        let bank = &self.banks[bank];
        bank.spans[unit - bank.units.start].clone()
    }

    /// Puts an arrival where it is waited for.
    fn receive(&mut self, arrival: Arrival) {
        let Arrival { unit, buffer, result } = arrival;
        match (self.slots.get_mut(&unit), self.staged.get_mut(&unit), result) {
            (Some(slot @ Slot::Coming), _, Ok(())) => *slot = Slot::Here(Arc::new(buffer)),
            (Some(Slot::Coming), _, Err(error)) => {
                self.slots.remove(&unit);
                self.residency.forget(unit);
                self.failed.insert(unit, error);
                self.free.push(buffer);
            }
            (None, Some(staged @ None), Ok(())) => *staged = Some(buffer),
            (None, Some(None), Err(_)) => {
                // Whoever needs it reads it again, and says so.
                self.staged.remove(&unit);
                self.free.push(buffer);
            }
            _ => self.free.push(buffer),
        }
    }

    /// Takes what has come.
    fn collect(&mut self) {
        while let Ok(arrival) = self.arrived.try_recv() {
            self.receive(arrival);
        }
    }

    /// Waits for something to come.
    fn wait(&mut self) {
        if let Ok(arrival) = self.arrived.recv() {
            self.receive(arrival);
        }
    }

    /// A buffer of whatever size it takes now; `None` if all are in use.
    fn try_buffer(&mut self) -> Option<Buffer> {
        while let Some(buffer) = self.free.pop() {
            if buffer.as_ref().len() >= self.slot_bytes {
                return Some(buffer);
            }
            self.buffers -= 1;
        }
        if self.buffers >= self.buffers_most {
            return None;
        }
        self.buffers += 1;
        Some(Buffer::new(self.slot_bytes))
    }

    /// The same; waits for a read that nobody wants any more, if need be.
    fn buffer(&mut self) -> Buffer {
        loop {
            if let Some(buffer) = self.try_buffer() {
                return buffer;
            }
            self.wait();
        }
    }

    /// Takes the memory of an expert that lost its place.
    fn reclaim(&mut self, unit: usize) {
        if let Some(Slot::Here(buffer)) = self.slots.remove(&unit) {
            match Arc::try_unwrap(buffer) {
                Ok(buffer) => self.free.push(buffer),
                Err(_) => self.buffers -= 1,
            }
        }
    }
}

/// One step of one layer.
pub(crate) struct Visit<'a> {
    readers: &'a Readers,
    state: MutexGuard<'a, State>,
    bank: usize,
    units: Vec<usize>,
    window: usize,
    asked: usize,
    done: usize,
    counts: FetchCounts,
}

impl Visit<'_> {
    /// Asks for the experts that may be under way now that those before were computed.
    pub(crate) fn ask(&mut self) {
        while self.asked < self.done + self.window
            && let Some((unit, request)) = self.state.residency.request()
        {
            self.asked += 1;
            match request {
                Request::Hit => self.counts.hits += 1,
                Request::Miss { leaves } => {
                    self.counts.misses += 1;
                    if let Some(leaves) = leaves {
                        self.state.reclaim(leaves);
                    }
                    self.fetch(unit);
                }
            }
        }
    }

    fn fetch(&mut self, unit: usize) {
        self.state.collect();
        self.state.failed.remove(&unit);
        let slot = match self.state.staged.remove(&unit) {
            Some(staged) => {
                self.counts.prefetch_used += 1;
                match staged {
                    Some(buffer) => Slot::Here(Arc::new(buffer)),
                    None => {
                        self.readers.hurry(unit);
                        Slot::Coming
                    }
                }
            }
            None => {
                let (spans, buffer) = (self.state.spans(self.bank, unit), self.state.buffer());
                self.counts.fetched_bytes += spans.bytes();
                self.readers.need(Job { unit, spans, buffer });
                Slot::Coming
            }
        };
        self.state.slots.insert(unit, slot);
    }

    /// Fetches experts of the bank `bank` ahead, the likeliest first, in place of what was fetched ahead before. Returns
    /// the layer and what to book there.
    pub(crate) fn ahead(&mut self, bank: usize, experts: &[usize]) -> (usize, FetchCounts) {
        let state = &mut *self.state;
        for (unit, staged) in std::mem::take(&mut state.staged) {
            state.free.extend(staged.or_else(|| self.readers.take_back(unit)));
        }
        let (layer, first) = (state.banks[bank].layer, state.banks[bank].units.start);
        let mut counts = FetchCounts::default();
        for unit in experts.iter().map(|expert| first + expert) {
            if state.staged.len() >= state.staged_most {
                break;
            }
            if state.residency.has(unit) || state.staged.contains_key(&unit) {
                continue;
            }
            let Some(buffer) = state.try_buffer() else { break };
            let spans = state.spans(bank, unit);
            counts.prefetched += 1;
            counts.fetched_bytes += spans.bytes();
            state.staged.insert(unit, None);
            self.readers.ahead(Job { unit, spans, buffer });
        }
        (layer, counts)
    }

    /// Waits for the next expert, and takes those after it that have come too: the memory of each, and where its matrices
    /// lie. Empty when all were taken.
    pub(crate) fn next_run(&mut self) -> Result<Vec<(Arc<Buffer>, Arc<UnitSpans>)>> {
        let Some(&next) = self.units.get(self.done) else { return Ok(Vec::new()) };
        self.state.collect();
        let waiting = Instant::now();
        while let Some(Slot::Coming) = self.state.slots.get(&next) {
            self.state.wait();
        }
        self.counts.stall_ns += u64::try_from(waiting.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut run = Vec::new();
        // Of a long visit others are to come while some are computed.
        let most = if self.units.len() > self.window { self.window.div_ceil(4) } else { self.window };
        for &unit in self.units[self.done..self.asked].iter().take(most) {
            let Some(Slot::Here(buffer)) = self.state.slots.get(&unit) else { break };
            run.push((buffer.clone(), self.state.spans(self.bank, unit)));
        }
        if run.is_empty() {
            let bank = &self.state.banks[self.bank];
            let what = format!("expert {} of layer {}", next - bank.units.start, bank.layer);
            let gone = || io::Error::other("it was not asked for");
            let source = self.state.failed.remove(&next).unwrap_or_else(gone);
            return Err(Error::Fetch { what, source });
        }
        self.done += run.len();
        Ok(run)
    }

    /// What the visit fetched.
    pub(crate) fn counts(&self) -> FetchCounts {
        self.counts
    }
}
