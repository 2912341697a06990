//! What layers remember of the sequences that are under way. The caller owns it; layers keep no state.
//!
//! Shapes: per layer and sequence, keys `[kv_heads, capacity, head_dim]` and values
//! `[kv_heads, capacity, value_dim]`, or latent rows `[1, capacity, width]`, or states of fixed shapes; f32. Capacity
//! grows by doubling, up to the model's context.
//!
//! Invariants: rows below a sequence's length are final, and states are those at that length; a pass that fails leaves
//! both as they were.

use candle_core::{DType, Device, Tensor};

use crate::history::History;
use crate::{Error, Result};

const FIRST_CAPACITY: usize = 64;

/// What the cache holds for one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerCacheSpec {
    /// Nothing: the layer looks at one token at a time.
    Nothing,
    /// A key and a value for each position and head.
    KeysAndValues {
        /// Heads that keys and values are kept for.
        kv_heads: usize,
        /// Width of a key.
        head_dim: usize,
        /// Width of a value.
        value_dim: usize,
    },
    /// One row for each position, from which the keys and values of all heads are made (MLA, arXiv 2405.04434).
    Latent {
        /// Width of a row.
        width: usize,
    },
    /// Tensors of these shapes, whatever the length: the state of a recurrence or a convolution, zero at first.
    State {
        /// Their shapes.
        shapes: Vec<Vec<usize>>,
    },
}

impl LayerCacheSpec {
    /// Numbers that are kept for each position.
    pub fn numbers_per_position(&self) -> u64 {
        self.rows().iter().map(|&(heads, width)| heads as u64 * width as u64).sum()
    }

    /// Numbers that are kept for a sequence whatever its length.
    pub fn numbers_per_sequence(&self) -> u64 {
        self.states().iter().map(|shape| shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }

    /// Heads and widths of what is kept for each position.
    fn rows(&self) -> Vec<(usize, usize)> {
        match *self {
            LayerCacheSpec::Nothing | LayerCacheSpec::State { .. } => Vec::new(),
            LayerCacheSpec::KeysAndValues { kv_heads, head_dim, value_dim } => {
                vec![(kv_heads, head_dim), (kv_heads, value_dim)]
            }
            LayerCacheSpec::Latent { width } => vec![(1, width)],
        }
    }

    /// Shapes of what is kept whatever the length.
    fn states(&self) -> &[Vec<usize>] {
        match self {
            LayerCacheSpec::State { shapes } => shapes,
            _ => &[],
        }
    }
}

/// What the cache holds for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// One entry a decoder layer.
    pub layers: Vec<LayerCacheSpec>,
    /// Most positions that a sequence may have.
    pub context: usize,
}

impl CacheSpec {
    /// Bytes that one token of one sequence takes, over all layers.
    pub fn bytes_per_token(&self) -> u64 {
        self.layers.iter().map(LayerCacheSpec::numbers_per_position).sum::<u64>() * size_of::<f32>() as u64
    }

    /// Bytes that one sequence takes whatever its length: the states of recurrences and convolutions.
    pub fn bytes_per_sequence(&self) -> u64 {
        self.layers.iter().map(LayerCacheSpec::numbers_per_sequence).sum::<u64>() * size_of::<f32>() as u64
    }
}

/// Names one sequence of a [`KvCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(usize);

/// What a layer keeps of one sequence.
#[derive(Clone)]
struct LayerState {
    /// `[heads, capacity, width]` each: keys and values, or latent rows, or nothing.
    rows: Vec<Tensor>,
    /// As of the last pass that was committed.
    states: Vec<Tensor>,
    /// What the pass under way has made of them.
    next_states: Option<Vec<Tensor>>,
}

#[derive(Default)]
struct SequenceState {
    len: usize,
    capacity: usize,
    layers: Vec<LayerState>,
    history: History,
}

/// The state of all sequences under way.
pub struct KvCache {
    spec: CacheSpec,
    device: Device,
    /// Closed sequences leave a hole that the next one fills.
    sequences: Vec<Option<SequenceState>>,
}

impl KvCache {
    /// An empty cache on `device`.
    pub fn new(spec: CacheSpec, device: &Device) -> Self {
        KvCache { spec, device: device.clone(), sequences: Vec::new() }
    }

    /// Starts an empty sequence.
    pub fn open(&mut self) -> SequenceId {
        self.add(SequenceState::default())
    }

