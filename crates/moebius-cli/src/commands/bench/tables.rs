//! Tables for people, in Markdown that is aligned as it stands.

use moebius::bench::{Measurement, Statistics, Test};
use moebius::metering::Stage;
use moebius::metering::format::{UNKNOWN, percent, si};

use super::record::{Setting, Variant};
use crate::energy;
use crate::markdown::{Markdown, aligned};
use crate::table::Align;

/// Tests side by side in a profile: as many as fit on a line.
const PROFILES_ABREAST: usize = 6;

/// The table of speeds.
pub(crate) struct SpeedTable(Markdown);

impl SpeedTable {
    /// A table for `tests` of a model.
    pub(crate) fn new(setting: &Setting, tests: &[Test]) -> Self {
        use Align::{Left, Right};
        let tests = tests.iter().map(|test| test.to_string().len()).max().unwrap_or(0);
        SpeedTable(Markdown::new(&[
            ("model", Left, setting.model.chars().count()),
            ("size", Right, 7),
            ("params", Right, 6),
            ("backend", Left, setting.backend.len()),
            ("threads", Right, 0),
            ("format", Left, 4),
            ("test", Left, tests),
            ("t/s", Right, 16),
            ("GB/s", Right, 5),
            ("of bw", Right, 6),
            ("of peak", Right, 6),
            ("memory", Right, 7),
            ("load", Right, 6),
        ]))
    }

    pub(crate) fn header(&self) -> String {
        self.0.header()
    }

    pub(crate) fn row(&self, setting: &Setting, measured: &Measurement) -> String {
        let bandwidth = setting.machine.bytes_per_second();
        let bytes = |bytes: Option<u64>| si(bytes.map(|bytes| bytes as f64), "B");
        self.0.row(&[
            setting.model.clone(),
            bytes(setting.weight_bytes),
            si(Some(setting.parameters as f64), ""),
            setting.backend.into(),
            setting.machine.threads.to_string(),
            setting.format_name(),
            measured.test.to_string(),
            rate(measured.tokens_per_second()),
            decimal(measured.weight_bytes_per_second().map(|rate| rate / 1e9), 2),
            percent(bandwidth.and_then(|rate| measured.bandwidth_share(rate))),
            percent(setting.peak_ops_per_second().and_then(|rate| measured.peak_share(rate))),
            bytes(measured.peak_bytes),
            seconds(setting.load_ms / 1e3),
        ])
    }
}

/// What ran where.
pub(crate) fn heading(setting: &Setting) -> String {
    let cpu = setting.machine.cpu.as_deref().unwrap_or("an unnamed processor");
    let weights = if setting.random_weights { ", random weights" } else { "" };
    let experts = match setting.routing {
        Some((n_experts, top_k)) => format!(", {top_k} of {n_experts} experts"),
        None => String::new(),
    };
    let rounded = if setting.bf16_activations { ", activations rounded to bf16" } else { "" };
    format!(
        "moebius {} ({}, {} kernels) on {cpu}: {}, {} layers{experts}{weights}{rounded}",
        env!("CARGO_PKG_VERSION"),
        crate::version::PROFILE,
        setting.machine.kernels,
        setting.family,
        setting.layers,
    )
}

/// What the shares of bandwidth and of the arithmetic's peak refer to.
pub(crate) fn machine_note(setting: &Setting) -> String {
    if let Some(gpu) = setting.machine.gpu {
        let (copied, bf16) =
            (si(Some(gpu.copied_bytes_per_second), "B/s"), si(Some(gpu.bf16_ops_per_second), "FLOP/s"));
        return format!(
            "The GPU copies memory at {copied}: \"of bw\" is weights and cache, \"GB/s\" weights alone. It multiplies \
             large matrices of bf16 at {bf16}: \"of peak\" is all operations beside that."
        );
    }
    let read = si(setting.machine.read_bytes_per_second, "B/s");
    let threads = setting.machine.threads;
    let noun = if threads == 1 { "thread" } else { "threads" };
    let peaks = setting.machine.peaks;
    let (int8, f32) =
        (si(Some(peaks.int8_ops_per_second), "OP/s"), si(Some(peaks.f32_ops_per_second), "FLOP/s"));
    let (pairs, beside) = match peaks.bf16_ops_per_second.filter(|_| setting.bf16_activations) {
        Some(bf16) => (format!(", {} in pairs of bf16", si(Some(bf16), "FLOP/s")), " beside pairs for bf16,"),
        None => (String::new(), ""),
    };
    format!(
        "{threads} {noun} read {read} here: \"of bw\" is weights and cache, \"GB/s\" weights alone. They multiply and add \
         at {int8} in int8 and {f32} in f32{pairs}: \"of peak\" is all operations beside int8 for block formats,{beside} \
         else beside f32."
    )
}

