//! Everything that can go wrong, sorted by what a person can do about it.

use std::path::PathBuf;
use std::sync::Arc;

use moebius_engine::{EngineError, SamplerError};
use moebius_model::Error as ModelError;
use thiserror::Error as ThisError;

use crate::hub::HubError;
use crate::text::TextError;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of the library.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// Nothing lies where a model was said to be.
    #[error("no model at `{}`", .0.display())]
    ModelNotFound(PathBuf),
    /// The name of a model on a hub that is not in the cache.
    #[error("`{0}` is neither a directory here nor in the cache of models from the hub")]
    NotLocal(String),
    /// Names, downloads and copies of models from a hub, and Ollama's store.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The bundled model is not with this program.
    #[error("the bundled model is not beside this program")]
    NoBundledModel,
    /// The configuration is there, but no weights.
    #[error("no weights beside `{}`", .0.display())]
    NoWeights(PathBuf),
    /// The weights are larger than what is free.
    #[error("the model needs {needed_bytes} bytes of memory, {available_bytes} are available")]
    Memory {
        /// Bytes of packed weights and room to work.
        needed_bytes: u64,
        /// Bytes that the system says are available.
        available_bytes: u64,
    },
    /// The memory of a GPU, or what may be used of it, holds too little of a model to divide the rest.
    #[error(
        "the GPU needs {needed_bytes} bytes for what is not experts, with keys, values and activations, and may use {limit_bytes}"
    )]
    GpuMemory {
        /// Bytes without any expert.
        needed_bytes: u64,
        /// Bytes that may be used.
        limit_bytes: u64,
    },
    /// A budget of memory is too small.
    #[error(
        "a budget of {budget_bytes} bytes is too small: with one expert in memory at a time the model needs {needed_bytes}"
    )]
    Budget {
        /// The least that would do.
        needed_bytes: u64,
        /// The budget.
        budget_bytes: u64,
    },
    /// The system does not say how much memory there is.
    #[error("this system does not say how much memory it has")]
    UnknownMemory,
    /// Text was given to a model without a tokenizer.
    #[error("the model has no tokenizer, so text cannot be used")]
    NeedsTokenizer(#[source] Arc<TextError>),
    /// A chat was asked of a model without a chat template.
    #[error("the model has no chat template")]
    NoChatTemplate,
    /// An unknown backend, instruction set or value of a variable.
    #[error("unknown {what} `{got}`: expected one of {expected}")]
    UnknownName {
        /// What the name was for.
        what: &'static str,
        /// The name.
        got: String,
        /// The names that are known, for people.
        expected: String,
    },
    /// A backend that this program was built without.
    #[error("this program was built without the feature `{0}`")]
    NotBuiltIn(String),
    /// A device was asked of a backend that has none to choose from.
    #[error("backend `{0}` has no devices to choose from")]
    NoDevices(&'static str),
    /// A file of hardware or of measurements says it wrongly.
    #[error("`{}` is no description of hardware: {reason}", path.display())]
    Hardware {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A machine cannot be declared.
    #[error("`{profile}` cannot be declared: {reason}")]
    Undeclared {
        /// Its name.
        profile: String,
        /// Why, in words.
        reason: String,
    },
    /// A model is larger than the memory of declared hardware.
    #[error(
        "`{profile}` could not hold the model: {needed_bytes} bytes on each device, which has {memory_bytes}"
    )]
    BeyondProfile {
        /// The machine.
        profile: String,
        /// One of its devices.
        device: String,
        /// Bytes of weights, cache and activations on each device, or the budget that was asked for.
        needed_bytes: u64,
        /// Bytes that a device has.
        memory_bytes: u64,
        /// The widest format that would fit, and about how many bytes it takes.
        format: Option<Box<(&'static str, u64)>>,
        /// The fewest devices that would be enough, if any number is.
        devices: Option<u64>,
    },
    /// Checkpoints for other programs are not written so: what is expected, and what was asked for.
    #[error("unpacked weights: expected {_0}, got {_1}")]
    Unpacked(&'static str, String),
    /// A file could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A disk has no room for what would be written.
    #[error("`{}` needs {needed_bytes} bytes, {free_bytes} are free there", path.display())]
    DiskSpace {
        /// The directory.
        path: PathBuf,
        /// Bytes that would be written.
        needed_bytes: u64,
        /// Bytes that may be.
        free_bytes: u64,
    },
    /// A packed copy in the cache is not as it was written.
    #[error("the packed copy in `{}` cannot be used", path.display())]
    CachedCopy {
        /// Its directory.
        path: PathBuf,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The files of a model changed while they were read.
    #[error("the model in `{}` changed while it was packed", .0.display())]
    SourceChanged(PathBuf),
    /// Nothing says where this user's caches are.
    #[error("there is no place for a cache")]
    NoCachePlace,
    /// A file is no trace, or not one that can be read.
    #[error("trace `{}`: {reason}", path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// What is wrong, with expected and got.
        reason: String,
    },
    /// A trace is not one of such a layer as is measured.
    #[error("trace `{}` does not fit: {reason}", path.display())]
    TraceMisfit {
        /// The file.
        path: PathBuf,
        /// What was expected and got.
        reason: String,
    },
    /// A trace is of another model than it is used for.
    #[error("trace `{}` is of another model: {reason}", path.display())]
    ForeignTrace {
        /// The file.
        path: PathBuf,
        /// What was expected and got.
        reason: String,
    },
    /// A trace would overwrite something else.
    #[error("`{}` is there already and no trace", .0.display())]
    TraceTarget(PathBuf),
    /// A model is compared with logits that are not of the same texts or vocabulary.
    #[error("the baseline does not fit: {0}")]
    Baseline(String),
    /// A trace was asked of a model whose layers are all dense.
    #[error("the model has no routers, so there is nothing to trace")]
    NoRouters,
    /// Something is where a directory was to be written.
    #[error("`{}` exists already", .0.display())]
    OutputExists(PathBuf),
    /// An option is out of its range.
    #[error("invalid {name}: expected {expected}, got {got}")]
    InvalidOption {
        /// What the option is for.
        name: &'static str,
        /// Its range, for people.
        expected: &'static str,
        /// Its value.
        got: usize,
    },
    /// A model without routed experts, where there must be some.
    #[error("the model has no routed experts")]
    NoExperts,
    /// There is no such token or layer to look at.
    #[error("there is no such {what}: expected {expected}, got {got}")]
    NothingToExplain {
        /// What is not there.
        what: &'static str,
        /// What is.
        expected: String,
        /// What was asked for.
        got: String,
    },
    /// A text is too short to be scored.
    #[error("nothing to score: expected at least two tokens, got {0}")]
    NothingToScore(usize),
    /// Tokenizer or chat template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Files, weights or the forward pass.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Scheduling or sampling.
    #[error(transparent)]
    Engine(EngineError),
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Model(error) => Error::Model(error),
            other => Error::Engine(other),
        }
    }
}

