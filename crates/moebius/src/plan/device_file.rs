//! Reads files of devices.
//!
//! Invariants: no figure without a source; no key that nobody reads; every number is finite and above 0, power at rest
//! may be 0.

use std::collections::BTreeMap;

use moebius_backend_constrained::{ShapeRule, Tile};
use serde::Deserialize;
use toml::Table;

use super::citations;
use super::hardware::{Cited, Class, Device, Peaks, Trust};
use super::rules::{self, Rules};

type Result<T> = std::result::Result<T, String>;

/// A figure as a file has it: number, mark, key of the source.
type Figure = (f64, Trust, String);
/// A choice as a file has it: words, mark, key of the source.
type Choice = (String, Trust, String);

/// The keys of a device, to say what a wrong one may have meant.
const KEYS: [&str; 23] = [
    "name",
    "also",
    "title",
    "class",
    "memory_gb",
    "memory_gib",
    "bandwidth_gb_s",
    "bandwidth_tib_s",
    "watts",
    "idle_watts",
    "link_gb_s",
    "net_gb_s",
    "fetch_gb_s",
    "node",
    "tflops",
    "launch_us",
    "formats",
    "tile",
    "shapes",
    "capacity_factor",
    "expert_devices",
    "dies",
    "die",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    sources: BTreeMap<String, String>,
    #[serde(default)]
    device: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    also: Option<String>,
    title: String,
    class: Class,
    memory_gb: Option<Figure>,
    memory_gib: Option<Figure>,
    bandwidth_gb_s: Option<Figure>,
    bandwidth_tib_s: Option<Figure>,
    watts: Option<Figure>,
    idle_watts: Option<Figure>,
    link_gb_s: Option<Figure>,
    net_gb_s: Option<Figure>,
    fetch_gb_s: Option<Figure>,
    node: Option<Figure>,
    #[serde(default)]
    tflops: TeraFlops,
    launch_us: Option<LaunchUs>,
    formats: Option<Choice>,
    tile: Option<TileSides>,
    shapes: Option<Choice>,
    capacity_factor: Option<Figure>,
    expert_devices: Option<Figure>,
    dies: Option<Figure>,
    die: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TeraFlops {
    fp32: Option<Figure>,
    fp16: Option<Figure>,
    bf16: Option<Figure>,
    fp8: Option<Figure>,
    int8: Option<Figure>,
    fp4: Option<Figure>,
}

/// Microseconds of a launch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LaunchUs {
    product: Figure,
    vector: Figure,
    exchange: Figure,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TileSides {
    rows: Figure,
    inner: Figure,
    cols: Figure,
}

/// The devices of a file.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn parse(text: &str) -> Result<Vec<Device>> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    check_keys(&table)?;
    citations::check(&table)?;
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut devices: Vec<Device> = Vec::new();
    for entry in file.device {
        let name = entry.name.clone();
        let device = match entry.die.clone() {
            None => entry.device(&file.sources),
            Some(die) => match devices.iter().find(|device| device.name == die) {
                Some(of) => entry.package(of, &file.sources),
                None => Err(format!("`{die}` does not stand above the package of it")),
            },
        };
        devices.push(device.map_err(|reason| format!("device `{name}`: {reason}"))?);
    }
    Ok(devices)
}

/// Names the first key that no device has, and what it may lack.
fn check_keys(file: &Table) -> Result<()> {
    let entries = file.get("device").and_then(|value| value.as_array()).into_iter().flatten();
    for key in entries.filter_map(|entry| entry.as_table()).flat_map(Table::keys) {
        if KEYS.contains(&key.as_str()) {
            continue;
        }
        let with_unit: Vec<String> = KEYS
            .iter()
            .filter(|known| known.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('_')))
            .map(|known| format!("`{known}`"))
            .collect();
        return Err(match with_unit.is_empty() {
            true => format!("unknown key `{key}`: expected one of {}", KEYS.join(", ")),
            false => format!("`{key}` has no unit: expected {}", with_unit.join(" or ")),
        });
    }
    Ok(())
}

/// Takes figures out of a file's units.
struct Reader<'a> {
    sources: &'a BTreeMap<String, String>,
    cited: Vec<Cited>,
}

impl Reader<'_> {
    /// The figure times `unit`, noted under its name.
    fn take(&mut self, what: &'static str, figure: Option<Figure>, unit: f64) -> Result<Option<f64>> {
        let Some((value, trust, key)) = figure else { return Ok(None) };
        let least = if what == "idle_watts" { 0.0 } else { f64::MIN_POSITIVE };
        if !(value >= least && value.is_finite()) {
            let expected = if least == 0.0 { "at least 0" } else { "above 0" };
            return Err(format!("`{what}`: expected a number {expected}, got {value}"));
        }
        self.cite(what, value, trust, &key);
        Ok(Some(value * unit))
    }

    /// A whole number.
    fn whole(&mut self, what: &'static str, figure: Option<Figure>) -> Result<Option<u64>> {
        match self.take(what, figure, 1.0)? {
            Some(value) if value.fract() != 0.0 || value > 1e9 => {
                Err(format!("`{what}`: expected a whole number, got {value}"))
            }
            value => Ok(value.map(|value| value as u64)),
        }
    }

    fn cite(&mut self, what: &'static str, value: f64, trust: Trust, key: &str) {
        let source = self.sources.get(key).cloned().unwrap_or_default();
        self.cited.push(Cited { what, value, trust, source });
    }
}

