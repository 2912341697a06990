//! A GGUF file: its header, what its metadata stands for, its vocabulary and its template.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moebius_fuzz::{Shared, Stand, open_file};

static STAND: Shared = Shared::new(|| Stand::new("model.gguf", &[]));

fuzz_target!(|input: &[u8]| open_file(&STAND, input));
