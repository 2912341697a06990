use moebius_expert_kernels::{
    Activation, ExpertBiases, ExpertRows, KernelError, Kernels, PackedExperts, PackedMatrix, WeightFormat,
};
use proptest::prelude::*;

use crate::support::{all_kernels, assert_close, bits, fitting, kernels_for, matrix, pool, values};

/// A bank, and its exact weights: gate, up, down per expert.
struct Bank {
    packed: PackedExperts,
    matrices: [Vec<PackedMatrix>; 3],
    exact: Vec<[Vec<f32>; 3]>,
    biases: Option<[Vec<f32>; 3]>,
    kind: Kind,
    hidden: usize,
    intermediate: usize,
}

/// What experts there are beside the usual one.
#[derive(Clone, Copy, Debug)]
struct Kind {
    activation: Activation,
    gated: bool,
    biases: bool,
}

const SWIGLU: Kind = Kind { activation: Activation::Silu, gated: true, biases: false };

fn bank(format: WeightFormat, n_experts: usize, hidden: usize, intermediate: usize) -> Bank {
    bank_of(SWIGLU, format, (n_experts, hidden, intermediate))
}

fn bank_of(
    kind: Kind,
    format: WeightFormat,
    (n_experts, hidden, intermediate): (usize, usize, usize),
) -> Bank {
    let [hidden, intermediate] = [hidden, intermediate].map(|cols| fitting(format, cols));
    let mut packed: [Vec<PackedMatrix>; 3] = Default::default();
    let mut exact = Vec::new();
    for expert in 0..n_experts as u64 {
        let shapes = [(intermediate, hidden), (intermediate, hidden), (hidden, intermediate)];
        let made = [0, 1, 2].map(|i| matrix(format, shapes[i].0, shapes[i].1, 10 * expert + i as u64));
        let [gate, up, down] = made;
        exact.push([gate.1, up.1, down.1]);
        packed[0].push(gate.0);
        packed[1].push(up.0);
        packed[2].push(down.0);
    }
    let [gate, up, down] = packed.clone();
    let matrices = packed;
    let gate = kind.gated.then_some(gate);
    let mut packed = PackedExperts::new(gate, up, down, kind.activation).expect("shapes fit");
    let biases = kind.biases.then(|| {
        [(90, intermediate), (91, intermediate), (92, hidden)]
            .map(|(seed, width)| values(n_experts * width, seed))
    });
    if let Some([gate, up, down]) = biases.clone() {
        let (gate, up, down) = (kind.gated.then_some(gate), Some(up), Some(down));
        packed = packed.with_biases(ExpertBiases { gate, up, down }).expect("biases fit");
    }
    Bank { packed, matrices, exact, biases, kind, hidden, intermediate }
}

/// Which experts each token takes, with weights; grouped by expert as the kernels want it.
struct Grouped {
    offsets: Vec<usize>,
    rows: Vec<u32>,
    weights: Vec<f32>,
}

fn group(choices: &[Vec<usize>], n_experts: usize) -> Grouped {
    let mut grouped = Grouped { offsets: vec![0], rows: Vec::new(), weights: Vec::new() };
    for expert in 0..n_experts {
        for (token, chosen) in choices.iter().enumerate() {
            if chosen.contains(&expert) {
                grouped.rows.push(token as u32);
                grouped.weights.push(0.25 + ((token * 7 + expert * 3) % 11) as f32 / 16.0);
            }
        }
        grouped.offsets.push(grouped.rows.len());
    }
    grouped
}

impl Grouped {
    fn pairs(&self, weight_on_input: bool) -> ExpertRows<'_> {
        ExpertRows { offsets: &self.offsets, rows: &self.rows, weights: &self.weights, weight_on_input }
    }
}

fn times(weights: &[f32], x: &[f64]) -> Vec<f64> {
    weights.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
}

/// The inner vector of an expert.
fn inner(activation: Activation, gate: Option<&[f64]>, up: &[f64]) -> Vec<f64> {
    let act = |x: f64| match activation {
        Activation::ReluSquared => x.max(0.0).powi(2),
        _ => x / (1.0 + (-x).exp()),
    };
    let Some(gate) = gate else { return up.iter().map(|&up| act(up)).collect() };
    let unit = |gate: f64, up: f64| match activation {
        Activation::ClampedSwiglu { limit } => {
            let limit = f64::from(limit);
            let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
            (up + 1.0) * gate / (1.0 + (-1.702 * gate).exp())
        }
        _ => act(gate) * up,
    };
    gate.iter().zip(up).map(|(&gate, &up)| unit(gate, up)).collect()
}