impl Entry {
    fn device(mut self, sources: &BTreeMap<String, String>) -> Result<Device> {
        const GIB: f64 = (1u64 << 30) as f64;
        if self.dies.is_some() {
            return Err("`dies` without a `die` to take figures from".into());
        }
        let mut reader = Reader { sources, cited: Vec::new() };
        let rules = self.rules(&mut reader)?;
        let mut take = |what, figure, unit| reader.take(what, figure, unit);
        let memory = take("memory_gb", self.memory_gb, 1e9)?.or(take("memory_gib", self.memory_gib, GIB)?);
        let bandwidth = take("bandwidth_gb_s", self.bandwidth_gb_s, 1e9)?;
        let bandwidth = bandwidth.or(take("bandwidth_tib_s", self.bandwidth_tib_s, 1024.0 * GIB)?);
        let device = Device {
            name: self.name,
            also: self.also,
            title: self.title,
            class: self.class,
            dies: 1,
            memory_bytes: memory.map(|bytes| bytes as u64),
            bandwidth: bandwidth.ok_or("it has no bandwidth")?,
            watts: take("watts", self.watts, 1.0)?,
            idle_watts: take("idle_watts", self.idle_watts, 1.0)?,
            link: take("link_gb_s", self.link_gb_s, 1e9)?,
            net: take("net_gb_s", self.net_gb_s, 1e9)?,
            node: take("node", self.node, 1.0)?.map(|count| count as u32),
            peaks: Peaks {
                fp32: take("tflops.fp32", self.tflops.fp32, 1e12)?,
                fp16: take("tflops.fp16", self.tflops.fp16, 1e12)?,
                bf16: take("tflops.bf16", self.tflops.bf16, 1e12)?,
                fp8: take("tflops.fp8", self.tflops.fp8, 1e12)?,
                int8: take("tflops.int8", self.tflops.int8, 1e12)?,
                fp4: take("tflops.fp4", self.tflops.fp4, 1e12)?,
            },
            rules,
            cited: Vec::new(),
        };
        Ok(Device { cited: reader.cited, ..device })
    }

    /// Takes the rules out.
    fn rules(&mut self, reader: &mut Reader<'_>) -> Result<Rules> {
        let launch = match self.launch_us.take() {
            None => None,
            Some(LaunchUs { product, vector, exchange }) => {
                let mut us = |what, figure| {
                    let seconds = reader.take(what, Some(figure), 1e-6)?;
                    seconds.ok_or_else(|| format!("`{what}` is missing"))
                };
                Some([
                    us("launch_us.product", product)?,
                    us("launch_us.vector", vector)?,
                    us("launch_us.exchange", exchange)?,
                ])
            }
        };
        let formats = self.formats.take().map(|(names, trust, key)| {
            let formats = rules::formats(&names)?;
            reader.cite("formats", formats.len() as f64, trust, &key);
            Ok::<_, String>(formats)
        });
        let rule = match self.shapes.take() {
            None => None,
            Some(_) if self.tile.is_none() => return Err("`shapes` without a `tile`".into()),
            Some((name, trust, key)) => {
                let rule = rules::shape_rule(&name)?;
                reader.cite("shapes", f64::from(u8::from(rule == ShapeRule::Refuse)), trust, &key);
                Some(rule)
            }
        };
        let tile = self.tile.take().map(|TileSides { rows, inner, cols }| {
            let mut side =
                |what, figure| Ok::<_, String>(reader.whole(what, Some(figure))?.unwrap_or(1).max(1));
            let (rows, inner) = (side("tile.rows", rows)?, side("tile.inner", inner)?);
            Ok::<_, String>(Tile {
                rows,
                inner,
                cols: side("tile.cols", cols)?,
                rule: rule.unwrap_or(ShapeRule::Pad),
            })
        });
        let devices = reader.whole("expert_devices", self.expert_devices.take())?;
        Ok(Rules {
            fetch: reader.take("fetch_gb_s", self.fetch_gb_s.take(), 1e9)?,
            launch,
            formats: formats.transpose()?,
            tile: tile.transpose()?,
            capacity_factor: reader.take("capacity_factor", self.capacity_factor.take(), 1.0)?,
            expert_devices: devices.map(|devices| devices as usize),
        })
    }

