//! One row of results in every detail.

use moebius::bench::{GpuRates, Kind, Measurement, Plan, Session, Subject, gpu_rates};
use moebius::declared::ModelledPhase;
use moebius::metering::Stage;
use moebius::metering::format::UNKNOWN;
use moebius::{HeldFormats, OpenOptions, Peaks, RoutingRules, WeightFormat};
use serde_json::json;

use crate::energy;
use crate::errors::Result;
use crate::rows::Record;

/// The machine, what it reads per second, and how fast it multiplies.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) cpu: Option<String>,
    pub(crate) kernels: &'static str,
    pub(crate) threads: usize,
    pub(crate) read_bytes_per_second: Option<f64>,
    pub(crate) peaks: Peaks,
    /// The GPU that the model runs on: then shares are of what it does.
    pub(crate) gpu: Option<GpuRates>,
}

impl Machine {
    /// Looks at it and measures its memory and its arithmetic with `threads` threads.
    pub(crate) fn measure(threads: usize) -> Result<Self> {
        Ok(Machine {
            cpu: moebius::cpu_name(),
            kernels: moebius::kernel_name()?,
            threads,
            read_bytes_per_second: moebius::read_bandwidth(threads)?,
            peaks: moebius::peaks(threads)?,
            gpu: None,
        })
    }

    /// The same with the GPU of a session, if it runs on one.
    pub(crate) fn running(self, session: &Session) -> Result<Self> {
        Ok(Machine { gpu: gpu_rates(session.backend())?, ..self })
    }

    /// Bytes per second that shares of bandwidth refer to.
    pub(crate) fn bytes_per_second(&self) -> Option<f64> {
        self.gpu.map_or(self.read_bytes_per_second, |gpu| Some(gpu.copied_bytes_per_second))
    }
}

/// What all rows of one opened model share.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) machine: Machine,
    pub(crate) backend: &'static str,
    /// Whether activations are rounded to bf16 where weights are bf16.
    pub(crate) bf16_activations: bool,
    pub(crate) model: String,
    pub(crate) random_weights: bool,
    pub(crate) family: &'static str,
    pub(crate) layers: usize,
    pub(crate) routing: Option<(usize, usize)>,
    /// How most weights are held.
    pub(crate) format: Option<WeightFormat>,
    /// What was asked for.
    pub(crate) held: HeldFormats,
    pub(crate) rules: RoutingRules,
    pub(crate) weight_bytes: Option<u64>,
    pub(crate) parameters: u64,
    pub(crate) active_parameters: u64,
    pub(crate) seed: u64,
    pub(crate) load_ms: f64,
}

impl Setting {
    pub(crate) fn new(
        subject: &Subject,
        (plan, options): (&Plan, &OpenOptions),
        session: &Session,
        machine: Machine,
    ) -> Self {
        let (info, backend) = (session.info(), session.backend().info());
        Setting {
            machine,
            backend: backend.name,
            bf16_activations: backend.bf16_activations,
            model: crate::terminal::printable(&subject.name()).into_owned(),
            random_weights: matches!(subject, Subject::Shape { .. }),
            family: info.family,
            layers: info.n_layers,
            routing: info.moe.as_ref().map(|moe| (moe.n_experts, moe.top_k)),
            format: info.weight_format(),
            held: options.format,
            rules: options.routing.clone(),
            weight_bytes: info.weight_bytes(),
            parameters: info.total_parameters(),
            active_parameters: info.active_parameters(),
            seed: plan.seed,
            load_ms: 1e3 * session.load_time().as_secs_f64(),
        }
    }
}

/// What differs between the rows of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) threads: usize,
    pub(crate) format: String,
}

/// What most weights are multiplied in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Int8,
    Bf16,
    F32,
}

impl Arithmetic {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Arithmetic::Int8 => "int8",
            Arithmetic::Bf16 => "bf16",
            Arithmetic::F32 => "f32",
        }
    }
}

