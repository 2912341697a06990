//! Models from the hub and from Ollama's store, as people and scripts meet them.

#[path = "../../moebius/tests/support/hub.rs"]
mod standin;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use standin::{Answer, Asked, COMMIT, REPO, StandIn, etag, files, files_of};
use support::{model, moebius, stderr, stdout};

const WEIGHTS: &str = "model.safetensors";
const PROMPT: [&str; 5] = ["A dog", "-n", "6", "--temp", "0"];

/// A hub that has the bundled model, and a cache of its own.
struct Place {
    dir: TempDir,
    standin: StandIn,
}

impl Place {
    fn new(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let files = files_of(&model("moebius-tiny"));
        Place { dir: tempfile::tempdir().expect("a directory"), standin: StandIn::start(files, script) }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = moebius(args);
        command
            .env_remove("HF_HUB_OFFLINE")
            .env("HF_HOME", self.dir.path())
            .env("HF_ENDPOINT", &self.standin.url);
        command.env("NO_PROXY", "127.0.0.1").stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program starts")
    }

    /// What a command that must succeed prints, and says besides.
    #[track_caller]
    fn succeed(&self, args: &[&str]) -> (String, String) {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        (stdout(&output), stderr(&output))
    }

    /// What a command that must fail with this code says.
    #[track_caller]
    fn fail(&self, args: &[&str], code: i32) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        stderr(&output)
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.succeed(args).0).expect("valid JSON")
    }

    fn blob(&self) -> PathBuf {
        let weights = std::fs::read(model("moebius-tiny").join(WEIGHTS)).expect("weights");
        self.dir.path().join("hub/models--owner--tiny/blobs").join(etag(WEIGHTS, &weights))
    }
}

fn run(model: &str) -> Vec<&str> {
    [&["run", model][..], &PROMPT].concat()
}

#[test]
fn run_downloads_a_model_once_and_answers_as_from_a_directory() {
    let place = Place::new(|_| Answer::Proper);
    let local = place.succeed(&run(&support::tiny())).0;
    let (told, said) = place.succeed(&run(REPO));
    assert_eq!(told, local);
    assert!(said.contains("owner/tiny at 01234567") && said.contains("downloaded"), "{said}");
    let asked = place.standin.asked().len();
    let (told, said) = place.succeed(&[&run(REPO)[..], &["--offline"]].concat());
    assert!(told == local && !said.contains("downloaded"), "{said}");
    assert_eq!(
        place.succeed(&["show", REPO, "--json"]).0,
        place.succeed(&["show", &support::tiny(), "--json"]).0
    );
    assert!(place.succeed(&["plan", REPO, "--json"]).0.contains("owner/tiny"));
    assert_eq!(place.standin.asked().len(), asked, "what is here is not asked for");
}

#[test]
fn offline_a_model_that_is_not_here_is_refused_with_a_hint() {
    let place = Place::new(|_| Answer::Proper);
    let said = place.fail(&[&run(REPO)[..], &["--offline"]].concat(), 3);
    assert!(
        said.contains("is offline") && said.contains("hint: `moebius pull owner/tiny` while online"),
        "{said}"
    );
    assert_eq!(
        place.command(&["pull", REPO]).env("HF_HUB_OFFLINE", "1").status().expect("a start").code(),
        Some(3)
    );
    assert!(place.standin.asked().is_empty());
}

#[test]
fn show_needs_no_weights_of_a_model_on_the_hub() {
    let place = Place::new(|_| Answer::Proper);
    assert!(place.succeed(&["show", REPO]).0.contains("n/a"));
    assert!(place.standin.asked_for(WEIGHTS).is_empty());
    let row = place.json(&["list", "--json"])["models"][0].clone();
    assert_eq!((&row["can_run"], &row["family"]), (&false.into(), &"qwen3_moe".into()), "{row}");
}

#[test]
fn a_download_that_was_killed_goes_on_where_it_ended() {
    const HALF: usize = 10_000_000;
    let stall = |asked: &Asked| match asked.is_for(WEIGHTS) && asked.earlier == 0 {
        true => Answer::Stall(HALF),
        false => Answer::Proper,
    };
    let place = Place::new(stall);
    let mut child = place.command(&["pull", REPO]).spawn().expect("the program starts");
    let incomplete = place.blob().with_extension("incomplete");
    let written = || incomplete.metadata().map_or(0, |metadata| metadata.len());
    while written() < HALF as u64 {
        assert!(child.try_wait().expect("a state").is_none(), "it waits for the rest");
        std::thread::yield_now();
    }
    child.kill().expect("the program is killed");
    child.wait().expect("the program ends");
    assert!(!place.blob().exists());
    assert_eq!(place.fail(&[&run(REPO)[..], &["--offline"]].concat(), 3).matches("error:").count(), 1);
    let (told, _) = place.succeed(&run(REPO));
    assert_eq!(told, place.succeed(&run(&support::tiny())).0);
    let ranges: Vec<_> = place.standin.asked_for(WEIGHTS).iter().map(|asked| asked.from).collect();
    assert_eq!(ranges, [None, Some(HALF)]);
}

