//! The experts of one layer: rows grouped by expert, each expert's weights read once for up to 128 of them.
//!
//! ```text
//! h[pair] = act(gate x) (up x)      y[pair] = weight (down h[pair])      out[token] = Σ y[pair], ascending expert
//! ```
//!
//! Shapes: x and out `[tokens, hidden]`, h `[pairs, intermediate]`, y `[pairs, hidden]`.

use std::sync::{Arc, OnceLock};

use candle_core::Tensor;
use moebius_backend::{Error, ExpertBank, ExpertSource, ExpertSpec, Linear, Projection, Result, Routed};
use moebius_metering::Meter;
use moebius_router::{Router, Routing, WeightTarget};

use crate::gpu::{Arg, Buffer};
use crate::inputs::{Inputs, needs_terms_only};
use crate::plan::ExpertPlan;
use crate::product::{Bank, Pairs, Target, Task};
use crate::routing::{DeviceRouter, Planned, has_room_for};
use crate::slices::{blocks_for, computed, expect_dims};
use crate::weights::{Engine, Stack};

pub(crate) struct CudaExperts {
    spec: ExpertSpec,
    gate: Option<Bank>,
    up: Bank,
    down: Bank,
    /// What chooses among the experts, if a block has room for it.
    router: Option<Arc<Router>>,
    /// The same on the device, from its first use on.
    device_router: OnceLock<DeviceRouter>,
    engine: Arc<Engine>,
}

impl CudaExperts {
    pub(crate) fn load(engine: &Arc<Engine>, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Self> {
        let bank = |projection, bias: Option<Vec<f32>>| {
            let (held, shape) = (spec.format_of(projection), spec.shape(projection));
            let matrix = |expert| source.get(expert, projection);
            let stack = Stack::load(engine, held, shape, spec.n_experts, matrix)?;
            let bias = bias.map(|bias| engine.gpu.upload(&bias)).transpose()?;
            Ok::<_, Error>(Bank { stack, bias })
        };
        let biases = spec.read_biases(source)?;
        let gate = spec.gated.then(|| bank(Projection::Gate, biases.gate)).transpose()?;
        let (up, down) = (bank(Projection::Up, biases.up)?, bank(Projection::Down, biases.down)?);
        let (router, device_router) = (None, OnceLock::new());
        Ok(CudaExperts { spec: spec.clone(), gate, up, down, router, device_router, engine: engine.clone() })
    }

    /// The router on the device.
    fn device_router(&self, router: &Arc<Router>) -> Result<&DeviceRouter> {
        if self.device_router.get().is_none() {
            let made = DeviceRouter::new(&self.engine.gpu, router.clone())?;
            // Another thread may have been faster; one is as good as the other.
            let _ = self.device_router.set(made);
        }
        Ok(self.device_router.get().expect("it was set"))
    }

    /// Whether both halves may be computed by wide blocks.
    fn has_room(&self) -> bool {
        self.engine.has_room_for(&[self.spec.format, self.spec.down_format])
    }

    /// What the experts of a plan give for its tokens, `[tokens, hidden]`.
    fn run(&self, x: &Tensor, pairs: Pairs<'_>) -> Result<Tensor> {
        let (hidden, tokens) = (self.spec.hidden, pairs.shape.tokens);
        let of_pairs = self.pairs(x, pairs)?;
        let [.., starts, lists] = pairs.shape.offsets();
        let before = [of_pairs.read(), pairs.words.read_from(starts), pairs.words.read_from(lists)];
        let grid = [tokens, blocks_for(hidden)];
        computed(&self.engine.gpu, &[tokens, hidden], ("combine", grid), &before, &[hidden.into()])
    }

    /// What the pairs of a plan give, `[pairs, hidden]`.
    fn pairs(&self, x: &Tensor, pairs: Pairs<'_>) -> Result<Buffer<f32>> {
        let ExpertSpec { hidden, intermediate, format, down_format, activation, .. } = self.spec;
        let (engine, count) = (&*self.engine, pairs.shape.pairs);
        let up = Task::Up { gate: self.gate.as_ref(), up: &self.up, activation, pairs };
        let inputs = Inputs::new(engine, x, &[format])?;
        let inner = if needs_terms_only(down_format) {
            Inputs::of_terms(engine, (count, intermediate), |terms, term_count| {
                up.launch(engine, &inputs, &Target { numbers: Arg::NONE, terms, term_count })
            })?
        } else {
            let mut inner = engine.gpu.unwritten(count * intermediate)?;
            up.launch(engine, &inputs, &Target::numbers(inner.write()))?;
            Inputs::new(engine, &engine.gpu.tensor(inner, &[count, intermediate])?, &[down_format])?
        };
        let mut out = engine.gpu.unwritten(count * hidden)?;
        Task::Down { down: &self.down, pairs }.launch(engine, &inner, &Target::numbers(out.write()))?;
        Ok(out)
    }
}

impl ExpertBank for CudaExperts {
    fn spec(&self) -> &ExpertSpec {
        &self.spec
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        let (tokens, _) = self.spec.check_call(x, routing)?;
        let ExpertPlan { shape, words } = ExpertPlan::new(&routing.dispatch(), tokens, self.has_room())?;
        let words = self.engine.gpu.upload(&words)?;
        let on_input = routing.applies_to() == WeightTarget::Input;
        let out = self.run(x, Pairs { shape: &shape, words: &words, on_input })?;
        meter.experts(self.spec.work(routing));
        Ok(out)
    }

    fn routed_by(&mut self, _: &Arc<dyn Linear>, router: &Router) {
        let fits = router.config().n_experts == self.spec.n_experts && has_room_for(router.config());
        self.router = fits.then(|| Arc::new(router.clone()));
    }

    fn forward_routed(&self, x: &Tensor, logits: &Tensor) -> Result<Option<Routed>> {
        let Some(router) = &self.router else { return Ok(None) };
        expect_dims("expert input", &[logits.dim(0)?, self.spec.hidden], x.dims())?;
        let Planned { shape, words, routing } =
            self.device_router(router)?.plan(&self.engine, logits, self.has_room())?;
        let on_input = router.config().applies_to == WeightTarget::Input;
        let output = self.run(x, Pairs { shape: &shape, words: &words, on_input })?;
        Ok(Some(Routed { output, routing }))
    }
}
