//! Ties, saturation, forbidden experts, empty batches, and every message.

use moebius_router::{
    ExpertLoad, GroupRank, LoadStats, Renormalize, Router, RouterConfig, RouterError, Routing, Score,
    Selection, WeightTarget,
};

const FORBIDDEN: f32 = f32::NEG_INFINITY;

fn check(config: RouterConfig, row: &[f32], experts: &[u32], weights: &[f32]) {
    let routing = Router::new(0, config).unwrap().route(row).unwrap();
    assert_eq!(routing.experts(0), experts);
    for (got, expected) in routing.weights(0).iter().zip(weights) {
        assert!((got - expected).abs() < 1e-6, "expected {weights:?}, got {:?}", routing.weights(0));
    }
}

fn check_message(error: RouterError, message: &str) {
    assert_eq!(error.to_string(), message);
}

fn check_refused(config: RouterConfig, message: &str) {
    check_message(Router::new(3, config).unwrap_err(), message);
}

fn routing(n_experts: usize, top_k: usize, experts: &[u32]) -> Result<Routing, RouterError> {
    let weights = vec![1.0; experts.len()];
    Routing::from_parts(n_experts, top_k, experts.to_vec(), weights, WeightTarget::Output)
}

#[test]
fn a_choice_over_all_experts_keeps_its_weights_and_adds_zeros() {
    let weights = vec![0.75, 0.25, 0.5, 0.5];
    let routing = Routing::from_parts(4, 2, vec![0, 2, 1, 3], weights, WeightTarget::Input).unwrap();
    let all = routing.over_all_experts().unwrap();
    assert_eq!(all.all_experts(), [0, 1, 2, 3, 0, 1, 2, 3]);
    assert_eq!(all.all_weights(), [0.75, 0.0, 0.25, 0.0, 0.0, 0.5, 0.0, 0.5]);
    assert_eq!((all.top_k(), all.tokens(), all.applies_to()), (4, 2, WeightTarget::Input));
    assert_eq!(all.over_all_experts().unwrap(), all);
    let none = Routing::from_parts(4, 2, vec![], vec![], WeightTarget::Output).unwrap();
    assert_eq!(none.over_all_experts().unwrap().tokens(), 0);
    let many = 1 << 17;
    let wide = Routing::from_parts(1 << 16, 1, vec![0; many], vec![1.0; many], WeightTarget::Output).unwrap();
    assert!(wide.over_all_experts().is_err());
}

#[test]
fn ties_go_to_the_lower_expert() {
    let row = [1.0; 6];
    check(RouterConfig::softmax_top_k(6, 2), &row, &[0, 1], &[0.5, 0.5]);
    check(RouterConfig::top_k_softmax(6, 2), &row, &[0, 1], &[0.5, 0.5]);
    check(RouterConfig::sigmoid_top_k(6, 2, 0.0), &row, &[0, 1], &[0.5, 0.5]);
    check(RouterConfig::one_per_group(6, 3, vec![6.0; 6]), &row, &[0, 2, 4], &[1.0, 1.0, 1.0]);
    check(RouterConfig::sparse_mixer(6, 0.01), &row, &[0, 1], &[1.0 / 6.0, 1.0 / 5.0]);
}

#[test]
fn ties_go_to_the_lower_group() {
    let row = [1.0, 2.0, 2.0, 1.0, 1.0, 2.0];
    check(RouterConfig::softmax_grouped_max(6, 1, 3, 1), &row, &[1], &[0.2436862]);
    check(RouterConfig::softmax_grouped_sum(6, 2, 3, 2), &row, &[1, 2], &[0.5, 0.5]);
}

#[test]
fn minus_zero_ties_with_zero() {
    check(RouterConfig::top_k_softmax(3, 1), &[-1.0, -0.0, 0.0], &[1], &[1.0]);
    check(RouterConfig::sparse_mixer(3, 0.01), &[-0.0, 0.0, 0.0], &[0, 1], &[1.0 / 3.0, 0.5]);
}

#[test]
fn saturated_sigmoids_are_told_apart_by_their_logits() {
    check(RouterConfig::sigmoid_top_k(4, 2, 0.0), &[50.0, 40.0, 60.0, 30.0], &[0, 2], &[0.5, 0.5]);
    check(RouterConfig::sigmoid_on_input(4, 1), &[-300.0, -200.0, -250.0, -400.0], &[1], &[0.0]);
}

