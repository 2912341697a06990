//! What every test needs: sizes, weights in all formats, the oracle's comparison, and all kernels.

use half::{bf16, f16};
use moebius_expert_kernels::{Kernels, PackedMatrix, Pool, WeightFormat};

/// Sizes around the lane and tile edges.
pub(crate) const SIZES: [usize; 10] = [1, 2, 3, 15, 16, 17, 31, 33, 100, 257];

/// The kernels of every instruction set of this machine.
pub(crate) fn all_kernels() -> Vec<Kernels> {
    Kernels::available().into_iter().map(|isa| Kernels::with_isa(isa).expect("it is available")).collect()
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

/// The bytes of weights in a format, and the values that they then have.
pub(crate) fn encode(format: WeightFormat, weights: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = Vec::new();
    let mut exact = Vec::new();
    for &weight in weights {
        match format {
            WeightFormat::Bf16 => {
                bytes.extend(bf16::from_f32(weight).to_le_bytes());
                exact.push(bf16::from_f32(weight).to_f32());
            }
            WeightFormat::F16 => {
                bytes.extend(f16::from_f32(weight).to_le_bytes());
                exact.push(f16::from_f32(weight).to_f32());
            }
            _ => {
                bytes.extend(weight.to_le_bytes());
                exact.push(weight);
            }
        }
    }
    (bytes, exact)
}

/// A random packed matrix and its exact values.
pub(crate) fn matrix(format: WeightFormat, rows: usize, cols: usize, seed: u64) -> (PackedMatrix, Vec<f32>) {
    let (bytes, exact) = encode(format, &values(rows * cols, seed));
    let packed = PackedMatrix::pack(&pool(1), format, rows, cols, &bytes).expect("finite weights pack");
    (packed, exact)
}

/// How far a sum of products may be off, relative to the sum of their magnitudes. The weights are widened
/// exactly, so every format has the rounding of the `f32` chain alone.
pub(crate) fn tolerance(format: WeightFormat) -> f64 {
    match format {
        WeightFormat::F32 | WeightFormat::Bf16 | WeightFormat::F16 => 2e-6,
        other => panic!("no tolerance for {other}"),
    }
}

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
