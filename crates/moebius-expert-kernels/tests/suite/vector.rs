use moebius_expert_kernels::{Activation, KernelError, Kernels, RotaryLayout, RotaryTables};

use crate::support::{SIZES, all_kernels, assert_close, bits, values};

/// The distance between two floats in units in the last place of the expected one.
fn ulps(got: f32, expected: f64) -> f64 {
    let rounded = expected as f32;
    let unit = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
    (f64::from(got) - expected).abs() / unit
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    let inputs: Vec<f32> =
        (-1_040_000..=887_000).map(|i| i as f32 * 1e-4).chain(values(100_000, 1)).collect();
    for kernels in all_kernels() {
        let mut out = inputs.clone();
        kernels.exp(&mut out);
        for (&x, &e) in inputs.iter().zip(&out) {
            let error = ulps(e, f64::from(x).exp());
            assert!(error <= 2.0, "{}: exp({x}) = {e} is {error} units off", kernels.name());
        }
    }
}

#[test]
fn exp_is_exact_at_the_edges() {
    let cases = [
        (0.0, 1.0),
        (-0.0, 1.0),
        (f32::NEG_INFINITY, 0.0),
        (-1e30, 0.0),
        (-104.0, 0.0),
        (88.73, f32::INFINITY),
        (1e30, f32::INFINITY),
        (f32::INFINITY, f32::INFINITY),
    ];
    for kernels in all_kernels() {
        for (x, expected) in cases {
            let mut out = [x];
            kernels.exp(&mut out);
            assert_eq!(out, [expected], "{}: exp({x})", kernels.name());
        }
        let mut out = [f32::NAN];
        kernels.exp(&mut out);
        assert!(out[0].is_nan(), "{}", kernels.name());
    }
}

#[test]
fn an_element_has_the_same_bits_wherever_it_stands() {
    let x = values(100, 3);
    let ones = vec![1.0; 100];
    for kernels in all_kernels() {
        let mut whole = vec![0.0; 100];
        kernels.glu(Activation::Silu, &x, &ones, &mut whole).expect("shapes fit");
        for (&x, &expected) in x.iter().zip(&whole) {
            let mut out = [0.0];
            kernels.glu(Activation::Silu, &[x], &[1.0], &mut out).expect("shapes fit");
            assert_eq!(bits(&out), bits(&[expected]), "{}", kernels.name());
        }
    }
}

#[test]
fn gated_activations_agree_with_f64() {
    let gate: Vec<f32> = (-400..=400).map(|i| i as f32 * 0.1).collect();
    let up = values(gate.len(), 2);
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let gelu = |x: f64| {
        let t = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        0.5 * x * (1.0 + t.tanh())
    };
    for kernels in all_kernels() {
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::ReluSquared] {
            let act = |x: f64| match activation {
                Activation::Silu => silu(x),
                Activation::GeluTanh => gelu(x),
                _ => x.max(0.0) * x.max(0.0),
            };
            let mut out = vec![0.0; gate.len()];
            kernels.glu(activation, &gate, &up, &mut out).expect("shapes fit");
            let terms = gate.iter().zip(&up).map(|(&gate, &up)| (f64::from(gate), f64::from(up)));
            let expected: Vec<f64> = terms.map(|(gate, up)| act(gate) * up).collect();
            let scale: Vec<f64> = expected.iter().map(|y| y.abs().max(0.1)).collect();
            let case = format!("{} {activation:?}", kernels.name());
            assert_close(&out, &expected, &scale, 1e-6, &case);

            let mut out = gate.clone();
            kernels.activate(activation, &mut out).expect("it needs no gate");
            let expected: Vec<f64> = gate.iter().map(|&x| act(f64::from(x))).collect();
            let scale: Vec<f64> = expected.iter().map(|y| y.abs().max(0.1)).collect();
            assert_close(&out, &expected, &scale, 1e-6, &format!("{case} alone"));
        }
    }
}

#[test]
fn gelu_is_within_3e7_of_its_input() {
    // The integral of the density, by Simpson's rule from zero on: exact to 1e-12 in steps of this size.
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let (step, mut integral) = (1e-3, 0.0);
    let mut inputs = Vec::new();
    let mut expected = Vec::new();
    for i in 0..9000 {
        let x = f64::from(i) * step;
        let rounded = f64::from(x as f32);
        let half = integral + density(x) * (rounded - x);
        inputs.extend([x as f32, -x as f32]);
        expected.extend([rounded * (0.5 + half), -rounded * (0.5 - half)]);
        integral += step / 6.0 * (density(x) + 4.0 * density(x + step / 2.0) + density(x + step));
    }
    let scale: Vec<f64> = inputs.iter().map(|x| f64::from(x.abs())).collect();
    for kernels in all_kernels() {
        let mut out = inputs.clone();
        kernels.activate(Activation::Gelu, &mut out).expect("it needs no gate");
        assert_close(&out, &expected, &scale, 3e-7, kernels.name());
        let mut edges = [f32::NAN, 1e30, -1e30, 0.0];
        kernels.activate(Activation::Gelu, &mut edges).expect("it needs no gate");
        assert!(edges[0].is_nan(), "{}", kernels.name());
        assert_eq!(edges[1..], [1e30, 0.0, 0.0], "{}", kernels.name());
    }
}

