//! Every variable of the environment that this library reads. Command-line flags win over them.

/// One variable.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// Instruction set of the CPU kernels.
pub(crate) const ISA: Knob =
    Knob { name: "MOEBIUS_ISA", help: "instruction set of the CPU kernels, as `moebius doctor` lists them" };
/// Where the default model is.
pub(crate) const MODEL: Knob =
    Knob { name: "MOEBIUS_MODEL", help: "directory of the model that is used when none is named" };

/// Where packed copies of models are kept.
pub(crate) const CACHE_DIR: Knob = Knob {
    name: "MOEBIUS_CACHE_DIR",
    help: "directory of packed models; default: moebius/packed in this user's caches",
};

/// Where copies of hub models are.
pub(crate) const HF_HUB_CACHE: Knob =
    Knob { name: "HF_HUB_CACHE", help: "directory of models from the hub; default: hub in HF_HOME" };
/// Where Hugging Face's programs keep their files.
pub(crate) const HF_HOME: Knob = Knob {
    name: "HF_HOME",
    help: "directory of Hugging Face's programs; default: huggingface in this user's caches",
};
/// Which hub is asked.
pub(crate) const HF_ENDPOINT: Knob =
    Knob { name: "HF_ENDPOINT", help: "address of the hub; default: https://huggingface.co" };
/// Whether the hub is asked.
pub(crate) const HF_HUB_OFFLINE: Knob =
    Knob { name: "HF_HUB_OFFLINE", help: "1 forbids downloads, as --offline does" };
/// Who asks.
pub(crate) const HF_TOKEN: Knob = Knob { name: "HF_TOKEN", help: "token for gated and private models" };
/// Where the token is.
pub(crate) const HF_TOKEN_PATH: Knob = Knob {
    name: "HF_TOKEN_PATH",
    help: "file with the token, if HF_TOKEN is not set; default: token in HF_HOME",
};
/// How long a silent hub is waited for.
pub(crate) const HF_HUB_DOWNLOAD_TIMEOUT: Knob = Knob {
    name: "HF_HUB_DOWNLOAD_TIMEOUT",
    help: "seconds after which a hub that says nothing is given up; default: 30",
};
/// Where Ollama's models are.
pub(crate) const OLLAMA_MODELS: Knob =
    Knob { name: "OLLAMA_MODELS", help: "directory of Ollama's models; default: ~/.ollama/models" };

/// Where experts are put that are to be fetched and do not lie packed in a file.
pub(crate) const SPILL_DIR: Knob = Knob {
    name: "MOEBIUS_SPILL_DIR",
    help: "directory of the file without a name that --memory fetches experts from which are not packed on disk",
};

/// All of them.
pub const KNOBS: &[Knob] = &[
    ISA,
    MODEL,
    CACHE_DIR,
    SPILL_DIR,
    HF_HUB_CACHE,
    HF_HOME,
    HF_ENDPOINT,
    HF_HUB_OFFLINE,
    HF_TOKEN,
    HF_TOKEN_PATH,
    HF_HUB_DOWNLOAD_TIMEOUT,
    OLLAMA_MODELS,
];

impl Knob {
    /// Its value, if it is set to something.
    pub(crate) fn value(&self) -> Option<String> {
        std::env::var(self.name).ok().filter(|value| !value.is_empty())
    }
}
