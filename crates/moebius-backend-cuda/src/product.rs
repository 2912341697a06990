//! The launch of products with packed weights: which kernel, in how many blocks, with which parameters.
//!
//! Shapes: as in `products.cuh`; all dense projections and halves of experts are launches of one kernel of their format.

use moebius_backend::{Activation, Result};

use crate::gpu::{Arg, Blocks, Buffer, Launch};
use crate::inputs::{Activations, Inputs};
use crate::plan::{PlanShape, WIDE, wide_bytes};
use crate::weights::{Engine, PANEL, Stack};

/// Panels that a wide block computes.
const WIDE_PANELS: usize = 8;

/// `TaskFlags` in `products.cuh`.
const HAS_GATE: u32 = 1;
const HAS_BIAS: u32 = 2;
const WEIGHTS_INPUT: u32 = 4;

/// One matrix of each head or expert, and their biases if they have any.
pub(crate) struct Bank {
    pub(crate) stack: Stack,
    pub(crate) bias: Option<Buffer<f32>>,
}

impl Bank {
    fn bias(&self) -> Arg<'_> {
        self.bias.as_ref().map_or(Arg::NONE, Buffer::read)
    }
}

/// What is multiplied.
#[derive(Clone, Copy)]
pub(crate) enum Task<'a> {
    /// Every head's rows with its own matrix; a plain product has one head.
    Dense { bank: &'a Bank, heads: usize, tiles: usize, lots: usize },
    /// The first half of experts.
    Up { gate: Option<&'a Bank>, up: &'a Bank, activation: Activation, pairs: Pairs<'a> },
    /// The second one.
    Down { down: &'a Bank, pairs: Pairs<'a> },
}

/// Pairs of tokens and experts, sorted by expert, in the device's memory.
#[derive(Clone, Copy)]
pub(crate) struct Pairs<'a> {
    pub(crate) shape: &'a PlanShape,
    pub(crate) words: &'a Buffer<u32>,
    /// Whether weights are multiplied with what goes into an expert.
    pub(crate) on_input: bool,
}

/// Where outputs go: as numbers, or as so many terms for the products that follow.
pub(crate) struct Target<'a> {
    pub(crate) numbers: Arg<'a>,
    pub(crate) terms: Arg<'a>,
    pub(crate) term_count: u32,
}

impl<'a> Target<'a> {
    pub(crate) fn numbers(numbers: Arg<'a>) -> Self {
        Target { numbers, terms: Arg::NONE, term_count: 0 }
    }
}

impl<'a> Task<'a> {
    /// The first matrices and those that they gate.
    fn banks(&self) -> (&'a Bank, Option<&'a Bank>) {
        match *self {
            Task::Dense { bank, .. } => (bank, None),
            Task::Up { gate: Some(gate), up, .. } => (gate, Some(up)),
            Task::Up { gate: None, up, .. } => (up, None),
            Task::Down { down, .. } => (down, None),
        }
    }

    /// `Job` in `products.cuh`.
    fn job(&self) -> u32 {
        match self {
            Task::Dense { .. } => 0,
            Task::Up { .. } => 1,
            Task::Down { .. } => 2,
        }
    }

    fn pairs(&self) -> Option<Pairs<'a>> {
        match *self {
            Task::Dense { .. } => None,
            Task::Up { pairs, .. } | Task::Down { pairs, .. } => Some(pairs),
        }
    }

    fn flags(&self) -> u32 {
        let (first, second) = self.banks();
        let on_input = self.pairs().is_some_and(|pairs| pairs.on_input);
        let flags =
            [(second.is_some(), HAS_GATE), (first.bias.is_some(), HAS_BIAS), (on_input, WEIGHTS_INPUT)];
        flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum()
    }

    /// The kernel and its blocks.
    fn kernel(&self, engine: &Engine) -> (String, Blocks) {
        let (Bank { stack, .. }, second) = self.banks();
        let (tiles, lots) = match self {
            Task::Dense { tiles, lots, .. } => (*tiles, *lots),
            Task::Up { pairs, .. } | Task::Down { pairs, .. } => (pairs.shape.tiles, pairs.shape.pieces),
        };
        let (format, panels) = (stack.format, stack.rows.div_ceil(PANEL));
        let rounded = engine.activations == Activations::Bf16;
        match wide_bytes(format, rounded) {
            Some(shared_bytes) if tiles == WIDE => {
                // With a gate a wide block computes the same outputs of both matrices.
                let of_block = if second.is_some() { WIDE_PANELS / 2 } else { WIDE_PANELS };
                let kernel = format!("product_{format}_wide{}", if rounded { "_rounded" } else { "" });
                (kernel, Blocks { grid: [lots, panels.div_ceil(of_block)], shared_bytes })
            }
            _ => (format!("product_{format}_{tiles}"), [lots, panels].into()),
        }
    }

    /// Launches it.
    pub(crate) fn launch(&self, engine: &Engine, inputs: &Inputs, target: &Target<'_>) -> Result<()> {
        let (first, second) = self.banks();
        let pairs = self.pairs();
        let of_pairs =
            |part: usize| pairs.map_or(Arg::NONE, |pairs| pairs.words.read_from(pairs.shape.offsets()[part]));
        let heads = if let Task::Dense { heads, .. } = self { *heads } else { 1 };
        let activation = if let Task::Up { activation, .. } = self { *activation } else { Activation::Silu };
        let (kind, limit) = activation_args(activation);
        let args = [
            &[
                self.job().into(),
                self.flags().into(),
                pairs.map_or(Arg::NONE, |pairs| pairs.words.read()),
                first.stack.words.read(),
                second.map_or(Arg::NONE, |second| second.stack.words.read()),
            ],
            &inputs.args()?[..],
            &[heads.into(), of_pairs(0), of_pairs(1)],
            &[first.bias(), second.map_or(Arg::NONE, Bank::bias), target.numbers, target.terms],
            &[pairs.map_or(0, |pairs| pairs.shape.pairs).into(), first.stack.rows.into()],
            &[target.term_count.into(), kind, limit],
        ];
        let (kernel, blocks) = self.kernel(engine);
        engine.gpu.launch(&Launch { kernel: &kernel, blocks, args: &args.concat() })
    }
}

/// Number and limit of an activation, as the kernels are told.
pub(crate) fn activation_args(activation: Activation) -> (Arg<'static>, Arg<'static>) {
    let (kind, limit): (u32, f32) = match activation {
        Activation::Silu => (0, 0.0),
        Activation::Gelu => (1, 0.0),
        Activation::GeluTanh => (2, 0.0),
        Activation::ReluSquared => (3, 0.0),
        Activation::ClampedSwiglu { limit } => (4, limit),
    };
    (Arg::from(kind), Arg::from(limit))
}