#[test]
fn far_logits_do_not_overflow() {
    check(RouterConfig::softmax_probabilities(3, 2), &[f32::MAX, 0.0, f32::MIN], &[0, 1], &[1.0, 0.0]);
    check(RouterConfig::top_k_softmax(3, 2), &[f32::MIN, f32::MAX, 0.0], &[1, 2], &[1.0, 0.0]);
    check(RouterConfig::sparse_mixer(3, 0.01), &[f32::MIN, f32::MAX, 0.0], &[1, 2], &[1.0, 1.0]);
}

#[test]
fn small_probabilities_count_in_the_sum() {
    // 4096 terms of 2^-25 beside 1: each alone is below half an f32 step.
    let mut row = vec![-25.0 * std::f32::consts::LN_2; 4097];
    row[0] = 0.0;
    let expected = 1.0 / (1.0 + 4096.0 / 33_554_432.0);
    check(RouterConfig::softmax_probabilities(4097, 1), &row, &[0], &[expected]);
}

#[test]
fn forbidden_experts_come_last_and_weigh_nothing() {
    let row = [FORBIDDEN, FORBIDDEN, 1.0, FORBIDDEN];
    check(RouterConfig::softmax_top_k(4, 2), &row, &[0, 2], &[0.0, 1.0]);
    check(RouterConfig::top_k_softmax(4, 2), &row, &[0, 2], &[0.0, 1.0]);
    check(RouterConfig::sigmoid_top_k(4, 2, 0.0), &row, &[0, 2], &[0.0, 1.0]);
    check(RouterConfig::sparse_mixer(4, 0.01), &row, &[0, 2], &[0.0, 1.0]);
    check(RouterConfig::one_per_group(4, 2, vec![1.0; 4]), &row, &[0, 2], &[0.0, 1.0]);
}

#[test]
fn experts_of_dropped_groups_are_never_chosen() {
    // Negative biases push every kept score below 0, where a dropped expert of score 0 would win.
    let biased = RouterConfig::sigmoid_grouped(4, 2, 2, 1).with_selection_bias(vec![-2.0, -2.0, -3.0, -3.0]);
    check(biased, &[0.0; 4], &[0, 1], &[0.5, 0.5]);
    // Expert 3 is kept with probability 0; the dropped experts 0 and 1 have more and stay out.
    check(RouterConfig::softmax_grouped_max(4, 2, 2, 1), &[0.0, 0.0, 40.0, FORBIDDEN], &[2, 3], &[1.0, 0.0]);
}

#[test]
fn scores_that_are_all_zero_stay_zero() {
    let biased = RouterConfig::sigmoid_top_k(3, 2, 0.0).with_selection_bias(vec![0.0, 5.0, 5.0]);
    check(biased, &[1.0, FORBIDDEN, FORBIDDEN], &[1, 2], &[0.0, 0.0]);
}

#[test]
fn a_sum_below_the_bound_is_not_blown_up() {
    let config =
        RouterConfig::softmax_probabilities(4, 1).with_renormalize(Renormalize::SumAtLeast { min: 0.5 });
    check(config, &[0.0; 4], &[0], &[0.5]);
}

#[test]
fn one_group_of_one_is_no_group() {
    assert_eq!(RouterConfig::sigmoid_grouped(8, 2, 1, 1).selection, Selection::TopK);
    let kept = Selection::GroupLimited { n_groups: 2, keep: 1, rank: GroupRank::Max };
    assert_eq!(Selection::group_limited(2, 1, GroupRank::Max), kept);
}

#[test]
fn no_tokens_route_to_nothing() {
    let routing = Router::new(0, RouterConfig::softmax_top_k(4, 2)).unwrap().route(&[]).unwrap();
    assert_eq!((routing.tokens(), routing.top_k(), routing.n_experts()), (0, 2, 4));
    assert_eq!(routing.iter().count(), 0);
    let dispatch = routing.dispatch();
    assert_eq!(dispatch.offsets(), [0; 5]);
    assert_eq!(dispatch.n_active(), 0);
}

#[test]
fn a_single_expert_gets_every_token() {
    let routing = Router::new(0, RouterConfig::softmax_top_k(1, 1)).unwrap().route(&[-3.0, 7.0]).unwrap();
    assert_eq!(routing.all_experts(), [0, 0]);
    assert_eq!(routing.all_weights(), [1.0, 1.0]);
    assert_eq!(routing.dispatch().rows(), [0, 1]);
}

