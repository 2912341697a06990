//! The sampler against cases worked by hand, statistics, and the same filters by a full sort.

use proptest::prelude::*;

use super::*;

const MASKED: f32 = f32::NEG_INFINITY;

/// Draws from the whole distribution.
fn drawing() -> SamplingParams {
    SamplingParams { temperature: 1.0, seed: 7, ..SamplingParams::default() }
}

fn sampler(params: SamplingParams) -> Sampler {
    Sampler::new(params).expect("valid parameters")
}

fn choose(params: SamplingParams, logits: &[f32], history: &[u32]) -> u32 {
    sampler(params).sample(logits, history).expect("a distribution")
}

/// The ids, ascending, that a sampler may draw.
fn kept(params: &SamplingParams, logits: &[f32]) -> Vec<u32> {
    let mut sampler = sampler(params.clone());
    sampler.collect_candidates(logits);
    sampler.filter();
    let alive = sampler.candidates.iter().filter(|candidate| candidate.logit > MASKED);
    let mut ids: Vec<u32> = alive.map(|candidate| candidate.token).collect();
    ids.sort_unstable();
    ids
}

/// Log-probabilities of tenths: softmax gives the tenths back.
fn tenths(tenths: &[u8]) -> Vec<f32> {
    tenths.iter().map(|&tenth| (f32::from(tenth) / 10.0).ln()).collect()
}

#[test]
fn the_default_is_greedy_and_ties_go_to_the_lower_id() {
    assert_eq!(choose(SamplingParams::default(), &[0.0, 2.0, -1.0, 2.0], &[]), 1);
    assert_eq!(choose(SamplingParams::default(), &[-0.0, 0.0], &[]), 0);
}

#[test]
fn a_vocabulary_of_one_token_leaves_no_choice() {
    for params in [SamplingParams::default(), drawing()] {
        let params = SamplingParams { top_k: Some(5), top_p: 0.5, min_p: 0.5, ..params };
        assert_eq!(choose(params, &[-3.0], &[0]), 0);
    }
}

#[test]
fn logits_that_are_no_distribution_are_errors() {
    for params in [SamplingParams::default(), drawing()] {
        let check = |logits: &[f32], expected: SamplerError| {
            assert_eq!(sampler(params.clone()).sample(logits, &[]), Err(expected), "{logits:?}");
        };
        check(&[], SamplerError::NothingToChoose { vocab: 0 });
        check(&[MASKED; 3], SamplerError::NothingToChoose { vocab: 3 });
        check(&[0.0, f32::NAN, f32::NAN], SamplerError::NotFinite { token: 1 });
        check(&[0.0, 1.0, f32::INFINITY], SamplerError::NotFinite { token: 2 });
    }
}

#[test]
fn parameters_out_of_range_are_errors_that_name_them() {
    let check = |params: SamplingParams, expected: &str| {
        let error = Sampler::new(params).expect_err(expected);
        assert!(error.to_string().starts_with(&format!("invalid `{expected}`")), "{error}");
    };
    for bad in [-0.1, f32::NAN, f32::INFINITY] {
        check(SamplingParams { temperature: bad, ..drawing() }, "temperature");
        check(SamplingParams { top_p: bad, ..drawing() }, "top_p");
        check(SamplingParams { min_p: bad, ..drawing() }, "min_p");
        check(SamplingParams { repeat_penalty: bad, ..drawing() }, "repeat_penalty");
    }
    check(SamplingParams { top_p: 1.1, ..drawing() }, "top_p");
    check(SamplingParams { min_p: 1.1, ..drawing() }, "min_p");
    check(SamplingParams { repeat_penalty: 0.0, ..drawing() }, "repeat_penalty");
}

