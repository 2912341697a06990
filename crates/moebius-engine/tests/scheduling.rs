//! The engine over a model that is one line of arithmetic, so that every token can be predicted.

use candle_core::{Device, Tensor};
use moebius_engine::{
    Engine, EngineError, EngineOptions, Event, FinishReason, Request, RequestId, SamplingParams,
};
use moebius_model::{CacheSpec, Error, KvCache, Model, Result, TokenBatch, Watch};

const VOCAB: u32 = 50;
const CONTEXT: usize = 40;
/// A token that the model fails on.
const POISON: u32 = 49;

/// The most likely token after `token` at `position` is `successor(token, position)`.
struct Arithmetic {
    cache: CacheSpec,
}

fn successor(token: u32, position: usize) -> u32 {
    (token * 7 + position as u32 * 3 + 1) % (VOCAB - 1)
}

impl Model for Arithmetic {
    fn cache_spec(&self) -> &CacheSpec {
        &self.cache
    }

    fn forward(&self, batch: &TokenBatch, cache: &mut KvCache, _: &mut Watch<'_>) -> Result<Tensor> {
        if batch.tokens().contains(&POISON) {
            return Err(Error::TokenId { id: POISON, vocab_size: POISON as usize });
        }
        for span in batch.spans() {
            assert_eq!(cache.len(span.sequence), span.first_position, "tokens arrive in order, each once");
            cache.reserve(span.sequence, span.first_position + span.rows.len())?;
            cache.commit(span.sequence, span.first_position + span.rows.len());
        }
        let positions: Vec<usize> = batch.positions().collect();
        let mut logits = Vec::new();
        for row in batch.output_rows() {
            let best = successor(batch.tokens()[row as usize], positions[row as usize]);
            logits.extend((0..VOCAB).map(|id| if id == best { 3.0 } else { (id % 5) as f32 * 0.1 }));
        }
        let rows = logits.len() / VOCAB as usize;
        Ok(Tensor::from_vec(logits, (rows, VOCAB as usize), &Device::Cpu)?)
    }
}

fn engine(chunk: usize) -> Engine {
    let cache = CacheSpec { layers: Vec::new(), context: CONTEXT };
    let options = EngineOptions { context: CONTEXT, chunk };
    Engine::new(Box::new(Arithmetic { cache }), &Device::Cpu, options)
}

fn run(engine: &mut Engine) -> Vec<Event> {
    let mut events = Vec::new();
    while !engine.is_idle() {
        events.extend(engine.step(None).unwrap());
    }
    events
}

fn tokens_of(events: &[Event], id: RequestId) -> Vec<u32> {
    events.iter().filter(|e| e.request == id).map(|e| e.token).collect()
}

/// What greedy decoding of the arithmetic gives.
fn expected(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut token = *prompt.last().unwrap();
    let first = prompt.len() - 1;
    (first..first + count)
        .map(|position| {
            token = successor(token, position);
            token
        })
        .collect()
}

#[test]
fn each_sequence_of_a_batch_gets_its_own_tokens_for_every_chunk_size() {
    let prompts: Vec<Vec<u32>> = (1..8).map(|n| (0..n * 4).map(|i| (i * n) % 48).collect()).collect();
    for chunk in [1, 3, 7, 64] {
        let mut engine = engine(chunk);
        let submit = |prompt: &Vec<u32>| engine.submit(Request::greedy(prompt.clone(), 5)).unwrap();
        let ids: Vec<RequestId> = prompts.iter().map(submit).collect();
        let events = run(&mut engine);
        for (prompt, id) in prompts.iter().zip(ids) {
            assert_eq!(tokens_of(&events, id), expected(prompt, 5), "chunk {chunk}");
        }
    }
}

