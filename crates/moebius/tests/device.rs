//! Whole models on a GPU, against the reference outputs. `cargo xtask gpu` runs this.
#![cfg(feature = "cuda")]

mod support;

use moebius::{BackendOptions, Model, OpenOptions};
use support::golden::{Golden, compare, dump};
use support::goldens;

#[test]
fn every_family_agrees_with_the_reference() {
    let backend = BackendOptions { name: Some("cuda".into()), ..BackendOptions::default() };
    let options = OpenOptions { backend, ..OpenOptions::default() };
    for dir in goldens() {
        let golden = Golden::open(&dir);
        let mut model =
            Model::open(&dir, &options).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        compare(&golden, &dump(&mut model, &golden.prompts()));
    }
}
