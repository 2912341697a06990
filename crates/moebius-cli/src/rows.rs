//! Rows for programs: names with units, values as JSON has them, printed as CSV, JSON or JSON lines.
//!
//! Invariants: all rows of a run have the same names in the same order; what is unknown is null.

use serde::Serialize;
use serde_json::Value;

use crate::args::OutputFormat;
use crate::errors::Result;
use crate::json;
use crate::terminal::print;
use crate::version;

/// One row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(pub(crate) Vec<(String, Value)>);

impl Serialize for Record {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Record {
    /// Adds a value under its name.
    pub(crate) fn add(&mut self, name: &str, value: impl Into<Value>) {
        self.0.push((name.into(), value.into()));
    }

    /// Adds what ran: program, build, processor and kernels.
    pub(crate) fn add_program(&mut self, cpu: Option<String>, kernels: &'static str) {
        self.add("version", env!("CARGO_PKG_VERSION"));
        self.add("build", version::PROFILE);
        self.add("target", version::TARGET);
        self.add("cpu", cpu);
        self.add("kernels", kernels);
    }
}

/// Prints rows as they come, or all together at the end.
#[derive(Debug)]
pub(crate) struct RowPrinter {
    format: OutputFormat,
    records: Vec<Record>,
}

impl RowPrinter {
    /// A printer; tables for people are not its business.
    pub(crate) fn new(format: OutputFormat) -> Self {
        RowPrinter { format, records: Vec::new() }
    }

    /// Whether people read the results.
    pub(crate) fn is_for_people(&self) -> bool {
        self.format == OutputFormat::Md
    }

    /// A row is there.
    pub(crate) fn row(&mut self, record: Record) -> Result<()> {
        match self.format {
            OutputFormat::Csv if self.records.is_empty() => {
                print(&(csv_header(&record) + &csv_row(&record)))?;
            }
            OutputFormat::Csv => print(&csv_row(&record))?,
            OutputFormat::Jsonl => json::print(&record)?,
            OutputFormat::Md | OutputFormat::Json => {}
        }
        self.records.push(record);
        Ok(())
    }

    /// All rows are there.
    pub(crate) fn finish(&self) -> Result<()> {
        match self.format {
            OutputFormat::Json => json::print(&self.records),
            OutputFormat::Md | OutputFormat::Csv | OutputFormat::Jsonl => Ok(()),
        }
    }
}

/// The line of names.
fn csv_header(record: &Record) -> String {
    line(record.0.iter().map(|(name, _)| name.clone()))
}

/// The line of values. Lists stand with spaces between their items; what is unknown is empty.
fn csv_row(record: &Record) -> String {
    line(record.0.iter().map(|(_, value)| text(value)))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn line(cells: impl Iterator<Item = String>) -> String {
    let quoted = |cell: String| {
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell
        }
    };
    cells.map(quoted).collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_are_quoted_where_they_need_it_and_lists_stay_in_one() {
        let values =
            [("a", json!("x, \"y\"")), ("b", json!([1.5, 2])), ("c", json!(null)), ("d", json!(true))];
        let record = Record(values.map(|(name, value)| (name.to_owned(), value)).to_vec());
        assert_eq!(csv_header(&record), "a,b,c,d\n");
        assert_eq!(csv_row(&record), "\"x, \"\"y\"\"\",1.5 2,,true\n");
        assert_eq!(
            serde_json::to_string(&record).expect("JSON"),
            r#"{"a":"x, \"y\"","b":[1.5,2],"c":null,"d":true}"#
        );
    }
}
