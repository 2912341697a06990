//! Models in Ollama's store, read in place.
//!
//! `manifests/HOST/NAMESPACE/NAME/TAG` is JSON that names layers by digest, and `blobs/sha256-HEX` is a layer. The layer of
//! the model is a GGUF file; others say how it is to be run.
//!
//! Invariants: nothing is written; a digest becomes part of a path only as `sha256:` and 64 hexadecimal digits, a name only
//! in letters, digits and `-_.`, not beginning with a dot.

mod settings;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use crate::hub::{HubError, is_hex};
use crate::{Result, knobs};

pub use settings::OllamaSettings;

/// What the name of a model in the store begins with on the command line.
pub(crate) const PREFIX: &str = "ollama:";
const HOST: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";
const TAG: &str = "latest";
const MAX_PART_BYTES: usize = 200;
/// Manifests, options and messages are a few hundred bytes.
const TEXT_LIMIT_BYTES: u64 = 1 << 20;
const MAGIC: &[u8; 4] = b"GGUF";
const MODEL_LAYER: &str = "application/vnd.ollama.image.model";
/// Layers that change what the model says; without them it would say something else.
const ADAPTER_LAYER: &str = "application/vnd.ollama.image.adapter";
const PARAMS_LAYER: &str = "application/vnd.ollama.image.params";
const SYSTEM_LAYER: &str = "application/vnd.ollama.image.system";
/// Layers that say something which is not read, and what that is.
const UNREAD_LAYERS: [(&str, &str); 2] = [
    ("application/vnd.ollama.image.template", "its template"),
    ("application/vnd.ollama.image.messages", "its messages"),
];

/// The name of a model in Ollama's store: `[[HOST/]NAMESPACE/]NAME[:TAG]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OllamaName {
    host: String,
    namespace: String,
    name: String,
    tag: String,
}

/// Ollama's store.
#[derive(Clone, Debug)]
pub struct OllamaStore {
    dir: PathBuf,
}

/// A model in the store.
#[derive(Clone, Debug)]
pub struct OllamaEntry {
    /// Its name, as short as it can be said.
    pub name: String,
    /// Bytes of its layers, as the manifest has them; `None` for a manifest that cannot be read.
    pub bytes: Option<u64>,
    /// Its GGUF file, or why it cannot be used.
    pub model: std::result::Result<PathBuf, String>,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    size: u64,
}

impl FromStr for OllamaName {
    type Err = HubError;

    fn from_str(text: &str) -> std::result::Result<Self, HubError> {
        let reason = "expected ollama:NAME, ollama:NAME:TAG or ollama:[HOST/]NAMESPACE/NAME:TAG";
        let invalid = || HubError::InvalidName { name: format!("{PREFIX}{text}"), reason };
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, TAG),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (host, namespace, name) = match parts.as_slice() {
            [name] => (HOST, NAMESPACE, *name),
            [namespace, name] => (HOST, *namespace, *name),
            [host, namespace, name] => (*host, *namespace, *name),
            _ => return Err(invalid()),
        };
        if ![host, namespace, name, tag].into_iter().all(is_plain_part) {
            return Err(invalid());
        }
        let own = str::to_owned;
        Ok(OllamaName { host: own(host), namespace: own(namespace), name: own(name), tag: own(tag) })
    }
}

impl std::fmt::Display for OllamaName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host != HOST {
            write!(f, "{}/", self.host)?;
        }
        if self.host != HOST || self.namespace != NAMESPACE {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}:{}", self.name, self.tag)
    }
}

fn is_plain_part(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty()
        && part.len() <= MAX_PART_BYTES
        && !part.starts_with('.')
        && !part.ends_with('.')
        && part.chars().all(allowed)
}

