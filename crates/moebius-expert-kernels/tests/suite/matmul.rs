use moebius_expert_kernels::{Isa, KernelError, Kernels, PackedMatrix, Product, WeightFormat};
use proptest::prelude::*;

use crate::support::{
    SIZES, TOLERANCE, all_kernels, assert_close, bits, fitting, kernels_for, matrix, pool, seen, values,
};

/// The product in `f64`, and the sum of magnitudes that rounding errors scale with.
fn oracle(x: &[f32], weights: &[f32], cols: usize, bias: Option<&[f32]>) -> (Vec<f64>, Vec<f64>) {
    let mut sums = Vec::new();
    let mut scales = Vec::new();
    for x in x.chunks(cols) {
        for (row, weights) in weights.chunks(cols).enumerate() {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[row]));
            let products = x.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
            sums.push(products.clone().sum::<f64>() + bias);
            scales.push(products.map(f64::abs).sum::<f64>() + bias.abs());
        }
    }
    (sums, scales)
}

fn check(kernels: &Kernels, w: (&PackedMatrix, &[f32]), tokens: usize, bias: bool) {
    let (packed, exact) = w;
    let (rows, cols) = (packed.rows(), packed.cols());
    let x = values(tokens * cols, 7);
    let bias = bias.then(|| values(rows, 8));
    let mut out = vec![f32::NAN; tokens * rows];
    kernels.matmul(&pool(2), &x, packed, bias.as_deref(), &mut out).expect("shapes fit");
    let (sums, scales) = oracle(&seen(kernels, packed.format(), &x), exact, cols, bias.as_deref());
    let case = format!("{kernels:?} {} [{rows}, {cols}] {tokens} tokens", packed.format());
    assert_close(&out, &sums, &scales, TOLERANCE, &case);
}

#[test]
fn products_agree_with_f64_on_every_isa_format_and_awkward_size() {
    for format in WeightFormat::ALL {
        for rows in SIZES {
            for cols in SIZES.map(|cols| fitting(format, cols)) {
                let (packed, exact) = matrix(format, rows, cols, 1);
                for kernels in kernels_for(format) {
                    check(&kernels, (&packed, &exact), 1 + (rows + cols) % 14, rows % 2 == 0);
                }
            }
        }
    }
}

