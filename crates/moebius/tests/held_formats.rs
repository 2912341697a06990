//! Weights that are rounded while they are loaded: how far results move, what is held, and that bits stay the same.

mod support;

use moebius::{HeldFormats, Model, OpenOptions, Place, ScoreOptions, WeightFormat, inspect, perplexity};
use support::{Scratch, golden};

/// Held-out text that comes with the model.
const TEXT: &str = include_str!("../../../models/moebius-tiny/eval/python.txt");

fn bundled() -> std::path::PathBuf {
    golden("../moebius-tiny")
}

fn options(format: HeldFormats, threads: usize, chunk: usize) -> OpenOptions {
    let mut options = OpenOptions { format, chunk: Some(chunk), ..OpenOptions::default() };
    options.backend.threads = Some(threads);
    options
}

fn named(name: &str) -> HeldFormats {
    name.parse().unwrap()
}

fn perplexity_in(format: HeldFormats) -> f64 {
    let mut model = Model::open(bundled(), &options(format, 2, 512)).unwrap();
    let sequences = model.windows(TEXT).unwrap();
    perplexity(&model.score(&sequences, &ScoreOptions::default()).unwrap().0).unwrap()
}

/// Checks that perplexity in a format is within a share of that of the model as stored.
#[track_caller]
fn near(name: &str, share: f64) {
    let (stored, got) = (perplexity_in(HeldFormats::AsStored), perplexity_in(named(name)));
    let off = got / stored - 1.0;
    assert!(off.abs() <= share, "{name}: perplexity {got:.4}, as stored {stored:.4}, {:+.2} %", 100.0 * off);
}

#[test]
fn floats_keep_the_perplexity() {
    near("bf16", 0.0);
    near("f32", 1e-5);
    near("f16", 1e-4);
}

#[test]
fn blocks_of_eight_and_six_bits_keep_the_perplexity_within_thousandths() {
    near("q8_0", 0.001);
    near("q6_k", 0.005);
}

#[test]
fn blocks_of_four_bits_with_minima_keep_the_perplexity_within_a_hundredth() {
    near("q4_k_m", 0.01);
    near("q4_k", 0.01);
}

#[test]
fn blocks_of_four_bits_with_one_scale_keep_the_perplexity_within_three_hundredths() {
    near("q4_0", 0.02);
    near("mxfp4", 0.03);
}

/// Formats of a place, most bytes first.
fn formats(info: &moebius::ModelInfo, place: Place) -> Vec<WeightFormat> {
    info.tally[&place].formats.iter().map(|&(format, _)| format).collect()
}

#[test]
fn bytes_are_those_that_are_held_with_and_without_weights() {
    let config = Scratch::config_only(&serde_json::Value::Object(support::config(&bundled())));
    let stored = inspect(bundled(), &OpenOptions::default()).unwrap().0;
    for name in HeldFormats::names() {
        let options = options(named(name), 1, 512);
        let (full, bare) =
            (inspect(bundled(), &options).unwrap().0, inspect(config.path(), &options).unwrap().0);
        assert_eq!(full.tally, bare.tally, "{name}");
        for (place, tally) in &full.tally {
            assert_eq!(
                tally.bytes,
                Some(tally.formats.iter().map(|(_, bytes)| bytes).sum()),
                "{name} {place:?}"
            );
        }
        assert_eq!(formats(&full, Place::Router), [WeightFormat::Bf16], "{name}");
        assert_eq!(formats(&full, Place::Norm), [WeightFormat::F32], "{name}");
        assert_eq!(full.total_parameters(), stored.total_parameters());
    }
    let held = |name| inspect(bundled(), &options(named(name), 1, 512)).unwrap().0;
    let experts = |info: &moebius::ModelInfo| info.tally[&Place::Experts].bytes.unwrap() as f64;
    // 4.5 of 16 bits.
    assert_eq!(experts(&held("q4_0")) / experts(&stored), 4.5 / 16.0);
    // A down projection has 128 columns, half a block.
    assert_eq!(formats(&held("q4_k_m"), Place::Experts), [WeightFormat::Q4K, WeightFormat::Q8_0]);
    assert_eq!(formats(&held("q4_k_m"), Place::Embedding), [WeightFormat::Q6K]);
    assert_eq!(held("q4_k_m").weight_format(), Some(WeightFormat::Q4K));
    assert_eq!(stored.weight_format(), Some(WeightFormat::Bf16));
}

#[test]
fn what_is_read_is_counted_as_held_and_a_loaded_model_says_the_same_as_its_plan() {
    let decoded = |format| {
        let options = options(format, 1, 512);
        let mut model = Model::open(bundled(), &options).unwrap();
        assert_eq!(model.info().tally, inspect(bundled(), &options).unwrap().0.tally);
        let reading = model.score(&[vec![5, 6]], &ScoreOptions::default()).unwrap().1;
        let parts = reading.counts.total();
        (parts.weight_bytes, parts.macs)
    };
    let (stored, q8_0) = (decoded(HeldFormats::AsStored), decoded(named("q8_0")));
    let share = q8_0.0 as f64 / stored.0 as f64;
    // 8.5 of 16 bits, and routers as they were.
    assert!((8.5 / 16.0..8.6 / 16.0).contains(&share), "{share}");
    assert_eq!(stored.1, q8_0.1);
}

#[test]
fn matrices_whose_rows_are_no_whole_blocks_are_held_in_what_fits() {
    // Width 32, experts of width 20.
    let options = options(named("q4_k"), 1, 512);
    let mut model = Model::open(golden("mixtral"), &options).unwrap();
    assert_eq!(formats(model.info(), Place::Experts), [WeightFormat::F32, WeightFormat::Q8_0]);
    assert_eq!(formats(model.info(), Place::Attention), [WeightFormat::Q8_0]);
    let scores = model.score(&[vec![5, 6, 7, 8]], &ScoreOptions::default()).unwrap().0;
    let mut stored = Model::open(golden("mixtral"), &OpenOptions::default()).unwrap();
    let exact = stored.score(&[vec![5, 6, 7, 8]], &ScoreOptions::default()).unwrap().0;
    for (got, exact) in scores[0].logprobs.iter().zip(&exact[0].logprobs) {
        assert!((got - exact).abs() < 0.05 && got != exact, "{got} and {exact}");
    }
}