    /// Several of `die`.
    fn package(mut self, die: &Device, sources: &BTreeMap<String, String>) -> Result<Device> {
        let mut reader = Reader { sources, cited: Vec::new() };
        let figures =
            [&self.memory_gb, &self.memory_gib, &self.bandwidth_gb_s, &self.bandwidth_tib_s, &self.link_gb_s];
        if figures.iter().any(|figure| figure.is_some()) || self.rules(&mut reader)? != Rules::default() {
            return Err("a package takes its figures from its die".into());
        }
        let mut reader = Reader { sources, cited: die.cited.clone() };
        let dies = reader.whole("dies", self.dies)?.ok_or("it says no `dies`")?;
        let watts = reader.take("watts", self.watts, 1.0)?;
        let idle_watts = reader.take("idle_watts", self.idle_watts, 1.0)?;
        let Entry { name, also, title, class, .. } = self;
        let device = Device { name, also, title, class, dies: dies as u32, watts, idle_watts, ..die.clone() };
        Ok(Device { cited: reader.cited, ..device })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "sources.m = \"measured at home\"\n[[device]]\nname = \"mine\"\ntitle = \"Mine\"\nclass = \"cpu\"\n\
                        bandwidth_gb_s = [20, \"C\", \"m\"]\n";

    fn device(lines: &str) -> Result<Device> {
        parse(&format!("{GOOD}{lines}")).map(|mut devices| devices.remove(0))
    }

    #[test]
    fn rules_are_read_in_their_units_and_cited() {
        let lines = "fetch_gb_s = [3.5, \"K\", \"m\"]\nformats = [\"bf16 q8_0\", \"A\", \"m\"]\n\
                     launch_us.product = [5, \"P\", \"m\"]\nlaunch_us.vector = [2, \"P\", \"m\"]\n\
                     launch_us.exchange = [10, \"P\", \"m\"]\nshapes = [\"refuse\", \"A\", \"m\"]\n\
                     tile.rows = [16, \"K\", \"m\"]\ntile.inner = [32, \"K\", \"m\"]\ntile.cols = [16, \"K\", \"m\"]\n\
                     capacity_factor = [1.25, \"A\", \"m\"]\nexpert_devices = [8, \"S\", \"m\"]\nidle_watts = [0, \"A\", \"m\"]\n";
        let device = device(lines).unwrap();
        let rules = device.rules;
        assert_eq!((rules.fetch, rules.capacity_factor), (Some(3.5e9), Some(1.25)));
        assert!(rules.launch.is_some_and(|[product, ..]| (product - 5e-6).abs() < 1e-15));
        assert_eq!(rules.tile, Some(Tile { rows: 16, inner: 32, cols: 16, rule: ShapeRule::Refuse }));
        assert_eq!((rules.expert_devices, device.idle_watts), (Some(8), Some(0.0)));
        assert_eq!(rules.formats.map(|formats| formats.len()), Some(2));
        assert!(device.cited.iter().any(|cited| cited.what == "formats" && cited.trust == Trust::A));
    }

    #[test]
    fn what_is_wrong_with_a_device_is_said_in_its_words() {
        let check = |lines: &str, expected: &str| {
            let error = device(lines).unwrap_err();
            assert!(error.contains(expected), "{lines}: {error}");
        };
        check("fetch = [3, \"K\", \"m\"]", "`fetch` has no unit: expected `fetch_gb_s`");
        check("memory = [3, \"K\", \"m\"]", "expected `memory_gb` or `memory_gib`");
        check("colour = [3, \"K\", \"m\"]", "unknown key `colour`");
        check("fetch_gb_s = [-3, \"K\", \"m\"]", "`fetch_gb_s`: expected a number above 0, got -3");
        check("idle_watts = [-3, \"K\", \"m\"]", "`idle_watts`: expected a number at least 0, got -3");
        check("formats = [\"bf16 fp12\", \"K\", \"m\"]", "got `fp12`");
        check("formats = [\"\", \"K\", \"m\"]", "at least one name");
        check("formats = \"bf16\"", "`formats` has no source");
        check("shapes = [\"pad\", \"K\", \"m\"]", "without a `tile`");
        check("tile.rows = [16, \"K\", \"m\"]", "missing field `inner`");
        check("expert_devices = [2.5, \"K\", \"m\"]", "expected a whole number, got 2.5");
        check("tflops.fp12 = [2, \"K\", \"m\"]", "fp12");
    }

    #[test]
    fn every_key_of_a_device_is_known_to_the_hint() {
        // The reader itself names its fields when it meets another.
        let error = toml::from_str::<Entry>("nonsense = 1").err().map(|error| error.to_string());
        let error = error.unwrap_or_default();
        let named = KEYS.iter().filter(|key| error.contains(&format!("`{key}`"))).count();
        assert_eq!(named, KEYS.len(), "{error}");
    }
}
