//! Rows for programs: comma-separated values.

use serde_json::Value;

use super::record::Record;

/// The line of names.
pub(crate) fn csv_header(record: &Record) -> String {
    line(record.0.iter().map(|(name, _)| name.clone()))
}

/// The line of values. Lists stand with spaces between their items; what is unknown is empty.
pub(crate) fn csv_row(record: &Record) -> String {
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
