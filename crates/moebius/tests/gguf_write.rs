//! GGUF files that moebius writes, read back: against the models that they were made from.

mod support;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use moebius::{
    BackendOptions, ConvertOptions, Error, ErrorKind, HeldFormats, Model, OpenOptions, ScoreOptions, convert,
};
use support::gguf::{self, sayable};
use support::golden;

/// Goldens of every architecture that is written, some of them as GGUF can say them.
const WRITTEN: [&str; 34] = [
    "afmoe",
    "bailing_moe_v1",
    "bailing_moe_v2",
    "dbrx",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v3_fp8",
    "deepseek_v3_moonlight",
    "dots1",
    "ernie4_5_moe",
    "gemma4",
    "glm4_moe",
    "glm4_moe_lite",
    "gpt_oss",
    "gpt_oss_mxfp4",
    "granitemoe",
    "granitemoe_untied_bias",
    "granitemoe_v5_llama3_shards",
    "granitemoehybrid",
    "granitemoeshared",
    "hunyuan_v1_moe",
    "jamba",
    "lfm2_moe",
    "llama4",
    "minimax_m2",
    "mixtral",
    "mixtral_bf16_shards",
    "nemotron_h",
    "olmoe",
    "phimoe",
    "qwen2_moe",
    "qwen3_5_moe",
    "qwen3_moe",
    "qwen3_next",
];

fn options(format: &str) -> ConvertOptions {
    let format = if format.is_empty() { HeldFormats::AsStored } else { format.parse().unwrap() };
    let backend = BackendOptions { threads: Some(2), ..BackendOptions::default() };
    ConvertOptions { backend, format, ..ConvertOptions::default() }
}

/// Writes `model` to a new file.
fn write(model: &Path, format: &str, dir: &tempfile::TempDir) -> PathBuf {
    let out = dir.path().join(format!("written-{format}.gguf"));
    let written = convert(model, &out, &options(format), &mut |_, _| ControlFlow::Continue(()));
    let written = written.unwrap_or_else(|error| panic!("{}: {error:?}", model.display())).unwrap();
    assert_eq!(written.bytes, std::fs::metadata(&out).unwrap().len());
    out
}

fn open(path: &Path, format: &str) -> Model {
    let ConvertOptions { backend, format, .. } = options(format);
    let options = OpenOptions { backend, format, ..OpenOptions::default() };
    Model::open(path, &options).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()))
}

fn logits(model: &mut Model, ids: &[Vec<u32>]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump.safetensors");
    model.score(ids, &ScoreOptions { dump: Some(&dump), routing: false }).unwrap();
    std::fs::read(dump).unwrap()
}

