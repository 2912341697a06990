//! The head of a trace: which model, which layers, what its records hold.
//!
//! Layout: magic `[8]`, version u32, length u32, then so many bytes of JSON; all numbers little-endian.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The first bytes of every trace.
pub(super) const MAGIC: &[u8; 8] = b"moetrace";
/// The version that is written, and the only one that is read.
pub(super) const VERSION: u32 = 1;
/// Longest JSON: thousands of layers fit.
const MAX_JSON_BYTES: u32 = 1 << 20;
/// More layers than any model has.
const MAX_LAYERS: usize = 4096;
/// Ids are held in two bytes at most, of which one value means "none".
const MAX_EXPERTS: u32 = u16::MAX as u32;

/// What the records of a trace are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceKind {
    /// One token with the experts that each layer chose for it.
    Tokens,
    /// How often each expert of each layer was chosen by so many tokens; nothing about any single one.
    Counts,
}

/// A layer with a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceLayer {
    /// Index of the decoder layer.
    pub layer: usize,
    /// Its experts, 1 to 65535.
    pub experts: u32,
    /// Experts that a token goes through, at most.
    pub k: u32,
}

/// What a trace says before its first record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceHeader {
    /// What its records are.
    pub kind: TraceKind,
    /// `model_type` of the model, if known.
    pub family: Option<String>,
    /// [`fingerprint`](super::fingerprint) of the model, if known.
    pub model: Option<String>,
    /// The layers with a router, ascending.
    pub layers: Vec<TraceLayer>,
    /// Whether records hold the ids of tokens.
    pub token_ids: bool,
    /// Whether records hold weights.
    pub weights: bool,
    /// What wrote it.
    pub program: String,
}

impl TraceHeader {
    /// A header of traces that this program makes of whole tokens.
    pub fn new(layers: Vec<TraceLayer>) -> Self {
        TraceHeader {
            kind: TraceKind::Tokens,
            family: None,
            model: None,
            layers,
            token_ids: true,
            weights: true,
            program: concat!("moebius ", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// Fails unless the trace, which `path` holds, is of a model with these layers, ascending, and so many experts in each.
    ///
    /// # Errors
    /// [`Error::ForeignTrace`] with the first layer that differs.
    pub fn check_is_of(&self, path: &Path, layers: &[(usize, usize)]) -> Result<()> {
        let own: Vec<(usize, usize)> =
            self.layers.iter().map(|layer| (layer.layer, layer.experts as usize)).collect();
        let Some(place) = (0..own.len().max(layers.len())).find(|&place| own.get(place) != layers.get(place))
        else {
            return Ok(());
        };
        let say = |layer: Option<&(usize, usize)>| {
            layer.map_or("no more layers".into(), |(layer, experts)| {
                format!("layer {layer} with {experts} experts")
            })
        };
        let reason = format!("expected {}, got {}", say(layers.get(place)), say(own.get(place)));
        Err(Error::ForeignTrace { path: path.into(), reason })
    }

    /// What is wrong with it, if anything.
    pub(super) fn problem(&self) -> Option<String> {
        if !(1..=MAX_LAYERS).contains(&self.layers.len()) {
            return Some(format!("`layers`: expected 1 to {MAX_LAYERS} entries, got {}", self.layers.len()));
        }
        if !self.layers.is_sorted_by(|a, b| a.layer < b.layer) {
            return Some("`layers`: expected ascending layers".into());
        }
        self.layers.iter().find_map(|&TraceLayer { layer, experts, k }| {
            if !(1..=MAX_EXPERTS).contains(&experts) {
                return Some(format!("layer {layer}: expected 1 to {MAX_EXPERTS} experts, got {experts}"));
            }
            let valid = (1..=experts).contains(&k);
            (!valid).then(|| format!("layer {layer}: expected a `k` from 1 to {experts}, got {k}"))
        })
    }

    /// The bytes that a file begins with.
    pub(super) fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("a header is plain data");
        let mut bytes = Vec::with_capacity(16 + json.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&json);
        bytes
    }

    /// Reads a header and says how many bytes it took.
    pub(super) fn decode(from: &mut impl Read) -> Result<(Self, u64), HeaderError> {
        let mut fixed = [0; 16];
        let got = fill(from, &mut fixed)?;
        if got < MAGIC.len() || fixed[..8] != *MAGIC {
            return Err(HeaderError::Wrong("it is no trace: expected it to begin with `moetrace`".into()));
        }
        if got < fixed.len() {
            return Err(HeaderError::Wrong("it ends within its header".into()));
        }
        let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let (version, json_bytes) = (number(8), number(12));
        if version != VERSION {
            return Err(HeaderError::Wrong(format!("expected version {VERSION}, got {version}")));
        }
        if json_bytes > MAX_JSON_BYTES {
            let expected = format!("expected a header of at most {MAX_JSON_BYTES} bytes, got {json_bytes}");
            return Err(HeaderError::Wrong(expected));
        }
        let mut json = vec![0; json_bytes as usize];
        if fill(from, &mut json)? < json.len() {
            return Err(HeaderError::Wrong("it ends within its header".into()));
        }
        let header: TraceHeader =
            serde_json::from_slice(&json).map_err(|error| HeaderError::Wrong(format!("header: {error}")))?;
        match header.problem() {
            Some(problem) => Err(HeaderError::Wrong(format!("header: {problem}"))),
            None => Ok((header, 16 + u64::from(json_bytes))),
        }
    }
}

/// Why a header could not be read.
pub(super) enum HeaderError {
    /// The system refused.
    Io(std::io::Error),
    /// It is not one.
    Wrong(String),
}

impl From<std::io::Error> for HeaderError {
    fn from(error: std::io::Error) -> Self {
        HeaderError::Io(error)
    }
}

/// Reads until `buffer` is full or the file ends, and says how much there was.
pub(super) fn fill(from: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
