//! Weights on a device: how they get there and what they then do.
//!
//! Shapes: a matrix is `[outputs, inputs]`; activations are `[tokens, width]`, f32, on the backend's device.
//! A spec's format is what a weight is held in, a view's what it is stored in; a backend that holds a format takes
//! views in every format and rounds each row to the spec's, so that a device never sees what was stored.
//! Invariants: stored bytes are borrowed and their pages are given back, so that no weight is held twice; what is stored
//! in panels already is held where it lies.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use moebius_expert_kernels::WeightFormat;
use moebius_metering::Meter;
use moebius_router::{Router, Routing};

use crate::heads::OneByOne;
use crate::{
    BackendInfo, Error, ExpertSpec, HeadLinear, LinearSpec, Ops, Projection, Result, Unsupported, WeightSpec,
};

/// From this size on a matrix leaves memory while it is packed, not only afterwards.
const LARGE_BYTES: usize = 16 << 20;

/// A device family.
pub trait Backend: Send + Sync {
    /// Name, device and resources.
    fn info(&self) -> &BackendInfo;

    /// Whether a weight can be held and multiplied here, in the formats of its spec and whatever it is stored in.
    /// Asked before the weight is read.
    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported>;

    /// Takes over a dense projection. `bias` has one value per output row. A view may come in another format than
    /// the spec's: the backend rounds each row to the spec's, as [`WeightFormat::encode`] does, or refuses in
    /// [`Backend::supports`].
    ///
    /// # Errors
    /// [`crate::Error::Weight`] when the bytes do not fit the spec or hold a NaN or an infinity.
    fn load_linear(
        &self,
        spec: &LinearSpec,
        weight: WeightView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Box<dyn Linear>>;

    /// Takes over one matrix for each of `heads` heads, asking `source` for each once: `spec` describes a single one.
    /// Formats of views and spec may differ as for [`Backend::load_linear`].
    ///
    /// # Errors
    /// As for [`Backend::load_linear`].
    fn load_heads<'a>(
        &self,
        spec: &LinearSpec,
        heads: usize,
        source: &dyn Fn(usize) -> Result<WeightView<'a>>,
    ) -> Result<Box<dyn HeadLinear>> {
        Ok(Box::new(OneByOne::load(self, spec, heads, source)?))
    }

    /// Takes over the experts of one layer, asking `source` for each of [`ExpertSpec::projections`] of an expert once,
    /// and for its bias if they have some. Formats of views and spec may differ as for [`Backend::load_linear`].
    ///
    /// # Errors
    /// As for [`Backend::load_linear`].
    fn load_experts(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Box<dyn ExpertBank>>;

    /// The operations between the projections.
    fn ops(&self) -> &dyn Ops;

    /// Some if this backend holds weights in the kernels' panels: then it packs matrices for files, and takes views in
    /// panels without copying them. Others are never given such a view.
    fn packer(&self) -> Option<&dyn Packer> {
        None
    }
}

/// A backend that holds weights in panels of sixteen rows, as `moebius-expert-kernels` lays them out.
pub trait Packer {
    /// The bytes of a matrix, rounded to `held` and packed as [`Backend::load_linear`] would hold it:
    /// [`WeightFormat::packed_bytes_for`] of them, the same on every machine.
    ///
    /// # Errors
    /// [`crate::Error::Weight`] when the bytes do not fit the view's shape or hold a NaN or an infinity.
    fn pack(&self, view: &WeightView<'_>, held: WeightFormat) -> Result<Vec<u8>>;
}

/// A dense projection that lives on a device; also the embedding table, whose rows it can hand out.
pub trait Linear: Send + Sync {
    /// What it is.
    fn spec(&self) -> &LinearSpec;

    /// `x Wᵀ + b`: `[tokens, inputs]` to `[tokens, outputs]`, both f32.
    fn forward(&self, x: &Tensor) -> Result<Tensor>;

    /// The weight's own rows for `ids`: `[ids, inputs]` in f32. An embedding lookup, so that a table which
    /// is tied to the output projection is held once.
    fn rows(&self, ids: &[u32]) -> Result<Tensor>;

    /// The projection itself, for a backend whose [`Ops::project`] looks for its own.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }
}

/// The experts of one layer on a device.
pub trait ExpertBank: Send + Sync {
    /// What it is.
    fn spec(&self) -> &ExpertSpec;

    /// The weighted sum of the chosen experts' outputs: `[tokens, hidden]` to `[tokens, hidden]`.
    /// Experts add up in ascending id. What was computed and read is counted into `meter`.
    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor>;

    /// Told once, before the first call, what chooses among these experts: `router`, from the logits of `gate`. A bank
    /// that fetches experts may ask the next layer's router early; others have no use for it.
    fn routed_by(&mut self, gate: &Arc<dyn Linear>, router: &Router) {
        let _ = (gate, router);
    }

