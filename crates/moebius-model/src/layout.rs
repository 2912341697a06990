//! Where the matrices of a layer's experts are stored: the handful of layouts that published checkpoints come in.
//!
//! Shapes: gate and up `[intermediate, hidden]`, down `[hidden, intermediate]`; what is stored transposed is turned
//! while it is read.

use moebius_backend::{ExpertSpec, Projection};

use crate::checkpoint::Part;
use crate::config::MAX_EXPERTS;

/// A matrix in a tensor of the checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// The tensor's full name.
    pub(crate) name: String,
    /// The tensor's shape.
    pub(crate) shape: Vec<usize>,
    /// Where in it the matrix lies.
    pub(crate) part: Part,
}

impl Stored {
    /// A matrix that is a tensor of its own.
    pub(crate) fn whole(name: String, (rows, cols): (usize, usize)) -> Self {
        Stored { name, shape: vec![rows, cols], part: Part::WHOLE }
    }

    /// Rows `first`, `first + 1`, ... of a tensor of `shape`.
    pub(crate) fn rows_from(name: String, (rows, cols): (usize, usize), first: usize) -> Self {
        Stored { name, shape: vec![rows, cols], part: Part::Rows { first, step: 1 } }
    }
}

/// Values in a tensor of the checkpoint: `first`, `first + step`, ...
#[derive(Clone, Debug)]
pub(crate) struct StoredValues {
    /// The tensor's full name.
    pub(crate) name: String,
    /// The tensor's shape.
    pub(crate) shape: Vec<usize>,
    /// The first of its elements.
    pub(crate) first: usize,
    /// From one to the next.
    pub(crate) step: usize,
}

/// How gate and up share a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateUp {
    /// All of gate, then all of up.
    Concatenated,
    /// Gate and up in turns.
    Interleaved,
}

/// Where the experts of a layer are stored.
#[derive(Clone, Debug)]
pub(crate) enum ExpertLayout {
    /// A tensor for each matrix: `{prefix}.{expert}.{name}.weight`.
    PerExpert {
        /// Up to the expert's number, without the dot.
        prefix: String,
        /// Names of gate, up and down.
        names: [&'static str; 3],
    },
    /// `[experts, 2 * intermediate, hidden]` for gate and up, and `[experts, hidden, intermediate]`. The biases of
    /// either, if there are any, have the same name with `_bias` at its end.
    Fused {
        /// Full name of the first.
        gate_up: String,
        /// Full name of the second.
        down: String,
        /// How gate and up share the first.
        order: GateUp,
    },
    /// As [`ExpertLayout::Fused`], transposed: `[experts, hidden, 2 * intermediate]` and
    /// `[experts, intermediate, hidden]`.
    FusedTransposed {
        /// Full name of the first.
        gate_up: String,
        /// Full name of the second.
        down: String,
        /// How gate and up share the first.
        order: GateUp,
    },
    /// `[experts, intermediate, hidden]` for gate and up and `[experts, hidden, intermediate]` for down, and for each a
    /// `.bias` where there are some: `{prefix}.{name}.weight` (GGUF).
    Stacks {
        /// Up to the names of the three, without the dot.
        prefix: String,
    },
    /// `[experts * intermediate, hidden]` for each of the three, down transposed (DBRX).
    Stacked {
        /// Full names of gate, up and down.
        names: [String; 3],
    },
}

/// Names of gate, up and down in [`ExpertLayout::Stacks`].
pub(crate) const STACKS: [&str; 3] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];

impl ExpertLayout {
    /// The layouts of GGUF files, in a layer.
    pub(crate) fn of_gguf(layer: usize) -> [Self; 2] {
        let [both, down] = ["ffn_gate_up_exps", STACKS[2]].map(|name| format!("blk.{layer}.{name}.weight"));
        [ExpertLayout::Stacks { prefix: format!("blk.{layer}") }, ExpertLayout::fused(both, down)]
    }

    /// Gate and up one after the other in one tensor, both as they are multiplied.
    pub(crate) fn fused(gate_up: String, down: String) -> Self {
        ExpertLayout::Fused { gate_up, down, order: GateUp::Concatenated }
    }

