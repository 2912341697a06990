//! From a directory of Hugging Face files to a model that turns token ids into logits.
//!
//! [`ModelFiles::open`] reads config.json and the headers of the checkpoint; [`ModelFiles::info`] says what
//! the model is; [`ModelFiles::load`] gives its weights to a backend. A family is one file below
//! `families/`, built from the parts in `layers/`.
//!
//! Invariants: sizes from files are checked before anything is allocated; every configuration key and every
//! tensor is used, known not to matter, or reported; state lives in the caller's [`KvCache`].
#![deny(unsafe_code)]

mod batch;
mod cache;
mod checkpoint;
mod config;
mod dry;
mod error;
mod families;
mod files;
mod formats;
mod history;
mod infinities;
mod info;
mod layers;
mod layout;
mod loader;
mod model;
mod planned;
mod rules;

pub use batch::{Outputs, Span, TokenBatch};
pub use cache::{CacheSpec, KvCache, LayerCacheSpec, SequenceId};
pub use checkpoint::{GgufFile, GgufMetadata, GgufValue, PACKING, PlainFiles, end_with_message};
pub use error::{Error, Result, TensorProblem};
pub use families::{Checked, FAMILIES, Family};
pub use files::{LayerRouter, ModelFiles, NamedTensor, RandomWeights, Routers, StoredTensor};
pub use formats::HeldFormats;
pub use info::{
    AttentionShape, LayerMemory, ModelInfo, MoeInfo, Place, RoutedLayer, Setting, SettingRole, Tally,
};
pub use loader::Progress;
pub use model::{Mixture, Model, Probe, Watch};
pub use rules::RoutingRules;
