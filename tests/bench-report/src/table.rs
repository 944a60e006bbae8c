//! Plain text tables.

use std::io::{self, Write};

/// A table for people: the first column is left-aligned, the others right-aligned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with one line of headings.
    pub fn new<T: Into<String>>(headings: impl IntoIterator<Item = T>) -> Self {
        Self { rows: vec![headings.into_iter().map(Into::into).collect()] }
    }

    /// Adds one line.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Writes the table, each column as wide as its widest cell.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let widths = self.widths();
        for (index, row) in self.rows.iter().enumerate() {
            writeln!(out, "{}", line(row, &widths))?;
            if index == 0 {
                let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                writeln!(out, "{}", line(&rule, &widths))?;
            }
        }
        Ok(())
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect()
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
        match column {
            0 => text.extend([cell.as_str(), &padding]),
            _ => text.extend(["  ", &padding, cell.as_str()]),
        }
    }
    text.trim_end().to_owned()
}

/// A figure in about four significant digits.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 || value == 0.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["what", "µs"]);
        table.row(["long name", "1"]);
        table.row(["x", "1234"]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = "what         µs\n---------  ----\nlong name     1\nx          1234\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn figures_are_short() {
        let shown = [0.0, 0.1234, 1.234, 123.45, 12345.6].map(figure);
        assert_eq!(shown, ["0", "0.123", "1.23", "123.5", "12346"].map(str::to_owned));
    }
}
