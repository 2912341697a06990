//! Models from a hub: found in the cache that Hugging Face's programs share, downloaded into it, listed and removed.
//!
//! hf-hub names what lies where and makes the addresses and the request for a listing. Transfers are written here: that
//! crate's own check no sizes and no checksums and send the token wherever a redirect leads.
//!
//! Invariants: nothing outside the cache's directory is written or removed, whatever a hub says; the network is asked by
//! [`Hub::pull`] alone.

mod blob;
mod error;
mod list;
mod name;
mod place;
mod pull;
mod remove;
mod request;
mod select;
mod snapshot;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::HubError;
pub use list::{HubEntry, HubModel};
pub use name::HubName;
pub(crate) use name::is_hex;
pub use remove::Removed;

use crate::{Error, Result};
use place::{Place, Token};

/// Before the second attempt; it doubles with each.
const PAUSE: Duration = Duration::from_millis(500);

/// Told the bytes that are there so far and in all, from any thread; says whether to go on.
pub type HubWatch<'a> = &'a (dyn Fn(u64, u64) -> ControlFlow<()> + Sync);

/// A hub, and the directory of what came from it.
#[derive(Clone, Debug)]
pub struct Hub {
    dir: PathBuf,
    endpoint: String,
    token: Option<Token>,
    is_offline: bool,
    patience: Duration,
    pause: Duration,
}

/// How much of a model is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Configuration and tokenizer; of a GGUF file, which holds both, all of it.
    Description,
    /// Everything that running it takes.
    Everything,
}

/// What a pull did.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// What [`crate::Model::open`] takes: a directory, or the first part of a GGUF file.
    pub path: PathBuf,
    /// The commit that the revision is.
    pub commit: String,
    /// How many files the model needs.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that came from the hub; the others were there.
    pub fetched_bytes: u64,
}

impl Hub {
    /// The hub and the cache that the environment names: `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME`, `HF_TOKEN` or the
    /// token's file, `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`Error::NoCachePlace`] when nothing says where this user's files are.
    pub fn standard() -> Result<Self> {
        let Place { dir, endpoint, token, is_offline, patience } = Place::standard();
        let dir = dir.ok_or(Error::NoCachePlace)?;
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        Ok(Hub { dir, endpoint, token, is_offline, patience, pause: PAUSE })
    }

    /// Another hub and another cache; no token.
    pub fn at(endpoint: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        let endpoint = endpoint.into().trim_end_matches('/').to_owned();
        let patience = Duration::from_secs(30);
        Hub { dir: dir.into(), endpoint, token: None, is_offline: false, patience, pause: PAUSE }
    }

    /// The hub with a token that says who asks.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Hub { token: Token::new(token), ..self }
    }

    /// The hub with other bounds: the longest silence of a server, and the pause before a second attempt.
    #[must_use]
    pub fn with_patience(self, patience: Duration, pause: Duration) -> Self {
        Hub { patience, pause, ..self }
    }

    /// The hub, and whether it must not be asked.
    #[must_use]
    pub fn offline(self, is_offline: bool) -> Self {
        Hub { is_offline, ..self }
    }

    /// Whether it must not be asked.
    pub fn is_offline(&self) -> bool {
        self.is_offline
    }

    /// The directory of what came from it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where in the cache the model is, if what is needed of it is there: what [`crate::Model::open`] takes.
    pub fn find(&self, name: &HubName, needs: Needs) -> Option<PathBuf> {
        let found = snapshot::find(&self.dir, name)?;
        let described = || found.snapshot.join(select::CONFIG).is_file() && name.quant().is_none();
        snapshot::complete(&found.snapshot, name.quant())
            .or_else(|| (needs == Needs::Description && described()).then(|| found.snapshot.clone()))
    }

    /// Sees to it that the newest state of the model is in the cache, whole: asks the hub, checks what is there, and
    /// downloads the rest. What was downloaded before an error stays for the next pull.
    ///
    /// # Errors
    /// [`Error::Hub`] for what the hub says or sends; [`Error::DiskSpace`] before the weights; [`Error::Write`].
    pub fn pull(&self, name: &HubName, needs: Needs, watch: HubWatch<'_>) -> Result<Pulled> {
        if self.is_offline {
            return Err(HubError::Offline(name.to_string()).into());
        }
        pull::pull(self, name, needs, watch)
    }

    /// The models in the cache, by name.
    ///
    /// # Errors
    /// A directory that is there and cannot be read.
    pub fn entries(&self) -> Result<Vec<HubEntry>> {
        list::entries(self)
    }

    /// What [`Hub::remove`] would remove, without removing it.
    ///
    /// # Errors
    /// [`HubError::NotHere`].
    pub fn removable(&self, name: &HubName) -> Result<Removed> {
        remove::plan(self, name).map(|plan| plan.summary())
    }

    /// Removes a model from the cache: all of it, or of one revision or quantisation what no other needs.
    ///
    /// # Errors
    /// [`HubError::NotHere`]; [`HubError::Busy`] while another program downloads it; [`Error::Write`].
    pub fn remove(&self, name: &HubName) -> Result<Removed> {
        remove::plan(self, name)?.execute()
    }

    /// Where the locks of a copy's blobs are, as huggingface_hub has them.
    fn locks(&self, copy: &snapshot::Copy) -> PathBuf {
        self.dir.join(".locks").join(copy.dir.file_name().unwrap_or_default())
    }
}
