//! Values with a range, checked before anything is opened.

use std::str::FromStr;

use moebius::plan::Machine;
use moebius::{MemoryLimit, ReadLimit};

use super::MeterMode;

/// Threads beyond this are a mistake, and may exhaust the system.
const MAX_THREADS: u64 = 1024;
/// Longer than any context that a cache has room for.
const MAX_BENCH_TOKENS: usize = 1 << 24;
/// Far more sequences than weights are shared by.
const MAX_BATCH: usize = 1 << 16;
/// Samples beyond these say nothing new.
const MAX_REPETITIONS: usize = 10_000;
/// More than a hall of machines.
const MAX_WATTS: f64 = 1e6;
/// Deeper than any model.
const MAX_LAYERS: usize = 512;

/// Token ids separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = |part: &str| {
            let part = part.trim();
            part.parse().map_err(|_| format!("expected token ids such as 1,2,3, got `{part}`"))
        };
        text.split(',').map(id).collect::<Result<_, _>>().map(Ids)
    }
}

/// How much the meter says: a truth value as in other flags, or `full`.
pub(crate) fn meter(text: &str) -> Result<MeterMode, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "full" => Ok(MeterMode::Full),
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(MeterMode::Short),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(MeterMode::Off),
        _ => Err("expected true, false or full".into()),
    }
}

/// Bytes a second.
pub(crate) fn fetch_limit(text: &str) -> Result<ReadLimit, String> {
    let bytes_per_second = size(text.trim_end_matches("/s"))? as f64;
    Ok(ReadLimit { bytes_per_second, latency: std::time::Duration::ZERO })
}

/// Bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(MemoryLimit::Bytes(bytes)) => Ok(bytes),
        _ => Err(format!("expected a size such as 500MB, at least 1B, got `{text}`")),
    }
}

/// A number for each of several layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ByLayer(pub(crate) Vec<usize>);

/// Numbers separated by commas, `8x3` for three times 8.
pub(crate) fn by_layer(text: &str) -> Result<ByLayer, String> {
    let expected = || format!("expected numbers such as 4,4,2,2 or 4x2,2x2, got `{text}`");
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (value, times) = part.trim().split_once('x').unwrap_or((part.trim(), "1"));
        let value: usize = value.parse().map_err(|_| expected())?;
        let times: usize = times.parse().map_err(|_| expected())?;
        if value == 0 || !(1..=MAX_LAYERS).contains(&(times.saturating_add(numbers.len()))) || times == 0 {
            return Err(expected());
        }
        numbers.extend(std::iter::repeat_n(value, times));
    }
    Ok(ByLayer(numbers))
}

/// A decoder layer and one of its experts.
pub(crate) fn layer_expert(text: &str) -> Result<(usize, u32), String> {
    let parts = text.trim().split_once(':');
    let pair = parts.and_then(|(layer, expert)| Some((layer.parse().ok()?, expert.parse().ok()?)));
    pair.ok_or_else(|| format!("expected LAYER:EXPERT such as 0:3, got `{text}`"))
}

/// Hardware by its name, or the path of a file that describes it.
pub(crate) fn machine(text: &str) -> Result<Machine, String> {
    let machine = Machine::find(text).map_err(|error| error.to_string())?;
    match moebius::declared::profile(&machine) {
        Ok(_) => Ok(machine),
        Err(error) => Err(error.to_string()),
    }
}

/// A number of threads.
pub(crate) fn threads(text: &str) -> Result<u64, String> {
    let expected = format!("a whole number from 1 to {MAX_THREADS}");
    number(text, &expected, |value| (1..=MAX_THREADS).contains(value))
}

/// A number of at least one.
pub(crate) fn at_least_one(text: &str) -> Result<u64, String> {
    number(text, "a whole number of at least 1", |&value| value >= 1)
}

/// A number of at least zero.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    number(text, "a whole number of at least 0", |_| true)
}

/// A number of tokens that a benchmark reads, generates or has in the cache.
pub(crate) fn tokens(text: &str) -> Result<usize, String> {
    let expected = format!("a whole number from 0 to {MAX_BENCH_TOKENS}");
    number(text, &expected, |value| (0..=MAX_BENCH_TOKENS).contains(value))
}

/// At least one token to generate.
pub(crate) fn some_tokens(text: &str) -> Result<usize, String> {
    let expected = format!("a whole number from 1 to {MAX_BENCH_TOKENS}");
    number(text, &expected, |value| (1..=MAX_BENCH_TOKENS).contains(value))
}

/// A number of tokens that is not 0.
pub(crate) fn positive_tokens(text: &str) -> Result<u64, String> {
    let expected = format!("a whole number from 1 to {MAX_BENCH_TOKENS}");
    number(text, &expected, |value| (1..=MAX_BENCH_TOKENS as u64).contains(value))
}

/// A finite number above 0.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    number(text, "a finite number above 0", |value: &f64| value.is_finite() && *value > 0.0)
}

