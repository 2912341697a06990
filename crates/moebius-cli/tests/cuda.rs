//! The program with the CUDA backend, on machines with and without a GPU.
#![cfg(all(feature = "cuda", target_os = "linux"))]

use std::process::{Command, Output};

fn moebius(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moebius"));
    command.args(args).envs(variables.iter().copied()).output().expect("the program starts")
}

#[test]
fn the_program_asks_for_no_library_of_cuda_when_it_starts() {
    // The loader lists what a program needs and does not run it.
    let listed = moebius(&[], &[("LD_TRACE_LOADED_OBJECTS", "1")]);
    let libraries = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(libraries.contains("libc.so"), "{libraries}");
    for library in ["libcuda", "libcublas", "libcurand", "libcudart"] {
        assert!(!libraries.contains(library), "{libraries}");
    }
}

#[test]
fn without_a_driver_the_error_says_what_is_missing_and_what_runs_instead() {
    let done = moebius(&["run", "Once", "--backend", "cuda", "-n", "1"], &[]);
    if done.status.success() {
        return;
    }
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(error.contains("backend `cuda` cannot start") && error.contains("hint:"), "{error}");
    let doctor = moebius(&["doctor"], &[]);
    assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stderr));
}
