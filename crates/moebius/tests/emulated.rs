//! Whole models on the CUDA backend's emulator, against the reference outputs.
#![cfg(feature = "emulated")]

mod support;

use moebius::{BackendOptions, Error, Model, Offload, OpenOptions};
use support::golden::{Golden, compare, dump};
use support::goldens;

fn options(offload: Offload) -> OpenOptions {
    let backend = BackendOptions { name: Some("emulated".into()), offload, ..BackendOptions::default() };
    OpenOptions { backend, ..OpenOptions::default() }
}

/// A golden of a family with experts in several layers.
fn mixture() -> std::path::PathBuf {
    let found = goldens().into_iter().find(|dir| dir.ends_with("qwen3_moe"));
    found.expect("there is a golden of it")
}

#[test]
fn experts_may_stay_with_the_processor_layer_by_layer() {
    let golden = Golden::open(&mixture());
    let plain = Model::open(mixture(), &options(Offload::default())).expect("it opens");
    let layers = plain.info().n_layers;
    assert!(!plain.backend().info().detail.contains("on cpu"));
    for cpu_layers in 0..=layers + 1 {
        let offload = Offload { cpu_layers: Some(cpu_layers), gpu_memory: None };
        let mut model = Model::open(mixture(), &options(offload)).expect("it opens");
        let detail = &model.backend().info().detail;
        assert!(detail.contains(&format!("experts of {cpu_layers} layers on cpu: ")), "{detail}");
        compare(&golden, &dump(&mut model, &golden.prompts()));
    }
}

#[test]
fn a_limit_of_memory_decides_before_loading_which_layers_stay() {
    let open =
        |bytes| Model::open(mixture(), &options(Offload { cpu_layers: None, gpu_memory: Some(bytes) }));
    let detail = |bytes| open(bytes).expect("it fits").backend().info().detail.clone();
    assert!(detail(1 << 40).contains("experts of 0 layers on cpu"), "{}", detail(1 << 40));
    let Some(Error::GpuMemory { needed_bytes, limit_bytes: 1 }) = open(1).err() else {
        panic!("one byte holds nothing");
    };
    assert!(open(needed_bytes - 1).is_err());
    let layers = open(needed_bytes).expect("it fits").info().n_layers;
    let least = detail(needed_bytes);
    assert!(least.contains(&format!("experts of {layers} layers on cpu")), "{least}");
}

#[test]
fn every_family_agrees_with_the_reference() {
    let options = options(Offload::default());
    for dir in goldens() {
        let golden = Golden::open(&dir);
        let mut model =
            Model::open(&dir, &options).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        compare(&golden, &dump(&mut model, &golden.prompts()));
    }
}