impl OllamaStore {
    /// The store in the directory `dir`.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        OllamaStore { dir: dir.into() }
    }

    /// This machine's store: `OLLAMA_MODELS`, else `~/.ollama/models`, else that of Ollama's service; the first that is
    /// there.
    pub fn standard() -> Option<Self> {
        let named = knobs::OLLAMA_MODELS.value().map(PathBuf::from);
        if let Some(dir) = named {
            return Some(OllamaStore::at(dir));
        }
        let own = std::env::home_dir().map(|home| home.join(".ollama").join("models"));
        let places = own.into_iter().chain([PathBuf::from("/usr/share/ollama/.ollama/models")]);
        places.into_iter().find(|dir| dir.join("manifests").is_dir()).map(OllamaStore::at)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The GGUF file of a model.
    ///
    /// # Errors
    /// [`HubError::NotHere`] without a manifest; [`HubError::Ollama`] for a manifest or a blob that cannot be used.
    pub fn find(&self, name: &OllamaName) -> Result<PathBuf> {
        let path = self.manifest(name);
        if !path.is_file() {
            return Err(HubError::NotHere { name: format!("{PREFIX}{name}"), dir: self.dir.clone() }.into());
        }
        Ok(self.model(&path, &read(&path)?)?)
    }

    /// What a model says beside its weights.
    ///
    /// # Errors
    /// [`HubError::NotHere`] without a manifest; [`HubError::Ollama`] for a manifest or a layer that cannot be read.
    pub fn settings(&self, name: &OllamaName) -> Result<OllamaSettings> {
        let path = self.manifest(name);
        if !path.is_file() {
            return Err(HubError::NotHere { name: format!("{PREFIX}{name}"), dir: self.dir.clone() }.into());
        }
        let manifest = read(&path)?;
        let layer = |kind: &str| manifest.layers.iter().find(|layer| layer.media_type == kind);
        let refuse = |path: &Path, reason: String| HubError::Ollama { path: path.into(), reason };
        let mut settings = match layer(PARAMS_LAYER) {
            Some(layer) => {
                let blob = self.blob(&path, layer)?;
                OllamaSettings::read(&small(&blob)?).map_err(|reason| refuse(&blob, reason))?
            }
            None => OllamaSettings::default(),
        };
        if let Some(layer) = layer(SYSTEM_LAYER) {
            let blob = self.blob(&path, layer)?;
            let text = String::from_utf8(small(&blob)?);
            let text = text.map_err(|error| refuse(&blob, format!("expected UTF-8 text: {error}")))?;
            settings.system = Some(text).filter(|text| !text.is_empty());
        }
        let unread = UNREAD_LAYERS.into_iter().filter(|(kind, _)| layer(kind).is_some());
        settings.unused.extend(unread.map(|(_, what)| what.to_owned()));
        Ok(settings)
    }

    /// Every model in the store, by name.
    pub fn entries(&self) -> Vec<OllamaEntry> {
        let mut entries = Vec::new();
        let root = self.dir.join("manifests");
        for host in names(&root) {
            for namespace in names(&root.join(&host)) {
                for name in names(&root.join(&host).join(&namespace)) {
                    for tag in names(&root.join(&host).join(&namespace).join(&name)) {
                        let parts = (host.clone(), namespace.clone(), name.clone(), tag);
                        entries.push(self.entry(OllamaName {
                            host: parts.0,
                            namespace: parts.1,
                            name: parts.2,
                            tag: parts.3,
                        }));
                    }
                }
            }
        }
        entries.sort_by(|a: &OllamaEntry, b| a.name.cmp(&b.name));
        entries
    }

    fn entry(&self, name: OllamaName) -> OllamaEntry {
        let path = self.manifest(&name);
        let manifest = read(&path);
        let bytes = manifest
            .as_ref()
            .ok()
            .map(|m| m.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add));
        let model = manifest.and_then(|manifest| self.model(&path, &manifest)).map_err(|error| match error {
            HubError::Ollama { reason, .. } => reason,
            other => other.to_string(),
        });
        OllamaEntry { name: name.to_string(), bytes, model }
    }

    fn manifest(&self, name: &OllamaName) -> PathBuf {
        let OllamaName { host, namespace, name, tag } = name;
        self.dir.join("manifests").join(host).join(namespace).join(name).join(tag)
    }

    /// The blob of the model's layer, if it is what it should be.
    fn model(&self, path: &Path, manifest: &Manifest) -> std::result::Result<PathBuf, HubError> {
        let refuse = |path: &Path, reason: String| Err(HubError::Ollama { path: path.into(), reason });
        if manifest.layers.iter().any(|layer| layer.media_type == ADAPTER_LAYER) {
            return refuse(path, "it has an adapter, and adapters are not read".into());
        }
        let models: Vec<&Layer> =
            manifest.layers.iter().filter(|layer| layer.media_type == MODEL_LAYER).collect();
        let [layer] = models.as_slice() else {
            return refuse(path, format!("expected one layer with a model, got {}", models.len()));
        };
        let blob = self.blob(path, layer)?;
        let mut magic = [0; MAGIC.len()];
        match File::open(&blob).and_then(|mut file| file.read_exact(&mut magic)) {
            Ok(()) if magic == *MAGIC => Ok(blob),
            _ => refuse(&blob, "expected a GGUF file, which begins with `GGUF`".into()),
        }
    }

    /// The file of a layer, if it has the bytes that it should have.
    fn blob(&self, path: &Path, layer: &Layer) -> std::result::Result<PathBuf, HubError> {
        let refuse = |path: &Path, reason: String| Err(HubError::Ollama { path: path.into(), reason });
        let Some(hex) = layer.digest.strip_prefix("sha256:").filter(|hex| is_hex(hex, 64)) else {
            return refuse(
                path,
                format!("expected a digest of sha256 and 64 hexadecimal digits, got {:?}", layer.digest),
            );
        };
        let blob = self.dir.join("blobs").join(format!("sha256-{hex}"));
        let metadata = match blob.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return refuse(&blob, error.to_string()),
        };
        if !metadata.is_file() || metadata.len() != layer.size {
            return refuse(&blob, format!("expected a file of {} bytes, got {}", layer.size, metadata.len()));
        }
        Ok(blob)
    }
}