    /// Starts a sequence with all that `id` has read so far; from then on they do not share anything.
    ///
    /// # Errors
    /// When there is no memory for the copy.
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId> {
        let SequenceState { len, capacity, layers, history } = self.state(id);
        let copy = |layer: &LayerState| -> Result<LayerState> {
            let rows = layer.rows.iter().map(Tensor::copy).collect::<candle_core::Result<_>>()?;
            Ok(LayerState { rows, states: layer.states.clone(), next_states: None })
        };
        let (len, capacity, history) = (*len, *capacity, history.clone());
        let layers = layers.iter().map(copy).collect::<Result<_>>()?;
        Ok(self.add(SequenceState { len, capacity, layers, history }))
    }

    /// Forgets all but the first `len` positions of a sequence.
    ///
    /// # Errors
    /// [`Error::Truncate`] when a layer keeps a state, which cannot be taken back to an earlier position other than
    /// the first.
    pub fn truncate(&mut self, id: SequenceId, len: usize) -> Result<()> {
        let had = self.len(id);
        if len >= had {
            return Ok(());
        }
        if len == 0 {
            *self.state_mut(id) = SequenceState::default();
            return Ok(());
        }
        if let Some(layer) = self.spec.layers.iter().position(|layer| !layer.states().is_empty()) {
            return Err(Error::Truncate { layer, from: had, to: len });
        }
        self.state_mut(id).len = len;
        Ok(())
    }

    fn add(&mut self, state: SequenceState) -> SequenceId {
        match self.sequences.iter().position(Option::is_none) {
            Some(free) => {
                self.sequences[free] = Some(state);
                SequenceId(free)
            }
            None => {
                self.sequences.push(Some(state));
                SequenceId(self.sequences.len() - 1)
            }
        }
    }

    /// Forgets a sequence and frees its memory.
    pub fn close(&mut self, id: SequenceId) {
        self.sequences[id.0] = None;
    }

    /// Positions that are filled.
    pub fn len(&self, id: SequenceId) -> usize {
        self.state(id).len
    }

    /// Bytes that are allocated for all sequences.
    pub fn allocated_bytes(&self) -> u64 {
        let begun = self.sequences.iter().flatten().filter(|sequence| sequence.capacity > 0);
        let bytes = |sequence: &SequenceState| {
            sequence.capacity as u64 * self.spec.bytes_per_token() + self.spec.bytes_per_sequence()
        };
        begun.map(bytes).sum()
    }

    /// Makes room for `positions` positions of a sequence, before a pass writes them.
    ///
    /// # Errors
    /// [`Error::Context`] past the model's context.
    pub fn reserve(&mut self, id: SequenceId, positions: usize) -> Result<()> {
        let context = self.spec.context;
        if positions > context {
            return Err(Error::Context { position: positions - 1, context });
        }
        self.state_mut(id).layers.iter_mut().for_each(|layer| layer.next_states = None);
        let state = self.state(id);
        if positions <= state.capacity {
            return Ok(());
        }
        let capacity = positions.next_power_of_two().max(FIRST_CAPACITY).min(context);
        let mut layers = Vec::with_capacity(self.spec.layers.len());
        for (idx, spec) in self.spec.layers.iter().enumerate() {
            layers.push(self.grown(spec, state.layers.get(idx), state.len, capacity)?);
        }
        let state = self.state_mut(id);
        state.layers = layers;
        state.capacity = capacity;
        Ok(())
    }

    /// A layer's state with room for `capacity` positions, the first `kept` of them from `old`.
    fn grown(
        &self,
        spec: &LayerCacheSpec,
        old: Option<&LayerState>,
        kept: usize,
        capacity: usize,
    ) -> Result<LayerState> {
        let mut rows = Vec::new();
        for (idx, (heads, width)) in spec.rows().into_iter().enumerate() {
            let tensor = Tensor::zeros((heads, capacity, width), DType::F32, &self.device)?;
            if let Some(old) = old.filter(|_| kept > 0) {
                tensor.slice_set(&old.rows[idx].narrow(1, 0, kept)?.contiguous()?, 1, 0)?;
            }
            rows.push(tensor);
        }
        let zeros = |shape: &Vec<usize>| Tensor::zeros(shape.as_slice(), DType::F32, &self.device);
        let states = match old {
            Some(old) => old.states.clone(),
            None => spec.states().iter().map(zeros).collect::<candle_core::Result<_>>()?,
        };
        Ok(LayerState { rows, states, next_states: None })
    }

    /// Writes latent rows `[tokens, width]` of one layer from `position` on. There must be room.
    pub fn write_latent(
        &mut self,
        id: SequenceId,
        layer: usize,
        position: usize,
        rows: &Tensor,
    ) -> Result<()> {
        let cache = &self.state(id).layers[layer].rows[0];
        Ok(cache.slice_set(&rows.unsqueeze(0)?.contiguous()?, 1, position)?)
    }

