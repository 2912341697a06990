//! Launch plans: which block works on what.
//!
//! Invariants: a plan decides who computes, never what: an output has the same bits under every plan.

use moebius_backend::{Error, Result, WeightFormat};
use moebius_router::Dispatch;

/// Inputs of a tile.
pub(crate) const TILE: usize = 8;

/// Tiles of a wide block, which multiplies from shared memory.
pub(crate) const WIDE: usize = 16;

/// How many tiles a block takes: one for few inputs, so that more blocks read weights at once, four, so that weights are
/// read once for more of them, or as many as a wide block takes, if one `has_room`.
pub(crate) fn tiles_for(inputs: usize, has_room: bool) -> usize {
    match inputs.div_ceil(TILE) {
        0 | 1 => 1,
        2..=4 => 4,
        _ if has_room => WIDE,
        _ => 4,
    }
}

/// How a format shares the memory of a wide block; `Format` in `formats.cuh`.
struct WideFormat {
    /// Packed bytes of a stage of 64 columns in one panel.
    packed: usize,
    /// Runs of a stage that have a scale.
    runs: usize,
    has_minima: bool,
    /// bf16 that an input is split into.
    terms: usize,
}

/// None for a format that is not multiplied on tensor cores.
fn wide_format(format: WeightFormat) -> Option<WideFormat> {
    let (packed, runs, has_minima) = match format {
        // Halves of an f16 are two steps of 16 columns.
        WeightFormat::F16 => (2 * 512, 0, false),
        // It is multiplied as it is packed.
        WeightFormat::Bf16 => (0, 0, false),
        WeightFormat::Q8_0 => (2 * 544, 2, false),
        WeightFormat::Q4_0 => (2 * 288, 2, false),
        WeightFormat::Mxfp4 => (2 * 272, 2, false),
        WeightFormat::Q5_1 => (2 * 384, 2, true),
        WeightFormat::Iq4Xs => (2 * (160 + 256), 2, false),
        WeightFormat::Q4K => (320 + 512, 2, true),
        WeightFormat::Q5K => (320 + 640, 2, true),
        WeightFormat::Q6K => (288 + 768, 4, false),
        WeightFormat::Q2K => (576 + 256, 4, true),
        _ => return None,
    };
    Some(WideFormat { packed, runs, has_minima, terms: if runs == 0 { 3 } else { 2 } })
}

/// Bytes of shared memory of a wide block, if there is one for a format; `Floor` in `wide.cu`.
pub(crate) fn wide_bytes(format: WeightFormat, rounded: bool) -> Option<usize> {
    const PANELS: usize = 8;
    let WideFormat { packed, runs, has_minima, terms } = wide_format(format)?;
    let terms = if rounded { 1 } else { terms };
    let inputs = WIDE * TILE;
    let scales = runs * PANELS * 16 * 4;
    let of_minima = if has_minima { scales + runs * inputs * 4 } else { 0 };
    let stage = PANELS * 4 * 512 + terms * inputs * 128 + scales + of_minima;
    let sums = inputs * (PANELS * 16 + 4) * 4;
    Some(sums.max(2 * (PANELS * packed + stage)))
}

/// Whether a block with so much shared memory can be a wide one of all these formats.
pub(crate) fn has_room_for(most_bytes: usize, formats: &[WeightFormat], rounded: bool) -> bool {
    formats.iter().all(|&format| wide_bytes(format, rounded).is_some_and(|bytes| bytes <= most_bytes))
}

/// The sizes of a bank's work on a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlanShape {
    /// Tiles that a block takes.
    pub(crate) tiles: usize,
    /// How many blocks there are for each panel; the last ones may have nothing to do.
    pub(crate) pieces: usize,
    /// Pairs of a token and an expert, or places for them.
    pub(crate) pairs: usize,
    /// Tokens.
    pub(crate) tokens: usize,
}

impl PlanShape {
    /// Sizes that hold whatever a router chooses.
    ///
    /// # Errors
    /// [`Error::Shape`] if pairs cannot be numbered in 32 bits.
    pub(crate) fn largest(tokens: usize, (n_experts, top_k): (usize, usize), has_room: bool) -> Result<Self> {
        let pairs = tokens.saturating_mul(top_k);
        check_numbers(pairs.max(tokens))?;
        let active = pairs.min(n_experts);
        let tiles = tiles_for(pairs.div_ceil(active.max(1)), has_room);
        // An expert with `n` pairs has `(n - 1) / most + 1` pieces, so most of them come of many experts.
        let pieces = active + (pairs - active) / (tiles * TILE);
        Ok(PlanShape { tiles, pieces, pairs, tokens })
    }

