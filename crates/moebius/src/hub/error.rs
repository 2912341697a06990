//! What goes wrong between this program, a hub and the copies of its models.

use std::path::PathBuf;

use thiserror::Error as ThisError;

use crate::ErrorKind;

/// Errors of names, downloads and copies.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum HubError {
    /// A name that is no model's.
    #[error("`{name}` is not the name of a model: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The model is not here, and nobody may be asked for it.
    #[error("`{0}` is not in the cache, and this program is offline")]
    Offline(String),
    /// The hub has no such model, or does not show it.
    #[error("the hub has no model `{0}`, or does not show it")]
    NoModel(String),
    /// The model has no such revision.
    #[error("`{repo}` has no revision `{revision}`")]
    NoRevision {
        /// Its name.
        repo: String,
        /// What was asked for.
        revision: String,
    },
    /// The model's owner wants an agreement first.
    #[error("`{0}` is gated: its owner gives it to those who accept the terms")]
    Gated(String),
    /// The hub wants to know who asks, or does not accept the answer.
    #[error("the hub does not let this user read `{0}`")]
    Unauthorized(String),
    /// The hub wants fewer requests.
    #[error("the hub asks to wait{}", .0.map_or(String::new(), |seconds| format!(" {seconds} s")))]
    TooManyRequests(Option<u64>),
    /// The hub answers otherwise than expected.
    #[error("`{url}` answers {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The code.
        status: u16,
    },
    /// No answer, or one that broke off, again and again.
    #[error("`{url}` cannot be read")]
    Network {
        /// What was asked for.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// One address leads to another without end, or to where it must not.
    #[error("`{url}` leads astray: {reason}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Why it is not followed.
        reason: String,
    },
    /// What the hub says of a repository makes no sense or is not to be trusted.
    #[error("what the hub says of `{repo}` cannot be used: {reason}")]
    Listing {
        /// Its name.
        repo: String,
        /// What is wrong.
        reason: String,
    },
    /// A repository without weights of a kind that can be read.
    #[error("`{repo}` has no weights that can be used: {reason}")]
    NoWeights {
        /// Its name.
        repo: String,
        /// What there is.
        reason: String,
    },
    /// What arrived is not what was promised.
    #[error("`{file}` arrived damaged: expected {expected}, got {got}")]
    Damaged {
        /// Its name.
        file: String,
        /// The promised checksum or size.
        expected: String,
        /// What it is.
        got: String,
    },
    /// There is nothing of that name here.
    #[error("`{name}` is not in `{}`", dir.display())]
    NotHere {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// Another program writes to the model.
    #[error("another program is downloading `{0}`")]
    Busy(String),
    /// A manifest or blob of Ollama that cannot be used.
    #[error("`{}` of Ollama cannot be used: {reason}", path.display())]
    Ollama {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Whoever asked has changed their mind.
    #[error("stopped")]
    Stopped,
}

impl HubError {
    /// What kind of trouble this is.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            HubError::InvalidName { .. } => ErrorKind::Usage,
            HubError::Offline(_)
            | HubError::NoModel(_)
            | HubError::NoRevision { .. }
            | HubError::Gated(_)
            | HubError::Unauthorized(_)
            | HubError::NoWeights { .. }
            | HubError::NotHere { .. } => ErrorKind::NotFound,
            HubError::Ollama { .. } => ErrorKind::InvalidModel,
            _ => ErrorKind::Runtime,
        }
    }

    /// The next thing to try.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            HubError::InvalidName { .. } => "write owner/name, owner/name@revision or owner/name:q4_k_m",
            HubError::Offline(name) => {
                return Some(format!(
                    "`moebius pull {name}` while online; --offline and HF_HUB_OFFLINE forbid downloads"
                ));
            }
            HubError::NoModel(_) => {
                "check the spelling; a private model needs a token that may read it, in HF_TOKEN or the token file"
            }
            HubError::NoRevision { .. } => {
                "leave out @revision for the newest, or see the model's page for its branches"
            }
            HubError::Gated(repo) => {
                return Some(format!(
                    "accept the terms on the page of {repo}, and set HF_TOKEN to a token of that account"
                ));
            }
            HubError::Unauthorized(_) => {
                "set HF_TOKEN to a token that may read the model; an expired one is refused too"
            }
            HubError::TooManyRequests(_) => "try again later; with HF_TOKEN set the hub allows more",
            HubError::Status { .. } | HubError::Network { .. } => {
                "check the connection, HF_ENDPOINT and proxies; what has arrived is kept, and the next pull goes on from there"
            }
            HubError::Redirect { .. } | HubError::Listing { .. } => {
                "check HF_ENDPOINT: what answers is no hub, or one to distrust"
            }
            HubError::NoWeights { .. } => "look for a repository with safetensors or GGUF files",
            HubError::Damaged { .. } => {
                "pull it again; if it stays so, the hub or a proxy between damages it"
            }
            HubError::NotHere { .. } => "`moebius list` shows what is here",
            HubError::Busy(_) => "wait until it is done",
            HubError::Ollama { .. } => "`ollama pull` the model again",
            HubError::Stopped => return None,
        };
        Some(hint.into())
    }
}
