//! Records as bytes. All records of a trace have one size.
//!
//! Shapes: tokens: step, sequence, position u32, the id u32 if there are ids, then for each layer `k` ids of one or two
//! bytes and, if there are weights, `k` f32. Counts: tokens u32, then for each layer `[experts]` u32.
//! Invariants: ids of a layer ascend; slots without an expert follow, with all bits set and weight 0.

use super::TokenRoutes;
use super::header::{TraceHeader, TraceKind, TraceLayer};
use crate::LayerRoute;

/// Where things stand in the records of a trace.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    layers: Vec<TraceLayer>,
    token_ids: bool,
    weights: bool,
    /// Bytes of an id: one where all ids and "none" fit it.
    id_bytes: usize,
    record_bytes: usize,
}

impl Layout {
    /// The layout of a checked header.
    pub(super) fn new(header: &TraceHeader) -> Self {
        let one_byte = header.layers.iter().all(|layer| layer.experts <= u32::from(u8::MAX));
        let id_bytes = if one_byte { 1 } else { 2 };
        // At most 4096 layers of 65535 entries of 6 bytes: no overflow in 64 bits.
        let slot_bytes = id_bytes + if header.weights { size_of::<f32>() } else { 0 };
        let record_bytes = match header.kind {
            TraceKind::Tokens => {
                let slots: usize = header.layers.iter().map(|layer| layer.k as usize).sum();
                4 * (3 + usize::from(header.token_ids)) + slots * slot_bytes
            }
            TraceKind::Counts => {
                4 + header.layers.iter().map(|layer| 4 * layer.experts as usize).sum::<usize>()
            }
        };
        let (layers, token_ids, weights) = (header.layers.clone(), header.token_ids, header.weights);
        Layout { layers, token_ids, weights, id_bytes, record_bytes }
    }

    pub(super) fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// Appends a token.
    ///
    /// # Errors
    /// In words, when the token does not fit the header.
    pub(super) fn encode_token(&self, token: &TokenRoutes, out: &mut Vec<u8>) -> Result<(), String> {
        if token.routes.len() != self.layers.len() {
            return Err(format!("expected {} layers, got {}", self.layers.len(), token.routes.len()));
        }
        for number in [token.step, token.sequence, token.position] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        match (self.token_ids, token.token) {
            (true, Some(id)) => out.extend_from_slice(&id.to_le_bytes()),
            (true, None) => return Err("expected the token's id, got none".into()),
            (false, _) => {}
        }
        for (layer, route) in self.layers.iter().zip(&token.routes) {
            self.check(layer, &route.experts, &route.weights)?;
            let empty = layer.k as usize - route.experts.len();
            let ids = route.experts.iter().copied().chain(std::iter::repeat_n(u32::MAX, empty));
            ids.for_each(|id| out.extend_from_slice(&id.to_le_bytes()[..self.id_bytes]));
            if self.weights {
                let weights = route.weights.iter().copied().chain(std::iter::repeat_n(0.0, empty));
                weights.for_each(|weight| out.extend_from_slice(&weight.to_le_bytes()));
            }
        }
        Ok(())
    }

    /// What a record of a token says.
    ///
    /// # Errors
    /// In words, when it is none.
    pub(super) fn decode_token(&self, record: &[u8]) -> Result<TokenRoutes, String> {
        let mut bytes = Bytes(record);
        let [step, sequence, position] = std::array::from_fn(|_| bytes.u32());
        let token = self.token_ids.then(|| bytes.u32());
        let routes = self.layers.iter().map(|layer| self.decode_layer(layer, &mut bytes));
        let routes = routes.collect::<Result<Vec<_>, _>>()?;
        Ok(TokenRoutes { step, sequence, position, token, routes })
    }

