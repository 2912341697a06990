//! Hands a family its weights, twice: once as a plan, once for real.
//!
//! A family's `load` asks for tensors by name and shape. In a plan nothing is read: every request is noted,
//! checked against the checkpoint's headers if there is one, and answered with a weight that cannot
//! compute. That gives the parameter counts of `moebius show` from a configuration alone, and one list of
//! everything that is missing or misshapen before a single byte is packed.
//!
//! Invariants: what a weight is held in is decided here, from its place, its stored format and its columns, and is
//! the same in the plan; bytes are counted as held.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Tensor;
use moebius_backend::{
    Backend, ExpertBank, ExpertSource, ExpertSpec, Linear, LinearSpec, Projection, WeightFormat, WeightSpec,
    WeightView,
};

use crate::checkpoint::{Asked, Checkpoint, TensorEntry};
use crate::error::TensorProblem;
use crate::formats::HeldFormats;
use crate::info::{Place, Tally};
use crate::planned::{PlannedExperts, PlannedLinear};
use crate::{Error, Result};

/// Told how many bytes of the checkpoint were loaded so far.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Where the experts of a layer are stored. Shapes: gate and up `[intermediate, hidden]`, down
/// `[hidden, intermediate]`.
#[derive(Clone, Debug)]
pub(crate) enum ExpertLayout {
    /// A tensor for each matrix: `{prefix}.{expert}.{name}.weight`.
    PerExpert {
        /// Up to the expert's number, without the dot.
        prefix: String,
        /// Names of gate, up and down.
        names: [&'static str; 3],
    },
    /// One tensor `[experts, 2 * intermediate, hidden]`, gate rows first, and one
    /// `[experts, hidden, intermediate]`.
    Fused {
        /// Full name of the first.
        gate_up: String,
        /// Full name of the second.
        down: String,
    },
}

impl ExpertLayout {
    /// The tensor that holds a matrix, and the matrix's number in it.
    fn locate(&self, expert: usize, projection: Projection) -> (String, usize) {
        match (self, projection) {
            (ExpertLayout::PerExpert { prefix, names }, _) => {
                let name = names[projection as usize];
                (format!("{prefix}.{expert}.{name}.weight"), 0)
            }
            (ExpertLayout::Fused { gate_up, .. }, Projection::Gate) => (gate_up.clone(), 2 * expert),
            (ExpertLayout::Fused { gate_up, .. }, Projection::Up) => (gate_up.clone(), 2 * expert + 1),
            (ExpertLayout::Fused { down, .. }, Projection::Down) => (down.clone(), expert),
        }
    }

