//! A model as the engine sees it, and how to look into one.

use candle_core::Tensor;
use moebius_backend::{ExpertBank, ExpertSpec};
use moebius_metering::Meter;
use moebius_router::{Router, Routing};

use crate::Result;
use crate::batch::TokenBatch;
use crate::cache::{CacheSpec, KvCache};
use crate::info::AttentionShape;

/// A loaded family.
pub trait Model: Send + Sync {
    /// What it keeps per sequence.
    fn cache_spec(&self) -> &CacheSpec;

    /// What each layer's attention computes; `None` for a layer without attention.
    fn attention(&self) -> Vec<Option<AttentionShape>> {
        vec![None; self.cache_spec().layers.len()]
    }

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

    /// What a router and its experts did, once they have.
    fn mixture(&mut self, _: &Mixture<'_>) -> Result<()> {
        Ok(())
    }
}

/// A router and its experts at work on a batch.
pub struct Mixture<'a> {
    /// Index of the decoder layer.
    pub layer: usize,
    /// The formula.
    pub router: &'a Router,
    /// What the router saw, `[tokens, experts]`.
    pub logits: &'a [f32],
    /// What it chose.
    pub routing: &'a Routing,
    /// What experts were given, `[tokens, width]`.
    pub input: &'a Tensor,
    /// The weighted sum of what they made of it, `[tokens, width]`, before anything that every token goes through.
    pub output: &'a Tensor,
    /// The experts.
    pub(crate) experts: &'a dyn ExpertBank,
}

impl Mixture<'_> {
    /// The experts in numbers.
    pub fn spec(&self) -> &ExpertSpec {
        self.experts.spec()
    }

    /// What `expert` alone makes of the input of `token`, with this weight, `[width]`. Computed anew, and not counted.
    ///
    /// # Errors
    /// An expert or a token that is not there; a failure of the device.
    pub fn expert(&self, token: usize, expert: u32, weight: f32) -> Result<Vec<f32>> {
        let applies_to = self.routing.applies_to();
        let alone = Routing::from_parts(self.routing.n_experts(), 1, vec![expert], vec![weight], applies_to);
        let alone = alone.map_err(moebius_backend::Error::from)?;
        let row = self.input.narrow(0, token, 1)?.contiguous()?;
        let y = self.experts.forward(&row, &alone, &Meter::new())?;
        Ok(y.flatten_all()?.to_vec1()?)
    }
}
