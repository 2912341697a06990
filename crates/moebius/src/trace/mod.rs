//! Traces: every decision of a model's routers in a file, or how often each expert was chosen.
//!
//! [`Model::start_trace`](crate::Model::start_trace) makes one while a model runs, [`TraceWriter`] makes one from
//! anywhere, [`TraceReader`] gives the decisions back in the order in which they were made, and [`TraceStats`] adds
//! them up. `docs/trace-format.md` describes the file for other programs.
//!
//! Shapes: a record of a token holds, for each layer with a router, at most `k` experts with their weights.
//! Invariants: a file is read record by record and never believed: sizes are checked before anything is allocated, ids
//! against the layer, weights for NaN. What a killed program leaves reads up to its last whole record.

mod header;
mod import;
mod layout;
mod npy;
mod reader;
mod recorder;
mod replay;
mod stats;
mod writer;

pub use header::{TraceHeader, TraceKind, TraceLayer};
pub use import::{ImportShape, import_trace};
pub use reader::{TraceReader, TraceRecord};
pub(crate) use recorder::TraceRecorder;
pub use recorder::{TraceMode, TraceSummary, fingerprint};
pub use replay::{CacheTrace, CacheTrial, CacheVerdict};
pub use stats::{Coactivation, LayerTraceStats, PairLift, TraceStats};
pub use writer::TraceWriter;

use crate::LayerRoute;

/// What all routers chose for one token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenRoutes {
    /// Number of the forward pass: tokens of one step ran together.
    pub step: u32,
    /// Number of the sequence in the trace.
    pub sequence: u32,
    /// Position of the token in its sequence.
    pub position: u32,
    /// Its id, where the trace has ids.
    pub token: Option<u32>,
    /// One entry for each layer of the header, in its order. Weights are empty where the trace has none.
    pub routes: Vec<LayerRoute>,
}
