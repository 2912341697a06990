//! What a loaded GGUF file takes in memory, as the system counts it. One test alone: it is about the whole process.
#![cfg(target_os = "linux")]

#[path = "support/gguf_bytes.rs"]
mod gguf_bytes;
mod support;

use moebius::OpenOptions;

/// Bytes of the process by the names that the system has for them.
fn memory(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn weights_are_in_memory_once_while_they_are_loaded_and_after_it() {
    /// What a process needs besides, and what is read around a page that is asked for.
    const SLACK_BYTES: usize = 20 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    std::fs::write(&path, gguf_bytes::of_experts(400)).unwrap();
    let file_bytes = path.metadata().unwrap().len() as usize;
    assert!(file_bytes > 3 * SLACK_BYTES, "{file_bytes} bytes are not enough to tell one copy from two");
    let before = memory("VmRSS");
    // From here on the peak is that of loading.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let model = support::open(&path, &OpenOptions::default()).unwrap();
    let (peak, after) = (memory("VmHWM") - before, memory("VmRSS") - before);
    assert!(peak < file_bytes + SLACK_BYTES, "{peak} bytes at the most for a file of {file_bytes}");
    assert!(after < file_bytes + SLACK_BYTES, "{after} bytes in the end for a file of {file_bytes}");
    drop(model);
}
