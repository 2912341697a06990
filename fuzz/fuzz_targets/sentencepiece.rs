//! A tokenizer.model of SentencePiece.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moebius_fuzz::{Shared, Stand, tokenize};

static STAND: Shared = Shared::new(|| Stand::new("tokenizer.model", &[]));

fuzz_target!(|input: &[u8]| tokenize(&STAND, input));