fn refusal(model: &Path, dir: &tempfile::TempDir) -> Error {
    let out = dir.path().join("refused.gguf");
    let error = convert(model, &out, &options(""), &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    assert!(!out.exists());
    error
}

fn names(dir: &tempfile::TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(dir.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn logits_of_a_written_file_have_the_bits_of_the_original() {
    /// A table of factors, rounded, stands for the words of the scaling; columns of a projection stand in another order.
    const ROUNDED: [&str; 2] = ["granitemoe_v5_llama3_shards", "qwen3_5_moe"];
    let ids = vec![vec![3, 17, 99, 4, 56, 23, 80, 1, 2], vec![5, 5, 5]];
    for name in WRITTEN {
        let (original, _) = sayable(name);
        let dir = tempfile::tempdir().unwrap();
        for format in ["", "f32", "q8_0"] {
            // Four bits stay four bits, which are held in bf16 where nothing is asked for; a gate of one row is a vector
            // in a GGUF file, and not rounded.
            if format == "q8_0" && ["gpt_oss_mxfp4", "qwen2_moe", "qwen3_next"].contains(&name) {
                continue;
            }
            let written = write(original.path(), format, &dir);
            let expected = logits(&mut open(original.path(), format), &ids);
            let mut model = open(&written, "");
            assert_eq!(model.info().unknown_tensors, [] as [&str; 0], "{name}");
            assert_eq!(model.info().unknown_keys, [] as [&str; 0], "{name}");
            assert!(ROUNDED.contains(&name) || logits(&mut model, &ids) == expected, "{name} {format}");
        }
    }
}

#[test]
fn greedy_text_of_a_written_file_is_that_of_the_original() {
    for name in WRITTEN {
        let (original, as_golden) = sayable(name);
        let dir = tempfile::tempdir().unwrap();
        let mut written = open(&write(original.path(), "f32", &dir), "");
        if as_golden {
            support::check_greedy_text(&mut written, name);
        } else {
            let theirs = gguf::texts(&mut open(original.path(), "f32"), name);
            assert_eq!(gguf::texts(&mut written, name), theirs, "{name}");
        }
    }
}

#[test]
fn every_family_is_written_but_those_without_an_architecture() {
    let kind = |dir: &Path| support::config(dir)["model_type"].as_str().unwrap().to_owned();
    let written: BTreeSet<_> = WRITTEN.iter().map(|name| kind(&golden(name))).collect();
    let all: BTreeSet<_> = support::goldens().iter().map(|dir| kind(dir)).collect();
    assert_eq!(all.difference(&written).collect::<Vec<_>>(), gguf::WITHOUT_ARCHITECTURE.each_ref());
}

#[test]
fn formats_are_written_as_they_are_held() {
    let tiny = support::tiny();
    let ids = vec![(200..260).collect()];
    for format in ["f16", "q8_0", "q4_k_m", "mxfp4"] {
        let dir = tempfile::tempdir().unwrap();
        let written = write(&tiny, format, &dir);
        let expected = logits(&mut open(&tiny, format), &ids);
        // As stored it would be held in bf16, whose kernels do not round activations.
        let held = if format == "mxfp4" { format } else { "" };
        assert!(logits(&mut open(&written, held), &ids) == expected, "{format}");
    }
}

#[test]
fn vocabulary_and_text_are_those_of_the_original() {
    let tiny = support::tiny();
    let dir = tempfile::tempdir().unwrap();
    let (written, original) = (open(&write(&tiny, "q4_k_m", &dir), ""), open(&tiny, ""));
    let (ours, theirs) = (written.tokenizer().unwrap(), original.tokenizer().unwrap());
    for text in ["Once upon a time, Lily's 12 dogs\n\n ran!", "  <|endoftext|> x", "ü€𝄞", ""] {
        assert_eq!(ours.encode(text, true).unwrap(), theirs.encode(text, true).unwrap(), "{text}");
    }
    assert_eq!(ours.vocab_size(), theirs.vocab_size());
    assert_eq!(ours.special_tokens(), theirs.special_tokens());
    assert_eq!(written.stop_tokens(), original.stop_tokens());
    assert_eq!((ours.bos_id(), ours.eos_id()), (theirs.bos_id(), theirs.eos_id()));
}

#[test]
fn a_gguf_file_is_written_anew_in_another_format() {
    let tiny = support::tiny();
    let dir = tempfile::tempdir().unwrap();
    let first = write(&tiny, "bf16", &dir);
    let second = write(&first, "q4_0", &dir);
    let ids = vec![(200..240).collect()];
    assert!(logits(&mut open(&second, ""), &ids) == logits(&mut open(&tiny, "q4_0"), &ids));
    let text = "Once upon a time";
    let [one, two] =
        [&second, &tiny].map(|path| open(path, "").tokenizer().unwrap().encode(text, true).unwrap());
    assert_eq!(one, two);
}

#[test]
fn what_gguf_cannot_hold_is_refused_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    for (name, expected) in [
        ("flex_olmo", "no architecture"),
        ("pangu_pro_moe", "no architecture"),
        ("mixtral_window", "window: Some("),
        ("qwen2_moe_v5_nobias", "window: Some(9)"),
        ("qwen2_moe_window_dense", ""),
        ("olmoe_clip_tied", ""),
        ("hunyuan_v1_moe", "layers with other numbers of experts per token (here 1 and 3)"),
        ("afmoe", "another layer without positions than every fourth (here layer 1 differs)"),
        ("llama4", ""),
        ("phimoe", "one factor for short and for long sequences"),
    ] {
        let error = refusal(&golden(name), &dir);
        assert_eq!(error.kind(), ErrorKind::Usage, "{name}: {error:?}");
        assert!(error.to_string().contains(expected), "{name}: {error}");
        assert!(error.hint().unwrap().contains("directory"), "{name}");
    }
    assert_eq!(names(&dir), [] as [&str; 0]);
}

#[test]
fn a_file_that_is_stopped_half_way_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a.gguf");
    let mut told = 0;
    let stopped = convert(support::tiny(), &out, &options("q4_0"), &mut |read, total| {
        told += 1;
        assert!(read <= total);
        if told < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(stopped.unwrap().is_none());
    assert_eq!(names(&dir), [] as [&str; 0]);
    std::fs::write(&out, "mine").unwrap();
    let error = convert(support::tiny(), &out, &options("q4_0"), &mut |_, _| ControlFlow::Continue(()));
    assert!(matches!(error, Err(Error::OutputExists(_))));
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
}
