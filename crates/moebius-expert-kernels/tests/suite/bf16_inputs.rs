//! Inputs that are rounded to bf16 before they are multiplied with weights in bf16.

use half::bf16;
use moebius_expert_kernels::{Activation, ExpertRows, Kernels, PackedExperts, PackedMatrix, WeightFormat};
use proptest::prelude::*;

use crate::support::{SIZES, all_kernels, bits, matrix, pool, rounded, values};

/// A matrix in bf16 of weights that bf16 has.
fn packed(rows: usize, cols: usize, weights: &[f32]) -> PackedMatrix {
    let bytes: Vec<u8> = weights.iter().flat_map(|&w| bf16::from_f32(w).to_le_bytes()).collect();
    PackedMatrix::pack(&pool(1), WeightFormat::Bf16, rows, cols, &bytes).expect("finite weights pack")
}

fn product(kernels: &Kernels, x: &[f32], w: &PackedMatrix) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / w.cols() * w.rows()];
    kernels.matmul(&pool(1), x, w, None, &mut out).expect("shapes fit");
    out
}

/// What a weight of one makes of each value.
fn once(kernels: &Kernels, x: &[f32]) -> Vec<f32> {
    product(kernels, x, &packed(1, 1, &[1.0]))
}

#[test]
fn inputs_go_to_the_nearest_and_ties_to_even() {
    let cases = [
        (1.0, 1.0),
        (f32::from_bits(0x3f80_7fff), 1.0),
        (f32::from_bits(0x3f80_8000), 1.0),
        (f32::from_bits(0x3f80_8001), 1.007_812_5),
        (f32::from_bits(0x3f81_7fff), 1.007_812_5),
        (f32::from_bits(0x3f81_8000), 1.015_625),
        (f32::from_bits(0xbf81_8000), -1.015_625),
        (f32::from_bits(0x3fff_8000), 2.0),
        (f32::from_bits(0x7f7f_7fff), f32::from_bits(0x7f7f_0000)),
        (f32::from_bits(0x7f7f_8000), f32::INFINITY),
        (f32::MIN, f32::NEG_INFINITY),
        (f32::INFINITY, f32::INFINITY),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
        (f32::MIN_POSITIVE, f32::MIN_POSITIVE),
        (0.0, 0.0),
    ];
    let (x, expected): (Vec<f32>, Vec<f32>) = cases.into_iter().unzip();
    for kernels in all_kernels().into_iter().map(Kernels::with_bf16_inputs) {
        assert!(kernels.rounds_inputs());
        assert_eq!(bits(&once(&kernels, &x)), bits(&expected), "{kernels:?}");
        let nans = [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)];
        assert!(once(&kernels, &nans).iter().all(|y| y.is_nan()), "{kernels:?}");
    }
}

#[test]
fn kernels_round_only_where_they_were_asked_to() {
    let x = f32::from_bits(0x3f80_4000);
    for kernels in all_kernels() {
        assert!(!kernels.rounds_inputs());
        assert_eq!(once(&kernels, &[x]), [x]);
        assert_eq!(once(&kernels.with_bf16_inputs(), &[x]), [1.0]);
        assert_eq!(kernels.with_bf16_inputs().isa(), kernels.isa());
    }
}

/// Where pairs are multiplied at once, this says that they are added in the order of columns.
#[test]
fn products_have_the_bits_of_plain_ones_of_inputs_that_were_rounded_before() {
    for rows in SIZES {
        for cols in SIZES {
            let (packed, _) = matrix(WeightFormat::Bf16, rows, cols, 1);
            let x = values((1 + (rows + cols) % 14) * cols, 7);
            for kernels in all_kernels() {
                let expected = product(&kernels, &rounded(&x), &packed);
                let got = product(&kernels.with_bf16_inputs(), &x, &packed);
                assert_eq!(bits(&got), bits(&expected), "{kernels:?} [{rows}, {cols}]");
            }
        }
    }
}

#[test]
fn values_far_apart_and_cancelling_have_the_same_bits_too() {
    let cols = 129;
    let spread = |seed| {
        let mut all = values(24 * cols, seed);
        all.iter_mut().enumerate().for_each(|(index, x)| *x *= 2f32.powi((index * 7 % 61) as i32 - 30));
        all
    };
    let (w, x) = (packed(24, cols, &spread(3)), spread(4));
    for kernels in all_kernels() {
        let expected = product(&kernels, &rounded(&x), &w);
        assert_eq!(bits(&product(&kernels.with_bf16_inputs(), &x, &w)), bits(&expected), "{kernels:?}");
    }
}

