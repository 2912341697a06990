use moebius_expert_kernels::{Formats, KernelError, Kernels, PackedMatrix, WeightFormat};
use proptest::prelude::*;

use crate::support::{bits, encode, pool, values};

/// Values whose distribution is near a bell, as weights are: the sum of four uniform ones.
fn bell(len: usize, seed: u64) -> Vec<f32> {
    let parts: Vec<Vec<f32>> = (0..4).map(|part| values(len, 4 * seed + part)).collect();
    (0..len).map(|i| parts.iter().map(|part| part[i]).sum::<f32>() * 0.01).collect()
}

/// Root mean square of the rounding error over that of the values.
fn relative_error(format: WeightFormat, weights: &[f32]) -> f64 {
    let (_, exact) = encode(format, weights);
    let square = |x: f64| x * x;
    let error: f64 = exact.iter().zip(weights).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    (error / weights.iter().map(|w| square(f64::from(*w))).sum::<f64>()).sqrt()
}

#[test]
fn rounding_errors_are_those_of_the_bits() {
    let weights = bell(256 * 200, 3);
    for (format, least, most) in [
        (WeightFormat::F32, 0.0, 0.0),
        (WeightFormat::F16, 1e-5, 4e-4),
        (WeightFormat::Bf16, 1e-4, 3e-3),
        (WeightFormat::Q8_0, 1e-3, 7e-3),
        (WeightFormat::Q6K, 5e-3, 2.2e-2),
        (WeightFormat::Q5_1, 1e-2, 4e-2),
        (WeightFormat::Q5K, 1e-2, 4e-2),
        (WeightFormat::Q4K, 3e-2, 8e-2),
        (WeightFormat::Iq4Xs, 3e-2, 9e-2),
        (WeightFormat::Q2K, 1.5e-1, 3.5e-1),
        (WeightFormat::Q4_0, 5e-2, 1.1e-1),
        (WeightFormat::Mxfp4, 5e-2, 1.4e-1),
    ] {
        let error = relative_error(format, &weights);
        assert!((least..=most).contains(&error), "{format}: {error}");
    }
}

#[test]
fn bits_per_weight_are_those_of_gguf() {
    let bits = |format: WeightFormat| format.bits_per_weight();
    assert_eq!(bits(WeightFormat::Q8_0), 8.5);
    assert_eq!(bits(WeightFormat::Q4_0), 4.5);
    assert_eq!(bits(WeightFormat::Q4K), 4.5);
    assert_eq!(bits(WeightFormat::Q5K), 5.5);
    assert_eq!(bits(WeightFormat::Q5_1), 6.0);
    assert_eq!(bits(WeightFormat::Iq4Xs), 4.25);
    assert_eq!(bits(WeightFormat::Q2K), 2.625);
    assert_eq!(bits(WeightFormat::Q6K), 6.5625);
    assert_eq!(bits(WeightFormat::Mxfp4), 4.25);
    assert_eq!(WeightFormat::Q4K.bytes_for(2, 512), Some(2 * 2 * 144));
    assert_eq!(WeightFormat::Q4K.bytes_for(2, 128), None);
}

#[test]
fn zeros_and_constant_blocks_stay_what_they_are() {
    for format in WeightFormat::ALL {
        for constant in [0.0f32, 1.0, -2.0, 0.5] {
            let (_, exact) = encode(format, &[constant; 256]);
            for weight in exact {
                assert!(
                    (weight - constant).abs() <= constant.abs() * 0.02,
                    "{format}: {constant} became {weight}"
                );
            }
        }
    }
}

#[test]
fn a_block_of_one_outlier_keeps_it() {
    for format in WeightFormat::ALL {
        for at in [0, 17, 31, 200, 255] {
            for outlier in [8.0f32, -8.0] {
                let mut weights = bell(256, 9);
                weights[at] = outlier;
                let (_, exact) = encode(format, &weights);
                assert!((exact[at] - outlier).abs() < 0.6, "{format}: {outlier} became {}", exact[at]);
            }
        }
    }
}

#[test]
fn packing_into_another_format_rounds_each_row_as_encoding_does() {
    for stored in [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Q8_0] {
        for held in WeightFormat::ALL {
            let (rows, cols) = (21, 256);
            let (bytes, exact) = encode(stored, &bell(rows * cols, 5));
            let packed =
                PackedMatrix::pack(&pool(2), Formats { stored, held }, rows, cols, &bytes).expect("packs");
            assert_eq!(packed.format(), held);
            let mut out = vec![0.0; cols];
            for (row, exact) in exact.chunks(cols).enumerate() {
                packed.row(row, &mut out).expect("the row exists");
                let expected = if stored == held { exact.to_vec() } else { encode(held, exact).1 };
                assert_eq!(bits(&out), bits(&expected), "{stored} to {held}, row {row}");
            }
        }
    }
}

#[test]
fn a_weight_that_is_not_finite_is_refused_before_it_is_rounded() {
    for held in WeightFormat::ALL {
        let mut weights = bell(20 * 256, 1);
        weights[17 * 256 + 33] = f32::NAN;
        weights[19 * 256] = f32::INFINITY;
        let (bytes, _) = encode(WeightFormat::F32, &weights);
        let formats = Formats { stored: WeightFormat::F32, held };
        let error = PackedMatrix::pack(&pool(2), formats, 20, 256, &bytes).err();
        assert_eq!(error, Some(KernelError::NonFinite { row: 17, col: 33 }), "{held}");
    }
}

