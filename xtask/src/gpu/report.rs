//! The text of `docs/gpu.md`.

use super::resources::Kernel;

/// Lines of output that are kept of what was run.
const KEPT_LINES: usize = 20;

pub(super) struct Report {
    pub(super) toolkit: String,
    pub(super) kernels: Vec<Kernel>,
    /// None where there is no GPU: then nothing was run.
    pub(super) device: Option<Device>,
    pub(super) outcomes: Vec<Outcome>,
    /// What was not run on the GPU, and why.
    pub(super) skipped: Vec<String>,
}

pub(super) struct Device {
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) date: String,
}

/// What became of a command on the GPU.
pub(super) struct Outcome {
    title: String,
    pub(super) command: String,
    pub(super) passed: bool,
    end: String,
}

impl Outcome {
    /// Keeps the end of what was printed, by a command that succeeded or one that failed.
    pub(super) fn new(title: &str, command: &str, printed: Result<String, String>) -> Self {
        let passed = printed.is_ok();
        let text = printed.unwrap_or_else(|text| text);
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(KEPT_LINES)..].join("\n");
        Outcome { title: title.into(), command: command.into(), passed, end }
    }
}

impl Report {
    pub(super) fn text(&self) -> String {
        let mut text = String::from(
            "# The CUDA backend\n\n`cargo xtask gpu` writes this page. On a machine with a GPU it also runs the \
             conformance suite, the goldens and the\nbenchmarks there.\n\n",
        );
        match &self.device {
            None => {
                text += "**Not run on a GPU yet.** The kernels were compiled and nothing was launched on a device: no \
                         conformance, no goldens, no\ncompute-sanitizer, no benchmarks, no comparison with transformers or candle.\n"
            }
            Some(Device { name, driver, date }) => {
                text += &format!("Run on {date} on one {name}, driver {driver}.\n");
                for Outcome { title, command, passed, end } in &self.outcomes {
                    let verdict = if *passed { "passed" } else { "**failed**" };
                    text += &format!("\n## {title}: {verdict}\n\n```text\n$ {command}\n{end}\n```\n");
                }
                for skipped in &self.skipped {
                    text += &format!("\nNot run: {skipped}.\n");
                }
            }
        }
        text += &format!(
            "\n## Kernels as compiled\n\nWith {}: registers of a thread, bytes of a thread that did not fit into \
             them, bytes of shared memory of a block.\nBlocks of wide kernels get theirs with the launch, 66 to 144 KiB, \
             which is not counted here.\n\n| kernel |",
            self.toolkit
        );
        let mut architectures: Vec<&str> = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for kernel in &self.kernels {
            for (list, item) in [(&mut architectures, &kernel.architecture), (&mut names, &kernel.name)] {
                if !list.contains(&item.as_str()) {
                    list.push(item);
                }
            }
        }
        architectures.iter().for_each(|architecture| text += &format!(" {architecture} |"));
        text += &format!("\n|---|{}\n", "---|".repeat(architectures.len()));
        for name in names {
            text += &format!("| `{name}` |");
            for architecture in &architectures {
                text += &format!(" {} |", self.cell(name, architecture));
            }
            text.push('\n');
        }
        text
    }

    fn cell(&self, name: &str, architecture: &str) -> String {
        let found = |kernel: &&Kernel| kernel.name == name && kernel.architecture == architecture;
        self.kernels.iter().find(found).map_or("n/a".into(), |kernel| {
            format!("{}, {}, {}", kernel.registers, kernel.spilled_bytes, kernel.shared_bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(device: Option<Device>, outcomes: Vec<Outcome>) -> String {
        let kernel = |name: &str, architecture: &str| Kernel {
            name: name.into(),
            architecture: architecture.into(),
            registers: 32,
            spilled_bytes: 4,
            shared_bytes: 2048,
        };
        let kernels = vec![kernel("glu", "sm_80"), kernel("rope", "sm_80"), kernel("glu", "sm_90")];
        let skipped = vec!["memcheck: it is not installed".into()];
        Report { toolkit: "CUDA 13.0".into(), kernels, device, outcomes, skipped }.text()
    }

    #[test]
    fn without_a_device_the_page_says_that_nothing_was_run() {
        let text = report(None, Vec::new());
        assert!(text.contains("Not run on a GPU yet"), "{text}");
        assert!(text.contains("| kernel | sm_80 | sm_90 |\n|---|---|---|\n"), "{text}");
        assert!(text.contains("| `glu` | 32, 4, 2048 | 32, 4, 2048 |\n"), "{text}");
        assert!(text.contains("| `rope` | 32, 4, 2048 | n/a |\n"), "{text}");
    }

    #[test]
    fn what_was_run_comes_with_its_device_its_verdict_and_the_end_of_its_output() {
        let device = Device { name: "H200".into(), driver: "580.1".into(), date: "2026-01-02".into() };
        let long: String = (0..50).map(|line| format!("line {line}\n")).collect();
        let outcomes = vec![
            Outcome::new("Conformance", "cargo test", Ok(long)),
            Outcome::new("Goldens", "cargo test", Err("off by one".into())),
        ];
        let text = report(Some(device), outcomes);
        assert!(text.contains("Run on 2026-01-02 on one H200, driver 580.1"), "{text}");
        assert!(text.contains("Conformance: passed") && text.contains("Goldens: **failed**"), "{text}");
        assert!(
            text.contains("line 49") && text.contains("line 30\n") && !text.contains("line 29\n"),
            "{text}"
        );
        assert!(!text.contains("Not run on a GPU"), "{text}");
        assert!(text.contains("Not run: memcheck: it is not installed."), "{text}");
    }
}