fn oracle(bank: &Bank, x: &[f32], pairs: &ExpertRows<'_>) -> Vec<f64> {
    let biased = |mut sums: Vec<f64>, which: usize, expert: usize| {
        if let Some(biases) = &bank.biases {
            let biases = biases[which].chunks(sums.len()).nth(expert).expect("a bias for every expert");
            sums.iter_mut().zip(biases).for_each(|(sum, bias)| *sum += f64::from(*bias));
        }
        sums
    };
    let mut out = vec![0.0; x.len()];
    for (expert, [gate, up, down]) in bank.exact.iter().enumerate() {
        for pair in pairs.offsets[expert]..pairs.offsets[expert + 1] {
            let token = pairs.rows[pair] as usize;
            let weight = f64::from(pairs.weights[pair]);
            let (before, after) = if pairs.weight_on_input { (weight, 1.0) } else { (1.0, weight) };
            let row = &x[token * bank.hidden..][..bank.hidden];
            let x: Vec<f64> = row.iter().map(|x| f64::from(*x) * before).collect();
            let gate = bank.kind.gated.then(|| biased(times(gate, &x), 0, expert));
            let inner = inner(bank.kind.activation, gate.as_deref(), &biased(times(up, &x), 1, expert));
            let out = &mut out[token * bank.hidden..];
            let y = biased(times(down, &inner), 2, expert);
            out.iter_mut().zip(y).for_each(|(out, y)| *out += after * y);
        }
    }
    out
}

fn run(kernels: &Kernels, threads: usize, bank: &Bank, x: &[f32], pairs: &ExpertRows<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len()];
    kernels.experts(&pool(threads), x, &bank.packed, pairs, &mut out).expect("shapes fit");
    out
}

fn check(kernels: &Kernels, bank: &Bank, choices: &[Vec<usize>], weight_on_input: bool) {
    let x = values(choices.len() * bank.hidden, 77);
    let grouped = group(choices, bank.packed.n_experts());
    let pairs = grouped.pairs(weight_on_input);
    let expected = oracle(bank, &x, &pairs);
    let largest = expected.iter().fold(1.0f64, |largest, y| largest.max(y.abs()));
    let case = format!(
        "{kernels:?} {} hidden {} intermediate {} tokens {}",
        bank.packed.format(),
        bank.hidden,
        bank.intermediate,
        choices.len()
    );
    let scale = vec![largest; expected.len()];
    // Inputs are rounded twice, for blocks of weights to bytes.
    let tolerance = match bank.packed.format() {
        WeightFormat::Bf16 if kernels.rounds_inputs() => 1e-2,
        format if format.block_len() == 1 => 1e-5,
        _ => 6e-2,
    };
    assert_close(&run(kernels, 2, bank, &x, &pairs), &expected, &scale, tolerance, &case);
}

/// Two of the experts for each token, spread out.
fn spread(tokens: usize, n_experts: usize) -> Vec<Vec<usize>> {
    (0..tokens).map(|token| vec![token * 5 % n_experts, (token * 5 + 1 + token % 2) % n_experts]).collect()
}

#[test]
fn experts_agree_with_f64_on_every_isa_format_and_awkward_size() {
    for format in WeightFormat::ALL {
        let sizes = [(1, 1), (2, 3), (15, 17), (16, 16), (33, 31), (100, 15), (17, 257)];
        // Where blocks are large, several become the same.
        let mut sizes = sizes.map(|(a, b)| (fitting(format, a), fitting(format, b))).to_vec();
        sizes.dedup();
        for (hidden, intermediate) in sizes {
            let bank = bank(format, 5, hidden, intermediate);
            for kernels in kernels_for(format) {
                for tokens in [1, 2, 17] {
                    check(&kernels, &bank, &spread(tokens, 5), false);
                    check(&kernels, &bank, &spread(tokens, 5), true);
                }
            }
        }
    }
}

#[test]
fn experts_without_gates_with_biases_and_clamped_agree_with_f64() {
    let kinds = [
        Kind { activation: Activation::ReluSquared, gated: false, biases: false },
        Kind { activation: Activation::Silu, gated: false, biases: true },
        Kind { activation: Activation::ReluSquared, gated: true, biases: true },
        Kind { activation: Activation::ClampedSwiglu { limit: 0.7 }, gated: true, biases: true },
    ];
    let formats = [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Q8_0];
    for (kind, format) in kinds.into_iter().flat_map(|kind| formats.map(|format| (kind, format))) {
        for (hidden, intermediate) in [(1, 1), (15, 17), (33, 31), (17, 257)] {
            let bank = bank_of(kind, format, (5, hidden, intermediate));
            for kernels in kernels_for(format) {
                for (tokens, weight_on_input) in [(1, false), (2, true), (17, false), (17, true)] {
                    check(&kernels, &bank, &spread(tokens, 5), weight_on_input);
                }
            }
        }
    }
}

