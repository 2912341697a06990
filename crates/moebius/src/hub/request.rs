//! Asking a hub: one request with its redirects, what a status means, and when to try again.
//!
//! hf-hub makes addresses and the request for a repository's listing; following redirects is done here, since the token
//! must not leave the hub's own origin.
//!
//! Invariants: a token goes to the scheme, host and port of the endpoint alone, and unencrypted only to this machine;
//! every wait has a bound; no address is shown with its query, which may hold a signature.

use std::time::{Duration, Instant};

use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use super::{Hub, HubError, HubName};
use crate::{Error, Result};

const MAX_REDIRECTS: usize = 8;
/// Attempts without a byte in between.
const MAX_TRIES: u32 = 4;
/// A hub that asks to wait longer is not waited for.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How often a wait looks whether to stop.
const GLANCE: Duration = Duration::from_millis(50);
/// Listings of the largest repositories are a few megabytes.
const LISTING_LIMIT_BYTES: u64 = 64 << 20;

/// Why an attempt failed.
pub(super) enum Failure {
    /// Trying again would not help.
    Final(Error),
    /// It may pass, maybe after the time that the hub names.
    Passing(HubError, Option<Duration>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Final(error)
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Failure::Final(error.into())
    }
}

/// Asks one hub about one repository.
pub(super) struct Client<'a> {
    hub: &'a Hub,
    api: Api,
    agent: Agent,
    name: &'a HubName,
    stopped: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Client<'a> {
    /// `stopped` says whether whoever waits has changed their mind.
    pub(super) fn new(
        hub: &'a Hub,
        name: &'a HubName,
        stopped: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(hub.patience))
            .timeout_per_read(Some(hub.patience))
            .timeout_recv_response(Some(hub.patience))
            .user_agent(concat!("moebius/", env!("CARGO_PKG_VERSION")));
        let token = hub.token.as_ref().filter(|_| may_hear_token(&hub.endpoint, &hub.endpoint));
        let builder = ApiBuilder::from_cache(Cache::new(hub.dir.clone())).with_endpoint(hub.endpoint.clone());
        // hf-hub writes `Bearer` itself.
        let token = token.map(|token| token.header().trim_start_matches("Bearer ").to_owned());
        let api = builder.with_token(token).with_progress(false).build();
        let api = api.map_err(|error| network(&hub.endpoint, error))?;
        Ok(Client { hub, api, agent: config.build().into(), name, stopped })
    }

    fn repo(&self, revision: &str) -> ApiRepo {
        self.api.repo(Repo::with_revision(self.name.repo().into(), RepoType::Model, revision.into()))
    }

    /// What the hub says of the revision, as JSON.
    pub(super) fn listing(&self) -> Result<Vec<u8>> {
        self.persist(|_| {
            let request = self.repo(self.name.revision()).info_request().query("blobs", "true");
            let request = request.header("Accept-Encoding", "identity").config();
            let request =
                request.http_status_as_error(false).max_redirects(0).max_redirects_will_error(false);
            let request =
                request.timeout_connect(Some(self.hub.patience)).timeout_per_read(Some(self.hub.patience));
            let request = request.timeout_recv_response(Some(self.hub.patience)).build();
            let url = format!("{}/api/models/{}", self.hub.endpoint, self.name.repo());
            let response = request.call().map_err(|error| passing(&url, error))?;
            let response = self.follow(response, url.clone(), 0)?;
            let body = response.into_body().into_with_config().limit(LISTING_LIMIT_BYTES);
            body.read_to_vec().map_err(|error| passing(&url, error))
        })
    }

    /// Where a file of a commit is.
    pub(super) fn url(&self, commit: &str, file: &str) -> String {
        self.repo(commit).url(&escaped(file))
    }

    /// The content at `url`, from byte `from` on if the server can do that.
    pub(super) fn get(&self, url: &str, from: u64) -> Result<Response<Body>, Failure> {
        let response = self.hop(url, from)?;
        self.follow(response, url.into(), from)
    }

    /// Tries until it works, does not help, or has failed too often without `progressed` being set.
    pub(super) fn persist<T>(&self, mut attempt: impl FnMut(&mut bool) -> Result<T, Failure>) -> Result<T> {
        let mut tries = 0;
        loop {
            let mut progressed = false;
            let (error, wait) = match attempt(&mut progressed) {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error, wait)) => (error, wait),
            };
            tries = if progressed { 1 } else { tries + 1 };
            let pause = wait.unwrap_or(self.hub.pause * 2_u32.pow(tries - 1));
            if tries == MAX_TRIES || pause > MAX_WAIT {
                return Err(error.into());
            }
            self.wait(pause)?;
        }
    }

    /// Waits, unless whoever waits has changed their mind.
    pub(super) fn wait(&self, pause: Duration) -> Result<()> {
        let until = Instant::now() + pause;
        loop {
            self.check()?;
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(());
            }
            std::thread::sleep(rest.min(GLANCE));
        }
    }

    /// Fails if whoever waits has changed their mind.
    pub(super) fn check(&self) -> Result<()> {
        if (self.stopped)() { Err(HubError::Stopped.into()) } else { Ok(()) }
    }

    fn hop(&self, url: &str, from: u64) -> Result<Response<Body>, Failure> {
        self.check()?;
        let mut request = self.agent.get(url).header("Accept-Encoding", "identity");
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        if let Some(token) = &self.hub.token
            && may_hear_token(&self.hub.endpoint, url)
        {
            request = request.header("Authorization", token.header());
        }
        request.call().map_err(|error| passing(url, error))
    }

    fn follow(
        &self,
        mut response: Response<Body>,
        mut url: String,
        from: u64,
    ) -> Result<Response<Body>, Failure> {
        for _ in 0..=MAX_REDIRECTS {
            if !response.status().is_redirection() {
                return self.judge(response, &url);
            }
            let location = header(&response, "location").unwrap_or_default();
            url = target(&url, location)?;
            response = self.hop(&url, from)?;
        }
        let reason = format!("expected at most {MAX_REDIRECTS} redirects");
        Err(HubError::Redirect { url: shown(&url), reason }.into())
    }

    /// What a status means.
    fn judge(&self, response: Response<Body>, url: &str) -> Result<Response<Body>, Failure> {
        let status = response.status().as_u16();
        if matches!(status, 200 | 206) {
            return Ok(response);
        }
        let (repo, code) =
            (self.name.repo().to_owned(), header(&response, "x-error-code").unwrap_or_default());
        let other = || HubError::Status { url: shown(url), status };
        Err(match (status, code) {
            (401 | 403, "GatedRepo") => HubError::Gated(repo).into(),
            (404, "RevisionNotFound") => {
                HubError::NoRevision { repo, revision: self.name.revision().into() }.into()
            }
            (404, "EntryNotFound") => other().into(),
            // The hub does not tell strangers what is private from what is not there.
            (401, _) if self.hub.token.is_none() => HubError::NoModel(repo).into(),
            (404, _) | (_, "RepoNotFound") => HubError::NoModel(repo).into(),
            (401, _) => HubError::Unauthorized(repo).into(),
            (403, _) if same_origin(&self.hub.endpoint, url) => HubError::Gated(repo).into(),
            (429, _) => {
                let seconds = header(&response, "retry-after").and_then(|text| text.trim().parse().ok());
                Failure::Passing(HubError::TooManyRequests(seconds), seconds.map(Duration::from_secs))
            }
            (408 | 500..=599, _) => Failure::Passing(other(), None),
            // Signed addresses run out; the next attempt gets a new one.
            (403, _) => Failure::Passing(other(), None),
            _ => other().into(),
        })
    }
}