#[cfg(unix)]
#[test]
fn a_download_that_fills_the_disk_is_an_error_that_names_the_file_and_goes_on_when_there_is_room() {
    use support::with_small_files;
    const BLOCKS: u32 = 20_000;
    let place = Place::new(|_| Answer::Proper);
    let output = with_small_files(&place.command(&["pull", REPO]), BLOCKS).output().expect("a start");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let incomplete = place.blob().with_extension("incomplete");
    for part in ["error: cannot write", &incomplete.display().to_string(), "caused by: ", "hint: "] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let written = 512 * u64::from(BLOCKS);
    assert_eq!(incomplete.metadata().expect("what has arrived stays").len(), written);
    assert!(!place.blob().exists());
    let row = place.json(&["list", "--json"])["models"][0].clone();
    assert!(row.is_null() || row["is_complete"] == false, "{row}");
    let said = place.fail(&[&run(REPO)[..], &["--offline"]].concat(), 3);
    assert!(said.contains("is offline"), "{said}");
    assert_eq!(place.succeed(&run(REPO)).0, place.succeed(&run(&support::tiny())).0);
    let ranges: Vec<_> = place.standin.asked_for(WEIGHTS).iter().map(|asked| asked.from).collect();
    assert_eq!(ranges, [None, Some(written as usize)]);
}