    /// Where the tokens of pairs, the weights of pairs, the starts and the lists begin.
    pub(crate) fn offsets(&self) -> [usize; 4] {
        let rows = 3 * self.pieces;
        let starts = rows + 2 * self.pairs;
        [rows, rows + self.pairs, starts, starts + self.tokens + 1]
    }

    /// Words of a plan.
    pub(crate) fn words(&self) -> usize {
        3 * self.pieces + 3 * self.pairs + self.tokens + 1
    }
}

/// A bank's work on a batch, in one stretch of numbers that is uploaded at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ExpertPlan {
    pub(crate) shape: PlanShape,
    /// Pieces (expert, first pair, pairs), then for each pair its token, for each pair its weight, for each token
    /// the start of its list of pairs, and those lists, in ascending expert.
    pub(crate) words: Vec<u32>,
}

impl ExpertPlan {
    /// Plans a dispatch of so many tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] if pairs cannot be numbered in 32 bits.
    pub(crate) fn new(dispatch: &Dispatch, tokens: usize, has_room: bool) -> Result<Self> {
        let (rows, offsets) = (dispatch.rows(), dispatch.offsets());
        check_numbers(rows.len().max(tokens))?;
        let tiles = tiles_for(rows.len().div_ceil(dispatch.n_active().max(1)), has_room);
        let mut words = pieces(offsets, tiles * TILE);
        let shape = PlanShape { tiles, pieces: words.len() / 3, pairs: rows.len(), tokens };
        words.extend(rows);
        words.extend(dispatch.weights().iter().map(|weight| weight.to_bits()));
        let (starts, pairs) = pairs_of_tokens(rows, tokens);
        words.extend(starts);
        words.extend(pairs);
        Ok(ExpertPlan { shape, words })
    }
}

fn check_numbers(pairs: usize) -> Result<()> {
    if u32::try_from(pairs).is_ok() {
        return Ok(());
    }
    Err(Error::Shape {
        what: "batch".into(),
        expected: format!("at most {} pairs of a token and an expert", u32::MAX),
        got: pairs.to_string(),
    })
}

/// Cuts the pairs of each expert into pieces of at most `most`: expert, first pair, number of pairs.
fn pieces(offsets: &[usize], most: usize) -> Vec<u32> {
    let mut words = Vec::new();
    for (expert, pair) in offsets.windows(2).enumerate() {
        for first in (pair[0]..pair[1]).step_by(most) {
            words.extend([expert, first, most.min(pair[1] - first)].map(|number| number as u32));
        }
    }
    words
}

/// For each token the start of its list, and the lists of its pairs. Pairs are in ascending expert, so lists are too.
fn pairs_of_tokens(rows: &[u32], tokens: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; tokens + 1];
    for &token in rows {
        starts[token as usize + 1] += 1;
    }
    for token in 0..tokens {
        starts[token + 1] += starts[token];
    }
    let mut next = starts.clone();
    let mut pairs = vec![0; rows.len()];
    for (pair, &token) in rows.iter().enumerate() {
        let place = &mut next[token as usize];
        pairs[*place as usize] = pair as u32;
        *place += 1;
    }
    (starts, pairs)
}

#[cfg(test)]
mod tests {
    use moebius_router::{Routing, WeightTarget};

    use super::*;

    fn plan(n_experts: usize, ids: &[u32], top_k: usize) -> ExpertPlan {
        let weights = (0..ids.len()).map(|pair| pair as f32).collect();
        let routing = Routing::from_parts(n_experts, top_k, ids.to_vec(), weights, WeightTarget::Output);
        let routing = routing.expect("a valid routing");
        ExpertPlan::new(&routing.dispatch(), ids.len() / top_k, false).expect("it is small")
    }

    #[test]
    fn pairs_of_an_expert_are_cut_into_pieces_and_idle_experts_have_none() {
        let offsets = [0, 0, 17, 17, 25, 26];
        let expected = [[1, 0, 8], [1, 8, 8], [1, 16, 1], [3, 17, 8], [4, 25, 1]];
        assert_eq!(pieces(&offsets, 8), expected.concat());
        assert_eq!(pieces(&offsets, 32), [[1, 0, 17], [3, 17, 8], [4, 25, 1]].concat());
        assert!(pieces(&[0, 0], 8).is_empty());
    }

