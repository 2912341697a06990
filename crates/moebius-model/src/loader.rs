//! Hands a family its weights, twice: once as a plan, once for real.
//!
//! A family's `load` asks for tensors by name and shape. In a plan nothing is read: requests are noted, checked against
//! the checkpoint's headers if there is one, and answered with weights that cannot compute. So `moebius show` counts
//! parameters from a configuration alone, and all that is missing or misshapen is told before a byte is packed.
//!
//! Invariants: what a weight is held in follows from its place, stored format and columns, as in the plan; held bytes count.

mod problems;
mod request;
mod source;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use candle_core::Tensor;
use moebius_backend::{
    Backend, ExpertBank, ExpertSpec, HeadLinear, Linear, LinearSpec, Projection, WeightFormat, WeightSpec,
};

use crate::checkpoint::{Asked, AskedPart, Checkpoint, TensorEntry};
use crate::dry::{DryExperts, DryHeads, DryLinear};
use crate::error::TensorProblem;
use crate::formats::HeldFormats;
use crate::info::{Place, Tally};
use crate::layers::RopeConfig;
use crate::layout::{ExpertLayout, Stored, StoredValues};
use crate::planned::{PlannedExperts, PlannedHeads, PlannedLinear, PlannedRouter};
use crate::rules::Rerouting;
use crate::{Error, Result};
use problems::{other_matrices, problem_of};
pub(crate) use request::{ExpertRequest, Request};
use source::{CheckpointExperts, SharedLoader};

/// Told how many bytes of the checkpoint were loaded so far.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Gives out weights by name.
pub(crate) struct Loader<'a> {
    backend: &'a Arc<dyn Backend>,
    checkpoint: Option<&'a Checkpoint>,
    held: HeldFormats,
    /// `None` while planning.
    progress: Option<Progress<'a>>,
    /// Whether weights of a plan run, without values.
    dry: bool,
    loaded_bytes: AtomicU64,
    tally: RefCell<BTreeMap<Place, Tally>>,
    /// What was asked for and found, and how.
    asked: RefCell<BTreeMap<String, Asked>>,
    /// Every tensor that was asked for, with its shape: in an inventory only, for a family may ask for millions.
    inventory: Option<RefCell<BTreeMap<String, Vec<usize>>>>,
    problems: RefCell<Vec<TensorProblem>>,
    /// Routers that were planned, in the order of their layers.
    routers: RefCell<Vec<PlannedRouter>>,
    /// Experts that were planned, and where they are stored.
    banks: RefCell<Vec<(ExpertSpec, ExpertLayout)>>,
    /// Rotations of the model.
    ropes: RefCell<Vec<RopeConfig>>,
    /// What the parts of the model are, in words that tell any two apart; `None` unless asked for.
    portrait: Option<RefCell<Vec<String>>>,
    /// What was asked for, in the order of asking; `None` unless wanted.
    trail: Option<RefCell<Vec<Request>>>,
    pub(crate) rerouting: Rerouting<'a>,
}

impl<'a> Loader<'a> {
    /// A loader that only plans; without a checkpoint nothing is known but the configuration.
    pub(crate) fn plan(
        backend: &'a Arc<dyn Backend>,
        checkpoint: Option<&'a Checkpoint>,
        held: HeldFormats,
    ) -> Self {
        Loader {
            backend,
            checkpoint,
            held,
            progress: None,
            dry: false,
            loaded_bytes: AtomicU64::new(0),
            tally: RefCell::default(),
            asked: RefCell::default(),
            inventory: None,
            problems: RefCell::default(),
            routers: RefCell::default(),
            banks: RefCell::default(),
            ropes: RefCell::default(),
            portrait: None,
            trail: None,
            rerouting: Rerouting::default(),
        }
    }

    /// A plan whose weights run and count without having values: vectors are ones, what is projected is zero.
    pub(crate) fn dry(
        backend: &'a Arc<dyn Backend>,
        checkpoint: Option<&'a Checkpoint>,
        held: HeldFormats,
    ) -> Self {
        Loader { dry: true, ..Loader::plan(backend, checkpoint, held) }
    }