#[test]
fn clamped_swiglu_limits_gates_from_above_and_up_on_both_sides() {
    let gate: Vec<f32> = (-400..=400).map(|i| i as f32 * 0.05).collect();
    let up: Vec<f32> = values(gate.len(), 2).iter().map(|up| up * 20.0).collect();
    let expected: Vec<f64> = (gate.iter().zip(&up))
        .map(|(&gate, &up)| (f64::from(gate).min(7.0), f64::from(up).clamp(-7.0, 7.0)))
        .map(|(gate, up)| (up + 1.0) * gate / (1.0 + (-1.702 * gate).exp()))
        .collect();
    let scale: Vec<f64> = expected.iter().map(|y| y.abs().max(1.0)).collect();
    let activation = Activation::ClampedSwiglu { limit: 7.0 };
    for kernels in all_kernels() {
        let mut out = vec![0.0; gate.len()];
        kernels.glu(activation, &gate, &up, &mut out).expect("shapes fit");
        assert_close(&out, &expected, &scale, 1e-6, kernels.name());
        assert_eq!(kernels.activate(activation, &mut out), Err(KernelError::MissingGate));
    }
}

#[test]
fn layer_norm_agrees_with_f64_and_its_rows_stand_alone() {
    for (row_len, offset) in SIZES.into_iter().flat_map(|len| [0.0, 10.0].map(|offset| (len, offset))) {
        let x: Vec<f32> = values(3 * row_len, 4).iter().map(|x| x + offset).collect();
        let (weight, bias) = (values(row_len, 5), values(row_len, 6));
        for bias in [None, Some(&bias[..])] {
            let mut expected = Vec::new();
            for row in x.chunks(row_len) {
                let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / row_len as f64;
                let variance =
                    row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / row_len as f64;
                let root = (variance + f64::from(1e-5f32)).sqrt();
                expected.extend(row.iter().enumerate().map(|(i, x)| {
                    (f64::from(*x) - mean) / root * f64::from(weight[i])
                        + bias.map_or(0.0, |bias| f64::from(bias[i]))
                }));
            }
            let scale = vec![1.0 + 100.0 * f64::from(offset); expected.len()];
            for kernels in all_kernels() {
                let mut out = vec![f32::NAN; 3 * row_len];
                kernels.layer_norm(&x, &weight, bias, 1e-5, &mut out).expect("shapes fit");
                assert_close(&out, &expected, &scale, 1e-6, &format!("{} {row_len}", kernels.name()));
                let mut last = vec![f32::NAN; row_len];
                kernels.layer_norm(&x[2 * row_len..], &weight, bias, 1e-5, &mut last).expect("shapes fit");
                assert_eq!(bits(&last), bits(&out[2 * row_len..]), "{} alone", kernels.name());
            }
        }
    }
}

#[test]
fn rms_norm_agrees_with_f64() {
    for row_len in SIZES {
        let (x, weight) = (values(3 * row_len, 4), values(row_len, 5));
        let mut expected = Vec::new();
        for row in x.chunks(row_len) {
            let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row_len as f64;
            let root = (mean + f64::from(1e-5f32)).sqrt();
            expected.extend(row.iter().zip(&weight).map(|(x, w)| f64::from(*x) / root * f64::from(*w)));
        }
        for kernels in all_kernels() {
            let mut out = vec![f32::NAN; 3 * row_len];
            kernels.rms_norm(&x, &weight, 1e-5, row_len, &mut out).expect("shapes fit");
            assert_close(&out, &expected, &vec![1.0; out.len()], 1e-6, kernels.name());
        }
    }
}