impl Setting {
    /// What the weights are held in, in a word.
    pub(crate) fn format_name(&self) -> String {
        match self.held {
            HeldFormats::AsStored => self.format.map_or(UNKNOWN, WeightFormat::name).into(),
            held => held.to_string(),
        }
    }

    /// What tells this setting from others of one run.
    pub(crate) fn variant(&self) -> Variant {
        Variant { threads: self.machine.threads, format: self.format_name() }
    }

    /// Block formats are multiplied as whole numbers by a processor, and as bf16 by a GPU. A processor that has an
    /// instruction for pairs of bf16 uses it if activations are bf16 too.
    pub(crate) fn arithmetic(&self) -> Option<Arithmetic> {
        if self.machine.gpu.is_some() {
            return Some(Arithmetic::Bf16);
        }
        let in_pairs = self.bf16_activations && self.machine.peaks.bf16_ops_per_second.is_some();
        self.format.map(|format| match format {
            WeightFormat::Bf16 if in_pairs => Arithmetic::Bf16,
            format if format.block_len() > 1 => Arithmetic::Int8,
            _ => Arithmetic::F32,
        })
    }

    /// Operations per second that the machine reaches in that arithmetic.
    pub(crate) fn peak_ops_per_second(&self) -> Option<f64> {
        let Machine { peaks, gpu, .. } = &self.machine;
        self.arithmetic().and_then(|arithmetic| match arithmetic {
            Arithmetic::Int8 => Some(peaks.int8_ops_per_second),
            Arithmetic::Bf16 => gpu.map_or(peaks.bf16_ops_per_second, |gpu| Some(gpu.bf16_ops_per_second)),
            Arithmetic::F32 => Some(peaks.f32_ops_per_second),
        })
    }
}

impl Record {
    /// The row of `measured`; `single` is the same test of one sequence, if it was measured before.
    pub(crate) fn new(setting: &Setting, measured: &Measurement, single: Option<&Measurement>) -> Self {
        let mut record = Record::default();
        record.add_setting(setting);
        record.add_test(setting, measured);
        record.add_figures(setting, measured, single);
        record.add_profile(measured);
        record
    }

    fn add_setting(&mut self, setting: &Setting) {
        self.add_program(setting.machine.cpu.clone(), setting.machine.kernels);
        self.add("threads", setting.machine.threads);
        self.add("backend", setting.backend);
        self.add("bf16_activations", setting.bf16_activations);
        self.add("model", setting.model.clone());
        self.add("random_weights", setting.random_weights);
        self.add("family", setting.family);
        self.add("layers", setting.layers);
        self.add("n_experts", setting.routing.map(|(n_experts, _)| n_experts));
        self.add("experts_per_token", setting.routing.map(|(_, top_k)| top_k));
        self.add("format", setting.format.map(WeightFormat::name));
        self.add("held", setting.held.to_string());
        self.add("threshold", f64::from(setting.rules.drop_below));
        self.add("experts_by_layer", setting.rules.experts_by_layer.clone());
        self.add("masked_experts", setting.rules.masked.len());
        self.add("size_bytes", setting.weight_bytes);
        self.add("parameters", setting.parameters);
        self.add("active_parameters", setting.active_parameters);
    }

    fn add_test(&mut self, setting: &Setting, measured: &Measurement) {
        let test = measured.test;
        let (prompt, generated) = match test.kind {
            Kind::Prompt(tokens) => (tokens, 0),
            Kind::Generate(tokens) => (0, tokens),
        };
        self.add("test", test.to_string());
        self.add("prompt_tokens", prompt);
        self.add("generated_tokens", generated);
        self.add("depth_tokens", test.depth);
        self.add("batch_sequences", test.batch);
        self.add("repetitions", measured.samples.len());
        self.add("seed", setting.seed);
    }

