//! The units of counting: which part of a model worked, in which phase, and how much.
//!
//! Invariants: sums and differences saturate, so that a counter can stop but never wrap.

use std::ops::{Add, Sub};

/// A part of a model to which work is attributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The gate of a mixture-of-experts layer: hidden state to expert logits.
    Router,
    /// The routed experts.
    Experts,
    /// Experts that every token passes through, with their gate if they have one.
    SharedExperts,
    /// Attention: projections, scores and the weighted sum of values.
    Attention,
    /// Feed-forward layers without routing.
    Dense,
    /// The projection of the final hidden state to the vocabulary.
    LmHead,
    /// Everything else: the rows of the embedding table that were looked up.
    Other,
}

impl Part {
    /// Every part, in the order of [`crate::PartWork`].
    pub const ALL: [Part; 7] = [
        Part::Router,
        Part::Experts,
        Part::SharedExperts,
        Part::Attention,
        Part::Dense,
        Part::LmHead,
        Part::Other,
    ];

    /// A stable name for reports, in the spelling of a JSON key.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Router => "router",
            Part::Experts => "experts",
            Part::SharedExperts => "shared_experts",
            Part::Attention => "attention",
            Part::Dense => "dense",
            Part::LmHead => "lm_head",
            Part::Other => "other",
        }
    }

    /// This part of one decoder layer.
    pub const fn in_layer(self, layer: usize) -> Site {
        Site { layer: Some(layer), part: self }
    }

    /// The position in [`Part::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Where in a model work is done: a part of a decoder layer, or of what lies around the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site {
    /// Index of the decoder layer; `None` before the first and after the last.
    pub layer: Option<usize>,
    /// The part.
    pub part: Part,
}

/// The part outside the layers.
impl From<Part> for Site {
    fn from(part: Part) -> Site {
        Site { layer: None, part }
    }
}

/// Whether tokens are read from a prompt or generated one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Tokens of the prompt, many per step.
    Prefill,
    /// Generated tokens, one per sequence and step.
    Decode,
}

impl Phase {
    /// Both phases.
    pub const ALL: [Phase; 2] = [Phase::Prefill, Phase::Decode];

    /// A stable name for reports, in the spelling of a JSON key.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        }
    }

    /// The position in [`Phase::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// An amount of work: operations, and the bytes that had to be touched for them.
///
/// Multiply-adds are those of matrices, of attention's scores and sums, and of recurrences; what is done element by
/// element (norms, activations, rotary positions, softmax) is not. Bytes are those of matrices and of the cache; vectors
/// such as norms and biases are not, which are below a hundredth of any model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiply-adds; one is two floating point operations.
    pub macs: u64,
    /// Bytes of weights touched, in the format they are stored in, once per step however many rows use them.
    pub weight_bytes: u64,
    /// Bytes of key-value cache touched: the rows that attention looked at, those just written included.
    pub cache_bytes: u64,
}

impl Work {
    /// Bytes of weights and cache together.
    pub const fn bytes(self) -> u64 {
        self.weight_bytes.saturating_add(self.cache_bytes)
    }
}

impl Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work {
            macs: self.macs.saturating_add(other.macs),
            weight_bytes: self.weight_bytes.saturating_add(other.weight_bytes),
            cache_bytes: self.cache_bytes.saturating_add(other.cache_bytes),
        }
    }
}

impl Sub for Work {
    type Output = Work;

    fn sub(self, earlier: Work) -> Work {
        Work {
            macs: self.macs.saturating_sub(earlier.macs),
            weight_bytes: self.weight_bytes.saturating_sub(earlier.weight_bytes),
            cache_bytes: self.cache_bytes.saturating_sub(earlier.cache_bytes),
        }
    }
}

/// What the routed experts of one layer did in one step: which token went where, and what one of these pairs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertWork<'a> {
    /// Index of the decoder layer.
    pub layer: usize,
    /// Routed experts of the layer, chosen or not.
    pub n_experts: usize,
    /// Rows that were routed, over all sequences of the batch.
    pub tokens: usize,
    /// Experts that each token goes through, or fewer where the router drops light ones.
    pub top_k: usize,
    /// The experts of every row of the batch, one row after another, each below `n_experts`.
    pub experts: &'a [u32],
    /// Multiply-adds of one expert for one token.
    pub macs_per_token_expert: u64,
    /// Bytes of the weights of one expert, as held.
    pub bytes_per_expert: u64,
}

/// A count as the counters hold it; one that does not fit counts as the largest.
pub(crate) fn widen(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_part_and_phase_stands_at_its_index_under_its_own_name() {
        for (position, part) in Part::ALL.into_iter().enumerate() {
            assert_eq!(part.index(), position, "{part:?}");
        }
        for (position, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase.index(), position, "{phase:?}");
        }
        let names: HashSet<&str> = Part::ALL.into_iter().map(Part::name).collect();
        assert_eq!(names.len(), Part::ALL.len());
    }

    #[test]
    fn work_adds_and_subtracts_field_by_field() {
        let large = Work { macs: 10, weight_bytes: 20, cache_bytes: 30 };
        let small = Work { macs: 1, weight_bytes: 2, cache_bytes: 3 };
        assert_eq!(large + small, Work { macs: 11, weight_bytes: 22, cache_bytes: 33 });
        assert_eq!(large - small, Work { macs: 9, weight_bytes: 18, cache_bytes: 27 });
        assert_eq!(large.bytes(), 50);
    }

    #[test]
    fn work_stops_at_the_ends_of_its_range() {
        let full = Work { macs: u64::MAX, weight_bytes: u64::MAX, cache_bytes: u64::MAX };
        assert_eq!(full + full, full);
        assert_eq!(Work::default() - full, Work::default());
        assert_eq!(full.bytes(), u64::MAX);
    }
}
