//! `cargo xtask gpu`: what the CUDA kernels need, and on a machine with a GPU whether they are right and how fast they
//! are; written to `docs/gpu.md`.
//!
//! Invariants: the report says what was run, where and when, and of nothing else that it works.

mod report;
mod resources;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Failure, ci};

use report::{Device, Outcome, Report};

/// The architectures whose resources are listed: A100, L4 and RTX 40, H100 and H200.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_89", "sm_90"];
/// Where the kernels are.
const KERNELS: &str = "crates/moebius-backend-cuda/kernels";
/// Where the report goes.
const REPORT: &str = "docs/gpu.md";

/// What is run on a GPU, besides the checks of compute-sanitizer: a title and a cargo command.
const ON_A_GPU: [(&str, &str); 4] = [
    ("Conformance on the device", "test --release -p moebius-backend-cuda --features cuda --test device"),
    ("Goldens of all families", "test --release -p moebius --features cuda --test device"),
    ("Benchmark", "run --release --features cuda -- bench --backend cuda"),
    (
        "Benchmark of a layer",
        "run --release --features cuda -- bench layer --backend cuda --tokens 1,16,512,2048",
    ),
];

/// The comparison with transformers and candle, after the program was built for the benchmarks.
const PEERS: [&str; 2] = ["python3", "benches/peers/gpu.py"];
/// What times candle's experts there.
const CANDLE: &str = "build --release -p moebius-benches --features cuda --bin candle_experts";

/// Compiles, runs what can be run, writes the report.
///
/// # Errors
/// No nvcc, a kernel that does not compile, a report that cannot be written, and something that failed on a GPU.
pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    let nvcc = nvcc()?;
    let mut report = Report {
        toolkit: version(&nvcc)?,
        kernels: Vec::new(),
        device: device(),
        outcomes: Vec::new(),
        skipped: Vec::new(),
    };
    for architecture in ARCHITECTURES {
        println!("==> {architecture}");
        for module in modules(root)? {
            let text = compile(root, &nvcc, architecture, &module)?;
            report.kernels.extend(resources::of(architecture, &text));
        }
    }
    if report.device.is_some() {
        report.outcomes.extend(ON_A_GPU.map(|(title, command)| on_gpu(root, title, command)));
        for outcome in [sanitizer(root, "memcheck"), sanitizer(root, "racecheck"), peers(root)] {
            match outcome {
                Ok(outcome) => report.outcomes.push(outcome),
                Err(skipped) => report.skipped.push(skipped),
            }
        }
    }
    let path = root.join(REPORT);
    std::fs::write(&path, report.text()).map_err(|err| {
        Failure::new(format!("cannot write `{}`: {err}", path.display()), "check that the folder is there")
    })?;
    println!("wrote {REPORT}");
    match report.outcomes.iter().find(|outcome| !outcome.passed) {
        None => Ok(()),
        Some(failed) => Err(Failure::new(
            format!("`{}` failed on the GPU", failed.command),
            format!("{REPORT} has the end of its output"),
        )),
    }
}

/// The compiler, where the build script of the backend looks for it.
fn nvcc() -> Result<PathBuf, Failure> {
    let home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let nvcc = env::var_os("NVCC").map(PathBuf::from).or(home).unwrap_or_else(|| "nvcc".into());
    let probe = Command::new(&nvcc).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if probe.is_ok_and(|status| status.success()) {
        return Ok(nvcc);
    }
    let error = format!("there is no CUDA compiler at `{}`", nvcc.display());
    Err(Failure::new(error, "install a CUDA toolkit and set CUDA_HOME to it"))
}

fn version(nvcc: &Path) -> Result<String, Failure> {
    let text = output(Command::new(nvcc).arg("--version"))?;
    let release = text.lines().find_map(|line| line.split("release ").nth(1));
    Ok(format!("CUDA {}", release.and_then(|rest| rest.split(',').next()).unwrap_or("n/a")))
}

fn modules(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |err: std::io::Error| {
        Failure::new(format!("cannot list `{KERNELS}`: {err}"), "is the checkout whole?")
    };
    let entries = std::fs::read_dir(root.join(KERNELS)).map_err(unreadable)?;
    let mut modules = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            modules.push(path);
        }
    }
    modules.sort();
    Ok(modules)
}

/// What ptxas says of a module's kernels.
fn compile(root: &Path, nvcc: &Path, architecture: &str, module: &Path) -> Result<String, Failure> {
    let out = root.join("target").join("xtask-gpu.cubin");
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-fmad=false", "-cubin", "-Xptxas", "-v", "-arch", architecture, "-o"]);
    output(command.arg(out).arg(module))
}

/// Both streams of a command that must succeed.
fn output(command: &mut Command) -> Result<String, Failure> {
    let shown = format!("{command:?}");
    let output = command
        .output()
        .map_err(|err| Failure::new(format!("`{shown}` does not start: {err}"), "is it installed?"))?;
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if output.status.success() {
        return Ok(text);
    }
    Err(Failure::new(format!("`{shown}` ended with {}", output.status), text))
}

/// The first GPU that the driver shows, if there is one.
fn device() -> Option<Device> {
    let mut query = Command::new("nvidia-smi");
    let text = output(query.args(["--query-gpu=name,driver_version", "--format=csv,noheader"])).ok()?;
    let (name, driver) = text.lines().next()?.split_once(", ")?;
    let date = output(Command::new("date").arg("+%F")).ok()?;
    Some(Device { name: name.trim().into(), driver: driver.trim().into(), date: date.trim().into() })
}

fn on_gpu(root: &Path, title: &str, line: &str) -> Outcome {
    println!("==> {title}");
    let mut command = ci::cargo_command(root);
    let result = output(command.args(line.split(' ')));
    Outcome::new(title, &format!("cargo {line}"), result.map_err(|failure| failure.hint))
}

/// The conformance suite under a tool of compute-sanitizer, or why it was not run.
fn sanitizer(root: &Path, tool: &str) -> Result<Outcome, String> {
    let title = format!("compute-sanitizer {tool}");
    if !starts(Command::new("compute-sanitizer").arg("--version")) {
        return Err(format!("{title}: it is not installed"));
    }
    println!("==> {tool}");
    let runner = format!("compute-sanitizer --tool {tool} --error-exitcode 1");
    let line = ON_A_GPU[0].1;
    let mut command = ci::cargo_command(root);
    command.args(line.split(' '));
    for target in ["X86_64", "AARCH64"] {
        command.env(format!("CARGO_TARGET_{target}_UNKNOWN_LINUX_GNU_RUNNER"), &runner);
    }
    let result = output(&mut command).map_err(|failure| failure.hint);
    Ok(Outcome::new(&title, &format!("{runner} (cargo {line})"), result))
}

/// The experts of transformers and of candle on the same device, or why they were not measured.
fn peers(root: &Path) -> Result<Outcome, String> {
    let (title, [python, script]) = ("Beside transformers and candle", PEERS);
    if !starts(Command::new(python).args(["-c", "import torch, transformers"])) {
        return Err(format!("{title}: `{python}` has no torch and transformers"));
    }
    let built = on_gpu(root, title, CANDLE);
    if !built.passed {
        return Ok(built);
    }
    let result = output(Command::new(python).arg(script).current_dir(root));
    Ok(Outcome::new(title, &PEERS.join(" "), result.map_err(|failure| failure.hint)))
}

/// Whether a command is there and succeeds.
fn starts(command: &mut Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
