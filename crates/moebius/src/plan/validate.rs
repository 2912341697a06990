//! Predictions beside what was published, and beside this machine as it is.
//!
//! Every device is predicted by a fit to the others of its class. What the planner assumes is never changed for one row.

use std::ops::ControlFlow;

use serde::Deserialize;

use super::cost::Rates;
use super::demand::{CacheFormat, Demand};
use super::estimate::{Estimate, Estimator, Load};
use super::hardware::{Class, Machine};
use super::here::here;
use super::speed::{Measurements, Point, fit, read};
use super::weights::Weights;
use crate::bench::{Kind, Plan, Session, Subject, Test};
use crate::{BackendOptions, OpenOptions, Result, bundled_model};

/// How far a device may be off.
const DEVICE_TOLERANCE: f64 = 0.2;
/// How many devices must be within it, of fifteen.
const DEVICES_WITHIN: usize = 13;
/// Tokens of the prompt and of the generation that this machine is measured with.
const HERE_TOKENS: (usize, usize) = (256, 64);

/// A prediction beside what was measured.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Of what.
    pub what: String,
    /// The unit of both.
    pub unit: &'static str,
    /// What was measured.
    pub measured: f64,
    /// What is predicted.
    pub predicted: f64,
    /// The band around it, where there is one.
    pub band: Option<(f64, f64)>,
    /// The largest relative error that passes; `None` where nothing is promised.
    pub tolerance: Option<f64>,
    /// What else there is to know.
    pub note: String,
    /// Where the measurement comes from.
    pub source: String,
}

impl Comparison {
    /// How far off the prediction is, relative to what was measured.
    pub fn error(&self) -> f64 {
        self.predicted / self.measured - 1.0
    }

    /// Whether that is within the tolerance; `None` without one.
    pub fn is_within(&self) -> Option<bool> {
        self.tolerance.map(|tolerance| self.error().abs() <= tolerance)
    }
}

/// Comparisons of one kind.
#[derive(Clone, Debug)]
pub struct ValidationSet {
    /// A name for programs.
    pub name: &'static str,
    /// A line for people.
    pub title: String,
    /// Its rows.
    pub rows: Vec<Comparison>,
    /// How many rows must be within their tolerance.
    pub needed: usize,
}

impl ValidationSet {
    /// Rows within their tolerance, and rows that have one.
    pub fn within(&self) -> (usize, usize) {
        let judged: Vec<bool> = self.rows.iter().filter_map(Comparison::is_within).collect();
        (judged.iter().filter(|within| **within).count(), judged.len())
    }

    /// Whether enough rows are.
    pub fn passes(&self) -> bool {
        self.within().0 >= self.needed
    }
}

#[derive(Deserialize)]
struct Published {
    larger: Vec<Larger>,
    batch: Vec<Batch>,
    service: Vec<Service>,
    cost: Vec<PublishedCost>,
}

#[derive(Deserialize)]
struct Larger {
    device: String,
    class: Class,
    gb_s: f64,
    decode: f64,
    source: String,
}

#[derive(Deserialize)]
struct Batch {
    model: String,
    sequences: Vec<u64>,
    step_ms: Vec<f64>,
    tolerance: f64,
    source: String,
}

#[derive(Deserialize)]
struct Service {
    what: String,
    model: String,
    profile: String,
    devices: u32,
    weights: String,
    sequences: Option<u64>,
    context: u64,
    step_ms: Option<f64>,
    decode: Option<f64>,
    prefill: Option<f64>,
    tokens_per_pass: Option<f64>,
    note: String,
    source: String,
}

#[derive(Deserialize)]
struct PublishedCost {
    what: String,
    devices: u32,
    device_hour: f64,
    hours: f64,
    published: f64,
    note: String,
    source: String,
}

/// Everything that was published, in sets.
///
/// # Errors
/// None for the files that come with this crate.
pub fn validate_published() -> Result<Vec<ValidationSet>> {
    let measurements = Measurements::read()?;
    let published: Published = read("published.toml")?;
    let estimator = Estimator { speeds: measurements.speeds() };
    let services = published.service.iter().map(|service| compare_service(&estimator, service));
    let mut rows: Vec<Comparison> = services.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    rows.extend(published.cost.iter().map(compare_cost));
    Ok(vec![
        devices(&measurements),
        larger(&measurements, &published.larger)?,
        batches(&published.batch)?,
        ValidationSet {
            name: "services",
            title: "services on many devices: tokens per second of one device".into(),
            rows,
            needed: 0,
        },
        own(&measurements),
    ])
}

