//! A backend that is another one in all but its banks of experts.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use moebius_backend::{
    Backend, BackendInfo, Error, ExpertBank, ExpertSource, ExpertSpec, FileSpan, HeadLinear, Linear,
    LinearSpec, Ops, Packer, PanelBytes, Projection, Result, Unsupported, WeightFormat, WeightSpec,
    WeightView,
};
use moebius_expert_kernels::{Kernels, Pool};

use crate::buffer::{Buffer, PAGE};
use crate::experts::ConstrainedExperts;
use crate::files::{ExpertFile, Span, Spill, UnitSpans, region_bytes};
use crate::store::{LayerResidency, Store};
use crate::{CachePolicy, ReadLimit};

pub(crate) const NAME: &str = "constrained";

/// The kernels and threads of the backend that computes all else.
#[derive(Clone)]
pub struct Processor {
    /// Its kernels.
    pub kernels: Kernels,
    /// Its threads.
    pub pool: Pool,
}

/// What experts are constrained to.
#[derive(Clone, Debug, Default)]
pub struct ConstrainedOptions {
    /// Experts that may be in memory at a time, those fetched ahead not counted; `None` is all of them.
    pub slots: Option<usize>,
    /// Which expert leaves when another one needs its place.
    pub policy: CachePolicy,
    /// Experts of the next layer that are fetched ahead, at most; each takes memory of its own.
    pub prefetch: usize,
    /// How fast experts may be fetched; `None` is as fast as they come.
    pub limit: Option<ReadLimit>,
    /// Where experts go that do not lie packed in a file: into one without a name in this directory; `None` is that of
    /// temporary files.
    pub spill_dir: Option<PathBuf>,
}

/// Memory that one expert takes, in bytes.
#[must_use]
pub fn slot_bytes(spec: &ExpertSpec) -> u64 {
    let bytes = spec.projections().iter().map(|&projection| {
        let (rows, cols) = spec.shape(projection);
        let bytes = spec.format_of(projection).packed_bytes_for(rows, cols);
        bytes.map_or(u64::MAX, |bytes| region_bytes(bytes) as u64)
    });
    bytes.fold(PAGE as u64, u64::saturating_add)
}

/// The backend.
pub struct ConstrainedBackend {
    info: BackendInfo,
    inner: Arc<dyn Backend>,
    processor: Processor,
    options: OnceLock<ConstrainedOptions>,
    store: OnceLock<Arc<Store>>,
    loading: Mutex<Loading>,
}

/// What loading needs once for all layers.
#[derive(Default)]
struct Loading {
    spill: Option<Spill>,
    files: Vec<Arc<ExpertFile>>,
}

impl ConstrainedBackend {
    /// Lets `inner` hold what is dense, and computes experts on its `processor`. Nothing is constrained until
    /// [`ConstrainedBackend::constrain`] says so.
    ///
    /// # Errors
    /// [`Error::Startup`] when `inner` does not hold weights in panels.
    pub fn new(inner: Arc<dyn Backend>, processor: Processor) -> Result<Self> {
        if inner.packer().is_none() {
            let reason = format!("backend `{}` does not hold weights in panels", inner.info().name);
            return Err(Error::Startup { backend: NAME, reason });
        }
        let info = BackendInfo { name: NAME, ..inner.info().clone() };
        let (options, store, loading) = Default::default();
        Ok(ConstrainedBackend { info, inner, processor, options, store, loading })
    }

    /// Says what experts are constrained to. Once, and before any is loaded: it is false if that was too late.
    pub fn constrain(&self, options: ConstrainedOptions) -> bool {
        self.options.set(options).is_ok()
    }

    /// How many experts of each layer are in memory, in the order in which layers were loaded.
    #[must_use]
    pub fn residency(&self) -> Vec<LayerResidency> {
        self.store.get().map_or_else(Vec::new, |store| store.resident())
    }

    fn options(&self) -> &ConstrainedOptions {
        self.options.get_or_init(ConstrainedOptions::default)
    }

    fn store(&self) -> Result<Arc<Store>> {
        if let Some(store) = self.store.get() {
            return Ok(store.clone());
        }
        let store = Arc::new(Store::new(self.options())?);
        Ok(self.store.get_or_init(|| store).clone())
    }

    fn packed_by(&self) -> &dyn Packer {
        self.inner.packer().expect("the constructor asked for it")
    }

