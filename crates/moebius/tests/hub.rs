//! Downloads from a hub, as good and as bad as hubs can be.

#[path = "support/hub.rs"]
mod standin;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moebius::{
    Error, ErrorKind, GenerateOptions, Hub, HubError, HubName, Model, Needs, OpenOptions, Prompt, Pulled,
    SamplingParams,
};
use tempfile::TempDir;

use standin::{Answer, Asked, COMMIT, Files, REPO, StandIn, etag, files, files_of, listing};

const WEIGHTS: &str = "model.safetensors";

/// A small repository that is whole, whatever its weights mean.
fn small() -> Files {
    let weights = "weights ".repeat(1000);
    files(&[
        ("config.json", "{}"),
        (WEIGHTS, &weights),
        ("tokenizer.json", "[]"),
        ("README.md", "words"),
        ("modeling.py", "code"),
    ])
}

/// A hub with a cache of its own, which tries again at once.
struct Place {
    dir: TempDir,
    standin: StandIn,
}

impl Place {
    fn new(files: Files, script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Place { dir: tempfile::tempdir().unwrap(), standin: StandIn::start(files, script) }
    }

    fn hub(&self) -> Hub {
        let (patience, pause) = (Duration::from_secs(5), Duration::from_millis(2));
        Hub::at(&*self.standin.url, self.cache()).with_patience(patience, pause)
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("hub")
    }

    fn blob(&self, name: &str, content: &[u8]) -> PathBuf {
        self.cache().join("models--owner--tiny/blobs").join(etag(name, content))
    }

    fn pull(&self) -> Result<Pulled, Error> {
        pull(&self.hub(), REPO)
    }

