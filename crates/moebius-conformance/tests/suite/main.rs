//! The suite against backends that keep the contract, and against some that break one line of it.

mod faulty;
mod row_by_row;

use std::collections::BTreeSet;

use moebius_conformance::{Group, ReferenceBackend, accept, accept_groups, same_bits};

use faulty::{Fault, Faulty};
use row_by_row::RowByRow;

moebius_conformance::accept!(
    plain_candle,
    ReferenceBackend::new,
    groups: [loading, linear, experts, ops],
);

moebius_conformance::accept!(candle_row_by_row, || vec![RowByRow::new(), RowByRow::new()], groups: [bitwise]);

/// The checks of some groups, as `group::check`, that a faulty backend fails.
fn failed_by(backend: &Faulty, groups: &[Group]) -> BTreeSet<String> {
    let failures = accept_groups(backend, groups).expect_err("a faulty backend was accepted");
    failures.failed.iter().map(|failed| format!("{}::{}", failed.group, failed.check)).collect()
}

/// The groups that these checks belong to.
fn groups_of(checks: &[&str]) -> Vec<Group> {
    let named = |group: &Group| checks.iter().any(|check| check.starts_with(&format!("{group}::")));
    Group::ALL.into_iter().filter(named).collect()
}

#[track_caller]
fn finds(fault: Fault, check: &str) {
    let failed = failed_by(&Faulty::new(fault), &groups_of(&[check]));
    assert!(failed.contains(check), "expected `{check}` to fail, got {failed:?}");
}

/// No other check of the same groups fails.
#[track_caller]
fn finds_only(fault: Fault, checks: &[&str]) {
    let expected: BTreeSet<String> = checks.iter().map(|check| (*check).to_owned()).collect();
    assert_eq!(failed_by(&Faulty::new(fault), &groups_of(checks)), expected);
}

#[test]
fn a_backend_without_faults_is_accepted() {
    let report = accept_groups(&Faulty::new(Fault::None), &Group::VALUES).expect("there is no fault");
    let groups: BTreeSet<String> = report.passed.iter().map(|(group, _)| group.to_string()).collect();
    assert_eq!(groups.len(), Group::VALUES.len(), "{report}");
}

#[test]
fn only_the_groups_that_were_asked_for_run() {
    let report =
        accept_groups(&Faulty::new(Fault::LastBitOfBatches), &[Group::Linear]).expect("within tolerance");
    assert!(report.passed.iter().all(|&(group, _)| group == Group::Linear), "{report}");
    assert_eq!(report.to_string(), "`faulty` (candle) passed 8 checks: linear 8");
}

#[test]
fn failures_name_backend_check_and_case() {
    let failures = accept(&Faulty::new(Fault::DropsBias)).expect_err("a bias was dropped").to_string();
    assert!(failures.starts_with("`faulty` (candle) failed "), "{failures}");
    let case = "linear::awkward_sizes_agree_with_f64: format f32: 1 x 1 in f32, bias true";
    assert!(failures.contains(case), "{failures}");
}

#[test]
fn a_dropped_bias_is_found() {
    finds(Fault::DropsBias, "linear::awkward_sizes_agree_with_f64");
}

#[test]
fn activations_rounded_to_bf16_are_found() {
    finds_only(
        Fault::RoundsActivations,
        &["linear::awkward_sizes_agree_with_f64", "linear::strided_inputs_agree_with_f64"],
    );
}

#[test]
fn a_backend_that_says_so_may_round_activations_to_bf16_and_no_further() {
    let report = accept_groups(&Faulty::new(Fault::RoundsAsItSays), &[Group::Linear]).expect("it says so");
    assert_eq!(report.passed.len(), 8);
    finds(Fault::RoundsBeyondWhatItSays, "linear::awkward_sizes_agree_with_f64");
}

