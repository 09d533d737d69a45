//! The command `multidigit inspect`: shows the content of a Parquet or IDX file as text, and changes nothing.

use std::fmt::{self, Write};
use std::path::Path;

use arrow::array::{Array, ArrayRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::{Error, Result};
use crate::guard::guarded;
use crate::parquet_file::ParquetFile;
use crate::raw::idx;

/// The number of rows shown.
const ROWS: usize = 5;
/// The number of characters shown of a value or a metadata entry.
const WIDTH: usize = 60;
/// The maximum uncompressed size in bytes of a column in the first row group. A file of 10 kB
/// can hold a value of 300 MB.
const COLUMN: u64 = 64 << 20;
/// The first bytes of a Parquet file.
const PARQUET_MAGIC: &[u8] = b"PAR1";

/// Describes a Parquet or IDX file as text.
///
/// # Errors
/// [`Error::Format`] if the path is not a regular file, and the errors of reading the file.
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
    let file = ParquetFile::open(path)?;
    let about = file.metadata().metadata().file_metadata();
    let groups = file.row_groups();
    let mut out = format!("{}: Parquet\n", path.display());
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("rows: {} in {} row groups{}", file.rows(), groups.len(), spread(&groups)));
    line(format!("created by: {}", about.created_by().unwrap_or("unknown")));
    line("schema:".to_owned());
    for field in file.metadata().schema().fields() {
        line(format!("  {}: {}", clip(field.name()), field.data_type()));
    }
    line("metadata:".to_owned());
    for pair in about.key_value_metadata().into_iter().flatten() {
        line(format!("  {}: {}", clip(&pair.key), clip(pair.value.as_deref().unwrap_or_default())));
    }
    // an unsupported compression or type should not hide the rest
    match first_rows(&file) {
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

/// The first rows of the first row group. Columns are read one by one, so that only one is in memory.
fn first_rows(file: &ParquetFile) -> Result<String> {
    let count = file.row_groups().first().map_or(0, |&rows| rows.min(ROWS));
    if count == 0 {
        return Ok("  none\n".to_owned());
    }
    let mut rows = vec![String::new(); count];
    let fields = file.metadata().schema().fields();
    for (position, field) in fields.iter().enumerate() {
        let name = field.name();
        if fields.iter().take(position).any(|before| before.name() == name) {
            continue; // already shown with the first column of this name
        }
        let bytes = unpacked(file, name);
        let columns = match bytes {
            0..=COLUMN => values(file, name)?,
            _ => vec![vec![format!("({:.1} MB in its row group, too much to show)", bytes as f64 / 1e6); count]],
        };
        for column in columns {
            for (row, value) in rows.iter_mut().zip(column) {
                let mark = if row.is_empty() { "-" } else { " " };
                row.push_str(&format!("  {mark} {}: {value}\n", clip(name)));
            }
        }
    }
    Ok(rows.concat())
}

/// The uncompressed size in bytes of the columns of a name in the first row group, as declared in the footer. The size
/// declared in a page header is not known before the page is read.
fn unpacked(file: &ParquetFile, name: &str) -> u64 {
    let (metadata, fields) = (file.metadata(), file.metadata().schema().fields());
    let Some(group) = metadata.metadata().row_groups().first() else { return 0 };
    let root = |leaf| fields.get(metadata.parquet_schema().get_column_root_idx(leaf));
    let leaves = group.columns().iter().enumerate();
    let leaves = leaves.filter(|(leaf, _)| root(*leaf).is_some_and(|field| field.name() == name));
    leaves.fold(0, |sum, (_, leaf)| sum.saturating_add(leaf.uncompressed_size().max(0) as u64))
}

/// The first values of the columns of a name, column by column, clipped.
fn values(file: &ParquetFile, name: &str) -> Result<Vec<Vec<String>>> {
    let Some(batch) = file.read(&[name], vec![0], ROWS)?.next().transpose()? else { return Ok(Vec::new()) };
    let options = FormatOptions::default().with_null("null");
    let column = |column: &ArrayRef| -> Result<Vec<String>, ArrowError> {
        let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
        let value = |row| {
            let mut value = Clip::default();
            formatter.value(row).write(&mut value)?;
            Ok(value.finish())
        };
        (0..column.len().min(ROWS)).map(value).collect()
    };
    let columns = || batch.columns().iter().map(column).collect::<Result<_, _>>();
    guarded(file.path(), columns)?.map_err(Error::parquet(file.path()))
}

/// A text on one line, clipped if it is too long to display. The characters cut off are counted, not stored.
#[derive(Default)]
struct Clip {
    head: String,
    length: usize,
}

impl Write for Clip {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.length < WIDTH {
                // control characters are replaced, so that a file cannot control the terminal
                self.head.push(if c.is_control() { ' ' } else { c });
            }
            self.length += 1;
        }
        Ok(())
    }
}

impl Clip {
    fn finish(self) -> String {
        let Clip { head, length } = self;
        if length <= WIDTH { head } else { format!("{head}... ({length} characters)") }
    }
}

fn clip(text: &str) -> String {
    let mut clip = Clip::default();
    // writing to a Clip never fails
    let _ = clip.write_str(text);
    clip.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_and_control_characters_are_shown_harmlessly() {
        use std::sync::Arc;

        use arrow::array::RecordBatch;
        use arrow::datatypes::{Field, Schema};
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("dots.parquet");
        let column = crate::parquet_file::ints(&[42]);
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
    fn a_column_that_fills_the_memory_is_not_read_and_the_others_are() {
        use std::sync::Arc;

        use arrow::array::{RecordBatch, StringArray};
        use parquet::arrow::ArrowWriter;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("large.parquet");
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(70_000_000), "y".to_owned()]));
        let batch = RecordBatch::try_from_iter([
            ("first", crate::parquet_file::ints(&[1, 2])),
            ("text", text),
            ("last", crate::parquet_file::ints(&[3, 4])),
        ])
        .unwrap();
        let properties = crate::parquet_file::properties(crate::parquet_file::Compression::Zstd, &[]).build();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let shown = inspect(&path).unwrap();
        let rows = "first rows:\n  - first: 1\n    text: (70.0 MB in its row group, too much to show)\n    last: 3\n  \
                    - first: 2\n    text: (70.0 MB in its row group, too much to show)\n    last: 4\n";
        assert!(shown.ends_with(rows), "{shown}");
    }

    #[test]
    fn long_values_are_cut_with_their_length() {
        assert_eq!(clip("a\nb"), "a b");
        assert_eq!(clip(&"x".repeat(100)), format!("{}... (100 characters)", "x".repeat(60)));
    }
}