fn devices(measurements: &Measurements) -> ValidationSet {
    let rows = measurements.devices.iter().filter_map(|(measured, point)| {
        let fitted = fit(&measurements.points(measured.class, Some(&measured.device)))?;
        let (share, layer_seconds) = fitted;
        let kept_out = if measured.fit { "" } else { "in no fit: its kernels are of an older kind; " };
        Some(Comparison {
            what: measured.device.clone(),
            unit: "tok/s",
            measured: measured.decode,
            predicted: 1.0 / point.predicted(fitted),
            band: None,
            tolerance: Some(DEVICE_TOLERANCE),
            note: format!(
                "{kept_out}{:.0} % of bandwidth, {:.2} ms a token",
                100.0 * share,
                1e3 * layer_seconds * point.layers
            ),
            source: measured.source.clone(),
        })
    });
    ValidationSet {
        name: "gpt_oss_devices",
        title: "gpt-oss-20b in MXFP4, one sequence: each device by a fit to the others of its kind".into(),
        rows: rows.collect(),
        needed: DEVICES_WITHIN,
    }
}

/// The larger model with what the smaller one was fitted to.
fn larger(measurements: &Measurements, published: &[Larger]) -> Result<ValidationSet> {
    let demand = Demand::find("gpt-oss-120b", None, Some(Weights::Mxfp4Moe))?;
    let rows = published.iter().filter_map(|larger| {
        let fitted = fit(&measurements.points(larger.class, None))?;
        let point = Point {
            seconds: 1.0 / larger.decode,
            ideal_seconds: demand.step_weight_bytes(1.0) / (1e9 * larger.gb_s),
            layers: demand.info.n_layers as f64,
        };
        Some(Comparison {
            what: larger.device.clone(),
            unit: "tok/s",
            measured: larger.decode,
            predicted: 1.0 / point.predicted(fitted),
            band: None,
            tolerance: None,
            note: String::new(),
            source: larger.source.clone(),
        })
    });
    Ok(ValidationSet {
        name: "gpt_oss_120b",
        title: "gpt-oss-120b with the constants of gpt-oss-20b".into(),
        rows: rows.collect(),
        needed: 0,
    })
}

/// What a step of several sequences reads, beside how long it takes.
fn batches(published: &[Batch]) -> Result<ValidationSet> {
    let mut rows = Vec::new();
    for batch in published {
        let demand = Demand::find(&batch.model, None, Some(Weights::Mxfp4Moe))?;
        let single = demand.step_weight_bytes(1.0);
        for (&sequences, step_ms) in batch.sequences.iter().zip(&batch.step_ms).skip(1) {
            let distinct = demand.distinct_experts(sequences as f64).unwrap_or(f64::NAN);
            let bytes = demand.step_weight_bytes(sequences as f64);
            rows.push(Comparison {
                what: format!("{} x b{sequences}", batch.model),
                unit: "times one",
                measured: step_ms / batch.step_ms[0],
                predicted: bytes / single,
                band: None,
                tolerance: Some(batch.tolerance),
                note: format!("{distinct:.1} experts a layer, {:.2} GB a step", bytes / 1e9),
                source: batch.source.clone(),
            });
        }
    }
    let needed = rows.len();
    let title = "steps of several sequences on M2 Ultra: bytes of the distinct experts, and time".into();
    Ok(ValidationSet { name: "batch_union", title, rows, needed })
}

fn compare_service(estimator: &Estimator, service: &Service) -> Result<Vec<Comparison>> {
    let demand = Demand::find(&service.model, None, Some(service.weights.parse()?))?;
    let mut machine = Machine::find(&service.profile)?;
    machine.count = service.devices;
    let devices = f64::from(service.devices);
    let speculative = service.tokens_per_pass.is_some();
    let load = |sequences: u64| Load {
        rows_per_sequence: if speculative { 2 } else { 1 },
        tokens_per_step: service.tokens_per_pass.unwrap_or(1.0),
        ..Load::new(sequences * u64::from(service.devices), service.context, CacheFormat::F16)
    };
    let estimate = |sequences| estimator.estimate(&demand, &machine, &load(sequences));
    let mut rows = Vec::new();
    let row = |measured: f64, band: super::Band, note: String| Comparison {
        what: format!("{}, {}", service.what, machine.device.name),
        unit: "tok/s",
        measured,
        predicted: band.expected / devices,
        band: Some((band.low / devices, band.high / devices)),
        tolerance: None,
        note,
        source: service.source.clone(),
    };
    if let Some(measured) = service.decode {
        let sequences = match (service.sequences, service.step_ms) {
            (Some(sequences), _) => sequences,
            (None, step_ms) => most_sequences(&estimate, step_ms.unwrap_or(f64::INFINITY) / 1e3),
        };
        let estimate = estimate(sequences);
        if let Some((band, step)) = estimate.decode.zip(estimate.step) {
            let used =
                estimate.compute_utilisation.map_or("n/a".into(), |share| format!("{:.0} %", 100.0 * share));
            let ms = 1e3 * step.total();
            let note = format!("{}; {sequences} sequences, step {ms:.1} ms, {used} of peak", service.note);
            rows.push(row(measured, band, note));
        }
    }
    if let Some(measured) = service.prefill
        && let Some(band) = estimate(1).prefill
    {
        rows.push(row(measured, band, service.note.clone()));
    }
    Ok(rows)
}