#[test]
fn activations_that_are_rounded_too_much_for_block_formats_are_found() {
    finds(Fault::CoarseActivations, "linear::awkward_sizes_agree_with_f64");
}

#[test]
fn promised_rows_of_cut_blocks_are_found() {
    finds_only(
        Fault::PromisesCutBlocks,
        &["loading::rows_that_are_no_multiple_of_a_block_are_refused_before_loading"],
    );
}

#[test]
fn weights_that_are_not_rounded_to_the_spec_are_found() {
    finds_only(Fault::KeepsStoredFormat, &["loading::views_in_another_format_are_rounded_to_the_specs"]);
}

#[test]
fn strides_taken_for_granted_are_found() {
    finds_only(Fault::IgnoresStrides, &["linear::strided_inputs_agree_with_f64"]);
}

#[test]
fn one_wrong_routing_weight_is_found() {
    let failed = failed_by(&Faulty::new(Fault::OneRoutingWeight), &[Group::Experts]);
    for check in ["awkward_sizes_agree_with_f64", "all_tokens_may_visit_one_expert"] {
        assert!(failed.contains(&format!("experts::{check}")), "{failed:?}");
    }
}

#[test]
fn weights_on_the_wrong_side_are_found() {
    finds_only(
        Fault::WeightsOnOutputsAlways,
        &[
            "experts::biases_are_added_before_activation_and_weight",
            "experts::every_activation_agrees_with_f64",
            "experts::experts_without_a_gate_agree_with_f64",
            "experts::tokens_may_visit_every_expert",
            "experts::weights_on_inputs_agree_with_f64",
        ],
    );
}

#[test]
fn a_meter_that_counts_twice_is_found() {
    let checks =
        ["experts::down_may_have_a_format_of_its_own", "experts::the_meter_counts_exactly_what_was_routed"];
    finds_only(Fault::CountsTwice, &checks);
}

#[test]
fn a_panic_on_wrong_routing_is_found() {
    finds_only(
        Fault::PanicsOnWrongRouting,
        &["experts::routing_of_the_wrong_size_is_an_error_and_counts_nothing"],
    );
}

#[test]
fn matrices_that_are_asked_for_twice_are_found() {
    finds(Fault::AsksTwice, "loading::each_expert_matrix_is_asked_for_and_released_once");
}

#[test]
fn pages_that_are_kept_are_found() {
    finds_only(Fault::KeepsPages, &["loading::the_pages_of_a_projection_are_released_once"]);
}

#[test]
fn loading_what_was_refused_is_found() {
    finds_only(Fault::LoadsWhatItRefuses, &["loading::what_is_supported_loads_and_what_is_not_does_not"]);
}

#[test]
fn promising_what_cannot_be_loaded_is_found() {
    finds_only(
        Fault::PromisesEverything,
        &[
            "loading::impossible_sizes_are_refused_before_loading",
            "loading::rows_that_are_no_multiple_of_a_block_are_refused_before_loading",
        ],
    );
}

#[test]
fn a_nan_that_is_loaded_as_zero_is_found() {
    finds_only(Fault::LoadsNan, &["loading::weights_that_are_not_finite_are_errors_that_name_the_tensor"]);
}

#[test]
fn a_window_that_is_one_too_large_is_found() {
    finds(Fault::WindowOffByOne, "ops::attention_agrees_with_f64");
    finds(Fault::WindowOffByOne, "ops::attention_sees_no_more_than_its_window");
}

#[test]
fn reading_beyond_the_filled_cache_is_found() {
    finds(Fault::TouchesUnfilledCache, "ops::attention_agrees_with_f64");
}

#[test]
fn forgotten_sinks_and_chunks_are_found() {
    finds_only(Fault::ForgetsSinks, &["ops::sinks_take_their_share_of_attention"]);
    finds_only(Fault::ForgetsChunks, &["ops::attention_sees_no_earlier_chunk"]);
}