    fn loading(&self) -> MutexGuard<'_, Loading> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the matrices of each expert lie from now on.
    fn place_experts(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Vec<UnitSpans>> {
        let mut loading = self.loading();
        let mut units = Vec::with_capacity(spec.n_experts);
        for expert in 0..spec.n_experts {
            let place = |&projection: &Projection| {
                let view = source.get(expert, projection)?;
                check(&view, spec.shape(projection))?;
                self.place(&mut loading, &view, spec.format_of(projection))
            };
            let parts = spec.projections().iter().map(place).collect::<Result<_>>()?;
            units.push(UnitSpans { parts });
        }
        if let Some(spill) = &loading.spill {
            spill.settle()?;
        }
        Ok(units)
    }

    /// Where a matrix lies: where it was packed, or in a file of ours.
    fn place(&self, loading: &mut Loading, view: &WeightView<'_>, held: WeightFormat) -> Result<Span> {
        let spill_dir = &self.options().spill_dir;
        let Some(panels) = view.panels() else {
            let packed = self.packed_by().pack(view, held)?;
            return loading.spill(spill_dir).put(&packed);
        };
        let bytes = panels_of(view, panels, held)?;
        match &panels.file {
            Some(span) => {
                let file = loading.file(span).map_err(|source| weight(view, source))?;
                Ok(Span { file, offset: span.offset, len: panels.range.len() })
            }
            None => loading.spill(spill_dir).put(bytes),
        }
    }

    /// A matrix in panels as one in our own memory, so that nothing of its file stays mapped; others as they are.
    fn in_memory<'a>(&self, view: WeightView<'a>) -> Result<WeightView<'a>> {
        let Some(panels) = view.panels() else { return Ok(view) };
        let Some(span) = &panels.file else { return Ok(view) };
        let len = panels.range.len();
        let mut buffer = Buffer::new(region_bytes(len));
        let mut read = || self.loading().file(span)?.read(span.offset, len, buffer.bytes_mut());
        let range = read().map_err(|source| weight(&view, source))?;
        let panels = PanelBytes { owner: Arc::new(buffer), range, file: None };
        Ok(WeightView::in_panels(view.name.clone(), view.format, (view.rows, view.cols), panels))
    }
}

impl Loading {
    fn spill(&mut self, dir: &Option<PathBuf>) -> &mut Spill {
        self.spill.get_or_insert_with(|| Spill::new(dir.clone()))
    }

    /// The file behind a span, opened once.
    fn file(&mut self, span: &FileSpan) -> std::io::Result<Arc<ExpertFile>> {
        if let Some(file) = self.files.iter().find(|file| file.is(&span.file)) {
            return Ok(file.clone());
        }
        let file = Arc::new(ExpertFile::shared(span.file.clone())?);
        self.files.push(file.clone());
        Ok(file)
    }
}

/// Fails unless a matrix has the shape that its place asks for.
fn check(view: &WeightView<'_>, (rows, cols): (usize, usize)) -> Result<()> {
    if (view.rows, view.cols) == (rows, cols) {
        return Ok(());
    }
    Err(Error::Shape {
        what: format!("`{}`", view.name),
        expected: format!("[{rows}, {cols}]"),
        got: format!("[{}, {}]", view.rows, view.cols),
    })
}

/// The bytes of a matrix in panels, which must be as long as its shape and format say.
fn panels_of<'p>(view: &WeightView<'_>, panels: &'p PanelBytes, held: WeightFormat) -> Result<&'p [u8]> {
    let wrong = |reason: String| Error::Weight { name: view.name.clone(), source: reason.into() };
    if view.format != held {
        return Err(wrong(format!("expected it packed in {held}, got {}", view.format)));
    }
    let expected = held.packed_bytes_for(view.rows, view.cols);
    if expected != Some(panels.range.len()) {
        let expected = expected.unwrap_or(usize::MAX);
        return Err(wrong(format!("expected {expected} packed bytes, got {}", panels.range.len())));
    }
    let all = (*panels.owner).as_ref();
    let beyond = || wrong(format!("expected {} bytes behind it, got {}", panels.range.end, all.len()));
    all.get(panels.range.clone()).ok_or_else(beyond)
}

fn weight(view: &WeightView<'_>, source: std::io::Error) -> Error {
    Error::Weight { name: view.name.clone(), source: source.into() }
}

impl Backend for ConstrainedBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported> {
        self.inner.supports(spec).map_err(|refused| Unsupported { backend: NAME, ..refused })
    }

    fn load_linear(
        &self,
        spec: &LinearSpec,
        weight: WeightView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Box<dyn Linear>> {
        self.inner.load_linear(spec, self.in_memory(weight)?, bias)
    }

    fn load_heads<'a>(
        &self,
        spec: &LinearSpec,
        heads: usize,
        source: &dyn Fn(usize) -> Result<WeightView<'a>>,
    ) -> Result<Box<dyn HeadLinear>> {
        self.inner.load_heads(spec, heads, &|head| self.in_memory(source(head)?))
    }

    fn load_experts(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Box<dyn ExpertBank>> {
        let spans = self.place_experts(spec, source)?;
        let (biases, store) = (spec.read_biases(source)?, self.store()?);
        let bank = store.add(spec.layer, spans);
        let processor = self.processor.clone();
        Ok(Box::new(ConstrainedExperts { spec: spec.clone(), biases, bank, store, processor }))
    }

    fn ops(&self) -> &dyn Ops {
        self.inner.ops()
    }

    fn packer(&self) -> Option<&dyn Packer> {
        self.inner.packer()
    }
}
