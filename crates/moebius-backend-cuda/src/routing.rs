//! Choosing experts on the device: the router's formula in numbers, and the launches that end in a plan.
//!
//! Shapes: logits `[tokens, experts]`; places as in `routing.cu`.
//! Invariants: the bits are those of `moebius-router`; what was chosen stays in the device's journal until somebody asks.

use std::sync::Arc;

use candle_core::Tensor;
use moebius_backend::{Error, LaterRouting, Result};
use moebius_router::{GroupRank, Renormalize, Router, RouterConfig, Routing, Score, Selection};

use crate::gpu::{Arg, Buffer, Gpu, Launch};
use crate::plan::{PlanShape, TILE};
use crate::slices::{Dense, expect_dims};
use crate::weights::Engine;

/// What a block of `route` has room for; larger routers stay on the host.
const MAX_EXPERTS: usize = 1024;
const MAX_TOP_K: usize = 64;

/// So few tokens are routed and sorted in one launch.
const FEW_TOKENS: usize = 4;
/// Up to so many pairs are counted where they are sorted.
const FEW_PAIRS: usize = 256;

const HAS_SELECTION_BIAS: u32 = 1;
const HAS_EXPERT_SCALE: u32 = 2;
const HAS_MASK: u32 = 4;

/// A router in the device's memory.
pub(crate) struct DeviceRouter {
    router: Arc<Router>,
    formula: Buffer<u32>,
    selection_bias: Option<Buffer<f32>>,
    expert_scale: Option<Buffer<f32>>,
    mask: Option<Buffer<u32>>,
}

/// Pairs in the device's memory, sorted by expert.
pub(crate) struct Planned {
    pub(crate) shape: PlanShape,
    pub(crate) words: Buffer<u32>,
    pub(crate) routing: LaterRouting,
}

/// Whether a block has room for a router.
pub(crate) fn has_room_for(router: &RouterConfig) -> bool {
    router.n_experts <= MAX_EXPERTS && router.top_k <= MAX_TOP_K
}

impl DeviceRouter {
    /// Takes over a router that [`has_room_for`] lets in.
    pub(crate) fn new(gpu: &Gpu, router: Arc<Router>) -> Result<Self> {
        let config = router.config();
        let upload = |values: &Option<Vec<f32>>| values.as_ref().map(|values| gpu.upload(values)).transpose();
        let mut mask = vec![0u32; config.n_experts];
        config.masked.iter().for_each(|&id| mask[id as usize] = 1);
        let mask = (!config.masked.is_empty()).then(|| gpu.upload(&mask)).transpose()?;
        let (selection_bias, expert_scale) = (upload(&config.selection_bias)?, upload(&config.expert_scale)?);
        let formula = gpu.upload(&formula(config))?;
        Ok(DeviceRouter { router, formula, selection_bias, expert_scale, mask })
    }

    /// Launches what chooses experts for tokens and sorts them into a plan, for wide blocks if one `has_room`.
    pub(crate) fn plan(&self, engine: &Engine, logits: &Tensor, has_room: bool) -> Result<Planned> {
        let RouterConfig { n_experts, top_k, applies_to, .. } = *self.router.config();
        let (tokens, width) = logits.dims2()?;
        expect_dims("router logits", &[tokens, n_experts], &[tokens, width])?;
        let shape = PlanShape::largest(tokens, (n_experts, top_k), has_room)?;
        let gpu = &engine.gpu;
        let pairs = shape.pairs;
        let mut words: Buffer<u32> = gpu.unwritten(shape.words())?;
        let dense = Dense::new(logits)?;
        let entry = engine.journal.entry(gpu, 2 * pairs + tokens, |places, first| {
            if tokens <= FEW_TOKENS && pairs <= FEW_PAIRS {
                return self.route_few(gpu, &dense, places.write_from(first), (&shape, &mut words));
            }
            self.route(gpu, &dense, (places.write_from(first), tokens))?;
            sort(gpu, places.read_from(first), (n_experts, top_k), &shape, &mut words)
        })?;
        let (router, logits) = (self.router.clone(), logits.clone());
        let routing: LaterRouting = Box::new(move || {
            let words = entry.read()?;
            let (places, marks) = words.split_at(2 * pairs);
            if marks.iter().any(|&mark| mark != 0) {
                return Err(refusal(&router, &logits));
            }
            let (ids, weights) = places.split_at(pairs);
            let weights: Vec<f32> = weights.iter().map(|&bits| f32::from_bits(bits)).collect();
            Ok(Routing::from_places(n_experts, top_k, ids, &weights, applies_to)?)
        });
        Ok(Planned { shape, words, routing })
    }