#[test]
fn subnormal_numbers_cost_no_more_than_is_said() {
    let tiny = f32::MIN_POSITIVE;
    let cols = 35;
    let weights: Vec<f32> = (0..20 * cols).map(|i| [0.5, tiny / 4.0, -1.5, 3.0 * tiny, 2.0][i % 5]).collect();
    let x: Vec<f32> = (0..7 * cols).map(|i| [tiny / 2.0, 1.25, -tiny * 0.75, 2.5 * tiny][i % 4]).collect();
    let w = packed(20, cols, &weights);
    let allowed = cols as f64 * f64::from(tiny) * (1.0 + 2.0 + 1.25);
    for kernels in all_kernels().into_iter().map(Kernels::with_bf16_inputs) {
        for (x, out) in rounded(&x).chunks(cols).zip(product(&kernels, &x, &w).chunks(20)) {
            for (weights, got) in weights.chunks(cols).zip(out) {
                let weights = rounded(weights);
                let exact: f64 = x.iter().zip(&weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let error = (f64::from(*got) - exact).abs();
                assert!(error < allowed, "{kernels:?}: expected {exact:e}, got {got:e}");
            }
        }
    }
}

#[test]
fn an_input_that_is_weighted_before_it_is_multiplied_is_rounded_before_and_after() {
    let (hidden, intermediate, tokens) = (33, 19, 14);
    let [up, down] = [(intermediate, hidden), (hidden, intermediate)]
        .map(|(rows, cols)| vec![matrix(WeightFormat::Bf16, rows, cols, 2).0]);
    let bank = PackedExperts::new(None, up, down, Activation::Silu).expect("shapes fit");
    let x = values(tokens * hidden, 5);
    let rows: Vec<u32> = (0..tokens as u32).collect();
    let run = |kernels: &Kernels, x: &[f32], weights: &[f32], weight_on_input| {
        let pairs = ExpertRows { offsets: &[0, tokens], rows: &rows, weights, weight_on_input };
        let mut out = vec![f32::NAN; x.len()];
        kernels.experts(&pool(1), x, &bank, &pairs, &mut out).expect("shapes fit");
        out
    };
    let factors: Vec<f32> = (0..tokens).map(|token| 0.3 + token as f32 / 7.0).collect();
    let weighted: Vec<f32> = rounded(&x)
        .chunks(hidden)
        .zip(&factors)
        .flat_map(|(x, factor)| x.iter().map(|x| factor * x).collect::<Vec<_>>())
        .collect();
    for kernels in all_kernels().into_iter().map(Kernels::with_bf16_inputs) {
        let expected = run(&kernels, &rounded(&weighted), &vec![1.0; tokens], false);
        assert_eq!(bits(&run(&kernels, &x, &factors, true)), bits(&expected), "{kernels:?}");
    }
}

#[test]
fn products_of_other_formats_stay_as_they_are() {
    for format in WeightFormat::ALL.into_iter().filter(|&format| format != WeightFormat::Bf16) {
        let (packed, _) = matrix(format, 40, 256, 5);
        let x = values(5 * 256, 6);
        for kernels in all_kernels() {
            let expected = product(&kernels, &x, &packed);
            assert_eq!(bits(&product(&kernels.with_bf16_inputs(), &x, &packed)), bits(&expected), "{format}");
        }
    }
}

proptest! {
    #[test]
    fn any_number_goes_where_bf16_has_it(x: u32, pattern in 0u32..0x10000) {
        for bits in [x, x & 0xffff_0000 | pattern, x & 0xffff_0000 | 0x8000] {
            let (x, expected) = (f32::from_bits(bits), bf16::from_f32(f32::from_bits(bits)).to_f32());
            for kernels in all_kernels().into_iter().map(Kernels::with_bf16_inputs) {
                let got = once(&kernels, &[x])[0];
                let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                prop_assert!(same || expected.is_subnormal() && got == 0.0, "{kernels:?}: {x:e} became {got:e}");
            }
        }
    }
}
