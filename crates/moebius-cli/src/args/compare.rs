//! `moebius compare`.

use std::fmt;

use clap::Args;
use moebius::plan::Machine;
use moebius::{BACKENDS, BackendOptions, Constraint, MemoryLimit, OpenOptions, Prompt};

use super::model::saturate;
use super::values::Ids;
use super::{ExpertsArg, FormatArg, JsonArg, values};

const NOTES: &str = "\
The same prompt goes through the model on each backend in turn, continued greedily. `same bits` compares the tokens and \
all logits at every position with the first backend's. Times and memory are measured on this machine; what is called \
modelled is what the declared hardware would take, with the error of the model in brackets, and no measurement.

constrained:NAME declares hardware: a name that `moebius plan` knows, 8xNAME for eight of them, or a FILE.toml.";

/// Run one prompt on several backends: equal bits, speed, memory, and what declared hardware would take
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub(crate) struct CompareArgs {
    /// Model directory; default: the bundled model
    pub(crate) model: Option<String>,
    /// Backends, the first being the one that others are compared with; constrained:NAME declares hardware
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = backend)]
    #[arg(default_value = "cpu,constrained:ascend-910b-64g,constrained:laptop-4g")]
    pub(crate) backends: Vec<BackendName>,
    /// The prompt
    #[arg(short, long, value_name = "TEXT", default_value = PROMPT)]
    prompt: String,
    /// Token ids in place of it, such as 5,6,7
    #[arg(long, value_name = "IDS", conflicts_with = "prompt")]
    ids: Option<Ids>,
    /// Tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value = "32", value_parser = values::some_tokens)]
    pub(crate) n_predict: usize,
    #[command(flatten)]
    pub(crate) experts: ExpertsArg,
    #[command(flatten)]
    pub(crate) format: FormatArg,
    /// Most tokens of a sequence; default: the model's own context
    #[arg(short, long, env = "MOEBIUS_CTX_SIZE", hide_env_values = true, value_name = "N", value_parser = values::at_least_one)]
    pub(crate) ctx_size: Option<u64>,
    /// Memory that constrained backends keep to, such as 2GiB or 50%: experts are fetched into what is left
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<MemoryLimit>,
    /// CPU threads; default: all cores
    #[arg(short, long, env = "MOEBIUS_THREADS", hide_env_values = true, value_name = "N", value_parser = values::threads)]
    pub(crate) threads: Option<u64>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

const PROMPT: &str = "Once upon a time, there was a little robot who lived in a garden.";

/// A backend as it is named in a list.
#[derive(Clone, Debug)]
pub(crate) struct BackendName {
    backend: String,
    profile: Option<Machine>,
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.backend)?;
        self.profile.as_ref().map_or(Ok(()), |machine| write!(f, ":{}", machine.name()))
    }
}

impl BackendName {
    /// Whether it stands for hardware that is not here.
    pub(crate) fn declares(&self) -> bool {
        self.profile.is_some()
    }
}

/// A backend, with hardware after a colon.
fn backend(text: &str) -> Result<BackendName, String> {
    let (backend, profile) = match text.split_once(':') {
        Some((backend, profile)) => (backend, Some(values::machine(profile)?)),
        None => (text, None),
    };
    if !BACKENDS.contains(&backend) || (profile.is_some() && backend != "constrained") {
        return Err(format!("expected {} or constrained:NAME, got `{text}`", BACKENDS.join(", ")));
    }
    Ok(BackendName { backend: backend.to_owned(), profile })
}

impl CompareArgs {
    /// What is continued.
    pub(crate) fn prompt(&self) -> Prompt<'_> {
        self.ids.as_ref().map_or(Prompt::Text(&self.prompt), |ids| Prompt::Ids(&ids.0))
    }

    /// How to open the model on a backend.
    pub(crate) fn open_options(&self, name: &BackendName) -> OpenOptions {
        OpenOptions {
            backend: BackendOptions {
                name: Some(name.backend.clone()),
                threads: self.threads.map(saturate),
                profile: name.profile.clone(),
                constraint: Constraint {
                    memory: self.memory.filter(|_| name.backend == "constrained"),
                    ..Constraint::default()
                },
                ..BackendOptions::default()
            },
            experts: self.experts.experts,
            format: self.format.held(),
            context: self.ctx_size.map(saturate),
            ..OpenOptions::default()
        }
    }
}