    /// Fills the first `positions` of an empty sequence with numbers from `value`, as if that many tokens had
    /// been read: what follows costs what it costs at that depth. States stay zero. There must be room: see
    /// [`KvCache::reserve`].
    pub fn fill(&mut self, id: SequenceId, positions: usize, mut value: impl FnMut() -> f32) -> Result<()> {
        if positions == 0 {
            return Ok(());
        }
        for (layer, spec) in self.spec.layers.iter().enumerate() {
            for (cache, (heads, width)) in self.state(id).layers[layer].rows.iter().zip(spec.rows()) {
                let values: Vec<f32> = (0..positions * heads * width).map(|_| value()).collect();
                cache.slice_set(&Tensor::from_vec(values, (heads, positions, width), &self.device)?, 1, 0)?;
            }
        }
        self.commit(id, positions);
        Ok(())
    }

    /// Keys and values of one layer, unfilled capacity included. A pass writes its own with
    /// [`Ops::write_rows`](moebius_backend::Ops::write_rows), where [`KvCache::reserve`] has made room.
    pub fn layer(&self, id: SequenceId, layer: usize) -> (&Tensor, &Tensor) {
        let rows = &self.state(id).layers[layer].rows;
        (&rows[0], &rows[1])
    }

    /// Latent rows `[1, capacity, width]` of one layer, unfilled capacity included.
    pub fn latent(&self, id: SequenceId, layer: usize) -> &Tensor {
        &self.state(id).layers[layer].rows[0]
    }

    /// The states of one layer, as the last finished pass left them.
    pub fn states(&self, id: SequenceId, layer: usize) -> &[Tensor] {
        &self.state(id).layers[layer].states
    }

    /// Puts new states of one layer in place of the old ones, once the pass is committed.
    pub fn set_states(&mut self, id: SequenceId, layer: usize, states: Vec<Tensor>) {
        self.state_mut(id).layers[layer].next_states = Some(states);
    }

    /// Makes what a finished pass wrote up to `len` final.
    pub fn commit(&mut self, id: SequenceId, len: usize) {
        let state = self.state_mut(id);
        state.len = len;
        for layer in &mut state.layers {
            if let Some(states) = layer.next_states.take() {
                layer.states = states;
            }
        }
    }

    /// What a sequence read, as far as the model noted it.
    pub(crate) fn history(&self, id: SequenceId) -> &History {
        &self.state(id).history
    }

    /// The same, to note more.
    pub(crate) fn history_mut(&mut self, id: SequenceId) -> &mut History {
        &mut self.state_mut(id).history
    }

    fn state(&self, id: SequenceId) -> &SequenceState {
        self.sequences[id.0].as_ref().expect("the sequence is open")
    }

    fn state_mut(&mut self, id: SequenceId) -> &mut SequenceState {
        self.sequences[id.0].as_mut().expect("the sequence is open")
    }
}

#[cfg(test)]
mod tests {
    use moebius_backend::reference;

    use super::*;

    fn spec() -> CacheSpec {
        let layer = LayerCacheSpec::KeysAndValues { kv_heads: 2, head_dim: 3, value_dim: 1 };
        CacheSpec { layers: vec![layer; 2], context: 200 }
    }

