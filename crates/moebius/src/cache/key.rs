//! What a packed copy was made from, in enough detail that another source, format or program does not pass for it.
//!
//! Invariants: two keys are equal only if packing would write the same bytes, as far as sizes and times of files tell.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use moebius_backend::{Packer, WeightFormat, WeightView};
use moebius_model::{Error as ModelError, ModelFiles, PACKING};
use serde::{Deserialize, Serialize};

use crate::Result;

/// What says which packed copy is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    /// The model's directory, without links.
    pub(super) model: String,
    /// What its weights are held in.
    pub(super) format: String,
    /// The configuration and the files of the checkpoint, in this order.
    pub(super) files: Vec<Source>,
    /// The program's version and the layout of packed files.
    pub(super) program: String,
    /// A hash of some numbers, rounded and packed in every format: changed rounding makes another key.
    rounding: String,
}

/// A file of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) stamp: Stamp,
}

/// What changes when a file is written. Times in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) bytes: u64,
    modified_ns: i64,
    /// Of its contents or attributes, where the system counts that. Nobody can set it back, so that other weights of the
    /// same size and time show; that more rights or another name for the file show as well costs a packing.
    changed_ns: Option<i64>,
}

impl Key {
    /// The key of `files` as they are now.
    pub(super) fn of(files: &ModelFiles, packer: &dyn Packer) -> Result<Self> {
        let paths =
            std::iter::once(files.config_path()).chain(files.checkpoint_paths().iter().map(PathBuf::as_path));
        let source = |path: &Path| -> Result<Source> {
            let stamp = Stamp::of(path).map_err(|source| ModelError::Io { path: path.into(), source })?;
            Ok(Source { name: text(Path::new(path.file_name().unwrap_or(path.as_os_str()))), stamp })
        };
        let io = |source| ModelError::Io { path: files.dir().into(), source };
        Ok(Key {
            model: text(&files.dir().canonicalize().map_err(io)?),
            format: files.formats().to_string(),
            files: paths.map(source).collect::<Result<_>>()?,
            program: program(),
            rounding: rounding(packer)?,
        })
    }

    /// The name of its directory: for people at the front, for the program at the end.
    pub(super) fn name(&self) -> String {
        const MOST_LETTERS: usize = 40;
        let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let model = self.place();
        let model = model.file_name().map_or("model".into(), |name| name.to_string_lossy());
        let model: String = model.trim_start_matches('.').chars().take(MOST_LETTERS).map(allowed).collect();
        let json = serde_json::to_vec(self).expect("plain data can be written");
        format!("{model}-{}-{:016x}", self.format.replace(' ', "-"), fnv1a(json))
    }

    /// Where the model is: its directory, or the file that it is.
    pub(super) fn place(&self) -> PathBuf {
        let dir = PathBuf::from(&self.model);
        match self.files.first() {
            Some(file) if !file.name.ends_with(".json") => dir.join(&file.name),
            _ => dir,
        }
    }

    /// Whether `other` was made from this model in this format by this program, maybe as it was at another time.
    pub(super) fn supersedes(&self, other: &Key) -> bool {
        let place =
            |key: &Key| (key.model.clone(), key.format.clone(), key.files.first().map(|f| f.name.clone()));
        place(self) == place(other) && self.program == other.program && self != other
    }

    /// Whether the files are as they were, and this program would make the copy.
    pub(super) fn is_current(&self) -> bool {
        let unchanged = |file: &Source| {
            Stamp::of(&Path::new(&self.model).join(&file.name)).is_ok_and(|stamp| stamp == file.stamp)
        };
        self.program == program() && self.files.iter().all(unchanged)
    }
}

impl Stamp {
    /// The stamp of the file at `path`, or of what a link there leads to.
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        let modified_ns = nanoseconds(metadata.modified()?);
        Ok(Stamp { bytes: metadata.len(), modified_ns, changed_ns: changed_ns(&metadata) })
    }
}

