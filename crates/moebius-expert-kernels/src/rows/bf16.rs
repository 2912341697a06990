//! Inputs rounded to bf16: to nearest, ties to even, a NaN to a quiet one.
//!
//! Invariants: a word of a pair has the earlier column in its upper half; beside the last of an odd number of columns
//! is a zero.

use super::join;

/// The bits of the nearest bf16.
#[inline(always)]
fn nearest(value: f32) -> u32 {
    let bits = value.to_bits();
    // More than half of the last place, or half of it and an odd number before, carries over, up to infinity.
    let carried = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { bits >> 16 | 0x40 } else { carried }
}

/// The bits of the nearest bf16 as an `f32`.
#[inline(always)]
fn rounded(value: f32) -> i32 {
    (nearest(value) << 16) as i32
}

#[inline(always)]
fn pair_of(first: f32, second: f32) -> i32 {
    join([nearest(second) as i32, nearest(first) as i32])
}

/// Rounds values, one a word.
#[inline(always)]
pub(super) fn round(values: &[f32], words: &mut [i32]) {
    for (word, value) in words.iter_mut().zip(values) {
        *word = rounded(*value);
    }
}

/// Rounds rows of `cols` values, two a word.
#[inline(always)]
pub(super) fn pair(cols: usize, values: &[f32], words: &mut [i32]) {
    for (values, words) in values.chunks_exact(cols).zip(words.chunks_exact_mut(cols.div_ceil(2))) {
        let (pairs, last) = values.as_chunks::<2>();
        let (whole, end) = words.split_at_mut(pairs.len());
        for (word, [first, second]) in whole.iter_mut().zip(pairs) {
            *word = pair_of(*first, *second);
        }
        for (word, value) in end.iter_mut().zip(last) {
            *word = pair_of(*value, 0.0);
        }
    }
}

/// A rounded value times a factor, rounded again.
pub(super) fn rounded_times(word: i32, factor: f32) -> i32 {
    rounded(factor * f32::from_bits(word as u32))
}

/// A pair of rounded values times a factor, rounded again.
pub(super) fn pair_times(word: i32, factor: f32) -> i32 {
    let [first, second] = [word as u32 & 0xffff_0000, (word as u32) << 16].map(f32::from_bits);
    pair_of(factor * first, factor * second)
}
