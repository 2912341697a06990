//! Keys and values of the sequences that are under way. The caller owns it; layers keep no state.
//!
//! Shapes: per layer and sequence, keys `[kv_heads, capacity, head_dim]` and values
//! `[kv_heads, capacity, value_dim]`, f32. Capacity grows by doubling, up to the model's context.
//!
//! Invariants: rows below a sequence's length are final; a pass that fails leaves the length as it was.

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

const FIRST_CAPACITY: usize = 64;

/// What the cache holds for one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerCacheSpec {
    /// Heads that keys and values are kept for.
    pub kv_heads: usize,
    /// Width of a key.
    pub head_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
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
        let floats = |l: &LayerCacheSpec| (l.kv_heads * (l.head_dim + l.value_dim)) as u64;
        self.layers.iter().map(floats).sum::<u64>() * size_of::<f32>() as u64
    }
}

/// Names one sequence of a [`KvCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(usize);

struct LayerState {
    keys: Tensor,
    values: Tensor,
}

struct SequenceState {
    len: usize,
    capacity: usize,
    layers: Vec<LayerState>,
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
        let state = SequenceState { len: 0, capacity: 0, layers: Vec::new() };
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
        let positions: usize = self.sequences.iter().flatten().map(|s| s.capacity).sum();
        positions as u64 * self.spec.bytes_per_token()
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
        let state = self.state(id);
        if positions <= state.capacity {
            return Ok(());
        }
        let capacity = positions.next_power_of_two().max(FIRST_CAPACITY).min(context);
        let kept = state.len;
        let grow = |old: Option<&Tensor>, heads: usize, width: usize| -> Result<Tensor> {
            let tensor = Tensor::zeros((heads, capacity, width), DType::F32, &self.device)?;
            if let Some(old) = old.filter(|_| kept > 0) {
                tensor.slice_set(&old.narrow(1, 0, kept)?.contiguous()?, 1, 0)?;
            }
            Ok(tensor)
        };
        let mut layers = Vec::with_capacity(self.spec.layers.len());
        for (idx, layer) in self.spec.layers.iter().enumerate() {
            let old = state.layers.get(idx);
            layers.push(LayerState {
                keys: grow(old.map(|l| &l.keys), layer.kv_heads, layer.head_dim)?,
                values: grow(old.map(|l| &l.values), layer.kv_heads, layer.value_dim)?,
            });
        }
        let state = self.state_mut(id);
        state.layers = layers;
        state.capacity = capacity;
        Ok(())
    }

    /// Writes keys and values `[tokens, kv_heads, width]` of one layer from `position` on. There must be
    /// room: see [`KvCache::reserve`].
    pub fn write(
        &mut self,
        id: SequenceId,
        layer: usize,
        position: usize,
        (keys, values): (&Tensor, &Tensor),
    ) -> Result<()> {
        let state = &self.state(id).layers[layer];
        for (cache, new) in [(&state.keys, keys), (&state.values, values)] {
            cache.slice_set(&new.transpose(0, 1)?.contiguous()?, 1, position)?;
        }
        Ok(())
    }

    /// Fills the first `positions` of an empty sequence with numbers from `value`, as if that many tokens had
    /// been read: what follows costs what it costs at that depth. There must be room: see
    /// [`KvCache::reserve`].
    pub fn fill(&mut self, id: SequenceId, positions: usize, mut value: impl FnMut() -> f32) -> Result<()> {
        if positions == 0 {
            return Ok(());
        }
        for layer in 0..self.spec.layers.len() {
            let LayerCacheSpec { kv_heads, head_dim, value_dim } = self.spec.layers[layer];
            let mut tensor = |width: usize| {
                let values: Vec<f32> = (0..positions * kv_heads * width).map(|_| value()).collect();
                Tensor::from_vec(values, (positions, kv_heads, width), &self.device)
            };
            let (keys, values) = (tensor(head_dim)?, tensor(value_dim)?);
            self.write(id, layer, 0, (&keys, &values))?;
        }
        self.commit(id, positions);
        Ok(())
    }

    /// Keys and values of one layer, unfilled capacity included.
    pub fn layer(&self, id: SequenceId, layer: usize) -> (&Tensor, &Tensor) {
        let state = &self.state(id).layers[layer];
        (&state.keys, &state.values)
    }

    /// Makes what a finished pass wrote up to `len` final.
    pub fn commit(&mut self, id: SequenceId, len: usize) {
        self.state_mut(id).len = len;
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
    use super::*;

    fn spec() -> CacheSpec {
        let layer = LayerCacheSpec { kv_heads: 2, head_dim: 3, value_dim: 1 };
        CacheSpec { layers: vec![layer; 2], context: 200 }
    }

    #[test]
    fn growing_keeps_what_was_written() {
        let mut cache = KvCache::new(spec(), &Device::Cpu);
        let id = cache.open();
        cache.reserve(id, 5).unwrap();
        let keys = Tensor::arange(0f32, 30.0, &Device::Cpu).unwrap().reshape((5, 2, 3)).unwrap();
        let values = Tensor::arange(0f32, 10.0, &Device::Cpu).unwrap().reshape((5, 2, 1)).unwrap();
        cache.write(id, 1, 0, (&keys, &values)).unwrap();
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
}