    /// The pull fails, nothing is taken for a model, and nothing is outside the cache.
    #[track_caller]
    fn refused(&self) -> Error {
        let error = self.pull().unwrap_err();
        assert!(self.hub().find(&name(REPO), Needs::Everything).is_none());
        let around: Vec<_> =
            std::fs::read_dir(self.dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(around.iter().all(|name| name == "hub"), "{around:?}");
        error
    }
}

fn name(text: &str) -> HubName {
    text.parse().unwrap()
}

fn pull(hub: &Hub, text: &str) -> Result<Pulled, Error> {
    hub.pull(&name(text), Needs::Everything, &|_, _| ControlFlow::Continue(()))
}

fn status(status: u16, headers: &[(&'static str, &str)]) -> Answer {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Answer::Status(status, headers, b"{}".to_vec())
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/moebius-tiny")
}

fn greedy(dir: &Path) -> String {
    let mut model = Model::open(dir, &OpenOptions::default()).unwrap();
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let options =
        GenerateOptions { max_tokens: Some(8), sampling: Some(sampling), ..GenerateOptions::default() };
    model.generate(Prompt::Text("A little dog"), &options).unwrap().map(|piece| piece.unwrap().text).collect()
}

#[test]
fn a_pulled_model_says_the_same_as_its_source_and_others_find_it() {
    let place = Place::new(files_of(&tiny()), |_| Answer::Proper);
    let pulled = place.pull().unwrap();
    assert_eq!(greedy(&pulled.path), greedy(&tiny()));
    assert_eq!((&*pulled.commit, pulled.bytes), (COMMIT, pulled.fetched_bytes));
    let other = hf_hub::Cache::new(place.cache()).model(REPO.into());
    assert_eq!(other.get(WEIGHTS), Some(pulled.path.join(WEIGHTS)));
    assert!(other.get("README.md").is_none() && other.get("eval").is_none());
    assert_eq!(place.hub().find(&name(REPO), Needs::Everything), Some(pulled.path.clone()));
    let again = place.pull().unwrap();
    assert_eq!((again.fetched_bytes, again.path), (0, pulled.path));
}

#[test]
fn a_connection_that_breaks_off_goes_on_where_it_ended() {
    let cut = |asked: &Asked| match (asked.is_for(WEIGHTS), asked.earlier) {
        (true, 0) => Answer::Cut(1000),
        (true, 1) => Answer::Cut(500),
        _ => Answer::Proper,
    };
    let place = Place::new(small(), cut);
    let pulled = place.pull().unwrap();
    assert_eq!(std::fs::read(pulled.path.join(WEIGHTS)).unwrap(), small()[WEIGHTS]);
    let ranges: Vec<_> = place.standin.asked_for(WEIGHTS).iter().map(|asked| asked.from).collect();
    assert_eq!(ranges, [None, Some(1000), Some(1500)]);
}

#[test]
fn a_server_that_knows_no_ranges_is_read_from_the_beginning() {
    let whole = |asked: &Asked| match (asked.is_for(WEIGHTS), asked.earlier) {
        (true, 0) => Answer::Cut(1000),
        (true, _) => Answer::Status(200, Vec::new(), small()[WEIGHTS].clone()),
        _ => Answer::Proper,
    };
    let pulled = Place::new(small(), whole);
    assert_eq!(std::fs::read(pulled.pull().unwrap().path.join(WEIGHTS)).unwrap(), small()[WEIGHTS]);
}

#[test]
fn what_arrives_damaged_is_not_kept() {
    for body in [vec![b'x'; 8000], vec![b'x'; 9000]] {
        let damage = move |asked: &Asked| match asked.is_for(WEIGHTS) {
            true => Answer::Status(200, Vec::new(), body.clone()),
            false => Answer::Proper,
        };
        let place = Place::new(small(), damage);
        let error = place.refused();
        assert!(matches!(error, Error::Hub(HubError::Damaged { .. })), "{error}");
        let blob = place.blob(WEIGHTS, &small()[WEIGHTS]);
        assert!(!blob.exists() && !blob.with_extension("incomplete").exists());
    }
    let damage = |asked: &Asked| match asked.is_for("config.json") {
        true => Answer::Status(200, Vec::new(), b"[]".to_vec()),
        false => Answer::Proper,
    };
    let error = Place::new(small(), damage).refused();
    assert!(error.to_string().contains("`config.json` arrived damaged"), "{error}");
}

#[test]
fn a_blob_that_was_damaged_here_is_downloaded_again() {
    let place = Place::new(small(), |_| Answer::Proper);
    let pulled = place.pull().unwrap();
    let blob = place.blob(WEIGHTS, &small()[WEIGHTS]);
    for damage in [vec![b'x'; 8000], vec![b'x'; 5]] {
        std::fs::write(&blob, damage).unwrap();
        assert_eq!(place.pull().unwrap().fetched_bytes, 8000);
        assert_eq!(std::fs::read(pulled.path.join(WEIGHTS)).unwrap(), small()[WEIGHTS]);
    }
}

#[test]
fn what_an_earlier_attempt_left_is_used_if_it_is_right() {
    for (left, fetched) in
        [(b"weights weig".to_vec(), 7988), (b"nonsense".to_vec(), 7992 + 8000), (vec![b'w'; 8001], 8000)]
    {
        let place = Place::new(small(), |_| Answer::Proper);
        let blob = place.blob(WEIGHTS, &small()[WEIGHTS]);
        std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
        std::fs::write(blob.with_extension("incomplete"), left).unwrap();
        let companions = 4;
        assert_eq!(place.pull().unwrap().fetched_bytes, fetched + companions);
        assert!(!blob.with_extension("incomplete").exists());
    }
}

#[test]
fn a_redirect_is_followed_without_the_token() {
    let elsewhere = StandIn::proper(small());
    let url = elsewhere.url.clone();
    let redirect = move |asked: &Asked| match asked.is_for(WEIGHTS) {
        true => {
            Answer::Status(302, vec![("Location", format!("{url}{}?signature=1", asked.path))], Vec::new())
        }
        false => Answer::Proper,
    };
    let place = Place::new(small(), redirect);
    let hub = place.hub().with_token("hf_secret");
    pull(&hub, REPO).unwrap();
    let secret = Some("Bearer hf_secret".to_owned());
    assert!(place.standin.asked().iter().all(|asked| asked.authorization == secret));
    let there = elsewhere.asked();
    assert!(there.len() == 1 && there[0].authorization.is_none() && there[0].path.ends_with("?signature=1"));
    assert!(!format!("{hub:?}").contains("secret"));
}

#[test]
fn a_redirect_that_goes_round_is_left() {
    for location in ["/owner/tiny", "file:///etc/passwd", "gopher://x", ""] {
        let redirect = move |_: &Asked| status(302, &[("Location", location)]);
        let place = Place::new(small(), redirect);
        let error = place.refused();
        assert!(matches!(error, Error::Hub(HubError::Redirect { .. })), "{location}: {error}");
        assert!(place.standin.asked().len() < 12);
    }
}

#[test]
fn each_refusal_has_its_message_and_its_hint() {
    let check = |code: u16, error_code: &'static str, token: bool, message: &str, hint: &str| {
        let place = Place::new(small(), move |_| status(code, &[("X-Error-Code", error_code)]));
        let hub = if token { place.hub().with_token("hf_x") } else { place.hub() };
        let error = pull(&hub, REPO).unwrap_err();
        let (said, advice) = (error.to_string(), error.hint().unwrap_or_default());
        assert!(said.contains(message) && advice.contains(hint), "{code} {error_code}: {said}: {advice}");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(place.standin.asked().len(), 1);
    };
    check(401, "RepoNotFound", false, "has no model `owner/tiny`", "spelling");
    check(401, "", false, "has no model", "HF_TOKEN");
    check(401, "", true, "does not let this user", "expired");
    check(401, "GatedRepo", false, "`owner/tiny` is gated", "accept the terms");
    check(403, "GatedRepo", true, "gated", "HF_TOKEN");
    check(403, "", true, "gated", "accept the terms");
    check(404, "RepoNotFound", true, "has no model", "spelling");
    check(404, "RevisionNotFound", false, "has no revision `main`", "branches");
}

#[test]
fn a_gated_file_of_a_model_that_is_shown_is_told_as_gated() {
    let gate = |asked: &Asked| match asked.is_for("config.json") {
        true => status(403, &[("X-Error-Code", "GatedRepo")]),
        false => Answer::Proper,
    };
    assert!(matches!(Place::new(small(), gate).refused(), Error::Hub(HubError::Gated(_))));
}

#[test]
fn a_hub_that_asks_to_wait_is_waited_for_within_bounds() {
    let busy = |asked: &Asked| match asked.earlier {
        0 => status(429, &[("Retry-After", "0")]),
        1 => status(503, &[]),
        _ => Answer::Proper,
    };
    assert!(Place::new(small(), busy).pull().is_ok());
    let place = Place::new(small(), |_| status(429, &[("Retry-After", "86400")]));
    let error = place.refused();
    assert!(error.to_string().contains("wait 86400 s"), "{error}");
    assert_eq!(place.standin.asked().len(), 1);
    let always = Place::new(small(), |_| status(500, &[]));
    assert!(always.refused().to_string().contains("answers 500"));
    assert_eq!(always.standin.asked().len(), 4);
}

#[test]
fn a_silent_server_is_given_up() {
    let silent = |asked: &Asked| if asked.is_for(WEIGHTS) { Answer::Stall(0) } else { Answer::Proper };
    let place = Place::new(small(), silent);
    let hub = place.hub().with_patience(Duration::from_millis(60), Duration::from_millis(2));
    let error = pull(&hub, REPO).unwrap_err();
    assert!(matches!(error, Error::Hub(HubError::Network { .. })), "{error}");
    assert!(error.hint().unwrap().contains("goes on from there"));
}

/// A hub whose listing was changed by `change`.
fn lying(change: impl Fn(&mut serde_json::Value)) -> Place {
    let mut said = listing(&small());
    change(&mut said);
    let said = said.to_string().into_bytes();
    let lie = move |asked: &Asked| match asked.path.starts_with("/api/") {
        true => Answer::Status(200, Vec::new(), said.clone()),
        false => Answer::Proper,
    };
    Place::new(small(), lie)
}

#[test]
fn a_hub_that_names_paths_outside_is_distrusted() {
    for commit in ["../../../../evil", "main", "/tmp/evil", "", "0123456789ABCDEF0123456789ABCDEF01234567"] {
        let place = lying(|said| said["sha"] = commit.into());
        assert!(matches!(place.refused(), Error::Hub(HubError::Listing { .. })), "{commit}");
    }
    let weights = small().keys().position(|name| name == WEIGHTS).unwrap();
    for etag in ["../../../../evil", "", "/tmp/evil", &"A".repeat(64), &"../".repeat(21)] {
        let place = lying(|said| said["siblings"][weights]["lfs"]["sha256"] = etag.into());
        assert!(matches!(place.refused(), Error::Hub(HubError::Listing { .. })), "{etag}");
        assert!(place.standin.asked_for(WEIGHTS).is_empty());
    }
    // With a name that is not wanted nothing is done; with this one it would be.
    let place = lying(|said| said["siblings"][0]["rfilename"] = r"..\..\..\..\evil.tiktoken".into());
    assert!(matches!(place.refused(), Error::Hub(HubError::Listing { .. })));
}

#[test]
fn an_index_that_names_paths_outside_is_distrusted() {
    for shard in ["../../../../evil.safetensors", "/tmp/evil.safetensors", "missing.safetensors"] {
        let index = serde_json::json!({"weight_map": {"a": shard}}).to_string();
        let repo = files(&[
            ("config.json", "{}"),
            ("model.safetensors.index.json", &index),
            ("../../../../evil.safetensors", "x"),
        ]);
        let error = Place::new(repo, |_| Answer::Proper).refused();
        assert!(matches!(error, Error::Hub(HubError::Listing { .. })), "{shard}: {error}");
    }
}

#[test]
fn shards_of_the_index_come_and_no_others() {
    let index = r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}"#;
    let repo = files(&[
        ("config.json", "{}"),
        ("model.safetensors.index.json", index),
        ("m-1.safetensors", "one"),
        ("m-2.safetensors", "two"),
        ("consolidated.safetensors", "all"),
    ]);
    let place = Place::new(repo, |_| Answer::Proper);
    let pulled = place.pull().unwrap();
    assert_eq!(std::fs::read_to_string(pulled.path.join("m-2.safetensors")).unwrap(), "two");
    assert!(place.standin.asked_for("consolidated.safetensors").is_empty());
    std::fs::remove_file(pulled.path.join("m-1.safetensors")).unwrap();
    assert!(place.hub().find(&name(REPO), Needs::Everything).is_none());
    assert!(place.hub().find(&name(REPO), Needs::Description).is_some());
    assert_eq!(place.pull().unwrap().fetched_bytes, 0);
    assert!(place.hub().find(&name(REPO), Needs::Everything).is_some());
}

#[test]
#[cfg(unix)]
fn a_model_that_is_larger_than_the_disk_is_refused_before_its_first_byte() {
    let weights = small().keys().position(|name| name == WEIGHTS).unwrap();
    let place = lying(|said| said["siblings"][weights]["lfs"]["size"] = (1_u64 << 60).into());
    assert!(matches!(place.refused(), Error::DiskSpace { needed_bytes, .. } if needed_bytes >= 1 << 60));
    assert_eq!(place.standin.asked().len(), 1);
    let place = lying(|said| {
        said["siblings"][weights]["lfs"]["size"] = u64::MAX.into();
    });
    assert!(matches!(place.refused(), Error::Hub(HubError::Listing { .. }) | Error::DiskSpace { .. }));
}

#[test]
fn of_gguf_files_the_named_one_comes_with_all_its_parts() {
    let repo = files(&[
        ("x-Q4_K_M.gguf", "GGUF four"),
        ("x-Q8_0-00001-of-00002.gguf", "GGUF eight"),
        ("x-Q8_0-00002-of-00002.gguf", "GGUF more"),
        ("mmproj-F16.gguf", "GGUF picture"),
    ]);
    let place = Place::new(repo, |_| Answer::Proper);
    let first = place.pull().unwrap();
    assert!(first.path.ends_with("x-Q4_K_M.gguf") && first.files == 1);
    let eight = pull(&place.hub(), "owner/tiny:q8_0").unwrap();
    assert!(eight.path.ends_with("x-Q8_0-00001-of-00002.gguf") && eight.files == 2);
    assert_eq!(place.hub().find(&name("owner/tiny:Q8_0"), Needs::Everything), Some(eight.path));
    let error = pull(&place.hub(), "owner/tiny:q5_k_m").unwrap_err().to_string();
    assert!(error.contains("q5_k_m") && error.contains("Q4_K_M, Q8_0"), "{error}");
    let quants: Vec<_> =
        place.hub().entries().unwrap()[0].models.iter().map(|m| m.quant.clone().unwrap()).collect();
    assert_eq!(quants, ["Q4_K_M", "Q8_0"]);
    let freed = place.hub().remove(&name("owner/tiny:q8_0")).unwrap();
    assert_eq!((freed.files, freed.bytes), (2, 19));
    assert!(place.hub().find(&name("owner/tiny:q8_0"), Needs::Everything).is_none());
    assert!(place.hub().find(&name("owner/tiny:q4_k_m"), Needs::Everything).is_some());
}

#[test]
fn weights_of_another_kind_are_named() {
    let place = Place::new(files(&[("config.json", "{}"), ("pytorch_model.bin", "x")]), |_| Answer::Proper);
    let error = place.refused();
    assert!(error.to_string().contains("`pytorch_model.bin`, which is not read"), "{error}");
}

#[test]
fn a_description_comes_without_weights() {
    let place = Place::new(small(), |_| Answer::Proper);
    let pulled =
        place.hub().pull(&name(REPO), Needs::Description, &|_, _| ControlFlow::Continue(())).unwrap();
    assert!(pulled.path.join("config.json").is_file() && place.standin.asked_for(WEIGHTS).is_empty());
    assert!(place.hub().find(&name(REPO), Needs::Everything).is_none());
    assert_eq!(place.hub().find(&name(REPO), Needs::Description), Some(pulled.path));
    let entries = place.hub().entries().unwrap();
    assert!(!entries[0].models[0].is_complete);
}

#[test]
fn offline_nothing_is_asked() {
    let place = Place::new(small(), |_| Answer::Proper);
    let error = pull(&place.hub().offline(true), REPO).unwrap_err();
    assert!(error.hint().unwrap().contains("moebius pull owner/tiny") && error.kind() == ErrorKind::NotFound);
    assert!(place.standin.asked().is_empty());
}

#[test]
fn whoever_watches_may_stop_it_and_the_rest_comes_later() {
    let place = Place::new(files_of(&tiny()), |_| Answer::Proper);
    let stop =
        |done: u64, _: u64| if done > 4_000_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let stopped = place.hub().pull(&name(REPO), Needs::Everything, &stop);
    assert!(matches!(stopped, Err(Error::Hub(HubError::Stopped))), "{stopped:?}");
    let pulled = place.pull().unwrap();
    assert!(pulled.fetched_bytes < pulled.bytes);
}

#[test]
fn two_that_pull_the_same_at_once_share_the_work() {
    let place = Place::new(small(), |_| Answer::Proper);
    let pulled: Vec<Pulled> = std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| place.pull().unwrap()));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(place.standin.asked_for(WEIGHTS).len(), 1);
    assert_eq!(pulled[0].fetched_bytes + pulled[1].fetched_bytes, pulled[0].bytes);
}

