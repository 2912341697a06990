//! Writes down what the routers chose.

use candle_core::Tensor;
use moebius_model::{Probe, TokenBatch};
use moebius_router::Routing;

/// What one layer's router chose for one token.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRoute {
    /// Index of the decoder layer.
    pub layer: usize,
    /// Experts of the layer.
    pub n_experts: usize,
    /// The chosen experts, ascending.
    pub experts: Vec<u32>,
    /// Their weights, in the same order.
    pub weights: Vec<f32>,
}

/// A probe that keeps, for the last row of each batch, what every layer chose: the experts that computed
/// the token which follows.
#[derive(Debug, Default)]
pub struct RouteRecorder {
    routes: Vec<LayerRoute>,
}

impl RouteRecorder {
    /// The routes of the last batch, by layer, leaving none.
    pub fn take(&mut self) -> Vec<LayerRoute> {
        std::mem::take(&mut self.routes)
    }
}

impl Probe for RouteRecorder {
    fn batch(&mut self, _: &TokenBatch) {
        self.routes.clear();
    }

    fn hidden(&mut self, _: usize, _: &Tensor) -> moebius_model::Result<()> {
        Ok(())
    }

    fn routing(&mut self, layer: usize, routing: &Routing) -> moebius_model::Result<()> {
        let Some(last) = routing.tokens().checked_sub(1) else { return Ok(()) };
        self.routes.push(LayerRoute {
            layer,
            n_experts: routing.n_experts(),
            experts: routing.experts(last).to_vec(),
            weights: routing.weights(last).to_vec(),
        });
        Ok(())
    }
}
