use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use half::{bf16, f16};
use moebius_expert_kernels::{Isa, KernelError, Kernels, PackedMatrix, WeightFormat};

use crate::support::{SIZES, all_kernels, bits, encode, fitting, matrix, pool};

#[test]
fn a_row_comes_back_exactly() {
    for format in WeightFormat::ALL {
        let cols = fitting(format, 33);
        for rows in SIZES {
            let (packed, exact) = matrix(format, rows, cols, 2);
            let mut out = vec![0.0; cols];
            for (row, exact) in exact.chunks(cols).enumerate() {
                packed.row(row, &mut out).expect("the row exists");
                assert_eq!(bits(&out), bits(exact), "{format} row {row} of {rows}");
            }
            assert!(packed.row(rows, &mut out).is_err());
            assert!(packed.row(0, &mut out[1..]).is_err());
        }
    }
}

#[test]
fn rows_longer_than_the_pieces_they_are_packed_in_come_back_exactly() {
    for format in WeightFormat::ALL {
        let (packed, exact) = matrix(format, 17, 2304, 4);
        let mut out = vec![0.0; 2304];
        for (row, exact) in exact.chunks(2304).enumerate() {
            packed.row(row, &mut out).expect("the row exists");
            assert_eq!(bits(&out), bits(exact), "{format} row {row}");
        }
    }
}

#[test]
fn a_matrix_of_several_large_pages_comes_back_exactly() {
    let (packed, exact) = matrix(WeightFormat::F32, 2000, 600, 5);
    let mut out = vec![0.0; 600];
    for (row, exact) in exact.chunks(600).enumerate() {
        packed.row(row, &mut out).expect("the row exists");
        assert_eq!(bits(&out), bits(exact), "row {row}");
    }
}

#[test]
fn every_finite_half_is_widened_exactly_by_every_isa() {
    for format in [WeightFormat::Bf16, WeightFormat::F16] {
        let widen = |bits: u16| match format {
            WeightFormat::Bf16 => bf16::from_bits(bits).to_f32(),
            _ => f16::from_bits(bits).to_f32(),
        };
        let finite: Vec<u16> = (0..=u16::MAX).filter(|&bits| widen(bits).is_finite()).collect();
        let bytes: Vec<u8> = finite.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let packed = PackedMatrix::pack(&pool(1), format, finite.len(), 1, &bytes).expect("all are finite");
        for kernels in all_kernels() {
            let mut out = vec![0.0; finite.len()];
            kernels.matmul(&pool(1), &[1.0], &packed, None, &mut out).expect("shapes fit");
            for (&bits, &out) in finite.iter().zip(&out) {
                assert_eq!(out, widen(bits), "{} {format} {bits:#x}", kernels.name());
            }
        }
    }
}

#[test]
fn a_weight_that_is_not_finite_is_refused_with_its_place() {
    for format in [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::F16] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (row, col) in [(0, 0), (15, 2), (16, 0), (19, 4)] {
                let mut weights = vec![1.0; 20 * 5];
                weights[row * 5 + col] = bad;
                weights[19 * 5 + 4] = bad;
                let (bytes, _) = encode(format, &weights);
                let result = PackedMatrix::pack(&pool(2), format, 20, 5, &bytes);
                assert_eq!(result.err(), Some(KernelError::NonFinite { row, col }), "{format} {bad}");
            }
        }
    }
}

#[test]
fn shapes_that_do_not_match_the_bytes_are_refused() {
    let pack = |rows, cols, bytes: usize| {
        PackedMatrix::pack(&pool(1), WeightFormat::Bf16, rows, cols, &vec![0; bytes]).err()
    };
    assert_eq!(pack(3, 2, 12), None);
    assert_eq!(pack(0, 2, 0), Some(KernelError::ZeroDimension { what: "rows" }));
    assert_eq!(pack(2, 0, 0), Some(KernelError::ZeroDimension { what: "cols" }));
    assert_eq!(pack(3, 2, 11), Some(KernelError::Length { what: "bytes", expected: 12, got: 11 }));
    let (rows, cols) = (usize::MAX / 2, 4);
    assert_eq!(pack(rows, cols, 0), Some(KernelError::SizeOverflow { rows, cols }));
}

#[test]
fn packed_bytes_count_the_padding() {
    assert_eq!(matrix(WeightFormat::F32, 17, 3, 1).0.packed_bytes(), 2 * 16 * 3 * 4);
    assert_eq!(matrix(WeightFormat::Bf16, 16, 3, 1).0.packed_bytes(), 16 * 3 * 2);
}

#[test]
fn names_are_read_back() {
    for isa in Isa::ALL {
        assert_eq!(isa.name().parse(), Ok(isa));
    }
    let error = "avx3".parse::<Isa>().expect_err("no such instruction set");
    assert_eq!(
        error.to_string(),
        "unknown instruction set `avx3`: expected one of `scalar`, `avx2`, `avxvnni`, `avx512`, `neon`, `neondot`"
    );
}

#[test]
fn kernels_exist_only_where_the_processor_has_them() {
    let available = Kernels::available();
    assert_eq!(available[0], Isa::Scalar);
    assert_eq!(available.last(), Some(&Kernels::detect().isa()));
    for isa in Isa::ALL {
        match Kernels::with_isa(isa) {
            Ok(kernels) => assert_eq!(kernels.isa(), isa),
            Err(error) => assert_eq!(error, KernelError::MissingIsa { isa }),
        }
        assert_eq!(Kernels::with_isa(isa).is_ok(), available.contains(&isa));
    }
}

#[test]
fn reading_memory_has_a_rate() {
    for kernels in all_kernels() {
        assert!(kernels.measure_read_bandwidth(&pool(2), 0, 0) > 0.0);
    }
}

#[test]
fn multiplying_has_a_rate_on_every_instruction_set() {
    for kernels in all_kernels() {
        let found = kernels.measure_peaks(&pool(2), Duration::ZERO);
        assert!(found.int8_ops_per_second.is_normal() && found.f32_ops_per_second.is_normal(), "{found:?}");
        assert!(found.bf16_ops_per_second.is_none_or(f64::is_normal), "{found:?}");
    }
}

#[test]
fn every_byte_is_reported_read_exactly_once() {
    for rows in [1, 15, 16, 17, 40] {
        let bytes = vec![0; rows * 3 * 4];
        let counts: Vec<AtomicUsize> = bytes.iter().map(|_| AtomicUsize::new(0)).collect();
        let done = |part: &[u8]| {
            let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
            for count in &counts[start..start + part.len()] {
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        PackedMatrix::pack_with(&pool(2), WeightFormat::F32, (rows, 3), &bytes, &done).expect("zeros pack");
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{rows} rows");
    }
}
