//! A model as the engine sees it, and how to look into one.

use candle_core::Tensor;
use moebius_metering::Meter;
use moebius_router::Routing;

use crate::Result;
use crate::batch::TokenBatch;
use crate::cache::{CacheSpec, KvCache};

/// A loaded family.
pub trait Model: Send + Sync {
    /// What it keeps per sequence.
    fn cache_spec(&self) -> &CacheSpec;

    /// Runs a batch: logits `[output rows, vocab]`, f32, for the rows that the batch asks for.
    /// Keys and values go into `cache`, whose lengths grow when the whole pass has succeeded.
    ///
    /// # Errors
    /// [`crate::Error::TokenId`], [`crate::Error::Context`], or a failure of the router or the device.
    fn forward(&self, batch: &TokenBatch, cache: &mut KvCache, watch: &mut Watch<'_>) -> Result<Tensor>;
}

/// Who looks on while a batch runs.
pub struct Watch<'a> {
    /// Counts the work.
    pub meter: &'a Meter,
    /// Sees the residual stream and every routing decision.
    pub probe: Option<&'a mut dyn Probe>,
}

impl Watch<'_> {
    /// Shows what is about to run.
    pub(crate) fn batch(&mut self, batch: &TokenBatch) {
        if let Some(probe) = &mut self.probe {
            probe.batch(batch);
        }
    }

    /// Shows the residual stream before layer `index`, or after the last.
    pub(crate) fn hidden(&mut self, index: usize, x: &Tensor) -> Result<()> {
        match &mut self.probe {
            Some(probe) => probe.hidden(index, x),
            None => Ok(()),
        }
    }
}

/// Looks into a forward pass. Rows are those of the batch that was announced last.
pub trait Probe {
    /// A batch is about to run.
    fn batch(&mut self, batch: &TokenBatch);

    /// The residual stream `[tokens, hidden]`: index 0 enters layer 0, index `j` has left layer `j - 1`.
    fn hidden(&mut self, index: usize, x: &Tensor) -> Result<()>;

    /// What the router of `layer` chose.
    fn routing(&mut self, layer: usize, routing: &Routing) -> Result<()>;
}
