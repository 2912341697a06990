//! A model's config.json, planned as far as it goes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moebius_fuzz::{Shared, Stand, open};

static STAND: Shared = Shared::new(|| Stand::new("config.json", &[]));

fuzz_target!(|input: &[u8]| open(&STAND, input));
