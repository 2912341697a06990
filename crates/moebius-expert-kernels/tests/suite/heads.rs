use moebius_expert_kernels::{KernelError, Kernels, PackedMatrix, WeightFormat};

use crate::support::{bits, fitting, kernels_for, matrix, pool, values};

/// Heads, rows and columns of a head's matrix.
const SIZES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (3, 17, 33), (4, 16, 16), (5, 128, 64), (2, 96, 15), (7, 15, 100)];

#[test]
fn each_head_has_the_bits_of_a_product_with_its_own_matrix() {
    for format in WeightFormat::ALL {
        for (heads, rows, cols) in SIZES {
            let cols = fitting(format, cols);
            let weights: Vec<PackedMatrix> =
                (0..heads).map(|head| matrix(format, rows, cols, head as u64).0).collect();
            for tokens in [0, 1, 2, 13] {
                let x = values(tokens * heads * cols, 50);
                for kernels in kernels_for(format) {
                    let mut expected = vec![0.0; tokens * heads * rows];
                    for (place, (x, out)) in x.chunks(cols).zip(expected.chunks_mut(rows)).enumerate() {
                        let weight = &weights[place % heads];
                        kernels.matmul(&pool(1), x, weight, None, out).expect("shapes fit");
                    }
                    for threads in [1, 3] {
                        let mut out = vec![f32::NAN; expected.len()];
                        kernels.matmul_heads(&pool(threads), &x, &weights, &mut out).expect("shapes fit");
                        let case = format!("{} {format} {heads} {rows} {cols} {tokens}", kernels.name());
                        assert_eq!(bits(&out), bits(&expected), "{case}");
                    }
                }
            }
        }
    }
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    let make = |format, rows, cols| matrix(format, rows, cols, 1).0;
    let (f32, bf16) = (WeightFormat::F32, WeightFormat::Bf16);
    let run = |weights: &[PackedMatrix], inputs: usize, outputs: usize| {
        Kernels::detect().matmul_heads(&pool(1), &vec![0.0; inputs], weights, &mut vec![0.0; outputs]).err()
    };
    let two = [make(f32, 4, 3), make(f32, 4, 3)];
    assert_eq!(run(&two, 6, 8), None);
    assert_eq!(run(&[], 6, 8), Some(KernelError::ZeroDimension { what: "heads" }));
    assert_eq!(run(&two, 7, 8), Some(KernelError::NotAMultiple { what: "x", got: 7, of: 6 }));
    assert_eq!(run(&two, 6, 9), Some(KernelError::Length { what: "out", expected: 8, got: 9 }));
    assert_eq!(
        run(&[make(f32, 4, 3), make(f32, 3, 4)], 6, 8),
        Some(KernelError::Shape { projection: "head", expert: 1, expected: (4, 3), got: (3, 4) })
    );
    assert_eq!(
        run(&[make(f32, 4, 3), make(bf16, 4, 3)], 6, 8),
        Some(KernelError::MixedFormats { projection: "head", expected: f32, got: bf16 })
    );
}
