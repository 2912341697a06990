//! `moebius plan --validate`.

use std::ops::ControlFlow;

use moebius::metering::format::{UNKNOWN, percent};
use moebius::plan::{Comparison, ValidationSet, validate_here, validate_published};
use serde::Serialize;

use super::csv;
use crate::args::{OutputArgs, PlanArgs, TableFormat};
use crate::errors::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::json;
use crate::table::{Align, Table};
use crate::terminal::{FAINT, GOOD, HEADING, WARNING, print, remark};

#[derive(Serialize)]
struct Set<'a> {
    name: &'static str,
    title: &'a str,
    within: usize,
    judged: usize,
    needed: usize,
    passes: bool,
    rows: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    set: &'static str,
    what: &'a str,
    unit: &'static str,
    measured: f64,
    predicted: f64,
    low: Option<f64>,
    high: Option<f64>,
    error: f64,
    tolerance: Option<f64>,
    within: Option<bool>,
    note: &'a str,
    source: &'a str,
}

#[derive(Serialize)]
struct Report<'a> {
    passes: bool,
    sets: Vec<Set<'a>>,
}

/// Sets predictions beside measurements, this machine's last.
pub(super) fn validate(args: &PlanArgs, output: &OutputArgs) -> Result<()> {
    let mut sets = validate_published()?;
    let interrupt = Interrupt::install();
    let generating = interrupt.generating();
    remark(output, "measuring this machine ...");
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut go_on = || if generating.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    sets.push(validate_here(threads, &mut go_on)?.ok_or(CliError::Interrupted)?);
    let report =
        Report { passes: sets.iter().all(ValidationSet::passes), sets: sets.iter().map(set).collect() };
    match (args.json.json, args.output) {
        (true, _) => json::print(&report),
        (false, TableFormat::Csv) => print(&csv(report.sets.iter().flat_map(|set| &set.rows))),
        (false, format) => {
            print(&report.sets.iter().map(|set| set.text(format)).collect::<Vec<_>>().join("\n"))
        }
    }
}

fn set(set: &ValidationSet) -> Set<'_> {
    let (within, judged) = set.within();
    Set {
        name: set.name,
        title: &set.title,
        within,
        judged,
        needed: set.needed,
        passes: set.passes(),
        rows: set.rows.iter().map(|row| Row::new(set.name, row)).collect(),
    }
}

impl<'a> Row<'a> {
    fn new(set: &'static str, row: &'a Comparison) -> Row<'a> {
        Row {
            set,
            what: &row.what,
            unit: row.unit,
            measured: row.measured,
            predicted: row.predicted,
            low: row.band.map(|(low, _)| low),
            high: row.band.map(|(_, high)| high),
            error: row.error(),
            tolerance: row.tolerance,
            within: row.is_within(),
            note: &row.note,
            source: &row.source,
        }
    }
}

impl Set<'_> {
    fn text(&self, format: TableFormat) -> String {
        use Align::{Left, Right};
        let mut columns = vec![("what", Left), ("unit", Left), ("measured", Right), ("predicted", Right)];
        columns.extend([("error", Right), ("band", Right), ("within", Left)]);
        let mut table = Table::new(&columns);
        for row in &self.rows {
            let band = row.low.zip(row.high);
            table.row([
                row.what.into(),
                row.unit.into(),
                number(row.measured),
                number(row.predicted),
                format!("{:+.1} %", 100.0 * row.error),
                band.map_or(String::new(), |(low, high)| format!("{} to {}", number(low), number(high))),
                match (row.within, row.tolerance) {
                    (Some(within), tolerance) => {
                        format!("{} {}", percent(tolerance), if within { "yes" } else { "NO" })
                    }
                    _ => String::new(),
                },
            ]);
        }
        let mut notes: Vec<String> = Vec::new();
        for row in self.rows.iter().filter(|row| !row.note.is_empty()) {
            notes.push(format!("{}: {}", row.what, row.note));
        }
        let verdict = match self.judged {
            0 => String::new(),
            judged => {
                let style = if self.passes { GOOD } else { WARNING };
                let (within, needed) = (self.within, self.needed);
                format!("{style}{within} of {judged} within the tolerance, {needed} are promised{style:#}\n")
            }
        };
        if format == TableFormat::Md {
            return format!("{}\n\n{}", self.title, table.markdown());
        }
        let notes: String = notes.iter().map(|note| format!("{FAINT}{note}{FAINT:#}\n")).collect();
        format!("{HEADING}{}{HEADING:#}\n{}{verdict}{notes}", self.title, table.render())
    }
}

fn number(value: f64) -> String {
    match value {
        value if !value.is_finite() => UNKNOWN.into(),
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 1000.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}