    #[test]
    fn growing_keeps_what_was_written() {
        let mut cache = KvCache::new(spec(), &Device::Cpu);
        let id = cache.open();
        cache.reserve(id, 5).unwrap();
        let keys = Tensor::arange(0f32, 30.0, &Device::Cpu).unwrap().reshape((5, 2, 3)).unwrap();
        let values = Tensor::arange(0f32, 10.0, &Device::Cpu).unwrap().reshape((5, 2, 1)).unwrap();
        let (cached_keys, cached_values) = cache.layer(id, 1);
        reference::write_rows(cached_keys, &keys, 0).unwrap();
        reference::write_rows(cached_values, &values, 0).unwrap();
        cache.commit(id, 5);
        cache.reserve(id, 65).unwrap();
        let (grown, _) = cache.layer(id, 1);
        assert_eq!(grown.dims(), [2, 128, 3]);
        let kept = grown.narrow(1, 0, 5).unwrap().transpose(0, 1).unwrap();
        let kept = kept.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(kept, keys.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        assert_eq!(cache.allocated_bytes(), 128 * 2 * 2 * 4 * 4);
    }

    #[test]
    fn a_sequence_that_was_filled_has_that_length_and_no_zeros() {
        let mut cache = KvCache::new(spec(), &Device::Cpu);
        let id = cache.open();
        cache.reserve(id, 100).unwrap();
        let mut next = 0.0;
        let count = || {
            next += 1.0;
            next
        };
        cache.fill(id, 70, count).unwrap();
        assert_eq!((cache.len(id), next), (70, 2.0 * 70.0 * 2.0 * 4.0));
        let (keys, values) = cache.layer(id, 1);
        for tensor in [keys, values] {
            let filled = tensor.narrow(1, 0, 70).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(filled.iter().all(|&v| v > 0.0));
        }
        cache.fill(id, 0, || unreachable!()).unwrap();
    }

    #[test]
    fn the_context_is_a_bound_and_closed_slots_are_used_again() {
        let mut cache = KvCache::new(spec(), &Device::Cpu);
        let first = cache.open();
        cache.reserve(first, 200).unwrap();
        assert!(matches!(cache.reserve(first, 201), Err(Error::Context { position: 200, context: 200 })));
        cache.close(first);
        assert_eq!(cache.allocated_bytes(), 0);
        assert_eq!(cache.open(), first);
    }

    fn with_state() -> CacheSpec {
        let state = LayerCacheSpec::State { shapes: vec![vec![2]] };
        CacheSpec {
            layers: vec![LayerCacheSpec::Latent { width: 2 }, state, LayerCacheSpec::Nothing],
            context: 200,
        }
    }

    fn numbers(values: &Tensor) -> Vec<f32> {
        values.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Reads one token: its latent row and its state are `value`.
    fn read(cache: &mut KvCache, id: SequenceId, value: f32, finish: bool) {
        let position = cache.len(id);
        cache.reserve(id, position + 1).unwrap();
        let row = Tensor::new(&[[value, value]], &Device::Cpu).unwrap();
        cache.write_latent(id, 0, position, &row).unwrap();
        cache.set_states(id, 1, vec![row.squeeze(0).unwrap()]);
        if finish {
            cache.commit(id, position + 1);
        }
    }

    #[test]
    fn a_pass_that_fails_leaves_states_as_they_were() {
        let mut cache = KvCache::new(with_state(), &Device::Cpu);
        let id = cache.open();
        cache.reserve(id, 1).unwrap();
        assert_eq!(numbers(&cache.states(id, 1)[0]), [0.0, 0.0]);
        read(&mut cache, id, 1.0, true);
        read(&mut cache, id, 2.0, false);
        assert_eq!((cache.len(id), numbers(&cache.states(id, 1)[0])), (1, vec![1.0, 1.0]));
        cache.reserve(id, 2).unwrap();
        cache.commit(id, 2);
        assert_eq!(numbers(&cache.states(id, 1)[0]), [1.0, 1.0]);
        assert_eq!(cache.allocated_bytes(), 64 * 2 * 4 + 2 * 4);
    }

    #[test]
    fn a_fork_goes_its_own_way() {
        let mut cache = KvCache::new(with_state(), &Device::Cpu);
        let first = cache.open();
        read(&mut cache, first, 1.0, true);
        let second = cache.fork(first).unwrap();
        read(&mut cache, first, 2.0, true);
        read(&mut cache, second, 3.0, true);
        let row = |id: SequenceId| numbers(&cache.latent(id, 0).narrow(1, 0, 2).unwrap());
        assert_eq!(row(first), [1.0, 1.0, 2.0, 2.0]);
        assert_eq!(row(second), [1.0, 1.0, 3.0, 3.0]);
        assert_eq!(numbers(&cache.states(first, 1)[0]), [2.0, 2.0]);
        assert_eq!(numbers(&cache.states(second, 1)[0]), [3.0, 3.0]);
    }

    #[test]
    fn rows_can_be_truncated_and_states_only_cleared() {
        let mut cache = KvCache::new(spec(), &Device::Cpu);
        let id = cache.open();
        cache.reserve(id, 9).unwrap();
        cache.commit(id, 9);
        cache.truncate(id, 12).unwrap();
        assert_eq!(cache.len(id), 9);
        cache.truncate(id, 4).unwrap();
        assert_eq!(cache.len(id), 4);

        let mut cache = KvCache::new(with_state(), &Device::Cpu);
        let id = cache.open();
        read(&mut cache, id, 1.0, true);
        read(&mut cache, id, 2.0, true);
        assert!(matches!(cache.truncate(id, 1), Err(Error::Truncate { layer: 1, from: 2, to: 1 })));
        cache.truncate(id, 0).unwrap();
        cache.reserve(id, 1).unwrap();
        assert_eq!((cache.len(id), numbers(&cache.states(id, 1)[0])), (0, vec![0.0, 0.0]));
    }
}