/// The most sequences a device whose step takes no longer than `seconds` and that fit.
fn most_sequences(estimate: &dyn Fn(u64) -> Estimate, seconds: f64) -> u64 {
    let allowed = |sequences: u64| estimate(sequences).step.is_some_and(|step| step.total() <= seconds);
    let (mut low, mut high) = (1u64, 1u64 << 14);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if allowed(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

fn compare_cost(cost: &PublishedCost) -> Comparison {
    let rates = Rates { device_hour: Some(cost.device_hour), ..Rates::default() };
    let tokens_per_second = 1.0;
    let million = rates.cost(tokens_per_second, cost.devices).million_tokens.unwrap_or(f64::NAN);
    Comparison {
        what: cost.what.clone(),
        unit: "$",
        measured: cost.published,
        predicted: million * tokens_per_second * 3600.0 * cost.hours / 1e6,
        band: None,
        tolerance: None,
        note: cost.note.clone(),
        source: cost.source.clone(),
    }
}

/// This program on the machine of its own measurements.
fn own(measurements: &Measurements) -> ValidationSet {
    let rows = measurements.own.iter().filter_map(|(own, point, _)| {
        let fitted = fit(&measurements.points(Class::Cpu, Some(&own.what)))?;
        Some(Comparison {
            what: own.what.clone(),
            unit: "tok/s",
            measured: own.decode,
            predicted: 1.0 / point.predicted(fitted),
            band: None,
            tolerance: None,
            note: format!("{} GB/s", own.gb_s),
            source: own.source.clone(),
        })
    });
    let title = "this program, one sequence: each run by a fit to the others".into();
    ValidationSet { name: "own", title, rows: rows.collect(), needed: 0 }
}

/// The bundled model on this machine: measured, beside what the planner says from the memory's bandwidth, measured too.
/// Takes some seconds. `None` when `go_on` says to stop.
///
/// # Errors
/// No bundled model; a failure of the model.
pub fn validate_here(
    threads: usize,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Option<ValidationSet>> {
    let dir = bundled_model()?;
    let machine = here(threads)?;
    let estimator = Estimator::new()?;
    let demand = Demand::find(&dir.to_string_lossy(), None, None)?;
    let (prompt, generated) = HERE_TOKENS;
    let plan =
        Plan { prompt_tokens: vec![prompt], generate: vec![generated], repetitions: 3, ..Plan::default() };
    let options = OpenOptions {
        backend: BackendOptions { threads: Some(threads), ..BackendOptions::default() },
        ..OpenOptions::default()
    };
    let mut session = Session::open(&Subject::Model(dir), &plan, &options, &|_, _| {})?;
    let mut rows = Vec::new();
    for test in plan.tests() {
        let Some(measured) = session.measure(test, &mut |_| go_on())? else { return Ok(None) };
        let context = if let Kind::Prompt(tokens) = test.kind { tokens } else { generated / 2 } as u64;
        let estimate = estimator.estimate(&demand, &machine, &Load::new(1, context, CacheFormat::Own));
        let band = if let Kind::Prompt(_) = test.kind { estimate.prefill } else { estimate.decode };
        rows.extend(band.map(|band| here_row(test, measured.tokens_per_second().mean, band, &machine)));
    }
    let title = format!("this machine ({}), the bundled model", machine.device.title);
    Ok(Some(ValidationSet { name: "here", title, rows, needed: 0 }))
}

fn here_row(test: Test, measured: f64, band: super::Band, machine: &Machine) -> Comparison {
    let peak = machine.device.peaks.bf16.unwrap_or(f64::NAN);
    Comparison {
        what: test.to_string(),
        unit: "tok/s",
        measured,
        predicted: band.expected,
        band: Some((band.low, band.high)),
        tolerance: None,
        note: format!("{:.1} GB/s and {:.0} GFLOPS measured", machine.device.bandwidth / 1e9, peak / 1e9),
        source: "measured just now".into(),
    }
}
