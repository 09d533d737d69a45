//! `multidigit inspect`: what is in a file, as text. It looks at Parquet (any) and at IDX; it changes nothing.

use std::fmt::Write;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::{Error, Result};
use crate::raw::idx;
use crate::tables::Table;

/// Rows that are shown.
const ROWS: usize = 5;
/// Characters of a value, or of a metadata entry, that are shown.
const WIDTH: usize = 60;
/// The first bytes of a Parquet file.
const PARQUET_MAGIC: &[u8] = b"PAR1";

/// Describes a file.
pub fn inspect(path: &Path) -> Result<String> {
    use std::io::Read;
    let mut head = Vec::new();
    if !path.metadata().map_err(Error::io(path, "look at it"))?.is_file() {
        return Err(Error::format(path, "not a regular file", "a Parquet or IDX file"));
    }
    let file = std::fs::File::open(path).map_err(Error::io(path, "open it"))?;
    file.take(PARQUET_MAGIC.len() as u64).read_to_end(&mut head).map_err(Error::io(path, "read it"))?;
    if head == PARQUET_MAGIC { parquet(path) } else { idx_header(path) }
}

fn idx_header(path: &Path) -> Result<String> {
    let header = idx::header(path)?;
    let dimensions: Vec<String> = header.dimensions.iter().map(u64::to_string).collect();
    Ok(format!(
        "{}: IDX, {}\nelements: {}\ndimensions: {}\n",
        path.display(),
        match header.kind {
            Some(kind) => kind.name().to_owned(),
            None => "neither MNIST images nor labels".to_owned(),
        },
        header.element,
        dimensions.join(" x ")
    ))
}

fn parquet(path: &Path) -> Result<String> {
    let table = Table::open(path)?;
    let file = table.metadata().metadata().file_metadata();
    let groups = table.row_groups();
    let mut out = format!("{}: Parquet\n", path.display());
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("rows: {} in {} row groups{}", table.rows(), groups.len(), spread(&groups)));
    line(format!("created by: {}", file.created_by().unwrap_or("unknown")));
    line("schema:".to_owned());
    for field in table.metadata().schema().fields() {
        line(format!("  {}: {}", clip(field.name()), field.data_type()));
    }
    line("metadata:".to_owned());
    for pair in file.key_value_metadata().into_iter().flatten() {
        line(format!("  {}: {}", clip(&pair.key), clip(pair.value.as_deref().unwrap_or_default())));
    }
    let names: Vec<String> = table.metadata().schema().fields().iter().map(|field| field.name().clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let first = || -> Result<String> {
        match table.read(&names, (0..groups.len().min(1)).collect(), ROWS)?.next() {
            Some(batch) => rows(&batch?).map_err(Error::parquet(path)),
            None => Ok("  none\n".to_owned()),
        }
    };
    // a compression or a type that this program does not read is no reason to hide the rest
    match first() {
        Ok(rows) => out.push_str(&format!("first rows:\n{rows}")),
        Err(error) => out.push_str(&format!("first rows: {error}\n")),
    }
    Ok(out)
}

fn spread(groups: &[usize]) -> String {
    match (groups.iter().min(), groups.iter().max()) {
        (Some(min), Some(max)) if min == max => format!(" of {max}"),
        (Some(min), Some(max)) => format!(" of {min} to {max}"),
        _ => String::new(),
    }
}

fn rows(batch: &RecordBatch) -> Result<String, arrow::error::ArrowError> {
    let options = FormatOptions::default().with_null("null");
    let formatters = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()?;
    let mut out = String::new();
    for row in 0..batch.num_rows().min(ROWS) {
        for (position, (field, formatter)) in batch.schema().fields().iter().zip(&formatters).enumerate() {
            let mark = if position == 0 { "-" } else { " " };
            let value = formatter.value(row).try_to_string()?;
            // a String takes every write
            let _ = writeln!(out, "  {mark} {}: {}", clip(field.name()), clip(&value));
        }
    }
    Ok(out)
}

/// A text on one line, cut where it is too long to be looked at.
fn clip(text: &str) -> String {
    // nor may a file's text steer the terminal
    let one_line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let length = one_line.chars().count();
    if length <= WIDTH {
        return one_line;
    }
    let head: String = one_line.chars().take(WIDTH).collect();
    format!("{head}... ({length} characters)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_and_control_characters_are_shown_harmlessly() {
        use std::sync::Arc;

        use arrow::datatypes::{Field, Schema};
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("dots.parquet");
        let column = crate::tables::ints(&[42]);
        let schema = Schema::new(vec![Field::new("a.b", column.data_type().clone(), true)]);
        let schema = Arc::new(schema);
        let batch = RecordBatch::try_new(schema.clone(), vec![column]).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, schema, None).unwrap();
        writer
            .append_key_value_metadata(parquet::file::metadata::KeyValue::new("k\u{1b}".into(), "v\u{1b}".to_owned()));
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let text = inspect(&path).unwrap();
        assert!(text.contains("  - a.b: 42\n") && text.contains("  k : v \n"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn long_values_are_cut_with_their_length() {
        assert_eq!(clip("a\nb"), "a b");
        assert_eq!(clip(&"x".repeat(100)), format!("{}... (100 characters)", "x".repeat(60)));
    }
}