impl From<moebius_backend::Error> for Error {
    fn from(error: moebius_backend::Error) -> Self {
        Error::Model(error.into())
    }
}

/// What kind of trouble an error is: the exit codes of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// It failed while running.
    Runtime,
    /// The request itself was wrong.
    Usage,
    /// There is no such model here.
    NotFound,
    /// The model's files are wrong.
    InvalidModel,
    /// It does not fit into memory.
    Memory,
}

/// What to do about a GPU that holds too little.
const GPU_MEMORY_HINT: &str = "give more with --gpu-memory, hold the weights in fewer bits with --format, shorten \
                               --ctx-size, or use --backend cpu";

impl Error {
    /// What kind of trouble this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::ModelNotFound(_) | Error::NotLocal(_) | Error::NoBundledModel | Error::NoWeights(_) => {
                ErrorKind::NotFound
            }
            Error::Memory { .. }
            | Error::GpuMemory { .. }
            | Error::Budget { .. }
            | Error::BeyondProfile { .. } => ErrorKind::Memory,
            Error::UnknownMemory => ErrorKind::Usage,
            Error::NeedsTokenizer(_) | Error::NoChatTemplate | Error::UnknownName { .. } => ErrorKind::Usage,
            Error::NothingToScore(_)
            | Error::NotBuiltIn(_)
            | Error::NoDevices(_)
            | Error::NothingToExplain { .. }
            | Error::InvalidOption { .. }
            | Error::NoExperts
            | Error::OutputExists(_)
            | Error::TraceTarget(_)
            | Error::TraceMisfit { .. }
            | Error::ForeignTrace { .. }
            | Error::NoRouters
            | Error::Baseline(_)
            | Error::Hardware { .. }
            | Error::Undeclared { .. }
            | Error::Unpacked(..)
            | Error::NoCachePlace => ErrorKind::Usage,
            Error::Write { .. }
            | Error::Trace { .. }
            | Error::DiskSpace { .. }
            | Error::CachedCopy { .. }
            | Error::SourceChanged(_) => ErrorKind::Runtime,
            Error::Hub(error) => error.kind(),
            Error::Text(error) => text_kind(error),
            Error::Engine(EngineError::Sampler(SamplerError::InvalidParameter { .. })) => ErrorKind::Usage,
            Error::Engine(EngineError::Sampler(_)) => ErrorKind::Runtime,
            Error::Engine(_) => ErrorKind::Usage,
            Error::Model(error) => model_kind(error),
        }
    }

    /// Whether a backend, or the hardware that it stands for, refused the model before a weight was read.
    pub fn is_refusal(&self) -> bool {
        use moebius_backend::Error as BackendError;
        let unsupported = matches!(self, Error::Model(ModelError::Backend(BackendError::Unsupported(_))));
        unsupported || matches!(self, Error::BeyondProfile { .. })
    }

    /// The next thing to try.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::ModelNotFound(_) => {
                "give a directory with config.json, model.safetensors and tokenizer.json, owner/name for a model on the hub, or ollama:NAME"
            }
            Error::NoExperts => "`moebius show` says what a model is; this needs a Mixture-of-Experts model",
            Error::NotLocal(name) => return Some(format!("`moebius pull {name}` downloads it")),
            Error::Hub(error) => return error.hint(),
            Error::NoBundledModel => "give a model directory, or set MOEBIUS_MODEL to one",
            Error::NoWeights(_) => {
                "`moebius show` works from config.json alone; to run, add model.safetensors"
            }
            Error::Memory { .. } => {
                "close other programs, hold the weights in fewer bits with --format, or let --memory fetch experts from disk"
            }
            Error::Budget { .. } => {
                "give more with --memory, hold the weights in fewer bits with --format, or shorten --ctx-size"
            }
            Error::GpuMemory { .. } => GPU_MEMORY_HINT,
            Error::UnknownMemory => "give the budget in bytes, such as --memory 2GiB",
            Error::BeyondProfile { device, format, devices, .. } => {
                return Some(beyond_hint(device, format.as_deref().copied(), *devices));
            }
            Error::Undeclared { .. } => {
                "copy its entry from crates/moebius/hardware into a file, add what is missing with a source, and give \
                 --profile FILE.toml"
            }
            Error::NeedsTokenizer(_) => "give token ids with --ids, or add tokenizer.json to the directory",
            Error::NoChatTemplate => "give a prompt: the text will be continued",
            Error::NothingToScore(_) => "give a longer text",
            Error::NothingToExplain { .. } => {
                "`moebius show` says which layers have experts; tokens count from 0"
            }
            Error::InvalidOption { .. } => "leave the option out for the model's own value",
            Error::Text(error) => return error.hint().map(String::from),
            Error::Engine(error) => return engine_hint(error),
            Error::Model(error) => return model_hint(error),
            Error::NotBuiltIn(feature) => {
                return Some(format!(
                    "build it with `cargo build --release --features {feature}`, which needs a CUDA toolkit"
                ));
            }
            Error::NoDevices(_) => {
                "leave out --device, --n-cpu-moe and --gpu-memory, or name a backend that runs on GPUs"
            }
            Error::UnknownName { .. } => "use one of these names, or leave it out",
            Error::OutputExists(_) => "name what does not exist yet, or remove this first",
            Error::Trace { .. } => "docs/trace-format.md says what a trace holds; `--trace FILE` writes one",
            Error::TraceMisfit { .. } => {
                "`moebius trace show` says what a trace holds; --experts and --experts-per-token say what is measured"
            }
            Error::ForeignTrace { .. } => "`moebius run --trace FILE` with this model writes one that fits",
            Error::TraceTarget(_) => "name a new file, or remove this one first",
            Error::Baseline(_) => "compare one model with itself, on the same texts",
            Error::NoRouters => "leave out --trace, or use a model with experts",
            Error::Unpacked(..) => "--unpacked takes a directory, and --format bf16, f16 or f32",
            Error::Write { .. } => "check that the directory exists and has room",
            Error::DiskSpace { .. } => "make room, or use another disk, for --memory by MOEBIUS_SPILL_DIR",
            Error::CachedCopy { .. } => "`moebius cache clear` removes it, --cache packs the model anew",
            Error::SourceChanged(_) => "try again when nothing writes to it any more",
            Error::Hardware { .. } => "every figure is [number, mark, source]: see crates/moebius/hardware",
            Error::NoCachePlace => {
                "set MOEBIUS_CACHE_DIR, and for models from the hub HF_HUB_CACHE, to a directory"
            }
        };
        Some(hint.into())
    }
}