    /// Launches choosing and sorting at once.
    fn route_few(
        &self,
        gpu: &Gpu,
        logits: &Dense,
        places: Arg<'_>,
        (shape, words): (&PlanShape, &mut Buffer<u32>),
    ) -> Result<()> {
        let [rows, weights, starts, lists] = shape.offsets();
        let written = words.write_parts([0, rows, weights, starts, lists]);
        let sizes = [shape.tokens.into(), shape.pieces.into()];
        let args = [&self.formula(logits)?[..], &[places], &written, &sizes].concat();
        let blocks = [usize::from(shape.tokens > 0), 1].into();
        gpu.launch(&Launch { kernel: "route_few", blocks, args: &args })
    }

    fn formula<'a>(&'a self, logits: &'a Dense) -> Result<[Arg<'a>; 5]> {
        Ok([
            logits.arg()?,
            self.formula.read(),
            self.selection_bias.as_ref().map_or(Arg::NONE, Buffer::read),
            self.expert_scale.as_ref().map_or(Arg::NONE, Buffer::read),
            self.mask.as_ref().map_or(Arg::NONE, Buffer::read),
        ])
    }

    fn route(&self, gpu: &Gpu, logits: &Dense, (places, tokens): (Arg<'_>, usize)) -> Result<()> {
        let args = [&self.formula(logits)?[..], &[places, tokens.into()]].concat();
        gpu.launch(&Launch { kernel: "route", blocks: [tokens, 1].into(), args: &args })
    }
}

/// Launches the sorting of places by expert.
fn sort(
    gpu: &Gpu,
    places: Arg<'_>,
    (n_experts, top_k): (usize, usize),
    shape: &PlanShape,
    words: &mut Buffer<u32>,
) -> Result<()> {
    let blocks = [n_experts, 1].into();
    let has_counts = shape.pairs > FEW_PAIRS;
    let mut counts: Buffer<u32> = gpu.unwritten(if has_counts { n_experts } else { 0 })?;
    if has_counts {
        let args = [places, counts.write(), shape.pairs.into()];
        gpu.launch(&Launch { kernel: "count_pairs", blocks, args: &args })?;
    }
    let [rows, weights, starts, lists] = shape.offsets();
    let written = words.write_parts([0, rows, weights, starts, lists]);
    let sizes = [shape.tokens, top_k, shape.tiles * TILE, shape.pieces].map(Into::into);
    let args = [&[places, counts.read(), has_counts.into()], &written[..], &sizes].concat();
    gpu.launch(&Launch { kernel: "place_pairs", blocks, args: &args })
}

/// What the host's router says of logits that the device found no answer to.
fn refusal(router: &Router, logits: &Tensor) -> Error {
    let logits = logits.flatten_all().and_then(|logits| logits.to_vec1::<f32>());
    match logits.map(|logits| router.route(&logits)) {
        Err(error) => error.into(),
        Ok(Err(error)) => error.into(),
        Ok(Ok(_)) => Error::Kernel("the device refused logits that the router takes".into()),
    }
}

/// The numbers of a formula, as `Formula` in `routing.cu` reads them.
fn formula(config: &RouterConfig) -> [u32; 12] {
    let (score, jitter) = match config.score {
        Score::Softmax => (0, 0.0),
        Score::SoftmaxOverTopK => (1, 0.0),
        Score::Sigmoid if config.ranks_logits() => (3, 0.0),
        Score::Sigmoid => (2, 0.0),
        Score::SparseMixer { jitter_eps } => (4, jitter_eps),
    };
    let (selection, groups, keep) = match config.selection {
        // SparseMixer has a rule of its own for the two that it takes.
        _ if matches!(config.score, Score::SparseMixer { .. }) => (0, 1, 1),
        Selection::TopK => (0, 1, 1),
        Selection::GroupLimited { n_groups, keep, rank: GroupRank::Max } => (1, n_groups, keep),
        Selection::GroupLimited { n_groups, keep, rank: GroupRank::TopTwoSum } => (2, n_groups, keep),
        Selection::OnePerGroup => (3, config.top_k, 1),
    };
    let (divisor, least) = match config.renormalize {
        Renormalize::No => (0, 0.0),
        Renormalize::Sum { eps } => (1, eps),
        Renormalize::SumAtLeast { min } => (2, min),
    };
    let flags = [
        (config.selection_bias.is_some(), HAS_SELECTION_BIAS),
        (config.expert_scale.is_some(), HAS_EXPERT_SCALE),
        (!config.masked.is_empty(), HAS_MASK),
    ];
    let flags: u32 = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
    [
        config.n_experts as u32,
        config.top_k as u32,
        score,
        selection,
        groups as u32,
        keep as u32,
        divisor,
        flags,
        jitter.to_bits(),
        least.to_bits(),
        config.scale.to_bits(),
        config.drop_below.to_bits(),
    ]
}
