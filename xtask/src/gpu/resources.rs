//! What ptxas says that a kernel needs.

/// The resources of a kernel on an architecture.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) name: String,
    pub(super) architecture: String,
    /// Of a thread.
    pub(super) registers: u32,
    /// Of a thread: what did not fit into registers.
    pub(super) spilled_bytes: u32,
    /// Of a block.
    pub(super) shared_bytes: u32,
}

/// Reads the lines of `ptxas -v`: for each kernel its name, its spills, its registers.
pub(super) fn of(architecture: &str, text: &str) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    let (mut name, mut spilled_bytes) = ("", 0);
    for line in text.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            name = rest.split('\'').next().unwrap_or_default();
        }
        if let Some(bytes) = before(line, " bytes spill stores") {
            spilled_bytes = bytes;
        }
        if let Some(registers) = before(line, " registers") {
            kernels.push(Kernel {
                name: name.into(),
                architecture: architecture.into(),
                registers,
                spilled_bytes,
                shared_bytes: before(line, " bytes smem").unwrap_or(0),
            });
        }
    }
    kernels
}

/// The number that stands before some words.
fn before(line: &str, words: &str) -> Option<u32> {
    line.split_once(words)?.0.split(' ').next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'attention' for 'sm_90'
ptxas info    : Function properties for attention
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 4608 bytes smem
ptxas info    : Compiling entry function 'glu' for 'sm_90'
ptxas info    : Function properties for glu
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers, used 0 barriers
";

    #[test]
    fn every_kernel_has_its_registers_spills_and_shared_memory() {
        let kernel = |name: &str, registers, spilled_bytes, shared_bytes| Kernel {
            name: name.into(),
            architecture: "sm_90".into(),
            registers,
            spilled_bytes,
            shared_bytes,
        };
        assert_eq!(of("sm_90", TEXT), [kernel("attention", 64, 4, 4608), kernel("glu", 20, 0, 0)]);
        assert_eq!(of("sm_90", "nvcc warning : nothing to see"), []);
    }
}
