//! Mutual information of expert and group: by hand, at its bounds, and between them.

use moebius_router::{ExpertLoad, Favourite, RouterError, Routing, Specialisation, WeightTarget};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;

/// A load of one expert per token with these counts.
fn load(counts: &[usize]) -> ExpertLoad {
    let experts: Vec<u32> =
        (0..).zip(counts).flat_map(|(expert, &count)| std::iter::repeat_n(expert, count)).collect();
    let weights = vec![1.0; experts.len()];
    let routing = Routing::from_parts(counts.len(), 1, experts, weights, WeightTarget::Output).unwrap();
    let mut load = ExpertLoad::new(counts.len());
    load.add(&routing).unwrap();
    load
}

fn compare(groups: &[&[usize]]) -> Specialisation {
    let loads: Vec<ExpertLoad> = groups.iter().map(|counts| load(counts)).collect();
    Specialisation::of(&loads).unwrap()
}

fn check(groups: &[&[usize]], nats: f64) {
    let got = compare(groups);
    let ceiling = (groups.len() as f64).ln();
    assert!((got.mutual_information_nats.unwrap() - nats).abs() < 1e-12, "{got:?}");
    assert!((got.share_of_maximum.unwrap() - nats / ceiling).abs() < 1e-12, "{got:?}");
}

fn check_refused(loads: &[ExpertLoad], error: RouterError, message: &str) {
    assert_eq!(Specialisation::of(loads), Err(error.clone()));
    assert_eq!(error.to_string(), message);
}

#[test]
fn the_information_of_small_tables_is_known_by_hand() {
    // Shares 1/2, 1/2, 0 and 0, 1/2, 1/2; means 1/4, 1/2, 1/4: only the outer experts tell, by ln 2 each half
    // of the time.
    check(&[&[1, 1, 0], &[0, 3, 3]], 0.5 * 2.0_f64.ln());
    // Shares 9/10, 1/10 and 1/2, 1/2; means 7/10, 3/10.
    let first = 0.9 * (9.0_f64 / 7.0).ln() + 0.1 * (1.0_f64 / 3.0).ln();
    let second = 0.5 * (5.0_f64 / 7.0).ln() + 0.5 * (5.0_f64 / 3.0).ln();
    check(&[&[9, 1], &[2, 2]], (first + second) / 2.0);
}

#[test]
fn a_long_group_counts_as_much_as_a_short_one() {
    check(&[&[1_000, 0], &[0, 1]], 2.0_f64.ln());
    let (long, short) = (compare(&[&[300, 100], &[1, 1]]), compare(&[&[3, 1], &[50, 50]]));
    assert_eq!(long, short);
}

#[test]
fn groups_that_are_alike_tell_nothing() {
    check(&[&[3, 1, 0], &[6, 2, 0], &[30, 10, 0]], 0.0);
    let alike = compare(&[&[3, 1, 0], &[3, 1, 0]]);
    assert_eq!((alike.favourite(0), alike.favourite(2)), (Some(Favourite { group: 0, lift: 1.0 }), None));
    assert_eq!((alike.preferred(0), alike.preferred(1)), (vec![], vec![]));
}

#[test]
fn groups_without_a_common_expert_tell_all() {
    check(&[&[3, 1, 0, 0], &[0, 0, 1, 0], &[0, 0, 0, 7]], 3.0_f64.ln());
}

#[test]
fn fewer_experts_than_groups_bound_the_information() {
    check(&[&[1, 0], &[0, 1], &[1, 0], &[0, 1]], 2.0_f64.ln());
}

#[test]
fn a_single_group_is_unknown_territory() {
    let one = compare(&[&[3, 1]]);
    assert_eq!((one.mutual_information_nats, one.share_of_maximum), (None, None));
    assert_eq!((one.lift(0, 0), one.favourite(0), one.preferred(0)), (None, None, vec![]));
    assert_eq!((one.shares, one.mean_shares), (vec![vec![0.75, 0.25]], vec![0.75, 0.25]));
}