#[test]
fn top_k_keeps_the_k_likeliest_with_ties_to_the_lower_id() {
    let top = |k| kept(&SamplingParams { top_k: Some(k), ..drawing() }, &[1.0, 3.0, 2.0, 3.0, 2.0]);
    assert_eq!(top(1), [1]);
    assert_eq!(top(3), [1, 2, 3]);
    assert_eq!(top(9), [0, 1, 2, 3, 4]);
    assert_eq!(top(0), [0, 1, 2, 3, 4]);
}

#[test]
fn top_p_keeps_the_smallest_set_that_reaches_it() {
    let top = |p| kept(&SamplingParams { top_p: p, ..drawing() }, &tenths(&[2, 5, 3]));
    assert_eq!(top(0.0), [1]);
    assert_eq!(top(0.49), [1]);
    assert_eq!(top(0.51), [1, 2]);
    assert_eq!(top(0.81), [0, 1, 2]);
    // Four equal tokens are a quarter each in exact arithmetic: two of them are a half, no third is needed.
    assert_eq!(kept(&SamplingParams { top_p: 0.5, ..drawing() }, &[1.0; 4]), [0, 1]);
}

#[test]
fn top_p_ranks_as_far_as_it_must() {
    let params = SamplingParams { top_p: 0.75, ..drawing() };
    assert_eq!(kept(&params, &[0.0; 4096]), (0..3072).collect::<Vec<_>>());
}

#[test]
fn top_p_counts_probability_among_what_top_k_left() {
    // 5 and 3 tenths are 5/8 and 3/8 of what two tokens hold.
    let params = SamplingParams { top_k: Some(2), top_p: 0.6, ..drawing() };
    assert_eq!(kept(&params, &tenths(&[2, 5, 3])), [1]);
}

#[test]
fn min_p_is_relative_to_the_likeliest() {
    let min = |p| kept(&SamplingParams { min_p: p, ..drawing() }, &tenths(&[1, 5, 4]));
    assert_eq!(min(0.19), [0, 1, 2]);
    assert_eq!(min(0.21), [1, 2]);
    assert_eq!(min(0.81), [1]);
    assert_eq!(min(1.0), [1]);
}

#[test]
fn filters_see_the_distribution_before_the_temperature() {
    let params = SamplingParams { temperature: 1e6, top_p: 0.79, min_p: 0.5, ..drawing() };
    assert_eq!(kept(&params, &tenths(&[2, 5, 3])), [1, 2]);
}

#[test]
fn the_penalty_divides_positive_and_multiplies_negative_logits_once_per_token() {
    let mut sampler = sampler(SamplingParams { repeat_penalty: 2.0, ..drawing() });
    sampler.collect_candidates(&[4.0, -4.0, 4.0, 0.0, MASKED]);
    sampler.penalise(&[0, 1, 0, 0, 3, 4, 99]);
    let logits: Vec<f32> = sampler.candidates.iter().map(|candidate| candidate.logit).collect();
    assert_eq!(logits, [2.0, -8.0, 4.0, 0.0, MASKED]);
}

#[test]
fn the_penalty_looks_back_on_the_last_n_tokens() {
    let greedy = |last_n| {
        let params = SamplingParams { repeat_penalty: 4.0, repeat_last_n: last_n, ..Default::default() };
        choose(params, &[3.0, 2.0, 1.0], &[0, 1])
    };
    assert_eq!(greedy(0), 0);
    assert_eq!(greedy(1), 0);
    assert_eq!(greedy(2), 2);
    assert_eq!(greedy(64), 2);
}

#[test]
fn a_penalty_beyond_the_range_of_floats_neither_masks_nor_breaks() {
    for (penalty, logit) in [(1e30, -1e30), (1e-30, 1e30)] {
        let params = SamplingParams { repeat_penalty: penalty, ..drawing() };
        assert_eq!(choose(params, &[logit, MASKED], &[0]), 0);
    }
}

#[test]
fn the_log_probability_is_the_logarithm_of_the_softmax() {
    let logprob = log_softmax_at(&tenths(&[2, 5, 3]), 1);
    assert!((logprob - 0.5f32.ln()).abs() < 1e-6, "{logprob}");
}