    /// A plan from the configuration alone that lists all tensors.
    pub(crate) fn inventory(backend: &'a Arc<dyn Backend>) -> Self {
        Loader { inventory: Some(RefCell::default()), ..Loader::plan(backend, None, HeldFormats::AsStored) }
    }

    /// A loader that reads a checkpoint which a plan has found whole.
    pub(crate) fn real(
        backend: &'a Arc<dyn Backend>,
        checkpoint: &'a Checkpoint,
        held: HeldFormats,
        progress: Progress<'a>,
    ) -> Self {
        Loader { progress: Some(progress), ..Loader::plan(backend, Some(checkpoint), held) }
    }

    /// The backend that weights go to.
    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        self.backend
    }

    /// A projection `{prefix}.weight` of shape `(outputs, inputs)`, with `{prefix}.bias` if asked for.
    pub(crate) fn linear(
        &self,
        place: Place,
        prefix: &str,
        (outputs, inputs): (usize, usize),
        bias: bool,
    ) -> Result<Arc<dyn Linear>> {
        let stored = Stored::whole(format!("{prefix}.weight"), (outputs, inputs));
        let bias = if bias { Some(self.values(place, &format!("{prefix}.bias"), outputs)?) } else { None };
        self.linear_of(place, &stored, (outputs, inputs), bias)
    }

    /// A projection of shape `(outputs, inputs)` whose weight may be a part of a tensor.
    pub(crate) fn linear_of(
        &self,
        place: Place,
        stored: &Stored,
        (outputs, inputs): (usize, usize),
        bias: Option<Vec<f32>>,
    ) -> Result<Arc<dyn Linear>> {
        let format = self.ask(place, stored, (outputs, inputs));
        let spec = LinearSpec { name: stored.name.clone(), inputs, outputs, format };
        self.count_held(place, format, spec.weight_bytes());
        if self.progress.is_none() {
            self.backend.supports(&WeightSpec::Linear(&spec)).map_err(moebius_backend::Error::from)?;
            return Ok(match self.dry {
                true => Arc::new(DryLinear::new(spec, place, &self.backend.info().device)),
                false => Arc::new(PlannedLinear(spec)),
            });
        }
        let view = self.shared().view(stored, (outputs, inputs), format)?;
        Ok(self.backend.load_linear(&spec, view, bias)?.into())
    }

    /// Counts and looks up a matrix, and says what it is held in.
    fn ask(&self, place: Place, stored: &Stored, matrix: (usize, usize)) -> WeightFormat {
        let format = self.held_format(place, stored, matrix.1);
        let elements = matrix.0 as u64 * matrix.1 as u64;
        self.count(place, elements, elements);
        self.find_matrix(stored, AskedPart { part: stored.part, matrix, format });
        format
    }

    /// A vector as plain numbers; empty while planning, unless the plan runs dry.
    pub(crate) fn values(&self, place: Place, name: &str, len: usize) -> Result<Vec<f32>> {
        self.values_of(place, name, &[len])
    }

    /// All elements of a tensor of `shape` as plain numbers; empty while planning, unless the plan runs dry.
    pub(crate) fn values_of(&self, place: Place, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let elements = shape.iter().map(|&n| n as u64).product();
        self.count(place, elements, elements);
        let all = StoredValues { name: name.into(), shape: shape.to_vec(), first: 0, step: 1 };
        self.find(all, elements as usize);
        self.count_held(place, WeightFormat::F32, elements.saturating_mul(size_of::<f32>() as u64));
        if self.dry {
            return Ok(vec![1.0; shape.iter().product()]);
        }
        if self.progress.is_none() {
            return Ok(Vec::new());
        }
        Ok(self.shared().values(name, 0..shape.iter().product())?)
    }

    /// The tensor of `shape` in f32, of no use while planning.
    pub(crate) fn tensor(&self, place: Place, name: &str, shape: &[usize]) -> Result<Tensor> {
        let values = self.values_of(place, name, shape)?;
        let shape = if values.is_empty() { &[0] } else { shape };
        Ok(Tensor::from_vec(values, shape, &self.backend.info().device)?)
    }

    /// The experts of one layer, in the first layout whose first tensor is there.
    pub(crate) fn experts(&self, request: ExpertRequest) -> Result<Box<dyn ExpertBank>> {
        let ExpertRequest { mut spec, top_k, mut layouts } = request;
        layouts.extend(ExpertLayout::of_gguf(spec.layer));
        let first = spec.projections()[0];
        let present = |layout: &&ExpertLayout| self.has(&layout.locate(&spec, 0, first).name);
        let layout = layouts.iter().find(present).or(layouts.first()).expect("a family names a layout");
        let held = |projection| {
            let stored = layout.locate(&spec, 0, projection);
            self.held_format(Place::Experts, &stored, spec.shape(projection).1)
        };
        (spec.format, spec.down_format) = (held(first), held(Projection::Down));
        let expert = spec.projections().iter().fold(0, |sum, &projection| {
            let (rows, cols) = spec.shape(projection);
            sum + (rows as u64) * (cols as u64 + u64::from(spec.biases))
        });
        self.count(Place::Experts, expert * spec.n_experts as u64, expert * top_k as u64);
        for &projection in spec.projections() {
            let (format, (rows, cols)) = (spec.format_of(projection), spec.shape(projection));
            let bytes = format.bytes_for(rows.saturating_mul(spec.n_experts), cols).unwrap_or(usize::MAX);
            self.count_held(Place::Experts, format, bytes as u64);
            if spec.biases {
                let bytes = (spec.n_experts * rows * size_of::<f32>()) as u64;
                self.count_held(Place::Experts, WeightFormat::F32, bytes);
            }
        }
        if self.checkpoint.is_some() || self.inventory.is_some() {
            self.find_experts(layout, &spec);
            self.note_stored_experts(layout, &spec);
        }
        if self.progress.is_none() {
            self.backend.supports(&WeightSpec::Experts(&spec)).map_err(moebius_backend::Error::from)?;
            self.banks.borrow_mut().push((spec.clone(), layout.clone()));
            return Ok(match self.dry {
                true => Box::new(DryExperts(spec)),
                false => Box::new(PlannedExperts(spec)),
            });
        }
        let source = CheckpointExperts { loader: self.shared(), layout, spec: &spec };
        Ok(self.backend.load_experts(&spec, &source)?)
    }

    /// Notes a router that is planned.
    pub(crate) fn note_router(&self, router: impl FnOnce() -> PlannedRouter) {
        if self.progress.is_none() {
            self.routers.borrow_mut().push(router());
        }
    }

    /// Counts the experts of a layer in a checkpoint that is not packed.
    fn note_stored_experts(&self, layout: &ExpertLayout, spec: &ExpertSpec) {
        let Some(checkpoint) = self.checkpoint.filter(|c| c.packing().is_none()) else { return };
        let mut routers = self.routers.borrow_mut();
        if let Some(router) = routers.last_mut().filter(|router| router.layer == spec.layer) {
            router.stored_experts = layout.count_stored(spec, |name| Some(&checkpoint.get(name)?.shape));
        }
    }

    /// Looks up every tensor of a layer's experts.
    fn find_experts(&self, layout: &ExpertLayout, spec: &ExpertSpec) {
        for expert in 0..spec.n_experts {
            for &projection in spec.projections() {
                let (matrix, format) = (spec.shape(projection), spec.format_of(projection));
                let stored = layout.locate(spec, expert, projection);
                self.find_matrix(&stored, AskedPart { part: stored.part, matrix, format });
                self.require_format(&stored, spec, projection);
                if spec.biases {
                    self.find(layout.locate_bias(spec, expert, projection), matrix.0);
                }
            }
        }
    }

    /// A projection for each head: `stored` says where each lies.
    pub(crate) fn heads(
        &self,
        place: Place,
        heads: usize,
        (outputs, inputs): (usize, usize),
        stored: impl Fn(usize) -> Stored,
    ) -> Result<Box<dyn HeadLinear>> {
        let formats: Vec<_> =
            (0..heads).map(|head| self.ask(place, &stored(head), (outputs, inputs))).collect();
        let (name, format) = (stored(0).name, formats[0]);
        let spec = LinearSpec { name, inputs, outputs, format };
        self.count_held(place, format, spec.weight_bytes().saturating_mul(heads as u64));
        if self.progress.is_none() {
            self.backend.supports(&WeightSpec::Heads(&spec, heads)).map_err(moebius_backend::Error::from)?;
            return Ok(match self.dry {
                true => Box::new(DryHeads { spec, heads }),
                false => Box::new(PlannedHeads { spec, heads }),
            });
        }
        let shared = self.shared();
        let view = |head: usize| shared.view(&stored(head), (outputs, inputs), format);
        Ok(self.backend.load_heads(&spec, heads, &view)?)
    }

    /// Whether the checkpoint has a tensor, or parts of it packed; without a checkpoint, no.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.checkpoint.is_some_and(|c| c.has(name))
    }

    /// Whether both tensors are there with the same bytes.
    pub(crate) fn same_bytes(&self, a: &str, b: &str) -> bool {
        let entries = self.checkpoint.and_then(|c| Some((c, c.get(a)?, c.get(b)?)));
        entries.is_some_and(|(c, a, b)| a.dtype == b.dtype && c.same_bytes(a, b))
    }

    /// Parameters and bytes of what was asked for.
    pub(crate) fn tally(&self) -> BTreeMap<Place, Tally> {
        self.tally.borrow().clone()
    }

    /// What was asked for and found, and how.
    pub(crate) fn into_asked(self) -> BTreeMap<String, Asked> {
        self.asked.into_inner()
    }

    /// All tensors with their shapes, if this is an inventory.
    pub(crate) fn into_inventory(self) -> BTreeMap<String, Vec<usize>> {
        self.inventory.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Routers that were planned, in the order of their layers.
    pub(crate) fn routers(&self) -> Vec<PlannedRouter> {
        self.routers.borrow().clone()
    }

    /// Experts that were planned, in the order of their layers.
    pub(crate) fn banks(&self) -> Vec<ExpertSpec> {
        self.banks.borrow().iter().map(|(spec, _)| spec.clone()).collect()
    }

    /// The same, with where they are stored.
    pub(crate) fn placed_banks(&self) -> Vec<(ExpertSpec, ExpertLayout)> {
        self.banks.borrow().clone()
    }

    /// A plan that says what the parts of the model are.
    pub(crate) fn portraying(self) -> Self {
        Loader { portrait: Some(RefCell::default()), ..self }
    }

    /// A plan that remembers the order of requests.
    pub(crate) fn trailing(self) -> Self {
        Loader { trail: Some(RefCell::default()), ..self }
    }

    /// What was asked for, in the order of asking.
    pub(crate) fn into_trail(self) -> Vec<Request> {
        self.trail.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Notes what a part of the model is: everything that a checkpoint's tensors do not say.
    pub(crate) fn portray(&self, part: &dyn fmt::Debug) {
        if let Some(portrait) = &self.portrait {
            portrait.borrow_mut().push(format!("{part:?}"));
        }
    }

    /// Notes the rotations of a model that is planned.
    pub(crate) fn note_ropes(&self, ropes: &[RopeConfig]) {
        self.ropes.replace(ropes.to_vec());
    }

    /// The rotations of the model.
    pub(crate) fn ropes(&self) -> Vec<RopeConfig> {
        self.ropes.borrow().clone()
    }

    /// What the parts of the model are.
    pub(crate) fn into_portrait(self) -> Vec<String> {
        self.portrait.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Everything that a plan found wrong.
    pub(crate) fn problems(&self) -> Vec<TensorProblem> {
        self.problems.borrow().clone()
    }

    /// Everything that a plan found wrong, as one error.
    pub(crate) fn check(&self) -> Result<()> {
        let problems = self.problems.borrow();
        if problems.is_empty() { Ok(()) } else { Err(Error::Tensors(problems.clone())) }
    }

    /// Counts parameters, and of these the ones that a token uses.
    fn count(&self, place: Place, total: u64, active: u64) {
        let mut tallies = self.tally.borrow_mut();
        let tally = tallies.entry(place).or_default();
        tally.total += total;
        tally.active += active;
    }

    /// Counts bytes as held, where they are known.
    fn count_held(&self, place: Place, format: WeightFormat, bytes: u64) {
        if self.checkpoint.is_some() || self.held != HeldFormats::AsStored {
            self.tally.borrow_mut().entry(place).or_default().hold(format, bytes);
        }
    }

    /// Looks up a tensor of plain numbers, of which `len` are wanted, and notes what is wrong with it.
    fn find(&self, stored: StoredValues, len: usize) {
        let StoredValues { name, shape, .. } = &stored;
        self.list(name, shape);
        self.follow(|| Request::Values(stored.clone(), len));
        let Some(checkpoint) = self.checkpoint else { return };
        let entry = checkpoint.get(name);
        if entry.is_some() {
            self.asked.borrow_mut().insert(name.to_owned(), Asked::Values);
        }
        let problem = problem_of(entry, name, shape, true);
        self.problems.borrow_mut().extend(problem);
    }

    /// Looks up the tensor that a matrix is in, and notes what is wrong with it.
    fn find_matrix(&self, stored: &Stored, asked: AskedPart) {
        let Stored { name, shape, part } = stored;
        self.list(name, shape);
        self.follow(|| Request::Matrix(stored.clone(), asked.matrix));
        let Some(checkpoint) = self.checkpoint else { return };
        let (packed, packed_shape) = (checkpoint.packed_part(name, *part), [asked.matrix.0, asked.matrix.1]);
        let (entry, name, shape) = match &packed {
            Some((name, entry)) => (Some(*entry), name, packed_shape.as_slice()),
            None => (checkpoint.get(name), name, shape.as_slice()),
        };
        if entry.is_some() {
            let mut all = self.asked.borrow_mut();
            let known = all.entry(name.clone()).or_insert_with(|| Asked::Matrices(Vec::new()));
            if let Asked::Matrices(parts) = known {
                parts.push(asked);
            }
        }
        let problem =
            problem_of(entry, name, shape, false).or_else(|| other_matrices(entry?, name, asked.matrix));
        let mut problems = self.problems.borrow_mut();
        if let Some(problem) = problem.filter(|problem| problems.last() != Some(problem)) {
            problems.push(problem);
        }
    }

    /// Notes a request.
    fn follow(&self, request: impl FnOnce() -> Request) {
        if let Some(trail) = &self.trail {
            trail.borrow_mut().push(request());
        }
    }

    /// Notes a tensor for the inventory.
    fn list(&self, name: &str, shape: &[usize]) {
        if let Some(inventory) = &self.inventory {
            inventory.borrow_mut().insert(name.to_owned(), shape.to_vec());
        }
    }

    /// Notes a problem when a tensor of `spec` would be held in another format than the bank.
    fn require_format(&self, stored: &Stored, spec: &ExpertSpec, projection: Projection) {
        let Some(got) = self.entry(stored).and_then(TensorEntry::format) else { return };
        let format = spec.format_of(projection);
        if self.held_format(Place::Experts, stored, spec.shape(projection).1) != format {
            let expected = format!("{} like the other experts of the layer", format.name());
            let problem =
                TensorProblem::Dtype { name: stored.name.clone(), expected, got: got.name().into() };
            self.problems.borrow_mut().push(problem);
        }
    }

    /// What a matrix is held in. Without a checkpoint it counts as stored in bf16, as most are published.
    fn held_format(&self, place: Place, stored: &Stored, cols: usize) -> WeightFormat {
        let as_stored = match (self.checkpoint, self.held) {
            (Some(_), HeldFormats::AsStored) => self.entry(stored).and_then(TensorEntry::exact_format),
            (Some(_), _) => self.entry(stored).and_then(TensorEntry::format),
            (None, HeldFormats::AsStored) => None,
            (None, _) => Some(WeightFormat::Bf16),
        };
        self.held.held(place, as_stored.unwrap_or(WeightFormat::F32), cols)
    }

    fn entry(&self, stored: &Stored) -> Option<&'a TensorEntry> {
        let checkpoint = self.checkpoint?;
        let part = checkpoint.packed_part(&stored.name, stored.part).map(|(_, entry)| entry);
        let piece = || checkpoint.get(checkpoint.piece(&stored.name, stored.part)?.0);
        part.or_else(piece).or_else(|| checkpoint.get(&stored.name))
    }

    fn shared(&self) -> SharedLoader<'_, 'a> {
        SharedLoader {
            checkpoint: self.checkpoint.expect("only a plan has no checkpoint"),
            progress: self.progress.expect("only a plan has no progress"),
            loaded_bytes: &self.loaded_bytes,
        }
    }
}