#[test]
fn two_programs_that_pull_the_same_at_once_download_it_once() {
    let place = Place::new(|_| Answer::Proper);
    let children = [(); 2].map(|()| place.command(&["pull", REPO]).spawn().expect("the program starts"));
    for child in children {
        let output = child.wait_with_output().expect("the program ends");
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(place.standin.asked_for(WEIGHTS).len(), 1);
}

#[test]
fn what_is_here_is_listed_and_removed() {
    let place = Place::new(|_| Answer::Proper);
    assert!(place.succeed(&["list"]).0.contains("no models in"));
    let pulled = place.json(&["pull", REPO, "--json"]);
    assert_eq!((&pulled["commit"], &pulled["bytes"]), (&COMMIT.into(), &pulled["fetched_bytes"]));
    let text = place.succeed(&["ls"]).0;
    for part in ["owner/tiny", "main 01234567", "14.5 M", "3.44 M", "qwen3_moe", "yes, bf16"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let row = place.json(&["list", "--json"])["models"][0].clone();
    assert_eq!(
        (&row["is_complete"], &row["can_run"], &row["packed_bytes"]),
        (&true.into(), &true.into(), &0.into())
    );
    let said = place.fail(&["rm", REPO], 2);
    assert!(said.contains("nobody can be asked") && said.contains("--yes"), "{said}");
    let (told, _) = place.succeed(&["rm", REPO, "--yes"]);
    assert!(told.contains("removed owner/tiny") && told.contains("MB freed"), "{told}");
    assert!(place.fail(&["rm", REPO, "--yes"], 3).contains("is not in"));
    assert!(place.fail(&["rm", "../../etc", "--yes"], 2).contains("is not the name of a model"));
}

#[test]
fn a_hub_that_refuses_is_told_with_its_code() {
    let refuse = |_: &Asked| Answer::Status(403, vec![("X-Error-Code", "GatedRepo".into())], Vec::new());
    let said = Place::new(refuse).fail(&run(REPO), 3);
    assert!(said.contains("`owner/tiny` is gated") && said.contains("hint: accept the terms"), "{said}");
    let place = Place::new(|_| Answer::Proper);
    assert!(place.fail(&["pull", "owner/other"], 3).contains("has no model `owner/other`"));
    assert!(place.fail(&["pull", "owner/tiny@other"], 3).contains("no revision `other`"));
    assert!(place.fail(&["pull", "tiny"], 2).contains("expected owner/name"));
}

#[test]
fn a_token_file_opens_a_private_model() {
    let private = |asked: &Asked| match asked.authorization.as_deref() {
        Some("Bearer hf_file") => Answer::Proper,
        _ => Answer::Status(401, Vec::new(), Vec::new()),
    };
    let place = Place::new(private);
    assert!(place.fail(&["pull", REPO], 3).contains("has no model"));
    std::fs::write(place.dir.path().join("token"), "hf_file\n").expect("a file");
    place.succeed(&["pull", REPO]);
}

/// Ollama's store with one model, which has these layers.
fn store(dir: &Path, layers: &[(&str, &[u8])]) {
    let manifests = dir.join("manifests/registry.ollama.ai/library/olmoe");
    std::fs::create_dir_all(&manifests).expect("a directory");
    std::fs::create_dir_all(dir.join("blobs")).expect("a directory");
    let layer = |(kind, content): &(&str, &[u8])| {
        let (digest, size) = (etag("x.gguf", content), content.len());
        std::fs::write(dir.join("blobs").join(format!("sha256-{digest}")), content).expect("a file");
        format!(
            r#"{{"mediaType": "application/vnd.ollama.image.{kind}", "digest": "sha256:{digest}", "size": {size}}}"#
        )
    };
    let layers = layers.iter().map(layer).collect::<Vec<_>>().join(",");
    std::fs::write(manifests.join("latest"), format!(r#"{{"layers": [{layers}]}}"#)).expect("a file");
}

#[test]
fn ollamas_models_are_listed_and_missing_ones_named() {
    let place =
        Place { dir: tempfile::tempdir().expect("a directory"), standin: StandIn::proper(files(&[])) };
    store(place.dir.path(), &[("model", b"PK, no model")]);
    let ask =
        |args: &[&str]| place.command(args).env("OLLAMA_MODELS", place.dir.path()).output().expect("a start");
    let listed = stdout(&ask(&["list", "--ollama"]));
    assert!(
        listed.contains("ollama:olmoe:latest") && listed.contains("no: expected a GGUF file"),
        "{listed}"
    );
    let output = ask(&run("ollama:olmoe"));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("begins with `GGUF`") && stderr(&output).contains("hint: `ollama pull`")
    );
    let output = ask(&run("ollama:absent:7b"));
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("`ollama:absent:7b` is not in"), "{}", stderr(&output));
    assert_eq!(ask(&run("ollama:../x")).status.code(), Some(2));
}

#[test]
fn what_ollama_says_of_a_model_holds_where_no_flag_says_otherwise() {
    let dir = tempfile::tempdir().expect("a directory");
    let gguf = dir.path().join("tiny.gguf");
    let written = moebius(&["convert", &support::tiny(), "--format", "q8_0", "-q", "-o"]).arg(&gguf).status();
    assert!(written.expect("a start").success());
    let weights = std::fs::read(&gguf).expect("it was written");
    let params = br#"{"temperature": 0, "stop": [" the"], "num_predict": 5, "num_ctx": 128, "mirostat": 2}"#;
    let layers: [(&str, &[u8]); 3] =
        [("model", &weights), ("params", params), ("template", b"{{ .Prompt }}")];
    store(dir.path(), &layers);
    let run = |model: &str, args: &[&str]| {
        let mut command = moebius(&[&["run", model, "A dog", "--no-meter"][..], args].concat());
        command.env("OLLAMA_MODELS", dir.path()).output().expect("a start")
    };
    let json = |model: &str, args: &[&str]| -> Value {
        let output = run(model, &[args, &["--json"]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("valid JSON")
    };
    let file = gguf.display().to_string();
    let told = json("ollama:olmoe", &[]);
    assert_eq!(told["ids"], json(&file, &["--temp", "0", "--stop", " the", "-n", "5"])["ids"]);
    let flags = ["--stop", "nowhere at all", "-n", "9"];
    let overruled = json("ollama:olmoe", &flags);
    assert_eq!(overruled["ids"], json(&file, &[&flags[..], &["--temp", "0"]].concat())["ids"]);
    assert_eq!(overruled["ids"].as_array().map(Vec::len), Some(9));
    let said = stderr(&run("ollama:olmoe", &["-v"]));
    for part in ["context 128", "temperature 0", "stops at [\" the\"]", "not used: `mirostat` its template"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    store(dir.path(), &[("model", &weights), ("params", br#"{"top_p": "most"}"#)]);
    let output = run("ollama:olmoe", &[]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("`top_p`: expected a number, got \"most\""), "{}", stderr(&output));
}
