//! What the benchmarks share: inputs from a fixed sequence, and the bundled model.
#![forbid(unsafe_code)]

use moebius::{BackendOptions, GenerateOptions, Model, OpenOptions, Prompt, SamplingParams, Summary};
use moebius_backend::WeightFormat;

/// Reproducible values in -1 .. 1, by a linear congruential generator.
pub fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// The bytes of `weights` in a format, as a file has them.
///
/// # Panics
/// If they are no whole number of blocks.
pub fn encode(format: WeightFormat, weights: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; format.bytes_for(1, weights.len()).expect("weights are whole blocks")];
    format.encode(weights, &mut bytes).expect("the sizes are right");
    bytes
}

/// One thread for every core that this process may use.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// The bundled model with `experts` per token.
///
/// # Panics
/// If it cannot be opened.
pub fn bundled(experts: usize) -> Model {
    let backend = BackendOptions { threads: Some(threads()), ..BackendOptions::default() };
    let options = OpenOptions { experts: Some(experts), backend, ..OpenOptions::default() };
    let dir = moebius::bundled_model().expect("the project brings a model");
    Model::open(dir, &options).expect("the bundled model opens")
}

/// Reads a prompt of `prompt_tokens` and generates `max_tokens` more, greedily.
///
/// # Panics
/// If the model fails, or ends early.
pub fn generate(model: &mut Model, prompt_tokens: usize, max_tokens: usize) -> Summary {
    let vocab_size = model.info().vocab_size as f32;
    let tokens = values(prompt_tokens, 5).into_iter().map(|value| (value.abs() * (vocab_size - 1.0)) as u32);
    let prompt: Vec<u32> = tokens.collect();
    let options = GenerateOptions {
        max_tokens: Some(max_tokens),
        sampling: Some(SamplingParams::default()),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let mut generation = model.generate(Prompt::Ids(&prompt), &options).expect("the prompt fits the context");
    generation.by_ref().for_each(|piece| drop(piece.expect("the model runs")));
    let summary = generation.finish();
    assert_eq!((summary.prompt.len(), summary.tokens.len()), (prompt_tokens, max_tokens));
    summary
}
