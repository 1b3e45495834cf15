//! The standard output: text with tables, or JSON.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;

use crate::exit::Result;

/// Where answers go. Errors, warnings and progress go to the standard error.
#[derive(Debug)]
pub(crate) struct Output {
    is_json: bool,
    is_coloured: bool,
}

/// How a line looks on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Heading,
    Good,
    Doubtful,
    Bad,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Heading => "1",
            Self::Good => "32",
            Self::Doubtful => "33",
            Self::Bad => "31",
        }
    }
}

impl Output {
    pub(crate) fn new(is_json: bool) -> Self {
        let is_coloured = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        Self {
            is_json,
            is_coloured,
        }
    }

    pub(crate) const fn is_json(&self) -> bool {
        self.is_json
    }

    pub(crate) const fn is_coloured(&self) -> bool {
        self.is_coloured
    }

    /// Columns that a line may take: the terminal's, those of COLUMNS, or 100.
    pub(crate) fn width(&self) -> usize {
        let terminal = io::stdout()
            .is_terminal()
            .then(ratatui::crossterm::terminal::size)
            .and_then(io::Result::ok)
            .map(|(columns, _)| usize::from(columns));
        let named = || env::var("COLUMNS").ok()?.parse().ok();
        terminal
            .or_else(named)
            .filter(|&columns| columns > 0)
            .unwrap_or(100)
    }

    /// One line of text.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        self.styled(Style::Plain, text)
    }

    /// Text as it is, with its line ends.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        Ok(io::stdout().lock().write_all(text.as_bytes())?)
    }

    pub(crate) fn styled(&mut self, style: Style, text: &str) -> Result<()> {
        let painted = self.paint(style, text);
        Ok(writeln!(io::stdout().lock(), "{painted}")?)
    }

    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        match self.is_coloured && style != Style::Plain {
            true => format!("\x1b[{}m{text}\x1b[0m", style.code()),
            false => text.to_owned(),
        }
    }

    /// An array of objects.
    pub(crate) fn json<T: Serialize>(&mut self, objects: &[T]) -> Result<()> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, objects)?;
        Ok(writeln!(stdout)?)
    }

    pub(crate) fn table(&mut self, table: &Table) -> Result<()> {
        for (at, line) in table.lines().iter().enumerate() {
            self.styled(
                if at == 0 {
                    Style::Heading
                } else {
                    Style::Plain
                },
                line,
            )?;
        }
        Ok(())
    }
}

/// Rows of text in aligned columns.
#[derive(Debug)]
pub(crate) struct Table {
    /// A heading that starts with `>` stands, as its column does, at the right.
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self::with_headings(headings.iter().map(|&text| text.to_owned()).collect())
    }

    pub(crate) const fn with_headings(headings: Vec<String>) -> Self {
        Self {
            headings,
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let heading = self
            .headings
            .iter()
            .map(|text| text.trim_start_matches('>').to_owned());
        let mut rows = vec![heading.collect::<Vec<_>>()];
        rows.extend(self.rows.iter().cloned());
        let width = |column: usize| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| width(column).unwrap_or(0))
            .collect();
        rows.iter()
            .map(|row| {
                let cells = row.iter().zip(&widths).zip(&self.headings);
                let cells = cells.map(|((cell, &width), heading)| match heading.starts_with('>') {
                    true => format!("{cell:>width$}"),
                    false => format!("{cell:<width$}"),
                });
                cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["reason", ">pages", "text"]);
        table.row(vec!["file".to_owned(), "7".to_owned(), "it is".to_owned()]);
        table.row(vec![
            "untouched".to_owned(),
            "12345".to_owned(),
            String::new(),
        ]);
        assert_eq!(
            table.lines(),
            [
                "reason     pages  text",
                "file           7  it is",
                "untouched  12345"
            ]
        );
    }
}
