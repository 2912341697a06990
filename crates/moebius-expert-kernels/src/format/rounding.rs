//! Rounding and sums in shapes that compilers turn into vector code: arrays, eight lanes at a time, no branches.

/// Adding it leaves the nearest whole number, ties to even, in the low bits of the fraction.
const MAGIC: f32 = 12_582_912.0;

/// The nearest whole number within bounds, ties to even.
#[inline(always)]
pub(super) fn rounded(value: f32, low: f32, high: f32) -> f32 {
    value.clamp(low, high) + MAGIC - MAGIC
}

/// As [`rounded`], as an integer; bounds are within 22 bits.
#[inline(always)]
pub(super) fn nearest(value: f32, low: f32, high: f32) -> i32 {
    (value.clamp(low, high) + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32
}

/// Combines values, lane by lane first.
#[inline(always)]
fn reduce<const N: usize>(values: &[f32; N], start: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 8];
    for eight in values.as_chunks::<8>().0 {
        for lane in 0..8 {
            lanes[lane] = combine(lanes[lane], eight[lane]);
        }
    }
    lanes.into_iter().fold(start, combine)
}

#[inline(always)]
pub(super) fn sum<const N: usize>(values: &[f32; N]) -> f32 {
    reduce(values, 0.0, |a, b| a + b)
}

/// The products of two arrays, element by element.
#[inline(always)]
pub(super) fn times<const N: usize>(a: &[f32; N], b: &[f32; N]) -> [f32; N] {
    let mut out = *a;
    for (out, b) in out.iter_mut().zip(b) {
        *out *= b;
    }
    out
}

/// The smallest and the largest of the values and zero.
#[inline(always)]
pub(super) fn range<const N: usize>(values: &[f32; N]) -> (f32, f32) {
    let smaller = |a: f32, b: f32| if b < a { b } else { a };
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    (reduce(values, 0.0, smaller), reduce(values, 0.0, larger))
}

/// The value of largest magnitude.
#[inline(always)]
pub(super) fn extreme<const N: usize>(values: &[f32; N]) -> f32 {
    let (low, high) = range(values);
    if high > -low { high } else { low }
}
