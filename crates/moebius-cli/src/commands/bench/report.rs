//! Results as they come: rows of a table or of data at once, what compares them at the end.

use moebius::bench::{Measurement, Test};

use super::export;
use super::record::{Record, Setting};
use super::tables::{self, SpeedTable};
use crate::args::OutputFormat;
use crate::errors::Result;
use crate::json;
use crate::terminal::print;

/// What was measured so far.
pub(crate) struct Report {
    format: OutputFormat,
    tests: Vec<Test>,
    /// For people: the table that rows are added to.
    table: Option<SpeedTable>,
    /// Threads of each measurement.
    measured: Vec<(usize, Measurement)>,
    records: Vec<Record>,
    notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(format: OutputFormat, tests: &[Test]) -> Self {
        let tests = tests.to_vec();
        let (measured, records, notes) = (Vec::new(), Vec::new(), Vec::new());
        Report { format, tests, table: None, measured, records, notes }
    }

    /// A model was opened.
    pub(crate) fn begin(&mut self, setting: &Setting) -> Result<()> {
        self.notes.push(tables::bandwidth_note(setting));
        if self.format != OutputFormat::Md || self.table.is_some() {
            return Ok(());
        }
        let table = SpeedTable::new(setting, &self.tests);
        print(&format!("{}\n\n{}", tables::heading(setting), table.header()))?;
        self.table = Some(table);
        Ok(())
    }

    /// A test was measured.
    pub(crate) fn row(&mut self, setting: &Setting, measured: Measurement) -> Result<()> {
        let threads = setting.machine.threads;
        let single = Test { batch: 1, ..measured.test };
        let single = self.measured.iter().find(|(t, m)| *t == threads && m.test == single).map(|(_, m)| m);
        let record = Record::new(setting, &measured, single);
        match (self.format, &self.table) {
            (OutputFormat::Md, Some(table)) => print(&table.row(setting, &measured))?,
            (OutputFormat::Csv, _) => {
                let header =
                    if self.records.is_empty() { export::csv_header(&record) } else { String::new() };
                print(&(header + &export::csv_row(&record)))?;
            }
            (OutputFormat::Jsonl, _) => json::print(&record)?,
            _ => {}
        }
        self.records.push(record);
        self.measured.push((threads, measured));
        Ok(())
    }

    /// Prints what is said of all rows together.
    pub(crate) fn finish(&self) -> Result<()> {
        match self.format {
            OutputFormat::Md => {
                let tables = [tables::batches(&self.measured), tables::profiles(&self.measured)];
                let tables =
                    tables.into_iter().flatten().map(|table| format!("\n{table}")).collect::<String>();
                print(&format!("{tables}\n{}\n", self.notes.join("\n")))
            }
            OutputFormat::Json => json::print(&self.records),
            OutputFormat::Csv | OutputFormat::Jsonl => Ok(()),
        }
    }
}