#[test]
fn sampling_depends_on_the_request_and_not_on_its_neighbours() {
    let sampling = SamplingParams { temperature: 1.5, seed: 11, ..SamplingParams::default() };
    let vocab_limit = Some(POISON as usize);
    let request = Request { sampling, vocab_limit, ..Request::greedy(vec![5, 6, 7], 12) };
    let mut alone = engine(64);
    let id = alone.submit(request.clone()).unwrap();
    let alone = tokens_of(&run(&mut alone), id);
    let mut crowded = engine(2);
    crowded.submit(Request::greedy(vec![1; 20], 9)).unwrap();
    let id = crowded.submit(request).unwrap();
    crowded.submit(Request::greedy(vec![2; 3], 9)).unwrap();
    assert_eq!(tokens_of(&run(&mut crowded), id), alone);
    assert_ne!(alone, expected(&[5, 6, 7], 12), "at this temperature some draw is not the likeliest");
}

#[test]
fn a_sequence_ends_at_its_length_its_stop_token_or_the_context() {
    let prompt = vec![3, 4];
    let path = expected(&prompt, CONTEXT);
    let finish = |request: Request| {
        let mut engine = engine(64);
        engine.submit(request).unwrap();
        let events = run(&mut engine);
        assert!(events[..events.len() - 1].iter().all(|e| e.finish.is_none()));
        (events.len(), events.last().unwrap().finish.unwrap())
    };
    assert_eq!(finish(Request::greedy(prompt.clone(), 4)), (4, FinishReason::Length));
    let stop = path[6];
    let first = path.iter().position(|t| *t == stop).unwrap() + 1;
    let stopping = Request { stop_tokens: vec![stop], ..Request::greedy(prompt.clone(), 30) };
    assert_eq!(finish(stopping), (first, FinishReason::Stop));
    // The last token needs no position of its own: it is generated, and nothing follows it.
    let endless = Request::greedy(prompt.clone(), usize::MAX);
    assert_eq!(finish(endless), (CONTEXT - prompt.len() + 1, FinishReason::Context));
}

#[test]
fn prompts_are_checked_before_anything_runs() {
    let mut engine = engine(8);
    assert!(matches!(engine.submit(Request::greedy(vec![], 1)), Err(EngineError::EmptyPrompt)));
    let long = Request::greedy(vec![1; CONTEXT + 1], 1);
    let error = engine.submit(long).unwrap_err();
    assert!(matches!(error, EngineError::PromptTooLong { len: 41, context: 40 }), "{error}");
    let sampling = SamplingParams { temperature: f32::NAN, ..SamplingParams::default() };
    assert!(engine.submit(Request { sampling, ..Request::greedy(vec![1], 1) }).is_err());
    assert!(engine.is_idle());
    engine.submit(Request::greedy(vec![1; CONTEXT], 3)).unwrap();
    assert_eq!(run(&mut engine).len(), 1);
}

#[test]
fn asking_for_no_token_gives_none() {
    let mut engine = engine(8);
    engine.submit(Request::greedy(vec![1, 2], 0)).unwrap();
    assert!(engine.is_idle());
    assert!(engine.step(None).unwrap().is_empty());
}

#[test]
fn padding_ids_are_never_chosen() {
    let mut engine = engine(8);
    let limit = 10;
    engine.submit(Request { vocab_limit: Some(limit), ..Request::greedy(vec![1, 2], 20) }).unwrap();
    let events = run(&mut engine);
    assert_eq!(events.len(), 20);
    assert!(events.iter().all(|e| (e.token as usize) < limit));
}

#[test]
fn a_cancelled_request_leaves_the_others_alone() {
    let mut engine = engine(8);
    let first = engine.submit(Request::greedy(vec![1, 2, 3], 6)).unwrap();
    let second = engine.submit(Request::greedy(vec![4, 5], 6)).unwrap();
    let mut events = engine.step(None).unwrap();
    engine.cancel(first);
    engine.cancel(first);
    events.extend(run(&mut engine));
    assert_eq!(tokens_of(&events, first).len(), 1);
    assert_eq!(tokens_of(&events, second), expected(&[4, 5], 6));
}