/// Batches beside one sequence and beside what distinct experts allow; `None` without batches.
pub(crate) fn batches(measured: &[(Variant, Measurement)]) -> Option<String> {
    use Align::{Left, Right};
    let batched: Vec<_> = measured.iter().filter(|(_, m)| m.test.batch > 1).collect();
    let tests = batched.iter().map(|(_, m)| m.test.to_string().len()).max()?;
    let table = Markdown::new(&[
        ("batch", Left, tests),
        ("threads", Right, 0),
        ("format", Left, 4),
        ("t/s", Right, 16),
        ("experts a layer", Right, 0),
        ("by chance", Right, 0),
        ("times b1", Right, 0),
        ("bound", Right, 5),
        ("of bound", Right, 0),
    ]);
    let mut text = table.header();
    for (variant, batch) in batched {
        let single = Test { batch: 1, ..batch.test };
        let single = measured.iter().find(|(v, m)| v == variant && m.test == single).map(|(_, m)| m);
        let speedup = single.and_then(|single| batch.speedup_over(single));
        let bound = batch.batching_bound();
        text += &table.row(&[
            batch.test.to_string(),
            variant.threads.to_string(),
            variant.format.clone(),
            rate(batch.tokens_per_second()),
            decimal(batch.distinct_experts(), 1),
            decimal(batch.expected_distinct_experts(), 1),
            decimal(speedup, 2),
            decimal(bound, 2),
            percent(speedup.zip(bound).map(|(speedup, bound)| speedup / bound)),
        ]);
    }
    Some(text)
}

/// Energy of every test that has some; `None` if none has.
pub(crate) fn energies(measured: &[(Variant, Measurement)]) -> Option<String> {
    let line = |(variant, measured): &(Variant, Measurement)| {
        let tokens = measured.test.tokens() as u64 * measured.samples.len() as u64;
        let text = energy::text(Some(measured.energy?), tokens, "token");
        Some(format!(
            "energy of {} with -t {} in {}: {text}\n",
            measured.test, variant.threads, variant.format
        ))
    };
    let lines: String = measured.iter().filter_map(line).collect();
    (!lines.is_empty()).then_some(lines)
}

/// Where a step spent its time, several tests abreast; `None` if that was not asked for.
pub(crate) fn profiles(measured: &[(Variant, Measurement)]) -> Option<String> {
    let profiled: Vec<_> = measured.iter().filter_map(|(v, m)| Some((v, m, m.profile()?))).collect();
    let several = |differs: fn(&Variant, &Variant) -> bool| {
        profiled.iter().any(|(variant, ..)| differs(variant, profiled[0].0))
    };
    let (several_threads, several_formats) =
        (several(|a, b| a.threads != b.threads), several(|a, b| a.format != b.format));
    let mut text = String::new();
    for abreast in profiled.chunks(PROFILES_ABREAST) {
        let names = abreast.iter().map(|(variant, measured, _)| {
            let threads = if several_threads { format!(" -t {}", variant.threads) } else { String::new() };
            let format = if several_formats { format!(" {}", variant.format) } else { String::new() };
            format!("{}{threads}{format}", measured.test)
        });
        let names: Vec<String> = std::iter::once("ms a step".to_owned()).chain(names).collect();
        let mut rows = vec![names];
        for stage in Stage::ALL {
            let shares: Vec<_> =
                abreast.iter().map(|(.., profile)| profile.iter().find(|s| s.stage == stage)).collect();
            if shares.iter().all(Option::is_none) {
                continue;
            }
            let cell = |share: &Option<&moebius::bench::StageShare>| match share {
                Some(share) => format!("{:.3} {:>4.1} %", share.step_ms, 100.0 * share.share),
                None => String::new(),
            };
            let name = stage.name().replace('_', " ");
            rows.push(std::iter::once(name).chain(shares.iter().map(cell)).collect());
        }
        let whole = abreast.iter().map(|(_, measured, _)| {
            format!("{:.3}  100 %", 1e3 * measured.reading.seconds() / measured.steps.max(1) as f64)
        });
        rows.push(std::iter::once("all".to_owned()).chain(whole).collect());
        text += &aligned(&rows, 1);
    }
    (!text.is_empty()).then_some(text)
}

fn rate(rate: Statistics) -> String {
    match rate.deviation {
        Some(deviation) => format!("{:.2} ± {deviation:.2}", rate.mean),
        None => format!("{:.2}", rate.mean),
    }
}

fn seconds(seconds: f64) -> String {
    let digits = if seconds < 10.0 { 2 } else { 1 };
    format!("{seconds:.digits$} s")
}

