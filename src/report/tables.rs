//! Tables: the page shows a table as HTML, `tables/` holds it as CSV, and a heat map is drawn as SVG. All three are
//! made from one structure, so that they cannot differ.

use std::path::Path;

use serde::Serialize;

use crate::documents;
use crate::error::Result;
use crate::files;
use crate::runs::format::{grouped, percent};

/// A table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// The name of the CSV file, without its suffix.
    pub file: String,
    /// The caption of the table.
    pub caption: String,
    /// The headings of the columns.
    pub columns: Vec<Column>,
    /// The rows, with a cell for each column. The first cell is the heading of the row.
    pub rows: Vec<Vec<Cell>>,
    /// Whether the table is a map: small square cells whose colour says more than their text.
    pub is_map: bool,
}

/// The heading of a column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Column {
    /// The text.
    pub title: String,
    /// Whether the cells are words, which are aligned left. Numbers are aligned right.
    pub words: bool,
}

/// A cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cell {
    /// The text for people.
    pub text: String,
    /// The text for programs: the number in full.
    pub raw: String,
    /// The kind of the cell, a class of the style sheet; usually empty.
    pub kind: &'static str,
    /// The strength of the colour, from 0 to 1.
    pub heat: f64,
}

/// A cell of words.
pub fn words(text: impl Into<String>) -> Cell {
    let text = text.into();
    Cell { raw: text.clone(), text, ..Cell::default() }
}

/// A cell of a whole number.
pub fn count(value: u64) -> Cell {
    Cell { text: grouped(value), raw: value.to_string(), ..Cell::default() }
}

/// A cell of a share, as a percentage; a dash if there is none.
pub fn share(value: Option<f64>) -> Cell {
    number(value, percent)
}

/// A cell of a number in the form that `show` gives; a dash if there is none.
pub fn number(value: Option<f64>, show: impl Fn(f64) -> String) -> Cell {
    match value {
        Some(value) => Cell { text: show(value), raw: value.to_string(), ..Cell::default() },
        None => Cell { text: "–".to_owned(), ..Cell::default() },
    }
}

/// A loss with four decimals.
pub fn loss(loss: f64) -> String {
    format!("{loss:.4}")
}

impl Table {
    /// A table without rows. A leading `<` in a title marks a column of words.
    pub fn new(file: impl Into<String>, caption: impl Into<String>, titles: &[&str]) -> Table {
        let column = |title: &&str| match title.strip_prefix('<') {
            Some(title) => Column { title: title.to_owned(), words: true },
            None => Column { title: (*title).to_owned(), words: false },
        };
        let columns = titles.iter().map(column).collect();
        Table { file: file.into(), caption: caption.into(), columns, rows: Vec::new(), is_map: false }
    }

    /// The table as CSV.
    fn csv(&self) -> String {
        let heading: Vec<&String> = self.columns.iter().map(|column| &column.title).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(|cell| &cell.raw).collect());
        documents::csv(std::iter::once(heading).chain(rows))
    }

    /// Writes the table as CSV into a folder.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(format!("{}.csv", self.file));
        files::create_dir(path.parent().unwrap_or(folder))?;
        files::write(&path, self.csv().as_bytes())
    }

    /// A map as SVG, light or dark like its surroundings.
    pub fn svg(&self) -> String {
        const CELL: usize = 34;
        const MARGIN: usize = 36;
        let (width, height) = (MARGIN + CELL * (self.columns.len() - 1) + 6, MARGIN + CELL * self.rows.len() + 6);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"10\" text-anchor=\"middle\"><title>{}\
             </title><style>:root{{color-scheme:light dark}}text{{fill:#1c1f23}}.head{{fill:#6a7078}}.strong{{fill:#fff}}\
             rect{{fill:#c2410c}}.right rect{{fill:#64748b}}.train{{fill:#9aa3ad}}.val{{fill:#2f7de1}}.test{{fill:#e58a1f}}\
             @media(prefers-color-scheme:dark){{text{{fill:#e6e8eb}}.head{{fill:#9aa3ad}}.strong{{fill:#fff}}}}</style>",
            escaped(&self.caption)
        );
        let mut text = |x: usize, y: usize, class: &str, text: &str| {
            out.push_str(&format!("<text class=\"{class}\" x=\"{x}\" y=\"{}\">{}</text>", y + 4, escaped(text)));
        };
        for (i, column) in self.columns.iter().enumerate().skip(1) {
            text(MARGIN + CELL * (i - 1) + CELL / 2, MARGIN / 2, "head", &column.title);
        }
        for (j, row) in self.rows.iter().enumerate() {
            let y = MARGIN + CELL * j;
            out.push_str(&format!(
                "<text class=\"head\" x=\"{}\" y=\"{}\">{}</text>",
                MARGIN / 2,
                y + CELL / 2 + 4,
                row.first().map(|head| escaped(&head.text)).unwrap_or_default()
            ));
            for (i, cell) in row.iter().enumerate().skip(1) {
                let x = MARGIN + CELL * (i - 1);
                let size = CELL - 2;
                let class = if cell.heat > STRONG { "strong" } else { "" };
                out.push_str(&format!(
                    "<g class=\"{}\"><rect x=\"{x}\" y=\"{y}\" width=\"{size}\" height=\"{size}\" rx=\"3\" class=\"{}\" \
                     fill-opacity=\"{:.3}\"/><text class=\"{class}\" x=\"{}\" y=\"{}\">{}</text></g>",
                    cell.kind,
                    cell.kind,
                    cell.heat,
                    x + size / 2,
                    y + size / 2 + 4,
                    escaped(&cell.text)
                ));
            }
        }
        out.push_str("</svg>");
        out
    }
}

/// Text on a cell with more heat than this is light.
pub const STRONG: f64 = 0.55;

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_as_csv_has_numbers_in_full_and_quotes_where_they_are_due() {
        let mut table = Table::new("t", "A table", &["<run", "accuracy", "loss"]);
        table.rows.push(vec![words("a,\"b\""), share(Some(0.123_456)), number(None, loss)]);
        assert_eq!(table.csv(), "run,accuracy,loss\n\"a,\"\"b\"\"\",0.123456,\n");
        assert_eq!((table.rows[0][1].text.as_str(), table.rows[0][2].text.as_str()), ("12.35%", "–"));
        assert!(table.columns[0].words && !table.columns[1].words);
    }

    #[test]
    fn a_map_as_svg_has_a_cell_for_each_entry_and_escapes_its_words() {
        let mut table = Table::new("m", "a < b", &["digit", "0", "1"]);
        table.rows.push(vec![words("0"), Cell { heat: 0.9, ..count(7) }, Cell { kind: "right", ..count(0) }]);
        let svg = table.svg();
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(
            svg.contains("<title>a &lt; b</title>") && svg.contains("class=\"strong\" x=") && svg.contains(">7</text>")
        );
    }
}
