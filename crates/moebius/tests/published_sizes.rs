//! Parameter counts of released models, from their published config.json alone: that of a shape, or one beside the tests.

mod support;

use std::path::Path;

use moebius::bench::Shape;
use moebius::{OpenOptions, inspect};
use support::Scratch;

/// Checks billions of parameters, in all and for one token, to the digits given.
#[track_caller]
fn check(name: &str, total: &str, active: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/configs/{name}.json"));
    let found = if file.is_file() { Shape::find(file.to_str().unwrap()) } else { Shape::find(name) };
    let config = serde_json::from_str(found.unwrap().config()).unwrap();
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

#[test]
fn deepseek_v3_and_kimi_k2_count_as_published() {
    check("deepseek-v3", "671", "38");
    check("kimi-k2", "1026", "33");
}

#[test]
fn moonlight_and_deepseek_v2_lite_count_as_published() {
    check("moonlight-16b-a3b", "16.0", "2.9");
    check("deepseek-v2-lite", "15.7", "2.7");
}

#[test]
fn gpt_oss_counts_as_published() {
    // The publisher's 3.6 and 5.1 leave out the table of tokens, of which a token reads one row.
    check("gpt-oss-20b", "20.9", "4.2");
    check("gpt-oss-120b", "117", "5.7");
}

#[test]
fn glm_4_5_air_and_glm_4_7_flash_count_as_published() {
    check("glm-4.5-air", "107", "13");
    check("glm-4.7-flash", "29.9", "3.9");
}

#[test]
fn ernie_4_5_21b_a3b_counts_as_published() {
    check("ernie-4.5-21b-a3b", "21.8", "3.4");
}

#[test]
fn dots_llm1_and_ling_mini_and_minimax_m2_count_as_published() {
    check("dots.llm1", "143", "14");
    check("ling-mini-2.0", "16.3", "1.4");
    check("minimax-m2", "229", "11");
}