#[cfg(unix)]
fn changed_ns(metadata: &Metadata) -> Option<i64> {
    use std::os::unix::fs::MetadataExt;
    metadata.ctime().checked_mul(1_000_000_000)?.checked_add(metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn changed_ns(_: &Metadata) -> Option<i64> {
    None
}

fn nanoseconds(time: SystemTime) -> i64 {
    let saturate = |nanoseconds: u128| i64::try_from(nanoseconds).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => saturate(since.as_nanos()),
        Err(before) => -saturate(before.duration().as_nanos()),
    }
}

fn program() -> String {
    format!("moebius {} {PACKING}", env!("CARGO_PKG_VERSION"))
}

/// A path as text from which it can be told apart.
pub(super) fn text(path: &Path) -> String {
    path.to_str().map_or_else(|| format!("{path:?}"), String::from)
}

/// A hash of two panels of numbers of many sizes, rounded to and packed in each format.
fn rounding(packer: &dyn Packer) -> Result<String> {
    const ROWS: usize = 17;
    const COLS: usize = 512;
    let mut state = 1u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let spread = [1.0, 0.01, 3.0, 0.3][(state >> 8) as usize % 4];
        ((state >> 9) as f32 / (1u32 << 22) as f32 - 1.0) * spread
    };
    let bytes: Vec<u8> = (0..ROWS * COLS).flat_map(|_| number().to_le_bytes()).collect();
    let mut packed = Vec::new();
    for format in WeightFormat::ALL {
        let view = WeightView::new("sample", WeightFormat::F32, (ROWS, COLS), bytes.as_slice());
        packed.extend(packer.pack(&view, format)?);
    }
    Ok(format!("{:016x}", fnv1a(packed)))
}

/// FNV-1a of 64 bits (Fowler, Noll and Vo).
fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(model: &str, bytes: u64) -> Key {
        let stamp = Stamp { bytes, modified_ns: 1, changed_ns: None };
        let files = vec![Source { name: "config.json".into(), stamp }];
        Key { model: model.into(), format: "q8_0".into(), files, program: program(), rounding: "0".into() }
    }

    #[test]
    fn the_hash_is_the_published_one() {
        let hash = |text: &str| fnv1a(text.bytes());
        assert_eq!((hash(""), hash("foobar")), (0xcbf2_9ce4_8422_2325, 0x8594_4171_f739_67e8));
    }

    #[test]
    fn a_name_is_one_plain_component_that_differs_where_keys_do() {
        for model in ["/models/Mixtral-8x7B", "/", "/a/...", "/a/b c:\\\u{e4}\n", "/a/.hidden"] {
            let name = key(model, 1).name();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            assert!(name.chars().all(plain) && !name.starts_with('.') && name.len() < 80, "{name}");
        }
        assert!(key("/m/Mixtral", 1).name().starts_with("Mixtral-q8_0-"));
        assert_ne!(key("/m/Mixtral", 1).name(), key("/m/Mixtral", 2).name());
        assert_ne!(key("/m/Mixtral", 1).name(), key("/n/Mixtral", 1).name());
    }

    #[test]
    fn a_model_in_one_file_is_named_by_it() {
        let mut gguf = key("/models", 1);
        gguf.files[0].name = "olmoe.q8_0.gguf".into();
        assert_eq!(gguf.place(), Path::new("/models/olmoe.q8_0.gguf"));
        assert!(gguf.name().starts_with("olmoe.q8_0.gguf-q8_0-"), "{}", gguf.name());
        assert_eq!(key("/models", 1).place(), Path::new("/models"));
        let mut other = gguf.clone();
        other.files[0].name = "b.gguf".into();
        assert!(!other.supersedes(&gguf));
    }

    #[test]
    fn only_another_state_of_the_same_model_is_superseded() {
        let now = key("/m", 2);
        assert!(now.supersedes(&key("/m", 1)));
        assert!(!now.supersedes(&now) && !now.supersedes(&key("/n", 1)));
        assert!(!now.supersedes(&Key { format: "q4_0".into(), ..key("/m", 1) }));
        assert!(!now.supersedes(&Key { program: "moebius 0.0.1".into(), ..key("/m", 1) }));
    }

    #[test]
    fn times_before_1970_are_told_apart() {
        let second = std::time::Duration::from_secs(1);
        assert_eq!(nanoseconds(UNIX_EPOCH - second), -1_000_000_000);
        assert_eq!(nanoseconds(UNIX_EPOCH + second), 1_000_000_000);
    }
}