#[test]
fn all_experts_may_be_chosen() {
    check(RouterConfig::softmax_top_k(3, 3), &[0.0; 3], &[0, 1, 2], &[1.0 / 3.0; 3]);
    check(RouterConfig::one_per_group(3, 3, vec![3.0; 3]), &[0.0; 3], &[0, 1, 2], &[1.0; 3]);
    check(RouterConfig::softmax_grouped_max(4, 4, 2, 2), &[0.0; 4], &[0, 1, 2, 3], &[0.25; 4]);
}

#[test]
fn the_weight_target_travels_with_the_routing() {
    let route = |config| Router::new(0, config).unwrap().route(&[1.0, 2.0]).unwrap().applies_to();
    assert_eq!(route(RouterConfig::sigmoid_on_input(2, 1)), WeightTarget::Input);
    assert_eq!(route(RouterConfig::softmax_top_k(2, 1)), WeightTarget::Output);
}

#[test]
fn another_top_k_makes_another_router() {
    let router = Router::new(5, RouterConfig::softmax_top_k(4, 2)).unwrap();
    let wider = router.with_top_k(3).unwrap();
    assert_eq!((wider.layer(), wider.config().top_k, router.config().top_k), (5, 3, 2));
    check_message(router.with_top_k(5).unwrap_err(), "layer 5: router `top_k`: expected 1 to 4, got 5");
}

#[test]
fn broken_logits_name_layer_token_and_expert() {
    let router = Router::new(3, RouterConfig::softmax_top_k(4, 2)).unwrap();
    let mut logits = vec![0.0; 4 * 20];
    logits[17 * 4 + 2] = f32::NAN;
    check_message(router.route(&logits).unwrap_err(), "layer 3, token 17: router logit for expert 2 is NaN");
    logits[17 * 4 + 1] = f32::INFINITY;
    check_message(router.route(&logits).unwrap_err(), "layer 3, token 17: router logit for expert 1 is +inf");
    logits[16 * 4..17 * 4].fill(FORBIDDEN);
    check_message(
        router.route(&logits).unwrap_err(),
        "layer 3, token 16: router logits for all experts are -inf",
    );
    let message = "layer 3: router logits: expected a multiple of 4 values, got 79";
    check_message(router.route(&logits[1..]).unwrap_err(), message);
}

#[test]
fn configurations_that_describe_no_router_are_refused() {
    let top_k = RouterConfig::softmax_top_k;
    check_refused(top_k(0, 1), "layer 3: router `n_experts`: expected 1 to 2^32 - 1, got 0");
    check_refused(top_k(4, 0), "layer 3: router `top_k`: expected 1 to 4, got 0");
    check_refused(top_k(4, 5), "layer 3: router `top_k`: expected 1 to 4, got 5");
    check_refused(
        top_k(4, 1).with_scale(f32::NAN),
        "layer 3: router `scale`: expected a finite number, got NaN",
    );
    let eps = Renormalize::Sum { eps: -1.0 };
    let message = "layer 3: router `renormalize`: expected a finite number of at least 0, got -1";
    check_refused(top_k(4, 1).with_renormalize(eps), message);
    let message = "layer 3: router `selection_bias`: expected 4 values, got 3";
    check_refused(top_k(4, 1).with_selection_bias(vec![0.0; 3]), message);
    let message = "layer 3: router `selection_bias`: expected finite numbers, got NaN for expert 1";
    check_refused(top_k(2, 1).with_selection_bias(vec![0.0, f32::NAN]), message);
    let message = "layer 3: router `expert_scale`: expected 4 values, got 5";
    check_refused(top_k(4, 1).with_expert_scale(vec![0.0; 5]), message);
    let overflow = top_k(2, 1).with_scale(1e30).with_expert_scale(vec![1.0, 1e30]);
    check_refused(
        overflow,
        "layer 3: router `expert_scale`: expected finite products with `scale`, got an overflow",
    );
}

#[test]
fn groups_that_do_not_fit_are_refused() {
    let grouped = RouterConfig::sigmoid_grouped;
    check_refused(grouped(8, 2, 3, 1), "layer 3: router `n_groups`: expected a divisor of 8 experts, got 3");
    check_refused(grouped(8, 2, 0, 1), "layer 3: router `n_groups`: expected a divisor of 8 experts, got 0");
    check_refused(grouped(8, 2, 4, 5), "layer 3: router `keep`: expected 1 to 4, got 5");
    check_refused(grouped(8, 2, 4, 0), "layer 3: router `keep`: expected 1 to 4, got 0");
    let message = "layer 3: router `top_k`: expected at most the 2 experts of 1 kept groups, got 3";
    check_refused(grouped(8, 3, 4, 1), message);
    let message = "layer 3: router `n_groups`: expected groups of at least 2 experts for their sum, got 8";
    check_refused(grouped(8, 2, 8, 4), message);
    let message = "layer 3: router `top_k`: expected a divisor of 8 experts, one per group, got 3";
    check_refused(RouterConfig::one_per_group(8, 3, vec![1.0; 8]), message);
}