    /// Chooses experts from `logits: [tokens, n_experts]` as the router of [`ExpertBank::routed_by`] would, to the bit, and
    /// runs them, where the host need not wait for the device in between. `None` from a bank that leaves it to the caller
    /// to route and to call [`ExpertBank::forward`]. Counts nothing: the routing tells what there is to count.
    ///
    /// # Errors
    /// Those of [`ExpertBank::forward`]. Logits that the router refuses are no error here, but one of the routing.
    fn forward_routed(&self, x: &Tensor, logits: &Tensor) -> Result<Option<Routed>> {
        let _ = (x, logits);
        Ok(None)
    }
}

/// What [`ExpertBank::forward_routed`] gives.
pub struct Routed {
    /// The weighted sum of the chosen experts' outputs, `[tokens, hidden]`. It means nothing if the routing is an error.
    pub output: Tensor,
    /// Who was chosen. Asking waits for the device, so it is done once a pass has launched all of its work.
    pub routing: LaterRouting,
}

/// A routing that a device still computes.
pub type LaterRouting = Box<dyn FnOnce() -> Result<Routing> + Send>;

/// Where a backend gets experts from: one matrix at a time, so that nothing is held twice.
pub trait ExpertSource: Sync {
    /// The stored matrix of one expert.
    fn get(&self, expert: usize, projection: Projection) -> Result<WeightView<'_>>;

    /// The bias of one matrix, a value for each of its rows. Asked only where [`ExpertSpec::biases`] says so.
    ///
    /// # Errors
    /// [`Error::Weight`], unless the source has biases.
    fn bias(&self, expert: usize, projection: Projection) -> Result<Vec<f32>> {
        Err(Error::Weight {
            name: format!("bias of {projection:?} of expert {expert}"),
            source: "the source of these experts has no biases".into(),
        })
    }
}

/// Memory behind a [`WeightView`] that can be given back to the system once it was read.
pub trait MappedPages: Sync {
    /// Says that `bytes`, a part of the mapping, will not be read again soon.
    fn release(&self, bytes: &[u8]);
}

/// Packed bytes that live as long as any holder needs them: a part of a mapped file.
#[derive(Clone)]
pub struct PanelBytes {
    /// What keeps the bytes; it shows the same ones whenever it is asked.
    pub owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    /// Which of the owner's bytes they are; whoever takes them over checks that they are there.
    pub range: Range<usize>,
    /// The same bytes in a file, for whoever would rather read than map them.
    pub file: Option<FileSpan>,
}

/// Where bytes begin in a file.
#[derive(Clone, Debug)]
pub struct FileSpan {
    /// The file, open for reading.
    pub file: Arc<File>,
    /// The first byte.
    pub offset: u64,
}

impl fmt::Debug for PanelBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("PanelBytes");
        text.field("range", &self.range).field("file", &self.file).finish_non_exhaustive()
    }
}

/// A stored matrix: row-major `[rows, cols]`, little endian, borrowed from a mapped file where there is one. It may
/// come in another format than the spec's: the backend rounds each row to the spec's, or refuses in
/// [`Backend::supports`].
///
/// Dropping the view releases the pages behind it, so that loading a checkpoint does not leave both the
/// file and its packed copy in memory.
pub struct WeightView<'a> {
    /// The tensor's name in the checkpoint, for errors.
    pub name: String,
    /// How the rows are stored; how they are to be held is said by the spec.
    pub format: WeightFormat,
    /// Output rows.
    pub rows: usize,
    /// Input columns.
    pub cols: usize,
    /// The elements, row by row; none if the matrix is in panels.
    pub bytes: Cow<'a, [u8]>,
    panels: Option<PanelBytes>,
    pages: Option<&'a dyn MappedPages>,
}

impl<'a> WeightView<'a> {
    /// A view of memory that stays where it is, or bytes that were made for the view.
    pub fn new(
        name: impl Into<String>,
        format: WeightFormat,
        shape: (usize, usize),
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        let (rows, cols) = shape;
        WeightView { name: name.into(), format, rows, cols, bytes: bytes.into(), panels: None, pages: None }
    }

    /// A view of a matrix that a [`Packer`] has packed before, for backends that have one. It is held in `format` and no
    /// other, and where it lies.
    pub fn in_panels(
        name: impl Into<String>,
        format: WeightFormat,
        shape: (usize, usize),
        panels: PanelBytes,
    ) -> Self {
        let mut view = WeightView::new(name, format, shape, &[][..]);
        view.panels = Some(panels);
        view
    }

    /// The packed bytes, if the matrix is in panels.
    pub fn panels(&self) -> Option<&PanelBytes> {
        self.panels.as_ref()
    }

    /// Fails unless the matrix is `[rows, cols]` and, if it is packed, packed in `held`: what every backend that holds
    /// panels asks before it packs, or takes the panels over.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Weight`].
    pub fn check(&self, held: WeightFormat, (rows, cols): (usize, usize)) -> Result<()> {
        if (self.rows, self.cols) != (rows, cols) {
            return Err(Error::Shape {
                what: format!("`{}`", self.name),
                expected: format!("[{rows}, {cols}]"),
                got: format!("[{}, {}]", self.rows, self.cols),
            });
        }
        if self.panels.is_some() && self.format != held {
            let source = format!("expected it packed in {held}, got {}", self.format).into();
            return Err(Error::Weight { name: self.name.clone(), source });
        }
        Ok(())
    }

    /// Releases `pages` when the view is dropped.
    pub fn backed_by(mut self, pages: &'a dyn MappedPages) -> Self {
        self.pages = Some(pages);
        self
    }

    /// Says that a part of the bytes was read and will not be again. A large matrix leaves memory while it is packed, a
    /// small one afterwards.
    pub fn was_read(&self, bytes: &[u8]) {
        if self.bytes.len() >= LARGE_BYTES {
            self.release(bytes);
        }
    }

    /// Gives back a part of the bytes that was read and will not be again.
    pub fn release(&self, bytes: &[u8]) {
        if let Some(pages) = self.pages {
            pages.release(bytes);
        }
    }
}

impl Drop for WeightView<'_> {
    fn drop(&mut self) {
        self.release(&self.bytes);
    }
}
