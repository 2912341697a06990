//! Packed bytes that somebody else keeps: the same products as the matrix that they come from, and nothing else.

use std::sync::Arc;

use moebius_expert_kernels::{KernelError, PackedMatrix, SharedBytes, WeightFormat};

use crate::support::{SIZES, all_kernels, bits, fitting, matrix, pool, values};

/// Keeps `bytes` at `shift` bytes after a multiple of 64.
fn kept(bytes: &[u8], shift: usize) -> SharedBytes {
    let mut buffer = vec![0xff; bytes.len() + 128];
    let start = buffer.as_ptr().align_offset(64) + shift;
    buffer[start..start + bytes.len()].copy_from_slice(bytes);
    SharedBytes::new(Arc::new(buffer), start..start + bytes.len()).expect("the range lies within")
}

#[test]
fn products_with_shared_bytes_are_those_of_the_matrix_bit_for_bit() {
    for format in WeightFormat::ALL {
        for (rows, cols) in SIZES.into_iter().zip(SIZES.into_iter().rev()) {
            let cols = fitting(format, cols);
            let (owned, exact) = matrix(format, rows, cols, 7);
            let bytes = owned.as_bytes().expect("little endian");
            assert_eq!(Some(bytes.len()), format.packed_bytes_for(rows, cols), "{format} {rows} x {cols}");
            let shared = PackedMatrix::from_packed(format, rows, cols, kept(bytes, 0)).expect("it fits");
            assert_eq!(shared.as_bytes().expect("little endian"), bytes);
            assert_eq!(shared.packed_bytes(), owned.packed_bytes());
            let x = values(3 * cols, 9);
            for kernels in all_kernels() {
                let product = |w: &PackedMatrix| {
                    let mut out = vec![0.0; 3 * rows];
                    kernels.matmul(&pool(2), &x, w, None, &mut out).expect("shapes fit");
                    bits(&out)
                };
                assert_eq!(product(&shared), product(&owned), "{} {format} {rows} x {cols}", kernels.name());
            }
            let mut row = vec![0.0; cols];
            shared.row(rows - 1, &mut row).expect("the last row");
            assert_eq!(bits(&row), bits(&exact[(rows - 1) * cols..]));
        }
    }
}

#[test]
fn the_owner_lives_as_long_as_the_matrix_and_its_copies() {
    let (owned, _) = matrix(WeightFormat::F32, 16, 1, 1);
    let mut buffer = vec![0; 128];
    let start = buffer.as_ptr().align_offset(64);
    buffer[start..start + 64].copy_from_slice(owned.as_bytes().expect("little endian"));
    let owner = Arc::new(buffer);
    let bytes = SharedBytes::new(owner.clone(), start..start + 64).expect("the range lies within");
    let shared = PackedMatrix::from_packed(WeightFormat::F32, 16, 1, bytes).expect("it fits");
    let copy = shared.clone();
    assert_eq!(Arc::strong_count(&owner), 3);
    drop((shared, copy));
    assert_eq!(Arc::strong_count(&owner), 1);
}

#[test]
fn bytes_of_a_wrong_length_are_refused() {
    for format in WeightFormat::ALL {
        let cols = format.block_len();
        let expected = format.packed_bytes_for(17, cols).expect("it fits");
        for got in [0, 1, expected - 1, expected + 1, expected / 2] {
            let error = PackedMatrix::from_packed(format, 17, cols, kept(&vec![0; got], 0)).err();
            assert_eq!(error, Some(KernelError::Length { what: "memory", expected, got }), "{format}");
        }
    }
}

#[test]
fn bytes_that_start_between_units_are_refused() {
    for format in WeightFormat::ALL {
        let cols = format.block_len();
        let bytes = vec![0; format.packed_bytes_for(16, cols).expect("it fits")];
        for shift in [1, 4, 8] {
            let error = PackedMatrix::from_packed(format, 16, cols, kept(&bytes, shift)).err();
            assert!(
                matches!(error, Some(KernelError::Misaligned { what: "memory", .. })),
                "{format} {shift}"
            );
        }
    }
}

#[test]
fn shapes_that_cannot_be_are_refused_before_memory_is_looked_at() {
    let from = |rows, cols| PackedMatrix::from_packed(WeightFormat::Q8_0, rows, cols, kept(&[], 0)).err();
    assert_eq!(from(0, 32), Some(KernelError::ZeroDimension { what: "rows" }));
    assert_eq!(from(1, 33), Some(KernelError::NotAMultiple { what: "cols", got: 33, of: 32 }));
    let (rows, cols) = (usize::MAX, 32);
    assert_eq!(from(rows, cols), Some(KernelError::SizeOverflow { rows, cols }));
}

#[test]
fn a_range_beyond_the_bytes_is_refused() {
    let range = |start, end| SharedBytes::new(Arc::new([0u8; 4]), start..end).err();
    assert_eq!((range(0, 4), range(4, 4)), (None, None));
    assert_eq!(range(0, 5), Some(KernelError::OutOfRange { what: "range", limit: 5, got: 5 }));
    assert_eq!(range(3, 2), Some(KernelError::OutOfRange { what: "range", limit: 3, got: 3 }));
    assert!(range(usize::MAX, usize::MAX).is_some());
}

#[test]
fn bytes_that_nobody_packed_give_numbers_and_no_panic() {
    for format in WeightFormat::ALL {
        let (rows, cols) = (33, 2 * format.block_len());
        let len = format.packed_bytes_for(rows, cols).expect("it fits");
        for seed in 0..8 {
            let bytes: Vec<u8> = values(len, seed).iter().map(|value| value.to_bits() as u8).collect();
            for bytes in [bytes, vec![0xff; len], vec![0x80; len], vec![0x7f; len]] {
                let shared = PackedMatrix::from_packed(format, rows, cols, kept(&bytes, 0)).expect("it fits");
                for kernels in all_kernels() {
                    let mut out = vec![0.0; 2 * rows];
                    let x = values(2 * cols, 1);
                    kernels.matmul(&pool(1), &x, &shared, None, &mut out).expect("shapes fit");
                }
                shared.row(32, &mut vec![0.0; cols]).expect("the last row");
            }
        }
    }
}