/// Sequences that run together.
pub(crate) fn batch(text: &str) -> Result<usize, String> {
    let expected = format!("a whole number from 1 to {MAX_BATCH}");
    number(text, &expected, |value| (1..=MAX_BATCH).contains(value))
}

/// How often a benchmark repeats a test.
pub(crate) fn repetitions(text: &str) -> Result<usize, String> {
    let expected = format!("a whole number from 1 to {MAX_REPETITIONS}");
    number(text, &expected, |value| (1..=MAX_REPETITIONS).contains(value))
}

/// A number of decoder layers.
pub(crate) fn layers(text: &str) -> Result<usize, String> {
    let expected = format!("a whole number from 1 to {MAX_LAYERS}");
    number(text, &expected, |value| (1..=MAX_LAYERS).contains(value))
}

/// A number of tokens, or -1 for as many as there is room for.
pub(crate) fn n_predict(text: &str) -> Result<i64, String> {
    number(text, "a whole number of at least -1", |&value| value >= -1)
}

/// A seed.
pub(crate) fn seed(text: &str) -> Result<u64, String> {
    number(text, "a whole number of at least 0", |_| true)
}

/// A finite number of at least 0.
pub(crate) fn temperature(text: &str) -> Result<f32, String> {
    number(text, "a finite number of at least 0", |value: &f32| value.is_finite() && *value >= 0.0)
}

/// A number from 0 to 1.
pub(crate) fn share(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 1", |value| (0.0..=1.0).contains(value))
}

/// A finite number above 0.
pub(crate) fn penalty(text: &str) -> Result<f32, String> {
    number(text, "a finite number above 0", |value: &f32| value.is_finite() && *value > 0.0)
}

/// A power in watts.
pub(crate) fn watts(text: &str) -> Result<f64, String> {
    let valid = |value: &f64| value.is_finite() && *value > 0.0 && *value <= MAX_WATTS;
    number(text, &format!("a number above 0 and up to {MAX_WATTS}"), valid)
}

/// A text of at least one character.
pub(crate) fn stop_string(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected at least one character".into()) } else { Ok(text.into()) }
}

fn number<T: FromStr>(text: &str, expected: &str, valid: impl Fn(&T) -> bool) -> Result<T, String> {
    match text.trim().parse() {
        Ok(value) if valid(&value) => Ok(value),
        _ => Err(format!("expected {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_between_commas() {
        assert_eq!("5, 6,7".parse(), Ok(Ids(vec![5, 6, 7])));
        for text in ["", "1,,2", "1,x", "-1", "1,", "4294967296", "999999999999", "1.5"] {
            assert!(text.parse::<Ids>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_meter_is_off_on_or_full() {
        let modes = ["full", "1", "TRUE", "off"].map(meter);
        let expected = [MeterMode::Full, MeterMode::Short, MeterMode::Short, MeterMode::Off].map(Ok);
        assert_eq!(modes, expected);
        assert!(meter("").is_err() && meter("all").is_err());
    }

    #[test]
    fn schedules_and_masks_are_read_and_nonsense_is_not() {
        assert_eq!(by_layer("4, 4,2x3"), Ok(ByLayer(vec![4, 4, 2, 2, 2])));
        for text in ["", "4,", "0,1", "4x0", "x3", "4x", "4x513", "-1", "1x99999999999"] {
            assert!(by_layer(text).is_err(), "{text}");
        }
        assert_eq!(layer_expert("3:17"), Ok((3, 17)));
        for text in ["", "3", "3:", ":3", "3:-1", "a:b", "3:4294967296", "1:2:3"] {
            assert!(layer_expert(text).is_err(), "{text}");
        }
        assert!(watts("0").is_err() && watts("inf").is_err() && watts("65") == Ok(65.0));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for text in ["nan", "inf", "-0.1", "", "warm"] {
            assert!(temperature(text).is_err(), "{text}");
        }
        for text in ["nan", "-0.1", "1.1"] {
            assert!(share(text).is_err(), "{text}");
        }
        for text in ["nan", "0", "-5", "1e7", "many"] {
            assert!(watts(text).is_err(), "{text}");
        }
        assert_eq!(watts("65.5"), Ok(65.5));
        assert!(penalty("0").is_err());
        for text in ["0", "1025", "-1", "1.5", "", "99999999999999999999"] {
            assert!(threads(text).is_err(), "{text}");
        }
        assert!(tokens("16777217").is_err() && batch("0").is_err() && repetitions("0").is_err());
        assert!(layers("0").is_err() && layers("513").is_err());
        assert_eq!(
            (tokens("0"), batch("1"), repetitions("1"), layers("512")),
            (Ok(0), Ok(1), Ok(1), Ok(512))
        );
        assert!(at_least_one("0").is_err() && count("-1").is_err() && n_predict("-2").is_err());
        assert_eq!((threads("1024"), count("0"), n_predict("-1")), (Ok(1024), Ok(0), Ok(-1)));
        assert_eq!((temperature("0"), share("1"), penalty("1.1")), (Ok(0.0), Ok(1.0), Ok(1.1)));
    }
}
