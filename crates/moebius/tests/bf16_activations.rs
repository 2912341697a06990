//! Activations that are rounded to bf16: how far results move, and what stays as it is.

mod support;

use moebius::{
    BackendOptions, CachePlaces, CachePolicy, Constraint, ExpertPolicy, Model, OpenOptions, ScoreOptions,
    perplexity,
};
use support::golden::{Golden, dump, logits_apart};
use support::{golden, tiny};

/// Held-out text that comes with the model.
const TEXT: &str = include_str!("../../../models/moebius-tiny/eval/python.txt");

fn options(bf16_activations: bool, threads: usize, chunk: usize) -> OpenOptions {
    let backend = BackendOptions { threads: Some(threads), bf16_activations, ..BackendOptions::default() };
    OpenOptions { backend, chunk: Some(chunk), ..OpenOptions::default() }
}

#[test]
fn logits_stay_near_the_reference_in_f32() {
    let dir = golden("mixtral_bf16_shards");
    let reference = Golden::open(&dir);
    let apart = |rounds| {
        let mut model = Model::open(&dir, &options(rounds, 2, 512)).unwrap();
        assert_eq!(model.backend().info().bf16_activations, rounds);
        logits_apart(&reference, &dump(&mut model, &reference.prompts()))
    };
    let all: usize = reference.prompts().iter().map(Vec::len).sum();
    let ((plain, tokens), (rounded, alike)) = (apart(false), apart(true));
    assert!(plain < 1e-4 && tokens == all, "without rounding: {plain} over {tokens} of {all} tokens");
    // Where two experts are nearly level, rounding may choose the other one.
    assert!(alike > all / 2, "{alike} of {all} tokens before another choice");
    assert!((1e-4..1e-2).contains(&rounded), "with rounding: {rounded}");
}

#[test]
fn bits_do_not_depend_on_threads_or_chunks() {
    let dir = golden("qwen3_moe_v5_window");
    let prompts = Golden::open(&dir).prompts();
    let told =
        |threads, chunk| dump(&mut Model::open(&dir, &options(true, threads, chunk)).unwrap(), &prompts);
    let whole = told(1, 512);
    for (threads, chunk) in [(2, 512), (3, 512), (1, 1), (2, 5)] {
        assert!(told(threads, chunk) == whole, "{threads} threads, chunks of {chunk}");
    }
}

#[test]
fn weights_in_other_formats_are_multiplied_as_ever() {
    // All weights of the first are f32; of the second, routers stay in bf16 and are multiplied with rounded inputs.
    for (name, same) in [("mixtral", true), ("qwen3_moe_v5_window", false)] {
        let dir = golden(name);
        let prompts = Golden::open(&dir).prompts();
        let told = |rounds| {
            let options = OpenOptions { format: "f32".parse().unwrap(), ..options(rounds, 2, 512) };
            dump(&mut Model::open(&dir, &options).unwrap(), &prompts)
        };
        assert_eq!(told(true) == told(false), same, "{name}");
    }
}

#[test]
fn the_perplexity_of_the_bundled_model_hardly_changes() {
    let of = |rounds| {
        let mut model = Model::open(tiny(), &options(rounds, 2, 512)).unwrap();
        let windows = model.windows(TEXT).unwrap();
        perplexity(&model.score(&windows, &ScoreOptions::default()).unwrap().0).unwrap()
    };
    let off = of(true) / of(false) - 1.0;
    assert!(off != 0.0 && off.abs() < 1e-3, "{:+.3} %", 100.0 * off);
}

#[test]
fn experts_within_a_budget_have_the_bits_of_those_in_memory() {
    let reference = Golden::open(&golden("mixtral_bf16_shards"));
    let told = |constraint| {
        let mut options = options(true, 2, 512);
        options.backend.constraint = constraint;
        let mut model = Model::open(golden("mixtral_bf16_shards"), &options).unwrap();
        assert!(model.backend().info().bf16_activations);
        dump(&mut model, &reference.prompts())
    };
    let policy = ExpertPolicy::Named(CachePolicy::Lru);
    let constraint = Constraint { resident: Some(CachePlaces::Share(0.5)), policy, ..Constraint::default() };
    assert!(told(constraint) == told(Constraint::default()));
}
