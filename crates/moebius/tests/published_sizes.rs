//! Parameter counts of released models, from their published config.json alone.

mod support;

use moebius::bench::Shape;
use moebius::{OpenOptions, inspect};
use support::Scratch;

/// Checks billions of parameters, in all and for one token, to the digits given.
#[track_caller]
fn check(shape: &str, total: &str, active: &str) {
    let shape = Shape::find(shape).unwrap();
    let config = serde_json::from_str(shape.config()).unwrap();
    let (info, _) = inspect(Scratch::config_only(&config).path(), &OpenOptions::default()).unwrap();
    let billions = |count: u64, like: &str| {
        let digits = like.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        format!("{:.digits$}", count as f64 / 1e9)
    };
    assert_eq!(billions(info.total_parameters(), total), total);
    assert_eq!(billions(info.active_parameters(), active), active);
    assert_eq!(info.weight_bytes(), None);
    assert!(info.unknown_keys.is_empty(), "{:?}", info.unknown_keys);
}

#[test]
fn mixtral_8x7b_counts_as_published() {
    check("mixtral-8x7b", "46.7", "12.9");
}

#[test]
fn qwen3_30b_a3b_counts_as_published() {
    check("qwen3-30b-a3b", "30.53", "3.35");
}

#[test]
fn olmoe_1b_7b_counts_as_published() {
    check("olmoe-1b-7b", "6.9", "1.3");
}

#[test]
fn qwen1_5_moe_a2_7b_counts_as_published() {
    check("qwen1.5-moe-a2.7b", "14.3", "2.7");
}

#[test]
fn granite_3_1_1b_a400m_counts_as_published() {
    check("granite-1b-a400m", "1.33", "0.43");
}
