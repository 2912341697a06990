//! Every formula against the oracle, on random and on heavily tied logits, and what holds for all of them.

mod oracle;

use std::cell::Cell;

use moebius_router::{Renormalize, Router, RouterConfig, Routing};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const ROWS: usize = 4;

/// A formula by its number in the crate's documentation, drawn with all that a checkpoint may add to it.
fn formula(number: usize) -> impl Strategy<Value = RouterConfig> {
    // Groups of 2 to 8 experts, of which `keep` stay.
    let shape = (1_usize..=8, 2_usize..=8, any::<prop::sample::Index>(), any::<prop::sample::Index>());
    shape.prop_flat_map(move |(n_groups, group_size, keep, top_k)| {
        let n_experts = n_groups * group_size;
        let keep = keep.index(n_groups) + 1;
        let grouped_k = top_k.index(keep * group_size) + 1;
        let top_k = top_k.index(n_experts) + 1;
        let eighths =
            |range| vec((range as std::ops::RangeInclusive<i32>).prop_map(|n| n as f32 / 8.0), n_experts);
        let scale = prop::sample::select(vec![1.0_f32, 0.5, 2.5, 16.0]);
        (eighths(-8..=8), eighths(-16..=16), scale, any::<bool>()).prop_map(
            move |(bias, expert_scale, scale, flag)| {
                let maybe_biased = |config: RouterConfig| {
                    if flag { config.with_selection_bias(bias.clone()) } else { config }
                };
                match number {
                    1 => RouterConfig::softmax_top_k(n_experts, top_k),
                    2 => RouterConfig::softmax_probabilities(n_experts, top_k).with_scale(scale),
                    3 => RouterConfig::top_k_softmax(n_experts, top_k),
                    4 => maybe_biased(RouterConfig::sigmoid_grouped(n_experts, grouped_k, n_groups, keep))
                        .with_scale(scale),
                    5 => maybe_biased(RouterConfig::sigmoid_top_k(n_experts, top_k, 1e-6)).with_scale(scale),
                    6 => RouterConfig::softmax_biased(n_experts, top_k)
                        .with_renormalize(if flag {
                            Renormalize::No
                        } else {
                            Renormalize::SumAtLeast { min: 0.5 }
                        })
                        .with_selection_bias(bias),
                    7 => RouterConfig::softmax_grouped_max(n_experts, grouped_k, n_groups, keep)
                        .with_scale(scale),
                    8 => RouterConfig::softmax_grouped_sum(n_experts, grouped_k, n_groups, keep)
                        .with_scale(scale),
                    9 => RouterConfig::sparse_mixer(n_experts, if flag { 0.01 } else { 0.3 }),
                    10 => RouterConfig::sigmoid_on_input(n_experts, top_k),
                    11 => RouterConfig::softmax_expert_scaled(n_experts, top_k, expert_scale),
                    _ => RouterConfig::one_per_group(n_experts, n_groups, expert_scale),
                }
            },
        )
    })
}

/// Logits of which many are equal, or none; a few experts are forbidden, but never all.
fn logits(n_experts: usize) -> impl Strategy<Value = Vec<f32>> {
    let quarters = (-8_i32..=8).prop_map(|n| n as f32 / 4.0);
    let tied = vec(prop_oneof![16 => quarters, 1 => Just(f32::NEG_INFINITY)], n_experts * ROWS);
    let spread = vec(prop_oneof![16 => -8.0_f32..8.0, 1 => Just(f32::NEG_INFINITY)], n_experts * ROWS);
    let allowed = 0..n_experts;
    (prop_oneof![tied, spread], allowed).prop_map(move |(mut logits, allowed)| {
        for row in logits.chunks_mut(n_experts) {
            row[allowed] = row[allowed].max(0.25);
        }
        logits
    })
}

fn case(number: usize) -> impl Strategy<Value = (RouterConfig, Vec<f32>)> {
    formula(number).prop_flat_map(|config| {
        let logits = logits(config.n_experts);
        (Just(config), logits)
    })
}