    /// Every tensor of the layout with its shape and a projection that is in it.
    fn tensors(&self, spec: &ExpertSpec) -> Vec<(String, Vec<usize>, Projection)> {
        let (experts, hidden, width) = (spec.n_experts, spec.hidden, spec.intermediate);
        match self {
            ExpertLayout::PerExpert { .. } => (0..experts)
                .flat_map(|expert| Projection::ALL.map(|projection| (expert, projection)))
                .map(|(expert, projection)| {
                    let (rows, cols) = spec.shape(projection);
                    (self.locate(expert, projection).0, vec![rows, cols], projection)
                })
                .collect(),
            ExpertLayout::Fused { gate_up, down } => vec![
                (gate_up.clone(), vec![experts, 2 * width, hidden], Projection::Gate),
                (down.clone(), vec![experts, hidden, width], Projection::Down),
            ],
        }
    }
}

/// The experts that a family asks for.
#[derive(Clone, Debug)]
pub(crate) struct ExpertRequest {
    /// What they are; the loader decides on the formats.
    pub(crate) spec: ExpertSpec,
    /// Experts that a token goes through.
    pub(crate) top_k: usize,
    /// Layouts that the family's checkpoints come in, the usual one first.
    pub(crate) layouts: Vec<ExpertLayout>,
}

/// Gives out weights by name.
pub(crate) struct Loader<'a> {
    backend: &'a Arc<dyn Backend>,
    checkpoint: Option<&'a Checkpoint>,
    held: HeldFormats,
    /// `None` while planning.
    progress: Option<Progress<'a>>,
    loaded_bytes: AtomicU64,
    tally: RefCell<BTreeMap<Place, Tally>>,
    /// What was asked for and found, and how.
    asked: RefCell<BTreeMap<String, Asked>>,
    /// Every tensor that was asked for, with its shape: in an inventory only, for a family may ask for millions.
    inventory: Option<RefCell<BTreeMap<String, Vec<usize>>>>,
    problems: RefCell<Vec<TensorProblem>>,
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
            loaded_bytes: AtomicU64::new(0),
            tally: RefCell::default(),
            asked: RefCell::default(),
            inventory: None,
            problems: RefCell::default(),
        }
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
        let name = format!("{prefix}.weight");
        let format = self.held_format(place, &name, inputs);
        let asked = Asked::Matrices { matrix: (outputs, inputs), format };
        self.note(place, &name, &[outputs, inputs], asked);
        let bias = if bias { Some(self.values(place, &format!("{prefix}.bias"), outputs)?) } else { None };
        let spec = LinearSpec { name, inputs, outputs, format };
        self.count_held(place, format, spec.weight_bytes());
        if self.progress.is_none() {
            self.backend.supports(&WeightSpec::Linear(&spec)).map_err(moebius_backend::Error::from)?;
            return Ok(Arc::new(PlannedLinear(spec)));
        }
        let view = self.view(&spec.name, 0, (outputs, inputs))?;
        Ok(self.backend.load_linear(&spec, view, bias)?.into())
    }

    /// A vector as an f32 tensor: a norm's weight.
    pub(crate) fn vector(&self, place: Place, name: &str, len: usize) -> Result<Tensor> {
        let values = self.values(place, name, len)?;
        let len = values.len();
        Ok(Tensor::from_vec(values, len, &self.backend.info().device)?)
    }

    /// A vector as plain numbers; empty while planning.
    pub(crate) fn values(&self, place: Place, name: &str, len: usize) -> Result<Vec<f32>> {
        self.note(place, name, &[len], Asked::Values);
        self.count_held(place, WeightFormat::F32, (len * size_of::<f32>()) as u64);
        if self.progress.is_none() {
            return Ok(Vec::new());
        }
        let checkpoint = self.shared().checkpoint;
        let values = checkpoint.floats(name).ok_or_else(|| {
            Error::Tensors(vec![TensorProblem::Missing { name: name.into(), shape: vec![len] }])
        })?;
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(at) => Err(moebius_backend::Error::Weight {
                name: name.into(),
                source: format!("element {at} is {}", values[at]).into(),
            }
            .into()),
        }
    }

    /// The experts of one layer, in the first layout whose first tensor is there.
    pub(crate) fn experts(&self, request: ExpertRequest) -> Result<Box<dyn ExpertBank>> {
        let ExpertRequest { mut spec, top_k, layouts } = request;
        let present = |layout: &&ExpertLayout| {
            let (name, _) = layout.locate(0, Projection::Gate);
            self.checkpoint.is_some_and(|c| c.get(&name).is_some())
        };
        let layout = layouts.iter().find(present).or(layouts.first()).expect("a family names a layout");
        let held = |projection| {
            let name = layout.locate(0, projection).0;
            self.held_format(Place::Experts, &name, spec.shape(projection).1)
        };
        (spec.format, spec.down_format) = (held(Projection::Gate), held(Projection::Down));
        let expert = spec.macs_per_token_expert(); // a parameter is one multiply-add
        self.count(Place::Experts, expert * spec.n_experts as u64, expert * top_k as u64);
        for projection in Projection::ALL {
            let (format, (rows, cols)) = (spec.format_of(projection), spec.shape(projection));
            let rows = rows.saturating_mul(spec.n_experts);
            self.count_held(
                Place::Experts,
                format,
                format.bytes_for(rows, cols).unwrap_or(usize::MAX) as u64,
            );
        }
        if self.checkpoint.is_some() || self.inventory.is_some() {
            for (name, shape, projection) in &layout.tensors(&spec) {
                let (matrix, format) = (spec.shape(*projection), spec.format_of(*projection));
                self.find(name, shape, Asked::Matrices { matrix, format });
                self.require_format(name, &spec, *projection);
            }
        }
        if self.progress.is_none() {
            self.backend.supports(&WeightSpec::Experts(&spec)).map_err(moebius_backend::Error::from)?;
            return Ok(Box::new(PlannedExperts(spec)));
        }
        let source = CheckpointExperts { loader: self.shared(), layout, spec: &spec };
        Ok(self.backend.load_experts(&spec, &source)?)
    }

    /// Whether the checkpoint has a tensor; without a checkpoint, no.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.checkpoint.is_some_and(|c| c.get(name).is_some())
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

    /// Everything that a plan found wrong, as one error.
    pub(crate) fn check(&self) -> Result<()> {
        let problems = self.problems.borrow();
        if problems.is_empty() { Ok(()) } else { Err(Error::Tensors(problems.clone())) }
    }

    fn note(&self, place: Place, name: &str, shape: &[usize], asked: Asked) {
        let elements = shape.iter().map(|&n| n as u64).product();
        self.count(place, elements, elements);
        self.find(name, shape, asked);
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

    /// Looks a tensor up, and notes what is wrong with it.
    fn find(&self, name: &str, shape: &[usize], asked: Asked) {
        if let Some(inventory) = &self.inventory {
            inventory.borrow_mut().insert(name.to_owned(), shape.to_vec());
        }
        let Some(checkpoint) = self.checkpoint else { return };
        let entry = checkpoint.get(name);
        if entry.is_some() {
            self.asked.borrow_mut().insert(name.to_owned(), asked);
        }
        if let Some(problem) = problem_of(entry, name, shape, asked) {
            self.problems.borrow_mut().push(problem);
        }
    }

    /// Notes a problem when a tensor of `spec` would be held in another format than the bank.
    fn require_format(&self, name: &str, spec: &ExpertSpec, projection: Projection) {
        let Some(got) = self.checkpoint.and_then(|c| c.get(name)).and_then(TensorEntry::format) else {
            return;
        };
        let format = spec.format_of(projection);
        if self.held.held(Place::Experts, got, spec.shape(projection).1) != format {
            let expected = format!("{} like the other experts of the layer", format.name());
            let problem = TensorProblem::Dtype { name: name.into(), expected, got: got.name().into() };
            self.problems.borrow_mut().push(problem);
        }
    }

    /// What a matrix is held in. Without a checkpoint it counts as stored in bf16, as most are published.
    fn held_format(&self, place: Place, name: &str, cols: usize) -> WeightFormat {
        let stored = match self.checkpoint {
            Some(checkpoint) => {
                checkpoint.get(name).and_then(TensorEntry::format).unwrap_or(WeightFormat::F32)
            }
            None if self.held == HeldFormats::AsStored => WeightFormat::F32,
            None => WeightFormat::Bf16,
        };
        self.held.held(place, stored, cols)
    }

    fn view(&self, name: &str, index: usize, shape: (usize, usize)) -> Result<WeightView<'a>> {
        Ok(self.shared().view(name, index, shape)?)
    }

    fn shared(&self) -> SharedLoader<'_, 'a> {
        SharedLoader {
            checkpoint: self.checkpoint.expect("only a plan has no checkpoint"),
            progress: self.progress.expect("only a plan has no progress"),
            loaded_bytes: &self.loaded_bytes,
        }
    }
}