/// What would fit declared hardware.
fn beyond_hint(device: &str, format: Option<(&str, u64)>, devices: Option<u64>) -> String {
    let format = format.map(|(name, bytes)| format!("--format {name} (about {bytes} bytes on each device)"));
    let devices = devices.map(|devices| format!("--profile {devices}x{device}"));
    let budget = "experts fetched into a smaller --memory".to_owned();
    let ways: Vec<String> = [format, devices, Some(budget)].into_iter().flatten().collect();
    format!("it may fit with {}", ways.join(", or with "))
}

fn text_kind(error: &TextError) -> ErrorKind {
    match error {
        TextError::BrokenFile { .. }
        | TextError::UnsupportedDecoder { .. }
        | TextError::TemplateSyntax(_)
        | TextError::TemplateLimit { .. }
        | TextError::Template(_) => ErrorKind::InvalidModel,
        TextError::NoTokenizer { .. }
        | TextError::ForeignTokenizer { .. }
        | TextError::UnsupportedTokenizer { .. }
        | TextError::Encode(_)
        | TextError::NotAMessage { .. }
        | TextError::EmptyStopString { .. }
        | TextError::TemplateRefusal(_) => ErrorKind::Usage,
        TextError::Io { .. } => ErrorKind::Runtime,
    }
}

