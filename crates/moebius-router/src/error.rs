//! What can be wrong with a router's configuration, its logits, or parts given as a routing.

use std::fmt;

/// Errors of this crate. Layers, tokens and experts are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouterError {
    /// A [`RouterConfig`](crate::RouterConfig) that describes no router.
    Config {
        /// Decoder layer of the router.
        layer: usize,
        /// Field of the configuration.
        field: &'static str,
        /// What the field may be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// The logits are not whole rows of `n_experts` values.
    LogitsLength {
        /// Decoder layer of the router.
        layer: usize,
        /// Values per row.
        n_experts: usize,
        /// Values received.
        len: usize,
    },
    /// A logit is NaN: a broken weight or an overflow further up.
    NanLogit {
        /// Decoder layer of the router.
        layer: usize,
        /// Row of the logits.
        token: usize,
        /// Column of the logits.
        expert: usize,
    },
    /// A logit is plus infinity: softmax has no value there.
    InfiniteLogit {
        /// Decoder layer of the router.
        layer: usize,
        /// Row of the logits.
        token: usize,
        /// Column of the logits.
        expert: usize,
    },
    /// All logits of a token are minus infinity: no expert is allowed.
    NoExpertAllowed {
        /// Decoder layer of the router.
        layer: usize,
        /// Row of the logits.
        token: usize,
    },
    /// Parts that do not form a [`Routing`](crate::Routing).
    Parts {
        /// The part at fault.
        field: &'static str,
        /// What the part may be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// More (token, expert) pairs than a 32-bit index can name.
    TooManyPairs {
        /// Number of pairs.
        pairs: usize,
    },
    /// A routing or a load over another number of experts than the load that it is added to or compared with.
    LoadMismatch {
        /// Experts of the load.
        expected: usize,
        /// Experts of the other.
        got: usize,
    },
    /// No groups to compare.
    NoGroups,
    /// A group to compare that has no tokens.
    EmptyGroup {
        /// Index of the group.
        group: usize,
    },
}

impl fmt::Display for RouterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { layer, field, expected, got } => {
                write!(f, "layer {layer}: router `{field}`: expected {expected}, got {got}")
            }
            Self::LogitsLength { layer, n_experts, len } => {
                write!(
                    f,
                    "layer {layer}: router logits: expected a multiple of {n_experts} values, got {len}"
                )
            }
            Self::NanLogit { layer, token, expert } => {
                write!(f, "layer {layer}, token {token}: router logit for expert {expert} is NaN")
            }
            Self::InfiniteLogit { layer, token, expert } => {
                write!(f, "layer {layer}, token {token}: router logit for expert {expert} is +inf")
            }
            Self::NoExpertAllowed { layer, token } => {
                write!(f, "layer {layer}, token {token}: router logits for all experts are -inf")
            }
            Self::Parts { field, expected, got } => {
                write!(f, "routing `{field}`: expected {expected}, got {got}")
            }
            Self::TooManyPairs { pairs } => {
                write!(f, "routing: expected at most {} token-expert pairs, got {pairs}", u32::MAX)
            }
            Self::LoadMismatch { expected, got } => {
                write!(f, "expert load: expected {expected} experts, got {got}")
            }
            Self::NoGroups => f.write_str("expert loads: expected at least one group, got none"),
            Self::EmptyGroup { group } => {
                write!(f, "expert loads: expected at least one token in group {group}, got none")
            }
        }
    }
}

impl std::error::Error for RouterError {}