    fn decode_layer(&self, layer: &TraceLayer, bytes: &mut Bytes<'_>) -> Result<LayerRoute, String> {
        let none = u32::MAX >> (32 - 8 * self.id_bytes);
        let mut experts: Vec<u32> = (0..layer.k).map(|_| bytes.id(self.id_bytes)).collect();
        let chosen = experts.iter().position(|&id| id == none).unwrap_or(experts.len());
        let mut weights = Vec::new();
        if self.weights {
            weights.extend((0..layer.k).map(|_| f32::from_bits(bytes.u32())));
        }
        if experts[chosen..].iter().any(|&id| id != none) || weights.iter().skip(chosen).any(|&w| w != 0.0) {
            return Err(format!("layer {}: expected nothing after the last expert", layer.layer));
        }
        experts.truncate(chosen);
        weights.truncate(chosen);
        self.check(layer, &experts, &weights)?;
        Ok(LayerRoute { layer: layer.layer, n_experts: layer.experts as usize, experts, weights })
    }

    fn check(&self, of: &TraceLayer, experts: &[u32], weights: &[f32]) -> Result<(), String> {
        let TraceLayer { layer, experts: n_experts, k } = *of;
        let in_range = experts.len() <= k as usize && experts.iter().all(|&id| id < n_experts);
        if !in_range || !experts.is_sorted_by(|a, b| a < b) {
            let expected = format!("expected at most {k} ascending ids below {n_experts}");
            return Err(format!("layer {layer}: {expected}, got {experts:?}"));
        }
        if self.weights && weights.len() != experts.len() {
            return Err(format!("layer {layer}: expected {} weights, got {}", experts.len(), weights.len()));
        }
        match weights.iter().find(|weight| !weight.is_finite()) {
            Some(weight) => Err(format!("layer {layer}: expected finite weights, got {weight}")),
            None => Ok(()),
        }
    }

    /// Appends counts of `tokens` tokens, `[layers][experts]`.
    ///
    /// # Errors
    /// In words, when they do not fit the header.
    pub(super) fn encode_counts(
        &self,
        tokens: u32,
        counts: &[Vec<u32>],
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        if counts.len() != self.layers.len() {
            return Err(format!("expected {} layers, got {}", self.layers.len(), counts.len()));
        }
        out.extend_from_slice(&tokens.to_le_bytes());
        for (layer, counts) in self.layers.iter().zip(counts) {
            check_counts(layer, tokens, counts)?;
            counts.iter().for_each(|count| out.extend_from_slice(&count.to_le_bytes()));
        }
        Ok(())
    }

    /// What a record of counts says: tokens, and `[layers][experts]`.
    ///
    /// # Errors
    /// In words, when it is none.
    pub(super) fn decode_counts(&self, record: &[u8]) -> Result<(u32, Vec<Vec<u32>>), String> {
        let mut bytes = Bytes(record);
        let tokens = bytes.u32();
        let layer = |layer: &TraceLayer| {
            let counts: Vec<u32> = (0..layer.experts).map(|_| bytes.u32()).collect();
            check_counts(layer, tokens, &counts).map(|()| counts)
        };
        let counts = self.layers.iter().map(layer).collect::<Result<_, _>>()?;
        Ok((tokens, counts))
    }
}

/// So many tokens choose each expert at most once, and `k` experts each at most.
fn check_counts(of: &TraceLayer, tokens: u32, counts: &[u32]) -> Result<(), String> {
    let TraceLayer { layer, experts, k } = *of;
    if counts.len() != experts as usize {
        return Err(format!("layer {layer}: expected {experts} counts, got {}", counts.len()));
    }
    if let Some(count) = counts.iter().find(|&&count| count > tokens) {
        return Err(format!("layer {layer}: expected counts of at most {tokens} tokens, got {count}"));
    }
    let (pairs, most) =
        (counts.iter().map(|&count| u64::from(count)).sum::<u64>(), u64::from(tokens) * u64::from(k));
    if pairs > most {
        return Err(format!(
            "layer {layer}: expected at most {most} choices of {tokens} tokens, got {pairs}"
        ));
    }
    Ok(())
}

/// What is left of a record of the right length.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u32(&mut self) -> u32 {
        self.id(4)
    }

    fn id(&mut self, bytes: usize) -> u32 {
        let (number, rest) = self.0.split_at(bytes);
        self.0 = rest;
        number.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
    }
}