#[test]
fn scores_that_rank_logits_take_no_bias_and_no_groups() {
    let message =
        "layer 3: router `selection_bias`: expected none with a score that ranks raw logits, got some";
    check_refused(RouterConfig::top_k_softmax(2, 1).with_selection_bias(vec![0.0; 2]), message);
    let mut config = RouterConfig::top_k_softmax(4, 2);
    config.selection = Selection::OnePerGroup;
    let message =
        "layer 3: router `selection`: expected `TopK` with a score that ranks raw logits, got OnePerGroup";
    check_refused(config, message);
    let mut config = RouterConfig::sparse_mixer(4, 0.01);
    config.top_k = 3;
    check_refused(config, "layer 3: router `top_k`: expected 2 for SparseMixer, got 3");
    check_refused(RouterConfig::sparse_mixer(1, 0.01), "layer 3: router `top_k`: expected 1 to 1, got 2");
    let message = "layer 3: router `jitter_eps`: expected a finite number of at least 0, got -0.1";
    check_refused(RouterConfig::sparse_mixer(4, -0.1), message);
}

#[test]
fn masks_and_shares_that_no_token_could_follow_are_refused() {
    let top_k = RouterConfig::softmax_top_k;
    let message = "layer 3: router `masked`: expected ascending ids below 4, got";
    check_refused(top_k(4, 1).with_masked(vec![4]), &format!("{message} [4]"));
    check_refused(top_k(4, 1).with_masked(vec![1, 1]), &format!("{message} [1, 1]"));
    let message = "layer 3: router `top_k`: expected at most the 1 experts that are not masked, got 2";
    check_refused(top_k(4, 2).with_masked(vec![0, 1, 3]), message);
    let moge = RouterConfig::one_per_group(4, 2, vec![1.0; 4]).with_masked(vec![2, 3]);
    check_refused(
        moge,
        "layer 3: router `masked`: expected an expert left in each of 2 groups, got none in group 1",
    );
    let grouped = RouterConfig::sigmoid_grouped(8, 3, 4, 2).with_masked(vec![0, 1, 2]);
    let message =
        "layer 3: router `top_k`: expected at most the 1 experts that 2 groups may have left, got 3";
    check_refused(grouped, message);
    for share in [-0.1, 1.1, f32::NAN] {
        let message = format!("layer 3: router `drop_below`: expected a number from 0 to 1, got {share}");
        check_refused(top_k(4, 1).with_drop_below(share), &message);
    }
}

#[test]
fn a_group_with_one_expert_left_stands_for_that_one() {
    // Tenths: 4, 1 | 3, 2. Whole groups tie at 5; without expert 1 the first is worth 4 and the second 5.
    let row = [4.0_f32, 1.0, 3.0, 2.0].map(f32::ln);
    let grouped = RouterConfig::softmax_grouped_sum(4, 1, 2, 1);
    check(grouped.clone(), &row, &[0], &[1.0]);
    check(grouped.clone().with_masked(vec![1]), &row, &[2], &[1.0]);
    // Both groups have one left: 4 and 2 of 6.
    check(grouped.with_masked(vec![1, 2]), &row, &[0], &[1.0]);
}

#[test]
fn forbidden_experts_are_chosen_before_masked_ones() {
    let row = [2.0, FORBIDDEN, FORBIDDEN, 1.0];
    check(RouterConfig::top_k_softmax(4, 2).with_masked(vec![3]), &row, &[0, 1], &[1.0, 0.0]);
    check(RouterConfig::sparse_mixer(4, 0.01).with_masked(vec![1, 3]), &row, &[0, 2], &[1.0, 0.0]);
    let router = Router::new(3, RouterConfig::top_k_softmax(4, 2).with_masked(vec![0, 3])).unwrap();
    check_message(
        router.route(&row).unwrap_err(),
        "layer 3, token 0: router logits for all experts are -inf",
    );
}

