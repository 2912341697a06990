//! Every rule, shown to fire: a small clean workspace is broken in one place at a time.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::{Finding, check};

/// A workspace on disk that is thrown away with the value.
struct Repo {
    folder: TempDir,
}

impl Repo {
    /// One file for each rule that could fire, and none that does.
    fn clean() -> Self {
        let repo = Self { folder: tempfile::tempdir().expect("a temporary folder can be made") };
        repo.write("Cargo.toml", "[workspace]\nmembers = [\"crates/*\"]\n");
        repo.write("README.md", "Run the tests with `cargo test --workspace`.\n");
        repo.write(".ci/run", "set -e\ncargo test --workspace\n");
        for name in ["moebius-router", "moebius-metering", "moebius", "moebius-cli"] {
            repo.package(name, "");
            repo.source(&format!("{name}/src/lib.rs"), "#![forbid(unsafe_code)]\n");
        }
        repo.package(
            "moebius-expert-kernels",
            "[dependencies]\nhalf = \"2\"\n[dev-dependencies]\nproptest = \"1\"\n",
        );
        repo.source(
            "moebius-expert-kernels/src/lib.rs",
            "#![deny(unsafe_code)]\n#[allow(unsafe_code)]\nmod arch;\n",
        );
        repo.source("moebius-expert-kernels/src/arch/avx2.rs", "pub unsafe fn dot() {}\n");
        repo.package("moebius-backend", "[dependencies]\nmoebius-expert-kernels.workspace = true\n");
        repo.source(
            "moebius-backend/src/lib.rs",
            "#![forbid(unsafe_code)]\npub use moebius_expert_kernels::WeightFormat;\n",
        );
        repo.package("moebius-backend-cpu", "[dependencies]\nmoebius-backend.workspace = true\n[dev-dependencies]\nmoebius-conformance.workspace = true\n");
        repo.source(
            "moebius-backend-cpu/src/lib.rs",
            "#![forbid(unsafe_code)]\n#[cfg(feature = \"huge-pages\")]\nmod huge_pages;\n",
        );
        repo.package("moebius-model", "[dependencies]\nmoebius-backend.workspace = true\n");
        repo.source("moebius-model/src/lib.rs", "#![deny(unsafe_code)]\nmod checkpoint;\n");
        repo.source(
            "moebius-model/src/checkpoint/mmap.rs",
            "#![allow(unsafe_code)]\npub unsafe fn map() {}\n",
        );
        repo.source(
            "moebius-model/src/families/mixtral.rs",
            "fn load() { std::fs::read(\"config.json\"); }\n",
        );
        repo.package("moebius-engine", "[dependencies]\nmoebius-model.workspace = true\n");
        repo.source(
            "moebius-engine/src/lib.rs",
            "#![forbid(unsafe_code)]\n#[cfg(test)]\nmod tests { fn a() { b().unwrap(); } }\n",
        );
        repo
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("the folder can be made");
        fs::write(path, text).expect("the file can be written");
    }

    fn append(&self, path: &str, text: &str) {
        let old = fs::read_to_string(self.folder.path().join(path)).expect("the file exists");
        self.write(path, &(old + text));
    }

    fn package(&self, name: &str, rest: &str) {
        let text = format!("[package]\nname = \"{name}\"\n\n[lints]\nworkspace = true\n\n{rest}");
        self.write(&format!("crates/{name}/Cargo.toml"), &text);
    }

    fn source(&self, path: &str, code: &str) {
        self.write(&format!("crates/{path}"), &format!("//! What it is.\n{code}"));
    }

    fn findings(&self) -> Vec<Finding> {
        check(self.folder.path()).expect("the workspace can be read")
    }

    /// Exactly one finding, of this rule, at this place.
    #[track_caller]
    fn finds(&self, rule: &str, place: &str) {
        let found: Vec<_> =
            self.findings().iter().map(|f| format!("{}:{} {}", f.path, f.line, f.rule)).collect();
        assert_eq!(found, [format!("{place} {rule}")]);
    }
}

/// The clean workspace with `code` added to a file of `crates/`, and what must be found on its first line.
#[track_caller]
fn adding(path: &str, code: &str, rule: &str) {
    let repo = Repo::clean();
    let path = format!("crates/{path}");
    let old = fs::read_to_string(repo.folder.path().join(&path)).expect("the file exists");
    repo.append(&path, code);
    repo.finds(rule, &format!("{path}:{}", old.lines().count() + 1));
}

/// The clean workspace with one dependency more.
#[track_caller]
fn depending(package: &str, section: &str, line: &str) {
    let repo = Repo::clean();
    repo.package(package, &format!("[{section}]\n{line}\n"));
    repo.finds("arrows", &format!("crates/{package}/Cargo.toml:8"));
}

