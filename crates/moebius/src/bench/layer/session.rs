//! A layer that is loaded, and measures.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use moebius_backend::{
    Backend, ExpertBank, ExpertSource, ExpertSpec, Projection, WeightFormat, WeightSpec, WeightView,
};
use moebius_metering::{Counts, Energy, Meter};
use moebius_router::{Routing, WeightTarget};

use super::routing::Chooser;
use super::{LayerCell, LayerPlan, LayerRow, Timed};
use crate::backend::{BackendOptions, open_backend};
use crate::bench::random::Random;
use crate::bench::session::Progress;
use crate::dense::{self, SideBySide};
use crate::{EnergyMeter, Error, Result, memory};

/// Caches are at least taken to be this large where the system does not tell.
const LEAST_CACHE_BYTES: usize = 32 << 20;
/// Experts of the other layer; where more would be needed to fill the caches, they are wider.
const MOST_OTHERS: usize = 64;
/// Activations stay in range with weights of this size.
const WEIGHT_SCALE: f32 = 0.04;

/// A layer in its forms.
pub struct LayerSession {
    backend: Arc<dyn Backend>,
    plan: LayerPlan,
    chooser: Chooser,
    bank: Box<dyn ExpertBank>,
    /// The dense layer for each number of experts of a token, ascending.
    dense: Vec<(usize, Box<dyn ExpertBank>)>,
    /// The experts of another layer, which push the weights that were just used out of caches and leave code and
    /// threads as one layer leaves them to the next.
    others: Box<dyn ExpertBank>,
}

/// Every expert has the same values; each is packed by itself, so that memory sees as many as there are.
struct Repeated<'a> {
    spec: &'a ExpertSpec,
    bytes: Vec<u8>,
}

impl ExpertSource for Repeated<'_> {
    fn get(&self, expert: usize, projection: Projection) -> moebius_backend::Result<WeightView<'_>> {
        let (name, shape) = (format!("experts.{expert}.{projection:?}"), self.spec.shape(projection));
        Ok(WeightView::new(name, WeightFormat::F32, shape, &self.bytes))
    }
}

impl LayerSession {
    /// Makes the layer's weights up and loads them.
    ///
    /// # Errors
    /// Those of [`LayerPlan::settle`]; a layer that does not fit into memory with batches of `most_tokens`; a backend that
    /// does not start or does not hold the format.
    pub fn open(plan: &LayerPlan, most_tokens: usize, options: &BackendOptions) -> Result<Self> {
        let mut plan = plan.clone();
        plan.settle()?;
        let chooser = plan.routing.open(most_tokens.saturating_mul(plan.repetitions.max(1) + 1))?;
        let (backend, spec) = (open_backend(options)?, plan.spec());
        memory::check_fits(needed_bytes(&plan, most_tokens), backend.info().free_bytes)?;
        let supported = backend.supports(&WeightSpec::Experts(&spec));
        supported.map_err(moebius_backend::Error::from)?;
        let mut random = Random::new(plan.seed);
        let values = (0..plan.hidden * plan.ffn).flat_map(|_| (WEIGHT_SCALE * random.signed()).to_le_bytes());
        let source = Repeated { spec: &spec, bytes: values.collect() };
        let dense = plan.ks().into_iter().map(|k| {
            let joined = SideBySide { source: &source, k };
            Ok((k, backend.load_experts(&dense::spec(&spec, k), &joined)?))
        });
        let dense = dense.collect::<Result<Vec<_>>>()?;
        let bank = backend.load_experts(&spec, &source)?;
        let spec = other_experts(&spec);
        let bytes = vec![0; 4 * spec.hidden * spec.intermediate];
        let others = backend.load_experts(&spec, &Repeated { spec: &spec, bytes })?;
        Ok(LayerSession { backend, plan, chooser, bank, dense, others })
    }

    /// Where it runs.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Tokens of a trace that are replayed, over and over where more are asked for; `None` by chance.
    pub fn replayed_tokens(&self) -> Option<usize> {
        match &self.chooser {
            Chooser::Replay(replay) => Some(replay.tokens()),
            Chooser::Chance { .. } => None,
        }
    }

