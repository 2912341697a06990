//! A loaded model that measures.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use moebius_backend::Backend;
use moebius_engine::{Engine, Request, RequestId};
use moebius_metering::{Energy, Reading, StageTimes, Window};
use moebius_model::{Error as ModelError, ModelFiles, ModelInfo, Probe, RandomWeights, TokenBatch};
use moebius_router::{ExpertLoad, LoadStats, Routing};

use super::random::Random;
use super::{Kind, Measurement, Plan, Subject, Test};
use crate::backend;
use crate::cache::CacheUse;
use crate::declared::{Declared, Modelled};
use crate::model::{Loaded, load, open_files};
use crate::{EnergyMeter, MemoryPlan, OpenOptions, Result, memory};

/// How far a measurement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The sample under way, from 1; 0 is the one that does not count.
    pub sample: usize,
    /// Samples in all.
    pub samples: usize,
}

/// A model that is open, and the machine that it runs on.
pub struct Session {
    engine: Engine,
    info: ModelInfo,
    cache_use: CacheUse,
    memory_plan: Option<MemoryPlan>,
    backend: Arc<dyn Backend>,
    declared: Option<Declared>,
    plan: Plan,
    chunk: usize,
    load: Duration,
    energy: EnergyMeter,
}

/// One pass over a test.
#[derive(Clone, Default)]
struct Sample {
    reading: Reading,
    steps: u64,
    stages: StageTimes,
    energy: Option<Energy>,
    modelled: Option<Modelled>,
}

/// Asked before each step whether to go on.
type Watch<'a> = &'a mut dyn FnMut() -> ControlFlow<()>;