#[test]
fn a_mean_that_is_not_taken_away_is_found() {
    finds(Fault::ForgetsMean, "ops::layer_norm_agrees_with_f64");
}

#[test]
fn one_matrix_for_all_heads_is_found() {
    finds(Fault::OneMatrixForAllHeads, "linear::each_head_has_a_matrix_of_its_own");
    finds(Fault::OneMatrixForAllHeads, "loading::each_heads_matrix_is_asked_for_and_released_once");
}

#[test]
fn biases_of_experts_that_are_dropped_are_found() {
    finds_only(
        Fault::DropsExpertBiases,
        &[
            "experts::biases_are_added_before_activation_and_weight",
            "experts::every_activation_agrees_with_f64",
            "experts::experts_without_a_gate_agree_with_f64",
        ],
    );
}

#[test]
fn exchanged_rotary_pairings_are_found() {
    finds(Fault::ExchangesPairings, "ops::rope_agrees_with_f64");
}

#[test]
fn a_forgotten_factor_of_a_sum_is_found() {
    finds_only(Fault::ForgetsFactor, &["ops::additions_agree_with_f64"]);
}

#[test]
fn rows_that_are_written_elsewhere_are_found() {
    finds_only(Fault::WritesFromTheStart, &["ops::rows_are_written_where_they_belong"]);
}

#[test]
fn a_forgotten_eps_is_found() {
    finds(Fault::ForgetsEps, "ops::rms_norm_agrees_with_f64");
}

#[test]
fn a_state_that_is_forgotten_is_found() {
    finds_only(
        Fault::ForgetsStates,
        &[
            "ops::causal_conv_agrees_with_f64",
            "ops::delta_rule_agrees_with_f64",
            "ops::selective_scan_agrees_with_f64",
        ],
    );
}

#[test]
fn a_state_that_loses_its_last_bit_between_calls_is_found() {
    let failed = failed_by(&Faulty::row_by_row(Fault::LastBitOfStates), &[Group::Bitwise]);
    assert_eq!(failed, ["bitwise::recurrences_do_not_depend_on_how_a_sequence_was_cut".to_owned()].into());
}

#[test]
fn a_last_bit_that_depends_on_the_batch_is_found_by_the_bitwise_checks_alone() {
    accept_groups(&Faulty::new(Fault::LastBitOfBatches), &Group::VALUES).expect("within tolerance");
    let bitwise = ["expert_rows_do_not_depend_on_their_batch", "linear_rows_do_not_depend_on_their_batch"];
    let expected = bitwise.map(|check| format!("bitwise::{check}")).into();
    assert_eq!(failed_by(&Faulty::row_by_row(Fault::LastBitOfBatches), &[Group::Bitwise]), expected);
}

#[test]
fn a_last_bit_that_depends_on_other_projections_is_found() {
    let check = "bitwise::projections_together_have_the_bits_of_each_alone";
    let failed = failed_by(&Faulty::row_by_row(Fault::LastBitOfNeighbours), &[Group::Bitwise]);
    assert_eq!(failed, [check.to_owned()].into());
}

#[test]
fn calls_that_differ_from_each_other_are_found() {
    let failed = failed_by(&Faulty::row_by_row(Fault::LastBitOfEveryFifthCall), &[Group::Bitwise]);
    assert!(failed.contains("bitwise::the_same_call_gives_the_same_bits"), "{failed:?}");
}

#[test]
fn instances_that_differ_in_the_last_bit_are_told_apart() {
    let (sound, faulty) = (Faulty::row_by_row(Fault::None), Faulty::row_by_row(Fault::LastBitOfBatches));
    same_bits(&sound, &sound).expect("an instance agrees with itself");
    same_bits(&sound, &RowByRow::new().expect("opens")).expect("the same sums");
    let failure = same_bits(&sound, &faulty).expect_err("one bit differs").chain();
    assert!(failure.contains("are not the same bits"), "{failure}");
}