fn read(path: &Path) -> std::result::Result<Manifest, HubError> {
    let broken = |reason: String| HubError::Ollama { path: path.into(), reason };
    serde_json::from_slice(&small(path)?).map_err(|error| broken(error.to_string()))
}

/// A small file, or the beginning of what is none.
fn small(path: &Path) -> std::result::Result<Vec<u8>, HubError> {
    let mut text = Vec::new();
    let read = |file: File| file.take(TEXT_LIMIT_BYTES).read_to_end(&mut text);
    let broken = |error: io::Error| HubError::Ollama { path: path.into(), reason: error.to_string() };
    File::open(path).and_then(read).map_err(broken)?;
    Ok(text)
}

/// The names in a directory that can be parts of a model's name.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_plain_part(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// A store with one model, `olmoe:7b`, whose manifest has these layers.
    fn store(layers: &str, blob: &[u8]) -> (tempfile::TempDir, OllamaStore) {
        let dir = tempfile::tempdir().unwrap();
        let manifests = dir.path().join("manifests/registry.ollama.ai/library/olmoe");
        fs::create_dir_all(&manifests).unwrap();
        fs::create_dir_all(dir.path().join("blobs")).unwrap();
        fs::write(manifests.join("7b"), format!(r#"{{"schemaVersion": 2, "layers": [{layers}]}}"#)).unwrap();
        fs::write(dir.path().join("blobs").join(format!("sha256-{HEX}")), blob).unwrap();
        let store = OllamaStore::at(dir.path());
        (dir, store)
    }

    fn layer(kind: &str, digest: &str, size: usize) -> String {
        format!(
            r#"{{"mediaType": "application/vnd.ollama.image.{kind}", "digest": "{digest}", "size": {size}}}"#
        )
    }

    #[test]
    fn names_are_read_as_ollama_reads_them_and_never_leave_the_store() {
        let check =
            |text: &str, shown: &str| assert_eq!(text.parse::<OllamaName>().unwrap().to_string(), shown);
        check("olmoe", "olmoe:latest");
        check("olmoe:7b", "olmoe:7b");
        check("me/olmoe:7b", "me/olmoe:7b");
        check("hf.co/me/olmoe:Q4_K_M", "hf.co/me/olmoe:Q4_K_M");
        for text in [
            "", ":", "a:", "../a", "a/../b", "/a", "a//b", "a/b/c/d", r"a\b", "a:../b", "a:.b", ".a", "a\0",
            "C:/a", "a b",
        ] {
            assert!(text.parse::<OllamaName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_model_is_the_blob_that_its_manifest_names() {
        let layers = [layer("model", &format!("sha256:{HEX}"), 8), layer("template", "sha256:", 3)].join(",");
        let (_dir, store) = store(&layers, b"GGUF1234");
        let path = store.find(&"olmoe:7b".parse().unwrap()).unwrap();
        assert!(path.ends_with(format!("blobs/sha256-{HEX}")));
        let entries = store.entries();
        assert_eq!((&*entries[0].name, entries[0].bytes, entries.len()), ("olmoe:7b", Some(11), 1));
        assert!(entries[0].model.is_ok());
        let absent = store.find(&"olmoe".parse().unwrap()).unwrap_err();
        assert!(absent.to_string().contains("`ollama:olmoe:latest` is not in"), "{absent}");
    }

    #[test]
    fn what_is_not_as_it_should_be_is_refused_with_its_file_and_reason() {
        let good = format!("sha256:{HEX}");
        let traversal = "sha256:../../../../etc/passwd";
        let upper = format!("sha256:{}", HEX.to_uppercase());
        let cases = [
            (layer("model", traversal, 8), "64 hexadecimal digits"),
            (layer("model", &format!("{good}/../x"), 8), "64 hexadecimal digits"),
            (layer("model", HEX, 8), "64 hexadecimal digits"),
            (layer("model", &upper, 8), "64 hexadecimal digits"),
            (layer("model", &good, 9), "expected a file of 9 bytes, got 8"),
            (layer("template", &good, 8), "expected one layer with a model, got 0"),
            ([layer("model", &good, 8), layer("adapter", &good, 8)].join(","), "an adapter"),
            ("7".into(), "invalid type"),
        ];
        for (layers, reason) in cases {
            let (_dir, store) = store(&layers, b"GGUF1234");
            let error = store.find(&"olmoe:7b".parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("of Ollama cannot be used"), "{error}");
            assert!(store.entries()[0].model.as_ref().is_err_and(|e| e.contains(reason)));
        }
        let (_dir, store) = store(&layer("model", &good, 8), b"PK\x03\x041234");
        assert!(
            store.find(&"olmoe:7b".parse().unwrap()).unwrap_err().to_string().contains("begins with `GGUF`")
        );
    }
}