    /// Where one matrix of an expert lies.
    pub(crate) fn locate(&self, spec: &ExpertSpec, expert: usize, projection: Projection) -> Stored {
        let ExpertSpec { n_experts, hidden, intermediate, .. } = *spec;
        match self {
            ExpertLayout::PerExpert { prefix, names } => {
                let name = format!("{prefix}.{expert}.{}.weight", names[projection as usize]);
                Stored::whole(name, spec.shape(projection))
            }
            ExpertLayout::Fused { down, .. } if projection == Projection::Down => Stored {
                name: down.clone(),
                shape: vec![n_experts, hidden, intermediate],
                part: Part::Rows { first: expert * hidden, step: 1 },
            },
            ExpertLayout::Fused { gate_up, order, .. } => {
                let (first, step) = order.place(projection, intermediate);
                Stored {
                    name: gate_up.clone(),
                    shape: vec![n_experts, 2 * intermediate, hidden],
                    part: Part::Rows { first: expert * 2 * intermediate + first, step },
                }
            }
            ExpertLayout::FusedTransposed { down, .. } if projection == Projection::Down => Stored {
                name: down.clone(),
                shape: vec![n_experts, intermediate, hidden],
                part: Part::Columns { from_row: expert * intermediate, first: 0, step: 1 },
            },
            ExpertLayout::FusedTransposed { gate_up, order, .. } => {
                let (first, step) = order.place(projection, intermediate);
                Stored {
                    name: gate_up.clone(),
                    shape: vec![n_experts, hidden, 2 * intermediate],
                    part: Part::Columns { from_row: expert * hidden, first, step },
                }
            }
            ExpertLayout::Stacks { prefix } => {
                let (rows, cols) = spec.shape(projection);
                Stored {
                    name: format!("{prefix}.{}.weight", STACKS[projection as usize]),
                    shape: vec![n_experts, rows, cols],
                    part: Part::Rows { first: expert * rows, step: 1 },
                }
            }
            ExpertLayout::Stacked { names } => Stored {
                name: names[projection as usize].clone(),
                shape: vec![n_experts * intermediate, hidden],
                part: match projection {
                    Projection::Down => Part::Columns { from_row: expert * intermediate, first: 0, step: 1 },
                    _ => Part::Rows { first: expert * intermediate, step: 1 },
                },
            },
        }
    }

    /// How many experts there are, by the shapes of the tensors that are; `None` where that cannot be told.
    pub(crate) fn count_stored<'s>(
        &self,
        spec: &ExpertSpec,
        shape: impl Fn(&str) -> Option<&'s Vec<usize>>,
    ) -> Option<usize> {
        let stored = |expert| shape(&self.locate(spec, expert, Projection::Down).name);
        match self {
            ExpertLayout::PerExpert { .. } => {
                Some((0..MAX_EXPERTS).take_while(|&expert| stored(expert).is_some()).count())
            }
            ExpertLayout::Fused { .. }
            | ExpertLayout::FusedTransposed { .. }
            | ExpertLayout::Stacks { .. } => stored(0)?.first().copied(),
            ExpertLayout::Stacked { .. } => Some(stored(0)?.first()? / spec.intermediate),
        }
    }

    /// Where the bias of one matrix of an expert lies.
    pub(crate) fn locate_bias(
        &self,
        spec: &ExpertSpec,
        expert: usize,
        projection: Projection,
    ) -> StoredValues {
        let ExpertSpec { n_experts, hidden, intermediate, .. } = *spec;
        match self {
            ExpertLayout::Fused { gate_up, down, order }
            | ExpertLayout::FusedTransposed { gate_up, down, order } => {
                if projection == Projection::Down {
                    let (name, shape) = (format!("{down}_bias"), vec![n_experts, hidden]);
                    return StoredValues { name, shape, first: expert * hidden, step: 1 };
                }
                let (first, step) = order.place(projection, intermediate);
                StoredValues {
                    name: format!("{gate_up}_bias"),
                    shape: vec![n_experts, 2 * intermediate],
                    first: expert * 2 * intermediate + first,
                    step,
                }
            }
            ExpertLayout::PerExpert { prefix, names } => {
                let (rows, _) = spec.shape(projection);
                let name = format!("{prefix}.{expert}.{}.bias", names[projection as usize]);
                StoredValues { name, shape: vec![rows], first: 0, step: 1 }
            }
            ExpertLayout::Stacks { prefix } => {
                let (rows, _) = spec.shape(projection);
                let name = format!("{prefix}.{}.bias", STACKS[projection as usize]);
                StoredValues { name, shape: vec![n_experts, rows], first: expert * rows, step: 1 }
            }
            ExpertLayout::Stacked { names } => {
                let (rows, _) = spec.shape(projection);
                let name = format!("{}_bias", names[projection as usize]);
                StoredValues { name, shape: vec![n_experts * rows], first: expert * rows, step: 1 }
            }
        }
    }
}

impl GateUp {
    /// Where the rows of gate or up are among those of both: the first, and from one to the next.
    fn place(self, projection: Projection, intermediate: usize) -> (usize, usize) {
        match (self, projection) {
            (GateUp::Concatenated, Projection::Gate) => (0, 1),
            (GateUp::Concatenated, _) => (intermediate, 1),
            (GateUp::Interleaved, Projection::Gate) => (0, 2),
            (GateUp::Interleaved, _) => (1, 2),
        }
    }
}