#[test]
fn a_batch_that_fails_ends_its_sequences_and_the_engine_goes_on() {
    let mut engine = engine(64);
    engine.submit(Request::greedy(vec![1, POISON], 5)).unwrap();
    assert!(engine.step(None).is_err());
    assert!(engine.is_idle());
    let id = engine.submit(Request::greedy(vec![8, 9], 3)).unwrap();
    assert_eq!(tokens_of(&run(&mut engine), id), expected(&[8, 9], 3));
}

#[test]
fn scores_cover_every_position_once_for_every_chunk_size() {
    let sequences: Vec<Vec<u32>> = vec![vec![1, 2, 3, 4, 5], vec![7], (0..CONTEXT as u32).collect()];
    for chunk in [1, 4, 64] {
        let mut engine = engine(chunk);
        let mut seen: Vec<Vec<(usize, bool, u32)>> = vec![Vec::new(); sequences.len()];
        engine
            .score(&sequences, None, |row| {
                seen[row.sequence].push((row.position, row.next_logprob.is_some(), row.predicted));
            })
            .unwrap();
        for (tokens, seen) in sequences.iter().zip(&seen) {
            let rows = tokens.iter().enumerate();
            let wanted: Vec<_> =
                rows.map(|(p, &token)| (p, p + 1 < tokens.len(), successor(token, p))).collect();
            assert_eq!(*seen, wanted, "chunk {chunk}");
        }
    }
}

#[test]
fn a_score_that_fails_frees_its_sequences() {
    let mut engine = engine(4);
    assert!(engine.score(&[vec![1, 2, POISON, 3]], None, |_| {}).is_err());
    assert_eq!(engine.cache_bytes(), 0);
    assert!(matches!(engine.score(&[vec![]], None, |_| {}), Err(EngineError::EmptyPrompt)));
}

#[test]
fn a_forced_sequence_goes_on_with_the_given_tokens_and_tells_its_own_choices() {
    let mut engine = engine(64);
    let request = Request { forced: vec![10, 20], ..Request::greedy(vec![3], 4) };
    let id = engine.submit(request).unwrap();
    let third = successor(20, 2);
    let expected = vec![successor(3, 0), successor(10, 1), third, successor(third, 3)];
    assert_eq!(tokens_of(&run(&mut engine), id), expected);
}

#[test]
fn what_was_filled_is_not_read_and_counts_as_positions() {
    let mut engine = engine(64);
    let prompt = vec![1, 2, 3, 4, 5, 6];
    let id = engine.submit_filled(Request::greedy(prompt.clone(), 3), 5, || 0.5).unwrap();
    let events = run(&mut engine);
    assert_eq!(tokens_of(&events, id), expected(&prompt, 3));
    assert_eq!(engine.meter().snapshot().all_tokens(), 3, "one of the prompt, and two that were generated");
    let nothing_left = engine.submit_filled(Request::greedy(prompt.clone(), 3), 6, || 0.5);
    assert!(matches!(nothing_left, Err(EngineError::EmptyPrompt)));
    assert!(engine.submit_filled(Request::greedy(vec![1; CONTEXT + 1], 3), 1, || 0.5).is_err());
    assert!(engine.is_idle());
}

#[test]
fn log_probabilities_are_told_if_asked_for_and_are_those_of_the_model_whatever_the_filters() {
    let sampling =
        SamplingParams { temperature: 0.3, top_k: Some(1), repeat_penalty: 2.0, ..SamplingParams::default() };
    for logprobs in [false, true] {
        let mut engine = engine(8);
        let request = Request { sampling: sampling.clone(), logprobs, ..Request::greedy(vec![1, 2], 1) };
        engine.submit(request).unwrap();
        let event = run(&mut engine)[0];
        let best = successor(2, 1);
        assert_eq!(event.token, best);
        let others: f64 = (0..VOCAB).filter(|&id| id != best).map(|id| (f64::from(id % 5) * 0.1).exp()).sum();
        let expected = 3.0 - (3.0f64.exp() + others).ln();
        let near = |logprob: f32| (f64::from(logprob) - expected).abs() < 1e-6;
        assert_eq!(event.logprob.map(near), logprobs.then_some(true), "{event:?}");
    }
}