#[test]
fn every_number_of_tokens_gives_the_product() {
    for format in [WeightFormat::Bf16, WeightFormat::Q4_0, WeightFormat::Q6K] {
        let (packed, exact) = matrix(format, 70, fitting(format, 33), 1);
        for kernels in kernels_for(format) {
            for tokens in (0..40).chain([100, 257]) {
                check(&kernels, (&packed, &exact), tokens, true);
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch_and_on_every_thread_count() {
    for format in WeightFormat::ALL {
        let cols = fitting(format, 100);
        let (packed, _) = matrix(format, 133, cols, 3);
        let x = values(45 * cols, 4);
        for kernels in kernels_for(format) {
            let mut alone = Vec::new();
            for x in x.chunks(cols) {
                let mut out = vec![0.0; 133];
                kernels.matmul(&pool(1), x, &packed, None, &mut out).expect("shapes fit");
                alone.extend(out);
            }
            for threads in 1..=3 {
                for tokens in [2, 3, 5, 7, 12, 13, 45] {
                    let mut out = vec![0.0; tokens * 133];
                    kernels
                        .matmul(&pool(threads), &x[..tokens * cols], &packed, None, &mut out)
                        .expect("shapes fit");
                    assert_eq!(bits(&out), bits(&alone[..tokens * 133]), "{} {tokens}", kernels.name());
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_among_more_rows_than_a_cache_holds() {
    for format in [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Q8_0] {
        let (cols, tokens) = (512, 700);
        let (packed, _) = matrix(format, 40, cols, 3);
        let x = values(tokens * cols, 4);
        for kernels in [Kernels::detect(), Kernels::detect().with_bf16_inputs()] {
            let mut out = vec![0.0; tokens * 40];
            kernels.matmul(&pool(1), &x, &packed, None, &mut out).expect("shapes fit");
            for (x, out) in x.chunks(cols).zip(out.chunks(40)) {
                let mut alone = vec![0.0; 40];
                kernels.matmul(&pool(1), x, &packed, None, &mut alone).expect("shapes fit");
                assert_eq!(bits(&alone), bits(out), "{format}");
            }
        }
    }
}

#[test]
fn isas_that_fuse_give_the_same_bits() {
    for format in WeightFormat::ALL {
        let cols = fitting(format, 257);
        let (packed, _) = matrix(format, 40, cols, 5);
        let x = values(9 * cols, 6);
        let fusing = all_kernels().into_iter().filter(|kernels| kernels.isa() != Isa::Scalar);
        let outputs: Vec<Vec<u32>> = fusing
            .map(|kernels| {
                let mut out = vec![0.0; 9 * 40];
                kernels.matmul(&pool(1), &x, &packed, None, &mut out).expect("shapes fit");
                bits(&out)
            })
            .collect();
        assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]), "{format}");
    }
}

#[test]
fn products_of_the_same_inputs_have_the_bits_of_each_alone() {
    let held = [WeightFormat::Q4_0, WeightFormat::Bf16, WeightFormat::F32, WeightFormat::Q6K];
    for kernels in kernels_for(WeightFormat::Bf16) {
        for (threads, tokens) in [(1, 1), (2, 0), (2, 1), (3, 2), (2, 37)] {
            let x = values(tokens * 256, 4);
            let rows = [133, 7, 64, 300];
            let matrices: Vec<_> =
                held.iter().zip(rows).map(|(&f, rows)| matrix(f, rows, 256, 3).0).collect();
            let biases = rows.map(|rows| (rows % 2 == 0).then(|| values(rows, 8)));
            let mut outputs = rows.map(|rows| vec![f32::NAN; tokens * rows]);
            let products = matrices.iter().zip(&biases).zip(&mut outputs);
            let products =
                products.map(|((weight, bias), out)| Product { weight, bias: bias.as_deref(), out });
            kernels.matmul_each(&pool(threads), &x, products.collect()).expect("shapes fit");
            for ((weight, bias), out) in matrices.iter().zip(&biases).zip(&outputs) {
                let mut alone = vec![0.0; out.len()];
                kernels.matmul(&pool(1), &x, weight, bias.as_deref(), &mut alone).expect("shapes fit");
                assert_eq!(bits(out), bits(&alone), "{} {} {tokens}", kernels.name(), weight.format());
            }
        }
    }
}

#[test]
fn products_that_do_not_read_the_same_inputs_are_refused_before_any_is_written() {
    let (narrow, wide) = (matrix(WeightFormat::F32, 3, 4, 1).0, matrix(WeightFormat::F32, 3, 5, 1).0);
    let (mut first, mut second) = ([7.0; 6], [7.0; 6]);
    let products = vec![
        Product { weight: &narrow, bias: None, out: &mut first },
        Product { weight: &wide, bias: None, out: &mut second },
    ];
    let refused = Kernels::detect().matmul_each(&pool(1), &values(8, 1), products);
    assert_eq!(refused, Err(KernelError::Length { what: "cols", expected: 4, got: 5 }));
    assert_eq!((first, second), ([7.0; 6], [7.0; 6]));
    assert_eq!(Kernels::detect().matmul_each(&pool(1), &values(8, 1), Vec::new()), Ok(()));
}

#[test]
fn slices_of_the_wrong_length_are_named() {
    let (packed, _) = matrix(WeightFormat::F32, 3, 4, 1);
    let (kernels, pool) = (Kernels::detect(), pool(1));
    let run = |x: usize, bias: usize, out: usize| {
        let bias = values(bias, 1);
        kernels.matmul(&pool, &values(x, 1), &packed, Some(&bias), &mut vec![0.0; out])
    };
    assert_eq!(run(8, 3, 6), Ok(()));
    assert_eq!(run(7, 3, 6), Err(KernelError::NotAMultiple { what: "x", got: 7, of: 4 }));
    assert_eq!(run(8, 2, 6), Err(KernelError::Length { what: "bias", expected: 3, got: 2 }));
    assert_eq!(run(8, 3, 5), Err(KernelError::Length { what: "out", expected: 6, got: 5 }));
}

proptest! {
    #[test]
    fn products_agree_with_f64_on_any_shape(
        rows in 1usize..80,
        cols in 1usize..80,
        tokens in 0usize..30,
        bias: bool,
        format in prop::sample::select(WeightFormat::ALL.to_vec()),
    ) {
        let (packed, exact) = matrix(format, rows, fitting(format, cols), 9);
        for kernels in kernels_for(format) {
            check(&kernels, (&packed, &exact), tokens, bias);
        }
    }
}