    /// Measures batches of `tokens` tokens. `energy` is read around every sample, `watch` asked before each; `None` when it
    /// said no.
    ///
    /// # Errors
    /// A failure of the device; [`Error::InvalidOption`] for no tokens.
    pub fn measure(
        &self,
        tokens: usize,
        energy: &mut EnergyMeter,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Option<LayerRow>> {
        if tokens == 0 {
            return Err(Error::InvalidOption { name: "tokens", expected: "at least 1", got: 0 });
        }
        let ks = self.plan.ks();
        let samples = self.plan.repetitions.max(1);
        let forms = 1 + 2 * ks.len();
        let mut timed = vec![Timed::default(); forms];
        let mut differences = vec![0.0f32; ks.len()];
        let mut random = Random::new(self.plan.seed.wrapping_add(1));
        for sample in 0..=samples {
            let x = self.inputs(tokens, &mut random)?;
            let experts = self.plan.n_experts;
            let routings =
                ks.iter().map(|&k| self.chooser.choose(&mut random, (sample, tokens), (experts, k)));
            let routings = routings.collect::<Result<Vec<_>>>()?;
            for turn in 0..forms {
                if watch(Progress { sample, samples }).is_break() {
                    return Ok(None);
                }
                let form = (turn + sample) % forms;
                let (bank, routing) = self.form(form, &routings, tokens)?;
                let (time, counts, energy) = self.run(bank, &x, &routing, energy)?;
                if sample > 0 {
                    timed[form].add(time, &counts, energy);
                }
            }
            if sample == 0 {
                for (difference, routing) in differences.iter_mut().zip(&routings) {
                    *difference = self.difference(&x, routing)?;
                }
            }
        }
        let mut forms = timed.into_iter();
        let iso_total = forms.next().unwrap_or_default();
        let cells = ks.into_iter().zip(differences).map(|(top_k, max_difference)| LayerCell {
            top_k,
            sparse: forms.next().unwrap_or_default(),
            iso_active: forms.next().unwrap_or_default(),
            max_difference,
        });
        let cells = cells.collect();
        Ok(Some(LayerRow { tokens, n_experts: self.plan.n_experts, iso_total, cells }))
    }

    /// A form of the layer: all experts first, then for each k the chosen ones and the dense layer.
    fn form(&self, form: usize, routings: &[Routing], tokens: usize) -> Result<(&dyn ExpertBank, Routing)> {
        let routing =
            |routing: std::result::Result<Routing, _>| routing.map_err(moebius_backend::Error::from);
        Ok(match form.checked_sub(1) {
            None => (self.bank.as_ref(), routing(routings[0].over_all_experts())?),
            Some(nth) if nth % 2 == 0 => (self.bank.as_ref(), routings[nth / 2].clone()),
            Some(nth) => {
                let (ids, weights) = (vec![0; tokens], vec![1.0; tokens]);
                let one = Routing::from_parts(1, 1, ids, weights, WeightTarget::Output);
                (self.dense[nth / 2].1.as_ref(), routing(one)?)
            }
        })
    }

    /// One run: its time, what it counted, and its energy.
    fn run(
        &self,
        bank: &dyn ExpertBank,
        x: &Tensor,
        routing: &Routing,
        energy: &mut EnergyMeter,
    ) -> Result<(Duration, Counts, Option<Energy>)> {
        let one = tensor(x.narrow(0, 0, 1))?;
        self.others.forward(&one, &all_of(self.others.spec().n_experts)?, &Meter::new())?;
        // A GPU works behind the host: what was asked of it before is done before the clock starts.
        let device = &self.backend.info().device;
        tensor(device.synchronize())?;
        let (meter, mark) = (Meter::new(), energy.mark());
        let started = Instant::now();
        bank.forward(x, routing, &meter)?;
        tensor(device.synchronize())?;
        let time = started.elapsed();
        Ok((time, meter.snapshot(), energy.since(&mark)))
    }

    /// The largest difference between the chosen experts and all of them with weights of zero.
    fn difference(&self, x: &Tensor, routing: &Routing) -> Result<f32> {
        let all = routing.over_all_experts().map_err(moebius_backend::Error::from)?;
        let run = |routing: &Routing| -> Result<Vec<f32>> {
            let out = self.bank.forward(x, routing, &Meter::new())?;
            tensor(out.flatten_all().and_then(|out| out.to_vec1()))
        };
        Ok(largest_difference(&run(routing)?, &run(&all)?))
    }

    fn inputs(&self, tokens: usize, random: &mut Random) -> Result<Tensor> {
        let values: Vec<f32> = (0..tokens * self.plan.hidden).map(|_| random.signed()).collect();
        tensor(Tensor::from_vec(values, (tokens, self.plan.hidden), &self.backend.info().device))
    }
}

fn tensor<T>(result: candle_core::Result<T>) -> Result<T> {
    Ok(result.map_err(moebius_backend::Error::from)?)
}

/// The largest difference of two outputs; infinite if one has what is no number.
pub(crate) fn largest_difference(one: &[f32], other: &[f32]) -> f32 {
    let differences = one.iter().zip(other).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |largest, off| if off.is_nan() { f32::INFINITY } else { largest.max(off) })
}

/// Bytes of all weights, and of activations when all experts run for `tokens` tokens.
fn needed_bytes(plan: &LayerPlan, tokens: usize) -> u64 {
    let spec = plan.spec();
    let others = other_experts(&spec);
    let dense = plan.ks().into_iter().map(|k| bank_bytes(&dense::spec(&spec, k)));
    let banks = dense.chain([bank_bytes(&spec), bank_bytes(&others)]).fold(0, u64::saturating_add);
    let widest = others.intermediate.max(plan.ffn.saturating_mul(plan.ks().last().copied().unwrap_or(0)));
    let pairs = (tokens as u64).saturating_mul(plan.n_experts as u64);
    let activations = pairs.saturating_mul((plan.hidden + plan.ffn) as u64);
    let unpacked = (plan.hidden as u64).saturating_mul(widest as u64);
    banks.saturating_add(activations.saturating_add(unpacked).saturating_mul(4))
}

