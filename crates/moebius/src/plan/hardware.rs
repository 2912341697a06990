//! Machines as data: what is known of a device, with its source, and how several make a machine.
//!
//! Files are TOML: `[sources]` and `[[device]]` entries whose figures are `[number, mark, source]`. A package of several
//! dies names its die and nothing else, so that the two are never mixed up: every figure of it is computed.
//!
//! Invariants: peaks are dense; bytes and rates are plain SI numbers whatever unit a file has; what is unknown is `None`.

use std::path::Path;

use serde::Deserialize;

use super::device_file::parse;
use super::rules::Rules;
use crate::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/hardware.rs"));

/// Files that hold measurements and not devices.
const MEASUREMENTS: [&str; 2] = ["published.toml", "own.toml"];
/// More devices than any machine has.
const MAX_COUNT: u32 = 100_000;

/// Which software and kind of device speeds are known for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// NVIDIA devices.
    Cuda,
    /// Apple's graphics processors.
    Metal,
    /// Huawei's accelerators.
    Ascend,
    /// Processors, with this program.
    Cpu,
}

impl Class {
    /// A name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Class::Cuda => "cuda",
            Class::Metal => "metal",
            Class::Ascend => "ascend",
            Class::Cpu => "cpu",
        }
    }
}

/// How far a figure can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Trust {
    /// Read in the primary text.
    P,
    /// Read in a text that names the primary one.
    S,
    /// Known generally, not read again.
    K,
    /// Computed from other figures.
    C,
    /// Assumed by this project, because nothing says it.
    A,
}

/// A figure with where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Cited {
    /// What it is, as the file calls it.
    pub what: &'static str,
    /// Its value in the file's unit.
    pub value: f64,
    /// How far it can be trusted.
    pub trust: Trust,
    /// The citation.
    pub source: String,
}

/// Arithmetic of one die, dense, in operations per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Peaks {
    /// Single precision.
    pub fp32: Option<f64>,
    /// Half precision.
    pub fp16: Option<f64>,
    /// bfloat16.
    pub bf16: Option<f64>,
    /// Eight-bit floats.
    pub fp8: Option<f64>,
    /// Eight-bit integers.
    pub int8: Option<f64>,
    /// Four-bit floats.
    pub fp4: Option<f64>,
}

/// One die, or several in a package. Figures are those of one die.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// The name that `--hardware` and `--profile` take.
    pub name: String,
    /// Another one that they take, which says how much memory it has.
    pub also: Option<String>,
    /// The name that people use.
    pub title: String,
    /// What its speed is estimated by.
    pub class: Class,
    /// Dies in what is called one device.
    pub dies: u32,
    /// Bytes of memory; `None` where they vary.
    pub memory_bytes: Option<u64>,
    /// Bytes per second of that memory.
    pub bandwidth: f64,
    /// Watts of the whole package at most.
    pub watts: Option<f64>,
    /// Watts of the whole package while it waits.
    pub idle_watts: Option<f64>,
    /// Bytes per second to its neighbours, one way.
    pub link: Option<f64>,
    /// Bytes per second to devices of other nodes, where that differs.
    pub net: Option<f64>,
    /// Devices of a node.
    pub node: Option<u32>,
    /// Arithmetic.
    pub peaks: Peaks,
    /// What it asks of models that run on it.
    pub rules: Rules,
    /// Every figure with its source.
    pub cited: Vec<Cited>,
}

impl Device {
    /// Whether this is a name of it.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.also.as_deref() == Some(name)
    }

    /// The same under the one of its names that was asked for.
    fn called(mut self, name: &str) -> Self {
        if let Some(also) = self.also.as_mut().filter(|also| *also == name) {
            std::mem::swap(also, &mut self.name);
        }
        self
    }

    /// Memory of the whole package.
    pub fn package_memory_bytes(&self) -> Option<u64> {
        self.memory_bytes.map(|bytes| bytes.saturating_mul(self.dies.into()))
    }

    /// Bytes per second of the whole package.
    pub fn package_bandwidth(&self) -> f64 {
        self.bandwidth * f64::from(self.dies)
    }
}

/// Some devices of a kind, with a processor beside them whose memory may hold experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// How many.
    pub count: u32,
    /// Of which kind.
    pub device: Device,
    /// What takes experts that do not fit.
    pub host: Option<Device>,
}

impl Machine {
    /// Its name, as `--hardware` takes it.
    pub fn name(&self) -> String {
        let count = if self.count == 1 { String::new() } else { format!("{}x", self.count) };
        let host = self.host.as_ref().map_or(String::new(), |host| format!("+{}", host.name));
        format!("{count}{}{host}", self.device.name)
    }

    /// Dies in all.
    pub fn dies(&self) -> u64 {
        u64::from(self.count) * u64::from(self.device.dies)
    }

    /// Reads `[Nx]NAME[+HOST]`, where a name is one of [`devices`] or the path of a TOML file with one device.
    ///
    /// # Errors
    /// [`Error::UnknownName`] with the list; [`Error::Hardware`] for a file that says it wrongly.
    pub fn find(name: &str) -> Result<Machine> {
        let (first, host) = match name.split_once('+') {
            Some((first, host)) => (first, Some(find_device(host)?)),
            None => (name, None),
        };
        let (count, device) = match first.split_once('x') {
            Some((count, device)) if count.bytes().all(|b| b.is_ascii_digit()) && !count.is_empty() => {
                (count.parse().unwrap_or(0), device)
            }
            _ => (1, first),
        };
        if !(1..=MAX_COUNT).contains(&count) {
            let expected = format!("1 to {MAX_COUNT} devices, as in 8xh100");
            return Err(Error::UnknownName { what: "number of devices", got: name.into(), expected });
        }
        if count > 1 && host.is_some() {
            let expected = "one device with a host, as in rtx-4090+ddr5-5600".into();
            return Err(Error::UnknownName { what: "combination", got: name.into(), expected });
        }
        Ok(Machine { count, device: find_device(device)?, host })
    }
}

