//! GGUF files in parts: what belongs together is read as one, from whichever part, and what does not is told.

mod support;

use std::path::{Path, PathBuf};

use moebius::{Model, OpenOptions};
use support::gguf::{Files, Whole};
use support::{assert_says, explained};
use tempfile::TempDir;

/// A directory with the parts of a model.
struct Parts {
    dir: TempDir,
    count: usize,
}

impl Parts {
    /// The file of a golden, its tensors dealt to as many parts as `counts` has, as many to each.
    fn of(name: &str, share: impl Fn(usize) -> usize, count: usize) -> Self {
        let parts = Parts { dir: tempfile::tempdir().unwrap(), count };
        for (number, part) in whole(name).parts(share, count).into_iter().enumerate() {
            std::fs::write(parts.path(number), part).unwrap();
        }
        parts
    }

    /// The path of a part, counted from 0.
    fn path(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("model-{:05}-of-{:05}.gguf", number + 1, self.count))
    }

    /// What is wrong with the model, seen from a part.
    #[track_caller]
    fn refusal(&self, number: usize) -> String {
        let error = Model::open(self.path(number), &OpenOptions::default()).err().expect("it is broken");
        explained(error)
    }
}

fn whole(name: &str) -> Whole {
    let files = Files::all();
    let (path, _) = files.list.iter().find(|(_, known)| known == name).unwrap();
    Whole::read(&std::fs::read(path).unwrap())
}

/// Three parts, tensors dealt in turn.
fn dealt(name: &str) -> Parts {
    Parts::of(name, |tensor| tensor % 3, 3)
}

fn open(path: &Path) -> Model {
    support::open(path, &OpenOptions::default()).unwrap_or_else(|error| panic!("{error:?}"))
}

#[test]
fn a_model_in_parts_is_the_model_from_whichever_part() {
    for name in ["olmoe", "lfm2_moe", "jamba"] {
        let parts = dealt(name);
        for number in 0..3 {
            let mut model = open(&parts.path(number));
            assert_eq!(model.info().unknown_tensors, [] as [&str; 0], "{name}");
            support::check_greedy_text(&mut model, name);
        }
    }
}

#[test]
fn parts_may_hold_one_tensor_or_none() {
    let tensors = whole("olmoe").tensors.len();
    // The first part says what the model is, and nothing more.
    let parts = Parts::of("olmoe", |tensor| tensor + 1, tensors + 1);
    support::check_greedy_text(&mut open(&parts.path(tensors)), "olmoe");
}

#[test]
fn a_part_alone_under_another_name_is_no_model() {
    let parts = dealt("olmoe");
    let alone = parts.dir.path().join("alone.gguf");
    std::fs::copy(parts.path(0), &alone).unwrap();
    let error = Model::open(&alone, &OpenOptions::default()).err().unwrap();
    assert_says(&explained(error), &["`split.count`: expected 1, got 3"]);
}

#[test]
fn a_missing_part_is_named() {
    for missing in 0..3 {
        let parts = dealt("olmoe");
        std::fs::remove_file(parts.path(missing)).unwrap();
        let name = format!("model-{:05}-of-00003.gguf", missing + 1);
        for number in (0..3).filter(|number| *number != missing) {
            assert_says(&parts.refusal(number), &["no part of the GGUF file at", &name]);
        }
    }
}

#[test]
fn a_part_in_the_place_of_another_is_told() {
    let parts = dealt("olmoe");
    std::fs::copy(parts.path(1), parts.path(2)).unwrap();
    assert_says(&parts.refusal(0), &["model-00003-of-00003.gguf", "`split.no`: expected 2, got 1"]);
}

#[test]
fn a_part_of_another_set_is_told() {
    let parts = dealt("olmoe");
    let others = [
        (Parts::of("olmoe", |tensor| tensor % 4, 4), "`split.count`: expected 3, got 4"),
        (dealt("lfm2_moe"), "`split.tensors.count`: expected"),
        // As many tensors, otherwise dealt.
        (Parts::of("olmoe", |tensor| (tensor + 1) % 3, 3), "in two parts of the file"),
    ];
    for (other, expected) in others {
        std::fs::copy(other.path(2), parts.path(2)).unwrap();
        assert_says(&parts.refusal(0), &["model-00003-of-00003.gguf", expected]);
    }
}

#[test]
fn names_that_promise_other_parts_are_told() {
    let parts = dealt("olmoe");
    let fewer = Parts { dir: tempfile::tempdir().unwrap(), count: 2 };
    for number in 0..2 {
        std::fs::copy(parts.path(number), fewer.path(number)).unwrap();
    }
    assert_says(&fewer.refusal(1), &["`split.count`: expected 2, got 3"]);
    for (name, expected) in [
        ("model-00004-of-00003.gguf", "expected part 1 to 3, got 4 of 3"),
        ("model-00000-of-00003.gguf", "expected part 1 to 3, got 0 of 3"),
        ("model-00001-of-99999.gguf", "expected part 1 to 4096, got 1 of 99999"),
    ] {
        let path = parts.dir.path().join(name);
        std::fs::copy(parts.path(0), &path).unwrap();
        let error = Model::open(&path, &OpenOptions::default()).err().unwrap();
        assert_says(&explained(error), &[expected]);
    }
}

#[test]
fn a_wrong_number_of_tensors_is_told() {
    let parts = dealt("olmoe");
    let mut shorter = whole("olmoe");
    let all = shorter.tensors.len();
    shorter.tensors.pop();
    for (number, part) in shorter.parts_of(|tensor| tensor % 3, 3, all).into_iter().enumerate() {
        std::fs::write(parts.path(number), part).unwrap();
    }
    let expected = format!("`split.tensors.count`: expected {}, got {all}", all - 1);
    assert_says(&parts.refusal(2), &[&expected]);
}