/// One expert's part of a token's sum, by the kernels that have tests of their own.
fn expert_output(kernels: &Kernels, bank: &Bank, expert: usize, x: &[f32]) -> Vec<f32> {
    let pool = pool(1);
    let project = |which: usize, x: &[f32], width: usize| {
        let mut out = vec![0.0; width];
        kernels.matmul(&pool, x, &bank.matrices[which][expert], None, &mut out).expect("shapes fit");
        out
    };
    let (gate, up) = (project(0, x, bank.intermediate), project(1, x, bank.intermediate));
    let mut inner = vec![0.0; bank.intermediate];
    kernels.glu(Activation::Silu, &gate, &up, &mut inner).expect("same lengths");
    project(2, &inner, bank.hidden)
}

#[test]
fn experts_have_the_bits_of_their_products_one_by_one() {
    for format in WeightFormat::ALL {
        let bank = bank(format, 4, 40, 33);
        let x = values(7 * bank.hidden, 12);
        let grouped = group(&spread(7, 4), 4);
        for kernels in kernels_for(format) {
            let mut expected = vec![0.0; x.len()];
            for expert in 0..4 {
                for pair in grouped.offsets[expert]..grouped.offsets[expert + 1] {
                    let token = grouped.rows[pair] as usize * bank.hidden;
                    let y = expert_output(&kernels, &bank, expert, &x[token..token + bank.hidden]);
                    let sums = &mut expected[token..token + bank.hidden];
                    sums.iter_mut().zip(y).for_each(|(sum, y)| *sum += grouped.weights[pair] * y);
                }
            }
            let out = run(&kernels, 2, &bank, &x, &grouped.pairs(false));
            assert_eq!(bits(&out), bits(&expected), "{} {format}", kernels.name());
        }
    }
}

#[test]
fn all_tokens_may_fall_on_one_expert() {
    let bank = bank(WeightFormat::Bf16, 4, 33, 40);
    for kernels in kernels_for(WeightFormat::Bf16) {
        for tokens in [1, 3, 12, 29] {
            check(&kernels, &bank, &vec![vec![2]; tokens], false);
            check(&kernels, &bank, &vec![vec![0, 1, 2, 3]; tokens], false);
        }
    }
}

#[test]
fn tokens_and_experts_may_have_nothing_to_do() {
    let bank = bank(WeightFormat::F32, 3, 20, 20);
    for kernels in all_kernels() {
        check(&kernels, &bank, &[], false);
        check(&kernels, &bank, &[vec![], vec![1], vec![]], false);
        let x = values(40, 1);
        let none = group(&[vec![], vec![]], 3);
        assert_eq!(run(&kernels, 2, &bank, &x, &none.pairs(false)), vec![0.0; 40]);
    }
}

#[test]
fn a_token_has_the_same_bits_in_every_batch_and_on_every_thread_count() {
    for format in WeightFormat::ALL {
        let bank = bank(format, 6, 50, 70);
        let hidden = bank.hidden;
        let choices = spread(31, 6);
        let x = values(31 * hidden, 5);
        let grouped = group(&choices, 6);
        for kernels in kernels_for(format) {
            for weight_on_input in [false, true] {
                let whole = run(&kernels, 1, &bank, &x, &grouped.pairs(weight_on_input));
                for threads in [2, 3] {
                    let again = run(&kernels, threads, &bank, &x, &grouped.pairs(weight_on_input));
                    assert_eq!(bits(&again), bits(&whole), "{} {threads} threads", kernels.name());
                }
                for token in 0..31 {
                    let mut alone = group(&choices[token..=token], 6);
                    for (pair, weight) in alone.weights.iter_mut().enumerate() {
                        let expert =
                            alone.offsets.iter().rposition(|&first| first <= pair).expect("one has it");
                        let expert = expert.min(5);
                        let all = grouped.offsets[expert]..grouped.offsets[expert + 1];
                        let place = all.clone().find(|&p| grouped.rows[p] == token as u32);
                        *weight = grouped.weights[place.expect("the token chose it")];
                    }
                    let row = token * hidden..(token + 1) * hidden;
                    let out = run(&kernels, 1, &bank, &x[row.clone()], &alone.pairs(weight_on_input));
                    assert_eq!(bits(&out), bits(&whole[row]), "{} token {token}", kernels.name());
                }
            }
        }
    }
}

