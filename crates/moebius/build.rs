//! Takes in the files of `hardware/`, and refuses those with a figure that names no source.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

#[path = "src/plan/citations.rs"]
mod citations;

fn main() {
    println!("cargo::rerun-if-changed=hardware");
    println!("cargo::rerun-if-changed=src/plan/citations.rs");
    let dir = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("hardware");
    let mut paths: Vec<_> = fs::read_dir(&dir)
        .expect("the folder of hardware is there")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    let mut list = String::from("pub(super) const FILES: &[(&str, &str)] = &[\n");
    for path in &paths {
        let text = fs::read_to_string(path).expect("the file can be read");
        let table = text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if let Err(reason) = citations::check(&table) {
            panic!("{}: {reason}", path.display());
        }
        let name = path.file_name().expect("a file has a name").to_string_lossy();
        // Where the crate lies when it is compiled: a folder of builds may be older than the place of the sources.
        let place = format!("concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/hardware/\", {name:?})");
        writeln!(list, "    ({name:?}, include_str!({place})),").expect("a string can be written");
    }
    list += "];\n";
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("hardware.rs");
    fs::write(out, list).expect("the list can be written");
}
