//! How the experts were used, as `Model::score` counts it.

mod support;

use moebius::{LayerLoads, OpenOptions, ScoreOptions};
use support::{golden, open};

const COUNTED: ScoreOptions<'_> = ScoreOptions { dump: None, routing: true };

/// The loads of each sequence.
fn loads(name: &str, options: &OpenOptions, sequences: &[Vec<u32>]) -> Vec<LayerLoads> {
    let (scores, _) = open(&golden(name), options).unwrap().score(sequences, &COUNTED).unwrap();
    scores.into_iter().map(|score| score.loads.unwrap()).collect()
}

fn sequences() -> Vec<Vec<u32>> {
    vec![(5..40).collect(), vec![7], (60..90).rev().collect()]
}

#[test]
fn every_token_visits_as_many_experts_as_the_router_keeps() {
    for experts in [1, 2, 5] {
        let options = OpenOptions { experts: Some(experts), ..OpenOptions::default() };
        for (loads, ids) in loads("olmoe", &options, &sequences()).iter().zip(sequences()) {
            assert!(!loads.is_empty());
            for load in loads.values() {
                assert_eq!(load.tokens(), ids.len() as u64);
                assert_eq!(load.counts().iter().sum::<u64>(), (ids.len() * experts) as u64);
            }
        }
    }
}

#[test]
fn layers_without_a_router_are_absent_and_the_others_keep_their_numbers() {
    let loads = loads("qwen2_moe_window_dense", &OpenOptions::default(), &sequences());
    for loads in loads {
        assert_eq!(loads.keys().copied().collect::<Vec<_>>(), [1, 5]);
        assert!(loads.values().all(|load| load.counts().len() == 6));
    }
}

#[test]
fn loads_do_not_depend_on_chunks_or_neighbours() {
    let together = loads("qwen2_moe", &OpenOptions::default(), &sequences());
    let chunked = OpenOptions { chunk: Some(4), ..OpenOptions::default() };
    assert_eq!(loads("qwen2_moe", &chunked, &sequences()), together);
    for (sequence, expected) in sequences().into_iter().zip(&together) {
        assert_eq!(&loads("qwen2_moe", &OpenOptions::default(), &[sequence])[0], expected);
    }
}

#[test]
fn nothing_is_counted_unless_asked_for_and_nothing_else_changes() {
    let mut model = open(&golden("mixtral"), &OpenOptions::default()).unwrap();
    let (plain, _) = model.score(&sequences(), &ScoreOptions::default()).unwrap();
    let (mut counted, _) = model.score(&sequences(), &COUNTED).unwrap();
    assert!(plain.iter().all(|score| score.loads.is_none()));
    assert!(counted.iter_mut().all(|score| score.loads.take().is_some()));
    assert_eq!(plain, counted);
}