#[test]
fn matrices_that_do_not_fit_together_are_refused() {
    let make = |format, rows, cols| matrix(format, rows, cols, 1).0;
    let (f32, bf16) = (WeightFormat::F32, WeightFormat::Bf16);
    let join = |gate, up, down| PackedExperts::new(Some(gate), up, down, Activation::Silu).err();
    assert_eq!(join(vec![make(f32, 4, 3)], vec![make(f32, 4, 3)], vec![make(bf16, 3, 4)]), None);
    assert_eq!(join(vec![], vec![], vec![]), Some(KernelError::ZeroDimension { what: "experts" }));
    assert_eq!(
        join(vec![make(f32, 4, 3)], vec![], vec![make(f32, 3, 4)]),
        Some(KernelError::ZeroDimension { what: "experts" })
    );
    assert_eq!(
        join(vec![], vec![make(f32, 4, 3)], vec![make(f32, 3, 4)]),
        Some(KernelError::Length { what: "gate", expected: 1, got: 0 })
    );
    assert_eq!(
        join(vec![make(f32, 4, 3)], vec![make(f32, 4, 3)], vec![make(f32, 4, 3)]),
        Some(KernelError::Shape { projection: "down", expert: 0, expected: (3, 4), got: (4, 3) })
    );
    assert_eq!(
        join(vec![make(bf16, 4, 3)], vec![make(f32, 4, 3)], vec![make(f32, 3, 4)]),
        Some(KernelError::MixedFormats { projection: "gate", expected: f32, got: bf16 })
    );
    let clamped = Activation::ClampedSwiglu { limit: 7.0 };
    let gateless = PackedExperts::new(None, vec![make(f32, 4, 3)], vec![make(f32, 3, 4)], clamped);
    assert_eq!(gateless.err(), Some(KernelError::MissingGate));
}

#[test]
fn biases_that_do_not_fit_the_bank_are_refused() {
    let gated = bank(WeightFormat::F32, 2, 3, 4).packed;
    let gateless = bank_of(Kind { gated: false, ..SWIGLU }, WeightFormat::F32, (2, 3, 4)).packed;
    let refused = |bank: &PackedExperts, biases| bank.clone().with_biases(biases).err();
    let none = ExpertBiases::default;
    let of_gate = |len| ExpertBiases { gate: Some(vec![0.0; len]), ..none() };
    let length = |what, expected, got| Some(KernelError::Length { what, expected, got });
    assert_eq!(refused(&gated, of_gate(8)), None);
    assert_eq!(refused(&gated, of_gate(4)), length("bias of gate", 8, 4));
    assert_eq!(refused(&gateless, of_gate(8)), Some(KernelError::MissingGate));
    let (up, down) = (Some(vec![0.0; 6]), Some(vec![0.0; 8]));
    assert_eq!(refused(&gated, ExpertBiases { up, ..none() }), length("bias of up", 8, 6));
    assert_eq!(refused(&gated, ExpertBiases { down, ..none() }), length("bias of down", 6, 8));
}

#[test]
fn pairs_that_do_not_fit_the_bank_are_refused_and_nothing_is_written() {
    let bank = bank(WeightFormat::F32, 2, 3, 4);
    let x = values(6, 1);
    let check = |offsets: &[usize], rows: &[u32], weights: &[f32], expected: KernelError| {
        let mut out = vec![5.0; 6];
        let pairs = ExpertRows { offsets, rows, weights, weight_on_input: false };
        let result = Kernels::detect().experts(&pool(1), &x, &bank.packed, &pairs, &mut out);
        assert_eq!(result, Err(expected));
        assert_eq!(out, vec![5.0; 6]);
    };
    let length = |what, expected, got| KernelError::Length { what, expected, got };
    let range = |what, limit, got| KernelError::OutOfRange { what, limit, got };
    check(&[0, 1], &[0], &[1.0], length("offsets", 3, 2));
    check(&[0, 1, 2], &[0, 1], &[1.0], length("weights", 2, 1));
    check(&[0, 1, 1], &[0, 1], &[1.0; 2], length("rows", 1, 2));
    check(&[1, 1, 2], &[0, 1], &[1.0; 2], range("offsets", 1, 1));
    check(&[0, 3, 2], &[0, 1], &[1.0; 2], range("offsets", 3, 3));
    check(&[0, 1, 2], &[0, 2], &[1.0; 2], range("rows", 2, 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn experts_agree_with_f64_on_any_routing(
        hidden in 1usize..40,
        intermediate in 1usize..40,
        masks in prop::collection::vec(0u8..32, 0..30),
        weight_on_input: bool,
    ) {
        let bank = bank(WeightFormat::F32, 5, hidden, intermediate);
        let choices: Vec<Vec<usize>> =
            masks.iter().map(|mask| (0..5).filter(|expert| mask >> expert & 1 == 1).collect()).collect();
        for kernels in all_kernels() {
            check(&kernels, &bank, &choices, weight_on_input);
        }
    }
}