impl Session {
    /// Opens the model, and starts the peak of memory anew. `progress` is told the bytes loaded so far and in all,
    /// from any thread.
    ///
    /// # Errors
    /// Those of [`crate::Model::open`]; a test that exceeds the model's context.
    pub fn open(
        subject: &Subject,
        plan: &Plan,
        options: &OpenOptions,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self> {
        memory::forget_peak();
        let started = Instant::now();
        let opened = backend::open(&options.backend)?;
        let backend = opened.backend.clone();
        let declared = opened.declared.clone();
        let chunk = options.chunk();
        let context = plan.context(chunk);
        let mut files = subject_files(subject, options, (context, plan.seed), &backend)?;
        let info = files.info(&backend)?;
        if context > info.context {
            return Err(ModelError::Context { position: context - 1, context: info.context }.into());
        }
        let positions = plan.cached_positions(chunk, info.context) as u64;
        let cache_bytes = info.cache_bytes_per_token.saturating_mul(positions);
        // A random matrix is made whole before it is packed, and the embedding table is the largest.
        let budgeted = options.backend.constraint.memory.is_some();
        let made_bytes = match subject {
            // Places for experts are still empty then.
            _ if budgeted => 0,
            Subject::Model(_) => 0,
            Subject::Shape { .. } => info.vocab_size as u64 * info.hidden as u64 * size_of::<u16>() as u64,
        };
        let working_bytes = cache_bytes.saturating_add(made_bytes);
        let options = OpenOptions {
            context: if budgeted { Some(context) } else { options.context },
            ..options.clone()
        };
        let loaded = load(&mut files, &opened, &options, (working_bytes, progress))?;
        let Loaded { engine, info, cache_use, plan: memory_plan } = loaded;
        backend::time_stages(engine.meter(), backend.as_ref(), plan.profile);
        let load = started.elapsed();
        let plan = plan.clone();
        let energy = EnergyMeter::open(None);
        Ok(Session { engine, info, cache_use, memory_plan, backend, declared, plan, chunk, load, energy })
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What the cache had for it.
    pub fn cache_use(&self) -> &CacheUse {
        &self.cache_use
    }

    /// What the parts of the model get of a budget of memory, if there is one.
    pub fn memory_plan(&self) -> Option<&MemoryPlan> {
        self.memory_plan.as_ref()
    }

    /// Measures energy by `meter` from now on, whose idle power may have been measured.
    pub fn set_energy(&mut self, meter: EnergyMeter) {
        self.energy = meter;
    }

    /// Where it runs.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// How long opening took.
    pub fn load_time(&self) -> Duration {
        self.load
    }

    /// Runs a test once without counting it, then for each sample; `watch` is asked before every step. `None`
    /// when it said no.
    ///
    /// # Errors
    /// A test that exceeds the context; a failure of the model or the device.
    pub fn measure(
        &mut self,
        test: Test,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Option<Measurement>> {
        let samples = self.plan.repetitions.max(1);
        let mut times = Vec::new();
        let mut total: Option<Sample> = None;
        for sample in 0..=samples {
            let mut go = || watch(Progress { sample, samples });
            let Some(measured) = self.sample(test, sample, &mut go)? else { return Ok(None) };
            if sample > 0 {
                times.push(measured.reading.elapsed);
                total = Some(total.map_or_else(|| measured.clone(), |total| total.join(&measured)));
            }
        }
        let total = total.unwrap_or_default();
        let counts = &total.reading.counts;
        let modelled =
            self.declared.as_ref().zip(total.modelled.clone()).map(|(declared, modelled)| match test.kind {
                Kind::Prompt(_) => declared.prefill(modelled, counts),
                Kind::Generate(_) => declared.decode(modelled, counts),
            });
        Ok(Some(Measurement {
            test,
            samples: times,
            reading: total.reading,
            steps: total.steps,
            stages: self.plan.profile.then_some(total.stages),
            peak_bytes: memory::peak_bytes(),
            energy: total.energy,
            modelled,
            routing: self.info.moe.as_ref().map(|moe| (moe.n_experts, moe.top_k)),
        }))
    }

    /// How evenly the experts share `tokens` random tokens, by layer. Random weights must not favour any: what is
    /// measured would not be what a trained router gives.
    ///
    /// # Errors
    /// A failure of the model or the device.
    pub fn expert_load(&mut self, tokens: usize) -> Result<Vec<LoadStats>> {
        let prompt = Random::new(self.plan.seed).tokens(tokens, self.info.vocab_size);
        let mut loads = Loads::default();
        self.engine.submit(Request::greedy(prompt, 1))?;
        while !self.engine.is_idle() {
            self.engine.step(Some(&mut loads))?;
        }
        Ok(loads.0.iter().map(ExpertLoad::stats).collect())
    }

    /// One sample, or a shorter run for number 0. Leaves no sequence behind.
    fn sample(&mut self, test: Test, number: usize, go: Watch<'_>) -> Result<Option<Sample>> {
        let mut random = Random::new(self.plan.seed.wrapping_add(number as u64));
        let waiting = test.batch.div_ceil(self.chunk);
        let (untimed, timed) = match test.kind {
            Kind::Prompt(tokens) => (0, tokens.div_ceil(self.chunk)),
            Kind::Generate(tokens) => (waiting, if number == 0 { 1 } else { tokens }),
        };
        let mut ids = Vec::new();
        let submitted = (0..test.batch).try_for_each(|_| {
            ids.push(self.submit(test, untimed + timed, &mut random)?);
            Ok(())
        });
        let sample = submitted.and_then(|()| self.run(untimed, timed, go));
        ids.into_iter().for_each(|id| self.engine.cancel(id));
        sample
    }

    /// A sequence that reads the prompt of a test, or that generates for `steps` steps.
    fn submit(&mut self, test: Test, steps: usize, random: &mut Random) -> Result<RequestId> {
        let (unread, generated) = match test.kind {
            Kind::Prompt(tokens) => (tokens, 1),
            Kind::Generate(_) => (1, steps),
        };
        let vocab_size = self.info.vocab_size;
        let prompt = random.tokens(test.depth + unread, vocab_size);
        let forced = random.tokens(generated, vocab_size);
        let request = Request { forced, ..Request::greedy(prompt, generated) };
        Ok(self.engine.submit_filled(request, test.depth, || random.signed())?)
    }

    /// Runs steps that do not count, then steps that do.
    fn run(&mut self, untimed: usize, timed: usize, go: Watch<'_>) -> Result<Option<Sample>> {
        for _ in 0..untimed {
            if go().is_break() {
                return Ok(None);
            }
            self.engine.step(None)?;
        }
        let (before, mark) = (self.engine.meter().stage_times(), self.energy.mark());
        let account = self.modelled();
        let window = Window::open(self.engine.meter());
        for _ in 0..timed {
            if go().is_break() {
                return Ok(None);
            }
            self.engine.step(None)?;
        }
        let reading = window.close(self.engine.meter());
        let stages = self.engine.meter().stage_times() - before;
        let modelled = self.modelled().zip(account).map(|(now, before)| &now - &before);
        Ok(Some(Sample { reading, steps: timed as u64, stages, energy: self.energy.since(&mark), modelled }))
    }

    /// The account of declared hardware so far.
    fn modelled(&self) -> Option<Modelled> {
        self.declared.as_ref().map(|declared| declared.snapshot(self.info.n_layers))
    }
}

/// The files of a model, or random weights that leave room for `context` positions.
pub(crate) fn subject_files(
    subject: &Subject,
    options: &OpenOptions,
    (context, seed): (usize, u64),
    backend: &Arc<dyn Backend>,
) -> Result<ModelFiles> {
    match subject {
        Subject::Model(dir) => open_files(dir, options),
        Subject::Shape { shape, layers } => {
            let weights = RandomWeights { layers: *layers, context, seed };
            let files = ModelFiles::random(shape.config(), &weights, options.experts, backend)?;
            Ok(files.hold(options.format))
        }
    }
}

impl Sample {
    fn join(&self, other: &Sample) -> Sample {
        Sample {
            reading: Reading {
                counts: &self.reading.counts + &other.reading.counts,
                elapsed: self.reading.elapsed + other.reading.elapsed,
            },
            steps: self.steps + other.steps,
            stages: self.stages + other.stages,
            energy: self.energy.zip(other.energy).map(|(one, other)| one + other),
            modelled: self.modelled.as_ref().zip(other.modelled.as_ref()).map(|(one, other)| one + other),
        }
    }
}

/// The experts' load by layer.
#[derive(Default)]
struct Loads(Vec<ExpertLoad>);

impl Probe for Loads {
    fn batch(&mut self, _: &TokenBatch) {}

    fn hidden(&mut self, _: usize, _: &Tensor) -> moebius_model::Result<()> {
        Ok(())
    }

    fn routing(&mut self, layer: usize, routing: &Routing) -> moebius_model::Result<()> {
        while self.0.len() <= layer {
            self.0.push(ExpertLoad::new(routing.n_experts()));
        }
        Ok(self.0[layer].add(routing)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moebius_backend::WeightFormat;

    use crate::BackendOptions;
    use crate::bench::Shape;

    /// A small golden's shape with random weights.
    fn session(plan: &Plan, layers: Option<usize>) -> Result<Session> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/goldens/olmoe");
        let subject = Subject::Shape { shape: Shape::find(dir)?, layers };
        let backend = BackendOptions { threads: Some(1), ..BackendOptions::default() };
        let options = OpenOptions { backend, chunk: Some(4), ..OpenOptions::default() };
        Session::open(&subject, plan, &options, &|_, _| {})
    }

    fn plan() -> Plan {
        let (prompt_tokens, generate) = (vec![9], vec![3]);
        let (depths, batches) = (vec![0, 7], vec![1, 5]);
        Plan { prompt_tokens, generate, depths, batches, repetitions: 2, profile: true, seed: 1 }
    }

    fn go_on(_: Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn every_test_counts_its_own_tokens_and_steps_and_leaves_nothing_behind() {
        let plan = plan();
        let mut session = session(&plan, None).unwrap();
        for test in plan.tests() {
            let measured = session.measure(test, &mut go_on).unwrap().expect("nobody said stop");
            let steps = match test.kind {
                Kind::Prompt(_) => 3, // 9 tokens in chunks of 4
                Kind::Generate(tokens) => tokens as u64,
            };
            assert_eq!((measured.samples.len(), measured.steps), (2, 2 * steps), "{test}");
            assert_eq!(measured.reading.counts.all_tokens(), 2 * test.tokens() as u64, "{test}");
            assert!(measured.distinct_experts() > Some(0.0) && measured.weight_bytes_per_second().is_some());
            let shares: f64 = measured.profile().expect("asked for").iter().map(|share| share.share).sum();
            assert!((shares - 1.0).abs() < 1e-6, "{test}: {shares}");
            assert_eq!(session.engine.cache_bytes(), 0, "{test}");
        }
    }

    #[test]
    fn the_cache_at_depth_is_counted_and_the_deep_tokens_are_not_read() {
        let plan = plan();
        let mut session = session(&plan, Some(1)).unwrap();
        assert_eq!(session.info().n_layers, 1);
        let mut bytes = |depth| {
            let test = Test { depth, kind: Kind::Generate(3), batch: 1 };
            let measured = session.measure(test, &mut go_on).unwrap().expect("nobody said stop");
            let row = session.info().cache_bytes_per_token;
            (measured.reading.counts.total().cache_bytes / row, measured.reading.counts.all_tokens())
        };
        // Positions 2, 3 and 4, twice; then the same 7 further on.
        assert_eq!(bytes(0), (2 * (2 + 3 + 4), 6));
        assert_eq!(bytes(7), (2 * (9 + 10 + 11), 6));
    }

    #[test]
    fn whoever_watches_can_stop_at_any_step() {
        let plan = plan();
        let mut session = session(&plan, None).unwrap();
        for allowed in [0, 1, 4] {
            let mut asked = 0;
            let mut watch = |_| {
                asked += 1;
                if asked > allowed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let test = Test { depth: 7, kind: Kind::Generate(3), batch: 5 };
            assert!(session.measure(test, &mut watch).unwrap().is_none());
            assert!(session.engine.is_idle() && session.engine.cache_bytes() == 0);
        }
    }

    #[test]
    fn a_shape_makes_room_for_the_plan_and_spreads_its_tokens() {
        let plan =
            Plan { depths: vec![1 << 20], generate: vec![0], prompt_tokens: vec![1], ..Plan::default() };
        assert!(session(&plan, None).unwrap().info().context > 1 << 20);
        let mut session = session(&self::plan(), None).unwrap();
        for stats in session.expert_load(256).unwrap() {
            assert_eq!(stats.unused.as_deref(), Some(&[][..]));
            assert!(stats.jain_index > Some(0.7), "{stats:?}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_model() {
        let choices = |seed| {
            let mut session = session(&Plan { seed, ..plan() }, None).unwrap();
            let request = Request { logprobs: true, ..Request::greedy(vec![1, 2, 3], 12) };
            session.engine.submit(request).unwrap();
            let steps = (0..12).flat_map(|_| session.engine.step(None).unwrap());
            steps.map(|event| event.logprob.unwrap().to_bits()).collect::<Vec<u32>>()
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }

    #[test]
    fn every_shape_can_be_made_up_in_bf16() {
        let backend =
            backend::open_backend(&BackendOptions { threads: Some(1), ..BackendOptions::default() }).unwrap();
        for shape in crate::bench::SHAPES {
            let files =
                ModelFiles::random(shape.config(), &RandomWeights::default(), None, &backend).unwrap();
            let info = files.info(&backend).unwrap();
            assert_eq!(info.weight_format(), Some(WeightFormat::Bf16), "{}", shape.name());
            let bytes = info.weight_bytes().expect("the weights are there") as f64;
            let per_weight = bytes / info.total_parameters() as f64;
            assert!((2.0..2.01).contains(&per_weight), "{}: {per_weight}", shape.name());
            assert!(info.unknown_tensors.is_empty() && info.ignored_tensors.is_empty());
        }
    }

    #[test]
    fn a_model_has_the_context_that_its_files_say() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/goldens/olmoe");
        let plan = Plan { depths: vec![1 << 20], ..plan() };
        let opened = Session::open(&Subject::Model(dir.into()), &plan, &OpenOptions::default(), &|_, _| {});
        let error = opened.err().expect("the model is not that deep");
        assert_eq!(error.kind(), crate::ErrorKind::Usage, "{error}");
    }
}
