//! Open a Mixture-of-Experts model, generate text, see its routing and what it saved.
//!
//! ```no_run
//! use moebius::{GenerateOptions, Model, OpenOptions, Prompt};
//!
//! # fn main() -> Result<(), moebius::Error> {
//! let mut model = Model::open(moebius::bundled_model()?, &OpenOptions::default())?;
//! let mut generation = model.generate(Prompt::Text("Once upon a time"), &GenerateOptions::default())?;
//! for piece in generation.by_ref() {
//!     print!("{}", piece?.text);
//! }
//! let summary = generation.finish();
//! if let Some(saved) = summary.decode.expert_saved_share() {
//!     println!("\n{:.0} % of the experts' work was saved", 100.0 * saved);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! This crate alone names backends and reads the environment; see [`KNOBS`] for the variables.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

mod backend;
mod budget;
mod cache;
mod compare;
mod convert;
mod count;
mod cpu;
mod dense;
mod doctor;
mod dump;
mod energy;
mod error;
mod explain;
mod generate;
mod generation_config;
mod hub;
mod hybrid;
mod knobs;
mod locate;
mod memory;
mod model;
mod observer;
mod ollama;
mod partial;
mod published;
mod route;
mod score;
mod spill;
mod twin;

pub mod balance;
pub mod bench;
pub mod declared;
pub mod plan;
pub mod sweep;
pub mod text;
pub mod trace;

pub use backend::{BACKENDS, BackendOptions, OPTIONAL_BACKENDS, open_backend};
pub use budget::{CachePlaces, Constraint, ExpertPolicy, MemoryLimit, MemoryPlan};
pub use cache::{Cache, CacheEntry, CacheFilter, CacheUse, Cached, EntryState};
pub use compare::{ComparedRun, run_to_compare};
pub use convert::{ConvertOptions, Converted, convert};
pub use count::DryModel;
pub use cpu::{cpu_features, cpu_name, kernel_name};
pub use doctor::{Finding, GpuState, Health, doctor, peaks, read_bandwidth};
pub use doctor::{RouterLayers, RouterReport, RouterSetting, RouterTensor, SettingSource, doctor_router};
pub use energy::{CounterState, EnergyMark, EnergyMeter, POWERCAP};
pub use error::{Error, ErrorKind, Result};
pub use explain::{ExplainedExpert, Explanation};
pub use generate::{GenerateOptions, Generation, ModelledRun, Piece, Prompt, Summary};
pub use hub::{Hub, HubEntry, HubError, HubModel, HubName, HubWatch, Needs, Pulled, Removed};
pub use hybrid::Offload;
pub use knobs::{KNOBS, Knob};
pub use locate::{ModelName, bundled_model, locate_model, ollama_settings};
pub use model::{Model, OpenOptions, TextSummary, inspect};
pub use observer::LayerLoads;
pub use ollama::{OllamaEntry, OllamaName, OllamaSettings, OllamaStore};
pub use published::{PublishedModel, published_models};
pub use route::{LayerRoute, RouteRecorder};
pub use score::{Score, ScoreOptions, perplexity};
pub use twin::{Form, FormTimes, Proof, TwinRow, TwinSession, TwinText};

pub use moebius_backend as backend_contract;
pub use moebius_backend::WeightFormat;
pub use moebius_backend_constrained::{CachePolicy, LayerResidency, ReadLimit};
pub use moebius_backend_cpu::{Peaks, keep_freed_memory};
pub use moebius_engine::{FinishReason, SamplingParams, ScoredToken};
pub use moebius_metering as metering;
pub use moebius_model::{
    Checked, FAMILIES, Family, HeldFormats, ModelInfo, MoeInfo, Place, RoutedLayer, RoutingRules, Tally,
    end_with_message as end_with_message_when_a_mapped_file_goes,
};
pub use moebius_router as router;