    fn add_figures(&mut self, setting: &Setting, measured: &Measurement, single: Option<&Measurement>) {
        let rates = measured.tokens_per_second();
        let bandwidth = setting.machine.bytes_per_second();
        let samples_ms: Vec<f64> = measured.samples.iter().map(|time| 1e3 * time.as_secs_f64()).collect();
        let step_ms = 1e3 * measured.reading.seconds() / measured.steps.max(1) as f64;
        self.add("tokens_per_second", rates.mean);
        self.add("tokens_per_second_deviation", rates.deviation);
        self.add("samples_tokens_per_second", measured.rates());
        self.add("samples_ms", samples_ms);
        self.add("steps", measured.steps);
        self.add("step_ms", step_ms);
        self.add("weight_bytes_per_step", measured.weight_bytes_per_step());
        self.add("weight_bytes_per_second", measured.weight_bytes_per_second());
        self.add("cache_bytes_per_second", measured.cache_bytes_per_second());
        self.add("flops_per_second", measured.reading.flops_per_second());
        self.add("machine_read_bytes_per_second", bandwidth);
        self.add("read_bandwidth_share", bandwidth.and_then(|rate| measured.bandwidth_share(rate)));
        self.add("arithmetic", setting.arithmetic().map(Arithmetic::name));
        // Those of a processor, where it is the one that multiplies.
        let peaks = Some(setting.machine.peaks).filter(|_| setting.machine.gpu.is_none());
        self.add("machine_int8_ops_per_second", peaks.map(|peaks| peaks.int8_ops_per_second));
        self.add("machine_f32_ops_per_second", peaks.map(|peaks| peaks.f32_ops_per_second));
        self.add("machine_bf16_ops_per_second", peaks.and_then(|peaks| peaks.bf16_ops_per_second));
        self.add("peak_share", setting.peak_ops_per_second().and_then(|rate| measured.peak_share(rate)));
        self.add("distinct_experts_per_layer", measured.distinct_experts());
        self.add("expected_distinct_experts_per_layer", measured.expected_distinct_experts());
        self.add("batching_speedup", single.and_then(|single| measured.speedup_over(single)));
        self.add("batching_speedup_bound", measured.batching_bound());
        self.add("peak_memory_bytes", measured.peak_bytes);
        self.add("load_ms", setting.load_ms);
        let fetches = measured.reading.counts.fetches();
        let tokens = measured.reading.counts.all_tokens().max(1) as f64;
        self.add("expert_hit_rate", fetches.and_then(|fetches| fetches.hit_rate()));
        self.add("fetched_bytes_per_token", fetches.map(|fetches| fetches.fetched_bytes as f64 / tokens));
        self.add("stall_ms_per_token", fetches.map(|fetches| fetches.stall_ns as f64 / 1e6 / tokens));
        self.add("prefetch_hit_rate", fetches.and_then(|fetches| fetches.prefetch_hit_rate()));
        self.add("joules_per_token", measured.joules_per_token());
        energy::add(self, "all_samples", measured.energy);
        let modelled = measured.modelled.as_ref();
        let band = modelled.and_then(ModelledPhase::tokens_per_second);
        self.add("modelled_tokens_per_second", band.map(|band| band.expected));
        self.add("modelled_tokens_per_second_low", band.map(|band| band.low));
        self.add("modelled_tokens_per_second_high", band.map(|band| band.high));
        self.add("modelled_joules_per_token", modelled.and_then(ModelledPhase::joules_per_token));
    }

    /// Every stage, so that all rows have the same names.
    fn add_profile(&mut self, measured: &Measurement) {
        let Some(profile) = measured.profile() else { return };
        for stage in Stage::ALL {
            let share = profile.iter().find(|share| share.stage == stage);
            let (ms, share) = share.map_or((0.0, 0.0), |share| (share.step_ms, share.share));
            self.add(&format!("{}_step_ms", stage.name()), json!(ms));
            self.add(&format!("{}_step_share", stage.name()), json!(share));
        }
    }
}