#[test]
fn the_most_likely_token_is_found_wherever_it_stands() {
    for len in [1, ARGMAX_BLOCK - 1, ARGMAX_BLOCK, ARGMAX_BLOCK + 1, 3 * ARGMAX_BLOCK + 7] {
        for place in [0, len / 2, len - 1] {
            let mut logits = vec![-2.0; len];
            logits[place] = -1.0;
            assert_eq!(argmax(&logits), Ok(place as u32), "{len}");
            logits[len - 1] = -1.0;
            assert_eq!(argmax(&logits), Ok(place as u32), "of two the lower, {len}");
            logits[place] = f32::NAN;
            logits[len - 1] = f32::INFINITY;
            let token = place.min(len - 1) as u32;
            assert_eq!(argmax(&logits), Err(SamplerError::NotFinite { token }), "{len}");
        }
    }
}

#[test]
fn log_softmax_holds_at_the_edges() {
    assert_eq!(log_softmax_at(&[1e38, 1e38], 0), -std::f32::consts::LN_2);
    assert_eq!(log_softmax_at(&[0.0, MASKED], 1), MASKED);
    assert_eq!(log_softmax_at(&[0.0, MASKED], 0), 0.0);
    assert_eq!(log_softmax_at(&[0.0], 1), MASKED);
    assert!(log_softmax_at(&[MASKED], 0).is_nan());
    assert!(log_softmax_at(&[0.0, f32::NAN], 0).is_nan());
}

/// Shares of the tokens in 100 000 draws. With a fixed seed the outcome is fixed; the bound is five sigma.
fn check_frequencies(params: SamplingParams, logits: &[f32], expected: &[f64]) {
    const DRAWS: u32 = 100_000;
    let mut sampler = sampler(params);
    let mut counts = vec![0u32; logits.len()];
    for _ in 0..DRAWS {
        counts[sampler.sample(logits, &[]).expect("a distribution") as usize] += 1;
    }
    for (token, (&count, &share)) in counts.iter().zip(expected).enumerate() {
        let sigma = (share * (1.0 - share) / f64::from(DRAWS)).sqrt();
        let seen = f64::from(count) / f64::from(DRAWS);
        assert!((seen - share).abs() <= 5.0 * sigma, "token {token}: expected {share}, got {seen}");
    }
}

#[test]
fn tokens_are_drawn_as_often_as_they_are_likely() {
    let mut logits = tenths(&[2, 5, 3]);
    logits.insert(1, MASKED);
    check_frequencies(drawing(), &logits, &[0.2, 0.0, 0.5, 0.3]);
    let top_two = SamplingParams { top_k: Some(2), ..drawing() };
    check_frequencies(top_two, &logits, &[0.0, 0.0, 0.625, 0.375]);
    // A temperature of one half squares the probabilities: 4, 25 and 9 of 38.
    let colder = SamplingParams { temperature: 0.5, ..drawing() };
    check_frequencies(colder, &logits, &[4.0 / 38.0, 0.0, 25.0 / 38.0, 9.0 / 38.0]);
}

#[test]
fn extreme_temperatures_are_argmax_and_uniform() {
    let logits = [1.0, 1.001, f32::MIN, MASKED];
    let cold = SamplingParams { temperature: 1e-6, ..drawing() };
    check_frequencies(cold, &logits, &[0.0, 1.0, 0.0, 0.0]);
    let coldest = SamplingParams { temperature: f32::from_bits(1), ..drawing() };
    check_frequencies(coldest, &logits, &[0.0, 1.0, 0.0, 0.0]);
    let hot = SamplingParams { temperature: 1e6, ..drawing() };
    check_frequencies(hot, &[0.0, 5.0, -5.0, MASKED], &[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0]);
}

