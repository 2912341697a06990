//! Models within a budget: the bits of the CPU backend, the hits that the simulator tells, and errors where files fail.

mod support;

use std::fs::File;
use std::path::Path;

use moebius::trace::{CacheTrace, TraceMode};
use moebius::{
    BackendOptions, CachePlaces, CachePolicy, Constraint, ConvertOptions, Error, ErrorKind, ExpertPolicy,
    GenerateOptions, MemoryLimit, Model, OpenOptions, Prompt, SamplingParams, Summary, bundled_model,
    convert,
};

const PROMPTS: [&str; 3] = ["Once upon a time", "The little robot", "def main():"];

fn options(constraint: Constraint) -> OpenOptions {
    let backend = BackendOptions { threads: Some(2), constraint, ..BackendOptions::default() };
    OpenOptions { backend, ..OpenOptions::default() }
}

fn resident(places: CachePlaces, policy: CachePolicy) -> Constraint {
    Constraint { resident: Some(places), policy: ExpertPolicy::Named(policy), ..Constraint::default() }
}

/// What the model says, greedily, and the bits of its log-probabilities.
fn told(model: &mut Model, prompt: &str, tokens: usize) -> Result<(Summary, Vec<u32>), Error> {
    let sampling = Some(SamplingParams { temperature: 0.0, ..SamplingParams::default() });
    let options =
        GenerateOptions { max_tokens: Some(tokens), sampling, logprobs: true, ..GenerateOptions::default() };
    let mut generation = model.generate(Prompt::Text(prompt), &options)?;
    let mut bits = Vec::new();
    for piece in generation.by_ref() {
        bits.push(piece?.logprob.expect("it was asked for").to_bits());
    }
    Ok((generation.finish(), bits))
}

#[test]
fn bits_do_not_depend_on_what_is_in_memory() {
    let dir = bundled_model().unwrap();
    let mut free = Model::open(&dir, &options(Constraint::default())).unwrap();
    let (expected, expected_bits) = told(&mut free, PROMPTS[0], 12).unwrap();
    for (places, policy) in
        [(CachePlaces::Experts(1), CachePolicy::Lru), (CachePlaces::Share(0.5), CachePolicy::Lfru)]
    {
        let mut model = Model::open(&dir, &options(resident(places, policy))).unwrap();
        let (summary, bits) = told(&mut model, PROMPTS[0], 12).unwrap();
        assert_eq!((&summary.tokens, &bits), (&expected.tokens, &expected_bits), "{places:?}");
        assert!(summary.decode.counts.fetches().unwrap().misses > 0);
        let held: usize = model.residency().iter().map(|layer| layer.resident).sum();
        let all: usize = model.residency().iter().map(|layer| layer.n_experts).sum();
        assert!((1..=places.of(all)).contains(&held), "{held} of {all}");
    }
}

#[test]
fn the_simulator_tells_the_hits_of_the_live_cache() {
    let (dir, scratch) = (bundled_model().unwrap(), tempfile::tempdir().unwrap());
    let policies = [CachePolicy::Lru, CachePolicy::Lfru, CachePolicy::Layer];
    for (prompt, policy) in PROMPTS.into_iter().zip(policies) {
        let path = scratch.path().join("a.trace");
        let places = CachePlaces::Share(0.4);
        let mut model = Model::open(&dir, &options(resident(places, policy.clone()))).unwrap();
        model.start_trace(&path, TraceMode::default()).unwrap();
        let (summary, _) = told(&mut model, prompt, 24).unwrap();
        model.finish_trace().unwrap();
        let trace = CacheTrace::read(&path).unwrap();
        let replayed = trace.run(&policy, places.of(trace.experts()));
        let counts = &summary.prefill.counts + &summary.decode.counts;
        let live = |of: fn(&moebius::metering::FetchCounts) -> u64| -> Vec<u64> {
            counts.routed_layers().map(|(_, layer)| of(&layer.fetches)).collect()
        };
        assert_eq!(live(|fetches| fetches.hits), replayed.hits, "{policy}");
        assert_eq!(live(|fetches| fetches.misses), replayed.misses, "{policy}");
        assert!(replayed.all_hits() > 0 && replayed.all_misses() > 0);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_file_that_shrinks_under_the_run_is_an_error_and_the_next_run_says_so_too() {
    let scratch = tempfile::tempdir().unwrap();
    let packed = scratch.path().join("packed");
    convert(bundled_model().unwrap(), &packed, &ConvertOptions::default(), &mut |_, _| {
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    let few = resident(CachePlaces::Experts(8), CachePolicy::Lru);
    let mut model = Model::open(&packed, &options(few)).unwrap();
    told(&mut model, PROMPTS[0], 4).unwrap();
    cut(&packed.join("model.safetensors"));
    for _ in 0..2 {
        let error = told(&mut model, PROMPTS[1], 4).expect_err("the experts are gone");
        assert_eq!(error.kind(), ErrorKind::Runtime);
        let text = support::explained(error);
        support::assert_says(&text, &["cannot fetch expert", "of layer"]);
    }
}

/// Leaves the header of a file and nothing else.
fn cut(path: &Path) {
    File::options().write(true).open(path).unwrap().set_len(1 << 16).unwrap();
}

#[test]
fn a_budget_that_holds_no_expert_is_refused_with_what_it_needs() {
    let constraint = Constraint { memory: Some(MemoryLimit::Bytes(1 << 20)), ..Constraint::default() };
    let error =
        Model::open(bundled_model().unwrap(), &options(constraint)).err().expect("1 MiB is too little");
    let Error::Budget { needed_bytes, budget_bytes } = error else { panic!("{error}") };
    assert!(needed_bytes > budget_bytes && budget_bytes == 1 << 20);
    assert_eq!(error.kind(), ErrorKind::Memory);
}

#[test]
fn a_budget_and_the_cpu_backend_contradict_each_other() {
    let constraint = Constraint { memory: Some(MemoryLimit::Bytes(1 << 30)), ..Constraint::default() };
    let mut options = options(constraint);
    options.backend.name = Some("cpu".into());
    let error = Model::open(bundled_model().unwrap(), &options).err().expect("one of them is wrong");
    assert!(matches!(error, Error::UnknownName { .. }), "{error}");
}
