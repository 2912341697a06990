//! One backend's part of a comparison: what it said to a prompt, to the bit, and what that took.
//!
//! Invariants: models are compared one after another, so that one is in memory at a time; two runs with one digest have
//! the same tokens and, at every position, the same bits of all logits.

use std::path::Path;

use moebius_engine::SamplingParams;
use sha2::{Digest, Sha256};

use crate::declared::{Balance, Profile};
use crate::{GenerateOptions, Model, OpenOptions, Prompt, Result, ScoreOptions, Summary, memory};

/// What one backend gave and took.
#[derive(Clone, Debug)]
pub struct ComparedRun {
    /// The backend's name.
    pub backend: &'static str,
    /// What it runs on.
    pub detail: String,
    /// The generation, with its times and counts.
    pub summary: Summary,
    /// The most memory that the process held while it was opened and ran, where the system tells.
    pub peak_bytes: Option<u64>,
    /// Of the tokens and of all logits.
    pub digest: [u8; 32],
    /// The hardware that is declared, if some is.
    pub profile: Option<Profile>,
    /// How even its devices' loads were, over prompt and generation, layer by layer; empty for one device.
    pub balance: Vec<(usize, Balance)>,
}

/// Opens the model in `dir`, lets it continue `prompt` by `tokens` tokens greedily, and looks at all logits of the text
/// that came out.
///
/// # Errors
/// Those of [`Model::open`] and [`Model::generate`].
pub fn run_to_compare(
    dir: &Path,
    options: &OpenOptions,
    (prompt, tokens): (Prompt<'_>, usize),
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<ComparedRun> {
    // What an earlier run has freed is not this one's.
    moebius_backend_cpu::give_back_freed_memory();
    memory::forget_peak();
    let mut model = Model::open_with_progress(dir, options, progress)?;
    let generate = GenerateOptions {
        max_tokens: Some(tokens),
        sampling: Some(SamplingParams::default()),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let mut generation = model.generate(prompt, &generate)?;
    generation.by_ref().try_for_each(|piece| piece.map(drop))?;
    let summary = generation.finish();
    let peak_bytes = memory::peak_bytes();
    let declared = model.declared();
    let (profile, balance) = (
        declared.map(|declared| declared.profile().clone()),
        declared.map(|declared| declared.balance().into_iter().collect()).unwrap_or_default(),
    );
    let info = model.backend().info();
    let (backend, detail) = (info.name, info.detail.clone());
    let digest = digest(&mut model, [&summary.prompt[..], &summary.tokens].concat())?;
    Ok(ComparedRun { backend, detail, summary, peak_bytes, digest, profile, balance })
}

/// A hash of the tokens and of the bits of the logits at each of them.
fn digest(model: &mut Model, mut ids: Vec<u32>) -> Result<[u8; 32]> {
    ids.truncate(model.context());
    let mut hash = Sha256::new();
    ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
    model.score_each(&[ids], &ScoreOptions::default(), &mut |row| {
        row.logits.iter().for_each(|logit| hash.update(logit.to_bits().to_le_bytes()));
    })?;
    Ok(hash.finalize().into())
}
