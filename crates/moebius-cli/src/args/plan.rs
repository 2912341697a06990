//! `moebius plan`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use moebius::plan::{CacheFormat, Load, Rates, Weights};

use super::values;
use super::{ExpertsArg, JsonArg};

const NOTES: &str = "\
Hardware is a name of the list that an unknown one prints, here (this machine, measured on the spot), or the path of \
a .toml file with a device. 8xh100 is eight of them with the experts spread and everything else on each; \
rtx-4090+ddr5-5600 may leave experts in the memory of a host. Without --hardware every known device is listed.

A token alone takes bytes / (share * bandwidth) and a fixed time a layer, two numbers fitted to published \
measurements of that kind of device; B sequences read N(1-(1-k/N)^B) experts of a layer. The band is what the \
fit is off by for a device that is left out of it. n/a is what a profile does not tell.

--validate prints predictions beside published measurements, and beside this machine running the bundled model.";

/// Memory, speed and cost of a model on machines that are not here
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub(crate) struct PlanArgs {
    /// Model directory, config.json, or the name of a published shape; default: the bundled model
    pub(crate) model: Option<String>,
    /// Machines to plan for; default: every known device
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) hardware: Vec<String>,
    /// Tokens in each sequence, and in a prompt
    #[arg(short, long, value_name = "N", default_value = "4096", value_parser = values::positive_tokens)]
    pub(crate) context: u64,
    /// Sequences that generate together, over all devices of a machine
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = values::positive_tokens)]
    pub(crate) batch: u64,
    /// What weights are held in; default: as stored, or bf16 where there are no weights
    #[arg(long, env = "MOEBIUS_FORMAT", hide_env_values = true, value_name = "NAME", value_parser = weights())]
    pub(crate) format: Option<Weights>,
    /// What the cache is held in; own is what this program does, on processors always
    #[arg(long, value_name = "NAME", default_value = "f16", value_parser = cache_format())]
    pub(crate) kv_format: CacheFormat,
    #[command(flatten)]
    pub(crate) experts: ExpertsArg,
    /// GB of memory where a profile leaves it open
    #[arg(long, value_name = "GB", value_parser = values::positive)]
    pub(crate) memory_gb: Option<f64>,
    /// Watts of one device under this load, or tdp for what its profile says at most
    #[arg(long, value_name = "W", value_parser = watts)]
    pub(crate) watts: Option<Watts>,
    /// Price of one device for an hour
    #[arg(long, value_name = "PRICE", value_parser = values::positive)]
    pub(crate) device_hour: Option<f64>,
    /// Price of a kilowatt-hour, added where watts are stated
    #[arg(long, value_name = "PRICE", value_parser = values::positive)]
    pub(crate) kilowatt_hour: Option<f64>,
    /// Print predictions beside measurements
    #[arg(long, conflicts_with_all = ["model", "hardware"])]
    pub(crate) validate: bool,
    /// How to print tables
    #[arg(short, long, value_name = "FORMAT", default_value = "text", conflicts_with = "json")]
    pub(crate) output: TableFormat,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// How tables are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    /// For a terminal
    Text,
    /// Markdown
    Md,
    /// The last table alone, a line for each row
    Csv,
}

/// How many watts a device takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Watts {
    /// So many.
    Stated(f64),
    /// What its profile says at most.
    Profile,
}

impl PlanArgs {
    /// What machines are asked to do.
    pub(crate) fn load(&self) -> Load {
        Load::new(self.batch, self.context, self.kv_format)
    }

    /// Prices and watts of a device whose profile says `profile_watts`.
    pub(crate) fn rates(&self, profile_watts: Option<f64>) -> Rates {
        let watts = match self.watts {
            Some(Watts::Stated(watts)) => Some(watts),
            Some(Watts::Profile) => profile_watts,
            None => None,
        };
        Rates { watts, device_hour: self.device_hour, kilowatt_hour: self.kilowatt_hour }
    }
}

fn weights() -> impl TypedValueParser<Value = Weights> {
    PossibleValuesParser::new(Weights::names()).try_map(|name| name.parse::<Weights>())
}

fn cache_format() -> impl TypedValueParser<Value = CacheFormat> {
    let names = CacheFormat::NAMES.map(|(name, _)| name);
    PossibleValuesParser::new(names).map(|name| {
        let known = CacheFormat::NAMES.into_iter().find(|(known, _)| *known == name);
        known.map_or(CacheFormat::F16, |(_, format)| format)
    })
}

fn watts(text: &str) -> Result<Watts, String> {
    if text == "tdp" {
        return Ok(Watts::Profile);
    }
    values::positive(text).map(Watts::Stated).map_err(|expected| format!("{expected}, or tdp"))
}
