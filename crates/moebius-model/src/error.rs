//! What can go wrong between a directory of files and a token's logits.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error as ThisError;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of opening, loading and running a model.
#[derive(Debug, ThisError)]
pub enum Error {
    /// A file or directory that must be there is not.
    #[error("no {what} at `{}`", path.display())]
    NotFound {
        /// What was looked for, in words.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// The system refused to read a file.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A JSON file does not parse.
    #[error("`{}` is not valid JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A file parses, but says something impossible.
    #[error("`{}`: {reason}", path.display())]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, with expected and got.
        reason: String,
    },
    /// A configuration value is missing, of the wrong type, or not supported.
    #[error("config.json: `{key}`: {reason}")]
    Config {
        /// The key.
        key: String,
        /// What is wrong, with expected and got.
        reason: String,
    },
    /// More experts per token were asked for than there are, or none.
    #[error("experts per token: expected 1 to {n_experts}, got {requested}")]
    TopK {
        /// What was asked for.
        requested: usize,
        /// Experts of a layer.
        n_experts: usize,
    },
    /// What was asked of the routers is not possible in this model.
    #[error("{reason}")]
    Rules {
        /// What is wrong, with expected and got.
        reason: String,
    },
    /// No family of this name is built in.
    #[error("unknown model family `{model_type}`: expected one of {known}")]
    UnknownFamily {
        /// `model_type` of the configuration.
        model_type: String,
        /// The names that are known, for people.
        known: String,
    },
    /// No weight format or mix of them has this name.
    #[error("unknown weight format `{got}`: expected one of {expected}")]
    UnknownFormat {
        /// The name.
        got: String,
        /// The names that are known, for people.
        expected: String,
    },
    /// Tensors are missing, or have a wrong shape or type. All of them, not only the first.
    #[error("{}", list_problems(.0))]
    Tensors(Vec<TensorProblem>),
    /// The weights are packed in other formats than those that were asked for.
    #[error("the weights are packed as `{held}`: expected no format or this one, got `{wanted}`")]
    PackedOtherwise {
        /// What they are packed in.
        held: String,
        /// What was asked for.
        wanted: String,
    },
    /// Weights that are to be packed are packed already.
    #[error("the weights are packed already, as `{held}`")]
    PackedAlready {
        /// What they are packed in.
        held: String,
    },
    /// GGUF has no way to say something about a model.
    #[error("a GGUF file cannot hold {what}: {reason}")]
    NotInGguf {
        /// What.
        what: String,
        /// Why.
        reason: String,
    },
    /// Checkpoints of plain numbers have no way to say something about a model.
    #[error("a checkpoint of plain numbers cannot hold {what}: {reason}")]
    NotPlain {
        /// What.
        what: String,
        /// Why.
        reason: String,
    },
    /// Weights could not be written.
    #[error("cannot write the weights")]
    Output(#[source] std::io::Error),
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary: expected less than {vocab_size}")]
    TokenId {
        /// The id.
        id: u32,
        /// Rows of the embedding table.
        vocab_size: usize,
    },
    /// A sequence cannot be taken back to an earlier position.
    #[error(
        "cannot go back from position {from} to {to}: layer {layer} keeps a state, not a row for each position"
    )]
    Truncate {
        /// The first layer that keeps one.
        layer: usize,
        /// Positions that the sequence has.
        from: usize,
        /// Positions that it was to have.
        to: usize,
    },
    /// A position past the model's context.
    #[error("position {position} is past the context of {context} tokens")]
    Context {
        /// The position that was asked for.
        position: usize,
        /// The largest number of positions.
        context: usize,
    },
    /// The device or a kernel failed.
    #[error(transparent)]
    Backend(#[from] moebius_backend::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::Backend(error.into())
    }
}

impl From<moebius_router::RouterError> for Error {
    fn from(error: moebius_router::RouterError) -> Self {
        Error::Backend(error.into())
    }
}

impl Error {
    pub(crate) fn config(key: &str, reason: impl Into<String>) -> Self {
        Error::Config { key: key.into(), reason: reason.into() }
    }
}

/// What is wrong with one tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorProblem {
    /// It is not in any file.
    Missing {
        /// Its name.
        name: String,
        /// The shape that it should have.
        shape: Vec<usize>,
    },
    /// It has another shape than the configuration implies.
    Shape {
        /// Its name.
        name: String,
        /// The shape that the configuration implies.
        expected: Vec<usize>,
        /// The shape in the file.
        got: Vec<usize>,
    },
    /// Its elements are of a type that cannot be read here.
    Dtype {
        /// Its name.
        name: String,
        /// The types that would do, for people.
        expected: String,
        /// The type in the file.
        got: String,
    },
}

impl fmt::Display for TensorProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TensorProblem::Missing { name, shape } => write!(f, "`{name}` {shape:?} is missing"),
            TensorProblem::Shape { name, expected, got } => {
                write!(f, "`{name}`: expected shape {expected:?}, got {got:?}")
            }
            TensorProblem::Dtype { name, expected, got } => {
                write!(f, "`{name}`: expected {expected}, got {got}")
            }
        }
    }
}

/// How many problems a message spells out before it only counts the rest.
const LISTED_PROBLEMS: usize = 40;

fn list_problems(problems: &[TensorProblem]) -> String {
    let noun = if problems.len() == 1 { "tensor does" } else { "tensors do" };
    let mut text = format!("{} {noun} not fit the configuration", problems.len());
    for problem in problems.iter().take(LISTED_PROBLEMS) {
        text.push_str(&format!("\n  {problem}"));
    }
    if problems.len() > LISTED_PROBLEMS {
        text.push_str(&format!("\n  and {} more", problems.len() - LISTED_PROBLEMS));
    }
    text
}
