//! What can go wrong between a model and a device.

use moebius_router::RouterError;
use thiserror::Error as ThisError;

use crate::Activation;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A backend's refusal, given before any weight is read.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[error("backend `{backend}` cannot hold {what}: {reason}")]
pub struct Unsupported {
    /// Name of the backend that refuses.
    pub backend: &'static str,
    /// The weight, in words.
    pub what: String,
    /// Why, in words.
    pub reason: String,
}

/// Errors of loading weights and running them.
#[derive(Debug, ThisError)]
pub enum Error {
    /// A tensor operation failed.
    #[error("tensor operation failed")]
    Tensor(#[from] candle_core::Error),
    /// The router refused its logits or its configuration.
    #[error(transparent)]
    Router(#[from] RouterError),
    /// The backend cannot hold a weight.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A weight could not be packed.
    #[error("cannot load tensor `{name}`")]
    Weight {
        /// The tensor's name in the checkpoint.
        name: String,
        /// What the packer found.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A weight that is fetched while the model runs did not come.
    #[error("cannot fetch {what}")]
    Fetch {
        /// The weight, in words.
        what: String,
        /// What reading it met.
        source: std::io::Error,
    },
    /// Weights that are to be fetched while the model runs could not be put where they are fetched from.
    #[error("cannot put experts into a file in `{}`", dir.display())]
    Spill {
        /// The directory of the file.
        dir: std::path::PathBuf,
        /// What writing them met.
        source: std::io::Error,
    },
    /// A kernel refused its arguments.
    #[error("kernel refused its arguments")]
    Kernel(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A tensor has another shape than its place asks for.
    #[error("wrong shape for {what}: expected {expected}, got {got}")]
    Shape {
        /// What the tensor is.
        what: String,
        /// The shape that was expected, in words.
        expected: String,
        /// The shape that was found.
        got: String,
    },
    /// An activation was asked for without the gate that it needs.
    #[error("{0} needs a gate")]
    NeedsGate(Activation),
    /// The device could not be set up.
    #[error("backend `{backend}` cannot start: {reason}")]
    Startup {
        /// Name of the backend.
        backend: &'static str,
        /// Why, in words.
        reason: String,
    },
}