fn agrees_with_the_oracle(number: usize) {
    let (rows, compared) = (Cell::new(0), Cell::new(0));
    let config = Config { cases: 256, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&case(number), |(config, logits)| {
        let routing = Router::new(0, config.clone()).unwrap().route(&logits).unwrap();
        prop_assert_eq!(routing.tokens(), ROWS);
        for (row, (experts, weights)) in logits.chunks(config.n_experts).zip(routing.iter()) {
            rows.set(rows.get() + 1);
            let expected = oracle::route(&config, row);
            if expected.ambiguous {
                continue;
            }
            compared.set(compared.get() + 1);
            prop_assert_eq!(experts, &expected.experts);
            for (&weight, &exact) in weights.iter().zip(&expected.weights) {
                let error = (f64::from(weight) - exact).abs();
                prop_assert!(error <= 2e-6 * exact.abs() + 1e-9, "expected {}, got {}", exact, weight);
            }
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let (rows, compared) = (rows.get(), compared.get());
    assert!(compared * 10 >= rows * 9, "only {compared} of {rows} rows were compared");
}

macro_rules! formulas_agree_with_the_oracle {
    ($($name:ident: $number:literal,)*) => {
        $(#[test]
        fn $name() {
            agrees_with_the_oracle($number);
        })*
    };
}

formulas_agree_with_the_oracle! {
    r1_softmax_top_k_agrees_with_the_oracle: 1,
    r2_softmax_probabilities_agree_with_the_oracle: 2,
    r3_top_k_softmax_agrees_with_the_oracle: 3,
    r4_sigmoid_grouped_agrees_with_the_oracle: 4,
    r5_sigmoid_top_k_agrees_with_the_oracle: 5,
    r6_softmax_biased_agrees_with_the_oracle: 6,
    r7_softmax_grouped_max_agrees_with_the_oracle: 7,
    r8_softmax_grouped_sum_agrees_with_the_oracle: 8,
    r9_sparse_mixer_agrees_with_the_oracle: 9,
    r10_sigmoid_on_input_agrees_with_the_oracle: 10,
    r11_softmax_expert_scaled_agrees_with_the_oracle: 11,
    r12_one_per_group_agrees_with_the_oracle: 12,
}

fn any_case() -> impl Strategy<Value = (RouterConfig, Vec<f32>)> {
    (1_usize..=12).prop_flat_map(case)
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn every_routing_has_valid_parts((config, logits) in any_case()) {
        let routing = Router::new(0, config.clone()).unwrap().route(&logits).unwrap();
        let (experts, weights) = (routing.all_experts().to_vec(), routing.all_weights().to_vec());
        // Strictly ascending ids in range, finite weights: what `from_parts` demands.
        let RouterConfig { n_experts, top_k, applies_to, .. } = config;
        let rebuilt = Routing::from_parts(n_experts, top_k, experts, weights, applies_to);
        prop_assert_eq!(rebuilt.unwrap(), routing);
    }

    #[test]
    fn a_token_routes_the_same_alone_and_in_a_batch((config, logits) in any_case()) {
        let router = Router::new(0, config).unwrap();
        let batch = router.route(&logits).unwrap();
        for (row, pair) in logits.chunks(batch.n_experts()).zip(batch.iter()) {
            let alone = router.route(row).unwrap();
            prop_assert_eq!((alone.experts(0), alone.weights(0)), pair);
        }
    }

    #[test]
    fn softmax_then_top_k_equals_top_k_then_softmax((config, logits) in case(1)) {
        let before = Router::new(0, config.clone()).unwrap().route(&logits).unwrap();
        let after = RouterConfig::top_k_softmax(config.n_experts, config.top_k);
        let after = Router::new(0, after).unwrap().route(&logits).unwrap();
        for (a, b) in before.iter().zip(after.iter()) {
            // Logits that differ in their last bits may have one probability.
            prop_assume!(a.0 == b.0);
            for (x, y) in a.1.iter().zip(b.1) {
                prop_assert!((x - y).abs() <= 1e-6);
            }
        }
    }

    #[test]
    fn what_is_dropped_weighs_less_than_the_share((config, logits) in any_case(), share in 0.0_f32..=1.0) {
        let whole = Router::new(0, config.clone()).unwrap().route(&logits).unwrap();
        let dropped = Router::new(0, config.with_drop_below(share)).unwrap().route(&logits).unwrap();
        prop_assert_eq!(dropped.tokens(), ROWS);
        prop_assert_eq!(dropped.iter().map(|(experts, _)| experts.len()).sum::<usize>(), dropped.pairs());
        for ((all, weights), (left, _)) in whole.iter().zip(dropped.iter()) {
            prop_assert!(!left.is_empty() && left.is_sorted_by(|a, b| a < b));
            let heaviest = weights.iter().fold(0.0_f32, |heaviest, weight| heaviest.max(weight.abs()));
            for (expert, weight) in all.iter().zip(weights) {
                // Renormalising may round to the other side of the bound.
                let (ratio, kept) = (weight.abs() / heaviest, left.contains(expert));
                let near = !ratio.is_finite() || (ratio - share).abs() < 1e-5;
                prop_assert!(near || kept == (ratio >= share), "{} of {}, kept: {}", ratio, share, kept);
            }
            prop_assert!(left.iter().all(|expert| all.contains(expert)));
        }
    }

    #[test]
    fn dropping_none_changes_nothing((config, logits) in any_case()) {
        let whole = Router::new(0, config.clone()).unwrap().route(&logits).unwrap();
        let same = Router::new(0, config.with_drop_below(0.0)).unwrap().route(&logits).unwrap();
        prop_assert_eq!(whole, same);
    }

    #[test]
    fn dropping_is_a_smaller_top_k_for_each_token(
        (config, logits) in prop::sample::select(vec![1_usize, 2, 3, 7, 8, 10]).prop_flat_map(case),
        share in 0.0_f32..=1.0,
    ) {
        let router = Router::new(0, config.clone()).unwrap();
        let dropped = Router::new(0, config.clone().with_drop_below(share)).unwrap();
        for row in logits.chunks(config.n_experts) {
            let dropped = dropped.route(row).unwrap();
            let smaller = router.with_top_k(dropped.pairs()).unwrap().route(row).unwrap();
            prop_assert_eq!((dropped.experts(0), dropped.weights(0)), (smaller.experts(0), smaller.weights(0)));
        }
    }

    #[test]
    fn masked_experts_route_as_if_they_were_not_there(
        (config, logits) in prop::sample::select(vec![1_usize, 2, 3, 5, 6, 9, 10, 11]).prop_flat_map(case),
        masked in vec(any::<bool>(), 64),
    ) {
        let left: Vec<usize> = (0..config.n_experts).filter(|&id| !masked[id]).collect();
        prop_assume!(left.len() >= config.top_k);
        let gathered: Vec<f32> =
            logits.chunks(config.n_experts).flat_map(|row| left.iter().map(|&id| row[id])).collect();
        prop_assume!(gathered.chunks(left.len()).all(|row| row.iter().any(|logit| logit.is_finite())));
        let part = |of: &Option<Vec<f32>>| of.as_ref().map(|of| left.iter().map(|&id| of[id]).collect());
        let smaller = RouterConfig {
            n_experts: left.len(),
            selection_bias: part(&config.selection_bias),
            expert_scale: part(&config.expert_scale),
            ..config.clone()
        };
        let ids = (0..config.n_experts as u32).filter(|&id| masked[id as usize]).collect();
        let masked = Router::new(0, config.with_masked(ids)).unwrap().route(&logits).unwrap();
        let smaller = Router::new(0, smaller).unwrap().route(&gathered).unwrap();
        let ids: Vec<u32> = smaller.all_experts().iter().map(|&id| left[id as usize] as u32).collect();
        prop_assert_eq!((masked.all_experts(), masked.all_weights()), (&ids[..], smaller.all_weights()));
    }

    #[test]
    fn masked_experts_of_groups_are_never_chosen(
        (config, logits) in prop::sample::select(vec![4_usize, 7, 8, 12]).prop_flat_map(case),
        masked in vec(prop::bool::weighted(0.2), 64),
    ) {
        let ids: Vec<u32> = (0..config.n_experts as u32).filter(|&id| masked[id as usize]).collect();
        let router = Router::new(0, config.with_masked(ids.clone()));
        prop_assume!(router.is_ok());
        let allowed = |row: &[f32]| (0..row.len()).any(|id| row[id].is_finite() && !masked[id]);
        prop_assume!(logits.chunks(masked.len().min(router.as_ref().unwrap().config().n_experts)).all(allowed));
        let routing = router.unwrap().route(&logits).unwrap();
        prop_assert!(routing.all_experts().iter().all(|id| !ids.contains(id)));
        prop_assert_eq!(routing.pairs(), routing.tokens() * routing.top_k());
    }

    #[test]
    fn dispatch_holds_the_pairs_of_the_routing((config, logits) in any_case(), share in 0.0_f32..=1.0) {
        let routing = Router::new(0, config.with_drop_below(share)).unwrap().route(&logits).unwrap();
        let dispatch = routing.dispatch();
        prop_assert_eq!(dispatch.offsets().last(), Some(&routing.pairs()));
        let by_expert = (0..dispatch.n_experts() as u32).flat_map(|expert| {
            let (rows, weights) = dispatch.expert(expert as usize);
            assert!(rows.is_sorted_by(|a, b| a < b));
            rows.iter().zip(weights).map(move |(&row, &weight)| (row, expert, weight)).collect::<Vec<_>>()
        });
        let mut by_token: Vec<_> = by_expert.collect();
        by_token.sort_by_key(|&(row, expert, _)| (row, expert));
        let expected = (0..).zip(routing.iter()).flat_map(|(row, (experts, weights))| {
            experts.iter().zip(weights).map(move |(&expert, &weight)| (row, expert, weight))
        });
        prop_assert_eq!(by_token, expected.collect::<Vec<_>>());
        let active: Vec<usize> = dispatch.active().collect();
        let with_rows = |&expert: &usize| !dispatch.expert(expert).0.is_empty();
        prop_assert_eq!(&active, &(0..dispatch.n_experts()).filter(with_rows).collect::<Vec<_>>());
        prop_assert_eq!(dispatch.n_active(), active.len());
    }
}