#[test]
fn softmax_agrees_with_f64_and_hides_minus_infinity() {
    for row_len in SIZES {
        let mut x: Vec<f32> = values(3 * row_len, 6).iter().map(|x| x * 30.0).collect();
        x[row_len - 1] = if row_len > 1 { f32::NEG_INFINITY } else { 0.0 };
        let mut expected = Vec::new();
        for row in x.chunks(row_len) {
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            expected.extend(row.iter().map(|x| f64::from(*x).exp() / sum));
        }
        for kernels in all_kernels() {
            let mut out = x.clone();
            kernels.softmax(&mut out, row_len).expect("shapes fit");
            assert_close(&out, &expected, &vec![1.0; out.len()], 1e-6, kernels.name());
            let mut last = x[2 * row_len..].to_vec();
            kernels.softmax(&mut last, row_len).expect("shapes fit");
            assert_eq!(bits(&last), bits(&out[2 * row_len..]), "{} alone", kernels.name());
        }
    }
}

#[test]
fn rotation_agrees_with_f64_in_both_layouts() {
    let (tokens, heads) = (3, 2);
    for (head_dim, pairs) in [(2, 1), (8, 4), (40, 20), (64, 32), (40, 7), (5, 2), (4, 0)] {
        let angles = values(tokens * pairs, 7);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let x = values(tokens * heads * head_dim, 8);
        for layout in [RotaryLayout::HalfSplit, RotaryLayout::Interleaved] {
            let mut expected: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            for (row, head) in expected.chunks_mut(head_dim).enumerate() {
                for pair in 0..pairs {
                    let angle = row / heads * pairs + pair;
                    let (cos, sin) = (f64::from(cos[angle]), f64::from(sin[angle]));
                    let (i, j) = match layout {
                        RotaryLayout::HalfSplit => (pair, pair + pairs),
                        RotaryLayout::Interleaved => (2 * pair, 2 * pair + 1),
                    };
                    (head[i], head[j]) = (head[i] * cos - head[j] * sin, head[j] * cos + head[i] * sin);
                }
            }
            for kernels in all_kernels() {
                let mut out = vec![f32::NAN; x.len()];
                let tables = RotaryTables { cos: &cos, sin: &sin, pairs, layout };
                kernels.rotate(&x, (heads, head_dim), &tables, &mut out).expect("shapes fit");
                assert_close(&out, &expected, &vec![1.0; out.len()], 3e-7, kernels.name());
            }
        }
    }
}

#[test]
fn scaled_addition_rounds_the_product_and_the_sum() {
    for len in [0, 1, 15, 16, 17, 100] {
        let (x, y) = (values(len, 9), values(len, 10));
        for factor in [1.0, 0.22] {
            let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + factor * y).collect();
            for kernels in all_kernels() {
                let mut out = vec![f32::NAN; len];
                kernels.add_scaled(&x, &y, factor, &mut out).expect("the lengths agree");
                assert_eq!(out, expected, "{}, {len} values, factor {factor}", kernels.name());
            }
        }
    }
}

#[test]
fn slices_of_the_wrong_length_are_named() {
    let kernels = Kernels::detect();
    let length = |what, expected, got| Err(KernelError::Length { what, expected, got });
    let mut out = [0.0; 4];
    assert_eq!(kernels.rms_norm(&[0.0; 4], &[1.0; 3], 0.0, 2, &mut out), length("weight", 2, 3));
    assert_eq!(kernels.rms_norm(&[0.0; 4], &[1.0; 2], 0.0, 2, &mut out[..3]), length("out", 4, 3));
    assert_eq!(kernels.layer_norm(&[0.0; 4], &[1.0; 2], Some(&[0.0]), 0.0, &mut out), length("bias", 2, 1));
    assert_eq!(kernels.softmax(&mut out, 3), Err(KernelError::NotAMultiple { what: "x", got: 4, of: 3 }));
    assert_eq!(kernels.glu(Activation::Silu, &[0.0; 4], &[0.0; 3], &mut out), length("up", 4, 3));
    let tables = RotaryTables { cos: &[1.0; 2], sin: &[0.0; 1], pairs: 1, layout: RotaryLayout::HalfSplit };
    assert_eq!(kernels.rotate(&[0.0; 4], (1, 2), &tables, &mut out), length("sin", 2, 1));
    let both = RotaryTables { sin: &[0.0; 2], ..tables };
    assert_eq!(kernels.rotate(&[0.0; 4], (1, 2), &both, &mut out[..3]), length("out", 4, 3));
    let wide = RotaryTables { pairs: 2, ..tables };
    let refused = kernels.rotate(&[0.0; 4], (1, 2), &wide, &mut out);
    assert!(matches!(refused, Err(KernelError::OutOfRange { .. })));
    assert_eq!(kernels.add_scaled(&[0.0; 4], &[0.0; 3], 1.0, &mut out), length("y", 4, 3));
    assert_eq!(kernels.add_scaled(&[0.0; 4], &[0.0; 4], 1.0, &mut out[..3]), length("out", 4, 3));
}
