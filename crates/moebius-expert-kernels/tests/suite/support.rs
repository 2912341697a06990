//! What every test needs: sizes, weights in all formats, the oracle's comparison, and all kernels.

use half::bf16;
use moebius_expert_kernels::{Kernels, PackedMatrix, Pool, WeightFormat};

/// Sizes around the lane and tile edges.
pub(crate) const SIZES: [usize; 10] = [1, 2, 3, 15, 16, 17, 31, 33, 100, 257];

/// The kernels of every instruction set of this machine.
pub(crate) fn all_kernels() -> Vec<Kernels> {
    Kernels::available().into_iter().map(|isa| Kernels::with_isa(isa).expect("it is available")).collect()
}

/// The kernels of every instruction set that multiply weights of a format in different ways: with inputs rounded too where
/// that makes a difference.
pub(crate) fn kernels_for(format: WeightFormat) -> Vec<Kernels> {
    let mut kernels = all_kernels();
    if format == WeightFormat::Bf16 {
        kernels.extend(all_kernels().into_iter().map(Kernels::with_bf16_inputs));
    }
    kernels
}

pub(crate) fn pool(threads: usize) -> Pool {
    Pool::new(threads).expect("threads start")
}

/// Reproducible values in -1 .. 1 (a linear congruential generator).
pub(crate) fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// The smallest width from `cols` on that the format can hold.
pub(crate) fn fitting(format: WeightFormat, cols: usize) -> usize {
    cols.next_multiple_of(format.block_len())
}

/// The bytes of weights in a format, and the values that they then have.
pub(crate) fn encode(format: WeightFormat, weights: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = vec![0; format.bytes_for(1, weights.len()).expect("whole blocks")];
    let mut exact = vec![0.0; weights.len()];
    format.encode(weights, &mut bytes).expect("whole blocks");
    format.decode(&bytes, &mut exact).expect("whole blocks");
    (bytes, exact)
}

/// Values rounded to bf16.
pub(crate) fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()
}

/// The inputs as kernels see them that multiply weights of a format: for blocks of weights, rounded to bytes with one
/// scale a block.
pub(crate) fn seen(kernels: &Kernels, format: WeightFormat, x: &[f32]) -> Vec<f32> {
    if format == WeightFormat::Bf16 && kernels.rounds_inputs() {
        return rounded(x);
    }
    if format.block_len() == 1 {
        return x.to_vec();
    }
    let mut out = Vec::new();
    for block in x.chunks(format.block_len()) {
        let scale = block.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
        let inverse = if scale < f32::MIN_POSITIVE { 0.0 } else { 1.0 / scale };
        out.extend(block.iter().map(|x| (x * inverse).round_ties_even() * scale));
    }
    out
}

/// A random packed matrix and its exact values.
pub(crate) fn matrix(format: WeightFormat, rows: usize, cols: usize, seed: u64) -> (PackedMatrix, Vec<f32>) {
    let (bytes, exact) = encode(format, &values(rows * cols, seed));
    let packed = PackedMatrix::pack(&pool(1), format, rows, cols, &bytes).expect("finite weights pack");
    (packed, exact)
}

/// How far a sum of products may be off, relative to the sum of their magnitudes: the rounding of an `f32` chain.
pub(crate) const TOLERANCE: f64 = 3e-6;

pub(crate) fn assert_close(got: &[f32], expected: &[f64], scale: &[f64], tolerance: f64, case: &str) {
    assert_eq!(got.len(), expected.len(), "{case}");
    for (index, ((&got, &expected), &scale)) in got.iter().zip(expected).zip(scale).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(error <= tolerance * scale, "{case}: element {index}: expected {expected}, got {got}");
    }
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
