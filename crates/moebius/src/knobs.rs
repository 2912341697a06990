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

/// Where experts are put that are to be fetched and do not lie packed in a file.
pub(crate) const SPILL_DIR: Knob = Knob {
    name: "MOEBIUS_SPILL_DIR",
    help: "directory of the file without a name that --memory fetches experts from which are not packed on disk",
};

/// All of them.
pub const KNOBS: &[Knob] = &[ISA, MODEL, CACHE_DIR, SPILL_DIR];

impl Knob {
    /// Its value, if it is set to something.
    pub(crate) fn value(&self) -> Option<String> {
        std::env::var(self.name).ok().filter(|value| !value.is_empty())
    }
}