#[test]
fn removing_a_model_frees_its_bytes_and_touches_no_other() {
    let place = Place::new(small(), |_| Answer::Proper);
    let pulled = place.pull().unwrap();
    let neighbour = place.cache().join("models--owner--tiny2/blobs");
    std::fs::create_dir_all(&neighbour).unwrap();
    let lock = place
        .cache()
        .join(".locks/models--owner--tiny")
        .join(format!("{}.lock", etag(WEIGHTS, &small()[WEIGHTS])));
    let held = std::fs::File::open(&lock).unwrap();
    held.lock().unwrap();
    assert!(matches!(place.hub().remove(&name(REPO)), Err(Error::Hub(HubError::Busy(_)))));
    drop(held);
    let freed = place.hub().remove(&name(REPO)).unwrap();
    assert!(
        freed.bytes > pulled.bytes
            && !place.cache().join("models--owner--tiny").exists()
            && neighbour.is_dir()
    );
    assert!(matches!(place.hub().remove(&name(REPO)), Err(Error::Hub(HubError::NotHere { .. }))));
}

#[test]
#[cfg(unix)]
fn removing_a_revision_keeps_what_another_one_shares() {
    let place = Place::new(small(), |_| Answer::Proper);
    let pulled = place.pull().unwrap();
    let (repo, other) = (place.cache().join("models--owner--tiny"), "f".repeat(40));
    let second = repo.join("snapshots").join(&other);
    std::fs::create_dir_all(&second).unwrap();
    std::os::unix::fs::symlink(pulled.path.join(WEIGHTS).canonicalize().unwrap(), second.join(WEIGHTS))
        .unwrap();
    std::fs::write(repo.join("refs/second"), &other).unwrap();
    place.hub().remove(&name("owner/tiny@main")).unwrap();
    assert!(!pulled.path.exists() && second.join(WEIGHTS).is_file() && !repo.join("refs/main").exists());
    assert_eq!(std::fs::read_dir(repo.join("blobs")).unwrap().count(), 1);
}

#[test]
#[cfg(unix)]
fn a_link_in_place_of_a_model_is_not_followed() {
    let place = Place::new(small(), |_| Answer::Proper);
    let precious = place.dir.path().join("precious");
    std::fs::create_dir_all(precious.join("snapshots")).unwrap();
    std::fs::create_dir_all(place.cache()).unwrap();
    std::os::unix::fs::symlink(&precious, place.cache().join("models--owner--tiny")).unwrap();
    assert!(matches!(place.hub().remove(&name(REPO)), Err(Error::Hub(HubError::NotHere { .. }))));
    assert!(place.hub().entries().unwrap().is_empty() && precious.join("snapshots").is_dir());
}