#[test]
fn the_clean_workspace_has_no_finding() {
    assert_eq!(Repo::clean().findings(), []);
}

#[test]
fn this_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace root");
    let findings = check(root).expect("the workspace can be read");
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

#[test]
fn a_finding_prints_its_place_what_it_is_and_a_hint() {
    let repo = Repo::clean();
    repo.append("crates/moebius-router/src/lib.rs", "fn f() { todo!() }\n");
    assert_eq!(
        repo.findings()[0].to_string(),
        "crates/moebius-router/src/lib.rs:3: `moebius-router` may not name `todo!` (unfinished); \
         hint: finish it or leave it out"
    );
}

#[test]
fn a_leaf_depends_on_nothing_but_its_list() {
    depending("moebius-router", "dependencies", "candle-core.workspace = true");
    depending("moebius-router", "dependencies", "moebius-metering.workspace = true");
    depending("moebius-metering", "build-dependencies", "cc = \"1\"");
    depending("moebius-expert-kernels", "dev-dependencies", "candle-core.workspace = true");
}

#[test]
fn the_model_depends_on_no_backend() {
    depending("moebius-model", "dependencies", "moebius-backend-cpu.workspace = true");
    depending("moebius-model", "target.'cfg(unix)'.dependencies", "moebius-backend-cuda.workspace = true");
}

#[test]
fn a_backend_depends_on_neither_model_nor_engine_nor_another_backend() {
    depending("moebius-backend-cpu", "dependencies", "moebius-model.workspace = true");
    depending("moebius-backend-cpu", "dependencies", "moebius-engine.workspace = true");
    depending("moebius-backend-cpu", "dependencies", "moebius-backend-cuda.workspace = true");
    depending("moebius-backend-cpu", "dev-dependencies", "moebius-backend-cuda.workspace = true");
}

#[test]
fn the_engine_depends_on_no_text_and_no_files() {
    depending("moebius-engine", "dependencies", "tokenizers.workspace = true");
    depending("moebius-engine", "dependencies", "memmap2.workspace = true");
}

#[test]
fn the_command_line_depends_on_no_backend_and_no_tensors() {
    depending("moebius-cli", "dependencies", "moebius-backend-cpu.workspace = true");
    depending("moebius-cli", "dependencies", "candle-core.workspace = true");
}

#[test]
fn the_conformance_suite_is_for_tests_only() {
    depending("moebius-backend-cpu", "dependencies", "moebius-conformance.workspace = true");
}

#[test]
fn a_renamed_dependency_counts_as_what_it_stands_for() {
    depending("moebius-router", "dependencies", "quick = { package = \"moebius-metering\", path = \"x\" }");
    let repo = Repo::clean();
    repo.append(
        "Cargo.toml",
        "[workspace.dependencies]\nhalf = { package = \"moebius-model\", path = \"x\" }\n",
    );
    repo.finds("arrows", "crates/moebius-expert-kernels/Cargo.toml:8");
}

#[test]
fn a_crate_without_a_row_is_found() {
    let repo = Repo::clean();
    repo.package("moebius-extra", "");
    repo.finds("arrows", "crates/moebius-extra/Cargo.toml:2");
}

#[test]
fn a_crate_that_does_not_inherit_the_lints_is_found() {
    let repo = Repo::clean();
    repo.write("crates/moebius-router/Cargo.toml", "[package]\nname = \"moebius-router\"\n");
    repo.finds("arrows", "crates/moebius-router/Cargo.toml:1");
}

#[test]
fn a_folder_and_its_crate_share_one_name() {
    let repo = Repo::clean();
    repo.write(
        "crates/server/Cargo.toml",
        "[package]\nname = \"moebius-server\"\n[lints]\nworkspace = true\n",
    );
    repo.finds("arrows", "crates/server/Cargo.toml:2");
}

#[test]
fn the_model_has_no_cargo_features() {
    let repo = Repo::clean();
    repo.package(
        "moebius-model",
        "[features]
cuda = []
",
    );
    repo.finds("arrows", "crates/moebius-model/Cargo.toml:7");
}

#[test]
fn a_leaf_does_no_io() {
    adding("moebius-router/src/lib.rs", "use std::{fmt, fs};\n", "leaf-io");
    adding("moebius-router/src/lib.rs", "fn f() { std::env::args(); }\n", "leaf-io");
    adding("moebius-metering/src/lib.rs", "use std::net::TcpStream;\n", "leaf-io");
    adding("moebius-metering/src/lib.rs", "fn f() { println!(\"{}\", 1); }\n", "print");
    adding("moebius-expert-kernels/src/arch/avx2.rs", "use candle_core::Tensor;\n", "leaf-candle");
}

