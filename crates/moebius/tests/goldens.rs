//! Every family against reference outputs of Hugging Face transformers: hidden states after each layer,
//! routing, logits and greedy continuations, within the tolerances that come with each set.

mod support;

use std::path::Path;

use moebius::{BackendOptions, GenerateOptions, Model, OpenOptions, Prompt, SamplingParams};
use safetensors::SafeTensors;
use support::golden::{Golden, compare, dump};
use support::goldens;

fn open(dir: &Path, threads: usize, chunk: usize) -> Model {
    let backend = BackendOptions { threads: Some(threads), ..BackendOptions::default() };
    let options = OpenOptions { backend, chunk: Some(chunk), ..OpenOptions::default() };
    Model::open(dir, &options).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

#[test]
fn every_layer_agrees_with_the_reference() {
    for dir in goldens() {
        let golden = Golden::open(&dir);
        let mut model = open(&dir, 2, 512);
        compare(&golden, &dump(&mut model, &golden.prompts()));
    }
}

#[test]
fn greedy_continuations_equal_the_reference() {
    for dir in goldens() {
        let golden = Golden::open(&dir);
        let mut model = open(&dir, 1, 512);
        for (i, prompt) in golden.prompts().iter().enumerate() {
            let expected = golden.ids(i, "continuation");
            let options = GenerateOptions {
                max_tokens: Some(expected.len()),
                sampling: Some(SamplingParams::default()),
                ignore_eos: true,
                ..GenerateOptions::default()
            };
            let mut generation = model.generate(Prompt::Ids(prompt), &options).unwrap();
            generation.by_ref().for_each(|piece| drop(piece.unwrap()));
            assert_eq!(generation.finish().tokens, expected, "{} prompt {i}", dir.display());
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_chunks_or_neighbours() {
    for dir in goldens() {
        let golden = Golden::open(&dir);
        let prompts = golden.prompts();
        let whole = dump(&mut open(&dir, 1, 512), &prompts);
        for (threads, chunk) in [(2, 512), (3, 512), (1, 1), (2, 5), (1, 16)] {
            let other = dump(&mut open(&dir, threads, chunk), &prompts);
            assert!(whole == other, "{}: {threads} threads, chunks of {chunk}", dir.display());
        }
        let longest = prompts.last().unwrap().clone();
        let alone = dump(&mut open(&dir, 1, 512), &[longest]);
        let last = prompts.len() - 1;
        let (alone, whole) =
            (SafeTensors::deserialize(&alone).unwrap(), SafeTensors::deserialize(&whole).unwrap());
        for (name, tensor) in alone.tensors() {
            let in_batch = whole.tensor(&name.replacen("p0.", &format!("p{last}."), 1)).unwrap();
            assert!(tensor.data() == in_batch.data(), "{} {name} alone and in a batch", dir.display());
        }
    }
}
