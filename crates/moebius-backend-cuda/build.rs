//! Compiles the kernels: to PTX with nvcc for a GPU, with the C++ compiler for the emulator.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files that are modules of their own.
const MODULES: [&str; 4] = ["attention", "recurrence", "routing", "small"];

/// Formats of weights, each of which is a module: what its kernels are called, and what it is called in them.
const FORMATS: [(&str, &str); 12] = [
    ("f32", "F32"),
    ("f16", "F16"),
    ("bf16", "Bf16"),
    ("q8_0", "Q8_0"),
    ("q4_0", "Q4_0"),
    ("q4_k", "Q4K"),
    ("q5_k", "Q5K"),
    ("q6_k", "Q6K"),
    ("q5_1", "Q5_1"),
    ("mxfp4", "Mxfp4"),
    ("iq4_xs", "Iq4Xs"),
    ("q2_k", "Q2K"),
];

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile_for_gpu();
    }
    #[cfg(feature = "emulated")]
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(1)
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
    println!("cargo::rustc-env=MOEBIUS_CUDA_MAJOR={}", cuda_major());
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to build"));
    link_the_runtime(&out);
    let files =
        MODULES.map(|module| (module, Path::new("kernels").join(module).with_extension("cu"), vec![]));
    let of_formats = FORMATS.map(|(name, kind)| {
        let mut defined = vec![format!("-DFORMAT={name}"), format!("-DFORMAT_TYPE={kind}")];
        if name == "f32" {
            defined.push("-DFORMAT_IS_PLAIN".into());
        }
        (name, PathBuf::from("kernels/one_format.cuh"), defined)
    });
    for (module, source, defined) in files.into_iter().chain(of_formats) {
        let mut nvcc = Command::new(nvcc());
        nvcc.args(["-std=c++17", "-ptx", "-fmad=false", "-x", "cu"])
            .arg(format!("-arch=compute_{capability}"));
        nvcc.args(defined).arg("-o").arg(out.join(module).with_extension("ptx")).arg(&source);
        let status = nvcc.status().unwrap_or_else(|error| {
            panic!(
                "`nvcc` does not start: {error}; the feature `cuda` needs a CUDA toolkit (set `CUDA_HOME`)"
            )
        });
        assert!(status.success(), "`{nvcc:?}` ended with {status}");
    }
}

/// The toolkit's major version, which names of its libraries end in.
fn cuda_major() -> u32 {
    let output = Command::new(nvcc()).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let release = text.split("release ").nth(1).and_then(|rest| rest.split('.').next()?.trim().parse().ok());
    release.unwrap_or_else(|| panic!("`nvcc --version` names no release: {text:?}"))
}

/// The runtime that candle's kernels call becomes a part of the program, and looks for the driver when it is used. The
/// driver's functions are defined in `late.rs`, but the linker still wants to see a library of that name, which is there
/// only where the driver is: an archive of nothing will do.
fn link_the_runtime(out: &Path) {
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        fs::write(out.join("libcuda.a"), "!<arch>\n").expect("cargo's folder can be written to");
        println!("cargo::rustc-link-search=native={}", out.display());
        if let Some(home) = env::var_os("CUDA_HOME") {
            for folder in ["lib64", "targets/x86_64-linux/lib", "lib"] {
                println!("cargo::rustc-link-search=native={}", Path::new(&home).join(folder).display());
            }
        }
        println!("cargo::rustc-link-lib=static=cudart_static");
    }
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    env::var_os("CUDA_HOME").map_or_else(|| "nvcc".into(), |home| Path::new(&home).join("bin/nvcc"))
}
