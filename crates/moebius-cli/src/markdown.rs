//! Tables in Markdown that are aligned as they stand.

use crate::table::Align;

/// A table whose rows are printed one by one, with columns that are wide enough from the start.
pub(crate) struct Markdown {
    columns: Vec<(&'static str, Align, usize)>,
}

impl Markdown {
    /// Columns at least as wide as their names.
    pub(crate) fn new(columns: &[(&'static str, Align, usize)]) -> Self {
        let widen = |&(name, align, width): &(&'static str, Align, usize)| {
            (name, align, width.max(name.chars().count()))
        };
        Markdown { columns: columns.iter().map(widen).collect() }
    }

    /// The line of names, and the rule below it.
    pub(crate) fn header(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|(name, ..)| (*name).to_owned()).collect();
        let rule = self.columns.iter().map(|(_, align, width)| match align {
            Align::Left => "-".repeat(width + 2),
            Align::Right => "-".repeat(width + 1) + ":",
        });
        format!("{}|{}|\n", self.row(&names), rule.collect::<Vec<_>>().join("|"))
    }

    /// A line of as many cells as there are columns.
    pub(crate) fn row(&self, cells: &[String]) -> String {
        let cell = |((_, align, width), text): (&(&str, Align, usize), &String)| {
            let text = text.replace('|', "\\|");
            let space = " ".repeat(width.saturating_sub(text.chars().count()));
            match align {
                Align::Left => format!("| {text}{space} "),
                Align::Right => format!("| {space}{text} "),
            }
        };
        self.columns.iter().zip(cells).map(cell).collect::<String>() + "|\n"
    }
}

/// A Markdown table from rows whose first one is the heading: the first `words` columns left, numbers right.
pub(crate) fn aligned(rows: &[Vec<String>], words: usize) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let columns = (0..rows[0].len()).map(|column| {
        let align = if column < words { Align::Left } else { Align::Right };
        ("", align, width(column))
    });
    let table = Markdown::new(&columns.collect::<Vec<_>>());
    let rule = table.header().lines().nth(1).unwrap_or_default().to_owned() + "\n";
    let mut text = table.row(&rows[0]) + &rule;
    rows[1..].iter().for_each(|row| text += &table.row(row));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_markdown_cannot_be_broken_by_a_name() {
        let table = Markdown::new(&[("a", Align::Left, 4), ("b", Align::Right, 3)]);
        assert_eq!(table.header(), "| a    |   b |\n|------|----:|\n");
        assert_eq!(table.row(&["x|y".into(), "1".into()]), "| x\\|y |   1 |\n");
    }
}
