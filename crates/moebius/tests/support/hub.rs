//! A stand-in of the hub on this machine's loopback, which answers as told and notes what it was asked.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use sha1::{Digest, Sha1};
use sha2::Sha256;

pub(crate) const REPO: &str = "owner/tiny";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A repository: names and contents.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Path and query.
    pub(crate) path: String,
    /// Where the range begins.
    pub(crate) from: Option<usize>,
    /// Who asks.
    pub(crate) authorization: Option<String>,
    /// How many requests for the same path came before.
    pub(crate) earlier: usize,
}

impl Asked {
    pub(crate) fn is_for(&self, file: &str) -> bool {
        self.path.contains("/resolve/") && self.path.ends_with(file)
    }
}

/// What is answered.
pub(crate) enum Answer {
    /// What a hub would.
    Proper,
    /// A status, headers and a body.
    Status(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The beginning of the proper body; then the connection ends.
    Cut(usize),
    /// The beginning of the proper body; then silence until the other side goes.
    Stall(usize),
}

type Script = dyn Fn(&Asked) -> Answer + Send + Sync;

/// The server; it lives as long as the test's process.
pub(crate) struct StandIn {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl StandIn {
    /// A hub with one repository that answers as `script` says.
    pub(crate) fn start(files: Files, script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let shared = (Arc::new(files), Arc::new(script) as Arc<Script>, asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, script, asked) = shared.clone();
                // A client that goes away is no error of the server.
                std::thread::spawn(move || serve(stream, &files, &*script, &asked));
            }
        });
        StandIn { url, asked }
    }

    /// A hub that answers as it should.
    pub(crate) fn proper(files: Files) -> Self {
        StandIn::start(files, |_| Answer::Proper)
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }

    /// The requests for the content of a file.
    pub(crate) fn asked_for(&self, file: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.is_for(file)).collect()
    }
}

/// The files of a directory.
pub(crate) fn files_of(dir: &Path) -> Files {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    files
        .map(|e| (e.file_name().into_string().expect("UTF-8"), std::fs::read(e.path()).expect("a file")))
        .collect()
}

/// A repository of these texts.
pub(crate) fn files(texts: &[(&str, &str)]) -> Files {
    texts.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a file's blob.
pub(crate) fn etag(name: &str, content: &[u8]) -> String {
    if is_large(name) {
        return hex(&Sha256::digest(content));
    }
    let mut hash = Sha1::new_with_prefix(format!("blob {}\0", content.len()));
    hash.update(content);
    hex(&hash.finalize())
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

/// What the hub says of the repository.
pub(crate) fn listing(files: &Files) -> serde_json::Value {
    let sibling = |(name, content): (&String, &Vec<u8>)| {
        let (etag, size) = (etag(name, content), content.len());
        match is_large(name) {
            true => {
                serde_json::json!({"rfilename": name, "size": size, "blobId": "c".repeat(40), "lfs": {"sha256": etag, "size": size, "pointerSize": 134}})
            }
            false => serde_json::json!({"rfilename": name, "size": size, "blobId": etag}),
        }
    };
    serde_json::json!({"id": REPO, "sha": COMMIT, "siblings": files.iter().map(sibling).collect::<Vec<_>>()})
}

fn serve(stream: TcpStream, files: &Files, script: &Script, log: &Mutex<Vec<Asked>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut from, mut authorization) = (None, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match &*name.to_ascii_lowercase() {
            "range" => from = value.strip_prefix("bytes=").and_then(|v| v.strip_suffix('-')?.parse().ok()),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let asked = {
        let mut log = log.lock().ok()?;
        let earlier = log.iter().filter(|asked: &&Asked| asked.path == path).count();
        let asked = Asked { path, from, authorization, earlier };
        log.push(asked.clone());
        asked
    };
    answer(stream, &asked, files, script(&asked))
}

fn answer(mut stream: TcpStream, asked: &Asked, files: &Files, answer: Answer) -> Option<()> {
    let (status, headers, body) = proper(asked, files);
    let (status, headers, body, sent, stalls) = match answer {
        Answer::Proper => (status, headers, body.clone(), body.len(), false),
        Answer::Status(status, headers, body) => (status, headers, body.clone(), body.len(), false),
        Answer::Cut(sent) => (status, headers, body, sent, false),
        Answer::Stall(sent) => (status, headers, body, sent, true),
    };
    let mut head =
        format!("HTTP/1.1 {status} Some Words\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    stream.write_all(&body[..sent.min(body.len())]).ok()?;
    stream.flush().ok()?;
    if stalls {
        // Ends when the other side does.
        let _ = stream.read(&mut [0]);
    }
    Some(())
}

type Reply = (u16, Vec<(&'static str, String)>, Vec<u8>);

fn proper(asked: &Asked, files: &Files) -> Reply {
    let path = asked.path.split('?').next().unwrap_or_default();
    if path == format!("/api/models/{REPO}/revision/main") {
        return (200, Vec::new(), listing(files).to_string().into_bytes());
    }
    if path.starts_with("/api/") {
        let code = if path.contains(REPO) { "RevisionNotFound" } else { "RepoNotFound" };
        return (404, vec![("X-Error-Code", code.into())], Vec::new());
    }
    let file = path.strip_prefix(&format!("/{REPO}/resolve/{COMMIT}/")).and_then(|file| files.get(file));
    match (file, asked.from) {
        (None, _) => (404, vec![("X-Error-Code", "EntryNotFound".into())], Vec::new()),
        (Some(content), None) => (200, Vec::new(), content.clone()),
        (Some(content), Some(from)) if from < content.len() => {
            let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
            (206, vec![("Content-Range", range)], content[from..].to_vec())
        }
        (Some(_), Some(_)) => (416, Vec::new(), Vec::new()),
    }
}
