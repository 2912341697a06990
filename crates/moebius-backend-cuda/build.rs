//! Compiles the kernels: to PTX with nvcc for a GPU, with the C++ compiler for the emulator.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files that are modules of their own.
const MODULES: [&str; 5] = ["attention", "products", "recurrence", "routing", "small"];

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile_for_gpu();
    }
    #[cfg(feature = "emulated")]
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .file("kernels/emulator.cpp")
        // The kernels round every product and sum, as nvcc is told to; fused ones are spelled.
        .flag("-ffp-contract=off")
        .compile("moebius_emulator");
}

/// PTX is compiled for the driver's GPU when it is loaded, so one architecture serves it and all later ones.
fn compile_for_gpu() {
    for variable in ["CUDA_COMPUTE_CAP", "CUDA_HOME", "NVCC"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to build"));
    for module in MODULES {
        let source = Path::new("kernels").join(module).with_extension("cu");
        let mut nvcc = Command::new(nvcc());
        nvcc.args(["-std=c++17", "-ptx", "-fmad=false"]).arg(format!("-arch=compute_{capability}"));
        nvcc.arg("-o").arg(out.join(module).with_extension("ptx")).arg(&source);
        let status = nvcc.status().unwrap_or_else(|error| {
            panic!(
                "`nvcc` does not start: {error}; the feature `cuda` needs a CUDA toolkit (set `CUDA_HOME`)"
            )
        });
        assert!(status.success(), "`{nvcc:?}` ended with {status}");
    }
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    env::var_os("CUDA_HOME").map_or_else(|| "nvcc".into(), |home| Path::new(&home).join("bin/nvcc"))
}
