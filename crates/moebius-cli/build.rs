//! Tells the program for which target and in which profile it was built.

fn main() {
    for name in ["TARGET", "PROFILE"] {
        let value = std::env::var(name).expect("cargo sets it for build scripts");
        println!("cargo::rustc-env=MOEBIUS_BUILD_{name}={value}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