/// Every device that comes with this crate.
pub fn devices() -> Vec<Device> {
    let files = FILES.iter().filter(|(name, _)| !MEASUREMENTS.contains(name));
    let read = |&(name, text): &(&str, &str)| parse(text).unwrap_or_else(|why| unreachable!("{name}: {why}"));
    files.flat_map(read).collect()
}

/// The text of one of the measurement files.
pub(super) fn measurements(name: &str) -> &'static str {
    debug_assert!(MEASUREMENTS.contains(&name));
    FILES.iter().find(|(file, _)| *file == name).map_or("", |(_, text)| text)
}

fn find_device(name: &str) -> Result<Device> {
    let known = devices();
    if let Some(device) = known.iter().find(|device| device.is_called(name)) {
        return Ok(device.clone().called(name));
    }
    let path = Path::new(name);
    if path.extension().is_none_or(|extension| extension != "toml") {
        let both = |device: &Device| std::iter::once(device.name.clone()).chain(device.also.clone());
        let names: Vec<_> = known.iter().flat_map(both).collect();
        let expected = format!("{}, here, or the path of a .toml file with a device", names.join(", "));
        return Err(Error::UnknownName { what: "hardware", got: name.into(), expected });
    }
    let fail = |reason: String| Error::Hardware { path: path.into(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    match <[Device; 1]>::try_from(parse(&text).map_err(fail)?) {
        Ok([device]) => Ok(device),
        Err(several) => Err(fail(format!("expected one `[[device]]`, got {}", several.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_a_name_of_its_own_and_every_figure_a_citation() {
        let devices = devices();
        let mut names: Vec<_> = devices.iter().map(|device| &device.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), devices.len());
        assert!(devices.len() > 30, "{}", devices.len());
        for device in &devices {
            assert!(device.cited.iter().any(|cited| cited.what.starts_with("bandwidth")), "{}", device.name);
            assert!(device.cited.iter().all(|cited| cited.source.len() >= 10), "{}", device.name);
            assert!(Machine::find(&device.name).is_ok_and(|machine| machine.device == *device));
        }
    }

    #[test]
    fn a_package_is_its_dies_in_every_quantity_that_adds_up() {
        let devices = devices();
        let of = |name: &str| devices.iter().find(|device| device.name == name).expect("a device");
        let (package, die) = (of("ascend-910c"), of("ascend-910c-die"));
        assert_eq!((package.dies, die.dies), (2, 1));
        assert_eq!(package.package_memory_bytes(), die.memory_bytes.map(|bytes| 2 * bytes));
        assert_eq!(package.package_bandwidth(), 2.0 * die.bandwidth);
        // 1,504 TOPS and 128 GiB, as the package is described.
        assert_eq!(package.peaks.int8.map(|peak| 2.0 * peak), Some(1504e12));
        assert_eq!(package.package_memory_bytes(), Some(128 << 30));
        // TiB, not TB.
        assert_eq!(die.bandwidth, 1.6 * 1024f64.powi(4));
    }

    #[test]
    fn machines_are_read_from_their_names() {
        let machine = Machine::find("8xh100").unwrap();
        assert_eq!(
            (machine.count, machine.device.name.as_str(), machine.name()),
            (8, "h100", "8xh100".into())
        );
        assert_eq!(Machine::find("2xascend-910c").unwrap().dies(), 4);
        let offloading = Machine::find("rtx-4090+ddr5-5600").unwrap();
        assert_eq!(offloading.host.as_ref().map(|host| host.name.as_str()), Some("ddr5-5600"));
        assert_eq!(offloading.name(), "rtx-4090+ddr5-5600");
        for name in
            ["", "h", "0xh100", "99999999999xh100", "x", "8x", "2xrtx-4090+ddr5-5600", "h100+", "ascend-920"]
        {
            assert!(matches!(Machine::find(name), Err(Error::UnknownName { .. })), "{name}");
        }
    }

    #[test]
    fn a_file_of_ones_own_is_read_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        let find = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Machine::find(path.to_str().unwrap())
        };
        let good = "sources.m = \"measured at home\"\n[[device]]\nname = \"mine\"\ntitle = \"Mine\"\nclass = \"cpu\"\n\
                    bandwidth_gb_s = [20, \"C\", \"m\"]\n";
        let machine = find(good).unwrap();
        assert_eq!((machine.device.bandwidth, machine.device.memory_bytes), (20e9, None));
        let cases = [
            ("", "expected one `[[device]]`, got 0"),
            ("x = ", "TOML"),
            (&good.replace("[20, \"C\", \"m\"]", "20"), "has no source"),
            (&good.replace("20,", "-1,"), "above 0"),
            (&good.replace("20,", "nan,"), "above 0"),
            (&good.replace("bandwidth_gb_s", "band"), "unknown key `band`"),
            (&good.replace("\"cpu\"", "\"gpu\""), "gpu"),
            (&good.replace("bandwidth_gb_s", "memory_gb"), "no bandwidth"),
        ];
        for (text, expected) in cases {
            let error = find(text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("mine.toml"), "{expected}: {error}");
        }
        assert!(matches!(Machine::find("/no/such.toml"), Err(Error::Hardware { .. })));
    }
}