#[test]
fn the_model_names_no_device_no_backend_and_no_feature() {
    adding("moebius-model/src/families/mixtral.rs", "fn f() { Device::Cuda(0); }\n", "model-device");
    adding("moebius-model/src/lib.rs", "fn f(d: &Device) { d.is_metal(); }\n", "model-device");
    adding("moebius-model/src/lib.rs", "use moebius_backend_cpu::CpuBackend;\n", "backend-name");
    adding("moebius-model/src/lib.rs", "#[cfg(feature = \"cuda\")]\nmod cuda;\n", "feature-path");
}

#[test]
fn the_engine_reads_no_files() {
    adding("moebius-engine/src/lib.rs", "use std::fs::File;\n", "engine-ids-only");
    adding("moebius-engine/src/lib.rs", "use tokenizers::Tokenizer;\n", "engine-ids-only");
}

#[test]
fn a_backend_names_no_layer_above_it() {
    adding("moebius-backend-cpu/src/lib.rs", "use moebius_engine::Engine;\n", "backend-layers");
}

#[test]
fn the_contract_shares_the_weight_format_alone_with_the_kernels() {
    adding("moebius-backend/src/lib.rs", "use moebius_expert_kernels::gemv;\n", "kernels-format");
}

#[test]
fn only_the_facade_names_backends_and_reads_the_environment() {
    adding("moebius-cli/src/lib.rs", "use moebius_backend_cuda::CudaBackend;\n", "backend-name");
    adding("moebius-cli/src/lib.rs", "fn f() { std::env::var_os(\"HOME\"); }\n", "environment");
    adding("moebius-model/src/lib.rs", "use std::env::{self, vars};\n", "environment");
    let repo = Repo::clean();
    repo.append(
        "crates/moebius/src/lib.rs",
        "use moebius_backend_cpu::Cpu;\nfn f() { std::env::var(\"HOME\"); }\n",
    );
    assert_eq!(repo.findings(), []);
}

#[test]
fn a_feature_chooses_no_path() {
    adding("moebius/src/lib.rs", "fn f() -> bool { cfg!(feature = \"cuda\") }\n", "feature-path");
    adding("moebius/src/lib.rs", "fn f() -> bool { cfg!(any(unix, feature = \"cuda\")) }\n", "feature-path");
    adding("moebius/src/lib.rs", "#[cfg(not(feature = \"cuda\"))]\nfn f() {}\n", "feature-path");
}

#[test]
fn unsafe_stays_in_its_places() {
    adding("moebius-expert-kernels/src/lib.rs", "fn f() { unsafe { g() } }\n", "unsafe");
    adding("moebius-model/src/lib.rs", "unsafe impl Send for X {}\n", "unsafe");
    adding("moebius-model/src/lib.rs", "#[expect(unsafe_code)]\nmod other;\n", "unsafe");
    adding("moebius-backend-cpu/src/lib.rs", "#[cfg(test)] mod tests { unsafe fn f() {} }\n", "unsafe");
}

#[test]
fn every_crate_root_refuses_unsafe() {
    let repo = Repo::clean();
    repo.source("moebius-router/src/lib.rs", "#![deny(unsafe_code)]\n");
    repo.finds("unsafe", "crates/moebius-router/src/lib.rs:1");
    let repo = Repo::clean();
    repo.source("moebius-model/src/lib.rs", "mod checkpoint;\n");
    repo.finds("unsafe", "crates/moebius-model/src/lib.rs:1");
}

#[test]
fn library_code_does_not_unwrap() {
    adding("moebius-engine/src/lib.rs", "fn f() { g().unwrap(); }\n", "unwrap");
}

#[test]
fn unfinished_code_is_found() {
    adding("moebius/src/lib.rs", "fn f() { unimplemented!() }\n", "unfinished");
    adding("moebius/src/lib.rs", "fn f() { dbg!(1); }\n", "unfinished");
    adding("moebius/src/lib.rs", "// FIXME\n", "leftover");
}

#[test]
fn tests_are_not_ignored_and_do_not_sleep() {
    adding("moebius/src/lib.rs", "#[ignore = \"slow\"]\nfn f() {}\n", "ignored-test");
    adding("moebius/src/lib.rs", "/// ```ignore\nfn f() {}\n", "ignored-test");
    adding("moebius/src/lib.rs", "#[cfg(test)] fn f() { std::thread::sleep(x) }\n", "sleeping-test");
}

#[test]
fn a_module_that_is_declared_for_tests_is_not_shipping_code() {
    let repo = Repo::clean();
    repo.append("crates/moebius/src/lib.rs", "mod eval;\n");
    repo.source("moebius/src/eval.rs", "mod oracle;\n");
    repo.source("moebius/src/eval/oracle.rs", "fn f() { g().unwrap(); }\n");
    repo.finds("unwrap", "crates/moebius/src/eval/oracle.rs:2");
    repo.source("moebius/src/eval.rs", "#[cfg(test)]\nmod oracle;\n");
    assert_eq!(repo.findings(), []);
}

