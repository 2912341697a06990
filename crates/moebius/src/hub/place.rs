//! Where this user's copies of hub models are, and how the hub is asked: what the environment says, in the names that
//! huggingface_hub gives it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::knobs;

const ENDPOINT: &str = "https://huggingface.co";
/// A server that says nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A secret that no message shows.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(String);

impl Token {
    /// `None` for what is no token: nothing, or something that a header cannot hold.
    pub(super) fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())).then(|| Token(text.into()))
    }

    /// What the header `Authorization` says.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What the environment says; `None` for the directory where nothing does.
pub(super) struct Place {
    pub(super) dir: Option<PathBuf>,
    pub(super) endpoint: String,
    pub(super) token: Option<Token>,
    pub(super) is_offline: bool,
    pub(super) patience: Duration,
}

impl Place {
    pub(super) fn standard() -> Self {
        let cache =
            || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = || cache().or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
        let home =
            knobs::HF_HOME.value().map(PathBuf::from).or_else(|| caches().map(|dir| dir.join("huggingface")));
        let dir = knobs::HF_HUB_CACHE
            .value()
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join("hub")));
        let token_file =
            knobs::HF_TOKEN_PATH.value().map(PathBuf::from).or_else(|| home.map(|home| home.join("token")));
        let from_file = || std::fs::read_to_string(token_file?).ok();
        let endpoint = knobs::HF_ENDPOINT.value().unwrap_or_else(|| ENDPOINT.into());
        let seconds = knobs::HF_HUB_DOWNLOAD_TIMEOUT.value().and_then(|text| text.trim().parse::<u64>().ok());
        Place {
            dir,
            endpoint: endpoint.trim_end_matches('/').into(),
            token: knobs::HF_TOKEN.value().or_else(from_file).as_deref().and_then(Token::new),
            is_offline: knobs::HF_HUB_OFFLINE.value().is_some_and(|text| is_true(&text)),
            patience: seconds.filter(|&seconds| seconds > 0).map_or(PATIENCE, Duration::from_secs),
        }
    }
}

/// As huggingface_hub reads its variables.
fn is_true(text: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&&*text.trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_printed() {
        let token = Token::new(" hf_secret\n").unwrap();
        assert_eq!((format!("{token:?}"), token.header()), ("Token(…)".into(), "Bearer hf_secret".into()));
        assert!([" ", "two words", "a\r\nHost: b", "ü"].into_iter().all(|text| Token::new(text).is_none()));
    }
}