/// Bytes of a bank's weights.
fn bank_bytes(spec: &ExpertSpec) -> u64 {
    let matrix = spec.format.bytes_for(spec.intermediate, spec.hidden).unwrap_or(usize::MAX) as u64;
    matrix.saturating_mul(3 * spec.n_experts as u64)
}

/// Experts like those of `spec`, few and as wide as several if those are small, that fill the caches twice.
fn other_experts(spec: &ExpertSpec) -> ExpertSpec {
    let one = bank_bytes(&ExpertSpec { n_experts: 1, ..spec.clone() });
    let n_experts = (2 * cache_bytes() as u64).div_ceil(one.max(1)) as usize;
    let joined = n_experts.div_ceil(MOST_OTHERS);
    ExpertSpec {
        n_experts: n_experts.div_ceil(joined),
        intermediate: joined * spec.intermediate,
        ..spec.clone()
    }
}

/// A token for which every expert runs.
fn all_of(n_experts: usize) -> Result<Routing> {
    let (ids, weights) = ((0..n_experts as u32).collect(), vec![1.0; n_experts]);
    let routing = Routing::from_parts(n_experts, n_experts, ids, weights, WeightTarget::Output);
    Ok(routing.map_err(moebius_backend::Error::from)?)
}

/// Bytes of the largest cache that a core sees.
fn cache_bytes() -> usize {
    let size = |index: usize| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok()?.checked_mul(1024)
    };
    (2..=4).filter_map(size).max().unwrap_or(0).clamp(LEAST_CACHE_BYTES, 1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::RoutingPattern;

    fn measured(format: WeightFormat, tokens: usize) -> LayerRow {
        let plan = LayerPlan {
            hidden: 64,
            ffn: 32,
            n_experts: 8,
            experts_per_token: vec![1, 3],
            format,
            routing: RoutingPattern::Zipf(1.0),
            repetitions: 2,
            seed: 7,
        };
        let options = BackendOptions { threads: Some(1), ..BackendOptions::default() };
        let session = LayerSession::open(&plan, tokens, &options).unwrap();
        let mut energy = EnergyMeter::open_at(std::path::Path::new("/no/such/tree"), Some(10.0));
        session
            .measure(tokens, &mut energy, &mut |_| ControlFlow::Continue(()))
            .unwrap()
            .expect("not stopped")
    }

    #[test]
    fn sparse_and_all_experts_give_the_same_and_work_is_as_by_hand() {
        for format in [WeightFormat::Bf16, WeightFormat::Q8_0] {
            for tokens in [1, 9] {
                let row = measured(format, tokens);
                let (pair, samples) = (3 * 64 * 32, 2 * tokens as u64);
                assert_eq!(row.iso_total.counts.total().macs, samples * 8 * pair);
                assert_eq!(row.cells.iter().map(|cell| cell.top_k).collect::<Vec<_>>(), [1, 3]);
                for cell in &row.cells {
                    let macs = samples * cell.top_k as u64 * pair;
                    assert_eq!(cell.sparse.counts.total().macs, macs);
                    assert_eq!(cell.iso_active.counts.total().macs, macs);
                    assert_eq!(cell.max_difference, 0.0, "{format} {tokens}");
                    assert_eq!((cell.sparse.samples.len(), cell.iso_active.samples.len()), (2, 2));
                    assert!(cell.sparse.over(&row.iso_total).is_some());
                    let distinct = cell.distinct().expect("samples");
                    assert!((cell.top_k as f64..=8.0).contains(&distinct), "{distinct}");
                    assert!(cell.sparse.energy.is_some_and(|energy| energy.joules() > 0.0));
                }
            }
        }
    }

    #[test]
    fn whoever_watches_can_stop_and_nothing_is_measured_on_no_tokens() {
        let plan = LayerPlan {
            hidden: 16,
            ffn: 16,
            n_experts: 2,
            experts_per_token: vec![1],
            format: WeightFormat::F32,
            routing: RoutingPattern::Uniform,
            repetitions: 1,
            seed: 0,
        };
        let session = LayerSession::open(&plan, 1, &BackendOptions::default()).unwrap();
        let mut energy = EnergyMeter::open_at(std::path::Path::new("/no/such/tree"), None);
        let stopped = session.measure(1, &mut energy, &mut |_| ControlFlow::Break(()));
        assert!(stopped.unwrap().is_none());
        assert!(session.measure(0, &mut energy, &mut |_| ControlFlow::Continue(())).is_err());
    }

    #[test]
    fn a_layer_beyond_memory_is_refused_before_it_is_made() {
        let plan = LayerPlan {
            hidden: 1 << 20,
            ffn: 1 << 20,
            n_experts: 1 << 20,
            experts_per_token: vec![1],
            format: WeightFormat::F32,
            routing: RoutingPattern::Uniform,
            repetitions: 1,
            seed: 0,
        };
        let refused = LayerSession::open(&plan, 1, &BackendOptions::default()).err();
        assert!(matches!(refused, Some(Error::Memory { .. })), "{refused:?}");
        assert!(largest_difference(&[1.0, f32::NAN], &[1.0, 1.0]).is_infinite());
    }
}
