//! Checkpoints of plain numbers that moebius writes for other programs, read back: against the models that they were made
//! from.

mod support;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use moebius::{
    BackendOptions, ConvertOptions, Error, ErrorKind, HeldFormats, Model, OpenOptions, ScoreOptions, convert,
};
use serde_json::Value;
use support::{Scratch, golden, goldens};

/// GGUF files of these are written back; what others hold has another form there.
const BACK: [&str; 16] = [
    "bailing_moe_v2",
    "deepseek_v2",
    "deepseek_v3",
    "dots1",
    "ernie4_5_moe",
    "glm4_moe",
    "gpt_oss",
    "granitemoe",
    "granitemoeshared",
    "hunyuan_v1_moe",
    "lfm2_moe",
    "minimax_m2",
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
];

fn held(format: &str) -> HeldFormats {
    if format.is_empty() { HeldFormats::AsStored } else { format.parse().unwrap() }
}

fn options(format: &str, file_bytes: Option<u64>) -> ConvertOptions {
    let backend = BackendOptions { threads: Some(2), ..BackendOptions::default() };
    ConvertOptions { backend, format: held(format), unpacked: true, file_bytes }
}

/// Writes `model` to a new directory.
fn write(model: &Path, format: &str, dir: &tempfile::TempDir) -> PathBuf {
    let out = dir.path().join(format!("written-{format}"));
    let written = convert(model, &out, &options(format, None), &mut |_, _| ControlFlow::Continue(()));
    let written = written.unwrap_or_else(|error| panic!("{}: {error:?}", model.display())).unwrap();
    assert_eq!(written.bytes, out.join("model.safetensors").metadata().unwrap().len());
    out
}

fn logits(path: &Path, format: &str, ids: &[Vec<u32>]) -> Vec<u8> {
    let backend = BackendOptions { threads: Some(2), ..BackendOptions::default() };
    let options = OpenOptions { backend, format: held(format), ..OpenOptions::default() };
    let opened = Model::open(path, &options);
    let mut model = opened.unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump.safetensors");
    model.score(ids, &ScoreOptions { dump: Some(&dump), routing: false }).unwrap();
    std::fs::read(dump).unwrap()
}