/// The part of a loader that several packing threads use.
struct SharedLoader<'l, 'a> {
    checkpoint: &'a Checkpoint,
    progress: Progress<'a>,
    loaded_bytes: &'l AtomicU64,
}

impl<'a> SharedLoader<'_, 'a> {
    fn view(
        &self,
        name: &str,
        index: usize,
        shape: (usize, usize),
    ) -> moebius_backend::Result<WeightView<'a>> {
        let view =
            self.checkpoint.matrix(name, index, shape).ok_or_else(|| moebius_backend::Error::Shape {
                what: format!("`{name}`"),
                expected: format!("matrix {index} of {shape:?}"),
                got: "less".into(),
            })?;
        let size = view.panels().map_or(view.bytes.len(), |panels| panels.range.len()) as u64;
        (self.progress)(self.loaded_bytes.fetch_add(size, Ordering::Relaxed) + size);
        Ok(view)
    }
}

struct CheckpointExperts<'l, 'a> {
    loader: SharedLoader<'l, 'a>,
    layout: &'l ExpertLayout,
    spec: &'l ExpertSpec,
}

impl ExpertSource for CheckpointExperts<'_, '_> {
    fn get(&self, expert: usize, projection: Projection) -> moebius_backend::Result<WeightView<'_>> {
        let (name, index) = self.layout.locate(expert, projection);
        self.loader.view(&name, index, self.spec.shape(projection))
    }
}

fn problem_of(
    entry: Option<&TensorEntry>,
    name: &str,
    shape: &[usize],
    asked: Asked,
) -> Option<TensorProblem> {
    let name = name.to_owned();
    let Some(entry) = entry else {
        return Some(TensorProblem::Missing { name, shape: shape.to_vec() });
    };
    if entry.shape != shape {
        return Some(TensorProblem::Shape { name, expected: shape.to_vec(), got: entry.shape.clone() });
    }
    if entry.format().is_none() {
        let expected = "F32, F16 or BF16".into();
        return Some(TensorProblem::Dtype { name, expected, got: format!("{:?}", entry.dtype) });
    }
    match (&entry.packed, asked) {
        (Some(packed), Asked::Values) => {
            let got = format!("{} in panels", packed.format);
            Some(TensorProblem::Dtype { name, expected: "F32, F16 or BF16".into(), got })
        }
        (Some(packed), Asked::Matrices { matrix, .. }) if packed.matrix != matrix => {
            let [expected, got] =
                [matrix, packed.matrix].map(|(rows, cols)| format!("matrices [{rows}, {cols}]"));
            Some(TensorProblem::Dtype { name, expected, got })
        }
        _ => None,
    }
}