#[test]
fn words_in_comments_and_strings_are_not_code() {
    let repo = Repo::clean();
    repo.append(
        "crates/moebius-router/src/lib.rs",
        "// unsafe std::fs candle_core\nconst A: &str = \"println!(unsafe)\";\n",
    );
    assert_eq!(repo.findings(), []);
}

#[test]
fn a_file_starts_with_a_header() {
    let repo = Repo::clean();
    repo.write("crates/moebius/src/other.rs", "fn f() {}\n");
    repo.finds("header", "crates/moebius/src/other.rs:1");
}

#[test]
fn paths_of_one_machine_are_found() {
    let repo = Repo::clean();
    repo.write("models/README.md", &format!("Made in\n{}/models.\n", concat!("/ho", "me/me")));
    repo.finds("machine-path", "models/README.md:2");
}

#[test]
fn the_readme_and_the_ci_give_the_test_command() {
    for path in ["README.md", ".ci/run"] {
        let repo = Repo::clean();
        repo.write(path, "cargo test --workspace --release\n");
        repo.finds("test-command", &format!("{path}:1"));
    }
}

#[test]
fn tripwires_fire_one_above_their_limit() {
    let lines = |n: usize| "//! What it is.\n".repeat(n);
    let function = |n: usize| format!("//! What it is.\nfn long() {{{}}}\n", "\n".repeat(n - 1));
    let params = |n: usize| format!("//! What it is.\nfn wide({}) {{}}\n", "a: Vec<(u8, u8)>, ".repeat(n));
    for (path, at_limit, above, rule, line) in [
        ("moebius/src/big.rs", lines(500), lines(501), "file-lines", 501),
        ("moebius-model/src/families/big.rs", lines(350), lines(351), "family-lines", 351),
        ("moebius/src/long.rs", function(70), function(71), "function-lines", 2),
        ("moebius/src/wide.rs", params(5), params(6), "parameters", 2),
    ] {
        let repo = Repo::clean();
        let path = format!("crates/{path}");
        repo.write(&path, &at_limit);
        assert_eq!(repo.findings(), [], "{rule}");
        repo.write(&path, &above);
        repo.finds(rule, &format!("{path}:{line}"));
    }
}

#[test]
fn a_receiver_is_no_parameter() {
    let repo = Repo::clean();
    let method =
        |receiver: &str| format!("impl X {{ fn f({receiver}, a: A, b: B, c: C, d: D, e: E) {{}} }}\n");
    for receiver in ["self", "&self", "&'a mut self", "self: Arc<Self>"] {
        repo.source("moebius/src/wide.rs", &method(receiver));
        assert_eq!(repo.findings(), [], "{receiver}");
    }
    repo.source("moebius/src/wide.rs", &method("selfish: B"));
    assert_eq!(repo.findings().len(), 1);
}

#[test]
fn a_trait_chooses_the_parameters_of_its_implementations() {
    let repo = Repo::clean();
    repo.source("moebius/src/wide.rs", "impl Op for X { fn wide(a: A, b: B, c: C, d: D, e: E, f: F) {} }\n");
    assert_eq!(repo.findings(), []);
}

const WIDE: &str = "fn wide(a: A, b: B, c: C, d: D, e: E, f: F) {}\n";

#[test]
fn the_allow_list_excuses_exactly_what_it_names() {
    let repo = Repo::clean();
    repo.source("moebius/src/wide.rs", WIDE);
    let entry = "[[allow]]\nrule = \"parameters\"\npath = \"crates/moebius/src/wide.rs\"\nfunction = \"wide\"\nreason = \"the formula has six\"\n";
    repo.write("xtask/tidy-allow.toml", entry);
    assert_eq!(repo.findings(), []);
    repo.write("xtask/tidy-allow.toml", &entry.replace("the formula has six", " "));
    assert_eq!(repo.findings().len(), 2, "without a reason neither the entry nor the function passes");
    repo.write("xtask/tidy-allow.toml", &format!("# Why.\n{}", entry.replace("\"wide\"", "\"other\"")));
    assert_eq!(repo.findings().len(), 2, "another function is not excused, and the entry is unused");
    repo.write("xtask/tidy-allow.toml", entry);
    repo.source("moebius/src/wide.rs", "");
    repo.finds("allow-list", "xtask/tidy-allow.toml:1");
}

#[test]
fn the_allow_list_excuses_sizes_only() {
    let repo = Repo::clean();
    repo.write("xtask/tidy-allow.toml", "[[allow]]\nrule = \"unsafe\"\npath = \"a\"\nreason = \"b\"\n");
    repo.finds("allow-list", "xtask/tidy-allow.toml:1");
}