#[test]
fn a_stored_block_with_a_scale_that_is_not_finite_is_refused() {
    for (format, at, bad) in [
        (WeightFormat::Q8_0, 0, 0x7c00u16),
        (WeightFormat::Q4_0, 0, 0x7e00),
        (WeightFormat::Q4K, 0, 0x7c00),
        (WeightFormat::Q4K, 2, 0xfc00),
        (WeightFormat::Q5_1, 0, 0x7c00),
        (WeightFormat::Q5_1, 2, 0xfc00),
        (WeightFormat::Q5K, 2, 0x7c00),
        (WeightFormat::Q6K, 208, 0x7c01),
        (WeightFormat::Iq4Xs, 0, 0x7e00),
        (WeightFormat::Q2K, 80, 0x7c00),
        (WeightFormat::Q2K, 82, 0x7c00),
        (WeightFormat::Mxfp4, 0, 0x00ff),
    ] {
        let (mut bytes, _) = encode(format, &bell(17 * 256, 2));
        let row = bytes.len() / 17;
        let place = 16 * row + at;
        if format == WeightFormat::Mxfp4 {
            bytes[place] = 0xff;
        } else {
            bytes[place..place + 2].copy_from_slice(&bad.to_le_bytes());
        }
        let error = PackedMatrix::pack(&pool(1), format, 17, 256, &bytes).err();
        assert!(matches!(error, Some(KernelError::NonFinite { row: 16, .. })), "{format}: {error:?}");
    }
}

#[test]
fn rows_that_are_no_multiple_of_a_block_are_refused() {
    let pack = |format, cols: usize| {
        let formats = Formats { stored: WeightFormat::F32, held: format };
        PackedMatrix::pack(&pool(1), formats, 2, cols, &vec![0; 2 * cols * 4]).err()
    };
    assert_eq!(
        pack(WeightFormat::Q4_0, 33),
        Some(KernelError::NotAMultiple { what: "cols", got: 33, of: 32 })
    );
    assert_eq!(
        pack(WeightFormat::Q6K, 128),
        Some(KernelError::NotAMultiple { what: "cols", got: 128, of: 256 })
    );
    assert_eq!(pack(WeightFormat::Q6K, 256), None);
}

#[test]
fn names_of_formats_are_read_back() {
    for format in WeightFormat::ALL {
        assert_eq!(format.name().parse(), Ok(format));
    }
    let error = "q5".parse::<WeightFormat>().expect_err("no such format").to_string();
    assert!(error.starts_with("unknown weight format `q5`: expected one of `f32`, `bf16`"), "{error}");
}

proptest! {
    /// Whatever bytes a file holds, they decode, and packing them gives the same values or an error.
    #[test]
    fn any_stored_bytes_decode_as_they_pack(
        seed in any::<u64>(),
        format in prop::sample::select(WeightFormat::ALL.to_vec()),
    ) {
        let len = format.bytes_for(3, 256).expect("whole blocks");
        let bytes: Vec<u8> = values(len, seed).iter().map(|value| (value * 128.0) as i8 as u8).collect();
        let mut exact = vec![0.0; 3 * 256];
        format.decode(&bytes, &mut exact).expect("whole blocks");
        match PackedMatrix::pack(&pool(1), format, 3, 256, &bytes) {
            Err(error) => {
                let refused = matches!(error, KernelError::NonFinite { .. });
                prop_assert!(refused, "{error}");
                prop_assert!(exact.iter().any(|weight| !weight.is_finite()) || format == WeightFormat::Mxfp4);
            }
            Ok(packed) => {
                let mut out = vec![0.0; 256];
                for (row, exact) in exact.chunks(256).enumerate() {
                    packed.row(row, &mut out).expect("the row exists");
                    prop_assert_eq!(&out, exact);
                }
            }
        }
    }

    /// Stored blocks multiply as their values do, however extreme the codes are.
    #[test]
    fn any_stored_bytes_multiply_as_they_decode(
        seed in any::<u64>(),
        format in prop::sample::select(WeightFormat::ALL.to_vec()),
        tokens in 1usize..9,
    ) {
        let (rows, cols) = (18, 512);
        let len = format.bytes_for(rows, cols).expect("whole blocks");
        let mut bytes: Vec<u8> = values(len, seed).iter().map(|value| (value * 128.0) as i8 as u8).collect();
        let mut exact = vec![0.0; rows * cols];
        if format.block_len() == 1 {
            let weights = values(rows * cols, seed);
            (bytes, exact) = encode(format, &weights);
        } else {
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                // A modest scale, so that sums stay in range.
                let scales: &[usize] = match format {
                    WeightFormat::Q4K | WeightFormat::Q5K | WeightFormat::Q5_1 => &[1, 3],
                    WeightFormat::Q2K => &[81, 83],
                    WeightFormat::Q6K => &[209],
                    _ => &[1],
                };
                match format {
                    WeightFormat::Mxfp4 => block[0] = 120 + block[0] % 8,
                    _ => scales.iter().for_each(|&at| block[at] = 0x20 | block[at] & 0x83),
                }
            }
            format.decode(&bytes, &mut exact).expect("whole blocks");
        }
        let packed = PackedMatrix::pack(&pool(1), format, rows, cols, &bytes).expect("scales are finite");
        let x = crate::support::seen(&Kernels::detect(), format, &values(tokens * cols, seed ^ 1));
        for kernels in crate::support::all_kernels() {
            let mut out = vec![0.0; tokens * rows];
            kernels.matmul(&pool(1), &x, &packed, None, &mut out).expect("shapes fit");
            for (x, out) in x.chunks(cols).zip(out.chunks(rows)) {
                for (weights, out) in exact.chunks(cols).zip(out) {
                    let products = x.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let (sum, scale) = products.fold((0.0, 0.0), |(s, a), p: f64| (s + p, a + p.abs()));
                    let error = (f64::from(*out) - sum).abs();
                    prop_assert!(error <= 2e-5 * scale + 1e-9, "{} {format}: {sum} {out}", kernels.name());
                }
            }
        }
    }
}