#[test]
fn favourites_have_the_largest_lift_and_ties_go_to_the_lower_group() {
    // Means 1/2, 1/4, 1/4, 0.
    let got = compare(&[&[1, 1, 0, 0], &[2, 0, 2, 0]]);
    let favourite = |group, lift| Some(Favourite { group, lift });
    let expected = [favourite(0, 1.0), favourite(0, 2.0), favourite(1, 2.0), None];
    assert_eq!([0, 1, 2, 3].map(|expert| got.favourite(expert)), expected);
    assert_eq!((got.lift(0, 2), got.lift(1, 2), got.lift(0, 3)), (Some(0.0), Some(2.0), None));
}

#[test]
fn a_busy_expert_is_preferred_to_a_rare_one_of_the_same_lift() {
    let got = compare(&[&[1, 60, 39], &[0, 0, 100]]);
    assert_eq!((got.preferred(0), got.preferred(1)), (vec![1, 0], vec![2]));
}

#[test]
fn groups_that_cannot_be_compared_are_refused() {
    check_refused(&[], RouterError::NoGroups, "expert loads: expected at least one group, got none");
    check_refused(
        &[load(&[1, 2]), load(&[0, 0])],
        RouterError::EmptyGroup { group: 1 },
        "expert loads: expected at least one token in group 1, got none",
    );
    check_refused(
        &[load(&[1, 2]), load(&[1])],
        RouterError::LoadMismatch { expected: 2, got: 1 },
        "expert load: expected 2 experts, got 1",
    );
}

/// Two to six groups over the same one to eight experts, each with at least one token.
fn groups() -> impl Strategy<Value = Vec<Vec<usize>>> {
    (2_usize..=6, 1_usize..=8).prop_flat_map(|(n_groups, n_experts)| {
        let counts = vec(prop_oneof![Just(0), 0_usize..50], n_experts);
        vec(counts.prop_filter("a token", |counts| counts.iter().any(|&count| count > 0)), n_groups)
    })
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_information_stays_within_its_bounds(groups in groups()) {
        let slices: Vec<&[usize]> = groups.iter().map(Vec::as_slice).collect();
        let got = compare(&slices);
        let nats = got.mutual_information_nats.expect("several groups");
        let (n_groups, n_experts) = (groups.len() as f64, groups[0].len() as f64);
        prop_assert!(nats >= 0.0 && nats <= n_groups.ln().min(n_experts.ln()) + 1e-12, "{}", nats);
        for shares in got.shares.iter().chain([&got.mean_shares]) {
            prop_assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn the_same_load_in_every_group_tells_nothing(counts in vec(1_usize..50, 1..8), n_groups in 2_usize..6) {
        let got = compare(&vec![counts.as_slice(); n_groups]);
        prop_assert!(got.mutual_information_nats.expect("several groups") < 1e-12);
    }

    #[test]
    fn disjoint_groups_tell_the_logarithm_of_their_number(counts in vec(1_usize..50, 2..7)) {
        let loads: Vec<Vec<usize>> = (0..counts.len())
            .map(|group| (0..counts.len()).map(|e| if e == group { counts[e] } else { 0 }).collect())
            .collect();
        let slices: Vec<&[usize]> = loads.iter().map(Vec::as_slice).collect();
        let nats = compare(&slices).mutual_information_nats.expect("several groups");
        prop_assert!((nats - (counts.len() as f64).ln()).abs() < 1e-12);
    }

    #[test]
    fn the_order_of_the_groups_does_not_matter(groups in groups()) {
        let forward: Vec<&[usize]> = groups.iter().map(Vec::as_slice).collect();
        let backward: Vec<&[usize]> = forward.iter().rev().copied().collect();
        let nats = |groups| compare(groups).mutual_information_nats.expect("several groups");
        prop_assert!((nats(&forward) - nats(&backward)).abs() < 1e-12);
    }
}
