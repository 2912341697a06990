//! Small tables for people: columns as wide as their widest cell.

use std::fmt::Write;

use console::measure_text_width;

use crate::terminal::HEADING;

/// How the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells below a heading.
#[derive(Debug)]
pub(crate) struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        let align = columns.iter().map(|(_, align)| *align).collect();
        Table { align, rows: vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()] }
    }

    /// Adds a row of as many cells as there are columns.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The same as a Markdown table.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = String>| {
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            text += &line(&mut row.iter().map(|cell| cell.replace('|', "\\|")));
            if index == 0 {
                let rule = |align: &Align| if *align == Align::Left { "---" } else { "--:" }.to_owned();
                text += &line(&mut self.align.iter().map(rule));
            }
        }
        text
    }

    /// The text, with a line break after each row.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| self.rows.iter().map(|row| measure_text_width(&row[column])).max();
        let widths: Vec<usize> = (0..self.align.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for ((cell, &width), align) in row.iter().zip(&widths).zip(&self.align) {
                let space = " ".repeat(width - measure_text_width(cell));
                match align {
                    Align::Left => write!(line, "{cell}{space}  "),
                    Align::Right => write!(line, "{space}{cell}  "),
                }
                .expect("writing to a string cannot fail");
            }
            let line = line.trim_end();
            let line = if index == 0 { format!("{HEADING}{line}{HEADING:#}") } else { line.to_owned() };
            text += &line;
            text.push('\n');
        }
        text
    }
}

/// Lines of a name and what it stands for. What it stands for may go over several lines.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| measure_text_width(name)).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in facts {
        let value = value.replace('\n', &format!("\n{}", " ".repeat(width + 2)));
        let space = " ".repeat(width - measure_text_width(name));
        writeln!(text, "{HEADING}{name}{HEADING:#}{space}  {value}")
            .expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(anstream::adapter::strip_str(text).to_string(), expected);
    }

    #[test]
    fn numbers_stand_right_and_words_left() {
        let mut table = Table::new(&[("part", Align::Left), ("bytes", Align::Right)]);
        table.row(["router".into(), "1".into()]);
        table.row(["语".into(), "1000000".into()]);
        check(&table.render(), "part      bytes\nrouter        1\n语      1000000\n");
    }

    #[test]
    fn further_lines_of_a_fact_stand_below_the_first() {
        check(&facts(&[("a", "1\n2".into()), ("long", "3".into())]), "a     1\n      2\nlong  3\n");
    }
}