#[test]
fn samplers_do_not_disturb_each_other() {
    let logits: Vec<f32> = (0..50).map(|token| (token as f32 * 0.7).sin()).collect();
    let draw = |sampler: &mut Sampler| sampler.sample(&logits, &[]).expect("a distribution");
    let mut alone = sampler(drawing());
    let expected: Vec<u32> = (0..100).map(|_| draw(&mut alone)).collect();
    let (mut together, mut other) = (sampler(drawing()), sampler(SamplingParams { seed: 8, ..drawing() }));
    let (mut seen, mut others) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        others.push(draw(&mut other));
        seen.push(draw(&mut together));
    }
    assert_eq!(seen, expected);
    assert_ne!(others, expected);
}

#[test]
fn the_first_draws_of_a_seed_are_fixed() {
    let mut sampler = sampler(SamplingParams { seed: 42, ..drawing() });
    let draws: Vec<u32> = (0..8).map(|_| sampler.sample(&[0.0; 1000], &[]).expect("uniform")).collect();
    assert_eq!(draws, [681, 950, 427, 627, 288, 149, 308, 803]);
}

prop_compose! {
    fn arb_logits()(
        logits in prop::collection::vec(prop_oneof![4 => -9.0f32..9.0, 1 => Just(0.5), 1 => Just(MASKED)], 1..400),
        alive in any::<prop::sample::Index>(),
    ) -> Vec<f32> {
        let mut logits = logits;
        let alive = alive.index(logits.len());
        logits[alive] = 1.0;
        logits
    }
}

prop_compose! {
    fn arb_params()(
        temperature in 0.01f32..5.0,
        top_k in prop::option::of(0usize..300),
        top_p in prop_oneof![Just(1.0f32), 0.0f32..=1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..=1.0],
        seed in any::<u64>(),
    ) -> SamplingParams {
        SamplingParams { temperature, top_k, top_p, min_p, seed, ..SamplingParams::default() }
    }
}

/// The same filters by a full sort.
fn kept_by_full_sort(params: &SamplingParams, logits: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).filter(|&id| logits[id as usize] > MASKED).collect();
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    ids.truncate(params.top_k.filter(|&k| k > 0).unwrap_or(usize::MAX));
    let highest = f64::from(logits[ids[0] as usize]);
    let odds = |id: u32| (f64::from(logits[id as usize]) - highest).exp();
    if params.top_p < 1.0 {
        let total: f64 = ids.iter().map(|&id| odds(id)).sum();
        let mut cumulative = 0.0;
        let needed = ids.iter().take_while(|&&id| {
            let short = cumulative < f64::from(params.top_p) * total;
            cumulative += odds(id);
            short
        });
        let needed = needed.count().max(1);
        ids.truncate(needed);
    }
    ids.retain(|&id| odds(id) >= f64::from(params.min_p) * (1.0 - 1e-12));
    ids.sort_unstable();
    ids
}

proptest! {
    #[test]
    fn partial_ranking_keeps_what_a_full_sort_keeps(logits in arb_logits(), params in arb_params()) {
        prop_assert_eq!(kept(&params, &logits), kept_by_full_sort(&params, &logits));
    }

    #[test]
    fn the_drawn_token_is_one_that_was_kept(logits in arb_logits(), params in arb_params()) {
        let token = choose(params.clone(), &logits, &[]);
        prop_assert!(kept(&params, &logits).contains(&token));
    }

    #[test]
    fn temperature_zero_is_argmax_whatever_the_filters(logits in arb_logits(), params in arb_params()) {
        let greedy = SamplingParams { temperature: 0.0, ..params };
        prop_assert_eq!(choose(greedy, &logits, &[]), argmax(&logits)?);
    }

    #[test]
    fn probabilities_add_up_to_one(logits in arb_logits()) {
        let ids = 0..logits.len() as u32;
        let sum: f64 = ids.map(|id| f64::from(log_softmax_at(&logits, id)).exp()).sum();
        prop_assert!((sum - 1.0).abs() < 1e-5, "{}", sum);
    }
}