#[test]
fn learned_scales_count_where_experts_are_dropped() {
    // Probabilities 5/8 and 3/8; scaled they weigh 5/8 and 12/8.
    let config = RouterConfig::softmax_expert_scaled(2, 2, vec![1.0, -4.0]).with_drop_below(0.5);
    check(config, &[5.0_f32, 3.0].map(f32::ln), &[1], &[-4.0]);
    let even = RouterConfig::softmax_probabilities(4, 4).with_drop_below(1.0);
    check(even.clone(), &[0.0; 4], &[0, 1, 2, 3], &[0.25; 4]);
    let third = 1.0 / (3.0 + (-1.0_f32).exp());
    check(even, &[0.0, 0.0, -1.0, 0.0], &[0, 1, 3], &[third; 3]);
}

#[test]
fn loads_and_rows_follow_tokens_of_different_numbers_of_experts() {
    let router = Router::new(0, RouterConfig::softmax_top_k(4, 2).with_drop_below(0.5)).unwrap();
    let routing = router.route(&[0.0, 0.0, -9.0, -9.0, 9.0, 0.0, 0.0, 0.0, -9.0, -9.0, 0.0, 0.0]).unwrap();
    assert_eq!((routing.tokens(), routing.pairs(), routing.top_k()), (3, 5, 2));
    assert_eq!([0, 1, 2].map(|token| routing.experts(token).to_vec()), [vec![0, 1], vec![0], vec![2, 3]]);
    let mut load = ExpertLoad::new(4);
    load.add_rows(&routing, 1..3).unwrap();
    assert_eq!((load.counts(), load.tokens()), (&[1, 0, 1, 1][..], 2));
    let dispatch = routing.dispatch();
    assert_eq!((dispatch.offsets(), dispatch.rows()), (&[0, 2, 3, 4, 5][..], &[0, 1, 0, 2, 2][..]));
}

#[test]
fn parts_that_are_no_routing_are_refused() {
    let refused = |n_experts, top_k, experts: &[u32], message: &str| {
        check_message(routing(n_experts, top_k, experts).unwrap_err(), message);
    };
    refused(4, 0, &[], "routing `top_k`: expected 1 to 4, got 0");
    refused(4, 2, &[0, 1, 2], "routing `experts`: expected a multiple of 2 ids, got 3");
    let message = "routing `experts`: expected ascending ids below 4 for token 1, got";
    refused(4, 2, &[0, 1, 2, 2], &format!("{message} [2, 2]"));
    refused(4, 2, &[0, 1, 3, 2], &format!("{message} [3, 2]"));
    refused(4, 2, &[0, 1, 2, 4], &format!("{message} [2, 4]"));
    let from = |weights| Routing::from_parts(4, 1, vec![0, 1], weights, WeightTarget::Output).unwrap_err();
    check_message(from(vec![1.0]), "routing `weights`: expected 2 values, got 1");
    check_message(from(vec![1.0, f32::NAN]), "routing `weights`: expected finite numbers, got NaN");
}

#[test]
fn formulas_read_as_sentences() {
    let check = |config: RouterConfig, words: &str| assert_eq!(config.formula(), words);
    let renormalised = "softmax over 8 experts, keep the 2 largest, weights renormalised to sum 1";
    check(RouterConfig::softmax_top_k(8, 2), renormalised);
    check(RouterConfig::top_k_softmax(8, 1), "keep the largest of 8 logits, softmax over that");
    let sparse = "SparseMixer over 16 experts (jitter 0.01), keep the 2 largest, \
                  each weighted by a softmax of its own";
    check(RouterConfig::sparse_mixer(16, 0.01), sparse);
    let input =
        "sigmoid over 16 experts, keep the largest, weights not renormalised, applied to the expert's input";
    check(RouterConfig::sigmoid_on_input(16, 1), input);
    let moge = "softmax over 64 experts, keep the largest of each of 8 groups, weights not renormalised, \
                times a learned scale per expert";
    check(RouterConfig::one_per_group(64, 8, vec![1.0; 64]), moge);
    let grouped = "softmax over 160 experts, keep 3 of 8 groups by their best, keep the 6 largest, \
                   weights not renormalised, times 16";
    check(RouterConfig::softmax_grouped_max(160, 6, 8, 3).with_scale(16.0), grouped);
    let biased = RouterConfig { score: Score::Sigmoid, ..RouterConfig::softmax_biased(8, 2) };
    let words = "sigmoid over 8 experts, selection bias added, keep the 2 largest, \
                 unbiased weights renormalised to sum 1";
    check(biased.with_selection_bias(vec![0.0; 8]), words);
    let ruled = RouterConfig::top_k_softmax(8, 2).with_drop_below(0.1).with_masked(vec![3, 5]);
    let words = "keep the 2 largest of 8 logits, softmax over those, drop those below 0.1 of the token's heaviest, \
                 2 of 8 experts masked";
    check(ruled, words);
}

