//! Looks on while a model runs, and writes down what its routers choose.
//!
//! Shapes: a batch holds rows of several sequences; each layer answers for all of them before the next one does.
//! Invariants: a step is in the file when it is finished, whole; counts leave the program for no fewer than
//! [`BLOCK_TOKENS`] tokens at a time but the last; a file that cannot be written ends the trace and not the run.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use candle_core::Tensor;
use moebius_model::{ModelFiles, ModelInfo, Probe, SequenceId, TokenBatch};
use moebius_router::{ExpertLoad, Routing};
use sha2::{Digest, Sha256};

use super::TokenRoutes;
use super::header::{TraceHeader, TraceKind, TraceLayer};
use super::reader::read_error;
use super::writer::TraceWriter;
use crate::{Error, LayerRoute, Model, Result};

/// Counts of fewer tokens come close to the routing of single ones, which tells what was written.
const BLOCK_TOKENS: u64 = 1024;

/// What a trace holds of each token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceMode {
    /// Its id, and the experts of every layer with their weights.
    #[default]
    Tokens,
    /// Nothing: how often each expert was chosen by all of them.
    Counts,
}

impl TraceMode {
    /// The names of all modes.
    pub const NAMES: [&str; 2] = ["tokens", "counts"];
}

impl FromStr for TraceMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "tokens" => Ok(TraceMode::Tokens),
            "counts" => Ok(TraceMode::Counts),
            _ => Err(Error::UnknownName {
                what: "mode of a trace",
                got: name.into(),
                expected: TraceMode::NAMES.join(", "),
            }),
        }
    }
}

/// What a trace became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSummary {
    /// The file.
    pub path: PathBuf,
    /// Tokens in it.
    pub tokens: u64,
    /// Its size.
    pub bytes: u64,
}

impl Model {
    /// From now on writes what the routers choose to a trace at `path`, whatever the model is asked to do. A trace that
    /// is there is replaced, any other file left alone. An earlier trace ends.
    ///
    /// # Errors
    /// [`Error::NoRouters`] for a model without any; those of [`TraceWriter::create`]; a model whose files cannot be
    /// read any more.
    pub fn start_trace(&mut self, path: &Path, mode: TraceMode) -> Result<()> {
        let model = Some(fingerprint(self.dir())?);
        self.tracer = Some(TraceRecorder::new(path, mode, (self.info(), model))?);
        Ok(())
    }

    /// Ends the trace, if one was started, and says what it became.
    ///
    /// # Errors
    /// What kept the trace from being written, whenever that was.
    pub fn finish_trace(&mut self) -> Result<Option<TraceSummary>> {
        self.tracer.take().map(TraceRecorder::finish).transpose()
    }
}

