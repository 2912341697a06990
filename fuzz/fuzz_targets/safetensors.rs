//! A checkpoint's file, its header above all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moebius_fuzz::{CONFIG, Shared, Stand, open};

static STAND: Shared = Shared::new(|| Stand::new("model.safetensors", &[("config.json", CONFIG)]));

fuzz_target!(|input: &[u8]| open(&STAND, input));