#[test]
fn load_adds_up_over_routings() {
    let mut load = ExpertLoad::new(4);
    assert_eq!(load.stats(), LoadStats::default());
    load.add(&routing(4, 2, &[0, 1, 0, 2]).unwrap()).unwrap();
    load.add(&routing(4, 1, &[0]).unwrap()).unwrap();
    assert_eq!(load.counts(), [3, 1, 1, 0]);
    assert_eq!(load.tokens(), 3);
    assert_eq!(load.stats().unused, Some(vec![3]));

    let error = load.add(&routing(8, 1, &[7]).unwrap()).unwrap_err();
    check_message(error, "expert load: expected 4 experts, got 8");
    assert_eq!(load.tokens(), 3);
}

#[test]
fn the_loads_of_rows_merge_into_that_of_the_whole() {
    let batch = routing(4, 2, &[0, 1, 0, 2, 2, 3]).unwrap();
    let load = |rows| {
        let mut load = ExpertLoad::new(4);
        load.add_rows(&batch, rows).unwrap();
        load
    };
    let (mut one, two) = (load(0..1), load(1..3));
    assert_eq!((one.counts(), two.counts()), (&[1, 1, 0, 0][..], &[1, 0, 2, 1][..]));
    one.merge(&two).unwrap();
    assert_eq!((&one, one.tokens()), (&load(0..3), 3));
    assert_eq!(load(2..2), ExpertLoad::new(4));

    let error = one.merge(&ExpertLoad::new(3)).unwrap_err();
    check_message(error, "expert load: expected 4 experts, got 3");
    assert_eq!(one, load(0..3));
}

#[test]
fn an_even_load_has_full_entropy() {
    let stats = LoadStats::from_counts(&[5; 8]);
    assert!((stats.entropy_nats.unwrap() - 8.0_f64.ln()).abs() < 1e-12);
    assert!((stats.normalized_entropy.unwrap() - 1.0).abs() < 1e-12);
    assert_eq!(stats.coefficient_of_variation, Some(0.0));
    assert_eq!(stats.jain_index, Some(1.0));
    assert_eq!((stats.min_over_mean, stats.max_over_mean), (Some(1.0), Some(1.0)));
    assert_eq!(stats.unused, Some(vec![]));
}

#[test]
fn a_load_on_one_expert_has_no_entropy() {
    let stats = LoadStats::from_counts(&[0, 7, 0, 0]);
    assert_eq!(stats.entropy_nats, Some(0.0));
    assert_eq!(stats.normalized_entropy, Some(0.0));
    assert_eq!(stats.jain_index, Some(0.25));
    assert_eq!((stats.min_over_mean, stats.max_over_mean), (Some(0.0), Some(4.0)));
    // A single expert is even and uneven at once.
    assert_eq!(LoadStats::from_counts(&[7]).normalized_entropy, None);
    assert_eq!(LoadStats::from_counts(&[]), LoadStats::default());
}

#[test]
fn empty_places_are_no_pairs() {
    let from = |experts: &[u32]| {
        let weights: Vec<f32> = (0..experts.len()).map(|place| place as f32).collect();
        Routing::from_places(4, 2, experts, &weights, WeightTarget::Output)
    };
    let routing = from(&[1, 4, 0, 3, 2, 4]).unwrap();
    assert_eq!((routing.tokens(), routing.pairs(), routing.top_k()), (3, 4, 2));
    assert_eq!(
        routing.iter().collect::<Vec<_>>(),
        [(&[1][..], &[0.0][..]), (&[0, 3][..], &[2.0, 3.0][..]), (&[2][..], &[4.0][..]),]
    );
    let full = Routing::from_parts(4, 2, vec![0, 1, 1, 2], vec![0.0, 1.0, 2.0, 3.0], WeightTarget::Output);
    assert_eq!(from(&[0, 1, 1, 2]).unwrap(), full.unwrap());
    check_message(
        from(&[0, 1, 4, 4]).unwrap_err(),
        "routing `experts`: expected an expert for token 1, got [4, 4]",
    );
    for wrong in [[4, 1], [1, 0], [1, 5]] {
        assert!(from(&wrong).is_err(), "{wrong:?}");
    }
}