fn decimal(value: Option<f64>, digits: usize) -> String {
    value.map_or(UNKNOWN.into(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use moebius::bench::{GpuRates, Kind};
    use moebius::metering::Reading;
    use moebius::{HeldFormats, Peaks, RoutingRules, WeightFormat};

    use super::super::record::Machine;
    use super::*;

    #[test]
    fn shares_on_a_gpu_are_of_what_the_gpu_does() {
        let mut setting = setting();
        let gpu = GpuRates { copied_bytes_per_second: 3.0e12, bf16_ops_per_second: 6.0e14 };
        setting.machine.gpu = Some(gpu);
        assert_eq!(setting.machine.bytes_per_second(), Some(3.0e12));
        assert_eq!(setting.peak_ops_per_second(), Some(6.0e14));
        let note = machine_note(&setting);
        assert!(note.contains("3 TB/s") && note.contains("600 TFLOP/s"), "{note}");
    }

    #[test]
    fn shares_are_of_pairs_of_bf16_where_such_are_multiplied() {
        let plain = setting();
        assert_eq!(plain.peak_ops_per_second(), Some(2.0e11));
        assert!(!machine_note(&plain).contains("bf16") && !heading(&plain).contains("bf16"));
        let mut rounded = Setting { bf16_activations: true, ..setting() };
        assert_eq!(rounded.peak_ops_per_second(), Some(4.0e11));
        let note = machine_note(&rounded);
        assert!(note.contains("200 GFLOP/s in f32, 400 GFLOP/s in pairs of bf16"), "{note}");
        assert!(heading(&rounded).ends_with("activations rounded to bf16"), "{}", heading(&rounded));
        rounded.machine.peaks.bf16_ops_per_second = None;
        assert_eq!(rounded.peak_ops_per_second(), Some(2.0e11));
        rounded.format = Some(WeightFormat::Q4_0);
        assert_eq!(rounded.peak_ops_per_second(), Some(1.0e12));
    }

    fn setting() -> Setting {
        Setting {
            machine: Machine {
                cpu: None,
                kernels: "scalar",
                threads: 2,
                read_bytes_per_second: Some(31.2e9),
                peaks: Peaks {
                    int8_ops_per_second: 1.0e12,
                    f32_ops_per_second: 2.0e11,
                    bf16_ops_per_second: Some(4.0e11),
                },
                gpu: None,
            },
            backend: "cpu",
            bf16_activations: false,
            model: "olmoe-1b-7b".into(),
            random_weights: true,
            family: "olmoe",
            layers: 16,
            routing: Some((64, 8)),
            format: Some(WeightFormat::Bf16),
            held: HeldFormats::AsStored,
            rules: RoutingRules::default(),
            weight_bytes: Some(13_838_000_000),
            parameters: 6_919_000_000,
            active_parameters: 1_282_000_000,
            seed: 0,
            load_ms: 12_340.0,
        }
    }

    fn on(threads: usize) -> Variant {
        Variant { threads, format: "bf16".into() }
    }

    fn measured(batch: usize, millis: [u64; 2]) -> Measurement {
        Measurement {
            test: Test { depth: 4096, kind: Kind::Generate(128), batch },
            samples: millis.map(Duration::from_millis).to_vec(),
            reading: Reading { elapsed: Duration::from_millis(millis.iter().sum()), ..Reading::default() },
            steps: 256,
            stages: None,
            peak_bytes: Some(14_000_000_000),
            energy: None,
            modelled: None,
            routing: Some((64, 8)),
        }
    }

    #[test]
    fn all_lines_of_the_table_are_equally_long_and_fit_a_wide_terminal() {
        let tests = [measured(1, [1000, 1100]), measured(32, [3000, 3300])];
        let table = SpeedTable::new(&setting(), &tests.clone().map(|m| m.test));
        let text = tests.iter().fold(table.header(), |text, m| text + &table.row(&setting(), m));
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|&width| width == widths[0] && width <= 150), "{widths:?}\n{text}");
        for cell in ["tg128 x b32 @ d4096 |  1303.27 ± 87.77 |", "122.18 ± 8.23", "| 12.3 s |", "| bf16   |"]
        {
            assert!(text.contains(cell), "`{cell}` is not in:\n{text}");
        }
    }

    #[test]
    fn a_batch_stands_beside_one_sequence_and_its_bound() {
        assert_eq!(batches(&[(on(2), measured(1, [1000, 1000]))]), None);
        let text = batches(&[(on(2), measured(1, [1000, 1000])), (on(2), measured(8, [4000, 4000]))])
            .expect("a batch");
        assert!(text.contains(" 42.0 ") && text.contains(" 2.00 "), "{text}");
        assert_eq!(text.lines().count(), 3);
        let alone = batches(&[(on(1), measured(1, [1000, 1000])), (on(2), measured(8, [4000, 4000]))])
            .expect("a batch");
        assert!(alone.contains("n/a") && !alone.contains(" 2.00 "), "{alone}");
    }

    #[test]
    fn without_stages_there_is_no_profile() {
        assert_eq!(profiles(&[(on(2), measured(1, [1000, 1000]))]), None);
    }
}
