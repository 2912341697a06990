//! Results as they come: rows of a table or of data at once, what compares them at the end.

use moebius::bench::{Measurement, Test};

use super::record::{Setting, Variant};
use super::tables::{self, SpeedTable};
use crate::args::OutputFormat;
use crate::errors::Result;
use crate::rows::{Record, RowPrinter};
use crate::terminal::print;

/// What was measured so far.
pub(crate) struct Report {
    rows: RowPrinter,
    tests: Vec<Test>,
    /// For people: the table that rows are added to.
    table: Option<SpeedTable>,
    measured: Vec<(Variant, Measurement)>,
    notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(format: OutputFormat, tests: &[Test]) -> Self {
        let tests = tests.to_vec();
        let (measured, notes) = (Vec::new(), Vec::new());
        Report { rows: RowPrinter::new(format), tests, table: None, measured, notes }
    }

    /// A model was opened.
    pub(crate) fn begin(&mut self, setting: &Setting) -> Result<()> {
        let note = tables::machine_note(setting);
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
        if !self.rows.is_for_people() || self.table.is_some() {
            return Ok(());
        }
        let table = SpeedTable::new(setting, &self.tests);
        print(&format!("{}\n\n{}", tables::heading(setting), table.header()))?;
        self.table = Some(table);
        Ok(())
    }

    /// A test was measured.
    pub(crate) fn row(&mut self, setting: &Setting, measured: Measurement) -> Result<()> {
        let variant = setting.variant();
        let single = Test { batch: 1, ..measured.test };
        let single = self.measured.iter().find(|(v, m)| *v == variant && m.test == single).map(|(_, m)| m);
        let record = Record::new(setting, &measured, single);
        if let Some(table) = &self.table {
            print(&table.row(setting, &measured))?;
        }
        self.rows.row(record)?;
        self.measured.push((variant, measured));
        Ok(())
    }

    /// Prints what is said of all rows together.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.rows.is_for_people() {
            let measured = &self.measured;
            let tables = [tables::batches(measured), tables::profiles(measured), tables::energies(measured)];
            let tables = tables.into_iter().flatten().map(|table| format!("\n{table}")).collect::<String>();
            print(&format!("{tables}\n{}\n", self.notes.join("\n")))?;
        }
        self.rows.finish()
    }
}
