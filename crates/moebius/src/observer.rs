//! Hands what a forward pass shows to whoever wants it, sorted by the sequence that it belongs to.
//!
//! Shapes: a batch holds rows of several sequences, each sequence's rows consecutive.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::Tensor;
use moebius_model::{Probe, SequenceId, TokenBatch};
use moebius_router::{ExpertLoad, Routing};

use crate::dump::Dump;

/// How the experts of each layer with a router were used: load `[experts]` by index of the decoder layer.
pub type LayerLoads = BTreeMap<usize, ExpertLoad>;

/// Two probes that see the same.
pub(crate) struct Both<'a>(pub(crate) Option<&'a mut dyn Probe>, pub(crate) Option<&'a mut dyn Probe>);

impl Both<'_> {
    /// This probe, unless nobody looks on.
    pub(crate) fn probe(&mut self) -> Option<&mut dyn Probe> {
        let wanted = self.0.is_some() || self.1.is_some();
        wanted.then_some(self as &mut dyn Probe)
    }

    fn each(&mut self) -> impl Iterator<Item = &mut dyn Probe> {
        let Both(first, second) = self;
        [first, second].into_iter().flatten().map(|probe| &mut **probe as &mut dyn Probe)
    }
}

impl Probe for Both<'_> {
    fn batch(&mut self, batch: &TokenBatch) {
        self.each().for_each(|probe| probe.batch(batch));
    }

    fn hidden(&mut self, index: usize, x: &Tensor) -> moebius_model::Result<()> {
        self.each().try_for_each(|probe| probe.hidden(index, x))
    }

    fn routing(&mut self, layer: usize, routing: &Routing) -> moebius_model::Result<()> {
        self.each().try_for_each(|probe| probe.routing(layer, routing))
    }
}

/// A probe that keeps what was asked for.
#[derive(Default)]
pub(crate) struct Observer {
    /// Everything that the sequences went through.
    pub(crate) dump: Option<Dump>,
    /// The loads of each sequence that ran, in the order in which they were given.
    pub(crate) loads: Option<Vec<LayerLoads>>,
    /// In the order in which sequences first ran, which is the order in which they were given.
    order: Vec<SequenceId>,
    /// Sequence and rows of each part of the batch under way.
    parts: Vec<(usize, Range<usize>)>,
}

impl Observer {
    /// An observer that keeps a dump, loads, both or nothing.
    pub(crate) fn new(dump: bool, loads: bool) -> Self {
        Observer { dump: dump.then(Dump::default), loads: loads.then(Vec::new), ..Observer::default() }
    }

    /// This probe, unless it has nothing to keep.
    pub(crate) fn probe(&mut self) -> Option<&mut dyn Probe> {
        let wanted = self.dump.is_some() || self.loads.is_some();
        wanted.then_some(self as &mut dyn Probe)
    }
}

impl Probe for Observer {
    fn batch(&mut self, batch: &TokenBatch) {
        self.parts.clear();
        for span in batch.spans() {
            let known = self.order.iter().position(|id| *id == span.sequence);
            let sequence = known.unwrap_or_else(|| {
                self.order.push(span.sequence);
                self.order.len() - 1
            });
            self.parts.push((sequence, span.rows.clone()));
        }
        if let Some(loads) = &mut self.loads {
            loads.resize_with(self.order.len(), LayerLoads::new);
        }
    }

    fn hidden(&mut self, index: usize, x: &Tensor) -> moebius_model::Result<()> {
        let Some(dump) = &mut self.dump else { return Ok(()) };
        self.parts.iter().try_for_each(|(sequence, rows)| dump.hidden(*sequence, rows.clone(), index, x))
    }

    fn routing(&mut self, layer: usize, routing: &Routing) -> moebius_model::Result<()> {
        for (sequence, rows) in &self.parts {
            if let Some(dump) = &mut self.dump {
                dump.routing(*sequence, rows.clone(), layer, routing);
            }
            if let Some(loads) = &mut self.loads {
                let load = loads[*sequence].entry(layer);
                let load = load.or_insert_with(|| ExpertLoad::new(routing.n_experts()));
                load.add_rows(routing, rows.clone()).map_err(moebius_backend::Error::from)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use moebius_model::{CacheSpec, KvCache, Outputs};
    use moebius_router::WeightTarget;

    use super::*;

    fn routing(n_experts: usize, experts: &[u32]) -> Routing {
        let weights = vec![1.0; experts.len()];
        Routing::from_parts(n_experts, 1, experts.to_vec(), weights, WeightTarget::Output).unwrap()
    }

    #[test]
    fn layers_may_have_different_numbers_of_experts_and_sequences_several_batches() {
        let mut cache = KvCache::new(CacheSpec { layers: Vec::new(), context: 8 }, &Device::Cpu);
        let (a, b) = (cache.open(), cache.open());
        let mut observer = Observer::new(false, true);
        let mut batch = TokenBatch::new();
        batch.push(a, &[1, 2], 0, Outputs::All);
        batch.push(b, &[3], 0, Outputs::All);
        observer.batch(&batch);
        observer.routing(1, &routing(4, &[3, 0, 1])).unwrap();
        observer.routing(5, &routing(2, &[1, 1, 0])).unwrap();
        let mut batch = TokenBatch::new();
        batch.push(b, &[4], 1, Outputs::All);
        observer.batch(&batch);
        observer.routing(1, &routing(4, &[1])).unwrap();
        observer.routing(5, &routing(2, &[1])).unwrap();

        let counts = |loads: &LayerLoads| -> Vec<(usize, Vec<u64>)> {
            loads.iter().map(|(layer, load)| (*layer, load.counts().to_vec())).collect()
        };
        let loads = observer.loads.unwrap();
        assert_eq!(counts(&loads[0]), [(1, vec![1, 0, 0, 1]), (5, vec![0, 2])]);
        assert_eq!(counts(&loads[1]), [(1, vec![0, 2, 0, 0]), (5, vec![1, 1])]);
    }

    #[test]
    fn nobody_looks_on_who_keeps_nothing() {
        assert!(Observer::new(false, false).probe().is_none());
        assert!(Observer::new(true, false).probe().is_some() && Observer::new(false, true).probe().is_some());
    }
}