fn model_kind(error: &ModelError) -> ErrorKind {
    match error {
        ModelError::NotFound { .. } => ErrorKind::NotFound,
        ModelError::TokenId { .. }
        | ModelError::TopK { .. }
        | ModelError::Rules { .. }
        | ModelError::Context { .. }
        | ModelError::UnknownFormat { .. }
        | ModelError::PackedOtherwise { .. }
        | ModelError::PackedAlready { .. }
        | ModelError::NotInGguf { .. }
        | ModelError::NotPlain { .. } => ErrorKind::Usage,
        ModelError::Io { .. } | ModelError::Output(_) => ErrorKind::Runtime,
        ModelError::Backend(moebius_backend::Error::Weight { .. }) => ErrorKind::InvalidModel,
        ModelError::Backend(moebius_backend::Error::Startup { .. }) => ErrorKind::Usage,
        ModelError::Backend(_) => ErrorKind::Runtime,
        _ => ErrorKind::InvalidModel,
    }
}

fn model_hint(error: &ModelError) -> Option<String> {
    use moebius_backend::Error as BackendError;
    let hint = match error {
        ModelError::NotFound { .. } => {
            "a model directory holds config.json, model.safetensors (or shards with an index) and tokenizer.json"
        }
        ModelError::Io { .. } => "check the file's permissions",
        ModelError::Json { .. } | ModelError::InvalidFile { .. } => {
            "download or copy the file again; if it was converted, convert the original again"
        }
        ModelError::Config { .. } => "compare config.json with the one that the model was published with",
        ModelError::UnknownFamily { .. } => "`moebius families` lists what can be run",
        ModelError::Tensors(_) => {
            "config.json and the weights must come from the same model, and every shard must be there"
        }
        ModelError::UnknownFormat { .. } => "use one of these names, or leave it out",
        ModelError::PackedOtherwise { .. } => {
            "leave the format out, or convert the original again with `moebius convert --format`"
        }
        ModelError::PackedAlready { .. } => "convert the original, from which any format can be made",
        ModelError::NotInGguf { .. } => "name a directory in place of the .gguf file",
        ModelError::NotPlain { .. } => "leave out --unpacked: moebius reads its own directories",
        ModelError::Output(_) => "check that there is room",
        ModelError::TokenId { .. } => "use ids of this model's vocabulary; `moebius show` prints its size",
        ModelError::TopK { .. } => "`moebius show` prints how many experts a layer has",
        ModelError::Rules { .. } => {
            "`moebius show` prints the layers and experts, `moebius doctor router` what a router allows"
        }
        ModelError::Context { .. } => "use a shorter prompt or fewer tokens",
        ModelError::Backend(BackendError::Router(_)) => {
            "the weights may be damaged: check the file against its published checksum"
        }
        ModelError::Backend(BackendError::Weight { .. }) => {
            "the file is damaged: download it again and check it against its published checksum"
        }
        ModelError::Backend(BackendError::Unsupported(_)) => "choose another backend or weight format",
        ModelError::Backend(BackendError::Fetch { .. }) => {
            "weights that are fetched from a file need it as it was when the model was opened: open it again"
        }
        ModelError::Backend(BackendError::Spill { .. }) => {
            "make room there, or set MOEBIUS_SPILL_DIR to a directory on another disk"
        }
        ModelError::Backend(BackendError::Startup { .. }) => {
            "`moebius doctor` shows what this machine can run; --backend cpu needs no GPU"
        }
        _ => return None,
    };
    Some(hint.into())
}

fn engine_hint(error: &EngineError) -> Option<String> {
    let hint = match error {
        EngineError::EmptyPrompt => "give a prompt with at least one token",
        EngineError::PromptTooLong { .. } => {
            "shorten the prompt, or raise --ctx-size if it is below the model's own context"
        }
        EngineError::Sampler(SamplerError::InvalidParameter { .. }) => {
            "`moebius run --help` lists the ranges"
        }
        EngineError::Sampler(_) => {
            "the weights may be damaged: check the file against its published checksum"
        }
        _ => return None,
    };
    Some(hint.into())
}