/// What a model is called in traces: 64 hexadecimal digits of the SHA-256 of config.json, followed for each file of
/// weights, by name, by its size (u64, little-endian), its first MiB and its last MiB (all of it if it has less).
/// Of a GGUF file the config.json that it stands for counts. Reading a model whole would take minutes; this tells models apart that differ in their configuration, their
/// tensors, or the weights at either end of a file.
///
/// # Errors
/// A directory that holds no model.
pub fn fingerprint(dir: &Path) -> Result<String> {
    const SAMPLE: u64 = 1 << 20;
    let files = ModelFiles::open(dir, None)?;
    let mut hash = Sha256::new();
    let config = files.config_path();
    match files.gguf_config() {
        Some(text) => hash.update(text),
        None => hash.update(std::fs::read(config).map_err(read_error(config))?),
    }
    let mut weights = files.checkpoint_paths().to_vec();
    weights.sort();
    let mut sample = Vec::new();
    for path in &weights {
        let mut add = || -> std::io::Result<()> {
            let mut file = File::open(path)?;
            let size = file.metadata()?.len();
            hash.update(size.to_le_bytes());
            for start in [0, size.saturating_sub(SAMPLE)] {
                file.seek(SeekFrom::Start(start))?;
                sample.clear();
                (&mut file).take(SAMPLE).read_to_end(&mut sample)?;
                hash.update(&sample);
            }
            Ok(())
        };
        add().map_err(read_error(path))?;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A probe that writes a trace.
#[derive(Debug)]
pub(crate) struct TraceRecorder {
    writer: TraceWriter,
    /// What each record has an entry for.
    layers: Vec<TraceLayer>,
    /// `None` where tokens are written.
    counted: Option<Vec<ExpertLoad>>,
    sequences: HashMap<SequenceId, u32>,
    /// Sequence, position and id of each row of the batch under way.
    rows: Vec<(u32, u32, u32)>,
    /// What the layers chose for them so far.
    chosen: BTreeMap<usize, Routing>,
    step: u32,
    tokens: u64,
    failure: Option<Error>,
}

impl TraceRecorder {
    fn new(path: &Path, mode: TraceMode, (info, model): (&ModelInfo, Option<String>)) -> Result<Self> {
        let layers: Vec<TraceLayer> = info
            .routed_layers
            .iter()
            .map(|routed| TraceLayer {
                layer: routed.layer,
                experts: u32::try_from(routed.n_experts).unwrap_or(u32::MAX),
                k: u32::try_from(routed.top_k).unwrap_or(u32::MAX),
            })
            .collect();
        if layers.is_empty() {
            return Err(Error::NoRouters);
        }
        let counted = mode == TraceMode::Counts;
        let header = TraceHeader {
            kind: if counted { TraceKind::Counts } else { TraceKind::Tokens },
            family: Some(info.family.into()),
            model,
            token_ids: !counted,
            weights: !counted,
            ..TraceHeader::new(layers.clone())
        };
        let counted = counted.then(|| empty_loads(&layers));
        Ok(TraceRecorder {
            writer: TraceWriter::create(path, &header)?,
            layers,
            counted,
            sequences: HashMap::new(),
            rows: Vec::new(),
            chosen: BTreeMap::new(),
            step: 0,
            tokens: 0,
            failure: None,
        })
    }

    fn finish(mut self) -> Result<TraceSummary> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.write_counts()?;
        self.writer.flush()?;
        Ok(TraceSummary { path: self.writer.path().into(), tokens: self.tokens, bytes: self.writer.bytes() })
    }

    /// Writes a step that all layers have answered.
    fn write_step(&mut self) -> Result<()> {
        self.tokens += self.rows.len() as u64;
        if let Some(counted) = &mut self.counted {
            for (load, routing) in counted.iter_mut().zip(self.chosen.values()) {
                load.add(routing).map_err(moebius_backend::Error::from)?;
            }
            if counted[0].tokens() >= BLOCK_TOKENS {
                self.write_counts()?;
            }
        } else {
            for (row, &(sequence, position, id)) in self.rows.iter().enumerate() {
                let routes =
                    self.layers.iter().zip(self.chosen.values()).map(|(layer, routing)| LayerRoute {
                        layer: layer.layer,
                        n_experts: routing.n_experts(),
                        experts: routing.experts(row).to_vec(),
                        weights: routing.weights(row).to_vec(),
                    });
                let routes = routes.collect();
                self.writer.token(&TokenRoutes {
                    step: self.step,
                    sequence,
                    position,
                    token: Some(id),
                    routes,
                })?;
            }
        }
        self.step = self.step.wrapping_add(1);
        self.writer.flush()
    }

    fn write_counts(&mut self) -> Result<()> {
        let Some(counted) = self.counted.as_mut().filter(|counted| counted[0].tokens() > 0) else {
            return Ok(());
        };
        let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let counts: Vec<Vec<u32>> =
            counted.iter().map(|load| load.counts().iter().map(|&count| narrow(count)).collect()).collect();
        self.writer.counts(narrow(counted[0].tokens()), &counts)?;
        *counted = empty_loads(&self.layers);
        Ok(())
    }
}

fn empty_loads(layers: &[TraceLayer]) -> Vec<ExpertLoad> {
    layers.iter().map(|layer| ExpertLoad::new(layer.experts as usize)).collect()
}

impl Probe for TraceRecorder {
    fn batch(&mut self, batch: &TokenBatch) {
        // A pass that failed has left answers of some layers.
        self.chosen.clear();
        self.rows.clear();
        for span in batch.spans() {
            let next = self.sequences.len() as u32;
            let sequence = *self.sequences.entry(span.sequence).or_insert(next);
            for (position, row) in (span.first_position..).zip(span.rows.clone()) {
                let position = u32::try_from(position).unwrap_or(u32::MAX);
                self.rows.push((sequence, position, batch.tokens()[row]));
            }
        }
    }

    fn hidden(&mut self, _: usize, _: &Tensor) -> moebius_model::Result<()> {
        Ok(())
    }

    fn routing(&mut self, layer: usize, routing: &Routing) -> moebius_model::Result<()> {
        if self.failure.is_some() {
            return Ok(());
        }
        self.chosen.insert(layer, routing.clone());
        if self.chosen.len() == self.layers.len() {
            self.failure = self.write_step().err();
        }
        Ok(())
    }
}