    #[test]
    fn the_pairs_of_a_token_come_in_ascending_expert() {
        // Token 0 visits experts 1 and 3, token 1 visits 0 and 3: pairs are (0, 1), (1, 0), (3, 0), (3, 1).
        let plan = plan(4, &[1, 3, 0, 3], 2);
        let [rows, weights, starts, lists] = plan.shape.offsets();
        assert_eq!(plan.words.len(), plan.shape.words());
        assert_eq!(plan.words[..rows], [[0, 0, 1], [1, 1, 1], [3, 2, 2]].concat());
        assert_eq!(plan.words[rows..weights], [1, 0, 0, 1]);
        assert_eq!(plan.words[weights..starts], [2.0, 0.0, 1.0, 3.0].map(f32::to_bits));
        assert_eq!(plan.words[starts..lists], [0, 2, 4]);
        assert_eq!(plan.words[lists..], [1, 2, 0, 3]);
    }

    #[test]
    fn blocks_are_wide_where_there_are_many_inputs_and_enough_memory() {
        assert_eq!([0, 1, 8, 9, 32, 33, 4000].map(|inputs| tiles_for(inputs, true)), [1, 1, 1, 4, 4, 16, 16]);
        assert_eq!([32, 33, 4000].map(|inputs| tiles_for(inputs, false)), [4; 3]);
        let formats: Vec<_> =
            WeightFormat::ALL.into_iter().filter(|&format| format != WeightFormat::F32).collect();
        // What a block has at the most on H100, on A100, and on L4, where only rounded inputs leave enough.
        for (kib, exact) in [(227, true), (163, true), (99, false)] {
            assert!(has_room_for(kib << 10, &formats, true), "{kib} KiB");
            for &format in &formats {
                assert_eq!(has_room_for(kib << 10, &[format], false), exact, "{format} in {kib} KiB");
            }
        }
        assert!(!has_room_for(usize::MAX, &[WeightFormat::Bf16, WeightFormat::F32], false));
        // As docs/gpu.md says.
        let bytes = |rounded| formats.iter().filter_map(move |&format| wide_bytes(format, rounded));
        assert_eq!((bytes(true).min(), bytes(false).max()), (Some(66 << 10), Some(144 << 10)));
    }

    #[test]
    fn all_tokens_on_one_expert_fill_its_pieces() {
        let plan = plan(5, &[2; 33], 1);
        assert_eq!(plan.shape, PlanShape { tiles: 4, pieces: 2, pairs: 33, tokens: 33 });
        assert_eq!(plan.words[..6], [2, 0, 32, 2, 32, 1]);
    }

    #[test]
    fn no_tokens_are_no_pieces() {
        let plan = plan(5, &[], 1);
        assert_eq!((plan.shape.pieces, plan.words), (0, vec![0]));
        assert_eq!(PlanShape::largest(0, (5, 2), true).expect("it is small").words(), 1);
    }

    #[test]
    fn sizes_for_any_choice_are_never_too_small_and_exact_for_one_token() {
        let one = PlanShape::largest(1, (128, 8), true).expect("it is small");
        assert_eq!(one, PlanShape { tiles: 1, pieces: 8, pairs: 8, tokens: 1 });
        let cases = [(2, 3, 2), (7, 128, 8), (33, 5, 5), (64, 4, 1), (100, 16, 4), (600, 4, 2)];
        for ((tokens, experts, top_k), has_room) in
            cases.into_iter().flat_map(|case| [(case, false), (case, true)])
        {
            let largest = PlanShape::largest(tokens, (experts, top_k), has_room).expect("it is small");
            let most = largest.tiles * TILE;
            // All on the first experts, spread evenly, and one pair too many for a piece wherever that can be.
            let mut loads = vec![vec![tokens; top_k]];
            loads.push(
                (0..experts)
                    .map(|id| largest.pairs / experts + usize::from(id < largest.pairs % experts))
                    .collect(),
            );
            let ragged = (0..experts).scan(largest.pairs, |left, _| {
                let load = (*left).min(tokens).min(most + 1);
                *left -= load;
                Some(load)
            });
            loads.push(ragged.collect());
            for load in loads {
                let pieces: usize = load.iter().map(|pairs| pairs.div_ceil(most)).sum();
                assert!(pieces <= largest.pieces, "{load:?}: {pieces} of {}", largest.pieces);
            }
        }
    }
}