fn ids() -> Vec<Vec<u32>> {
    vec![vec![3, 17, 99, 4, 56, 23, 80, 1, 2], vec![5, 5, 5]]
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_checkpoint_in_f32_says_what_the_original_says() {
    for original in goldens() {
        let dir = tempfile::tempdir().unwrap();
        let written = write(&original, "f32", &dir);
        assert!(logits(&written, "", &ids()) == logits(&original, "f32", &ids()), "{}", original.display());
    }
}

#[test]
fn plain_numbers_are_rounded_as_they_are_held() {
    for (name, format) in [("olmoe_clip_tied", "bf16"), ("gpt_oss_mxfp4", "bf16"), ("deepseek_v3_fp8", "f16")]
    {
        let dir = tempfile::tempdir().unwrap();
        let written = write(&golden(name), format, &dir);
        let config: Value =
            serde_json::from_slice(&std::fs::read(written.join("config.json")).unwrap()).unwrap();
        let dtype = config.get("dtype").or(config.get("torch_dtype")).unwrap();
        assert_eq!(dtype, if format == "bf16" { "bfloat16" } else { "float16" });
        assert!(config.get("quantization_config").is_none());
        let bytes = std::fs::read(written.join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let expected = if format == "bf16" { safetensors::Dtype::BF16 } else { safetensors::Dtype::F16 };
        assert!(tensors.tensors().iter().all(|(_, tensor)| tensor.dtype() == expected), "{name}");
        assert!(!tensors.names().iter().any(|name| name.ends_with("_scales") || name.contains("_scale_inv")));
    }
}

#[test]
fn gguf_files_become_checkpoints_again() {
    for name in BACK {
        let original = golden("").join(format!("../goldens-gguf/{name}.gguf"));
        let dir = tempfile::tempdir().unwrap();
        let written = write(&original, "f32", &dir);
        assert!(logits(&written, "", &ids()) == logits(&original, "f32", &ids()), "{name}");
        let tensors = |path: PathBuf| {
            let bytes = std::fs::read(path).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let mut shapes: Vec<_> =
                tensors.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect();
            shapes.sort();
            shapes
        };
        assert_eq!(
            tensors(written.join("model.safetensors")),
            tensors(golden(name).join("model.safetensors")),
            "{name}"
        );
    }
}

#[test]
fn blocks_are_multiplied_out_and_the_vocabulary_comes_along() {
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("a.gguf");
    let gguf = ConvertOptions { unpacked: false, ..options("q4_k_m", None) };
    convert(support::tiny(), &packed, &gguf, &mut |_, _| ControlFlow::Continue(())).unwrap().unwrap();
    let written = write(&packed, "f32", &dir);
    assert!(logits(&written, "", &ids()) == logits(&packed, "f32", &ids()));
    let tokens = |path: &Path| {
        let tokenizer = moebius::text::Tokenizer::from_dir(path).unwrap();
        tokenizer.encode("Once upon a time, 12 dogs\n", true).unwrap()
    };
    assert_eq!(tokens(&written), tokens(&support::tiny()));
}

#[test]
fn large_checkpoints_are_cut_into_files_with_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a");
    let written =
        convert(
            golden("mixtral"),
            &out,
            &options("f32", Some(40_000)),
            &mut |_, _| ControlFlow::Continue(()),
        );
    let written = written.unwrap().unwrap();
    let files: Vec<_> = names(&out).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
    assert!(
        files.len() > 3 && files[0] == format!("model-00001-of-{:05}.safetensors", files.len()),
        "{files:?}"
    );
    let size = |name: &String| out.join(name).metadata().unwrap().len();
    assert_eq!(files.iter().map(size).sum::<u64>(), written.bytes);
    assert!(files.iter().map(size).filter(|&bytes| bytes > 50_000).count() <= 1, "one tensor may be larger");
    assert!(logits(&out, "", &ids()) == logits(&golden("mixtral"), "f32", &ids()));
}

#[test]
fn what_cannot_be_written_is_refused_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = |model: &Path, out: &str, format: &str| -> Error {
        let out = dir.path().join(out);
        let error = convert(model, out, &options(format, None), &mut |_, _| ControlFlow::Continue(()));
        let error = error.unwrap_err();
        assert_eq!(names(dir.path()), [] as [&str; 0], "{error}");
        error
    };
    for (format, expected) in [("q4_0", "got q4_0"), ("", "got as stored"), ("q4_k_m", "got q4_k_m")] {
        let error = refusal(&golden("mixtral"), "a", format);
        assert!(error.kind() == ErrorKind::Usage && error.to_string().contains(expected), "{error}");
    }
    let error = refusal(&golden("mixtral"), "a.gguf", "f32");
    assert!(matches!(error, Error::Unpacked("a directory", _)), "{error}");
    // Rates instead of their logarithms.
    let gguf = tempfile::tempdir().unwrap();
    let source = gguf.path().join("a.gguf");
    let options = ConvertOptions { unpacked: false, ..options("f32", None) };
    convert(golden("granitemoehybrid"), &source, &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let error = refusal(&source, "a", "f32");
    assert!(error.to_string().contains("in another form") && error.hint().is_some(), "{error}");
    let scratch = Scratch::of("mixtral");
    scratch.edit_tensors("model.safetensors", |tensors| {
        support::find(tensors, "lm_head.weight").bytes[..4].copy_from_slice(&1e5f32.to_le_bytes());
    });
    let error = support::explained(refusal(scratch.path(), "a", "f16"));
    assert!(error.contains("f16 has no number as large as 100000"), "{error}");
}

#[test]
fn a_checkpoint_that_is_stopped_half_way_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut told = 0;
    let stopped =
        convert(golden("mixtral"), dir.path().join("a"), &options("f32", None), &mut |read, total| {
            told += 1;
            assert!(read <= total);
            if told < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    assert!(stopped.unwrap().is_none());
    assert_eq!(names(dir.path()), [] as [&str; 0]);
}
