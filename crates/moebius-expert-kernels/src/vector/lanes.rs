//! Functions of sixteen lanes that every kernel shares: loads with padding, reductions, exp, activations.

use super::Activation;
use crate::arch::{LANES, Simd};

/// Loads up to sixteen values; lanes without one hold `padding`.
#[inline(always)]
pub(crate) fn load_padded<S: Simd>(simd: S, values: &[f32], padding: f32) -> S::V {
    match values.first_chunk::<LANES>() {
        Some(full) => simd.load(full),
        None => {
            let mut padded = [padding; LANES];
            for (lane, value) in padded.iter_mut().zip(values) {
                *lane = *value;
            }
            simd.load(&padded)
        }
    }
}

/// Stores as many lanes as `out` has places, up to sixteen.
#[inline(always)]
pub(crate) fn store_part<S: Simd>(simd: S, v: S::V, out: &mut [f32]) {
    match out.first_chunk_mut::<LANES>() {
        Some(full) => simd.store(v, full),
        None => {
            let mut lanes = [0.0; LANES];
            simd.store(v, &mut lanes);
            for (out, lane) in out.iter_mut().zip(&lanes) {
                *out = *lane;
            }
        }
    }
}

/// The sum of the lanes: halves are added until one is left.
#[inline(always)]
pub(crate) fn reduce_sum<S: Simd>(simd: S, v: S::V) -> f32 {
    reduce(simd, v, |a, b| a + b)
}

/// The largest lane; lanes hold no NaN.
#[inline(always)]
pub(crate) fn reduce_max<S: Simd>(simd: S, v: S::V) -> f32 {
    reduce(simd, v, |a, b| if a > b { a } else { b })
}

#[inline(always)]
fn reduce<S: Simd>(simd: S, v: S::V, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    simd.store(v, &mut lanes);
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The dot product of two slices of equal length: sixteen chains, then [`reduce_sum`].
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = simd.splat(0.0);
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        sum = simd.fma(load_padded(simd, a, 0.0), load_padded(simd, b, 0.0), sum);
    }
    reduce_sum(simd, sum)
}

/// The whole number next to `v`, ties to even, for magnitudes below 2^22.
#[inline(always)]
fn round<S: Simd>(simd: S, v: S::V) -> S::V {
    // At 1.5 * 2^23 the distance between neighbours is one, so the addition rounds.
    let anchor = simd.splat(12_582_912.0);
    simd.sub(simd.add(v, anchor), anchor)
}

/// `e^x` within 2 units in the last place; 0 and infinity where the result leaves the range; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    // Beyond these bounds the result is 0 or infinity already.
    let x = simd.min(simd.splat(89.0), simd.max(simd.splat(-104.0), x));
    // x = n ln 2 + r with |r| <= ln 2 / 2. The first part of ln 2 has nine bits, so its product is exact.
    let n = round(simd, simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.fma(n, simd.splat(-355.0 / 512.0), x);
    let r = simd.fma(n, simd.splat(2.121_944_4e-4), r);
    // The Taylor series: its first omitted term is a tenth of a unit in the last place.
    let mut p = simd.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = simd.fma(p, r, simd.splat(coefficient));
    }
    // 2^n in two factors, since n reaches beyond the exponents of normal numbers.
    let half = round(simd, simd.mul(n, simd.splat(0.5)));
    simd.mul(simd.mul(p, simd.pow2(half)), simd.pow2(simd.sub(n, half)))
}

/// `ln(1 + e^x)` within a few units in the last place, small results included.
///
/// With `u = e^-|x|` it is `max(x, 0) + ln(1 + u)`, and `ln(1 + u) = 2 artanh z` for `z = u / (2 + u)`, at most a third:
/// eight terms of the series (DLMF 4.6.7) leave out a hundred millionth.
#[inline(always)]
pub(crate) fn softplus<S: Simd>(simd: S, x: S::V) -> S::V {
    let zero = simd.splat(0.0);
    let u = exp(simd, simd.min(x, simd.sub(zero, x)));
    let z = simd.div(u, simd.add(u, simd.splat(2.0)));
    let square = simd.mul(z, z);
    let mut series = simd.splat(1.0 / 15.0);
    for coefficient in [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 0.2, 1.0 / 3.0, 1.0] {
        series = simd.fma(series, square, simd.splat(coefficient));
    }
    simd.add(simd.max(zero, x), simd.mul(simd.add(z, z), series))
}

/// `x / (1 + e^-x)`
#[inline(always)]
fn silu<S: Simd>(simd: S, x: S::V) -> S::V {
    gated(simd, x, x)
}

/// `x / (1 + e^-gate)`
#[inline(always)]
fn gated<S: Simd>(simd: S, x: S::V, gate: S::V) -> S::V {
    let e = exp(simd, simd.sub(simd.splat(0.0), gate));
    simd.div(x, simd.add(simd.splat(1.0), e))
}

/// `x (1 + erf(x / sqrt 2)) / 2`, off by no more than 3e-7 |x|.
///
/// Abramowitz and Stegun 7.1.26: `erf z = 1 - t (a1 + t (a2 + ..)) e^-z^2` with `t = 1 / (1 + p z)`, for z from 0 on,
/// within 1.5e-7. With `q` the half of what is taken from one, the result is `max(x, 0) - |x| q`.
#[inline(always)]
fn gelu<S: Simd>(simd: S, x: S::V) -> S::V {
    let zero = simd.splat(0.0);
    let magnitude = simd.max(simd.sub(zero, x), x);
    let z = simd.mul(magnitude, simd.splat(std::f32::consts::FRAC_1_SQRT_2));
    let one = simd.splat(1.0);
    let t = simd.div(one, simd.fma(z, simd.splat(0.327_591_1), one));
    let mut p = simd.splat(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        p = simd.fma(p, t, simd.splat(coefficient));
    }
    let e = exp(simd, simd.sub(zero, simd.mul(z, z)));
    let q = simd.mul(simd.mul(simd.mul(p, t), simd.splat(0.5)), e);
    simd.sub(simd.max(zero, x), simd.mul(magnitude, q))
}

/// What an activation makes of a gate, or of up where there is no gate.
#[inline(always)]
pub(crate) fn act<S: Simd>(simd: S, activation: Activation, x: S::V) -> S::V {
    match activation {
        Activation::Silu => silu(simd, x),
        Activation::Gelu => gelu(simd, x),
        Activation::ReluSquared => {
            let positive = simd.max(simd.splat(0.0), x);
            simd.mul(positive, positive)
        }
        Activation::ClampedSwiglu { limit } => {
            let x = simd.min(simd.splat(limit), x);
            gated(simd, x, simd.mul(x, simd.splat(1.702)))
        }
        Activation::GeluTanh => {
            // (1 + tanh t) / 2 = 1 / (1 + e^-2t), with t = sqrt(2 / pi) (x + 0.044715 x^3).
            let square = simd.mul(x, x);
            let factor = simd.fma(square, simd.splat(0.044_715), simd.splat(1.0));
            let twice_t = simd.mul(simd.mul(x, factor), simd.splat(1.595_769));
            gated(simd, x, twice_t)
        }
    }
}

/// What an activated gate is multiplied with.
#[inline(always)]
pub(crate) fn factor<S: Simd>(simd: S, activation: Activation, up: S::V) -> S::V {
    match activation {
        Activation::ClampedSwiglu { limit } => {
            let clamped = simd.min(simd.splat(limit), simd.max(simd.splat(-limit), up));
            simd.add(clamped, simd.splat(1.0))
        }
        _ => up,
    }
}
