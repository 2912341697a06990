//! `moebius cache sim`.

use std::path::Path;

use moebius::metering::format::{percent, si};
use moebius::trace::{CacheTrace, CacheTrial};
use serde::Serialize;

use crate::args::{CacheSimArgs, OutputArgs};
use crate::errors::{CliError, Result};
use crate::json;
use crate::plot::{Axis, Chart, Figure, Mark, Point, Scale, Series};
use crate::table::{Align, Table};
use crate::terminal::{print, printable, remark};

#[derive(Serialize)]
struct Report {
    experts: usize,
    tokens: u64,
    trials: Vec<Trial>,
}

/// One size and policy, for programs.
#[derive(Serialize)]
struct Trial {
    places: usize,
    share: f64,
    policy: &'static str,
    hits: u64,
    misses: u64,
    unavoidable_misses: u64,
    hit_rate: Option<f64>,
    misses_per_token: Option<f64>,
    bytes_per_token: Option<f64>,
    verdict: &'static str,
}

/// Tries caches of some sizes on a trace.
pub(crate) fn sim(args: &CacheSimArgs, output: &OutputArgs) -> Result<()> {
    let trace = CacheTrace::read(&args.trace)?;
    let policies: Vec<_> = args.policies.iter().filter_map(|name| trace.policy(name)).collect();
    if trace.experts() == 0 || trace.tokens() == 0 {
        return Err(CliError::usage("the trace has no token", "record one with `moebius run --trace FILE`"));
    }
    let mut trials = Vec::new();
    for size in &args.sizes {
        let tried = trace.trials(&policies, size.of(trace.experts()).min(trace.experts()));
        trials.extend(tried.iter().map(|trial| Trial::new(trial, &trace, args.expert_bytes)));
    }
    let report = Report { experts: trace.experts(), tokens: trace.tokens(), trials };
    if let Some(path) = &args.plot {
        curves(&report, &args.trace).write(path)?;
        remark(output, &format!("wrote {}", printable(&path.display().to_string())));
    }
    if args.json.json { json::print(&report) } else { print(&table(&report)) }
}

impl Trial {
    fn new(trial: &CacheTrial, trace: &CacheTrace, expert_bytes: Option<u64>) -> Self {
        let misses = trial.replayed.all_misses();
        let misses_per_token = (trace.tokens() > 0).then(|| misses as f64 / trace.tokens() as f64);
        Trial {
            places: trial.places,
            share: trial.places as f64 / trace.experts().max(1) as f64,
            policy: trial.policy,
            hits: trial.replayed.all_hits(),
            misses,
            unavoidable_misses: trial.unavoidable,
            hit_rate: trial.replayed.hit_rate(),
            misses_per_token,
            bytes_per_token: misses_per_token.zip(expert_bytes).map(|(misses, bytes)| misses * bytes as f64),
            verdict: trial.verdict().name(),
        }
    }
}

fn table(report: &Report) -> String {
    let mut table = Table::new(&[
        ("places", Align::Right),
        ("of all", Align::Right),
        ("policy", Align::Left),
        ("hit rate", Align::Right),
        ("misses a token", Align::Right),
        ("bytes a token", Align::Right),
        ("verdict", Align::Left),
    ]);
    for trial in &report.trials {
        table.row([
            trial.places.to_string(),
            percent(Some(trial.share)),
            trial.policy.into(),
            percent(trial.hit_rate),
            si(trial.misses_per_token, ""),
            si(trial.bytes_per_token, "B"),
            trial.verdict.into(),
        ]);
    }
    format!("{} experts, {} tokens\n\n{}", report.experts, report.tokens, table.render())
}

/// Miss ratio by size: a line for each policy, a broken one for who knows what comes.
fn curves(report: &Report, trace: &Path) -> Figure {
    let mut names: Vec<&str> = Vec::new();
    for trial in &report.trials {
        if !names.contains(&trial.policy) {
            names.push(trial.policy);
        }
    }
    let points = |name: &str| {
        let of = report.trials.iter().filter(|trial| trial.policy == name);
        let mut points: Vec<Point> = of
            .filter_map(|trial| Some(Point::new(100.0 * trial.share, 100.0 * (1.0 - trial.hit_rate?))))
            .collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        points
    };
    let series = names.into_iter().enumerate().map(|(color, name)| Series {
        name: name.into(),
        color,
        mark: if name == "belady" { Mark::Theory } else { Mark::Measured },
        points: points(name),
    });
    let name = trace.file_name().unwrap_or(trace.as_os_str()).to_string_lossy();
    let chart = Chart {
        title: "Miss ratio by size of the cache".into(),
        x: Axis::new("places, % of all experts", Scale::Linear),
        y: Axis::new("requests that miss, %", Scale::Linear),
        series: series.collect(),
    };
    Figure {
        title: "Caches of experts".into(),
        subtitle: format!("{}: {} tokens, {} experts", printable(&name), report.tokens, report.experts),
        charts: vec![chart],
        columns: 1,
    }
}