fn header<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

/// Bytes `from..` of how many a partial answer holds; `None` if it does not say so.
pub(super) fn content_range(response: &Response<Body>) -> Option<(u64, u64)> {
    let (range, total) = header(response, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}

/// An error of the transport, sorted by whether it may pass.
fn passing(url: &str, error: ureq::Error) -> Failure {
    use std::io::ErrorKind::ConnectionRefused;
    let passes = match &error {
        ureq::Error::Io(error) => error.kind() != ConnectionRefused,
        ureq::Error::Timeout(_) | ureq::Error::Protocol(_) | ureq::Error::BodyStalled => true,
        _ => false,
    };
    match passes {
        true => Failure::Passing(network(url, error), None),
        false => Failure::Final(network(url, error).into()),
    }
}

pub(super) fn network(url: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> HubError {
    HubError::Network { url: shown(url), source: error.into() }
}

/// An address without what may be secret in it.
pub(super) fn shown(url: &str) -> String {
    url.split('?').next().unwrap_or(url).to_owned()
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().or(match &*scheme {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    })?;
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

fn same_origin(a: &str, b: &str) -> bool {
    origin(a).is_some_and(|a| origin(b) == Some(a))
}

/// Whether a request to `url` may carry the token for `endpoint`.
fn may_hear_token(endpoint: &str, url: &str) -> bool {
    let loopback = |host: &str| ["localhost", "127.0.0.1", "[::1]"].contains(&host);
    let safe = |(scheme, host, _): (String, String, u16)| scheme == "https" || loopback(&host);
    same_origin(endpoint, url) && origin(url).is_some_and(safe)
}

/// Where a redirect from `url` leads.
fn target(url: &str, location: &str) -> Result<String, HubError> {
    let refuse = |reason: &str| HubError::Redirect { url: shown(url), reason: reason.into() };
    let (scheme, host, port) = origin(url).ok_or_else(|| refuse("it is no address"))?;
    let next = match location {
        _ if location.starts_with("http://") || location.starts_with("https://") => location.to_owned(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{host}:{port}{location}"),
        _ => return Err(refuse("it leads nowhere")),
    };
    match origin(&next) {
        None => Err(refuse("it leads nowhere")),
        Some((to, ..)) if scheme == "https" && to != "https" => Err(refuse("it leads from https to http")),
        Some(_) => Ok(next),
    }
}

/// A file's name in an address.
fn escaped(file: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    file.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_the_hub_alone_and_never_in_clear_text() {
        let hub = "https://hub.example";
        assert!(
            may_hear_token(hub, "https://hub.example/a?b") && may_hear_token(hub, "https://HUB.example:443/")
        );
        for url in [
            "https://cdn.example/a",
            "https://hub.example:8443/a",
            "http://hub.example/a",
            "https://hub.example.evil/",
            "nonsense",
        ] {
            assert!(!may_hear_token(hub, url), "{url}");
        }
        assert!(!may_hear_token("http://hub.example", "http://hub.example/a"));
        assert!(may_hear_token("http://127.0.0.1:8000", "http://127.0.0.1:8000/a"));
    }

    #[test]
    fn redirects_are_resolved_and_not_downgraded() {
        let from = "https://hub.example/a/b?c";
        assert_eq!(target(from, "/x").unwrap(), "https://hub.example:443/x");
        assert_eq!(target(from, "//cdn.example/x").unwrap(), "https://cdn.example/x");
        assert_eq!(target(from, "https://cdn.example/x?sig=1").unwrap(), "https://cdn.example/x?sig=1");
        for location in ["", "x", "http://hub.example/x", "file:///etc/passwd", "https://"] {
            assert!(target(from, location).is_err(), "{location}");
        }
        assert!(!target(from, "").unwrap_err().to_string().contains("?c"));
    }

    #[test]
    fn names_are_escaped_in_addresses() {
        assert_eq!(escaped("a b/ü#?.json"), "a%20b/%C3%BC%23%3F.json");
    }
}
